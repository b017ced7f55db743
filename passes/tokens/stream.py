"""Streams of tokens that shrink: their stages, those that are in a graph already, and what values are made from.

A reduction is an op that takes the token map and returns one, whatever its name. Each makes a stage of its stream; a pass that
runs later finds the stages of the passes before it, and puts its own between or behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from ...ir.analysis.axes import Axes, Axis
from ...ir.dims.dim import Dim, prove_ge
from ...ir.graph import Graph, Node, Require, Value
from ...ir.op import AnyOp, Composite, Trait, has
from ...ir.signature import Pattern, RecordPattern
from ...ir.types import boolean

# The record, by the module that declares it and its name.
RECORD = ("std.token", "TokenMap")


@dataclass(frozen=True)
class Facts:
    """What a reduction did: the static fields of ``std.token.TokenMap``, where they are explained."""

    ordered: bool = True
    merged: bool = False
    total: bool = True
    padded: bool = False
    first: int | Dim = 0
    last: int | Dim = 0

    def attrs(self, operand: str) -> dict[str, Any]:
        """As attributes of a node that takes the map under this name."""
        return {f"{operand}.{f.name}": getattr(self, f.name) for f in fields(self)}


# How many first and last tokens stay: numbers, or symbols of numbers that only run time knows, which are at least 1.
Ends = tuple[int | Dim, int | Dim]


def certain(count: int | Dim) -> int:
    """How many tokens a number of :class:`Ends` is at least."""
    return count if isinstance(count, int) else 1


def some(count: Dim, graph: Graph) -> bool:
    """Whether there is one at least: for every size, or because the program requires it."""
    if prove_ge(count, 1, graph.facts):
        return True
    for need in graph.requires:
        small, large = (need.left, need.right) if need.op in ("<", "<=") else (need.right, need.left)
        room = large - small - (1 if need.op in ("<", ">") else 0)
        if need.op in ("<", "<=", ">", ">=") and prove_ge(count - 1 - room, 0, graph.facts):
            return True
    return False


def never(count: Dim, graph: Graph) -> Require | None:
    """What the program requires that leaves none at any size; None where there may be one."""
    for need in graph.requires:
        small, large = (need.left, need.right) if need.op in ("<", "<=", "==") else (need.right, need.left)
        room = large - small - (1 if need.op in ("<", ">") else 0)
        # Two equal sizes leave no room either way.
        rooms = {"!=": [], "==": [room, -room]}.get(need.op, [room])
        if any(prove_ge(-count - spare, 0, graph.facts) for spare in rooms):
            return need
    return None


@dataclass(frozen=True)
class TokenMap:
    """The tensors of ``std.token.TokenMap`` at one stage: source [B, N], size [B, T], position [B, T]."""

    source: Value
    size: Value
    position: Value

    @property
    def fields(self) -> tuple[Value, Value, Value]:
        return self.source, self.size, self.position


@dataclass(eq=False)
class Stage:
    """The tokens of a stream between two reductions.

    Args:
        count: how many there are.
        parent: the stage whose tokens were reduced; None for the original ones.
        node: the reduction that made it; None for the original ones.
        facts: what that reduction did.
        tokens: the map; None while nothing is reduced yet.
        behind: the attention that the reduction stands behind, for messages.
        resized: whether the count is another than the one that the graph was made for.
        joined: whether it is that of reduced tokens behind others (:mod:`.join`): what was merged saw all that was merged with it.
    """

    count: Dim
    parent: Stage | None = None
    node: Node | None = None
    facts: Facts = field(default_factory=Facts)
    tokens: TokenMap | None = None
    behind: Node | None = None
    resized: bool = False
    joined: bool = False

    @property
    def map(self) -> TokenMap:
        assert self.tokens is not None
        return self.tokens


@dataclass(eq=False)
class Stream:
    """The tokens of one axis class, ``stages[0]`` the original ones.

    Stages stand in the order of the graph. Behind a region tokens are again those in front of it, so that a stage may have
    several that were made of it.

    Args:
        tokens, batch: the axis classes, of the original tokens.
        batch_size: the size of the batch axis.
        inputs: which graph inputs the token features come from, a bit each: values that come from them are features.
        padding: where the padding mask comes from, and whether true means a real token.
        padded: whether some tokens may be padding, of size 0.
        current: the stage that a walk through the graph is at.
        latest: the last stage that it met.
    """

    tokens: Axis
    batch: Axis
    batch_size: Dim
    stages: list[Stage]
    inputs: int = 0
    padding: tuple[Value, bool] | None = None
    padded: bool = False
    cache: dict[Any, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.current = self.latest = self.stages[0]

    def meet(self, stage: Stage) -> None:
        """Say that a walk has come to a stage, which is put where it belongs if it is new."""
        if stage not in self.stages:
            self.stages.insert(self.stages.index(self.latest) + 1, stage)
        self.current = self.latest = stage

    @property
    def length(self) -> Dim:
        """The number of original tokens."""
        return self.stages[0].count

    def later(self, a: Stage, b: Stage) -> Stage:
        """The one that comes behind the other."""
        return b if a in self.until(b) or a is self.stages[0] else a

    def between(self, start: Stage, to: Stage) -> list[Stage]:
        """The stages behind ``start``, up to ``to``."""
        found: list[Stage] = []
        at: Stage | None = to
        while at is not None and at is not start and at is not self.stages[0]:
            found.insert(0, at)
            at = at.parent
        return found

    def until(self, to: Stage) -> list[Stage]:
        return self.between(self.stages[0], to)

    def weighs(self, stage: Stage) -> bool:
        """Whether sizes may be other than 1."""
        return self.padded or any(s.facts.merged for s in self.until(stage))

    def emptied(self, stage: Stage) -> bool:
        """Whether reductions may have left padding where none was."""
        return any(s.facts.padded for s in self.until(stage))

    def said(self, stage: Stage) -> str:
        """What was done to tokens up to a stage, in messages."""
        return "merged" if any(s.facts.merged for s in self.until(stage)) else "dropped"

    def kept(self, stage: Stage) -> tuple[int, int]:
        """How many first and last tokens are in their places for certain."""
        reductions = self.until(stage)
        return min(certain(s.facts.first) for s in reductions), min(certain(s.facts.last) for s in reductions)


# Reductions -----------------------------------------------------------------------------------------------------------


def is_map(type: Any) -> bool:
    """Whether the type of an operand or a result is the token map."""
    return isinstance(type, RecordPattern) and (type.record.module, type.record.name) == RECORD


def map_leaves(op: AnyOp) -> int | None:
    """Which of its inputs is the first of the three that are the token map; None for an op that takes none."""
    index = 0
    for operand in op.signature.operands if isinstance(op, Composite) else ():
        if is_map(operand.type):
            return index
        index += len(operand.leaves())
    return None


def map_operand(op: AnyOp) -> str:
    """The name under which an op takes the token map."""
    return next(o.name for o in op.signature.operands if is_map(o.type))


def makes_map(op: AnyOp) -> bool:
    return isinstance(op, Composite) and any(is_map(r.type) for r in op.signature.results)


def is_reduction(op: AnyOp) -> bool:
    """Whether an op takes features and the token map first, and returns features and a token map."""
    return makes_map(op) and map_leaves(op) == 1 and len(op.signature.results) == 2


def is_visibility(op: AnyOp) -> bool:
    """Whether an op takes queries and keys, which of them are `there` if it asks, and `k`, and returns which keys each query reads:
    `bool[B, H, T, S]`."""
    if not isinstance(op, Composite) or len(op.signature.results) != 1:
        return False
    operands = op.signature.operands
    if len(operands) != 2 and [o.name for o in operands[2:]] != ["there"]:
        return False
    types = [*(operand.type for operand in operands[:2]), op.signature.results[0].type]
    shaped = all(isinstance(type, Pattern) and len(type.shape) == 4 for type in types)
    return shaped and types[2].dtype == boolean and any(s.name == "k" for s in op.signature.statics)  # type: ignore[union-attr]


def reductions(graph: Graph) -> Iterator[Node]:
    """The places where tokens leave, in order."""
    return (node for node in graph.nodes() if is_reduction(node.op))


def fields_of(node: Node) -> TokenMap:
    """The map that a node takes."""
    first = map_leaves(node.op)
    assert first is not None
    return TokenMap(*node.inputs[first : first + 3])  # type: ignore[arg-type]


def facts_of(node: Node) -> Facts:
    """What a reduction did: known from its body."""
    assert isinstance(node.op, Composite)
    body = node.op.instantiate([None if v is None else v.type for v in node.inputs], node.attrs)
    return Facts(**node.op.record_statics(body)[0])


def find_streams(graph: Graph, axes: Axes) -> list[Stream]:
    """The streams whose tokens are reduced in a graph already. Their axis classes are joined as the signatures say."""
    streams: list[Stream] = []
    known: dict[Value, Stream] = {}
    for node in reductions(graph):
        taken, x, y = fields_of(node), node.inputs[0], node.output
        assert x is not None
        stream = known.get(taken.source)
        if stream is None:
            first = Stage(x.type.shape[1], tokens=taken)
            stream = Stream(axes.find(x, 1), axes.find(x, 0), x.type.shape[0], [first])
            known[taken.source] = stream
            streams.append(stream)
            axes.join((x, 1), (taken.source, 1))
        made = TokenMap(*node.outputs[1:4])
        _join_axes(node, axes)
        axes.join((taken.source, 1), (made.source, 1))
        parent = next(stage for stage in stream.stages if stage.map.source is taken.source)
        stream.stages.append(Stage(y.type.shape[1], parent, node, facts_of(node), made))
        known[made.source] = stream
    for stream in streams:
        stream.tokens, stream.batch = (axes.find(*axis) for axis in (stream.tokens, stream.batch))
        stream.padded = stream.emptied(stream.stages[-1])
    return streams


def _join_axes(node: Node, axes: Axes) -> None:
    """Axes of one name in a reduction's signature are one axis, whatever its body does with them."""
    first: dict[Dim, Axis] = {}
    leaves = zip(node.op.signature.leaves(), node.inputs, strict=True)
    rows = [(v, pattern.shape) for (_, pattern, _), v in leaves if v is not None]
    flat = iter(node.outputs)
    for result in node.op.signature.results:
        types = [p for _, p in result.type.fields()] if isinstance(result.type, RecordPattern) else [result.type]
        rows += [(next(flat), p.shape) for p in types]
    for value, shape in rows:
        for axis, dim in enumerate(shape):
            if isinstance(dim, Dim) and dim.value is None:
                axes.join(first.setdefault(dim, (value, axis)), (value, axis))


