"""Laying out text within a line width: documents of text, possible line breaks and groups (Wadler, "A prettier
printer"). A group goes on one line if it fits, else its own breaks (not those of groups within) become new lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH = 120
STEP = 4


@dataclass(frozen=True, slots=True)
class Line:
    """A break: ``flat`` where its group fits on the line, else a new line; always a new line if ``hard``."""

    flat: str = " "
    hard: bool = False


@dataclass(frozen=True, slots=True)
class IfBroken:
    """Text that appears only where the group around it is broken."""

    text: str


@dataclass(frozen=True, slots=True)
class Trailing:
    """A comment at the end of a line: it does not count in the width, and a hard break follows it."""

    text: str


@dataclass(frozen=True, slots=True)
class Indent:
    doc: Doc


@dataclass(slots=True)
class Group:
    """``width`` and ``hard`` are those of the document on one line."""

    doc: Doc
    width: int = field(init=False)
    hard: bool = field(init=False)

    def __post_init__(self) -> None:
        self.width, self.hard = _measure(self.doc)


Doc = str | Line | IfBroken | Trailing | Indent | Group | Sequence["Doc"]

LINE = Line()
SOFT = Line("")
HARD = Line(hard=True)


def _measure(doc: Doc) -> tuple[int, bool]:
    width, hard = 0, False
    stack: list[Doc] = [doc]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            width += len(item)
        elif isinstance(item, Group):
            width += item.width
            hard = hard or item.hard
        elif isinstance(item, Line):
            width += len(item.flat)
            hard = hard or item.hard
        elif isinstance(item, Indent):
            stack.append(item.doc)
        elif isinstance(item, Trailing):
            hard = True
        elif not isinstance(item, IfBroken):
            stack.extend(item)
    return width, hard


def render(doc: Doc, indent: int = 0) -> list[str]:
    """The lines of ``doc``, which starts ``indent`` columns from the left."""
    lines: list[str] = []
    row: list[str] = [" " * indent]
    column = indent
    stack: list[tuple[int, bool, Doc]] = [(indent, True, doc)]
    while stack:
        margin, broken, item = stack.pop()
        if isinstance(item, str):
            row.append(item)
            column += len(item)
        elif isinstance(item, Group):
            fits = not item.hard and _fits(WIDTH - column - item.width, stack)
            stack.append((margin, not fits, item.doc))
        elif isinstance(item, Line):
            if broken or item.hard:
                lines.append("".join(row).rstrip())
                row = [" " * margin]
                column = margin
            else:
                row.append(item.flat)
                column += len(item.flat)
        elif isinstance(item, Indent):
            stack.append((margin + STEP, broken, item.doc))
        elif isinstance(item, IfBroken):
            if broken:
                row.append(item.text)
                column += len(item.text)
        elif isinstance(item, Trailing):
            row.append(f"  {item.text}")
        else:
            stack.extend((margin, broken, part) for part in reversed(item))
    lines.append("".join(row).rstrip())
    return lines


def _fits(room: int, rest: list[tuple[int, bool, Doc]]) -> bool:
    """Whether what follows, up to the next line break, fits into ``room``."""
    index = len(rest)
    pending: list[tuple[bool, Doc]] = []
    while room >= 0:
        if not pending:
            if index == 0:
                return True
            index -= 1
            pending.append(rest[index][1:])
        broken, item = pending.pop()
        if isinstance(item, str):
            room -= len(item)
        elif isinstance(item, Line):
            if broken or item.hard:
                return True
            room -= len(item.flat)
        elif isinstance(item, IfBroken):
            room -= len(item.text) if broken else 0
        elif isinstance(item, Indent):
            pending.append((broken, item.doc))
        elif isinstance(item, Group):
            # Its first break may still become a new line.
            pending.append((True, item.doc))
        elif isinstance(item, Trailing):
            return True
        else:
            pending.extend((broken, part) for part in reversed(item))
    return False
