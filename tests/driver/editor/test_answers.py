"""What the editor answers at a place: types and documentation, what could be written, where names come from, remedies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera.driver.editor import actions, complete, hints, hover, navigation
from tessera.driver.editor.document import Document
from tessera.driver.editor.navigation import Location
from tessera.driver.editor.text import Edit, Range, applied, lines_of
from tessera.frontends.source.format.fmt import format_file
from tessera.frontends.source.syntax.parser import parse
from tessera.ir.diagnostics import Diagnostic

from .support import SPECS, cursor, place

WHOLE = Range((0, 0), (10_000, 0))
MODEL = """\
use std.nn (linear, layer_norm)
use std.token (TokenMap)

## A block.
layer block(x: float[B, T, D], *, hidden: int) -> float[B, T, D] {
    h = linear(layer_norm(x) as norm, out=hidden) as up
    return x + linear(h, out=D) as down
}

model m(x: float[B, T, 4], map: TokenMap[B, N, T]) -> float[B, T, 3] {
    repeat i in 2 as blocks {
        x = block(x, hidden=16)
    }
    s = map.size
    return linear(x[:, ::2], out=3) as head
}

compile m {
    pass merge_tokens(r=8)
}
"""


def at(text: str, near: str, offset: int = 0) -> tuple[Document, tuple[int, int]]:
    """A document, and the place of a piece of its text."""
    return Document(text, "m.tess"), place(text, text.index(near) + offset)


# Hover ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("near", "offset", "shown"),
    [
        ("h = linear", 0, ["h: f32[B, T, hidden]"]),
        ("layer_norm(x)", 0, ["layer layer_norm(", "std.nn", "here `f32[B, T, D]`"]),
        ("linear(h", 0, ["`torch.nn.Linear`: weight \\[out, I\\], bias \\[out\\].", "where `out = D`", "`I = hidden`"]),
        ("x: float[B, T, D]", 0, ["x: f32[B, T, D]", "input of `block`"]),
        ("hidden: int", 0, ["static parameter of `block`"]),
        ("T, D], *", 0, ["dimension of `block`"]),
        ("block(x, hidden=16)", 0, ["layer block(", "A block.", "`hidden = 16`"]),
        ("hidden=16", 0, ["hidden: int", "parameter of `block`"]),
        ("map.size", 4, ["size: f32[B, T]"]),
        ("::2]", 2, ["the int 2".removeprefix("the ")]),
        ("std.token", 2, ["use std.token"]),
        ("merge_tokens", 3, ["pass merge_tokens", "approximate", "`protect:"]),
        ("r=8", 0, ["r: "]),
        ("x = block", 0, ["x: f32[B, T, 4]"]),
    ],
)
def test_hover(near: str, offset: int, shown: list[str]) -> None:
    found = hover.hover(*at(MODEL, near, offset))
    assert found is not None
    assert all(part in found.text for part in shown), found.text


def test_hover_tells_a_core_op_and_its_result() -> None:
    found = hover.hover(*cursor("fn f(x: float[B, T]) -> float[T, B] {\n    return transp|ose(x, perm=[1, 0])\n}\n"))
    assert found is not None
    assert "core op" in found.text
    assert "f32[T, B]" in found.text


def test_hover_of_a_name_that_a_repeat_changes_tells_both_ends() -> None:
    text = "fn f(x: float[B, T]) -> float[B, T - 3] {\n    repeat i in 3 {\n        x| = x[:, 1:]\n    }\n    return x\n}\n"
    found = hover.hover(*cursor(text))
    assert found is not None
    assert "f32[B, T - 1]" in found.text
    assert "In the last step: `f32[B, T - 3]`" in found.text


def test_nothing_is_said_of_a_comment() -> None:
    assert hover.hover(*cursor("# a re|mark\nconst N = 1\n")) is None


def test_signature_help_follows_the_argument() -> None:
    text = "use std.nn (linear)\nfn f(x: float[B, T]) -> float[B, 3] {\n    return linear(x, {})\n}\n"
    first = hover.signature_help(*cursor(text.replace("x, {}", "|x")))
    assert first is not None
    assert (first.parameters, first.active) == (["x", "out", "bias"], 0)
    assert first.label.startswith("layer linear(")
    named = hover.signature_help(*cursor(text.replace("{}", "bias=|")))
    assert named is not None
    assert named.active == 2
    assert hover.signature_help(*cursor("fn f(|x: float[B]) -> float[B] {\n    return x\n}\n")) is None


# Completion -----------------------------------------------------------------------------------------------------------


def labels(text: str) -> list[str]:
    return [item.label for item in complete.complete(*cursor(text))]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("|", {"model", "use", "rewrite"}),
        ("use |", {"std.nn", "std.attention"}),
        ("use std.n|", {"nn"}),
        ("use std.nn (lay|", {"layer_norm"}),
        ("fn f(x: fl|", {"float"}),
        ("fn f(x: float[B, T], *, n: |", {"int", "real", "fn"}),
        ("fn f(x: float[B, T]) -> float[|", {"B", "T"}),
        ("fn f(x: float[B, T]) -> float[B, T] {\n    |\n}\n", {"param", "repeat", "x"}),
        ("fn f(x: float[B, T]) -> float[B, T] {\n    half = x * 0.5\n    return ha|\n}\n", {"half"}),
        ("fn f(x: float[B, T]) -> float[B, T] {\n    half = x * 0.5\n    return x + (ha|", {"half"}),
        ("fn f(x: float[B, T]) -> float[B, T] {\n    return topk(x, |\n}\n", {"k", "largest", "x"}),
        ("fn f(x: float[B, T]) -> float[B, T] {\n    return x.|\n}\n", {"dtype", "shape", "rank"}),
        (
            "use std.token (TokenMap)\nfn f(m: TokenMap[B, N, T]) -> f32[B, T] {\n    return m.|\n}\n",
            {"size", "source"},
        ),
        ("compile m {\n    |\n}\n", {"weights", "pass", "target"}),
        ("compile m {\n    pass me|\n}\n", {"merge_tokens"}),
        ("compile m {\n    pass merge_tokens(|)\n}\n", {"r", "protect", "place"}),
        ("compile m {\n    pass merge_tokens(place=|)\n}\n", {"attention", "block", "start"}),
        ("compile m {\n    target |\n}\n", {"onnx", "torch"}),
        ("compile m {\n    target onnx(|)\n}\n", {"opset"}),
    ],
)
def test_completion(text: str, wanted: set[str]) -> None:
    assert wanted <= set(labels(text))


@pytest.mark.parametrize("text", ["# a rem|", 'const A = "b|', "## lin|\nconst N = 1\n"])
def test_nothing_is_offered_in_comments_and_strings(text: str) -> None:
    assert labels(text) == []


def test_names_of_the_library_come_with_their_use_line() -> None:
    text = "use std.nn (linear)\n\nfn f(x: float[B, T]) -> float[B, T] {\n    return {}|\n}\n"
    document, where = cursor(text.replace("{}", "self_att"))
    (item,) = complete.complete(document, where)
    assert (item.label, item.detail) == ("self_attention", "use std.attention")
    assert _applied(document, item.edits).startswith("use std.attention (self_attention)\nuse std.nn (linear)\n")
    document, where = cursor(text.replace("{}", "layer_nor"))
    item = next(i for i in complete.complete(document, where) if i.label == "layer_norm")
    assert _applied(document, item.edits).startswith("use std.nn (layer_norm, linear)\n")
    assert "layer layer_norm" in complete.doc(item)


def test_names_in_scope_tell_their_types() -> None:
    found = complete.complete(
        *cursor("fn f(x: float[B, T]) -> float[B] {\n    total = sum(x, axis=1)\n    return to|\n}\n")
    )
    assert [(i.label, i.detail) for i in found if i.kind == "variable"] == [("total", "f32[B]")]


def _applied(document: Document, edits: tuple[Edit, ...]) -> str:
    text = document.text
    for edit in sorted(edits, reverse=True):
        text = applied(text, *edit.range, edit.text)
    return text


# Where names come from ------------------------------------------------------------------------------------------------


def test_definition_in_the_text() -> None:
    document, where = at(MODEL, "block(x, hidden=16)")
    assert navigation.definition(document, where) == Location("m.tess", Range((4, 6), (4, 11)))
    document, where = at(MODEL, "hidden=16")
    assert navigation.definition(document, where) == Location("m.tess", Range((4, 34), (4, 40)))
    document, where = at(MODEL, "linear(h", 7)
    assert navigation.definition(document, where) == Location("m.tess", Range((5, 4), (5, 5)))


@pytest.mark.parametrize(
    ("near", "offset", "file", "line"),
    [("linear(h", 0, "nn.tess", "layer linear("), ("out=3", 0, "nn.tess", "layer linear("),
     ("map.size", 4, "token.tess", "size: "), ("TokenMap)", 0, "token.tess", "record TokenMap"), ("std.nn", 0, "nn.tess", "##")],
)  # fmt: skip
def test_definition_in_the_library(near: str, offset: int, file: str, line: str) -> None:
    found = navigation.definition(*at(MODEL, near, offset))
    assert found is not None
    assert Path(found.path).name == file
    assert line in lines_of(Path(found.path).read_text(encoding="utf-8"))[found.range.start[0]]


def test_what_is_built_in_has_no_definition() -> None:
    assert navigation.definition(*cursor("fn f(x: float[B]) -> float[B] {\n    return ex|p(x)\n}\n")) is None


def test_references_are_those_of_the_same_thing() -> None:
    document, where = at(MODEL, "hidden: int")
    lines = [one.range.start[0] for one in navigation.references(document, where)]
    assert lines == [4, 5, 11]
    document, where = at(MODEL, "x: float[B, T, D]")
    assert [r.start[0] for r in navigation.highlights(document, where)] == [4, 5, 6]


def test_rename_over_files(tmp_path: Path) -> None:
    part, whole = tmp_path / "part.tess", tmp_path / "whole.tess"
    part.write_text("fn twice(x: float[B], *, by: int = 2) -> float[B] {\n    return x * by\n}\n", encoding="utf-8")
    whole.write_text(
        'use "part.tess" (twice)\nmodel m(x: float[B]) -> float[B] {\n    return twice(x, by=3)\n}\n', encoding="utf-8"
    )
    for path, near in ((part, "twice"), (whole, "twice(x")):
        text = path.read_text(encoding="utf-8")
        edits = navigation.rename(Document(text, str(path)), place(text, text.index(near)), "times")
        assert {Path(p).name: [e.range.start for e in rows] for p, rows in edits.items()} == {
            "part.tess": [(0, 3)], "whole.tess": [(0, 17), (2, 11)],
        }  # fmt: skip
    text = part.read_text(encoding="utf-8")
    edits = navigation.rename(Document(text, str(part)), place(text, text.index("by:")), "factor")
    assert {Path(p).name: len(rows) for p, rows in edits.items()} == {"part.tess": 2, "whole.tess": 1}


@pytest.mark.parametrize(
    ("near", "offset", "new", "reason"),
    [("linear(h", 0, "dense", "shipped"), ("h = linear", 0, "x", "something else"), ("h = linear", 0, "if", "cannot be a name"),
     ("h = linear", 0, "exp", "cannot be a name"), ("map.size", 4, "other", "field"), ("merge_tokens", 0, "other", "word of"),
     ("float[B, T, D]", 0, "other", "built in")],
)  # fmt: skip
def test_what_cannot_be_renamed_is_refused(near: str, offset: int, new: str, reason: str) -> None:
    document, where = at(MODEL, near, offset)
    with pytest.raises(Diagnostic, match=reason) as refused:
        navigation.rename(document, where, new)
    assert refused.value.code == "E0017"


def test_there_is_nothing_to_rename_in_a_comment() -> None:
    with pytest.raises(Diagnostic, match="no name here"):
        navigation.rename(*cursor("# a rem|ark\nconst N = 1\n"), "other")


def test_renamed_programs_mean_the_same() -> None:
    document, where = at(MODEL, "h = linear")
    (edits,) = navigation.rename(document, where, "widened").values()
    text = _applied(document, tuple(edits))
    assert text == MODEL.replace("h = linear", "widened = linear").replace("linear(h,", "linear(widened,")
    assert [e.message for e in Document(text).diagnostics()] == [e.message for e in document.diagnostics()]


def test_symbols() -> None:
    found = navigation.symbols(Document(MODEL + "record R[B] {\n    a: f32[B]\n}\n"))
    assert [(s.name, s.kind, [c.name for c in s.children]) for s in found] == [
        ("block", "layer", []), ("m", "model", []), ("m", "compile", []), ("R", "record", ["a"]),
    ]  # fmt: skip


# Between the lines ----------------------------------------------------------------------------------------------------


def test_hints_are_the_shapes_of_statements() -> None:
    document = Document(MODEL)
    found = {document.lines[h.place[0]].split("=")[0].strip(): h.text for h in hints.hints(document, WHOLE)}
    assert found == {
        "h": "f32[B, T, hidden]", "return x + linear(h, out": "f32[B, T, D]", "x": "f32[B, T, 4]", "s": "f32[B, T]",
        "return linear(x[:, ::2], out": "f32[B, (T + 1) // 2, 3]",
    }  # fmt: skip


def test_hints_of_several_names_and_of_numbers() -> None:
    text = "fn f(x: float[B, T]) -> float[B, 2] {\n    v, i = topk(x, k=2)\n    n = B * 2 + B\n    m = B\n    return v\n}\n"
    assert [h.text for h in hints.hints(Document(text), WHOLE)] == [
        "v: f32[B, 2], i: i64[B, 2]",
        "= 3 * B",
        "f32[B, 2]",
    ]


def test_words_cover_the_names_and_say_what_they_are() -> None:
    document = Document(MODEL)
    kinds = {document.lines[w.range.start[0]][w.range.start[1] : w.range.end[1]]: w.kind for w in hints.words(document)}
    wanted = {
        "use": "keyword", "std.nn": "namespace", "linear": "function", "TokenMap": "type", "D": "typeParameter", "16": "number",
        "blocks": "", "size": "property", "merge_tokens": "macro", "pass": "keyword",
        "float": "type", "# A": "", "h": "variable", "x": "parameter",
    }  # fmt: skip
    assert {word: kinds.get(word, "") for word in wanted} == wanted
    data = hints.encoded(document)
    assert len(data) == 5 * len(hints.words(document))
    assert sum(data[::5]) == hints.words(document)[-1].range.start[0]


# Remedies -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("use std.nn (linear)\nmodel m(x: float[B, 4]) -> float[B, 3] {\n    return liner(x, out=3)\n}\n", "liner -> linear"),
        ("use std.nn (linear)\nmodel m(x: float[B, 4]) -> float[B, 3] {\n    return linear(x, ot=3)\n}\n", "ot= -> out="),
        ("model m(x: float[B, 4]) -> float[B, 3] {\n    return linear(x, out=3)\n}\n", "model m -> use std.nn (linear)\n\nmodel m"),
        ("fn f(x: float[B], *, s: string) -> float[B] {\n    return x\n}\n", "string -> str"),
        ("model m(x: float[B]) -> float[B] {\n    return x\n}\n\ncompile m {\n    pass merge_token(r=8)\n}\n", "ken( -> kens("),
        ("use std.n (linear)\nmodel m(x: float[B, 4]) -> float[B, 3] {\n    return linear(x, out=3)\n}\n", "std.n -> std.nn"),
    ],
)  # fmt: skip
def test_remedies_are_applied(wrong: str, right: str) -> None:
    old, _, new = right.partition(" -> ")
    document = Document(wrong, "m.tess")
    found = actions.actions(document, WHOLE)
    assert wrong.replace(old, new, 1) in [_applied(document, one.edits) for one in found]
    assert document.text == wrong


WARNED = "use std.nn (gelu)\n\nfn f(x: float[B]) -> float[B] {{\n    y = x{}\n    return x\n}}\n"


@pytest.mark.parametrize("comment", ["", "  # a # remark"])
def test_warnings_are_shown_and_allowed(comment: str) -> None:
    """Those of `tessera lint`, at their places; and each has a comment that takes it back."""
    document = Document(WARNED.format(comment), "m.tess")
    told = document.diagnostics()
    assert [(e.code, e.severity, document.range_of(e.span).start[0]) for e in told if e.span] == [
        ("W0101", "warning", 0), ("W0103", "warning", 3),
    ]  # fmt: skip
    for one in actions.actions(document, WHOLE):
        mended = Document(_applied(document, one.edits), "m.tess")
        assert [e.code for e in mended.diagnostics()] == [e.code for e in told if e.code != one.diagnostic.code]


def test_a_misspelt_name_is_no_unused_one() -> None:
    assert [e.code for e in Document(WARNED.replace("y = x", "y = gelo(x)").format("")).diagnostics()] == ["E0201", "W0103"]


def test_a_right_text_has_no_remedies() -> None:
    found = actions.actions(Document(MODEL.replace("::2", ":")), WHOLE)
    assert [action.title for action in found] == ["allow W0103 here"], "what is only warned of can be allowed, and no more"


@pytest.mark.parametrize("path", SPECS[::4], ids=lambda p: p.stem)
def test_formatting_is_that_of_fmt(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace(" = ", "  =   ").replace("\n\n", "\n\n\n")
    document = Document(text, str(path))
    assert _applied(document, tuple(actions.formatted(document))) == format_file(parse(text, "m.tess"))


def test_what_does_not_parse_is_not_formatted() -> None:
    assert actions.formatted(Document("fn f(")) == []
