"""A program as a whole: its functions, what they share, how two compare."""

from __future__ import annotations

import pytest

from tessera.ir.builder import Builder
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Graph, Initializer, Module
from tessera.ir.program import Program
from tessera.ir.types import TensorType

ZEROS = Initializer("zeros")


def function(name: str, *params: str) -> Graph:
    """The sum of the input and of these parameters."""
    b = Builder(Graph(name))
    value = b.input("x", TensorType.of("f32", [4]))
    for param in params:
        value = b.op("add", value, b.param(param, TensorType.of("f32", [4]), ZEROS))
    b.graph.add_output(value, "output")
    return b.graph


def two() -> Program:
    return Program("p", {"a": function("a", "w", "v"), "b": function("b", "u", "w")})


def test_a_module_is_a_program() -> None:
    assert Module is Program
    graph = function("m", "w")
    module = Module("m", graph)
    assert module.functions == {"m": graph}
    assert module.graph is graph
    assert module.plain


def test_the_one_graph_can_be_replaced() -> None:
    module = Module("m", function("m"))
    module.graph = function("m", "w")
    assert list(module.functions["m"].params) == ["w"]


def test_of_several_functions_one_must_be_named() -> None:
    with pytest.raises(Diagnostic, match=r"E0520.*2 entry points"):
        _ = two().graph
    with pytest.raises(Diagnostic, match="E0520"):
        two().graph = function("c")


def test_one_entry_alone_shares_its_graph() -> None:
    program = two()
    alone = program.only("b")
    assert alone.graph is program.functions["b"]
    assert (alone.name, alone.plain) == ("b", True)
    with pytest.raises(Diagnostic, match=r"E0521.*no entry point `bb`(.|\n)*did you mean `b`"):
        program.only("bb")


def test_shared_parameters_are_counted_once() -> None:
    program = two()
    assert list(program.parameters()) == ["w", "v", "u"]
    assert program.parameters()["w"] is program.functions["a"].params["w"]


def test_programs_compare_every_function() -> None:
    program = two()
    copy = program.clone()
    assert program == copy
    copy.functions["b"] = function("b", "w")
    assert (program.difference(copy) or "").startswith("in `b`: ")
    del copy.functions["b"]
    assert (program.difference(copy) or "").startswith("entry points differ: a, b and a")
