"""`select_kv(reuse=…)`: what was chosen last is read again where new queries are like those of then, and nothing is scored."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts
from tessera.driver.compile import apply_passes
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.memory.select_kv import SelectKV

from .test_add_cache import ATTENDING, PROMPTS, compiled, greedy

# Slots that are chosen, and the size of a query.
CHOSEN, WIDTH = 5, 6
SOURCE = """
use std.token.memo (Memo, again, remembered)
model m(query: f32[B, 6], memo: Memo[B, 6, 5], length: i64[B], count: i64[B], chosen: i64[B, 5]) -> (
    near: bool[B], place: i64[B, 5], anew: bool[], after: Memo[B, 6, 5]
) {
    near, place, anew = again(query, memo, length, count, tokens=2, reuse=0.5)
    return near, place, anew, remembered(memo, query, near, where(unsqueeze(near, 1), place, chosen), length, count)
}
"""
CASES = ["token_vote", *(pytest.param(case, marks=pytest.mark.extended) for case in ("page_bounds", "i8", "alibi"))]
VOTE = "select_kv(method=token_vote, k=6, sinks=1, recent=3, reuse={reuse})"


@lru_cache
def remembering() -> list[Any]:
    return [ts.compile(ts.loads(SOURCE), target=target, verify=False) for target in ("torch", "onnx")]


@pytest.mark.extended
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(0, 999))
def test_both_targets_and_numpy_remember_the_same(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    memo: dict[str, Any] = {
        "query": rng.standard_normal((rows, WIDTH)).astype(np.float32),
        "place": np.sort(np.stack([rng.permutation(12)[:CHOSEN] for _ in range(rows)])),
        "made": rng.integers(0, 2, rows) * rng.integers(CHOSEN, 16, rows), "hits": rng.integers(0, 9, rows),
    }  # fmt: skip
    query = (memo["query"] + rng.standard_normal((rows, WIDTH)) * rng.choice([0.1, 2.0])).astype(np.float32)
    length, count = rng.integers(2, 16, rows), rng.integers(0, 3, rows)
    chosen = np.sort(np.stack([rng.permutation(16)[:CHOSEN] for _ in range(rows)]))
    fields = {f"memo_{name}": value for name, value in memo.items()}
    first, second = (a(query=query, length=length, count=count, chosen=chosen, **fields) for a in remembering())
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    for b in range(rows):
        old, place = memo["place"][b], memo["place"][b].copy()
        ended = old[-1] >= memo["made"][b] - 1
        run = CHOSEN - 1
        while run and old[run] - old[run - 1] == 1:
            run -= 1
        if ended:
            place[run:] += max(0, length[b] - 1 - old[-1])
        cosine = query[b] @ memo["query"][b] / np.linalg.norm(query[b]) / np.linalg.norm(memo["query"][b])
        inside = not ended or place[run] <= length[b] - 2
        near = bool(count[b] == 0 or (memo["made"][b] and cosine >= 0.5 and inside))
        assert (first["near"][b], first["place"][b].tolist()) == (near, place.tolist())
        used = place if near else chosen[b]
        assert first["after_place"][b].tolist() == (used if count[b] else old).tolist()
        made = length[b] if near or length[b] > CHOSEN else 0
        assert first["after_made"][b] == (made if count[b] else memo["made"][b])
        assert first["after_hits"][b] == memo["hits"][b] + (near and count[b] > 0)
        np.testing.assert_array_equal(first["after_query"][b], (memo["query"] if near else query)[b])
    assert first["anew"] == (not first["near"].all())


def selecting(reuse: float, kind: str = "rope", storage: str = "none", method: str = VOTE) -> tuple[Any, ...]:
    passes = (f"add_cache(storage={storage})", method.format(reuse=reuse))
    return compiled(ts.loads(ATTENDING, params={"kind": kind}), "torch", "onnx", passes=passes)[1:]


def read_in_parts(artifact: Any, text: np.ndarray, parts: tuple[int, ...]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The scores of a text that is read in parts, and the states behind each."""
    run = artifact.session(sizes={"C": 32})
    run.prefill(ids=text[:, :8], lengths=np.full(len(text), 8))
    at, found, states = 8, [], []
    for part in parts:
        found.append(run.decode(ids=text[:, at : at + part], lengths=np.full(len(text), part))["logits"])
        states.append(run.states())
        at += part
    return np.concatenate(found, axis=1), states


@pytest.mark.extended
def test_a_threshold_that_nothing_reaches_changes_nothing() -> None:
    passes = ("add_cache", VOTE.replace(", reuse={reuse}", ""))
    wanted = greedy(compiled(ts.loads(ATTENDING, params={"kind": "rope"}), "torch", passes=passes)[1], PROMPTS, 12)
    above = SelectKV("token_vote", k=6, reuse=2.0, further=(("recent", 3), ("sinks", 1)))
    for artifact in compiled(ts.loads(ATTENDING, params={"kind": "rope"}), "torch", "onnx", passes=("add_cache", above))[1:]:
        assert greedy(artifact, PROMPTS, 12) == wanted
        assert ts.loads(ts.source(artifact.module)) == artifact.module
        scored = [n.op.name for n in artifact.module.functions["decode"].nodes()]
        assert "token_vote" not in scored
        assert scored.count("cond") == 2


