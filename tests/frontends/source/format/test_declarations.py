"""What the printer writes back of a program's own declarations: those that its graph uses, as one file can hold them."""

from __future__ import annotations

from pathlib import Path

import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

REWRITES = """\
use std.nn (silu as act)
fn twice(x: float[...]) -> float[...] { return act(x) + act(x) }
op mine(x: float[...]) -> float[...] { return twice(-x) }
op other(x: float[...]) -> float[...] { return x + 1.0 }
rewrite exact r(x: float[...]) { neg(neg(x)) => mine(x) }
model m(x: float[B]) -> float[B] { unread = other(x) return -(-x) }
"""


def declared(source: str) -> list[str]:
    heads = ("fn ", "op ", "const ", "record ")
    return [line.partition("(")[0].partition(" =")[0] for line in source.splitlines() if line.startswith(heads)]


def round_trip(module: ts.Module) -> str:
    source = ts.source(module)
    assert ts.loads(source).difference(module) is None
    return source


def test_what_a_pass_takes_out_is_not_printed() -> None:
    module = ts.loads(REWRITES)
    assert declared(round_trip(module)) == ["op other"]
    assert declared(round_trip(ts.apply(module, "dce"))) == []
    assert declared(round_trip(ts.apply(module, "inline"))) == []


def test_what_a_rule_brings_in_is_printed() -> None:
    module = ts.apply(ts.apply(ts.loads(REWRITES), "rewrite", rules=["r"]), "dce")
    assert declared(round_trip(module)) == ["op mine", "fn twice"]


def test_an_op_within_a_loop() -> None:
    module = ts.loads(
        "op add_one(x: float[B]) -> float[B] { return x + 1.0 }\n"
        "model m(x: float[B]) -> float[B] { fold i in 3 from (x) { x = add_one(x) } return x }"
    )
    assert declared(round_trip(module)) == ["op add_one"]


def test_functions_that_are_passed_on() -> None:
    module = ts.loads(
        "fn inner(x: float[...]) -> float[...] { return x + 1.0 }\n"
        "fn outer(x: float[...]) -> float[...] { return inner(x) * 2.0 }\n"
        "op each(x: float[B], *, f: fn, more: list = []) -> float[B] { x = f(x) repeat g in more { x = g(x) } return x }\n"
        "model m(x: float[B]) -> float[B] { return each(x, f=exp, more=[outer, tanh]) }"
    )
    source = round_trip(module)
    assert declared(source) == ["op each", "fn inner", "fn outer"]
    assert "each(x, f=exp, more=[outer, tanh])" in source


@pytest.fixture
def two_files(tmp_path: Path) -> Path:
    for name, act, plus in (("a", "gelu", 1.0), ("b", "silu", 2.0)):
        (tmp_path / f"{name}.tess").write_text(
            f"use std.nn ({act} as act)\n"
            f"const T = {plus}\n"
            "fn helper(x: float[...]) -> float[...] { return act(x) + T }\n"
            f"op {name}(x: float[...]) -> float[...] {{ return helper(x) }}\n"
        )
    path = tmp_path / "main.tess"
    path.write_text(
        'use "a.tess" (a)\nuse "b.tess" (b, helper as help)\n'
        "op c(x: float[B, T]) -> float[B, T] { return help(x[:, :T]) }\n"
        "model m(x: float[B, T]) -> float[B, T] { return c(a(b(x))) }\n"
    )
    return path


def test_two_files_give_one_name_to_different_things(two_files: Path) -> None:
    module = ts.load(two_files)
    source = round_trip(module)
    assert declared(source) == ["const T_2", "const T_3", "op a", "op b", "op c", "fn helper", "fn helper_2"]
    core, again = (ts.apply(m, "inline") for m in (module, ts.loads(source)))
    assert core == again
    assert [ts.source(core).count(text) for text in ("+ 1.0", "+ 2.0")] == [1, 2]


@pytest.mark.parametrize(
    "declaration",
    ["op a(x: float[...]) -> float[...] { return -x }", "model a(x: float[B]) -> float[B] { return first(x) }"],
)
def test_what_goes_by_its_name_is_named_once(two_files: Path, declaration: str) -> None:
    name = "a" if declaration.startswith("model") else "m"
    two_files.write_text(
        f'use "a.tess" (a as first)\n{declaration}\nmodel m(x: float[B]) -> float[B] {{ return a(first(x)) }}\n'
    )
    with pytest.raises(Diagnostic) as caught:
        ts.load(two_files, model=name)
    assert caught.value.code == "E0204"
    assert caught.value.message == "two files of this program declare `a`"


def test_a_variable_named_like_the_function_of_another_file(two_files: Path) -> None:
    (two_files.parent / "a.tess").write_text(
        "fn helper(x: float[...]) -> float[...] { return -x }\n"
        "op a(x: float[...]) -> float[...] { helper = helper(x) return helper }\n"
    )
    with pytest.raises(Diagnostic) as caught:
        ts.load(two_files)
    assert caught.value.code == "E0204"
    assert caught.value.help == "give the variable another name"
