"""xAR's row: what is kept beside a mask, the whole image beside plain flow matching, digits as asked for, and slips."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module

from .texts import weights_of, widened
from .tokenflex_training import Arrays, digits
from .xar_training import NOTHING, noised, train

DATA = Path(__file__).parent / "data"
TARGETS = ("torch", "onnx")
ENTITIES: dict[str, dict[str, Any]] = {
    "token": {"entity": "cell", "x": 1, "cells": 16, "total": 16},
    "cell": {"entity": "cell", "x": 2, "cells": 4, "total": 16},
    "subsample": {"entity": "subsample", "x": 2, "cells": 4, "total": 16},
    "scale": {"entity": "scale", "x": 1, "cells": 3, "total": 21},
    "image": {"entity": "cell", "x": 4, "cells": 1, "total": 16},
}

# Flow matching of whole images, with nothing of entities in it.
PLAIN = """
use seeds.promoe (waves)
use std.attention (attention, rope)
use std.nn (embedding, linear, rms_normalize, silu, swiglu_mlp)

layer modulation(c: f32[B, 1, D], *, parts: int) -> f32[B, 1, parts * D] {
    param weight: f32[parts * D, D] = zeros
    return c @ transpose(weight, [1, 0])
}

layer attending(h: f32[B, T, D], cosine: f32[1, T, P], sine: f32[1, T, P]) -> f32[B, T, D] {
    q = rearrange(linear(h, out=D) as q, "b t (h k) -> b h t k", h=2)
    k = rearrange(linear(h, out=D) as k, "b t (h k) -> b h t k", h=2)
    v = rearrange(linear(h, out=D) as v, "b t (h k) -> b h t k", h=2)
    y = attention(rope(rms_normalize(q), cosine, sine), rope(rms_normalize(k), cosine, sine), v)
    return linear(rearrange(y, "b h t k -> b t (h k)"), out=D) as out
}

