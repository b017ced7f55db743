"""Ops that move elements without computing on them, and ops that make tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.dims.dim import Dim, as_dim, ceildiv, const, dim_max, dim_min, product, prove_ge
from ....ir.graph import Value
from ....ir.op import Trait, has
from ....ir.types import boolean, i64
from ..protocol import Import, Unsupported, aten, axis_of
from .elementwise import literal_of

# Other shapes --------------------------------------------------------------------------------------------------------


@aten("view", "reshape", "_unsafe_view", "view_copy", "_reshape_copy", "_reshape_alias")
def view(i: Import, x: Value, shape: Sequence[Any], *rest: Any) -> Value:
    dims = [as_dim(d) for d in shape]
    for axis, dim in enumerate(dims):
        if dim == -1:
            dims[axis] = _rest(x.type.shape, [d for d in dims if d != -1])
    return i.reshape(x, dims)


def _rest(shape: Sequence[Dim], known: Sequence[Dim]) -> Dim:
    """What is left of the elements of a shape for one axis beside others. Axes that are on both sides cancel out."""
    left, divisor = list(shape), []
    for dim in known:
        if dim in left:
            left.remove(dim)
        else:
            divisor.append(dim)
    return const(0) if product(known) == 0 else product(left) // product(divisor)


@aten("view.dtype")
def _view_dtype(i: Import, x: Value, dtype: Any) -> Value:
    raise Unsupported("reinterpreting bits as another dtype")


@aten("flatten.using_ints")
def _flatten(i: Import, x: Value, start: int = 0, end: int = -1) -> Value:
    if not x.type.rank:
        return i.reshape(x, [1])
    first, last = axis_of(start, x.type.rank), axis_of(end, x.type.rank)
    shape = x.type.shape
    return i.reshape(x, [*shape[:first], product(shape[first : last + 1]), *shape[last + 1 :]])


@aten("unflatten.int")
def _unflatten(i: Import, x: Value, axis: int, sizes: Sequence[Any]) -> Value:
    at, shape = axis_of(axis, x.type.rank), x.type.shape
    known = product(as_dim(s) for s in sizes if as_dim(s) != -1)
    return i.reshape(x, [*shape[:at], *(shape[at] // known if as_dim(s) == -1 else s for s in sizes), *shape[at + 1 :]])


@aten("unsqueeze", "unsqueeze_copy")
def _unsqueeze(i: Import, x: Value, axis: int) -> Value:
    at = axis_of(axis, x.type.rank + 1)
    return i.reshape(x, [*x.type.shape[:at], 1, *x.type.shape[at:]])


@aten("squeeze.dim", "squeeze.dims", "squeeze", "squeeze_copy.dim")
def _squeeze(i: Import, x: Value, axes: Any = None) -> Value:
    given = range(x.type.rank) if axes is None else axes if isinstance(axes, tuple) else (axes,)
    ones = tuple(sorted(a for a in (axis_of(a, x.type.rank) for a in given) if x.type.rank and x.type.shape[a] == 1))
    return i.reshape(x, [d for a, d in enumerate(x.type.shape) if a not in ones])


@aten("expand", "expand_copy", "broadcast_to")
def _expand(i: Import, x: Value, shape: Sequence[Any], *rest: Any) -> Value:
    added = len(shape) - x.type.rank
    kept = [x.type.shape[a - added] if as_dim(d) == -1 else as_dim(d) for a, d in enumerate(shape)]
    return i.expand(x, kept)


@aten("expand_as")
def _expand_as(i: Import, x: Value, other: Value) -> Value:
    return i.expand(x, other.type.shape)


@aten("permute", "permute_copy")
def _permute(i: Import, x: Value, order: Sequence[int]) -> Value:
    return i.transpose(x, [axis_of(a, x.type.rank) for a in order])


@aten("transpose.int", "transpose_copy.int", "swapaxes")
def transpose(i: Import, x: Value, a: int, b: int) -> Value:
    order = list(range(x.type.rank))
    a, b = axis_of(a, x.type.rank), axis_of(b, x.type.rank)
    if order:
        order[a], order[b] = order[b], order[a]
    return i.transpose(x, order)


@aten("t", "numpy_T", "mT", "t_copy")
def _t(i: Import, x: Value) -> Value:
    return transpose(i, x, -2, -1) if x.type.rank >= 2 else x


@aten("movedim.int")
def _movedim(i: Import, x: Value, source: int, target: int) -> Value:
    order = list(range(x.type.rank))
    order.insert(axis_of(target, x.type.rank), order.pop(axis_of(source, x.type.rank)))
    return i.transpose(x, order)


@aten("pixel_shuffle")
def _pixel_shuffle(i: Import, x: Value, factor: int) -> Value:
    axes = (("p", factor), ("q", factor))
    return i.op("rearrange", x, pattern="b (c p q) h w -> b c (h p) (w q)", axes=axes)


# Parts ---------------------------------------------------------------------------------------------------------------


def _place(i: Import, at: Any, size: Dim, default: Dim) -> Dim:
    """A slice's bound within 0 … size, as Python clamps it."""
    if at is None:
        return default
    dim = as_dim(at)
    if dim.value is not None and dim.value >= 2**62:
        return size
    if prove_ge(-1, dim):  # counted from the end, `-T` too
        dim = size + dim
        return dim if prove_ge(dim, 0, i.known.facts) else dim_max(0, dim)
    dim = i.known.size(dim)
    if dim == 0 or prove_ge(size, dim, i.known.facts):
        return dim
    if prove_ge(dim, size, i.known.facts):
        return size
    # Not provable, like `[:T]` of a table of 512 rows: PyTorch guarded it when exporting, and `slice` requires it.
    return dim if dim.value is None else dim_min(dim, size)


