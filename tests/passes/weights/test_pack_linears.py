"""`pack_linears`: one product where there were several, the same outputs, weights by recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import tessera as ts
from tessera.frontends.source import loads, print_module
from tessera.ir.graph import Module
from tessera.passes.engine import apply
from tessera.runtime.weights.bind import initialise

SMALL = {"dim": 32, "depth": 2, "heads": 4, "hidden": 48}
IDS = {"input_ids": np.arange(18).reshape(2, 9)}
IMAGE = {"image": np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)}
TEXT = {**IDS, "attention_mask": np.ones((2, 9), np.int64), "token_type_ids": np.zeros((2, 9), np.int64)}
MODELS: list[tuple[str, dict[str, Any], dict[str, np.ndarray], int]] = [
    ("vit_classifier", {**SMALL, "size": 32, "patch": 8, "classes": 5}, IMAGE, 2),
    ("bert", {**SMALL, "vocab": 20, "positions": 12}, TEXT, 2),
    # Attention, and the two halves of the gated feed-forward.
    ("llama", {**SMALL, "vocab": 20, "kv_heads": 2}, IDS, 4),
]


def affines(module: Module) -> int:
    return sum(node.op.name == "affine" for node in module.graph.nodes())


@pytest.mark.parametrize(("name", "params", "feeds", "packed"), MODELS, ids=[m[0] for m in MODELS])
@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_models_compute_the_same(
    tmp_path: Path, name: str, params: dict[str, Any], feeds: dict[str, np.ndarray], packed: int, target: str
) -> None:
    module = ts.load(f"zoo/{name.partition('_')[0]}", name, params)
    after, report = apply(module, "pack_linears")
    assert report.modified == packed
    assert affines(after) == affines(module) - (report.facts["layers"] - packed)
    assert loads(print_module(after)) == after
    values = {n: t.numpy() for n, t in initialise(module.graph, 3).items()}
    save_file(values, tmp_path / "w.safetensors")
    options: dict[str, Any] = {"target": target, "passes": ["pack_linears"]}
    want = ts.compile(module, target=target, weights=values, passes=[], verify=False)(**feeds)
    for source in ({"weights": tmp_path / "w.safetensors"}, {"weights": values}, {"seed": 3}):
        artifact = ts.compile(module, **options, **source)
        assert artifact.report.verified
        for key, array in artifact(**feeds).items():
            np.testing.assert_allclose(array, want[key], rtol=2e-4, atol=2e-5)


def test_what_is_shared_stays() -> None:
    module = loads("""
use std.nn (affine)
model m(x: f32[B, 8], y: f32[B, 8]) -> (a: f32[B, 8], b: f32[B, 8], c: f32[B, 8]) {
    param w: f32[8, 8] = zeros
    param u: f32[8, 8] = zeros
    param v: f32[8, 8] = zeros
    buffer k: f32[8, 8] = zeros
    return affine(x, w) + affine(x, u), affine(y, w) + affine(x, k), affine(y, v)
}
""")
    after, report = apply(module, "pack_linears")
    # `w` is read twice, `k` is not trained, and `v` is alone on its value.
    assert report.modified == 0
    assert after == module


def test_names_of_one_depth_and_of_several() -> None:
    module = loads("""
use std.nn (linear)
model m(x: f32[B, 8]) -> f32[B, 8] {
    a = linear(x, out=8, bias=false) as a
    b = linear(x, out=8, bias=false) as deep.b
    return a + b
}
""")
    after, _ = apply(module, "pack_linears")
    assert list(after.graph.params) == ["a_deep.b.weight"]
    again, report = apply(after, "pack_linears")
    assert (again, report.modified) == (after, 0)
