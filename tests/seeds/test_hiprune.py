"""HiPrune's row: the published procedure over many random cases, index for index; the grid; masses without a map; a tower."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

N, WIDTH, KEEP = 576, 24, 192
TARGETS = ("torch", "onnx")


@cache
def select(target: str, **params: Any) -> Callable[..., np.ndarray]:
    module = ts.load("hiprune", model="hiprune_select", params={"keep": KEEP, "width": WIDTH, **params})
    artifact = ts.compile(module, target=target, verify=False)
    return lambda middle, deep: np.asarray(artifact(middle=middle, deep=deep)["index"])


def masses(cases: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Attention received, of two blocks: a peaked distribution over patches each."""
    rng = np.random.default_rng(seed)
    drawn = np.exp(rng.standard_normal((2, cases, N)) * 2)
    middle, deep = (drawn / drawn.sum(-1, keepdims=True)).astype(np.float32)
    return middle, deep


def anchors_of(middle: np.ndarray, alpha: float = 0.1, keep: int = KEEP) -> np.ndarray:
    return np.argsort(-middle, kind="stable")[: round(alpha * keep / 5)]


def published(middle: np.ndarray, deep: np.ndarray, wrap: bool) -> np.ndarray:
    """The published code, with sets: anchors; their neighbours, clamped and made unique; registers from what is left."""
    taken = set()
    for anchor in anchors_of(middle):
        around = [anchor, anchor - 1, anchor + 1, anchor - WIDTH, anchor + WIDTH]
        if not wrap:
            row, column = divmod(anchor, WIDTH)
            beside = [(row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column)]
            inside = [(y, x) for y, x in beside if 0 <= y < N // WIDTH and 0 <= x < WIDTH]
            around = [anchor, *(y * WIDTH + x for y, x in inside)]
        taken |= {int(np.clip(a, 0, N - 1)) for a in around}
    rest = deep.astype(np.float64).copy()
    rest[list(taken)] -= 1
    registers = np.argsort(-rest, kind="stable")[: KEEP - len(taken)]
    return np.sort([*taken, *registers])


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("wrap", ["none", "published"])
def test_one_selection_is_the_published_procedure(target: str, wrap: str) -> None:
    """2,000 random cases: always 192 distinct ascending indices, those of the sets; anchors and their neighbours are among them."""
    middle, deep = masses(2000, seed=0)
    index = select(target, wrap=wrap)(middle, deep)
    assert index.shape == (2000, KEEP)
    assert (np.diff(index, axis=1) > 0).all()
    for case in range(2000):
        np.testing.assert_array_equal(index[case], published(middle[case], deep[case], wrap == "published"))


@pytest.mark.extended
def test_rows_of_the_grid_end() -> None:
    """The published arithmetic takes the first patch of the next row for a neighbour, in about three of ten cases."""
    middle, deep = masses(2000, seed=1)
    grid, flat = (select("onnx", wrap=wrap)(middle, deep) for wrap in ("none", "published"))
    rows, columns = (np.array([[f(a) for a in anchors_of(m)] for m in middle]) for f in (lambda a: a // WIDTH, lambda a: a % WIDTH))
    wraps = np.isin(columns, (0, WIDTH - 1)).any(axis=1)
    clamps = np.isin(rows, (0, N // WIDTH - 1)).any(axis=1)
    other = (grid != flat).any(axis=1)
    assert not (other & ~wraps & ~clamps).any()
    # Measured: 29.1 % of the cases have an anchor at the end of a row (1 - (22 / 24) ** 4 = 29.4 % are expected).
    assert 0.27 < wraps.mean() < 0.32, wraps.mean()
    assert (other & wraps).sum() > 0.6 * wraps.sum()
    # Anchor 23 ends the first row: 24 is no neighbour of it, though it comes next.
    middle, deep = np.zeros((1, N), np.float32), np.linspace(0, 1e-3, N, dtype=np.float32)[None]
    middle[0, [23, 100, 200, 300]] = 1
    assert 24 in select("onnx", wrap="published")(middle, deep)[0]
    kept = select("onnx", wrap="none")(middle, deep)[0]
    assert 24 not in kept
    assert {22, 23, 47} <= set(kept)


@pytest.mark.parametrize("target", TARGETS)
def test_without_anchors_the_deep_block_chooses(target: str) -> None:
    middle, deep = masses(50, seed=2)
    want = np.sort(np.argsort(-deep, axis=1, kind="stable")[:, :KEEP], axis=1)
    np.testing.assert_array_equal(select(target, alpha=0.0)(middle, deep), want)


@pytest.mark.parametrize("target", TARGETS)
def test_equal_masses_go_to_the_lowest_index(target: str) -> None:
    rng = np.random.default_rng(3)
    middle, deep = (rng.integers(0, 4, (50, N)).astype(np.float32) / 8 for _ in range(2))
    index = select(target)(middle, deep)
    for case in range(50):
        np.testing.assert_array_equal(index[case], published(middle[case], deep[case], wrap=False))


TOWER: dict[str, Any] = {"size": 96, "patch": 8, "dim": 32, "heads": 2, "hidden": 64, "middle": 1, "deep": 3, "keep": 36}


def photographs() -> np.ndarray:
    data = pytest.importorskip("skimage.data")
    views = [data.astronaut(), data.chelsea(), data.coffee()]
    return np.stack([v[:288:3, :288:3].transpose(2, 0, 1) for v in views]).astype(np.float32) / 255


@pytest.mark.extended
def test_a_tower_keeps_what_the_maps_of_its_two_blocks_say(tmp_path: Any) -> None:
    """Photographs through a tower with random weights, and the same masses from whole maps; nothing of the ONNX file is as large
    as the map of one block."""
    module = ts.load("hiprune", model="hiprune_tower", params=TOWER)
    image = photographs()
    one, other = (ts.compile(module, target=t, verify=False)(image=image) for t in TARGETS)
    index = np.asarray(one["index"])
    np.testing.assert_array_equal(index, np.asarray(other["index"]))
    np.testing.assert_allclose(np.asarray(one["kept"]), np.asarray(other["kept"]), atol=1e-4)
    assert len({tuple(row) for row in index}) == 3, "photographs keep patches of their own"
    path = tmp_path / "tower.onnx"
    ts.compile(ts.load("hiprune", model="hiprune_tower", params={**TOWER, "size": 256}), verify=False).save(path)
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True).graph
    tokens = (256 // 8) ** 2 + 1
    shapes = [[d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for v in graph.value_info]
    loops = [a.g for n in graph.node for a in n.attribute if n.op_type == "Loop"]
    shapes += [[d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for g in loops for v in g.value_info]
    assert len(loops) == 2
    assert len(shapes) > 50
    assert max(np.prod(s) for s in shapes) < tokens * tokens


@pytest.mark.parametrize(
    ("model", "params", "said"),
    [
        ("hiprune_select", {"keep": 577}, "more patches stay than there are"),
        ("hiprune_select", {"alpha": 1.0, "keep": 8}, "the anchors and their neighbours are more than"),
        ("hiprune_select", {"width": 25}, "whole rows of `width`"),
        ("hiprune_select", {"wrap": "some"}, "wrap is"),
        ("hiprune_tower", {**TOWER, "middle": 4}, "the middle block is one of those"),
    ],
)
def test_bad_input_is_refused(model: str, params: dict[str, Any], said: str) -> None:
    params = params if model == "hiprune_tower" else {"keep": KEEP, "width": WIDTH, **params}
    with pytest.raises(Diagnostic, match=said):
        ts.compile(ts.load("hiprune", model=model, params=params), verify=False)(
            middle=np.zeros((1, N), np.float32), deep=np.zeros((1, N), np.float32)
        )


def test_attention_that_says_nothing_of_itself_is_refused() -> None:
    """Fused by the model's own op: there is no attention to ask."""
    text = """
    use std.nn (linear, softmax)
    op fused(q: f32[B, T, D], k: f32[B, T, D], v: f32[B, T, D]) -> f32[B, T, D] {
        return softmax(einsum("b t d, b s d -> b t s", q, k)) @ v
    }
    model m(x: f32[B, 17, 8]) -> f32[B, 17, 8] {
        q = linear(x, out=8) as q
        return x + fused(q, q, x)
    }"""
    with pytest.raises(Diagnostic, match="found no block to work on") as caught:
        ts.apply(ts.loads(text), "prune_tokens", method="hiprune", width=4, middle=0, k=8)
    assert caught.value.code == "E0707"
