"""`select_kv`: which keys each query of a causal decoder reads, against NumPy; budgets, passes in a row, what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads, print_module
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.passes.engine import apply
from tessera.passes.memory.select_kv import SelectKV
from tessera.passes.tokens.prune_tokens import PruneTokens

from ..conftest import passed, run, weights_of
from ..tokens.test_regions import both

T = 12
TEXT = """
use std.attention (attention)
use std.nn (linear)

model m(x: f32[B, T, 8], keep: bool[B, T]) -> (y: f32[B, T, 8], q: f32[B, 2, T, 4], k: f32[B, G, T, 4]) {
    q = rearrange(linear(x, out=8) as q, "b t (h k) -> b h t k", h=2)
    k = rearrange(linear(x, out=4 * G) as k, "b t (h k) -> b h t k", h=G)
    a = attention(q, k, k + 1.0MASK, causal=true)
    x = x + rearrange(a, "b h t k -> b t (h k)")
    return x, q, k
}
"""
X = np.random.default_rng(0).standard_normal((2, T, 8)).astype(np.float32)
KEEP = np.arange(T) < np.array([[T], [9]])


def text_of(groups: int = 2, mask: str = "") -> str:
    return re.sub(r"\bG\b", str(groups), TEXT.replace("MASK", mask))


def decoder(groups: int = 2, mask: str = "") -> Module:
    return loads(text_of(groups, mask))


def weights(q: np.ndarray, k: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """[H, T, S]: softmax over the keys that are seen; 0 where none is."""
    scores = np.where(seen, np.einsum("htk,hsk->hts", q, k) / 2, -np.inf)
    e = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), -1e9))
    return e / np.maximum(e.sum(-1, keepdims=True), 1e-30)


def sinks_and_recent(p: np.ndarray, t: int, k: int) -> Any:
    return {*range(min(4, t + 1)), *range(max(0, t - (k - 4) + 1), t + 1)}


def heavy_hitters(p: np.ndarray, t: int, k: int) -> Any:
    recent = k // 2
    old = np.arange(max(0, t - recent + 1))
    mass = p[: t + 1].sum(0)[old]
    return {*old[np.argsort(-mass, kind="stable")[: k - recent]], *range(max(0, t - recent + 1), t + 1)}


def window_vote(p: np.ndarray, t: int, k: int) -> Any:
    window, pool = 2, 3
    if t < T - window:
        return set(range(t + 1))
    votes = np.pad(p[T - window :].sum(0), pool // 2)
    pooled = np.convolve(votes, np.ones(pool), "valid")[: T - window]
    return {*np.argsort(-pooled, kind="stable")[: k - window], *range(T - window, t + 1)}


METHODS: dict[str, tuple[Any, dict[str, int]]] = {
    "sinks_and_recent": (sinks_and_recent, {}),
    "heavy_hitters": (heavy_hitters, {}),
    "window_vote": (window_vote, {"window": 2, "pool": 3}),
}


@pytest.mark.parametrize("groups", [2, 1])
@pytest.mark.parametrize("name", METHODS)
def test_each_query_reads_what_the_method_says(name: str, groups: int) -> None:
    plain, k = decoder(groups), 6
    chosen, options = METHODS[name]
    module, (report,) = passed(plain, SelectKV(method=name, k=k, further=tuple(options.items())))
    assert report.facts["blocks"] == [0]
    assert loads(print_module(module)).difference(module) is None
    both(module, x=X, keep=KEEP)
    found = run(module, weights_of(plain), x=X, keep=KEEP)
    for row in range(2):
        q, keys = found["q"][row], np.repeat(found["k"][row], 2 // groups, axis=0)
        causal = np.tri(T, dtype=bool)
        seen = np.zeros((2, T, T), bool)
        for head in range(2):
            p = weights(q, keys, causal)[head]
            for t in range(T):
                seen[head, t, sorted(chosen(p, t, k))] = True
        assert not (seen & ~causal).any()
        late = seen[:, T - 2 :] if name == "window_vote" else seen
        assert late.sum(-1).max() == k
        want = np.einsum("hts,hsk->thk", weights(q, keys, seen), keys + 1).reshape(T, -1)
        np.testing.assert_allclose(found["y"][row], X[row] + want, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_budget_for_all_is_dense(name: str) -> None:
    """Of a known number of keys nothing is done; of one that only run time knows nothing is hidden."""
    dense = run(decoder(), weights_of(decoder()), x=X, keep=KEEP)["y"]
    for k in (T, T + 5):
        module, _ = apply(decoder(), "select_kv", method=name, k=k, **({"window": 2} if name == "window_vote" else {}))
        np.testing.assert_array_equal(run(module, weights_of(decoder()), x=X, keep=KEEP)["y"], dense)
    fixed = loads(re.sub(r"\bT\b", "12", text_of()))
    assert apply(fixed, "select_kv", method=name, k=12)[0] == fixed
    assert apply(fixed, "select_kv", method=name, keep=1.0)[0] == fixed


def test_it_hides_beside_what_a_mask_hides() -> None:
    plain = decoder(mask=", unsqueeze(keep, [1, 2])")
    module, _ = passed(plain, SelectKV(k=5))
    one = both(module, x=X, keep=KEEP)["y"]
    other = both(module, x=np.where(KEEP[..., None], X, 3.0).astype(np.float32), keep=KEEP)["y"]
    np.testing.assert_allclose(np.where(KEEP[..., None], one - other, 0), 0, atol=1e-5)


def test_nobody_learns_of_what_comes_later() -> None:
    """But for the window's vote, which is the prompt's end."""
    for name in ("sinks_and_recent", "heavy_hitters"):
        module, _ = apply(decoder(), "select_kv", method=name, k=6)
        later = X.copy()
        later[:, 8:] += 1.0
        one, two = (run(module, weights_of(decoder()), x=x, keep=KEEP)["y"] for x in (X, later))
        np.testing.assert_array_equal(one[:, :8], two[:, :8])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_with_tokens_that_leave(order: tuple[int, int]) -> None:
    """Dropped before or after: each query reads as many of the tokens that are left."""
    sizes = {"dim": 16, "depth": 2, "heads": 2, "vocab": 50}
    plain = ts.load("zoo/gpt2", "gpt2_lm", params=sizes)
    steps = [PruneTokens(r=3, blocks=(0,)), SelectKV(method="heavy_hitters", k=5)]
    module, _ = passed(plain, *(steps[i] for i in order))
    again = loads(print_module(module))
    assert again.difference(module) is None
    ids = np.random.default_rng(1).integers(0, 50, (2, T))
    assert both(again, input_ids=ids)["logits"].shape == (2, T - 3, 50)


def test_methods_that_reduce_tokens_choose_for_all_queries() -> None:
    plain = ts.load("zoo/gpt2", "gpt2_lm", params={"dim": 16, "depth": 2, "heads": 2, "vocab": 50})
    module, _ = apply(plain, "select_kv", method="random", k=5)
    same, _ = apply(plain, "prune_tokens", method="random", k=5, place="keys")
    assert module.difference(same) is None


MINE = """
## Every other key, and itself.
op every_other(q: float[B, H, T, K], keys: float[B, G, S, K], *, k: int, step: int = 2) -> bool[1, 1, T, S] {
    here = unsqueeze(iota(T), 1) + (S - T)
    place = unsqueeze(iota(S), 0)
    return unsqueeze(place == here or (place <= here and place % step == 0), [0, 1])
}
"""


def test_a_method_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.tess").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    module, _ = apply(decoder(), "select_kv", method="mine.tess:every_other", k=8, step=3)
    assert "op every_other(" in print_module(module)
    assert both(module, x=X, keep=KEEP)["y"].shape == (2, T, 8)


CACHED = """
use std.attention (attention)
model m(x: f32[B, 1, 8]) -> f32[B, 1, 8] {
    state cache: f32[B, 6, 8] = zeros
    cache = concat(cache[:, 1:], x, axis=1)
    q = unsqueeze(x, 1)
    k = unsqueeze(cache, 1)
    return x + squeeze(attention(q, k, k, causal=true), 1)
}
"""


@pytest.mark.parametrize(
    ("text", "options", "code", "message"),
    [
        (text_of(), {}, "E0705", "neither `k` nor `keep`"),
        (text_of(), {"k": 4, "keep": 0.5}, "E0705", "both `k` and `keep`"),
        (text_of(), {"keep": 0.5}, "E0705", "a share of T keys is no number before it runs"),
        (text_of(), {"k": 0}, "E0704", "at least 1"),
        (text_of(), {"k": 6, "blocks": (1,)}, "E0704", "but the model has 1 causal attention"),
        (text_of(), {"k": 6, "method": "heavy"}, "E0201", "there is no method `heavy`"),
        (text_of(), {"k": 6, "method": "std.nn.gelu"}, "E0716", "its first operand"),
        (text_of(), {"k": 6, "sink": 2}, "E0702", "has no option `sink`"),
        (text_of().replace(", causal=true", ""), {"k": 6}, "E0707", "found no causal"),
        (CACHED, {"k": 4}, "E0707", "lie in its state `cache`"),
    ],
)
def test_refused(text: str, options: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        apply(loads(text), "select_kv", **options)
    assert (caught.value.code, message in caught.value.message) == (code, True), caught.value.message


def test_a_budget_within_the_sinks_is_refused() -> None:
    with pytest.raises(Diagnostic, match="beside the sinks a query reads at least itself") as caught:
        apply(decoder(), "select_kv", k=4)
    assert caught.value.code == "E0501"


def test_the_help_tells_methods() -> None:
    told = SelectKV.method_help(None)
    assert "sinks_and_recent  The first tokens, which attention leans on" in told
    assert "Xiao et al. 2024" in SelectKV.method_help("sinks_and_recent")
    assert SelectKV.method_help("by_mass").startswith("by_mass(")
