"""Pooling over windows, and to a given size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ....ir.dims.dim import Dim, as_dim, ceildiv, const, dim_max, dim_min
from ....ir.graph import Value
from ....ir.types import i64
from ..protocol import Import, Unsupported, aten
from .creation import as_number
from .resize import along, resize
from .shape import pad


def _many(value: Any, axes: int) -> tuple[int, ...]:
    """An option that may be one number, a list of one, or one an axis."""
    given = value if isinstance(value, tuple) else (value,)
    return given * axes if len(given) == 1 else given


def _count(size: Dim, reach: int, step: int, padding: int, ceil_mode: bool) -> Dim:
    """The number of windows of ``reach + 1`` elements. One that only ceil mode adds begins before the right padding."""
    room = size + 2 * padding - reach - 1
    return dim_min(ceildiv(room, step) + 1, ceildiv(size + padding, step)) if ceil_mode else room // step + 1


def _beyond(size: Dim, count: Dim, reach: int, step: int, padding: int) -> Dim:
    """By how much the last window reaches over the padding."""
    return dim_max(0, (count - 1) * step + reach + 1 - size - 2 * padding)


def _least(x: Value) -> float:
    return float("-inf") if x.type.dtype.kind == "float" else int(np.iinfo(x.type.dtype.numpy).min)


def _of_the_core(x: Value, axes: int) -> bool:
    """Whether the language has the pooling: of one or two axes of a batch."""
    return axes < 3 and x.type.rank == axes + 2 and x.type.dtype.kind == "float"


def _max_pool(
    i: Import, x: Value, axes: int, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> Value:  # fmt: skip
    size, padded, gaps = _many(kernel, axes), _many(padding, axes), _many(dilation, axes)
    steps = _many(stride, axes) if stride else size
    if _of_the_core(x, axes) and set(gaps) == {1} and (ceil_mode or axes == 1):
        return i.op(f"max_pool{axes}d", x, kernel=size, stride=steps, padding=padded, ceil_mode=ceil_mode)
    # Axis by axis: the maximum of shifted slices.
    for place in range(axes):
        axis = x.type.rank - axes + place
        reach, step = (size[place] - 1) * gaps[place], steps[place]
        count = _count(x.type.shape[axis], reach, step, padded[place], ceil_mode)
        after = _beyond(x.type.shape[axis], count, reach, step, padded[place]) + padded[place] if ceil_mode else padded[place]
        x = pad(i, x, [0, 0] * (axes - 1 - place) + [padded[place], after], _least(x))
        best: Value | None = None
        for shift in range(0, reach + 1, gaps[place]):
            part = i.slice(x, axis, shift, (count - 1) * step + shift + 1, step)
            best = part if best is None else i.op("maximum", best, part)
        assert best is not None
        x = best
    return x


def _places(i: Import, x: Value, axes: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Value:
    """Where in its plane the largest element of each window stands, the first of equal ones."""
    size, padded, gaps = _many(kernel, axes), _many(padding, axes), _many(dilation, axes)
    steps = _many(stride, axes) if stride else size
    lead, plane = x.type.rank - axes, x.type.shape[x.type.rank - axes :]
    values = x
    flat: Value | None = None
    # The windows' places along each axis, which x is read at: x becomes [..., out, k, out, k].
    for place in range(axes):
        reach = (size[place] - 1) * gaps[place]
        count = _count(plane[place], reach, steps[place], padded[place], ceil_mode)
        starts = i.op("mul", i.op("iota", n=count, dtype=i64), i.scalar(steps[place], i64))
        within = i.op("mul", i.op("iota", n=size[place], dtype=i64), i.scalar(gaps[place], i64))
        at = i.op("sub", i.op("add", i.op("unsqueeze", starts, axis=1), within), i.scalar(padded[place], i64))
        zero, last = i.scalar(0, i64), i.scalar(plane[place] - 1, i64)
        inside = i.op("logical_and", i.op("ge", at, zero), i.op("le", at, last))
        at = i.op("minimum", i.op("maximum", at, zero), last)
        axis = lead + 2 * place
        rest = [const(1)] * (2 * (axes - place) - 2)
        trailing = [1] * (axes - place - 1)
        picked = i.op("take", values, at, axis=axis)
        mask = i.reshape(inside, [*at.type.shape, *trailing])
        values = i.op("where", mask, picked, i.scalar(_least(x), x.type.dtype))
        spread = i.reshape(at, [*at.type.shape, *rest])
        flat = spread if flat is None else i.op("add", i.op("mul", flat, i.scalar(plane[place], i64)), spread)
    assert flat is not None
    shape = values.type.shape[lead:]
    order = [*range(0, 2 * axes, 2), *range(1, 2 * axes, 2)]
    window = int(np.prod(size))
    values = i.transpose(values, [*range(lead), *(lead + a for a in order)])
    values = i.reshape(values, [*x.type.shape[:lead], *shape[::2], window])
    best = i.op("argmax", values, axis=-1, keepdims=True)
    flat = i.reshape(i.transpose(i.expand(flat, shape), order), [*shape[::2], window])
    wide = i.expand(flat, values.type.shape)
    return i.op("squeeze", i.op("gather", wide, best, axis=values.type.rank - 1), axis=-1)


def _max_pools(axes: int) -> None:
    @aten(f"max_pool{axes}d")
    def values(i: Import, x: Value, *options: Any) -> Value:
        return _max_pool(i, x, axes, *options)

    @aten(f"max_pool{axes}d_with_indices")
    def both(
        i: Import, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> list[Value | Callable[[], Value]]:
        options = (kernel, stride, padding, dilation, ceil_mode)
        return [_max_pool(i, x, axes, *options), lambda: _places(i, x, axes, *options)]


def _avg_pools(axes: int) -> None:
    @aten(f"avg_pool{axes}d")
    def importer(
        i: Import, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor: Any = None,
    ) -> Value:  # fmt: skip
        if x.type.dtype.kind != "float":
            raise Unsupported("average pooling of integers")
        if x.type.rank == axes + 1:
            one = i.op("unsqueeze", x, axis=0)
            return i.op("squeeze", importer(i, one, kernel, stride, padding, ceil_mode, count_include_pad, divisor), axis=0)
        size, padded = _many(kernel, axes), _many(padding, axes)
        steps = _many(stride, axes) if stride else size
        if divisor is None and _of_the_core(x, axes) and (ceil_mode or axes == 1 or x.type.shape[1].value is None):
            options = {"kernel": size, "stride": steps, "padding": padded, "ceil_mode": ceil_mode}
            return i.op(f"avg_pool{axes}d", x, count_include_pad=count_include_pad, **options)
        return _averages(i, x, size, steps, padded, ceil_mode, count_include_pad, divisor)


def _averages(
    i: Import, x: Value, size: Sequence[int], steps: Sequence[int], padded: Sequence[int], ceil_mode: bool,
    count_include_pad: bool, divisor: Any,
) -> Value:  # fmt: skip
    """A convolution with equal weights, divided by the share of each window that counts."""
    dtype, shape, axes = x.type.dtype, x.type.shape, len(size)
    share = 1.0 / float(np.prod(size)) if divisor is None else 1.0 / divisor
    options: dict[str, Any] = {"stride": tuple(steps), "padding": tuple(padded)}
    extra = [const(0)] * axes
    if ceil_mode:
        counts = [_count(d, k - 1, s, p, True) for d, k, s, p in zip(shape[2:], size, steps, padded, strict=True)]
        extra = [
            _beyond(d, n, k - 1, s, p) for d, n, k, s, p in zip(shape[2:], counts, size, steps, padded, strict=True)
        ]
    over = any(e != 0 for e in extra)
    if over:
        widths = [w for p, e in zip(reversed(padded), reversed(extra), strict=True) for w in (p, e + p)]
        x, options["padding"] = pad(i, x, widths, 0.0), (0,) * axes
    channels = shape[1].value
    if channels is None:
        x = i.reshape(x, [shape[0] * shape[1], 1, *x.type.shape[2:]])
    weight = i.op("full", shape=(channels or 1, 1, *size), value=share, dtype=dtype)
    y = i.op("conv", x, weight, groups=channels or 1, **options)
    if channels is None:
        y = i.reshape(y, [*shape[:2], *y.type.shape[2:]])
    if divisor is not None or (not over and (count_include_pad or not any(padded))):
        return y
    # The share of each window that lies within the image, or within its padding where that counts.
    inside = i.op("full", shape=(1, 1, *shape[2:]), value=1.0, dtype=dtype)
    if over:
        around = [w for p in reversed(padded) for w in (p, p)]
        inside = pad(i, inside, around, float(count_include_pad))
        inside = pad(i, inside, [w for e in reversed(extra) for w in (0, e)], 0.0)
    counted = i.op("full", shape=(1, 1, *size), value=share, dtype=dtype)
    return i.op("div", y, i.op("conv", inside, counted, **options))


for _axes in (1, 2, 3):
    _max_pools(_axes)
    _avg_pools(_axes)


# To a given size -----------------------------------------------------------------------------------------------------


def _target(x: Value, size: Sequence[Any], axes: int) -> list[Dim]:
    given = list(size) * axes if len(size) == 1 else size
    return [x.type.shape[x.type.rank - axes + a] if s is None else as_dim(s) for a, s in enumerate(given)]


def _adaptive(axes: int) -> None:
    @aten(f"adaptive_avg_pool{axes}d", f"_adaptive_avg_pool{axes}d")
    def averages(i: Import, x: Value, size: Sequence[Any]) -> Value:
        wanted, first = _target(x, size, axes), x.type.rank - axes
        if all(d == 1 for d in wanted):
            return i.op("mean", x, axis=tuple(range(first, x.type.rank)), keepdims=True)
        if axes == 2 and x.type.rank == 4:
            return resize(i, x, tuple(wanted), "pool")
        for a, target in enumerate(wanted):
            source = x.type.shape[first + a]
            if source != target:
                matrix = i.call("std.vision.pool_matrix", source=as_number(source), target=as_number(target))
                x = along(i, x, first + a, matrix)
        return x

    @aten(f"adaptive_max_pool{axes}d")
    def largest(i: Import, x: Value, size: Sequence[Any]) -> list[Value | None]:
        first = x.type.rank - axes
        for a, target in enumerate(_target(x, size, axes)):
            x = _largest(i, x, first + a, target)
        return [x, None]


def _largest(i: Import, x: Value, axis: int, target: Dim) -> Value:
    """The largest element of each of ``target`` parts of an axis, of which neighbours may share an element."""
    source = x.type.shape[axis]
    if target == 1:
        return i.op("max", x, axis=axis, keepdims=True)
    if source.value is None or target.value is None:
        raise Unsupported("a maximum of parts of a size that is not known")
    parts = []
    for at in range(target.value):
        stop = -(-(at + 1) * source.value // target.value)
        parts.append(i.op("max", i.slice(x, axis, at * source.value // target.value, stop), axis=axis, keepdims=True))
    return i.op("concat", *parts, axis=axis)


for _axes in (1, 2, 3):
    _adaptive(_axes)
