"""`target onnx(moe=contrib)`: ONNX Runtime's own op for mixtures of experts, exact for every router without negative weights."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

import tessera as ts
from tessera.backends.onnx import build
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.weights.bind import initialise

HEAD = """
use std.moe.experts (gated, plain)
use std.moe.route (renumbered, sparse_mixer, token_choice, without_null)
use std.nn (gelu, gelu_tanh, linear, quick_gelu, relu, silu)
model m(x: f32[N, 8]) -> (y: f32[N, 8]) {
"""
WEIGHTS = {
    "gate_up": [5, 8, 12],
    "up": [5, 8, 6],
    "down": [5, 6, 8],
    "wide": [5, 12],
    "narrow": [5, 6],
    "bias": [5],
    "out": [5, 8],
}
ROUTERS = {
    "softmax": "token_choice(logits, k=2)",
    "unshared": "token_choice(logits, k=3, renormalize=false)",
    "sigmoid": 'token_choice(logits, bias, k=2, score="sigmoid", scale=2.5)',
    "chosen": 'token_choice(logits, k=5, score="chosen")',
    "one": 'token_choice(logits, k=1, score="one")',
    "groups": "token_choice(concat(logits, logits[:, :1], axis=1), k=2, groups=3, limit=2, best=1)",
    "mixer": "sparse_mixer(logits, k=2)",
    "null": "without_null(token_choice(logits, k=3, renormalize=false), experts=4)",
    "merged": "renumbered(token_choice(logits, k=3), table=[0, 0, 1, 2, 2])",
}
EXPERTS = {
    "swiglu": "gated(x, r, gate_up, down)",
    "biased": "gated(x, r, gate_up, down, wide, out)",
    "clipped": "gated(x, r, gate_up, down, wide, out, act=quick_gelu, interleaved=true, limit=0.5, offset=1.0)",
    "relu": "plain(x, r, up, down, act=relu)",
    "gelu": "plain(x, r, up, down, narrow, out, act=gelu_tanh)",
    "silu": "plain(x, r, up, down, act=silu)",
}


def text(router: str, experts: str) -> str:
    named = set(re.findall(r"\w+", f"{router} {experts}"))
    weights = [f"param {name}: f32{shape} = normal(0.5)" for name, shape in WEIGHTS.items() if name in named]
    return "\n".join([HEAD, *weights, "logits = linear(x, out=5) as router", f"r = {router}", f"return {experts}", "}"])


def program(router: str, experts: str) -> Any:
    return loads(text(router, experts))


CASES = [(router, "swiglu") for router in ROUTERS] + [("null", experts) for experts in EXPERTS if experts != "swiglu"]


@pytest.mark.parametrize(("router", "experts"), CASES)
def test_it_is_exact(router: str, experts: str) -> None:
    """At several numbers of tokens, with tokens that have no expert at all."""
    module = program(ROUTERS[router], EXPERTS[experts])
    weights = {name: t.numpy() for name, t in initialise(module.graph, 1).items()}
    want = ts.compile(module, target="torch", weights=weights, verify=False)
    run = ts.compile(module, target="onnx", weights=weights, moe="contrib", verify=False)
    for tokens in (1, 2, 33):
        x = np.random.default_rng(tokens).standard_normal((tokens, 8)).astype(np.float32)
        np.testing.assert_allclose(run(x)["y"], want(x)["y"], rtol=1e-4, atol=1e-4)


def test_a_token_without_experts_gives_nothing() -> None:
    module = program("without_null(token_choice(logits, k=2), experts=0)", EXPERTS["swiglu"])
    run = ts.compile(module, target="onnx", moe="contrib", seed=0, verify=False)
    assert not np.asarray(run(np.ones((3, 8), np.float32))["y"]).any()


def test_it_is_one_node_and_only_where_it_was_asked_for() -> None:
    module = program(ROUTERS["softmax"], EXPERTS["swiglu"])
    for contrib, domains in ((True, {"", "com.microsoft"}), (False, {""})):
        made = onnx.load_from_string(ts.backends.onnx.serialize(build(module, contrib=contrib)))
        assert {o.domain for o in made.opset_import} == domains
        assert [n.op_type for n in made.graph.node].count("MoE") == contrib


@pytest.mark.parametrize(
    ("router", "experts", "told"),
    [
        ('token_choice(logits, k=2, score="none")', EXPERTS["swiglu"], "may be negative"),
        ("token_choice(logits, k=2, scale=-1.0)", EXPERTS["swiglu"], "may be negative"),
        (
            "without_null(token_choice(logits, k=2, renormalize=false), experts=4, scale=-2.0)",
            EXPERTS["swiglu"],
            "negative",
        ),
        (ROUTERS["softmax"], "gated(x, r, gate_up, down, act=gelu)", "no activation `gelu`"),
        (ROUTERS["softmax"], "plain(x, r, up, down, act=gelu)", "no activation `gelu`"),
    ],
)
def test_what_it_cannot_compute_is_refused(router: str, experts: str, told: str) -> None:
    module = program(router, experts)
    with pytest.raises(Diagnostic, match=told) as caught:
        build(module, contrib=True)
    assert caught.value.code == "E0811"
    assert "standard ops" in (caught.value.help or "")
    build(module)


def test_other_dtypes_are_refused() -> None:
    module = loads(text(ROUTERS["softmax"], EXPERTS["swiglu"]).replace("f32", "f64"))
    with pytest.raises(Diagnostic, match="not in f64") as caught:
        build(module, contrib=True)
    assert caught.value.code == "E0811"
