"""R2R's row: either model's text at the ends of the threshold, a cache that catches up, a router that knows where to ask."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.generate.routed import RoutedEngine

from .routing import Labels, agreement, entropy, labelled, learned, models, pair, prompts, rejoined

TARGETS = ("torch", "onnx")


@cache
def alone(part: str, target: str) -> Any:
    """One of the two models by itself, as the seed of DySpec has it."""
    sizes = {"small": {"dim": 32, "depth": 1, "heads": 2, "groups": 1}, "large": {"dim": 64, "depth": 2, "heads": 4, "groups": 2}}
    own = {name.removeprefix(f"{part}."): value for name, value in models().items() if name.startswith(part)}
    params = {"vocab": 128, **sizes[part]}
    return ts.compile(ts.load("dyspec", params=params), target=target, weights=own, verify=False).program


def written(target: str, given: list[list[int]], threshold: float, **how: Any) -> list[Any]:
    found: Any = ts.generate(pair(target, trained=True), given, threshold=threshold, **how)
    return list(found)


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("count", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_the_ends_of_the_threshold_are_the_models_own_texts(target: str, count: int) -> None:
    given = prompts(2, count)
    for threshold, part in ((0, "large"), (1, "small")):
        own: Any = ts.generate(alone(part, target), given, max_tokens=16)
        found = written(target, given, threshold, max_tokens=16, rows=4)
        assert [c.tokens for c in found] == [c.tokens for c in own]
        assert {c.asked for c in found} == {16 if part == "large" else 0}


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_side_by_side_and_one_by_one_are_the_same(target: str) -> None:
    """Prompts of different lengths, more than rows: a row that is done is taken by the next one, whose cache begins anew."""
    given = [ids[: 10 + 3 * i] for i, ids in enumerate(prompts(2, 7))]
    one = written(target, given, 0.2, max_tokens=24, rows=1)
    side = written(target, given, 0.2, max_tokens=24, rows=3)
    assert [(c.tokens, c.asked) for c in side] == [(c.tokens, c.asked) for c in one]
    assert len({c.asked for c in one}) > 1


@pytest.mark.extended
def test_backends_write_and_ask_alike() -> None:
    torch, onnx = (written(target, prompts(2, 6), 0.2, max_tokens=32) for target in TARGETS)
    assert [(c.tokens, c.asked) for c in torch] == [(c.tokens, c.asked) for c in onnx]


@pytest.mark.parametrize("target", TARGETS)
def test_a_cache_that_caught_up_is_that_of_one_pass(target: str) -> None:
    """Rows are asked for at random, each of which reads another number of tokens."""
    rng = np.random.default_rng(0)
    rows, length = 3, 24
    ids = rng.integers(0, 128, (rows, length))
    run = pair(target).session(sizes={"B": rows, "C": 2 * length}).large
    read = np.zeros(rows, int)
    while (read < length).any():
        asked = np.flatnonzero((rng.random(rows) < 0.6) & (read < length))
        if not len(asked):
            continue
        more = np.minimum(rng.integers(1, 8, len(asked)), length - read[asked])
        chunk = np.zeros((len(asked), more.max()), np.int64)
        for i, row in enumerate(asked):
            chunk[i, : more[i]] = ids[row, read[row] : read[row] + more[i]]
        scores = run(input_ids=chunk, lengths=more, row=asked)["logits"]
        read[asked] += more
        for i, row in enumerate(asked):
            whole = pair(target).large(
                input_ids=ids[row : row + 1, : read[row]], lengths=read[row : row + 1], row=[0], sizes={"B": 1, "C": 2 * length}
            )  # fmt: skip
            np.testing.assert_allclose(scores[i], whole["logits"][0], rtol=1e-5, atol=1e-5)
    states, once = run.states(), pair(target).session(sizes={"B": rows, "C": 2 * length}).large
    once(input_ids=ids, lengths=np.full(rows, length), row=np.arange(rows))
    for name, value in once.states().items():
        at = (slice(None), slice(None), slice(length)) if value.ndim == 4 else ()
        np.testing.assert_allclose(states[name][at], value[at], rtol=1e-5, atol=1e-5)


def test_how_much_is_active_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `asked` tells is how many tokens the large model was asked for."""
    calls, ask = [0], RoutedEngine._asked

    def counting(engine: RoutedEngine, rows: list[int]) -> Any:
        calls[0] += len(rows)
        return ask(engine, rows)

    monkeypatch.setattr(RoutedEngine, "_asked", counting)
    functions = pair("onnx", trained=True).program.functions
    sizes = [
        sum(int(np.prod([int(d) for d in p.type.shape])) for p in functions[entry].params.values())
        for entry in ("decode", "route", "large")
    ]
    assert sizes == [17600, 59745, 90816]
    found = written("onnx", prompts(2, 3), 0.2, max_tokens=24)
    asked, made = sum(c.asked for c in found), sum(len(c.tokens) for c in found)
    assert 0 < asked == calls[0] < made
    assert all(c.passes == len(c.tokens) - 1 for c in found)


