"""Axes whose length only run time knows (`nonzero`, `x[mask]`, boxes that are kept): a size of its own while a model is
imported, and behind that a capacity with a count.

:meth:`Counts.picked` makes such a size, and everything behind it is imported as for any other. In the end
:func:`within_capacity` puts a capacity in its place: the first rows count, and what is behind them is anything. An op that
walks the axis in step needs nothing; one that works along it gets what does not change its result in the place of the others
(0 for a sum); one that would let them in is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..ir.analysis.along import Bodies
from ..ir.builder import Builder
from ..ir.diagnostics import Diagnostic
from ..ir.dims.dim import Dim, const, dim_min, prove_ge, sym
from ..ir.dims.monomials import DimCall
from ..ir.graph import Graph, Node, Output, Value, clone_node
from ..ir.naming import unique
from ..ir.op import Composite
from ..ir.types import boolean, i64
from .counted_rules import Uncountable, rule_of

# Composites that take the capacity as a parameter, as `compact` does.
_MAKERS = frozenset({"std.detection.suppress"})


class Counts:
    """The sizes that an import made for what only run time knows.

    Args:
        most: the capacity of each, where that is less than what could be picked.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        # By symbol: the capacity, which may be made of earlier ones, and the number of rows that count, i64[].
        self.capacities: dict[str, Dim] = {}
        self._places: dict[Value, Value] = {}
        self.counts: dict[str, Value] = {}
        # By output and axis, in the end: the output that says how many rows count.
        self.outputs: dict[str, dict[int, str]] = {}

    def made(self, make: Callable[[Dim], tuple[Value, Value]], most: Dim) -> Value:
        """What ``make`` makes of a capacity, its second result being the count; ``most``: how many there can be."""
        # Any number from 0 on, while a symbol is at least 1; no program can have its name.
        symbol = f"rows {len(self.capacities)}"
        self.capacities[symbol] = most if self.most is None else dim_min(const(self.most), most)
        rows, self.counts[symbol] = make(sym(symbol) - 1)
        return rows

    def picked(self, b: Builder, mask: Value) -> Value:
        """The places [length] of what is true in a mask [N]; the same ones for the same mask."""

        def make(length: Dim) -> tuple[Value, Value]:
            places, count = b.multi("compact", mask, capacity=length)
            return places, count

        if mask not in self._places:
            self._places[mask] = self.made(make, mask.type.shape[0])
        return self._places[mask]

    def of(self, dim: Any) -> bool:
        """Whether a size is, or is made of, one that only run time knows."""
        return isinstance(dim, Dim) and not dim.symbols.isdisjoint(self.capacities)


def within_capacity(graph: Graph, counts: Counts) -> list[str]:
    """Puts capacities for the sizes that only run time knows; outputs that have them get a second output, the count.

    Returns:
        what to tell the user.

    Raises:
        Uncountable: where rows that do not count would be let in.
    """
    return Walk(graph, counts).run() if counts.capacities else []


