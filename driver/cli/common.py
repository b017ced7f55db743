"""What the commands share: reading options, writing results, waiting."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ...ir.diagnostics import Diagnostic, Note, Span

if TYPE_CHECKING:
    from ...ir.compiling import PassSpec
    from ...ir.graph import Module

F = TypeVar("F", bound=Callable[..., Any])


# Options ---------------------------------------------------------------------------------------------------------------


def spec_options(command: F) -> F:
    """``FILE --model M -p name=value``: which model, with which static parameters."""
    for decorate in (
        click.option(
            "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="Set a static parameter of the model."
        ),
        click.option("-m", "--model", metavar="NAME", help="The model, where the file holds several."),
        click.argument("file"),
    ):
        command = decorate(command)
    return command


# NumPy and torch take no other.
SEED = click.IntRange(0, 2**63 - 1)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
pass_option = click.option(
    "--pass", "passes", multiple=True, metavar="PASS", help="Apply a pass, as in 'merge_tokens(r=8)'. Replaces those of the file."
)  # fmt: skip
verify_each_option = click.option("--verify-each", is_flag=True, help="Check the IR after every pass.")
fix_option = click.option(
    "--fix", metavar="B=1,T=128", help="Fix sizes that an .onnx file leaves free; the result takes no others."
)
dtype_option = click.option(
    "--dtype", type=click.Choice(["f32", "f16", "bf16"]), default="f32", show_default=True, help="What `float` stands for."
)  # fmt: skip


def load_module(file: str, model: str | None, params: Sequence[str], dtype: str = "f32") -> Module:
    """The model that the options name, imported where it is no spec. Raises Diagnostic for whatever is wrong with it."""
    from ..read import read_model

    return read_model(file, model, parse_params(params), dtype=dtype).module


def parse_params(params: Sequence[str]) -> dict[str, Any]:
    """``["classes=10"]`` as ``{"classes": 10}``. Raises E0011."""
    values: dict[str, Any] = {}
    for text in params:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise Diagnostic("E0011", f"`-p {text}` is not NAME=VALUE", help="as in `-p classes=10`")
        values[name.strip()] = _literal(value, f"-p {text}")
    return values


def parse_passes(texts: Sequence[str]) -> list[PassSpec]:
    """``["merge_tokens(r=8, metric=keys)"]`` as pass specs; messages show what was typed. Raises Diagnostic."""
    from ..compile import parse_pass

    numbers = range(1, len(texts) + 1)
    return [parse_pass(t, "--pass" if len(texts) == 1 else f"--pass {n}") for n, t in zip(numbers, texts, strict=True)]


def _literal(text: str, shown: str) -> Any:
    from ..compile import parse_literal

    return parse_literal(text, shown)


# Output ----------------------------------------------------------------------------------------------------------------


def print_json(value: Any) -> None:
    """One JSON document on stdout. JSON has no NaN and no infinity: they become null."""
    click.echo(json.dumps(_finite(value), indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def diagnostic_json(error: Diagnostic) -> dict[str, Any]:
    """A diagnostic as plain data."""
    return {
        "code": error.code,
        "message": error.message,
        "span": _span_json(error.span),
        "notes": [_note_json(n) for n in error.notes],
        "help": error.help,
    }


def _note_json(note: Note) -> dict[str, Any]:
    return {"message": note.message, "span": _span_json(note.span)}


def _span_json(span: Span | None) -> dict[str, Any] | None:
    return None if span is None else {name: value for name, value in span._asdict().items() if name != "origin"}


def paint(text: str) -> str:
    """The rendered diagnostic with its heads in colour, on a terminal that wants colours."""
    import os

    if not sys.stderr.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    heads = (("error[", "31;1"), ("  note:", "36;1"), ("  help:", "32;1"))
    lines = []
    for line in text.split("\n"):
        for head, colour in heads:
            if line.startswith(head):
                stop = line.index(":") + 1
                line = f"\033[{colour}m{line[:stop]}\033[0m{line[stop:]}"
                break
        lines.append(line)
    return "\n".join(lines)


def columns(rows: Iterable[Sequence[object]], right: Collection[int] = (), indent: str = "") -> str:
    """Rows as aligned columns, those in ``right`` to the right: on a terminal as wide as that is, else as they are."""
    cells = [[str(c) for c in row] for row in rows]
    if sys.stdout.isatty():
        import shutil

        from ..report.tables import grid, rendered

        # On a terminal without room for the last column, lines end behind its edge.
        least = len(indent) + sum(max(map(len, column)) + 2 for column in list(zip(*cells, strict=True))[:-1]) + 20
        return rendered([grid(cells, right, len(indent))], max(least, shutil.get_terminal_size().columns))
    from ...ir.analysis.table import aligned

    return "\n".join(f"{indent}{line}" for line in aligned(cells, right).splitlines())


def first_sentence(doc: str) -> str:
    """The part of a documentation text that fits into a list."""
    import re

    line = " ".join(doc.split())
    stop = re.search(r"(?<!et al)\. ", line)
    return line[: stop.start()] + "." if stop else line


def size_text(size: float) -> str:
    """Bytes for people: ``86.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


# Waiting ---------------------------------------------------------------------------------------------------------------


def _silent(stage: str, done: int | None, total: int | None) -> None:
    """Progress where nobody looks."""


@contextmanager
def waiting(title: str) -> Iterator[Callable[[str, int | None, int | None], None]]:
    """A line on a terminal's stderr that says what goes on. Yields ``progress(stage, done, total)``.

    ``total`` makes it a bar; None a spinner. Elsewhere than on a terminal nothing is printed (and rich is not imported).
    """
    if not sys.stderr.isatty():
        yield _silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(title, total=None)

        def progress(stage: str, done: int | None = None, total: int | None = None) -> None:
            bar.update(task, description=stage, completed=done or 0, total=total)

        yield progress
