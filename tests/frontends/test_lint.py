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


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("y = x * 2.0\n    y = x + 1.0\n    return y", [2]),
        ("y = x\n    y = x\n    return x", [2]),
        ("y = x\n    y = y + 1.0\n    return x", [3]),
        ("y = x\n    if n == 1 {\n        y = x + 1.0\n    } else {\n        y = x - 1.0\n    }\n    return y", [2]),
        ("y = x\n    if n == 1 {\n        y = x + 1.0\n    }\n    return y", []),
        ("y = x\n    repeat i in 3 {\n        x = x + y\n        y = x * 2.0\n    }\n    return x", []),
        ("repeat i in 3 {\n        y = x + 1.0\n        x = x * 2.0\n    }\n    return x", [3]),
        ("y = x\n    fold i in 3 from (y) {\n        z = y\n        y = z + x\n    }\n    return y", []),
        ("y = x\n    fold i in 3 from (y) {\n        y = y + x\n        z = y\n    }\n    return y", [5]),
        ("y = x\n    fold i in 3 from (y) stack (z) {\n        z = y\n        y = y + x\n    }\n    return sum(z, axis=0)", []),
        ("z = x\n    y = x\n    cond any(x > 0.0, axis=0) from (y) {\n        y = z\n    }\n    return y", []),
        ("y = x\n    cond any(x > 0.0, axis=0) from (y) {\n        y = x + 1.0\n        w = y\n    }\n    return y", [5]),
        ("y = x\n    while any(y > 0.0, axis=0) from (y) limit 4 {\n        w = y\n        y = w - x\n    }\n    return y", []),
        ("y, i = topk(x, k=n)\n    return x", [2]),
        ("y, i = topk(x, k=n)\n    return x * sum(y)", []),
        ("if n == 1 {\n        y = x\n        return y\n    }\n    y = x\n    return x", [6]),
    ],
)  # fmt: skip
def test_a_value_that_nothing_reads(body: str, lines: list[int]) -> None:
    """W0103 follows the order of statements: what is bound again before anything reads it was for nothing."""
    text = f"fn f(x: float[B], *, n: int = 1) -> float[B] {{\n    {body}\n}}\n"
    found = [d for d in diagnose(text, lint=True) if d.code != "W0102"]
    assert [(d.code, d.span.line if d.span else None) for d in found] == [("W0103", n) for n in lines]


def test_the_last_value_of_a_state_is_read() -> None:
    text = "model m(x: float[B]) -> float[B] {\n    state s: float[B] = zeros\n    y = s\n    s = x\n    return y\n}\n"
    assert diagnose(text, lint=True) == []
