"""Tokompiler: what a card asks of `seeds/tokompiler`, on the C and Fortran files of NumPy."""

from __future__ import annotations

import json
import random
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

pytest.importorskip("tree_sitter_c", reason="needs the extra `code`")
pytest.importorskip("tree_sitter_fortran", reason="needs the extra `code`")

from tessera.runtime.code import KINDS, NUMBERS, anonymise, named, parser, restore, vocabulary, written

from .programs_in_c import TABLE, parsed, sources, table, tokens, write
from .tokompiler_training import perplexity, weights

TARGETS = ("torch", "onnx")
LANGUAGES = ("c", "fortran")
# It goes when the tests end.
FOLDERS: list[TemporaryDirectory[str]] = []
MODEL = """
## Leaves of programs in bytes as ids.
model lookup(text: u8[B, N], count: i64[B]) -> (ids: i64[B, N], tokens: i64[B]) {
    ids, found = code(text, count, length=N) as tokenizer
    return ids, found
}
"""
C = """
#include <math.h>
#define LARGE(x) ((x) > 1000)
struct point { double at[3]; struct point *next; };
static int count = 0;
double norm(struct point *p, int n) {
    double sum = 0.5; /* lost */
    for (int i = 0; i < n; i++) sum += p->at[i] * p->at[i];
    if (LARGE(sum)) { printf("%f is large\\n", sum); count += 1; }
    return sqrt(sum);
}
"""
FORTRAN = """
subroutine Scale(a, n, factor)
  integer :: n, i
  real :: a(n), factor
  do i = 1, n
    a(i) = a(i) * factor + &
           offset(i) ! lost
  end do
  print *, "done"
end subroutine Scale
"""


@cache
def folder() -> Path:
    """The seed beside its vocabulary."""
    FOLDERS.append(TemporaryDirectory(prefix="tokompiler-"))
    return write(Path(FOLDERS[-1].name), MODEL)


def tree(text: str, language: str) -> list[tuple[str, str]]:
    """The nodes of a program in order, leaves with their texts, without comments and ends of lines."""
    pending, found = [parser(language).parse(text.encode()).root_node], []
    while pending:
        node = pending.pop()
        text_of = node.text.decode().strip()
        if node.type != "comment" and (text_of or node.children):
            found.append((node.type, "" if node.children else text_of))
        pending += reversed(node.children)
    return found


def test_names_are_kinds_and_numbers() -> None:
    leaves, scope = named(C, "c", key=1)
    names = {name: key.split("_")[0] for key, name in json.loads(scope).items()}
    expected = {
        "p": "arg", "n": "arg", "x": "arg", "norm": "func", "sqrt": "func", "printf": "func", "LARGE": "func", "sum": "var",
        "count": "var", "i": "var", "at": "field", "next": "field", "point": "type", "0.5": "num", "1000": None,
        "<math.h>": "str", '"%f is large\\n"': "str",
    }  # fmt: skip
    assert {name: names.get(name) for name in expected} == expected
    assert not re.search(r"norm|sum|point|printf|lost", leaves)
    fortran = {name: key.split("_")[0] for key, name in json.loads(named(FORTRAN, "fortran")[1]).items()}
    assert {name: fortran[name] for name in ("a", "n", "factor", "scale", "offset", "i", "1", '"done"')} == {
        "a": "arg", "n": "arg", "factor": "arg", "scale": "func", "offset": "func", "i": "var", "1": "num", '"done"': "str",
    }  # fmt: skip
    # Numbers of a kind are drawn, each once, by the key alone.
    assert named(C, "c", key=1) == (leaves, scope)
    assert named(C, "c", key=2)[0] != leaves
    assert len(json.loads(scope)) == len(set(json.loads(scope).values()))


@pytest.mark.parametrize("language", LANGUAGES)
def test_other_names_give_the_same_leaves(language: str) -> None:
    """All names of a file in another order, under one key."""
    changed = 0
    for text, leaves, scope in list(parsed(language).values())[:40]:
        literal = ("num", "char", "str")
        names = sorted({n for key, n in json.loads(scope).items() if key.split("_")[0] not in literal and n.isidentifier()})
        # A name that stands in what is one leaf, such as the text of a macro, is another text there.
        other = [f"q{number}z" for number in range(len(names))]
        random.Random(0).shuffle(other)
        renamed = dict(zip(names, other, strict=True))
        source = text.lower() if language == "fortran" else text
        again, _ = named(by_leaves(source, language, renamed), language, key=3)
        assert again == leaves
        changed += len(names)
    assert changed > 100


def by_leaves(text: str, language: str, renamed: dict[str, str]) -> str:
    """A program with other names, put in where the leaves of its tree are names."""
    data = text.encode()
    parts, last = [], 0
    pending = [parser(language).parse(data).root_node]
    while pending:
        node = pending.pop()
        if not node.children and node.is_named and node.text.decode() in renamed and "literal" not in node.type:
            parts += [data[last : node.start_byte], renamed[node.text.decode()].encode()]
            last = node.end_byte
        pending += reversed(node.children)
    return b"".join([*parts, data[last:]]).decode()


@pytest.mark.parametrize("language", LANGUAGES)
def test_programs_come_back(language: str) -> None:
    """As trees: what the scope puts back parses to what the source does."""
    found = parsed(language)
    assert len(found) >= 40
    lost = [
        name for name, (text, leaves, scope) in found.items()
        if tree(text.lower() if language == "fortran" else text, language) != tree(written(leaves, scope), language)
    ]  # fmt: skip
    print(f"{language}: {len(found)} of {len(sources(language))} parse, {len(lost)} come back otherwise: {lost}")
    # In fixed form a column says what a line is.
    assert all(name.endswith(".f") for name in lost)


