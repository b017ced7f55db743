"""Pairs that are merged over words: what the second stage of the training finds is what it finds of ids as characters."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

from .published import corpus

# A letter, then a space as byte-level splits have it.
OVER = re.compile("[^\u0120\u010a]\u0120")
WORDS = r" ?[^\s]+|\s+"
SPEC = r"""
tokenizer super {
    special "<unk>" = 0
    split pattern(regex="[0-9]{1,3}", behavior=isolated)
    split byte_level(space=false, regex=false)
    model bpe(vocab=900)
    process byte_level(space=false)
    decode byte_level
    train "lines.txt" (within=600, words=" ?[^\\s]+|\\s+")
    family [500, 900]
    from "super.json"
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("super")
    (path / "super.tess").write_text(SPEC)
    (path / "lines.txt").write_text("".join(corpus()[::6]), encoding="utf-8")
    ts.train_tokenizer(path / "super.tess")
    return path


def by_hand(lines: list[str], vocab: list[str], merges: list[tuple[str, str]], size: int) -> Tokenizer:
    """The second stage as the card has it: a character for each id of the first, and the package's own training on these."""
    second = Tokenizer(models.BPE())
    letters = [chr(0xE000 + number) for number in range(len(vocab))]
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=letters)
    second.train_from_iterator([row for line in lines for row in _ids(line, vocab, merges)], trainer)
    return second


def _ids(line: str, vocab: list[str], merges: list[tuple[str, str]]) -> list[str]:
    first = Tokenizer(models.BPE({text: i for i, text in enumerate(vocab)}, merges))
    first.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_digits(), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    found = first.encode(line)
    rows: dict[int, str] = {}
    for word, number in zip(found.word_ids, found.ids, strict=True):
        assert word is not None
        rows[word] = rows.get(word, "") + chr(0xE000 + number)
    return list(rows.values())


def _digits() -> object:
    from tokenizers import Regex

    return Regex("[0-9]{1,3}")


def test_the_second_stage_is_that_of_ids(folder: Path) -> None:
    model = json.loads((folder / "super.json").read_text())["model"]
    texts = sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocab = [text for text in texts if text != "<unk>"]
    merges = [tuple(pair) for pair in model["merges"]]
    first = [pair for pair in merges if "".join(pair) in vocab[:600]]
    assert not any(map(OVER.search, vocab[:600]))
    assert sum(OVER.search(token) is not None for token in vocab[600:]) > 50
    lines = corpus()[::6]
    second = by_hand(lines, vocab[:600], first, len(vocab))
    engine = ts.open_tokenizer(folder / "super.tess")
    for line in [*corpus()[1::60], "12345 and 6", "\u03a9 of the", ""]:
        wanted = [
            "".join(vocab[ord(letter) - 0xE000] for letter in token)
            for row in _ids(line, vocab[:600], first)
            for token in second.encode(row).tokens
        ]
        assert [texts[number] for number in engine.encode([line]).ids[0]] == wanted


def test_they_take_fewer_tokens_and_come_back(folder: Path) -> None:
    (folder / "plain.tess").write_text(SPEC.replace("within=600, words=", "longest=32").replace('" ?[^\\\\s]+|\\\\s+"', "").replace(
        "split pattern", f'split pattern(regex="{WORDS}", behavior=isolated) split pattern'.replace("\\", "\\\\")
    ).replace("super", "plain"))  # fmt: skip
    ts.train_tokenizer(folder / "plain.tess")
    lines = [line for line in corpus()[1::7] if line.isascii() and "<unk>" not in line]
    found, plain = (ts.open_tokenizer(folder / f"{name}.tess").encode(lines) for name in ("super", "plain"))
    assert found.count.sum() < 0.97 * plain.count.sum()
    engine = ts.open_tokenizer(folder / "super.tess")
    assert engine.decode([row[mask].tolist() for row, mask in zip(found.ids, found.mask, strict=True)]) == [
        line.encode() for line in lines
    ]


def test_ids_of_a_smaller_member_are_those_within_words(folder: Path) -> None:
    small = ts.open_tokenizer(folder / "super.tess", size=500)
    assert not any(map(OVER.search, small.vocabulary()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('within=600, words="x"', ""),
        ("within=600", r"E1002.*two stages of training need `words` too"),
        ('words="x"', r"E1002.*two stages of training need `within` too"),
        ('within=899, words="x"', r"E1005.*`within=899` leaves nothing of 899 trained tokens"),
        ('within=600, words="x", longest=4', r"E1002.*`longest` does not go with two stages"),
        ('within=890, words="\\\\w"', r"E1010.*the corpus gives \d+ tokens within words, and `within` says 890"),
    ],
)
def test_options(options: str, message: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("some words of a line\n" * 20)
    (tmp_path / "super.tess").write_text(SPEC.replace('within=600, words=" ?[^\\\\s]+|\\\\s+"', options))
    with pytest.raises(Diagnostic, match=message or "E1010"):
        ts.train_tokenizer(tmp_path / "super.tess")
