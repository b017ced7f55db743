"""The files that an edited text uses: shipped ones, and those beside it as they lie on the disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...frontends.source.elaborate.library import Library, Unit
from ...frontends.source.syntax import ast
from ...ir.declarations import LOCAL
from ...ir.diagnostics import Diagnostic
from ...specs.catalog import FOLDER


class OpenLibrary(Library):
    """A library whose main file is a text that is being written."""

    errors: list[Diagnostic]

    def __init__(self) -> None:
        super().__init__(errors=[])

    @property
    def units(self) -> Iterable[Unit]:
        """All files that have been read."""
        return self._units.values()

    def linked(self, path: str, file: ast.File, broken: set[str]) -> tuple[Unit, list[Diagnostic]]:
        """The edited text as a file, and what is wrong with its `use` lines and the names of its declarations.

        Args:
            path: where it lies, or would.
            broken: names of declarations that do not parse, whose uses are no further mistakes.
        """
        real = Path(path).resolve()
        shipped = real.is_relative_to(FOLDER)
        module = ".".join(real.relative_to(FOLDER).with_suffix("").parts) if shipped else LOCAL
        unit = Unit(module, path, None if shipped else real.parent, file, broken=set(broken))
        before = len(self.errors)
        self._link(unit)
        return unit, self.errors[before:]