def test_the_file_beside_the_seed_has_the_words_of_the_grammars() -> None:
    """A later grammar may know more."""
    assert json.loads(TABLE.read_bytes())["model"]["vocab"].keys() <= {*tokens()}
    assert len(json.loads(table())["model"]["vocab"]) == len(tokens())


@pytest.mark.parametrize("language", LANGUAGES)
def test_hardly_any_leaf_is_unknown(language: str) -> None:
    known = set(vocabulary(language))
    leaves = [leaf for _, text, _ in parsed(language).values() for leaf in text.split(" ")]
    assert {*KINDS, "0", str(NUMBERS - 1)} <= known
    assert sum(leaf not in known for leaf in leaves) < 0.05 * len(leaves)


@pytest.mark.parametrize("target", TARGETS)
def test_pipelines_read_programs_and_write_them(target: str) -> None:
    given = {"source": [C, FORTRAN], "language": ["c", "fortran"], "key": np.array([7])}
    program = ts.load(folder(), model="read")
    (graph,) = program.functions.values()
    draw = np.random.default_rng(0)
    weights = {name: draw.normal(0, 0.1, [int(d) for d in p.type.shape]).astype(np.float32) for name, p in graph.params.items()}
    run = ts.compile(program, target=target, weights=weights, verify=False)
    found = {name: np.asarray(value) for name, value in run(**given, allow_host=True).items()}
    rows = [named(C, "c", key=7), named(FORTRAN, "fortran", key=7)]
    ids = json.loads(TABLE.read_bytes())["model"]["vocab"]
    for row, (leaves, scope), names in zip(found["ids"], rows, found["scope"], strict=True):
        expected = [ids[leaf] for leaf in leaves.split(" ")]
        assert row.tolist() == expected + [0] * (len(row) - len(expected))
        assert names == scope
    assert found["scores"].shape == (*found["ids"].shape, len(ids))
    for text, language, source in zip(found["again"], LANGUAGES, (C, FORTRAN.lower()), strict=True):
        assert tree(str(text), language) == tree(source, language)
    engine = ts.open_tokenizer(folder(), name="code")
    kept = [[number for number in row if number] for row in found["ids"].tolist()]
    assert [text.decode() for text in engine.decode(kept)] == [leaves for leaves, _ in rows]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_leaves_in_bytes_become_the_same_ids_within_a_model(target: str) -> None:
    rows = [leaves[:400].rpartition(" ")[0].encode() for language in LANGUAGES for _, leaves, _ in parsed(language).values()]
    run = ts.compile(ts.load(folder(), model="lookup"), target=target)
    engine = ts.open_tokenizer(folder(), name="code").encode(rows)
    text = np.zeros((len(rows), 400), np.uint8)
    for number, row in enumerate(rows):
        text[number, : len(row)] = np.frombuffer(row, np.uint8)
    found = run(text=text, count=np.array([*map(len, rows)], np.int64))
    for ids, count, own, mask in zip(found["ids"], found["tokens"], engine.ids, engine.mask, strict=True):
        assert ids[:count].tolist() == own[mask].tolist()


@pytest.mark.slow
def test_a_decoder_is_less_surprised_by_kinds_than_by_merged_names() -> None:
    """At equal steps and as many tokens in the vocabulary, by the words and signs of files that were held back."""
    found = {kind: perplexity(kind, weights(kind)) for kind in ("names", "pairs")}
    print({kind: f"{each:.2f}" for kind, each in found.items()})
    assert found["names"] <= 0.5 * found["pairs"]
    # Drawn leaves would be as many as the vocabulary.
    assert found["names"] < 30


def refused(source: Any, language: str = "c", **options: Any) -> Diagnostic:
    with pytest.raises(Diagnostic) as caught:
        named(source, language, **options)
    return caught.value


def test_what_is_refused() -> None:
    assert (found := refused("x = 1", "pascal")).code == "E1016"
    assert "no grammar of `pascal`" in found.message
    assert (found := refused("int f(void) {\n  return (1;\n}\n")).code == "E1016"
    assert "line 2 is no c" in found.message
    assert named("int f(void) {\n  return (1;\n}\n", "c", strict=False)[0].startswith("int func")
    many = f"int a[] = {{{', '.join(map(str, range(NUMBERS + 1)))}}};"
    assert (found := refused(many)).message == "the program has more than 1001 names of the kind `num`"
    assert len(json.loads(named(many.replace(f", {NUMBERS}", ""), "c")[1])) == NUMBERS + 1
    leaves, _ = named(C, "c")
    for wrong, message in (("", "without the scope"), ("[]", "without the scope"), ("{}", "the scope has no `")):
        with pytest.raises(Diagnostic, match=rf"E1016.*{message}"):
            written(leaves, wrong)
    with pytest.raises(Diagnostic, match="E1016"):
        restore([leaves], [named(FORTRAN, "fortran")[1]])
    with pytest.raises(Diagnostic, match=r"E1016.*program 1: line"):
        anonymise([C, "int ("], ["c", "c"], np.array([0]))
    with pytest.raises(Diagnostic, match=r"E1007.*row 0 of `source` is no UTF-8"):
        ts.compile(ts.load(folder(), model="read"), target="torch", verify=False)(
            source=[b"int caf\xe9;"], language=["c"], key=np.array([0]), allow_host=True
        )
