"""Duo-LLM's row: gates that are dense models, an oracle that tries everything, and routers that are far from it."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any
from zlib import crc32

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.runtime.weights.bind import initialise

from .texts import corpus, fit, next_byte, weights_of, windows

TARGETS = ("torch", "onnx")
TINY = {"depth": 3, "dim": 8, "heads": 2, "positions": 16}
IDS = np.random.default_rng(0).integers(0, 256, (2, 7))
Weights = dict[str, np.ndarray]

DENSE = """
use std.attention (self_attention)
use std.nn (embedding, gelu, layer_norm, linear, position_embedding)

layer block(h: f32[B, T, D], *, hidden: int) -> f32[B, T, D] {
    param up: f32[1, D, hidden]
    param down: f32[1, hidden, D]
    return gelu(h @ up[0]) @ down[0]
}

model dense(ids: i64[B, T]) -> (logits: f32[B, T, 256]) {
    x = embedding(ids, vocab=256, dim=8) as words
    x = x + position_embedding(length=T, table=16, dim=8) as places
    repeat i in 3 as blocks {
        x = x + self_attention(layer_norm(x) as norm1, heads=2, causal=true) as attn
        FEED
    }
    return linear(layer_norm(x) as norm, out=256) as head
}
"""
FEEDS = {
    0: "",
    1: "x = x + block(layer_norm(x) as norm2, hidden=4) as small",
    2: "x = x + block(layer_norm(x) as norm2, hidden=32) as big",
}


def seed(model: str, **params: int) -> Module:
    return ts.load("duo_llm", model, params=params)


@cache
def drawn() -> Weights:
    return {
        name: np.random.default_rng(crc32(name.encode())).normal(0, 0.4, [int(d) for d in p.type.shape]).astype(np.float32)
        for name, p in seed("duo_routed", **TINY).graph.params.items()
    }


def compiled(module: Module, weights: Weights, target: str) -> Any:
    own = {name: weights[name] for name in module.graph.params}
    return ts.compile(module, target=target, weights=own, passes=[], verify=False)


def surprise(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The negative log-likelihood [B, T - 1] of each byte but the first."""
    logits = logits[:, :-1].astype(np.float64)
    highest = logits.max(-1)
    return np.log(np.exp(logits - highest[..., None]).sum(-1)) + highest - np.take_along_axis(logits, ids[:, 1:, None], 2)[..., 0]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_one_choice_everywhere_is_a_dense_model(kind: int, target: str) -> None:
    """(a)."""
    gate = np.full((3, *IDS.shape), kind)
    found = compiled(seed("duo_lm", **TINY), drawn(), target)(ids=IDS, gate=gate)["logits"]
    want = compiled(loads(DENSE.replace("FEED", FEEDS[kind])), drawn(), target)(ids=IDS)["logits"]
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_multiplied_that_was_not_chosen(target: str) -> None:
    """(c): what the big blocks hold reaches the bytes that chose them, and no others."""
    spoilt = {n: np.full_like(w, np.nan) if ".big." in n else w for n, w in drawn().items()}
    module = seed("duo_lm", **TINY)
    gate = np.random.default_rng(1).integers(0, 2, (3, *IDS.shape))
    clean, found = (compiled(module, w, target)(ids=IDS, gate=gate)["logits"] for w in (drawn(), spoilt))
    np.testing.assert_array_equal(found, clean)
    gate[2, 1, 6] = 2
    found = np.asarray(compiled(module, spoilt, target)(ids=IDS, gate=gate)["logits"])
    np.testing.assert_array_equal(np.isnan(found).any(-1), np.arange(14).reshape(2, 7) == 13)


