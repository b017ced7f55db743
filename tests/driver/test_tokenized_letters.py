"""Pairs of characters and Unigram within models: from bytes to ids on torch and in plain ONNX Runtime, as their engine has them."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tessera as ts
from tessera.frontends.source import loads, print_module
from tessera.runtime.tokenizers.automaton import automaton

from .test_tokenized import arrays, made, refused

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers  # noqa: E402

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
MERGES = [("a", "b"), ("ab", "c"), ("b", "c"), ("\u2581", "a"), ("\u2581a", "b"), ("c", "c"), ("cc", "cc")]
SCORES = [
    ("<unk>", 0.0), ("a", -2.5), ("b", -3.0), ("c", -3.5), ("ab", -4.0), ("abc", -5.1), ("bc", -4.2), ("\u2581", -2.0),
    ("\u2581a", -3.1), ("aa", -5.0), ("aaa", -7.5), ("\u00e9", -4.0), ("cc", -7.0),
]  # fmt: skip


def bpe(words: list[str], merges: list[tuple[str, str]] = MERGES, **options: Any) -> Tokenizer:
    """Pairs of characters."""
    prefix = options.get("continuing_subword_prefix", "")
    tokens = dict.fromkeys([*words, *(left + right.removeprefix(prefix) for left, right in merges)])
    return Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, **options))


def split(own: Tokenizer, how: Any, normalizer: Any = None) -> Tokenizer:
    """With a split, and with special tokens."""
    own.pre_tokenizer = how
    own.normalizer = normalizer
    own.add_special_tokens(["<unk>", "<s>"])
    return own


def unigram(rows: list[tuple[str, float]], **options: Any) -> Tokenizer:
    return Tokenizer(models.Unigram(rows, unk_id=0, **options))


LETTERS = ["<unk>", *"abc\u2581 ", "\u0301"]


def metaspace(scheme: str) -> Tokenizer:
    return split(
        bpe([*LETTERS, *BYTES, "\u2581abb"], unk_token="<unk>", byte_fallback=True, ignore_merges=True),
        pre_tokenizers.Metaspace(prepend_scheme=scheme, split=scheme != "never"),
    )


LLAMA = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
FORMS: dict[str, Callable[[], Tokenizer]] = {
    "words": lambda: split(bpe(LETTERS, unk_token="<unk>"), pre_tokenizers.WhitespaceSplit()),
    "fused": lambda: split(
        bpe(LETTERS, unk_token="<unk>", fuse_unk=True), pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()
    ),
    "left out": lambda: split(bpe(LETTERS), None),
    "suffix": lambda: split(
        bpe(["<unk>", *"abc", *(f"{c}</w>" for c in "abc")], [("a", "b</w>"), ("a", "b"), ("ab", "c</w>")],
            unk_token="<unk>", end_of_word_suffix="</w>"),
        pre_tokenizers.Whitespace(),
    ),
    "prefix": lambda: split(
        bpe(["<unk>", *"abc", "##a", "##b", "##c"], [("a", "##b"), ("##a", "##b"), ("ab", "##c"), ("##ab", "##ab")],
            unk_token="<unk>", continuing_subword_prefix="##"),
        pre_tokenizers.Whitespace(),
    ),
    "llama": lambda: split(bpe([*LETTERS, *BYTES], unk_token="<unk>", byte_fallback=True, fuse_unk=True), None, LLAMA),
    **{f"metaspace {scheme}": partial(metaspace, scheme) for scheme in ("always", "first", "never")},
    "unigram": lambda: split(unigram(SCORES), pre_tokenizers.Metaspace()),
    "unigram words": lambda: split(unigram(SCORES), pre_tokenizers.WhitespaceSplit(), normalizers.Lowercase()),
    "unigram whole": lambda: split(unigram(SCORES), None),
    "unigram bytes": lambda: split(
        unigram([*SCORES, *((byte, -8.0) for byte in BYTES)], byte_fallback=True),
        pre_tokenizers.Metaspace(prepend_scheme="first"),
    ),
}  # fmt: skip
ROWS = [
    b"abcab  aab <s> ab<s>cc", b"", b" a", b"ccccc\xff\xe2\x82b",
    "\u00e9\u6f22\U0001f600 abc\u2581ab <0x41> <unk>a".encode(), b"abb aaaa",
]  # fmt: skip


def build(own: Tokenizer, folder: Path, target: str, verify: bool) -> Any:
    facts = automaton(own.to_str().encode(), "own.json")
    length = ("N" if facts.each == 1 else f"{facts.each} * N") + (f" + {facts.around}" if facts.around else "")
    module = made(own, folder, length)
    assert loads(print_module(module), str(folder / "printed.tess")) == module
    artifact = ts.compile(module, target=target, verify=verify)
    assert not verify or any("are its engine's" in note for note in artifact.report.notes)
    return artifact


def compare(own: Tokenizer, artifact: Any, rows: list[bytes]) -> None:
    found = artifact(**arrays(rows))
    for row, ids, count in zip(rows, found["ids"], found["tokens"], strict=True):
        assert ids[:count].tolist() == own.encode(row.decode(errors="replace")).ids, row
        assert not ids[count:].any()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), [("llama", "torch"), ("unigram bytes", "onnx")])
def test_ids(name: str, target: str, tmp_path: Path) -> None:
    own = FORMS[name]()
    compare(own, build(own, tmp_path, target, verify=False), ROWS)


@pytest.mark.extended
@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_on_hard_texts(name: str, target: str, tmp_path: Path) -> None:
    own = FORMS[name]()
    compare(own, build(own, tmp_path, target, verify=True), ROWS)


@pytest.mark.extended
@pytest.mark.parametrize("seed", range(12))
def test_any_scores(seed: int, tmp_path: Path) -> None:
    """Scores that tie, and pieces of every length."""
    draw = random.Random(seed)
    pieces = {"".join(draw.choices("abc\u00e9", k=draw.randrange(1, 7))) for _ in range(20)}
    rows = [("<unk>", 0.0), *((piece, -draw.choice([1.0, 2.0, 3.0, 0.1 * draw.random()])) for piece in sorted(pieces))]
    own = split(unigram(rows), draw.choice([None, pre_tokenizers.WhitespaceSplit()]))
    texts = ["".join(draw.choices("abc\u00e9x ", k=draw.randrange(40))).encode() for _ in range(64)]
    compare(own, build(own, tmp_path, "torch", verify=False), texts)


@pytest.mark.parametrize(
    ("part", "own"),
    [
        ("normalize nfkc", lambda: split(bpe(LETTERS), None, normalizers.NFKC())),
        ("normalize prepend", lambda: split(bpe(LETTERS), pre_tokenizers.WhitespaceSplit(), LLAMA)),
        ("split metaspace", lambda: split(
            bpe(LETTERS), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        )),
        ("it has a dropout", lambda: split(bpe(LETTERS, dropout=0.5), None)),
        ("no token `<0x00>`", lambda: split(bpe(LETTERS, unk_token="<unk>", byte_fallback=True), None)),
        ("is looked for in texts", lambda: unigram(SCORES)),
    ],
)  # fmt: skip
def test_refused_parts(part: str, own: Callable[[], Tokenizer], tmp_path: Path) -> None:
    assert part in refused(tmp_path, own())
