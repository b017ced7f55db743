"""Text that is no program: whatever it is, the parser raises a diagnostic and nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tessera.frontends.source.format.fmt import format_file
from tessera.frontends.source.syntax import ast, cache
from tessera.frontends.source.syntax.depth import deep_recursion
from tessera.frontends.source.syntax.parser import parse
from tessera.ir.diagnostics import Diagnostic

PROGRAM = (Path(__file__).parents[1] / "everything.tess").read_text(encoding="utf-8")


def error_of(text: str) -> Diagnostic | None:
    """What the parser raises, if anything."""
    try:
        parse(text, "any.tess")
    except Diagnostic as error:
        return error
    return None


def refusal(text: str) -> Diagnostic:
    with pytest.raises(Diagnostic) as caught:
        parse(text, "wrong.tess")
    assert len(caught.value.render()) < 2000
    return caught.value


def test_the_first_mistake_is_reported() -> None:
    assert refusal("const a = = 1\nconst b = 'x'").code == "E0101"


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "\ufeff", " \t\r\n"])
def test_empty_files(text: str) -> None:
    file = parse(text, "empty.tess")
    assert (file.uses, file.items) == ([], [])


def test_line_ends_tabs_and_byte_order_mark() -> None:
    file = parse("\ufeffconst\ta = [\r\n\t1,\r\n]\r\n", "crlf.tess")
    assert file.items == [ast.Const("a", ast.ListExpr([ast.Int(1)]))]
    span = file.items[0].span
    assert span is not None
    assert span[1:5] == (1, 1, 3, 2)


def test_nul_byte() -> None:
    assert refusal("const a = \0").code == "E0106"


@pytest.mark.parametrize("tail", ["", " $", "\n)"])
def test_a_line_of_a_megabyte(tail: str) -> None:
    text = f"const a = [{'1, ' * 350_000}]{tail}"
    if tail:
        refusal(text)
    else:
        assert len(parse(text, "long.tess").items[0].value.items) == 350_000  # type: ignore[union-attr]


def test_a_line_of_a_megabyte_of_spaces() -> None:
    assert parse(f"const a = 1{' ' * 1_000_000}\n{' ' * 1_000_000}", "spaces.tess").items == [
        ast.Const("a", ast.Int(1))
    ]


@pytest.mark.parametrize("text", ['"' + "a" * 1_000_000, '"' + "\\a" * 500_000 + '"', "a" * 1_000_000, "1" * 1_000_000])
def test_a_token_of_a_megabyte(text: str) -> None:
    refusal(f"const {text}")


@pytest.mark.parametrize(
    "text",
    [
        "const a = " + "(" * 10_000 + "1" + ")" * 10_000,
        "const a = " + "[" * 10_000,
        "const a = " + "f(" * 10_000 + "1" + ")" * 10_000,
        "const a = " + "-" * 10_000 + "1",
        "const a = " + "not " * 10_000 + "b",
        "const a = 1" + " + 1" * 10_000,
        "const a = 1" + " ** 1" * 10_000,
        "const a = b" + " |> f" * 10_000,
        "const a = b" + ".c" * 10_000,
        "const a = f" + "(1)" * 10_000,
        "fn f(x: int) -> int { " + "if a { " * 10_000,
        "fn f(x: float[" + "a + " * 10_000 + "1]) -> int { return x }",
        "fn f(x: int) -> int { repeat i in " + "-" * 10_000 + "1 { } }",
        "fn f(x: int) -> int { if " + "-" * 10_000 + "1 { } }",
        "fn f(x: int) -> int { if a { } else if " + "-" * 10_000 + "1 { } }",
        "fn f(x: int) -> int { fold i in " + "-" * 10_000 + "1 from (a) { } }",
        "fn f(x: int = " + "-" * 10_000 + "1) -> int { }",
        "fn f(x: int) -> (int if " + "-" * 10_000 + "1) { }",
        "compile f(a=" + "-" * 10_000 + "1) { }",
    ],
)
def test_nesting_has_a_limit(text: str) -> None:
    assert refusal(text).code == "E0118"


def test_the_deepest_program_can_be_used() -> None:
    """Up to the limit nothing overflows, neither here nor in the formatter nor in the cache."""
    inner = "f(" * 90 + "1" + " + 1" * 105 + ")" * 90
    text = "fn f(x: int) -> int { " + "if a { " * 105 + f"b = {inner} " + "}" * 106
    file = parse(text, "deep.tess")
    with deep_recursion():
        assert parse(format_file(file), "deep.tess") == file
        assert cache.decode(cache.encode(file), "deep.tess") == file


def test_a_long_chain_of_branches() -> None:
    (function,) = parse("fn f(x: int) -> int { if a { }" + " else if a { }" * 3000 + " }", "long.tess").items
    assert isinstance(function, ast.Function)
    (statement,) = function.body
    assert isinstance(statement, ast.IfStmt)
    assert len(statement.branches) == 3001


def test_random_damage_gives_a_diagnostic() -> None:
    """A thousand programs, each with a few characters or words changed."""
    chance = random.Random(7)
    words = PROGRAM.split(" ")
    pieces = [
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "=",
        "as",
        "if",
        "else",
        '"',
        "#",
        "##",
        "*",
        "-",
        "->",
        "1.2.3",
        "\0",
        "é",
    ]
    refused = 0
    for _ in range(1000):
        if chance.random() < 0.5:
            text = list(PROGRAM)
            for _ in range(chance.randint(1, 3)):
                place = chance.randrange(len(text))
                text[place : place + chance.choice((0, 1, 5))] = chance.choice(["", chance.choice(pieces)])
            program = "".join(text)
        else:
            parts = list(words)
            for _ in range(chance.randint(1, 3)):
                parts[chance.randrange(len(parts))] = chance.choice(pieces + words)
            program = " ".join(parts)
        error = error_of(program)
        if error is not None:
            assert error.code.startswith("E01")
            assert error.span is not None
            assert error.render()
            refused += 1
    assert refused > 500


def test_every_prefix_gives_a_diagnostic_or_parses() -> None:
    for end in range(0, len(PROGRAM), 7):
        error = error_of(PROGRAM[:end])
        assert error is None or error.code.startswith("E01")
