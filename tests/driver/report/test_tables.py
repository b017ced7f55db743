"""Tables: aligned in a pipe, laid out by rich on a terminal, with the same figures."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tessera.driver.cli.common import columns
from tessera.driver.report.tables import rendered, table
from tessera.ir.analysis.table import Table

ROWS = [["block", "tokens", "note"], ["stem", 9, "short"], ["11", 1024, "a note that is longer than the terminal is wide"]]
PLAIN = """\
  block  tokens  note
  stem        9  short
  11       1024  a note that is longer than the terminal is wide"""


def test_in_a_pipe() -> None:
    assert columns(ROWS, right=(1,), indent="  ") == PLAIN
    assert columns([]) == ""


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert columns(ROWS, right=(1,), indent="  ") == PLAIN
    monkeypatch.setenv("COLUMNS", "40")
    lines = columns(ROWS, right=(1,), indent="  ").splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[2].startswith("  11       1024  a note")
    assert lines[3].startswith(" " * 17 + "than the terminal"), "it goes on below itself"
    # What looks like markup of rich is text.
    assert columns([["[bold]x[/bold]", ":smile:"]]) == "[bold]x[/bold]  :smile:"


def test_a_table_of_figures() -> None:
    assert str(Table(("block", "flops"), (("stem", 12), ("0", 3_400_000)))) == "block  flops\nstem      12\n0      3.4 M"
    lines = rendered([table(["block", "flops"], [["stem", "12"], ["total", "3.4 M"]], last=True)], 60).splitlines()
    figures = [line for line in lines if line.strip() and "─" not in line]
    assert [line.split()[0] for line in figures] == ["block", "stem", "total"]
    assert len({len(line) for line in figures}) == 1, "figures end in one column"


def test_the_ir_lays_out_nothing_by_rich() -> None:
    for path in (Path(__file__).parents[3] / "ir").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(n.split(".")[0] == "rich" for n in names), path
