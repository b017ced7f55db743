"""A padded row reads in a batch what it reads by itself: every method that chooses which keys are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.ir.library import ops_of
from tessera.passes.memory.select_kv import STD
from tessera.passes.tokens.stream import is_visibility

from ..conftest import weights_of

MODEL = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)

model m(x: f32[B, T, 8], here: i64[B, T]) -> f32[B, T, 8] {
    mask = {mask}
    repeat i in 2 as blocks {
        x = x + self_attention(layer_norm(x) as n1, mask, heads=2, causal=true) as attn
        x = x + mlp(layer_norm(x) as n2, hidden=16) as mlp
    }
    return x
}
"""
# What a method is told beside k = 6, and the pass that drops tokens with it, before or behind.
USES: dict[str, dict[str, Any]] = {"sinks_and_recent": {"sinks": 2}, "heavy_hitters": {}, "window_vote": {"window": 3, "pool": 3}}
DROP = "prune_tokens(method=divprune, k=9, blocks=[0])"
PADDING = 4
HERE = "unsqueeze(here != 0, [1, 2])"
BEGUN, GOES_ON = "cumsum(here, axis=1)", "cumsum(here, axis=1, reverse=true)"
# Padding as one mask of keys, and as several in one conjunction: what stands in front, and what stands behind.
MASKS = {
    "one": HERE,
    "two": f"unsqueeze({BEGUN} > 0, [1, 2]) and unsqueeze({GOES_ON} > 0, [1, 2])",
    "three": f"unsqueeze(here < 2, [1, 2]) and ({HERE} and expand({HERE}, [B, 1, 1, T]))",
    "multiplied": f"unsqueeze(cast(minimum({BEGUN}, 1) * minimum({GOES_ON}, 1), bool), [1, 2])",
}


def runs(method: str, drops: str, target: str, mask: str = "one") -> Any:
    module = ts.loads(MODEL.replace("{mask}", MASKS[mask]))
    options = "".join(f", {name}={value}" for name, value in USES[method].items())
    select = f"select_kv(method={method}, k=6{options})"
    passes = {"alone": [select], "before": [DROP, select], "behind": [select, DROP]}[drops]
    return ts.compile(module, passes=passes, target=target, weights=weights_of(module), verify=False)


@pytest.mark.extended
@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize("drops", ["alone", "before", "behind"])
@pytest.mark.parametrize("method", USES)
def test_a_padded_row_is_the_row(method: str, drops: str, target: str) -> None:
    """Whether padding stands in front, behind, or on both sides; and its features are nobody's affair."""
    made = runs(method, drops, target)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        n = 10 + seed
        row = (3 * rng.standard_normal((1, n, 8))).astype(np.float32)
        alone = np.asarray(next(iter(made(x=row, here=np.ones((1, n), np.int64)).values())))
        for front in (0, PADDING, PADDING // 2):
            x = rng.standard_normal((2, n + PADDING, 8)).astype(np.float32)
            here = np.ones((2, n + PADDING), np.int64)
            here[0] = 0
            here[0, front : front + n] = 1
            x[:1, front : front + n] = row
            got = np.asarray(next(iter(made(x=x, here=here).values())))[:1]
            # Dropping leaves nine of the row and no padding.
            got = got[:, front : front + n] if drops == "alone" else got
            np.testing.assert_allclose(got, alone, atol=1e-4, err_msg=f"seed {seed}, {front} in front")


@pytest.mark.parametrize("mask", ["two", *(pytest.param(m, marks=pytest.mark.extended) for m in ("three", "multiplied"))])
def test_every_mask_of_keys_in_a_conjunction_counts(mask: str) -> None:
    rng = np.random.default_rng(0)
    x, here = rng.standard_normal((3, 14, 8)).astype(np.float32), np.ones((3, 14), np.int64)
    here[0, 10:], here[1, :4], here[2, :2], here[2, 12:] = 0, 0, 0, 0
    for method in USES:
        found, wanted = (next(iter(runs(method, "alone", "torch", m)(x=x, here=here).values())) for m in (mask, "one"))
        np.testing.assert_allclose(np.where(here[..., None], found, 0), np.where(here[..., None], wanted, 0), atol=1e-5)


def test_the_table_has_every_method() -> None:
    assert set(USES) == {op.name for op in ops_of(STD) if is_visibility(op)}
