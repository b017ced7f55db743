"""Each invariant, broken on purpose, is found and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tessera.ir.builder import Builder
from tessera.ir.dims.dim import sym
from tessera.ir.graph import Graph, Initializer, Input, Node, Output, Value
from tessera.ir.types import TensorType
from tessera.ir.verifier import VerifyError, verify

X = TensorType.of("f32", ["B", 8])


def graph() -> Graph:
    b = Builder(Graph("f"))
    x = b.input("x", X)
    b.param("w", TensorType.of("f32", [8]), Initializer("ones"))
    y = b.op("exp", x)
    z = b.op("sum", b.op("mul", y, b.graph.params["w"]), axis=1)
    b.graph.add_output(z, "z")
    return b.graph


def nodes(g: Graph) -> list[Node]:
    return list(g.nodes())


def swap(g: Graph) -> None:
    first = nodes(g)[0]
    uses = dict(first.output.uses)
    first.output.uses.clear()
    inputs = list(first.inputs)
    g.remove(first)
    first.output.uses = uses
    for v in inputs:
        first.add_input(v)
    g.append(first)


def foreign_input(g: Graph) -> None:
    nodes(g)[0].set_input(0, Input(X, "stranger"))


def forgotten_use(g: Graph) -> None:
    g.inputs[0].uses.clear()


def stale_use(g: Graph) -> None:
    g.inputs[0].uses[(nodes(g)[2], 0)] = None


def stale_use_of_output(g: Graph) -> None:
    nodes(g)[0].output.uses[(nodes(g)[2], 0)] = None


def wrong_type(g: Graph) -> None:
    nodes(g)[0].output.type = TensorType.of("f32", ["B", 9])


def unfit_type(g: Graph) -> None:
    g.params["w"].type = TensorType.of("f32", [9])


def uncanonical_attrs(g: Graph) -> None:
    nodes(g)[2].attrs["axis"] = -1


def unbound_symbol(g: Graph) -> None:
    value = Builder(g).op("full", shape=(sym("Q"),), value=0.0, dtype=X.dtype)
    g.add_output(value, "q")


def unbound_symbol_in_attribute(g: Graph) -> None:
    Builder(g).op("full", shape=(), value=sym("Q"), dtype=TensorType.of("i64").dtype)


def misfiled_param(g: Graph) -> None:
    g.params["v"] = g.params["w"]


def two_inputs_of_one_name(g: Graph) -> None:
    g.add_input(Input(X, "x"))


def two_outputs_of_one_name(g: Graph) -> None:
    g.add_output(g.outputs[0], "z")


def lost_output_name(g: Graph) -> None:
    g.output_info.append(Output("more"))


def missing_output(g: Graph) -> None:
    g.end.set_input(0, None)


def wrong_back_pointer(g: Graph) -> None:
    nodes(g)[0].output.index = 1


def wrong_count(g: Graph) -> None:
    g._count += 1


def broken_link(g: Graph) -> None:
    nodes(g)[1].prev = None


def let_of_unknown(g: Graph) -> None:
    g.lets["r"] = sym("Q") // 2


def let_over_input_symbol(g: Graph) -> None:
    g.lets["B"] = sym("B") // 2


def output_from_elsewhere(g: Graph) -> None:
    g.set_outputs([Value(X, "lost")], [Output("z")])


BREAKS: list[tuple[Callable[[Graph], None], str]] = [
    (swap, "not defined before its use"),
    (foreign_input, "not defined before its use"),
    (forgotten_use, "is not recorded"),
    (stale_use, "stale"),
    (stale_use_of_output, "stale"),
    (wrong_type, "infers"),
    (unfit_type, "cannot broadcast"),
    (uncanonical_attrs, "not canonical"),
    (unbound_symbol, "which no input binds"),
    (unbound_symbol_in_attribute, "which no input binds"),
    (misfiled_param, "filed under another name"),
    (two_inputs_of_one_name, "two inputs have one name"),
    (two_outputs_of_one_name, "two outputs have one name"),
    (lost_output_name, "differ in number"),
    (missing_output, "an output is missing"),
    (wrong_back_pointer, "does not point back"),
    (wrong_count, "counts 4 nodes but links 3"),
    (broken_link, "broken links"),
    (let_of_unknown, "is not bound before it"),
    (let_over_input_symbol, "is bound already"),
    (output_from_elsewhere, "not defined before its use"),
]


def test_a_legal_graph_passes() -> None:
    verify(graph())


@pytest.mark.parametrize(("break_it", "said"), BREAKS, ids=[b.__name__ for b, _ in BREAKS])
def test_finds(break_it: Callable[[Graph], None], said: str) -> None:
    g = graph()
    break_it(g)
    with pytest.raises(VerifyError, match=said):
        verify(g)
