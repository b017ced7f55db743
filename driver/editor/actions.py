"""Remedies as edits: what a diagnostic's help says to write, written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import NamedTuple

from ...frontends.source.format.fmt import format_file
from ...frontends.source.syntax import ast
from ...frontends.source.syntax.parser import parse
from ...ir.diagnostics import Diagnostic
from .document import Document
from .text import Edit, Range, applied, lines_of, range_of

_IMPORT = re.compile(r"use ([\w.]+) \((\w+)\)")
_MEANT = re.compile(r"did you mean `([^`]+)`")
_WRITE = re.compile(r"(?:write|it is called|say|use) `([^`…]+)`")
_NAMES = re.compile(r"`([^`]+)`")


class Action(NamedTuple):
    """A change that mends a diagnostic. ``sure``: it is what the help says, and there is one of it."""

    title: str
    edits: tuple[Edit, ...]
    diagnostic: Diagnostic
    sure: bool = True


def import_edit(document: Document, module: str, name: str) -> Edit:
    """The edit that brings a name of a module in: into the `use` line that there is, or as a new one."""
    for piece, first in zip(document.pieces, document.firsts, strict=True):
        for use in piece.file.uses:
            if use.path == module and not use.quoted and use.span is not None:
                more = ast.Use(module, sorted([*use.names, (name, None)]))
                return Edit(range_of(use.span, first), format_file(ast.File("", [more], [])).rstrip())
    return _new_use(document, f"use {module} ({name})")


def _new_use(document: Document, line: str) -> Edit:
    pieces = zip(document.pieces, document.firsts, strict=True)
    uses = [(range_of(u.span, first), u.path) for piece, first in pieces for u in piece.file.uses if u.span]
    path = line.split()[1]
    before = [r for r, other in uses if other < path]
    if before:
        place = before[-1].end
        return Edit(Range(place, place), f"\n{line}")
    if uses:
        place = uses[0][0].start
        return Edit(Range(place, place), f"{line}\n")
    # Behind the file's own documentation, where a blank line parts it from the first declaration.
    row = 0
    if document.file.doc is not None:
        row = next((i for i, text in enumerate(document.lines) if not text.lstrip().startswith("#")), 0) + 1
    place = (min(row, len(document.lines) - 1), 0)
    return Edit(Range(place, place), f"{line}\n\n")


def actions(document: Document, within: Range) -> list[Action]:
    """The remedies of what is wrong in a range."""
    found = []
    for error in document.diagnostics():
        place = document.range_of(error.span) if error.span is not None else None
        if place is not None and place.start <= within.end and within.start <= place.end:
            found += list(_remedies(document, error, place))
    return found


def _remedies(document: Document, error: Diagnostic, place: Range) -> Iterator[Action]:
    help_ = error.help or ""
    if error.severity == "warning":
        yield Action(f"allow {error.code} here", (_allowing(document, error.code, place.start[0]),), error, sure=False)
    for module, name in _IMPORT.findall(help_):
        yield Action(f"use {module} ({name})", (import_edit(document, module, name),), error)
    meant = _MEANT.search(help_)
    if meant is not None:
        wrong = _wrong_name(document, error, place, meant[1])
        if wrong is not None:
            yield Action(f"write `{meant[1]}`", (Edit(wrong, meant[1]),), error)
    for text in _WRITE.findall(help_):
        places = (place, _wrong_name(document, error, place, text))
        edits = [Edit(where, text) for where in places if where is not None]
        mending = next((edit for edit in edits if _mends(document, edit, error)), None)
        if mending is not None:
            yield Action(f"write `{text}`", (mending,), error, sure=False)


def _allowing(document: Document, code: str, row: int) -> Edit:
    """The comment that takes a warning back: behind the line, or above it where one stands there already."""
    line = document.lines[row]
    if "#" not in line:
        return Edit(Range((row, len(line)), (row, len(line))), f"  # allow: {code}")
    indent = line[: len(line) - len(line.lstrip())]
    return Edit(Range((row, 0), (row, 0)), f"{indent}# allow: {code}\n")


def _wrong_name(document: Document, error: Diagnostic, place: Range, meant: str) -> Range | None:
    """Where the name stands that a message speaks of and that is most like the one meant: in the place of the diagnostic, or
    before it on the line.
    """
    named = sorted(_NAMES.findall(error.message), key=lambda name: -SequenceMatcher(None, name, meant).ratio())
    (row, start), (last, end) = place
    line = document.lines[row]
    stop = end if last == row else len(line)
    for name in named:
        word = re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)")
        inside = word.search(line, start, stop)
        before = list(word.finditer(line, 0, start))
        match = inside or (before[-1] if before else None)
        if match is not None:
            return Range((row, match.start()), (row, match.end()))
    return None


def _mends(document: Document, edit: Edit, error: Diagnostic) -> bool:
    """Whether a text with the edit is right where it was wrong, and nowhere worse."""
    before, text = document.diagnostics(), document.text
    try:
        document.edit(applied(text, *edit.range, edit.text))
        after = {(e.code, e.message) for e in document.diagnostics()}
    finally:
        document.edit(text)
    return after < {(e.code, e.message) for e in before} and (error.code, error.message) not in after


def formatted(document: Document) -> list[Edit]:
    """The edits that bring the text into the one style; none where it does not parse."""
    try:
        text = format_file(parse(document.text, document.path))
    except Diagnostic:
        return []
    return _difference(document.lines, lines_of(text))


def _difference(before: list[str], after: list[str]) -> list[Edit]:
    """The lines that differ, as one edit: from the first to the last of them."""
    if before == after:
        return []
    top = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    rest = min(len(before), len(after)) - top
    low = next((i for i in range(rest) if before[-1 - i] != after[-1 - i]), rest)
    old, new = before[top : len(before) - low], after[top : len(after) - low]
    if low:
        return [Edit(Range((top, 0), (top + len(old), 0)), "".join(f"{line}\n" for line in new))]
    if top:
        start, stop = (top - 1, len(before[top - 1])), (len(before) - 1, len(before[-1]))
        return [Edit(Range(start, stop), "".join(f"\n{line}" for line in new))]
    return [Edit(Range((0, 0), (len(before) - 1, len(before[-1]))), "\n".join(new))]
