"""ProMoE's row: two steps of routing beside loops, negative weights included, and digits that are drawn when they are asked for."""

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

from .texts import fit, weights_of

TARGETS = ("torch", "onnx")
TINY = {"dim": 12, "depth": 2}
NOTHING = 10
Weights = dict[str, np.ndarray]

LAYER = """
use seeds.promoe (mixture)
model m(x: f32[B, 16, 8], alone: bool[B]) -> (y: f32[B, 16, 8], loss: f32[], expert: i64[B, 16], weight: f32[B, 16]) {{
    return mixture(x, alone, experts=6, k=2, hidden=5, choice="{choice}")
}}
"""


def seed(model: str = "promoe", **params: Any) -> Module:
    return ts.load("promoe", model, params=params)


def drawn(module: Module, std: float = 0.4) -> Weights:
    return {
        name: np.random.default_rng(crc32(name.encode())).normal(0, std, [int(d) for d in p.type.shape]).astype(np.float32)
        for name, p in module.graph.params.items()
    }


def run(module: Module, weights: Weights, target: str, seed: int = 0, **inputs: Any) -> dict[str, np.ndarray]:
    made = ts.compile(module, target=target, weights=weights, passes=[], verify=False)(**inputs, seed=seed)
    return {name: np.asarray(value) for name, value in made.items()}