@pytest.mark.extended
def test_the_judge_is_any_function() -> None:
    assert rejoined([1, 2, *range(10, 20)], [3, *range(10, 20), 9])
    assert not rejoined(list(range(12)), list(range(20, 32)))
    given = prompts(0, 2)
    assert labelled(given, lambda a, b: True).divergent.sum() == 0
    labels = labelled(given, lambda a, b: False)
    np.testing.assert_array_equal(labels.divergent, labels.other)


@cache
def held_back() -> Labels:
    return labelled(prompts(2, 60))


def compared(chance: np.ndarray, rate: float) -> None:
    """The router's agreement at the same share of calls is above that by entropy, and both above chance."""
    labels = held_back()
    for wrong in (labels.other, labels.divergent):
        routed = agreement(wrong, chance, rate)
        assert routed > agreement(wrong, entropy(labels.logits), rate) + 0.01
        assert routed > agreement(wrong, np.random.default_rng(0).random(len(wrong)), rate) + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_router_beats_chance_and_entropy(target: str) -> None:
    labels = held_back()
    found = pair(target, trained=True).route(hidden=labels.hidden, logits=labels.logits, token=labels.token)["chance"]
    for rate in (0.1, 0.2):
        compared(found, rate)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_routers_beat_chance_and_entropy() -> None:
    training, labels = labelled([p for part in (0, 1) for p in prompts(part, 80)]), held_back()
    for seed in range(3):
        route = ts.compile(ts.load("r2r", "route"), target="torch", weights=learned(training, seed), verify=False)
        compared(np.asarray(route(hidden=labels.hidden, logits=labels.logits, token=labels.token)["chance"]), 0.1)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, True, float("nan"), "0.5"])
def test_an_odd_threshold_is_refused(threshold: Any) -> None:
    with pytest.raises(Diagnostic, match="threshold is") as caught:
        ts.generate(pair("torch"), prompts(2, 1), threshold=threshold)
    assert caught.value.code == "E0957"


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(Diagnostic, match="no entry point `large`") as caught:
        ts.generate(alone("large", "torch"), prompts(2, 1), threshold=0.5)
    assert caught.value.code == "E0957"
    with pytest.raises(Diagnostic, match="exclude each other"):
        ts.generate(pair("torch"), prompts(2, 1), threshold=0.5, draft=alone("small", "torch"))
    with pytest.raises(Diagnostic, match="the cache holds 40") as caught:
        ts.generate(pair("torch"), prompts(2, 1), threshold=0.5, max_tokens=16, capacity=40)
    assert caught.value.code == "E0951"
    with pytest.raises(Diagnostic, match="more scores than the small model gives"):
        ts.load("r2r", "route", params={"vocab": 64})


def test_vocabularies_that_differ_are_refused() -> None:
    source = (
        "use seeds.r2r (small, large, route)\n"
        "program odd {\n    entry prefill = small as small\n    entry decode = small as small\n"
        "    entry large = large(vocab=130) as large\n    entry route = route as router\n}\n"
    )
    odd = ts.compile(ts.loads(source), target="torch", verify=False).program
    with pytest.raises(Diagnostic, match="scores 128 tokens, and the large one 130") as caught:
        ts.generate(odd, prompts(2, 1), threshold=0.5)
    assert caught.value.code == "E0957"


