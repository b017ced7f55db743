"""The names of other frameworks: what is written instead of each type-checks, and is told where it is missed."""

from __future__ import annotations

import pytest

from tessera.driver.check import diagnose
from tessera.frontends.source.elaborate.builtin import BUILTIN
from tessera.frontends.source.elaborate.elsewhere import EXPRESSIONS, FRAMEWORKS, SENTENCES
from tessera.frontends.source.elaborate.library import shared
from tessera.frontends.source.elaborate.remedies import uses_of
from tessera.frontends.source.syntax.parser import parse_expr

HEAD = (
    "layer f(x: float[B, T, D], y: float[B, T, D], a: float[B, T], b: float[B, T], mask: bool[B, T, D], i: i64[B, T], "
    "n: i64[N], m: i64[N], v: float[N], w: float[N], p: float[D, D], q: float[D, D], image: float[B, C, H, W], "
    "gain: float[D], shift: float[D]) -> float[B, T, D] {\n"
)


def test_there_are_two_hundred() -> None:
    assert len(EXPRESSIONS) >= 200
    assert not set(EXPRESSIONS) & set(SENTENCES)
    assert not (set(EXPRESSIONS) | set(SENTENCES) | FRAMEWORKS) & BUILTIN
    assert [name for name in {**EXPRESSIONS, **SENTENCES} if shared().declaring(name)] == []


def test_every_expression_type_checks() -> None:
    """All in one layer: each wrong line is one diagnostic."""
    lines: list[str] = []
    uses: set[tuple[str, str]] = set()
    for number, text in enumerate(dict.fromkeys(EXPRESSIONS.values())):
        targets = f"r{number}, s{number}" if text.startswith(("topk(", "sort(", "compact(")) else f"r{number}"
        shown = text if " as " not in text else f"{text.rpartition(' as ')[0]} as scope{number}"
        lines.append(f"    {targets} = {shown}\n")
        uses.update(uses_of(parse_expr(text)))
    head = "".join(f"use {module} ({name})\n" for module, name in sorted(uses))
    found = diagnose(head + HEAD + "".join(lines) + "    return x\n}\n", "elsewhere.tess")
    assert [d.render() for d in found] == []


@pytest.mark.parametrize("form", ["{}(x)", "x.{}()", "torch.{}(x)"])
def test_every_name_is_answered(form: str) -> None:
    """As a function, as a method and behind the name of a framework; all in one model: each line is one diagnostic."""
    names = [n for n in sorted({**EXPRESSIONS, **SENTENCES}) if n not in FRAMEWORKS and len(n) > 1]
    told = {n: SENTENCES.get(n) or EXPRESSIONS[n] for n in names}
    del told["shape"]  # a tensor has one
    lines = "".join(f"    y = {form.format(name)}\n" for name in told)
    found = diagnose(f"model m(x: float[I, J, K]) -> float[I, J, K] {{\n{lines}    return x\n}}\n")
    assert {d.code for d in found} == {"E0203" if form.startswith("x.") else "E0201"}
    assert len(found) == len(told)
    assert [n for n, d in zip(told, found, strict=True) if told[n] not in (d.help or "")] == []
