"""Figures under named columns, for people and for programs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows under named columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def to_dict(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def __str__(self) -> str:
        return aligned([self.columns, *(tuple(map(human, row)) for row in self.rows)], range(1, len(self.columns)))


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Rows as plain columns, those in ``right`` to the right; for files and pipes."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def human(value: Any) -> str:
    """``1234567`` as ``1.23 M``; what is small, or no number, as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    for least, factor, unit in ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / factor:.3g} {unit}"
    return str(value) if isinstance(value, int) else f"{value:.3g}"
