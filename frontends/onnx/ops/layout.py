"""Ops that move elements: reshaping, permuting, joining, cutting, padding, repeating."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....ir.dims.dim import Dim, as_dim, const, dim_min, product, prove_ge
from ....ir.dims.ratio import Unfoldable
from ....ir.graph import Value
from ....ir.types import TensorType, boolean, u8
from ..call import Call
from ..registry import Result, folds, imports
from ..values import Tensor, short
from .folding import MOST_ELEMENTS, limited


def _plain(array: np.ndarray | None) -> list[int]:
    """Known integers. Raises Unfoldable for symbols."""
    if array is None or array.dtype == object:
        raise Unfoldable
    return [int(v) for v in array.reshape(-1)]


# Reshape and its relatives -------------------------------------------------------------------------------------------


@folds("Reshape")
def fold_reshape(c: Call, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    sizes = _plain(shape)
    return x.reshape([x.shape[i] if n == 0 and not c.attr("allowzero", 0) else n for i, n in enumerate(sizes)])


@imports("Reshape")
def reshape(c: Call) -> Tensor:
    old = c.shape()
    shape = list(c.dims(1, "the new shape"))
    for i, dim in enumerate(shape):
        if dim == 0 and not c.attr("allowzero", 0):
            if i >= len(old):
                c.misfit(f"axis {i} of the new shape is copied from {c.type()}, which has none")
            shape[i] = old[i]
    holes = [i for i, d in enumerate(shape) if d == -1]
    total = c.type().numel
    if len(holes) > 1:
        c.misfit("two axes of the new shape are -1")
    if holes:
        given = [d for i, d in enumerate(shape) if i != holes[0]]
        for i, (d, e) in enumerate(zip(old, shape[: holes[0]], strict=False)):
            # What stands in front and comes of another tensor is the same size, unless it divides as it is.
            if d != e and d.symbol and e.symbol and _rest(list(old), given) * product(given) != total:
                c.equal(d, e, f"axis {i} of {c.type()} in the new shape")
        if product(given) == 0:
            c.misfit("the new shape has -1 beside 0")
        shape[holes[0]] = missing = _rest(list(old), given)
        # A free size may have to make it divide.
        c.equal(missing * product(given), total, f"the elements of {c.type()} in the new shape")
    else:
        c.equal(total, product(shape), f"the elements of {c.type()} in the new shape")
    return c.tensor_of(c.reshape(c.x(), shape), c.tensor(0).nonnegative)


def _rest(old: list[Dim], given: list[Dim]) -> Dim:
    """The elements of ``old`` over those of ``given``; axes that are in both need no division, sums of symbols included."""
    divisors = []
    for dim in given:
        if dim in old:
            old.remove(dim)
        else:
            divisors.append(dim)
    return product(old) // product(divisors)


@folds("Flatten")
def fold_flatten(c: Call, x: np.ndarray) -> np.ndarray:
    axis = c.attr("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))


@imports("Flatten")
def flatten(c: Call) -> Value:
    axis, shape = c.attr("axis", 1), c.shape()
    if not -len(shape) <= axis <= len(shape):
        c.misfit(f"axis {axis} of {c.type()}")
    axis = axis + len(shape) if axis < 0 else axis
    return c.reshape(c.x(), (product(shape[:axis]), product(shape[axis:])))


def _axes(c: Call) -> list[int] | None:
    return c.axes(1)


@folds("Squeeze")
def fold_squeeze(c: Call, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    return x.squeeze(None if axes is None else tuple(_plain(axes)))


@imports("Squeeze")
def squeeze(c: Call) -> Tensor:
    shape = c.shape()
    axes = _axes(c)
    if axes is None:
        axes = [i for i, d in enumerate(shape) if d == 1]
        for d in shape:
            if d.value is None:
                c.importer.differ(d, const(1), c.where)
    axes = sorted({c.normal_axis(a, len(shape)) for a in axes})
    for axis in axes:
        c.equal(shape[axis], const(1), f"axis {axis} of {c.type()}, which is left out")
    return c.tensor_of(c.op("squeeze", c.x(), axis=tuple(axes)) if axes else c.x(), c.tensor(0).nonnegative)


@folds("Unsqueeze")
def fold_unsqueeze(c: Call, x: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return np.expand_dims(x, tuple(_plain(axes)))


@imports("Unsqueeze")
def unsqueeze(c: Call) -> Tensor:
    axes = _axes(c) or []
    rank = c.rank() + len(axes)
    axes = sorted({c.normal_axis(a, rank) for a in axes})
    # Written from the end where that is shorter to read: the last axis is -1.
    shown = -1 if axes == [rank - 1] else axes[0] if len(axes) == 1 else tuple(axes)
    return c.tensor_of(c.op("unsqueeze", c.x(), axis=shown) if axes else c.x(), c.tensor(0).nonnegative)


@folds("Transpose")
def fold_transpose(c: Call, x: np.ndarray) -> np.ndarray:
    return x.transpose(c.attr("perm"))


@imports("Transpose")
def transpose(c: Call) -> Result:
    perm = c.attr("perm") or list(range(c.rank()))[::-1]
    if sorted(perm) != list(range(c.rank())):
        c.misfit(f"{perm} is not an order of the {c.rank()} axes of {c.type()}")
    tensor = c.tensor(0)
    if tensor.weight is not None and tensor.value is None:
        # A weight stays one, with its axes turned, so that whoever reads it may undo that.
        order = tuple(perm) if tensor.perm is None else tuple(tensor.perm[i] for i in perm)
        turned = TensorType(tensor.type.dtype, tuple(tensor.type.shape[i] for i in perm))
        plain = order == tuple(range(len(order)))
        return Tensor(turned, weight=tensor.weight, perm=None if plain else order)
    return c.transpose(c.x(), perm)


# Joining and cutting -------------------------------------------------------------------------------------------------


@folds("Concat")
def fold_concat(c: Call, *arrays: np.ndarray) -> np.ndarray:
    return limited(np.concatenate(arrays, axis=c.attr("axis", 0)))


@imports("Concat")
def concat(c: Call) -> Value:
    rank = c.rank()
    axis = c.axis(0)
    for i in range(1, len(c.inputs)):
        if c.rank(i) != rank:
            c.misfit(f"{c.type(i)} is joined with {c.type()}")
        for a in range(rank):
            if a != axis:
                c.equal(c.shape()[a], c.shape(i)[a], f"axis {a} of what is joined along axis {axis}")
    values = [c.x(i) for i in range(len(c.inputs)) if c.shape(i)[axis] != 0 or len(c.inputs) == 1]
    return values[0] if len(values) == 1 else c.op("concat", *(values or [c.x()]), axis=axis)


@folds("Slice")
def fold_slice(c: Call, x: np.ndarray, *bounds: np.ndarray | None) -> np.ndarray:
    starts, ends = _plain(bounds[0]), _plain(bounds[1])
    axes = _plain(bounds[2]) if len(bounds) > 2 and bounds[2] is not None else list(range(len(starts)))
    steps = _plain(bounds[3]) if len(bounds) > 3 and bounds[3] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index = [slice(None)] * x.ndim
        stop: int | None = end
        if step < 0 and end < -x.shape[axis]:
            stop = None
        index[axis] = slice(start, stop, step)
        x = x[tuple(index)]
    return x


@imports("Slice")
def slice_(c: Call) -> Tensor:
    starts, ends = c.dims(1, "where the slice starts"), c.dims(2, "where the slice ends")
    axes = c.numbers(3, "the axes") if c.has(3) else list(range(len(starts)))
    steps = c.numbers(4, "the steps") if c.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        c.misfit("starts, ends, axes and steps differ in number")
    value = c.x()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        value = cut(c, value, c.normal_axis(axis, value.type.rank), start, end, step)
    return c.tensor_of(value, c.tensor(0).nonnegative)


def cut(c: Call, x: Value, axis: int, start: Dim, end: Dim, step: int) -> Value:
    """``x[start:end:step]`` along an axis, as NumPy has it: bounds beyond the axis are its ends."""
    size = x.type.shape[axis]
    if step == 0:
        c.misfit("a slice with step 0")
    bounds = start, end
    if step < 0:
        # From behind: the reversed axis, cut at the mirrored bounds.
        start, end = _clamp(start, size, -1, size - 1), _clamp(end, size, -1, size - 1)
        x = c.op("flip", x, axis=axis)
        start, end, step = size - 1 - start, size - 1 - end, -step
    else:
        start, end = (_within(c, _clamp(bound, size, 0, size), size) for bound in (start, end))
    if prove_ge(start, end):
        # Nothing, unless a bound that may be negative is, and counts from the end.
        for bound in bounds:
            if bound.value is None and not prove_ge(-1, bound):
                c.importer.require(bound, ">=", const(0))
        end = start
    if start == 0 and end == size and step == 1:
        return x
    first = _from_end(start, size)
    stop = None if end == size else _from_end(end, size)
    return c.op("slice", x, axis=axis, start=first, stop=stop, step=step)


# Exporters write the largest integer for an open end.
_ENDLESS = (1 << 31) - 1


def _clamp(bound: Dim, size: Dim, low: int, high: Dim) -> Dim:
    """A bound counted from the front and within the axis, as far as that can be told."""
    if bound.value is not None and bound.value <= -_ENDLESS:
        return const(low)
    if prove_ge(-1, bound):
        bound = bound + size
        if prove_ge(low, bound):
            return const(low)
    if bound.value is not None and bound.value >= _ENDLESS:
        return as_dim(high)
    return as_dim(high) if prove_ge(bound, high) else bound


def _within(c: Call, bound: Dim, size: Dim) -> Dim:
    """A number that may lie beyond a free size: the size is where the slice ends then."""
    if bound.value is None or size.value is not None or c.at_most(bound, size):
        return bound
    return c.importer.extremum(dim_min(bound, size))


def _from_end(bound: Dim, size: Dim) -> int | Dim:
    """``T - 1`` of an axis of ``T`` is -1, so that a slice follows when a pass shrinks the axis."""
    offset = (bound - size).value
    if bound.value is None and offset is not None and offset < 0:
        return offset
    return bound if bound.value is None else bound.value


@folds("Split")
def fold_split(c: Call, x: np.ndarray, sizes: np.ndarray | None = None) -> list[np.ndarray]:
    if sizes is None:
        count, size = len(c.node.output), x.shape[c.attr("axis", 0)]
        part = -(-size // count)
        if size % count and (c.opset < 18 or part * (count - 1) > size):
            raise Unfoldable
        return list(np.split(x, range(part, part * count, part), axis=c.attr("axis", 0)) if part else [x] * count)
    return list(np.split(x, np.cumsum(_plain(sizes))[:-1], axis=c.attr("axis", 0)))


@imports("Split")
def split(c: Call) -> list[Value]:
    axis = c.axis(0)
    size = c.shape()[axis]
    if c.has(1):
        sizes = c.dims(1, "the sizes of the parts")
        c.equal(sum(sizes, const(0)), size, f"the parts of axis {axis}")
    else:
        count = len(c.node.output)
        if c.attr("num_outputs", count) != count:
            c.misfit(f"num_outputs is not the number of results, {count}")
        part = -(-size // count)
        if prove_ge(part * (count - 1), size + 1):
            c.misfit(f"axis {axis} of {size} elements cut into {count} parts of {part}")
        if c.opset < 18 and part * count != size:
            c.equal(size // count * count, size, f"axis {axis}, which is cut into {count} equal parts")
        sizes = [part] * (count - 1) + [size - part * (count - 1)]
    x, at, parts = c.x(), const(0), []
    for n in sizes[: len(c.node.output)]:
        stop = at + n
        parts.append(x if at == 0 and stop == size else cut(c, x, axis, at, stop, 1))
        at = stop
    return parts


# Repeating and padding -----------------------------------------------------------------------------------------------


@folds("Expand")
def fold_expand(c: Call, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    sizes = np.broadcast_shapes(x.shape, tuple(_plain(shape)))
    if np.prod([float(n) for n in sizes]) > MOST_ELEMENTS:
        raise Unfoldable
    return np.broadcast_to(x, sizes).copy()


@imports("Expand")
def expand(c: Call) -> Tensor:
    shape = expanded(c, c.shape(), c.dims(1, "the new shape"))
    known = c.tensor(0).known
    if known is not None and known.size == 1 and known.dtype != object and list(c.shape()) != shape:
        value = short(known.reshape(-1)[0])
        return Tensor(TensorType(c.type().dtype, tuple(shape)), fill=value, nonnegative=value >= 0)
    return c.tensor_of(c.expand(c.x(), shape), c.tensor(0).nonnegative)


def expanded(c: Call, old: Sequence[Dim], wanted: Sequence[Dim]) -> list[Dim]:
    """The two shapes broadcast; free sizes that must be equal become so."""
    shape = [const(1)] * max(len(old), len(wanted))
    for dims in (old, wanted):
        for i in range(1, len(dims) + 1):
            if shape[-i] == 1:
                shape[-i] = dims[-i]
            elif dims[-i] != 1:
                c.equal(shape[-i], dims[-i], f"axis {-i}")
    return shape


@folds("Tile")
def fold_tile(c: Call, x: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    times = _plain(repeats)
    if x.size * np.prod([float(n) for n in times]) > MOST_ELEMENTS:
        raise Unfoldable
    return np.tile(x, times)


@imports("Tile")
def tile(c: Call) -> Result:
    x, shape = c.x(), c.shape()
    repeats = c.dims(1, "the number of repetitions")
    if len(repeats) != len(shape):
        c.misfit(f"{len(repeats)} repetitions of {c.type()}")
    if all(r == 1 for r in repeats):
        return x
    if any(r == 0 for r in repeats):
        return Tensor(TensorType(c.type().dtype, tuple(d * r for r, d in zip(repeats, shape, strict=True))), fill=0)
    if all(r == 1 or d == 1 for r, d in zip(repeats, shape, strict=True)):
        return c.expand(x, [d * r for r, d in zip(repeats, shape, strict=True)])
    # Each repeated axis gets one in front of it, along which the tensor is the same.
    split = [part for r, d in zip(repeats, shape, strict=True) for part in ((d,) if r == 1 else (const(1), d))]
    wide = [part for r, d in zip(repeats, shape, strict=True) for part in ((d,) if r == 1 else (r, d))]
    return c.reshape(c.expand(c.reshape(x, split), wide), [d * r for r, d in zip(repeats, shape, strict=True)])


@imports("Pad")
def pad(c: Call) -> Value:
    mode = c.attr("mode", "constant")
    pads = c.dims(1, "the padding")
    rank = c.rank()
    axes = [c.normal_axis(a, rank) for a in c.numbers(3, "the axes")] if c.has(3) else list(range(rank))
    if len(pads) != 2 * len(axes):
        c.misfit(f"{len(pads)} paddings for {len(axes)} axes")
    x = c.x()
    fill: Any = 0
    if c.has(2):
        known = c.known(2)
        if known is None:
            return _filled(c, pads, axes, mode)
        fill = known.reshape(-1)[0].item()
    dtype = x.type.dtype
    if dtype == boolean:
        x, fill = c.cast(x, u8), int(fill)
    for i, axis in enumerate(axes):
        x = _pad_axis(c, x, axis, pads[i], pads[i + len(axes)], mode, fill)
    return c.cast(x, dtype)


def _filled(c: Call, pads: list[Dim], axes: list[int], mode: str) -> Value:
    """Padded with a value that only run time knows: where padded ones of x are 0."""
    x, inside = c.x(), c.op("full", shape=c.shape(), value=1, dtype=u8)
    for i, axis in enumerate(axes):
        x, inside = (_pad_axis(c, y, axis, pads[i], pads[i + len(axes)], mode, 0) for y in (x, inside))
    fill = c.reshape(c.x(2), ())
    return x if mode != "constant" else c.op("where", c.cast(inside, boolean), x, fill)


def _pad_axis(c: Call, x: Value, axis: int, before: Dim, after: Dim, mode: str, fill: Any) -> Value:
    for side, end in ((before, False), (after, True)):
        if prove_ge(-1, side):  # negative padding cuts off
            size = x.type.shape[axis]
            x = cut(c, x, axis, const(0), size + side, 1) if end else cut(c, x, axis, -side, size, 1)
    before, after = (const(0) if prove_ge(-1, d) else d for d in (before, after))
    if before == 0 and after == 0:
        return x
    if mode == "constant":
        amounts = {"before": before, "after": after}
        return c.op("pad", x, axis=axis, value=fill, **amounts)
    names = {"reflect": "reflect", "edge": "edge", "wrap": "circular"}
    if mode not in names:
        c.refuse(f'mode="{mode}"')
    if x.type.shape[axis] == 0:
        c.misfit(f"axis {axis} of {x.type} has no elements to repeat")
    return c.op("pad", x, axis=axis, before=before, after=after, mode=names[mode])
