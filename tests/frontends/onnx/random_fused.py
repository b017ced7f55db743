"""Random attention and fused nodes, of ONNX and of Microsoft's domain: with masks, caches and unusual attributes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .drawing import MS, Array, Case, Draw, f32, of


def lengths(r: Draw, batch: int, keys: int) -> Array:
    return r.ints((batch,), 1, keys, np.int32)


def padded(r: Draw, batch: int, keys: int) -> Array:
    """1 for tokens, 0 for the padding behind them."""
    return (np.arange(keys) < lengths(r, batch, keys)[:, None]).astype(np.int32)


@of("Attention of Microsoft")
def microsoft_attention(r: Draw, op: str) -> Case:
    b, t, heads, k = r.between(1, 2), r.between(1, 5), r.between(1, 3), 4
    width = heads * k
    x = r.floats((b, t, 6), 1.0)
    mask = r.one(None, padded(r, b, t), lengths(r, b, t), np.tril(np.ones((b, t, t), np.int32)))
    bias = r.floats((r.one(1, b), r.one(1, heads), t, t)) if r.chance(0.3) else None
    operands = {"x": x, "w": r.floats((6, 3 * width), 0.5), "b": r.floats((3 * width,)) if r.chance(0.8) else None,
                "m": mask, "past": None, "bias": bias}  # fmt: skip
    attrs = {"num_heads": heads, **r.some(unidirectional=r.between(0, 1), scale=0.3)}
    if r.chance(0.3):
        attrs["qkv_hidden_sizes"] = [width] * 3
    if r.chance(0.2) and bias is None:
        operands["past"] = r.floats((2, b, heads, 3, k))
        operands["m"] = None
    return Case(
        "Attention", operands, attrs, frozenset("wb"), 1 if operands["past"] is None else 2, domain=MS, tolerance=1e-4
    )


@of("MultiHeadAttention")
def multi_head(r: Draw, op: str) -> Case:
    b, t, s, heads, k = r.between(1, 2), r.between(1, 5), r.between(1, 5), r.between(1, 3), 4
    width = heads * k
    past = r.one(None, None, 3)
    keys = s + (past or 0)
    if past is not None:
        t = s
    mask = r.one(None, padded(r, b, keys))
    bias = r.floats((r.one(1, b), r.one(1, heads), t, keys)) if r.chance(0.4) else None
    operands: dict[str, Array | None] = {
        "q": r.floats((b, t, width)), "k": r.floats((b, s, width)), "v": r.floats((b, s, width)),
        "b": r.floats((3 * width,)) if r.chance() and past is None else None, "m": mask, "bias": bias,
        "pk": None if past is None else r.floats((b, heads, past, k)),
        "pv": None if past is None else r.floats((b, heads, past, k)),
    }  # fmt: skip
    outputs = 3 if past is not None else 1
    attrs = {"num_heads": heads, **r.some(scale=0.3, unidirectional=r.between(0, 1))}
    if past is None and r.chance(0.2):
        operands["k"], operands["v"] = (r.floats((b, heads, s, k)) for _ in "kv")
        operands["b"] = None
    return Case(op, operands, attrs, frozenset("b"), outputs, domain=MS, tolerance=1e-4)


@of("Attention")
def attention(r: Draw, op: str) -> Case:
    b, t, s, groups, k = r.between(1, 2), r.between(1, 5), r.between(1, 5), r.between(1, 2), 4
    heads = groups * r.between(1, 2)
    opset = r.one(23, 24)
    past = r.one(None, None, 2)
    keys = s + (past or 0)
    flat = r.chance()

    def operand(n: int, tokens: int) -> Array:
        return r.floats((b, tokens, n * k) if flat else (b, n, tokens, k))

    mask = r.one(None, r.floats((t, keys)), r.rng.random((t, keys)) < 0.7, r.floats((b, 1, t, keys)), r.floats((heads, t, keys)),
                 r.rng.random((1, heads, t, keys)) < 0.7)  # fmt: skip
    if mask is not None and mask.dtype == np.bool_:
        mask = mask | np.eye(t, keys, dtype=np.bool_)
    operands = {"q": operand(heads, t), "k": operand(groups, s), "v": operand(groups, s), "m": mask,
                "pk": None if past is None else r.floats((b, groups, past, k)),
                "pv": None if past is None else r.floats((b, groups, past, k))}  # fmt: skip
    attrs: dict[str, Any] = r.some(is_causal=r.between(0, 1), scale=0.3)
    if flat:
        attrs |= {"q_num_heads": heads, "kv_num_heads": groups}
    if r.chance(0.2):
        attrs["softcap"] = 2.0
    return Case(op, operands, attrs, outputs=1 if past is None else 3, opset=opset, tolerance=1e-4)


@of("RotaryEmbedding", "RotaryEmbedding of Microsoft")
def rotary(r: Draw, op: str) -> Case:
    b, heads, t, k = r.between(1, 2), r.between(1, 3), r.between(1, 5), 8
    flat, part = r.chance(), r.one(0, 4)
    half = (part or k) // 2
    x = r.floats((b, t, heads * k) if flat else (b, heads, t, k))
    attrs = r.some(interleaved=r.between(0, 1))
    if part:
        attrs["rotary_embedding_dim"] = part
    if flat or part:
        attrs["num_heads"] = heads
    tables = {"c": r.floats((9, half)), "s": r.floats((9, half))}
    at = r.ints((b, t), 0, 8)
    if op == "RotaryEmbedding":
        operands = {"x": x, **tables, "p": at}
        if r.chance():
            operands = {"x": x, "c": r.floats((b, t, half)), "s": r.floats((b, t, half))}
        return Case(op, operands, attrs, opset=23)
    at = at if r.chance() else r.ints((1,), 0, 9 - t)
    return Case("RotaryEmbedding", {"x": x, "p": at, **tables}, attrs, frozenset("cs"), domain=MS)


@of("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def skip(r: Draw, op: str) -> Case:
    shape = (*r.shape(2, 2), r.between(2, 6))
    d = shape[-1:]
    other = r.one(shape, shape, shape[1:], (1, *shape[1:]))
    operands: dict[str, Array | None] = {"x": r.floats(shape), "z": r.floats(other), "w": r.floats(d)}
    if op == "SkipLayerNormalization":
        operands["b"] = r.floats(d) if r.chance(0.7) else None
    operands["bias"] = r.floats(d) if r.chance() else None
    outputs, fixed = r.one(1, 4), frozenset({"w", "b", "bias"})
    return Case(op, operands, r.some(epsilon=1e-3), fixed, outputs, frozenset({1, 2}), domain=MS, tolerance=1e-4)


@of("EmbedLayerNormalization")
def embed(r: Draw, op: str) -> Case:
    b, t, d = r.between(1, 3), r.between(1, 5), 4
    segments = r.chance()
    operands: dict[str, Array | None] = {
        "ids": r.ints((b, t), 0, 8, np.int32), "seg": r.ints((b, t), 0, 1, np.int32) if segments else None,
        "word": r.floats((9, d)), "pos": r.floats((6, d)), "kind": r.floats((2, d)) if segments else None, "w": r.floats((d,)),
        "b": r.floats((d,)), "m": padded(r, b, t) if r.chance() else None,
        "at": r.ints((r.one(1, b), t), 0, 5, np.int32) if r.chance(0.3) else None,
    }  # fmt: skip
    fixed = frozenset({"word", "pos", "kind", "w", "b"})
    return Case(op, operands, r.some(epsilon=1e-3), fixed, r.one(2, 3), domain=MS, tolerance=1e-4)


@of("BiasGelu", "FastGelu", "QuickGelu")
def gelu(r: Draw, op: str) -> Case:
    x = r.floats(r.shape(1, 3))
    bias = r.floats(x.shape[-1:]) if op == "BiasGelu" or r.chance() else None
    if op == "QuickGelu":
        return Case(op, {"x": x}, r.some(alpha=1.3), domain=MS)
    return Case(op, {"x": x, "b": bias}, domain=MS, tolerance=1e-4 if op == "FastGelu" else 1e-5)


@of("FusedMatMul")
def fused_matmul(r: Draw, op: str) -> Case:
    n, k, m = r.between(1, 4), r.between(1, 4), r.between(1, 4)
    ta, tb = r.between(0, 1), r.between(0, 1)
    lead = r.shape(0, 2, 1, 3)
    a, b = ((k, n) if ta else (n, k)), ((m, k) if tb else (k, m))
    attrs = {"transA": ta, "transB": tb, **r.some(alpha=0.5)}
    return Case(
        op,
        {"a": r.floats((*lead, *a)), "b": r.floats((*lead, *b))},
        attrs,
        frozenset("b") if r.chance() else frozenset(),
        domain=MS,
    )


@of("SimplifiedLayerNormalization")
def simplified(r: Draw, op: str) -> Case:
    x = r.floats(r.shape(2, 3, 2, 5))
    return Case(
        op, {"x": x, "w": r.floats(x.shape[-1:])}, r.some(epsilon=1e-2, axis=-1), frozenset("w"), tolerance=1e-4
    )


@of("Gelu of Microsoft")
def microsoft_gelu(r: Draw, op: str) -> Case:
    return Case("Gelu", {"x": r.one(r.coarse(r.shape()), f32(-5.0, 5.0, 0.1))}, domain=MS)
