"""Fidelity: measures of known value, what each output is taken for, and what is not compared."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tessera.driver.report.fidelity import compare, kind_of


def one(name: str, ours: list, theirs: list, **feeds: list) -> dict[str, float]:
    a, b = np.array(ours, np.float32), np.array(theirs, np.float32)
    arrays = {k: np.array(v) for k, v in feeds.items()}
    return compare([arrays], [{name: b}], {"c": [[{name: a}]]})[0].rows["c"]


def test_equal_outputs() -> None:
    row = one("logits", [[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]])
    assert row == pytest.approx({"cosine": 1.0, "worst_cosine": 1.0, "relative_error": 0.0, "top1": 1.0, "kl": 0.0})


def test_measures_by_hand() -> None:
    row = one("logits", [[0.0, math.log(3.0)], [3.0, 4.0]], [[0.0, 0.0], [4.0, 3.0]])
    # Row 0: KL(1/2, 1/2 | 1/4, 3/4); row 1: the softmaxes of (4, 3) and of (3, 4).
    p = 1 / (1 + math.e)
    second = (1 - 2 * p) * 1.0
    first = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert row["kl"] == pytest.approx((first + second) / 2, abs=1e-6)
    assert row["top1"] == 0.0
    assert row["cosine"] == pytest.approx((0.0 + 24 / 25) / 2)
    assert row["worst_cosine"] == 0.0
    assert row["relative_error"] == pytest.approx(math.sqrt((math.log(3) ** 2 + 2) / 25))


def test_probabilities_are_not_taken_for_logits() -> None:
    row = one("probabilities", [[0.25, 0.75]], [[0.5, 0.5]])
    assert row["kl"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "rank", "scores"),
    [
        ("logits", 3, True), ("class_scores", 2, True), ("embedding", 2, False), ("last_hidden_state", 3, False),
        ("pooler_output", 2, False), ("linear_24", 2, True), ("output", 3, False),
    ],
)  # fmt: skip
def test_what_an_output_is_taken_for(name: str, rank: int, scores: bool) -> None:
    assert kind_of(name, np.full((2,) * rank, 0.9)).scores is scores


def test_rows_of_unit_length_are_embeddings() -> None:
    assert kind_of("div_1", np.array([[0.6, -0.8]])).why == "taken for features, because its rows are of length 1"


def test_features_get_no_top1() -> None:
    assert set(one("embedding", [[1.0, 2.0]], [[2.0, 1.0]])) == {"cosine", "worst_cosine", "relative_error"}


def test_padding_does_not_count() -> None:
    theirs = [[[1.0, 0.0], [5.0, 5.0]]]
    ours = [[[1.0, 0.0], [-9.0, 3.0]]]
    assert one("hidden", ours, theirs, attention_mask=[[1, 0]])["cosine"] == 1.0
    assert one("hidden", ours, theirs, attention_mask=[[1, 1]])["cosine"] < 0.5


def test_means_run_over_examples_and_runs() -> None:
    original = [{"y": np.array([[1.0, 0.0]])}] * 2
    right, wrong = {"y": np.array([[2.0, 0.0]])}, {"y": np.array([[0.0, 1.0]])}
    found = compare([{}, {}], original, {"c": [[right, right], [right, wrong]]})[0]
    assert found.rows["c"]["cosine"] == 0.75


def test_tokens_that_left_are_not_compared_and_it_says_why() -> None:
    found = compare([{}], [{"hidden": np.ones((1, 8, 2))}], {"c": [[{"hidden": np.ones((1, 5, 2))}]]})[0]
    assert not found.rows
    assert found.skipped["c"] == "its shape became [1, 5, 2], from [1, 8, 2]"


def test_outputs_of_other_names_go_by_place() -> None:
    found = compare([{}], [{"a": np.ones((1, 2))}], {"c": [[{"b": np.ones((1, 2))}]], "none": [[{}]]})[0]
    assert found.rows["c"]["cosine"] == pytest.approx(1.0)
    assert found.skipped["none"] == "it has no such output"


def test_integers_are_no_fidelity() -> None:
    assert compare([{}], [{"ids": np.ones((1, 2), np.int64)}], {}) == []


def test_zeros() -> None:
    row = one("features", [[0.0, 0.0]], [[0.0, 0.0]])
    assert (row["cosine"], row["relative_error"]) == (1.0, 0.0)


def test_probabilities_that_miss_one_a_little() -> None:
    row = one("probabilities", [[0.26, 0.78]], [[0.5, 0.5]])
    assert row["kl"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)


def test_scores_of_pixels_are_along_the_classes() -> None:
    theirs = np.zeros((1, 3, 2, 2))
    theirs[:, 1] = 4.0
    ours = theirs.copy()
    ours[:, :, 0, 0] = [9.0, 0.0, 0.0]  # one of four pixels
    row = one("logits", ours.tolist(), theirs.tolist())
    assert row["top1"] == 0.75
    assert row["cosine"] == 0.75


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ([[math.nan, 1.0]], [[1.0, 1.0]], "it has infinite numbers, or ones that are none"),
        ([[1.0, 1.0]], [[math.inf, 1.0]], "the original has infinite numbers, or ones that are none"),
        ([[]], [[]], "it is empty"),
    ],
)
def test_what_has_no_fidelity(ours: list, theirs: list, reason: str) -> None:
    found = compare([{}], [{"logits": np.array(theirs)}], {"c": [[{"logits": np.array(ours)}]]})[0]
    assert (found.rows, found.skipped) == ({}, {"c": reason})