class Walk:
    """One rewriting; rules ask it which axes are counted and which rows count."""

    def __init__(self, graph: Graph, counts: Counts) -> None:
        self.graph = graph
        self.counts = counts
        self.sizes: dict[str, Dim] = {}
        for symbol, capacity in counts.capacities.items():
            self.sizes[symbol] = capacity.subs(self.sizes) + 1
        self.copies: dict[Value, Value] = {}
        self.numbers: dict[Dim, Value] = {}
        self.masks: dict[Dim, Value] = {}
        self.bodies = Bodies()

    def run(self) -> list[str]:
        replaced = []
        for node in list(self.graph.nodes()):
            if self._touched(node):
                self._node(node)
                replaced.append(node)
        self._requires()
        notes = self._outputs()
        for node in reversed(replaced):
            self.graph.remove(node)
        return notes

    def _touched(self, node: Node) -> bool:
        if any(v in self.copies for v in node.inputs):
            return True
        dims = [*(d for v in node.outputs for d in v.type.shape), *_dims(node.attrs.values())]
        return any(map(self.counts.of, dims))

    def axes(self, value: Value | None) -> dict[int, Dim]:
        """The axes of a value of which only a part counts, and how much."""
        shape = () if value is None else value.type.shape
        return {axis: dim for axis, dim in enumerate(shape) if self.counts.of(dim)}

    # Nodes -----------------------------------------------------------------------------------------------------------

    def _node(self, node: Node) -> None:
        for value in node.outputs:
            for dim in self.axes(value).values():
                if not self._grows(dim):
                    raise Uncountable(f"`{node.op.name}` makes a size that does not grow with the rows that count")
        if isinstance(node.op, Composite) and node.op.qualified not in _MAKERS and not self._in_step(node):
            self._inside(node)
            return
        b = Builder(self.graph).before(node)
        inputs = [None if v is None else self.copies.get(v, v) for v in node.inputs]
        attrs = {k: self._put(v) for k, v in node.attrs.items()}
        made = None if isinstance(node.op, Composite) else rule_of(node.op)(self, b, node, inputs, attrs)
        if made is None:
            try:
                made = b.emit(node.op, inputs, attrs, names=[v.name for v in node.outputs])
            except Diagnostic as error:
                raise Uncountable(f"`{node.op.name}`: {error.message}") from error
        for old, new in zip(node.outputs, made, strict=True):
            if new.type.shape != tuple(d.subs(self.sizes) for d in old.type.shape):
                raise Uncountable(f"`{node.op.name}` makes {new.type} of a capacity")
            self.copies[old] = new

    def _in_step(self, node: Node) -> bool:
        """Whether a composite walks every such axis element by element, or has none."""
        if any(map(self.counts.of, _dims(node.attrs.values()))):
            return False
        types = [None if v is None else v.type for v in node.inputs]
        return self.bodies.each(node, types, lambda v: list(self.axes(v)))

    def _inside(self, node: Node) -> None:
        """The nodes of a composite's body in its place."""
        assert isinstance(node.op, Composite)
        body = node.op.instantiate([None if v is None else v.type for v in node.inputs], dict(node.attrs))
        inner: dict[Value, Value] = dict(zip(body.inputs, (v for v in node.inputs if v is not None), strict=True))
        clones = []
        for part in body.nodes():
            clone = clone_node(part, inner)
            clone.span, clone.scope = node.span, node.scope
            self.graph.insert_before(node, clone)
            clones.append(clone)
        for clone in clones:
            if self._touched(clone):
                self._node(clone)
        for old, result in zip(node.outputs, body.outputs, strict=True):
            self.copies[old] = self.copies.get(inner[result], inner[result])
        for clone in reversed(clones):
            if not any(v.uses for v in clone.outputs):
                self.graph.remove(clone)

    def _put(self, attribute: Any) -> Any:
        if isinstance(attribute, Dim):
            return attribute.subs(self.sizes)
        return tuple(map(self._put, attribute)) if isinstance(attribute, tuple) else attribute

    def _grows(self, dim: Dim) -> bool:
        """Whether a size is at most what it is at the capacities."""
        symbols = dim.symbols & self.counts.capacities.keys()
        if all(prove_ge(dim.subs({s: sym(s) + 1}), dim) for s in symbols):
            return True
        for monomial, coefficient in dim.terms:
            for atom, _ in monomial:
                counted = atom in self.counts.capacities if isinstance(atom, str) else any(map(self.counts.of, atom.args))
                if counted and (coefficient < 0 or not (isinstance(atom, str) or self._call_grows(atom))):
                    return False
        return True

    def _call_grows(self, call: DimCall) -> bool:
        if call.fn == "floordiv":
            return self._grows(call.args[0]) and not self.counts.of(call.args[1])
        return call.fn in ("min", "max") and all(map(self._grows, call.args))

    # Which rows count ------------------------------------------------------------------------------------------------

    def number(self, b: Builder, dim: Dim) -> Value:
        """A size as run time finds it, i64[]."""
        found = self.numbers.get(dim)
        if found is None:
            exact = dim.subs({symbol: sym(symbol) + 1 for symbol in self.counts.capacities})
            found = self.numbers[dim] = self._sum(b, exact)
        return found

    def _sum(self, b: Builder, dim: Dim) -> Value:
        if not self.counts.of(dim):
            return b.constant(dim.value, i64) if dim.value is not None else b.dim_value(dim)
        total: Value | None = None
        for monomial, coefficient in dim.terms:
            factors = [self._atom(b, atom) for atom, power in monomial for _ in range(power)]
            if coefficient != 1 or not factors:
                factors.append(b.constant(coefficient, i64))
            term = factors[0]
            for factor in factors[1:]:
                term = b.op("mul", term, factor)
            total = term if total is None else b.op("add", total, term)
        assert total is not None
        return total

    def _atom(self, b: Builder, atom: str | DimCall) -> Value:
        if isinstance(atom, str):
            count = self.counts.counts.get(atom)
            return b.dim_value(sym(atom)) if count is None else self.copies.get(count, count)
        name = {"min": "minimum", "max": "maximum"}.get(atom.fn, atom.fn)
        first, *rest = (self._sum(b, arg) for arg in atom.args)
        for other in rest:
            first = b.op(name, first, other)
        return first

    def mask(self, b: Builder, dim: Dim) -> Value:
        """Which places of an axis count, bool[capacity]."""
        found = self.masks.get(dim)
        if found is None:
            found = self.masks[dim] = b.op("lt", b.op("iota", n=dim.subs(self.sizes)), self.number(b, dim))
        return found

    def filled(self, b: Builder, new: Value, old: Value, number: float | int | bool, axes: Iterable[int] | None = None) -> Value:
        """A value with ``number`` wherever it does not count, along these axes or all."""
        for axis, dim in self.axes(old).items():
            if axes is None or axis in axes:
                mask, behind = self.mask(b, dim), new.type.rank - 1 - axis
                if behind:
                    mask = b.op("unsqueeze", mask, axis=tuple(range(1, behind + 1)))
                new = b.op("where", mask, new, b.constant(number, new.type.dtype))
        return new

    # The whole -------------------------------------------------------------------------------------------------------

    def _requires(self) -> None:
        """What is required of sizes holds for every count, or the model is refused."""
        kept = []
        for need in self.graph.requires:
            if not self.counts.of(need.left) and not self.counts.of(need.right):
                kept.append(need)
                continue
            facts = {s: (1, size.value) for s, size in self.sizes.items()}
            low, high = (need.left, need.right) if need.op == "<=" else (need.right, need.left)
            if need.op not in ("<=", ">=") or not prove_ge(high, low, facts):
                raise Uncountable("a size that must be one number, or another than one,")
        self.graph.requires = kept

    def _outputs(self) -> list[str]:
        values, infos, notes = list(self.graph.outputs), list(self.graph.output_info), []
        taken = {info.name for info in infos}
        added: dict[Dim, str] = {}
        b = Builder(self.graph)
        for at, (old, info) in enumerate(zip(self.graph.outputs, self.graph.output_info, strict=True)):
            new = self.copies.get(old, old)
            axes = self.axes(old)
            values[at] = self.filled(b, new, old, False if new.type.dtype == boolean else 0) if axes else new
            for axis, dim in axes.items():
                if dim not in added:
                    added[dim] = unique(f"{info.name}_count", taken)
                    values.append(self.number(b, dim))
                    infos.append(Output(added[dim]))
                self.counts.outputs.setdefault(info.public, {})[axis] = added[dim]
                shown = f"of the {dim.subs(self.sizes)} places along axis {axis} of `{info.public}`, the first `{added[dim]}` count"
                notes.append(f"{shown}; behind them is 0")
        self.graph.set_outputs(values, infos)
        return notes


def _dims(attributes: Iterable[Any]) -> Iterable[Dim]:
    for value in attributes:
        if isinstance(value, Dim):
            yield value
        elif isinstance(value, tuple):
            yield from _dims(value)
