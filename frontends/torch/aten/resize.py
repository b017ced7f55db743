"""Resizing, as products with constant matrices where it is linear; and elements at points of an image."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ....ir.dims.dim import Dim, as_dim, const
from ....ir.graph import Value
from ....ir.types import f32, i64
from ..protocol import Import, Unsupported, aten
from .creation import as_number


def _separable(i: Import, x: Value, rows: Value, columns: Value) -> Value:
    """Applies one matrix to the rows and one to the columns of x [B, C, H, W]."""
    wide = i.cast(x, f32)
    y = i.op("einsum", rows, wide, equation="p h, b c h w -> b c p w")
    return i.cast(i.op("einsum", columns, y, equation="q w, b c p w -> b c p q"), x.type.dtype)


def along(i: Import, x: Value, axis: int, matrix: Value) -> Value:
    """Applies a matrix [target, source] to one axis of x."""
    names = [f"a{a}" for a in range(x.type.rank)]
    result = ["p" if a == axis else n for a, n in enumerate(names)]
    y = i.op("einsum", matrix, i.cast(x, f32), equation=f"p a{axis}, {' '.join(names)} -> {' '.join(result)}")
    return i.cast(y, x.type.dtype)


def _scaled(dim: Dim, scale: float) -> Dim:
    """A size times a scale, rounded down as it is in double precision."""
    if scale == int(scale):
        return dim * int(scale)
    if dim.value is not None:
        return const(int(dim.value * scale))
    ratio = Fraction(scale).limit_denominator(64)
    sizes = np.arange(1, 1 << 14)
    if not np.array_equal(sizes * ratio.numerator // ratio.denominator, np.floor(sizes * scale)):
        raise Unsupported(f"resizing a size that is not known by {scale}")
    return dim * ratio.numerator // ratio.denominator


def _resized(x: Value, size: Any, scales: Any) -> tuple[Dim, ...]:
    if size is not None:
        return tuple(as_dim(d) for d in size)
    return tuple(_scaled(dim, scale) for dim, scale in zip(x.type.shape[2:], scales, strict=True))


def resize(i: Import, x: Value, size: tuple[Dim, ...], matrix: str) -> Value:
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


def _steps(x: Value, wanted: tuple[Dim, ...], scales: Any) -> list[float]:
    """How far neighbouring results lie apart along each axis where a given scale says so; 0 for the ratio of the sizes."""
    steps = []
    for dim, target, scale in zip(x.type.shape[2:], wanted, scales or [None] * len(wanted), strict=True):
        if scale is None:
            steps.append(0.0)
            continue
        known = target.value is not None and dim.value is not None
        exact = target.value == dim.value * scale if known else scale == int(scale) and target == dim * int(scale)  # type: ignore[operator]
        steps.append(0.0 if exact else float(np.float32(1.0 / scale)))
    return steps


_FUNCTIONS = {"linear": "linear", "bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}


def _interpolation(method: str, axes: int) -> None:
    @aten(f"upsample_{method}{axes}d.vec")
    def importer(i: Import, x: Value, size: Any, align_corners: bool, scales: Any = None) -> Value:
        wanted = _resized(x, size, scales)
        if wanted == x.type.shape[2:] and not scales:
            return x
        if align_corners and method == "bilinear":
            rows, columns = (_between_corners(i, s, t) for s, t in zip(x.type.shape[2:], wanted, strict=True))
            return _separable(i, x, rows, columns)
        steps = [0.0] * axes if align_corners else _steps(x, wanted, scales)
        if axes == 2 and not align_corners and not any(steps):
            return resize(i, x, wanted, method)
        for axis, (source, target, step) in enumerate(zip(x.type.shape[2:], wanted, steps, strict=True), 2):
            options = {"source": as_number(source), "target": as_number(target), "step": step, "corners": align_corners}
            if source != target or step:
                x = along(i, x, axis, i.foreign(f"resize.{_FUNCTIONS[method]}", **options))
        return x

    @aten(f"upsample_{method}{axes}d")
    def sized(i: Import, x: Value, size: Any, align_corners: bool, *scales: Any) -> Value:
        return importer(i, x, size, align_corners, None if None in scales or not scales else scales)


for _method, _axes in (("linear", 1), ("bilinear", 2), ("trilinear", 3), ("bicubic", 2)):
    _interpolation(_method, _axes)


def _antialiased(method: str) -> None:
    @aten(f"_upsample_{method}2d_aa")
    def importer(i: Import, x: Value, size: Any, align_corners: bool, *scales: Any) -> Value:
        wanted = tuple(as_dim(d) for d in size)
        given = None if None in scales or not scales else scales
        for axis, (source, target, step) in enumerate(
            zip(x.type.shape[2:], wanted, _steps(x, wanted, None if align_corners else given), strict=True), 2
        ):
            if source != target or step:
                options = {"source": as_number(source), "target": as_number(target), "step": step}
                matrix = i.foreign("resize.smooth", **options, corners=align_corners, cubic=method == "bicubic")
                x = along(i, x, axis, matrix)
        return x

    @aten(f"_upsample_{method}2d_aa.vec")
    def scaled(i: Import, x: Value, size: Any, align_corners: bool, scales: Any = None) -> Value:
        return importer(i, x, _resized(x, size, scales), align_corners, *(scales or ()))


for _method in ("bilinear", "bicubic"):
    _antialiased(_method)


def _index(i: Import, source: Dim, target: Dim, step: float, centred: bool) -> Value:
    """Which source elements are taken, as PyTorch finds them in single precision; in whole numbers where that is the same."""
    if not centred and not step and _whole(source, target):
        index = i.op("mul", i.op("iota", n=target, dtype=i64), i.scalar(source, i64))
        return i.op("floordiv", index, i.scalar(target, i64))
    options = {"source": as_number(source), "target": as_number(target), "step": step, "centred": centred}
    return i.foreign("resize.nearest", **options)


def _whole(source: Dim, target: Dim) -> bool:
    if source.value is None or target.value is None:
        # Whole factors up to 40 do not round.
        factor = (target // source).value
        return factor is not None and factor <= 40 and target == source * factor
    at = np.arange(target.value)
    single = np.floor(at.astype(np.float32) * (np.float32(source.value) / np.float32(max(target.value, 1))))
    return bool((single == at * source.value // max(target.value, 1)).all())


def _nearest(name: str, axes: int) -> None:
    centred = "exact" in name

    @aten(f"{name}{axes}d.vec")
    def importer(i: Import, x: Value, size: Any, scales: Any = None) -> Value:
        wanted = _resized(x, size, scales)
        steps = _steps(x, wanted, scales)
        for axis, (target, step) in enumerate(zip(wanted, steps, strict=True), 2):
            source = x.type.shape[axis]
            if target != source or step:
                x = i.op("take", x, _index(i, source, target, step, centred), axis=axis)
        return x

    @aten(f"{name}{axes}d")
    def sized(i: Import, x: Value, size: Sequence[Any], *scales: Any) -> Value:
        return importer(i, x, size, None if None in scales or not scales else scales)


for _axes in (1, 2, 3):
    _nearest("upsample_nearest", _axes)
    _nearest("_upsample_nearest_exact", _axes)


# By torch's numbers.
_BETWEEN, _BEYOND = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


@aten("grid_sampler_2d")
def grid_sample(i: Import, x: Value, grid: Value, mode: int, padding: int, align_corners: bool) -> Value:
    attrs = {"mode": _BETWEEN[mode], "padding": _BEYOND[padding], "align_corners": align_corners}
    return i.call("std.vision.grid_sample", x, i.cast(grid, x.type.dtype), **attrs)
