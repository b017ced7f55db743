"""Attention written as einsums, with the axes in whatever order: it is found, and merges as the usual one does."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.backends.torch import build
from tessera.frontends.source import loads
from tessera.ir.graph import Module
from tessera.passes.engine import apply

X = np.random.default_rng(0).standard_normal((2, 9, 16)).astype(np.float32)


def block(q: str, k: str, v: str, z: str, swapped: tuple[bool, bool] = (False, False), scores: str = "b h t s") -> Module:
    """A block whose queries, keys, values and result have their axes in these orders; operands may be the other way round."""
    first = f"{k}, {q} -> {scores}" if swapped[0] else f"{q}, {k} -> {scores}"
    second = f"{v}, {scores} -> {z}" if swapped[1] else f"{scores}, {v} -> {z}"
    one, two = ("k, q" if swapped[0] else "q, k"), ("v, p" if swapped[1] else "p, v")
    return loads(
        f"""
        use std.nn (layer_norm, linear, softmax)
        model m(x: f32[B, T, 16]) -> f32[B, T, 16] {{
            y = layer_norm(x) as norm
            q = rearrange(linear(y, out=16) as q, "b t (h k) -> {q}", h=2)
            k = rearrange(linear(y, out=16) as k, "b s (h k) -> {k}", h=2)
            v = rearrange(linear(y, out=16) as v, "b s (h v) -> {v}", h=2)
            p = softmax(einsum({one}, equation="{first}") * 0.3, axis=-1)
            z = rearrange(einsum({two}, equation="{second}"), "{z} -> b t (h v)")
            return x + linear(z, out=16) as out
        }}
        """
    )


USUAL = block("b h t k", "b h s k", "b h s v", "b h t v")


def run(module: Module) -> np.ndarray:
    weights = {}
    for name, param in sorted(module.graph.params.items()):
        shape = [int(str(d)) for d in param.type.shape]
        weights[name] = np.random.default_rng(list(name.encode())).standard_normal(shape).astype(np.float32) / 4
    return next(iter(build(module, weights)(x=torch.from_numpy(X)).values())).numpy()


def check(module: Module) -> None:
    """It computes what it did, is attention, and merges the same tokens."""
    raised, report = apply(module, "raise_composites")
    assert report.facts["composites"].get("attention") == 1
    np.testing.assert_allclose(run(raised), run(module), atol=1e-5)
    usual = apply(apply(USUAL, "raise_composites")[0], "merge_tokens", r=2, restore=True)[0]
    np.testing.assert_allclose(run(apply(raised, "merge_tokens", r=2, restore=True)[0]), run(usual), atol=1e-5)


def orders(axes: str) -> list[str]:
    return [" ".join(("b", *rest)) for rest in permutations(axes.split()[1:])]


@pytest.mark.parametrize(
    "form",
    [
        ("b t h k", "b s h k", "b s h v", "b t h v", (False, False)),  # Flax
        ("b t h k", "b s h k", "b s h v", "b t h v", (True, False)),  # Keras, keys first
        ("b t h k", "b s h k", "b s h v", "b t h v", (False, True)),
        ("b h t k", "b h s k", "b h s v", "b t h v", (False, False)),
        ("b h k t", "b h k s", "b h v s", "b h v t", (True, True)),
    ],
)
def test_the_orders_of_known_libraries(form: tuple[str, str, str, str, tuple[bool, bool]]) -> None:
    check(block(*form))


@pytest.mark.extended
@settings(max_examples=60, deadline=None)
@given(
    q=st.sampled_from(orders("b h t k")), k=st.sampled_from(orders("b h s k")), v=st.sampled_from(orders("b h s v")),
    z=st.sampled_from(orders("b h t v")), swapped=st.tuples(st.booleans(), st.booleans()),
)  # fmt: skip
def test_any_order(q: str, k: str, v: str, z: str, swapped: tuple[bool, bool]) -> None:
    check(block(q, k, v, z, swapped))
