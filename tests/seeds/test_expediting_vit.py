"""Expedit's row: clusters of photographs beside pooling and the published code; a segmenter on a quarter of its tokens."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.ir.analysis.cost import cost
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.passes.engine import run_pipeline

from .expediting_vit_training import mean_iou, scenes, train

WEIGHTS = Path(__file__).parent / "data" / "expediting_vit.safetensors"


@cache
def photographs() -> np.ndarray:
    """[3, 576, 192]: 24 x 24 patches of 8 x 8 pixels of the astronaut, the cat and the coffee, standardised over the patches."""
    data = pytest.importorskip("skimage.data")
    made = []
    for view in (data.astronaut, data.chelsea, data.coffee):
        image = np.asarray(view(), np.float64)
        rows, columns = (np.linspace(0, side - 1, 192).astype(int) for side in image.shape[:2])
        patches = image[rows][:, columns].reshape(24, 8, 24, 8, 3).transpose(0, 2, 1, 3, 4).reshape(576, -1)
        made.append((patches - patches.mean(0)) / patches.std(0))
    return np.stack(made).astype(np.float32)


@cache
def probe(target: str = "torch", **params: Any) -> dict[str, np.ndarray]:
    module = ts.load("expediting_vit", model="expedit_probe", params=params)
    made = ts.compile(module, target=target, verify=False)(x=photographs())
    return {name: np.asarray(value) for name, value in made.items()}


def error(y: np.ndarray) -> np.ndarray:
    """The mean squared error of each photograph."""
    return ((y.astype(np.float64) - photographs()) ** 2).mean((1, 2))


def test_clusters_tell_more_than_pooling() -> None:
    """(a): identity between, weights that add up to 1."""
    grid = photographs().reshape(3, 24, 24, -1)
    pooled = grid.reshape(3, 12, 2, 12, 2, -1).mean((2, 4)).repeat(2, axis=1).repeat(2, axis=2).reshape(photographs().shape)
    found, simple = error(probe()["y"]), error(pooled)
    assert (found < 0.5 * simple).all(), (found, simple)
    np.testing.assert_allclose(probe()["total"], 1.0, atol=1e-5)


def published(f: Any, c: Any, z: Any, k: int, t: float) -> Any:
    """The weights as the published code has them: exp, the k-th largest as a threshold, then a row of Euclidean length 1."""
    import torch

    near = torch.exp(-t * torch.cdist(f, c, compute_mode="donot_use_mm_for_euclid_dist") ** 2)
    least = near.topk(k, dim=2).values.min(dim=-1, keepdim=True).values
    near = torch.nn.functional.normalize(torch.where(near >= least, near, 0.0), dim=-1)
    return near @ z, near.sum(-1)


@pytest.mark.extended
def test_the_published_norm_is_another_one() -> None:
    """(b): `norm=l2` is the published code; the rows add up to nearly the square root of 20."""
    torch = pytest.importorskip("torch")
    found = probe(norm="l2", temperature=0.01)
    f, c = (torch.as_tensor(v).double() for v in (photographs(), found["centres"]))
    want, total = published(f, c, c, 20, 0.01)
    np.testing.assert_allclose(found["y"], want.numpy(), atol=1e-5 * float(want.abs().max()))
    np.testing.assert_allclose(found["total"], total.numpy(), atol=1e-4)
    assert 4.4 < found["total"].max() <= np.sqrt(20) + 1e-4
    assert (error(found["y"]) > 10 * error(probe()["y"])).all()


@pytest.mark.extended
@pytest.mark.parametrize(("target", "norm"), [("torch", "l2"), ("onnx", "sum")])
def test_as_many_clusters_as_tokens_are_the_tokens(target: str, norm: str) -> None:
    """(c): one neighbour, no reach: what it was; of two patches that are as near as rounding goes it may be the other."""
    same = probe(target, rows=24, columns=24, neighbours=1, radius=0, norm=norm)
    np.testing.assert_allclose(same["y"], photographs(), atol=1e-5)
    np.testing.assert_array_equal(same["source"], np.tile(np.arange(576), (3, 1)))


@pytest.mark.extended
@pytest.mark.parametrize("norm", ["sum", "l2"])
def test_both_backends_agree(norm: str) -> None:
    """Indices are equal, and values where rounding has no say in which cluster is the last of the neighbours."""
    one, other = probe("torch", norm=norm), probe("onnx", norm=norm)
    np.testing.assert_array_equal(one["source"], other["source"])
    for name in ("centres", "total"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-4)
    f, c = photographs().astype(np.float64), one["centres"].astype(np.float64)
    far = np.sort((c**2).sum(-1)[:, None] - 2 * np.einsum("bnd,bmd->bnm", f, c), axis=2)
    sure = far[..., 20] - far[..., 19] > 1e-3
    assert sure.mean() > 0.98
    np.testing.assert_allclose(one["y"][sure], other["y"][sure], atol=1e-4, rtol=1e-4)


# (d): a small dense predictor, trained without clusters -----------------------------------------------------------------------


@cache
def segmenter() -> Module:
    return ts.load("expediting_vit", model="expedit_segmenter")


CLUSTERED = {"clusters": [8, 8], "begin": 2, "iterations": 2, "neighbours": 4, "temperature": 3.0}


def scores_of(module: Module, weights: Any = WEIGHTS) -> np.ndarray:
    artifact = ts.compile(module, target="onnx", weights=weights, passes=[], verify=False)
    return np.asarray(artifact(image=scenes(48, 7)[0])["scores"])


def judged(module: Module) -> float:
    return mean_iou(scores_of(module), scenes(48, 7)[1])


def flops(module: Module) -> int:
    return cost(module.graph).at({"B": 1}).total.flops


@pytest.mark.extended
def test_a_quarter_of_the_tokens_from_half_way_keeps_what_it_predicts() -> None:
    """At 1/4 of the tokens at least 95 % of the mean IoU, and more than merging and copying back at no fewer operations."""
    clustered = ts.apply(segmenter(), "cluster_tokens", **CLUSTERED)
    merged = ts.apply(segmenter(), "merge_tokens", k=128, begin=2, end=3)
    assert flops(clustered) <= flops(merged) < 0.75 * flops(segmenter())
    whole, found, copied = judged(segmenter()), judged(clustered), judged(merged)
    assert whole > 0.9
    assert found >= 0.95 * whole, (found, whole)
    assert found > copied, (found, copied)


def test_the_row_as_it_is_written_is_that_pass() -> None:
    spec = segmenter()
    assert spec.compile is not None
    written, _ = run_pipeline(spec, spec.compile.passes)
    assert written.difference(ts.apply(spec, "cluster_tokens", **CLUSTERED)) is None


@pytest.mark.slow
def test_what_is_committed_can_be_trained_again() -> None:
    short = train(100)
    assert mean_iou(scores_of(segmenter(), short), scenes(48, 7)[1]) > 0.5


@pytest.mark.parametrize(
    ("params", "code", "message"),
    [
        ({"rows": 25}, "E0501", "more than the grid has rows or columns"),
        ({"neighbours": 145}, "E0501", "there are fewer clusters than neighbours"),
        ({"neighbours": 0}, "E0501", "there are fewer clusters than neighbours"),
        ({"norm": "mean"}, "E0501", "the norm is"),
        ({"radius": -1}, "E0501", "radius is a number of cells"),
        ({"iterations": 0}, "E0501", "at least one iteration"),
    ],
)
def test_bad_input_is_refused(params: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        ts.compile(ts.load("expediting_vit", model="expedit_probe", params=params), target="torch", verify=False)
    assert (caught.value.code, message in caught.value.message) == (code, True), caught.value.message


def test_a_class_token_that_is_not_split_off_is_refused() -> None:
    sizes = {"size": 24, "patch": 4, "dim": 16, "depth": 3, "heads": 2, "hidden": 32}
    vit = ts.load("zoo/vit", "vit_classifier", params={**sizes, "classes": 3})
    with pytest.raises(Diagnostic, match="`protect` keeps 0 of them") as caught:
        ts.apply(vit, "cluster_tokens", clusters=[3, 3], grid=[6, 6], protect=0)
    assert (caught.value.code, caught.value.help) == ("E0705", "class tokens are split off: `protect=1`")
    alone = "use std.token.cluster (reconstruct)\nmodel m(x: f32[B, 16, 4]) -> f32[B, 64, 4] { return reconstruct(x) }"
    with pytest.raises(Diagnostic) as caught:
        ts.loads(alone)
    assert caught.value.code == "E0404"
