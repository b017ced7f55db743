"""HiRED's row: budgets by their formula, quadrants and the published stripes, the class token's row, what a decoder saves."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.analysis.cost import cost
from tessera.ir.diagnostics import Diagnostic

TARGETS = ("torch", "onnx")
SIDE, N, P = 24, 576, 4


@cache
def select(target: str, **params: Any) -> Any:
    module = ts.load("hired", model="hired_select", params={"side": SIDE, **params})
    run = ts.compile(module, target=target, verify=False)
    return lambda early, late: {k: np.asarray(v) for k, v in run(early=early, late=late).items()}


def parts(early: np.ndarray, rho: float, alpha: float, published: bool) -> tuple[np.ndarray, np.ndarray]:
    """Marks in each crop, and the budget's shares, of one image."""
    budget = int((P + 1) * N * rho)
    whole = min(int(alpha * budget), N)
    mark = np.zeros(N, int)
    mark[np.argsort(-early, kind="stable")[: int(N * (1 - alpha))]] = 1
    cells, axes = ((2, 2, -1), 2) if published else ((2, SIDE // 2, 2, SIDE // 2), (1, 3))
    marks = mark.reshape(cells).sum(axes).ravel()
    return marks, np.r_[whole, np.minimum((budget - whole) * marks // marks.sum(), N)]


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("rho", "alpha", "compat"), [(0.2, 0.5, "none"), (0.1, 0.3, "published"), (0.4, 0.75, "none")])
def test_every_image_gets_its_share(rho: float, alpha: float, compat: str, target: str) -> None:
    """200 random images: the shares are the formula's, what stays is the best of each, rounding loses at most P of the budget."""
    rng = np.random.default_rng(0)
    early, late = (np.exp(3 * rng.standard_normal(s)).astype(np.float32) for s in ((200, N), (200, P + 1, N)))
    made = select(target, rho=rho, alpha=alpha, compat=compat)(early, late)
    budget = int((P + 1) * N * rho)
    assert made["index"].shape == (200, budget)
    for i in range(200):
        marks, share = parts(early[i], rho, alpha, compat == "published")
        np.testing.assert_array_equal(made["marks"][i], marks)
        np.testing.assert_array_equal(made["share"][i], share)
        count = int(made["count"][i])
        assert count == share.sum() <= budget
        if (share < N).all():
            assert count >= budget - P
        kept = [np.sort(np.argsort(-late[i, p], kind="stable")[: share[p]]) + p * N for p in range(P + 1)]
        np.testing.assert_array_equal(made["index"][i, :count], np.concatenate(kept))


@pytest.mark.parametrize("target", TARGETS)
def test_a_quadrant_is_a_quadrant(target: str) -> None:
    """All 144 marks are in the upper right quarter: the crop that shows it gets the crops' whole budget. The published code cuts
    the flat row of patches instead, and gives it to the two upper crops."""
    early = np.zeros((1, N), np.float32)
    early.reshape(SIDE, SIDE)[: SIDE // 2, SIDE // 2 :] = 1
    late = np.random.default_rng(1).random((1, P + 1, N), np.float32)
    for compat, marks, share in (("none", [0, 144, 0, 0], [216, 0, 72, 0, 0]), ("published", [72, 72, 0, 0], [216, 36, 36, 0, 0])):
        made = select(target, rho=0.1, alpha=0.75, compat=compat)(early, late)
        assert made["marks"][0].tolist() == marks
        assert made["share"][0].tolist() == share


def test_the_row_of_the_class_token_is_that_of_the_map() -> None:
    """To 1e-6 of a softmax over all rows; the file holds no map."""
    text = """
    use std.attention (attention)
    model m(q: f32[B, 4, T, 16], k: f32[B, 4, T, 16]) -> (y: f32[B, 4, T, 16], row: f32[B, 4, T]) {
        y, row = attention(q, k, k, row=0)
        return y, row
    }"""
    q, k = np.random.default_rng(2).standard_normal((2, 2, 4, 197, 16)).astype(np.float32)
    scores = np.einsum("bhtk,bhsk->bhts", q, k) / 4
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    want = (weights / weights.sum(-1, keepdims=True))[:, :, 0]
    for target in TARGETS:
        np.testing.assert_allclose(np.asarray(ts.compile(loads(text), target=target)(q=q, k=k)["row"]), want, atol=1e-6)


SMALL: dict[str, Any] = {
    "size": 96, "patch": 8, "dim": 32, "tower_heads": 2, "late": 2,
    "width": 128, "depth": 4, "heads": 4, "hidden": 256, "vocab": 30,
}  # fmt: skip


def partitions() -> np.ndarray:
    """Two photographs, each whole and cut to 2 x 2 crops, of 96 x 96 pixels."""
    data = pytest.importorskip("skimage.data")
    made = []
    for view in (data.astronaut(), data.coffee()[:, :400]):
        at = [np.linspace(0, side - 1, 192).astype(int) for side in view.shape[:2]]
        large = view[at[0]][:, at[1]].astype(np.float32) / 255
        crops = [large[y : y + 96, x : x + 96] for y in (0, 96) for x in (0, 96)]
        made.append(np.stack([large[::2, ::2], *crops]).transpose(0, 3, 1, 2))
    return np.stack(made)


@pytest.mark.extended
def test_photographs_through_a_tower_and_a_decoder() -> None:
    """The same on both targets; the decoder's work and caches fall as the tokens do: 720 visual ones to 144, beside 16 of text."""
    text = np.random.default_rng(3).standard_normal((2, 16, 128)).astype(np.float32)
    made, flops = {}, {}
    for rho in (0.2, 1.0):
        module = ts.load("hired", model="hired_prefill", params={**SMALL, "rho": rho})
        blocks = cost(module.graph).at({"B": 2, "L": 16}).blocks
        flops[rho] = sum(b.cost.flops for b in blocks[-SMALL["depth"] :])
        one, other = (ts.compile(module, target=t, verify=False)(images=partitions(), text=text) for t in TARGETS)
        np.testing.assert_array_equal(np.asarray(one["count"]), np.asarray(other["count"]))
        np.testing.assert_allclose(np.asarray(one["logits"]), np.asarray(other["logits"]), atol=1e-4)
        made[rho] = {k: np.asarray(v) for k, v in one.items()}
    assert (made[1.0]["count"] <= 720).all()
    assert ((made[0.2]["count"] <= 144) & (made[0.2]["count"] >= 140)).all()
    assert made[0.2]["keys"].nbytes * (720 + 16) == made[1.0]["keys"].nbytes * (144 + 16)
    # Linear layers by the tokens, attention by their square.
    linear, pairs = (8 + 6 * 2) * 128 * 128, 4 * 128
    work = {t: t * linear + t * t * pairs for t in (160, 736)}
    assert flops[0.2] / flops[1.0] == pytest.approx(work[160] / work[736], rel=0.06)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"rho": 0.0}, "rho is the share"),
        ({"rho": 1.5}, "rho is the share"),
        ({"alpha": -0.1}, "alpha is the whole image's share"),
        ({"alpha": 1.1}, "alpha is the whole image's share"),
        ({"alpha": 1.0, "rho": 0.5}, "no patch is marked"),
        ({"rows": 5}, "the crops divide the grid"),
        ({"compat": "old"}, "compat is"),
    ],
)
def test_bad_input_is_refused(params: dict[str, Any], said: str) -> None:
    with pytest.raises(Diagnostic, match=said):
        select("torch", **params)


def test_crops_of_another_number_are_refused() -> None:
    with pytest.raises(Diagnostic, match="late"):
        select("onnx", rho=0.1, alpha=0.75, compat="none")(np.ones((1, N), np.float32), np.ones((1, 4, N), np.float32))


def test_a_model_without_a_class_token_is_refused() -> None:
    sizes = {"size": 32, "patch": 8, "dim": 16, "depth": 2, "heads": 2, "hidden": 32}
    module = ts.load("zoo/bert", "bert", params={"dim": 16, "depth": 2, "heads": 2, "hidden": 32, "vocab": 9, "pooler": False})
    with pytest.raises(Diagnostic, match="it reads none by its place"):
        ts.apply(module, "prune_tokens", method="hired", width=4, k=6)
    assert ts.apply(ts.load("zoo/vit", "vit", params=sizes), "prune_tokens", method="hired", width=4, k=6)
