"""Following shrinking token streams through a graph: what each op behind a merge becomes.

One walk in topological order. A node that reads merged tokens has its other operands carried to the same stage; a sum
over tokens weighs each by its size, attention is biased by log(size), and types are inferred anew. What cannot follow
is an error with its place, or is given unmerged tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.analysis.along import Along, Bodies, along
from ...ir.analysis.axes import Axes, Axis
from ...ir.analysis.cost import ATTENTION
from ...ir.builder import Builder, reinfer
from ...ir.diagnostics import Diagnostic, Note
from ...ir.dims.dim import as_dim
from ...ir.graph import Graph, Node, Value
from ...ir.ops.contraction import parse_einsum
from ...ir.types import TensorType, f32
from ..tidy.inline import instantiate, splice
from . import streams as flow
from .carry import CannotFollow, Carrier, Targets, plain, resized, shown, with_size
from .streams import Origins, Stream

MEAN_POOL = "std.pooling.mean_pool"


class Follower(Carrier):
    """Brings everything in a graph to the stages of the tokens that it meets.

    Args:
        protect: how many first tokens stay where they are.
        proportional: whether attention counts a merged key as often as its size says.
        restore: whether what cannot follow gets unmerged tokens instead of being an error.
    """

    def __init__(
        self, graph: Graph, axes: Axes, streams: dict[Axis, Stream], origins: Origins, *, protect: int,
        proportional: bool, restore: bool,
    ) -> None:  # fmt: skip
        super().__init__(graph, axes, streams, origins)
        self.protect, self.proportional, self.restore = protect, proportional, restore
        self.restored: list[Node] = []
        self._bodies = Bodies()

    # Walking -----------------------------------------------------------------------------------------------------

    def walk(self, behind: Callable[[Node], None]) -> None:
        """Visit every node that was there at the start; ``behind`` is called after each, and may merge tokens."""
        for node in list(self.graph.nodes()):
            self.visit(node)
            behind(node)

    def visit(self, node: Node) -> None:
        """Bring one node's operands to one stage and infer its types anew."""
        targets = self._targets(node)
        if not targets:
            return
        operands, attrs = list(node.inputs), dict(node.attrs)
        try:
            self._follow(node, targets)
        except CannotFollow as problem:
            if not self.restore:
                raise self._error(node, problem, targets) from None
            # What was carried before it failed would be restored less exactly than what it was carried from.
            node.attrs = attrs
            for i, value in enumerate(operands):
                node.set_input(i, value)
            self._unmerge_operands(node)

    def _targets(self, node: Node) -> Targets:
        """The stages > 0 at which the node meets streams."""
        targets: Targets = {}
        for value in node.inputs:
            for _, stream, _ in self.token_axes(value) if value is not None else ():
                stage = self.stage(value, stream)  # type: ignore[arg-type]
                if stage > targets.get(id(stream), (stream, 0))[1]:
                    targets[id(stream)] = (stream, stage)
        return targets

    def _follow(self, node: Node, targets: Targets) -> None:
        def axes_of(value: Value) -> list[int]:
            return [axis for axis, stream, _ in self.token_axes(value) if id(stream) in targets]

        if node.op.qualified == ATTENTION:
            self._attention(node, targets)
            return
        kind = along(node, axes_of, self.axes)
        if kind is Along.MIXED:
            raise CannotFollow(f"`{node.op.name}` depends on the places of the tokens, which merging changes")
        if kind is Along.CUT:
            self._check_cut(node)
        inside = kind is Along.INSIDE and node.op.qualified != MEAN_POOL
        if inside and not self._bodies.each(node, self._original_types(node), axes_of):
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

    def _retype(self, node: Node, targets: Targets) -> None:
        self._patch_shape(node, targets)
        try:
            reinfer(node)
        except Diagnostic as error:
            raise self._error(
                node, CannotFollow(f"`{node.op.name}` does not fit merged tokens: {error.message}"), targets
            ) from error
        for value in node.outputs:
            for _, stream, _ in self.token_axes(value):
                if id(stream) in targets:
                    self._stage[value, id(stream)] = targets[id(stream)][1]

    def _patch_shape(self, node: Node, targets: Targets) -> None:
        """Token counts that an op has in its attributes."""
        for axis, stream, first in self.token_axes(node.output):
            if id(stream) not in targets:
                continue
            count = stream.counts[targets[id(stream)][1]] - first
            if node.op.qualified in ("reshape", "expand"):
                node.attrs["shape"] = with_size(node.attrs["shape"], axis, count)
            elif node.op.qualified == "rearrange" and node.attrs["axes"]:
                name = node.attrs["pattern"].partition("->")[2].replace("(", " ( ").split()
                if "(" not in name[: axis + 1]:
                    node.attrs["axes"] = tuple(
                        (n, plain(count) if n == name[axis] else d) for n, d in node.attrs["axes"]
                    )

    # What sums, cuts and attention become ---------------------------------------------------------------------------

    def _weights(self, value: Value, targets: Targets, axis: int, builder: Builder) -> Value:
        """The sizes of the tokens along one axis of ``value``, to multiply it with."""
        stream, first = next((s, f) for a, s, f in self.token_axes(value) if a == axis)
        size = flow.vector(stream, targets[id(stream)][1], "size", first, builder)
        batch = self.batch(value, stream, axis)
        if batch is None and stream.batch_size != 1:
            raise CannotFollow(f"{shown(value)} has no batch axis, but sizes differ within a batch")
        size = flow.spread(size, value.type.rank, axis, batch, builder)
        return size if value.type.dtype == f32 else builder.op("cast", size, dtype=value.type.dtype)

    def _weighted(self, node: Node, targets: Targets) -> Node:
        """A sum over tokens counts each as often as its size says; a mean is divided by the sizes."""
        builder = Builder(self.graph).before(node)
        if node.op.qualified in ("einsum", "matmul"):
            self._weighted_contraction(node, targets, builder)
            return node
        value = node.inputs[0]
        assert value is not None
        summed = [a for a, s, _ in self.token_axes(value) if id(s) in targets and a in node.attrs["axis"]]
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
            tokens = [(v, a) for v, a in rows if any(x == a and id(s) in targets for x, s, _ in self.token_axes(v))]
            if tokens:
                value, axis = min(tokens, key=lambda row: row[0].type.rank)
                product = builder.op("mul", value, self._weights(value, targets, axis, builder))
                self._same_axes(value, product, targets)
                for i, operand in enumerate(node.inputs):
                    if operand is value:
                        node.set_input(i, product)
                        break

    def _check_cut(self, node: Node) -> None:
        """Only the protected first tokens keep their places: they may be taken, or all but they."""
        value, axis = node.inputs[0], node.attrs["axis"]
        assert value is not None
        first = next(f for a, _, f in self.token_axes(value) if a == axis)
        start, stop, step = (node.attrs[name] for name in ("start", "stop", "step"))
        kept = self.protect - first
        reach = start if stop is None else stop
        if step == 1 and isinstance(start, int) and isinstance(reach, int) and start >= 0 and 0 <= reach <= kept:
            return
        ends = ["" if at is None or at == 0 else str(at) for at in (start, stop)]
        one = stop is not None and as_dim(stop) == as_dim(start) + 1
        taken = f"number {start}" if one else f"[{':'.join(ends)}]"
        fixed = ("no token keeps its place", "only the first token keeps its place", "only the first two keep theirs")[
            kept
        ]
        tokens = ("class token", "class and distillation tokens", "")[self.protect]
        near = tokens and start in (self.protect, self.protect + 1)
        help = f"protect={self.protect + 1} keeps the {tokens} in front" if near else None
        raise CannotFollow(
            f"this takes tokens {taken} by place, but {fixed} when tokens are merged with protect={self.protect}", help
        )

    def _mean_pool(self, node: Node, targets: Targets) -> None:
        """`mean_pool(x, weight)`: each token weighs as much as the tokens in it."""
        x, weight = node.inputs
        assert x is not None
        stream, first = next((s, f) for axis, s, f in self.token_axes(x) if axis == 1)
        if weight is not None and self._is_padding(weight, stream):
            node.set_input(1, None)
        self.align(node, targets)
        builder = Builder(self.graph).before(node)
        size = flow.vector(stream, targets[id(stream)][1], "size", first, builder)
        size = size if x.type.dtype == f32 else builder.op("cast", size, dtype=x.type.dtype)
        weight = node.inputs[1]
        node.set_input(1, size if weight is None else builder.op("mul", weight, size))

    def _is_padding(self, value: Value, stream: Stream) -> bool:
        """Whether a value is the padding mask, in whatever shape and dtype."""
        return stream.padding is not None and flow.trace_mask(value, self.origins, stream) == stream.padding

    def _attention(self, node: Node, targets: Targets) -> None:
        if node.attrs["causal"]:
            raise CannotFollow("causal attention needs tokens in their places")
        if node.attrs["row"] is not None and not 0 <= node.attrs["row"] < self.protect:
            raise CannotFollow(f"the attention of query number {node.attrs['row']} is asked for by place")
        k, mask = node.inputs[1], node.inputs[3]
        assert k is not None
        keys = next(((s, f) for axis, s, f in self.token_axes(k) if axis == 2 and id(s) in targets), None)
        builder = Builder(self.graph).before(node)
        if mask is not None and keys is not None and self._is_padding(mask, keys[0]):
            # What it says is in the sizes.
            node.set_input(3, None)
        self.align(node, targets)
        if keys is not None:
            stream, first = keys
            stage = targets[id(stream)][1]
            if first:
                raise CannotFollow("attention over a part of merged tokens is not supported")
            if self.proportional:
                sizes = flow.log_size(stream, stage, k.type.dtype, builder)
                bias = node.inputs[4]
                node.set_input(4, sizes if bias is None else builder.op("add", bias, sizes))
            elif stream.padding is not None and node.inputs[3] is None:
                node.set_input(3, flow.valid_mask(stream, stage, builder))
        self._retype(node, targets)

    def _inline(self, node: Node) -> None:
        """A composite that does more than walk its tokens: its body is followed instead.

        The body is made for the original tokens, so that what it makes of their number (``iota(T)``) means places.
        """
        body = instantiate(node, self._original_types(node))
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

    def _original_types(self, node: Node) -> list[TensorType | None]:
        """The operand types before any token was merged."""
        types: list[TensorType | None] = []
        for value in node.inputs:
            shape = None if value is None else value.type.shape
            for axis, stream, first in self.token_axes(value) if value is not None else ():
                shape = resized(shape, axis, stream.length - first)  # type: ignore[arg-type]
            types.append(None if value is None else TensorType(value.type.dtype, shape))  # type: ignore[arg-type]
        return types

    # Going back ---------------------------------------------------------------------------------------------------

    def _unmerge_operands(self, node: Node) -> None:
        builder = Builder(self.graph).before(node)
        for i, value in enumerate(node.inputs):
            if value is not None:
                node.set_input(i, self.unmerged(value, builder))
        self.restored.append(node)

    # Bookkeeping --------------------------------------------------------------------------------------------------

    def _same_axes(self, old: Value, new: Value, targets: Targets) -> None:
        """``new`` has the axes of ``old``: it was made by an elementwise op."""
        for axis in range(old.type.rank):
            self.axes.link(old, axis, new, axis)
        for stream, stage in targets.values():
            self._stage[new, id(stream)] = stage

    def _replace(self, node: Node, by: Node) -> None:
        self.origins.add(by)
        for old, new in zip(node.outputs, by.outputs, strict=True):
            new.name = old.name
            for axis in range(old.type.rank):
                self.axes.join((old, axis), (new, axis))
            old.replace_uses(new)
        self.graph.remove(node)

    def _error(self, node: Node, problem: CannotFollow, targets: Targets) -> Diagnostic:
        stream, stage = next(iter(targets.values()))
        return Diagnostic(
            "E0710",
            f"{problem}",
            node.span,
            notes=[Note("the tokens were merged behind this attention", stream.merged_at[stage - 1].span)],
            help=problem.help
            or "give it unmerged tokens with `restore=true`, or merge only in blocks behind it with `blocks=[…]`",
        )
