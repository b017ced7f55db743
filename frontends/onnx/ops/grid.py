"""Triangles and diagonals of matrices, blocks of images that become channels, and sampling at points."""

from __future__ import annotations

from math import prod

import numpy as np

from ....ir.dims.dim import const, product
from ....ir.graph import Value
from ....ir.types import boolean
from ..call import Call
from ..registry import imports
from ..tensors import dtype_of


@imports("Trilu")
def trilu(c: Call) -> Value:
    x = c.x()
    rows, columns = x.type.shape[-2:]
    shift = c.dims(1, "the diagonal")[0] if c.has(1) else const(0)
    row = c.op("unsqueeze", c.op("iota", n=rows), axis=1)
    column = c.op("unsqueeze", c.op("iota", n=columns), axis=0)
    if shift != 0:
        row = c.op("add", row, c.number(shift))
    kept = c.op("ge" if c.attr("upper", 1) else "le", column, row)
    if x.type.dtype == boolean:
        return c.op("logical_and", x, kept)
    return c.op("where", kept, x, c.like(0, x))


@imports("DepthToSpace")
def depth_to_space(c: Call) -> Value:
    b, channels, h, w = c.shape()
    n = c.attr("blocksize", 1)
    depth = channels // (n * n)
    c.equal(depth * (n * n), channels, f"the channels of {c.type()}, which become blocks of {n}")
    x = c.x()
    if c.attr("mode", "DCR") == "DCR":
        x = c.transpose(c.reshape(x, (b, n, n, depth, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        x = c.transpose(c.reshape(x, (b, depth, n, n, h, w)), (0, 1, 4, 2, 5, 3))
    return c.reshape(x, (b, depth, h * n, w * n))


@imports("SpaceToDepth")
def space_to_depth(c: Call) -> Value:
    b, channels, h, w = c.shape()
    n = c.attr("blocksize", 1)
    mode = c.attr("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        c.misfit(f'mode="{mode}"')
    for axis, size in ((2, h), (3, w)):
        c.equal(size // n * n, size, f"axis {axis} of {c.type()}, which is cut into blocks of {n}")
    x = c.reshape(c.x(), (b, channels, h // n, n, w // n, n))
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return c.reshape(c.transpose(x, order), (b, channels * n * n, h // n, w // n))


@imports("EyeLike")
def eye_like(c: Call) -> Value:
    rows, columns = c.shape()
    dtype = dtype_of(c.attr("dtype"), c.where) if c.attr("dtype") else c.type().dtype
    row = c.op("unsqueeze", c.op("iota", n=rows), axis=1)
    if c.attr("k", 0):
        row = c.op("add", row, c.scalar(c.attr("k"), row.type.dtype))
    return c.cast(c.op("eq", row, c.op("unsqueeze", c.op("iota", n=columns), axis=0)), dtype)


@imports("Col2Im")
def col_to_im(c: Call) -> Value:
    """Blocks become an image again: side by side they are moved, where they overlap they are added."""
    image, block = c.numbers(1, "the size of the image"), c.numbers(2, "the size of a block")
    n = len(block)
    strides, pads = c.attr("strides") or [1] * n, c.attr("pads") or [0] * (2 * n)
    dilations = c.attr("dilations") or [1] * n
    if len(image) != n or any(size < k for size, k in zip(image, block, strict=True)):
        c.misfit(f"blocks of {block} in an image of {image}")
    if strides != block or any(pads) or any(d != 1 for d in dilations):
        return _overlapping(c, image, block, strides, pads, dilations)
    batch, channels, _ = c.shape()
    counts = [size // k for size, k in zip(image, block, strict=True)]
    depth = channels // prod(block)
    _blocks(c, counts, block)
    x = c.reshape(c.x(), (batch, depth, *block, *counts))
    order = [0, 1, *(axis for i in range(n) for axis in (2 + n + i, 2 + i))]
    covered = [count * k for count, k in zip(counts, block, strict=True)]
    y = c.reshape(c.transpose(x, order), (batch, depth, *covered))
    for i, (size, part) in enumerate(zip(image, covered, strict=True)):
        if size != part:  # what no block reaches is 0
            y = c.op("pad", y, axis=2 + i, after=size - part)
    return y


def _blocks(c: Call, counts: list[int], block: list[int]) -> None:
    """So many blocks along each axis, whose elements are channels."""
    _, channels, blocks = c.shape()
    c.equal(blocks, const(prod(counts)), f"the blocks of {c.type()}")
    c.equal(channels // prod(block) * prod(block), channels, f"the channels of {c.type()}")


def _overlapping(
    c: Call, image: list[int], block: list[int], strides: list[int], pads: list[int], dilations: list[int]
) -> Value:
    """Every place of every block is added to the padded image, whose padding is then cut off."""
    n = len(block)
    sizes = [size + pads[i] + pads[i + n] for i, size in enumerate(image)]
    reach = [(k - 1) * d + 1 for k, d in zip(block, dilations, strict=True)]
    if any(r > size for r, size in zip(reach, sizes, strict=True)):
        c.misfit(f"blocks of {block} in an image of {image}")
    counts = [(size - r) // s + 1 for size, r, s in zip(sizes, reach, strides, strict=True)]
    # [places of a block, blocks]: which element of the padded image each is, row by row.
    at = np.zeros((1, 1), np.int64)
    for size, k, s, d, count in zip(sizes, block, strides, dilations, counts, strict=True):
        along = np.arange(k)[:, None] * d + np.arange(count)[None] * s
        at = (at[:, None, :, None] * size + along[None, :, None, :]).reshape(at.shape[0] * k, -1)
    batch, channels, _ = c.shape()
    _blocks(c, counts, block)
    depth = channels // prod(block)
    x = c.transpose(c.reshape(c.x(), (batch * depth, prod(block) * prod(counts))), (1, 0))
    start = c.op("full", shape=(prod(sizes), batch * depth), value=0, dtype=x.type.dtype)
    y = c.op("scatter_add", start, c.constant(at.reshape(-1)), x, batch=0)
    y = c.reshape(c.transpose(y, (1, 0)), (batch, depth, *sizes))
    for i, size in enumerate(image):
        if sizes[i] != size:
            y = c.op("slice", y, axis=2 + i, start=pads[i], stop=pads[i] + size)
    return y


_MODES = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic", "bicubic": "bicubic"}


@imports("GridSample")
def grid_sample(c: Call) -> Value:
    mode, padding = c.attr("mode", "bilinear"), c.attr("padding_mode", "zeros")
    if c.rank() != 4:
        c.refuse(f"GridSample of {c.type()}, which is no batch of images,")
    if mode not in _MODES or padding not in ("zeros", "border", "reflection"):
        c.misfit(f'mode="{mode}", padding_mode="{padding}"')
    c.equal(c.shape()[0], c.shape(1)[0], f"the batch of {c.type()} and of the points {c.type(1)}")
    c.equal(c.shape(1)[3], const(2), f"the coordinates of the points {c.type(1)}")
    attrs = {"mode": _MODES[mode], "padding": padding, "align_corners": bool(c.attr("align_corners", 0))}
    return c.std("vision.grid_sample", c.x(), c.cast(c.x(1), c.type().dtype), **attrs)


@imports("AffineGrid")
def affine_grid(c: Call) -> Value:
    """The points at which an affine map finds each place of an image [N, C, H, W], or of a volume [N, C, D, H, W]."""
    theta, sizes = c.x(), c.dims(1, "the size of the grid")
    spatial, count = sizes[2:], len(sizes) - 2
    if count not in (2, 3):
        c.misfit(f"a grid of {count} axes")
    for axis, size in enumerate((sizes[0], const(count), const(count + 1))):
        c.equal(theta.type.shape[axis], size, f"axis {axis} of the map {theta.type}")
    dtype = theta.type.dtype
    parts = []
    for axis, size in enumerate(spatial):
        at, length = c.op("iota", n=size, dtype=dtype), c.cast(c.number(size), dtype)
        if c.attr("align_corners", 0):
            span = c.op("maximum", c.op("sub", length, c.like(1.0, theta)), c.like(1.0, theta))
            at = c.op("div", c.op("mul", at, c.like(2.0, theta)), span)
        else:
            at = c.op("div", c.op("add", c.op("mul", at, c.like(2.0, theta)), c.like(1.0, theta)), length)
        at = c.reshape(c.op("sub", at, c.like(1.0, theta)), [size if i == axis else const(1) for i in range(count + 1)])
        parts.append(c.expand(at, (*spatial, const(1))))
    ones = c.op("full", shape=(*spatial, const(1)), value=1.0, dtype=dtype)
    # The last axis is x, which comes first.
    places = c.reshape(c.op("concat", *reversed(parts), ones, axis=-1), (product(spatial), const(count + 1)))
    return c.reshape(c.op("einsum", places, theta, equation="p k, b j k -> b p j"), (sizes[0], *spatial, const(count)))
