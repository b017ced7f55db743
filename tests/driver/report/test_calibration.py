"""Calibration data of every kind, one example at a time, and what is wrong with the rest."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.driver.report.calibration import CalibrationOptions, preprocessing, read_examples
from tessera.driver.report.measure import Field
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import Dim, as_dim, sym

HOW = CalibrationOptions()


def field(name: str, dtype: str, *shape: str | int, bound: int | None = None) -> Field:
    dims: tuple[Dim, ...] = tuple(sym(d) if isinstance(d, str) else as_dim(d) for d in shape)
    return Field(name, dtype, dims, bound)


IDS = field("input_ids", "i64", "B", "T", bound=50)
MASK = field("attention_mask", "i64", "B", "T")
IMAGE = field("image", "f32", "B", 3, 8, 8)


def code(fields: list[Field], path: Path, how: CalibrationOptions = HOW) -> str:
    with pytest.raises(Diagnostic) as caught:
        read_examples(fields, path, how)
    return caught.value.code


def test_arrays_by_name(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    ids, mask = np.arange(12).reshape(3, 4), np.ones((3, 4), np.int64)
    np.savez(path, input_ids=ids, attention_mask=mask)
    found = read_examples([IDS, MASK], path, HOW)
    assert (len(found.feeds), found.what, found.random) == (3, "3 examples of c.npz", False)
    np.testing.assert_array_equal(found.feeds[1]["input_ids"], ids[1:2])
    limited = read_examples([IDS, MASK], path, CalibrationOptions(limit=2))
    assert limited.what == "the first 2 of 3 examples of c.npz"
    assert len(limited.feeds) == 2


def test_an_input_without_examples_goes_along_whole(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", input_ids=np.zeros((3, 4), np.int64), place=np.arange(4))
    found = read_examples([IDS, field("place", "i64", "T")], tmp_path / "c.npz", HOW)
    assert [f["place"].shape for f in found.feeds] == [(4,)] * 3


def test_a_fixed_batch_is_filled(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.zeros((5, 4), np.float32))
    found = read_examples([field("x", "f32", 2, 4)], tmp_path / "c.npy", HOW)
    assert [f["x"].shape for f in found.feeds] == [(2, 4), (2, 4)]
    np.save(tmp_path / "one.npy", np.zeros((1, 4), np.float32))
    assert code([field("x", "f32", 2, 4)], tmp_path / "one.npy") == "E0934"


@pytest.mark.parametrize(
    ("arrays", "wanted"),
    [
        ({"input_ids": np.zeros((3, 4), np.int64), "attention_mask": np.ones((2, 4), np.int64)}, "E0934"),
        ({"input_ids": np.zeros((0, 4), np.int64), "attention_mask": np.ones((0, 4), np.int64)}, "E0934"),
        ({"input_ids": np.zeros((3, 4), np.int64)}, "E0901"),
        ({"input_ids": np.zeros((3, 4), np.float32), "attention_mask": np.ones((3, 4), np.int64)}, "E0903"),
        ({"input_ids": np.zeros((3,), np.int64), "attention_mask": np.ones((3, 4), np.int64)}, "E0902"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], wanted: str) -> None:
    np.savez(tmp_path / "c.npz", **arrays)
    assert code([IDS, MASK], tmp_path / "c.npz") == wanted


@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_what_is_not_used_is_not_read(tmp_path: Path, ending: str) -> None:
    """A small file may hold very much: 2 of 4,000 examples take the memory of 2."""
    path = tmp_path / f"c.{ending}"
    images = np.zeros((4000, 3, 8, 8), np.float32)
    if ending == "npz":
        np.savez_compressed(path, image=images)
    else:
        np.save(path, images)
    tracemalloc.start()
    found = read_examples([IMAGE], path, CalibrationOptions(limit=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(found.feeds), found.what) == (2, f"the first 2 of 4000 examples of c.{ending}")
    assert peak < images.nbytes / 4


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (7, 3, 8, 8)])
def test_the_first_of_arrays_of_any_layout(tmp_path: Path, shape: tuple[int, ...], by_column: bool) -> None:
    images = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.savez(tmp_path / "c.npz", image=np.asfortranarray(images) if by_column else images)
    found = read_examples([IMAGE], tmp_path / "c.npz", CalibrationOptions(limit=3))
    np.testing.assert_array_equal(np.concatenate([f["image"] for f in found.feeds]), images[:3])


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_numbers(tmp_path: Path, value: float) -> None:
    images = np.ones((2, 3, 8, 8), np.float32)
    images[1, 2, 3, 4] = value
    np.savez(tmp_path / "c.npz", image=images)
    assert code([IMAGE], tmp_path / "c.npz") == "E0934"


def test_a_mask_of_minus_infinity(tmp_path: Path) -> None:
    """What is added to scores where there is padding."""
    np.savez(tmp_path / "c.npz", mask=np.where(np.eye(4) > 0, 0, -np.inf).astype(np.float32)[None])
    assert len(read_examples([field("mask", "f32", "B", 4, 4)], tmp_path / "c.npz", HOW).feeds) == 1


def test_one_array_for_several_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.zeros((3, 4), np.int64))
    assert code([IDS, MASK], tmp_path / "c.npy") == "E0934"


def test_images(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(3):
        Image.fromarray(np.full((10, 20, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.md").write_text("not an image")
    found = read_examples([IMAGE], tmp_path, HOW)
    assert [f["image"].shape for f in found.feeds] == [(1, 3, 8, 8)] * 3
    assert found.what == f"3 images of {tmp_path.name}, --fit crop"
    assert code([IMAGE], tmp_path, CalibrationOptions(fit="exact")) == "E0921"
    assert code([IDS], tmp_path) == "E0934"


def test_pixels_are_scaled_as_the_model_was_trained(tmp_path: Path) -> None:
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(images / "a.png")
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}'
    )
    found = read_examples([IMAGE], images, CalibrationOptions(beside=tmp_path))
    np.testing.assert_allclose(found.feeds[0]["image"], 2.0)
    assert preprocessing(images) == {}
    assert preprocessing(None) == {}


def test_a_folder_without_images(tmp_path: Path) -> None:
    assert code([IMAGE], tmp_path) == "E0934"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    words = {w: i for i, w in enumerate(["[UNK]", "[PAD]", "a", "b", "c", "d"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def test_texts_are_not_padded(tmp_path: Path, tokenizer: Path) -> None:
    texts = tmp_path / "t.txt"
    texts.write_text("a b\n\na b c d\n")
    found = read_examples([IDS, MASK], texts, CalibrationOptions(tokenizer=tokenizer))
    assert [f["input_ids"].tolist() for f in found.feeds] == [[[2, 3]], [[2, 3, 4, 5]]]
    assert found.feeds[1]["attention_mask"].tolist() == [[1, 1, 1, 1]]
    assert found.middle["input_ids"].shape == (1, 4)
    cut = read_examples([IDS, MASK], texts, CalibrationOptions(max_length=3, beside=tmp_path))
    assert cut.what == "2 texts of t.txt, 1 of them cut to 3 tokens"
    assert cut.feeds[1]["input_ids"].shape == (1, 3)


def test_texts_of_a_fixed_length_are_padded(tmp_path: Path, tokenizer: Path) -> None:
    texts = tmp_path / "t.txt"
    texts.write_text("a b\n")
    fields = [field("input_ids", "i32", "B", 3), field("attention_mask", "f32", "B", 3)]
    found = read_examples(fields, texts, CalibrationOptions(tokenizer=tokenizer))
    assert found.feeds[0]["input_ids"].shape == (1, 3)
    assert found.feeds[0]["input_ids"].dtype == np.int32
    assert found.feeds[0]["attention_mask"].tolist() == [[1.0, 1.0, 0.0]]


def test_texts_that_cannot_be_used(tmp_path: Path, tokenizer: Path) -> None:
    how = CalibrationOptions(tokenizer=tokenizer)
    empty, binary, fine = tmp_path / "e.txt", tmp_path / "b.txt", tmp_path / "t.txt"
    empty.write_text("\n\n")
    binary.write_bytes(b"\xff\xfe\x00")
    fine.write_text("a b")
    assert code([IDS], empty, how) == "E0934"
    assert code([IDS], binary, how) == "E0934"
    assert code([IMAGE], fine, how) == "E0934"
    assert code([IDS, IMAGE], fine, how) == "E0934"
    assert code([IDS], fine, CalibrationOptions(tokenizer=tmp_path / "no.json")) == "E0924"


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("1,2")
    assert code([IDS], tmp_path / "c.csv") == "E0934"
    assert code([IDS], tmp_path / "none.npz") == "E0001"


def test_scalars_are_those_of_every_example(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    np.savez(path, t=np.float32(0.5), x=np.zeros((3, 4), np.float32))
    found = read_examples([field("t", "f32"), field("x", "f32", "B", 4)], path, HOW)
    assert [f["t"].item() for f in found.feeds] == [0.5] * 3
    np.savez(path, t=np.float32(0.5))
    alone = read_examples([field("t", "f32")], path, HOW)
    assert (alone.what, alone.feeds[0]["t"].shape) == ("1 example of c.npz", ())
