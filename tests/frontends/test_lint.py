"""Warnings: all that is shipped is free of them, and they do not stand in the way of errors."""

from __future__ import annotations

import pytest

from tessera.driver.check import diagnose
from tessera.frontends.source.lint import lint
from tessera.frontends.source.syntax.cache import load_ast
from tessera.ir.codes import all_codes
from tessera.specs import catalog


def test_every_shipped_file_is_clean() -> None:
    found = [warning for path in sorted(catalog.FOLDER.rglob("*.tess")) for warning in lint(load_ast(path))]
    assert [w.render() for w in found] == []


def test_every_warning_has_a_case() -> None:
    from pathlib import Path

    text = (Path(__file__).parents[1] / "errors" / "lint" / "warnings.txt").read_text(encoding="utf-8")
    assert [code for code in all_codes() if code.startswith("W") and f"warning[{code}]" not in text] == []


def test_a_tree_with_holes_has_no_warnings() -> None:
    found = diagnose("use std.nn (gelu)\n\nfn f(x: float[B]) -> float[B] {\n    return gelu(x\n}\n", lint=True)
    assert {d.severity for d in found} == {"error"}


@pytest.mark.parametrize("comment", ["# allow: W0103", "#allow: W0104, W0103", "# allow: W0103 read by nobody yet"])
def test_a_comment_takes_a_warning_back(comment: str) -> None:
    assert diagnose(f"fn f(x: float[B]) -> float[B] {{\n    y = x  {comment}\n    return x\n}}\n", lint=True) == []
