"""Windows, mel weights, Fourier transforms: the front ends of audio models."""

from __future__ import annotations

import math

import numpy as np

from ....ir.dims.dim import Dim
from ....ir.graph import Value
from ....ir.types import i64
from ..call import Call
from ..registry import Result, imports
from ..tensors import dtype_of
from ..values import known_tensor

_COSINES = {"HannWindow": (0.5, 0.5, 0.0), "HammingWindow": (25 / 46, 21 / 46, 0.0), "BlackmanWindow": (0.42, 0.5, 0.08)}


@imports(*_COSINES)
def window(c: Call) -> Result:
    size = c.numbers(0, "the length of the window")[0]
    last = size if c.attr("periodic", 1) else size - 1
    if last < 1:
        c.misfit(f"a window of {size} element(s)")
    a, b, d = _COSINES[c.op_type]
    angle = 2 * math.pi * np.arange(size) / last
    values = a - b * np.cos(angle) + d * np.cos(2 * angle)
    return known_tensor(values.astype(dtype_of(c.attr("output_datatype", 1), c.where).numpy))


@imports("MelWeightMatrix")
def mel_weights(c: Call) -> Result:
    """How much each frequency [bins] counts in each band [bands]: triangles that are equally wide in mels."""
    bands, length, rate = (c.numbers(i, "a number of the mel bands")[0] for i in range(3))
    lower, upper = (float(c.static(i, "a frequency").reshape(-1)[0]) for i in (3, 4))
    bins = length // 2 + 1
    low, high = (2595 * math.log10(1 + f / 700) for f in (lower, upper))
    points = np.arange(bands + 2) * ((high - low) / (bands + 2)) + low
    edges = np.floor((length + 1) * (700 * (10 ** (points / 2595) - 1)) / rate).astype(np.int64)
    out = np.zeros((bins, bands))
    for i in range(bands):
        first, middle, last = edges[i : i + 3]
        if middle == first:
            out[middle, i] = 1
        else:
            out[first : middle + 1, i] = np.arange(middle - first + 1) / (middle - first)
        out[middle:last, i] = (last - np.arange(middle, last)) / max(last - middle, 1)
    return known_tensor(out.astype(dtype_of(c.attr("output_datatype", 1), c.where).numpy))


@imports("DFT")
def dft(c: Call) -> Value:
    rank = c.rank()
    place = c.numbers(2, "the axis")[0] if c.has(2) else c.attr("axis", 1 if c.opset < 20 else -2)
    axis = c.normal_axis(place, rank)
    if axis == rank - 1:
        c.misfit("the axis of real and imaginary parts is transformed")
    x, parts = c.x(), c.shape()[-1].value
    if parts not in (1, 2):
        c.misfit(f"{c.type()} has no real, or real and imaginary parts in its last axis")
    inverse, onesided = bool(c.attr("inverse", 0)), bool(c.attr("onesided", 0))
    size = x.type.shape[axis]
    back_to_real = inverse and onesided
    length = c.dims(1, "the length")[0] if c.has(1) else (size - 1) * 2 if back_to_real else size
    x = _as_long(c, x, axis, length // 2 + 1 if back_to_real else length)
    real, imaginary = (c.op("squeeze", c.op("slice", x, axis=rank - 1, start=i, stop=i + 1), axis=rank - 1) for i in (0, parts - 1))
    order = [*(i for i in range(rank - 1) if i != axis), axis]
    back = [order.index(i) for i in range(rank - 1)]
    real, imaginary = (c.transpose(v, order) for v in (real, imaginary))
    if back_to_real:
        real, imaginary = _mirrored(c, real, length, 1), _mirrored(c, imaginary, length, -1)
    bins = length // 2 + 1 if onesided and not inverse else length
    made = c.std_many("audio.dft", real, imaginary if parts == 2 else None, bins=bins.value or bins, inverse=inverse)
    rows = [c.op("unsqueeze", c.transpose(v, back), axis=rank - 1) for v in made]
    return rows[0] if back_to_real else c.op("concat", *rows, axis=rank - 1)


def _as_long(c: Call, x: Value, axis: int, length: Dim) -> Value:
    """Cut off, or with zeros behind."""
    more = length - x.type.shape[axis]
    if more == 0:
        return x
    if more.value is None:
        c.refuse(f"a transform of {length} of the free size {x.type.shape[axis]}")
    if more.value > 0:
        return c.op("pad", x, axis=axis, after=more.value)
    return c.op("slice", x, axis=axis, start=0, stop=length.value if length.value is not None else length)


def _mirrored(c: Call, x: Value, length: Dim, sign: int) -> Value:
    """The frequencies of a real signal that one side leaves out: those that are there, mirrored, and conjugate."""
    count = (length - x.type.shape[-1]).value
    if not count:
        return x
    rest = c.op("flip", c.op("slice", x, axis=x.type.rank - 1, start=1, stop=1 + count), axis=x.type.rank - 1)
    return c.op("concat", x, rest if sign > 0 else c.op("neg", rest), axis=x.type.rank - 1)


@imports("STFT")
def stft(c: Call) -> Value:
    """Frames of the signal [B, N] or [B, N, 1], windowed and transformed: [B, frames, bins, 2]."""
    signal = c.x()
    if signal.type.rank == 3:
        if signal.type.shape[2] != 1:
            c.refuse("STFT of complex signals")
        signal = c.op("squeeze", signal, axis=2)
    step = c.numbers(1, "the step between frames")[0]
    length = c.shape(2)[0].value if c.has(2) else c.numbers(3, "the length of a frame")[0] if c.has(3) else None
    if length is None:
        c.refuse("STFT without a known length of frames")
    size = signal.type.shape[1]
    frames = (size - length) // step + 1
    start = c.op("mul", c.op("iota", n=frames.value or frames), c.scalar(step, i64))
    index = c.op("add", c.op("unsqueeze", start, axis=1), c.op("unsqueeze", c.op("iota", n=length), axis=0))
    rows = c.op("take", signal, index, axis=1)
    if c.has(2):
        rows = c.op("mul", rows, c.x(2, "window"))
    bins = length // 2 + 1 if c.attr("onesided", 1) else length
    made = c.std_many("audio.dft", rows, None, bins=bins, inverse=False)
    return c.op("concat", *(c.op("unsqueeze", v, axis=3) for v in made), axis=3)
