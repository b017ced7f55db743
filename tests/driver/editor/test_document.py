"""What is known of a text from edit to edit: as much as of the same text opened anew, and the mistakes that `check` tells."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tessera.driver.check import diagnose
from tessera.driver.editor import hints
from tessera.driver.editor.document import Document
from tessera.driver.editor.text import Range, applied, from_units, lines_of, pieces, place_of, to_units

from .support import ROOT, SPECS, place

TEXT = """\
## A file.

use std.nn (linear, layer_norm)

const WIDTH = 8

# A remark.
## A block.
layer block(x: float[B, T, D], *, hidden: int, eps: real) -> float[B, T, D] {
    h = linear(layer_norm(x, eps=eps) as norm, out=hidden) as up
    return x + linear(h, out=D) as down
}

model m(x: float[B, T, 4]) -> float[B, T, WIDTH] {
    repeat i in 12 as blocks {
        x = block(x, hidden=16, eps=1e-5)
    }
    return linear(x, out=WIDTH) as head
}
"""
FUNCTION = "\nfn f(y: float[B]) -> float[B] {\n    return y\n}\n"
WHOLE = Range((0, 0), (10_000, 0))


def known(document: Document) -> tuple[Any, ...]:
    return (
        sorted((e.code, e.message, document.range_of(e.span) if e.span else None) for e in document.diagnostics()),
        hints.hints(document, WHOLE),
        hints.words(document),
    )


def test_pieces_are_the_text() -> None:
    for path in SPECS:
        lines = lines_of(path.read_text(encoding="utf-8"))
        cut = pieces(lines)
        assert "\n".join(text for _, text in cut) == "\n".join(lines)
        assert [first for first, _ in cut] == sorted({first for first, _ in cut})


def test_a_declaration_is_a_piece_with_its_comments() -> None:
    texts = [text for _, text in pieces(lines_of(TEXT))]
    assert [text.lstrip().splitlines()[0] for text in texts] == [
        "## A file.", "const WIDTH = 8", "# A remark.", "model m(x: float[B, T, 4]) -> float[B, T, WIDTH] {",
    ]  # fmt: skip


def test_a_use_behind_a_declaration_is_part_of_it() -> None:
    text = "const A = 1\nuse std.nn (linear)\n"
    assert len(pieces(lines_of(text))) == 1
    assert [e.code for e in Document(text).diagnostics()] == [e.code for e in diagnose(text)]


@given(st.text(alphabet="a😀é\u200d中 ", max_size=12), st.integers(0, 40))
def test_columns_in_the_units_of_the_protocol(line: str, column: int) -> None:
    column = min(column, len(line))
    for encoding in ("utf-16", "utf-32", "utf-8"):
        assert from_units(line, to_units(line, column, encoding), encoding) == column
    assert to_units(line, column) == len(line[:column].encode("utf-16-le")) // 2


def test_places_outside_of_the_text_are_brought_in() -> None:
    assert place_of(["ab", "c"], 7, 3) == (1, 1)
    assert place_of(["ab", "c"], 0, 30) == (0, 2)
    assert place_of(["a😀b"], 0, 2) == (0, 1)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate])
@given(st.data())
def test_edits_leave_what_a_new_document_knows(data: st.DataObject) -> None:
    """Whatever is typed where, what is kept from before is what would be found out now, of a text that does not parse too."""
    document = Document(TEXT)
    document.diagnostics()
    text = TEXT
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = min(len(text), start + data.draw(st.sampled_from([0, 0, 1, 3, 40])))
        new = data.draw(
            st.sampled_from(
                ["", "\n", "x", "}", "{", "linear(", "#", '"', FUNCTION, " WIDTH"]
            )
        )
        text = applied(text, place(text, start), place(text, stop), new)
        document.edit(text)
        if data.draw(st.booleans()):
            document.diagnostics()
    assert document.text == text
    assert known(document) == known(Document(text))


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([TEXT.replace("eps=eps", "ep=eps"), TEXT.replace("eps=eps", "ep=eps").replace("const", "con")], id="rest"),
        pytest.param([TEXT.replace("use std", "use sd"), TEXT], id="a use line"),
        pytest.param([TEXT.replace("use std", "use (std"), TEXT.replace("linear,", "liner,")], id="names that are lost"),
        pytest.param([TEXT + FUNCTION, FUNCTION + TEXT + FUNCTION, TEXT + FUNCTION], id="the first of two"),
        pytest.param([TEXT.replace("WIDTH)", "WIDE)").replace("(x: float[B, T, D]", "(x float[B, T, D]"), TEXT], id="mended"),
    ],
)  # fmt: skip
def test_what_was_wrong_is_forgotten(steps: list[str]) -> None:
    document = Document(TEXT)
    for text in steps:
        document.diagnostics()
        document.edit(text)
        assert known(document) == known(Document(text))


def test_layers_of_the_library_are_looked_at_once() -> None:
    """What is remembered of a layer is what it comes to: its types, its weights, and what is wrong with a call."""
    wrong = TEXT.replace("as down", "as up")
    document = Document(wrong)
    assert [e.code for e in document.diagnostics()] == ["E0206"]
    document.edit(TEXT)
    assert document.diagnostics() == []
    document.edit(wrong + "\n")
    assert known(document) == known(Document(wrong + "\n"))
    two = TEXT.replace("model m(", "model n(") + TEXT[TEXT.index("\nmodel") :]
    assert known(Document(two))[1][-1].text == "f32[B, T, 8]"


def test_an_edit_of_a_layer_makes_its_model_stale_and_nothing_else() -> None:
    document = Document(TEXT)
    document.diagnostics()
    document.edit(TEXT.replace("out=hidden)", "out=hidden + 0)"))
    assert {getattr(i, "name", "") for p in document.stale() for i in p.items} == {"block", "m"}
    document.edit("\n" + document.text)
    assert {getattr(i, "name", "") for p in document.stale() for i in p.items} <= {"block", "m"}


def test_a_longer_use_line_makes_nothing_stale() -> None:
    document = Document(TEXT)
    document.diagnostics()
    document.edit(TEXT.replace("(linear, layer_norm)", "(linear, layer_norm, gelu)"))
    assert {getattr(i, "name", "") for p in document.stale() for i in p.items} == set()


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.extended)])
def test_the_wrong_programs_are_as_wrong_in_the_editor(step: int) -> None:
    """Each mistake that `check` tells stands at the same line with the same code; of what is badly written, the syntax alone."""
    other = []
    for path in sorted((ROOT / "tests" / "errors").rglob("*.tess"))[::step]:
        text = path.read_text(encoding="utf-8", errors="strict")
        document = Document(text, str(path))
        mine = {(e.code, _line(document, e)) for e in document.diagnostics() if e.severity == "error"}
        errors = [e for e in diagnose(text, str(path)) if e.severity == "error"]
        told = {(e.code, e.span.line if e.span and e.span.file == str(path) else None) for e in errors}
        badly = {code for code, _ in told if code.startswith("E01")}
        if (mine != told) if not badly else (badly != {code for code, _ in mine if code.startswith("E01")}):
            other.append((path.name, sorted(told - mine, key=str), sorted(mine - told, key=str)))
    assert not other, "\n".join(map(str, other))


def _line(document: Document, error: object) -> int | None:
    found = document.range_of(error.span) if error.span else None
    return None if found is None else found.start[0] + 1


@pytest.mark.slow
def test_no_shipped_file_is_wrong() -> None:
    for path in SPECS:
        assert Document(path.read_text(encoding="utf-8"), str(path)).diagnostics() == [], path


# What only a caller can say ----------------------------------------------------------------------------------------------

JUDGED = {
    "require keep < 1.0, \"less than all\"": [],
    "require keep > 5.0, \"a lot\"": [],
    "let n = ceil(keep * 4)\n    require n == 1, \"one\"": [],
    "if flag {\n        y = x[:, :3]\n    }": [],
    "y = full([ceil(keep * 4), 2], 0.0, dtype=f32) + full([4, 2], 1.0, dtype=f32)": [],
    "y = x + full([3, 5], 1.0, dtype=f32)": ["E0304"],
    "if keep > 0.5 {\n        y = x + nothing\n    }\n    y = x @ other": ["E0201"],
    "return x[:, 0]": ["E0309"],
}


@pytest.mark.parametrize("kind", ["fn", "op", "layer"])
@pytest.mark.parametrize("body", JUDGED)
def test_values_that_nobody_gave_are_not_judged(body: str, kind: str) -> None:
    """A real and a bool that every caller must give: what is wrong whatever they are is told, and nothing else."""
    end = "" if body.startswith("return") else "    return x\n"
    text = f"{kind} f(x: f32[3, 4], *, keep: real, flag: bool) -> f32[3, 4] {{\n    {body}\n{end}}}\n"
    document = Document(text)
    assert [e.code for e in document.diagnostics() if not e.code.startswith("W")] == JUDGED[body]
