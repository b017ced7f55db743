"""What a user reads, and that every code that is raised is explained, and the other way round."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tessera.ir.codes import all_codes
from tessera.ir.diagnostics import Diagnostic, Note, Span, did_you_mean, register_source

ROOT = Path(__file__).parents[2]


def test_shows_the_line_and_a_caret() -> None:
    register_source("a.tess", "model m(x: float[B]) -> float[B] {\n    return foo(x)\n}\n")
    error = Diagnostic(
        "E0201",
        "`foo` is not defined",
        Span("a.tess", 2, 12, 2, 15),
        [Note("a note", Span("a.tess", 1, 1, 1, 6))],
        "use `exp`",
    )
    assert str(error) == (
        "error[E0201]: `foo` is not defined\n"
        "  --> a.tess:2:12\n"
        "   |\n"
        " 2 |     return foo(x)\n"
        "   |            ^^^\n"
        "  note: a note\n"
        "  --> a.tess:1:1\n"
        "   |\n"
        " 1 | model m(x: float[B]) -> float[B] {\n"
        "   | ^^^^^\n"
        "  help: use `exp`"
    )


def test_a_line_of_a_megabyte_is_shown_in_part() -> None:
    register_source("long.tess", "x" * 1_000_000 + "!" + "y" * 1_000_000)
    text = Diagnostic("E0101", "wrong", Span("long.tess", 1, 1_000_001, 1, 1_000_002)).render()
    assert len(text) < 500
    row, caret = text.split("\n")[-2:]
    assert row[caret.index("^")] == "!"


def test_a_span_over_lines_marks_to_the_end_of_the_first() -> None:
    register_source("two.tess", "ab(\ncd)")
    assert Diagnostic("E0101", "wrong", Span("two.tess", 1, 2, 2, 4)).render().endswith("| ab(\n   |  ^^")


@pytest.mark.parametrize("span", [None, Span("unknown.tess", 3, 1, 3, 2), Span("a.tess", 99, 1, 99, 2)])
def test_a_place_that_cannot_be_shown_is_not_a_crash(span: Span | None) -> None:
    assert "wrong" in Diagnostic("E0101", "wrong", span).render()


def test_suggests_the_closest_name() -> None:
    assert did_you_mean("liner", ["linear", "layer_norm"]) == "did you mean `linear`?"
    assert did_you_mean("zzz", ["linear"]) is None


def raised() -> set[str]:
    codes: set[str] = set()
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).parts
        if parts[0] in ("tests", "build", "benchmarks") or parts[0].startswith(".") or parts[:2] == ("ir", "codes"):
            continue
        codes |= set(re.findall(r'"([EW]\d{4})"', path.read_text(encoding="utf-8")))
    return codes


def test_every_raised_code_is_explained() -> None:
    assert raised() - all_codes().keys() == set()


def test_every_explained_code_is_raised() -> None:
    assert all_codes().keys() - raised() == set()


def test_every_explained_code_is_provoked_by_a_test() -> None:
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path.name != "test_diagnostics.py"]
    texts = [path.read_text(encoding="utf-8") for path in [*tests, *(ROOT / "tests" / "errors").rglob("*.txt")]]
    assert all_codes().keys() - set(re.findall(r"[EW]\d{4}", "\n".join(texts))) == set()


def test_no_code_is_explained_twice() -> None:
    from importlib import import_module
    from pkgutil import iter_modules

    import tessera.ir.codes as package

    counted = [c for m in iter_modules(package.__path__) for c in import_module(f"{package.__name__}.{m.name}").CODES]
    assert sorted(counted) == sorted(set(counted))


@pytest.mark.parametrize("code", sorted(all_codes()))
def test_an_explanation_has_a_title_and_a_text(code: str) -> None:
    title, text = all_codes()[code]
    assert re.fullmatch(r"[EW]\d{4}", code)
    assert 0 < len(title) <= 100
    assert "\n" not in title
    assert len(text.split()) >= 12
