"""Sizes: from torch's symbolic shapes (sympy) to dimensions with names that a reader knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...ir.dims.dim import Dim, const, dim_max, dim_min, sym
from ...ir.naming import unique
from ..multiples import multiples, remainder
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
        # The names that were asked for, as they became: two sizes of one name are one size, whatever torch.export found out.
        self.asked: dict[str, str] = {}
        # What stands for a size that must be a multiple: its divisor times a symbol of its own.
        self.values: dict[str, Dim] = {}
        self.taken = taken

    def name(self, symbol: Any, wanted: str | None, axis: int, rank: int) -> None:
        """Give torch's symbol a name, at its first appearance."""
        if symbol in self.names:
            return
        if wanted and wanted not in self.asked:
            self.asked[wanted] = unique(wanted, self.taken, joint="")
        self.names[symbol] = self.asked[wanted] if wanted else usual_name(axis, rank, self.taken)

    def divide(self, guards: Sequence[Any]) -> list[str]:
        """Learn from what torch.export found to hold of the sizes which of them are multiples; says which."""
        divisors: dict[str, int] = {}
        for guard in guards:
            if type(guard).__name__ != "Equality" or not any(type(e).__name__ in _DIVIDING for e in preorder(guard)):
                continue
            try:
                difference = self._dim(guard.lhs) - self._dim(guard.rhs)
            except (Unsupported, ZeroDivisionError):
                continue
            for name, n in multiples(difference).items():
                divisors[name] = divisors.get(name, 1) * n
                self.values[name] = sym(name) * divisors[name]
        for name, n in divisors.items():
            self.values[name] = sym(unique(f"{name}_{n}", self.taken, joint="_")) * n
        said = [f"`{name}` is {self.values[name]}: the model divides it by {n}" for name, n in divisors.items()]
        return said + list(self._leave(guards))

    def _leave(self, guards: Iterable[Any]) -> Iterator[str]:
        """Learn what sizes leave when they are divided, where the model went another way for those that leave that."""
        for guard in guards:
            found = self._left(guard)
            if found is None or found[0] in self.values:
                continue
            name, n, rest = found
            # From the least such size on.
            self.values[name] = sym(unique(f"{name}_{n}", self.taken, joint="_")) * n - (n - rest)
            yield f"`{name}` is {self.values[name]}: of other sizes the model does something else than at the example's"

    def _left(self, guard: Any) -> tuple[str, int, int] | None:
        """(size, divisor, what is left) of a guard that says so of a size that stands for itself."""
        if type(guard).__name__ not in ("Equality", "Unequality") or type(guard.lhs).__name__ not in _REMAINDERS:
            return None
        size, n = guard.lhs.args
        if not (size in self.names and n.is_Integer and guard.rhs.is_Integer):
            return None
        n, rest = int(n), int(guard.rhs)
        if type(guard).__name__ == "Unequality":
            # Of two remainders it is the other one.
            rest = 1 - rest if n == 2 else 0
        return (self.names[size], n, rest) if 0 < rest < n else None

    def equalities(self, guards: Iterable[Any]) -> Iterator[tuple[Dim, Dim]]:
        """Sizes that torch.export found to be equal, where they are written in another way."""
        for guard in guards:
            if type(guard).__name__ == "Equality" and not guard.lhs.is_number and not guard.rhs.is_number:
                try:
                    yield self._dim(guard.lhs), self._dim(guard.rhs)
                except (Unsupported, ZeroDivisionError):
                    continue

    def decided(self, guards: Iterable[Any]) -> Iterator[tuple[Dim, str, Dim]]:
        """What holds of the sizes because the model's own code went by it: (size, `>=` or `<=`, size)."""
        for guard in guards:
            if not guard.free_symbols <= self.names.keys():
                continue
            try:
                yield from self._inequalities(guard)
            except (Unsupported, ZeroDivisionError):
                continue

    def _inequalities(self, guard: Any) -> Iterator[tuple[Dim, str, Dim]]:
        kind = type(guard).__name__
        if kind in _ORDERS:
            op, more = _ORDERS[kind]
            left, right = self._dim(guard.lhs), self._dim(guard.rhs)
            yield (left, ">=", right + more) if op == ">=" else (left + more, "<=", right)
        elif kind in ("Equality", "Unequality") and type(guard.lhs).__name__ in _REMAINDERS and guard.rhs.is_Integer:
            size, divisor = map(self._dim, guard.lhs.args)
            # What leaves the rest, or something else.
            left = (size - int(guard.rhs)) % divisor
            yield (left, "<=", const(0)) if kind == "Equality" else (left, ">=", const(1))

    def facts(self, ranges: Mapping[Any, Any]) -> dict[str, tuple[int | None, int | None]]:
        """What is required of the sizes that stand for themselves; torch.export's own least size, 2, is not."""
        found: dict[str, tuple[int | None, int | None]] = {}
        for name, bounds in ((self.names[s], b) for s, b in ranges.items() if s in self.names):
            low = int(bounds.lower) if bounds.lower.is_Integer and bounds.lower > 2 else 1
            high = int(bounds.upper) if bounds.upper.is_Integer and bounds.upper < 2**31 else None
            if name not in self.values and (low, high) != (1, None):
                found[name] = low, high
        return found

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
            return self.values.get(self.names[e], sym(self.names[e]))
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
                return remainder(args[0], args[1])
            case "Max":
                return dim_max(*args)
            case "Min":
                return dim_min(*args)
        raise Unsupported(f"the size {e}")


