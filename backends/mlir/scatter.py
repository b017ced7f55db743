"""Scattering and segments as aten ops of the torch dialect.

By comparing the indices with the places of the target, so that each place finds what is written to it: sums are one matrix
product. torch-mlir takes `aten.scatter_add` apart into single elements, and IREE (3.13) compiles what comes of it to something
that is slow, or wrong: it lets two scatters share the memory of one target when a size is free. Only targets of a million
comparisons and more, which would be slower so, are left to the aten ops.
"""

from __future__ import annotations

from typing import Any

from ...ir.dims.dim import Dim, as_dim, const, product
from ...ir.types import DType, TensorType, boolean, f32, i64
from .emit import Call, Lowering, Tensor

# Places of the target times indices.
MOST_COMPARED = 1 << 22


def iota(call: Call, n: Any) -> Tensor:
    """0 … n - 1, i64."""
    return call.aten("arange", n, i64, None, None, None, type=TensorType(i64, (as_dim(n),)))


class _Places:
    """The places [lead…, n] of a target, and an index [lead…, k] into them."""

    def __init__(self, call: Call, index: Tensor, n: Dim) -> None:
        self.call = call
        self.lead = index.type.shape[:-1]
        self.n, self.k = n, index.type.shape[-1]
        self.index = call.cast(index, i64)
        compared = n * self.k
        self.compared = compared.value is None or compared.value <= MOST_COMPARED

    @property
    def axis(self) -> int:
        return len(self.lead)

    def hits(self) -> Tensor:
        """Which index points to which place: bool [lead…, n, k]."""
        call = self.call
        row = call.view(self.index, [*self.lead, 1, self.k])
        column = call.view(iota(call, self.n), [self.n, 1])
        return call.aten("eq.Tensor", row, column, type=TensorType(boolean, (*self.lead, self.n, self.k)))

    def spread(self, updates: Tensor, neutral: float | int) -> Tensor:
        """The updates where they go, and what changes nothing elsewhere: [lead…, n, k, rest…]."""
        call, rest = self.call, updates.type.shape[self.axis + 1 :]
        hit = call.view(self.hits(), [*self.lead, self.n, self.k, *[1] * len(rest)])
        wide = call.view(updates, [*self.lead, 1, self.k, *rest])
        type = TensorType(updates.type.dtype, (*self.lead, self.n, self.k, *rest))
        return call.aten("where.self", hit, wide, call.full([], neutral, updates.type.dtype), type=type)

    def shape(self, updates: Tensor) -> TensorType:
        """The type of the target."""
        return TensorType(updates.type.dtype, (*self.lead, self.n, *updates.type.shape[self.axis + 1 :]))

    def rows(self, updates: Tensor) -> Tensor:
        """The index as large as the updates, as the aten ops want it."""
        extra = [const(1)] * (updates.type.rank - self.axis - 1)
        return self.call.expand(self.call.view(self.index, [*self.lead, self.k, *extra]), updates.type.shape)

    # What becomes of the updates [lead…, k, rest…] ---------------------------------------------------------------

    def sums(self, updates: Tensor) -> Tensor:
        """The sum of the updates to each place."""
        call, type = self.call, self.shape(updates)
        if not self.compared:
            zeros = call.full(type.shape, 0, type.dtype)
            return call.aten("scatter_add", zeros, self.axis, self.rows(updates), updates, type=type)
        if type.dtype.kind != "float":
            return call.aten("sum.dim_IntList", self.spread(updates, 0), [self.axis + 1], False, type.dtype, type=type)
        batch, width = product(self.lead), product(updates.type.shape[self.axis + 1 :])
        weights = call.view(call.cast(self.hits(), type.dtype), [batch, self.n, self.k])
        flat = call.view(updates, [batch, self.k, width])
        total = call.aten("bmm", weights, flat, type=TensorType(type.dtype, (batch, self.n, width)))
        return call.view(total, type.shape)

    def best(self, updates: Tensor, mode: str) -> Tensor:
        """The least or the greatest ("min", "max") of the updates to each place; what is beyond all numbers where there is none."""
        call, type = self.call, self.shape(updates)
        neutral = _beyond(mode, type.dtype)
        if self.compared:
            return call.aten(f"a{mode}", self.spread(updates, neutral), [self.axis + 1], False, type=type)
        empty = call.full(type.shape, neutral, type.dtype)
        return call.aten(
            "scatter_reduce.two", empty, self.axis, self.rows(updates), updates, f"a{mode}", True, type=type
        )

    def written(self, x: Tensor, updates: Tensor) -> Tensor:
        """x with the updates at their places; to each goes one at most."""
        call, type = self.call, self.shape(updates)
        if not self.compared:
            return call.aten("scatter.src", x, self.axis, self.rows(updates), updates, type=type)
        hit = self.hits()
        wide = TensorType(i64, hit.type.shape)
        which = call.aten("where.self", hit, iota(call, self.k), call.full([], 0, i64), type=wide)
        ones = [1] * (updates.type.rank - self.axis - 1)
        source = TensorType(i64, (*self.lead, self.n))
        source_of = call.aten("sum.dim_IntList", which, [self.axis + 1], False, None, type=source)
        rows = call.expand(call.view(source_of, [*self.lead, self.n, *ones]), type.shape)
        values = call.aten("gather", updates, self.axis, rows, False, type=type)
        found = call.aten("any.dim", hit, self.axis + 1, False, type=TensorType(boolean, source.shape))
        return call.aten("where.self", call.view(found, [*self.lead, self.n, *ones]), values, x, type=type)


