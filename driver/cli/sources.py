"""``check`` and ``fmt``: commands over source files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from ...ir.diagnostics import Diagnostic
from .common import diagnostic_json, json_option, paint, print_json


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--lint", "with_lint", is_flag=True, help="Show warnings as well; they do not change the exit code.")
@json_option
def check(files: tuple[str, ...], with_lint: bool, as_json: bool) -> None:
    """Type-check files, or all `.tess` files of a folder.

    Names, shapes, dtypes and static parameters of every model and declaration; passes and targets of compile blocks. All
    mistakes of a file are shown, in their order.
    """
    from ..check import examine

    rows: list[dict[str, Any]] = []
    for file in _tess_files(files):
        modules, found = examine(file, lint=with_lint)
        errors = [d for d in found if d.severity == "error"]
        names = [m.name for m in modules]
        row: dict[str, Any] = {"file": file, "ok": not errors}
        if errors:
            row |= {"error": diagnostic_json(errors[0]), "errors": [diagnostic_json(e) for e in errors]}
        else:
            row["models"] = names
        if with_lint:
            row["warnings"] = [diagnostic_json(d) for d in found if d.severity == "warning"]
        rows.append(row)
        if as_json:
            continue
        for diagnostic in found:
            click.echo(paint(diagnostic.render()), err=True)
        if len(errors) > 1:
            click.echo(f"{file}: {len(errors)} errors", err=True)
        if not errors:
            click.echo(f"{file}: ok" + (f" ({', '.join(names)})" if names else ""))
    if as_json:
        print_json(rows)
    if not all(row["ok"] for row in rows):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@json_option
def lint(files: tuple[str, ...], as_json: bool) -> None:
    """Show what is legal and probably wrong in files, or in all `.tess` files of a folder.

    A comment `# allow: W0103` on the line, or on the line above, takes a warning back. The exit code is 1 where one is left, or an
    error.
    """
    from ..check import examine

    rows = [(file, examine(file, lint=True).diagnostics) for file in _tess_files(files)]
    if as_json:
        print_json([{"file": file, "diagnostics": [diagnostic_json(d) for d in found]} for file, found in rows])
    for file, found in rows if not as_json else ():
        for diagnostic in found:
            click.echo(paint(diagnostic.render()), err=True)
        if not found:
            click.echo(f"{file}: ok")
    if any(found for _, found in rows):
        raise click.exceptions.Exit(1)


def _tess_files(names: Sequence[str]) -> Iterator[str]:
    """The files that are named, and those of the folders that are. Raises E0001 for a folder without any."""
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        found = sorted(
            path
            for path in Path(name).rglob("*.tess")
            if not any(p.startswith(".") for p in path.relative_to(name).parts)
        )
        if not found:
            raise Diagnostic("E0001", f"there is no `.tess` file in `{name}`")
        yield from map(str, found)


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