@aten("slice.Tensor", "slice_copy.Tensor")
def slice_(i: Import, x: Value, axis: int = 0, start: Any = None, stop: Any = None, step: Any = 1) -> Value:
    at = axis_of(axis, x.type.rank)
    size = x.type.shape[at]
    first, last = _place(i, start, size, const(0)), _place(i, stop, size, size)
    if prove_ge(first, last + 1):
        last = first
    if first == 0 and last == size and step == 1:
        return x
    if first == 0 and step == 1:
        counted = _shorter_count(i, x, at, last)
        if counted is not None:
            return counted
    # What is counted from the end stays so: the slice follows when a pass shrinks the axis.
    shown = [b if isinstance(b, int) and b < 0 and size + b == d else d for b, d in ((start, first), (stop, last))]
    end = None if last == size else shown[1]
    part = i.op("slice", x, axis=at, start=shown[0], stop=end, step=step)
    if step != 1 or part.type.shape[at] == last - first:
        return part
    # The language does not know what the program requires of its sizes.
    return i.op("slice", x, axis=at, start=first, stop=None if last == size else last)


def _shorter_count(i: Import, x: Value, axis: int, stop: Dim) -> Value | None:
    """The first positions of ``0, 1, …`` along ``axis`` are ``0, 1, …``, and the first of many equal numbers are equal."""
    shape = [stop if a == axis else d for a, d in enumerate(x.type.shape)]
    known = literal_of(x)
    if known is not None:
        return i.expand(i.scalar(known, x.type.dtype), shape)
    node = x.node
    while node is not None and has(node, Trait.RESHAPES) and node.inputs[0] is not None:
        node = node.inputs[0].node
    if node is None or node.op.name != "iota" or any(d != 1 for a, d in enumerate(x.type.shape) if a != axis):
        return None
    return i.reshape(i.op("iota", n=stop, dtype=x.type.dtype), shape)


@aten("select.int", "select_copy.int")
def select(i: Import, x: Value, axis: int, index: Any) -> Value:
    at = axis_of(axis, x.type.rank)
    if isinstance(index, Value):
        raise Unsupported("select by a tensor")
    stop = None if as_dim(index) == -1 else as_dim(index) + 1
    part = i.slice(x, at, index, stop)
    return i.reshape(part, [*x.type.shape[:at], *x.type.shape[at + 1 :]])


@aten("narrow")
def _narrow(i: Import, x: Value, axis: int, start: Any, length: Any) -> Value:
    return slice_(i, x, axis, start, as_dim(start) + length)


@aten("split_with_sizes", "split.sizes", "split_with_sizes_copy")
def _split_with_sizes(i: Import, x: Value, sizes: Sequence[Any], axis: int = 0) -> list[Value]:
    at, start, parts = axis_of(axis, x.type.rank), as_dim(0), []
    for size in sizes:
        parts.append(i.slice(x, at, start, start + size))
        start = start + size
    return parts


