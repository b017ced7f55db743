"""Tokenizers within models: from bytes to ids on torch and in plain ONNX Runtime, compared with their engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.driver.tokenized import check_tokenizers
from tessera.frontends.source import loads, print_module

from ..runtime.tokenizers.published import texts

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors  # noqa: E402

SPEC = """
tokenizer words {
    from "own.json"
}

model ids(text: u8[B, N], count: i64[B]) -> (ids: i64[B, T], tokens: i64[B]) {
    ids, tokens = words(text, count) as tokenizer
    return ids, tokens
}
"""
PIECES = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", *"abcdehlnorstuw.,-'1\u00e9\u6f22", "##a", "##e", "##l", "##ll", "##o", "##rd", "##1",
          "the", "he", "hel", "hell", "ell", "in", "or", "word", "##s", "un", "##able", "\u00fcber"]  # fmt: skip


def wordpiece(**options: Any) -> Tokenizer:
    return Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]", **options))


def made(own: Tokenizer, folder: Path, rows: int | str = "T") -> Any:
    """The model of a tokenizer."""
    (folder / "own.json").write_bytes(own.to_str().encode())
    (folder / "ids.tess").write_text(SPEC.replace("T]", f"{rows}]"), encoding="utf-8")
    return ts.load(folder / "ids.tess")


def arrays(rows: list[bytes]) -> dict[str, np.ndarray]:
    text = np.zeros((len(rows), max(1, *map(len, rows))), np.uint8)
    for i, row in enumerate(rows):
        text[i, : len(row)] = np.frombuffer(row, np.uint8)
    return {"text": text, "count": np.array([len(row) for row in rows])}


def small() -> Tokenizer:
    own = wordpiece(max_input_chars_per_word=9)
    own.normalizer = normalizers.Lowercase()
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own.add_special_tokens(["[CLS]", "[SEP]", "<x>"])
    own.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return own


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_ids_and_counts(target: str, tmp_path: Path) -> None:
    module = made(small(), tmp_path, "N + 2")
    assert loads(print_module(module), str(tmp_path / "printed.tess")) == module
    artifact = ts.compile(module, target=target)
    assert any("are its engine's" in note for note in artifact.report.notes)
    found = artifact(**arrays([b"Hello Words <x>unables", b"\xe9 A" + "\u00e9x".encode(), b"helloworld"]))
    hello, words = [PIECES.index("hell"), PIECES.index("##o")], [PIECES.index("word"), PIECES.index("##s")]
    unable = [PIECES.index(piece) for piece in ("un", "##able", "##s")]
    rows = [[2, *hello, *words, len(PIECES), *unable, 3], [2, 0, 0, 3], [2, 0, 3]]
    assert found["tokens"].tolist() == list(map(len, rows))
    assert found["ids"].tolist() == [row + [0] * (found["ids"].shape[1] - len(row)) for row in rows]


def bert(own: Tokenizer) -> None:
    own.normalizer = normalizers.BertNormalizer()
    own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    own.enable_truncation(7)
    own.enable_padding(pad_id=1, pad_token="[PAD]", direction="left")


def cased(own: Tokenizer) -> None:
    own.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=True, handle_chinese_chars=False)
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )


def longer(own: Tokenizer) -> None:
    """Characters that become more than they have bytes."""
    own.normalizer = normalizers.Sequence(
        [normalizers.Replace("a", "hello"), normalizers.NFKD(), normalizers.StripAccents()]
    )
    own.pre_tokenizer = pre_tokenizers.Punctuation("merged_with_previous")


def unsplit(own: Tokenizer) -> None:
    own.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.Lowercase()])
    own.add_special_tokens(["[CLS]", "[SEP]"])
    own.post_processor = processors.TemplateProcessing("[CLS] $A [SEP] [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])


def apart(own: Tokenizer) -> None:
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.CharDelimiterSplit("a"), pre_tokenizers.Punctuation("removed")]
    )


@pytest.mark.extended
@pytest.mark.parametrize("model", ["wordpiece", "wordlevel"])
@pytest.mark.parametrize("stages", [bert, cased, longer, unsplit, apart])
def test_stages(stages: Callable[[Tokenizer], None], model: str, tmp_path: Path) -> None:
    own = (
        wordpiece()
        if model == "wordpiece"
        else Tokenizer(models.WordLevel({p: i for i, p in enumerate(PIECES)}, "[UNK]"))
    )
    stages(own)
    limit = 7 if own.truncation else None
    each = 6 if stages is longer else 1  # NFKD makes 18 letters of the 3 bytes of U+FDFA
    module = made(
        own, tmp_path, f"min({each} * N, 7)" if limit else f"{each} * N + 3" if stages is unsplit else f"{each} * N"
    )
    artifact = ts.compile(module, target="onnx")
    rows = [text.encode() for text in texts(1000)]
    own.no_padding()
    for start in range(0, len(rows), 50):
        found = artifact(**arrays(rows[start : start + 50]))
        for row, ids, count in zip(rows[start : start + 50], found["ids"], found["tokens"], strict=True):
            kept = ids[len(ids) - count :] if stages is bert else ids[:count]
            assert kept.tolist() == own.encode(row.decode()).ids, row


def test_a_longest_row_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_bytes(small().to_str().encode())
    spec = SPEC.replace("T]", "4]").replace("count)", "count, length=4)")
    (tmp_path / "ids.tess").write_text(spec, encoding="utf-8")
    found = ts.compile(ts.load(tmp_path / "ids.tess"), target="torch", verify=False)(**arrays([b"a a a a", b""]))
    assert found["ids"].tolist() == [[2, PIECES.index("a"), PIECES.index("a"), 3], [2, 3, 0, 0]]


def refused(tmp_path: Path, own: Tokenizer) -> str:
    with pytest.raises(ts.Diagnostic) as caught:
        made(own, tmp_path)
    assert caught.value.code == "E1012"
    assert caught.value.span is not None
    return caught.value.message


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("normalize nfc", lambda own: setattr(own, "normalizer", normalizers.NFC())),
        ("split byte_level", lambda own: setattr(own, "pre_tokenizer", pre_tokenizers.ByteLevel())),
        ('special "[CLS]"', lambda own: own.add_special_tokens([AddedToken("[CLS]", single_word=True)])),
        ('special "xyx"', lambda own: own.add_special_tokens(["xyx"])),
        ("truncate longest_first(length=4", lambda own: own.enable_truncation(4, direction="left")),
        (
            "process template",
            lambda own: setattr(own, "post_processor", processors.TemplateProcessing("$A $A", None, [])),
        ),
    ],
)
def test_refused_stages(stage: str, change: Callable[[Tokenizer], Any], tmp_path: Path) -> None:
    own = wordpiece()
    change(own)
    assert stage in refused(tmp_path, own)


def test_refused_models(tmp_path: Path) -> None:
    assert "model unigram" in refused(tmp_path, Tokenizer(models.Unigram([("a", 0.0)])))
    assert "lacks `<unk>`" in refused(tmp_path, Tokenizer(models.WordLevel({"a": 0})))


def test_wrong_tables_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tessera.backends.target import registry
    from tessera.runtime.tokenizers.automaton import automaton

    module = made(small(), tmp_path, "N + 2")
    made_of = automaton((tmp_path / "own.json").read_bytes(), "own.json")
    monkeypatch.setitem(made_of.statics, "unknown", 1)  # type: ignore[arg-type]
    with pytest.raises(ts.Diagnostic, match="other ids than the tokenizer") as caught:
        check_tokenizers(module, registry()["torch"]())
    assert caught.value.code == "E1013"


def test_another_file(tmp_path: Path) -> None:
    module = made(small(), tmp_path, "N + 2")
    (tmp_path / "own.json").write_bytes(wordpiece().to_str().encode())
    with pytest.raises(ts.Diagnostic, match="another file") as caught:
        ts.compile(module, target="torch")
    assert caught.value.code == "E1004"
