"""Gathering and scattering by index."""

from __future__ import annotations

import numpy as np

from ....ir.dims.dim import Dim, const, product
from ....ir.dims.ratio import Unfoldable
from ....ir.graph import Value
from ....ir.types import i64
from ..call import Call
from ..registry import Result, folds, imports
from ..values import Tensor, dims_of
from .folding import limited


@folds("Gather")
def fold_gather(c: Call, x: np.ndarray, index: np.ndarray) -> np.ndarray:
    if index.dtype == object:
        raise Unfoldable
    result = np.take(x, index, axis=c.attr("axis", 0))
    if x.dtype == object and not isinstance(result, np.ndarray):
        boxed = np.empty((), dtype=object)
        boxed[()] = result
        return boxed
    return limited(np.asarray(result))


@imports("Gather")
def gather(c: Call) -> Tensor:
    axis = c.axis(0)
    known = c.tensor(1).known
    nonnegative = c.tensor(0).nonnegative
    if known is not None and known.dtype != object and known.size:
        run = _run(c, axis, known)
        if run is not None:
            return c.tensor_of(run, nonnegative)
    index = c.x(1) if _embeds(c, axis) else _index(c, 1, c.shape()[axis])
    return c.tensor_of(c.op("take", c.x(0, "weight"), index, axis=axis), nonnegative)


def _run(c: Call, axis: int, index: np.ndarray) -> Value | None:
    """Known consecutive indices are a slice, a single one a slice without its axis."""
    size = c.shape()[axis]
    if size.value is not None and (index.min() < -size.value or index.max() >= size.value):
        c.misfit(f"an index outside of axis {axis} of {c.type()}")
    if index.ndim > 1:
        return None
    row = index.reshape(-1)
    first, last = int(row[0]), int(row[-1])
    if last - first + 1 != row.size or (row.size > 1 and (np.diff(row) != 1).any()) or first < 0 <= last:
        return None
    stop = None if last == -1 else last + 1
    x = c.x()
    if not (first == 0 and size == last + 1):
        x = c.op("slice", x, axis=axis, start=first, stop=stop)
    return c.op("squeeze", x, axis=axis) if index.ndim == 0 else x


def _index(c: Call, position: int, size: Dim) -> Value:
    """Indices as a value, where negative ones are counted from the front."""
    tensor = c.tensor(position)
    known = c.known(position)
    if tensor.nonnegative or (known is not None and known.dtype != object and not (known < 0).any()):
        return c.x(position)
    if known is None or known.dtype == object or size.value is None:
        return from_front(c, c.x(position), size)
    return c.constant(np.where(known < 0, known + size.value, known))


def from_front(c: Call, index: Value, size: Dim) -> Value:
    """Indices of which negative ones count from the end, as ones that do not."""
    wrapped = c.op("add", index, c.cast(c.number(size), index.type.dtype))
    return c.op("where", c.op("lt", index, c.like(0, index)), wrapped, index)


def _embeds(c: Call, axis: int) -> bool:
    """Whether this is a lookup in a table of weights by what the user gives: an id is no negative number then."""
    table, index = c.tensor(0), c.tensor(1)
    return axis == 0 and table.weight is not None and index.value is not None and index.value.node is None


@imports("GatherElements")
def gather_elements(c: Call) -> Value:
    axis = c.axis(0)
    x, shape = c.x(), c.shape(1)
    for i, (d, e) in enumerate(zip(x.type.shape, shape, strict=True)):
        if i != axis and d != e:
            if not c.at_most(e, d):
                c.equal(d, e, f"axis {i} of {c.type()} and of the index {c.type(1)}")
            else:
                x = c.op("slice", x, axis=i, start=0, stop=e)
    return c.op("gather", x, _index(c, 1, c.shape()[axis]), axis=axis)


@folds("GatherND")
def fold_gather_nd(c: Call, x: np.ndarray, index: np.ndarray) -> np.ndarray:
    if index.dtype == object or c.attr("batch_dims", 0):
        raise Unfoldable
    return limited(x[tuple(np.moveaxis(index, -1, 0))])


def _flat_index(c: Call, shape: tuple[Dim, ...]) -> Value:
    """The second operand, indices [..., q] into the first axes of ``shape``, as positions in their row-major order."""
    known = c.known(1)
    if known is not None and known.dtype != object and all(d.value is not None for d in shape):
        sizes = [int(d) for d in shape]
        parts = np.moveaxis(np.where(known < 0, known + np.array(sizes), known), -1, 0)
        if not all(((p >= 0) & (p < n)).all() for p, n in zip(parts, sizes, strict=True)):
            c.misfit(f"an index outside of {c.type()}")
        return c.constant(np.ravel_multi_index(tuple(parts), sizes).astype(np.int64))
    index = c.cast(c.x(1), i64)
    rank = index.type.rank
    nonnegative = c.tensor(1).nonnegative or (known is not None and known.dtype != object and not (known < 0).any())
    total: Value | None = None
    for i in range(len(shape)):
        part = c.op("squeeze", c.op("slice", index, axis=rank - 1, start=i, stop=i + 1), axis=rank - 1)
        if not nonnegative:
            part = from_front(c, part, shape[i])
        stride = product(shape[i + 1 :])
        if stride != 1:
            part = c.op("mul", part, c.number(stride))
        total = part if total is None else c.op("add", total, part)
    assert total is not None
    return total


