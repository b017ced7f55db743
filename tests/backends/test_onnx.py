"""The ONNX backend as a whole: composites as single ops, sizes that only run time knows, loops, interface."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx_ir as ox
import pytest

from tessera.backends.onnx import build
from tessera.backends.onnx.registry import claims
from tessera.frontends.source import loads, resolve
from tessera.ir.builder import Builder
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import ceildiv, const, dim_max, dim_min
from tessera.ir.graph import Graph, Initializer, Module, Value
from tessera.ir.types import DTYPES, f32

from .support import B, T, module, of, of_composite, ops, randn, session
from .test_quantized import CASES as QUANTIZED

# Composites as single ops --------------------------------------------------------------------------------------------


def claim_cases() -> list[Any]:
    x, w, bias = randn(2, 5, 8), randn(6, 8), randn(6)
    row, image, per_channel = randn(8), randn(2, 4, 3, 3), [randn(4, seed=i) for i in range(4)]
    q, k, v = randn(2, 4, 5, 8), randn(2, 4, 5, 8, seed=1), randn(2, 4, 5, 6)
    k7, v7 = randn(2, 1, 7, 8), randn(2, 1, 7, 6)
    padding = np.arange(5) < np.array([[[[3]]], [[[0]]]])  # nothing to attend to in the second row of the batch
    dense = np.random.default_rng(0).random((2, 4, 5, 7)) < 0.6
    everywhere = randn(2, 1, 1, 5)
    everywhere[0] = -np.inf
    angles = randn(1, 5, 4), randn(1, 5, 4, seed=1)
    attention = "std.attention.attention"
    rows: list[tuple[str, list[Any], dict[str, Any], str]] = [
        ("std.nn.affine", [x, w, bias], {}, "MatMul"),
        ("std.nn.affine", [x, w, None], {}, "MatMul"),
        ("std.nn.softmax", [x], {"axis": 1}, "Softmax"),
        ("std.nn.log_softmax", [x], {}, "LogSoftmax"),
        ("std.nn.relu", [x], {}, "Relu"),
        ("std.nn.gelu", [x], {}, "Gelu"),
        ("std.nn.gelu_tanh", [x], {}, "Gelu"),
        ("std.nn.layer_normalize", [x, row, row], {}, "LayerNormalization"),
        ("std.nn.layer_normalize", [x, None, None], {"eps": 1e-3}, "LayerNormalization"),
        ("std.nn.rms_normalize", [x, row], {}, "RMSNormalization"),
        ("std.nn.rms_normalize", [x, None], {}, "RMSNormalization"),
        ("std.nn.l2_normalize", [np.where(x > 2, 0.0, x).astype(np.float32)], {}, "LpNormalization"),
        ("std.nn.l2_normalize", [np.zeros((2, 3), np.float32)], {}, "LpNormalization"),
        (
            "std.nn.batch_normalize",
            [image, per_channel[0], abs(per_channel[1]), *per_channel[2:]],
            {},
            "BatchNormalization",
        ),
        (attention, [q, k, v, None, None], {}, "Attention"),
        (attention, [q, k, v, padding, None], {}, "Attention"),
        (attention, [q, k, v, None, randn(1, 4, 5, 5)], {}, "Attention"),
        (attention, [q, k, v, None, everywhere], {}, "Attention"),
        (attention, [q, k, v, None, None], {"causal": True}, "Attention"),
        (attention, [q, k, v, padding, randn(2, 1, 1, 5)], {"causal": True}, "Attention"),
        (attention, [q, k7, v7, dense, None], {"scale": 0.3}, "Attention"),
        (attention, [q, k7, v7, None, None], {"causal": True}, "Attention"),
        (attention, [q, k7, v7, dense, randn(2, 1, 1, 7)], {"causal": True}, "Attention"),
        (attention, [q, k7, v7, dense, None], {"row": -1}, "Attention"),
        (attention, [q, k, v, padding, randn(2, 1, 5, 5)], {"row": 0, "causal": True}, "Attention"),
        ("std.attention.attend", [q, k, v, padding, None], {}, "Attention"),
        ("std.attention.rope", [q, *angles], {}, "RotaryEmbedding"),
        ("std.attention.rope", [q, *angles], {"interleaved": True}, "RotaryEmbedding"),
        ("std.cache.write_rows", [k7, np.array([2, 9]), randn(2, 1, 3, 8)], {}, "TensorScatter"),
    ]
    return [pytest.param(*r[:3], r[3], id=f"{r[0].rpartition('.')[2]}-{i}") for i, r in enumerate(rows)]


@pytest.mark.parametrize("symbols", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize(("name", "arrays", "attrs", "op_type"), claim_cases())
def test_a_claim_agrees_with_the_body(
    name: str, arrays: list[Any], attrs: dict[str, Any], op_type: str, dtype: str, symbols: bool
) -> None:
    arrays = [a.astype(DTYPES[dtype].numpy) if a is not None and a.dtype == np.float32 else a for a in arrays]
    made = of_composite(name, arrays, attrs, symbols)
    assert op_type in ops(build(made))
    feeds = {f"x{i}": a for i, a in enumerate(arrays) if a is not None}
    tolerance = 1e-5 if dtype == "f32" else 4e-3
    for opset in (23, 24):
        claimed = session(made, opset=opset)(feeds)
        for name, wanted in session(made, opset=opset, claims=False)(feeds).items():
            np.testing.assert_allclose(claimed[name], wanted, rtol=tolerance, atol=tolerance)


def test_every_claim_is_compared_with_its_body() -> None:
    quantized = {f"std.quantized.{case[0]}" for case in QUANTIZED}
    elsewhere = {"std.detection.suppress", "std.moe.experts.dispatch"}  # tests/differential/test_composites.py, test_dispatch.py
    assert set(claims()) == {case.values[0] for case in claim_cases()} | quantized | elsewhere


@pytest.mark.parametrize(
    ("name", "arrays", "attrs"),
    [
        ("std.attention.attention", [randn(2, 4, 5, 8)] * 3 + [None, None], {"softcap": 5.0}),
        ("std.attention.attention", [randn(2, 4, 5, 8)] * 3 + [None, None], {"column_mass": True, "log_sum_exp": True}),
        ("std.attention.rope", [randn(2, 4, 5, 8), randn(1, 5, 3), randn(1, 5, 3)], {}),
        ("std.nn.layer_normalize", [randn(2, 8, dtype=np.float64), None, None], {}),
        ("std.nn.batch_normalize", [randn(2, 4, 3), randn(4), abs(randn(4)), None, None], {}),
    ],
)
def test_what_an_op_does_not_do_is_lowered_through_the_body(
    name: str, arrays: list[Any], attrs: dict[str, Any]
) -> None:
    made = of_composite(name, arrays, attrs, True)
    assert ops(build(made)) == ops(build(made, claims=False))
    assert session(made)({f"x{i}": a for i, a in enumerate(arrays) if a is not None})


@pytest.mark.parametrize(
    ("opset", "single"), [(18, set()), (20, {"Gelu"}), (23, {"Gelu", "Attention", "RMSNormalization"})]
)
def test_an_old_opset_uses_the_bodies(opset: int, single: set[str]) -> None:
    text = """
        use std.nn (gelu, rms_normalize)
        use std.attention (attention)
        model m(x: float[B, 2, T, 8]) -> float[B, 2, T, 8] { return attention(gelu(x), rms_normalize(x), x) }
    """
    made = loads(text)
    model = build(made, opset=opset)
    assert set(ops(model)) & {"Gelu", "Attention", "RMSNormalization"} == single
    assert model.opset_imports == {"": opset}
    x = randn(2, 2, 5, 8)
    outputs = session(made, opset=opset)({"x": x})
    (name,) = outputs
    np.testing.assert_allclose(outputs[name], session(made)({"x": x})[name], rtol=1e-5, atol=1e-5)


# Sizes ---------------------------------------------------------------------------------------------------------------


def test_one_artifact_at_three_sizes() -> None:
    text = """
        use std.attention (self_attention)
        use std.nn (layer_norm, mlp)
        model block(x: float[B, T, 16], valid: bool[B, T]) -> float[B, T, 16] {
            mask = unsqueeze(valid, [1, 2])
            x = x + self_attention(layer_norm(x) as norm1, mask, heads=4) as attn
            return x + mlp(layer_norm(x) as norm2, hidden=32) as mlp
        }
    """
    made = loads(text)
    runs, bodies = session(made), session(made, claims=False, opset=18)
    assert "Einsum" not in ops(build(made, claims=False))
    for batch, tokens in [(1, 1), (3, 7), (2, 40)]:
        feeds = {"x": randn(batch, tokens, 16), "valid": np.arange(tokens) < np.arange(1, batch + 1)[:, None]}
        (a,), (b,) = runs(feeds).values(), bodies(feeds).values()
        assert a.shape == (batch, tokens, 16)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_heads_need_no_computed_shape() -> None:
    b = Builder(Graph("m"))
    x = b.input("x", of("f32", "B", "T", 12))
    heads = b.op("rearrange", x, pattern="b t (h k) -> b h t k", axes=(("h", 3),))
    back = b.op("rearrange", b.op("neg", heads), pattern="b h t k -> b t (h k)")
    made = module(b, y=back, same=b.op("rearrange", heads, pattern="b h t k -> b t (h k)"))
    assert ops(build(made)) == ["Reshape", "Transpose", "Neg", "Transpose", "Reshape", "Identity"]
    x_ = randn(2, 5, 12)
    np.testing.assert_array_equal(session(made)({"x": x_})["y"], -x_)
    np.testing.assert_array_equal(session(made)({"x": x_})["same"], x_)


@pytest.mark.parametrize("causal", ["true", "false"])
def test_attention_splits_and_joins_the_heads_itself(causal: str) -> None:
    text = f"""
        use std.attention (multi_head)
        model m(x: float[B, T, 24], valid: bool[B, T]) -> (float[B, T, 24], float[B, 2, T, 4]) {{
            k = x[..., 8:16]
            mask = unsqueeze(valid, [1, 2])
            y = multi_head(x, k, x[..., :6], mask, heads=6, kv_heads=2, causal={causal}, scale=0.4)
            y = concat(y, x[..., :6], axis=-1)
            return y, rearrange(k, "b t (h k) -> b h t k", h=2) * 2.0
        }}
    """
    made = loads(text)
    model = build(made)
    assert [n for n in ops(model) if n in ("Attention", "Transpose")] == ["Attention", "Transpose"]
    x = randn(2, 7, 24)
    feeds = {"x": x, "valid": np.arange(7) < np.array([[4], [7]])}
    claimed, wanted = session(made)(feeds), session(made, claims=False)(feeds)
    for name in wanted:
        np.testing.assert_allclose(claimed[name], wanted[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize(
    "bias", ["other", "where(seen, zero, low)", "where(seen, zero, low) + where(later, zero, low)"]
)
@pytest.mark.parametrize("causal", ["true", "false"])
def test_a_row_of_the_lowest_number_is_the_mean(bias: str, causal: str, dtype: str) -> None:
    """ONNX Runtime's kernel gives 0 for it, as for a row of -inf."""
    low = float(np.finfo(DTYPES[dtype].numpy).min)
    made = loads(f"""
        use std.attention (attention)
        model m(q: {dtype}[2, 1, 4, 8], k: {dtype}[2, 1, 4, 8], v: {dtype}[2, 1, 4, 8], seen: bool[2, 1, 1, 4],
                other: {dtype}[2, 1, 4, 4]) -> (y: {dtype}[2, 1, 4, 8]) {{
            zero = constant(0.0, dtype={dtype})
            low = constant({low}, dtype={dtype})
            later = iota(4) < unsqueeze(iota(4), 1) + 2
            return attention(q, k, v, bias={bias}, causal={causal})
        }}
    """)
    assert "Attention" in ops(build(made))
    q, k, v = (randn(2, 1, 4, 8, seed=i).astype(DTYPES[dtype].numpy) for i in range(3))
    other = np.zeros((2, 1, 4, 4), q.dtype)
    other[0, 0] = low
    other[1, 0, 2] = [-np.inf, low, low, -np.inf]
    seen = np.array([[False] * 4, [True, False, True, False]])[:, None, None]
    feeds = {"q": q, "k": k, "v": v, "seen": seen, "other": other}
    claimed, wanted = session(made)(feeds), session(made, claims=False)(feeds)
    assert np.abs(claimed["y"][0]).min() > 0
    if dtype == "f32":  # The kernel of f16 adds in f16, in which the lowest number swallows the scores.
        np.testing.assert_allclose(claimed["y"], wanted["y"], atol=1e-5)