@pytest.mark.parametrize("target", TARGETS)
def test_the_oracle_is_all_runs_one_by_one(target: str) -> None:
    """(d): byte by byte every gate is tried with those before it as they were chosen; at most one block is big."""
    module = seed("duo_lm", **TINY)
    run = compiled(module, drawn(), target)
    allowed = [p for p in product((0, 1, 2), repeat=3) if p.count(2) <= 1]
    ids = np.repeat(IDS[:1], len(allowed), axis=0)
    gate = np.zeros((3, len(allowed), 7), np.int64)
    want, least = [], []
    for t in range(6):
        gate[:, :, t] = np.array(allowed).T
        losses = surprise(run(ids=ids, gate=gate)["logits"], ids)[:, t]
        gate[:, :, t] = np.array(allowed[losses.argmin()])[:, None]
        want.append(allowed[losses.argmin()])
        least.append(losses.min())
    found = compiled(seed("duo_oracle", **TINY), drawn(), target)(ids=IDS, budget=np.array(1))
    np.testing.assert_array_equal(found["gate"][0], want)
    np.testing.assert_allclose(found["loss"][0], least, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_bad_input_is_refused(target: str) -> None:
    run = compiled(seed("duo_lm", **TINY), drawn(), target)
    for gate, code in ((np.full((3, 2, 7), 3), "E0905"), (np.full((3, 2, 7), -1), "E0905"), (np.ones((2, 2, 7), int), "E0902")):
        with pytest.raises(Diagnostic, match="gate") as caught:
            run(ids=IDS, gate=gate)
        assert caught.value.code == code
    with pytest.raises(Diagnostic, match="budget") as caught:
        compiled(seed("duo_oracle", **TINY), drawn(), target)(ids=IDS, budget=np.array(4))
    assert caught.value.code == "E0905"


def test_blocks_that_are_none_are_refused() -> None:
    for params in ({"small": 0}, {"small": 64, "big": 64}):
        with pytest.raises(Diagnostic, match="there is a small block, and a bigger one") as caught:
            seed("duo_lm", **params)
        assert caught.value.code == "E0501"
    # Labels: without a byte behind it there is nothing to be surprised by.
    with pytest.raises(Diagnostic):
        compiled(seed("duo_oracle", **TINY), drawn(), "torch")(ids=IDS[:, :0], budget=np.array(1))


# (b): Python sources --------------------------------------------------------------------------------------------------------


def trained_on_any_path(steps: int) -> Weights:
    """Stage 1: every byte takes something at random in every layer."""
    import torch

    from tessera.backends.torch import build

    net = build(seed("duo_lm"), None, trainable=True)
    text, rng = corpus("python"), np.random.default_rng(3)

    def loss_of(step: int) -> Any:
        ids = windows(text, 16, 48, rng)
        gate = rng.integers(0, 3, (6, *ids.shape))
        given = torch.as_tensor(ids)
        return next_byte(net(ids=given, gate=torch.as_tensor(gate))["logits"], given)

    fit(net, loss_of, steps, 6e-3)
    return weights_of(net)


def cost(gate: np.ndarray) -> float:
    """The mean width of what a byte takes, in the width of the features, over layers."""
    return float(np.array([0, 0.5, 4])[gate].mean())


def with_routers(weights: Weights, steps: int) -> Weights:
    """Stage 3: routers alone learn, and pay for the width that they choose."""
    import torch

    from tessera.backends.torch import build

    module = seed("duo_routed")
    start = initialise(module.graph, 5)
    net = build(module, {name: weights.get(name, start[name].numpy()) for name in module.graph.params}, trainable=True)
    for name, p in net.named_parameters():
        p.requires_grad_("router" in name)
    text, rng = corpus("python"), np.random.default_rng(4)
    width = torch.tensor([0, 0.5, 4])

    def loss_of(step: int) -> Any:
        ids = torch.as_tensor(windows(text, 16, 48, rng))
        noise = torch.as_tensor(rng.gumbel(size=(6, *ids.shape, 3)).astype(np.float32))
        made = net(ids=ids, noise=noise)
        return next_byte(made["logits"], ids) + 0.3 * torch.relu((made["share"] @ width).mean() - 1)

    fit(net, loss_of, steps, 2e-2, [p for p in net.parameters() if p.requires_grad])
    return weights_of(net)


@pytest.mark.slow
def test_one_big_block_where_it_helps_beats_big_blocks_everywhere() -> None:
    """2,000 bytes that were held back, 3 ** 6 choices for each."""
    weights = trained_on_any_path(300)
    ids = windows(corpus("python", held_back=True), 50, 41, np.random.default_rng(9))
    lm, oracle = compiled(seed("duo_lm"), weights, "onnx"), compiled(seed("duo_oracle"), weights, "onnx")
    everywhere = {kind: surprise(lm(ids=ids, gate=np.full((6, *ids.shape), kind))["logits"], ids).mean() for kind in (0, 1, 2)}
    found = {budget: oracle(ids=ids, budget=np.array(budget)) for budget in (0, 1, 2, 6)}
    loss = {budget: float(np.mean(run["loss"])) for budget, run in found.items()}
    spent = {budget: cost(run["gate"]) for budget, run in found.items()}
    # (d): what the oracle found, run as a gate.
    gate = np.concatenate([found[1]["gate"], np.zeros((50, 1, 6), np.int64)], axis=1).transpose(2, 0, 1)
    np.testing.assert_allclose(surprise(lm(ids=ids, gate=gate)["logits"], ids), found[1]["loss"], atol=1e-4)
    quiet = np.zeros((6, *ids.shape, 3), np.float32)
    routed = compiled(seed("duo_routed"), with_routers(weights, 80), "onnx")(ids=ids, noise=quiet)
    of_routers = float(surprise(routed["logits"], ids).mean())
    print("everywhere", everywhere, "oracle", loss, spent, "routers", of_routers, cost(routed["gate"]))
    assert loss[1] < everywhere[2]
    assert loss[0] >= loss[1] >= loss[2] >= loss[6]
    at_most = max(budget for budget in loss if spent[budget] <= max(cost(routed["gate"]), spent[0]))
    assert loss[at_most] <= of_routers
