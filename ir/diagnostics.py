"""The one way in which Tessera reports a mistake: a code, a place, what was found, what was expected, what to write instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Span(NamedTuple):
    """A half-open range of source text. Lines and columns count from 1; ``end_column`` is exclusive.

    Of what a call of the library made, it is the place of the user's call, and ``origin`` the line of the library.
    """

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    origin: Span | None = None

    def over(self, origin: Span | None) -> Span:
        """This place, with a line of the library behind it."""
        return self if origin is None or self.origin is not None else self._replace(origin=origin)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Note:
    """A second place (or fact) that explains a diagnostic: ``B was bound to 4 here``."""

    message: str
    span: Span | None = None

    def __post_init__(self) -> None:
        # Beside the user's line, which comes first in any case, a note tells more by the library's.
        if self.span is not None and self.span.origin is not None:
            object.__setattr__(self, "span", self.span.origin)


# The note that shows a line of the library behind the user's.
IN_THE_LIBRARY = "in the library, at this line"


@dataclass(eq=False)
class Diagnostic(Exception):
    """A user's mistake.

    Args:
        code: the stable code, ``E0302``; ``tessera help E0302`` explains it.
        message: what is wrong, in one sentence, with the values found and expected.
        span: where. None where no source line is to blame (a file, an option).
        notes: further places, such as where each dimension was bound.
        help: what to write instead.
        others: the further mistakes of the same text, each independent of this one, where several were found.
    """

    code: str
    message: str
    span: Span | None = None
    notes: list[Note] = field(default_factory=list)
    help: str | None = None
    others: list[Diagnostic] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.code, self.message)
        self._show_origin()

    @property
    def severity(self) -> str:
        """``error``, or ``warning`` for what is legal and probably wrong (codes that start with W)."""
        return "warning" if self.code.startswith("W") else "error"

    def _show_origin(self) -> None:
        if self.span is not None and self.span.origin is not None:
            self.notes.insert(0, Note(IN_THE_LIBRARY, self.span.origin))
            self.span = self.span._replace(origin=None)

    def called_at(self, span: Span | None) -> None:
        """Show it at a call, in whose body it lies; the place that it had becomes a note."""
        if span is None:
            return
        if self.span is not None:
            self.notes.insert(0, Note("in its body, at this line", self.span))
        self.span = span
        self._show_origin()

    def __str__(self) -> str:
        return self.render()

    def render(self) -> str:
        """The text a user reads, with the source line and a caret under the place."""
        lines = [f"{self.severity}[{self.code}]: {_cut(self.message)}"]
        if self.span is not None:
            lines += _snippet(self.span)
        for note in self.notes:
            lines.append(f"  note: {_cut(note.message)}")
            if note.span is not None:
                lines += _snippet(note.span)
        if self.help:
            lines.append(f"  help: {_cut(self.help)}")
        return "\n".join(lines)


class FollowUp(Diagnostic):
    """Raised where something is used whose own mistake is told already. It is never shown."""

    def __init__(self) -> None:
        super().__init__("", "follows from another mistake")


def several(errors: Iterable[Diagnostic]) -> Diagnostic:
    """Mistakes as one exception: the first, with the others in it; none twice, and no follow-ups among them."""
    found = distinct(errors)
    if not found:
        return FollowUp()
    first, *others = found
    for one in others:
        one.others = []
    first.others = others
    return first


def distinct(errors: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Mistakes and those that they carry, none twice, without follow-ups; each is left as it is."""
    found: dict[tuple[object, ...], Diagnostic] = {}
    for error in errors:
        for one in (error, *error.others):
            if not isinstance(one, FollowUp):
                found.setdefault((one.code, one.message if one.span is None else one.span[:5]), one)
    return list(found.values())


def by_place(errors: Iterable[Diagnostic], file: str) -> list[Diagnostic]:
    """Diagnostics in the order in which a reader of ``file`` meets them: those without a place first, other files last."""
    return sorted(errors, key=lambda d: (0, "", 0, 0) if d.span is None else (1 + (d.span.file != file), *d.span[:3]))


_SOURCES: dict[str, str] = {}
_WIDTH = 120
_LONGEST = 2000


def _cut(text: str) -> str:
    """A name of a megabyte must not become a message of a megabyte."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 200]} … {text[-200:]}"


def register_source(file: str, text: str) -> None:
    """Keep ``text`` so that diagnostics in ``file`` can show its lines."""
    _SOURCES[file] = text


def source_line(span: Span) -> str:
    """The line of source at a place; empty where its text is not at hand."""
    rows = _SOURCES.get(span.file, "").split("\n")
    return rows[span.line - 1].strip() if 1 <= span.line <= len(rows) else ""


def _snippet(span: Span) -> list[str]:
    lines = [f"  --> {span}"]
    text = _SOURCES.get(span.file)
    if text is None:
        return lines
    rows = text.split("\n")
    if not 1 <= span.line <= len(rows):
        return lines
    row = rows[span.line - 1].rstrip("\r")
    first = span.column - 1
    last = span.end_column - 1 if span.end_line == span.line else len(row)
    # A line of a megabyte must not become a message of a megabyte.
    start = max(0, first - _WIDTH // 2) if len(row) > _WIDTH else 0
    shown = row[start : start + _WIDTH].replace("\t", " ")
    width = max(1, min(last, start + len(shown)) - first)
    margin = " " * len(str(span.line))
    return [
        *lines,
        f" {margin} |",
        f" {span.line} | {shown}",
        f" {margin} | {' ' * (first - start)}{'^' * width}",
    ]


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """A help line ``did you mean `linear`?`` for the closest candidate, or None."""
    from difflib import get_close_matches

    close = get_close_matches(name, sorted(set(candidates)), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else None
