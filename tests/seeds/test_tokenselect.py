"""TokenSelect: what a card asks of `seeds/tokenselect`. Trained weights: `tokenselect_training.py` makes them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts

from .texts import widened
from .tokenselect_training import CHOICES, LENGTH, PLACES, SIZES, passkey, train

WEIGHTS = Path(__file__).parent / "data" / "tokenselect.safetensors"
TARGETS = ("torch", "onnx")
# How many tokens of a record are asked for; and 96 tokens that are read.
LEFT = PLACES - 1
BUDGET: dict[str, int] = {"sinks": 8, "k": 56, "recent": 32}
CHUNK = 16


@cache
def weights(trained: bool) -> dict[str, np.ndarray]:
    if trained:
        return widened(WEIGHTS)
    rng = np.random.default_rng(1)
    params = ts.load("tokenselect", "whole", params=SIZES).graph.params
    return {n: rng.normal(0, 0.3, [int(d) for d in p.type.shape]).astype(np.float32) for n, p in params.items()}


def made(model: str, target: str, trained: bool = False, **params: Any) -> Any:
    program = ts.load("tokenselect", model, params={**SIZES, **params})
    return ts.compile(program, target=target, weights=weights(trained), verify=False)


def stepped(run: Any, ids: np.ndarray, first: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The scores of each token [B, T, V], the first of them read at once; and what each layer chose at each step behind them."""
    rows = len(ids)
    parts = [run.prefill(input_ids=ids[:, :first], lengths=np.full(rows, first))["logits"]]
    chosen = []
    for at in range(first, ids.shape[1]):
        parts.append(run.decode(input_ids=ids[:, at : at + 1], lengths=np.ones(rows, np.int64))["logits"])
        states = run.states()
        chosen.append(np.stack([states[name] for name in sorted(states) if name.endswith("memo.place")]))
    return np.concatenate(parts, axis=1), chosen


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_what_reads_everything_is_dense(target: str) -> None:
    ids = np.random.default_rng(0).integers(0, SIZES["vocab"], (2, 40))
    dense = made("whole", target)(input_ids=ids)["logits"]
    run = made("chat", target, sinks=4, k=24, recent=12, chunk=8).session(sizes={"C": 48})
    found, _ = stepped(run, ids, 30)
    np.testing.assert_allclose(found, dense, atol=1e-6 * np.abs(dense).max())


@pytest.mark.extended
def test_targets_choose_the_same_at_every_step() -> None:
    ids = np.random.default_rng(1).integers(0, SIZES["vocab"], (2, 140))
    runs = [made("chat", t, **BUDGET, chunk=CHUNK, reuse=2.0).session(sizes={"C": 144}) for t in TARGETS]
    (a, first), (b, second) = (stepped(run, ids, 120) for run in runs)
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert (np.diff(ours, axis=-1) > 0).all()
    np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(a).max())


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_pages_and_rows_of_other_lengths_change_nothing(target: str) -> None:
    """The second row ends earlier; from pages, in any order, is read what is read from a cache."""
    ids, lengths = np.random.default_rng(2).integers(0, SIZES["vocab"], (2, 130)), np.array([120, 101])
    run = made("chat", target, **BUDGET, chunk=CHUNK, reuse=2.0).session(sizes={"C": 144})
    whole = run.prefill(input_ids=ids[:, :120], lengths=lengths)["logits"]
    more = run.decode(input_ids=ids[:, 120:], lengths=np.array([10, 3]))["logits"]
    for row, (first, then) in enumerate(((120, 10), (101, 3))):
        alone = made("chat", target, **BUDGET, chunk=CHUNK, reuse=2.0).session(sizes={"C": 144})
        one = alone.prefill(input_ids=ids[row : row + 1, :first], lengths=np.array([first]))["logits"]
        np.testing.assert_allclose(whole[row, :first], one[0], atol=1e-5 * np.abs(one).max())
        two = alone.decode(input_ids=ids[row : row + 1, 120 : 120 + then], lengths=np.array([then]))["logits"]
        np.testing.assert_allclose(more[row, :then], two[0], atol=1e-5 * np.abs(two).max())
    paged = made("paged", target, **BUDGET, page=4)
    table = np.random.default_rng(3).permutation(2 * 36).reshape(2, 36)
    start = {f"layers_{i}_attn_cache.table": table for i in range(SIZES["depth"])}
    pages = paged.session(states=start, sizes={"P": 72})
    chunked = made("chat", target, **BUDGET, chunk=CHUNK, reuse=2.0).session(sizes={"C": 144})
    for at in range(0, 120, 24):
        given = {"input_ids": ids[:, at : at + 24], "lengths": np.full(2, 24)}
        ours, theirs = chunked.decode(**given)["logits"], pages(**given)["logits"]
        np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.abs(ours).max())


def answers(run: Any, texts: np.ndarray, wanted: np.ndarray) -> float:
    """How many answers are right, each token given those before it; the question and they are read one by one."""
    found, _ = stepped(run, np.concatenate([texts, wanted[:, :-1]], axis=1), texts.shape[1] - 3)
    return float((found[:, -LEFT:].argmax(-1) == wanted).mean())


