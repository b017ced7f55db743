"""Sizes: from torch's symbolic shapes (sympy) to dimensions with names that a reader knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir.dims.dim import Dim, const, dim_max, dim_min, sym
from ...ir.naming import unique
from .protocol import Unsupported

# What an axis of an input is usually called, by its place and the number of axes.
_USUAL = {1: ("N",), 2: ("B", "T"), 3: ("B", "T", "D"), 4: ("B", "C", "H", "W"), 5: ("B", "C", "F", "H", "W")}


def usual_name(axis: int, rank: int, taken: set[str]) -> str:
    """What the size of an axis of a tensor is usually called, with a number behind it where that is taken."""
    usual = _USUAL.get(rank, ())
    return unique(usual[axis] if axis < len(usual) else f"N{axis}", taken, joint="")


class Symbols:
    """torch's symbol -> our dimension. ``taken`` are names that no dimension may have."""

    def __init__(self, taken: set[str]) -> None:
        self.names: dict[Any, str] = {}
        self.taken = taken

    def name(self, symbol: Any, wanted: str | None, axis: int, rank: int) -> None:
        """Give torch's symbol a name, at its first appearance."""
        if symbol in self.names:
            return
        found = unique(wanted, self.taken, joint="") if wanted else usual_name(axis, rank, self.taken)
        self.names[symbol] = found

    def dim(self, expression: Any) -> Dim:
        """A size as a dimension: an int, a SymInt, or a sympy expression."""
        if isinstance(expression, int):
            return const(expression)
        node = getattr(expression, "node", None)
        return self._dim(node.expr if node is not None else expression)

    def _dim(self, e: Any) -> Dim:
        import sympy

        if e.is_Integer:
            return const(int(e))
        if e.is_Symbol:
            if e not in self.names:
                self.name(e, None, 0, 0)
            return sym(self.names[e])
        args = [self._dim(a) for a in e.args] if not isinstance(e, (sympy.Pow, sympy.Mul)) else []
        match type(e).__name__:
            case "Add":
                total = const(0)
                for arg in args:
                    total = total + arg
                return total
            case "Mul":
                result = const(1)
                for factor in e.args:
                    if factor.is_Rational and not factor.is_Integer:
                        raise Unsupported(f"the size {e}")
                    result = result * self._dim(factor)
                return result
            case "Pow" if e.exp.is_Integer and e.exp >= 0:
                return self._dim(e.base) ** int(e.exp)
            case "FloorDiv" | "CleanDiv":
                return args[0] // args[1]
            case "Mod" | "PythonMod":
                return args[0] % args[1]
            case "Max":
                return dim_max(*args)
            case "Min":
                return dim_min(*args)
        raise Unsupported(f"the size {e}")


def wanted_names(dynamic_shapes: Any, names: list[str]) -> dict[tuple[str, int], str]:
    """(input, axis) -> the name that ``dynamic_shapes`` gives it. Inputs that are no tensors have none."""
    found: dict[tuple[str, int], str] = {}
    if dynamic_shapes is None:
        return found
    rows = dynamic_shapes.items() if isinstance(dynamic_shapes, Mapping) else zip(names, dynamic_shapes, strict=False)
    for name, shape in rows:
        axes = (
            shape.items()
            if isinstance(shape, Mapping)
            else enumerate(shape)
            if isinstance(shape, (list, tuple))
            else ()
        )
        for axis, dim in axes:
            label = dim if isinstance(dim, str) else getattr(dim, "__name__", None)
            if isinstance(axis, int) and isinstance(label, str) and label.isidentifier():
                found[name, axis] = label
    return found
