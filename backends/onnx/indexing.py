"""Gathering and scattering by index, and segments.

ONNX Runtime's ``ScatterND`` with a reduction runs over the indices in parallel without locking: equal indices race, and sums
come out wrong now and then (seen with 1.32 from about 1000 rows of 512 on). So sums are made by a ``MatMul`` of zeros and ones
where there are few indices or the target is short, and else by ``ScatterElements``, which is sequential.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...ir.dims.dim import Dim, as_dim, const, product, prove_ge
from ...ir.types import DType, bf16, f16, f32, f64, i64
from .registry import lower
from .shape import operand

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Node
    from .emit import Emitter

# Up to so many indices, or rows of the target, a MatMul is the faster form (measured: 2x at 64, equal at 256 to 512).
FEW = 256


@lower("gather")
def gather(e: Emitter, node: Node, x: ox.Value, index: ox.Value) -> ox.Value:
    axis, shape, places = node.attrs["axis"], operand(node).shape, operand(node, 1).shape
    if axis and axis == len(shape) - 2 and shape[-1] == places[-1] == 1 and shape[:axis] == places[:axis]:
        # One column: the faster form (measured: 0.6x).
        return e.op("GatherND", x, e.cast(index, i64), batch_dims=axis)
    return e.op("GatherElements", x, index, axis=axis)


@lower("take")
def take(e: Emitter, node: Node, x: ox.Value, index: ox.Value) -> ox.Value:
    axis, batch = node.attrs["axis"], node.attrs["batch"]
    if batch == 0:
        return e.op("Gather", x, index, axis=axis)
    picked = operand(node, 1).rank - batch
    if axis > batch:
        # GatherND wants the indexed axis right behind the batch axes.
        rank = operand(node).rank
        x = e.transpose(x, [*range(batch), axis, *range(batch, axis), *range(axis + 1, rank)])
    y = e.op("GatherND", x, e.unsqueeze(e.cast(index, i64), batch + picked), batch_dims=batch)
    if axis > batch and picked:
        moved = [*range(batch + picked, axis + picked), *range(batch, batch + picked)]
        y = e.transpose(y, [*range(batch), *moved, *range(axis + picked, node.output.type.rank)])
    return y


# Scatter -------------------------------------------------------------------------------------------------------------


def _put(
    e: Emitter, x: ox.Value, target: Sequence[Dim], index: ox.Value, places: Sequence[Dim], updates: ox.Value, batch: int
) -> ox.Value:
    """``x`` [batch…, N, rest…] with the rows at ``index`` [batch…, K…] replaced by ``updates`` [batch…, K…, rest…]."""
    index, rest = e.cast(index, i64), tuple(target[batch + 1 :])
    if all(d == 1 for d in rest) and len(places) == batch + 1:
        index = e.unsqueeze(index, *range(batch + 1, len(target)))
        return e.op("ScatterElements", x, index, updates, axis=batch)
    count, k, n = product(target[:batch]), product(places[batch:]), target[batch]
    joined = (count, n, *rest) if batch else (n, *rest)
    changed = (count, k) if batch else (k,)
    rows = e.unsqueeze(e.reshape(index, places, changed), len(changed))
    if batch:
        # Where in the batch, in front of each index.
        numbers, shape = e.iota(count), e.shape((count, k, const(1)))
        make = lambda: e.root.op("Expand", e.root.unsqueeze(numbers, 1, 2), shape)  # noqa: E731
        rows = e.op("Concat", e.root.remember(("batch", shape), make), rows, axis=-1)
    x, updates = e.reshape(x, target, joined), e.reshape(updates, (*places, *rest), (*changed, *rest))
    return e.reshape(e.op("ScatterND", x, rows, updates), joined, target)


@lower("scatter_set")
def scatter_set(e: Emitter, node: Node, x: ox.Value, index: ox.Value, updates: ox.Value) -> ox.Value:
    return _put(e, x, operand(node).shape, index, operand(node, 1).shape, updates, node.attrs["batch"])


@lower("scatter_add", "scatter_min", "scatter_max")
def scatter(e: Emitter, node: Node, x: ox.Value, index: ox.Value, updates: ox.Value) -> ox.Value:
    batch, target = node.attrs["batch"], operand(node)
    how = node.op.name.removeprefix("scatter_")
    return combine(e, x, target.shape, target.dtype, index, operand(node, 1).shape, updates, batch, how)


def combine(
    e: Emitter, x: ox.Value, target: Sequence[Dim], dtype: DType, index: ox.Value, places: Sequence[Dim], updates: ox.Value,
    batch: int, how: str,
) -> ox.Value:  # fmt: skip
    """``x`` [batch…, N, rest…] with ``updates`` [batch…, K…, rest…] added (or their min, max taken) at ``index`` [batch…, K…]."""
    lead, n, rest = tuple(target[:batch]), target[batch], tuple(target[batch + 1 :])
    # Everything as [B, N, D] and [B, K]; halves in f32, for which there is a kernel and which sums better.
    count, k, width = product(lead), product(places[batch:]), product(rest)
    wide = f32 if dtype in (f16, bf16) else dtype
    index = e.reshape(e.cast(index, i64), places, (*lead, k))
    if how == "add" and dtype in (f16, bf16, f32, f64) and width != 1:
        few, short = (d.value is not None and d.value <= FEW for d in (k, n))
        flat = e.reshape(e.cast(updates, wide), (*places, *rest), (*lead, k, width))
        if few and not (short and prove_ge(k, n + 1)):
            # Every row that changes gets all of its updates at once; where an index occurs twice, both write the same row.
            column = e.unsqueeze(index, batch + 1)
            same = e.cast(e.op("Equal", column, e.transpose(column, [*range(batch), batch + 1, batch])), wide)
            flat_x = e.reshape(x, target, (*lead, n, width))
            rows = e.cast(e.op("GatherND", flat_x, column, batch_dims=batch), wide)
            rows = e.cast(e.op("Add", rows, e.op("MatMul", same, flat)), dtype)
            y = _put(e, flat_x, (*lead, n, width), index, (*lead, k), rows, batch)
            return e.reshape(y, (*lead, n, width), target)
        if short:
            here = e.cast(e.op("Equal", e.unsqueeze(index, batch + 1), e.iota(n)), wide)
            sums = e.op("MatMul", e.transpose(here, [*range(batch), batch + 1, batch]), flat)
            sums = e.reshape(sums, (*lead, n, width), target)
            return e.cast(e.op("Add", e.cast(x, wide), sums), dtype)
    index = e.reshape(index, (*lead, k), (count, k))
    shape: tuple[Dim, ...] = (count, n, width) if rest else (count, n)
    change: tuple[Dim, ...] = (count, k, width) if rest else (count, k)
    flat = e.reshape(e.cast(updates, wide), (*places, *rest), change)
    if rest:
        index = e.expand(e.unsqueeze(index, 2), (count, k, const(1)), change)
    base = e.reshape(e.cast(x, wide), target, shape)
    y = e.op("ScatterElements", base, index, flat, axis=1, reduction=how)
    return e.cast(e.reshape(y, shape, target), dtype)


# Segments ------------------------------------------------------------------------------------------------------------


class _Segments:
    """The operands of a segment op: x [batch…, N, rest…] and ids [batch…, N]."""

    def __init__(self, e: Emitter, node: Node, x: ox.Value, ids: ox.Value) -> None:
        self.e, self.ids = e, ids
        self.given, self.places = operand(node), operand(node, 1).shape
        self.batch = len(self.places) - 1
        self.rest = self.given.shape[len(self.places) :]
        self.shape = (*self.places[:-1], as_dim(node.attrs["segments"]), *self.rest)
        self.wide = f32 if self.given.dtype in (f16, bf16) else self.given.dtype
        self.x = e.cast(x, self.wide)

    def sum(self, x: ox.Value) -> ox.Value:
        start = self.e.full(self.shape, 0, self.wide)
        return combine(self.e, start, self.shape, self.wide, self.ids, self.places, x, self.batch, "add")

    def max(self) -> ox.Value:
        start = self.e.full(self.shape, float("-inf"), self.wide)
        return combine(self.e, start, self.shape, self.wide, self.ids, self.places, self.x, self.batch, "max")

    def counts(self) -> ox.Value:
        """How many elements each segment has, ``[batch…, segments, 1…]``."""
        e, shape = self.e, self.shape[: len(self.places)]
        ones, start = e.full(self.places, 1, self.wide), e.full(shape, 0, self.wide)
        counts = combine(e, start, shape, self.wide, self.ids, self.places, ones, self.batch, "add")
        return e.unsqueeze(counts, *range(len(shape), len(self.shape)))

    def spread(self, y: ox.Value) -> ox.Value:
        """Each segment's value at its elements."""
        if self.batch == 0:
            return self.e.op("Gather", y, self.ids, axis=0)
        return self.e.op("GatherND", y, self.e.unsqueeze(self.e.cast(self.ids, i64), -1), batch_dims=self.batch)

    def done(self, y: ox.Value) -> ox.Value:
        return self.e.cast(y, self.given.dtype)


@lower("segment_sum")
def segment_sum(e: Emitter, node: Node, x: ox.Value, ids: ox.Value) -> ox.Value:
    s = _Segments(e, node, x, ids)
    return s.done(s.sum(s.x))


@lower("segment_mean")
def segment_mean(e: Emitter, node: Node, x: ox.Value, ids: ox.Value) -> ox.Value:
    s = _Segments(e, node, x, ids)
    return s.done(e.op("Div", s.sum(s.x), e.op("Max", s.counts(), e.constant(1, s.wide))))


@lower("segment_max")
def segment_max(e: Emitter, node: Node, x: ox.Value, ids: ox.Value) -> ox.Value:
    s = _Segments(e, node, x, ids)
    zero = e.constant(0, s.wide)
    return s.done(e.op("Where", e.op("Greater", s.counts(), zero), s.max(), zero))


@lower("segment_softmax")
def segment_softmax(e: Emitter, node: Node, x: ox.Value, ids: ox.Value) -> ox.Value:
    s = _Segments(e, node, x, ids)
    powers = e.op("Exp", e.op("Sub", s.x, s.spread(s.max())))
    return s.done(e.op("Div", powers, s.spread(s.sum(powers))))
