"""What a pipeline requires of a corpus gates the build."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends import source
from tessera.ir.diagnostics import Diagnostic

pytest.importorskip("tokenizers")

WORDS = Path(__file__).parents[1] / "errors" / "tokenizers" / "words.json"
LINES = ("one two", "three x", "y", "two one one")
SPEC = """tokenizer words {
    from "words.json"
}

model share(ids: token[words, B, T], mask: bool[B, T]) -> float[B] {
    # Unknown words are the first token.
    return sum(cast(mask and ids > 0, f32), axis=1) / sum(cast(mask, f32), axis=1)
}

pipeline look(texts: text[B]) -> (valid: float[B], long: bool[B]) {
    HOST
    measure "held/*.txt"
    metrics [words.size, words.unknown_share]
    require words.tokens_per_word <= 1.0, "words are whole"
    require valid > 0.6, "most words are known"
    found = words(texts)
    long = LONG
    return share(found.ids, found.mask), long
}
"""
MANY = """model many(mask: bool[B, T]) -> bool[B] {
    return sum(cast(mask, i64), axis=1) > 2
}

"""
PLAIN = SPEC.replace("    HOST\n", "").replace("LONG", "many(found.mask)").replace("pipeline look", f"{MANY}pipeline look")
HOSTED = SPEC.replace("HOST", 'host long_of = "nowhere:long_of"(texts: text[B]) -> bool[B]').replace("LONG", "long_of(texts)")


def long_of(texts: Any) -> Any:
    return np.array([len(text) > 3 for text in texts])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(WORDS, tmp_path / "words.json")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "a.txt").write_text("\n".join(LINES[:2]) + "\n")
    (tmp_path / "held" / "b.txt").write_text("\n\n".join(LINES[2:]))
    (tmp_path / "look.tess").write_text(PLAIN)
    return tmp_path


def test_words_are_those_of_the_analyser_of_the_tokenizer(folder: Path) -> None:
    (folder / "known.tsv").write_text("one\ntwo\n")
    asked = 'from "words.json"\n    measure "held/*.txt" (analyser="known.tsv")'
    spec = PLAIN.replace('from "words.json"', asked).replace("words.unknown_share]", "words.word_share, words.pure_share]")
    (folder / "look.tess").write_text(spec)
    ts.compile(ts.load(folder / "look.tess"), target="onnx", output=folder / "look.zip", verify=False)
    said = json.loads(json.loads(zipfile.ZipFile(folder / "look.zip").read("program.json"))["tessera.metrics"])
    # Of the tokens that were found, `one`, `two` and `three`, the last is not known; what is unknown is none of the language.
    assert (said["words.word_share"], said["words.pure_share"]) == pytest.approx((2 / 3, 2 / 3))


@pytest.mark.parametrize("verify", [True, False])
def test_what_is_measured_is_in_the_manifest(folder: Path, verify: bool) -> None:
    artifact = ts.compile(ts.load(folder / "look.tess"), target="onnx", output=folder / "look.zip", verify=verify)
    said = json.loads(zipfile.ZipFile(folder / "look.zip").read("program.json"))
    # Six of eight words, and 1, 1/2, 0 and 1 of the lines.
    expected = {"words.size": 4.0, "words.unknown_share": 0.25, "words.tokens_per_word": 1.0, "valid": 0.625}
    assert json.loads(said["tessera.metrics"]) == pytest.approx(expected)
    assert "`valid` is 0.625" in artifact.report.notes
    opened: Any = ts.open(folder / "look.zip")
    assert opened(texts=["one"])["valid"].tolist() == [1.0]
    assert "measure" not in said["tessera.source"]


def test_nothing_is_written_where_it_does_not_hold(folder: Path) -> None:
    text = PLAIN.replace("valid > 0.6", "valid > 0.7").replace("word <= 1.0", "word < 1")
    (folder / "look.tess").write_text(text)
    with pytest.raises(Diagnostic) as caught:
        ts.compile(ts.load(folder / "look.tess"), target="torch", output=folder / "look.zip", verify=False)
    assert [error.message for error in (caught.value, *caught.value.others)] == [
        "words are whole: `words.tokens_per_word` is 1, and `look` requires < 1",
        "most words are known: `valid` is 0.625, and `look` requires > 0.7",
    ]
    assert caught.value.code == "E1009"
    assert not (folder / "look.zip").exists()
    shutil.rmtree(folder / "held")
    with pytest.raises(Diagnostic, match=r"E1010.*held/\*\.txt"):
        ts.compile(ts.load(folder / "look.tess"), target="torch", verify=False)


def test_functions_of_python_are_run_where_they_are_allowed(folder: Path) -> None:
    (folder / "look.tess").write_text(HOSTED)
    program = ts.load(folder / "look.tess")
    with pytest.raises(Diagnostic, match="E0913"):
        ts.compile(program, target="torch", verify=False)
    ts.compile(program, target="torch", verify=False, host={"long_of": long_of})


def test_it_reads_back(folder: Path) -> None:
    program = ts.load(folder / "look.tess")
    printed = source.print_module(program)
    again = source.loads(printed, str(folder / "look.tess"), "look", root=folder)
    assert again.measures == program.measures is not None
    assert program.difference(again) is None
    assert source.print_module(again) == printed
