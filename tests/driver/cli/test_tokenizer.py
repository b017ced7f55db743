"""``tessera tokenizer``: what it prints, and what it says of what is wrong."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from .conftest import Cli

WORDS = Path(__file__).parents[2] / "errors" / "tokenizers" / "words.json"
SPEC = """\
tokenizer words {{
    special "[UNK]" = 0
    split spaces
    model wordlevel(vocab={vocab}, unknown="[UNK]")
    train "texts.txt"
    from "made.json"
    {more}
}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("one two two three three three\n", encoding="utf-8")
    path = tmp_path / "words.tess"
    path.write_text(SPEC.format(vocab=4, more='require unknown_share <= 0, "x"'), encoding="utf-8")
    return path


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_train_encode_decode(cli: Cli, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cli("tokenizer", "train", spec)
    assert (made.code, made.err) == (0, "")
    assert "made.json: 4 tokens, sha256 " in made.out
    assert "unknown_share: 0" in made.out
    assert cli("tokenizer", "encode", spec, "three two one", "four").out == "1 2 3\n0\n"
    assert cli("tokenizer", "encode", spec, "--tokens", "three four").out == "three [UNK]\n"
    assert cli("tokenizer", "decode", spec, 1, 2, 0).out == "three two\n"
    assert cli("tokenizer", "decode", spec, "--special", "[1, 2]", 0).out == "three two [UNK]\n"
    stdin(monkeypatch, b"three\r\n\ntwo one\n")
    encoded = cli("tokenizer", "encode", spec)
    assert encoded.out == "1\n\n2 3\n"
    stdin(monkeypatch, encoded.out.encode())
    assert cli("tokenizer", "decode", spec).out == "three\n\ntwo one\n"


def test_json(cli: Cli, spec: Path) -> None:
    made = json.loads(cli("tokenizer", "train", spec, "--json").out)
    assert (made["size"], made["metrics"]["tokens_per_word"]) == (4, 1)
    assert json.loads(cli("tokenizer", "encode", spec, "--json", "two four").out) == [
        {
            "text": "two four", "tokens": ["two", "[UNK]"], "ids": [2, 0], "offsets": [[0, 3], [4, 8]], "words": [0, 1],
            "segments": [0, 0],
        }
    ]  # fmt: skip
    assert json.loads(cli("tokenizer", "decode", spec, "--json", 1, 2).out) == [{"ids": [1, 2], "text": "three two"}]


def test_what_is_wrong(cli: Cli, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*args: object) -> str:
        result = cli("tokenizer", *args)
        assert (result.code, result.out) == (1, "")
        return result.err

    assert "`tessera tokenizer train` writes the one of a `train` clause" in said("encode", spec, "x")
    cli("tokenizer", "train", spec)
    assert "`words` has no member of 3 tokens" in said("encode", spec, "--size", 3, "x")
    assert "row 0 has 4, but the ids of `words` are 0 to 3" in said("decode", spec, 4)
    assert "`two` is no id" in said("decode", spec, "two")
    stdin(monkeypatch, b"1 2\n1 x\n")
    assert "`x` on line 2 is no id" in said("decode", spec)
    stdin(monkeypatch, b"one\ncaf\xe9\n")
    assert "text 1 is not UTF-8: byte 0xe9 at 3" in said("encode", spec)
    assert "has no tokenizer `other`" in said("encode", spec, "-n", "other", "x")
    assert "is one tokenizer, which has no name" in said("encode", WORDS, "-n", "other", "x")
    spec.write_text(SPEC.format(vocab=4, more='require tokens_per_word < 1, "too many"'), encoding="utf-8")
    assert "too many: `tokens_per_word` is 1" in said("train", spec)
    spec.write_text(SPEC.format(vocab=5, more=""), encoding="utf-8")
    assert "the corpus gives 4 tokens, and 5 are declared" in said("train", spec)
    assert "No such command" in cli("tokenizer", "trian").err


def test_a_declaration_that_changed_is_trained_again(cli: Cli, spec: Path) -> None:
    cli("tokenizer", "train", spec)
    spec.write_text(SPEC.format(vocab=3, more=""), encoding="utf-8")
    assert "error[E1004]" in cli("check", spec).err
    assert cli("tokenizer", "train", spec).code == 0
    assert cli("check", spec).code == 0


def test_show(cli: Cli, spec: Path) -> None:
    """A file shows as the declaration that it amounts to; one that is there shows with its hash."""
    cli("tokenizer", "train", spec)
    text = cli("show", spec).out
    assert 'from "made.json" (sha256="' in text
    shown = cli("show", spec.parent / "made.json").out
    assert "model wordlevel(vocab=4, unknown=" in shown
    assert json.loads(cli("show", spec, "--json").out)["source"].rstrip() == text.rstrip()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "en.txt").write_text("one two\nthree\n", encoding="utf-8")
    (folder / "el.txt").write_text("\u03ad\u03bd\u03b1 two \u03b4\u03cd\u03bf\n\u03c4\u03c1\u03af\u03b1\n", encoding="utf-8")
    (folder / ".hidden").write_bytes(b"\xff")
    return folder


def test_compare(cli: Cli, spec: Path, corpus: Path) -> None:
    cli("tokenizer", "train", spec)
    letters = spec.parent / "letters.tess"
    letters.write_text(
        'tokenizer letters { special "[UNK]" split spaces split chunks(length=1) model wordlevel(vocab=8, unknown="[UNK]") '
        'train "texts.txt" from "letters.json" }',
        encoding="utf-8",
    )
    cli("tokenizer", "train", letters)
    found = json.loads(cli("tokenizer", "compare", spec, letters, "--corpus", corpus, "--json").out)
    words, own = found["tokenizers"]
    assert (words["tokenizer"], own["tokenizer"]) == ("words", "letters")
    assert (words["tokens_per_word"], words["unknown_share"]) == (7 / 7, 3 / 7)
    assert own["tokens_per_character"] == 24 / 27
    assert (words["same_as_first"], own["same_as_first"]) == (1, 0)
    assert {name: row["words"]["texts"] for name, row in found["groups"].items()} == {"latin": 2, "greek": 2}
    assert found["samples"][0]["pieces"]["words"] == ["\u03ad\u03bd\u03b1", " two", " \u03b4\u03cd\u03bf"]
    priced = json.loads(cli("tokenizer", "compare", spec, "--corpus", corpus, "--reference", "en.txt", "--json").out)
    assert priced["premiums"] == {"el.txt": {"words": 4 / 3}, "en.txt": {"words": 1}}
    text = cli("tokenizer", "compare", spec, letters, "--corpus", corpus, "--by", "file", "--show", 1).out
    assert "tokens/char, letters" in text
    assert "words: \u03ad\u03bd\u03b1| two| \u03b4\u03cd\u03bf\nletters: \u03ad|\u03bd|\u03b1| t|w|o| \u03b4|\u03cd|\u03bf" in text
    page = spec.with_name("page.html")
    cli("tokenizer", "compare", spec, letters, "--corpus", corpus, "--html", page)
    shown = page.read_text(encoding="utf-8")
    assert "<th scope=\"row\">greek</th><td>2</td>" in shown
    assert re.findall(r"<span class=\"(\w+)\" title=\"(\d) characters\">([^<]*)</span>", shown)[:2] == [
        ("even", "3", "\u03ad\u03bd\u03b1"), ("odd", "4", " two")
    ]  # fmt: skip
    assert not re.search(r"<(script|link|img|iframe)|https?://", shown)
    (corpus / "el.txt").write_text("x\n", encoding="utf-8")
    unequal = cli("tokenizer", "compare", spec, "--corpus", corpus, "--reference", "en.txt").err
    assert "`el.txt` has 1 lines and `en.txt` 2" in unequal
    assert "there is no text `fr.txt`" in cli("tokenizer", "compare", spec, "--corpus", corpus, "--reference", "fr.txt").err
    (corpus / "el.txt").write_bytes(b"\xff\n")
    assert "`el.txt` is not UTF-8: byte 0xff on line 1" in cli("tokenizer", "compare", spec, "--corpus", corpus).err
    assert "there is no file or folder" in cli("tokenizer", "compare", spec, "--corpus", corpus / "none").err


def test_report(cli: Cli, spec: Path) -> None:
    cli("tokenizer", "train", spec)
    assert "tokens_per_word 1 " in " ".join(cli("tokenizer", "report", spec).out.split())
    spec.write_text(SPEC.format(vocab=4, more='require tokens_per_word < 1, "too many"'), encoding="utf-8")
    result = cli("tokenizer", "report", spec)
    assert (result.code, "too many: `tokens_per_word` is 1, and `words` requires < 1" in result.err) == (1, True)
    result = cli("tokenizer", "report", spec, "--json")
    assert (result.code, json.loads(result.out)["requires"][0]["holds"]) == (1, False)
    assert "says nothing of what it is measured on" in cli("tokenizer", "report", WORDS).err
