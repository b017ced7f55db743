"""Sorting, selection and gathering as aten ops of the torch dialect."""

from __future__ import annotations

from ...ir.dims.dim import Dim, as_dim, const, product
from ...ir.types import TensorType, boolean, i64
from .emit import Call, Lowering, Tensor
from .scatter import iota

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
    place = iota(call, n)
    earlier = call.aten("lt.Tensor", place, call.view(place, [n, 1]), type=TensorType(boolean, (n, n)))
    first = call.aten("logical_or", better, call.aten("logical_and", equal, earlier, type=square), type=square)
    rank = call.aten("sum.dim_IntList", call.cast(first, i64), [axis + 1], False, None, type=places)
    # Row r of the result is the place whose rank is r.
    rows = call.view(iota(call, k), [k, 1])
    chosen = TensorType(boolean, (*lead, k, n))
    hit = call.aten("eq.Tensor", call.view(rank, [*lead, 1, n]), rows, type=chosen)
    spread = call.aten("mul.Tensor", call.cast(hit, i64), place, type=TensorType(i64, chosen.shape))
    index = call.aten("sum.dim_IntList", spread, [axis + 1], False, None, type=TensorType(i64, (*lead, k)))
    return [call.aten("gather", x, axis, index, False, type=TensorType(x.type.dtype, (*lead, k))), index]


def _sort(call: Call) -> list[Tensor]:
    return _ordered(call, call.attrs["descending"], call.args[0].type.shape[call.attrs["axis"]])


def _topk(call: Call) -> list[Tensor]:
    return _ordered(call, call.attrs["largest"], as_dim(call.attrs["k"]))


def _ordered(call: Call, largest: bool, k: Dim) -> list[Tensor]:
    x, axis = call.args[0], call.attrs["axis"]
    if k == 1:
        # The first of the largest, in one go.
        shape = (*x.type.shape[:axis], const(1), *x.type.shape[axis + 1 :])
        top = [TensorType(dtype, shape) for dtype in (x.type.dtype, i64)]
        return call.emitter.aten_many("max.dim" if largest else "min.dim", x, axis, True, types=top)
    order = list(range(x.type.rank))
    order[axis], order[-1] = order[-1], order[axis]
    return [call.permute(y, order) for y in _best(call, call.permute(x, order), largest, k)]


def _searchsorted(call: Call) -> Tensor:
    """How many elements of the row come before each value."""
    row, values = call.args
    wide = call.view(values, [*values.type.shape, 1])
    shape = (*values.type.shape, row.type.shape[-1])
    if row.type.rank > 1:
        row = call.view(row, [*row.type.shape[:-1], 1, row.type.shape[-1]])
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
    "cumsum": _cumsum,
}