DIMENSIONS: list[tuple[str, Any]] = [
    ("sum of products", B * B * 3 - T * B + T * 2 + 7),
    ("floordiv", (T * 5 + 3) // 4),
    ("floordiv of a negative", (B - T) // 3 + T),
    ("mod", (T * 3 + 1) % 5),
    ("mod of a negative", (B - T * 2) % 7),
    ("min and max", dim_min(const(8), (T - 1) // 2) + dim_max(B, T - 3)),
    ("nested", ceildiv(dim_min(T, B * 4) * 3, 2) - T // (B + 1)),
]


@pytest.mark.parametrize(("what", "dim"), DIMENSIONS, ids=[d[0] for d in DIMENSIONS])
def test_a_dimension_as_a_value(what: str, dim: Any) -> None:
    b = Builder(Graph("m"))
    b.input("x", of("f32", "B", "T"))
    runs = session(module(b, y=b.dim_value(dim)))
    for batch, tokens in [(1, 1), (2, 3), (3, 16), (9, 4)]:
        found = runs({"x": np.zeros((batch, tokens), np.float32)})["y"]
        assert found.shape == ()
        assert int(found) == dim.evaluate({"B": batch, "T": tokens}), (batch, tokens)


def test_sizes_with_names_are_computed_once() -> None:
    """Twelve layers that each drop `min(4, …)` tokens: every `let` is a node or two, not an expression that doubles."""
    b = Builder(Graph("m"))
    x: Value = b.input("x", of("f32", "B", "T", 3))
    for _ in range(12):
        tokens = x.type.shape[1]
        kept = b.name_dim("kept", tokens - dim_min(const(4), (tokens - 1) // 2), 1)
        x = b.op("slice", x, axis=1, stop=kept)
    made = module(b, y=b.op("add", x, b.op("cast", b.dim_value(kept), dtype=f32)))
    model = build(made)
    assert len(ops(model)) < 12 * 8
    runs = session(made)
    for tokens in (2, 30, 100):
        left = tokens
        for _ in range(12):
            left -= min(4, (left - 1) // 2)
        x_ = randn(2, tokens, 3)
        np.testing.assert_allclose(runs({"x": x_})["y"], x_[:, :left] + left, rtol=1e-6)


def test_a_size_inside_an_expression_is_solved_for() -> None:
    b = Builder(Graph("m"))
    b.input("x", of("f32", T * 2 + 1))
    made = module(b, y=b.op("iota", n=T))
    assert session(made)({"x": np.zeros(9, np.float32)})["y"].tolist() == [0, 1, 2, 3]
    with pytest.raises(Diagnostic, match="axis 0 of `x` must be 2 \\* T \\+ 1 = 9, but is 10"):
        session(made)({"x": np.zeros(10, np.float32)})


def test_an_axis_may_be_empty_when_running() -> None:
    b = Builder(Graph("m"))
    x = b.input("x", of("f32", "B", "T", 6))
    left = b.name_dim("left", T - dim_min(T, const(4)))
    tail = b.op("slice", x, axis=1, start=T - left, stop=None)
    parts = b.op("rearrange", tail, pattern="b t (h k) -> (b h) k t", axes=(("h", 2),))
    runs = session(module(b, y=parts))
    for tokens in (3, 4, 6):
        x_ = randn(2, tokens, 6)
        wanted = x_[:, min(tokens, 4) :].reshape(2, -1, 2, 3).transpose(0, 2, 3, 1).reshape(4, 3, max(0, tokens - 4))
        np.testing.assert_array_equal(runs({"x": x_})["y"], wanted)


def test_shapes_with_symbols() -> None:
    b = Builder(Graph("m"))
    x = b.input("x", of("f32", "B", "T", 4))
    made = module(
        b,
        flat=b.op("reshape", x, shape=(B * T * 4,)),
        pairs=b.op("reshape", x, shape=(T, B, 2, 2)),
        wide=b.op("expand", b.op("slice", x, axis=0, stop=1), shape=(B, T, 4)),
        zeros=b.op("full", shape=(T, B), value=1.5, dtype=f32),
        size=b.op("full", shape=(2,), value=T * 3, dtype=f32),
        steps=b.op("iota", n=T + 1, dtype=f32),
    )
    x_ = randn(2, 3, 4)
    outputs = session(made)({"x": x_})
    np.testing.assert_array_equal(outputs["flat"], x_.reshape(-1))
    np.testing.assert_array_equal(outputs["pairs"], x_.reshape(3, 2, 2, 2))
    np.testing.assert_array_equal(outputs["wide"], np.broadcast_to(x_[:1], x_.shape))
    assert outputs["zeros"].tolist() == [[1.5, 1.5]] * 3
    assert outputs["size"].tolist() == [9, 9]
    assert outputs["steps"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("tokens", [1, 2, 3, 8, 13])
def test_scans_of_unknown_length(tokens: int) -> None:
    b = Builder(Graph("m"))
    a, x = b.input("a", of("f32", "B", "T", 3)), b.input("x", of("f32", "B", "T", 3))
    made = module(b, h=b.op("linear_recurrence", a, x, axis=1), m=b.op("cummax", x, axis=1))
    a_, x_ = abs(randn(2, tokens, 3, seed=1)), randn(2, tokens, 3)
    outputs = session(made)({"a": a_, "x": x_})
    h, wanted = np.zeros((2, 3), np.float32), []
    for t in range(tokens):
        h = a_[:, t] * h + x_[:, t]
        wanted.append(h)
    np.testing.assert_allclose(outputs["h"], np.stack(wanted, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs["m"], np.maximum.accumulate(x_, axis=1))


def test_compact_may_have_more_places_than_elements() -> None:
    b = Builder(Graph("m"))
    mask = b.input("mask", of("bool", "B", "N"))
    index, count = b.multi("compact", mask, capacity=4)
    runs = session(module(b, index=index, count=count))
    outputs = runs({"mask": np.array([[True, False, True]])})
    assert outputs["index"].tolist() == [[0, 2, 0, 0]]
    assert outputs["count"].tolist() == [2]
    assert runs({"mask": np.ones((1, 9), bool)})["index"].tolist() == [[0, 1, 2, 3]]


# Scatter -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [8, 300, None])
def test_additions_at_equal_indices_are_all_counted(rows: int | None) -> None:
    """ONNX Runtime's own ScatterND loses some of them when it runs in parallel."""
    b = Builder(Graph("m"))
    n = rows or 300
    x = b.input("x", of("f32", "B", rows or "N", 64))
    index, updates = b.input("index", of("i64", "B", "K")), b.input("updates", of("f32", "B", "K", 64))
    made = module(b, y=b.op("scatter_add", x, index, updates, batch=1))
    assert "ScatterND" not in ops(build(made))
    rng = np.random.default_rng(0)
    index_, updates_ = rng.integers(0, 3, (2, 20_000)), rng.integers(-2, 3, (2, 20_000, 64)).astype(np.float32)
    wanted = np.zeros((2, n, 64), np.float32)
    np.add.at(wanted, (np.arange(2)[:, None], index_), updates_)
    found = session(made)({"x": np.zeros((2, n, 64)), "index": index_, "updates": updates_})["y"]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("rows", [8, 300, None])
@pytest.mark.parametrize("dtype", ["f16", "f32", "f64"])
def test_a_few_additions_at_equal_indices_are_all_counted(rows: int | None, dtype: str) -> None:
    b = Builder(Graph("m"))
    n = rows or 300
    x = b.input("x", of(dtype, "B", rows or "N", 2, 3))
    index, updates = b.input("index", of("i64", "B", 5)), b.input("updates", of(dtype, "B", 5, 2, 3))
    made = module(b, y=b.op("scatter_add", x, index, updates, batch=1))
    assert "ScatterND" in ops(build(made))
    type_ = DTYPES[dtype].numpy
    x_ = randn(2, n, 2, 3).astype(type_)
    index_ = np.array([[7, 1, 7, 7, 0], [4, 4, 4, 4, 4]])
    updates_ = np.random.default_rng(0).integers(-2, 3, (2, 5, 2, 3)).astype(type_)
    # What is added to 0 shows the sums without rounding; elsewhere everything is as it was.
    x_[np.arange(2)[:, None], index_] = 0
    wanted = x_.copy()
    np.add.at(wanted, (np.arange(2)[:, None], index_), updates_)
    found = session(made)({"x": x_, "index": index_, "updates": updates_})["y"]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_are_replaced_within_a_loop_and_a_composite(batch: int) -> None:
    """The number of each row of the batch belongs to the main graph, whatever the batch is called where it is needed."""
    text = """
    op put(x: float[S, N, 4], index: i64[S, k], rows: float[S, k, 4]) -> float[S, N, 4] {
        return scatter_add(scatter_set(x, index, rows, batch=1), index, rows, batch=1)
    }
    model m(x: f32[B, T, 4], index: i64[B, 3], rows: f32[B, 3, 4]) -> (y: f32[B, T, 4]) {
        y = x
        fold i in 2 from (y) {
            y = put(y, index, rows)
        }
        return y
    }
    """
    x, rows = randn(batch, 6, 4), randn(batch, 3, 4, seed=1)
    index = np.stack([np.random.default_rng(i).permutation(6)[:3] for i in range(batch)])
    wanted = x.copy()
    wanted[np.arange(batch)[:, None], index] = 2 * rows
    found = session(loads(text))({"x": x, "index": index, "rows": rows})["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_column_is_gathered_as_rows_are() -> None:
    b = Builder(Graph("m"))
    x, index = b.input("x", of("f32", "B", "N", 1)), b.input("index", of("i64", "B", "K", 1))
    made = module(b, y=b.op("gather", x, index, axis=1))
    assert ops(build(made)) == ["GatherND"]
    x_, index_ = randn(2, 5, 1), np.array([[[4], [0], [4]], [[1], [1], [2]]])
    found = session(made)({"x": x_, "index": index_})["y"]
    np.testing.assert_array_equal(found, np.take_along_axis(x_, index_, 1))


def test_an_axis_of_size_1_moves_in_one_step() -> None:
    b = Builder(Graph("m"))
    x = b.input("x", of("f32", "B", 1, "T", 1))
    made = module(b, y=b.op("unsqueeze", b.op("squeeze", x, axis=[1, 3]), axis=[0, 2, 3]))
    assert "Unsqueeze" not in ops(build(made))
    x_ = randn(2, 1, 5, 1)
    np.testing.assert_array_equal(session(made)({"x": x_})["y"], x_.reshape(1, 2, 1, 1, 5))


def test_a_direction_does_not_need_the_mean() -> None:
    b = Builder(Graph("m"))
    x = b.input("x", of("f32", "B", 6, "T", 4))
    made = module(b, y=b.op(resolve("std.nn.l2_normalize"), b.op("mean", x, axis=1)))
    assert ops(build(made)) == ["ReduceSum", "LpNormalization"]
    x_ = randn(2, 6, 5, 4)
    mean = x_.mean(1)
    wanted = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(session(made)({"x": x_})["y"], wanted, atol=1e-6)


# Loops ---------------------------------------------------------------------------------------------------------------


def loop_model(n: Any) -> Module:
    """``fold i in n from (h, s) { h = h * x + i   s = s + h }``, with x captured and a composite inside."""
    body = Builder(Graph("body"))
    row = of("f32", "B", 3)
    i = body.input("i", of("i64"))
    h, s, x = (body.input(name, row) for name in "hsx")
    h2 = body.op("add", body.op("mul", h, body.op(resolve("std.nn.relu"), x)), body.op("cast", i, dtype=f32))
    body.graph.add_output(h2, "h")
    body.graph.add_output(body.op("add", s, h2), "s")
    b = Builder(Graph("m"))
    start, x = b.input("start", row), b.input("x", row)
    h, s = b.multi("fold", start, start, x, n=n, carried=2, body=body.graph)
    return module(b, h=h, s=s)


@pytest.mark.parametrize("n", [0, 1, 4, B])
def test_fold(n: Any) -> None:
    start, x = randn(2, 3), randn(2, 3, seed=1)
    h = s = start
    for i in range(2 if n is B else n):
        h = h * np.maximum(x, 0) + i
        s = s + h
    outputs = session(loop_model(n))({"start": start, "x": x})
    np.testing.assert_allclose(outputs["h"], h, rtol=1e-5)
    np.testing.assert_allclose(outputs["s"], s, rtol=1e-5)


def test_a_loop_may_return_what_it_was_given() -> None:
    """A carried value that is swapped, kept, or captured is no result of a node in the body."""
    body = Builder(Graph("body"))
    body.input("i", of("i64"))
    carried = [body.input(name, of("f32", 2)) for name in "abc"]
    body.graph.add_output(carried[1], "a")
    body.graph.add_output(carried[0], "b")
    b = Builder(Graph("m"))
    xs = [b.input(name, of("f32", 2)) for name in "abc"]
    first, second = b.multi("fold", *xs, n=3, carried=2, body=body.graph)
    feeds = {name: randn(2, seed=i) for i, name in enumerate("abc")}
    outputs = session(module(b, first=first, second=second))(feeds)
    np.testing.assert_array_equal(outputs["first"], feeds["b"])
    np.testing.assert_array_equal(outputs["second"], feeds["a"])


def scan_model(axis: int, shape: list[Any], kind: str) -> Module:
    """A scan of an associative function: a linear recurrence with k captured, or products of 2 x 2 matrices."""
    cell = of("f32", *(d for i, d in enumerate(shape) if i != axis))
    body = Builder(Graph("body"))
    b = Builder(Graph("m"))
    if kind == "matrices":
        left, right = body.input("l", cell), body.input("r", cell)
        body.graph.add_output(body.op("matmul", left, right), "y")
        x = b.input("x", of("f32", *shape))
        return module(b, y=b.op("scan", x, axis=axis, carried=1, body=body.graph))
    p, q, r, s, k = (body.input(name, cell) for name in "pqrsk")
    body.graph.add_output(body.op("mul", p, r), "p")
    body.graph.add_output(body.op("add", body.op("mul", r, q), body.op("mul", s, k)), "q")
    x, y = (b.input(name, of("f32", *shape)) for name in "xy")
    first, second = b.multi("scan", x, y, b.input("k", cell), axis=axis, carried=2, body=body.graph)
    return module(b, p=first, q=second)


@pytest.mark.parametrize(("axis", "shape"), [(0, ["T", 3]), (1, ["B", "T", 2]), (2, [2, 3, 7]), (2, [2, 3, "T"])])
def test_scan_of_an_elementwise_function(axis: int, shape: list[Any]) -> None:
    made = scan_model(axis, shape, "recurrence")
    assert "Scan" not in ops(build(made))
    for length in (7,) if shape[axis] == 7 else (1, 2, 7):
        sizes = [length if s == "T" else 4 if s == "B" else s for s in shape]
        x, y = abs(randn(*sizes)), randn(*sizes, seed=1)
        k = np.ones([s for i, s in enumerate(sizes) if i != axis], np.float32)
        outputs = session(made)({"x": x, "y": y, "k": k})
        p, q = np.moveaxis(x, axis, 0).copy(), np.moveaxis(y, axis, 0).copy()
        for t in range(1, length):
            p[t], q[t] = p[t - 1] * p[t], p[t] * q[t - 1] + q[t]
        np.testing.assert_allclose(outputs["p"], np.moveaxis(p, 0, axis), rtol=1e-5)
        np.testing.assert_allclose(outputs["q"], np.moveaxis(q, 0, axis), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("axis", "shape"), [(0, ["T", 2, 2]), (1, ["B", "T", 2, 2])])
def test_scan_of_any_function(axis: int, shape: list[Any]) -> None:
    made = scan_model(axis, shape, "matrices")
    assert "Scan" in ops(build(made))
    for length in (1, 5):
        x = randn(*[length if s == "T" else 3 if s == "B" else s for s in shape])
        y = np.moveaxis(x, axis, 0).copy()
        for t in range(1, length):
            y[t] = y[t - 1] @ y[t]
        np.testing.assert_allclose(session(made)({"x": x})["y"], np.moveaxis(y, 0, axis), rtol=1e-5, atol=1e-5)


# Interface -----------------------------------------------------------------------------------------------------------


def test_outputs_states_and_random_inputs() -> None:
    b = Builder(Graph("m"))
    x = b.input("x", of("f32", "B", 2))
    cache = b.input("cache", of("f32", "B", 2), "state", Initializer("ones"))
    noise = b.input("noise", of("f32", "B", 2), "random", Initializer("uniform", (2, 3)))
    new = b.op("add", x, cache)
    b.graph.add_output(x, "same")
    b.graph.add_output(new, "sum")
    b.graph.add_output(b.op("add", new, noise), "noisy")
    b.graph.add_output(new, "cache", "state")
    runs = session(Module("m", b.graph))
    assert [s.name for s in runs.inputs] == ["x"]
    assert [s.name for s in runs.optional] == ["cache", "noise"]
    assert runs.outputs == ["same", "sum", "noisy", "cache"]
    x_ = randn(3, 2)
    first = runs({"x": x_}, seed=1)
    np.testing.assert_allclose(first["cache"], x_ + 1)
    second = runs({"x": x_, "cache": first["cache"]}, seed=1)
    np.testing.assert_allclose(second["sum"], x_ * 2 + 1, rtol=1e-6)
    drawn = first["noisy"] - first["sum"]
    assert ((drawn >= 2) & (drawn <= 3)).all()
    np.testing.assert_array_equal(first["noisy"], runs({"x": x_}, seed=1)["noisy"])
    assert not np.array_equal(first["noisy"], runs({"x": x_}, seed=2)["noisy"])


def test_outputs_have_their_names_in_the_file() -> None:
    text = """
        model m(x: float[B, 4]) -> (total: float[B], x: float[B, 4], exp: float[B, 4]) {
            total = sum(x, axis=1)
            return total, x, x + 1.0
        }
    """
    made = loads(text)
    assert [v.name for v in build(made).graph.outputs] == ["total", "x", "exp"]
    assert session(made).outputs == ["total", "x", "exp"]


def test_metadata_says_how_the_artifact_was_made() -> None:
    text = """
        use std.nn (linear)
        model m(x: float[B, T, 4]) -> float[B, T, 2] { require T <= 8, "too long"  return linear(x, out=2) as head }
    """
    model = build(loads(text), metadata={"image_mean": "0.5"})
    props = model.metadata_props
    assert props["tessera.model"] == "m"
    assert props["image_mean"] == "0.5"
    assert props["tessera.version"] == model.producer_version
    assert json.loads(props["tessera.requires"]) == [["T", "<=", 8, "too long"]]
    assert model.graph.inputs[0].shape == ox.Shape(["B", "T", 4])
    assert model.ir_version == 12


def test_what_no_output_needs_is_left_out() -> None:
    b = Builder(Graph("m"))
    x = b.input("x", of("f32", 2))
    b.op("exp", b.op("mul", x, b.param("unused", of("f32", 2))))
    model = build(module(b, y=b.op("neg", x)))
    assert ops(model) == ["Neg"]
    assert not model.graph.initializers
