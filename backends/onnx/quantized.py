"""Quantized numbers and products, which ONNX has ops for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.types import f32, i8, i16, i32, u8
from .registry import claim
from .shape import operand

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ox

    from ...ir.graph import Node
    from .emit import Emitter


def _axis(node: Node) -> int:
    return int(node.attrs["axis"]) % max(operand(node).rank, 1)


def _not_quantizable(node: Node) -> bool:
    return operand(node).dtype != f32 or operand(node, 2).dtype == i16


@claim("std.quantized.quantize", unless=_not_quantizable)
def quantize(e: Emitter, node: Node, x: ox.Value, scale: ox.Value, zero: ox.Value) -> ox.Value:
    return e.op("QuantizeLinear", x, scale, zero, axis=_axis(node))


@claim(
    "std.quantized.dequantize",
    unless=lambda node: operand(node, 1).dtype != f32 or operand(node).dtype not in (i8, u8, i32),
)
def dequantize(e: Emitter, node: Node, x: ox.Value, scale: ox.Value, zero: ox.Value | None) -> ox.Value:
    return e.op("DequantizeLinear", x, scale, zero, dtype=f32, axis=_axis(node))


@claim("std.quantized.dynamic_quantize")
def dynamic_quantize(e: Emitter, node: Node, x: ox.Value) -> Sequence[ox.Value]:
    return e.multi("DynamicQuantizeLinear", x, outputs=3)


def _other(node: Node, places: tuple[int, ...], columns: int) -> bool:
    """Whether a factor has no 8 bits, or each column of one of more than two axes a number of its own."""
    own = node.inputs[columns] is not None and operand(node, columns).numel != 1
    wide = any(operand(node, i).dtype not in (i8, u8) for i in places)
    return wide or (own and node.op.name.endswith("matmul"))


@claim("std.quantized.integer_matmul", "std.quantized.integer_affine", unless=lambda node: _other(node, (0, 1), 3))
def integer_product(
    e: Emitter, node: Node, a: ox.Value, b: ox.Value, a_zero: ox.Value | None, b_zero: ox.Value | None
) -> ox.Value:
    return e.op("MatMulInteger", a, b, a_zero, b_zero)


@claim(
    "std.quantized.quantized_matmul",
    "std.quantized.quantized_affine",
    unless=lambda node: _other(node, (0, 3, 7), 4) or operand(node, 1).dtype != f32,
)
def quantized_product(e: Emitter, node: Node, *operands: ox.Value) -> ox.Value:
    return e.op("QLinearMatMul", *operands)


@claim("std.quantized.integer_conv", unless=lambda node: _other(node, (0, 1), 3))
def integer_conv(
    e: Emitter, node: Node, x: ox.Value, weight: ox.Value, x_zero: ox.Value | None, weight_zero: ox.Value | None
) -> ox.Value:
    a = node.attrs
    strides, dilations, pads = ([a[f"{part}_down"], a[f"{part}_across"]] for part in ("stride", "dilation", "padding"))
    return e.op(
        "ConvInteger",
        x,
        weight,
        x_zero,
        weight_zero,
        group=a["groups"],
        strides=strides,
        dilations=dilations,
        pads=pads * 2,
    )
