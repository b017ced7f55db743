"""Following shrinking token streams through a graph: what each op behind a merge becomes.

One walk in topological order. A node that reads merged tokens has its other operands carried to the same stage; a sum
over tokens weighs each by its size, attention is biased by log(size), and types are inferred anew. What cannot follow
is an error with its place, or is given unmerged tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.analysis.along import Along, Bodies, along
from ...ir.analysis.axes import Axes
from ...ir.analysis.cost import ATTENTION
from ...ir.builder import Builder, reinfer
from ...ir.diagnostics import Diagnostic, Note
from ...ir.graph import Graph, Node, Value
from ...ir.inlining import instantiate, splice
from ...ir.op import Trait, has
from ...ir.ops.contraction import parse_einsum
from ...ir.types import TensorType, f32
from . import stage as flow
from .carry import CannotFollow, Targets, resized, shown
from .ends import check_cut
from .put import Putter, picks
from .stream import Origins, Stage, Stream, facts_of, is_visibility, map_leaves

MEAN_POOL = "std.pooling.mean_pool"
# Attention, and its statistics over some of the queries, which read masks and biases as it does.
ATTENDS = frozenset({ATTENTION, "std.attention.received", "std.attention.last_row"})


class Follower(Putter):
    """Brings everything in a graph to the stages of the tokens that it meets.

    Args:
        proportional: whether attention counts a merged key as often as its size says.
        restore: whether what cannot follow gets unmerged tokens instead of being an error.
        fit: makes a reduction that was in the graph already fit the fewer tokens of the stage that it meets.
    """

    def __init__(
        self, graph: Graph, axes: Axes, streams: list[Stream], origins: Origins, *, proportional: bool, restore: bool,
        fit: Callable[[Node, Stage], None],
    ) -> None:  # fmt: skip
        super().__init__(graph, axes, streams, origins)
        self.proportional, self.restore, self._fit = proportional, restore, fit
        self._bodies, self._puts = Bodies(), {}
        self._reductions = {s.node: (stream, s) for stream in streams for s in stream.stages if s.node is not None}
        self._counts = {stage: stage.count for stream in streams for stage in stream.stages}

    # Walking -----------------------------------------------------------------------------------------------------

    def walk(self, behind: Callable[[Node], None]) -> None:
        """Visit every node that was there at the start; ``behind`` is called after each, and may merge tokens."""
        for node in list(self.graph.nodes()):
            self.visit(node)
            behind(node)

    def visit(self, node: Node) -> None:
        """Bring one node's operands to one stage and infer its types anew."""
        self.give_back(node)
        targets = self._targets(node)
        if node in self._reductions:
            self._reduce_again(node, targets)
            return
        if node in self._puts:
            self._retype(node, self.shorten(node))
            return
        if not targets:
            return
        operands, attrs = list(node.inputs), dict(node.attrs)
        try:
            self._follow(node, targets)
        except CannotFollow as problem:
            if not self.restore or any(given.node is not None for given in targets):
                raise self._error(node, problem, targets) from None
            # What was carried before it failed would be restored less exactly than what it was carried from.
            node.attrs = attrs
            for i, value in enumerate(operands):
                node.set_input(i, value)
            self.unmerge_operands(node)

    def _targets(self, node: Node) -> Targets:
        """The stages at which the node meets streams, where they are not those that it was given."""
        targets: Targets = {}
        for value in node.inputs:
            for _, stream, _, given in self.token_axes(value) if value is not None else ():
                stage = self.axis_stage(value, stream, given)  # type: ignore[arg-type]
                if stage is not given or stage.resized:
                    so_far = targets.get(given, (stream, given))[1]
                    targets[given] = (stream, stream.later(stage, so_far))
            for given in self.origins.maps(value) if value is not None else ():
                owner = next((s for s in self.streams if given in self._counts and given in s.stages), None)
                if owner is None or self.is_feature(value, owner):  # type: ignore[arg-type]
                    continue
                # What is computed from a map that was there already belongs to what is left of its tokens now.
                indexes = picks(node) or node.op.family == "segment"
                now = given if map_leaves(node.op) is not None or indexes else self._now(owner, given)
                if given.resized or now is not given:
                    targets.setdefault(given, (owner, now))
        return targets

    def _now(self, stream: Stream, given: Stage) -> Stage:
        """The last stage that this pass put behind one that was there, in front of the next that was there."""
        if given not in (stream.stages[0], *stream.until(stream.current)):
            return given
        for stage in stream.between(given, stream.current):
            if stage in self._counts:
                break
            given = stage
        return given

    def _reduce_again(self, node: Node, targets: Targets) -> None:
        """A reduction that was there already: it meets the tokens that are left now, and removes as many as it did."""
        stream, stage = self._reductions[node]
        stream.meet(stage)
        if not targets:
            return
        self.align(node, targets)
        assert stage.parent is not None
        stage.parent = targets.get(stage.parent, (stream, stage.parent))[1]
        self._fit(node, stage.parent)
        reinfer(node)
        count = node.output.type.shape[1]
        stage.resized = count != stage.count
        stage.count, stage.facts = count, facts_of(node)

    def _follow(self, node: Node, targets: Targets) -> None:
        def axes_of(value: Value) -> list[int]:
            return [axis for axis, _, _, given in self.token_axes(value) if given in targets]

        if node.op.qualified in ATTENDS:
            self._attention(node, targets)
            return
        if self._reads_map(node, targets):
            self.align(node, targets)
            self._retype(node, targets)
            return
        if self.join(node, targets):
            self._retype(node, targets)
            return
        if not self.restore and self.put_later(node, targets):
            return
        kind = along(node, axes_of, self.axes)
        if kind is Along.MIXED:
            how = {"merged": "merging", "dropped": "dropping some"}[_said(targets)]
            raise CannotFollow(f"`{node.op.name}` depends on the places of the tokens, which {how} changes")
        if kind is Along.CUT:
            check_cut(self, node, targets)
        if kind is Along.EXTREME and any(s.padding is None and s.emptied(stage) for s, stage in targets.values()):
            raise CannotFollow(f"`{node.op.name}` over tokens meets padding, of which there was none before")
        inside = kind is Along.INSIDE and node.op.qualified != MEAN_POOL
        if inside and not self._bodies.each(node, self._given_types(node), axes_of):
            self._inline(node)
            return
        if node.op.qualified == MEAN_POOL:
            self._mean_pool(node, targets)
            self._retype(node, targets)
            return
        self.align(node, targets)
        if kind is Along.SUM:
            node = self._weighted(node, targets)
        self._retype(node, targets)

    def _reads_map(self, node: Node, targets: Targets) -> bool:
        """Whether a node follows as it is when it reads another token map: an op on the map, or an index that is made of it. One
        that chooses which keys are read chooses among those that are left."""
        if map_leaves(node.op) is not None or is_visibility(node.op):
            return True
        sums = node.op.family == "segment" and has(node, Trait.SCALES)
        if not (sums or picks(node)) or node.inputs[0] is None or node.inputs[1] is None:
            return False
        maps = self.origins.maps(node.inputs[1])
        if sums:
            return bool(maps) and self.origins.extensive(node.inputs[0])
        return any(given in maps for given in targets)

    def _retype(self, node: Node, targets: Targets) -> None:
        node.attrs |= self._patched(node, targets)
        try:
            reinfer(node)
        except Diagnostic as error:
            raise self._error(
                node, CannotFollow(f"`{node.op.name}` does not fit {_said(targets)} tokens: {error.message}"), targets
            ) from error
        for value in node.outputs:
            for _, stream, _, given in self.token_axes(value):
                self._axis_stage[value, given] = targets[given][1] if given in targets else given
                if given in targets:
                    self._stage[value, stream] = targets[given][1]

    # What sums, cuts and attention become ---------------------------------------------------------------------------

    def _weights(self, value: Value, targets: Targets, axis: int, builder: Builder) -> Value:
        """The sizes of the tokens along one axis of ``value``, to multiply it with."""
        stream, first, given = next((s, f, g) for a, s, f, g in self.token_axes(value) if a == axis)
        size = flow.vector(stream, targets[given][1], "size", first, builder)
        batch = self.batch(value, stream, axis)
        if batch is None and stream.batch_size != 1:
            raise CannotFollow(f"{shown(value)} has no batch axis, but sizes differ within a batch")
        size = flow.spread(size, value.type.rank, axis, batch, builder)
        return size if value.type.dtype == f32 else builder.op("cast", size, dtype=value.type.dtype)

    def _weighted(self, node: Node, targets: Targets) -> Node:
        """A sum over tokens counts each as often as its size says; a mean is divided by the sizes."""
        if not any(stream.weighs(stage) for stream, stage in targets.values()):
            return node
        builder = Builder(self.graph).before(node)
        if node.op.qualified in ("einsum", "matmul"):
            self._weighted_contraction(node, targets, builder)
            return node
        value = node.inputs[0]
        assert value is not None
        if self.origins.extensive(value):
            return node
        summed = [a for a, _, _, given in self.token_axes(value) if given in targets and a in node.attrs["axis"]]
        if len(summed) > 1:
            raise CannotFollow(f"{shown(value)} is summed over pairs of tokens")
        weights = self._weights(value, targets, summed[0], builder)
        if value.type.dtype.kind != "float":
            raise CannotFollow(f"{shown(value)} is summed over tokens as integers")
        product = builder.op("mul", value, weights)
        self._same_axes(value, product, targets)
        node.set_input(0, product)
        if node.op.qualified == "sum":
            return node
        # mean over tokens and others: the sum, divided by the sizes' sum and by how many others there are.
        keep = node.attrs["keepdims"]
        total = builder.op("sum", product, axis=node.attrs["axis"], keepdims=keep)
        count = builder.op("sum", weights, axis=node.attrs["axis"], keepdims=keep)
        count = builder.op("maximum", count, builder.constant(1.0, count.type.dtype))
        others = [value.type.shape[a] for a in node.attrs["axis"] if a not in summed]
        for other in others:
            factor = builder.op("cast", builder.dim_value(other), dtype=count.type.dtype)
            count = builder.op("mul", count, factor)
        mean = builder.op("div", total, count)
        made = mean.node
        assert made is not None
        self._replace(node, made)
        return made

    def _weighted_contraction(self, node: Node, targets: Targets, builder: Builder) -> None:
        values = [v for v in node.inputs if v is not None]
        if any(map(self.origins.extensive, values)):
            return
        if node.op.qualified == "matmul":
            rows = [(values[0], values[0].type.rank - 1), (values[1], values[1].type.rank - 2)]
            groups = {"k": rows}
        else:
            terms, out = parse_einsum(node.attrs["equation"])
            groups = {}
            for value, term in zip(values, terms, strict=True):
                for axis, name in enumerate(term):
                    if name not in out:
                        groups.setdefault(name, []).append((value, axis))
        for rows in groups.values():
            tokens = [(v, a) for v, a in rows if any(x == a and g in targets for x, _, _, g in self.token_axes(v))]
            if tokens:
                value, axis = min(tokens, key=lambda row: row[0].type.rank)
                product = builder.op("mul", value, self._weights(value, targets, axis, builder))
                self._same_axes(value, product, targets)
                for i, operand in enumerate(node.inputs):
                    if operand is value:
                        node.set_input(i, product)
                        break

    def _mean_pool(self, node: Node, targets: Targets) -> None:
        """`mean_pool(x, weight)`: each token weighs as much as the tokens in it."""
        x, weight = node.inputs
        assert x is not None
        stream, first, given = next((s, f, g) for axis, s, f, g in self.token_axes(x) if axis == 1)
        stage = targets[given][1]
        if weight is not None and self.is_padding(weight, stream):
            node.set_input(1, None)
        weighed = weight is not None and self.origins.extensive(weight)
        self.align(node, targets)
        if weighed or not stream.weighs(stage):
            return
        builder = Builder(self.graph).before(node)
        size = flow.vector(stream, stage, "size", first, builder)
        size = size if x.type.dtype == f32 else builder.op("cast", size, dtype=x.type.dtype)
        weight = node.inputs[1]
        node.set_input(1, size if weight is None else builder.op("mul", weight, size))

    def is_padding(self, value: Value, stream: Stream) -> bool:
        """Whether a value is the padding mask, in whatever shape and dtype."""
        return stream.padding is not None and flow.trace_mask(value, self.origins, stream) == stream.padding

    def _attention(self, node: Node, targets: Targets) -> None:
        k, mask, row = node.inputs[1], node.inputs[3], node.attrs.get("row")
        assert k is not None
        for stream, stage in targets.values():
            if node.attrs["causal"] and not all(
                s.facts.ordered and (s.joined or not s.facts.merged) for s in stream.until(stage)
            ):
                raise CannotFollow("causal attention needs tokens in their places")
            first, last = stream.kept(stage)
            if row is not None and not -last <= row < first:
                raise CannotFollow(f"the attention of query number {row} is asked for by place")
        keys = next(((s, f, g) for axis, s, f, g in self.token_axes(k) if axis == 2 and g in targets), None)
        builder = Builder(self.graph).before(node)
        if mask is not None and keys is not None and self.is_padding(mask, keys[0]):
            # What it says is in the sizes.
            node.set_input(3, None)
        self.align(node, targets)
        if keys is not None:
            stream, first, given = keys
            stage = targets[given][1]
            if first:
                raise CannotFollow("attention over a part of merged tokens is not supported")
            bias = node.inputs[4]
            if self.proportional and any(s.facts.merged for s in stream.until(stage)):
                if bias is None or not self._knows_sizes(bias, stage):
                    sizes = flow.log_size(stream, stage, k.type.dtype, builder)
                    node.set_input(4, sizes if bias is None else builder.op("add", bias, sizes))
            elif self._may_hide(node, stream, stage) and not (bias and self._knows_sizes(bias, stage)):
                valid, mask = flow.valid_mask(stream, stage, builder), node.inputs[3]
                node.set_input(3, valid if mask is None else builder.op("logical_and", mask, valid))
        self._retype(node, targets)

    def _may_hide(self, node: Node, stream: Stream, stage: Stage) -> bool:
        """Whether keys that are padding are to be hidden: those that the mask said, or those that reductions left empty."""
        return stream.emptied(stage) or (stream.padding is not None and node.inputs[3] is None)

    def _knows_sizes(self, bias: Value, stage: Stage) -> bool:
        """Whether a bias has the sizes of a stage in it: those that a pass before gave it, made anew."""
        pending = [bias]
        while pending:
            node = pending.pop().node
            if node is None or node.op is None:
                continue
            if stage.map.size in node.inputs:
                return True
            pending += [v for v in node.inputs if v is not None and stage in self.origins.maps(v)]
        return False

    def _inline(self, node: Node) -> None:
        """A composite that does more than walk its tokens: its body is followed instead.

        The body is made for the original tokens, so that what it makes of their number (``iota(T)``) means places.
        """
        body = instantiate(node, self._given_types(node))
        classes = Axes(body)
        copies = splice(node, body)
        for value, copy in copies.items():
            for axis in range(value.type.rank):
                first, at = classes.find(value, axis)
                self.axes.join((copies[first], at), (copy, axis))
        for old, inner in zip(node.outputs, body.outputs, strict=True):
            for axis in range(old.type.rank):
                self.axes.join((old, axis), (copies[inner], axis))
        self.find_views()
        for inside in list(body.nodes()):
            made = copies[inside.output].node
            assert made is not None
            self.origins.add(made)
            self.visit(made)

    def _given_types(self, node: Node) -> list[TensorType | None]:
        """The operand types before this pass merged any token."""
        types: list[TensorType | None] = []
        for value in node.inputs:
            shape = None if value is None else value.type.shape
            for axis, _, first, given in self.token_axes(value) if value is not None else ():
                shape = resized(shape, axis, self._counts[given] - first)  # type: ignore[arg-type]
            types.append(None if value is None else TensorType(value.type.dtype, shape))  # type: ignore[arg-type]
        return types

    # Bookkeeping --------------------------------------------------------------------------------------------------

    def _same_axes(self, old: Value, new: Value, targets: Targets) -> None:
        """``new`` has the axes of ``old``: it was made by an elementwise op."""
        for axis in range(old.type.rank):
            self.axes.link(old, axis, new, axis)
        for stream, stage in targets.values():
            self._stage[new, stream] = stage

    def _replace(self, node: Node, by: Node) -> None:
        self.origins.add(by)
        for old, new in zip(node.outputs, by.outputs, strict=True):
            new.name = old.name
            for axis in range(old.type.rank):
                self.axes.join((old, axis), (new, axis))
            old.replace_uses(new)
        self.graph.remove(node)

    def _error(self, node: Node, problem: CannotFollow, targets: Targets) -> Diagnostic:
        _, stage = next(iter(targets.values()))
        behind = stage.behind or stage.node
        return Diagnostic(
            "E0710",
            f"{problem}",
            node.span,
            notes=[
                Note(
                    f"the tokens were {_said(targets)} behind this attention",
                    behind.span if behind is not None else None,
                )
            ],
            help=problem.help
            or "give it a value for every token with `restore=true`, or leave the blocks before it out with `blocks=[…]`",
        )


def _said(targets: Targets) -> str:
    """What was done to the tokens that a node meets."""
    words = [stream.said(stage) for stream, stage in targets.values()]
    return "merged" if "merged" in words else "dropped"
