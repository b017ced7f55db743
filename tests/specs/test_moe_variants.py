"""Routers that are more than a sort of scores: balanced by Sinkhorn's iteration, by prototypes and by centroids."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tessera.backends.torch import build
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic

Compile = Callable[..., Callable[..., dict[str, np.ndarray]]]

SINKHORN = """
use std.moe.route (loads)
use std.moe.sinkhorn (sinkhorn_choice)
model m(logits: f32[N, 6]) -> (expert: i64[N, 2], weight: f32[N, 2], load: i64[6]) {
    r = sinkhorn_choice(logits, k=2, iterations=20)
    return r.expert, r.weight, loads(r, experts=6)
}
"""


def test_sinkhorn_balances_what_scores_alone_do_not(compiled: Compile) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((240, 6)).astype(np.float32)
    logits[:, 2] += 4
    found = compiled(loads(SINKHORN))(logits=logits)
    plan = np.exp(logits.astype(np.float64))
    for _ in range(20):
        plan /= plan.sum(1, keepdims=True)
        plan *= 40 / plan.sum(0)
    want = np.argsort(-plan, axis=1, kind="stable")[:, :2]
    np.testing.assert_array_equal(found["expert"], want)
    np.testing.assert_allclose(found["weight"], 1 / (1 + np.exp(-np.take_along_axis(logits, want, 1))), atol=1e-6)
    alone = np.bincount(np.argsort(-logits, axis=1)[:, :2].ravel(), minlength=6)
    assert found["load"].max() < 120 < 235 < alone.max()


def test_gradients_reach_prototypes_and_experts_but_no_plan() -> None:
    """Of a negative weight too; a token without a class has none."""
    import torch

    text = """
    use std.moe.prototypes (prototype_scores, two_step)
    use std.moe.sinkhorn (sinkhorn_choice)
    model m(x: f32[N, 4], p: f32[3, 4], alone: bool[N]) -> (own: f32[], plan: f32[]) {
        return sum(two_step(prototype_scores(x, p), alone).weight), sum(sinkhorn_choice(x, k=1).weight)
    }
    """
    net = build(loads(text).graph, {})
    rng = np.random.default_rng(1)
    x = torch.tensor(rng.standard_normal((5, 4)).astype(np.float32), requires_grad=True)
    p = torch.tensor(-np.abs(rng.standard_normal((3, 4))).astype(np.float32), requires_grad=True)
    made = net(x=x, p=p, alone=torch.tensor([True, False, False, False, False]))
    (own,) = torch.autograd.grad(made["own"], x, retain_graph=True)
    assert not own[0].any()
    assert own[1:].any(1).all()
    (plan,) = torch.autograd.grad(made["plan"], x)
    # Of the sigmoid of the logit that was taken, and of nothing else.
    assert (plan != 0).sum(1).tolist() == [1] * 5


@pytest.mark.parametrize(
    ("use", "call", "told"),
    [
        ("sinkhorn (sinkhorn_choice)", "sinkhorn_choice(x, k=7)", "no more than there are"),
        ("sinkhorn (sinkhorn_choice)", "sinkhorn_choice(x, k=1, iterations=0)", "at least one iteration"),
        ("sinkhorn (sinkhorn_choice)", 'sinkhorn_choice(x, k=1, score="none")', "score is sigmoid or softmax"),
        ("prototypes (two_step)", "two_step(x, x[:, 0] > 0.0, k=7)", "no more than there are"),
        ("centroids (centroid_choice)", "centroid_choice(x, x[:4], k=5)", "no more than there are"),
    ],
)
def test_routers_that_cannot_be(use: str, call: str, told: str) -> None:
    text = f"use std.moe.{use}\nmodel m(x: f32[9, 6]) -> f32[9] {{ r = {call} return sum(r.weight, axis=1) }}"
    with pytest.raises(Diagnostic, match=told) as caught:
        loads(text)
    assert caught.value.code == "E0501"
