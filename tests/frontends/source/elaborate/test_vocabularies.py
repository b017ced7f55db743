"""Inputs of ids keep whose they are: printed, read back, copied, through passes and into files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads
from tessera.frontends.source.format.fmt import format_file
from tessera.frontends.source.format.tokenizers import print_tokenizer
from tessera.frontends.source.syntax.parser import parse
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.vocabulary import Vocabulary

WORDS = Path(__file__).parents[3] / "errors" / "tokenizers" / "words.json"
SPEC = """\
use std.nn (embedding)

tokenizer words {
    from "words.json"
}

const TOKENS = 3 + 1

model m(ids: token[words, B, T], more: token[%s, B, T] as "more ids", *, vocab: int = 4) -> (y: float[B, 2 * T - 1, 8]) {
    both = concat(where(ids > more, ids, more)[:, 1:], reshape(more, [B, T]), axis=1)
    return embedding(both, vocab=words.size, dim=8) as e
}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "words.json").write_bytes(WORDS.read_bytes())
    path = tmp_path / "m.tess"
    path.write_text(SPEC % "words", encoding="utf-8")
    return path


def test_it_prints_reads_back_and_passes_keep_it(spec: Path) -> None:
    module = ts.load(spec)
    assert [v.vocabulary for v in module.graph.inputs] == [Vocabulary(4), Vocabulary(4)]
    assert [v.vocabulary.name for v in module.graph.inputs if v.vocabulary] == ["words", "words"]
    text = ts.source(module)
    assert 'ids: token[4, B, T], more: token[4, B, T] as "more ids"' in text
    assert loads(text).difference(module) is None
    assert loads(text.replace("token[4, B", "i64[B")).difference(module) is not None
    after = ts.apply(module, "cse")
    assert [v.vocabulary for v in after.graph.clone().inputs] == [Vocabulary(4), Vocabulary(4)]


@pytest.mark.extended
def test_files_run(spec: Path, tmp_path: Path) -> None:
    made = ts.compile(ts.load(spec), target="onnx")
    made.save(tmp_path / "m.onnx")
    ids = np.array([[3, 0, 1]])
    y = ts.open(tmp_path / "m.onnx")(ids=ids, **{"more ids": ids})["y"]
    assert y.shape == (1, 5, 8)
    assert np.array_equal(y[0, 1], y[0, 4])


@pytest.mark.parametrize(("whose", "size"), [("4", 4), ("TOKENS", 4), ("vocab", 4), ("vocab // 2 + 2", 4), ("words.size", 4)])
def test_a_vocabulary_is_any_number_that_is_known(whose: str, size: int, spec: Path) -> None:
    spec.write_text((SPEC % whose).replace("ids: token[words,", "ids: token[4,"), encoding="utf-8")
    assert ts.load(spec).graph.inputs[1].vocabulary == Vocabulary(size)


@pytest.mark.parametrize(
    ("whose", "code"), [("5", "E1011"), ("4", "E1011"), ("0", "E0403"), ("true", "E0403"), ("nowhere", "E0201")]
)
def test_what_is_no_such_vocabulary(whose: str, code: str, spec: Path) -> None:
    spec.write_text(SPEC % whose, encoding="utf-8")
    with pytest.raises(Diagnostic) as caught:
        ts.load(spec)
    assert caught.value.code == code


def test_a_record_may_be_called_token() -> None:
    text = "record token[B, T] { ids: i64[B, T] }\n\nmodel m(t: token[B, T]) -> i64[B, T] { return t.ids }\n"
    assert loads(text).graph.inputs[0].vocabulary is None


def test_what_is_computed_from_ids_is_a_number(spec: Path) -> None:
    text = "model m(x: float[B, 7], ids: token[4, B, K]) -> float[B, K] { return gather(x, ids + 1, axis=1) }\n"
    assert loads(text).graph.inputs[1].vocabulary == Vocabulary(4)


def test_in_python() -> None:
    with ts.model("m") as m:
        ids = m.input("ids", "token[4, B, T]")
        m.output(ts.std.nn.embedding(ids, vocab=4, dim=8))
    assert m.module.graph.inputs[0].vocabulary == Vocabulary(4)
    with pytest.raises(Diagnostic, match=r"E1011.*`ids` holds ids of a vocabulary of 4 tokens"), ts.model("m") as m:
        m.output(ts.std.nn.embedding(m.input("ids", "token[4, B, T]"), vocab=5, dim=8))


def test_lists_and_series_are_tokens_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "t.tess"
    listed = 'const TAGS = ["<td>", "</td>"]\n\ntokenizer t {\n    special ["[A]", "[B]"]\n    inject [TAGS, "{"]\n'
    series = '    inject numbers(first=9, last=11)\n    inject runs(text="ab", first=2, last=3)\n    model bpe(vocab=300)\n}\n'
    path.write_text(listed + series)
    found = ts.load_tokenizer(path)
    assert [(t.text, t.special) for t in found.added] == [
        ("[A]", True), ("[B]", True), ("<td>", False), ("</td>", False), ("{", False), ("9", False), ("10", False), ("11", False),
        ("abab", False), ("ababab", False),
    ]  # fmt: skip
    path.write_text(print_tokenizer(found))
    assert found.difference(ts.load_tokenizer(path)) is None
    assert format_file(parse(listed + series, "")) == listed + series
