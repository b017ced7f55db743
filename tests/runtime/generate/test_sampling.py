"""How a token is drawn: against transformers, by statistics, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts
from tessera.runtime.generate.sampling import Sampling, distribution, draw, generator, pick


def published(scores: np.ndarray, sampling: Sampling, seen: list[int]) -> np.ndarray:
    """The probabilities by transformers."""
    import torch
    from transformers.generation import logits_process as rules

    ids, found = torch.tensor([seen]), torch.tensor(scores, dtype=torch.float64)[None]
    if sampling.repetition_penalty != 1:
        found = rules.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, found)
    found = rules.TemperatureLogitsWarper(float(sampling.temperature))(ids, found)
    if sampling.top_k:
        found = rules.TopKLogitsWarper(sampling.top_k)(ids, found)
    if sampling.top_p < 1:
        found = rules.TopPLogitsWarper(sampling.top_p)(ids, found)
    if sampling.min_p > 0:
        found = rules.MinPLogitsWarper(sampling.min_p)(ids, found)
    return torch.softmax(found, -1)[0].numpy()


@pytest.mark.extended
@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000), size=st.integers(2, 60), penalty=st.sampled_from([1.0, 1.3, 0.8]),
    temperature=st.floats(0.05, 3.0), top_k=st.integers(0, 70), top_p=st.floats(0.05, 1.0), min_p=st.floats(0.0, 0.5),
)  # fmt: skip
def test_probabilities_are_those_of_transformers(
    seed: int, size: int, penalty: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal(size) * 4
    seen = [int(i) for i in rng.integers(0, size, 5)]
    sampling = Sampling(penalty, temperature, top_k, top_p, min_p)
    np.testing.assert_allclose(distribution(scores, sampling, seen), published(scores, sampling, seen), atol=1e-9)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0), Sampling(temperature=0.5, top_k=5), Sampling(temperature=2.0, top_p=0.7),
        Sampling(temperature=1.0, min_p=0.2), Sampling(1.5, 0.9, 9, 0.9, 0.01),
    ],
    ids=str,
)  # fmt: skip
def test_draws_have_the_probabilities(sampling: Sampling) -> None:
    scores = np.random.default_rng(1).standard_normal(20) * 2
    p = distribution(scores, sampling, seen=[3, 4])
    rng, n = generator(7), 4_000
    found = np.bincount([pick(scores, sampling, rng, [3, 4]) for _ in range(n)], minlength=20)
    likely = p > 0
    assert not found[~likely].any()
    statistic = float((((found - n * p) ** 2)[likely] / (n * p[likely])).sum())
    # Wilson and Hilferty: the point that one in 10,000 is above.
    free = int(likely.sum()) - 1
    assert statistic < free * (1 - 2 / (9 * free) + 3.719 * (2 / (9 * free)) ** 0.5) ** 3


def test_the_best_token_is_the_first_of_equal_ones_and_draws_nothing() -> None:
    rng = generator(0)
    before = rng.bit_generator.state
    assert pick(np.array([0.0, 2.0, 2.0]), Sampling(), rng) == 1
    assert pick(np.array([0.0, 2.0, 2.0]), Sampling(), rng, allowed=np.array([True, False, True])) == 2
    assert rng.bit_generator.state == before
    np.testing.assert_array_equal(distribution(np.array([0.0, 2.0, 2.0]), Sampling()), [0, 1, 0])


def test_a_draw_at_the_edges_has_a_probability() -> None:
    p = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    assert [draw(p, u) for u in (0.0, 0.2499, 0.25, 1 - 1e-16, 1.0)] == [1, 1, 3, 3, 3]


def test_rows_of_a_seed_draw_apart_and_again_the_same() -> None:
    a, b, again = generator(5, 0).random(4), generator(5, 1).random(4), generator(5, 0).random(4)
    assert (a == again).all()
    assert not (a == b).any()


def test_rounding_gives_the_same_tokens() -> None:
    scores = np.random.default_rng(3).standard_normal((200, 1000)).astype(np.float32)
    other = scores + np.float32(1e-6) * np.random.default_rng(4).standard_normal(scores.shape).astype(np.float32)
    sampling, one, two = Sampling(temperature=1.0, top_p=0.9), generator(1), generator(1)
    assert [pick(row, sampling, one) for row in scores] == [pick(row, sampling, two) for row in other]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"top_p": 95}, "`top_p` is 95, and must be above 0 and at most 1"),
        ({"top_p": 0.0}, "`top_p` is 0.0"),
        ({"temperature": -1.0}, "`temperature` is -1.0, and must be at least 0"),
        ({"temperature": float("nan")}, "`temperature` is nan"),
        ({"temperature": "1"}, "`temperature` is '1'"),
        ({"top_k": 2.5}, "`top_k` is 2.5, and must be a whole number"),
        ({"top_k": True}, "`top_k` is True"),
        ({"min_p": 1.5}, "`min_p` is 1.5, and must be from 0 to 1"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` is 0.0, and must be above 0"),
        ({"seed": -1}, "`seed` is -1, and must be a whole number"),
    ],
)
def test_numbers_that_there_is_no_rule_of(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ts.Diagnostic, match="E0952") as caught:
        Sampling(**given)
    assert text in caught.value.message


@pytest.mark.parametrize(
    ("scores", "allowed", "text"),
    [
        ([0.0, float("nan")], None, "1 of the 2 scores that the model gives are NaN or infinite"),
        ([0.0, float("inf")], None, "1 of the 2 scores"),
        ([float("-inf")] * 2, None, "no token is left"),
        ([0.0, 1.0], [False, False], "no token is left"),
        ([0.0, 1.0], [True], "a constraint gave bool[1], and must give bool[2], one a token"),
        ([0.0, 1.0], [0.5, 0.5], "a constraint gave float64[2]"),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_token_can_be_chosen(scores: list[float], allowed: Any, text: str, temperature: float) -> None:
    with pytest.raises(ts.Diagnostic, match="E0955") as caught:
        pick(np.array(scores), Sampling(temperature=temperature), generator(0), (), None if allowed is None else np.array(allowed))
    assert text in caught.value.message
