"""fold_constants, cse, dce and inline keep what a program computes; the evaluator runs whole graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tessera.frontends.source import load, loads
from tessera.frontends.source.elaborate.library import SPECS
from tessera.ir.analysis.evaluate import evaluate_graph, to_array, to_value
from tessera.ir.compiling import PassSpec
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.passes.engine import apply

from ..conftest import passed, run, weights_of

EXACT = [PassSpec("fold_constants"), PassSpec("cse"), PassSpec("dce"), PassSpec("inline")]
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["fold_constants", "cse", "dce", "inline", "rewrite"])
@pytest.mark.parametrize("spec", EXACT, ids=[s.name for s in EXACT])
def test_exact_on_small_programs(name: str, spec: PassSpec) -> None:
    module = load(GOLDEN / f"{name}.tess")
    rng = np.random.default_rng(0)
    sizes = {"B": 3, "T": 5}
    inputs = {
        v.name: rng.standard_normal([d.evaluate(sizes) for d in v.type.shape]).astype(np.float32)
        for v in module.graph.inputs
    }
    after, _ = passed(module, spec)
    weights = weights_of(module)
    before_out, after_out = run(module, weights, **inputs), run(after, weights, **inputs)
    for key, value in before_out.items():
        np.testing.assert_allclose(after_out[key], value, rtol=1e-6, atol=1e-6)


SMALL = {"dim": 16, "depth": 2, "heads": 2, "hidden": 32}


@pytest.mark.parametrize(
    ("file", "model", "params", "inputs"),
    [
        ("vit", "vit", {**SMALL, "size": 32}, {"image": (2, 3, 48, 32)}),
        ("minilm", "minilm", {**SMALL, "vocab": 50, "positions": 16}, {"input_ids": (2, 9), "attention_mask": (2, 9)}),
        ("llama", "llama", {**SMALL, "vocab": 50, "kv_heads": 1}, {"input_ids": (2, 9)}),
        ("whisper", "whisper_encoder", {**SMALL, "mels": 4, "positions": 20}, {"input_features": (2, 4, 18)}),
    ],
)
def test_exact_on_models(file: str, model: str, params: dict[str, int], inputs: dict[str, tuple[int, ...]]) -> None:
    module = load(SPECS / "zoo" / f"{file}.tess", model, params)
    rng = np.random.default_rng(1)
    arrays = {
        name: (rng.integers(1, 50, shape) if name.startswith("input_ids") else np.ones(shape, np.int64))
        if module.graph.inputs[i].type.dtype.kind == "int"
        else rng.standard_normal(shape).astype(np.float32)
        for i, (name, shape) in enumerate(inputs.items())
    }
    weights = weights_of(module)
    expected = run(module, weights, **arrays)
    after, _ = passed(module, *EXACT, *EXACT[:3])
    found = run(after, weights, **arrays)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5)


# The evaluator ---------------------------------------------------------------------------------------------------------


LOOPS = """
op doubled(x: float[B, T]) -> float[B, T] {
    y = x
    fold i in 2 from (y) {
        y = y + y
    }
    return y
}

fn join(a: float[B], b: float[B]) -> float[B] { return a * b }

