"""Random nodes that multiply, pool, normalise and resize: with unusual attributes."""

# The table: a row reads better on one line.
# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .drawing import Array, Case, Draw, f32, i64, less, of

# Products ------------------------------------------------------------------------------------------------------------


@of("MatMul")
def matmul(r: Draw, op: str) -> Case:
    n, k, m = r.between(1, 4), r.between(1, 4), r.between(1, 4)
    lead = r.shape(0, 2, 1, 3)
    a, b = (*lead, n, k), (*less(r, lead), k, m)
    a = r.one(a, a, (k,))
    b = r.one(b, b, (k,))
    return Case(op, {"a": r.coarse(a), "b": r.coarse(b)}, fixed=frozenset(n for n in "ab" if r.chance(0.4)))


@of("Gemm")
def gemm(r: Draw, op: str) -> Case:
    n, k, m = r.between(1, 4), r.between(1, 4), r.between(1, 4)
    ta, tb = r.between(0, 1), r.between(0, 1)
    bias = r.one(None, (m,), (1, m), (n, 1), (n, m), (1,), ())
    operands = {"a": r.coarse((k, n) if ta else (n, k)), "b": r.coarse((m, k) if tb else (k, m)),
                "c": None if bias is None else r.coarse(bias)}  # fmt: skip
    attrs = {"transA": ta, "transB": tb, **r.some(alpha=r.one(0.5, -1.0), beta=r.one(2.0, 0.0))}
    return Case(op, operands, attrs, frozenset(n for n in "bc" if r.chance(0.6)))


@of("Einsum")
def einsum(r: Draw, op: str) -> Case:
    equation, shapes = r.one(
        ("ij,jk->ik", [(2, 3), (3, 4)]), ("ij,jk", [(2, 3), (3, 4)]), ("bij->bji", [(2, 3, 4)]), ("ii->i", [(3, 3)]),
        ("ii", [(3, 3)]), ("i->", [(4,)]), ("...ij,...jk->...ik", [(2, 2, 3), (3, 4)]), ("...ij,...jk->...ik", [(1, 2, 3), (5, 3, 4)]),
        ("...d->...", [(2, 3, 4)]), ("i,j->ij", [(2,), (3,)]), ("bhqd,bhkd->bhqk", [(1, 2, 3, 4), (1, 2, 5, 4)]),
        ("ba", [(2, 3)]), ("Ab,bA", [(2, 3), (3, 2)]), ("i j , j k -> i k", [(2, 3), (3, 4)]), ("abc,cd,de->abe", [(2, 3, 4), (4, 2), (2, 3)]),
        ("bii->b", [(2, 3, 3)]), ("i,i,i->i", [(3,), (3,), (3,)]),
    )  # fmt: skip
    return Case(op, {n: r.coarse(s) for n, s in zip("abc", shapes, strict=False)}, {"equation": equation})


