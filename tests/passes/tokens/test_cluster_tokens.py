"""`cluster_tokens`: superpixels in front of a block and the way back behind another, against NumPy; grids, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import load, loads, print_module
from tessera.frontends.source.elaborate.library import SPECS
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply
from tessera.passes.tokens.cluster_tokens import ClusterTokens

from ..conftest import passed, run, weights_of
from .test_regions import both


def pooling(source: int, target: int) -> np.ndarray:
    """torch's adaptive average pooling as a matrix."""
    rows = np.zeros((target, source))
    for i in range(target):
        start, stop = i * source // target, -(-(i + 1) * source // target)
        rows[i, start:stop] = 1 / (stop - start)
    return rows


def superpixels(f: np.ndarray, grid: tuple[int, int], cells: tuple[int, int], radius: int, steps: int, t: float) -> Any:
    """The published clustering of f [N, D]: centres [M, D] and the shares [M, N]."""
    down, along = (pooling(g, c) for g, c in zip(grid, cells, strict=True))
    centre = np.einsum("ph,qw,hwd->pqd", down, along, f.reshape(*grid, -1)).reshape(-1, f.shape[1])
    y, x = (np.arange(g) * c // g for g, c in zip(grid, cells, strict=True))
    far_y = abs(np.arange(cells[0])[:, None] - y) > radius
    far_x = abs(np.arange(cells[1])[:, None] - x) > radius
    out = (far_y[:, None, :, None] | far_x[None, :, None, :]).reshape(cells[0] * cells[1], -1)
    for _ in range(steps):
        d = ((centre[:, None] - f[None]) ** 2).sum(-1) + 1e16 * out
        e = np.exp(-t * (d - d.min(0)))
        share = e / e.sum(0)
        centre = share @ f / np.maximum(share.sum(1, keepdims=True), 1e-16)
    return centre, share


def reconstruct(f: np.ndarray, c: np.ndarray, z: np.ndarray, k: int, t: float, norm: str) -> np.ndarray:
    w = np.exp(-t * ((f[:, None] - c[None]) ** 2).sum(-1))
    w = np.where(w >= np.sort(w, axis=1)[:, -k][:, None], w, 0)
    return w / (w.sum(1, keepdims=True) if norm == "sum" else np.sqrt((w**2).sum(1, keepdims=True))) @ z


# A region of one block that does nothing but double its tokens: what the pass itself does is seen.
DOUBLE = """
use std.attention (attention)
model double(x: f32[B, T, 6]) -> (y: f32[B, T, 6]) {
    param q: f32[6, 6] = zeros
    k = unsqueeze(einsum("b t d, d e -> b t e", x, q), 1)
    x = x + squeeze(attention(k, k, k), 1)
    return x + x
}
"""
ZERO = {"q": np.zeros((6, 6), np.float32)}


@pytest.mark.parametrize(
    ("grid", "cells", "radius", "steps", "k", "norm", "first"),
    [
        ((6, 6), (3, 3), 2, 5, 4, "sum", 0), ((4, 7), (3, 2), 1, 2, 1, "l2", 1), ((5, 2), (1, 1), 0, 1, 1, "sum", 2),
        ((7, 5), (6, 5), 3, 3, 20, "l2", 0),
    ],
)  # fmt: skip
def test_published_clusters_and_the_way_back(
    grid: tuple[int, int], cells: tuple[int, int], radius: int, steps: int, k: int, norm: str, first: int
) -> None:
    count = first + grid[0] * grid[1]
    x = np.random.default_rng(count).standard_normal((2, count, 6)).astype(np.float32)
    module = loads(DOUBLE.replace("T,", f"{count},"))
    options = {"neighbours": k, "temperature": 0.05, "norm": norm, "radius": radius, "iterations": steps}
    clustered, _ = apply(module, "cluster_tokens", clusters=list(cells), grid=list(grid), protect=first, map=True, **options)
    found = run(clustered, ZERO, x=x)
    for row in range(2):
        f = x[row, first:]
        centre, share = superpixels(f, grid, cells, radius, steps, 0.05)
        want = reconstruct(f, centre, 2 * centre, k, 0.05, norm)
        np.testing.assert_allclose(found["y"][row, first:], want, atol=2e-4)
        np.testing.assert_allclose(found["y"][row, :first], 2 * x[row, :first], atol=1e-6)
        np.testing.assert_array_equal(found["token_source"][row], [*range(first), *(np.round(4096 * share).argmax(0) + first)])
    assert (found["token_size"].sum(1) == count).all()


VIT = {"size": 24, "patch": 4, "dim": 16, "depth": 3, "heads": 2, "hidden": 32}
IMAGE = np.random.default_rng(2).standard_normal((2, 3, 24, 24)).astype(np.float32)


def vit() -> Any:
    """A ViT of 6 x 6 patches and a class token."""
    return load(SPECS / "zoo" / "vit.tess", "vit_classifier", {**VIT, "classes": 3})


def test_the_zoo_clusters_the_same_tokens_on_torch_and_onnx() -> None:
    module, (report,) = passed(vit(), ClusterTokens(keep=0.25, map=True))
    assert report.facts == {"tokens": [["37", "10"]], "blocks": [1, 2]}
    assert loads(print_module(module)).difference(module) is None
    found = both(module, image=IMAGE)
    assert (found["token_size"].sum(1) == 37).all()
    assert (found["token_source"][:, 0] == 0).all()


def test_grids_that_are_no_square_and_symbolic_ones_are_given() -> None:
    module = load(SPECS / "zoo" / "vit.tess", "vit", VIT)
    with pytest.raises(Diagnostic, match="cannot be told") as caught:
        apply(module, "cluster_tokens", keep=0.25)
    assert caught.value.code == "E0705"
    wide, _ = passed(module, ClusterTokens(clusters=(2, 3), grid=(4, 6), protect=1, map=True))
    image = IMAGE[:, :, :16]
    assert both(wide, image=image)["token_size"].shape == (2, 7)
    artifact = ts.compile(wide, target="onnx", passes=[], verify=False)
    with pytest.raises(Diagnostic, match="the tokens are not the grid"):
        artifact(image=IMAGE)


def test_two_regions_of_clusters_in_a_row() -> None:
    steps = [ClusterTokens(clusters=(3, 3), begin=0, end=0), ClusterTokens(clusters=(2, 2), begin=2, end=2)]
    one, _ = passed(vit(), *steps)
    other, _ = passed(vit(), *steps[::-1])
    weights = weights_of(vit())
    np.testing.assert_allclose(run(one, weights, image=IMAGE)["logits"], run(other, weights, image=IMAGE)["logits"], atol=1e-5)
    both(loads(print_module(one)), image=IMAGE)


def test_as_many_clusters_as_tokens_change_nothing() -> None:
    same, report = apply(vit(), "cluster_tokens", clusters=[6, 6])
    assert (same.difference(vit()), report.modified) == (None, 0)


def test_gradients_reach_every_token() -> None:
    torch = pytest.importorskip("torch")
    from tessera.backends.torch import build

    module, _ = apply(loads(DOUBLE.replace("T,", "16,")), "cluster_tokens", clusters=[2, 2])
    x = torch.randn(2, 16, 6, requires_grad=True)
    build(module, ZERO)(x=x)["y"].square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad.abs().sum(-1) > 0).all()


