"""How the shapes of a model's inputs fix its dimension symbols, and dimensions as JSON for an artifact's metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .dims.dim import Dim, apply, const, sym
from .dims.monomials import Atom, DimCall

if TYPE_CHECKING:
    from .graph import Graph


def axis_symbol(name: str, axis: int) -> str:
    """The symbol that stands for the size of one axis of one input."""
    return f"{name}.{axis}"


class Solution(NamedTuple):
    """A symbol is ``(size of the axis - rest) / coefficient``; both are made of numbers and of symbols solved before."""

    input: str
    axis: int
    coefficient: Dim
    rest: Dim

    @property
    def dim(self) -> Dim:
        """The symbol in terms of its axis (:func:`axis_symbol`) and of the symbols solved before."""
        return (sym(axis_symbol(self.input, self.axis)) - self.rest) // self.coefficient

    def __str__(self) -> str:
        return f"axis {self.axis} of `{self.input}`"


def solve_symbols(shapes: Mapping[str, Sequence[Dim]]) -> dict[str, Solution]:
    """Which axis of which input gives each symbol its value, in an order in which each needs only those before it.

    A bare axis ``T`` is preferred; else an axis that is ``a * T + b`` with known ``a`` and ``b``, where ``a`` is a number or
    a product of sizes. What nothing determines is left out.

        >>> {s: str(at.dim) for s, at in solve_symbols({"x": (sym("B"), sym("T") * 2 + 1)}).items()}
        {'B': 'x.0', 'T': '(x.1 - 1) // 2'}
    """
    solved: dict[str, Solution] = {}
    for name, shape in shapes.items():
        for axis, dim in enumerate(shape):
            if dim.symbol is not None:
                solved.setdefault(dim.symbol, Solution(name, axis, const(1), const(0)))
    changed = True
    while changed:
        changed = False
        for name, shape in shapes.items():
            for axis, dim in enumerate(shape):
                unknown = dim.symbols - solved.keys()
                if len(unknown) != 1:
                    continue
                symbol = next(iter(unknown))
                coefficient = _coefficient(dim, symbol)
                rest = dim - sym(symbol) * coefficient
                if coefficient != 0 and symbol not in rest.symbols:
                    solved[symbol] = Solution(name, axis, coefficient, rest)
                    changed = True
    return solved


def _coefficient(dim: Dim, symbol: str) -> Dim:
    """What one term of ``dim`` multiplies the symbol with, if that is a number or a product of sizes, which is never 0; else 0."""
    for monomial, number in dim.terms:
        rest = tuple(factor for factor in monomial if factor[0] != symbol)
        if (symbol, 1) in monomial and all(isinstance(atom, str) for atom, _ in rest):
            return Dim([(rest, number)])
    return const(0)


def solve_inputs(graph: Graph) -> dict[str, Solution]:
    """:func:`solve_symbols` for the inputs of a graph, in terms of its free symbols."""
    # States and random inputs come last: they need not be given, and are then made from the sizes of the others.
    ordered = sorted(graph.inputs, key=lambda value: value.role != "input")
    return solve_symbols({v.name: [graph.expand_lets(dim) for dim in v.type.shape] for v in ordered})


def symbol_sizes(solved: Mapping[str, Solution], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The integers for :func:`solve_symbols`' symbols, given the actual shapes; without those that only an absent input tells."""
    sizes: dict[str, int] = {}
    for symbol, at in solved.items():
        if at.input in shapes and at.rest.symbols | at.coefficient.symbols <= sizes.keys():
            # No size is 0; one that is given so is refused afterwards.
            sizes[symbol] = (shapes[at.input][at.axis] - at.rest.evaluate(sizes)) // (at.coefficient.evaluate(sizes) or 1)
    return sizes


def encode_dim(dim: Dim) -> Any:
    """A dimension as JSON: an integer, a symbol, or a sum ``[[coefficient, [[atom, power], …]], …]``."""
    if dim.value is not None:
        return dim.value
    if dim.symbol is not None:
        return dim.symbol
    return [[c, [[_encode_atom(atom), power] for atom, power in monomial]] for monomial, c in dim.terms]


def _encode_atom(atom: Atom) -> Any:
    return [atom.fn, *map(encode_dim, atom.args)] if isinstance(atom, DimCall) else atom


def decode_dim(data: Any) -> Dim:
    """The inverse of :func:`encode_dim`. Raises ValueError, TypeError or KeyError for anything else."""
    if isinstance(data, int):
        return const(data)
    if isinstance(data, str):
        return sym(data)
    total = const(0)
    for coefficient, factors in data:
        product = const(coefficient)
        for atom, power in factors:
            factor = sym(atom) if isinstance(atom, str) else apply(atom[0], *map(decode_dim, atom[1:]))
            product = product * factor**power
        total = total + product
    return total
