"""How the shapes of a model's inputs fix its dimension symbols, and dimensions as JSON for an artifact's metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .dims import Dim, apply, const, sym
from .monomials import Atom, DimCall


def axis_symbol(name: str, axis: int) -> str:
    """The symbol that stands for the size of one axis of one input."""
    return f"{name}.{axis}"


def solve_symbols(shapes: Mapping[str, Sequence[Dim]]) -> dict[str, Dim]:
    """Each symbol in terms of axes (:func:`axis_symbol`) and of symbols that come before it in the result.

    A bare axis ``T`` is preferred; else an axis that is ``a * T + b`` with a known ``b``. What nothing determines is left out.

        >>> {s: str(d) for s, d in solve_symbols({"x": (sym("B"), sym("T") * 2 + 1)}).items()}
        {'B': 'x.0', 'T': '(x.1 - 1) // 2'}
    """
    solved: dict[str, Dim] = {}
    for name, shape in shapes.items():
        for axis, dim in enumerate(shape):
            if dim.symbol is not None:
                solved.setdefault(dim.symbol, sym(axis_symbol(name, axis)))
    changed = True
    while changed:
        changed = False
        for name, shape in shapes.items():
            for axis, dim in enumerate(shape):
                unknown = dim.symbols - solved.keys()
                if len(unknown) != 1:
                    continue
                symbol = next(iter(unknown))
                coefficient = next((c for m, c in dim.terms if m == ((symbol, 1),)), 0)
                rest = dim - sym(symbol) * coefficient
                if coefficient and symbol not in rest.symbols:
                    solved[symbol] = (sym(axis_symbol(name, axis)) - rest) // coefficient
                    changed = True
    return solved


def symbol_sizes(solved: Mapping[str, Dim], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The integers for :func:`solve_symbols`' symbols, given the actual shapes."""
    values = {axis_symbol(name, i): size for name, shape in shapes.items() for i, size in enumerate(shape)}
    for symbol, dim in solved.items():
        values[symbol] = dim.evaluate(values)
    return {symbol: values[symbol] for symbol in solved}


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
