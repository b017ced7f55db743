"""The laws of every shipped method in one table: budgets, maps, batches, two passes in a row, gradients, ties on both targets.

Padding is in :mod:`.test_padded_rows`, for every method as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads, print_module
from tessera.ir.graph import Module
from tessera.passes.engine import apply
from tessera.passes.tokens.method import methods

from ...differential.test_composites import BACKENDS, ROWS, SCALES, Row, call, operands
from ..conftest import weights_of
from .test_methods import USES

# A class token and a picture of 6 x 4; what is compared with is a prompt of three tokens.
N, BATCH = 25, 3
MODEL = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)

model m(x: f32[B, 25, 8], prompt: f32[B, 3, 8]) -> (all: f32[B, 25, 8], read: f32[B, 8], asked: f32[B, 3, 8]) {
    repeat i in 2 as blocks {
        x = x + self_attention(layer_norm(x) as n1, heads=2) as attn
        x = x + mlp(layer_norm(x) as n2, hidden=16) as mlp
    }
    return x, x[:, 0], prompt
}
"""
# No pass computes what it weighs spans by: the program does (tests/specs/test_ragged.py, tests/seeds/test_token_merging_code.py).
IN_PROGRAMS = {"span_softmax"}
NAMES = sorted(set(USES) & set(methods()) - IN_PROGRAMS)
# What leaves is said once, for all of them: by a grid, by the spans there are.
ONCE = {"adaptive_pool", "grid_merge", "span_first", "span_mean", "superpixels"}
TARGETS = ("torch", "onnx")


def reduced(name: str, **changes: Any) -> Module:
    kind, options = USES[name]
    return apply(loads(MODEL), kind, method=name, map=True, **{**options, **changes})[0]


