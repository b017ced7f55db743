"""How ONNX files sort rows by expert: against the body, wherever the numbers of experts come from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import tessera as ts
from tessera.backends.onnx import build, serialize
from tessera.frontends.source import loads
from tessera.runtime.weights.bind import initialise

HEAD = """
use std.moe.experts (gated, plain)
use std.moe.route (Routes, token_choice, without_null)
use std.nn (linear)
model m(x: f32[N, 8], expert: i64[N, {k}]) -> (y: f32[N, 8]) {{
    param up: f32[4, 8, 6] = normal(0.5)
    param down: f32[4, 6, 8] = normal(0.5)
    param bias: f32[4, 8] = normal(0.5)
    logits = linear(x, out=6) as gate
    {lines}
    return plain(x, r, up, down, down_bias=bias, act=tanh)
}}
"""
ONES = "Routes(expert={}, weight=full([N, {{k}}], 0.5, dtype=f32))"
# Numbers that are given, sorted (the first result of a top-k, whose second are places), of all experts, and of null ones.
ROUTES = {
    "given": f"r = {ONES.format('expert')}",
    "sorted": f"best, place = topk(expert, k={{k}})\n r = {ONES.format('best')}",
    "chosen": "r = token_choice(logits[:, :4], k={k})",
    "beyond": "r = token_choice(logits, k={k})",
    "null": "r = without_null(token_choice(logits, k={k}, renormalize=false), experts=4)",
}
NUMBERS = {
    "any": lambda shape: np.random.default_rng(0).integers(0, 7, shape),
    "one": lambda shape: np.full(shape, 2),
    "none": lambda shape: np.full(shape, 4),
    "far": lambda shape: np.full(shape, 2**40),
}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("routes", ROUTES)
def test_rows_go_where_the_body_sends_them(routes: str, k: int) -> None:
    module = loads(HEAD.format(k=k, lines=ROUTES[routes].format(k=k)))
    weights = {name: t.numpy() for name, t in initialise(module.graph, 1).items()}
    want = ts.compile(module, target="torch", weights=weights, verify=False)
    run = ts.compile(module, target="onnx", weights=weights, verify=False)
    for numbers in NUMBERS if routes in ("given", "sorted") else ["any"]:
        for rows in (1, 2, 17):
            x = np.random.default_rng(rows).standard_normal((rows, 8)).astype(np.float32)
            feeds = {"x": x, "expert": NUMBERS[numbers]((rows, k))}
            np.testing.assert_allclose(run(**feeds)["y"], want(**feeds)["y"], rtol=1e-4, atol=1e-5, err_msg=numbers)


@pytest.mark.parametrize(("routes", "rest"), [("chosen", False), ("beyond", True), ("null", True), ("sorted", True)])
def test_rows_are_left_over_only_where_a_router_may_name_no_expert(routes: str, rest: bool) -> None:
    made = onnx.load_from_string(serialize(build(loads(HEAD.format(k=2, lines=ROUTES[routes].format(k=2))))))
    groups = {len(node.output) for node in made.graph.node if node.op_type == "Split"}
    assert groups == {4 + rest}
