"""Matching rewrite rules over composites and core ops, and what comes closest where none matches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...ir.builder import freeze
from ...ir.compare import same_attr
from ...ir.diagnostics import Diagnostic, Span
from ...ir.dims.dim import Dim
from ...ir.equalities import infer_within
from ...ir.graph import Graph, Node, Value
from ...ir.op import Trait, has
from ...ir.ops.contraction import parse_einsum
from ...ir.pattern import Call, Match, Number, Pattern, Rule, Scalar, Static, Var
from ...ir.types import DType, boolean

# How far a constant may be from the number in the pattern, relative to it: the rounding of its dtype.
_ROUNDING = {"f16": 1e-3, "bf16": 8e-3, "f32": 1.2e-7}


class _State(NamedTuple):
    """A partial match: what is bound, the nodes of the calls so far, and how many leaves fitted."""

    tensors: dict[str, Value]
    statics: dict[str, Any]
    nodes: tuple[Node, ...]
    leaves: int = 0


@dataclass(frozen=True)
class NearMiss:
    """The deepest partial match of a rule: how many of its ``size`` calls fitted, where it stopped, and why."""

    matched: int
    size: int
    span: Span | None
    reason: str

    def __str__(self) -> str:
        where = f" at {self.span}" if self.span is not None else ""
        return f"{self.matched} of {self.size} calls matched{where}: {self.reason}"


class Matcher:
    """Matches one rule; ``nearest`` is the best of its failures so far."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.size = _size(rule.pattern)
        self.nearest: NearMiss | None = None
        self._rank = (-1, False, -1)

    def match(self, node: Node) -> Match | None:
        """The first way in which ``node`` is the root of the pattern."""
        for state in self._call(self.rule.pattern, node, _State({}, {}, ())):
            found = Match(state.tensors, state.statics, list(state.nodes))
            if self._escapes(state) or not self._declared(state, found) or not self._admitted(state, found):
                continue
            return found
        return None

    # The tree ----------------------------------------------------------------------------------------------------

    def _pattern(self, pattern: Pattern | None, value: Value | None, state: _State, reader: Node) -> Iterator[_State]:
        if pattern is None or value is None:
            omitted = isinstance(pattern, Var) and pattern.optional and pattern.name not in state.tensors
            if value is None and (pattern is None or omitted):
                yield state
            else:
                self._fail(state, reader, "an optional operand is passed in one and not in the other")
        elif isinstance(pattern, Var):
            bound = state.tensors.get(pattern.name, value)
            if bound is value:
                tensors = {**state.tensors, pattern.name: value}
                yield state._replace(tensors=tensors, leaves=state.leaves + 1)
            else:
                message = f"`{pattern.name}` occurs twice in the pattern, but these are two values"
                self._fail(state, reader, message)
        elif isinstance(pattern, (Number, Scalar)):
            yield from self._scalar(pattern, value, state, reader)
        elif value.node is None or value.node.op is None:
            self._fail(state, reader, f"the pattern calls `{pattern.op}` where `{value.name}` is an input or a weight")
        elif pattern.names and pattern.names[0] in state.tensors:
            if state.tensors[pattern.names[pattern.result]] is value:
                yield state
            else:
                self._fail(state, value.node, f"this is not `{pattern.names[pattern.result]}`")
        elif value.index != pattern.result:
            self._fail(
                state, value.node, f"the pattern takes result {pattern.result}, but this is result {value.index}"
            )
        else:
            yield from self._call(pattern, value.node, state)

    def _scalar(self, pattern: Number | Scalar, value: Value, state: _State, reader: Node) -> Iterator[_State]:
        number = _number(value)
        same_shape = any(
            v is not value and v is not None and v.type.shape == reader.output.type.shape for v in reader.inputs
        )
        if number is None or (value.type.rank and not same_shape):
            wanted = f"`{pattern.name}`, a number," if isinstance(pattern, Scalar) else f"{pattern.value:g}"
            self._fail(state, reader, f"the pattern has {wanted} where this is no constant")
        elif isinstance(pattern, Scalar):
            bound = state.statics.get(pattern.name, number)
            if _close(number, bound, value.type.dtype):
                yield state._replace(statics={**state.statics, pattern.name: bound}, leaves=state.leaves + 1)
            else:
                self._fail(state, reader, f"`{pattern.name}` is {bound:g}, but {number:g} here", close=True)
        elif _close(number, pattern.value, value.type.dtype):
            yield state._replace(leaves=state.leaves + 1)
        else:
            self._fail(state, reader, f"the pattern has {pattern.value:g} where this is {number:g}", close=True)

    def _call(self, pattern: Call, node: Node, state: _State) -> Iterator[_State]:
        if node.op.qualified != pattern.op:
            self._fail(state, node, f"the pattern calls `{pattern.op}` where this is `{node.op.qualified}`")
            return
        if len(node.inputs) != len(pattern.inputs):
            self._fail(
                state, node, f"`{pattern.op}` has {len(node.inputs)} operands, in the pattern {len(pattern.inputs)}"
            )
            return
        statics = self._attributes(pattern, node, state)
        if statics is None:
            return
        if pattern.names and len(pattern.names) != len(node.outputs):
            self._fail(state, node, f"this has {len(node.outputs)} results, in the pattern {len(pattern.names)}")
            return
        state = state._replace(statics=statics, nodes=(*state.nodes, node))
        orders = [pattern.inputs]
        if has(node, Trait.COMMUTES) and pattern.inputs[0] != pattern.inputs[1]:
            orders.append(pattern.inputs[::-1])
        for inputs in orders:
            for found in self._operands(inputs, node.inputs, state, node):
                named = dict(zip(pattern.names, node.outputs, strict=False))
                yield found._replace(tensors={**found.tensors, **named}) if named else found

    def _operands(
        self, patterns: Sequence[Pattern | None], values: Sequence[Value | None], state: _State, node: Node
    ) -> Iterator[_State]:
        if not patterns:
            yield state
            return
        for inner in self._pattern(patterns[0], values[0], state, node):
            yield from self._operands(patterns[1:], values[1:], inner, node)

    def _attributes(self, pattern: Call, node: Node, state: _State) -> dict[str, Any] | None:
        """Static parameters with those that this node binds; None when its attributes are others."""
        if not pattern.attrs and not node.attrs:
            return state.statics
        statics = dict(state.statics)
        mentioned: dict[str, Any] = {}
        for name, wanted in pattern.attrs:
            if not isinstance(wanted, Static):
                mentioned[name] = freeze(wanted)
                continue
            value = self._as_declared(wanted.name, node.attrs.get(name))
            if not same_attr(statics.setdefault(wanted.name, value), value):
                message = f"`{name}` is {value}, but `{wanted.name}` is {statics[wanted.name]} elsewhere"
                self._fail(state, node, message, close=True)
                return None
            mentioned[name] = value
        # What the pattern does not mention has its default. Inference fills that in, and counts axes from the front.
        try:
            infer_within(node.graph, node.op, node.inputs, mentioned, span=node.span)
        except Diagnostic as error:
            self._fail(state, node, error.message, close=True)
            return None
        for name, value in mentioned.items():
            same = same_attr(node.attrs.get(name), value)
            if not same and not (name == "equation" and _same_equation(node.attrs[name], value)):
                self._fail(state, node, f"`{name}` is {node.attrs.get(name)}, in the pattern {value}", close=True)
                return None
        return statics

    def _as_declared(self, name: str, value: Any) -> Any:
        """A list of one axis is that axis, to a rule that declares ``axis: int``."""
        declared = self.rule.signature.static(name) if self.rule.signature is not None else None
        single = isinstance(value, tuple) and len(value) == 1 and declared is not None and declared.kind == "int"
        return value[0] if single else value

    # The whole ---------------------------------------------------------------------------------------------------

    def _escapes(self, state: _State) -> bool:
        """Whether a result inside the match is read elsewhere too, so that it has to be computed anyway."""
        root, inside = state.nodes[0], set(state.nodes)
        stays = {state.tensors[name].node for name in self.rule.kept}
        pending = list(stays)
        while pending:
            node = pending.pop()
            feeding = {v.node for v in node.inputs if v is not None and v.node in inside} if node is not None else set()
            pending += feeding - stays
            stays |= feeding
        for node in inside - {root} - stays:
            # What only makes or moves elements may be read elsewhere too: leaving it where it is costs nothing twice.
            if has(node, Trait.MAKES) or has(node, Trait.MOVES) or node.op.qualified == "cast" or _of_condition(node):
                continue
            if any(user not in inside for value in node.outputs for user in value.users):
                self._fail(state, node, f"`{node.op.name}` is read elsewhere too")
                return True
        return False

    def _declared(self, state: _State, match: Match) -> bool:
        signature = self.rule.signature
        if signature is None:
            return True
        types = [match.tensors[n].type if n in match.tensors else None for n, _, _ in signature.leaves()]
        statics = {n: v for n, v in match.statics.items() if signature.static(n) is not None}
        try:
            match.bindings = signature.unify(types, statics, span=match.root.span)
        except Diagnostic as error:
            self._fail(state, match.root, error.message)
            return False
        return True

    def _admitted(self, state: _State, match: Match) -> bool:
        answer = True if self.rule.where is None else self.rule.where(match)
        if answer is True:
            return True
        self._fail(state, match.root, answer if isinstance(answer, str) else "its `where` does not hold")
        return False

    def _fail(self, state: _State, node: Node, reason: str, close: bool = False) -> None:
        """Keep the failure that came furthest; among equals one that found the right op with something wrong about it."""
        rank = (len(state.nodes), close, state.leaves)
        if rank > self._rank:
            self._rank = rank
            self.nearest = NearMiss(len(state.nodes), self.size, node.span, reason)