def feeds_of(module: Module, x: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    batch = len(x)
    spans = np.tile(np.minimum(np.arange(N), 22), (batch, 1))
    made = {"x": x, "prompt": rng.standard_normal((batch, 3, 8)).astype(np.float32), "spans": spans}
    for value in module.graph.inputs:
        if value.role == "random":
            # The same draw for each row, so that a row is what it is by itself.
            made[value.name] = np.tile(rng.random((1, N)).astype(np.float32), (batch, 1))
    return {value.name: made[value.name] for value in module.graph.inputs}


def out(module: Module, feeds: dict[str, np.ndarray], target: str) -> dict[str, np.ndarray]:
    made = ts.compile(module, target=target, passes=[], weights=weights_of(loads(MODEL)), verify=False)
    return {key: np.asarray(value) for key, value in made(**feeds).items()}


def tokens(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((BATCH, N, 8)).astype(np.float32)


def left(name: str) -> int:
    _, options = USES[name]
    if "clusters" in options:
        return 1 + int(np.prod(options["clusters"]))
    return options["k"] if "k" in options else N - options["r"] * (1 if "blocks" in options else 2)


@pytest.mark.extended
@pytest.mark.parametrize("name", NAMES)
def test_maps_keep_their_laws_on_both_targets(name: str) -> None:
    """As many are left as was said; every token is part of one that is left, each of which stands for itself; sizes add up."""
    module = reduced(name)
    assert loads(print_module(module)).difference(module) is None
    feeds = feeds_of(module, tokens(1))
    one, other = (out(module, feeds, target) for target in TARGETS)
    np.testing.assert_array_equal(one["token_source"], other["token_source"])
    np.testing.assert_array_equal(one["token_size"], other["token_size"])
    np.testing.assert_allclose(one["all"], other["all"], atol=2e-4)
    source, size = one["token_source"], one["token_size"]
    assert size.shape == (BATCH, left(name))
    for row in range(BATCH):
        counted = np.bincount(source[row], minlength=left(name))
        assert (counted >= 1).all()
        if size[row].sum() == N:
            np.testing.assert_array_equal(size[row], counted)
        else:
            # Dropped ones are in no size.
            assert (size[row] <= counted).all()
            assert (size[row] == 1).all()


@pytest.mark.extended
@pytest.mark.parametrize("name", sorted(ops[0].qualified for ops in methods().values()))
def test_ties_are_decided_alike(name: str) -> None:
    """What a method is given is of few numbers, so that most scores occur several times: every index is the same."""
    for row in ROWS.get(name, (Row(),)):
        graph = call(name, row, "f32")
        runs = [BACKENDS[target](graph) for target in TARGETS]
        for seed in range(4):
            rng = np.random.default_rng(seed)
            sizes = SCALES["odd" if "odd" in row.scales else "large"]
            feed = operands(graph, row, sizes, rng)
            for key, value in feed.items():
                if value.dtype == np.float32 and value.ndim > 2 and "row" not in key:
                    # Features of one coordinate each, whose cosines are -1, 0 or 1.
                    where = rng.integers(0, 3, (*value.shape[:-1], 1)) == np.arange(value.shape[-1])
                    feed[key] = np.float32(rng.choice([-1, 1], value.shape)) * where
                elif value.dtype == np.float32:
                    # Sizes, weights and draws: few numbers, which sums and products hold exactly.
                    feed[key] = rng.integers(1, 4, value.shape).astype(np.float32) / 4
            one, other = (run(feed) for run in runs)
            for a, b in zip(one, other, strict=True):
                if np.asarray(a).dtype.kind in "iu":
                    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=f"{row} with seed {seed}")


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_what_it_is_by_itself(name: str, target: str) -> None:
    module = reduced(name)
    feeds = feeds_of(module, tokens(2))
    whole = out(module, feeds, target)
    for row in range(BATCH):
        alone = out(module, {key: value[row : row + 1] for key, value in feeds.items()}, target)
        np.testing.assert_array_equal(alone["token_source"][0], whole["token_source"][row])
        np.testing.assert_allclose(alone["all"][0], whole["all"][row], atol=2e-4)


@pytest.mark.extended
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ONCE])
def test_two_passes_in_a_row_are_the_one_that_does_both(name: str, order: tuple[int, int]) -> None:
    kind, options = USES[name]
    options = {**options, "method": name, "map": True}
    parts = loads(MODEL)
    for block in order:
        parts = apply(parts, kind, **{**options, "blocks": (block,)})[0]
    whole = reduced(name)
    feeds = feeds_of(whole, tokens(3))
    renamed = feeds_of(parts, feeds["x"])
    random = [v.name for v in parts.graph.inputs if v.role == "random"]
    drawn = [v.name for v in whole.graph.inputs if v.role == "random"]
    # Blocks draw numbers of their own, which are named in the order of the passes.
    for given, block in zip(random, order, strict=False):
        renamed[given] = feeds[drawn[block]]
    one, other = out(whole, feeds, "torch"), out(parts, renamed, "torch")
    np.testing.assert_array_equal(one["token_source"], other["token_source"])
    np.testing.assert_array_equal(one["token_size"], other["token_size"])
    np.testing.assert_allclose(one["all"], other["all"], atol=2e-5)


@pytest.mark.extended
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ONCE])
def test_a_share_is_kept_exactly(name: str) -> None:
    """In one block that may let so much go, and spread over both."""
    kind, options = USES[name]
    rest = {key: value for key, value in options.items() if key not in ("r", "blocks")}
    for keep, blocks in ((0.6, None), (0.72, (1,))):
        module = apply(loads(MODEL), kind, method=name, map=True, keep=keep, blocks=blocks, **rest)[0]
        size = next(v for v, i in zip(module.graph.outputs, module.graph.output_info, strict=True) if i.name == "token_size")
        assert size.type.shape[1] == int(N * keep)


@pytest.mark.extended
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_what_is_left(name: str) -> None:
    """They are finite, those of the features of every token that the result holds are not 0, and the match has none to give NaN."""
    import torch

    from tessera.backends.torch import build

    module = reduced(name)
    feeds = {key: torch.as_tensor(value) for key, value in feeds_of(module, tokens(4)).items()}
    feeds["x"].requires_grad_(True)
    found = build(module.graph, weights_of(module), trainable=True)(**feeds)
    (found["all"] ** 2).sum().backward()
    grad = feeds["x"].grad
    assert grad is not None
    assert torch.isfinite(grad).all()
    for row, felt in zip(found["token_source"], grad.abs().sum(2), strict=True):
        # The first token of each that is left is one that stayed.
        assert all(felt[(row == token).nonzero()[0, 0]] > 0 for token in row.unique())


def test_the_table_has_every_method() -> None:
    assert {*NAMES, *IN_PROGRAMS} == set(methods())