layer flow(x: f32[B, 16, 4], time: f32[B], label: i64[B]) -> f32[B, 16, 4] {
    param learned: f32[16, 40] = normal(0.02)
    c = linear(silu(linear(waves(time, dim=40), out=40) as time1), out=40) as time2
    c = silu(unsqueeze(c, 1) + unsqueeze(embedding(label, vocab=11, dim=40) as classes, 1))
    turns = 10000.0 ** (cast(iota(5), f32) * (-4.0 / 20))
    row = unsqueeze(cast(iota(16) // 4, f32), 1) * turns
    column = unsqueeze(cast(iota(16) % 4, f32), 1) * turns
    cosine = unsqueeze(cos(concat(row, column, axis=1)), 0)
    sine = unsqueeze(sin(concat(row, column, axis=1)), 0)
    h = linear(x, out=40) as embed
    h = h + learned
    repeat i in 4 as blocks {
        m = modulation(c, parts=6) as mod
        y = attending(rms_normalize(h) * (1.0 + m[..., :40]) + m[..., 40:80], cosine, sine) as attn
        h = h + m[..., 80:120] * y
        y = rms_normalize(h) * (1.0 + m[..., 120:160]) + m[..., 160:200]
        h = h + m[..., 200:] * swiglu_mlp(y, hidden=80) as mlp
    }
    m = modulation(c, parts=2) as mod
    return linear(rms_normalize(h) * (1.0 + m[..., :40]) + m[..., 40:], out=4) as out
}

model plain(image: f32[B, 8, 8], noise: f32[B, 16, 4], time: f32[B], label: i64[B])
    -> (velocity: f32[B, 16, 4], target: f32[B, 16, 4]) {
    clean = rearrange(image, "b (h p) (w q) -> b (h w) (p q)", p=2, q=2)
    t = unsqueeze(time, [1, 2])
    v = flow((1.0 - t) * clean + t * noise, time, label) as net
    return v, noise - clean
}
"""


def seed(model: str = "xar", **params: Any) -> Module:
    return ts.load("xar", model=model, params=params)


def drawn(module: Module) -> Arrays:
    return {
        name: np.random.default_rng(crc32(name.encode())).normal(0, 0.2, [int(d) for d in p.type.shape]).astype(np.float32)
        for name, p in module.graph.params.items()
    }


def compiled(module: Module, weights: Arrays, target: str) -> Any:
    return ts.compile(module, target=target, weights=weights, passes=[], verify=False)


def given(cells: int = 4, total: int = 16, count: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    made = noised(digits("test")["image"][:count, 0], digits("test")["label"][:count], rng, cells)
    made["label"] = np.where(np.arange(count) == 1, NOTHING, made["label"])
    return {**made, "noise": rng.standard_normal((count, total, 4)).astype(np.float32)}


def velocity(module: Module, weights: Arrays, target: str, inputs: dict[str, Any]) -> np.ndarray:
    return np.asarray(compiled(module, weights, target)(**inputs)["velocity"])


# (a) -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.extended
@pytest.mark.parametrize("name", ENTITIES)
@pytest.mark.parametrize("target", [*TARGETS, "triton"])
def test_what_is_kept_is_what_a_mask_shows(name: str, target: str) -> None:
    """One entity after another on what those before it left, and all of them at once."""
    params = ENTITIES[name]
    weights, inputs = drawn(seed(**params)), given(params["cells"], params["total"])
    full = velocity(seed(**params), weights, target, inputs)
    np.testing.assert_allclose(velocity(seed("xar_cached", **params), weights, target, inputs), full, rtol=0, atol=1e-5)
    np.testing.assert_allclose(full, velocity(seed(**params), weights, "torch", inputs), rtol=0, atol=1e-4)


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_no_entity_sees_what_comes_behind_it(target: str) -> None:
    weights, inputs = drawn(seed()), given()
    before = velocity(seed(), weights, target, inputs)
    noise = inputs["noise"].copy()
    noise[:, 8:12] += 1
    after = velocity(seed(), weights, target, {**inputs, "noise": noise})
    np.testing.assert_array_equal(after[:, :8], before[:, :8])
    assert all(np.abs(after[:, i : i + 4] - before[:, i : i + 4]).max() > 1e-3 for i in (8, 12))


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_context_without_noise_is_context_at_time_0(target: str) -> None:
    """An entity behind others that are clean: what sampling shows of it."""
    weights, inputs = drawn(seed()), given()
    behind = velocity(seed("xar_behind"), weights, target, {**inputs, "slip": np.zeros((3, 16, 4), np.float32)})
    for i in range(4):
        time = np.where(np.arange(4) < i, 0, inputs["time"])
        full = velocity(seed(), weights, target, {**inputs, "time": time})
        here = slice(4 * i, 4 * i + 4)
        np.testing.assert_allclose(behind[:, here], full[:, here], rtol=0, atol=1e-5)


# (b) -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_the_whole_image_is_plain_flow_matching(target: str) -> None:
    params, module = ENTITIES["image"], loads(PLAIN)
    weights, inputs = drawn(seed(**params)), given(1)
    assert {n: p.type for n, p in module.graph.params.items()} == {n: p.type for n, p in seed(**params).graph.params.items()}
    time = (inputs["time"][:, 0].astype(np.float32) / np.float32(1000)).astype(np.float32)
    found = compiled(seed(**params), weights, target)(**inputs)
    plain = compiled(module, weights, target)(**{**inputs, "time": time})
    for name in ("velocity", "target"):
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(plain[name]))


@pytest.mark.slow
def test_the_whole_image_learns_as_plain_flow_matching_does() -> None:
    """Weights after 20 steps; a gradient of modulations that are looked up is added up in another order."""
    import torch

    from tessera.backends.torch import build

    nets = [build(module, seed=3, trainable=True) for module in (seed(**ENTITIES["image"]), loads(PLAIN))]
    inputs = {name: torch.as_tensor(value) for name, value in given(1, count=16).items()}
    for net, time in zip(nets, (inputs["time"], inputs["time"][:, 0].float() / 1000), strict=True):
        optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3)
        for _ in range(20):
            made = net(**{**inputs, "time": time})
            optimizer.zero_grad()
            (made["velocity"] - made["target"]).square().mean().backward()
            optimizer.step()
    ours, plain = (weights_of(net) for net in nets)
    for name, value in ours.items():
        np.testing.assert_allclose(value, plain[name], rtol=0, atol=1e-5, err_msg=name)


# (c), (d), (e) -------------------------------------------------------------------------------------------------------------


@cache
def trained(model: str) -> Arrays:
    return widened(DATA / f"{model}.safetensors")


def images(target: str, label: np.ndarray, guidance: float, key: int = 6, **params: Any) -> np.ndarray:
    sample = compiled(seed("xar_sample", **params), trained("xar"), target)
    return np.asarray(sample(label=label, guidance=np.array(guidance, np.float32), seed=key)["image"])


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_a_key_is_an_image(target: str) -> None:
    label = np.array([3, 8])
    one = images(target, label, 2.5, steps=3)
    np.testing.assert_array_equal(images(target, label, 2.5, steps=3), one)
    assert np.abs(images(target, label, 2.5, key=7, steps=3) - one).max() > 0.1
    np.testing.assert_allclose(images("torch", label, 2.5, steps=3), one, atol=1e-4)
    # Guidance is 1 for the first cell, and more for those behind it.
    pushed = images(target, label, 5.0, steps=3)
    np.testing.assert_array_equal(pushed[:, :4, :4], one[:, :4, :4])
    assert np.abs(pushed[:, 4:] - one[:, 4:]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_digits_are_drawn_as_they_are_asked_for(target: str) -> None:
    """A logistic regression, which never saw the model, takes 200 of them for what was asked for."""
    from sklearn.linear_model import LogisticRegression

    data = digits("train")
    judge = LogisticRegression(max_iter=500).fit(data["image"].reshape(-1, 64), data["label"])
    label = np.arange(200) % 10
    right = {push: float((judge.predict(images(target, label, push).reshape(-1, 64)) == label).mean()) for push in (1.0, 2.5)}
    print("right", right)
    assert right[1.0] >= 0.9
    assert right[2.5] >= 0.95


def losses(weights: Arrays, slips: tuple[float, ...]) -> dict[float, float]:
    """The mean squared error of velocities of digits held back, behind context that is off by so much, which nothing tells."""
    run = compiled(seed("xar_behind"), weights, "onnx")
    held, rng = digits("test"), np.random.default_rng(5)
    inputs = noised(held["image"][:, 0], held["label"], rng)
    off = rng.standard_normal((len(held["label"]), 16, 4)).astype(np.float32)
    found = {}
    for slip in slips:
        made = run(**inputs, slip=off * np.float32(slip))
        # The first entity has no context.
        found[slip] = float(np.square(made["velocity"] - made["target"])[:, 4:].mean())
    return found


@pytest.mark.extended
def test_noise_in_the_context_while_training_forgives_slips() -> None:
    noisy, clean = (losses(trained(model), (0.0, 0.1, 0.3)) for model in ("xar", "xar_behind"))
    print("noisy", noisy, "clean", clean)
    for slip in (0.1, 0.3):
        # More than twice in what is added, and in what it is multiplied by.
        assert clean[slip] - clean[0.0] >= 2 * (noisy[slip] - noisy[0.0])
        assert clean[slip] / clean[0.0] - 1 >= 2 * (noisy[slip] / noisy[0.0] - 1)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["xar", "xar_behind"])
def test_training_learns_what_the_weights_know(model: str) -> None:
    """A fifth of the steps, from another seed: most of the way from 1.5, where it begins, to the weights that are kept.

    Where no noise is in the context more steps gain nothing on digits that are held back.
    """
    assert losses(train(model, 400, seed=1), (0.0,))[0.0] < 0.6


# Bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [pytest.param("torch", marks=pytest.mark.extended), "onnx"])
@pytest.mark.parametrize(
    ("name", "value"), [("label", [11]), ("label", [-1]), ("time", [[0, 1001, 0, 0]]), ("time", [[0, 0, -1, 0]])]
)
def test_numbers_of_no_row_are_refused(name: str, value: list[Any], target: str) -> None:
    inputs = {**given(count=1), name: np.array(value)}
    with pytest.raises(Diagnostic, match=name) as caught:
        velocity(seed(), drawn(seed()), target, inputs)
    assert caught.value.code == "E0905"


@pytest.mark.extended
@pytest.mark.parametrize(
    ("model", "params", "said"),
    [
        ("xar", {"x": 3}, "does not divide into such entities"),
        ("xar_sample", {"entity": "subsample", "x": 3}, "does not divide into such entities"),
        ("xar_sample", {"entity": "scale", "x": 1, "size": 12}, "no doubling of the first scale"),
        ("xar", {"entity": "row"}, "entity is cell, subsample or scale"),
        ("xar", {"cells": 5}, "how many entities there are"),
        ("xar_cached", {"cells": 3}, "how many entities there are"),
        ("xar_behind", {"cells": 3}, "how many entities there are"),
        ("xar", {"dim": 12}, "each in pairs"),
        ("xar_sample", {"steps": 1}, "at least one step with noise"),
        ("xar_sample", {"least": 1.0}, "between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(model: str, params: dict[str, Any], said: str) -> None:
    with pytest.raises(Diagnostic, match=said) as caught:
        seed(model, **params)
    assert caught.value.code == "E0501"


TWICE = """
use seeds.xar (commit, velocity)

model twice(x: f32[B, 4, 4], time: i64[B, 1], label: i64[B]) -> f32[B, 4, 4] {
    net = velocity(entity="cell", x=2, side=4, dim=8, depth=1, heads=2) as net
    v, made = net(x, time, label)
    kept = commit(kept=[], made=made, cell=0, tokens=4)
    MORE
    return v
}
"""


@pytest.mark.parametrize(
    "more",
    [
        "kept = commit(kept=kept, made=made, cell=0, tokens=4)",
        "v, made = net(x, time, label, first=2, kept=kept)\n    kept = commit(kept=kept, made=made, cell=2, tokens=8)",
    ],
)
def test_an_entity_is_kept_once_and_in_order(more: str) -> None:
    with pytest.raises(Diagnostic, match="this entity was kept before, or one before it was not") as caught:
        loads(TWICE.replace("MORE", more))
    assert caught.value.code == "E0501"
