"""What the measuring commands share."""

from __future__ import annotations

import os
import shutil
import sys

import click

from ...ir.diagnostics import Diagnostic

size_option = click.option(
    "--size",
    "sizes",
    metavar="B=8,T=128",
    help="Sizes of the free dimensions, for timing and comparing. Default: batch 1, 128 tokens.",
)
rounds_option = click.option(
    "--rounds", type=click.IntRange(min=1), help="Rounds of timing. Default: what fits into about 12 seconds."
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of one operator. Default: ONNX Runtime's, one for each core."
)


def parse_sizes(text: str | None, option: str = "--size") -> dict[str, int]:
    """``B=8,T=128`` as sizes. Raises E0011."""
    sizes: dict[str, int] = {}
    for part in text.split(",") if text else []:
        name, _, value = part.partition("=")
        if not name.strip() or not value.strip().isdigit() or int(value) < 1:
            raise Diagnostic("E0011", f"`{option} {part}` is not NAME=SIZE", help=f"as in `{option} B=8,T=128`")
        sizes[name.strip()] = int(value)
    return sizes


def terminal() -> tuple[int, bool]:
    """Columns, and whether colours are wanted."""
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return (shutil.get_terminal_size().columns if sys.stdout.isatty() else 100), color
