"""Fourier transforms as products with sines and cosines (``std.audio``): of any length, over any axes, and of frames."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from ....ir.dims.dim import Dim, as_dim, const, product
from ....ir.graph import Value
from ....ir.library import composite
from ....ir.types import i64
from ..protocol import ATEN, Complex, Import, Unsupported, aten, axis_of, of_complex
from .elementwise import literal_of

# How torch says by what a transform of N numbers is divided: nothing, the root of N, or N.
_NOTHING, _ROOT, _ALL = range(3)


def _moved(i: Import, z: Complex, order: Sequence[int]) -> Complex:
    return Complex(i.transpose(z.re, order), i.transpose(z.im, order))


def _last(rank: int, axis: int) -> tuple[list[int], list[int]]:
    """The order in which an axis is the last, and the one that leads back."""
    order = [*(a for a in range(rank) if a != axis), axis]
    return order, [order.index(a) for a in range(rank)]


def _along(i: Import, re: Value, im: Value | None, axis: int, bins: Dim, forward: bool) -> Complex:
    """Over one axis, of which the first ``bins`` frequencies are kept. The inverse divides by N."""
    if re.type.rank == 1:
        rows = [None if x is None else i.op("unsqueeze", x, axis=0) for x in (re, im)]
        assert rows[0] is not None
        z = _along(i, rows[0], rows[1], 1, bins, forward)
        return Complex(*(i.op("squeeze", x, axis=0) for x in _parts(z)))
    order, back = _last(re.type.rank, axis)
    im = None if im is None or literal_of(im) == 0 else i.transpose(im, order)
    made = i.builder.multi(composite("std.audio.dft"), i.transpose(re, order), im, bins=bins, inverse=not forward)
    return _moved(i, Complex(*made), back)


def _divided(i: Import, values: Sequence[Value], size: Dim, norm: int, divides: bool) -> list[Value]:
    """By what ``norm`` says, of results that are divided by N already or are not."""
    power = {_NOTHING: 0.0, _ROOT: 0.5, _ALL: 1.0}[norm] - (1.0 if divides else 0.0)
    if not power or size == 1:
        return list(values)
    dtype = values[0].type.dtype
    if size.value is not None:
        factor = i.scalar(float(size.value) ** -power, dtype)
    else:
        factor = i.foreign("power", i.scalar(size, dtype), exponent=-power)
    return [i.op("mul", x, factor) for x in values]


def _over(i: Import, z: Complex, axes: Sequence[int], forward: bool) -> Complex:
    for axis in axes:
        z = _along(i, z.re, z.im, axis, z.type.shape[axis], forward)
    return z


def _size(x: Any, axes: Sequence[int]) -> Dim:
    return product(x.type.shape[a] for a in axes)


@aten("_fft_r2c")
def _of_reals(i: Import, x: Value, axes: Sequence[int], norm: int, onesided: bool) -> Complex:
    *others, last = (axis_of(a, x.type.rank) for a in axes)
    size = x.type.shape[last]
    z = _along(i, x, None, last, size // 2 + 1 if onesided else size, forward=True)
    return Complex(*_divided(i, _parts(_over(i, z, others, True)), _size(x, [*others, last]), norm, divides=False))


def _parts(z: Complex) -> tuple[Value, Value]:
    return z.re, z.im


@of_complex("_fft_c2c")
def _of_pairs(i: Import, z: Complex, axes: Sequence[int], norm: int, forward: bool) -> Complex:
    places = [axis_of(a, z.type.rank) for a in axes]
    made = _over(i, z, places, forward)
    return Complex(*_divided(i, _parts(made), _size(z, places), norm, divides=not forward))


@of_complex("_fft_c2r")
def _to_reals(i: Import, z: Complex, axes: Sequence[int], norm: int, size: Any) -> Value:
    *others, last = (axis_of(a, z.type.rank) for a in axes)
    count = _size(z, others) * as_dim(size)
    return _divided(i, [_signal(i, _over(i, z, others, False), last, as_dim(size))], count, norm, divides=True)[0]


def _signal(i: Import, z: Complex, axis: int, size: Dim) -> Value:
    """The real signal of ``size`` samples along an axis of its frequencies."""
    if z.type.rank == 1:
        return i.op("squeeze", _signal(i, Complex(*(i.op("unsqueeze", x, axis=0) for x in _parts(z))), 1, size), axis=0)
    order, back = _last(z.type.rank, axis)
    moved = _moved(i, z, order)
    return i.transpose(i.call("std.audio.real_signal", moved.re, moved.im, size=size), back)


# Frames --------------------------------------------------------------------------------------------------------------


def _window(i: Import, window: Value | None, width: int, length: int, like: Value) -> Value:
    """A window of ``width`` in the middle of a frame."""
    if window is None:
        window = i.expand(i.scalar(1.0, like.type.dtype), [width])
    before = (length - width) // 2
    return window if width == length else i.op("pad", window, axis=0, before=before, after=length - width - before)


@aten("stft")
def _stft(
    i: Import, x: Value, length: int, step: int | None = None, width: int | None = None, window: Value | None = None,
    normalized: bool = False, onesided: bool | None = None, pairs: bool | None = None, by_window: bool | None = None,
) -> Complex | Value:  # fmt: skip
    """Of a signal [L] or [B, L]: [bins, frames] or [B, bins, frames]."""
    if by_window:
        raise Unsupported("frames that are laid by their windows")
    frames: Value = ATEN["unfold.default"](i, x, -1, length, step or length // 4)
    frames = i.op("mul", frames, _window(i, window, width or length, length, x))
    bins = length if onesided is False else length // 2 + 1
    z = _along(i, frames, None, frames.type.rank - 1, const(bins), forward=True)
    z = Complex(*_divided(i, _parts(z), const(length), _ROOT if normalized else _NOTHING, divides=False))
    rank = z.type.rank
    z = _moved(i, z, [*range(rank - 2), rank - 1, rank - 2])
    return z if pairs else ATEN["stack.default"](i, _parts(z), -1)


@of_complex("istft")
def _istft(
    i: Import, z: Complex, length: int, step: int | None = None, width: int | None = None, window: Value | None = None,
    center: bool = True, normalized: bool = False, onesided: bool | None = None, samples: Any = None, pairs: bool = False,
) -> Value:  # fmt: skip
    """The frames [B, bins, frames] added up where they overlap, divided by what the windows add up to."""
    if pairs or onesided is False:
        raise Unsupported("an inverse of frames that makes complex numbers")
    step, rank = step or length // 4, z.type.rank
    frames = _signal(i, z, rank - 2, const(length))
    frames = i.transpose(frames, [*range(rank - 2), rank - 1, rank - 2])
    frames = _divided(i, [frames], const(length), _ROOT if normalized else _ALL, divides=True)[0]
    shape = _window(i, window, width or length, length, frames)
    y = _overlapped(i, i.op("mul", frames, shape), step)
    weight = _overlapped(i, i.expand(i.op("mul", shape, shape), frames.type.shape[-2:]), step)
    start = length // 2 if center else 0
    whole = y.type.shape[-1]
    stop = whole - start if samples is None else as_dim(samples) + start
    if samples is not None and not (whole - stop).value and whole != stop:
        raise Unsupported("a number of samples that the frames do not tell")
    y, weight = (i.slice(v, v.type.rank - 1, start, stop) for v in (y, weight))
    return i.op("div", y, weight)


def _overlapped(i: Import, frames: Value, step: int) -> Value:
    """Frames [..., F, L] as one signal [..., (F - 1) * step + L], added up."""
    *lead, count, length = frames.type.shape
    size = (count - 1) * step + length
    at = i.op("mul", i.op("iota", n=count, dtype=i64), i.scalar(step, i64))
    place = i.reshape(i.op("add", i.op("unsqueeze", at, axis=1), i.op("iota", n=length, dtype=i64)), [count * length])
    rows = i.transpose(i.reshape(frames, [prod(lead, start=const(1)), count * length]), [1, 0])
    empty = i.op("full", shape=(size, rows.type.shape[1]), value=0.0, dtype=frames.type.dtype)
    return i.reshape(i.transpose(i.op("scatter_add", empty, place, rows, batch=0), [1, 0]), [*lead, size])