def _size(pattern: Pattern | None) -> int:
    """How many nodes a pattern stands for: a named call counts once."""
    named: set[tuple[str, ...]] = set()

    def count(at: Pattern | None) -> int:
        if not isinstance(at, Call) or at.names in named:
            return 0
        if at.names:
            named.add(at.names)
        return 1 + sum(map(count, at.inputs))

    return count(pattern)


def depth(pattern: Pattern | None) -> int:
    return 1 + max(map(depth, pattern.inputs), default=0) if isinstance(pattern, Call) else 0


def _number(value: Value) -> float | None:
    """The number that every element of a value is, when it is written in the model; else None."""
    node = value.node
    if node is None or node.op is None:
        return None
    name, source = node.op.qualified, node.inputs[0] if len(node.inputs) == 1 else None
    if source is not None and (has(node, Trait.MOVES) or name == "cast"):
        return None if source.type.dtype.kind != value.type.dtype.kind else _number(source)
    if not has(node, Trait.HOLDS):
        return None
    number = node.attrs["value"]
    while isinstance(number, tuple):
        if not number or any(not same_attr(item, number[0]) for item in number):
            return None
        number = number[0]
    return None if isinstance(number, Dim) else float(number)


def _close(number: float, wanted: float, dtype: DType) -> bool:
    # -0 is another number than 0: `1 / x` tells them apart.
    return (
        same_attr(number, float(wanted))
        or 0 < abs(number - wanted) <= _ROUNDING.get(dtype.name, 0.0) * abs(wanted) < math.inf
    )


