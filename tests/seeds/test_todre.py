"""ToDRE's row: diversity of photographs' patches beside its maximum and random choice; dropping the image in a decoder."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

TARGETS = ("torch", "onnx")
K, N = 58, 576


@cache
def photographs() -> np.ndarray:
    """[6, 576, 192]: 24 x 24 patches of 8 x 8 pixels of six photographs, centred over the patches, of length 1."""
    data = pytest.importorskip("skimage.data")
    views = (data.astronaut, data.camera, data.chelsea, data.coffee, data.rocket, data.coins)
    made = []
    for view in views:
        image = np.asarray(view(), np.float32)
        image = image if image.ndim == 3 else image[..., None].repeat(3, -1)
        rows, columns = (np.linspace(0, side - 1, 192).astype(int) for side in image.shape[:2])
        patches = image[rows][:, columns, :3].reshape(24, 8, 24, 8, 3).transpose(0, 2, 1, 3, 4).reshape(N, -1)
        patches -= patches.mean(0)
        made.append(patches / np.linalg.norm(patches, axis=1, keepdims=True))
    return np.stack(made).astype(np.float32)


@cache
def chosen(objective: str, target: str) -> np.ndarray:
    row = np.random.default_rng(0).random((6, 1, N), np.float32)
    module = ts.load("todre", model="todre_select", params={"k": K, "objective": objective})
    made = ts.compile(module, target=target, verify=False)(x=photographs(), row=row)
    index = np.asarray(made["index"])
    assert (index[np.arange(6)] == row[:, 0].argmax(1)[:, None]).any(1).all(), "what the class token attends to most is in"
    np.testing.assert_array_equal(np.asarray(made["kept"]), np.take_along_axis(photographs(), index[..., None], axis=1))
    return index


def random_index(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(N)[:K] for _ in range(6)])


def spread(index: np.ndarray) -> np.ndarray:
    """The mean cosine distance of pairs, of each image."""
    x = np.take_along_axis(photographs(), index[..., None], axis=1).astype(np.float64)
    return 1 - ((x.sum(1) ** 2).sum(1) - K) / (K * (K - 1))


def radius(index: np.ndarray) -> np.ndarray:
    """How far the farthest patch is from the nearest chosen one, of each image."""
    x = photographs().astype(np.float64)
    near = np.einsum("btd,bkd->btk", x, np.take_along_axis(x, index[..., None], axis=1)).max(2)
    return (1 - near).max(1)


def closest(index: np.ndarray) -> np.ndarray:
    """The distance of the two chosen patches that are most alike, of each image."""
    x = np.take_along_axis(photographs(), index[..., None], axis=1).astype(np.float64)
    cosine = np.einsum("btd,bkd->btk", x, x)
    cosine[:, np.arange(K), np.arange(K)] = -1
    return 1 - cosine.max((1, 2))


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_the_largest_sum_of_distances(target: str) -> None:
    """Mean pairwise distance at its theoretical maximum k / (k - 1), which random choice does not reach."""
    most = K / (K - 1)
    assert (spread(chosen("max_sum", target)) >= 0.999 * most).all()
    assert max(spread(random_index(seed)).mean() for seed in range(10)) < 0.999 * most


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_every_patch_lies_near_a_chosen_one(target: str) -> None:
    """The covering radius beside random's; and no two chosen patches are alike, which the sum of distances does not see to."""
    index = chosen("k_center", target)
    random = np.mean([radius(random_index(seed)) for seed in range(20)], axis=0)
    assert (radius(index) <= 0.75 * random).all()
    # Greedy choice is within twice the best: the k chosen and the farthest patch lie at least a radius apart from each other.
    assert (closest(index) >= radius(index) - 1e-6).all()
    assert (closest(index) >= 0.29).all()
    assert (closest(chosen("max_sum", target)) < 0.04).all()
    assert closest(index).min() > 4 * closest(chosen("max_sum", target)).max()


@pytest.mark.extended
@pytest.mark.parametrize("objective", ["max_sum", "k_center"])
def test_the_same_indices_everywhere(objective: str) -> None:
    np.testing.assert_array_equal(chosen(objective, "torch"), chosen(objective, "onnx"))


