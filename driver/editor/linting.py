"""The warnings of a text that is being written: those of `tessera lint`, of each piece until what they hang on changes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ...frontends.source.lint import not_allowed, of_item, unused_imports, used_names
from ...frontends.source.syntax import ast
from ...ir.diagnostics import Diagnostic

if TYPE_CHECKING:
    from .document import Document
    from .piece import Piece


def warnings(document: Document) -> Iterator[Diagnostic]:
    """What is legal in the text and probably wrong; nothing where a declaration of it cannot be read."""
    if document.unit.broken:
        return
    uses = [use for piece in document.pieces for use in piece.file.uses]
    declared = frozenset(alias or name for use in uses for name, alias in use.names)
    declared |= {item.name for piece in document.pieces for item in piece.items if not isinstance(item, ast.Compile)}

    def of_piece(piece: Piece) -> list[Diagnostic]:
        return [warning for item in piece.items for warning in of_item(item, declared)]

    names = (document.remembered(piece, "used", partial(used_names, piece.file)) for piece in document.pieces)
    used = set[str]().union(*names)
    for piece in document.pieces:
        own = document.remembered(piece, "lint", partial(of_piece, piece))
        yield from not_allowed([*unused_imports(piece.file.uses, used), *own], piece.file)
