"""What the page draws of an example: its words, or its pixels as they were before they were normalised."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.driver.report.became import _pixels, became, words_of
from tessera.driver.report.fates import Step
from tessera.driver.report.measure import Field
from tessera.ir.dims.dim import as_dim, sym
from tessera.runtime.inputs import Options

MAPS = {"fate0_source": np.array([[0, 0, 1, 1]]), "fate0_position": np.array([[0, 2]])}


def step(name: str, merges: bool = True) -> Step:
    """Of 4 tokens 0 and 2 stay."""
    return Step(0, None, 0, frozenset((name,)), "merge", merges, 0, as_dim(4), as_dim(2))


def test_words() -> None:
    fields = [Field("mask", "i64", (sym("B"), sym("T"))), Field("input_ids", "i64", (sym("B"), sym("T")))]
    feed = {"input_ids": np.array([[5, 6, 7, 8]]), "mask": np.ones((1, 4), np.int64)}
    found = became([fields[1]], [step("input_ids")], feed, MAPS, Options())
    assert found is not None
    assert found["facts"] == "4 tokens: 2 stay, 2 are merged into others"
    assert [w["text"] for w in found["words"]] == ["#5", "#6", "#7", "#8"]
    hues = [w["hue"] for w in found["words"]]
    assert hues[0] == hues[1] != hues[2] == hues[3]


def test_patches() -> None:
    fields = [Field("image", "f32", (sym("B"), as_dim(3), as_dim(8), as_dim(8)))]
    feed = {"image": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    found = became(fields, [step("image")], feed, MAPS, Options())
    assert found is not None
    assert [p["told"] for p in found["pictures"]] == ["the image as the model sees it", "behind block 0: 2 tokens"]
    assert all(p["src"].startswith("data:image/png;base64,") for p in found["pictures"])


def test_what_is_no_grid_is_not_drawn() -> None:
    shape = (1, 3, 8, 10)
    fields = [Field("image", "f32", tuple(map(as_dim, shape)))]
    maps = {"fate0_source": np.array([[0, 0, 1, 1, 1, 1, 1]]), "fate0_position": np.array([[0, 2]])}
    assert became(fields, [step("image")], {"image": np.zeros(shape, np.float32)}, maps, Options()) is None


def test_other_inputs_are_not_drawn() -> None:
    fields = [Field("sound", "f32", (sym("B"), sym("T")))]
    assert became(fields, [step("sound")], {"sound": np.zeros((1, 4), np.float32)}, MAPS, Options()) is None


@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels(channels_last: bool) -> None:
    image = np.linspace(-2, 2, 3 * 4 * 4).reshape(3, 4, 4).astype(np.float32)
    shown = _pixels(image.transpose(1, 2, 0) if channels_last else image)
    assert (shown.shape, shown.dtype, shown.min(), shown.max()) == ((4, 4, 3), np.uint8, 0, 255)
    assert _pixels(np.zeros((1, 4, 4), np.float32)).shape == (4, 4, 3)


def test_marks_of_spaces_are_left_out() -> None:
    class Vocabulary:
        def id_to_token(self, number: int) -> str | None:
            return {1: "Ġcat", 2: "▁dog", 3: "Ġ"}.get(number)

    assert words_of([1, 2, 3, 4], Vocabulary()) == ["cat", "dog", "·", "#4"]