# What values are made from ----------------------------------------------------------------------------------------------


class Origins:
    """Which graph inputs a value depends on, as bits, and which token maps. A map itself depends on nothing."""

    def __init__(self, graph: Graph, streams: Iterable[Stream]) -> None:
        self._bits: dict[Value, int] = {v: 1 << i for i, v in enumerate(graph.inputs)}
        self._maps: dict[Value, frozenset[Stage]] = {}
        self._sizes: set[Value] = set()
        self._extensive: dict[Value, bool] = {}
        for stage in (stage for stream in streams for stage in stream.stages):
            self.adopt(stage)
        for node in graph.nodes():
            self.add(node)

    def adopt(self, stage: Stage) -> None:
        """Say that a stage's map is one."""
        for value in stage.map.fields:
            self._maps[value] = frozenset({stage})
        self._sizes.add(stage.map.size)

    def add(self, node: Node) -> None:
        bits, maps = 0, frozenset[Stage]()
        for value in node.inputs:
            if value is not None:
                bits |= self._bits.get(value, 0)
                maps |= self._maps.get(value, frozenset())
        made = makes_map(node.op)
        for i, value in enumerate(node.outputs):
            self._bits[value] = 0 if made and (i or len(node.outputs) == 3) else bits
            if not made:
                self._maps[value] = maps

    def of(self, value: Value) -> int:
        return self._bits.get(value, 0)

    def maps(self, value: Value) -> frozenset[Stage]:
        """The stages whose maps it is computed from."""
        return self._maps.get(value, frozenset())

    def extensive(self, value: Value) -> bool:
        """Whether a value has a token's size as a factor already, so that it adds up over tokens as it is."""
        if value not in self._extensive:
            node = value.node
            name = node.op.qualified if node is not None and node.op is not None else ""
            given = [v for v in node.inputs if v is not None] if node is not None else []
            if value in self._sizes:
                found = True
            elif name == "mul":
                found = any(map(self.extensive, given))
            elif name in ("add", "sub"):
                found = all(map(self.extensive, given))
            elif name == "div":
                found = self.extensive(given[0]) and not self.extensive(given[1])
            elif name == "where":
                found = any(map(self.extensive, given[1:]))
            elif node is not None and has(node, Trait.SCALES):
                found = self.extensive(given[0])
            else:
                found = False
            self._extensive[value] = found
        return self._extensive[value]

