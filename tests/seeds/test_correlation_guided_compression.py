"""The row of Token-level Correlation-guided Compression: densities of scans, exact counts, draws by weight, and reading pages."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic

from . import reading

TARGETS = ("torch", "onnx")


@cache
def select(target: str, **params: Any) -> Any:
    module = ts.load(reading.SEED, model="correlation_select", params=params)
    run = ts.compile(module, target=target, verify=False)

    def call(keys: np.ndarray, seed: int = 0, **p: np.ndarray) -> dict[str, np.ndarray]:
        p = {"deep": np.ones(keys.shape[:2], np.float32), "local": np.ones(keys.shape[:2], np.float32), **p}
        return {k: np.asarray(v) for k, v in run(keys=keys, **p, seed=seed).items()}

    return call


def sub_images(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Of a scan cut to 2 x 4 sub-images: its patches of 8 x 8 pixels [8, N, 64], and how much of each sub-image is ink."""
    view = getattr(pytest.importorskip("skimage.data"), name)()
    height, width = view.shape[0] // 16 * 8, view.shape[1] // 32 * 8
    image = view[: 2 * height, : 4 * width].astype(np.float32) / 255
    cut = image.reshape(2, height, 4, width).transpose(0, 2, 1, 3).reshape(8, height, width)
    patches = cut.reshape(8, height // 8, 8, width // 8, 8).transpose(0, 1, 3, 2, 4).reshape(8, -1, 64)
    return patches, (cut < 0.8 * cut.mean((1, 2), keepdims=True)).mean((1, 2))


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "least"), [("page", 0.74), ("text", 0.9)])
def test_where_there_is_ink_there_is_information(name: str, least: float, target: str) -> None:
    keys, ink = sub_images(name)
    made = select(target, threshold=0.99, least=4)(keys)
    # Measured: 0.77 on `page`, 0.96 on `text`.
    assert np.corrcoef(made["density"], ink)[0, 1] > least
    np.testing.assert_array_equal(made["kept"].sum(1), made["count"])
    np.testing.assert_allclose(made["count"], np.maximum(made["density"] * keys.shape[1], 1), rtol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_a_blank_sub_image_keeps_one_token_and_a_varied_one_all(target: str) -> None:
    rng = np.random.default_rng(0)
    keys = np.stack([np.full((40, 16), 0.5), rng.standard_normal((40, 16))]).astype(np.float32)
    made = select(target, least=4)(keys)
    assert made["density"].tolist() == [0.0, 1.0]
    assert made["count"].tolist() == made["kept"].sum(1).tolist() == [1, 40]


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_counting_in_blocks_is_exact(target: str) -> None:
    """Against the whole map; cosines are multiples of 1/8, so that no rounding decides."""
    text = "use std.token.prune (peers)\nmodel m(x: f32[B, T, 16]) -> f32[B, T] { return peers(x, threshold=0.3) }"
    run = ts.compile(loads(text), target=target, verify=False)
    rng = np.random.default_rng(1)
    for tokens in (1, 63, 64, 65, 200):
        x = rng.choice([-1.0, 1.0], (3, tokens, 16)).astype(np.float32)
        cosine = np.einsum("bik,bjk->bij", x, x) / 16
        want = (cosine > 0.3).sum(2) - 1
        np.testing.assert_array_equal(np.asarray(next(iter(run(x=x).values()))), want)


@pytest.mark.extended
def test_draws_are_those_of_the_weights() -> None:
    """5,000 draws of 16 of 32: the same ones on both targets, and the heavier a token the oftener it is in."""
    rng = np.random.default_rng(2)
    keys = rng.standard_normal((32, 16)).astype(np.float32)
    keys[16:] = keys[16]
    weights = rng.permutation(1.25 ** np.arange(32)).astype(np.float32)
    many = {name: np.tile(v, (5000, *[1] * v.ndim)) for name, v in (("keys", keys), ("deep", weights), ("local", weights))}
    one, other = (select(target, least=4)(seed=3, **many)["kept"] for target in TARGETS)
    np.testing.assert_array_equal(one, other)
    assert (one.sum(1) == 16).all()
    often = one.mean(0)
    ranks = [np.argsort(np.argsort(v)) for v in (often, weights)]
    assert np.corrcoef(*ranks)[0, 1] > 0.99
    assert (select("onnx", least=4)(seed=4, **many)["kept"] != other).any()


@cache
def read(how: str, target: str, count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """The share of its digits that is read of each of ``count`` pages of digits that were held back, and the share of tokens kept.

    The early block alone says what stands out (`share=0`), as was best on pages of the digits of the training.
    """
    from safetensors.numpy import load_file

    page, label = reading.pages(count, 10**6, held_back=True)
    module = reading.reader(how, threshold=0.98, least=3, share=0.0)
    run = ts.compile(module, target=target, weights=load_file(reading.WEIGHTS), verify=False)
    made = {k: np.asarray(v) for k, v in run(page=page, seed=1).items()}
    said = np.full(label.shape, -1)
    for i, kept in enumerate(made["count"]):
        said[i, made["index"][i, :kept]] = made["scores"][i, :kept].argmax(-1)
    digit = label != reading.BLANK
    return ((said == label) & digit).sum(1) / digit.sum(1), made["count"] / label.shape[1]


def interval(x: np.ndarray) -> tuple[float, float]:
    """The mean's confidence interval of 95 %."""
    half = 1.96 * x.std(ddof=1) / len(x) ** 0.5
    return x.mean() - half, x.mean() + half


@pytest.mark.extended
def test_pages_are_read_with_a_quarter_of_their_tokens() -> None:
    """600 pages: more than half of the tokens are gone, and less than a point of the digits; as many tokens, but the same number
    from every sub-image, lose far more. Measured: 26.5 % of the tokens, 0.69 points lost (95 %: 0.51 to 0.87); evenly 49.7."""
    whole, _ = read("all", "onnx")
    compressed, kept = read("density", "onnx")
    even, kept_evenly = read("even", "onnx")
    assert whole.mean() > 0.95
    assert kept.mean() < 0.5
    low, high = interval(whole - compressed)
    assert -0.001 <= low < high < 0.01, (low, high)
    assert abs(kept.mean() - kept_evenly.mean()) < 0.03
    assert interval(compressed - even)[0] > 0.3
    np.testing.assert_allclose(read("density", "torch", 50)[0], read("density", "onnx", 50)[0])


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"threshold": 1.0}, "the threshold is a cosine"),
        ({"threshold": -1.0}, "the threshold is a cosine"),
        ({"least": 41}, "as many like tokens as there are"),
        ({"temperature": 0.0}, "a temperature is above 0"),
    ],
)
def test_bad_options_are_refused(params: dict[str, Any], said: str) -> None:
    with pytest.raises(Diagnostic, match=said):
        select("torch", **params)(np.ones((1, 40, 8), np.float32))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("what", ["keys", "negative", "nothing"])
def test_bad_numbers_stop_the_run(what: str, target: str) -> None:
    keys = np.ones((2, 8, 4), np.float32)
    p = np.ones((2, 8), np.float32)
    if what == "keys":
        keys[1, 2] = 0
    else:
        p[1] = np.arange(8) - 3 if what == "negative" else 0
    with pytest.raises(Diagnostic) as caught:
        select(target, least=2)(keys, deep=p, local=p)
    assert caught.value.code == "E0912"


def test_a_model_without_a_class_token_is_refused() -> None:
    sizes = {"dim": 16, "depth": 2, "heads": 2, "hidden": 32, "vocab": 9, "pooler": False}
    with pytest.raises(Diagnostic, match="it reads none by its place") as caught:
        ts.apply(ts.load("zoo/bert", "bert", params=sizes), "prune_tokens", method="by_correlation", k=6)
    assert caught.value.code == "E0705"
