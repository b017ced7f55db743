"""What free sizes stand for, the sizes that a model is tried at, and inputs that mean something."""

from __future__ import annotations

import numpy as np
import pytest

from tessera import load
from tessera.backends.onnx import build as build_onnx
from tessera.backends.onnx import serialize
from tessera.backends.onnx.session import Session
from tessera.backends.torch import build as build_torch
from tessera.driver.sizes import choose_sizes
from tessera.driver.verify import verify
from tessera.frontends.source import loads
from tessera.ir.analysis.bounds import Bound, index_bounds
from tessera.ir.analysis.sizes import default_sizes, roles
from tessera.ir.dims.dim import sym
from tessera.ir.types import f32, i64

ATTENTION = """
use std.attention (attention)

model flat(x: float[N, 8]) -> float[N, 8] {
    param w: float[8, 8] = normal(1.0)
    h = rearrange(x @ w, "n (h k) -> 1 h n k", h=2)
    return rearrange(attention(h, h, h), "1 h n k -> n (h k)")
}
"""
EXPERTS = """
model experts(x: float[N, 8], ends: i64[3]) -> float[N, 4] {
    param w: float[3, 8, 4] = normal(1.0)
    return grouped_matmul(x, w, ends)
}
"""
CASES = {
    "attention": (ATTENTION, {"N": "tokens"}),
    "experts": (EXPERTS, {"N": "tokens"}),
    "linear": (
        "use std.nn (linear)\nmodel m(x: float[N, 8]) -> float[N, 8] { return linear(x, out=8) as l }", {"N": "batch"},
    ),
    "normalised": (
        "use std.nn (layer_normalize)\nmodel m(x: float[N, D]) -> float[N, D] { return layer_normalize(x) }",
        {"N": "batch", "D": "tokens"},
    ),
    "places": ("model m(x: float[N]) -> float[N] { return x * cast(iota(N), x.dtype) }", {"N": "tokens"}),
    "pooled": ("model m(x: float[N, 8]) -> float[8] { return mean(x, axis=0) }", {"N": "tokens"}),
    "outer": ('model m(x: float[N, 8]) -> float[N, N] { return einsum("n d, m d -> n m", x, x) }', {"N": "tokens"}),
    "joined and sorted": (
        'model m(x: float[N, 2]) -> float[N, 2] { y, i = sort(reshape(x, [N * 2]))\n return reshape(y, [N, 2]) }', {"N": "tokens"},
    ),
    "joined and walked": (
        'model m(x: float[N, 4]) -> float[N, 4] { return reshape(exp(reshape(x, [N * 4])), [N, 4]) }', {"N": "batch"},
    ),
    "inner part sorted": (
        'model m(x: float[N, 4]) -> float[N, 4] { y, i = sort(reshape(x, [N * 2, 2]))\n return reshape(y, [N, 4]) }',
        {"N": "batch"},
    ),
    "loss": (
        "use std.losses (mse)\nmodel m(x: float[B, T, 8], y: float[B, T, 8]) -> float[] { return mse(x, y) }",
        {"B": "batch", "T": "tokens"},
    ),
    "images": ("model m(x: float[B, 3, 8, 8]) -> float[3, 8, 8] { return mean(x, axis=0) }", {"B": "batch"}),
    "loop": (
        "model m(x: float[B, 8]) -> float[B, 8] { fold i in 3 from (x) { x = x * 0.5 + 1.0 }\n return x }", {"B": "batch"},
    ),
    "mixing loop": (
        "model m(x: float[B, 8]) -> float[B, 8] { fold i in 3 from (x) { x = x - mean(x, axis=0) }\n return x }",
        {"B": "tokens"},
    ),
    "borders": (
        "model m(x: float[N, 8], ends: i64[E]) -> i64[N] { return searchsorted(ends, iota(N), right=true) }",
        {"N": "batch", "E": "groups"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_a_leading_axis_counts(name: str) -> None:
    text, wanted = CASES[name]
    assert roles(loads(text).graph) == wanted


@pytest.mark.parametrize(
    ("name", "sizes"), [("vit_s16", {"B": 1}), ("bert", {"B": 1, "T": 128}), ("gpt2", {"B": 1, "T": 128})]
)
def test_sizes_of_the_zoo(name: str, sizes: dict[str, int]) -> None:
    assert default_sizes(load(name, model=name).graph) == sizes


def test_default_sizes() -> None:
    module = loads("model m(x: f32[B, T, H // 2], y: f32[B, T]) -> f32[B, T] { return y }")
    assert default_sizes(module.graph) == {"B": 1, "T": 128, "H": 128}
    module.graph.facts["T"] = (1, 77)
    assert default_sizes(module.graph)["T"] == 77
    assert default_sizes(loads(ATTENTION).graph) == {"N": 128}


SOURCES = {
    # Patches of an image, frames of a sound, a text behind a class token, windows of which only some lengths make any.
    "image: float[B, 3, 8 * H, 8 * W]|rearrange(image, \"b c (h p) (w q) -> b (h w) (p q c)\", p=8, q=8)": {"H": 11, "W": 11},
    "sound: float[B, 320 * F]|reshape(sound, [B, F, 320])": {"F": 128},
    "sound: float[B, 2 * T]|reshape(sound, [B, T, 2])": {"T": 128},
    "video: float[B, 4 * F, 4 * G, 4 * H]|rearrange(video, \"b (f p) (g q) (h r) -> b (f g h) (p q r)\", p=4, q=4, r=4)": {
        "F": 5, "G": 5, "H": 5,
    },
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_sizes_are_those_of_about_128_tokens(source: str) -> None:
    """128 counts tokens, not what they are computed from: a side of 128 pixels would be 16,384 tokens."""
    given, tokens = source.split("|")
    module = loads(f"""
        use std.attention (self_attention)
        use std.nn (linear)
        model m({given}) -> float[B] {{
            x = linear({tokens}, 16) as embed
            return mean(x + self_attention(x, heads=2) as attn, axis=[1, 2])
        }}
    """)
    assert default_sizes(module.graph) == {"B": 1, **SOURCES[source]}
    few = default_sizes(module.graph, 16)
    assert all(few[name] < size for name, size in SOURCES[source].items())


def test_sizes_of_few_tokens_keep_to_what_a_model_requires() -> None:
    module = loads("""
        use std.attention (self_attention)
        use std.nn (linear)
        model m(image: float[B, 3, 8 * H, 8 * W]) -> float[B] {
            require H % 4 == 0, "windows"
            require W % 4 == 0, "windows"
            x = linear(rearrange(image, "b c (h p) (w q) -> b (h w) (p q c)", p=8, q=8), 16) as embed
            return mean(x + self_attention(x, heads=2) as attn, axis=[1, 2])
        }
    """)
    assert default_sizes(module.graph) == {"B": 1, "H": 8, "W": 8}


@pytest.mark.parametrize("text", [ATTENTION, EXPERTS])
def test_flat_tokens_are_verified_at_many(text: str) -> None:
    module = loads(text)
    report = verify(module, Session(serialize(build_onnx(module))), build_torch(module))
    sizes = [row.sizes["N"] for row in report.rows]
    assert len(set(sizes)) == 2
    assert min(sizes) >= 96


def test_flat_tokens_are_tried_at_few_where_a_model_takes_no_more() -> None:
    module = loads(ATTENTION.replace("param w", 'require N <= 20, "positions"\n    param w'))
    session = Session(serialize(build_onnx(module)))
    found = [s["N"] for s in choose_sizes(module.graph, session, 2, np.random.default_rng(0))]
    assert len(found) == 2
    assert 2 <= min(found) <= max(found) <= 20


def test_a_batch_is_verified_at_one_and_two() -> None:
    module = loads(CASES["linear"][0])
    session = Session(serialize(build_onnx(module)))
    found = {s["N"] for s in choose_sizes(module.graph, session, 2, np.random.default_rng(0))}
    assert found == {1, 2}


def test_borders_ascend() -> None:
    module = loads(EXPERTS)
    bounds = {value.name: bound for value, bound in index_bounds(module.graph).items()}
    assert bounds == {"ends": Bound(sym("N"), ascending=True)}
    drawn = [bounds["ends"].draw([3], i64, {"N": 9}, np.random.default_rng(seed)) for seed in range(20)]
    assert all((np.diff(d) >= 0).all() and d.min() >= 0 and d.max() <= 9 for d in drawn)
    assert len({tuple(d) for d in drawn}) > 10


def test_borders_are_found_inside_ops() -> None:
    text = """
        op rows(ends: i64[B], *, of: int) -> i64[of] { return searchsorted(cummax(ends, axis=0), iota(of), right=true) }
        model m(x: float[N, 8], ends: i64[B], places: float[P]) -> (i64[N], i64[N, 8]) {
            return rows(ends, of=N), searchsorted(places, x)
        }
    """
    bounds = {value.name: bound for value, bound in index_bounds(loads(text).graph).items()}
    assert bounds == {"ends": Bound(sym("N"), ascending=True), "places": Bound(None, ascending=True)}
    drawn = bounds["places"].draw([30], f32, {}, np.random.default_rng(0))
    assert drawn.dtype == np.float32
    assert (np.diff(drawn) >= 0).all()
