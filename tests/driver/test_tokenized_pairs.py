"""Pairs of bytes merged within models: from bytes to ids on torch and in plain ONNX Runtime, compared with their engine."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tessera as ts
from tessera.frontends.source import loads, print_module

from ..runtime.tokenizers.published import FAMILIES, GPT4, texts
from .test_tokenized import SPEC, arrays, made, refused

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers  # noqa: E402

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())


def of_bytes(pattern: str | None, merges: list[tuple[str, str]], **options: Any) -> Tokenizer:
    """Pairs of bytes; where there is no pattern, of a whole text."""
    tokens = dict.fromkeys([*LETTERS, *(left + right for left, right in merges)])
    own = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, **options))
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own.pre_tokenizer = split if pattern is None else pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"), split,
    ])  # fmt: skip
    return own


def compared(own: Tokenizer, folder: Path, target: str, rows: list[bytes]) -> None:
    """The ids of a model are the engine's."""
    artifact = ts.compile(made(own, folder, "3 * N"), target=target)
    assert any("are its engine's" in note for note in artifact.report.notes)
    found = artifact(**arrays(rows))
    for row, ids, count in zip(rows, found["ids"], found["tokens"], strict=True):
        assert ids[:count].tolist() == own.encode(row.decode(errors="replace")).ids, row
        assert not ids[count:].any()


MERGES = [("a", "a"), ("b", "c"), ("a", "bc"), ("aa", "aa"), ("\u0120", "a")]


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_ids_and_counts(target: str, tmp_path: Path) -> None:
    own = of_bytes(r" ?\p{L}+|\s+(?!\S)|[^\p{L}]", MERGES)
    own.add_special_tokens(["<x>"])
    module = made(own, tmp_path, "3 * N")
    assert loads(print_module(module), str(tmp_path / "printed.tess")) == module
    artifact = ts.compile(module, target=target, verify=False)
    found = artifact(**arrays([b"aaaaaaa abc", b"a<x>abc  a", b"a\xff\xe2\x82b", b""]))
    ids = own.get_vocab()
    rows = [
        ["aaaa", "aa", "a", "\u0120", "abc"], ["a", "<x>", "abc", "\u0120", "\u0120a"],
        ["a", *"\u00ef\u00bf\u00bd\u00ef\u00bf\u00bd", "b"], [],
    ]  # fmt: skip
    assert found["tokens"].tolist() == list(map(len, rows))
    assert [row[: len(want)].tolist() for row, want in zip(found["ids"], rows, strict=True)] == [
        [ids[token] for token in want] for want in rows
    ]


@pytest.mark.extended
@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize("name", ["gpt2", "llama3"])
def test_published_forms(name: str, target: str, tmp_path: Path) -> None:
    own = FAMILIES[name]()
    own.post_processor = None  # type: ignore[assignment]
    compared(own, tmp_path, target, [text.encode() for text in texts(200)])


@pytest.mark.extended
@pytest.mark.parametrize("seed", range(12))
def test_pairs_in_any_order(seed: int, tmp_path: Path) -> None:
    """Tables that no training makes: what a pair becomes may be in pairs of lower ranks."""
    draw = random.Random(seed)
    tokens, merges = list("abc"), []
    for _ in range(14):
        pair = (draw.choice(tokens), draw.choice(tokens))
        merges.append(pair)
        tokens.append("".join(pair))
    merges = list(dict.fromkeys(merges))
    draw.shuffle(merges)
    own = of_bytes(None, merges, ignore_merges=seed % 2 == 1)
    compared(own, tmp_path, "torch", ["".join(draw.choices("abc", k=draw.randrange(60))).encode() for _ in range(64)])


PATTERNS = [
    GPT4,
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\p{N}|[^\p{N}]+", r" ?\p{Lu}?\p{Ll}+|\s+(?!\S)|[\s\S]", r"\w+|[^\w\s]+|\s+",
]  # fmt: skip
PIECES = ["a", "B", "1", "\u00e9", "\u0301", "\u017f", "'s", "'LL", "'", ".", "\n", "\r\n", " ", "\u00a0", "\u3000", "\U0001f600",
          "<x>"]  # fmt: skip