def conv_attrs(r: Draw, kernel: Sequence[int]) -> dict[str, Any]:
    n = len(kernel)
    attrs: dict[str, Any] = r.some(
        strides=[r.between(1, 3) for _ in kernel], dilations=[r.between(1, 2) for _ in kernel]
    )
    if r.chance(0.3):
        attrs["auto_pad"] = r.one("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")
    elif r.chance(0.7):
        attrs["pads"] = [r.between(0, k // 2) for k in kernel] + [r.between(0, k // 2) for k in kernel]
        assert len(attrs["pads"]) == 2 * n
    return attrs


@of("Conv", "ConvTranspose")
def conv(r: Draw, op: str) -> Case:
    n, groups = r.between(1, 2), r.between(1, 2)
    taken, made = groups * r.between(1, 2), groups * r.between(1, 2)
    kernel = [r.between(1, 3) for _ in range(n)]
    x = r.coarse((r.between(1, 2), taken, *(r.between(5, 8) for _ in range(n))))
    transposed = op == "ConvTranspose"
    weight = r.coarse((taken, made // groups, *kernel) if transposed else (made, taken // groups, *kernel))
    attrs = conv_attrs(r, kernel) | {"group": groups} | r.some(kernel_shape=kernel)
    if transposed:
        attrs |= r.some(output_padding=[r.between(0, min(s, d) - 1) if max(s, d) > 1 else 0 for s, d in zip(
            attrs.get("strides", [1] * n), attrs.get("strides", [1] * n), strict=True)])  # fmt: skip
    bias = r.coarse((made,)) if r.chance() else None
    return Case(op, {"x": x, "w": weight, "b": bias}, attrs, frozenset({"w", "b"}), tolerance=1e-4)


@of("MaxPool", "AveragePool")
def pool(r: Draw, op: str) -> Case:
    n = r.between(1, 2)
    kernel = [r.between(1, 3) for _ in range(n)]
    x = r.coarse((r.between(1, 2), r.between(1, 2), *(r.between(5, 8) for _ in range(n))))
    attrs = conv_attrs(r, kernel) | {"kernel_shape": kernel} | r.some(ceil_mode=r.between(0, 1))
    if op == "AveragePool":
        attrs |= r.some(count_include_pad=r.between(0, 1))
    return Case(op, {"x": x}, attrs, opset=19 if op == "AveragePool" else 18)


@of("GlobalAveragePool", "GlobalMaxPool")
def global_pool(r: Draw, op: str) -> Case:
    return Case(op, {"x": r.coarse(r.shape(3, 5))})


@of("MatMulInteger")
def matmul_integer(r: Draw, op: str) -> Case:
    n, k, m = r.between(1, 4), r.between(1, 4), r.between(1, 4)
    da, db = r.one((np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8))
    lead = r.shape(0, 2, 1, 3)
    a, b = r.ints((*lead, n, k), 0, 100, da), r.ints((*r.one((), less(r, lead)), k, m), 0, 100, db)
    za = np.array(r.between(0, 9), da) if r.chance() else None
    zb = r.one(None, np.array(r.between(0, 9), db), r.ints((m,), 0, 9, db))
    return Case(op, {"a": a, "b": b, "p": za, "q": zb}, fixed=frozenset("pq"))


# Normalisation -------------------------------------------------------------------------------------------------------


@of("LayerNormalization", "RMSNormalization")
def layer_norm(r: Draw, op: str) -> Case:
    x = r.floats(r.shape(1, 4, 2, 5))
    axis = r.axis(x.ndim)
    shape = x.shape[axis:]
    if r.chance(0.3):
        shape = less(r, shape)
    operands: dict[str, Array | None] = {"x": x, "w": r.floats(shape)}
    if op == "LayerNormalization":
        operands["b"] = r.floats(shape) if r.chance(0.7) else None
    attrs = {"axis": axis, **r.some(epsilon=1e-2, stash_type=1)}
    outputs = r.one(1, 1, 3) if op == "LayerNormalization" else 1
    return Case(
        op,
        operands,
        attrs,
        frozenset("wb") if r.chance(0.7) else frozenset(),
        outputs,
        opset=23 if op[0] == "R" else 18,
        tolerance=1e-4,
    )


@of("BatchNormalization")
def batch_norm(r: Draw, op: str) -> Case:
    x = r.floats(r.shape(2, 4, 2, 5))
    c = (x.shape[1],)
    parts = {"w": r.floats(c), "b": r.floats(c), "m": r.floats(c), "v": np.abs(r.floats(c))}
    return Case(op, {"x": x, **parts}, r.some(epsilon=1e-2, momentum=0.5), frozenset("wbmv"), opset=15, tolerance=1e-4)


@of("InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization")
def group_norm(r: Draw, op: str) -> Case:
    x = r.floats((r.between(1, 2), 4, *r.shape(1, 2, 2, 4)) if op[0] != "M" else r.shape(4, 4, 2, 4))
    if op == "MeanVarianceNormalization":
        return Case(op, {"x": x}, r.some(axes=r.one([0, 2, 3], [1], [0, 1, 2, 3], [2, 3])), tolerance=1e-4)
    opset = 18 if op == "InstanceNormalization" else r.one(18, 21)
    attrs = r.some(epsilon=1e-2)
    groups = r.one(1, 2, 4)
    if op == "GroupNormalization":
        attrs["num_groups"] = groups
    n = (groups if op == "GroupNormalization" and opset == 18 else 4,)
    return Case(op, {"x": x, "w": r.floats(n), "b": r.floats(n)}, attrs, frozenset("wb"), opset=opset, tolerance=1e-4)


@of("DequantizeLinear", "QuantizeLinear")
def quantized(r: Draw, op: str) -> Case:
    shape = r.shape(1, 3)
    axis = r.axis(len(shape))
    dtype = r.one(np.int8, np.uint8)
    whole = r.chance()
    size: tuple[int, ...] = () if whole else (shape[axis],)
    scale = np.abs(r.floats(size)) + np.float32(0.01)
    zero = r.ints(size, 0, 20, dtype) if r.chance() else None
    x = r.ints(shape, 0, 120, dtype) if op[0] == "D" else r.floats(shape, 20.0)
    if op == "DequantizeLinear" and r.chance(0.2):
        x, zero = r.ints(shape, -1000, 1000, np.int32), None
    if r.chance(0.2):
        scale = scale.astype(np.float16)
        x = x.astype(np.float16) if op[0] == "Q" else x
    half = scale.dtype == np.float16
    opset, tolerance = (19, 1e-3) if half else (r.one(13, 19, 21), 1e-5)
    operands = {"x": x, "s": np.asarray(scale), "z": None if zero is None else np.asarray(zero)}
    attrs = {} if whole else {"axis": axis}
    return Case(
        op, operands, attrs, frozenset("sz") if r.chance(0.7) else frozenset(), opset=opset, tolerance=tolerance
    )


@of("DynamicQuantizeLinear")
def dynamic(r: Draw, op: str) -> Case:
    x = r.one(r.floats(r.shape()), np.abs(r.floats(r.shape())), np.zeros(r.shape(), np.float32))
    return Case(op, {"x": x}, outputs=3)


# Resizing ------------------------------------------------------------------------------------------------------------


@of("Resize")
def resize(r: Draw, op: str) -> Case:
    n = r.between(1, 2)
    x = r.floats((1, r.between(1, 2), *(r.between(2, 6) for _ in range(n))))
    mode = r.one("nearest", "linear", "cubic") if n == 2 else r.one("nearest", "linear")
    attrs: dict[str, Any] = {"mode": mode}
    attrs |= r.some(
        coordinate_transformation_mode=r.one(
            "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"
        )
    )
    if mode == "nearest":
        attrs |= r.some(nearest_mode=r.one("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
    if mode == "cubic":
        attrs |= r.some(cubic_coeff_a=-0.5, exclude_outside=r.between(0, 1))
    named = r.chance(0.3)
    if named:
        attrs["axes"] = list(range(2, 2 + n))
    lead = [] if named else [0, 1]
    scales = sizes = None
    if r.chance():
        factors = [r.one(0.5, 2.0, 3.0, 0.7, 1.2, 1.5, 2.3, 0.6) for _ in range(n)]
        scales = f32(*(1.0 for _ in lead), *factors)
    else:
        sizes = i64(*(x.shape[i] for i in lead), *(r.between(1, 9) for _ in range(n)))
    return Case(op, {"x": x, "roi": None, "s": scales, "n": sizes}, attrs, frozenset("sn"), opset=19, tolerance=1e-4)


@of("AffineGrid")
def affine_grid(r: Draw, op: str) -> Case:
    count = r.between(2, 3)
    theta = r.floats((r.between(1, 3), count, count + 1))
    size = i64(len(theta), 2, *(r.between(1, 5) for _ in range(count)))
    attrs = r.some(align_corners=r.between(0, 1))
    return Case(op, {"theta": theta, "size": size}, attrs, frozenset({"size"}), opset=20, tolerance=1e-4)
