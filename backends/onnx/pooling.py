"""Maxima and means of windows. What hangs over the end is padded: ONNX Runtime's releases differ in how they count with `ceil_mode`.

For f64 there are no kernels: the windows are slices, one for each place of the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce
from itertools import product
from typing import TYPE_CHECKING, Any

from ...ir.dims.dim import Dim, as_dim, const, dim_max
from ...ir.ops.pooling import overhang
from ...ir.types import DType, bf16, f32, f64
from .registry import lower
from .shape import operand

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Node
    from .emit import Emitter


@lower("max_pool1d", "max_pool2d")
def max_pool(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    a, dtype = node.attrs, operand(node).dtype
    if dtype == f64:
        return reduce(lambda one, other: e.op("Max", one, other), _slices(e, node, _padded(e, node, x, -math.inf)))
    kernel, stride, pads = list(a["kernel"]), list(a["stride"]), [*a["padding"], *a["padding"]]
    x = e.cast(x, _kernel_dtype(dtype))
    if a["ceil_mode"]:
        x, pads = _padded(e, node, x, -math.inf), [0] * len(pads)
    return e.cast(e.op("MaxPool", x, kernel_shape=kernel, strides=stride, pads=pads), dtype)


@lower("avg_pool1d", "avg_pool2d")
def avg_pool(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    a, dtype = node.attrs, operand(node).dtype
    if dtype == f64:
        sums = [
            reduce(lambda one, other: e.op("Add", one, other), _slices(e, node, y))
            for y in (_padded(e, node, x, 0), _counted(e, node, f64))
        ]
        return e.op("Div", *sums)
    kernel, stride, pads = list(a["kernel"]), list(a["stride"]), [*a["padding"], *a["padding"]]
    wide = _kernel_dtype(dtype)
    x = e.cast(x, wide)
    include = int(a["count_include_pad"])
    if not a["ceil_mode"]:
        y = e.op("AveragePool", x, kernel_shape=kernel, strides=stride, pads=pads, count_include_pad=include)
        return e.cast(y, dtype)
    # The mean over all places of a window, by the share of those that count.
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
    share = e.op("AveragePool", _counted(e, node, wide), **attrs)
    return e.cast(e.op("Div", e.op("AveragePool", _padded(e, node, x, 0), **attrs), share), dtype)


def _counted(e: Emitter, node: Node, dtype: DType) -> ox.Value:
    """1 where an element of a window counts, 0 where it does not, as far as windows reach."""
    a = node.attrs
    include = a["count_include_pad"]
    ones = e.full((const(1), const(1), *operand(node).shape[2:]), 1, dtype)
    if include:
        ones = e.op("Pad", ones, e.ints([0, 0, *a["padding"], 0, 0, *a["padding"]]), e.constant(1, dtype))
    return _padded(e, node, ones, 0, inner=not include)


def _slices(e: Emitter, node: Node, x: ox.Value) -> Iterator[ox.Value]:
    """For each place of the kernel the elements that stand there, one a window."""
    a, windows = node.attrs, node.output.type.shape[2:]
    axes, steps = e.ints([2 + i for i in range(len(windows))]), e.ints(list(a["stride"]))
    for place in product(*map(range, a["kernel"])):
        ends = [(d - 1) * step + (first + 1) for first, d, step in zip(place, windows, a["stride"], strict=True)]
        yield e.op("Slice", x, e.ints(list(place)), e.shape(tuple(ends)), axes, steps)


def _kernel_dtype(dtype: DType) -> DType:
    """What ONNX Runtime has kernels for."""
    return f32 if dtype == bf16 else dtype


def _padded(e: Emitter, node: Node, x: ox.Value, value: float, inner: bool = True) -> ox.Value:
    """x with its padding if it is ``inner``, and with what the last windows reach over the end by."""
    attrs, shape = node.attrs, operand(node).shape
    before = [as_dim(p if inner else 0) for p in attrs["padding"]]
    after = [p + _positive(overhang(shape[2 + i], attrs, i)) for i, p in enumerate(before)]
    none = [const(0)] * 2
    return e.op("Pad", x, e.shape((*none, *before, *none, *after)), e.constant(value, e.dtype(x)))


def _positive(dim: Dim) -> Dim:
    return dim_max(dim, 0)
