"""Resizing and pooling, as products with constant matrices where they are linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.dims.dim import Dim, as_dim, const
from ....ir.graph import Value
from ....ir.types import f32, i64
from ..protocol import Import, Unsupported, aten, axis_of
from .creation import as_number
from .shape import pad


def _separable(i: Import, x: Value, rows: Value, columns: Value) -> Value:
    """Applies one matrix to the rows and one to the columns of x [B, C, H, W]."""
    wide = i.cast(x, f32)
    y = i.op("einsum", rows, wide, equation="p h, b c h w -> b c p w")
    return i.cast(i.op("einsum", columns, y, equation="q w, b c p w -> b c p q"), x.type.dtype)


def _resized(x: Value, size: Any, scales: Any) -> tuple[Dim, ...]:
    if size is not None:
        return tuple(as_dim(d) for d in size)
    result = []
    for dim, scale in zip(x.type.shape[2:], scales, strict=True):
        if scale == int(scale):
            result.append(dim * int(scale))
        elif dim.value is not None:
            result.append(const(int(dim.value * scale)))
        else:
            raise Unsupported("resizing a size that is not known by a fraction")
    return tuple(result)


def _resize(i: Import, x: Value, size: tuple[Dim, ...], matrix: str) -> Value:
    if size == x.type.shape[2:]:
        return x
    name = f"std.vision.{matrix}_matrix"
    rows, columns = (
        i.call(name, source=as_number(s), target=as_number(t)) for s, t in zip(x.type.shape[2:], size, strict=True)
    )
    return _separable(i, x, rows, columns)


def _between_corners(i: Import, source: Dim, target: Dim) -> Value:
    """The matrix [target, source] of linear resizing in which the first and the last elements stay in place."""
    if target == 1:
        return i.cast(i.op("eq", i.op("unsqueeze", i.op("iota", n=source, dtype=i64), axis=0), i.scalar(0, i64)), f32)
    step = i.op("div", i.scalar(source - 1, f32), i.scalar(target - 1, f32))
    at = i.op("unsqueeze", i.op("mul", i.op("iota", n=target, dtype=f32), step), axis=1)
    distance = i.op("abs", i.op("sub", at, i.op("unsqueeze", i.op("iota", n=source, dtype=f32), axis=0)))
    return i.op("maximum", i.op("sub", i.scalar(1.0, f32), distance), i.scalar(0.0, f32))


def _interpolation(method: str) -> None:
    @aten(f"upsample_{method}2d.vec")
    def importer(i: Import, x: Value, size: Any, align_corners: bool, scales: Any = None) -> Value:
        wanted = _resized(x, size, scales)
        if align_corners and wanted != x.type.shape[2:]:
            if method != "bilinear":
                raise Unsupported("bicubic resizing with align_corners=True")
            rows, columns = (_between_corners(i, s, t) for s, t in zip(x.type.shape[2:], wanted, strict=True))
            return _separable(i, x, rows, columns)
        _check_scales(x, wanted, scales)
        return _resize(i, x, wanted, method)

    @aten(f"upsample_{method}2d")
    def sized(i: Import, x: Value, size: Any, align_corners: bool, scale_h: Any = None, scale_w: Any = None) -> Value:
        scales = None if scale_h is None else (scale_h, scale_w)
        return importer(i, x, size, align_corners, scales)

    @aten(f"_upsample_{method}2d_aa")
    def antialias(i: Import, x: Value, size: Any, align_corners: bool, *scales: Any) -> Value:
        wanted = tuple(as_dim(d) for d in size)
        if any((a.value or 0) > (b.value or 0) for a, b in zip(x.type.shape[2:], wanted, strict=True)):
            raise Unsupported("shrinking with antialias=True")
        return importer(i, x, size, align_corners)


def _check_scales(x: Value, wanted: tuple[Dim, ...], scales: Any) -> None:
    """PyTorch samples by a given scale, not by the ratio of the sizes; the two must be one."""
    for dim, target, scale in zip(x.type.shape[2:], wanted, scales or (), strict=False):
        known = target.value is not None and dim.value is not None
        exact = target.value == dim.value * scale if known else target == dim * int(scale) and scale == int(scale)  # type: ignore[operator]
        if not exact:
            raise Unsupported(f"resizing {dim} to {target} by the scale {scale}, which is not their ratio")


for _method in ("bilinear", "bicubic"):
    _interpolation(_method)


@aten("upsample_nearest2d.vec")
def _nearest(i: Import, x: Value, size: Any, scales: Any = None) -> Value:
    wanted = _resized(x, size, scales)
    for axis, target in enumerate(wanted, 2):
        source = x.type.shape[axis]
        if target != source:
            index = i.op("mul", i.op("iota", n=target, dtype=i64), i.scalar(source, i64))
            x = i.op("take", x, i.op("floordiv", index, i.scalar(target, i64)), axis=axis)
    return x


@aten("adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def _adaptive_pool(i: Import, x: Value, size: Sequence[Any]) -> Value:
    if tuple(size) == (1, 1):
        return i.op("mean", x, axis=(x.type.rank - 2, x.type.rank - 1), keepdims=True)
    if x.type.rank != 4:
        raise Unsupported("pooling an image without a batch")
    return _resize(i, x, tuple(as_dim(d) for d in size), "pool")


@aten("adaptive_avg_pool1d")
def _adaptive_pool_1d(i: Import, x: Value, size: Sequence[Any]) -> Value:
    if tuple(size) == (1,):
        return i.op("mean", x, axis=x.type.rank - 1, keepdims=True)
    matrix = i.call("std.vision.pool_matrix", source=as_number(x.type.shape[-1]), target=as_number(size[0]))
    return i.op("matmul", x, i.op("transpose", matrix, perm=(1, 0)))


def _pair(value: Any) -> tuple[int, int]:
    """An option that may be one number, a list of one, or two."""
    given = value if isinstance(value, tuple) else (value,)
    return (given[0], given[-1])


def _windows(value: Any, spatial: int) -> tuple[int, ...]:
    """An option of a window, one number an axis."""
    return tuple(value) * (spatial // len(value)) if isinstance(value, tuple) else (value,) * spatial


@aten("avg_pool1d")
def _avg_pool_1d(
    i: Import, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Value:  # fmt: skip
    if x.type.rank != 3:
        raise Unsupported("pooling without a batch")
    options = {"stride": _windows(stride, 1) if stride else None, "padding": _windows(padding, 1)}
    return i.op("avg_pool1d", x, kernel=_windows(kernel, 1), ceil_mode=ceil_mode, count_include_pad=count_include_pad, **options)


@aten("max_pool1d")
def _max_pool_1d(
    i: Import, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Value:
    if x.type.rank != 3 or _windows(dilation, 1) != (1,):
        raise Unsupported("pooling without a batch, or of places that lie apart")
    options = {"stride": _windows(stride, 1) if stride else None, "padding": _windows(padding, 1)}
    return i.op("max_pool1d", x, kernel=_windows(kernel, 1), ceil_mode=ceil_mode, **options)


@aten("avg_pool2d")
def _avg_pool(
    i: Import, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor: Any = None,
) -> Value:  # fmt: skip
    size, padded = _pair(kernel), _pair(padding)
    options = {"stride": _pair(stride) if stride else size, "padding": padded}
    channels = x.type.shape[axis_of(1, x.type.rank)].value
    if divisor is not None or x.type.rank != 4:
        raise Unsupported("average pooling that divides by a number of its own, or has no batch")
    if ceil_mode or channels is None:
        return i.op("avg_pool2d", x, kernel=size, ceil_mode=ceil_mode, count_include_pad=count_include_pad, **options)
    dtype = x.type.dtype
    weight = i.op("full", shape=(channels, 1, *size), value=1.0 / (size[0] * size[1]), dtype=dtype)
    y = i.op("conv", x, weight, groups=channels, **options)
    if count_include_pad or padded == (0, 0):
        return y
    # The share of each window that lies within the image.
    inside = i.op("full", shape=(1, 1, *x.type.shape[2:]), value=1.0, dtype=dtype)
    share = i.op("full", shape=(1, 1, *size), value=1.0 / (size[0] * size[1]), dtype=dtype)
    return i.op("div", y, i.op("conv", inside, share, **options))


def _max_pool(
    i: Import, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Value:
    size, padded, gaps = _pair(kernel), _pair(padding), _pair(dilation)
    steps = _pair(stride) if stride else size
    if ceil_mode and x.type.rank == 4 and gaps == (1, 1) and x.type.dtype.kind == "float":
        return i.op("max_pool2d", x, kernel=size, stride=steps, padding=padded, ceil_mode=True)
    if ceil_mode or x.type.dtype.kind != "float":
        raise Unsupported("maximum pooling that rounds up without a batch or over places that lie apart, or of integers")
    # Rows, then columns: the maximum of shifted slices.
    for place in (0, 1):
        axis = x.type.rank - 2 + place
        widths = [0, 0] * (1 - place) + [padded[place], padded[place]]
        x = pad(i, x, widths, float("-inf"))
        reach = (size[place] - 1) * gaps[place]
        last = (x.type.shape[axis] - reach - 1) // steps[place] * steps[place]
        best: Value | None = None
        for shift in range(0, reach + 1, gaps[place]):
            part = i.slice(x, axis, shift, last + shift + 1, steps[place])
            best = part if best is None else i.op("maximum", best, part)
        assert best is not None
        x = best
    return x


@aten("max_pool2d")
def _max_pool_values(i: Import, x: Value, *options: Any) -> Value:
    return _max_pool(i, x, *options)


@aten("max_pool2d_with_indices")
def _max_pool_both(i: Import, x: Value, *options: Any) -> list[Value | None]:
    return [_max_pool(i, x, *options), None]
