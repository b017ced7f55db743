"""Random nodes that compute element by element, or move elements: with unusual attributes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .drawing import Case, Draw, f32, i64, less, of

# Element by element --------------------------------------------------------------------------------------------------

SPECIAL = f32(np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 1e-30, -1e30, 88.0, -104.0, 1.0, -1.0)


@of("Abs", "Neg", "Sign", "Exp", "Tanh", "Sigmoid", "Erf", "Floor", "Ceil", "Round", "Relu", "Softplus", "Softsign", "Sqrt",
    "Log", "Reciprocal", "IsNaN", "HardSwish", "Mish", "Identity", "Sin", "Cos", "Tan",
    "Sinh", "Cosh", "Asinh", "Acosh", "Atanh")  # fmt: skip
def unary(r: Draw, op: str) -> Case:
    x = r.coarse(r.shape(0, 3))
    if r.chance(0.4):
        x = SPECIAL.copy()
        if op in ("Sin", "Cos", "Tan", "Mish"):
            x = x[np.isfinite(x) & (np.abs(x) < 80)]
    if op in ("Abs", "Neg", "Sign") and r.chance(0.4):
        x = r.ints(r.shape(0, 3), dtype=r.one(np.int64, np.int32, np.int8))
    return Case(op, {"x": x})


@of("Elu", "Celu", "Selu", "LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Gelu", "Swish", "IsInf", "Shrink")
def parametrised(r: Draw, op: str) -> Case:
    x = SPECIAL if r.chance(0.4) else r.coarse(r.shape())
    attrs = {
        "HardSigmoid": r.some(alpha=0.3, beta=-0.1), "Selu": r.some(alpha=1.5, gamma=0.7), "Gelu": r.some(approximate="tanh"),
        "Swish": r.some(alpha=r.one(0.5, -1.0)), "IsInf": r.some(detect_positive=r.between(0, 1), detect_negative=r.between(0, 1)),
        "LeakyRelu": r.some(alpha=r.one(-0.5, 2.0)), "ThresholdedRelu": r.some(alpha=-0.5), "Celu": r.some(alpha=0.5),
        "Shrink": r.some(lambd=0.25, bias=0.125),
    }.get(op, r.some(alpha=0.5))  # fmt: skip
    if op in ("Gelu", "Swish"):
        x = x[np.isfinite(x)] if x.ndim == 1 else x
    return Case(op, {"x": x}, attrs, opset={"Gelu": 20, "Swish": 24}.get(op, 18))


@of("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Mod", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual",
    "PRelu", "And", "Or", "Xor", "Mean", "Sum")  # fmt: skip
def binary(r: Draw, op: str) -> Case:
    shape = r.shape(0, 3)
    other = less(r, shape)
    if op in ("Max", "Min") and r.chance():
        shape, other = other, shape
    fixed = frozenset({"b"}) if r.chance(0.4) else frozenset()
    attrs: dict[str, Any] = {}
    if op in ("And", "Or", "Xor"):
        return Case(op, {"a": r.rng.random(shape) < 0.5, "b": r.rng.random(other) < 0.5}, fixed=fixed)
    if op in ("PRelu", "Mean", "Sum") or (op != "Mod" and r.chance(0.6)):
        a, b = r.coarse(shape), r.coarse(other)
        if op == "Pow" and r.chance():
            a, b = np.abs(a), r.ints(other, -2, 5).astype(r.one(np.float32, np.int64, np.int32))
    elif op == "Mod" and r.chance(0.4):
        a, b, attrs = r.floats(shape), r.floats(other), {"fmod": 1}
    else:
        dtype = r.one(np.int64, np.int32, np.int64, np.int8, np.uint8, np.int16)
        low = 0 if dtype == np.uint8 else -9
        a, b = r.ints(shape, low, 9, dtype), r.ints(other, low, 9, dtype)
        if op in ("Div", "Mod"):
            b = np.where(b == 0, 3, b).astype(dtype)
        if op == "Mod":
            attrs = r.some(fmod=r.between(0, 1))
        if op == "Pow":
            a, b = r.ints(shape, -7, 9, r.one(np.int64, np.int32)), r.ints(other, 0, 9)
            b = b.astype(r.one(np.int64, np.int32, np.float32))
    return Case(op, {"a": a, "b": b}, attrs, fixed)


@of("Where")
def where(r: Draw, op: str) -> Case:
    shape = r.shape(1, 3)
    parts = [shape, less(r, shape), less(r, shape)]
    order = r.rng.permutation(3)
    a, b = r.coarse(parts[order[0]]), r.coarse(parts[order[1]])
    if r.chance(0.2):
        b = np.full(b.shape, -np.inf, np.float32)
    return Case(
        op,
        {"c": r.rng.random(parts[order[2]]) < 0.5, "a": a, "b": b},
        fixed=frozenset(n for n in "cab" if r.chance(0.3)),
    )


@of("Clip")
def clip(r: Draw, op: str) -> Case:
    dtype = r.one(np.float32, np.float32, np.int64, np.int32, np.int8)
    x = r.coarse(r.shape(0, 3)).astype(dtype)
    low, high = (np.array(v, dtype) if r.chance(0.7) else None for v in (r.between(-2, 1), r.between(-1, 2)))
    if r.chance(0.1):
        x = SPECIAL.astype(np.float32)
        low, high = (None if v is None else v.astype(np.float32) for v in (low, high))
    return Case(
        op, {"x": x, "low": low, "high": high}, fixed=frozenset({"low", "high"}) if r.chance(0.7) else frozenset()
    )


@of("Cast")
def cast(r: Draw, op: str) -> Case:
    x = r.one(
        r.coarse(r.shape()),
        r.ints(r.shape()),
        r.rng.random(r.shape()) < 0.5,
        r.ints(r.shape(), 0, 200, np.uint8),
        f32(1e4, -1e4, 7e4, 0.1, np.nan, np.inf),
        r.floats(r.shape(), 3.0).astype(np.float64),
        r.coarse(r.shape(), np.float16),
    )
    to = r.one(1, 11, 10, 7, 6, 9, 3)
    if x.dtype.kind == "f" and to in (3, 6, 7):
        x = np.nan_to_num(x, nan=3.5, posinf=9, neginf=-9)
    if to == 3:
        x = np.clip(x, 0, 100)
    return Case(op, {"x": x}, {"to": to})


@of("Softmax", "LogSoftmax", "LpNormalization")
def over_an_axis(r: Draw, op: str) -> Case:
    x = r.floats(r.shape())
    if r.chance(0.3):
        x = r.coarse(x.shape) * r.one(1, 100, 0)
    attrs = r.some(axis=r.axis(x.ndim))
    if op == "LpNormalization":
        attrs |= r.some(p=r.between(1, 2))
    return Case(op, {"x": x.astype(np.float32)}, attrs, opset=r.one(13, 18))


# Layout --------------------------------------------------------------------------------------------------------------


@of("Transpose")
def transpose(r: Draw, op: str) -> Case:
    x = r.coarse(r.shape(0, 4))
    return Case(op, {"x": x}, r.some(perm=[int(i) for i in r.rng.permutation(x.ndim)]) if x.ndim else {})


@of("Reshape")
def reshape(r: Draw, op: str) -> Case:
    x = r.coarse(r.one((2, 3, 4), (6, 4), (4, 1, 6), (0, 4), (24,), (1,)))
    options = [(-1,), (0, -1), (2, -1, 3), (0, 0, -1), (1, -1, 1), (), (3, 8), (0, 2, -1), (-1, 0), (0, 4)]
    return Case(op, {"x": x, "s": i64(*r.one(*options))}, r.some(allowzero=r.between(0, 1)), frozenset({"s"}))


@of("Flatten")
def flatten(r: Draw, op: str) -> Case:
    x = r.one(r.coarse, r.ints)(r.shape(0, 4))
    return Case(op, {"x": x}, r.some(axis=r.between(-x.ndim, x.ndim)))


@of("Squeeze", "Unsqueeze")
def squeeze(r: Draw, op: str) -> Case:
    shape = tuple(1 if r.chance() else d for d in r.shape(1, 4))
    if op == "Unsqueeze":
        extra = r.between(1, 2)
        axes = [
            int(a) - (len(shape) + extra if r.chance() else 0) for a in r.rng.permutation(len(shape) + extra)[:extra]
        ]
        return Case(op, {"x": r.coarse(shape), "a": i64(*axes)}, fixed=frozenset({"a"}))
    ones = [i - (len(shape) if r.chance() else 0) for i, d in enumerate(shape) if d == 1 and r.chance(0.7)]
    return Case(op, {"x": r.coarse(shape), "a": i64(*ones) if ones else None}, fixed=frozenset({"a"}))


@of("Concat")
def concat(r: Draw, op: str) -> Case:
    shape = r.shape(1, 3)
    axis = r.axis(len(shape))
    parts = {}
    for name in "abc"[: r.between(1, 3)]:
        size = list(shape)
        size[axis] = r.between(0, 3)
        parts[name] = r.coarse(size)
    return Case(op, parts, {"axis": axis}, fixed=frozenset(n for n in parts if r.chance(0.3)))


BOUNDS = (0, 1, 2, 3, -1, -2, -3, 5, 100, -100, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), -(2**63) + 1)


@of("Slice")
def slice_(r: Draw, op: str) -> Case:
    x = r.one(r.coarse, r.ints)(r.shape(1, 3))
    axes = r.axes(x.ndim, 1)
    n = len(axes)
    steps = [r.one(1, 1, 2, 3, -1, -2, 100, -100) for _ in axes]
    operands = {"x": x, "s": i64(*(r.one(*BOUNDS) for _ in range(n))), "e": i64(*(r.one(*BOUNDS) for _ in range(n)))}
    operands["a"] = i64(*axes) if r.chance(0.8) else None
    operands["t"] = i64(*steps) if r.chance(0.7) else None
    return Case(op, operands, fixed=frozenset("seat"))


@of("Split")
def split(r: Draw, op: str) -> Case:
    x = r.one(r.coarse, r.ints)(r.shape(1, 3, 1, 9))
    axis = r.axis(x.ndim)
    size, count = x.shape[axis], r.between(1, 4)
    if r.chance():
        cuts = sorted(r.between(0, size) for _ in range(count - 1))
        parts = np.diff([0, *cuts, size])
        return Case(op, {"x": x, "s": parts.astype(np.int64)}, {"axis": axis}, frozenset({"s"}), count)
    return Case(op, {"x": x}, {"axis": axis, "num_outputs": count}, outputs=count)


@of("Expand", "Tile")
def repeat(r: Draw, op: str) -> Case:
    shape = tuple(1 if r.chance() else d for d in r.shape(1, 3))
    x = r.one(r.coarse, r.ints)(shape)
    if op == "Tile":
        return Case(op, {"x": x, "s": i64(*(r.between(0, 3) for _ in shape))}, fixed=frozenset({"s"}))
    wanted = [r.one(1, d) if d > 1 else r.between(0, 4) for d in shape]
    wanted = (
        [r.between(1, 2) for _ in range(r.between(0, 1))] + wanted
        if r.chance(0.7)
        else wanted[r.between(0, len(wanted)) :]
    )
    return Case(op, {"x": x, "s": i64(*wanted)}, fixed=frozenset({"s"}))


@of("Pad")
def pad(r: Draw, op: str) -> Case:
    x = r.one(r.coarse, r.ints)(r.shape(1, 3, 2, 6))
    mode = r.one("constant", "reflect", "edge", "wrap")
    axes = r.axes(x.ndim, 1) if r.chance() else None
    names = range(x.ndim) if axes is None else axes
    sizes = [x.shape[a] for a in names]
    low = -1 if r.chance(0.3) else 0
    pads = [r.between(low, min(3, s - 1 if mode == "reflect" else s)) for s in sizes] * 2
    pads = [p if r.chance(0.7) else 0 for p in pads]
    value = np.array(r.one(1.5, -2), x.dtype) if r.chance() else None
    operands = {"x": x, "p": i64(*pads), "v": value, "a": None if axes is None else i64(*axes)}
    return Case(op, operands, {"mode": mode}, frozenset("pva"), opset=19)


@of("Trilu")
def trilu(r: Draw, op: str) -> Case:
    x = r.one(r.coarse, r.ints)((*r.shape(0, 1), *r.shape(2, 2)))
    k = np.array(r.one(0, 1, -1, 3, -9, 9)) if r.chance(0.7) else None
    return Case(op, {"x": x, "k": k}, r.some(upper=r.between(0, 1)), frozenset({"k"}))


@of("DepthToSpace", "SpaceToDepth")
def blocks(r: Draw, op: str) -> Case:
    n = r.between(1, 3)
    if op == "DepthToSpace":
        x = r.coarse((r.between(1, 2), n * n * r.between(1, 3), r.between(1, 3), r.between(1, 3)))
        return Case(op, {"x": x}, {"blocksize": n, **r.some(mode=r.one("DCR", "CRD"))})
    return Case(
        op,
        {"x": r.coarse((r.between(1, 2), r.between(1, 3), n * r.between(1, 3), n * r.between(1, 3)))},
        {"blocksize": n},
    )


@of("EyeLike")
def eye(r: Draw, op: str) -> Case:
    return Case(op, {"x": r.coarse(r.shape(2, 2))}, r.some(k=r.between(-3, 3), dtype=r.one(1, 7, 6)))
