"""Nothing that is typed on the way to a shipped file makes an answer fail: some prefixes here, all of them in `extended`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tessera.driver.editor.document import Document

from .support import SPECS, ask_everything, place


def _ask(path: Path, offsets: list[int]) -> None:
    text = path.read_text(encoding="utf-8")
    document = Document(text, "m.tess")
    for offset in offsets:
        prefix = text[:offset]
        document.edit(prefix)
        ask_everything(document, place(prefix, offset))


@pytest.mark.parametrize("path", SPECS[::3], ids=lambda p: p.stem)
def test_prefixes_of_shipped_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    _ask(path, random.Random(path.name).sample(range(len(text)), 5))


PIPELINE = """\
use std.nn (embedding)

tokenizer words {
    special "[UNK]" = 0
    model bpe(vocab=50)
    train "corpus/*.txt"
    from "words.json"
}

model encoder(ids: token[50, B, T], *, dim: int) -> float[B, dim] {
    return mean(embedding(ids, vocab=50, dim=dim) as tok, axis=1)
}

## What it does.
pipeline embed(texts: text[B], *, dim: int = 4) -> (vectors: float[B, dim], again: text[B]) {
    host clean = "mine.text:clean"(t: text[B]) -> text[B]
    found = clean(texts) |> words
    vectors = encoder(found.ids, dim=dim) as first
    return vectors, words.decode(found.ids)
}
"""


@pytest.mark.extended
def test_every_word_of_a_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "embed.tess"
    path.write_text(PIPELINE, encoding="utf-8")
    _ask(path, [i for i in range(1, len(PIPELINE)) if PIPELINE[i - 1].isalnum() != PIPELINE[i].isalnum()])


def test_some_words_of_a_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "embed.tess"
    path.write_text(PIPELINE, encoding="utf-8")
    _ask(path, [*random.Random(0).sample(range(len(PIPELINE)), 12), len(PIPELINE)])


@pytest.mark.extended
@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
@pytest.mark.parametrize("part", range(4))
def test_every_word_of_shipped_files(path: Path, part: int) -> None:
    """The text up to the end of each word, as it is being written."""
    text = path.read_text(encoding="utf-8")
    ends = [i for i in range(1, len(text)) if text[i - 1].isalnum() != text[i].isalnum()]
    _ask(path, ends[part::4])