@imports("GatherND")
def gather_nd(c: Call) -> Value:
    batch = c.attr("batch_dims", 0)
    x = c.x()
    depth = c.shape(1)[-1].value
    if depth is None or not 0 < depth <= c.rank() - batch:
        c.misfit(f"indices {c.type(1)} into {c.type()}")
    shape = x.type.shape
    for i in range(batch):
        c.equal(shape[i], c.shape(1)[i], f"batch axis {i}")
    flat = _flat_index(c, shape[batch : batch + depth])
    rows = c.reshape(x, (*shape[:batch], product(shape[batch : batch + depth]), *shape[batch + depth :]))
    return c.op("take", rows, flat, axis=batch, batch=batch)


_MODES = {"none": "set", "add": "add", "min": "min", "max": "max"}


def _mode(c: Call) -> str:
    mode = c.attr("reduction", "none")
    if mode not in _MODES:
        c.refuse(f'reduction="{mode}"')
    return f"scatter_{_MODES[mode]}"


@folds("ScatterND")
def fold_scatter_nd(c: Call, x: np.ndarray, index: np.ndarray, updates: np.ndarray) -> np.ndarray:
    if index.dtype == object or c.attr("reduction", "none") != "none":
        raise Unfoldable
    result = x.astype(object) if updates.dtype == object else x.copy()
    result[tuple(np.moveaxis(index, -1, 0))] = updates
    return result


@imports("ScatterND")
def scatter_nd(c: Call) -> Value:
    name = _mode(c)
    x = c.x()
    shape = x.type.shape
    # How many axes of x an index is into follows from those of the updates, where its own size is free.
    depth = c.rank(1) - 1 + len(shape) - c.rank(2)
    if not 0 < depth <= len(shape):
        c.misfit(f"indices {c.type(1)} into {c.type()} for the updates {c.type(2)}")
    c.equal(c.shape(1)[-1], const(depth), f"the indices {c.type(1)} into {c.type()}")
    for i, (d, e) in enumerate(zip(c.shape(2), (*c.shape(1)[:-1], *shape[depth:]), strict=True)):
        c.equal(d, e, f"axis {i} of the updates {c.type(2)}")
    count = product(c.shape(1)[:-1])
    flat = c.reshape(_flat_index(c, shape[:depth]), (count,))
    updates = c.reshape(c.x(2), (count, *shape[depth:]))
    rows = c.reshape(x, (product(shape[:depth]), *shape[depth:]))
    return c.reshape(c.op(name, rows, flat, updates, batch=0), shape)


@imports("ScatterElements", "Scatter")
def scatter_elements(c: Call) -> Value:
    name, axis = _mode(c), c.axis(0)
    x, index, updates = c.x(), _index(c, 1, c.shape()[axis]), c.x(2)
    rank = x.type.rank
    for i in range(rank):
        c.equal(c.shape(1)[i], c.shape(2)[i], f"axis {i} of index and updates")
        if i != axis:
            # An index that covers only a part of the other axes leaves the rest as it is.
            if c.shape(1)[i] != x.type.shape[i] and c.at_most(c.shape(1)[i], x.type.shape[i]):
                c.refuse("an index that covers a part of the other axes")
            c.equal(c.shape(1)[i], x.type.shape[i], f"axis {i} of {c.type()} and of the index")
    order = [i for i in range(rank) if i != axis] + [axis]
    back = [order.index(i) for i in range(rank)]
    moved = [c.transpose(value, order) for value in (x, index, updates)]
    return c.transpose(c.op(name, *moved, batch=rank - 1), back)


@imports("OneHot")
def one_hot(c: Call) -> Value:
    known = c.static(1, "the depth")
    whole = known if known.dtype == object or known.dtype.kind in "iu" else known.astype(np.int64)  # 7.0 is 7
    depth = dims_of(whole)[0]
    values = c.x(2)
    index = c.x()
    axis = c.normal_axis(c.attr("axis", -1), c.rank() + 1)
    count = c.op("iota", n=depth, dtype=index.type.dtype if index.type.dtype.kind == "int" else i64)
    index = from_front(c, c.cast(index, count.type.dtype), depth)
    shape = [depth if i == axis else const(1) for i in range(c.rank() + 1)]
    hit = c.op("eq", c.op("unsqueeze", index, axis=axis), c.reshape(count, shape))
    off, on = (c.op("squeeze", c.op("slice", values, axis=0, start=i, stop=i + 1), axis=0) for i in range(2))
    return c.op("where", hit, on, off)


@imports("ReverseSequence")
def reverse_sequence(c: Call) -> Result:
    time, batch = c.attr("time_axis", 0), c.attr("batch_axis", 1)
    if (time, batch) not in ((0, 1), (1, 0)):
        c.refuse(f"time_axis={time} with batch_axis={batch}")
    x = c.x()
    c.equal(c.shape(1)[0], c.shape()[batch], f"the rows of {c.type()} and their lengths {c.type(1)}")
    steps = x.type.shape[time]
    order = (batch, time, *range(2, x.type.rank))
    rows = x if batch == 0 else c.transpose(x, order)
    length = c.op("unsqueeze", c.x(1), axis=1)
    at = c.op("unsqueeze", c.op("iota", n=steps), axis=0)
    back = c.op("sub", c.op("sub", length, c.scalar(1, i64)), at)
    index = c.op("where", c.op("lt", at, length), back, at)
    turned = c.op("take", rows, index, axis=1, batch=1)
    return turned if batch == 0 else c.transpose(turned, order)