@aten("split.Tensor", "split_copy.Tensor")
def _split(i: Import, x: Value, size: Any, axis: int = 0) -> list[Value]:
    at = axis_of(axis, x.type.rank)
    whole = x.type.shape[at]
    count = ceildiv(whole, size).value
    if count is None:
        raise Unsupported("a split into a number of parts that is not known")
    return _split_with_sizes(i, x, [*[size] * (count - 1), whole - as_dim(size) * (count - 1)], at)


@aten("chunk")
def _chunk(i: Import, x: Value, count: int, axis: int = 0) -> list[Value]:
    at = axis_of(axis, x.type.rank)
    size = ceildiv(x.type.shape[at], count)
    number = ceildiv(x.type.shape[at], size).value if size.value is not None else count
    assert number is not None
    return _split_with_sizes(i, x, [*[size] * (number - 1), x.type.shape[at] - size * (number - 1)], at)


@aten("unbind.int", "unbind_copy.int")
def _unbind(i: Import, x: Value, axis: int = 0) -> list[Value]:
    count = x.type.shape[axis_of(axis, x.type.rank)].value
    if count is None:
        raise Unsupported("unbind of an axis whose size is not known")
    return [select(i, x, axis, at) for at in range(count)]


@aten("flip")
def _flip(i: Import, x: Value, axes: Sequence[int]) -> Value:
    for axis in axes:
        x = i.op("flip", x, axis=axis_of(axis, x.type.rank))
    return x


@aten("roll")
def _roll(i: Import, x: Value, shifts: Any, axes: Any = ()) -> Value:
    shift_list = shifts if isinstance(shifts, tuple) else (shifts,)
    axis_list = axes if isinstance(axes, tuple) else (axes,)
    if not axis_list:
        flat = _roll(i, i.reshape(x, [x.type.numel]), shift_list, (0,))
        return i.reshape(flat, x.type.shape)
    for shift, axis in zip(shift_list, axis_list, strict=True):
        at = axis_of(axis, x.type.rank)
        if x.type.shape[at] == 0:
            return x
        moved = as_dim(shift) % x.type.shape[at]
        if moved != 0:
            cut = x.type.shape[at] - moved
            x = i.op("concat", i.slice(x, at, cut, None), i.slice(x, at, 0, cut), axis=at)
    return x


# Joining -------------------------------------------------------------------------------------------------------------


@aten("cat", "concat", "concatenate")
def cat(i: Import, tensors: Sequence[Value], axis: int = 0) -> Value:
    # torch ignores empty tensors of one axis: cat([empty, x]) is x.
    parts = [t for t in tensors if not (t.type.rank == 1 and t.type.shape[0] == 0)] or list(tensors[:1])
    parts = i.together(*parts)
    return parts[0] if len(parts) == 1 else i.op("concat", *parts, axis=axis_of(axis, parts[0].type.rank))


@aten("stack")
def _stack(i: Import, tensors: Sequence[Value], axis: int = 0) -> Value:
    at = axis_of(axis, tensors[0].type.rank + 1)
    return cat(i, [i.op("unsqueeze", t, axis=at) for t in tensors], at)


@aten("repeat", "tile")
def _repeat(i: Import, x: Value, counts: Sequence[Any]) -> Value:
    shape = [const(1)] * (len(counts) - x.type.rank) + list(x.type.shape)
    times = [const(1)] * (len(shape) - len(counts)) + [as_dim(c) for c in counts]
    x = i.reshape(x, shape)
    moved = [(a, t) for a, t in enumerate(times) if t != 1]
    if any(t == 0 for _, t in moved):
        return i.expand(i.scalar(0, x.type.dtype), [t * d for t, d in zip(times, shape, strict=True)])
    if all(shape[a] == 1 for a, _ in moved):
        return i.expand(x, [t * d for t, d in zip(times, shape, strict=True)])
    for axis, count in moved:
        now = x.type.shape
        wide = i.op("expand", i.op("unsqueeze", x, axis=axis), shape=(*now[:axis], count, *now[axis:]))
        x = i.reshape(wide, [*now[:axis], count * now[axis], *now[axis + 1 :]])
    return x