def _beyond(mode: str, dtype: DType) -> float | int:
    """What is greater ("min") or less ("max") than every number."""
    sign = 1 if mode == "min" else -1
    if dtype.kind == "float":
        return sign * float("inf")
    bits = 8 * dtype.size
    low, high = (0, 2**bits - 1) if dtype.name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return high if mode == "min" else low


def _scatter(mode: str) -> Lowering:
    def lower(call: Call) -> Tensor:
        x, index, updates = call.args
        axis, shape = call.attrs["batch"], x.type.shape
        count = product(index.type.shape[axis:])
        places = _Places(call, call.view(index, [*shape[:axis], count]), shape[axis])
        updates = call.view(updates, [*shape[:axis], count, *shape[axis + 1 :]])
        if mode == "set":
            return places.written(x, updates)
        if mode == "add":
            return call.aten("add.Tensor", x, places.sums(updates), 1)
        return call.aten(f"{mode}imum", x, places.best(updates, mode))

    return lower


def _compact(call: Call) -> list[Tensor]:
    mask, capacity = call.args[0], as_dim(call.attrs["capacity"])
    axis, shape = mask.type.rank - 1, mask.type.shape
    places = TensorType(i64, shape)
    slot = call.aten("cumsum", call.cast(mask, i64), axis, None, type=places)
    # What does not count goes to no slot.
    slot = call.aten("where.self", mask, slot, call.full([], 0, i64), type=places)
    slot = call.aten("sub.Scalar", slot, 1, 1, type=places)
    filled = _Places(call, slot, capacity).sums(call.expand(iota(call, shape[-1]), shape))
    total = call.aten("sum.dim_IntList", call.cast(mask, i64), [axis], False, None, type=call.outs[1])
    return [filled, call.aten("minimum", total, call.full([], capacity, i64), type=total.type)]


# Segments ------------------------------------------------------------------------------------------------------------


def _segments(call: Call) -> tuple[Tensor, _Places]:
    """x in f32 at least, and where its rows go."""
    x, ids = call.args
    return call.cast(x, f32) if x.type.dtype.size < 4 else x, _Places(call, ids, as_dim(call.attrs["segments"]))


def _segment_sum(call: Call) -> Tensor:
    x, places = _segments(call)
    return call.cast(places.sums(x), call.out.dtype)


def _segment_mean(call: Call) -> Tensor:
    x, places = _segments(call)
    ones = call.full([*places.lead, places.k, *[1] * (x.type.rank - places.axis - 1)], 1.0, x.type.dtype)
    count = places.sums(ones)
    count = call.aten("maximum", count, call.full([], 1.0, x.type.dtype), type=count.type)
    total = places.sums(x)
    return call.cast(call.aten("div.Tensor", total, count, type=total.type), call.out.dtype)


def _highest(x: Tensor, places: _Places) -> Tensor:
    """The maximum of each segment; 0 for an empty one."""
    call = places.call
    top = places.best(x, "max")
    empty = call.aten("eq.Scalar", top, float("-inf"), type=TensorType(boolean, top.type.shape))
    return call.aten("where.self", empty, call.full([], 0.0, x.type.dtype), top, type=top.type)


def _segment_max(call: Call) -> Tensor:
    return call.cast(_highest(*_segments(call)), call.out.dtype)


def _segment_softmax(call: Call) -> Tensor:
    x, places = _segments(call)
    rows = places.rows(x)

    def back(values: Tensor) -> Tensor:
        return call.aten("gather", values, places.axis, rows, False, type=x.type)

    shifted = call.aten("sub.Tensor", x, back(_highest(x, places)), 1, type=x.type)
    e = call.aten("exp", shifted, type=x.type)
    return call.cast(call.aten("div.Tensor", e, back(places.sums(e)), type=x.type), call.out.dtype)


SCATTER: dict[str, Lowering] = {
    **{f"scatter_{mode}": _scatter(mode) for mode in ("set", "add", "min", "max")},
    "compact": _compact,
    "segment_sum": _segment_sum,
    "segment_mean": _segment_mean,
    "segment_max": _segment_max,
    "segment_softmax": _segment_softmax,
}
