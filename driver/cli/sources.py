"""``check`` and ``fmt``: commands over source files."""

from __future__ import annotations

import sys
from typing import Any

import click

from ...ir.diagnostics import Diagnostic
from .common import diagnostic_json, json_option, paint, print_json


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@json_option
def check(files: tuple[str, ...], as_json: bool) -> None:
    """Type-check files.

    Names, shapes, dtypes and static parameters of every model and declaration; passes and targets of compile blocks.
    """
    from ..compile import check as check_file

    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            modules = check_file(file)
        except Diagnostic as error:
            rows.append({"file": file, "ok": False, "error": diagnostic_json(error)})
            if not as_json:
                click.echo(paint(error.render()), err=True)
            continue
        rows.append({"file": file, "ok": True, "models": [m.name for m in modules]})
        if not as_json:
            names = ", ".join(m.name for m in modules)
            click.echo(f"{file}: ok{f' ({names})' if names else ''}")
    if as_json:
        print_json(rows)
    if not all(row["ok"] for row in rows):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", "check_only", is_flag=True, help="Change nothing; exit with 1 when a file is not formatted.")
@click.option("--diff", is_flag=True, help="Change nothing; print what would change.")
def fmt(files: tuple[str, ...], check_only: bool, diff: bool) -> None:
    """Format files in place.

    There is one style. `-` reads stdin and writes stdout.
    """
    from ...frontends.source.syntax.parser import read_source

    failed = changed = False
    for file in files:
        try:
            before = _stdin() if file == "-" else read_source(file)
            after = _formatted(before, "<stdin>" if file == "-" else file)
        except Diagnostic as error:
            click.echo(paint(error.render()), err=True)
            failed = True
            continue
        changed |= after != before
        if diff:
            click.echo(_diff(before, after, file), nl=False)
        if file == "-" and not (check_only or diff):
            click.echo(after, nl=False)
        elif after != before and check_only and not diff:
            click.echo(f"{file}: would be formatted")
        elif after != before and not (check_only or diff):
            _rewrite(file, after)
            click.echo(f"{file}: formatted")
    if failed or (check_only and changed):
        raise click.exceptions.Exit(1)


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Diagnostic("E0003", f"stdin is not UTF-8: byte {error.start}") from None


def _formatted(text: str, path: str) -> str:
    from ...frontends.source.format.fmt import format_file
    from ...frontends.source.syntax.parser import parse

    return format_file(parse(text, path))


def _rewrite(file: str, text: str) -> None:
    from ...runtime.files.aside import written_aside

    with written_aside(file) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def _diff(before: str, after: str, file: str) -> str:
    from difflib import unified_diff

    lines = unified_diff(before.splitlines(True), after.splitlines(True), file, f"{file} (formatted)")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
