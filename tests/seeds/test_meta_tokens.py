"""Meta-tokens' row: nothing without them, three forms that agree, gradients, what is injected, and lists recalled from afar."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.backends.torch import build
from tessera.ir.diagnostics import Diagnostic

from .recalling import META, begun, lists, recalled
from .texts import widened

DATA = Path(__file__).parent / "data"
TARGETS = ("torch", "onnx")
SHORT, LONG = 256, (512, 768, 1024)


def made(form: str, weights: dict[str, np.ndarray], target: str = "torch", **params: Any) -> Any:
    module = ts.load("meta_tokens", "meta_lm", params={"form": form, "context": 1024, **params})
    return ts.compile(module, target=target, weights={name: weights[name] for name in module.graph.params}, verify=False)


@cache
def kept(form: str) -> dict[str, np.ndarray]:
    """Weights after the course of `recalling`, with the first seed."""
    return widened(DATA / f"meta_tokens_{form}.safetensors")


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_without_meta_tokens_it_is_the_model_without_their_attention(target: str) -> None:
    ids = np.random.default_rng(0).integers(0, META, (2, 40))
    plain = made("none", kept("masked"), target)(ids=ids)["logits"]
    for form in ("masked", "gathered"):
        found = made(form, kept("masked"), target, most=8)(ids=ids)["logits"]
        # ONNX Runtime fuses what stands before and behind the zeros in another way.
        np.testing.assert_allclose(found, plain, rtol=0, atol=0 if target == "torch" else 5e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_masked_and_gathered_are_the_same(target: str, factor: float) -> None:
    """Rows with no meta-token, with some, and with as many as there may be."""
    rng = np.random.default_rng(1)
    ids = rng.integers(0, META, (3, 48))
    ids[1, rng.choice(48, 5, replace=False)] = META
    ids[2, rng.choice(48, 12, replace=False)] = META
    masked, gathered = (made(form, kept("masked"), target, most=12, factor=factor)(ids=ids) for form in ("masked", "gathered"))
    for name in ("logits", "entropy"):
        np.testing.assert_allclose(gathered[name], masked[name], rtol=1e-5, atol=2e-5)
    assert (masked["entropy"][0][ids != META] == 0).all()


def test_the_entropy_is_that_of_the_map() -> None:
    """Of the second attention, by formula in NumPy: one block, on what the first attention and the norm give it."""
    import torch

    rng = np.random.default_rng(2)
    q, k = rng.standard_normal((2, 1, 2, 9, 4)).astype(np.float32)
    source = (
        "use seeds.meta_tokens (spread)\n"
        "model m(q: f32[B, H, T, 4], k: f32[B, H, T, 4]) -> (e: f32[B, T]) {\n    return spread(q, k)\n}\n"
    )
    found = ts.compile(ts.loads(source), target="onnx", verify=False)(q=q, k=k)["e"]
    scores = torch.as_tensor(q @ k.swapaxes(-1, -2) / 2).masked_fill(~torch.ones(9, 9).tril().bool(), -torch.inf)
    np.testing.assert_allclose(found, torch.distributions.Categorical(logits=scores).entropy().mean(1), atol=1e-5)


@pytest.mark.extended
def test_gradients_are_finite() -> None:
    """With texts that have no meta-token, whose rows see nothing, and the loss of what was injected."""
    import torch

    for share in (0.0, 0.2):
        injected = ts.compile(ts.load("meta_tokens", "meta_injected", params={"share": share}), verify=False)
        made = injected(ids=np.random.default_rng(3).integers(0, META, (2, 32)))
        net = build(ts.load("meta_tokens", "meta_lm"), begun("masked", 0), trainable=True)
        loss = build(ts.load("meta_tokens", "meta_loss"), {})
        loss(logits=net(ids=torch.as_tensor(made["ids"]))["logits"], target=torch.as_tensor(made["target"]))["loss"].backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
        met = any(p.grad is not None and p.grad.abs().sum() > 0 for name, p in net.named_parameters() if ".meta." in name)
        assert met == (share > 0)


@pytest.mark.parametrize("target", TARGETS)
def test_meta_tokens_are_injected_with_labels_and_places(target: str) -> None:
    ids = np.random.default_rng(4).integers(0, META, (3, 40))
    found = ts.compile(ts.load("meta_tokens", "meta_injected", params={"share": 0.2}), target=target, verify=False)(ids=ids, seed=5)
    mixed, place, target_of = found["ids"], found["place"], found["target"]
    assert mixed.shape == (3, 50)
    assert ((mixed == META).sum(1) == 10).all()
    for row in range(3):
        np.testing.assert_array_equal(mixed[row][mixed[row] != META], ids[row])
        np.testing.assert_array_equal(mixed[row][place[row]], ids[row])
        behind = [*mixed[row, 1:], META]
        assert target_of[row].tolist() == [-100 if token == META else token for token in behind]
    assert len({tuple(row) for row in (mixed == META)}) == 3


@pytest.mark.parametrize(
    ("model", "params", "message"),
    [
        ("meta_lm", {"meta": 80}, "no word of the vocabulary"),
        ("meta_injected", {"meta": 3}, "no word of the vocabulary"),
        ("meta_injected", {"share": 1.0}, "at least 0 and below 1"),
        ("meta_injected", {"share": -0.1}, "at least 0 and below 1"),
        ("meta_lm", {"form": "open mask"}, "form is masked"),
    ],
)
def test_what_does_not_fit_is_refused(model: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(Diagnostic, match=message):
        ts.load("meta_tokens", model, params=params)


def test_texts_and_labels_of_other_lengths_are_refused() -> None:
    injected = ts.compile(ts.load("meta_tokens", "meta_injected", params={"context": 44}), verify=False)
    assert injected(ids=np.zeros((1, 40), np.int64))["ids"].shape == (1, 44)
    with pytest.raises(Diagnostic, match="more tokens than the context"):
        injected(ids=np.zeros((1, 41), np.int64))
    loss = ts.compile(ts.load("meta_tokens", "meta_loss"), verify=False)
    with pytest.raises(Diagnostic, match="target"):
        loss(logits=np.zeros((1, 44, 81), np.float32), target=np.zeros((1, 40), np.int64))


def spread_of(artifact: Any, length: int) -> float:
    """The mean entropy at meta-tokens."""
    ids, _ = lists(16, length, np.random.default_rng(98))
    return float(artifact(ids=ids)["entropy"][0][ids == META].mean())


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_lists_are_recalled(target: str) -> None:
    """Of the length that was trained on, and with angles stretched of twice that."""
    assert recalled(made("gathered", kept("masked"), target), SHORT) > 0.97
    assert recalled(made("gathered", kept("masked"), target, factor=2.0), 512) > 0.97


@pytest.mark.extended
@pytest.mark.parametrize("length", [SHORT, *LONG])
def test_attention_is_spread_less_than_that_of_the_control(length: int) -> None:
    """The control has as many parameters, and its second attention sees every token."""
    assert spread_of(made("masked", kept("masked")), length) < spread_of(made("open", kept("open")), length)


@pytest.mark.extended
def test_the_control_recalls_as_well_where_angles_are_stretched() -> None:
    """Ten points more at twice the length were to be shown: with YaRN nothing is left to gain."""
    for form in ("masked", "open"):
        assert recalled(made(form, kept(form), factor=2.0), 512) > 0.97
