"""`merge_tokens` against the published algorithm, its laws, its schedules, its report and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tessera.frontends.source import load, loads
from tessera.frontends.source.elaborate.library import SPECS
from tessera.ir.compiling import PassSpec
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import sym
from tessera.ir.graph import Module
from tessera.passes.engine import apply
from tessera.passes.tokens.merge_tokens import MergeTokens
from tessera.passes.tokens.method import Method, find_method
from tessera.passes.tokens.schedule import Schedule, linear

from ..conftest import Arrays, passed, run, weights_of

DEPTH, HEADS, DIM = 3, 2, 8

ENCODER = f"""
use std.attention (self_attention)
use std.nn (layer_norm, mlp)

model encoder(x: f32[B, T, {DIM}]) -> f32[B, T, {DIM}] {{
    repeat i in {DEPTH} as blocks {{
        x = x + self_attention(layer_norm(x) as norm1, heads={HEADS}) as attn
        x = x + mlp(layer_norm(x) as norm2, hidden=16) as mlp
    }}
    return x
}}
"""


def encoder() -> Module:
    return loads(ENCODER)


# The published algorithm, in NumPy --------------------------------------------------------------------------------------


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    from math import erf

    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def tome(x: np.ndarray, size: np.ndarray, metric: np.ndarray, r: int, protect: int) -> tuple[np.ndarray, np.ndarray]:
    """One row [T, D] merged as in facebookresearch/ToMe; the sizes with it."""
    r = min(r, (len(x) - protect) // 2)
    if r <= 0:
        return x, size
    metric = metric / np.linalg.norm(metric, axis=-1, keepdims=True)
    scores = metric[::2] @ metric[1::2].T
    if protect >= 1:
        scores[0, :] = -np.inf
    if protect == 2:
        scores[:, 0] = -np.inf
    best, into = scores.max(-1), scores.argmax(-1)
    order = np.argsort(-best, kind="stable")
    left, gone = order[r:], order[:r]
    if protect >= 1:
        left = np.sort(left)
    totals, sizes = (x * size[:, None])[1::2].copy(), size[1::2].copy()
    for i in gone:
        totals[into[i]] += x[2 * i] * size[2 * i]
        sizes[into[i]] += size[2 * i]
    merged = totals / sizes[:, None]
    kept, kept_sizes = x[2 * left], size[2 * left]
    if protect == 2:
        y = np.concatenate([kept[:1], merged[:1], kept[1:], merged[1:]])
        return y, np.concatenate([kept_sizes[:1], sizes[:1], kept_sizes[1:], sizes[1:]])
    return np.concatenate([kept, merged]), np.concatenate([kept_sizes, sizes])


def reference(x: np.ndarray, w: Arrays, r: int, protect: int, proportional: bool) -> np.ndarray:
    """The encoder with ToMe between attention and mlp, one row at a time."""
    rows = []
    for row in x.astype(np.float64):
        size = np.ones(len(row))
        for i in range(DEPTH):
            p = {
                k.removeprefix(f"blocks.{i}."): v.astype(np.float64)
                for k, v in w.items()
                if k.startswith(f"blocks.{i}.")
            }
            h = layer_norm(row, p["norm1.weight"], p["norm1.bias"])
            q, k, v = (
                (h @ p[f"attn.{n}.weight"].T + p[f"attn.{n}.bias"]).reshape(len(row), HEADS, -1).swapaxes(0, 1)
                for n in "qkv"
            )
            scores = q @ k.swapaxes(1, 2) / np.sqrt(DIM // HEADS)
            if proportional:
                scores = scores + np.log(size)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            y = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(row), DIM)
            row = row + y @ p["attn.out.weight"].T + p["attn.out.bias"]
            row, size = tome(row, size, k.mean(0), r, protect)
            h = layer_norm(row, p["norm2.weight"], p["norm2.bias"])
            row = row + gelu(h @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"]) @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]
        rows.append(row)
    return np.stack(rows)


@pytest.mark.parametrize("protect", [0, 1, 2])
@pytest.mark.parametrize("r", [1, 3, 99])
@pytest.mark.parametrize("proportional", [True, False])
def test_the_published_algorithm(r: int, protect: int, proportional: bool) -> None:
    module = encoder()
    weights = weights_of(module)
    merged, _ = passed(module, MergeTokens(r=r, protect=protect, proportional=proportional))  # type: ignore[arg-type]
    rng = np.random.default_rng(r + protect)
    for batch, tokens in ((1, 14), (3, 17)):
        x = rng.standard_normal((batch, tokens, DIM)).astype(np.float32)
        expected = reference(x, weights, r, protect, proportional)
        np.testing.assert_allclose(run(merged, weights, x=x)["output"], expected, rtol=1e-3, atol=1e-4)


# Laws ---------------------------------------------------------------------------------------------------------------------

PADDED = """
use std.attention (self_attention)
use std.nn (layer_norm)

