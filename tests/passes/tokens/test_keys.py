"""`place=keys`: attention reads fewer keys and values, and every token goes on; checked against attention written out."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tessera.frontends.source import loads, print_module
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply
from tessera.passes.tokens.merge_tokens import MergeTokens
from tessera.passes.tokens.prune_tokens import PruneTokens

from ..conftest import passed, run, weights_of
from .test_regions import both

# One block; what attention reads is shown beside what it gives.
TEXT = """
use std.attention (attention)
use std.nn (linear)

model m(x: f32[B, T, 8]EXTRA) -> (y: f32[B, T, 8], q: f32[B, 2, T, 4], k: f32[B, G, T, 4]) {
    q = rearrange(linear(x, out=8) as q, "b t (h k) -> b h t k", h=2)
    k = rearrange(linear(x, out=4 * G) as k, "b t (h k) -> b h t k", h=G)
    a = attention(q, k, k + 1.0ARGS)
    x = x + rearrange(a, "b h t k -> b t (h k)")
    return x, q, k
}
"""
X = np.random.default_rng(0).standard_normal((2, 9, 8)).astype(np.float32)
KEEP = np.arange(9) < np.array([[9], [6]])


def model(args: str = "", extra: str = "", groups: int = 2, tokens: str = "T") -> Any:
    text = TEXT.replace("ARGS", args).replace("EXTRA", extra).replace("G,", f"{groups},").replace("* G", f"* {groups}")
    return loads(re.sub(r"\bT\b", tokens, text.replace("h=G", f"h={groups}")))


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, hidden: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    """Attention of q [H, T, K] to k, v [H, S, K] where not `hidden` [T, S], heads joined; 0 for a query that sees nothing."""
    scores = np.where(hidden, -np.inf, np.einsum("htk,hsk->hts", q, k) / 2 + bias)
    e = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), -1e9))
    return np.einsum("hts,hsk->thk", e / np.maximum(e.sum(-1, keepdims=True), 1e-30), v).reshape(q.shape[1], -1)


@pytest.mark.parametrize("groups", [2, 1])
@pytest.mark.parametrize("tokens", ["T", "9"])
@pytest.mark.parametrize("kind", ["plain", "padded", "causal"])
def test_dropped_keys_are_those_that_the_map_names(kind: str, tokens: str, groups: int) -> None:
    args = {"plain": "", "padded": ", unsqueeze(keep, [1, 2])", "causal": ", causal=true"}[kind]
    module = model(args, ", keep: bool[B, T]", groups, tokens)
    reduced, _ = passed(module, PruneTokens(k=5, place="keys", method="random", map=True))
    assert loads(print_module(reduced)).difference(reduced) is None
    weights, noise = weights_of(module), np.random.default_rng(3).random((2, 9), np.float32)
    feeds = {"x": X, "keep": KEEP}
    found = run(reduced, weights, **feeds, **{v.name: noise for v in reduced.graph.inputs if v.role == "random"})
    both(reduced, **feeds)
    real = KEEP if kind == "padded" else np.ones_like(KEEP)
    for row in range(2):
        kept = np.sort(np.argsort(-np.where(real[row], noise[row], -1), kind="stable")[:5])
        np.testing.assert_array_equal(found["token_source"][row][kept], np.arange(5))
        hidden = np.broadcast_to(~real[row][kept], (9, 5))
        if kind == "causal":
            hidden = kept > np.arange(9)[:, None]
        q, k = found["q"][row], np.repeat(found["k"][row], 2 // groups, axis=0)[:, kept]
        np.testing.assert_allclose(found["y"][row], X[row] + attended(q, k, k + 1, hidden), atol=1e-5)


@pytest.mark.parametrize("proportional", [True, False])
@pytest.mark.parametrize("kind", ["plain", "causal", "masked"])
def test_merged_keys_are_means_and_are_seen_from_their_last_member_on(kind: str, proportional: bool) -> None:
    """`masked` is a causal decoder too, whose mask somebody made."""
    lower = ", unsqueeze(unsqueeze(iota(T), 0) <= unsqueeze(iota(T), 1), [0, 1])"
    module = model({"plain": "", "causal": ", causal=true", "masked": lower}[kind])
    reduced, _ = passed(module, MergeTokens(r=3, place="keys", proportional=proportional, map=True))
    found = both(reduced, x=X)
    weights = weights_of(module)
    found = run(reduced, weights, x=X)
    for row in range(2):
        source, size = found["token_source"][row], found["token_size"][row]
        members = [np.flatnonzero(source == s) for s in range(6)]
        np.testing.assert_array_equal(size, [len(m) for m in members])
        k = np.stack([found["k"][row][:, m].mean(1) for m in members], axis=1)
        last = np.array([m.max() for m in members])
        hidden = (last > np.arange(9)[:, None]) if kind != "plain" else np.zeros((9, 6), bool)
        bias = np.log(size) if proportional else 0.0
        want = X[row] + attended(found["q"][row], k, k + 1, hidden, bias)
        np.testing.assert_allclose(found["y"][row], want, atol=1e-5)


ENCODER = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)

model encoder(x: f32[B, T, 8], bias: f32[1, 2, T, T]) -> (y: f32[B, T, 8]) {
    repeat i in 3 as blocks {
        x = x + self_attention(layer_norm(x) as n1, bias=bias, heads=2CAUSAL) as attn
        x = x + mlp(layer_norm(x) as n2, hidden=16) as mlp
    }
    return x
}
"""
BIAS = np.random.default_rng(4).standard_normal((1, 2, 9, 9)).astype(np.float32)


