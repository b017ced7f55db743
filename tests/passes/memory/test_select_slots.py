"""`select_kv` on decoders with a cache: the slots that a method chooses, on both targets and in NumPy, and what is read of them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts

from .test_add_cache import ATTENDING, PROMPTS, compiled, greedy

CALLS = {
    "latest_slots": "latest_slots(q, keys, length, k=6, sinks=2)",
    "token_vote": "token_vote(q, keys, length, k=6, sinks=1, recent=2)",
    "page_bounds": "page_bounds(q, keys, length, k=8, page=4)",
}


@lru_cache
def choosing() -> list[Any]:
    source = f"""
    use std.token.slots (latest_slots, page_bounds, token_vote)
    model m(q: f32[B, 4, T, 8], keys: f32[B, 2, C, 8], length: i64[B]) -> (
        {", ".join(f"{name}: i64[B, min({8 if name == 'page_bounds' else 6}, C)]" for name in CALLS)},
    ) {{
        require C % 4 == 0, "whole pages"
        return {", ".join(CALLS.values())}
    }}
    """.replace("min(8, C)", "min(2, C // 4) * 4")
    return [ts.compile(ts.loads(source), target=target, verify=False) for target in ("torch", "onnx")]


def latest_slots(q: np.ndarray, keys: np.ndarray, length: int) -> set[int]:
    return set(range(length)) if length <= 6 else {0, 1, *range(length - 4, length)}


def token_vote(q: np.ndarray, keys: np.ndarray, length: int) -> set[int]:
    if length <= 6:
        return set(range(length))
    mean, votes = q.mean(1), np.zeros(length)
    for head in range(4):
        # Heads 0 and 1 read the first key head, 2 and 3 the second one.
        score = keys[head // 2, 1 : length - 2] @ mean[head] * 8**-0.5
        votes[1 : length - 2] += np.exp(score - score.max()) / np.exp(score - score.max()).sum()
    best = 1 + np.argsort(-votes[1 : length - 2], kind="stable")[:3]
    return {0, *best.tolist(), length - 2, length - 1}


def page_bounds(q: np.ndarray, keys: np.ndarray, length: int) -> set[int]:
    pages = range((length + 3) // 4)
    bounds = []
    for page in pages:
        part = keys[:, page * 4 : min(length, page * 4 + 4)]
        low, high = part.min(1), part.max(1)
        bounds.append(sum(np.maximum(q.mean(1)[h] * low[h // 2], q.mean(1)[h] * high[h // 2]).sum() for h in range(4)))
    bounds[-1] = np.inf
    best = np.argsort(-np.array(bounds), kind="stable")[:2]
    return {slot for page in best for slot in range(page * 4, page * 4 + 4) if slot < length}


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.sampled_from([4, 8, 16, 24]), st.integers(1, 3), st.integers(0, 99))
def test_both_targets_and_numpy_choose_the_same_slots(rows: int, slots: int, new: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((rows, 4, new, 8)).astype(np.float32)
    keys = rng.standard_normal((rows, 2, slots, 8)).astype(np.float32)
    length = rng.integers(1, slots + 1, rows)
    first, second = (artifact(q=q, keys=keys, length=length) for artifact in choosing())
    for method in (latest_slots, token_vote, page_bounds):
        chosen = first[method.__name__]
        np.testing.assert_array_equal(chosen, second[method.__name__])
        assert (np.diff(chosen, axis=1) > 0).all()
        for b in range(rows):
            seen = {slot for slot in chosen[b].tolist() if slot < length[b]}
            assert seen == method(q[b], keys[b], int(length[b]))


def selecting(kind: str, method: str) -> tuple[Any, ...]:
    module = ts.loads(ATTENDING, params={"kind": kind})
    return compiled(module, "torch", "onnx", passes=("add_cache", f"select_kv({method})"))


MINE = """
## The latest slot and every second one before it.
op every_second(q: float[B, H, T, K], keys: float[B, G, C, K], length: i64[B], *, k: int) -> i64[B, min(k, C)] {
    place = unsqueeze(length, 1) - 1 - 2 * (min(k, C) - 1 - unsqueeze(iota(min(k, C)), 0))
    return maximum(place, unsqueeze(iota(min(k, C)), 0))
}
"""


OTHERS = [pytest.param(n, marks=pytest.mark.extended) for n in ("page_bounds", "latest_slots")]


@pytest.mark.parametrize("method", ["token_vote", *OTHERS])
def test_a_budget_for_all_slots_is_dense(method: str) -> None:
    kind = "rope" if method == "token_vote" else "alibi"
    _, *made = selecting(kind, f"method={method}, k=32")
    _, dense = compiled(ts.loads(ATTENDING, params={"kind": kind}), "torch")
    wanted = greedy(dense, PROMPTS, 6)
    assert [greedy(artifact, PROMPTS, 6) for artifact in made] == [wanted, wanted]


def test_a_small_budget_says_the_same_on_both_targets_and_is_source(tmp_path: Path, monkeypatch: Any) -> None:
    tmp_path.joinpath("mine.tess").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    for method in ("method=token_vote, k=8, recent=2", 'method="mine.tess:every_second", k=4, blocks=[1]'):
        _, one, other = selecting("window", method)
        assert greedy(one, PROMPTS, 6) == greedy(other, PROMPTS, 6)
        assert ts.loads(ts.source(one.module)) == one.module
        assert "take(" in ts.source(one.module.only("decode"))


@pytest.mark.parametrize(
    ("passes", "code", "said"),
    [
        (["select_kv(method=token_vote, k=8)"], "E0707", "chooses slots of a cache, and this model has none"),
        (["add_cache(past=shared)", "select_kv(method=latest_slots, k=8)"], "E0707", "and `past` appends none"),
        (["add_cache(tree=true)", "select_kv(method=snap_kv, k=40)"], "E0707", "and `commit` appends none"),
        (["add_cache", "select_kv(method=token_vote, keep=0.5)"], "E0705", "a share of a cache is no number"),
        (["add_cache", "select_kv(method=token_vote, k=8, recent=4, sinks=4)"], "E0501", "at least one slot is voted for"),
        (["add_cache", "select_kv(method=page_bounds, k=8)"], "E0501", "at least one page is read"),
        (["add_cache", "select_kv(method=token_vote, k=8, blocks=[2])"], "E0704", "names block 2"),
        (["add_cache", "select_kv(method=heavy_hitters, k=8)"], "E0707", "chooses among the keys of a prompt"),
        (["add_cache", "select_kv(method=token_votes, k=8)"], "E0201", "there is no method"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_is_refused(passes: list[str], code: str, said: str) -> None:
    with pytest.raises(ts.Diagnostic, match=said) as caught:
        ts.compile(ts.loads(ATTENDING, params={"kind": "rope"}), passes=passes, target="torch", verify=False)
    assert caught.value.code == code


def extremes(keys: np.ndarray, page: int) -> np.ndarray:
    """Of keys [G, C, K], by page."""
    pages = keys.reshape(keys.shape[0], -1, page, keys.shape[2])
    return np.concatenate([pages.max(2), pages.min(2)]).transpose(1, 0, 2).reshape(pages.shape[1], -1)


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_bounds_are_kept_beside_the_cache_with_every_append(target: str) -> None:
    passes = ["add_cache", "select_kv(method=page_bounds, k=8, page=4, blocks=[1])"]
    made = ts.compile(ts.loads(ATTENDING, params={"kind": "rope"}), passes=passes, target=target, verify=False)
    run: Any = made.session(sizes={"C": 24, "B": 2})
    rng = np.random.default_rng(0)
    assert "bounds_0" not in run.states()
    length = np.zeros(2, np.int64)
    for entry, width in (("prefill", 7), ("decode", 1), ("decode", 3), ("decode", 1), ("decode", 4)):
        counts = rng.integers(1, width + 1, 2)
        run[entry](ids=rng.integers(0, 9, (2, width)), lengths=counts)
        length += counts
        states = run.states()
        assert states["cache_1.length"].tolist() == length.tolist()
        for row in range(2):
            # Those behind the latest token bound nothing that is read.
            full = (length[row] - 1) // 4 + 1
            expected = extremes(states["cache_1.k"][row], 4)
            np.testing.assert_array_equal(states["bounds_1"][row, :full], expected[:full])
    with pytest.raises(ts.Diagnostic, match="whole pages"):
        made.session(sizes={"C": 23, "B": 2}).prefill(ids=np.zeros((2, 4), np.int64), lengths=np.array([4, 4]))


@pytest.mark.extended
def test_prompts_side_by_side_bring_their_bounds_along() -> None:
    _, one, other = selecting("rope", "method=page_bounds, k=8, page=4")
    alone = [ts.generate(one, prompt, max_tokens=8, capacity=32) for prompt in ([1, 2, 3], [4, 5, 6, 7, 8, 1, 2, 3, 4])]
    for artifact in (one, other):
        found = ts.generate(artifact, [[1, 2, 3], [4, 5, 6, 7, 8, 1, 2, 3, 4]], max_tokens=8, capacity=32)
        assert [c.tokens for c in found] == [c.tokens for c in alone]