model m(x: f32[B, T]) -> (twice: f32[B, T], running: f32[B, T], mean: f32[B]) {
    param w: f32[1] = ones
    size = cast(full([], T, dtype=i64), f32)
    return doubled(x), scan(join, x, axis=1), sum(x, axis=1) / size * w[0]
}
"""


def test_a_whole_graph_with_loops_composites_sizes_and_weights() -> None:
    module = loads(LOOPS)
    x = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    found = evaluate_graph(module.graph, {"x": x}, {"B": 2, "T": 3}, {"w": np.full(1, 2, np.float32)})
    np.testing.assert_array_equal(found["twice"], 4 * x)
    np.testing.assert_array_equal(found["running"], np.cumprod(x, 1))
    np.testing.assert_array_equal(found["mean"], 2 * x.mean(1))


@pytest.mark.parametrize("dtype", ["f64", "f32", "f16", "bf16", "i64", "u8", "bool"])
def test_values_survive_the_way_to_a_constant(dtype: str) -> None:
    from tessera.ir.types import DTYPES

    array = np.array([[0, 1], [1, 0.1 if DTYPES[dtype].kind == "float" else 1]]).astype(DTYPES[dtype].numpy)
    again = to_array(to_value(array), DTYPES[dtype])
    assert again.dtype == array.dtype
    assert (again == array).all()


# What must not be folded ---------------------------------------------------------------------------------------------------


def folded(body: str, result: str = "f32[4]") -> Module:
    module = loads(f"model m(x: f32[4]) -> {result} {{ {body} }}")
    return apply(apply(module, "fold_constants")[0], "dce")[0]


@pytest.mark.parametrize(
    "body",
    [
        "return x * 0.0",  # not 0 where x is infinite
        "return x + constant([0, 0, 0, 1], dtype=f32)",
        "return x / constant([1, 1, 1, 2], dtype=f32)",
        "return expand(x[0:1] + 0.5, [4])",
        "return x * (constant(1.0, dtype=f32) / constant(0.0, dtype=f32))",  # infinite: left to the backend
    ],
)
def test_what_does_something_stays(body: str) -> None:
    module = loads(f"model m(x: f32[4]) -> f32[4] {{ {body} }}")
    assert folded(body) == module


def test_adding_zero_that_broadcasts_stays() -> None:
    body = "return x[0:1] + full([4], 0.0, dtype=f32)"
    assert len(folded(body).graph) == 3


def test_the_limit() -> None:
    module = loads("model m() -> f32[8] { return constant([1, 2, 3, 4, 5, 6, 7, 8], dtype=f32) * 2.0 }")
    assert apply(module, "fold_constants", limit=7)[1].modified == 0
    assert apply(module, "fold_constants", limit=8)[1].modified == 1


def test_negative_zero_is_not_merged_with_zero() -> None:
    text = "model m(x: f32[4]) -> (f32[4], f32[4]) { return x / 0.0, x / constant(-0.0, dtype=f32) }"
    assert apply(loads(text), "cse")[1].modified == 0


def test_loops_are_simplified_inside() -> None:
    text = """model m(x: f32[4]) -> f32[4] {
        fold i in 3 from (x) { x = exp(x * 1.0) + exp(x) }
        return x
    }"""
    module = loads(text)
    after, _ = passed(module, PassSpec("fold_constants"), PassSpec("cse"), PassSpec("dce"))
    body = next(n for n in after.graph.nodes() if n.body is not None).body
    assert body is not None
    assert [n.op.name for n in body.nodes()] == ["exp", "add"]
    x = np.linspace(-1, 0, 4).astype(np.float32) * 9
    np.testing.assert_allclose(run(after, {}, x=x)["output"], run(module, {}, x=x)["output"])


# Inline ----------------------------------------------------------------------------------------------------------------------


def test_inlined_nodes_keep_the_users_line_and_scope() -> None:
    module = loads("use std.nn (gelu)\nmodel m(x: f32[4]) -> f32[4] {\n    return gelu(x)\n}")
    after, _ = apply(module, "inline")
    assert {n.span.line for n in after.graph.nodes() if n.span is not None} == {3}


def test_inline_brings_requirements_along() -> None:
    text = """use std.token (select_top)
    model m(score: f32[B, T]) -> i64[B, 8] { return select_top(score, k=8) }"""
    after, _ = apply(loads(text), "inline")
    assert [str(r.left) + r.op + str(r.right) for r in after.graph.requires] == ["8<=T"]


def test_inline_names_what_the_model_does_not_have() -> None:
    with pytest.raises(Diagnostic) as caught:
        apply(loads("use std.nn (gelu)\nmodel m(x: f32[4]) -> f32[4] { return gelu(x) }"), "inline", only=("gelo",))
    assert caught.value.code == "E0714"
    assert caught.value.help == "did you mean `gelu`?"
