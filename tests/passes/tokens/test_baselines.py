"""What a merged model is judged against keeps as many tokens, runs, and drops what the seed says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.ir.analysis.cost import cost
from tessera.ir.graph import Module
from tessera.ir.verifier import verify
from tessera.passes.tokens.baselines import fixed_indices, random_dropping
from tessera.passes.tokens.stream import reductions

ENCODER = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)

model encoder(x: float[B, T, 8]) -> (y: float[B, T, 8]) {
    repeat i in 3 as blocks {
        x = x + self_attention(layer_norm(x) as n1, heads=2) as attn
        x = x + mlp(layer_norm(x) as n2, hidden=16) as mlp
    }
    return x
}
"""


@pytest.fixture(scope="module")
def plain() -> Module:
    return ts.loads(ENCODER)


def x(tokens: int = 12) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, tokens, 8)).astype(np.float32)


def run(module: Module, target: str = "onnx", seed: int = 0) -> np.ndarray:
    artifact = ts.compile(module, target=target, passes=[], verify=False)
    return np.asarray(artifact(x=x(), seed=seed)["y"])


@pytest.mark.parametrize("make", [fixed_indices, random_dropping])
@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("options", [{"r": 2}, {"keep": 0.5}], ids=str)
def test_as_many_tokens_in_every_block(plain: Module, make: Any, restore: bool, options: dict[str, Any]) -> None:
    merged = ts.apply(plain, "merge_tokens", restore=restore, **options)
    other = make(merged)
    verify(other.graph)
    assert len(list(reductions(merged.graph))) == 3
    assert not any(reductions(other.graph))
    sizes = {"B": 2, "T": 12}
    assert [b.tokens for b in cost(other.graph).at(sizes).blocks] == [
        b.tokens for b in cost(merged.graph).at(sizes).blocks
    ]
    assert run(other).shape == run(merged).shape


def test_the_seed_decides_what_is_dropped(plain: Module) -> None:
    dropping = random_dropping(ts.apply(plain, "merge_tokens", r=3))
    first, again, other = run(dropping, seed=1), run(dropping, seed=1), run(dropping, seed=2)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    np.testing.assert_allclose(first, run(dropping, "torch", seed=1), atol=1e-5)


def test_a_dropped_token_is_restored_as_the_last_kept_one_before_it(plain: Module) -> None:
    dropping = random_dropping(ts.apply(plain, "merge_tokens", r=3, restore=True, blocks=[2]))
    y = run(dropping)
    same = [[bool((row[t] == row[t - 1]).all()) for t in range(1, 12)] for row in y]
    assert [sum(row) for row in same] == [3, 3]


def test_padding_is_dropped_first_and_what_is_protected_never() -> None:
    text = ENCODER.replace(
        "x: float[B, T, 8]) -> (y: float[B, T, 8])", "x: float[B, T, 8], mask: i64[B, T]) -> (y: float[B, T, 8])"
    )
    text = text.replace("heads=2)", "mask=unsqueeze(mask != 0, [1, 2]), heads=2)")
    merged = ts.apply(ts.loads(text), "merge_tokens", r=3, protect=2, map=True, blocks=[0])
    dropping = random_dropping(merged)
    # `position` is what the baseline keeps of each token; the tap shows sizes, which are 0 at padding.
    mask = (np.arange(12) < np.array([[12], [9]])).astype(np.int64)
    artifact = ts.compile(dropping, passes=[], verify=False)
    for seed in range(5):
        sizes = artifact(x=x(), mask=mask, seed=seed)["token_size"]
        np.testing.assert_array_equal(sizes, np.ones((2, 9)))
