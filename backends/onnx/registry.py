"""The table of lowerings: core op or composite -> a function from an emitter, the node and its operands to its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ox

Lowering = Callable[..., "ox.Value | Sequence[ox.Value] | None"]

_LOWERINGS: dict[str, Lowering] = {}
_CLAIMS: dict[str, Lowering] = {}


def lower(*names: str) -> Callable[[Lowering], Lowering]:
    """Register how core ops are lowered: ``f(emitter, node, *operands)`` returns one result, or all of them."""

    def register(function: Lowering) -> Lowering:
        _LOWERINGS.update(dict.fromkeys(names, function))
        return function

    return register


def claim(*names: str) -> Callable[[Lowering], Lowering]:
    """Register a faster lowering of composites (qualified names). It returns None where it does not apply: then the body
    is lowered. It must agree with the body."""

    def register(function: Lowering) -> Lowering:
        _CLAIMS.update(dict.fromkeys(names, function))
        return function

    return register


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