@pytest.mark.extended
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern: str, tmp_path: Path) -> None:
    """Every pair of pieces merges, so that only the pattern parts what is beside each other."""
    draw = random.Random(0)
    rows = ["".join(draw.choices(PIECES, k=draw.randrange(12))).encode() for _ in range(256)]
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    letters = sorted({letter for piece in PIECES for word, _ in split.pre_tokenize_str(piece) for letter in word})
    own = of_bytes(pattern, [(a, b) for a in letters for b in letters])
    own.add_special_tokens(["<x>"])
    compared(own, tmp_path, "torch", rows)


def spaced(own: Tokenizer) -> None:
    own.pre_tokenizer = pre_tokenizers.ByteLevel()


def removed(own: Tokenizer) -> None:
    own.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(False, use_regex=False)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("normalize nfc", lambda own: setattr(own, "normalizer", normalizers.NFC())),
        ("split byte_level", spaced),
        ("split pattern", removed),
        ("it has a dropout", lambda own: setattr(own.model, "dropout", 0.5)),
        ("it has a suffix", lambda own: setattr(own.model, "end_of_word_suffix", "</w>")),
        ("single_word", lambda own: own.add_special_tokens([AddedToken("<y>", single_word=True)])),
        ("U+FFFD", lambda own: own.add_special_tokens(["<\ufffd>"])),
    ],
)
def test_refused_parts(part: str, change: Callable[[Tokenizer], Any], tmp_path: Path) -> None:
    own = of_bytes(None, [])
    change(own)
    assert part in refused(tmp_path, own)


def test_a_byte_without_token(tmp_path: Path) -> None:
    own = Tokenizer(models.BPE({"a": 0}, []))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    assert "has no token for the byte 0x" in refused(tmp_path, own)


def test_a_file_of_ranks(tmp_path: Path) -> None:
    """What is declared beside the ranks goes with the hash of the file; the printed model reads back with it."""
    tokens = [*(bytes([byte]) for byte in range(256)), b" a", b"bc", b"abc", b"aa", b"aaaa"]
    lines = [base64.b64encode(token) + f" {rank}".encode() for rank, token in enumerate(tokens)]
    (tmp_path / "own.tiktoken").write_bytes(b"\n".join(lines))
    stages = (
        'from "own.tiktoken"\n    special "<x>" = 300\n    split pattern(regex=" ?\\\\p{L}+|[^\\\\p{L}]", behavior=isolated)\n'
        "    split byte_level(space=false, regex=false)\n    decode byte_level"
    )
    (tmp_path / "ids.tess").write_text(SPEC.replace('from "own.json"', stages).replace("T]", "3 * N]"), encoding="utf-8")
    module = ts.load(tmp_path / "ids.tess")
    assert loads(print_module(module), str(tmp_path / "printed.tess")) == module
    artifact = ts.compile(module, target="onnx")
    assert any("are its engine's" in note for note in artifact.report.notes)
    rows = [b"aaaaa abc a<x>abcaaaaaa", "\u00e9 \u6f22".encode(), b""]
    found = artifact(**arrays(rows))
    engine = ts.open_tokenizer(tmp_path / "ids.tess")
    for row, ids, count in zip(rows, found["ids"], found["tokens"], strict=True):
        own = engine.encode([row])
        assert ids[:count].tolist() == own.ids[0].tolist()
    assert 300 in found["ids"]
    (tmp_path / "own.tiktoken").write_bytes(b"\n".join(lines[:-1]))
    with pytest.raises(ts.Diagnostic, match="E1004"):
        ts.compile(module, target="torch")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"\p{L}+\p{L}|[\s\S]", "give back"),
        (r"a|b", "leaves out"),
        (r"(?i:ss)|[\s\S]", "one character"),
        (r"\s+$|[\s\S]", "nothing is known"),
        (r"\p{L}*|[\s\S]", "nothing"),
        (r"\s+(?!a)|[\s\S]", "not all characters"),
        (r"(?=a)|[\s\S]", "nothing is known"),
        (r"(?i:\p{L})|[\s\S]", "without case"),
        (r"(?:a|[\s\S]", "does not end"),
        (r"\p{N}{1,3}a|[\s\S]", "follows"),
        (r"\p{N}{2}|[\s\S]", "nothing is known"),
        (r"\s+?|[\s\S]", "nothing is known"),
    ],
)
def test_refused_patterns(pattern: str, why: str) -> None:
    from tessera.runtime.tokenizers.patterns import Sets, Unfit, rules_of

    with pytest.raises(Unfit, match=why):
        rules_of(pattern, Sets("ab1s \n."))
