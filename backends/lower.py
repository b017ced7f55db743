"""The one walk by which every backend lowers a program: what is needed of it, through which bodies, and on whose line.

A backend is tables (core op -> lowering, composite -> claim) and a :class:`Walk` of its own, which says how values are written.
What it lowers is decided by a :class:`Plan` before the first line is emitted, so that what it cannot express is refused first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, Self, TypeVar

from ..ir.diagnostics import Diagnostic
from ..ir.dims.dim import Dim, prove_ge
from ..ir.graph import Graph, Node, Value
from ..ir.keys import instance_key
from ..ir.op import Composite

T = TypeVar("T")

# Beyond this many atoms a dimension is not expanded in order to prove something about it.
_EXPANSION = 24


def claimed_by(claims: Mapping[str, object], unless: Mapping[str, Callable[[Node], bool]]) -> Callable[[Node], bool]:
    """Whether a table of claims has a composite, and does not except this use of it."""

    def claimed(node: Node) -> bool:
        name = node.op.qualified
        return name in claims and not (name in unless and unless[name](node))

    return claimed


class Plan:
    """What of a program is lowered, and how; shared by all emitters of one artifact.

    Args:
        claims: whether a composite becomes one op of the target. Every other one is lowered through its body.
        refuses: why a node cannot be lowered, None when it can; the diagnostic's place is filled in here.
        whole: bodies become functions, which give all of their results whoever asks for which.
    """

    def __init__(
        self,
        claims: Callable[[Node], bool],
        refuses: Callable[[Node], Diagnostic | None] = lambda node: None,
        *,
        whole: bool = False,
    ) -> None:
        self.claims = claims
        self._refuses = refuses
        self._whole = whole
        self._bodies: dict[Hashable, Graph] = {}
        self._live: dict[tuple[Graph, frozenset[int] | None], tuple[dict[Node, frozenset[int]], set[Value]]] = {}

    def body(self, node: Node) -> Graph:
        """The body of a composite; one for all nodes of the same operand types and attributes."""
        assert isinstance(node.op, Composite)
        key = instance_key(node)
        if key not in self._bodies:
            types = [None if v is None else v.type for v in node.inputs]
            self._bodies[key] = node.op.instantiate(types, dict(node.attrs))
        return self._bodies[key]

    def within(self, body: Graph) -> list[Graph]:
        """The bodies of the composites in a body, which nobody writes where it is claimed, and which require what they do."""
        return [self.body(node) for node in self.live(body) if isinstance(node.op, Composite)]

    def note(self, body: Graph, parent: int, bodies: list[tuple[int | None, Graph]]) -> None:
        """Put a body that nobody writes, and those within, behind ``bodies``, each with the number of the one around it."""
        if (parent, body) not in bodies:
            bodies.append((parent, body))
            index = len(bodies) - 1
            for inner in self.within(body):
                self.note(inner, index, bodies)

    def live(self, graph: Graph, wanted: frozenset[int] | None = None) -> dict[Node, frozenset[int]]:
        """The nodes that the wanted outputs (None: all) need, in order, each with which of its results are.

        It looks into bodies, so that what only an unwanted result of a composite needs is left out.
        """
        return self._liveness(graph, wanted)[0]

    def _liveness(self, graph: Graph, wanted: frozenset[int] | None) -> tuple[dict[Node, frozenset[int]], set[Value]]:
        """As :meth:`live`, and the values that these nodes read."""
        if (graph, wanted) not in self._live:
            live: dict[Node, frozenset[int]] = {}
            needed = {v for i, v in enumerate(graph.outputs) if wanted is None or i in wanted}
            for node in graph.reversed_nodes():
                outputs = frozenset(v.index for v in node.outputs if v in needed)
                if outputs:
                    live[node] = outputs
                    needed.update(self._read(node, outputs))
            self._live[graph, wanted] = dict(reversed(live.items())), needed
        return self._live[graph, wanted]

    def _read(self, node: Node, wanted: frozenset[int]) -> Iterator[Value]:
        given = [v for v in node.inputs if v is not None]
        if self._whole or not isinstance(node.op, Composite) or self.claims(node):
            yield from given
            return
        body = self.body(node)
        _, needed = self._liveness(body, wanted)
        yield from (v for v, inner in zip(given, body.inputs, strict=True) if inner in needed)

    def refused(self, graph: Graph) -> Diagnostic | None:
        """The first thing of a program that has no lowering, with the line of the user's call; None when all has one."""
        return self._refused(graph, None, set())

    def _refused(
        self, graph: Graph, wanted: frozenset[int] | None, seen: set[tuple[Graph, frozenset[int] | None]]
    ) -> Diagnostic | None:
        if (graph, wanted) in seen:
            return None
        seen.add((graph, wanted))
        for node, outputs in self.live(graph, wanted).items():
            problem = self._refuses(node)
            if problem is None and isinstance(node.op, Composite) and not self.claims(node):
                problem = self._refused(self.body(node), None if self._whole else outputs, seen)
            for region in node.bodies if problem is None else ():
                problem = problem or self._refused(region, None, seen)
            if problem is not None:
                problem.called_at(node.span)
                return problem
        return None