# The second stage ---------------------------------------------------------------------------------------------------------

S, V, T = 4, 24, 8
DIM, HEADS, DEPTH, CUT = 32, 2, 6, 3
FRONT: dict[str, Any] = {
    "image_start": S, "image_end": S + V, "text_start": S + V, "dim": DIM, "depth": DEPTH, "cut": CUT, "heads": HEADS, "hidden": 64,
}  # fmt: skip
REST: dict[str, Any] = {key: FRONT[key] for key in ("dim", "depth", "cut", "heads", "hidden")} | {"vocab": 50}


def prompt() -> np.ndarray:
    """Features whose first two coordinates say which are the image's and which the text's."""
    x = np.random.default_rng(1).standard_normal((1, S + V + T, DIM)).astype(np.float32) * 0.3
    x[:, :, :2] = 0
    x[:, S : S + V, 0] = x[:, S + V :, 1] = 3
    return x


def weights(looks: float) -> dict[str, np.ndarray]:
    """Random weights of all layers; in layer `CUT` the text's queries score the image's keys by `looks` more than others."""
    rng = np.random.default_rng(2)
    made: dict[str, np.ndarray] = {}
    for model, params in (("todre_front", FRONT), ("todre_rest", REST)):
        for name, p in ts.load("todre", model=model, params=params).graph.params.items():
            shape = [int(d) for d in p.type.shape]
            made[name] = (np.ones(shape) if "norm" in name else rng.standard_normal(shape) * 0.08).astype(np.float32)
    # The slowest pair of each head, which turns least with the distance.
    for kind, coordinate, value in (("q", 1, 1.0), ("k", 0, looks)):
        w = made[f"model.layers.{CUT}.self_attn.{kind}_proj.weight"]
        w[DIM // HEADS // 2 - 1 :: DIM // HEADS, coordinate] = value
    return made


def ran(model: str, params: dict[str, Any], target: str, made: dict[str, np.ndarray], **inputs: Any) -> dict[str, np.ndarray]:
    module = ts.load("todre", model=model, params=params)
    own = {name: made[name] for name in module.graph.params}
    return {k: np.asarray(v) for k, v in ts.compile(module, target=target, weights=own, verify=False)(**inputs).items()}


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("looks", "drops"), [(-3.0, True), (3.0, False)])
def test_the_image_leaves_where_the_text_does_not_look(looks: float, drops: bool, target: str) -> None:
    made = weights(looks)
    front = ran("todre_front", FRONT, target, made, x=prompt())
    assert bool(front["drop"][0]) is drops, front["ratio"]
    assert bool(front["ratio"][0] < 0.1) is drops
    rows = np.r_[0:S, S + V : S + V + T] if drops else np.arange(S + V + T)
    x, position = front["features"][:, rows], rows[None]
    rest = ran("todre_rest", REST, target, made, x=x, position=position, visible=np.ones((1, len(rows)), bool))
    # The caches of the layers behind have as many rows as are left, those in front all of them.
    assert rest["keys"].shape == (DEPTH - CUT - 1, 1, HEADS, len(rows), DIM // HEADS)
    assert front["keys"].shape == (CUT + 1, 1, HEADS, S + V + T, DIM // HEADS)
    # Dropped is the same as there and hidden.
    hidden = np.isin(np.arange(S + V + T), rows)[None]
    whole = {"x": front["features"], "position": np.arange(S + V + T)[None], "visible": hidden}
    np.testing.assert_allclose(ran("todre_rest", REST, target, made, **whole)["logits"], rest["logits"], atol=1e-5)


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("looks", "drops"), [(-3.0, True), (3.0, False)])
def test_one_file_finds_out_while_it_runs(looks: float, drops: bool, target: str) -> None:
    """What it gives is what the two halves give whose caller chose; what is left of the late caches comes first."""
    made = weights(looks)
    whole = ran("todre_prompt", {**FRONT, "vocab": 50}, target, made, x=prompt())
    front = ran("todre_front", FRONT, target, made, x=prompt())
    rows = np.r_[0:S, S + V : S + V + T] if drops else np.arange(S + V + T)
    fed = {"x": front["features"][:, rows], "position": rows[None], "visible": np.ones((1, len(rows)), bool)}
    rest = ran("todre_rest", REST, target, made, **fed)
    assert (bool(whole["dropped"]), int(whole["left"])) == (drops, len(rows))
    for name in ("ratio", "keys", "values"):
        np.testing.assert_allclose(whole[name], front[name], atol=1e-5)
    np.testing.assert_allclose(whole["logits"], rest["logits"], atol=1e-5)
    for name in ("keys", "values"):
        np.testing.assert_allclose(whole[f"late_{name}"][:, :, :, : len(rows)], rest[name], atol=1e-5)
        assert not whole[f"late_{name}"][:, :, :, len(rows) :].any()


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_the_image_stays_while_one_row_looks_at_it(target: str) -> None:
    made = weights(3.0)
    blind = prompt()
    blind[:, S + V :, 1] = -3
    alone = ran("todre_prompt", {**FRONT, "vocab": 50}, target, made, x=blind)
    both = ran("todre_prompt", {**FRONT, "vocab": 50}, target, made, x=np.concatenate([blind, prompt()]))
    assert bool(alone["dropped"])
    assert not bool(both["dropped"])
    np.testing.assert_array_equal(both["ratio"] < 0.1, [True, False])
    assert int(both["left"]) == S + V + T


@pytest.mark.extended
def test_only_one_of_the_ways_is_computed(tmp_path: Any) -> None:
    """The layers behind the cut stand in both branches of an `If`, with the image's rows and without, and nowhere else."""
    path = tmp_path / "prompt.onnx"
    module = ts.load("todre", model="todre_prompt", params={**FRONT, "vocab": 50})
    ts.compile(module, weights=weights(3.0), verify=False).save(path)
    graph = onnx.load(path).graph
    (choice,) = (node for node in graph.node if node.op_type == "If")
    branches = [a.g for a in choice.attribute]

    def matrices(of: Any) -> int:
        return sum(node.op_type in ("MatMul", "Gemm") for node in of.node)

    # Seven a layer.
    assert [matrices(branch) for branch in branches] == [7 * (DEPTH - CUT - 1)] * 2
    assert 7 * (CUT + 1) <= matrices(graph) <= 7 * (CUT + 1) + 3


@pytest.mark.parametrize(
    ("model", "params", "said"),
    [
        ("todre_select", {"k": 577}, "k tokens stay"),
        ("todre_select", {"k": 0}, "k tokens stay"),
        ("todre_front", {**FRONT, "image_end": S + V + 1}, "the roles follow each other"),
        ("todre_front", {**FRONT, "cut": DEPTH}, "the cut is behind one of the layers"),
        ("todre_front", {**FRONT, "tau": 1.0}, "tau is a share"),
        ("todre_front", {**FRONT, "tau": 0.0}, "tau is a share"),
        ("todre_prompt", {**FRONT, "image_start": -1}, "the roles follow each other"),
        ("todre_prompt", {**FRONT, "text_start": S + V - 1}, "the roles follow each other"),
        ("todre_prompt", {**FRONT, "cut": DEPTH - 1}, "the cut is in front of one of the layers"),
    ],
)
def test_bad_input_is_refused(model: str, params: dict[str, Any], said: str) -> None:
    with pytest.raises(Diagnostic, match=said):
        ts.compile(ts.load("todre", model=model, params=params), verify=False)(
            x=np.ones((1, N, 8), np.float32), row=np.ones((1, 1, N), np.float32)
        )


@pytest.mark.parametrize("target", TARGETS)
def test_a_token_of_zeros_stops_the_run(target: str) -> None:
    run = ts.compile(ts.load("todre", model="todre_select", params={"k": 2}), target=target, verify=False)
    x = np.ones((1, 5, 4), np.float32)
    x[0, 3] = 0
    with pytest.raises(Diagnostic) as caught:
        run(x=x, row=np.ones((1, 1, 5), np.float32))
    assert caught.value.code == "E0912"
