"""Dimensions as values: each is computed once, in the main graph, from the shapes of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim, as_dim, prove_ge, sym
from ...ir.dims.monomials import Atom, Monomial
from ...ir.types import i64
from ..lower import Scope

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Graph
    from .emit import Emitter


class Sizes(Scope):
    """Dimensions within one graph or one composite's body, which may name some with ``let``.

    Args:
        root: the main graph's emitter.
        symbols: free symbol -> its size as a dimension of ``axes``.
        axes: symbol of an input's axis -> the input and the axis.
        graph: whose ``let`` names and facts hold here.
        parent: the scope around a body.
    """

    def __init__(
        self,
        root: Emitter,
        graph: Graph,
        symbols: Mapping[str, Dim],
        axes: Mapping[str, tuple[ox.Value, int]],
        parent: Sizes | None = None,
    ) -> None:
        super().__init__(graph, parent)
        self.root = root
        self.symbols = symbols
        self.axes = axes
        self._known: dict[object, ox.Value] = {}

    def nested(self, body: Graph) -> Sizes:
        return Sizes(self.root, body, self.symbols, self.axes, self) if body.lets else self

    # Values ------------------------------------------------------------------------------------------------------

    def value(self, dim: Dim | int) -> ox.Value:
        """``i64[1]``. Raises E0803 when no input's shape determines a symbol of it."""
        dim = as_dim(dim)
        if dim.value is not None:
            return self.root.ints([dim.value])
        scope = self.owner(dim)
        found = scope._known.get(dim)
        if found is None:
            found = scope._known[dim] = scope._sum(dim)
        return found

    def scalar(self, dim: Dim | int) -> ox.Value:
        """``i64[]``."""
        dim = as_dim(dim)
        if dim.value is not None:
            return self.root.constant(dim.value, i64)
        scope = self.owner(dim)
        key = ("scalar", dim)
        if key not in scope._known:
            scope._known[key] = self.root.squeeze(scope.value(dim), 0)
        return scope._known[key]

    def shape(self, dims: tuple[Dim, ...]) -> ox.Value:
        """``i64[rank]``."""
        if all(d.value is not None for d in dims):
            return self.root.ints([int(d) for d in dims])
        scope = self.owner(*dims)
        key = ("shape", dims)
        if key not in scope._known:
            parts: list[ox.Value] = []
            run: list[int] = []
            for dim in (*dims, None):
                if dim is not None and dim.value is not None:
                    run.append(dim.value)
                    continue
                if run:
                    parts.append(self.root.ints(run))
                    run = []
                if dim is not None:
                    parts.append(scope.value(dim))
            scope._known[key] = parts[0] if len(parts) == 1 else self.root.op("Concat", *parts, axis=0)
        return scope._known[key]

    def _sum(self, dim: Dim) -> ox.Value:
        # Positive terms first, so that a difference needs no negation; partial sums are shared between dimensions.
        terms = sorted(dim.terms, key=lambda row: row[1] < 0)
        monomial, coefficient = terms[-1]
        if len(terms) > 1:
            rest = self.value(Dim(terms[:-1]))
            operation = "Add" if coefficient > 0 else "Sub"
            return self.root.op(operation, rest, self._product(monomial, abs(coefficient)))
        return self._product(monomial, coefficient)

    def _product(self, monomial: Monomial, coefficient: int) -> ox.Value:
        if not monomial:
            return self.root.ints([coefficient])
        factors = [self._atom(atom) for atom, power in monomial for _ in range(power)]
        if coefficient != 1:
            factors.append(self.root.ints([coefficient]))
        total = factors[0]
        for factor in factors[1:]:
            total = self.root.op("Mul", total, factor)
        return total

    def _atom(self, atom: Atom) -> ox.Value:
        key = ("atom", atom)
        if key not in self._known:
            self._known[key] = self._symbol(atom) if isinstance(atom, str) else self._call(atom.fn, atom.args)
        return self._known[key]

    def _symbol(self, name: str) -> ox.Value:
        if name in self.lets:
            return self.value(self.lets[name])
        if self.parent is not None:
            return self.parent.value(sym(name))
        if name in self.axes:
            value, axis = self.axes[name]
            return self.root.op("Shape", value, start=axis, end=axis + 1)
        if name in self.symbols:
            return self.value(self.symbols[name])
        raise Diagnostic(
            "E0803", f"the size `{name}` cannot be computed: no input's shape determines it", self.root.span,
            help=f"give some input an axis of size `{name}`",
        )  # fmt: skip

    def _call(self, fn: str, args: tuple[Dim, ...]) -> ox.Value:
        values = [self.value(a) for a in args]
        if fn in ("min", "max"):
            return self.root.op("Min" if fn == "min" else "Max", *values)
        a, b = values
        if fn == "mod":
            return self.root.op("Mod", a, b)
        if not (prove_ge(args[0], 0, self.facts) and prove_ge(args[1], 1, self.facts)):
            # Div rounds toward zero; without the rest (which has the divisor's sign) it is exact.
            a = self.root.op("Sub", a, self.root.op("Mod", a, b))
        return self.root.op("Div", a, b)
