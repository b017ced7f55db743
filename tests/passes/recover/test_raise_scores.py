"""Scores in the forms of single models: what is raised computes the same, rows without any key included."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.frontends.source import loads
from tessera.ir.analysis.cost import ATTENTION
from tessera.passes.engine import apply

from ..conftest import run

LOW = "constant(-3.4028235e+38, dtype=f32)"
FORMS = {
    "bounded from below (XGLM)": f"""s = q @ transpose(k, perm=[0, 1, 3, 2])
        return softmax(maximum(s + where(seen, constant(0.0, dtype=f32), {LOW}), {LOW}), axis=-1) @ v""",
    "zeroed behind the softmax (SEW-D)": f"""hidden = not seen
        s = q @ transpose(k, perm=[0, 1, 3, 2]) * 0.5 + where(not hidden, bias, {LOW})
        return where(hidden, constant(0.0, dtype=f32), softmax(s, axis=-1)) @ v""",
    "keys transposed as matrices (SAM)": """flat = reshape(k, [B * 3, 7, 4])
        keys = reshape(transpose(flat, perm=[0, 2, 1]), [B, 3, 4, 7]) * 0.5
        return softmax(q * 0.5 @ keys + bias, axis=-1) @ v""",
    "read twice": """p = softmax(q @ transpose(k, perm=[0, 1, 3, 2]) + bias, axis=-1)
        return p @ v + mean(p, axis=3, keepdims=true)""",
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_attention_and_computes_the_same(name: str) -> None:
    module = loads(
        f"""use std.nn (softmax)
        model m(q: f32[B, 3, 7, 4], k: f32[B, 3, 7, 4], v: f32[B, 3, 7, 4], bias: f32[1, 3, 7, 7], seen: bool[B, 1, 1, 7])
            -> f32[B, 3, 7, 4] {{
            {FORMS[name]}
        }}"""
    )
    raised, _ = apply(module, "raise_composites")
    assert sum(node.op.qualified == ATTENTION for node in raised.graph.nodes()) == 1
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 3, 7, 4)).astype(np.float32)
    inputs = {"q": q, "k": k, "v": v, "bias": rng.standard_normal((1, 3, 7, 7)).astype(np.float32)}
    for seen in (np.ones((2, 1, 1, 7), bool), np.arange(7) < np.array([4, 7])[:, None, None, None]):
        want, got = (run(m, {}, seen=seen, **inputs)["output"] for m in (module, raised))
        np.testing.assert_allclose(got, want, atol=1e-5)
    if "zeroed" in name:
        none = np.zeros((2, 1, 1, 7), bool)
        want, got = (run(m, {}, seen=none, **inputs)["output"] for m in (module, raised))
        np.testing.assert_allclose(got, want, atol=1e-5)
