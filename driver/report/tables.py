"""Tables as rich lays them out: every table on a terminal comes from here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import RenderableType


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], last: bool = False, left: Collection[int] = (0,)
) -> RenderableType:
    """Figures under heads, with a line above the last row where that is a total; the columns in ``left`` hold words."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(heads):
        made.add_column(head, justify="left" if i in left else "right", no_wrap=i == 0 or i not in left)
    for i, row in enumerate(rows):
        made.add_row(*row, end_section=last and i == len(rows) - 2)
    return made


def grid(rows: Iterable[Sequence[str]], right: Collection[int] = (), indent: int = 0) -> RenderableType:
    """Rows as columns without lines, those in ``right`` to the right; a last column that is too long goes on below itself."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 2, 0, 0))
    for i, row in enumerate(rows):
        for column in range(len(row) if i == 0 else 0):
            justify: Literal["left", "right"] = "right" if column in right else "left"
            made.add_column(justify=justify, no_wrap=column < len(row) - 1, overflow="fold")
        made.add_row(*map(Text, row))
    return Padding(made, (0, 0, 0, indent), expand=False)


def rendered(parts: Iterable[RenderableType], width: int, color: bool = False) -> str:
    """As text of at most ``width`` columns, lines without blanks at their ends."""
    from rich.console import Console

    stream = StringIO()
    console = Console(file=stream, width=width, force_terminal=color, highlight=False, emoji=False, markup=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())
