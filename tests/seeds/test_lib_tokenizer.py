"""LiB: what a card asks of `seeds/lib_tokenizer`. The trained lexicon: `lib_tokenizer_training.py` makes it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

import tessera as ts

from ..runtime.tokenizers.test_less import greedy
from .lib_tokenizer_training import SEED, UNITS, lines, write

TARGETS = ("torch", "onnx")
# It goes when the tests end.
FOLDERS: list[TemporaryDirectory[str]] = []
MODEL = """
## Units of texts in bytes, as rows of an embedding.
model read(text: u8[B, N], count: i64[B]) -> (x: float[B, N, 64], ids: i64[B, N], units: i64[B]) {
    ids, found = units(text, count, length=N) as tokenizer
    return vectors(ids, vocab=units.size), ids, found
}
"""


@cache
def folder() -> Path:
    """The seed beside its trained lexicon."""
    FOLDERS.append(TemporaryDirectory(prefix="lib-"))
    path = Path(FOLDERS[-1].name)
    (path / "lib_units.json").write_bytes(UNITS.read_bytes())
    (path / "lib.tess").write_text(SEED + MODEL, encoding="utf-8")
    return path / "lib.tess"


def engine() -> Any:
    return ts.open_tokenizer(folder(), name="units")


def test_units_hold_several_words() -> None:
    vocab = [token for token in engine().vocabulary() if token != "<unk>"]
    assert max(map(len, vocab)) <= 12
    several = [unit for unit in vocab if " " in unit.strip()]
    assert len(several) >= 10
    held = lines(held_back=True)
    found = engine().encode(held)
    used = {int(number) for row, mask in zip(found.ids, found.mask, strict=True) for number in row[mask]}
    known = engine().vocabulary()
    assert len({known[unit] for unit in several} & used) >= 10


@pytest.mark.slow
def test_it_takes_fewer_tokens_than_pairs_merged_within_words(tmp_path: Path) -> None:
    size = engine().size
    path = write(tmp_path)
    ts.train_tokenizer(path, name="words")
    merged = ts.open_tokenizer(path, name="words")
    assert merged.size == size
    held = lines(held_back=True)
    few, many = (int(one.encode(held).count.sum()) for one in (engine(), merged))
    print(f"{size} units: {sum(map(len, held)) / few:.2f} characters each, merged pairs {sum(map(len, held)) / many:.2f}")
    assert few <= 0.97 * many


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_automaton_is_greedy_on_two_thousand_lines(target: str) -> None:
    vocab = dict(engine().vocabulary())
    texts = [*(lines() + lines(held_back=True))[-1996:], "", "\u03a9 of the \u00e9\0", "\ttabs\r\n", "a" * 300]
    rows = [text.encode() for text in texts]
    size = engine().size
    weights = np.random.default_rng(0).standard_normal((size, 64)).astype(np.float32)
    run = ts.compile(ts.load(folder(), model="read"), target=target, weights={"tokens.weight": weights})
    for start in range(0, len(rows), 250):
        some = rows[start : start + 250]
        text = np.zeros((len(some), max(map(len, some))), np.uint8)
        for i, row in enumerate(some):
            text[i, : len(row)] = np.frombuffer(row, np.uint8)
        found = {name: np.asarray(value) for name, value in run(text=text, count=np.array([*map(len, some)])).items()}
        for ids, count, x, plain in zip(found["ids"], found["units"], found["x"], texts[start:], strict=False):
            assert ids[:count].tolist() == greedy(plain, vocab)
            np.testing.assert_array_equal(x[:count], weights[ids[:count]])


@pytest.mark.extended
def test_training_gives_the_committed_lexicon(tmp_path: Path) -> None:
    path = write(tmp_path)
    ts.train_tokenizer(path, name="units")
    found = ts.open_tokenizer(path, name="units")
    held = lines(held_back=True)
    # Man pages differ from machine to machine.
    assert int(found.encode(held).count.sum()) == pytest.approx(int(engine().encode(held).count.sum()), rel=0.05)
