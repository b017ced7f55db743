"""All mistakes of a file: what is told after the first one, and that nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts
from tessera.driver.check import check, diagnose, examine
from tessera.frontends.source.syntax.lexer import tokenize, word_kinds
from tessera.frontends.source.syntax.recovery import parse_all
from tessera.frontends.source.syntax.tables import tables
from tessera.ir.diagnostics import Diagnostic
from tessera.specs import catalog

SPECS = sorted(catalog.FOLDER.rglob("*.tess"))
HEAD = "model m(x: float[B, 8]) -> float[B, 8] {\n"


def codes(text: str) -> list[tuple[str, int]]:
    """The code and the line of each diagnostic."""
    return [(d.code, d.span.line if d.span else 0) for d in diagnose(text, "t.tess")]


def test_a_use_of_what_is_wrong_is_no_further_mistake() -> None:
    text = HEAD + "    y = foo(x)\n    z = y @ y\n    repeat i in 3 {\n        z = z + y\n    }\n    return z\n}\n"
    assert codes(text) == [("E0201", 2)]


def test_an_argument_beside_a_wrong_one_is_told_as_well() -> None:
    text = HEAD + "    return concat(foo(x), x @ x, axis=bar) + x @ x\n}\n"
    assert codes(text) == [("E0201", 2), ("E0302", 2), ("E0201", 2), ("E0302", 2)]


def test_a_mistake_of_twelve_rounds_is_told_once() -> None:
    text = HEAD + "    repeat i in 12 {\n        x = x @ x\n    }\n    return x\n}\n"
    assert codes(text) == [("E0302", 3)]


def test_what_no_round_decides_is_not_held_against_the_function() -> None:
    body = "    if B > 3 {\n        return x\n    }\n    y = foo(x)\n    return x\n}\n"
    assert codes(HEAD + body) == [("E0407", 2), ("E0201", 5)]


def test_a_mistake_in_a_function_is_told_with_its_call() -> None:
    text = HEAD + "    y = f(x)\n    return foo(y)\n}\n\nfn f(x: float[B, D]) -> float[B, D] {\n    return x @ x\n}\n"
    found = diagnose(text, "t.tess")
    assert [(d.code, d.span.line) for d in found if d.span] == [("E0201", 3), ("E0302", 7)]
    assert [note.message for note in found[1].notes] == ["in `f`, called here"]


def test_declarations_behind_a_syntax_error_are_checked() -> None:
    text = "fn f(x: float[B]) -> float[B] {\n    return x +\n}\n\n" + HEAD + "    y = f(x)\n    return foo(x)\n}\n"
    assert codes(text) == [("E0101", 2), ("E0201", 7)]


def test_the_exception_carries_all() -> None:
    text = HEAD + "    y = foo(x)\n    return bar(x)\n}\n"
    with pytest.raises(Diagnostic, match="foo") as caught:
        ts.loads(text)
    assert [d.message for d in caught.value.others] == ["`bar` is not defined"]
    assert str(caught.value).count("error[") == 1


def test_a_syntax_error_carries_the_others() -> None:
    text = HEAD + "    y = x +\n    return x\n}\n\nconst N = foo\n"
    with pytest.raises(Diagnostic, match="E0101") as caught:
        ts.loads(text)
    assert [d.code for d in caught.value.others] == ["E0201"]


def test_a_file_that_is_used_is_told_of_too(tmp_path: Path) -> None:
    (tmp_path / "blocks.tess").write_text("fn f(x: float[B]) -> float[B] {\n    return x &&\n}\n")
    main = tmp_path / "main.tess"
    main.write_text('use "blocks.tess" (f)\n\nmodel m(x: float[B]) -> float[B] {\n    return f(x) + foo\n}\n')
    found = examine(main).diagnostics
    assert [(d.code, Path(d.span.file).name) for d in found if d.span] == [("E0201", "main.tess"), ("E0112", "blocks.tess")]


def test_a_text_that_is_not_saved_is_checked_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "blocks.tess").write_text("fn f(x: float[B]) -> float[B] {\n    return x\n}\n")
    text = 'use "blocks.tess" (f)\n\nmodel m(x: float[B]) -> float[B] {\n    return f(x)\n}\n'
    assert diagnose(text, str(tmp_path / "new.tess")) == []


def test_shipped_text_is_checked_as_the_module_that_it_is() -> None:
    path = catalog.FOLDER / "std" / "nn.tess"
    assert diagnose(path.read_text(encoding="utf-8"), str(path)) == []


def test_check_raises_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tess"
    path.write_text("fn f(x: float[B]) -> float[B] {\n    return foo\n}\n\n" + HEAD + "    return bar\n}\n")
    with pytest.raises(Diagnostic, match="foo") as caught:
        check(path)
    assert [d.message for d in caught.value.others] == ["`bar` is not defined"]


@pytest.mark.parametrize("text", ["", "}", "fn", "use", "fn f(", "const A = const B =", "{" * 500, '"', "model m {", "\0"])
def test_hopeless_text_ends(text: str) -> None:
    assert text == "" or diagnose(text) != []


@pytest.mark.extended
@settings(max_examples=60, deadline=None)
@given(st.sampled_from([p for p in SPECS if p.stat().st_size < 6000]), st.data())
def test_one_damaged_token_is_one_place(path: Path, data: st.DataObject) -> None:
    """Without a token, or with one twice, nothing is told of declarations in front of it, and nothing is raised."""
    text = path.read_text(encoding="utf-8")
    tokens = tokenize(text, word_kinds(tables().literals))
    at = data.draw(st.integers(0, len(tokens.kinds) - 2))
    lines = text.split("\n")
    line, first, last = tokens.lines[at] - 1, tokens.columns[at] - 1, tokens.ends[at] - 1
    word = lines[line][first:last] * (2 * data.draw(st.booleans()))
    lines[line] = f"{lines[line][:first]}{word and word + ' '}{lines[line][last:]}"
    parsed = parse_all("\n".join(lines), "damaged.tess")
    assert all(d.span is not None for d in parsed.errors)
    assert len(parsed.errors) <= 3