@aten("repeat_interleave.self_int")
def _repeat_interleave(i: Import, x: Value, count: Any, axis: Any = None, *rest: Any) -> Value:
    if axis is None:
        x, axis = i.reshape(x, [x.type.numel]), 0
    at, shape = axis_of(axis, x.type.rank), x.type.shape
    wide = i.op("expand", i.op("unsqueeze", x, axis=at + 1), shape=(*shape[: at + 1], as_dim(count), *shape[at + 1 :]))
    return i.reshape(wide, [*shape[:at], shape[at] * count, *shape[at + 1 :]])


@aten("constant_pad_nd")
def pad(i: Import, x: Value, widths: Sequence[Any], value: Any = 0) -> Value:
    for pair in range(len(widths) // 2):
        axis, (before, after) = x.type.rank - 1 - pair, widths[2 * pair : 2 * pair + 2]
        cut = [as_dim(w).value or 0 for w in (before, after)]
        if min(cut) < 0:  # a negative width cuts
            size = x.type.shape[axis]
            x = i.slice(x, axis, max(0, -cut[0]), size + min(0, cut[1]))
            before, after = max(before, 0), max(after, 0)
        if (before, after) != (0, 0):
            if x.type.dtype == boolean:
                padded = i.op("pad", i.cast(x, i64), axis=axis, before=before, after=after, value=int(bool(value)))
                x = i.cast(padded, boolean)
            else:
                x = i.op("pad", x, axis=axis, before=before, after=after, value=value)
    return x


@aten("slice_scatter")
def _slice_scatter(
    i: Import, x: Value, source: Value, axis: int = 0, start: Any = None, stop: Any = None, step: Any = 1
) -> Value:
    at = axis_of(axis, x.type.rank)
    size = x.type.shape[at]
    first, last = _place(i, start, size, const(0)), _place(i, stop, size, size)
    source = i.cast(source, x.type.dtype)
    if step != 1:
        places = i.op("mul", i.op("iota", n=source.type.shape[at], dtype=i64), i.scalar(step, i64))
        places = places if first == 0 else i.op("add", places, i.scalar(first, i64))
        order = [at, *(a for a in range(x.type.rank) if a != at)]
        moved = i.op("scatter_set", i.transpose(x, order), places, i.transpose(source, order), batch=0)
        return i.transpose(moved, [order.index(a) for a in range(x.type.rank)])
    parts = [i.slice(x, at, 0, first)] if first != 0 else []
    parts.append(source)
    if last != size:
        parts.append(i.slice(x, at, last, None))
    return parts[0] if len(parts) == 1 else i.op("concat", *parts, axis=at)


@aten("select_scatter")
def _select_scatter(i: Import, x: Value, source: Value, axis: int, index: Any) -> Value:
    at = axis_of(axis, x.type.rank)
    position = as_dim(index)
    if position.value is not None and position.value < 0:
        position = x.type.shape[at] + position
    return _slice_scatter(i, x, i.op("unsqueeze", source, axis=at), at, position, position + 1)


def _triangle(i: Import, x: Value, diagonal: Any, op: str) -> Value:
    rows, columns = x.type.shape[-2:]
    row = i.op("unsqueeze", i.op("iota", n=rows, dtype=i64), axis=1)
    column = i.op("unsqueeze", i.op("iota", n=columns, dtype=i64), axis=0)
    shifted = row if diagonal == 0 else i.op("add", row, i.scalar(diagonal, i64))
    inside = i.op(op, column, shifted)
    if x.type.dtype == boolean:
        return i.op("logical_and", x, inside)
    return i.op("where", inside, x, i.scalar(0, x.type.dtype))


@aten("tril")
def _tril(i: Import, x: Value, diagonal: Any = 0) -> Value:
    return _triangle(i, x, diagonal, "le")


@aten("triu")
def _triu(i: Import, x: Value, diagonal: Any = 0) -> Value:
    return _triangle(i, x, diagonal, "ge")


@aten("meshgrid.indexing", "meshgrid")
def _meshgrid(i: Import, tensors: Sequence[Value], indexing: str = "ij") -> list[Value]:
    order = [1, 0, *range(2, len(tensors))] if indexing == "xy" and len(tensors) > 1 else list(range(len(tensors)))
    sizes = [tensors[a].type.numel for a in order]
    grids = []
    for number, tensor in enumerate(tensors):
        at = order.index(number)
        shape = [tensor.type.numel if a == at else const(1) for a in range(len(sizes))]
        grids.append(i.expand(i.reshape(tensor, shape), sizes))
    return grids
