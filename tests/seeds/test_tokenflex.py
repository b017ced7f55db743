"""TokenFLEX: what a card asks of `seeds/tokenflex`. Trained weights: `tokenflex_training.py` makes them."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic

from .tokenflex_training import CHANCES, SIDES, WEIGHTS, accuracy, digits, drawn_sides, train

POOL = """
use std.vision (pool_matrix)

model pool(x: f32[G, G], side: f32[n]) -> (y: f32[n, G]) {
    return pool_matrix(source=G, target=n) @ x
}
"""
TARGETS = ("torch", "onnx")


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_pooling_by_matrix_is_adaptive_pooling(target: str) -> None:
    """Every window of every size up to 32, divisible or not."""
    import torch

    run = ts.compile(loads(POOL), target=target)
    for size in range(1, 33):
        x = torch.randint(-8, 9, (size, size), generator=torch.Generator().manual_seed(size)).float()
        for n in range(1, size + 1):
            wanted = torch.nn.functional.adaptive_avg_pool1d(x.T[None], n)[0].T
            found = np.asarray(run(x=x.numpy(), side=np.ones(n, np.float32))["y"])
            # The same windows of whole numbers: what is left is the rounding of one division.
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=2e-6)


def test_one_file_serves_all_counts(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    program = ts.load("tokenflex", model="tokenflex")
    ts.compile(program, target="onnx", weights=load_file(WEIGHTS)).save(tmp_path / "flex.onnx")
    run, plain = ts.open(tmp_path / "flex.onnx"), ts.compile(program, target="torch", weights=load_file(WEIGHTS), verify=False)
    image = digits("test")["image"][:8]
    for side in (1, *SIDES):
        given = {"image": image, "side": np.ones(side, np.float32)}
        np.testing.assert_allclose(run(given)["logits"], plain(**given)["logits"], atol=1e-5)
    with pytest.raises(Diagnostic, match="at most as many tokens a side") as caught:
        run({"image": image, "side": np.ones(5, np.float32)})
    assert caught.value.code == "E0904"
    with pytest.raises(Diagnostic, match="must be at least 1") as caught:
        run({"image": image, "side": np.ones(0, np.float32)})
    assert caught.value.code == "E0902"


def test_counts_come_from_a_key() -> None:
    """600 draws: as likely as they should be, and the same ones again."""
    draw = ts.compile(ts.load("tokenflex", model="draw_side"), target="onnx")
    sides = [int(draw(seed=key)["side"]) for key in range(600)]
    assert sides[:50] == [int(draw(seed=key)["side"]) for key in range(50)]
    tokens, expected = np.square(sides), float(np.dot(CHANCES, np.square(SIDES)))
    deviation = float(np.sqrt(np.dot(CHANCES, (np.square(SIDES) - expected) ** 2) / len(sides)))
    assert abs(tokens.mean() - expected) < 3 * deviation
    # 28 % fewer than always the most.
    assert 1 - expected / max(SIDES) ** 2 == pytest.approx(0.28, abs=0.01)


PROJECTOR = """
use seeds.tokenflex (flexible_projector)

model m(x: f32[B, {tokens}, 4]) -> (y: f32[B, {n} * {n}, 4]) {{
    return flexible_projector(x, n={n}, out=4, hidden=8{more}) as projector
}}
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": 12, "n": 2, "more": ""}, "these tokens are no square"),
        ({"tokens": 12, "n": 4, "more": ", rows=3, columns=4"}, "at most as many tokens a side"),
        ({"tokens": 12, "n": 2, "more": ", rows=5, columns=4"}, "must be all tokens"),
        ({"tokens": 16, "n": 0, "more": ""}, "at most as many tokens a side"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(Diagnostic, match=message) as caught:
        loads(PROJECTOR.format(**given))
    assert caught.value.code == "E0501"


@pytest.mark.parametrize(
    ("model", "params", "message"),
    [
        ("draw_side", {"chances": [0.2, 0.3, 0.4]}, "chances add up to 1"),
        ("draw_side", {"chances": [0.5, 0.5]}, "a chance for each count"),
        ("tokenflex", {"patch": 3}, "whole patches"),
    ],
)
def test_what_does_not_fit_is_refused(model: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(Diagnostic, match=message) as caught:
        ts.load("tokenflex", model=model, params=params)
    assert caught.value.code == "E0501"


def test_pictures_that_are_no_square_work_when_told() -> None:
    run = ts.compile(loads(PROJECTOR.format(tokens=12, n=2, more=", rows=3, columns=4")), target="torch")
    assert np.asarray(run(x=np.ones((2, 12, 4), np.float32))["y"]).shape == (2, 4, 4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_model_for_all_counts_is_worth_it() -> None:
    """Over five seeds, at as many steps: much better at the smallest count than a model that knows only the largest, and within a
    point of that at its own."""
    least, most = min(SIDES), max(SIDES)
    rows = []
    for seed in range(5):
        flexible, fixed = train(drawn_sides(seed), seed), train(repeat(most), seed)
        rows.append([accuracy(flexible, least), accuracy(fixed, least), accuracy(flexible, most), accuracy(fixed, most)])
    flexible_least, fixed_least, flexible_most, fixed_most = np.mean(rows, axis=0)
    assert flexible_least >= fixed_least + 0.03
    assert flexible_most >= fixed_most - 0.01


@pytest.mark.slow
def test_the_weights_are_those_that_training_gives() -> None:
    from safetensors.numpy import load_file

    again, kept = train(drawn_sides(0), 0), load_file(WEIGHTS)
    assert again.keys() == kept.keys()
    for side in SIDES:
        assert abs(accuracy(again, side) - accuracy(kept, side)) <= 0.01
