"""Random nodes on quantized numbers, as ONNX Runtime's quantizers and its optimizer write them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from .drawing import MS, Array, Case, Draw, less, of
from .random_products import conv_attrs

# Powers of two, so that only what must be rounded is; a step of the result may still be rounded the other way.
SCALES = (0.25, 0.5, 1.0, 2.0)
STEP = 1.0


def scale(r: Draw, size: tuple[int, ...] = ()) -> Array:
    return np.asarray(r.rng.choice(SCALES, size), np.float32)


def bytes_of(r: Draw, shape: tuple[int, ...], dtype: Any) -> Array:
    return r.ints(shape, 0, 40, dtype)


def zero(r: Draw, dtype: Any, size: tuple[int, ...] = ()) -> Array:
    return np.asarray(r.ints(size, 0, 20, dtype), dtype)


def kind(r: Draw) -> Any:
    return r.one(np.uint8, np.int8)


@of("QLinearMatMul")
def product(r: Draw, op: str) -> Case:
    n, k, m = (r.between(1, 4) for _ in range(3))
    lead = r.shape(0, 2, 1, 3)
    da, db, dy = r.one((np.uint8,) * 3, (np.uint8, np.int8, np.uint8), (np.int8,) * 3)
    columns = r.one((), (m,))
    operands: dict[str, Array | None] = {
        "a": bytes_of(r, (*lead, n, k), da), "as": scale(r), "az": zero(r, da),
        "b": bytes_of(r, (*r.one((), less(r, lead)), k, m), db), "bs": scale(r, columns), "bz": zero(r, db, columns),
        "ys": scale(r) * 16, "yz": zero(r, dy),
    }  # fmt: skip
    fixed = frozenset({"b", "bs", "bz", "as", "az", "ys", "yz"}) if r.chance() else frozenset()
    return Case(op, operands, fixed=fixed, tolerance=STEP)


@of("QLinearConv", "ConvInteger")
def convolution(r: Draw, op: str) -> Case:
    groups, count = r.one(1, 1, 2), r.between(1, 2)
    kernel = tuple(r.between(1, 3) for _ in range(count))
    made = groups * r.between(1, 2)
    dx, dw = np.uint8, r.one(np.uint8, np.int8)
    x = bytes_of(r, (r.between(1, 2), groups * r.between(1, 2), *(r.between(4, 6) for _ in kernel)), dx)
    w = bytes_of(r, (made, x.shape[1] // groups, *kernel), dw)
    attrs = {**conv_attrs(r, kernel), "group": groups}
    if op == "ConvInteger":
        return Case(op, {"x": x, "w": w, "xz": zero(r, dx), "wz": zero(r, dw)}, attrs, frozenset({"w", "xz", "wz"}))
    channels = r.one((), (made,))
    operands: dict[str, Array | None] = {
        "x": x, "xs": scale(r), "xz": zero(r, dx), "w": w, "ws": scale(r, channels), "wz": np.zeros(channels, dw),
        "ys": scale(r) * 16, "yz": zero(r, dx), "b": r.one(None, r.ints((made,), -50, 50, np.int32)),
    }  # fmt: skip
    return Case(op, operands, attrs, frozenset(operands) - {"x"}, tolerance=STEP)


@of("QLinearAdd", "QLinearMul")
def binary(r: Draw, op: str) -> Case:
    dtype, shape = kind(r), r.shape(1, 3)
    operands = {
        "a": bytes_of(r, shape, dtype), "as": scale(r), "az": zero(r, dtype), "b": bytes_of(r, less(r, shape), dtype),
        "bs": scale(r), "bz": zero(r, dtype), "ys": scale(r) * 4, "yz": zero(r, dtype),
    }  # fmt: skip
    return Case(op, {**operands}, fixed=frozenset(operands) - {"a", "b"}, domain=MS, tolerance=STEP)


@of("QLinearSigmoid", "QLinearSoftmax", "QLinearLeakyRelu")
def unary(r: Draw, op: str) -> Case:
    dtype, shape = kind(r), r.shape(1, 3)
    step, start = np.asarray(1 / 128, np.float32), np.asarray(0, dtype)
    operands = {"x": bytes_of(r, shape, dtype), "xs": scale(r) / 4, "xz": zero(r, dtype), "ys": step, "yz": start}
    attrs = {"QLinearSoftmax": {"opset": 13, "axis": r.axis(len(shape))}, "QLinearLeakyRelu": r.some(alpha=0.25)}
    return Case(op, {**operands}, attrs.get(op, {}), frozenset(operands) - {"x"}, domain=MS, tolerance=STEP)


@of("QLinearConcat")
def joined(r: Draw, op: str) -> Case:
    dtype, shape = kind(r), list(r.shape(1, 3))
    axis = r.axis(len(shape))
    operands: dict[str, Array | None] = {"ys": scale(r), "yz": zero(r, dtype)}
    for i in range(r.between(1, 3)):
        shape[axis] = r.between(1, 4)
        operands |= {f"x{i}": bytes_of(r, tuple(shape), dtype), f"s{i}": scale(r), f"z{i}": zero(r, dtype)}
    fixed = frozenset(name for name in operands if not name.startswith("x"))
    return Case(op, operands, {"axis": axis}, fixed, domain=MS, tolerance=STEP)


@of("MatMulIntegerToFloat")
def scaled_product(r: Draw, op: str) -> Case:
    n, k, m = (r.between(1, 4) for _ in range(3))
    da, db, columns = np.uint8, r.one(np.uint8, np.int8), r.one((), (m,))
    operands: dict[str, Array | None] = {
        "a": bytes_of(r, (*r.shape(0, 1), n, k), da), "b": bytes_of(r, (k, m), db), "as": scale(r), "bs": scale(r, columns),
        "az": r.one(None, zero(r, da)), "bz": r.one(None, zero(r, db, columns)), "bias": r.one(None, r.coarse((m,))),
    }  # fmt: skip
    return Case(op, operands, fixed=frozenset({"b", "bs", "bz", "bias"}), domain=MS, tolerance=1e-4)


@of("DynamicQuantizeMatMul")
def dynamic_product(r: Draw, op: str) -> Case:
    n, k, m = (r.between(1, 4) for _ in range(3))
    db, columns = r.one(np.uint8, np.int8), r.one((), (m,))
    operands: dict[str, Array | None] = {
        "a": r.floats((*r.shape(0, 1), n, k)), "b": bytes_of(r, (k, m), db), "bs": scale(r, columns),
        "bz": r.one(None, zero(r, db, columns)), "bias": r.one(None, r.coarse((m,))),
    }  # fmt: skip
    return Case(op, operands, fixed=frozenset({"b", "bs", "bz", "bias"}), domain=MS, tolerance=1e-3)


@of("DequantizeLinear")
def dequantized(r: Draw, op: str) -> Case:
    """Weights of every width, with one scale, one for each place, or one for each block."""
    dtype = r.one(np.int8, np.uint8, np.int16, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)
    shape = r.shape(1, 3)
    low, high = (-8, 7) if np.dtype(dtype).name == "int4" else (0, 15)
    x = r.ints(shape, low, high, np.int32).astype(dtype)
    size, attrs = scales_of(r, shape)
    start = None if np.dtype(dtype).name.startswith("float") else r.one(None, r.ints(size, 0, 7, np.int32).astype(dtype))
    # Only weights are stored so narrowly.
    narrow = frozenset() if np.dtype(dtype).kind in "iu" and np.dtype(dtype).name.endswith(("8", "16")) else {"x"}
    return Case(op, {"x": x, "s": scale(r, size), "z": start}, attrs, frozenset({"s", "z", *narrow}), opset=23)


@of("QuantizeLinear")
def quantized(r: Draw, op: str) -> Case:
    shape, dtype = r.shape(1, 3), r.one(np.int8, np.uint8, np.int16)
    size, attrs = scales_of(r, shape)
    operands = {"x": r.coarse(shape) * 4, "s": scale(r, size), "z": np.asarray(r.ints(size, 0, 20, np.int32)).astype(dtype)}
    return Case(op, operands, attrs, frozenset({"s", "z"}), opset=23)


def scales_of(r: Draw, shape: tuple[int, ...]) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The shape of the scales, and the attributes that say so."""
    axis = r.axis(len(shape))
    kind = r.one("one", "places", "blocks", "blocks")
    if kind == "one":
        return (), {}
    if kind == "places":
        return (shape[axis],), {"axis": axis}
    block = r.between(1, 3)
    size = list(shape)
    size[axis] = -(-shape[axis] // block)
    return tuple(size), {"axis": axis, "block_size": block}
