"""Routers and experts against loops in NumPy: ways to score, ties, tokens and experts without the other, negative weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tessera.backends.torch import build
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic

Compile = Callable[..., Callable[..., dict[str, np.ndarray]]]
Agrees = Callable[..., None]

N, E, D, F = 13, 6, 8, 5
RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((N, E)).astype(np.float32)
# Rows of equal scores: the lowest numbers win.
LOGITS[3], LOGITS[4, 2:5] = 0.5, 2.0


def best(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def chosen(
    logits: np.ndarray, k: int, score: str = "softmax", renormalize: bool = True, bias: np.ndarray | None = None,
    groups: int = 1, limit: int = 1, n: int = 2, scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """As transformers and DeepSeek write it."""
    p = {"softmax": softmax(logits), "sigmoid": 1 / (1 + np.exp(-logits)), "chosen": logits, "none": logits}[score]
    choice = p if bias is None else p + bias
    if limit < groups:
        together = choice.reshape(len(p), groups, -1)
        good = -np.sort(-together, axis=2)[:, :, :n].sum(2)
        allowed = (best(good, limit)[:, :, None] == np.arange(groups)).any(1)
        choice = np.where(allowed[:, :, None], together, -np.inf).reshape(p.shape)
    expert = best(choice, k)
    weight = np.take_along_axis(p, expert, 1)
    if score == "chosen":
        return expert, softmax(weight) * scale
    if renormalize:
        weight = weight / weight.sum(1, keepdims=True)
    return expert, weight * scale


ROUTE = """
use std.moe.route (token_choice)
model m(logits: f32[N, 6], bias: f32[6]) -> (expert: i64[N, {k}], weight: f32[N, {k}]) {{
    r = token_choice(logits{given}, k={k}, {options})
    return r.expert, r.weight
}}
"""


@pytest.mark.parametrize(
    "options",
    [
        {}, {"renormalize": False}, {"score": "sigmoid"}, {"score": "sigmoid", "bias": True, "scale": 2.5}, {"score": "chosen"},
        {"score": "none", "renormalize": False}, {"score": "sigmoid", "bias": True, "groups": 3, "limit": 2},
        {"groups": 2, "limit": 1, "n": 1},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("k", [1, 2])
def test_a_token_chooses_its_experts(compiled: Compile, options: dict[str, Any], k: int) -> None:
    bias = RNG.standard_normal(E).astype(np.float32)
    own = dict(options)
    given = own.pop("bias", False)
    want = chosen(LOGITS, k, **own, bias=bias if given else None)
    written = {"best" if name == "n" else name: value for name, value in own.items()}
    shown = ", ".join(f"{n}={str(v).lower() if isinstance(v, bool) else repr(v)}" for n, v in written.items()).replace("'", '"')
    text = ROUTE.format(k=k, options=shown, given=", bias" if given else "").replace(", )", ")")
    found = compiled(loads(text))(logits=LOGITS, bias=bias)
    np.testing.assert_array_equal(found["expert"], want[0])
    np.testing.assert_allclose(found["weight"], want[1], atol=1e-6)


def test_null_experts_compute_nothing(compiled: Compile) -> None:
    """The true ones that are left add up to 1; a token with none has no weight, and no number that is one's."""
    text = """
    use std.moe.route (Routes, without_null)
    model m(expert: i64[N, 3], weight: f32[N, 3]) -> (true_expert: i64[N, 3], share: f32[N, 3]) {
        r = without_null(Routes(expert=expert, weight=weight), experts=4)
        return r.expert, r.weight
    }
    """
    expert = np.array([[0, 3, 5], [4, 5, 6], [1, 2, 3], [7, 0, 4]])
    weight = np.array([[0.5, 0.25, 0.25], [0.4, 0.4, 0.2], [0.5, 0.3, 0.2], [0.9, 0.1, 0.0]], np.float32)
    found = compiled(loads(text))(expert=expert, weight=weight)
    np.testing.assert_array_equal(found["true_expert"], [[0, 3, 4], [4, 4, 4], [1, 2, 3], [4, 0, 4]])
    np.testing.assert_allclose(found["share"], [[2 / 3, 1 / 3, 0], [0, 0, 0], [0.5, 0.3, 0.2], [0, 1, 0]], atol=1e-6)


def test_experts_choose_their_tokens(agrees: Agrees) -> None:
    scores = np.random.default_rng(1).standard_normal((2, 9, 4)).astype(np.float32)
    scores[0, :, 2] = 1.0
    token = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :3].transpose(0, 2, 1), axis=2)
    weight = np.take_along_axis(scores.transpose(0, 2, 1), token, 2)
    agrees("std.moe.route.expert_choice", "expert_choice(scores, k=3)", token, weight, scores=scores)