# Comparisons of sympy: which way they go, and what is between the two sides at least.
_ORDERS = {"GreaterThan": (">=", 0), "StrictGreaterThan": (">=", 1), "LessThan": ("<=", 0), "StrictLessThan": ("<=", 1)}
_REMAINDERS = ("Mod", "PythonMod")
_DIVIDING = ("FloorDiv", "CleanDiv", *_REMAINDERS)


def preorder(expression: Any) -> Iterable[Any]:
    from sympy import preorder_traversal

    found: Iterable[Any] = preorder_traversal(expression)
    return found


def wanted_names(dynamic_shapes: Any, names: list[str]) -> dict[tuple[str, int], str]:
    """(input, axis) -> the name that ``dynamic_shapes`` gives it. Inputs that are no tensors have none."""
    found: dict[tuple[str, int], str] = {}
    for name, axis, dim in _asked(dynamic_shapes, names):
        label = dim if isinstance(dim, str) else getattr(dim, "__name__", None)
        if isinstance(label, str) and label.isidentifier():
            found[name, axis] = label
    return found


def frozen(dynamic_shapes: Any, shapes: Mapping[str, Sequence[Any]]) -> list[str]:
    """Which axes were asked to be free, and have one size all the same because the model's code decided by it."""
    notes = []
    for name, axis, dim in _asked(dynamic_shapes, list(shapes)):
        free = dim is not None and not isinstance(dim, int) and "STATIC" not in str(dim)
        size = shapes[name][axis] if free and name in shapes and axis < len(shapes[name]) else None
        expression = getattr(getattr(size, "node", None), "expr", None)
        if isinstance(size, int) or (expression is not None and expression.is_number):
            notes.append(f"axis {axis} of `{name}` was to be free, but torch.export fixed it: {size}")
    return notes


def _asked(dynamic_shapes: Any, names: list[str]) -> Iterator[tuple[str, int, Any]]:
    """(input, axis, what was asked for) of each axis in ``dynamic_shapes``."""
    if dynamic_shapes is None:
        return
    rows: Iterable[tuple[str, Any]]
    if isinstance(dynamic_shapes, Mapping) and set(dynamic_shapes) <= set(names):
        rows = dynamic_shapes.items()
    else:  # in the order of the inputs
        rows = zip(names, _each(dynamic_shapes), strict=False)
    for name, shape in rows:
        axes: Iterable[tuple[Any, Any]] = ()
        if isinstance(shape, Mapping):
            axes = shape.items()
        elif isinstance(shape, (list, tuple)):
            axes = enumerate(shape)
        yield from ((name, axis, dim) for axis, dim in axes if isinstance(axis, int))


def _each(shapes: Any) -> Iterator[Any]:
    """What was asked for of each tensor, of lists of tensors (``*args``) too."""
    for shape in shapes.values() if isinstance(shapes, Mapping) else shapes:
        inner = shape.values() if isinstance(shape, Mapping) else shape if isinstance(shape, (list, tuple)) else ()
        if any(isinstance(s, (Mapping, list, tuple)) for s in inner):
            yield from _each(shape)
        else:
            yield shape