class Scope:
    """What the names of dimensions mean within a graph or a body, which may name some with ``let``."""

    parent: Self | None

    def __init__(self, graph: Graph, parent: Self | None = None) -> None:
        self.lets = dict(graph.lets)
        self.facts: dict[str, tuple[int, int | None]] = {**(parent.facts if parent else {}), **graph.facts}
        self.parent = parent
        self._positive: dict[Dim, bool] = {}

    def nested(self, body: Graph) -> Self:
        """The scope of a composite's or a loop's body."""
        return type(self)(body, self) if body.lets else self

    def owner(self, *dims: Dim) -> Self:
        """The outermost scope in which these dimensions mean the same."""
        scope = self
        while scope.parent is not None and all(d.symbols.isdisjoint(scope.lets) for d in dims):
            scope = scope.parent
        return scope

    def public(self, dims: Iterable[Dim]) -> bool:
        """Whether these dimensions mean the same in the main graph."""
        return self.owner(*dims).parent is None

    def outer(self, dim: Dim) -> Dim | None:
        """The dimension in the main graph's symbols; None when that is too long."""
        scope = self
        while scope.parent is not None:
            while not dim.symbols.isdisjoint(scope.lets):
                if dim.weight > _EXPANSION:
                    return None
                dim = dim.subs(scope.lets)
            scope = scope.parent
        return dim

    def expanded(self, dim: Dim) -> Dim:
        """The dimension in the main graph's free symbols, however long."""
        scope: Scope | None = self
        while scope is not None:
            while not dim.symbols.isdisjoint(scope.lets):
                dim = dim.subs(scope.lets)
            scope = scope.parent
        return dim

    def positive(self, dim: Dim) -> bool:
        """Whether the dimension is proved to be at least 1."""
        if dim.value is not None:
            return dim.value > 0
        if dim not in self._positive:
            self._positive[dim] = self._nonnegative(dim - 1)
        return self._positive[dim]

    def proved(self, left: Dim, op: str, right: Dim) -> bool:
        """Whether ``left OP right`` is proved for all sizes."""
        differences = {">=": left - right, "<=": right - left, ">": left - right - 1, "<": right - left - 1}
        return op in differences and self._nonnegative(differences[op])

    def _nonnegative(self, dim: Dim) -> bool:
        """Tried with the ``let`` names as they are, then with one after the other replaced, the last defined first."""
        scope: Scope | None = self
        while not prove_ge(dim, 0, self.facts):
            while scope is not None and dim.symbols.isdisjoint(scope.lets):
                scope = scope.parent
            if scope is None or dim.weight > _EXPANSION:
                return False
            last = next(name for name in reversed(scope.lets) if name in dim.symbols)
            dim = dim.subs({last: scope.lets[last]})
        return True


class Walk(Generic[T]):
    """Lowers nodes of the IR to values ``T`` of a target.

    Attributes:
        plan: what is lowered.
        sizes: what dimensions mean where the walk is.
        depth: how many composites' bodies are around it. Within them the user's line stays to blame.
    """

    sizes: Scope

    def __init__(self, plan: Plan, depth: int = 0) -> None:
        self.plan = plan
        self.depth = depth

    # What a backend says -----------------------------------------------------------------------------------------

    def at(self, node: Node) -> None:
        """Told of every node outside of bodies before it is lowered: its line is to blame, its scope gives names."""

    def operands(self, node: Node, env: Mapping[Value, T]) -> list[T | None]:
        """How the operands are written; None for one that is not given, or that nothing needs."""
        return [None if v is None else env.get(v) for v in node.inputs]

    def core(self, node: Node, operands: list[T | None]) -> Sequence[T | None]:
        """The results of a core op."""
        raise NotImplementedError

    def claim(self, node: Node, operands: list[T | None]) -> Sequence[T | None]:
        """The results of a composite that the plan claims."""
        raise NotImplementedError

    def bind(self, node: Node, results: Sequence[T | None], env: dict[Value, T]) -> None:
        """File the results of a node."""
        for value, made in zip(node.outputs, results, strict=True):
            if made is not None:
                env[value] = made

    # The walk ----------------------------------------------------------------------------------------------------

    def walk(self, graph: Graph, env: dict[Value, T], wanted: frozenset[int] | None = None) -> None:
        """Lower the nodes that the wanted outputs (None: all) need; ``env`` holds the inputs, and is extended."""
        for node, outputs in self.plan.live(graph, wanted).items():
            if not self.depth:
                self.at(node)
            self.bind(node, self._results(node, self.operands(node, env), outputs), env)

    def _results(self, node: Node, operands: list[T | None], wanted: frozenset[int]) -> Sequence[T | None]:
        if not isinstance(node.op, Composite):
            return self.core(node, operands)
        return self.claim(node, operands) if self.plan.claims(node) else self.composite(node, operands, wanted)

    def composite(self, node: Node, operands: list[T | None], wanted: frozenset[int]) -> Sequence[T | None]:
        """The results of a composite through its body, which is written out in place."""
        given = [x for v, x in zip(node.inputs, operands, strict=True) if v is not None]
        self.depth += 1
        results = self._inlined(self.plan.body(node), given, wanted)
        self.depth -= 1
        return results

    def inline(self, body: Graph, operands: Sequence[T]) -> list[T]:
        """All results of a body for given operands."""
        return [y for y in self._inlined(body, operands, None) if y is not None]

    def _inlined(self, body: Graph, operands: Sequence[T | None], wanted: frozenset[int] | None) -> list[T | None]:
        around = self.sizes
        self.sizes = around.nested(body)
        env: dict[Value, T] = {v: x for v, x in zip(body.inputs, operands, strict=True) if x is not None}
        self.walk(body, env, wanted)
        self.sizes = around
        return [env.get(v) for v in body.outputs]
