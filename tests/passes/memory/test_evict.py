"""`select_kv` by methods after which tokens leave the cache: who stays, where the others go on, on both targets and in NumPy."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts

from .test_add_cache import ATTENDING, PROMPTS, compiled

METHODS = ("snap_kv, window=2", "heavy_keys")
CHOOSING = """
use std.token.evict (heavy_keys, snap_kv)

model m(q: f32[B, 4, T, 8], keys: f32[B, 2, S, 8], length: i64[B], count: i64[B], mass: f32[B, 2, S]) -> (
    snap: i64[B, 2, min(5, S)],
    heavy: i64[B, 2, min(5, S)],
    left: f32[B, 2, min(5, S)],
) {
    heavy, left = heavy_keys(q, keys, length, count, mass, k=5, recent=2)
    return snap_kv(q, keys, length, count, k=5, window=2, pool=3), heavy, left
}
"""


@lru_cache
def choosing() -> list[Any]:
    return [ts.compile(ts.loads(CHOOSING), target=target, verify=False) for target in ("torch", "onnx")]


def attention(q: np.ndarray, keys: np.ndarray, length: int, count: int) -> np.ndarray:
    """What each query that counts pays each key [2, count, S], added up over the heads of a key head."""
    weights = np.zeros((2, count, keys.shape[1]))
    for head in range(4):
        for t in range(count):
            seen = length - count + t + 1
            score = keys[head // 2, :seen] @ q[head, t] * 8**-0.5
            weights[head // 2, t, :seen] += np.exp(score - score.max()) / np.exp(score - score.max()).sum()
    return weights


def staying(score: np.ndarray, length: int) -> list[int]:
    """Of one head: the two latest, and the best of the others, at most five."""
    order = np.argsort(-score[: max(length - 2, 0)], kind="stable")[: max(min(5, length) - 2, 0)]
    return sorted([*order.tolist(), *range(max(length - 2, 0), length)])


@pytest.mark.extended
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(5, 9), st.integers(0, 999))
def test_who_stays_is_as_published(new: int, slots: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((2, 4, new, 8)).astype(np.float32)
    keys = rng.standard_normal((2, 2, slots, 8)).astype(np.float32)
    count = rng.integers(1, new + 1, 2)
    length = np.array([int(rng.integers(c, slots + 1)) for c in count])
    mass = np.where(np.arange(slots) < (length - count)[:, None, None], rng.random((2, 2, slots)), 0).astype(np.float32)
    one, other = (artifact(q=q, keys=keys, length=length, count=count, mass=mass) for artifact in choosing())
    for name in ("snap", "heavy"):
        np.testing.assert_array_equal(one[name], other[name])
    for row, (full, own) in enumerate(zip(length.tolist(), count.tolist(), strict=True)):
        weights, kept = attention(q[row], keys[row], full, own), min(5, full)
        total = mass[row] + weights.sum(1)
        votes = weights[:, -2:].sum(1)
        pooled = votes + np.pad(votes, ((0, 0), (1, 0)))[:, :-1] + np.pad(votes, ((0, 0), (0, 1)))[:, 1:]
        for head in range(2):
            assert one["heavy"][row, head, :kept].tolist() == staying(total[head], full)
            assert one["snap"][row, head, :kept].tolist() == staying(pooled[head], full)
            np.testing.assert_allclose(
                one["left"][row, head, :kept], total[head][one["heavy"][row, head, :kept]], atol=1e-5
            )


def told(artifact: Any, steps: int, slots: int) -> tuple[list[list[int]], dict[str, np.ndarray]]:
    """The tokens that follow each prompt, all in one batch, and the states behind them."""
    run = artifact.session(sizes={"C": slots})
    lengths = np.array([len(p) for p in PROMPTS])
    ids = np.array([p + [0] * (lengths.max() - len(p)) for p in PROMPTS])
    best = run.prefill(ids=ids, lengths=lengths)["logits"].argmax(-1)
    tokens = [best]
    for _ in range(steps - 1):
        best = run.decode(ids=best[:, None], lengths=np.ones(len(PROMPTS), np.int64))["logits"][:, 0].argmax(-1)
        tokens.append(best)
    return np.stack(tokens, axis=1).tolist(), run.states()


def made(method: str, k: int, kind: str = "rope") -> list[Any]:
    passes = ("add_cache", f"select_kv(method={method}, k={k})")
    return list(compiled(ts.loads(ATTENDING, params={"kind": kind}), "torch", "onnx", passes=passes))[1:]


@pytest.mark.extended
@pytest.mark.parametrize("method", METHODS)
def test_a_budget_for_all_is_dense(method: str) -> None:
    _, dense = compiled(ts.loads(ATTENDING, params={"kind": "rope"}), "torch")
    wanted = told(dense, 6, 32)[0]
    assert [told(artifact, 6, 32)[0] for artifact in made(method, 32)] == [wanted, wanted]


@pytest.mark.parametrize("method", METHODS)
def test_a_small_budget_says_the_same_on_both_targets_in_a_cache_shorter_than_a_prompt(method: str) -> None:
    one, other = made(method, 4)
    # Of a prompt of nine tokens four are written; behind it the method keeps to its budget, or all that follows stays.
    slots = 5 if method == "heavy_keys" else 9
    (ours, states), (theirs, others) = told(one, 6, slots), told(other, 6, slots)
    assert ours == theirs
    lengths = np.array([len(p) for p in PROMPTS])
    assert states["seen"].tolist() == others["seen"].tolist() == (lengths + 5).tolist()
    kept = np.minimum(lengths, 4) + 5
    for found in (states, others):
        assert found["cache_1.length"].tolist() == (np.minimum(kept, 4) if method == "heavy_keys" else kept).tolist()
    np.testing.assert_allclose(states["cache_1.k"], others["cache_1.k"], atol=1e-5)
    assert ts.loads(ts.source(one.module)) == one.module


@pytest.mark.extended
@pytest.mark.parametrize("method", METHODS)
def test_prompts_side_by_side_bring_what_stays_along(method: str) -> None:
    one, other = made(method, 6)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 1, 2, 3, 4], [5]]
    alone = [ts.generate(one, prompt, max_tokens=8, capacity=32) for prompt in prompts]
    for artifact in (one, other):
        found: Any = ts.generate(artifact, prompts, max_tokens=8, capacity=32, rows=2)
        assert [c.tokens for c in found] == [c.tokens for c in alone]


MINE = """
## The latest keys.
op latest(q: float[B, H, T, K], keys: float[B, G, S, K], length: i64[B], count: i64[B], *, k: int) -> i64[B, G, min(k, S)] {
    slot = iota(min(k, S)) + unsqueeze(maximum(length - min(k, S), 0), 1)
    return expand(unsqueeze(slot, 1), [B, G, min(k, S)])
}
"""


@pytest.mark.extended
def test_a_method_of_ones_own(tmp_path: Path, monkeypatch: Any) -> None:
    tmp_path.joinpath("mine.tess").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    one, other = made('"mine.tess:latest"', 3)
    (ours, states), (theirs, _) = told(one, 4, 8), told(other, 4, 8)
    assert ours == theirs
    assert states["cache_0.length"].tolist() == [6, 4, 6, 6]


@pytest.mark.parametrize(
    ("kind", "passes", "code", "said"),
    [
        ("rope", ["select_kv(method=snap_kv, k=40)"], "E0707", "chooses slots of a cache, and this model has none"),
        ("rope", ["add_cache", "select_kv(method=heavy_keys, keep=0.5)"], "E0705", "a share of a cache is no number"),
        ("rope", ["add_cache", "select_kv(method=heavy_keys, k=8, blocks=[1])"], "E0705", "lets tokens leave all caches alike"),
        ("rope", ["add_cache", "select_kv(method=snap_kv, k=8)"], "E0501", "the window stays, and at least one key before it"),
        ("window", ["add_cache", "select_kv(method=heavy_keys, k=8)"], "E0707", "asks where those in its slots stand"),
        ("alibi", ["add_cache", "select_kv(method=heavy_keys, k=8)"], "E0707", "asks where those in its slots stand"),
    ],
)  # fmt: skip
def test_what_cannot_leave_is_refused(kind: str, passes: list[str], code: str, said: str) -> None:
    with pytest.raises(ts.Diagnostic, match=said) as caught:
        ts.compile(ts.loads(ATTENDING, params={"kind": kind}), passes=passes, target="torch", verify=False)
    assert caught.value.code == code


def test_positions_from_a_table_end() -> None:
    small = {"vocab": 40, "dim": 32, "depth": 1, "heads": 4, "positions": 32}
    with pytest.raises(ts.Diagnostic, match="positions are rows of a table") as caught:
        ts.apply(ts.apply(ts.load("gpt2_lm", params=small), "add_cache"), "select_kv", method="heavy_keys", k=8)
    assert caught.value.code == "E0707"