def layer(choice: str) -> Module:
    return loads(LAYER.format(choice=choice))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def gate(x: np.ndarray, gate_up: np.ndarray, down: np.ndarray) -> np.ndarray:
    g, u = np.split(x @ gate_up, 2, axis=-1)
    return (g / (1 + np.exp(-g)) * u) @ down


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("choice", ["token", "expert"])
def test_both_choices_are_a_loop(choice: str, target: str) -> None:
    """(a), (d): of three images, one without a class."""
    module = layer(choice)
    w = drawn(module)
    x = np.random.default_rng(1).standard_normal((3, 16, 8)).astype(np.float32)
    alone = np.array([False, True, False])
    found = run(module, w, target, x=x, alone=alone)
    scores = unit(x) @ unit(w["prototypes"]).T
    gate_up, down = w["experts.gate_up"], w["experts.down"]
    shared = [w[f"shared.{n}_proj.weight"].T for n in ("gate", "up", "down")]
    want = gate(x, np.concatenate(shared[:2], axis=1), shared[2])
    for b in range(3):
        if alone[b]:
            want[b] += gate(x[b], gate_up[6], down[6])
        elif choice == "token":
            for t, e in enumerate(scores[b].argmax(-1)):
                want[b, t] += scores[b, t, e] * gate(x[b, t], gate_up[e], down[e])
        else:
            for e in range(6):
                for t in np.argsort(-scores[b, :, e], kind="stable")[: 16 * 2 // 6]:
                    want[b, t] += scores[b, t, e] * gate(x[b, t], gate_up[e], down[e])
    np.testing.assert_allclose(found["y"], want, rtol=1e-4, atol=1e-5)
    assert (found["expert"][1] == 6).all()
    assert (found["weight"][1] == 1).all()
    assert (found["expert"][[0, 2]] < 6).all()
    np.testing.assert_allclose(found["weight"][0], scores[0].max(-1), atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_weights_may_be_negative_and_tokens_nothing(target: str) -> None:
    """A token unlike every prototype has a negative weight; one of zeros has weight 0, not 0 / 0."""
    module = layer("token")
    w = drawn(module)
    w["prototypes"] = np.abs(w["prototypes"])
    x = -np.abs(np.random.default_rng(2).standard_normal((1, 16, 8))).astype(np.float32)
    x[0, 3] = 0
    found = run(module, w, target, x=x, alone=np.array([False]))
    assert (np.delete(found["weight"][0], 3) < 0).all()
    assert found["weight"][0, 3] == 0
    assert np.isfinite(found["y"]).all()
    assert np.isfinite(found["loss"])


@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_sees_no_token_without_a_class(target: str) -> None:
    """And is 0 where fewer than two experts have any."""
    module = layer("token")
    w = drawn(module)
    rng = np.random.default_rng(3)
    x, other = rng.standard_normal((2, 2, 16, 8)).astype(np.float32)
    other[0] = x[0]
    alone = np.array([False, True])
    one, same = (run(module, w, target, x=v, alone=alone)["loss"] for v in (x, other))
    np.testing.assert_allclose(one, same, rtol=1e-6)
    assert one > 0.1
    assert run(module, w, target, x=x, alone=np.array([True, True]))["loss"] == 0
    w["prototypes"][1:] = -w["prototypes"][:1]
    x[0] = np.abs(rng.standard_normal((16, 1))) * w["prototypes"][0]
    assert run(module, w, target, x=x, alone=alone)["loss"] == 0


@pytest.mark.parametrize("choice", ["token", "expert"])
def test_targets_agree_about_images(choice: str) -> None:
    module = seed("promoe_sample", steps=3, choice=choice, k=1 if choice == "token" else 2, **TINY)
    weights = drawn(module, 0.2)
    given = {"label": np.array([3, NOTHING, 7]), "guidance": np.array(1.5, np.float32)}
    one, other = (run(module, weights, target, 4, **given)["image"] for target in TARGETS)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    # Without guidance what no class makes has no say; where no class is asked for guidance has none.
    more = run(module, weights, "onnx", 4, **{**given, "guidance": np.array(3, np.float32)})["image"]
    np.testing.assert_allclose(more[1], one[1], rtol=1e-4, atol=1e-4)
    assert np.abs(more[0] - one[0]).max() > 1e-3


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("label", [-1, 11])
def test_a_label_of_no_class_is_refused(label: int, target: str) -> None:
    module = seed("promoe", **TINY)
    nothing = {"image": np.zeros((1, 8, 8), np.float32), "time": np.zeros(1, np.float32)}
    with pytest.raises(Diagnostic, match="label") as caught:
        run(module, drawn(module), target, label=np.array([label]), **nothing)
    assert caught.value.code == "E0905"


def test_bad_options_are_refused() -> None:
    for params, said in (
        ({"choice": "expert", "experts": 20}, "an expert takes at least one token"),
        ({"choice": "expert", "k": 13}, "an expert takes more tokens than there are"),
        ({"choice": "both"}, "choice is token or expert"),
    ):
        with pytest.raises(Diagnostic, match=said) as caught:
            seed(**params)
        assert caught.value.code == "E0501"


def test_weights_that_may_be_negative_do_not_go_to_an_op_of_a_softmax() -> None:
    """ONNX Runtime's own op weighs by a softmax: on request it is refused by name, and standard ops compute the seed."""
    module = seed("promoe", **TINY)
    for moe in ("contrib", "contrib_int8"):
        with pytest.raises(Diagnostic, match="may be negative") as caught:
            ts.compile(module, target="onnx", weights=drawn(module), passes=[], verify=False, moe=moe)
        assert caught.value.code == "E0811"


# Trained on digits ----------------------------------------------------------------------------------------------------------


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 8, 8] from -1 to 1, and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images.astype(np.float32) / 8 - 1, data.target


def trained(contrast: float, steps: int) -> tuple[Weights, list[float]]:
    """The weights, and the contrastive loss of each step."""
    import torch

    from tessera.backends.torch import build

    net = build(seed(), None, seed=1, trainable=True)
    images, labels = digits()
    rng = np.random.default_rng(5)
    seen = []

    def loss_of(step: int) -> Any:
        rows = rng.integers(0, len(labels), 64)
        data, noise = torch.as_tensor(images[rows]), torch.as_tensor(rng.standard_normal((64, 8, 8)).astype(np.float32))
        time = torch.as_tensor((1 / (1 + np.exp(-rng.standard_normal(64)))).astype(np.float32))
        label = torch.as_tensor(np.where(rng.random(64) < 0.1, NOTHING, labels[rows]))
        at = time[:, None, None]
        made = net(image=at * data + (1 - at) * noise, time=time, label=label)
        seen.append(float(made["contrast"].detach()))
        return (made["velocity"] - (data - noise)).square().mean() + contrast * made["contrast"]

    fit(net, loss_of, steps, 4e-3)
    return weights_of(net), seen


def as_asked(weights: Weights, guidance: float) -> float:
    """The share of 200 images that a logistic regression, which never saw the model, takes for the class that was asked for."""
    from sklearn.linear_model import LogisticRegression

    images, labels = digits()
    judge = LogisticRegression(max_iter=500).fit(images.reshape(-1, 64), labels)
    label = np.arange(200) % 10
    made = run(seed("promoe_sample"), weights, "onnx", 6, label=label, guidance=np.array(guidance, np.float32))["image"]
    return float((judge.predict(made.reshape(-1, 64)) == label).mean())


def experts_used(weights: Weights) -> int:
    """How many experts have more than half of an even share of the tokens of real digits, half way from noise."""
    images, labels = digits()
    noise = np.random.default_rng(7).standard_normal(images.shape).astype(np.float32)
    half = np.full(len(labels), 0.5, np.float32)
    expert = run(seed(), weights, "onnx", image=(images + noise) / 2, time=half, label=labels)["expert"]
    return int((np.bincount(expert.ravel(), minlength=12) > expert.size / 24).sum())


@pytest.mark.slow
def test_digits_are_drawn_as_they_are_asked_for() -> None:
    """(b), (c), (e)."""
    weights, contrast = trained(1.0, 700)
    alone, _ = trained(0.0, 700)
    right, unguided, without = as_asked(weights, 2.5), as_asked(weights, 1.0), as_asked(alone, 2.5)
    used, used_alone = experts_used(weights), experts_used(alone)
    print("contrast", contrast[0], np.mean(contrast[-50:]), "right", right, unguided, without, "used", used, used_alone)
    # Of 48 features prototypes at random are already further apart than the temperature: it begins well below ln(12).
    assert np.mean(contrast[-50:]) < 0.1 * contrast[0]
    assert right >= 0.8
    assert right > unguided
    assert used_alone < used or without < right