MIXTURE = """
use std.moe.route (Routes, loads)
use std.moe.experts (gated, plain)
use std.nn (relu)
model m(x: f32[N, 8], expert: i64[N, K], weight: f32[N, K], gate_up: f32[6, 8, 10], up: f32[6, 8, 5], down: f32[6, 5, 8])
    -> (gated: f32[N, 8], plain: f32[N, 8], load: i64[6]) {
    r = Routes(expert=expert, weight=weight)
    return gated(x, r, gate_up, down), plain(x, r, up, down, act=relu), loads(r, experts=6)
}
"""


@pytest.mark.parametrize("tokens", [1, 2, N, 64])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("who", ["any", "one expert", "nobody", "some none"])
def test_experts_are_a_loop_over_pairs(compiled: Compile, tokens: int, k: int, who: str) -> None:
    rng = np.random.default_rng(tokens * k)
    x = rng.standard_normal((tokens, D)).astype(np.float32)
    gate_up, up, down = (rng.standard_normal(s).astype(np.float32) for s in ((E, D, 2 * F), (E, D, F), (E, F, D)))
    high = {"any": E, "one expert": 3, "nobody": E + 2, "some none": E + 3}[who]
    expert = rng.integers({"one expert": 2, "nobody": E}.get(who, 0), high, (tokens, k))
    # Weights may be negative, and need not add up to 1.
    weight = rng.standard_normal((tokens, k)).astype(np.float32)
    want = np.zeros((2, tokens, D), np.float32)
    load = np.zeros(E, np.int64)
    for t in range(tokens):
        for e, w in zip(expert[t], weight[t], strict=True):
            if e < E:
                load[e] += 1
                gate, value = np.split(x[t] @ gate_up[e], 2)
                want[0, t] += w * ((gate / (1 + np.exp(-gate)) * value) @ down[e])
                want[1, t] += w * (np.maximum(x[t] @ up[e], 0) @ down[e])
    found = compiled(loads(MIXTURE))(x=x, expert=expert, weight=weight, gate_up=gate_up, up=up, down=down)
    np.testing.assert_allclose(found["gated"], want[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["plain"], want[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found["load"], load)
    alone = (expert >= E).all(1)
    assert not found["gated"][alone].any(), "a token without experts gets exactly nothing"


def test_gradients_flow_through_dispatch_and_combine() -> None:
    """To tokens, weights of the router and every expert that was used; not to one that was not."""
    model = build(loads(MIXTURE).graph, {})
    rng = np.random.default_rng(3)
    inputs = {
        name: torch.tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True)
        for name, shape in (("x", (7, D)), ("weight", (7, 2)), ("gate_up", (E, D, 2 * F)), ("up", (E, D, F)), ("down", (E, F, D)))
    }
    expert = torch.tensor(rng.integers(0, 4, (7, 2)))
    model(expert=expert, **inputs)["gated"].square().sum().backward()
    got = {name: torch.as_tensor(value.grad) for name, value in inputs.items() if name != "up"}
    again = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    total = torch.zeros(())
    for t in range(7):
        y = torch.zeros(D)
        for e, w in zip(expert[t], again["weight"][t], strict=True):
            gate, value = (again["x"][t] @ again["gate_up"][e]).chunk(2)
            y = y + w * ((torch.nn.functional.silu(gate) * value) @ again["down"][e])
        total = total + y.square().sum()
    total.backward()
    for name, grad in got.items():
        torch.testing.assert_close(grad, again[name].grad, rtol=1e-4, atol=1e-4)
    assert not got["down"][4:].any()


LOSSES = """
use std.moe.route (Routes, balanced_bias, loads)
use std.moe.losses (balance, balance_of, null_balance, routing_contrastive)
model m(logits: f32[N, 6], expert: i64[N, 2], load: i64[6], x: f32[N, 8], prototypes: f32[6, 8], bias: f32[6])
    -> (even: f32[], whole: f32[], null: f32[], contrast: f32[], next: f32[6]) {
    r = Routes(expert=expert, weight=full([N, 2], 1.0, dtype=f32))
    return balance(logits, r), balance_of(logits, load), null_balance(logits, r, experts=4),
        routing_contrastive(x, expert[:, 0], prototypes, temperature=0.5), balanced_bias(bias, load, rate=0.1)
}
"""


def test_losses_of_routers(compiled: Compile) -> None:
    rng = np.random.default_rng(4)
    expert = rng.integers(0, 5, (N, 2))
    load = rng.integers(0, 20, E)
    x, prototypes = (rng.standard_normal(s).astype(np.float32) for s in ((N, D), (E, D)))
    bias = rng.standard_normal(E).astype(np.float32)
    found = compiled(loads(LOSSES))(logits=LOGITS, expert=expert, load=load, x=x, prototypes=prototypes, bias=bias)
    f, p = np.bincount(expert.ravel(), minlength=E) / expert.size, softmax(LOGITS).mean(0)
    assert found["even"] == pytest.approx(E * (f * p).sum(), rel=1e-5)
    assert found["whole"] == pytest.approx(E * (load / load.sum() * p).sum(), rel=1e-5)
    averaged = np.concatenate([f[:4], np.full(2, f[4:].mean())])
    assert found["null"] == pytest.approx(E * (averaged * p).sum(), rel=1e-5)
    np.testing.assert_allclose(found["next"], bias + 0.1 * np.sign(load.mean() - load), atol=1e-6)
    used = np.unique(expert[:, 0])
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in
            (np.stack([x[expert[:, 0] == e].mean(0) for e in used]), prototypes[used])]  # fmt: skip
    scores = unit[1] @ unit[0].T / 0.5
    assert found["contrast"] == pytest.approx((np.log(np.exp(scores).sum(1)) - np.diag(scores)).mean(), rel=1e-4)


