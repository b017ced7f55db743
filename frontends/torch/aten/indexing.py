"""Gathering and scattering by index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import numpy as np

from ....ir.dims.dim import Dim, as_dim, const, product
from ....ir.graph import Node, Value
from ....ir.op import Trait, has
from ....ir.types import DType, boolean, i32, i64
from ..protocol import Import, Unsupported, aten, axis_of
from .elementwise import literal_of, nonnegative
from .picking import coordinates


def _of(node: Node) -> Value:
    first = node.inputs[0]
    assert first is not None
    return first


def _from_front(i: Import, index: Value, size: Dim) -> Value:
    """Indices that may be negative, counted from the front as the language has them."""
    if nonnegative(index):
        return index
    dtype = index.type.dtype
    behind = i.op("add", index, i.scalar(size, dtype))
    return i.op("where", i.op("lt", index, i.scalar(0, dtype)), behind, index)


@aten("embedding")
def _embedding(i: Import, weight: Value, index: Value, *rest: Any) -> Value:
    return i.op("take", weight, index)


@aten("index_select")
def _index_select(i: Import, x: Value, axis: int, index: Value) -> Value:
    if not x.type.rank:
        return x
    if not index.type.rank:
        index = i.reshape(index, [1])
    return i.op("take", x, index, axis=axis)


def _empty(i: Import, x: Value, shape: Sequence[Dim]) -> Value:
    return i.op("full", shape=tuple(shape), value=False if x.type.dtype == boolean else 0, dtype=x.type.dtype)


@aten("gather")
def _gather(i: Import, x: Value, axis: int, index: Value, *rest: Any) -> Value:
    if not x.type.rank:
        return i.expand(x, index.type.shape)
    at = axis_of(axis, x.type.rank)
    if index.type.numel == 0:
        return _empty(i, x, index.type.shape)
    if not index.type.rank:
        return i.reshape(_gather(i, x, at, i.reshape(index, [1])), [])
    known = literal_of(x)
    if known is not None:
        return i.expand(i.scalar(known, x.type.dtype), index.type.shape)
    # torch reads the first rows of x where the index has fewer.
    for a, (size, wanted) in enumerate(zip(x.type.shape, index.type.shape, strict=True)):
        if a != at and size != wanted:
            x = i.slice(x, a, 0, wanted)
    return i.op("gather", x, index, axis=at)


# Lists of indices ----------------------------------------------------------------------------------------------------


def whole_axis(index: Value, size: Dim) -> int | None:
    """The axis of ``index`` along which it counts ``0 … size - 1``, all others being 1; None for any other index."""
    node = index.node
    while node is not None and (has(node, Trait.RESHAPES) or node.op.name == "cast"):
        node = _of(node).node
    axes = [a for a, d in enumerate(index.type.shape) if d != 1]
    if node is None or node.op.name != "iota" or as_dim(node.attrs["n"]) != size or len(axes) > 1:
        return None
    return axes[0] if axes else None


def _linear(i: Import, x: Value, indices: Sequence[Value], first: int) -> tuple[Value, Value]:
    """x with the indexed axes joined into one, and the one index into it."""
    sizes = x.type.shape[first : first + len(indices)]
    total: Value | None = None
    for index, size in zip(indices, sizes, strict=True):
        at = i.cast(_from_front(i, index, size), i64)
        total = at if total is None else i.op("add", i.op("mul", total, i.scalar(size, i64)), at)
    assert total is not None
    shape = [*x.type.shape[:first], product(sizes), *x.type.shape[first + len(indices) :]]
    return i.reshape(x, shape), total


def _listed(i: Import, indices: Sequence[Any]) -> tuple[list[int], list[Value]]:
    """The indexed axes, and their indices; a mask is one of the places where it is true."""
    axes: list[int] = []
    given: list[Value] = []
    axis = 0
    for index in indices:
        places = [] if index is None else coordinates(i, index) if index.type.dtype == boolean else [index]
        axes += range(axis, axis + len(places))
        given += places
        axis += max(len(places), 1)
    return axes, given


def _neighbours(axes: Sequence[int]) -> bool:
    return list(axes) == list(range(axes[0], axes[0] + len(axes)))


def _in_front(i: Import, x: Value, axes: Sequence[int]) -> tuple[Value, list[int]]:
    """x with these axes first, and the order of axes that leads back."""
    order = [*axes, *(a for a in range(x.type.rank) if a not in axes)]
    return i.transpose(x, order), [order.index(a) for a in range(x.type.rank)]


@aten("index.Tensor", "index.Tensor_hacked_twin", "_unsafe_index.Tensor", "_unsafe_index.Tensor_hacked_twin")
def _index(i: Import, x: Value, indices: Sequence[Any]) -> Value:
    axes, given = _listed(i, indices)
    if not _neighbours(axes):
        # What is picked then comes first.
        x, axes = _in_front(i, x, axes)[0], list(range(len(axes)))
    first = axes[0]
    if len(given) == 1:
        return i.op("take", x, _from_front(i, given[0], x.type.shape[first]), axis=first)
    whole = [whole_axis(v, d) for v, d in zip(given, x.type.shape[first:], strict=False)]
    rank = max(v.type.rank for v in given)
    places = [None if a is None else a + rank - v.type.rank for a, v in zip(whole, given, strict=True)]
    known = [p for p in places if p is not None]
    if len(known) == len(given) and known == sorted(set(known)):
        # Every index counts through the whole of its axis: nothing is picked, axes of size 1 are put between.
        shape = [as_dim(1)] * rank
        for place, dim in zip(known, x.type.shape[first:], strict=False):
            shape[place] = dim
        return i.reshape(x, [*x.type.shape[:first], *shape, *x.type.shape[first + len(given) :]])
    joined, index = _linear(i, x, given, first)
    return i.op("take", joined, index, axis=first)


@aten("index_put", "index_put.hacked_twin", "_unsafe_index_put", "_unsafe_index_put.hacked_twin")
def _index_put(
    i: Import, x: Value, indices: Sequence[Any], values: Value, accumulate: bool = False, *rest: Any
) -> Value:
    given = [v for v in indices if v is not None]
    if len(given) == 1 and given[0].type.dtype == boolean and indices[0] is not None and values.type.numel == 1:
        mask = given[0]
        spread = i.reshape(mask, [*mask.type.shape, *[1] * (x.type.rank - mask.type.rank)])
        return i.op("where", spread, i.reshape(i.cast(values, x.type.dtype), []), x)
    axes, given = _listed(i, indices)
    front, back = _in_front(i, x, axes)
    joined, index = _linear(i, front, i.broadcast(*given), 0)
    rest_of = joined.type.shape[1:]
    # The values stand where indexing would put what it picks: in front unless the axes are neighbours.
    before = axes[0] if _neighbours(axes) else 0
    wide = i.expand(i.cast(values, x.type.dtype), [*rest_of[:before], *index.type.shape, *rest_of[before:]])
    updates = _in_front(i, wide, range(before, before + index.type.rank))[0]
    flat = i.reshape(index, [index.type.numel])
    updates = i.reshape(updates, [index.type.numel, *rest_of])
    written = i.op("scatter_add" if accumulate else "scatter_set", joined, flat, updates, batch=0)
    return i.transpose(i.reshape(written, front.type.shape), back)


@aten("_unsafe_masked_index")
def _masked_index(i: Import, x: Value, mask: Value, indices: Sequence[Any], fill: Any) -> Value:
    clamped = [
        None if v is None else i.op("minimum", i.op("maximum", v, i.scalar(0, v.type.dtype)), i.scalar(d - 1, v.type.dtype))
        for v, d in zip(indices, x.type.shape, strict=False)
    ]
    picked = _index(i, x, clamped)
    spread = i.reshape(mask, [*mask.type.shape, *[1] * (picked.type.rank - mask.type.rank)])
    return i.op("where", spread, picked, i.scalar(fill, x.type.dtype))


# Scattering along one axis -------------------------------------------------------------------------------------------


def _scatter(i: Import, op: str, x: Value, axis: int, index: Value, source: Any) -> Value:
    if x.type.dtype == boolean and op == "scatter_add":
        return i.cast(_scatter(i, op, i.cast(x, i32), axis, index, i.tensor(source, i32)), boolean)
    if not x.type.rank:
        return i.reshape(_scatter(i, op, i.reshape(x, [1]), 0, i.reshape(index, [index.type.numel]), source), [])
    updates = _updates(i, x, index, source)
    at, last = axis_of(axis, x.type.rank), x.type.rank - 1
    if any(a != at and d != n for a, (d, n) in enumerate(zip(x.type.shape, index.type.shape, strict=True))):
        return _scatter_corner(i, op, x, at, index, updates)
    order = list(range(x.type.rank))
    order[at], order[last] = order[last], order[at]
    moved = [i.transpose(v, order) for v in (x, index, updates)]
    return i.transpose(i.op(op, *moved, batch=last), order)


def _updates(i: Import, x: Value, index: Value, source: Any) -> Value:
    """A number everywhere, or the first elements of a tensor that has more than the index."""
    updates = i.tensor(source, x.type.dtype)
    if updates.type.rank and updates.type.rank == index.type.rank:
        for a, dim in enumerate(index.type.shape):
            if updates.type.shape[a] != dim:
                updates = i.slice(updates, a, 0, dim)
    elif updates.type.rank != index.type.rank:
        updates = i.reshape(updates, [])
    return i.expand(updates, index.type.shape)


def _scatter_corner(i: Import, op: str, x: Value, axis: int, index: Value, updates: Value) -> Value:
    """Where the index has fewer rows than x: only the first ones are written. Every element is written by its place in all of x."""
    place: Value | None = None
    for a, dim in enumerate(x.type.shape):
        shape = [d if b == a else const(1) for b, d in enumerate(index.type.shape)]
        at = i.cast(index, i64) if a == axis else i.reshape(i.op("iota", n=index.type.shape[a], dtype=i64), shape)
        place = at if place is None else i.op("add", i.op("mul", place, i.scalar(dim, i64)), at)
    assert place is not None
    flat = [i.reshape(v, [v.type.numel]) for v in (x, i.expand(place, index.type.shape), updates)]
    return i.reshape(i.op(op, *flat, batch=0), x.type.shape)


@aten("scatter.src", "scatter.value")
def _scatter_set(i: Import, x: Value, axis: int, index: Value, source: Any) -> Value:
    return _scatter(i, "scatter_set", x, axis, index, source)


@aten("scatter_add")
def _scatter_add(i: Import, x: Value, axis: int, index: Value, source: Value) -> Value:
    return _scatter(i, "scatter_add", x, axis, index, source)


@aten("scatter_reduce.two")
def _scatter_reduce(
    i: Import, x: Value, axis: int, index: Value, source: Value, reduce: str, include_self: bool = True
) -> Value:
    return _reduced(i, _scatter, x, axis, index, i.tensor(source, x.type.dtype), reduce, include_self)


@aten("index_reduce")
def _index_reduce(
    i: Import, x: Value, axis: int, index: Value, source: Value, reduce: str, include_self: bool = True
) -> Value:
    return _reduced(i, _rows, x, axis, index, source, reduce, include_self)


def _reduced(
    i: Import, write: Callable[..., Value], x: Value, axis: int, index: Value, source: Value, reduce: str, include_self: bool
) -> Value:
    """x and what is written to its elements together, or without x itself wherever something is written."""
    ops = {"sum": "scatter_add", "mean": "scatter_add", "amax": "scatter_max", "amin": "scatter_min"}
    if reduce not in ops or x.type.dtype == boolean:
        raise Unsupported(f"writing by `{reduce}` to {x.type.dtype}")
    dtype = x.type.dtype
    if not include_self:
        low, high = (-inf, inf) if dtype.kind == "float" else _ends(dtype)
        neutral = i.scalar({"amax": low, "amin": high}.get(reduce, 0), dtype)
        x = write(i, "scatter_set", x, axis, index, i.expand(neutral, source.type.shape))
    total = write(i, ops[reduce], x, axis, index, source)
    if reduce != "mean":
        return total
    one = i.scalar(1, dtype)
    start = i.expand(i.scalar(int(include_self), dtype), x.type.shape)
    count = write(i, "scatter_add", start, axis, index, i.expand(one, source.type.shape))
    return i.op("div" if dtype.kind == "float" else "floordiv", total, i.op("maximum", count, one))


def _ends(dtype: DType) -> tuple[int, int]:
    ends = np.iinfo(dtype.numpy)
    return int(ends.min), int(ends.max)


@aten("scatter.reduce", "scatter.value_reduce")
def _scatter_by(i: Import, x: Value, axis: int, index: Value, source: Any, reduce: str) -> Value:
    if reduce != "add":
        raise Unsupported(f"scatter by `{reduce}`")
    return _scatter(i, "scatter_add", x, axis, index, source)


@aten("index_add")
def _index_add(i: Import, x: Value, axis: int, index: Value, source: Value, alpha: Any = 1) -> Value:
    if alpha != 1:
        source = i.op("mul", source, i.scalar(alpha, source.type.dtype))
    return _rows(i, "scatter_add", x, axis, index, source)


@aten("index_copy")
def _index_copy(i: Import, x: Value, axis: int, index: Value, source: Value) -> Value:
    return _rows(i, "scatter_set", x, axis, index, source)


@aten("index_fill.int_Scalar", "index_fill.int_Tensor")
def _index_fill(i: Import, x: Value, axis: int, index: Value, value: Any) -> Value:
    row = i.reshape(index, [index.type.numel])
    shape = list(x.type.shape)
    if shape:
        shape[axis_of(axis, len(shape))] = row.type.numel
    return _rows(i, "scatter_set", x, axis, row, i.expand(i.tensor(value, x.type.dtype), shape))


def _rows(i: Import, op: str, x: Value, axis: int, index: Value, source: Value) -> Value:
    if x.type.dtype == boolean and op == "scatter_add":
        return i.cast(_rows(i, op, i.cast(x, i32), axis, index, i.cast(source, i32)), boolean)
    if not x.type.rank:
        lone = [i.reshape(v, [v.type.numel]) for v in (x, index, source)]
        return i.reshape(_rows(i, op, lone[0], 0, lone[1], lone[2]), [])
    if not index.type.rank:
        index = i.reshape(index, [1])
    if source.type.rank < x.type.rank:
        source = i.op("unsqueeze", source, axis=axis_of(axis, x.type.rank))
    order = list(range(x.type.rank))
    at = axis_of(axis, x.type.rank)
    order[0], order[at] = order[at], order[0]
    index = _from_front(i, index, x.type.shape[at])
    moved = i.op(op, i.transpose(x, order), index, i.transpose(source, order), batch=0)
    return i.transpose(moved, order)


@aten("take")
def _take(i: Import, x: Value, index: Value) -> Value:
    return i.op("take", i.reshape(x, [x.type.numel]), _from_front(i, index, x.type.numel))


@aten("put")
def _put(i: Import, x: Value, index: Value, source: Value, accumulate: bool = False) -> Value:
    flat = [i.reshape(v, [v.type.numel]) for v in (x, _from_front(i, index, x.type.numel), source)]
    return i.reshape(i.op("scatter_add" if accumulate else "scatter_set", *flat, batch=0), x.type.shape)


@aten("masked_scatter")
def _masked_scatter(i: Import, x: Value, mask: Value, source: Value) -> Value:
    """The elements of ``source`` in their order wherever the mask is true (LLaVA's image tokens)."""
    x, mask = i.broadcast(x, mask)
    true = i.reshape(mask, [mask.type.numel])
    place = i.op("maximum", i.op("sub", i.op("cumsum", i.cast(true, i64), axis=0), i.scalar(1, i64)), i.scalar(0, i64))
    last = i.scalar(source.type.numel - 1, i64)
    picked = i.op("take", i.reshape(source, [source.type.numel]), i.op("minimum", place, last))
    return i.op("where", mask, i.reshape(picked, x.type.shape), x)


@aten("unfold")
def _unfold(i: Import, x: Value, axis: int, size: int, step: int) -> Value:
    """Windows along an axis: the axis becomes their number, and a last one their elements."""
    if not x.type.rank:
        return i.reshape(x, [1]) if size else i.op("full", shape=(0,), value=0, dtype=x.type.dtype)
    at = axis_of(axis, x.type.rank)
    count = (x.type.shape[at] - size) // step + 1
    starts = i.op("mul", i.op("iota", n=count, dtype=i64), i.scalar(step, i64))
    place = i.op("add", i.op("unsqueeze", starts, axis=1), i.op("iota", n=size, dtype=i64))
    picked = i.op("take", x, place, axis=at)
    return i.transpose(picked, [a for a in range(picked.type.rank) if a != at + 1] + [at + 1])


@aten("one_hot")
def _one_hot(i: Import, index: Value, classes: int = -1) -> Value:
    if classes == -1:
        raise Unsupported("one_hot of a number of classes that depends on the values")
    columns = i.op("iota", n=classes, dtype=index.type.dtype)
    return i.cast(i.op("eq", i.op("unsqueeze", index, axis=-1), columns), i64)


@aten("histc")
def _histc(i: Import, x: Value, bins: int = 100, low: Any = 0, high: Any = 0) -> Value:
    flat = i.reshape(x, [x.type.numel])
    kinds = i.op("iota", n=bins, dtype=i64)
    origin = None if x.node is None or x.node.op.name != "cast" else x.node.inputs[0]
    if (low, high) == (0, bins - 1) and bins > 1 and origin is not None and origin.type.dtype.kind == "int":
        hit = i.op("eq", i.op("unsqueeze", flat, axis=1), i.cast(kinds, x.type.dtype))
        return i.cast(i.op("sum", i.cast(hit, i64), axis=0), x.type.dtype)
    # Bins of equal width; the last one has its upper end too. Without a range, that of the elements.
    if low == high == 0 and x.type.numel != 0:
        least, greatest = i.op("min", flat), i.op("max", flat)
    else:
        least, greatest = i.scalar(low, x.type.dtype), i.scalar(high, x.type.dtype)
    one = i.scalar(1, x.type.dtype)
    alike = i.op("eq", least, greatest)
    least = i.op("where", alike, i.op("sub", least, one), least)
    greatest = i.op("where", alike, i.op("add", greatest, one), greatest)
    share = i.op("div", i.op("sub", flat, least), i.op("sub", greatest, least))
    at = i.cast(i.op("floor", i.op("mul", share, i.scalar(bins, x.type.dtype))), i64)
    at = i.op("minimum", at, i.scalar(bins - 1, i64))
    inside = i.op("logical_and", i.op("ge", flat, least), i.op("le", flat, greatest))
    hit = i.op("logical_and", i.op("eq", i.op("unsqueeze", at, axis=1), kinds), i.op("unsqueeze", inside, axis=1))
    return i.cast(i.op("sum", i.cast(hit, i64), axis=0), x.type.dtype)
