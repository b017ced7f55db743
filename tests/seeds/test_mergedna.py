"""MergeDNA: what a card asks of `seeds/mergedna`. Trained weights: `mergedna_training.py` makes them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

from .mergedna_training import KINDS, SIZES, WEIGHTS, Arrays, purity, reading, sequences, spans, start, train

TARGETS = ("torch", "onnx")
LENGTH, LEFT = 512, 256


@cache
def trained() -> Arrays:
    from safetensors.numpy import load_file

    return load_file(WEIGHTS)


@cache
def compiled(model: str, target: str, **params: Any) -> Any:
    return ts.compile(ts.load("mergedna", model=model, params={**SIZES, **params}), target=target, weights=trained(), verify=False)


def half(text: np.ndarray) -> dict[str, np.ndarray]:
    return {"bytes": text, "target": np.ones(text.shape[1] // 2, np.float32)}


@pytest.mark.parametrize("target", TARGETS)
def test_it_reads_dna_again_and_repeats_take_fewer_tokens(target: str) -> None:
    """(b) and (c), on sequences that training never saw."""
    dna = sequences(8, LENGTH, 10**6)
    found = reading(compiled("reader", target), dna)
    assert found.right >= 0.99
    assert found.spans["repeats"] >= 1.5 * found.spans["random"]
    pairs = np.tile(np.arange(LENGTH) // 2, (8, 1))
    assert found.pure > purity(pairs, LEFT, dna)
    # Pairs are as long everywhere.
    assert max(spans(pairs, LEFT, dna).values()) < 1.5 * min(spans(pairs, LEFT, dna).values())


@pytest.mark.extended
def test_untrained_it_does_neither() -> None:
    _, weights = start(0)
    fresh = {name: p.detach().numpy() for name, p in weights.items()}
    run = ts.compile(ts.load("mergedna", model="reader", params=SIZES), target="torch", weights=fresh, verify=False)
    found = reading(run, sequences(8, LENGTH, 10**6))
    assert found.right < 0.5
    assert found.spans["repeats"] < 1.25 * found.spans["random"]


@pytest.mark.parametrize("target", TARGETS)
def test_tokens_are_neighbours_and_layers_compose(target: str) -> None:
    """(a): every base is in one token, a token's bases stand together, and the layers' steps make the whole."""
    made = compiled("reader", target)(**half(sequences(4, LENGTH, 7).text))
    source, size = np.asarray(made["source"]), np.asarray(made["size"])
    assert (np.stack([np.bincount(row, minlength=LEFT) for row in source]) == size).all()
    assert np.isin(np.diff(source, axis=1), (0, 1)).all()
    assert (source[:, 0] == 0).all()
    composed = np.tile(np.arange(LENGTH), (4, 1))
    steps = [np.asarray(value) for name, value in made.items() if "step" in name]
    assert len(steps) == SIZES["depth"]
    for step in steps:
        composed = np.take_along_axis(step, composed, 1)
    assert (composed == source).all()


MERGE = """
use std.token (token_map, unmerge)
use std.token.merge (window_merge)

model m(x: f32[B, N, D]) -> (y: f32[B, N, D], source: i64[B, N]) {
    y, after = window_merge(x, token_map(batch=B, tokens=N), x, r=N // 4)
    return unmerge(y, after), after.source
}
"""


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_merging_and_coming_apart_is_a_projection(target: str) -> None:
    x = np.random.default_rng(3).standard_normal((2, 64, 4)).astype(np.float32)
    made = ts.compile(ts.loads(MERGE), target=target)(x=x)
    for row, source, y in zip(x, np.asarray(made["source"]), np.asarray(made["y"]), strict=True):
        member = (source[:, None] == np.arange(48)).astype(np.float32)
        mean = member @ (member.T / member.sum(0)[:, None])
        np.testing.assert_allclose(y, mean @ row, atol=1e-5)
        np.testing.assert_allclose(mean @ y, y, atol=1e-5)


def test_the_second_pass_teaches_the_tokenizer_nothing() -> None:
    """(d): no gradient of the local encoder in pass 2, and one of every grouping embedding in pass 1."""
    import torch

    network, weights = start(0)
    mine = {name: p for name, p in weights.items() if name.startswith("local_encoder")}
    given = {"bytes": torch.as_tensor(sequences(2, 64, 1).text), "target": torch.ones(32)}
    network.second(**given)["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in mine.values())
    assert any(p.grad is not None and p.grad.any() for p in weights.values())
    network.first(**given)["loss"].backward()
    assert sum("grouping" in name for name in mine) == SIZES["depth"]
    assert all(p.grad is not None and p.grad.any() for p in mine.values())


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_what_is_hidden_is_drawn_as_the_paper_says(target: str) -> None:
    """(e): P exact, and the K tokens that come first of arrivals at those rates, whole."""
    run = compiled("masked", target)
    noise = np.random.default_rng(5).uniform(0.01, 0.99, (2, 64)).astype(np.float32)
    given = half(sequences(2, 128, 3).text)
    made = {name: np.asarray(value) for name, value in run(**given, noise=noise).items()}
    source = np.asarray(compiled("reader", target)(**given)["source"])
    for row in range(2):
        group = made["group"][row]
        wanted = 1 / np.bincount(group)[group] ** 2.0
        np.testing.assert_allclose(made["p"][row], wanted / wanted.sum(), rtol=1e-5)
        first = np.argsort(-np.log(noise[row]) / wanted, kind="stable")[:32]
        assert (made["hidden_bases"][row] == np.isin(source[row], first)).all()


def test_targets_agree() -> None:
    given = half(sequences(2, LENGTH, 11).text)
    one, other = (compiled("reader", target)(**given) for target in TARGETS)
    np.testing.assert_allclose(other["logits"], one["logits"], atol=1e-4)
    np.testing.assert_array_equal(other["source"], one["source"])


@pytest.mark.parametrize("target", TARGETS)
def test_letters_that_are_no_bases_are_refused(target: str) -> None:
    text = sequences(1, 64, 1).text.copy()
    compiled("reader", target)(**half(np.where(text == ord("A"), ord("n"), text)))
    text[0, 9] = ord("X")
    with pytest.raises(Diagnostic) as caught:
        compiled("reader", target)(**half(text))
    assert caught.value.code == "E0912"


@pytest.mark.parametrize(
    ("letters", "left", "message"),
    [(60, 30, "the windows must cover"), (64, 8, "larger than the windows allow"), (64, 65, "at most as many tokens")],
)
def test_counts_that_do_not_fit_are_refused(letters: int, left: int, message: str) -> None:
    given = {"bytes": sequences(1, 64, 1).text[:, :letters], "target": np.ones(left, np.float32)}
    for target in TARGETS:
        with pytest.raises(Diagnostic, match=message) as caught:
            compiled("reader", target)(**given)
        assert caught.value.code == "E0904"


def test_more_latent_tokens_than_there_are_is_refused() -> None:
    with pytest.raises(Diagnostic, match="at most as many latent tokens") as caught:
        ts.load("mergedna", model="masked", params={**SIZES, "keep": 1.5})
    assert caught.value.code == "E0501"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_training_gives_such_weights() -> None:
    run = ts.compile(ts.load("mergedna", model="reader", params=SIZES), target="torch", weights=train(), verify=False)
    found = reading(run, sequences(8, LENGTH, 10**6))
    assert found.right >= 0.99
    assert found.spans["repeats"] >= 1.5 * found.spans["random"]
    assert set(found.spans) == set(KINDS)
