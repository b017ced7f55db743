"""The table of lowerings: core op or composite -> a function from an emitter, the node and its operands to its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from .schema import formal

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Node

Lowering = Callable[..., "ox.Value | Sequence[ox.Value]"]

_LOWERINGS: dict[str, Lowering] = {}
_CLAIMS: dict[str, Lowering] = {}
# What a claim asks for: an op that the opset must have, and uses of the composite that have no form in it.
_NEEDS: dict[str, tuple[str | None, Callable[[Node], bool]]] = {}


def lower(*names: str) -> Callable[[Lowering], Lowering]:
    """Register how core ops are lowered: ``f(emitter, node, *operands)`` returns one result, or all of them."""

    def register(function: Lowering) -> Lowering:
        _LOWERINGS.update(dict.fromkeys(names, function))
        return function

    return register


def claim(
    *names: str, needs: str | None = None, unless: Callable[[Node], bool] = lambda node: False
) -> Callable[[Lowering], Lowering]:
    """Register a faster lowering of composites (qualified names), which must agree with their bodies.

    Args:
        needs: an ONNX op; in an opset without it the body is lowered.
        unless: of which nodes the body is lowered. It is asked before anything is emitted.
    """

    def register(function: Lowering) -> Lowering:
        _CLAIMS.update(dict.fromkeys(names, function))
        _NEEDS.update(dict.fromkeys(names, (needs, unless)))
        return function

    return register


def claimed(node: Node, opset: int) -> bool:
    """Whether a composite is lowered by a claim in that opset."""
    name = node.op.qualified
    if name not in claims():
        return False
    needs, unless = _NEEDS[name]
    return (needs is None or formal(needs, opset) is not None) and not unless(node)


@cache
def lowerings() -> dict[str, Lowering]:
    """Core op -> lowering."""
    _scan()
    return _LOWERINGS


@cache
def claims() -> dict[str, Lowering]:
    """Qualified name of a composite -> lowering."""
    _scan()
    return _CLAIMS


@cache
def _scan() -> None:
    from . import __path__ as path

    package: Any = __name__.rpartition(".")[0]
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")
