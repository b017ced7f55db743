"""A text as lines, places in it, and its pieces: one for each declaration.

A place is ``(line, column)``, both from 0, the column in characters of Python. The protocol counts columns in UTF-16 units, in
which a character beyond U+FFFF is two.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from ...ir.diagnostics import Span

Place = tuple[int, int]

# A word in the first column that opens a declaration. `program` is a name as well, where no name follows it.
_OPENER = re.compile(r"(?:use|const|record|fn|op|layer|model|rewrite|compile|program(?=[ \t]+\w))\b(?![ \t]*[=,.])")
_BLANK = re.compile(r"[ \t\r\f\v]*(?:#.*)?$")
_BYTES = {"utf-16": 2, "utf-8": 1}


class Range(NamedTuple):
    """From one place to another, which is exclusive."""

    start: Place
    end: Place

    def __contains__(self, place: object) -> bool:
        return isinstance(place, tuple) and self.start <= place <= self.end


class Edit(NamedTuple):
    """New text instead of a range."""

    range: Range
    text: str


def lines_of(text: str) -> list[str]:
    """The lines without their ends. Only line feeds end them, as for the lexer; editors count the same."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def to_units(line: str, column: int, encoding: str = "utf-16") -> int:
    """A column in the units of the protocol, which are UTF-16 unless another encoding was agreed on."""
    if line.isascii() or encoding == "utf-32":
        return column
    return len(line[:column].encode("utf-16-le" if encoding == "utf-16" else "utf-8")) // _BYTES[encoding]


def from_units(line: str, units: int, encoding: str = "utf-16") -> int:
    """A column in characters, at most the length of the line; within a character it is that of the character."""
    if line.isascii() or encoding == "utf-32":
        return min(units, len(line))
    at = 0
    for column, character in enumerate(line):
        at += to_units(character, 1, encoding)
        if at > units:
            return column
    return len(line)


def place_of(lines: list[str], line: int, units: int, encoding: str = "utf-16") -> Place:
    """A place of the protocol, brought into the text where it lies outside."""
    if line >= len(lines):
        return len(lines) - 1, len(lines[-1])
    return line, from_units(lines[line], units, encoding)


def applied(text: str, start: Place, end: Place, new: str) -> str:
    """The text with another piece between two places."""
    rows = text.split("\n")
    before = sum(len(row) + 1 for row in rows[: start[0]]) + start[1]
    after = sum(len(row) + 1 for row in rows[: end[0]]) + end[1]
    return text[:before] + new + text[after:]


def range_of(span: Span, first: int) -> Range:
    """A span of a piece that starts at line ``first`` of the text."""
    return Range((first + span.line - 1, span.column - 1), (first + span.end_line - 1, span.end_column - 1))


def pieces(lines: list[str]) -> list[tuple[int, str]]:
    """The text in pieces, as (first line, text): each begins at a word in the first column that opens a declaration, with the
    comments before it. A `use` behind a declaration is no such word, as it is a mistake of the text and not of its own.
    """
    starts: list[int] = []
    behind = -1
    last = 0
    items = False
    for number, line in enumerate(lines):
        if _OPENER.match(line) and not (items and line.startswith("use")):
            items |= not line.startswith("use")
            if behind >= 0:
                starts.append(last)
        if not _BLANK.match(line):
            behind, last = number, number + 1
    bounds = [0, *starts, len(lines)]
    return [(a, "\n".join(lines[a:b])) for a, b in pairwise(bounds)]
