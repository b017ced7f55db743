"""Given spans through `merge_tokens`: an input of the model, a capacity with padding, and pictures that are pooled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads, print_module
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply

from ..conftest import weights_of

ENCODER = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)
use std.pooling (mean_pool)

model encoder(x: f32[B, T, 8]) -> (y: f32[B, T, 8], mean: f32[B, 8]) {
    repeat i in 2 as blocks {
        x = x + self_attention(layer_norm(x) as n1, heads=2) as attn
        x = x + mlp(layer_norm(x) as n2, hidden=16) as mlp
    }
    return x, mean_pool(x)
}
"""
MASKED = ENCODER.replace("x: f32[B, T, 8]) ->", "x: f32[B, T, 8], valid: i64[B, T]) ->").replace(
    "as n1, heads", "as n1, unsqueeze(valid != 0, [1, 2]), heads"
)
X = np.random.default_rng(0).standard_normal((2, 9, 8)).astype(np.float32)
SPANS = np.array([[0, 0, 1, 2, 2, 2, 3, 4, 4], [0, 1, 1, 1, 1, 1, 1, 2, 2]])
TARGETS = ("torch", "onnx")


def compiled(text: str, target: str, **options: Any) -> Any:
    """A program after `merge_tokens`, or as it is without options; weights are those of one seed."""
    program = loads(text)
    if options:
        program, _ = apply(program, "merge_tokens", **options)
    return ts.compile(program, target=target, weights=weights_of(loads(text)))


def pieces(values: np.ndarray, method: str) -> list[np.ndarray]:
    """For each sequence of tokens [B, 9, D], its spans one by one."""
    take = {"span_mean": lambda rows: rows.mean(0), "span_first": lambda rows: rows[0]}[method]
    return [
        np.stack([take(tokens[spans == s]) for s in range(spans.max() + 1)])
        for tokens, spans in zip(values, SPANS, strict=True)
    ]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["span_mean", "span_first"])
def test_the_model_sees_spans_as_its_tokens(method: str, target: str) -> None:
    """In a capacity of six and of eight, and in one sequence by itself: padding is seen by nobody."""
    plain = compiled(ENCODER, target)
    for r in (3, 1):
        options = {"method": method, "place": "start", "r": [r], "proportional": False, "map": True}
        got = compiled(ENCODER, target, **options)(x=X, spans=SPANS)
        for b, tokens in enumerate(pieces(X, method)):
            wanted = plain(x=tokens[None])["y"][0]
            np.testing.assert_allclose(got["y"][b, : len(tokens)], wanted, atol=2e-5)
            counts = np.bincount(SPANS[b]) if method == "span_mean" else np.ones(len(tokens))
            np.testing.assert_array_equal(got["token_size"][b], np.r_[counts, np.zeros(9 - r - len(tokens))])
            np.testing.assert_array_equal(got["token_source"][b], SPANS[b])
            np.testing.assert_allclose(got["mean"][b], (wanted * counts[:, None]).sum(0) / counts.sum(), atol=2e-5)


@pytest.mark.extended
@pytest.mark.parametrize("options", [{}, {"restore": True}, {"proportional": False}], ids=str)
@pytest.mark.parametrize("text", [ENCODER, MASKED], ids=["all", "masked"])
def test_a_larger_capacity_changes_nothing_on_any_target(text: str, options: dict[str, Any]) -> None:
    extra = {"valid": (np.arange(9) < np.array([[9], [7]])).astype(np.int64)} if text is MASKED else {}
    found = [
        compiled(text, target, method="span_mean", r=[0, r], **options)(x=X, spans=SPANS, **extra)
        for target in TARGETS
        for r in (4, 1)
    ]
    for got in found[1:]:
        np.testing.assert_allclose(got["mean"], found[0]["mean"], atol=2e-5)
        np.testing.assert_allclose(got["y"][:, :5], found[0]["y"][:, :5], atol=2e-5)


