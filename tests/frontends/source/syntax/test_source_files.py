"""Reading source files, the cache of what was parsed, and the tables of the grammar."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tessera.frontends.source.syntax import ast, cache, lexer, store, tables
from tessera.frontends.source.syntax.expressions import PRECEDENCE
from tessera.frontends.source.syntax.parser import MAX_BYTES, parse, read_source
from tessera.ir.diagnostics import Diagnostic

EVERYTHING = Path(__file__).parents[1] / "everything.tess"


def load_ast(path: Path) -> ast.File:
    """As another process has it, which shares what lies on the disk and no trees."""
    cache.tree_of.cache_clear()
    return cache.load_ast(path)


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("TESSERA_CACHE", str(directory))
    tables.tables()
    return directory


def refusal(path: Path) -> Diagnostic:
    with pytest.raises(Diagnostic) as caught:
        read_source(path)
    return caught.value


def test_missing_file_suggests_a_neighbour(tmp_path: Path) -> None:
    (tmp_path / "blocks.tess").write_text("")
    error = refusal(tmp_path / "block.tess")
    assert (error.code, error.help) == ("E0001", "did you mean `blocks.tess`?")
    assert refusal(tmp_path / "nowhere" / "a.tess").code == "E0001"


def test_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path).code == "E0002"


def test_impossible_path() -> None:
    assert refusal(Path("a\0b")).code == "E0002"


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.tess"
    path.write_bytes(b"const a = 1\nconst b = \xe9\n")
    error = refusal(path)
    assert error.code == "E0003"
    assert "byte 0xe9 on line 2" in error.message


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.tess"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert refusal(path).code == "E0004"


def test_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "bom.tess"
    path.write_bytes("\ufeffconst a = 1".encode())
    assert read_source(path) == "const a = 1"


def positions(file: ast.File) -> list[list[int]]:
    """Every position in the file, which comparing trees leaves out."""
    return cache.encode(file)[1:]


def test_cached_tree_is_the_parsed_one(entries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_ast(EVERYTHING)
    monkeypatch.setattr(cache, "parse", lambda *_: pytest.fail("parsed again"))
    again = load_ast(EVERYTHING)
    assert again == first == parse(read_source(EVERYTHING), str(EVERYTHING))
    assert again.comments == first.comments
    assert positions(again) == positions(first)
    copy = tmp_path / "copy.tess"
    copy.write_bytes(EVERYTHING.read_bytes())
    moved = load_ast(copy)
    assert moved.path == str(copy)
    assert moved.items[0].span is not None
    assert moved.items[0].span.file == str(copy)


def test_cached_source_shows_in_diagnostics(entries: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tess"
    path.write_text("const a = 1\n")
    load_ast(path)
    span = load_ast(path).items[0].span
    assert "const a = 1" in Diagnostic("E0101", "x", span).render()


def test_programs_of_a_process_share_trees(entries: Path) -> None:
    assert cache.load_ast(EVERYTHING) is cache.load_ast(EVERYTHING)


def test_changed_file_is_parsed_again(entries: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tess"
    path.write_text("const a = 1\n")
    load_ast(path)
    path.write_text("const a = 2\n")
    assert cache.load_ast(path).items == [ast.Const("a", ast.Int(2))]


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"null", b"[]", b"[[4]]", b"[1, 2]", b"[[99]]", b'[["a"], [], [], [], []]', b"\xff",
        b"[[5, 1], [1], [1], [1], [1]]", b"[" * 100_000,
    ],
)  # fmt: skip
def test_damaged_entry_is_as_good_as_none(entries: Path, damage: bytes) -> None:
    expected = load_ast(EVERYTHING)
    written = [path for path in entries.iterdir() if path.name.startswith("ast-")]
    assert len(written) == 1
    written[0].write_bytes(damage)
    assert load_ast(EVERYTHING) == expected


def test_truncated_entry(entries: Path) -> None:
    expected = load_ast(EVERYTHING)
    (entry,) = (path for path in entries.iterdir() if path.name.startswith("ast-"))
    entry.write_bytes(entry.read_bytes()[:-100])
    assert load_ast(EVERYTHING) == expected


def test_unusable_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TESSERA_CACHE", str(blocked / "below"))
    assert load_ast(EVERYTHING) == load_ast(EVERYTHING)


def test_failed_write_leaves_nothing(entries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    load_ast(EVERYTHING)
    assert list(entries.glob("*")) == []


def test_cache_directory_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESSERA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.cache_dir() == tmp_path / "tessera"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.cache_dir() == tmp_path / ".cache" / "tessera"


def test_cache_stays_small(entries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_ENTRIES", 10)
    for number in range(30):
        store.save_json(f"entry-{number}", number)
    assert len(list(entries.glob("*.json"))) <= 10
    assert store.load_json("entry-29") == 29


# Tables --------------------------------------------------------------------------------------------------------------


def test_grammar_has_no_conflicts() -> None:
    """lark settles a conflict by shifting, and only its log tells."""
    from lark import Lark, logger

    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        Lark(tables.GRAMMAR.read_text(), parser="lalr", start=list(tables.STARTS), keep_all_tokens=True, debug=True)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert messages == []


def test_tables_survive_json() -> None:
    data = tables.build()
    assert json.loads(json.dumps(data)) == data


@pytest.mark.parametrize("damage", ["", "[]", '{"rules": []}', '{"literals": {}, "rules": [[2, "a", "none"]]}'])
def test_damaged_tables_are_built_again(entries: Path, damage: str) -> None:
    tables.tables.cache_clear()
    tables.tables()
    (entry,) = entries.glob("grammar-*.json")
    entry.write_text(damage)
    tables.tables.cache_clear()
    assert parse("const a = 1", "a.tess").items == [ast.Const("a", ast.Int(1))]
    assert json.loads(entry.read_text())["literals"]["fn"] == "FN"


def test_lark_is_not_imported_once_there_are_tables(entries: Path) -> None:
    tables.tables.cache_clear()
    tables.tables()
    program = (
        "import sys; from tessera.frontends.source.syntax.parser import parse; parse('const a = 1', 'a');"
        "assert not {'lark', 'torch', 'onnx', 'networkx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_reserved_words_are_those_of_the_grammar() -> None:
    words = {text for text in tables.tables().literals if text.isidentifier()}
    words |= {text for text in PRECEDENCE if text.isidentifier()}
    assert words - {*lexer.NAMES_TOO} | {"inf", "nan", *lexer.LATER_WORDS, *lexer.PYTHON_VALUES} == lexer.RESERVED
    assert words.issuperset(lexer.NAMES_TOO)


@pytest.fixture(scope="module")
def stock():  # type: ignore[no-untyped-def]
    """lark's own parser and lexer, from the same grammar."""
    from lark import Lark

    return Lark(tables.GRAMMAR.read_text(), parser="lalr", lexer="contextual", start=list(tables.STARTS))


def test_lexer_agrees_with_the_grammar(stock) -> None:  # type: ignore[no-untyped-def]
    """The same tokens for a program with every construct."""
    text = EVERYTHING.read_text()
    ours = lexer.tokenize(text, lexer.word_kinds(tables.tables().literals))
    theirs = [(token.type, str(token), token.line, token.column, token.end_column) for token in stock.lex(text)]
    found = list(zip(ours.kinds, ours.texts, ours.lines, ours.columns, ours.ends, strict=True))[:-1]
    assert found == theirs


def test_parser_agrees_with_lark(stock) -> None:  # type: ignore[no-untyped-def]
    from lark.exceptions import LarkError

    words = EVERYTHING.read_text().split(" ")
    for index in range(0, len(words), 3):
        text = " ".join(words[:index] + words[index + 1 :])
        try:
            stock.parse(text, start="file")
            accepted = True
        except LarkError:
            accepted = False
        try:
            parse(text, "less.tess")
            code = None
        except Diagnostic as error:
            code = error.code
        if code is None or not accepted:
            assert (code is None) == accepted, text
        else:
            # What the builder refuses is no matter of the grammar.
            assert code in ("E0113", "E0119", "E0120", "E0121", "E0122", "E0123", "E0124", "E0131")
