"""Resize as one matrix an axis."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from ....ir.dims.dim import Dim, const, prove_ge
from ....ir.dims.ratio import Ratio
from ....ir.graph import Value
from ....ir.types import f32, f64
from ..call import Call
from ..registry import imports
from ..values import plain_number
from .contraction import plain

# A matrix of more elements is not made.
_LARGEST_MATRIX = 1 << 24
# With these the nearest element of a whole enlargement is each one repeated.
_REPEATS = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}


_ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda p: np.ceil(p - 0.5), "round_prefer_ceil": lambda p: np.floor(p + 0.5),
    "floor": np.floor, "ceil": np.ceil,
}  # fmt: skip
# Coordinates of free sizes: whether the middles of elements lie above one another, or their starts.
_CENTRED = {"half_pixel": True, "pytorch_half_pixel": True, "align_corners": False, "asymmetric": False}
_FUNCTIONS = {"linear": "vision.bilinear_matrix", "cubic": "vision.bicubic_matrix", "nearest": ""}
# With these the one element of a result is the first of x, whatever lies behind it.
_FROM_THE_START = ("pytorch_half_pixel", "align_corners", "asymmetric")


@imports("Resize", "Upsample")
def resize(c: Call) -> Value:
    rank = c.rank()
    axes = [c.normal_axis(a, rank) for a in c.attr("axes") or range(rank)]
    if c.attr("antialias", 0) or c.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        c.refuse("antialias or a policy for the aspect ratio")
    scale_index = 1 if c.op_type == "Upsample" else 2
    x, old = c.x(), c.shape()
    targets: list[Dim] = []
    scales: list[float | None] = []
    if c.has(3) and c.op_type == "Resize":
        targets = c.dims(3, "the new size")
        scales = [None] * len(targets)
    else:
        factors = c.static(scale_index, "the scale").reshape(-1)
        for axis, factor in zip(axes, factors, strict=True):
            number = plain_number(factor)
            scales.append(None if number is None else float(number))
            size = old[axis].value
            if number is not None and size is not None:
                # In the 24 bits of the scale, as ONNX Runtime does: 0.7 times 10 is 7.
                targets.append(const(int(np.float32(size) * np.float32(number))))
            else:
                targets.append(_scaled(c, old[axis], factor) if number is None else _times(c, old[axis], float(number)))
    if len(targets) != len(axes):
        c.misfit(f"{len(targets)} sizes for {len(axes)} axes")
    mode = c.attr("mode", "nearest")
    for axis, target, scale in zip(axes, targets, scales, strict=True):
        if target != old[axis] or (scale is not None and scale != 1):
            x = _axis(c, x, axis, target, scale, mode)
    return x


def _scaled(c: Call, size: Dim, factor: Any) -> Dim:
    """A free size times a factor; required to be whole, since what is cut off shifts the coordinates."""
    exact = Ratio(size) * factor
    target = exact.floor().whole()
    c.importer.require(target * exact.bottom, ">=", exact.top)
    return target


def _times(c: Call, size: Dim, scale: float) -> Dim:
    """A free size times a number, cut off as it is in the 24 bits of the scale."""
    ratio = Fraction(scale).limit_denominator(64)
    sizes = np.arange(1, 1 << 14)
    single = (sizes.astype(np.float32) * np.float32(scale)).astype(np.int64)
    if not np.array_equal(sizes * ratio.numerator // ratio.denominator, single):
        c.refuse(f"resizing the free size {size} by {scale}")
    return size * ratio.numerator // ratio.denominator


def _axis(c: Call, x: Value, axis: int, target: Dim, scale: float | None, mode: str) -> Value:
    source = x.type.shape[axis]
    coordinates = c.attr("coordinate_transformation_mode", "half_pixel" if c.op_type == "Resize" else "asymmetric")
    times = target // source if source != 0 else const(0)
    whole = times.value is not None and times * source == target and times.value > 1 and scale in (None, times.value)
    rounding = c.attr("nearest_mode", "round_prefer_floor" if c.op_type == "Resize" else "floor")
    if mode == "nearest" and whole and (coordinates, rounding) in _REPEATS:
        shape = x.type.shape
        longer = (*shape[: axis + 1], times, *shape[axis + 1 :])
        repeated = c.op("expand", c.op("unsqueeze", x, axis=axis + 1), shape=longer)
        return c.reshape(repeated, (*shape[:axis], target, *shape[axis + 1 :]))
    if target == 1 and source.value is None and coordinates in _FROM_THE_START:
        return c.op("slice", x, axis=axis, start=0, stop=1)
    if source.value is not None and target.value is not None:
        if source.value * target.value > _LARGEST_MATRIX:
            c.refuse(f"resizing from {source} to {target}")
        factor = scale if scale is not None else target.value / source.value
        rows = interpolation(c, source.value, target.value, factor, mode, coordinates)
        if mode == "nearest":
            return c.op("take", x, c.constant(rows.argmax(axis=1)), axis=axis)
        matrix = c.constant(rows.astype(np.float32))
    else:
        matrix = _of_free_sizes(c, source, target, scale, mode, coordinates)
        if mode == "nearest":
            return c.op("take", x, matrix, axis=axis)
    dtype = x.type.dtype
    wide = c.cast(x, f64 if dtype == f64 else f32)
    names = [f"a{i}" for i in range(x.type.rank)]
    out = [*names[:axis], "out", *names[axis + 1 :]]
    y = c.op(
        "einsum", c.cast(matrix, wide.type.dtype), wide,
        equation=f"out {names[axis]}, {' '.join(names)} -> {' '.join(out)}",
    )  # fmt: skip
    return c.cast(y, dtype)


def _of_free_sizes(c: Call, source: Dim, target: Dim, scale: float | None, mode: str, coordinates: str) -> Value:
    """The matrix [target, source], or the indices [target] of the nearest elements."""
    usual = c.attr("cubic_coeff_a", -0.75) == -0.75 and not c.attr("exclude_outside", 0)
    if coordinates not in _CENTRED or mode not in _FUNCTIONS or (mode == "cubic" and not usual):
        c.refuse(f'resizing a free size with mode="{mode}" and coordinate_transformation_mode="{coordinates}"')
    if coordinates == "pytorch_half_pixel" and not prove_ge(target, 2):
        c.importer.differ(target, const(1), c.where)
    if scale is not None and source * Fraction(scale).numerator == target * Fraction(scale).denominator:
        scale = None
    sizes: dict[str, int | Dim] = {"source": plain(source), "target": plain(target)}
    corners, centred = coordinates == "align_corners", _CENTRED[coordinates]
    if mode == "nearest":
        rounding = c.attr("nearest_mode", "round_prefer_floor" if c.op_type == "Resize" else "floor")
        if rounding not in _ROUNDINGS:
            c.refuse(f'nearest_mode="{rounding}"')
        options = {"scale": scale or 0.0, "corners": corners, "centred": centred, "rounding": rounding}
        return c.foreign("resize.nearest_by", **sizes, **options)
    if scale is None and centred:
        return c.std(_FUNCTIONS[mode], **sizes)
    step = 0.0 if scale is None or corners else float(np.float32(1 / scale))
    return c.foreign(f"resize.{mode}", **sizes, step=step, corners=corners, centred=centred)


def interpolation(c: Call, source: int, target: int, scale: float, mode: str, coordinates: str) -> np.ndarray:
    """The matrix [target, source]: how much of each source element goes into an element of the result."""
    # Coordinates in the precision of ONNX Runtime, whose rounding decides between neighbours.
    i, half, factor = np.arange(target, dtype=np.float32), np.float32(0.5), np.float32(scale)
    if coordinates == "half_pixel":
        at = (i + half) / factor - half
    elif coordinates == "pytorch_half_pixel":
        at = (i + half) / factor - half if target > 1 else np.zeros_like(i)
    elif coordinates == "half_pixel_symmetric":
        centre = np.float32(source) / 2 * (1 - np.float32(target) / (factor * np.float32(source)))
        at = centre + (i + half) / factor - half
    elif coordinates == "align_corners":
        at = i * np.float32(source - 1) / np.float32(target - 1) if target > 1 else np.zeros_like(i)
    elif coordinates == "asymmetric":
        at = i / factor
    else:
        c.refuse(f'coordinate_transformation_mode="{coordinates}"')
    rows = np.zeros((target, source))
    every = np.arange(target)
    if mode == "nearest":
        rounding = c.attr("nearest_mode", "round_prefer_floor" if c.op_type == "Resize" else "floor")
        pick = _ROUNDINGS.get(rounding)
        if pick is None:
            c.refuse(f'nearest_mode="{rounding}"')
        rows[every, np.clip(pick(at), 0, source - 1).astype(int)] = 1
        return rows
    left = np.floor(at)
    t = at - left
    if mode == "linear":
        shares = [(0, 1 - t), (1, t)]
    elif mode == "cubic":
        a = c.attr("cubic_coeff_a", -0.75)
        shares = [(k, _keys(np.abs(t - k), a)) for k in (-1, 0, 1, 2)]
    else:
        c.refuse(f'mode="{mode}"')
    for offset, share in shares:
        column = left.astype(int) + offset
        inside = (column >= 0) & (column < source) if c.attr("exclude_outside", 0) else True
        np.add.at(rows, (every, np.clip(column, 0, source - 1)), np.where(inside, share, 0))
    return rows / rows.sum(axis=1, keepdims=True) if c.attr("exclude_outside", 0) else rows


def _keys(d: np.ndarray, a: float) -> np.ndarray:
    """The cubic kernel of Keys (1981) at distance ``d``."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


