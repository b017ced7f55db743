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


@pytest.mark.extended
@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
@pytest.mark.parametrize("part", range(4))
def test_every_word_of_shipped_files(path: Path, part: int) -> None:
    """The text up to the end of each word, as it is being written."""
    text = path.read_text(encoding="utf-8")
    ends = [i for i in range(1, len(text)) if text[i - 1].isalnum() != text[i].isalnum()]
    _ask(path, ends[part::4])
