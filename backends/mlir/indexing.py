"""Sorting, selection, gathering and scattering as aten ops of the torch dialect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.dims import Dim, as_dim, const, product
from ...ir.types import TensorType, boolean, f32, i64
from .emit import Call, Lowering, Tensor

# Orders --------------------------------------------------------------------------------------------------------------


# Longer rows are sorted by aten.sort, whose lowering promises no order of equal elements.
LONGEST_RANKED = 4096


def _best(call: Call, x: Tensor, descending: bool, k: Dim) -> list[Tensor]:
    """The first k of the sorted last axis, and where they were; equal elements in the order of their places.

    By counting how many elements go before each: n * n comparisons, but no order of equal elements is left open, and
    it runs where the sorts of dynamic size do not (IREE refuses those in the middle of a program).
    """
    axis = x.type.rank - 1
    lead, n = x.type.shape[:-1], x.type.shape[-1]
    places = TensorType(i64, (*lead, n))
    if k == 0:
        return [call.slice(x, axis, 0, 0), call.full([*lead, 0], 0, i64)]
    if n.value is not None and n.value > LONGEST_RANKED:
        pair = call.emitter.aten_many("sort", x, axis, descending, types=[x.type, places])
        return [call.slice(y, axis, 0, k) for y in pair]
    square = TensorType(boolean, (*lead, n, n))
    mine, other = call.view(x, [*lead, n, 1]), call.view(x, [*lead, 1, n])
    better = call.aten("gt.Tensor" if descending else "lt.Tensor", other, mine, type=square)
    equal = call.aten("eq.Tensor", other, mine, type=square)
    place = _iota(call, n)
    earlier = call.aten("lt.Tensor", place, call.view(place, [n, 1]), type=TensorType(boolean, (n, n)))
    first = call.aten("logical_or", better, call.aten("logical_and", equal, earlier, type=square), type=square)
    rank = call.aten("sum.dim_IntList", call.cast(first, i64), [axis + 1], False, None, type=places)
    # Row r of the result is the place whose rank is r.
    rows = call.view(_iota(call, k), [k, 1])
    chosen = TensorType(boolean, (*lead, k, n))
    hit = call.aten("eq.Tensor", call.view(rank, [*lead, 1, n]), rows, type=chosen)
    spread = call.aten("mul.Tensor", call.cast(hit, i64), place, type=TensorType(i64, chosen.shape))
    index = call.aten("sum.dim_IntList", spread, [axis + 1], False, None, type=TensorType(i64, (*lead, k)))
    return [call.aten("gather", x, axis, index, False, type=TensorType(x.type.dtype, (*lead, k))), index]


def _sort(call: Call) -> list[Tensor]:
    x, axis = call.args[0], call.attrs["axis"]
    order = list(range(x.type.rank))
    order[axis], order[-1] = order[-1], order[axis]
    best = _best(call, call.permute(x, order), call.attrs["descending"], x.type.shape[axis])
    return [call.permute(y, order) for y in best]


def _topk(call: Call) -> list[Tensor]:
    return _best(call, call.args[0], call.attrs["largest"], as_dim(call.attrs["k"]))


def _searchsorted(call: Call) -> Tensor:
    """How many elements of the row come before each value."""
    row, values = call.args
    wide = call.view(values, [*values.type.shape, 1])
    shape = (*values.type.shape, row.type.shape[0])
    before = call.aten("le.Tensor" if call.attrs["right"] else "lt.Tensor", row, wide, type=TensorType(boolean, shape))
    return call.aten("sum.dim_IntList", call.cast(before, i64), [len(shape) - 1], False, None)


ORDER: dict[str, Lowering] = {"sort": _sort, "topk": _topk, "searchsorted": _searchsorted}


# Indexing ------------------------------------------------------------------------------------------------------------


def _take(call: Call) -> Tensor:
    x, index = call.args[0], call.cast(call.args[1], i64)
    axis, batch = call.attrs["axis"], call.attrs["batch"]
    shape = x.type.shape
    if not batch:
        if axis == 0 and x.type.rank == 2 and index.type.rank and x.type.dtype.kind == "float":
            return call.aten("embedding", x, index, -1, False, False)
        flat = call.view(index, [index.type.numel])
        type = TensorType(x.type.dtype, (*shape[:axis], index.type.numel, *shape[axis + 1 :]))
        return call.view(call.aten("index_select", x, axis, flat, type=type), call.out.shape)
    count = product(index.type.shape[batch:])
    one = const(1)
    spread = [*shape[:batch], *[one] * (axis - batch), count, *[one] * (x.type.rank - axis - 1)]
    wide = [*shape[:axis], count, *shape[axis + 1 :]]
    rows = call.expand(call.view(index, spread), wide)
    picked = call.aten("gather", x, axis, rows, False, type=TensorType(x.type.dtype, tuple(wide)))
    return call.view(picked, call.out.shape)


def _rows(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """The index as large as the updates."""
    extra = [const(1)] * (updates.type.rank - index.type.rank)
    return call.expand(call.view(call.cast(index, i64), [*index.type.shape, *extra]), updates.type.shape)


def _scatter(mode: str) -> Lowering:
    def lower(call: Call) -> Tensor:
        x, index, updates = call.args
        axis, rows = call.attrs["batch"], _rows(call, x, index, updates)
        if mode == "set":
            return call.aten("scatter.src", x, axis, rows, updates)
        if mode == "add":
            return call.aten("scatter_add", x, axis, rows, updates)
        return call.aten("scatter_reduce.two", x, axis, rows, updates, f"a{mode}", True)

    return lower


def _compact(call: Call) -> list[Tensor]:
    mask, capacity = call.args[0], as_dim(call.attrs["capacity"])
    axis, shape = mask.type.rank - 1, mask.type.shape
    places = TensorType(i64, shape)
    slot = call.aten("cumsum", call.cast(mask, i64), axis, None, type=places)
    slot = call.aten("sub.Scalar", slot, 1, 1, type=places)
    within = call.aten("logical_and", mask, _less(call, slot, capacity), type=mask.type)
    # Everything that does not count is written into one more slot, which is cut off.
    slot = call.aten("where.self", within, slot, call.full([], capacity, i64), type=places)
    source = call.expand(_iota(call, shape[-1]), shape)
    empty = call.full([*shape[:-1], capacity + 1], 0, i64)
    filled = call.aten("scatter.src", empty, axis, slot, source, type=empty.type)
    total = call.aten("sum.dim_IntList", call.cast(mask, i64), [axis], False, None, type=call.outs[1])
    return [
        call.slice(filled, axis, 0, capacity),
        call.aten("minimum", total, call.full([], capacity, i64), type=total.type),
    ]


def _less(call: Call, x: Tensor, bound: Dim) -> Tensor:
    return call.aten("lt.Tensor", x, call.full([], bound, i64), type=TensorType(boolean, x.type.shape))


def _iota(call: Call, n: Any) -> Tensor:
    return call.aten("arange", n, i64, None, None, None, type=TensorType(i64, (as_dim(n),)))


def _segments(call: Call) -> tuple[Tensor, Tensor, int, tuple[Dim, ...]]:
    """x in f32 at least, the ids as large as x, the axis, and the shape of the result."""
    x, ids = call.args
    axis = ids.type.rank - 1
    wide = call.cast(x, f32) if x.type.dtype.size < 4 else x
    return (
        wide,
        _rows(call, wide, ids, wide),
        axis,
        (*x.type.shape[:axis], as_dim(call.attrs["segments"]), *x.type.shape[axis + 1 :]),
    )


def _added(call: Call, x: Tensor, rows: Tensor, axis: int, shape: Sequence[Dim]) -> Tensor:
    zeros = call.full(shape, 0.0, x.type.dtype)
    return call.aten("scatter_add", zeros, axis, rows, x, type=zeros.type)


def _highest(call: Call, x: Tensor, rows: Tensor, axis: int, shape: Sequence[Dim]) -> Tensor:
    """The maximum of each segment; 0 for an empty one."""
    lowest = call.full(shape, float("-inf"), x.type.dtype)
    top = call.aten("scatter_reduce.two", lowest, axis, rows, x, "amax", True, type=lowest.type)
    empty = call.aten("eq.Tensor", top, lowest, type=TensorType(boolean, top.type.shape))
    return call.aten("where.self", empty, call.full([], 0.0, x.type.dtype), top, type=top.type)


def _segment_sum(call: Call) -> Tensor:
    x, rows, axis, shape = _segments(call)
    return call.cast(_added(call, x, rows, axis, shape), call.out.dtype)


def _segment_mean(call: Call) -> Tensor:
    x, rows, axis, shape = _segments(call)
    count = _added(call, call.full(x.type.shape, 1.0, x.type.dtype), rows, axis, shape)
    count = call.aten("maximum", count, call.full([], 1.0, x.type.dtype), type=count.type)
    total = _added(call, x, rows, axis, shape)
    return call.cast(call.aten("div.Tensor", total, count, type=total.type), call.out.dtype)


def _segment_max(call: Call) -> Tensor:
    x, rows, axis, shape = _segments(call)
    return call.cast(_highest(call, x, rows, axis, shape), call.out.dtype)


def _segment_softmax(call: Call) -> Tensor:
    x, rows, axis, shape = _segments(call)

    def back(values: Tensor) -> Tensor:
        return call.aten("gather", values, axis, rows, False, type=x.type)

    shifted = call.aten("sub.Tensor", x, back(_highest(call, x, rows, axis, shape)), 1, type=x.type)
    e = call.aten("exp", shifted, type=x.type)
    return call.cast(call.aten("div.Tensor", e, back(_added(call, e, rows, axis, shape)), type=x.type), call.out.dtype)


def _cumsum(call: Call) -> Tensor:
    x, axis = call.args[0], call.attrs["axis"]
    if call.attrs["reverse"]:
        x = call.aten("flip", x, [axis], type=x.type)
    if call.attrs["exclusive"]:
        # By shifting, not by subtracting, which would round.
        shape = x.type.shape
        zero = call.full([*shape[:axis], 1, *shape[axis + 1 :]], 0, x.type.dtype)
        x = call.aten("cat", [zero, call.slice(x, axis, 0, shape[axis] - 1)], axis, type=x.type)
    y = call.aten("cumsum", x, axis, x.type.dtype, type=x.type)
    return call.aten("flip", y, [axis]) if call.attrs["reverse"] else y


INDEXING: dict[str, Lowering] = {
    "gather": lambda call: call.aten("gather", call.args[0], call.attrs["axis"], call.cast(call.args[1], i64), False),
    "take": _take,
    **{f"scatter_{mode}": _scatter(mode) for mode in ("set", "add", "min", "max")},
    "compact": _compact,
    "segment_sum": _segment_sum,
    "segment_mean": _segment_mean,
    "segment_max": _segment_max,
    "segment_softmax": _segment_softmax,
    "cumsum": _cumsum,
}