def test_spans_of_tokens_that_were_merged_before() -> None:
    """Windows first, spans behind the next block: a token is part of the span that its position is part of."""
    program, _ = apply(loads(ENCODER), "merge_tokens", method="window_merge", window=2, r=2, blocks=(0,))
    program, _ = apply(program, "merge_tokens", method="span_mean", r=2, blocks=(1,), map=True)
    program = loads(print_module(program))
    found = [ts.compile(program, target=t, weights=weights_of(loads(ENCODER)))(x=X, spans=SPANS) for t in TARGETS]
    for got in found:
        np.testing.assert_array_equal(got["token_size"].sum(1), [9, 9])
        np.testing.assert_array_equal(got["token_source"], found[0]["token_source"])
        np.testing.assert_allclose(got["y"], found[0]["y"], atol=2e-5)
        for b in range(2):
            np.testing.assert_array_equal(np.bincount(got["token_source"][b], minlength=5), got["token_size"][b])


@pytest.mark.parametrize("target", TARGETS)
def test_more_spans_than_there_is_room_for_are_refused(target: str) -> None:
    merged = compiled(ENCODER, target, method="span_mean", r=[5])
    with pytest.raises(Diagnostic) as caught:
        merged(x=X, spans=SPANS)
    assert caught.value.code == "E0905"
    assert "`spans` has the element 4" in caught.value.message


LARGEST = ENCODER.replace("return x, mean_pool(x)", "return x, max(x, axis=1)")
CLASS = ENCODER.replace("return x, mean_pool(x)", "return x, x[:, 0]")


def test_what_would_meet_padding_is_refused() -> None:
    with pytest.raises(Diagnostic, match="`max` over tokens meets padding") as caught:
        apply(loads(LARGEST), "merge_tokens", method="span_mean", r=2)
    assert caught.value.code == "E0710"
    restored, _ = apply(loads(LARGEST), "merge_tokens", method="span_mean", r=2, restore=True)
    assert ts.compile(restored, target="torch")(x=X, spans=SPANS)["mean"].shape == (2, 8)


def test_a_token_that_is_read_by_its_place_is_a_span_of_its_own() -> None:
    for target in TARGETS:
        got = compiled(CLASS, target, method="span_mean", r=[1], map=True)(x=X, spans=SPANS)
        np.testing.assert_array_equal(got["token_size"][:, 0], [1, 1])
        np.testing.assert_array_equal(got["token_source"][0], [0, 1, 1, 2, 2, 2, 3, 4, 4])


def test_a_model_with_other_spans_of_its_own_is_refused() -> None:
    text = ENCODER.replace("x: f32[B, T, 8]) ->", "x: f32[B, T, 8], spans: f32[B, 3]) ->")
    with pytest.raises(Diagnostic, match="the model has one that is") as caught:
        apply(loads(text), "merge_tokens", method="span_mean", r=2)
    assert caught.value.code == "E0705"


@pytest.mark.extended
def test_a_picture_is_pooled() -> None:
    """Behind a class token, to 2 x 3 of 4 x 5 tokens."""
    import torch

    x = np.random.default_rng(1).standard_normal((2, 21, 8)).astype(np.float32)
    options = {
        "method": "adaptive_pool",
        "rows": 4,
        "columns": 5,
        "height": 2,
        "width": 3,
        "protect": 1,
        "place": "start",
    }
    picture = torch.as_tensor(x[:, 1:].reshape(2, 4, 5, 8)).permute(0, 3, 1, 2)
    pooled = torch.nn.functional.adaptive_avg_pool2d(picture, (2, 3)).permute(0, 2, 3, 1).reshape(2, 6, 8).numpy()
    for target in TARGETS:
        got = compiled(ENCODER, target, r=[14], proportional=False, map=True, **options)(x=x)
        wanted = compiled(ENCODER, target)(x=np.concatenate([x[:, :1], pooled], axis=1))
        np.testing.assert_allclose(got["y"], wanted["y"], atol=2e-5)
        np.testing.assert_array_equal(got["token_size"].sum(1), [21, 21])
    with pytest.raises(Diagnostic, match="k is height x width"):
        compiled(ENCODER.replace("T", "21"), "torch", r=[13], **options)
    with pytest.raises(Diagnostic, match="pooled to at least one window"):
        compiled(ENCODER, "torch", r=[14], **{**options, "height": 5})
