"""The core ops: a closed set. One module a family; each calls :func:`define`; ``OPS`` is filled by scanning this package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from ..notation import parse_signature
from ..op import Bad, Cost, Infer, Meaning, Op, Sample, Trait

OPS: dict[str, Op] = {}


def define(
    signature: str,
    doc: str,
    *,
    family: str,
    rule: Infer | None = None,
    packs: str = "same",
    flops: Cost | None = None,
    traits: Iterable[Trait] = (),
    meaning: Meaning | None = None,
    neutral: float | None = None,
    samples: Callable[[Any], list[Sample]] | None = None,
    bad: tuple[Bad, ...] = (),
    open_attrs: bool = False,
) -> Op:
    """Declare one core op and register it under its signature's name."""
    op = Op(
        parse_signature(signature), doc, family, rule, packs, flops, frozenset(traits), meaning, neutral,
        samples, bad, open_attrs,
    )  # fmt: skip
    OPS[op.name] = op
    return op


def having(trait: Trait) -> frozenset[str]:
    """The names of the core ops that have a trait."""
    return frozenset(name for name, op in OPS.items() if trait in op.traits)


for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
