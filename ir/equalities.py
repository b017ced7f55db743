"""What a graph requires of its sizes, used: with `T % 2 == 0`, `T // 2 * 2` is `T`.

A requirement that ``n`` divides ``T + b`` lets ``T`` be written as ``n * k - b``, with a symbol ``k`` of its own; one that two
sizes are equal lets one be written as the other; a ``let`` is what it names. Dimensions that become the same so are the same in
every call that the program admits. They are brought back to the names of the program: ``n * k`` is ``T + b``.

>>> T = sym("T")
>>> even = Equalities((Require(T % 2, "==", const(0), "T is even"),), {})
>>> str(even.shown(T // 2 * 2 + T % 2))
'T'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import gcd
from typing import Any

from .diagnostics import Diagnostic, Span
from .dims.dim import Dim, apply, const, sym
from .dims.monomials import DimCall, Monomial, divide, multiply
from .graph import Graph, Require, Value
from .op import AnyOp, Attrs
from .types import TensorType

# What a shape rule raises where two sizes are not the same.
SIZES = frozenset({"E0302", "E0304", "E0306", "E0307"})


class Equalities:
    """What ``requires`` and ``lets`` say of sizes. ``facts`` bounds the symbols that it introduces."""

    def __init__(self, requires: Iterable[Require], lets: Mapping[str, Dim]) -> None:
        self.lets = dict(lets)
        self.written: dict[str, Dim] = {}
        self.facts: dict[str, tuple[int, None]] = {}
        # The symbol of its own -> (what its n-fold is in the program's names, n).
        self._own: dict[str, tuple[Dim, Dim]] = {}
        for need in requires:
            if need.op == "==":
                self._learn(need.left, need.right)

    def __bool__(self) -> bool:
        return bool(self.lets or self.written)

    def hidden(self, dim: Dim) -> Dim:
        """``dim`` with names of ``let`` replaced by what they name, and with the symbols of their own."""
        while not dim.symbols.isdisjoint(self.lets):
            dim = dim.subs(self.lets)
        while not dim.symbols.isdisjoint(self.written):
            dim = dim.subs(self.written)
        return dim

    def shown(self, dim: Dim) -> Dim:
        """The same dimension in the names of the program."""
        dim = self.hidden(dim)
        for own in reversed(self._own):
            dim = self._without(dim, own)
        return dim

    def _learn(self, left: Dim, right: Dim) -> None:
        left, right = self.hidden(left), self.hidden(right)
        for a, b in ((left, right), (right, left)):
            call = a.atom
            if isinstance(call, DimCall) and call.fn == "mod" and b.value is not None:
                self._divides(call.args[1], call.args[0] - b)
                return
        self._same(left - right)

    def _divides(self, n: Dim, dim: Dim) -> None:
        """``n`` divides ``dim``: written as such where that has one symbol, once."""
        if n.value is not None and len(dim.terms) == 1 and dim.terms[0][0]:
            # What n has in common with the factor of the only term divides it already, and the rest of the factor has no say.
            monomial, factor = dim.terms[0]
            n, dim = const(n.value // gcd(n.value, factor)), Dim([(monomial, 1)])
        found = _alone(dim)
        if found is None or found in n.symbols or n == 1:
            return
        own = f"({dim}) / ({n})"
        self.written[found] = n * sym(own) - (dim - sym(found))
        self._own[own] = dim, n
        self.facts[own] = (0, None)

    def _same(self, difference: Dim) -> None:
        found = _alone(difference) or _alone(-difference)
        if found is not None:
            rest = difference - sym(found) if _alone(difference) == found else -difference - sym(found)
            self.written[found] = -rest

    def _without(self, dim: Dim, own: str) -> Dim:
        if own not in dim.symbols:
            return dim
        whole, n = self._own[own]
        total = const(0)
        for monomial, factor in dim.terms:
            made: Dim = const(1)
            rest: Monomial = ()
            power = 0
            for atom, times in monomial:
                if isinstance(atom, DimCall):
                    made = made * apply(atom.fn, *(self._without(arg, own) for arg in atom.args)) ** times
                elif atom == own:
                    power = times
                else:
                    rest = multiply(rest, ((atom, times),))
            for _ in range(power):
                step = _over(rest, factor, n)
                if step is None:
                    made = made * (whole // n)
                else:
                    (rest, factor), made = step, made * whole
            total = total + made * Dim([(rest, factor)])
        return total


def _alone(dim: Dim) -> str | None:
    """A symbol that stands once in ``dim``, with the factor 1 and in no product or call, beside integers only."""
    names = [m[0][0] for m, c in dim.terms if len(m) == 1 and m[0][1] == 1 and c == 1]
    for name in names:
        if isinstance(name, str) and name not in (dim - sym(name)).symbols:
            return name
    return None


def _over(monomial: Monomial, factor: int, n: Dim) -> tuple[Monomial, int] | None:
    """A term divided by ``n``, where that has no remainder."""
    if len(n.terms) != 1 or factor % n.terms[0][1]:
        return None
    rest = divide(monomial, n.terms[0][0])
    return None if rest is None else (rest, factor // n.terms[0][1])


def equalities(graph: Graph) -> Equalities:
    """What a graph says of sizes."""
    return _equalities(tuple(graph.requires), tuple(graph.lets.items()))


@lru_cache(maxsize=64)
def _equalities(requires: tuple[Require, ...], lets: tuple[tuple[str, Dim], ...]) -> Equalities:
    return Equalities(requires, dict(lets))


def infer_within(
    graph: Graph | None, op: AnyOp, inputs: Sequence[Value | None], attrs: Attrs, *, span: Span | None = None,
    spans: Sequence[Span | None] | None = None,
) -> list[TensorType]:  # fmt: skip
    """Result types of a call in ``graph``, where sizes may only be equal by what it requires: operands then have types that are
    equal as they are. As ``op.infer`` otherwise.

    Raises:
        Diagnostic: what does not fit, and where it was bound.
    """
    before = dict(attrs)
    types = [None if v is None else v.type for v in inputs]
    try:
        return op.infer(types, attrs, span=span, spans=spans)
    except Diagnostic as error:
        known = equalities(graph) if graph is not None and error.code in SIZES else None
        if graph is None or not known:
            raise
        attrs.clear()
        attrs.update((name, mapped(value, known.hidden)) for name, value in before.items())
        try:
            found = op.infer([None if t is None else mapped(t, known.hidden) for t in types], attrs, span=span, spans=spans)
        except Diagnostic:
            raise error from None
    settle(graph, inputs)
    attrs.update({name: mapped(value, known.shown) for name, value in attrs.items()})
    return [mapped(type, known.shown) for type in found]


def settle(graph: Graph, values: Iterable[Value | None]) -> bool:
    """Let computed values have the types that ``graph`` says are theirs, in the names of the program; whether any changed."""
    known = equalities(graph)
    changed = False
    for value in values if known else ():
        if value is not None and value.node is not None:
            type = mapped(value.type, known.shown)
            changed, value.type = changed or type != value.type, type
    return changed


def same_within(graph: Graph, a: TensorType, b: TensorType) -> bool:
    """Whether two types are the same by what ``graph`` says of sizes."""
    if a == b:
        return True
    known = equalities(graph)
    return bool(known) and mapped(a, known.hidden) == mapped(b, known.hidden)


def mapped(value: Any, change: Any) -> Any:
    """A type, a dimension, or a list of them, with each dimension changed."""
    if isinstance(value, TensorType):
        return TensorType(value.dtype, tuple(map(change, value.shape)))
    if isinstance(value, tuple):
        return tuple(mapped(item, change) for item in value)
    if isinstance(value, Dim):
        made = change(value)
        return made if made.value is None else made.value
    return value
