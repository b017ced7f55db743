"""Ops whose results have as many rows as run time finds: in a capacity, with a count (``frontends/counted``)."""

from __future__ import annotations

from math import inf

import numpy as np

from ....ir.dims.dim import Dim, const, dim_min, product
from ....ir.graph import Value
from ....ir.types import TensorType, boolean, i64
from ..call import Call
from ..registry import Result, imports
from ..values import Tensor, known_tensor
from .folding import MOST_ELEMENTS

# As many as there are: what exporters write in the place of no limit.
_ALL = 1 << 31


def _picked(c: Call, mask: Value) -> Value:
    """The places of what is true in a mask [N]."""
    return c.importer.counts.picked(c.region.builder, mask)


def _outside_of_loops(c: Call) -> None:
    if c.region.parent is not None:
        c.refuse("a number of rows that only run time knows within a loop")


@imports("NonZero")
def non_zero(c: Call) -> Result:
    known = c.known(0)
    if known is not None and known.dtype != object and known.size <= MOST_ELEMENTS:
        type = TensorType.of(i64, (known.ndim, int(np.count_nonzero(known))))
        return Tensor(type, known=np.array(np.nonzero(known), dtype=np.int64))
    _outside_of_loops(c)
    x = c.x()
    if not x.type.rank:
        c.refuse("NonZero of a tensor without axes")
    mask = x if x.type.dtype == boolean else c.op("ne", x, c.like(0, x))
    places = _picked(c, c.reshape(mask, (x.type.numel,)))
    rows = [c.op("unsqueeze", at, axis=0) for at in _coordinates(c, places, x.type.shape)]
    return c.tensor_of(rows[0] if len(rows) == 1 else c.op("concat", *rows, axis=0), nonnegative=True)


def _coordinates(c: Call, places: Value, shape: tuple[Dim, ...]) -> list[Value]:
    """Places in row-major order as one place along each axis."""
    found = []
    for axis in range(len(shape)):
        stride = product(shape[axis + 1 :])
        if stride == 0:  # there are no places
            stride = const(1)
        at = places if stride == 1 else c.op("floordiv", places, c.number(stride))
        found.append(at if axis == 0 or shape[axis] == 0 else c.op("mod", at, c.number(shape[axis])))
    return found


@imports("Compress")
def compress(c: Call) -> Value:
    known, axis, x = c.known(1), c.attr("axis"), c.x()
    if axis is None:
        x, axis = c.reshape(x, (x.type.numel,)), 0
    if known is not None:
        return c.op("take", x, c.constant(np.flatnonzero(known).astype(np.int64)), axis=axis)
    _outside_of_loops(c)
    return c.op("take", x, _picked(c, c.x(1)), axis=axis)


@imports("NonMaxSuppression")
def non_max_suppression(c: Call) -> Result:
    boxes, scores = c.x(), c.x(1)
    if boxes.type.rank != 3 or scores.type.rank != 3:
        c.misfit(f"boxes {c.type()} and scores {c.type(1)}")
    for a, b, what in ((0, 0, "rows"), (1, 2, "boxes")):
        c.equal(boxes.type.shape[a], scores.type.shape[b], f"the {what} of {c.type()} and of the scores {c.type(1)}")
    count = boxes.type.shape[1]
    most = c.dims(2, "how many boxes stay")[0] if c.has(2) else Dim(())
    overlap, least = (
        float(c.static(at, "a threshold").reshape(-1)[0]) if c.has(at) else default for at, default in ((3, 0.0), (4, -inf))
    )
    if most == 0:
        return known_tensor(np.zeros((0, 3), np.int64))
    _outside_of_loops(c)
    each = count if most.value is not None and most.value >= _ALL else dim_min(most, count)
    options = {"most": each, "overlap": overlap, "least": least, "centred": bool(c.attr("center_point_box", 0))}

    def make(length: Dim) -> tuple[Value, Value]:
        rows, kept = c.std_many("detection.suppress", boxes, scores, capacity=length, **options)
        return rows, kept

    return c.tensor_of(c.importer.counts.made(make, product(scores.type.shape[:2]) * each), nonnegative=True)


@imports("Unique")
def unique(c: Call) -> list[Result | None]:
    """Elements that differ, or slices along an axis: sorted, or in the order in which they are first met."""
    x, axis = c.x(), c.attr("axis")
    if axis is None:
        rows = c.reshape(x, (x.type.numel, 1))
    else:
        axis = c.normal_axis(axis, x.type.rank)
        order = [axis, *(a for a in range(x.type.rank) if a != axis)]
        moved = c.transpose(x, order)
        rows = c.reshape(moved, (moved.type.shape[0], product(moved.type.shape[1:])))
    width, size = rows.type.shape[1].value, rows.type.shape[0]
    if width is None or width > 256:
        c.refuse(f"Unique of slices of {rows.type.shape[1]} elements")
    _outside_of_loops(c)
    place = c.op("iota", n=size)
    for column in reversed(range(width)):  # each sort keeps the order of the ones before
        key = c.op("squeeze", c.op("slice", rows, axis=1, start=column, stop=column + 1), axis=1)
        key = key if key.type.dtype != boolean else c.cast(key, i64)
        place = c.op("take", place, c.multi("sort", c.op("take", key, place), axis=0)[1])
    ordered = c.op("take", rows, place)
    changed = c.op("any", c.op("ne", c.op("slice", ordered, axis=0, start=1), c.op("slice", ordered, axis=0, stop=-1)), axis=1)
    starts = c.op("concat", c.op("full", shape=(1,), value=True, dtype=boolean), changed, axis=0)
    # Which group each row is in, and the row in which each group is first met: sorting keeps the order of equal ones.
    group = c.op("sub", c.op("cumsum", c.cast(starts, i64), axis=0), c.scalar(1, i64))
    if not c.attr("sorted", 1):
        first = c.op("scatter_set", c.op("full", shape=(size,), value=False, dtype=boolean), place, starts, batch=0)
        met = c.op("cumsum", c.cast(first, i64), axis=0)
        head = c.op("take", place, c.op("cummax", c.op("where", starts, c.op("iota", n=size), c.scalar(0, i64)), axis=0))
        group = c.op("sub", c.op("take", met, head), c.scalar(1, i64))
        index = _picked(c, first)
    else:
        index = c.op("take", place, _picked(c, starts))
    inverse = c.op("scatter_set", c.op("full", shape=(size,), value=0, dtype=i64), place, group, batch=0)
    zeros = c.op("full", shape=index.type.shape, value=0, dtype=i64)
    ones = c.op("full", shape=(size,), value=1, dtype=i64)
    counts = c.op("scatter_add", zeros, inverse, ones, batch=0)
    values = c.op("take", c.reshape(x, (x.type.numel,)), index) if axis is None else c.op("take", x, index, axis=axis)
    return [values, index, inverse, counts]
