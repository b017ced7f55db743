"""`target onnx(moe=contrib)`: ONNX Runtime's own op for mixtures of experts, exact for every router without negative weights."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

import tessera as ts
from tessera.backends.onnx import build, serialize
from tessera.backends.onnx.rounded import as_rounded
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.weights.bind import bind, initialise

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


# The op at 8 and 4 bits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("router", "experts"), [("sigmoid", "swiglu"), ("null", "clipped"), ("null", "gelu")])
def test_rounded_matrices_are_exact_for_what_they_were_rounded_to(router: str, experts: str, bits: int) -> None:
    """And near to what they were; the check of an artifact, with `verify`, knows of it."""
    module = program(ROUTERS[router], EXPERTS[experts])
    weights = {name: t.numpy() for name, t in initialise(module.graph, 1).items()}
    held = as_rounded(module, bind(module.graph, weights, recipes=module.recipes), bits)
    near = {name: t.numpy() for name, t in held.items()}
    want, bare = (ts.compile(module, target="torch", weights=w, verify=False) for w in (near, weights))
    run = ts.compile(module, target="onnx", weights=weights, moe=f"contrib_int{bits}")
    for tokens in (1, 2, 33):
        x = np.random.default_rng(tokens).standard_normal((tokens, 8)).astype(np.float32)
        found = run(x)["y"]
        np.testing.assert_allclose(found, want(x)["y"], rtol=1e-4, atol=1e-4)
        assert np.abs(found - bare(x)["y"]).max() <= (0.02 if bits == 8 else 0.4) * np.abs(bare(x)["y"]).max()


@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_matrices_have_so_many_bits(bits: int) -> None:
    made = onnx.load_from_string(serialize(build(program(ROUTERS["softmax"], EXPERTS["swiglu"]), contrib=True, bits=bits)))
    assert [n.op_type for n in made.graph.node].count("QMoE") == 1
    held = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    assert held[f"gate_up.u{bits}"].nbytes == 5 * 8 * 12 * bits // 8
    assert held[f"down.u{bits}"].nbytes == 5 * 6 * 8 * bits // 8
    assert not {"gate_up", "down"} & set(held)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[5, 6, 8]", "[5, 7, 8]", "7 numbers of 4 bits make no whole bytes"),
        ("f32", "f16", "it computes in f32"),
        ("gated(x, r, gate_up,", "gated(x, r, gate_up * 2.0,", "computed when the model runs"),
    ],
)
def test_what_cannot_be_rounded_is_refused(old: str, new: str, told: str) -> None:
    source = text(ROUTERS["softmax"], EXPERTS["swiglu"]).replace("[5, 8, 12]", "[5, 8, 14]" if "7" in new else "[5, 8, 12]")
    module = loads(source.replace(old, new))
    with pytest.raises(Diagnostic, match=told) as caught:
        build(module, contrib=True, bits=4)
    assert caught.value.code == "E0811"


def test_a_token_without_experts_gives_nothing() -> None:
    module = program("without_null(token_choice(logits, k=2), experts=0)", EXPERTS["swiglu"])
    run = ts.compile(module, target="onnx", moe="contrib", seed=0, verify=False)
    assert not np.asarray(run(np.ones((3, 8), np.float32))["y"]).any()


def test_it_is_one_node_and_only_where_it_was_asked_for() -> None:
    module = program(ROUTERS["softmax"], EXPERTS["swiglu"])
    for contrib, domains in ((True, {"", "com.microsoft"}), (False, {""})):
        made = onnx.load_from_string(serialize(build(module, contrib=contrib)))
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
