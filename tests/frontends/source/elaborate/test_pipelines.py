"""Pipelines: programs whose calls say what their entry points are; printed, they read back equal."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tessera.frontends import source
from tessera.frontends.source.format.fmt import format_file
from tessera.frontends.source.syntax.parser import parse
from tessera.ir.program import Program
from tessera.passes.engine import run_pipeline

WORDS = Path(__file__).parents[3] / "errors" / "tokenizers" / "words.json"
HEAD = """use std.nn (embedding)

tokenizer words {
    from "words.json"
}

model encoder(ids: token[words, B, T], *, dim: int = 8) -> float[B, dim] {
    return mean(embedding(ids, vocab=words.size, dim=dim) as tok, axis=1)
}

model scores(a: float[B, D], b: float[B, D]) -> float[B] {
    return sum(a * b, axis=1)
}

"""
STEP = """model step(x: i64[B], by: i64[]) -> i64[B] {
    return x * 2 + by
}

model one(x: i64[B]) -> i64[] {
    return min(x) * 0 + 1
}

model more(x: i64[B]) -> bool[] {
    return any(x < 100)
}

model same(x: i64[B]) -> i64[B, 1] {
    return unsqueeze(x % 4, 1)
}

"""
# By what they show: (source, entry points, stages, flows).
PIPELINES = {
    "one": (
        "pipeline main(texts: text[B]) -> float[B, 8] {\n    found = words(texts)\n    return encoder(found.ids)\n}\n",
        ["encoder"], ["words"], ["main"],
    ),
    "nested calls": (
        'pipeline main(texts: text[B]) -> float[B, 8] {\n    host clean = "a.b:c"(t: text[B]) -> text[B]\n'
        "    return encoder(words(clean(texts)).ids)\n}\n",
        ["encoder"], ["clean", "words"], ["main"],
    ),
    "two of one model": (
        "pipeline main(texts: text[B], *, dim: int = 4) -> float[B] {\n    found = words(texts)\n"
        "    a = encoder(found.ids, dim=dim) as first.one\n    b = encoder(found.ids, dim=4) as second\n"
        "    return scores(a, encoder(found.ids, dim=dim) as first.one)\n}\n",
        ["first_one", "second", "scores"], ["words"], ["main"],
    ),
    "pairs": (
        "pipeline main(texts: text[B], others: text[B]) -> (x: float[B, 8], at: i64[B, T, 2], again: text[B]) {\n"
        "    found = words.pair(texts, other=others)\n    return encoder(found.ids), found.offsets, words.decode(found.ids)\n}\n",
        ["encoder"], ["words.pair", "words.decode"], ["main"],
    ),
    "one calls another": (
        "pipeline inner(texts: text[B]) -> (v: float[B, 8], ids: i64[B, T]) {\n    found = words(texts)\n"
        "    return encoder(found.ids), found.ids\n}\n\n"
        "pipeline main(texts: text[B]) -> float[B] {\n    a, ids = inner(texts)\n    b = encoder(ids)\n"
        "    return scores(a, b)\n}\n",
        ["encoder", "scores"], ["words"], ["main", "inner"],
    ),
    "ids and bytes": (
        "model codes(bytes: u8[B, N], count: i64[B]) -> i64[B] {\n    return sum(cast(bytes, i64), axis=1) + count\n}\n\n"
        "pipeline main(ids: token[4, B, T], texts: text[B]) -> (a: float[B, 8], b: i64[B]) {\n"
        "    raw = utf8(texts)\n    b = codes(raw.bytes, raw.count)\n    return encoder(ids), b\n}\n",
        ["codes", "encoder"], ["utf8"], ["main"],
    ),
    "a fold": (
        STEP + "pipeline main(texts: text[B], *, n: int = 3) -> (last: i64[B], all: i64[n, B], n: i64[B]) {\n"
        "    x = words(texts).count\n    y = x\n    fold i in n from (x, y) stack (z) {\n        x = step(x, i)\n        z = x\n"
        "        fold j in 2 from (z) {\n            z = step(z, i)\n            z = step(z, j)\n        }\n    }\n"
        "    fold i in 2 from (x) {\n        x = step(x, i)\n    }\n    return x, z, y\n}\n",
        ["step"], ["words"], ["main"],
    ),
    "whiles": (
        STEP + "pipeline main(texts: text[B]) -> i64[B] {\n    x = words(texts).count\n"
        "    while more(step(x, one(x))) from (x) limit 8 {\n        x = step(x, one(x))\n    }\n"
        "    go = more(x)\n    while go from (x, go) limit 8 {\n        x = step(x, one(x))\n        go = more(x)\n    }\n"
        "    while more(words(words.decode(same(x))).count) from (x) limit 2 {\n        x = step(x, one(x))\n    }\n"
        "    return x\n}\n",
        ["one", "step", "more", "same"], ["words", "words.decode"], ["main"],
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(WORDS, tmp_path / "words.json")
    return tmp_path


def made(folder: Path, text: str, model: str = "main") -> Program:
    return source.loads(text, str(folder / "main.tess"), model, root=folder)


@pytest.mark.parametrize("name", PIPELINES)
def test_it_is_a_program_that_reads_back(folder: Path, name: str) -> None:
    text, entries, stages, flows = PIPELINES[name]
    program = made(folder, HEAD + text)
    assert (list(program.functions), list(program.stages), list(program.flows)) == (entries, stages, flows)
    printed = source.print_module(program)
    assert ("pipeline main(" in printed) == (flows == ["main"])
    again = made(folder, printed)
    assert program.difference(again) is None, printed
    assert source.print_module(again) == printed
    found, _ = run_pipeline(program, [source.parse_pass(p) for p in ("inline", "fold_constants", "cse", "dce")], verify_each=True)
    assert found.difference(made(folder, source.print_module(found))) is None


@pytest.mark.parametrize("name", PIPELINES)
def test_its_source_is_formatted(name: str) -> None:
    text = HEAD + PIPELINES[name][0]
    file = parse(text, "main.tess")
    assert format_file(file) == text
    assert parse(format_file(file), "main.tess") == file


def test_comments_stay_where_they_are() -> None:
    text = (
        "# Before.\n\n## What it does.\npipeline main(\n    texts: text[B],  # the first\n    *,\n    n: int,\n) -> text[B] {\n"
        "    # One.\n    a = f(texts)  # two\n\n    # Three.\n    host f = \"a:b\"(t: text[B]) -> text[B]\n    return a\n"
        "    # Four.\n}\n"
    )
    once = format_file(parse(text, "main.tess"))
    assert [line.strip() for line in once.splitlines() if "#" in line] == [
        "# Before.", "## What it does.", "# the first", "# One.", "a = f(texts)  # two", "# Three.", "# Four.",
    ]  # fmt: skip
    assert format_file(parse(once, "main.tess")) == once


def test_the_word_is_a_name_elsewhere() -> None:
    source.loads("model m(pipeline: float[B]) -> float[B] {\n    text = pipeline + 1.0\n    return text\n}\n")


def test_pipelines_that_call_each_other_twice(folder: Path) -> None:
    """Each is looked at once: there are 2 ** 40 ways from the first to the last."""
    text = "pipeline p0(texts: text[B]) -> float[B, 8] {\n    found = words(texts)\n    return encoder(found.ids)\n}\n"
    for number in range(1, 41):
        last = f"p{number - 1}(texts)"
        text += f"pipeline p{number}(texts: text[B]) -> float[B, 8] {{\n    a = {last}\n    return {last}\n}}\n"
    program = made(folder, HEAD + text, "p40")
    assert program.called("p40") == ["words", "encoder"]


def test_files_are_read_below_a_folder_only(folder: Path) -> None:
    with pytest.raises(Exception, match=r"E0005.*only files of a project"):
        source.loads(HEAD + PIPELINES["one"][0], str(folder / "main.tess"), "main")