def _same_equation(a: str, b: str) -> bool:
    """Whether two einsum equations differ in the names of the axes only."""

    def numbered(equation: str) -> list[list[int]]:
        terms, out = parse_einsum(equation)
        names = list(dict.fromkeys(name for term in terms for name in term))
        return [[names.index(name) for name in term] for term in (*terms, out)]

    return numbered(a) == numbered(b)


# Explaining ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Why:
    """Where a rule matches, and if nowhere, what came closest."""

    rule: str
    matches: tuple[Span | None, ...]
    nearest: NearMiss | None

    def __str__(self) -> str:
        if self.matches:
            shown = ", ".join(str(span) if span is not None else "an unplaced node" for span in self.matches)
            return f"`{self.rule}` matches {len(self.matches)} time(s): {shown}"
        return f"`{self.rule}` matches nowhere; {self.nearest}"


def why(graph: Graph, rule: Rule) -> Why:
    """Why a rule fires, or does not: ``tessera show --why RULE``."""
    matcher = Matcher(rule)
    roots = [node for node in graph.nodes() if node.op.qualified == rule.pattern.op]
    found = tuple(node.span for node in roots if matcher.match(node) is not None)
    nearest = matcher.nearest or NearMiss(0, matcher.size, None, f"the model has no `{rule.pattern.op}`")
    return Why(rule.name, found, None if found else nearest)


def _of_condition(node: Node, depth: int = 3) -> bool:
    """Whether a node does arithmetic with a condition and numbers alone, `(1 - mask) * c`, as blocks that share a mask share it."""

    def plain(value: Value | None) -> bool:
        made = value.node if value is not None else None
        if made is None:
            return value is None
        if made.op.qualified == "cast":
            return made.inputs[0] is not None and made.inputs[0].type.dtype == boolean
        return made.op.qualified == "constant" or _of_condition(made, depth - 1)

    return depth > 0 and node.op.family == "elementwise" and all(map(plain, node.inputs))
