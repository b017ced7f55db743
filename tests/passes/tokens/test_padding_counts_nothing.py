"""What stands at padding changes nothing: neither which tokens leave nor what becomes of them."""

from __future__ import annotations

import numpy as np
import pytest

import tessera as ts

from ..conftest import weights_of

ENCODER = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)

model encoder(x: f32[B, 13, 8], keep: i64[B, 13]) -> f32[B, 13, 8] {
    mask = unsqueeze(keep != 0, [1, 2])
    repeat i in 2 as blocks {
        x = x + self_attention(layer_norm(x) as n1, mask, heads=2) as attn
        x = x + mlp(layer_norm(x) as n2, hidden=16) as mlp
    }
    return x
}
"""
KEEP = (np.arange(13) < np.array([[13], [7], [9]])).astype(np.int64)


@pytest.mark.parametrize(
    "reduce",
    [
        "prune_tokens(method=by_repetition, r=4, threshold=0.5)",
        "prune_tokens(method=diverse, protect=1, r=4)",
        "prune_tokens(method=divprune, r=4)",
        "merge_tokens(method=visionzip, protect=1, r=6, contextual=0.5)",
        'merge_tokens(method=visionzip, protect=1, r=6, contextual=0.5, mode="published")',
        "merge_tokens(method=grid_merge, rows=3, columns=3, protect=4, r=4)",
        "merge_tokens(method=energy_merge, r=4)",
    ],
)
def test_what_stands_at_padding_changes_nothing(reduce: str) -> None:
    module = ts.loads(ENCODER)
    made = ts.compile(module, target="onnx", passes=[f"{reduce[:-1]}, restore=true, blocks=[0])"],
                      weights=weights_of(module), verify=False)  # fmt: skip
    rng = np.random.default_rng(5)
    for alike in (False, True, False, True):
        x = rng.standard_normal((3, 13, 8)).astype(np.float32)
        noise = {spec.name: rng.random((3, 13)).astype(np.float32) for spec in made.inputs if spec.role == "random"}
        other = x.copy()
        # Like a real token, or far from all.
        other[KEEP == 0] = x[0, 1] if alike else 3 * rng.standard_normal((10, 8))
        one, two = (next(iter(made(x=v, keep=KEEP, **noise).values())) for v in (x, other))
        np.testing.assert_allclose(np.asarray(one)[KEEP == 1], np.asarray(two)[KEEP == 1], atol=2e-4)
