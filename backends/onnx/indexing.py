"""Gathering and scattering by index, and segments.

ONNX Runtime's ``ScatterND`` with a reduction runs over the indices in parallel without locking: equal indices race, and sums
come out wrong now and then (seen with 1.32 from about 1000 rows of 512 on). So what adds or compares goes through a one-hot
``MatMul`` where the target is short, and else through ``ScatterElements``, which is sequential.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...ir.dims import Dim, as_dim, const, product
from ...ir.types import DType, bf16, f16, f32, f64, i64
from .registry import lower
from .shape import operand

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Node
    from .emit import Emitter

# Up to this many rows of the target a one-hot MatMul is the faster form (measured: 2x at 98 rows, equal at about 400).
ONE_HOT_ROWS = 256


@lower("gather")
def gather(e: Emitter, node: Node, x: ox.Value, index: ox.Value) -> ox.Value:
    return e.op("GatherElements", x, index, axis=node.attrs["axis"])


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


def _rows(e: Emitter, index: ox.Value, shape: Sequence[Dim], batch: int, n: Dim) -> ox.Value:
    """Indices into the axis that joins the batch axes with the indexed one, ``i64[-1]``."""
    index = e.cast(index, i64)
    if batch:
        count = product(shape[:batch])
        key = ("offsets", e.scalar(count * n), e.scalar(n))
        offsets = e.root.remember(key, lambda: e.root.op("Range", e.root.constant(0, i64), key[1], key[2]))
        ones = [const(1)] * (len(shape) - batch)
        index = e.op("Add", index, e.reshape(offsets, (count,), (*shape[:batch], *ones)))
    return e.reshape(index, shape, (product(shape),))


@lower("scatter_set")
def scatter_set(e: Emitter, node: Node, x: ox.Value, index: ox.Value, updates: ox.Value) -> ox.Value:
    batch, target, places = node.attrs["batch"], operand(node), operand(node, 1).shape
    n, rest = target.shape[batch], target.shape[batch + 1 :]
    if not rest and len(places) == batch + 1:
        return e.op("ScatterElements", x, index, updates, axis=batch)
    rows = e.unsqueeze(_rows(e, index, places, batch, n), -1)
    flat = (product(target.shape[: batch + 1]), *rest)
    x = e.reshape(x, target.shape, flat)
    updates = e.reshape(updates, (*places, *rest), (product(places), *rest))
    return e.reshape(e.op("ScatterND", x, rows, updates), flat, target.shape)


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
    if (
        how == "add"
        and dtype in (f16, bf16, f32, f64)
        and n.value is not None
        and n.value <= ONE_HOT_ROWS
        and width != 1
    ):
        flat = e.reshape(e.cast(updates, wide), (*places, *rest), (*lead, k, width))
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