def test_the_null_balance_does_not_care_which_null_expert_it_was(compiled: Compile) -> None:
    expert = np.random.default_rng(5).integers(0, E, (N, 2))
    swapped = np.where(expert >= 4, 9 - expert, expert)
    rest = {"load": np.ones(E, np.int64), "x": np.ones((N, D), np.float32), "prototypes": np.ones((E, D), np.float32),
            "bias": np.zeros(E, np.float32)}  # fmt: skip
    run = compiled(loads(LOSSES))
    one, other = (run(logits=LOGITS, expert=e, **rest) for e in (expert, swapped))
    np.testing.assert_allclose(one["null"], other["null"], rtol=1e-6)
    # All tokens at one expert: there is nothing to contrast, and no NaN.
    assert run(logits=LOGITS, expert=np.zeros_like(expert), **rest)["contrast"] == 0


def test_local_losses_with_the_global_load_are_the_loss_of_the_whole_batch() -> None:
    """The sum over ranks of the local loss is exact, in value and gradient; that of local loads is not (Qiu et al. 2025)."""
    text = """
    use std.moe.losses (balance_of)
    model m(logits: f64[N, 6], load: i64[6]) -> f64[] { return balance_of(logits, load) }
    """
    model = build(loads(text).graph, {})
    logits = torch.tensor(np.random.default_rng(6).standard_normal((4, 8, E)))
    loads_ = torch.stack([torch.bincount(rank.topk(2).indices.ravel() % (i + 3), minlength=E) for i, rank in enumerate(logits)])

    def gradient(parts: Any, counts: Any) -> tuple[float, torch.Tensor]:
        given = logits.clone().requires_grad_()
        loss = sum(model(logits=given[p].reshape(-1, E), load=c)["output"] for p, c in zip(parts, counts, strict=True)) / len(parts)
        loss.backward()
        assert given.grad is not None
        return float(loss.detach()), given.grad

    whole = gradient([slice(None)], [loads_.sum(0)])
    ranks = gradient(range(4), [loads_.sum(0)] * 4)
    local = gradient(range(4), list(loads_))
    assert ranks[0] == pytest.approx(whole[0], abs=1e-12)
    torch.testing.assert_close(ranks[1], whole[1], rtol=0, atol=1e-12)
    assert abs(local[0] - whole[0]) > 1e-3


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("token_choice(x, k=7)", "no more than there are"),
        ("token_choice(x, k=0)", "at least one expert"),
        ('token_choice(x, k=2, score="relu")', "score is softmax"),
        ("token_choice(x, k=2, groups=4, limit=2)", "groups of one size"),
        ("token_choice(x, k=2, groups=3, limit=4)", "no more than there are"),
        ("token_choice(x, k=2, groups=6, limit=2)", "`best` of them"),
    ],
)
def test_routers_that_cannot_be(call: str, told: str) -> None:
    body = f"r = {call}\n    return sum(r.weight, axis=1)"
    text = f"use std.moe.route (token_choice)\nmodel m(x: f32[N, 6]) -> f32[N] {{\n    {body}\n}}"
    with pytest.raises(Diagnostic, match=told) as caught:
        loads(text)
    assert caught.value.code == "E0501"
