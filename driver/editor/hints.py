"""What is written between the lines: the shape of what each statement comes to; and the kinds of words, for colours."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from ...frontends.source.elaborate.builtin import STATIC_FUNCTIONS
from ...frontends.source.syntax import ast
from ...ir.dims.dim import Dim
from ...ir.ops import OPS
from ...ir.types import DTYPES, KINDS, TensorType
from .describe import expression
from .document import NOTHING, Document, Found
from .names import walk
from .piece import Piece
from .text import Place, Range, range_of, to_units
from .watch import Record, shown

LONGEST = 80
# Keywords where no name of the text can stand, which the lexer does not tell from names.
CONTEXTUAL = frozenset({"entry", "host", "flow", "weights", "pass", "target", "where", "limit", "stack"})
# The kinds of words, in the order in which an editor is told of them.
KINDS_OF_WORDS = (
    "keyword", "function", "type", "parameter", "variable", "typeParameter", "property", "namespace", "enumMember",
    "string", "number", "comment", "operator", "macro",
)  # fmt: skip
MODIFIERS = ("declaration", "defaultLibrary", "readonly")


_KIND_OF_SPACE = {
    "module": "namespace", "field": "property", "arg": "parameter", "option": "parameter", "word": "enumMember",
    "pass": "macro", "target": "macro", "dim": "typeParameter",
}  # fmt: skip


class Hint(NamedTuple):
    place: Place
    text: str


class Word(NamedTuple):
    range: Range
    kind: str
    modifiers: tuple[str, ...] = ()


def hints(document: Document, within: Range) -> list[Hint]:
    """The types of the values that the statements in a range bind or return, each at the end of its statement."""
    found = []
    for piece, first in zip(document.pieces, document.firsts, strict=True):
        if first > within.end[0] or first + len(piece.rows) < within.start[0]:
            continue
        for node in walk(piece.items):
            if not isinstance(node, (ast.Assign, ast.ReturnStmt, ast.LetStmt)) or node.span is None:
                continue
            place = range_of(node.span, first).end
            text = _hint(document, node) if within.start[0] <= place[0] <= within.end[0] else ""
            if text:
                found.append(Hint(place, text))
    return found


def _hint(document: Document, node: ast.Assign | ast.ReturnStmt | ast.LetStmt) -> str:
    if isinstance(node, ast.ReturnStmt):
        texts = [_typed(document, value.span) for value in node.values]
        return ", ".join(texts) if all(texts) else ""
    if isinstance(node, ast.LetStmt):
        return _new(_typed(document, node.value.span), node.value)
    if len(node.targets) == 1:
        return _new(_typed(document, node.target_spans[0]), node.value)
    typed = [(name, _typed(document, span)) for name, span in zip(node.targets, node.target_spans, strict=True)]
    return ", ".join(f"{name}: {text}" for name, text in typed if text)


def _new(text: str, value: ast.Expr) -> str:
    """A hint, unless it is what is written there already."""
    return "" if text.startswith("= ") and "".join(text[2:].split()) == "".join(expression(value).split()) else text


def _typed(document: Document, span: Any) -> str:
    """A tensor's type, a record's name, a number; nothing for what is not known or says nothing."""
    value = document.value(span) if span is not None else NOTHING
    last = document.value(span, last=True) if value is not NOTHING else value
    if isinstance(value, (TensorType, Record)):
        text = shown(value) if last == value else f"{shown(value)} … {shown(last)}"
    elif isinstance(value, (int, float, Dim, str)):
        text = f"= {value}" if last == value else ""
    else:
        return ""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def words(document: Document) -> list[Word]:
    """Every word of the text with its kind, by place."""
    found = []
    for piece, first in zip(document.pieces, document.firsts, strict=True):
        for word in document.remembered(piece, "words", partial(_words, document, piece)):
            (row, start), (last, end) = word.range
            found.append(word._replace(range=Range((row + first, start), (last + first, end))))
    return found


def encoded(document: Document, encoding: str = "utf-16") -> list[int]:
    """The words as the protocol wants them: five numbers each, places relative to the word before."""
    data: list[int] = []
    last = 0
    for piece, first in zip(document.pieces, document.firsts, strict=True):
        rows, line = document.remembered(piece, encoding, partial(_encoded, document, piece, encoding))
        if rows:
            data += [first + rows[0] - last, *rows[1:]]
            last = first + line
    return data


def _encoded(document: Document, piece: Piece, encoding: str) -> tuple[list[int], int]:
    """The numbers of a piece, whose first line is 0, and the line of its last word."""
    data: list[int] = []
    line = start = 0
    for word in _words(document, piece):
        (row, column), (_, end) = word.range
        text = piece.rows[row]
        at = to_units(text, column, encoding)
        modifiers = sum(1 << MODIFIERS.index(m) for m in word.modifiers)
        length = to_units(text, end, encoding) - at
        data += [row - line, at - start if row == line else at, length, KINDS_OF_WORDS.index(word.kind), modifiers]
        line, start = row, at
    return data, line


def _words(document: Document, piece: Piece) -> list[Word]:
    """The words of a piece, whose first line is 0."""
    tokens = piece.tokens
    named = {f.occurrence.span[1:3]: f for f in document.names_of(piece, 0)}
    rows = []
    for at, (kind, text) in enumerate(zip(tokens.kinds, tokens.texts, strict=True)):
        span = piece.token_span(at)
        if kind == "SCOPE":
            alias = named.get((span.line, span.end_column - len(text.split()[-1])))
            if span.end_column - span.column == len(text):
                rows.append(Word(range_of(span._replace(end_column=span.column + 2), 0), "keyword"))
            if alias is not None:
                rows.append(_word(document, alias))
        elif kind in ("NAME", "FN") and span[1:3] in named:
            rows.append(_word(document, named[span[1:3]]))
        elif word := _kind(kind, text):
            rows.append(Word(range_of(span, 0), word))
    for comment in tokens.comments:
        line, column = comment.line - 1, comment.column - 1
        rows.append(Word(Range((line, column), (line, column + len(comment.text))), "comment"))
    return sorted(rows, key=lambda w: w.range.start)


def _kind(kind: str, text: str) -> str | None:
    if kind == "STRING" or text.startswith('"'):
        return "string"
    if kind in ("INT", "REAL") and text[0].isdigit():
        return "number"
    if text.isidentifier():
        return "keyword" if kind != "NAME" or text in CONTEXTUAL else "variable"
    return "operator" if kind in ("BINARY", "MINUS", "STAR", "EQUAL", "ALIEN") or text in ("->", "=>", "=") else None


def _word(document: Document, found: Found) -> Word:
    name = found.occurrence.name
    declared = ("declaration",) if found.occurrence.binds else ()
    if name.space in _KIND_OF_SPACE:
        return Word(found.range, _KIND_OF_SPACE[name.space], declared)
    if name.space == "own":
        item = next((i for i in found.piece.items if not isinstance(i, ast.Compile) and i.name == name.owner), None)
        params = [*item.params, *item.statics] if isinstance(item, (ast.Function, ast.Rewrite)) else []
        return Word(found.range, "parameter" if any(p.name == name.text for p in params) else "variable", declared)
    target = document.declared(found)
    if target is not None:
        shipped = ("defaultLibrary",) if target.unit is not document.unit and target.unit.module != "local" else ()
        if isinstance(target.node, ast.Const):
            return Word(found.range, "variable", (*declared, "readonly", *shipped))
        return Word(found.range, "type" if isinstance(target.node, ast.Record) else "function", (*declared, *shipped))
    if name.text in DTYPES or name.text in KINDS or name.text in ("bool", "int", "real", "str", "list", "fn", "dtype"):
        return Word(found.range, "type", ("defaultLibrary",))
    known = name.text in OPS or name.text in STATIC_FUNCTIONS or name.text in ("given", "where", "scan")
    return Word(found.range, "function" if known else "variable", ("defaultLibrary",) if known else declared)
