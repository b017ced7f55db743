"""Which sizes a call brings: reading dimension symbols off input shapes, and what must hold for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...ir.diagnostics import Diagnostic, Span
from ...ir.dims import Dim, const, sym
from ...ir.graph import Graph


class Solution(NamedTuple):
    """A symbol is ``(inputs[input].shape[axis] - rest) / coefficient``; ``rest`` is made of symbols solved before."""

    input: int
    axis: int
    coefficient: int
    rest: Dim


def solve_symbols(graph: Graph) -> dict[str, Solution]:
    """For each free symbol an axis that shows it; plain axes first, then ``T + 1`` and the like.

    Raises:
        Diagnostic: E0907 for a symbol that no axis determines.
    """
    solved: dict[str, Solution] = {}
    axes: list[tuple[int, int, Dim]] = []
    # States and random inputs come last: they need not be given, and are then made from the sizes of the others.
    for i, value in sorted(enumerate(graph.inputs), key=lambda row: row[1].role != "input"):
        for axis, shown in enumerate(value.type.shape):
            dim = graph.expand_lets(shown)
            if dim.symbol is not None:
                solved.setdefault(dim.symbol, Solution(i, axis, 1, const(0)))
            elif dim.value is None:
                axes.append((i, axis, dim))
    progress = True
    while progress:
        progress = False
        for i, axis, dim in axes:
            unknown = dim.symbols - solved.keys()
            if len(unknown) == 1:
                name = next(iter(unknown))
                coefficient = next((c for m, c in dim.terms if m == ((name, 1),)), 0)
                rest = dim - sym(name) * coefficient
                if coefficient and name not in rest.symbols:
                    solved[name] = Solution(i, axis, coefficient, rest)
                    progress = True
    for value in graph.inputs:
        for dim in value.type.shape:
            for name in sorted(graph.expand_lets(dim).symbols - solved.keys()):
                message = (
                    f"the size `{name}` cannot be told from the shapes of the inputs: `{value.name}` is {value.type}"
                )
                raise Diagnostic("E0907", message, value.span, help=f"give one input an axis that is just `{name}`")
    return solved


def sizes_of(graph: Graph, solved: dict[str, Solution], shapes: Sequence[Sequence[int] | None]) -> dict[str, int]:
    """The value of each symbol for the given input shapes; symbols that only an absent input shows are left out."""
    sizes: dict[str, int] = {}
    for name, at in solved.items():
        shape = shapes[at.input]
        if shape is not None and at.rest.symbols <= sizes.keys():
            sizes[name] = (shape[at.axis] - at.rest.evaluate(sizes)) // at.coefficient
    return sizes


def where_from(
    graph: Graph, solved: dict[str, Solution], dim: Dim, sizes: dict[str, int]
) -> list[tuple[str, Span | None]]:
    """For each symbol of ``dim`` a sentence that says which input gave it its value."""
    rows = []
    for name in sorted(graph.expand_lets(dim).symbols):
        if name in solved and name in sizes:
            value = graph.inputs[solved[name].input]
            rows.append((f"{name} is {sizes[name]}, from axis {solved[name].axis} of `{value.name}`", value.span))
    return rows