model padded(x: f32[B, T, 8], keep: i64[B, T]) -> f32[B, T, 8] {
    mask = unsqueeze(keep != 0, [1, 2])
    repeat i in 3 as blocks { x = layer_norm(x + self_attention(x, mask, heads=2) as attn) as norm }
    return x * 1.5
}
"""


@pytest.mark.parametrize(
    "options", [{"r": 3}, {"r": (5, 1)}, {"r": 0.2}, {"keep": 0.4}, {"keep": (0.9, 0.5)}, {"r": 4, "inflect": -1.0}]
)
def test_sizes_add_up_and_sources_cover_every_token(options: dict[str, Any]) -> None:
    module = loads(PADDED)
    merged, _ = passed(module, MergeTokens(map=True, **options))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 15, 8)).astype(np.float32)
    keep = np.ones((2, 15), np.int64)
    keep[1, 9:] = 0
    out = run(merged, weights_of(module), x=x, keep=keep)
    source, size = out["token_source"], out["token_size"]
    np.testing.assert_array_equal(size.sum(1), [15, 9])
    assert source.shape == (2, 15)
    for row in range(2):
        counted = np.bincount(source[row], weights=keep[row], minlength=size.shape[1])
        np.testing.assert_array_equal(counted, size[row])


def test_nothing_to_merge_is_the_identity() -> None:
    for options in ({"r": 0}, {"r": (0, 0, 0)}, {"r": ()}, {"keep": 1.0}, {"r": 0.0}):
        module = encoder()
        same, report = apply(module, "merge_tokens", **options)
        assert same == module
        assert report.modified == 0


@pytest.mark.parametrize("options", [{"r": 3}, {"r": 0.5}, {"keep": 0.2}, {"keep": (0.8, 0.4)}, {"r": 3, "protect": 1}])
def test_short_inputs(options: dict[str, Any]) -> None:
    """One artifact for every length down to two tokens; one token alone is refused with a reason."""
    module = loads(PADDED)
    merged, _ = passed(module, MergeTokens(map=True, **options))
    weights = weights_of(module)
    for tokens in (2, 3, 4, 5):
        x = np.random.default_rng(tokens).standard_normal((2, tokens, 8)).astype(np.float32)
        out = run(merged, weights, x=x, keep=np.ones((2, tokens), np.int64))
        assert np.isfinite(out["output"]).all()
        np.testing.assert_array_equal(out["token_size"].sum(1), tokens)
    with pytest.raises(Diagnostic, match="T is 1"):
        run(merged, weights, x=x[:, :1], keep=np.ones((2, 1), np.int64))


def test_restored_tokens_are_copies_of_merged_ones() -> None:
    module = loads(PADDED)
    weights = weights_of(module)
    rng = np.random.default_rng(1)
    inputs = {"x": rng.standard_normal((2, 15, 8)).astype(np.float32), "keep": np.ones((2, 15), np.int64)}
    short = run(passed(module, MergeTokens(r=3, map=True))[0], weights, **inputs)
    full = run(passed(module, MergeTokens(r=3, restore=True))[0], weights, **inputs)["output"]
    copied = np.take_along_axis(short["output"], short["token_source"][..., None], axis=1)
    np.testing.assert_array_equal(full, copied)


def test_padding_does_not_matter() -> None:
    module = loads(PADDED)
    weights = weights_of(module)
    merged, _ = passed(module, MergeTokens(r=2, map=True))
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 15, 8)).astype(np.float32)
    keep = np.ones((1, 15), np.int64)
    keep[:, 11:] = 0
    noisy = x.copy()
    noisy[:, 11:] = rng.standard_normal((1, 4, 8)) * 50
    one, other = (run(merged, weights, x=a, keep=keep) for a in (x, noisy))
    real = one["token_size"] > 0
    np.testing.assert_array_equal(one["token_source"][keep > 0], other["token_source"][keep > 0])
    np.testing.assert_allclose(one["output"][real], other["output"][real], rtol=1e-4, atol=1e-5)


LIMITS = Method(find_method("bipartite_merge", None, "merge_tokens")).limits(1, 0)


# Schedules ------------------------------------------------------------------------------------------------------------------


def test_linear_is_the_published_parse_r() -> None:
    def parse_r(num_layers: int, r: int, inflect: float) -> list[int]:
        min_val = int(r * (1.0 - inflect))
        max_val = 2 * r - min_val
        step = (max_val - min_val) / (num_layers - 1)
        return [int(min_val + step * i) for i in range(num_layers)]

    for layers in (2, 12, 24):
        for r in (1, 8, 13):
            for inflect in (-1.0, -0.5, 0.0, 0.3, 1.0):
                assert list(linear(layers, r, inflect)) == parse_r(layers, r, inflect)
    assert linear(1, 8, -1.0) == (16,)


def test_a_share_kept_is_spread_evenly_and_exact() -> None:
    schedule = Schedule(5, LIMITS, keep=0.3)
    first = present = sym("T")
    lets = {"T": 200}
    counts = []
    for i in range(5):
        present = schedule.left(i, present, first)
        counts.append(present.evaluate(lets))
    assert counts == [172, 144, 116, 88, 60]


def test_a_share_is_what_is_written() -> None:
    """0.1 of 30 is 3; as a binary fraction it would be a little more, and 0.7 of 10 a little less than 7."""
    assert Schedule(1, LIMITS, 0.1).left(0, sym("T"), sym("T")).evaluate({"T": 30}) == 27
    assert Schedule(1, LIMITS, 0.29).left(0, sym("T"), sym("T")).evaluate({"T": 100}) == 71


def test_each_stream_of_tokens_has_its_own_schedule() -> None:
    text = """
    use std.attention (self_attention)
    model towers(a: f32[B, 16, 8], b: f32[B, 12, 8]) -> (f32[B, 8], f32[B, 8]) {
        repeat i in 2 as left { a = a + self_attention(a, heads=2) as attn }
        repeat i in 2 as right { b = b + self_attention(b, heads=2) as attn }
        return mean(a, axis=1), mean(b, axis=1)
    }"""
    _, report = apply(loads(text), "merge_tokens", keep=0.5)
    assert report.facts["tokens"] == [["16", "12", "8"], ["12", "9", "6"]]


# The report -----------------------------------------------------------------------------------------------------------------


def test_the_report_has_tokens_and_costs_of_each_block() -> None:
    merged, (report,) = passed(encoder(), MergeTokens(r=4))
    table = report.at(B=2, T=20).table("blocks_before_and_after")
    assert [row[:3] for row in table.rows] == [
        ("stem", "", ""),
        ("0", 20, 20),
        ("1", 20, 16),
        ("2", 20, 12),
        ("total", "", ""),
    ]
    flops = dict(zip(table.columns, zip(*table.rows, strict=True), strict=True))
    assert sum(flops["flops"][:-1]) == flops["flops"][-1]
    assert flops["flops_after"][-1] < flops["flops"][-1]
    data = report.at(B=2, T=20).to_dict()
    assert data["contract"] == "approximate"
    assert data["modified"] == 3
    assert data["blocks_before_and_after"][2]["tokens_after"] == 16
    assert "the output `output` is now f32[B, T3, 8]; it was f32[B, T, 8]" in str(report)
    assert merged.graph.sizes({"B": 1, "T": 20})["T3"] == 8


def test_a_cut_constant_is_reported() -> None:
    module = load(SPECS / "zoo" / "vit.tess", "vit_s16", {"depth": 2})
    _, report = apply(module, "merge_tokens", r=120, protect=1)
    assert "block 0: r = 120 was cut to 98 of 197 tokens" in report.notes


# What is refused ---------------------------------------------------------------------------------------------------------------

CAUSAL = """use std.attention (self_attention)
model m(x: f32[B, T, 8]) -> f32[B, T, 8] { return x + self_attention(x, heads=2, causal=true) as a }"""
BARE = 'model m(x: f32[B, T, 8]) -> f32[B, T, 8] { s = exp(einsum("b t d, b s d -> b t s", x, x)) return x + s @ x }'
CROSS = """use std.attention (cross_attention)
model m(x: f32[B, T, 8], y: f32[B, S, 8]) -> f32[B, T, 8] { return x + cross_attention(x, y, heads=2) as a }"""
NO_SUM = """use std.attention (self_attention)
model m(x: f32[B, T, 8]) -> f32[B, T, 8] { return self_attention(x, heads=2) as a }"""
FOLDED_HEADS = """use std.attention (attention)
model m(x: f32[B, T, 8]) -> f32[B, T, 8] {
    h = unsqueeze(rearrange(x, "b t (h k) -> (b h) t k", h=2), 1)
    return x + rearrange(squeeze(attention(h, h, h), 1), "(b h) t k -> b t (h k)", h=2)
}"""


@pytest.mark.parametrize(
    ("text", "options", "code", "message"),
    [
        (CAUSAL, {"r": 2}, "E0708", "block 0 attends causally"),
        (BARE, {"r": 2}, "E0707", "found no block"),
        (CROSS, {"r": 2}, "E0707", "found no block"),
        (NO_SUM, {"r": 2}, "E0707", "found no block"),
        (ENCODER, {"r": (2, 2, 2, 2)}, "E0705", "lists 4 numbers for 3 block(s)"),
        (ENCODER, {"r": 2, "keep": 0.5}, "E0705", "both `r` and `keep`"),
        (ENCODER, {}, "E0705", "neither `r` nor `keep`"),
        (ENCODER, {"r": 0.1, "inflect": 1.0}, "E0705", "`inflect` changes a number"),
        (ENCODER, {"r": 2, "blocks": (3,)}, "E0704", "names block 3, but the model has 3"),
        (ENCODER, {"r": 1.5}, "E0704", "a share of them between 0 and 1"),
        (ENCODER, {"r": -1}, "E0704", "must be at least 0"),
        (ENCODER, {"r": (2, -1)}, "E0704", "must be at least 0"),
        (ENCODER, {"r": 2, "protect": -1}, "E0704", "must be at least 0, or a list of places, [-1]"),
        (ENCODER, {"r": 2, "metric": "values"}, "E0703", "must be keys | tokens"),
        (ENCODER.replace("[B, T, 8]", "[B, 9, 8]"), {"r": (2, 4)}, "E0709", "4 of 7 tokens at block 1, at most 3"),
        (ENCODER.replace("[B, T, 8]", "[B, 3, 8]"), {"r": 2, "protect": 2}, "E0709", "no token of 3"),
    ],
)
def test_refused(text: str, options: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        apply(loads(text), PassSpec("merge_tokens", options))
    assert caught.value.code == code
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BARE, "the closest is this `exp`"),
        (CROSS, "cross-attention"),
        (NO_SUM, "no sum `x + …`"),
        (FOLDED_HEADS, "its batch is 2 * B, but that of the sum behind it B"),
    ],
)
def test_a_model_without_blocks_is_told_what_came_closest(text: str, reason: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        apply(loads(text), "merge_tokens", r=2)
    note = caught.value.notes[0]
    assert reason in note.message
    assert note.span is not None


def test_a_state_keeps_its_shape() -> None:
    text = """use std.attention (self_attention)
    model m(x: f32[B, 8, 8]) -> f32[B, 8] {
        state last: f32[B, 8, 8] = zeros
        x = x + self_attention(x, heads=2) as a
        last = x * 0.5
        return mean(x, axis=1)
    }"""
    with pytest.raises(Diagnostic, match="the state `last`"):
        apply(loads(text), "merge_tokens", r=2)
    kept, _ = apply(loads(text), "merge_tokens", r=2, restore=True)
    assert [str(v.type) for v in kept.graph.outputs] == ["f32[B, 8]", "f32[B, 8, 8]"]


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_half_precision(dtype: str) -> None:
    module = loads(PADDED.replace("f32", "float"), dtype=dtype)
    merged, _ = passed(module, MergeTokens(r=2))
    assert str(merged.graph.outputs[0].type.dtype) == dtype


@pytest.mark.parametrize(
    ("file", "model", "options"),
    [
        ("vit", "vit_s16", {"r": 13, "protect": 1}),
        ("vit", "vit", {"r": 8, "protect": 1}),
        ("deit", "deit_ti16", {"keep": 0.5, "protect": 2}),
        ("bert", "bert", {"r": 8, "protect": 1}),
        ("minilm", "minilm", {"keep": 0.7}),
        ("whisper", "whisper_encoder", {"r": 0.1, "restore": True}),
    ],
)
def test_every_encoder_of_the_zoo_merges_and_prints(file: str, model: str, options: dict[str, Any]) -> None:
    from tessera.frontends.source import print_module

    module = load(SPECS / "zoo" / f"{file}.tess", model)
    merged, (report,) = passed(module, MergeTokens(**options))
    assert report.modified == len(report.facts["blocks"])
    assert loads(print_module(merged)).difference(merged) is None


@pytest.mark.parametrize(
    ("file", "model", "kept"),
    [
        ("vit", "vit", 1),
        ("deit", "deit_ti16", 2),
        ("bert", "bert", 1),
        ("minilm", "minilm", 0),
        ("whisper", "whisper_encoder", 0),
    ],
)
def test_what_the_model_reads_by_its_place_is_protected_by_default(file: str, model: str, kept: int) -> None:
    module = load(SPECS / "zoo" / f"{file}.tess", model, {"depth": 2})
    default, _ = apply(module, "merge_tokens", r=8)
    assert default == apply(module, "merge_tokens", r=8, protect=kept)[0]