def at_once(run: Any, texts: np.ndarray, wanted: np.ndarray) -> float:
    """The same with everything read at once."""
    found = run(input_ids=np.concatenate([texts, wanted[:, :-1]], axis=1))["logits"][:, -LEFT:]
    return float((found.argmax(-1) == wanted).mean())


def passkeys(length: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts whose records lie behind the first tokens and before the latest ones."""
    rng = np.random.default_rng(5)
    pairs = [passkey(rng, length, 16, 64) for _ in range(rows)]
    return np.stack([text for text, _ in pairs]), np.stack([answer for _, answer in pairs])


@pytest.mark.extended
def test_eight_times_the_training_length_is_read_by_96_tokens() -> None:
    """Where a window of as many tokens is at chance."""
    near, far = passkeys(LENGTH, 64), passkeys(8 * LENGTH, 16)
    whole = made("whole", "torch", trained=True)
    dense = at_once(whole, *near)
    assert dense >= 0.9
    for target in TARGETS:
        run = made("chat", target, trained=True, **BUDGET, chunk=CHUNK, reuse=2.0).session(sizes={"C": 8 * LENGTH + 8})
        assert answers(run, *far) >= 0.95 * dense
    window = np.concatenate([far[0][:, : BUDGET["sinks"]], far[0][:, -88:]], axis=1)
    assert at_once(whole, window, far[1]) <= 2 / CHOICES


@pytest.mark.extended
def test_what_was_chosen_last_is_taken_again() -> None:
    texts = passkeys(2 * LENGTH, 4)[0]
    hits = []
    for reuse in (0.9, 2.0):
        run = made("chat", "onnx", trained=True, **BUDGET, chunk=CHUNK, reuse=reuse).session(sizes={"C": 1056})
        run.prefill(input_ids=texts[:, :-18], lengths=np.full(4, texts.shape[1] - 18))
        for at in range(texts.shape[1] - 18, texts.shape[1]):
            run.decode(input_ids=texts[:, at : at + 1], lengths=np.ones(4, np.int64))
        hits.append(sum(int(v.sum()) for name, v in run.states().items() if name.endswith("memo.hits")))
    assert hits[0] > 0
    assert hits[1] == 0


CALL = """
use seeds.tokenselect (Slots, around, elected, in_order, read_slots)
use std.cache (KVCache)

model m(
    q: float[B, {heads}, 1, 4], k: float[B, 2, 8, 4], at: i64[B, 1, 8], end: i64[B, 1]
) -> (y: float[B, {heads}, 1, 1, 4]) {{
    keys = KVCache(k=k, v=k, length=end[:, 0], rotated={rotated})
    place = elected(q, keys, end, sinks=1, k={count}, recent=2, pool={pool})
    slots = {slots}
    return read_slots(unsqueeze(q, 3), keys, slots, unsqueeze(end, 2) - 1, end * 0, theta=100.0)
}}
"""
GOOD = {"heads": 4, "rotated": "false", "count": 3, "pool": 1, "slots": "in_order(Slots(place=at))"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"heads": 3}, "a multiple of the number of key heads"),
        ({"rotated": "true"}, "carry their rotation already"),
        ({"count": 6}, "more slots than the cache has"),
        ({"pool": 2}, "pool is odd"),
        ({"slots": "Slots(place=at)"}, "read in ascending order, each once"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ts.Diagnostic, match=message) as caught:
        ts.loads(CALL.format(**{**GOOD, **given}))
    assert caught.value.code == "E0501"


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_slots_that_come_twice_or_in_any_order_are_read_once(target: str) -> None:
    rng = np.random.default_rng(4)
    run = ts.compile(ts.loads(CALL.format(**GOOD)), target=target, verify=False)
    given = {"q": rng.normal(size=(1, 4, 1, 4)), "k": rng.normal(size=(1, 2, 8, 4)), "end": np.array([[8]])}
    given = {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in given.items()}
    lots = [[0, 1, 2, 3, 4, 5, 6, 7], [7, 3, 5, 1, 0, 2, 4, 6]]
    whole, shuffled = (run(**given, at=np.array([[lot]]))["y"] for lot in lots)
    # What lies at the slots is in their order: only that of the numbers is told here.
    np.testing.assert_array_equal(whole, shuffled)
    with pytest.raises(ts.Diagnostic, match="more slots than the cache has") as caught:
        made("chat", target, **BUDGET, chunk=CHUNK).prefill(
            input_ids=np.zeros((1, 20), np.int64), lengths=[20], sizes={"C": 64}
        )
    assert caught.value.code == "E0904"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_weights_are_those_that_training_gives() -> None:
    weights = {name: value.astype(np.float32) for name, value in train().items()}
    again = ts.compile(ts.load("tokenselect", "whole", params=SIZES), target="torch", weights=weights, verify=False)
    assert at_once(again, *passkeys(LENGTH, 64)) >= 0.9