WINDOWS = """
use std.attention (attention)
model windows(x: f32[B, 64, 8]) -> (y: f32[B, 64, 8]) {
    q = unsqueeze(x, 1)
    x = x + squeeze(attention(q, q, q), 1)
    w = rearrange(x, "b (h p w q) d -> (b h w) (p q) d", h=2, w=2, p=4)
    w = unsqueeze(w, 1)
    w = rearrange(squeeze(attention(w, w, w), 1), "(b h w) (p q) d -> b (h p w q) d", h=2, w=2, p=4)
    x = x + w
    k = unsqueeze(x, 1)
    return x + squeeze(attention(k, k, k), 1)
}
"""


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"clusters": (7, 7)}, "E0705", "7 x 7 clusters are more than a grid of 6 x 6"),
        ({"clusters": (3, 3), "neighbours": 10}, "E0501", "there are fewer clusters than neighbours"),
        ({"clusters": (3, 3), "radius": -1}, "E0501", "radius is a number of cells"),
        ({"clusters": (3, 3), "norm": "max"}, "E0501", "the norm is"),
        ({"clusters": (3, 3), "protect": 0}, "E0705", "which grid the 37 tokens are cannot be told"),
        ({"clusters": (3, 3), "protect": 0, "grid": (6, 6)}, "E0705", "6 x 6 is not what the 37 tokens are, and `protect` keeps 0"),
        ({"clusters": (3, 3), "grid": (6, 7)}, "E0705", "a grid of 6 x 7 is not what the 37 tokens are"),
        ({}, "E0705", "is given no number of clusters"),
        ({"clusters": (3, 3), "keep": 0.5}, "E0705", "is given `clusters` and `keep`"),
        ({"k": 9}, "E0705", "is given `k`"),
        ({"clusters": (3,)}, "E0704", "must be two numbers"),
        ({"clusters": (3, 3), "blocks": (1,)}, "E0705", "`blocks` does not go with cluster_tokens"),
        ({"clusters": (3, 3), "place": "block"}, "E0705", "`place` does not go with cluster_tokens"),
        ({"clusters": (3, 3), "method": "bipartite_merge", "back": "copy"}, "E0705", "`clusters` is given, but the method"),
        ({"clusters": (3, 3), "window": 4}, "E0702", "has no option `window`"),
        ({"clusters": (3, 3), "method": "by_mass"}, "E0201", "declares no op `reconstruct`"),
    ],
)  # fmt: skip
def test_refused(options: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        apply(vit(), "cluster_tokens", **options)
    assert (caught.value.code, message in caught.value.message) == (code, True), caught.value.message


def test_attention_in_windows_cannot_follow() -> None:
    with pytest.raises(Diagnostic, match="depends on the places of the tokens") as caught:
        apply(loads(WINDOWS), "cluster_tokens", clusters=[4, 4], begin=0, end=1)
    assert caught.value.code == "E0710"
