"""AdaMoE's row: null experts that cost nothing, beside a loop, ONNX Runtime's own op and a model that was trained without."""

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

from .texts import corpus, fit, next_byte, weights_of, windows

TARGETS = ("torch", "onnx")
TINY = {"dim": 16, "hidden": 8, "heads": 2, "positions": 16}
IDS = np.random.default_rng(0).integers(0, 256, (3, 11))

PARENT = """
use std.attention (self_attention)
use std.moe.experts (mixture)
use std.nn (embedding, layer_norm, linear, position_embedding)

model parent(ids: i64[B, T], *, dim: int, hidden: int, heads: int, positions: int, k: int = 2) -> (logits: float[B, T, 256]) {
    x = embedding(ids, vocab=256, dim=dim) as words
    x = x + position_embedding(length=T, table=positions, dim=dim) as places
    repeat i in 2 as blocks {
        x = x + self_attention(layer_norm(x) as norm1, heads=heads, causal=true) as attn
        x = x + mixture(layer_norm(x) as norm2, experts=8, k=k, hidden=hidden) as moe
    }
    return linear(layer_norm(x) as norm, out=256) as head
}
"""

EXPERTS = """
use std.moe.experts (dispatch, gated)
use std.moe.route (token_choice, without_null)
model m(x: f32[N, 8], logits: f32[N, 10], gate_up: f32[6, 8, 10], down: f32[6, 5, 8])
    -> (y: f32[N, 8], expert: i64[N, 3], weight: f32[N, 3], ends: i64[6]) {
    r = without_null(token_choice(logits, k=3, renormalize=false), experts=6)
    rows, ends, inverse = dispatch(x, r, experts=6)
    return gated(x, r, gate_up, down), r.expert, r.weight, ends
}
"""


def seed(**params: Any) -> Module:
    return ts.load("adamoe", params=params)


def drawn(module: Module, std: float = 0.3) -> dict[str, np.ndarray]:
    """Weights by name, the same ones wherever a name occurs."""
    return {
        name: np.random.default_rng(crc32(name.encode())).normal(0, std, [int(d) for d in p.type.shape]).astype(np.float32)
        for name, p in module.graph.params.items()
    }