@pytest.mark.parametrize("causal", ["", ", causal=true"])
def test_as_many_keys_as_tokens_change_nothing(causal: str) -> None:
    module = loads(ENCODER.replace("CAUSAL", causal))
    for options in ({"r": 0}, {"keep": 1.0}):
        assert apply(module, "prune_tokens", place="keys", **options)[0] == module
    fixed = loads(ENCODER.replace("CAUSAL", causal).replace("T,", "9,").replace("T]", "9]"))
    assert apply(fixed, "prune_tokens", place="keys", k=9, method="random")[0] == fixed


@pytest.mark.parametrize("causal", ["", ", causal=true"])
@pytest.mark.parametrize(
    "steps",
    [
        [PruneTokens(r=2, blocks=(0,), method="random"), MergeTokens(r=2, place="keys", blocks=(2,))],
        [MergeTokens(r=2, place="keys", blocks=(2,)), PruneTokens(r=2, blocks=(0,), method="random")],
        [PruneTokens(k=4, place="keys", method="random"), PruneTokens(r=3, blocks=(0,), method="random")],
        [PruneTokens(k=6, place="keys", blocks=(1, 2))],
    ],
    ids=str,
)
def test_passes_in_a_row(steps: list[Any], causal: str) -> None:
    """Whichever runs first: what leaves of all tokens leaves of the keys."""
    module = loads(ENCODER.replace("CAUSAL", causal))
    reduced, _ = passed(module, *steps)
    again = loads(print_module(reduced))
    assert again.difference(reduced) is None
    found = both(again, x=X, bias=BIAS)
    assert np.isfinite(found["y"]).all()


def test_causal_keys_tell_nobody_of_what_comes_later() -> None:
    module = loads(ENCODER.replace("CAUSAL", ", causal=true"))
    weights = weights_of(module)
    # Which keys leave may hang on all tokens; positions alone do not.
    reduced, _ = passed(module, PruneTokens(k=5, place="keys", method="random"))
    noise = {v.name: np.random.default_rng(5).random((2, 9), np.float32) for v in reduced.graph.inputs if v.role == "random"}
    other = X.copy()
    other[:, 6:] += 1.0
    one, two = (run(reduced, weights, x=x, bias=BIAS, **noise)["y"] for x in (X, other))
    np.testing.assert_array_equal(one[:, :6], two[:, :6])


def test_refused() -> None:
    with pytest.raises(Diagnostic, match="no attention stands in front") as caught:
        apply(loads(ENCODER.replace("CAUSAL", "")), "prune_tokens", k=5, place="keys")
    assert caught.value.code == "E0705"
    read = TEXT.replace("ARGS", ", row=0").replace("EXTRA", "").replace("    a = ", "    a, r = ")
    read = read.replace("G,", "2,").replace("* G", "* 2")
    with pytest.raises(Diagnostic, match="what each key of this attention receives is read") as caught:
        apply(loads(read.replace("h=G", "h=2")), "prune_tokens", k=5, place="keys", method="random")
    assert caught.value.code == "E0710"
    padded = model(", unsqueeze(keep, [1, 2]), causal=true", ", keep: bool[B, T]")
    with pytest.raises(Diagnostic, match="may have merged with padding") as caught:
        apply(padded, "merge_tokens", r=2, place="keys")
    assert caught.value.code == "E0710"
