"""Triangles and bands among the weights are written as what they say, and attention that they make causal is not merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.backends.torch import build
from tessera.frontends.positions import write_positions
from tessera.frontends.source import loads, print_module
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.ir.imported import Imported
from tessera.ir.types import DType
from tessera.passes.engine import apply

torch = pytest.importorskip("torch")

INF, LOW = -np.inf, np.finfo(np.float32).min
ONES = np.ones((6, 6), bool)
TRIANGLE = np.tril(ONES)
BAND = np.tril(ONES, 1) & np.triu(ONES, -2)


def reading(array: np.ndarray) -> Module:
    """A model that reads a buffer of these numbers."""
    dtype = DType.from_numpy(array.dtype)
    shape = ", ".join(map(str, array.shape))
    return loads(
        f"model m(x: {dtype}[1]) -> {dtype}[{shape}] {{ buffer w: {dtype}[{shape}] return where(true == true, w, x[0]) }}"
    )


def value(module: Module, weights: dict[str, Any], x: Any) -> np.ndarray:
    return next(iter(build(module, weights)(torch.as_tensor(x)).values())).numpy()


BANDS = {
    "triangle": TRIANGLE,
    "triangle that hides": np.triu(ONES, 1),
    "strict": np.tril(ONES, -1),
    "looking ahead": np.tril(ONES, 2),
    "upper": np.triu(ONES),
    "window": BAND,
    "outside a window": ~BAND,
    "diagonal": np.eye(6, dtype=bool),
    "four axes": TRIANGLE[None, None],
    "more keys": np.tril(np.ones((4, 9), bool), 5),
    "more queries": np.tril(np.ones((9, 4), bool)),
    "integers": TRIANGLE.astype(np.int64),
    "floats": TRIANGLE.astype(np.float32),
    "added": np.where(TRIANGLE, 0, INF).astype(np.float32),
    "added, the lowest": np.where(BAND, 0, LOW).astype(np.float32),
    "added, in half": np.where(BAND, 0, np.finfo(np.float16).min).astype(np.float16),
}


@pytest.mark.parametrize("name", BANDS)
def test_a_band_is_computed(name: str) -> None:
    array = BANDS[name]
    module, x = reading(array), np.zeros(1, array.dtype)
    weights = {"w": array}
    notes = write_positions(module.graph, weights)
    assert notes == ["`w` is a triangle or a band: it is computed from positions"]
    assert not weights
    assert not module.graph.params
    assert loads(print_module(module)) == module
    np.testing.assert_array_equal(value(module, {}, x), array)


OTHERS = {
    "weights": np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32),
    "full": ONES,
    "one element": np.ones((1, 1), bool),
    "a vector": np.array([True, False, False]),
    "rows of their own": np.stack([TRIANGLE, BAND]),
    "two bands": TRIANGLE & ~np.tril(ONES, -2) | np.tril(ONES, -4),
    "three values": np.where(TRIANGLE, np.where(BAND, 0.0, -1e5), INF).astype(np.float32),
    "distances": -np.abs(np.arange(6.0)[:, None] - np.arange(6.0)).astype(np.float32),
    "not low": np.where(TRIANGLE, 0, -5).astype(np.float32),
    "an identity": np.eye(6, dtype=np.float32),
    "almost": np.where(np.arange(36).reshape(6, 6) == 21, False, TRIANGLE),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_band_stays(name: str) -> None:
    module, weights = reading(OTHERS[name]), {"w": OTHERS[name]}
    assert not write_positions(module.graph, weights)
    assert list(module.graph.params) == list(weights) == ["w"]


def test_parameters_may_be_trained() -> None:
    text = print_module(reading(BANDS["added"])).replace("buffer", "param")
    module, weights = loads(text), {"w": BANDS["added"]}
    assert not write_positions(module.graph, weights)
    assert write_positions(module.graph, weights, trained=True)


class Block(torch.nn.Module):  # type: ignore[name-defined]
    """A block as GPT-2 writes it: the triangle is a buffer of as many places as there can be."""

    def __init__(self, mask: np.ndarray, added: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)
        self.added = added
        self.register_buffer("mask", torch.as_tensor(mask)[None, None])

    def forward(self, x: Any) -> Any:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        scores, mask = q @ k.transpose(-1, -2) / 2.0, self.mask[:, :, :t, :t]
        scores = scores + mask if self.added else torch.where(mask, scores, torch.finfo(scores.dtype).min)
        return x + self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(b, t, 8))


def imported(model: Any, importer: str, folder: Path) -> Imported:
    x, free = torch.randn(2, 9, 8), {"x": {0: torch.export.Dim("B"), 1: torch.export.Dim("T", min=2, max=39)}}
    if importer == "torch":
        from tessera.frontends.torch import load

        return load(model, (x,), dynamic_shapes=free)
    from tessera.frontends.onnx import load as load_onnx

    path = folder / "block.onnx"
    torch.onnx.export(model, (x,), str(path), dynamic_shapes=free, dynamo=True, opset_version=18, verbose=False)
    return load_onnx(path)


WIDE = np.ones((40, 40), bool)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("importer", ["torch", "onnx"])
@pytest.mark.parametrize(
    ("mask", "causal"),
    [
        (np.tril(WIDE), True),
        (np.tril(WIDE) & np.triu(WIDE, -3), True),
        (np.where(np.tril(WIDE), 0, INF).astype(np.float32), True),
        (np.where(np.tril(WIDE), 0, LOW).astype(np.float32), True),
        (np.tril(WIDE, 3) & np.triu(WIDE, -3), False),
    ],
    ids=["triangle", "window of the past", "added", "added, the lowest", "window"],
)
def test_a_buffer_makes_attention_causal(mask: np.ndarray, causal: bool, importer: str, tmp_path: Path) -> None:
    model = Block(mask, mask.dtype != bool).eval()
    found = imported(model, importer, tmp_path)
    module, report = apply(found.module, "raise_composites")
    assert report.contract == "exact"
    (node,) = (n for n in module.graph.nodes() if n.op.name == "attention")
    assert node.attrs["causal"] == causal
    weights = {name: found.weights[name] for name in module.graph.params}
    for tokens in (2, 13):
        x = torch.randn(3, tokens, 8)
        with torch.no_grad():
            want, (got,) = model(x), build(module, weights)(x).values()
        np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-5)
    if causal:
        with pytest.raises(Diagnostic, match="attends causally") as caught:
            apply(module, "merge_tokens", r=2)
        assert caught.value.code == "E0708"
    else:
        assert apply(module, "merge_tokens", r=2, restore=True)[1].modified == 1


HOLES = {
    "one pair": [(3, 5)],
    "above the diagonal": [(i, j) for i in range(40) for j in range(i + 1, 40) if (i, j) != (0, 39)],
    "a column": [(i, 20) for i in range(20)],
    "a row": [(5, j) for j in range(6, 39)],
    **{f"random {seed}": [tuple(p) for p in np.random.default_rng(seed).integers(1, 39, (60, 2))] for seed in range(8)},
}


@pytest.mark.parametrize(
    "holes", [pytest.param(h, id=n, marks=() if n == "one pair" else pytest.mark.extended) for n, h in HOLES.items()]
)
def test_holes_away_from_the_corners_are_seen(holes: list[tuple[int, int]]) -> None:
    """A buffer of biases is looked at as a whole: what is hidden one way is no learnt number."""
    bias = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    for query, key in holes:
        if query != key:
            bias[query, key] = LOW
    found = imported(Block(bias, True).eval(), "torch", Path())
    module, _ = apply(found.module, "raise_composites")
    weights = {name: found.weights[name] for name in module.graph.params}
    x = torch.randn(2, 12, 8)
    with torch.no_grad():
        want, (got,) = Block(bias, True).eval()(x), build(module, weights)(x).values()
    np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-5)
    with pytest.raises(Diagnostic) as caught:
        apply(module, "merge_tokens", r=2)
    assert caught.value.code == "E0708"


def test_numbers_that_hide_nothing_are_learnt() -> None:
    bias = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    module, _ = apply(imported(Block(bias, True).eval(), "torch", Path()).module, "raise_composites")
    assert apply(module, "merge_tokens", r=2, restore=True)[1].modified == 1


def test_a_model_that_computes_nothing_else() -> None:
    module = loads("model m(x: f32[1]) -> (f32[1], bool[6, 6]) { buffer w: bool[6, 6] return x, w }")
    assert not list(module.graph.nodes())
    weights: dict[str, Any] = {"w": TRIANGLE}
    assert write_positions(module.graph, weights) == ["`w` is a triangle or a band: it is computed from positions"]
    found = build(module, weights)(torch.zeros(1))
    np.testing.assert_array_equal(list(found.values())[1].numpy(), TRIANGLE)