@pytest.mark.parametrize("case", CASES)
def test_new_tokens_are_read_whatever_is_remembered(case: str) -> None:
    method = VOTE.replace("token_vote, k=6, sinks=1, recent=3", "page_bounds, k=8, page=4") if case == "page_bounds" else VOTE
    made = selecting(-1.0, "alibi" if case == "alibi" else "rope", "i8" if case == "i8" else "none", method)
    text, parts = np.random.default_rng(0).integers(0, 40, (2, 24)), (1, 1, 2, 1, 3, 1)
    (a, first), (b, second) = (read_in_parts(artifact, text, parts) for artifact in made)
    np.testing.assert_allclose(a, b, atol=2e-2 * np.abs(a).max() if case == "i8" else 1e-5 * np.abs(a).max())
    length = 8
    for part, ours, theirs in zip(parts, first, second, strict=True):
        length += part
        for name in ("memo_0.place", "memo_1.place", "memo_0.hits"):
            np.testing.assert_array_equal(ours[name], theirs[name])
        for row in ours["memo_0.place"]:
            assert (np.diff(row) > 0).all()
            assert set(range(length - part, length)) <= set(row.tolist())
    assert (first[-1]["memo_0.hits"] > 0).all()
    run = made[1].session(states=first[-1], sizes={"C": 32})
    run.prefill(ids=text[:, :3], lengths=np.full(2, 3))
    assert not any(run.states()[f"memo_0.{field}"].any() for field in ("made", "hits", "place"))


OWN = """
## The first k slots, every second one, or those that end one before the latest.
op mine(q: float[B, H, T, K], keys: float[B, G, C, K], length: i64[B], *, k: int, which: str) -> i64[B, min(k, C)] {
    first = unsqueeze(iota(min(k, C)), 0)
    if which == "first" {
        return first + 0 * unsqueeze(length, 1)
    }
    if which == "second" {
        return 2 * first + 0 * unsqueeze(length, 1)
    }
    return first + unsqueeze(maximum(length - 1 - min(k, C), 0), 1)
}
"""


@pytest.mark.parametrize("which", ["first", pytest.param("second", marks=pytest.mark.extended), "before"])
def test_a_choice_that_ends_before_the_latest_token_is_read_as_it_is(which: str, tmp_path: Path) -> None:
    """What a method of one's own chose when it was asked, whatever came since."""
    tmp_path.joinpath("mine.tess").write_text(OWN)
    method = f'select_kv(method="{tmp_path}/mine.tess:mine", k=3, which={which}, reuse={{reuse}})'
    text, parts = np.random.default_rng(0).integers(0, 40, (2, 16)), (1, 1, 2, 1, 3)
    chosen = {"first": [0, 1, 2], "second": [0, 2, 4], "before": [5, 6, 7]}[which]
    (a, first), (b, second) = (read_in_parts(made, text, parts) for made in selecting(-1.0, method=method))
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())
    for states in (*first, *second):
        assert states["memo_0.place"].tolist() == [chosen, chosen]
    assert first[-1]["memo_0.hits"].tolist() == [len(parts) - 1] * 2


@pytest.mark.parametrize("reuse", ["1.01", "-2", "inf"])
def test_no_cosine_is_beyond_one(reuse: str) -> None:
    with pytest.raises(Diagnostic, match="from -1 to 1") as caught:
        apply_passes(ts.loads(ATTENDING, params={"kind": "rope"}), ["add_cache", VOTE.format(reuse=reuse)])
    assert caught.value.code == "E0704"


@pytest.mark.extended
def test_prompts_side_by_side_remember_each_their_own() -> None:
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 1, 2, 3, 4], [9]]
    for artifact in selecting(0.8):
        alone = [ts.generate(artifact, prompt, max_tokens=12, capacity=32).tokens for prompt in prompts]
        for rows in (2, 3):
            found = ts.generate(artifact, prompts, max_tokens=12, capacity=32, rows=rows)
            assert [c.tokens for c in found] == alone


@pytest.mark.parametrize("passes", [["add_cache", "select_kv(method=snap_kv, k=8, reuse=0.9)"], ["select_kv(k=8, reuse=0.9)"]])
def test_what_chooses_no_slots_remembers_none(passes: list[str]) -> None:
    with pytest.raises(Diagnostic, match="`reuse` reads slots of a cache again") as caught:
        apply_passes(ts.loads(ATTENDING, params={"kind": "rope"}), passes)
    assert caught.value.code == "E0705"


def test_a_cache_for_which_nothing_asks_is_refused() -> None:
    source = """
    use std.cache (KVCache, append)
    model m(k: f32[B, 2, S, 4]) -> i64[B] {
        state cache: KVCache[B, 2, C, 4, 4] = zeros
        cache = append(cache, k, k)
        return cache.length
    }
    """
    with pytest.raises(Diagnostic, match="nothing asks for the keys of this cache") as caught:
        apply_passes(ts.loads(source), ["select_kv(method=latest_slots, k=8, reuse=0.9)"])
    assert caught.value.code == "E0707"
