"""Whose line an error shows first: the user's, for whatever is wrong with a call of the library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

import tessera as ts
from tessera.frontends import source
from tessera.frontends.source.elaborate.library import SPECS, Library
from tessera.frontends.source.syntax import ast
from tessera.ir.diagnostics import IN_THE_LIBRARY, Diagnostic, Span

USER = "user.tess"
MODULES = sorted(
    f"std.{'.'.join(p.relative_to(SPECS / 'std').with_suffix('').parts)}" for p in (SPECS / "std").rglob("*.tess")
)
# A value of each static kind: right in kind, wrong for most functions.
VALUES = {
    "int": "7",
    "real": "-0.5",
    "bool": "true",
    "str": '"nothing"',
    "list": "[9, 9]",
    "fn": "concat",
    "dtype": "i64",
}


def functions() -> list[tuple[str, ast.Function]]:
    library = Library()
    return [
        (module, item)
        for module in MODULES
        for item in library.std(module).file.items
        if isinstance(item, ast.Function) and item.kind in ("fn", "op", "layer")
    ]


def wrong_calls(node: ast.Function) -> list[str]:
    """Calls with operands of ranks and dtypes that hardly fit, and with strange static values."""
    statics = [f"{s.name}={VALUES[s.type.name]}" for s in node.statics]
    needed = [f"{s.name}={VALUES[s.type.name]}" for s in node.statics if s.default is None]
    count = sum(1 for p in node.params if not p.type.optional)
    tensors = [("x", "y", "z"), ("z", "x", "i"), ("i", "z", "y"), ("y", "y", "y"), ("w", "w", "w")]
    return [
        f"{node.name}({', '.join([*(row[n % 3] for n in range(count)), *given])})" for row in tensors for given in (statics, needed)
    ]  # fmt: skip


def program(module: str, node: ast.Function, call: str) -> str:
    """A model whose third line is the call."""
    return (
        f"use {module} ({node.name})\n"
        "model m(x: f32[B, T, 6], y: f32[3, 5], z: f32[], i: i64[B, T], w: f32[2, 4, 6, 6]) -> f32[] {\n"
        f"    out = {call}\n"
        "    return z\n"
        "}\n"
    )


def diagnosed(text: str) -> Diagnostic | None:
    try:
        source.loads(text, USER)
    except Diagnostic as error:
        return error
    return None


@pytest.mark.extended
def test_most_of_these_calls_are_wrong() -> None:
    wrong = [
        node.name for module, node in functions() if any(diagnosed(program(module, node, c)) for c in wrong_calls(node))
    ]
    assert len(wrong) > 0.8 * len(functions())


def rows() -> Iterator[Any]:
    for module, node in functions():
        marks = () if module == "std.nn" else (pytest.mark.extended,)
        yield pytest.param(module, node, id=f"{module}-{node.name}", marks=marks)


@pytest.mark.parametrize(("module", "node"), rows())
def test_the_first_line_is_the_users(module: str, node: ast.Function) -> None:
    for call in wrong_calls(node):
        error = diagnosed(program(module, node, call))
        if error is not None:
            assert error.span is not None, error
            assert (error.span.file, error.span.line) == (USER, 3), error


def test_the_line_of_the_library_follows_as_a_note() -> None:
    text = "use std.nn (mlp)\nmodel m(x: f32[B, 4]) -> f32[B, 4] {\n    return mlp(x, hidden=8, act=concat)\n}\n"
    with pytest.raises(Diagnostic) as caught:
        source.loads(text, USER)
    first = caught.value.notes[0]
    assert first.message == IN_THE_LIBRARY
    assert first.span is not None
    assert first.span.file.endswith("specs/std/nn.tess")


def test_a_mistake_in_a_function_that_is_passed_is_the_users() -> None:
    text = (
        "use std.nn (mlp)\n"
        "fn act(x: float[..., D]) -> float[..., D] {\n"
        "    return reshape(x, [3])\n"
        "}\n"
        "model m(x: f32[B, 4]) -> f32[B, 4] {\n"
        "    return mlp(x, hidden=8, act=act)\n"
        "}\n"
    )
    with pytest.raises(Diagnostic) as caught:
        source.loads(text, USER)
    assert caught.value.span is not None
    assert (caught.value.span.file, caught.value.span.line) == (USER, 3)


def test_a_mistake_in_a_body_within_a_body_is_told_from_the_call() -> None:
    text = (
        "use std.token (bipartite_merge, token_map)\n"
        "op twice(x: float[B, T, D]) -> float[B, T - 9, D] {\n"
        "    y, map = bipartite_merge(x, token_map(batch=B, tokens=T), x, r=9)\n"
        "    return y\n"
        "}\n"
        "model m(x: f32[2, 16, 4]) -> f32[2, 7, 4] {\n"
        "    return twice(x)\n"
        "}\n"
    )
    with pytest.raises(Diagnostic, match="E0501") as caught:
        source.loads(text, USER)
    assert caught.value.span is not None
    assert (caught.value.span.file, caught.value.span.line) == (USER, 3)
    assert any(n.span is not None and n.span.line == 7 for n in caught.value.notes)


def test_nodes_of_the_library_carry_the_users_line() -> None:
    """So that a pass or a backend that complains about one shows it."""
    module = source.loads(
        "use std.nn (mlp)\nmodel m(x: f32[B, 4]) -> f32[B, 4] {\n    return mlp(x, hidden=8) as mlp\n}\n", USER
    )
    for thing in [*module.graph.nodes(), *module.graph.params.values()]:
        assert thing.span is not None
        assert (thing.span.file, thing.span.line) == (USER, 3)
        assert thing.span.origin is not None
        assert "specs/std" in thing.span.origin.file
    error = Diagnostic("E0820", "no lowering", next(iter(module.graph.nodes())).span)
    assert error.span == Span(USER, 3, 12, 3, 28)
    assert [n.message for n in error.notes] == [IN_THE_LIBRARY]
    assert re.search(r"user.tess:3:12(.|\n)*specs/std/nn.tess", error.render())


def test_what_a_body_requires_is_shown_at_the_call() -> None:
    module = source.loads(
        "use std.token (bipartite_merge, token_map)\n"
        "model m(x: f32[2, T, 4]) -> f32[2, T - 3, 4] {\n"
        "    y, map = bipartite_merge(x, token_map(batch=2, tokens=T), x, r=3)\n"
        "    return y\n"
        "}\n",
        USER,
    )
    assert {need.span.file for need in module.graph.requires if need.span is not None} == {USER}


def test_a_call_in_python_comes_first_too() -> None:
    with ts.model("m") as m:
        x = m.input("x", "f32[B, 4]")
        with pytest.raises(Diagnostic) as caught:
            ts.std.nn.mlp(x, hidden=8, act=ts.ops.concat)
        m.output(x)
    assert caught.value.span is not None
    assert caught.value.span.file == __file__


def test_a_target_that_refuses_shows_the_call_and_the_body() -> None:
    module = source.loads(
        "op running(x: float[B, T]) -> float[B, T] {\n"
        "    return cummax(x, axis=1)\n"
        "}\n"
        "model m(x: f32[B, T]) -> f32[B, T] {\n"
        "    return running(x)\n"
        "}\n",
        USER,
    )
    with pytest.raises(Diagnostic, match="E0820") as caught:
        ts.compile(module, target="mlir")
    assert caught.value.span is not None
    assert caught.value.span.line == 5
    assert [(n.message, n.span.line) for n in caught.value.notes if n.span is not None] == [
        ("in its body, at this line", 2)
    ]
