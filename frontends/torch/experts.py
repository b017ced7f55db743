"""Experts of transformers' models, whose loop over those that were hit cannot be exported: the data say how often it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# What a configuration calls the way in which its experts are computed, the loop, and the same as products of groups of rows.
_FIELD, _LOOP, _GROUPED = "_experts_implementation_internal", "eager", "grouped_mm"


@contextmanager
def experts_grouped(model: nn.Module) -> Iterator[None]:
    """Let experts that are computed in a loop be computed by groups of rows meanwhile: all of them, whichever the example hits."""
    found: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, _FIELD, None) == _LOOP:
            found[id(config)] = config
    for config in found.values():
        setattr(config, _FIELD, _GROUPED)
    try:
        yield
    finally:
        for config in found.values():
            setattr(config, _FIELD, _LOOP)
