"""Texts with a cursor, and every answer of the editor at a place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tessera.driver.editor import actions, complete, hints, hover, navigation
from tessera.driver.editor.document import Document
from tessera.driver.editor.text import Place, Range
from tessera.ir.diagnostics import Diagnostic

ROOT = Path(__file__).parents[3]
SPECS = sorted((ROOT / "specs").rglob("*.tess"))


def cursor(text: str, path: str = "m.tess") -> tuple[Document, Place]:
    """A text whose ``|`` is the cursor (the last one, as `|>` is an operator)."""
    at = text.rindex("|")
    text = text[:at] + text[at + 1 :]
    return Document(text, path), place(text, at)


def place(text: str, offset: int) -> Place:
    return text.count("\n", 0, offset), offset - (text.rfind("\n", 0, offset) + 1)


def ask_everything(document: Document, at: Place) -> list[Any]:
    """Every question that an editor asks, at a place; none of them may fail, but with a diagnostic where a rename is refused."""
    answers: list[Any] = [
        document.diagnostics(),
        hover.hover(document, at),
        hover.signature_help(document, at),
        complete.complete(document, at),
        navigation.definition(document, at),
        navigation.highlights(document, at),
        navigation.symbols(document),
        hints.hints(document, Range((max(at[0] - 5, 0), 0), (at[0] + 5, 0))),
        hints.words(document),
        actions.actions(document, Range(at, at)),
    ]
    try:
        answers.append(navigation.rename(document, at, "another_name"))
    except Diagnostic as error:
        answers.append(error)
    return answers
