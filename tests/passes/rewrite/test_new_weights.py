"""Rules whose replacement brings weights: where they lie, what they are made of, and what the model then computes."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tessera as ts
from tessera.driver.compile import apply_passes
from tessera.frontends import source
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.program import Program
from tessera.tests.programs.support import assert_close, drawn, on_every_target, same_when_printed

MOE = """
use std.nn (affine, gelu, linear, mlp, layer_norm)

layer moe(x: float[B, T, D], *, experts: int, hidden: int, active: int) -> float[B, T, D] {
    param up: float[experts, hidden, D] = normal(0.02)
    param up_bias: float[experts, hidden] = zeros
    param down: float[experts, D, hidden] = normal(0.02)
    param down_bias: float[D] = zeros
    values, index = topk(linear(x, out=experts, bias=false) as router, k=active)
    chosen = any(unsqueeze(iota(experts), 0) == unsqueeze(index, -1), axis=-2)
    h = gelu(einsum("b t d, e h d -> b t e h", x, up) + up_bias)
    return einsum("b t e h, e d h -> b t d", where(unsqueeze(chosen, -1), h, 0.0), down) + down_bias
}

rewrite approximate split_neurons(x: float[B, T, D], w1: float[H, D], b1: float[H], w2: float[D, H], b2: float[D]) {
    affine(gelu(affine(x, w1, b1)), w2, b2) => moe(x, experts=4, hidden=H // 4, active=ACTIVE) as moe where H % 4 == 0
    weights {
        "moe.up" = reshape(w1, [4, H // 4, D])
        "moe.up_bias" = reshape(b1, [4, -1])
        "moe.down" = transpose(reshape(w2, [D, 4, H // 4]), [1, 0, 2])
        "moe.down_bias" = b2
    }
}

## Every expert a copy of the MLP (sparse upcycling, Komatsuzaki et al. 2023).
rewrite approximate copies(x: float[B, T, D], w1: float[H, D], b1: float[H], w2: float[D, H], b2: float[D]) {
    affine(gelu(affine(x, w1, b1)), w2, b2) => moe(x, experts=2, hidden=H, active=1) as moe
    weights {
        "moe.up" = stack(w1, w1)
        "moe.up_bias" = stack(b1, b1)
        "moe.down" = stack(w2, w2)
        "moe.down_bias" = b2
        "moe.router.weight" = zeros
    }
}

model m(x: f32[B, T, 8], *, depth: int = 2) -> f32[B, T, 8] {
    repeat i in depth as blocks {
        x = x + mlp(layer_norm(x) as norm, hidden=12) as mlp
    }
    return x
}
"""
X = np.random.default_rng(1).standard_normal((2, 5, 8)).astype(np.float32)


def text(active: int) -> str:
    return MOE.replace("ACTIVE", str(active))


def rewritten(program: Program, rule: str) -> Program:
    return apply_passes(program, [f'rewrite(rules=["{rule}"], approximate=true)'], verify_each=True)[0]


@pytest.mark.parametrize("rule", ["split_neurons", "copies"])
def test_experts_made_of_the_weights_compute_what_the_mlp_computed(rule: str) -> None:
    program = source.loads(text(active=4))
    weights = drawn(program)
    changed = same_when_printed(rewritten(program, rule))
    assert [n for n in changed.parameters() if "moe" in n and n.endswith(".up")] == [
        "blocks.0.mlp.moe.up",
        "blocks.1.mlp.moe.up",
    ]
    assert not any("fc1" in name for name in changed.parameters())
    for target in ("torch", "onnx"):
        before = ts.compile(program, target=target, weights=weights, passes=[])(x=X)["output"]
        after = ts.compile(changed, target=target, weights=weights, passes=[])(x=X)["output"]
        assert_close(after, before, f"{rule} on {target}")


def test_two_of_four_experts_against_numpy() -> None:
    program = source.loads(text(active=2).replace("depth: int = 2", "depth: int = 1"))
    weights = drawn(program)
    changed = rewritten(program, "split_neurons")
    router = np.random.default_rng(5).standard_normal((4, 8)).astype(np.float32)
    changed.recipes.pop("blocks.0.mlp.moe.router.weight")
    mean, var = X.mean(-1, keepdims=True), X.var(-1, keepdims=True)
    normed = (X - mean) / np.sqrt(var + 1e-5) * weights["blocks.0.norm.weight"] + weights["blocks.0.norm.bias"]
    ranks = np.argsort(-(normed @ router.T), axis=-1, kind="stable")[..., :2]
    open_ = np.zeros((2, 5, 4), bool)
    np.put_along_axis(open_, ranks, True, -1)
    h = normed @ weights["blocks.0.mlp.fc1.weight"].T + weights["blocks.0.mlp.fc1.bias"]
    h = 0.5 * h * (1 + np.vectorize(math.erf)(h / np.sqrt(2)))
    h = h * np.repeat(open_, 3, axis=-1)
    expected = X + h @ weights["blocks.0.mlp.fc2.weight"].T + weights["blocks.0.mlp.fc2.bias"]
    given = {**weights, "blocks.0.mlp.moe.router.weight": router}
    for target, (found,) in on_every_target(changed, given, {"x": X}, passes=[]):
        assert_close(found["output"], expected.astype(np.float32), target)


ADAPT = """
use std.nn (affine, linear)

layer adapter(x: float[B, D]) -> float[B, D] {
    return x + linear(x, out=D) as proj
}

rewrite approximate adapt(x: float[B, D]) {
    tanh(x) => sin(adapter(x) as own)
}

model m(x: f32[B, 4]) -> f32[B, 4] {
    x = tanh(tanh(x))
    repeat i in 2 as steps {
        x = tanh(x)
    }
    return x
}
"""


def test_matches_in_one_scope_are_told_apart_by_number() -> None:
    changed = same_when_printed(rewritten(source.loads(ADAPT), "adapt"))
    assert [n for n in changed.parameters() if n.endswith("weight")] == [
        "own.proj.weight", "1.own.proj.weight", "steps.0.own.proj.weight", "steps.1.own.proj.weight",
    ]  # fmt: skip
    assert str(changed.recipes["own.proj.weight"]) == str(changed.recipes["1.own.proj.weight"])


def test_what_is_no_weight_at_a_match_does_not_match() -> None:
    program = source.loads(text(1) + """
model computed(x: f32[B, T, 8], w: f32[12, 8], v: f32[8, 12], b: f32[12], c: f32[8]) -> f32[B, T, 8] {
    return affine(gelu(affine(x, w, b)), v, c)
}
""", model="computed")  # fmt: skip
    (report,) = apply_passes(program, ['rewrite(rules=["copies"], approximate=true)'])[1]
    assert report.modified == 0


@pytest.mark.parametrize(
    ("old", "new", "code", "message"),
    [
        ('"moe.up" = stack(w1, w1)', '"moe.up" = w1', "E0615", "the recipe of `blocks.0.mlp.moe.up` gives f32[12, 8]"),
        ('"moe.up" = stack(w1, w1)', '"moe.upp" = stack(w1, w1)', "E0617", "the model has no parameter `moe.upp`"),
        ('"moe.up" = stack(w1, w1)', '"moe.up" = stack(w1, v1)', "E0614", "this is no tensor of the file"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(old: str, new: str, code: str, message: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        rewritten(source.loads(text(1).replace(old, new)), "copies")
    assert caught.value.code == code
    assert message in caught.value.message


def test_weights_that_a_match_brings_may_be_those_of_another_match() -> None:
    program = source.loads("""
use std.nn (affine, linear)

layer turned(x: float[B, D], *, out: int) -> float[B, out] {
    return linear(x, out=out) as n
}

rewrite approximate into_weights(x: float[B, D], w: float[E, D], b: float[E]) {
    neg(affine(x, w, b)) => turned(x, out=E) as own
    weights {
        "own.n.weight" = w * -1.0
        "own.n.bias" = b * -1.0
    }
}

model m(x: f32[B, 8]) -> f32[B, 4] {
    return -(-(-(linear(x, out=4) as fc)))
}
""")
    weights = drawn(program)
    changed = rewritten(program, "into_weights")
    assert len(changed.parameters()) == 2
    assert {name for recipe in changed.recipes.values() for name in recipe.names()} == set(weights)
    expected = -(X[0] @ weights["fc.weight"].T + weights["fc.bias"])
    for target, (found,) in on_every_target(changed, weights, {"x": X[0]}, passes=[]):
        assert_close(found["output"], expected, target)