def run(module: Module, weights: dict[str, np.ndarray], target: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    made = ts.compile(module, target=target, weights=weights, passes=[], verify=False)(**inputs)
    return {name: np.asarray(value) for name, value in made.items()}


def with_null_rows(weights: dict[str, np.ndarray], null: int) -> dict[str, np.ndarray]:
    """The parent's weights for a model with null experts, whose rows of the router repeat the true ones (as for Mixtral)."""
    return {n: np.concatenate([w, w[np.arange(null) % len(w)]]) if n.endswith("gate.weight") else w for n, w in weights.items()}


@pytest.mark.parametrize("target", TARGETS)
def test_without_null_experts_it_is_the_model_that_it_came_from(target: str) -> None:
    """(a): bit by bit; and with as many null experts as true ones and twice the k it begins where that one was."""
    parent = loads(PARENT, params=TINY)
    weights = drawn(parent)
    want = run(parent, weights, target, ids=IDS)["logits"]
    same = run(seed(null=0, k=2, **TINY), weights, target, ids=IDS)
    np.testing.assert_array_equal(same["logits"], want)
    assert (same["true_experts"] == 2).all()
    grown = run(seed(null=8, k=4, **TINY), with_null_rows(weights, 8), target, ids=IDS)
    np.testing.assert_allclose(grown["logits"], want, atol=1e-5)
    assert (grown["true_experts"] == 2).all()


@pytest.mark.parametrize("target", TARGETS)
def test_the_pass_gives_a_trained_model_null_experts(target: str) -> None:
    """What `add_null_experts` makes of the parent, with the parent's weights, is this model."""
    parent = loads(PARENT, params=TINY)
    weights = drawn(parent)
    for params, options in (({"null": 0, "k": 2}, {"m": 0}), ({"null": 5, "k": 3}, {"m": 5, "k": 3})):
        grown = run(ts.apply(parent, "add_null_experts", **options), weights, target, ids=IDS)["logits"]
        own = run(seed(**params, **TINY), with_null_rows(weights, params["null"]), target, ids=IDS)["logits"]
        np.testing.assert_array_equal(grown, own)
    with pytest.raises(Diagnostic, match="at least 0"):
        ts.apply(parent, "add_null_experts", m=-1)
    with pytest.raises(Diagnostic, match="a token takes at most 13"):
        ts.apply(parent, "add_null_experts", m=5, k=14)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@cache
def routed(target: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Operands and results of EXPERTS for 40 tokens, of which the first four take null experts alone."""
    rng = np.random.default_rng(1)
    shapes = {"x": (40, 8), "logits": (40, 10), "gate_up": (6, 8, 10), "down": (6, 5, 8)}
    given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    given["logits"][:4, 6:] += 9
    return given, run(loads(EXPERTS), {}, target, **given)


@pytest.mark.parametrize("target", TARGETS)
def test_only_true_pairs_are_multiplied(target: str) -> None:
    """(c): a loop over pairs; the rows that experts have end where the true pairs do; nothing for a token without any."""
    given, found = routed(target)
    order = np.argsort(-given["logits"], axis=1, kind="stable")[:, :3]
    p = np.exp(given["logits"])
    want = np.zeros((40, 8))
    for t, chosen in enumerate(order):
        true_ones = [e for e in chosen if e < 6]
        for e in true_ones:
            gate, up = np.split(given["x"][t] @ given["gate_up"][e], 2)
            want[t] += p[t, e] / p[t, true_ones].sum() * ((silu(gate) * up) @ given["down"][e])
    np.testing.assert_allclose(found["y"], want, atol=2e-5)
    np.testing.assert_array_equal(found["ends"], np.cumsum(np.bincount(order[order < 6], minlength=6)))
    assert found["ends"][-1] < 40 * 3
    assert not found["y"][:4].any()
    assert not found["weight"][:4].any()


def test_onnx_runtimes_own_op_gives_the_same() -> None:
    """(c): com.microsoft.MoE takes one k and no true or null: log-weights, nothing elsewhere, and the sum of weights behind it."""
    import onnx
    import onnxruntime as ort

    given, found = routed("onnx")
    dense = np.full((40, 6), -1e30, np.float32)
    rows, slots = np.nonzero(found["expert"] < 6)
    dense[rows, found["expert"][rows, slots]] = np.log(found["weight"][rows, slots])
    fc1 = given["gate_up"].reshape(6, 8, 2, 5).transpose(0, 3, 2, 1).reshape(6, 10, 8)
    tensors = {"x": given["x"], "router": dense, "fc1": fc1, "fc2": given["down"].transpose(0, 2, 1)}
    node = onnx.helper.make_node(
        "MoE", ["x", "router", "fc1", "", "fc2"], ["y"], domain="com.microsoft", k=3, activation_type="swiglu",
        swiglu_fusion=1, normalize_routing_weights=1, activation_alpha=1.0, activation_beta=0.0,
    )  # fmt: skip
    ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, v.shape) for n, v in tensors.items()]
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [40, 8])
    imports = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "moe", ports, [out]), opset_imports=imports, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y = session.run(None, {name: np.ascontiguousarray(value) for name, value in tensors.items()})[0]
    np.testing.assert_allclose(y * found["weight"].sum(1, keepdims=True), found["y"], rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_null_experts_need_no_balance_among_themselves(target: str) -> None:
    """(d): whichever null expert a token took, the loss is the same, where the share of each is its own it is not."""
    text = """
    use std.moe.losses (balance, null_balance)
    use std.moe.route (Routes)
    model m(logits: f32[N, 10], expert: i64[N, 3]) -> (averaged: f32[], own: f32[]) {
        r = Routes(expert=expert, weight=full([N, 3], 1.0, dtype=f32))
        return null_balance(logits, r, experts=6), balance(logits, r)
    }
    """
    rng = np.random.default_rng(2)
    logits, expert = rng.standard_normal((40, 10)).astype(np.float32), rng.integers(0, 10, (40, 3))
    named = np.concatenate([np.arange(6), 6 + rng.permutation(4)])
    one, other = (run(loads(text), {}, target, logits=logits, expert=e) for e in (expert, named[expert]))
    np.testing.assert_allclose(one["averaged"], other["averaged"], rtol=1e-6)
    assert abs(one["own"] - other["own"]) > 1e-4


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"null": -1}, "there are no fewer than 0 null experts"),
        ({"k": 17}, "no more than there are"),
        ({"k": 0}, "at least one expert"),
        ({"experts": 0}, "true experts come first"),
    ],
)
def test_bad_options_are_refused(params: dict[str, int], said: str) -> None:
    with pytest.raises(Diagnostic, match=said) as caught:
        seed(**params)
    assert caught.value.code == "E0501"


def test_a_router_of_another_width_is_refused() -> None:
    weights = drawn(seed(null=0, k=2, **TINY))
    with pytest.raises(Diagnostic, match=r"gate\.weight") as caught:
        run(seed(**TINY), weights, "torch", ids=IDS)
    assert caught.value.code == "E0606"
    text = """
    use std.moe.route (token_choice)
    model m(x: f32[N, 8], bias: f32[6]) -> i64[N, 2] { r = token_choice(x, bias, k=2) return r.expert }
    """
    with pytest.raises(Diagnostic) as caught:
        loads(text)
    assert caught.value.code == "E0302"


# (b): a model of Python sources, and null experts that it is given when it is trained -----------------------------------------


SMALL = {"dim": 32, "hidden": 32, "heads": 2, "positions": 64}


def held_out(module: Module, weights: dict[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray], np.ndarray]:
    ids = windows(corpus("python", held_back=True), 128, 64, np.random.default_rng(9))
    found = run(module, weights, "onnx", ids=ids)
    logits = found["logits"][:, :-1].astype(np.float64)
    own = np.take_along_axis(logits, ids[:, 1:, None], 2)[..., 0]
    return float((np.log(np.exp(logits).sum(-1)) - own).mean()), found, ids


def trained(module: Module, weights: dict[str, np.ndarray] | None, steps: int, coefficient: float, rate: float) -> Any:
    import torch

    from tessera.backends.torch import build

    text, rng = corpus("python"), np.random.default_rng(3)
    net = build(module, weights, trainable=True)

    def loss_of(step: int) -> Any:
        ids = torch.as_tensor(windows(text, 16, 64, rng))
        made = net(ids=ids)
        return next_byte(made["logits"], ids) + coefficient * made["balance"]

    fit(net, loss_of, steps, rate)
    return weights_of(net)


@pytest.mark.slow
def test_tokens_get_as_many_experts_as_they_are_worth() -> None:
    parent, child = seed(null=0, k=2, **SMALL), seed(null=8, k=4, **SMALL)
    before = trained(parent, None, 400, 0.01, 6e-3)
    longer = trained(parent, before, 150, 0.01, 3e-3)
    after = trained(child, with_null_rows(before, 8), 150, 0.1, 3e-3)
    loss, _, _ = held_out(parent, longer)
    fewer, found, ids = held_out(child, after)
    count = found["true_experts"]
    blank = np.isin(ids, np.frombuffer(b" \n\t", np.uint8))
    word = (ids == ord("_")) | ((ids >= 48) & (ids <= 57)) | (((ids | 32) >= 97) & ((ids | 32) <= 122))
    print(loss, fewer, count.mean(), count.std(), count[:, blank].mean(), count[:, word].mean())
    assert count.mean() < 2
    assert fewer <= 1.01 * loss
    assert count.std() > 0.3
    assert abs(count[:, blank].mean() - count[:, word].mean()) > 0.05
