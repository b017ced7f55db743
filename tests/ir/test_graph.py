"""Edits keep the graph well formed; clones are equal and independent; differences are named."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.ir.builder import Builder, freeze, reinfer
from tessera.ir.compare import first_difference
from tessera.ir.compiling import CompileSpec, PassSpec
from tessera.ir.declarations import LOCAL, Declaration
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import sym
from tessera.ir.graph import (
    Graph,
    Initializer,
    Module,
    Node,
    Parameter,
    Require,
    Value,
)
from tessera.ir.notation import parse_signature
from tessera.ir.op import Composite
from tessera.ir.types import TensorType, boolean, f32, i64
from tessera.ir.verifier import verify

X = TensorType.of("f32", ["B", 8])


def chain(n: int = 4) -> Graph:
    b = Builder(Graph("f"))
    x = b.input("x", X)
    w = b.param("w", TensorType.of("f32", [8]), Initializer("ones"))
    value = x
    for i in range(n):
        value = b.op("mul", value, w) if i % 2 else b.op("exp", value)
    b.graph.add_output(value, "y")
    return b.graph


def names(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes()]


def test_use_chains_follow_edits() -> None:
    graph = chain()
    first, second, *_ = graph.nodes()
    assert first.output.users == [second]
    second.set_input(0, graph.inputs[0])
    assert first.output.users == []
    graph.remove(first)
    assert names(graph) == ["mul", "exp", "mul"]
    verify(graph)


def test_remove_refuses_a_node_that_is_read_or_elsewhere() -> None:
    graph = chain()
    node = next(graph.nodes())
    with pytest.raises(ValueError, match="readers"):
        graph.remove(node)
    with pytest.raises(ValueError, match="not in this graph"):
        chain().remove(node)


def test_outputs_take_part_in_use_chains() -> None:
    graph = chain(1)
    node = next(graph.nodes())
    assert node.output.users == [graph.end]
    node.output.replace_uses(graph.inputs[0])
    assert graph.outputs == [graph.inputs[0]]
    graph.remove(node)
    verify(graph)


def test_replace_uses_can_spare_a_reader() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", X)
    y = b.op("exp", x)
    z = b.op("neg", x)
    b.graph.add_output(b.op("add", y, z), "out")
    assert y.node is not None
    x.replace_uses(z, skip=[z.node] if z.node else [])
    assert y.node.inputs == [z]
    assert z.node is not None
    assert z.node.inputs == [x]


def test_a_value_read_twice_by_one_node_has_two_uses() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", X)
    y = b.op("mul", x, x)
    assert len(x.uses) == 2
    assert x.users == [y.node]
    assert y.node is not None
    y.node.set_input(0, y.node.inputs[1])
    assert len(x.uses) == 2


@pytest.mark.parametrize("backwards", [False, True])
def test_any_node_may_be_removed_while_iterating(backwards: bool) -> None:
    graph = chain(6)
    graph.set_outputs([], [])
    everything = list(graph.nodes())
    for node in everything:
        node.output.replace_uses(graph.inputs[0])
    visited = []
    for node in graph.reversed_nodes() if backwards else graph.nodes():
        visited.append(node)
        # Take out the node, its successor and its predecessor.
        for gone in (node, node.next, node.prev):
            if gone is not None and gone.graph is graph:
                graph.remove(gone)
    assert len(graph) == 0
    assert visited == [everything[i] for i in ((5, 3, 1) if backwards else (0, 2, 4))]


def test_what_is_inserted_behind_the_current_node_is_visited() -> None:
    graph = chain(2)
    seen = []
    for node in graph.nodes():
        seen.append(node.op.name)
        if node.op.name == "mul":
            Builder(graph).before(node.next).op("neg", node.output)
    assert seen == ["exp", "mul", "neg"]


EDITS = st.lists(
    st.tuples(st.sampled_from(["insert", "remove", "replace", "rewire", "clone"]), st.integers(0, 10**6)), max_size=25
)


@given(EDITS)
@settings(max_examples=150, deadline=None)
def test_random_edits_keep_the_graph_legal(edits: list[tuple[str, int]]) -> None:
    graph = chain(5)
    for kind, pick in edits:
        nodes = list(graph.nodes())
        node = nodes[pick % len(nodes)] if nodes else None
        if kind == "clone":
            copy = graph.clone()
            assert copy == graph
            graph = copy
        elif node is None or kind == "insert":
            earlier: list[Value] = (
                [graph.inputs[0], *(n.output for n in nodes[: nodes.index(node)])] if node else [graph.inputs[0]]
            )
            value = Builder(graph).before(node).op("neg", earlier[pick % len(earlier)])
            if node is not None:
                node.set_input(0, value)
        elif kind == "remove" and not node.output.uses:
            graph.remove(node)
        elif kind in ("replace", "remove"):
            node.output.replace_uses(graph.inputs[0])
            graph.remove(node)
        else:
            at = nodes.index(node)
            node.set_input(0, nodes[pick % at].output if at else graph.inputs[0])
        verify(graph)
    assert len(graph) == len(list(graph.nodes())) == len(list(graph.reversed_nodes()))


def test_clone_is_independent() -> None:
    graph = chain()
    graph.lets["r1"] = sym("B") // 2
    copy = graph.clone()
    assert copy == graph
    for node in copy.nodes():
        assert all(v is None or v.node is None or v.node.graph is copy for v in node.inputs)
    Builder(copy).op("neg", copy.inputs[0])
    assert copy != graph
    assert len(graph) == 4


def difference(change: str) -> str | None:
    a, b = chain(), chain()
    node = list(b.nodes())[1]
    if change == "input":
        b.inputs[0].name = "z"
    elif change == "param":
        b.params["w"].trainable = False
    elif change == "extra param":
        b.add_param(Parameter(X, "v", Initializer("zeros")))
    elif change == "let":
        b.lets["r"] = sym("B")
    elif change == "rewired":
        node.set_input(0, b.inputs[0])
    elif change == "length":
        Builder(b).op("neg", b.inputs[0])
    elif change == "output name":
        b.set_outputs(b.outputs, [type(b.output_info[0])("z")])
    elif change == "output":
        b.set_outputs([node.output], b.output_info)
    elif change == "type":
        node.output.type = TensorType.of("f32", ["B", 9])
    return first_difference(a, b)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("nothing", None),
        ("input", "inputs differ"),
        ("param", "parameters differ"),
        ("extra param", "1 parameters and 2"),
        ("let", "let definitions differ"),
        ("rewired", "the inputs of mul"),
        ("length", "4 nodes and 5 nodes"),
        ("output name", "outputs differ"),
        ("output", "the outputs are different values"),
        ("type", "the types of mul differ"),
    ],
)
def test_the_first_difference_is_named(change: str, said: str | None) -> None:
    found = difference(change)
    assert (found is None) if said is None else (found is not None and said in found)


def with_constants(share: bool, value: float = 2.0, count: int = 2) -> Graph:
    b = Builder(Graph("f"))
    x: Value = b.input("x", X)
    for _ in range(count):
        c = b.constant(value, f32) if share else Builder(b.graph).constant(value, f32)
        x = b.op("mul", x, c)
    b.graph.add_output(x, "y")
    return b.graph


def test_constants_compare_by_value() -> None:
    assert len(with_constants(True)) == 3
    assert len(with_constants(False)) == 4
    assert with_constants(True) == with_constants(False)
    assert with_constants(True) != with_constants(True, 3.0)
    assert with_constants(True, float("nan")) == with_constants(False, float("nan"))


def test_symbols_sizes_and_lets() -> None:
    b = Builder(Graph("f"))
    b.input("x", TensorType.of("f32", ["B", sym("T") + sym("S")]))
    r1 = b.name_dim("r1", (sym("T") - 1) // 2)
    r2 = b.name_dim("r2", sym("T") - r1)
    assert b.graph.symbols() == ["B", "S", "T"]
    assert b.graph.expand_lets(r2) == sym("T") - (sym("T") - 1) // 2
    assert b.graph.sizes({"B": 1, "S": 2, "T": 9}) == {"B": 1, "S": 2, "T": 9, "r1": 4, "r2": 5}


def test_name_dim_shares_and_makes_unique() -> None:
    b = Builder(Graph("f"))
    b.input("x", TensorType.of("f32", ["r", "T"]))
    half = sym("T") // 2
    name = b.name_dim("r", half)
    assert name == sym("r1")
    assert b.name_dim("other", half) == name
    assert b.name_dim("n", sym("T")) == sym("T")
    assert b.name_dim("n", sym("T") - sym("T")) == 0
    assert list(b.graph.lets) == ["r1"]


def test_require_is_checked_on_sizes() -> None:
    require = Require(sym("k"), "<=", sym("T"), "k must not exceed T")
    assert require.holds({"k": 3, "T": 3})
    assert not require.holds({"k": 4, "T": 3})


def test_modules_compare_name_locals_and_graph() -> None:
    a = Module("m", chain())
    assert a == a.clone()
    assert Module("n", chain()).difference(a) == "n and m"
    assert "nodes" in (Module("m", chain(3)).difference(a) or "")


def test_modules_compare_the_local_declarations_that_they_use() -> None:
    def program(text: str, called: bool) -> Module:
        b = Builder(Graph("m"))
        op = Composite(parse_signature("f(x: float[...]) -> float[...]"), LOCAL, "", None, lambda types, attrs: Graph())
        b.graph.add_output(b.op(op, b.input("x", X)) if called else b.input("x", X), "y")
        return Module("m", b.graph, locals={"f": Declaration(text)})

    assert program("one", True).declared() == {"f": Declaration("one")}
    assert program("one", True).difference(program("two", True)) == "local declarations differ"
    assert program("one", False) == program("two", False)


def test_specs_compare_without_spans() -> None:
    assert CompileSpec(passes=(PassSpec("fold", {}),)) == CompileSpec(passes=(PassSpec("fold", {}),))


# The builder -----------------------------------------------------------------------------------------------------------


def test_constants_are_shared_and_survive_removal() -> None:
    b = Builder(Graph("f"))
    b.input("x", X)
    two = b.constant(2, f32)
    assert b.constant(2.0, f32) is two
    assert b.constant(2, i64) is not two
    assert b.constant(True, boolean).type == TensorType(boolean, ())
    assert two.node is not None
    b.graph.remove(two.node)
    again = b.constant(2, f32)
    assert again is not two
    verify(b.graph)


def test_a_constant_must_exist_in_its_dtype() -> None:
    with pytest.raises(Diagnostic) as caught:
        Builder(Graph("f")).constant(2.5, i64)
    assert caught.value.code == "E0405"


def test_a_parameter_name_is_declared_once() -> None:
    b = Builder(Graph("f"))
    b.param("w", X)
    with pytest.raises(Diagnostic) as caught:
        b.param("w", X)
    assert caught.value.code == "E0206"


def test_freeze_makes_values_canonical() -> None:
    import numpy as np

    assert freeze([1, [np.int64(2), np.float32(0.5)]]) == (1, (2, 0.5))
    assert type(freeze(np.int64(2))) is int
    assert freeze(sym("T") - sym("T") + 3) == 3
    assert freeze(sym("T")) is sym("T")


def test_reinfer_follows_a_changed_input() -> None:
    graph = chain(2)
    graph.inputs[0].type = TensorType.of("f32", ["C", 8])
    assert [reinfer(n) for n in graph.nodes()] == [True, True]
    assert [reinfer(n) for n in graph.nodes()] == [False, False]
    assert graph.outputs[0].type == TensorType.of("f32", ["C", 8])
    verify(graph)
    graph.inputs[0].type = TensorType.of("f32", ["C", 9])
    with pytest.raises(Diagnostic, match="E0304"):
        [reinfer(n) for n in graph.nodes()]


def test_edits_cost_the_same_in_a_large_graph() -> None:
    # Removing from the middle touches neighbours only: 20,000 edits of a list would be quadratic.
    graph = chain(20_000)
    nodes = list(graph.nodes())
    for node in nodes[1:-1:2]:
        before = node.inputs[0]
        assert before is not None
        node.output.replace_uses(before)
        graph.remove(node)
    assert len(graph) == 10_001
    verify(graph)


def test_a_node_shows_what_it_is() -> None:
    graph = chain(1)
    node: Node = next(graph.nodes())
    assert repr(node) == "<node exp>"
    assert repr(graph.end) == "<node return>"
    assert repr(graph.inputs[0]) == "<x: f32[B, 8]>"
