"""Functions, branches, loops, weights and their names, subgraphs, order of nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tessera.frontends.onnx import load
from tessera.frontends.onnx.names import WORDS
from tessera.frontends.source.syntax.lexer import RESERVED
from tessera.ir.diagnostics import Diagnostic

from .support import agree, model, node, round_trip, run_imported


def i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def w(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


X = {"x": ("f32", ["B", "T", 4])}


def test_reserved_words_are_known() -> None:
    assert RESERVED <= WORDS


@pytest.mark.parametrize(("low", "wraps"), [(0, False), (-2, True)])
def test_indices_that_are_clipped_to_0_are_not_counted_from_the_end(low: int, wraps: bool, tmp_path: Path) -> None:
    nodes = [node("Clip", "k low high", "j"), node("Gather", "x j", "y", axis=1)]
    bounds = {"low": np.array(low, np.int64), "high": np.array(3, np.int64)}
    inputs = {"x": ("f32", ["B", 4]), "k": ("i64", ["T"])}
    imported = agree(model(nodes, inputs, ["y"], constants=bounds), tmp_path)
    assert any(n.op.name == "where" for n in imported.module.graph.nodes()) == wraps


# Functions -------------------------------------------------------------------------------------------------------------


def scaled(name: str = "scaled") -> onnx.FunctionProto:
    """``scaled(x) = alpha * x``, where alpha is an attribute with a default."""
    constant = helper.make_node("Constant", [], ["a"], name="alpha")
    constant.attribute.append(onnx.AttributeProto(name="value_float", type=1, ref_attr_name="alpha"))
    made = helper.make_function(
        "local", name, ["x"], ["y"], [constant, node("Mul", "x a", "y")], [helper.make_opsetid("", 18)]
    )
    made.attribute_proto.append(helper.make_attribute("alpha", 2.0))
    return made


def twice() -> onnx.FunctionProto:
    outer = helper.make_node("scaled", ["x"], ["h"], domain="local")
    outer.attribute.append(onnx.AttributeProto(name="alpha", type=1, ref_attr_name="beta"))
    nodes = [outer, node("scaled", "h", "y", domain="local")]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_function("local", "twice", ["x"], ["y"], nodes, opsets, attributes=["beta"])


def test_functions_are_inlined(tmp_path: Path) -> None:
    nodes = [node("twice", "x", "h", domain="local", beta=3.0), node("scaled", "h", "y", domain="local", alpha=0.5)]
    imported = agree(model(nodes, X, ["y"], functions=[scaled(), twice()]), tmp_path)
    assert [n.op.name for n in imported.module.graph.nodes() if n.op.name != "constant"] == ["mul"] * 3


def test_a_function_that_calls_itself(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    again = helper.make_function("local", "f", ["x"], ["y"], [node("f", "x", "y", domain="local")], opsets)
    path = tmp_path / "m.onnx"
    onnx.save(model([node("f", "x", "y", domain="local")], X, ["y"], functions=[again]), path)
    with pytest.raises(Diagnostic, match="without end") as found:
        load(path)
    assert found.value.code == "E0762"


# Control ---------------------------------------------------------------------------------------------------------------


def graph(nodes: list[onnx.NodeProto], inputs: dict[str, int], outputs: list[str]) -> onnx.GraphProto:
    return helper.make_graph(
        nodes, "body",
        [helper.make_tensor_value_info(name, kind, None if kind == TensorProto.FLOAT else []) for name, kind in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )  # fmt: skip


def branch(condition: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    then, other = graph([node("Exp", "x", "a")], {}, ["a"]), graph([node("Neg", "x", "b")], {}, ["b"])
    return [*condition, node("If", "c", "y", then_branch=then, else_branch=other)]


def test_if_is_decided_by_the_sizes(tmp_path: Path) -> None:
    condition = [node("Shape", "x", "s", start=2, end=3), node("Equal", "s four", "e"), node("Squeeze", "e", "c")]
    imported = agree(model(branch(condition), X, ["y"], {"four": i(4)}), tmp_path)
    assert [n.op.name for n in imported.module.graph.nodes()] == ["exp"]


def test_if_a_free_size_is_one(tmp_path: Path) -> None:
    """The TorchScript exporter asks this before it squeezes an axis."""
    condition = [node("Shape", "x", "s", start=1, end=2), node("Equal", "s one", "e"), node("Squeeze", "e", "c")]
    imported = agree(model(branch(condition), X, ["y"], {"one": i(1)}), tmp_path)
    assert [n.op.name for n in imported.module.graph.nodes()] == ["neg"]
    assert [(str(r.left), r.op, str(r.right)) for r in imported.module.graph.requires] == [("T", "!=", "1")]
    assert imported.notes == ["T is taken not to be 1: node `if_y` (If)"]
    with pytest.raises(Diagnostic, match="T != 1"):
        run_imported(imported, [np.zeros((2, 1, 4), np.float32)])


def test_if_of_a_comparison_is_a_choice(tmp_path: Path) -> None:
    condition = [node("Shape", "x", "s", start=1, end=2), node("Less", "s four", "e"), node("Squeeze", "e", "c")]
    sizes = [{"B": 2, "T": tokens} for tokens in (3, 4, 5)]
    imported = agree(model(branch(condition), X, ["y"], {"four": i(4)}), tmp_path, sizes)
    assert [n.op.name for n in imported.module.graph.nodes()][-1] == "cond"


@pytest.mark.parametrize("chosen", [True, False])
def test_if_of_a_value_reads_what_is_around_it(chosen: bool, tmp_path: Path) -> None:
    then = graph([node("MatMul", "x w", "a"), node("Add", "a z", "out"), node("Identity", "b", "other")], {}, ["out", "other"])
    other = graph([node("Mul", "x z", "out"), node("Not", "b", "other")], {}, ["out", "other"])
    nodes = [node("Neg", "x", "z"), node("If", "b", "y flag", then_branch=then, else_branch=other)]
    proto = model(nodes, {**X, "b": ("bool", [])}, ["y", "flag"], {"w": w(4, 4)})
    agree(proto, tmp_path, feeds={"b": np.array(chosen)})


def test_if_whose_branches_give_other_types_is_refused(tmp_path: Path) -> None:
    then, other = graph([node("Neg", "x", "out")], {}, ["out"]), graph([node("ReduceSum", "x", "out", keepdims=0)], {}, ["out"])
    path = tmp_path / "m.onnx"
    onnx.save(model([node("If", "b", "y", then_branch=then, else_branch=other)], {**X, "b": ("bool", [])}, ["y"]), path)
    with pytest.raises(Diagnostic, match="in one branch") as found:
        load(path)
    assert found.value.code == "E0760"


def loop(body: list[onnx.NodeProto], outputs: list[str]) -> onnx.NodeProto:
    inputs = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "h": TensorProto.FLOAT}
    return node("Loop", "n yes x", " ".join(["y", "z"][: len(outputs) - 1]), body=graph(body, inputs, outputs))


def test_loop_is_a_fold(tmp_path: Path) -> None:
    body = [
        node("MatMul", "h w", "m"), node("Add", "m z", "s"), node("Cast", "i", "f", to=1), node("Add", "s f", "out"),
        node("Identity", "go", "again"),
    ]  # fmt: skip
    inputs = {**X, "z": ("f32", ["B", 1, 4])}
    proto = model([loop(body, ["again", "out"])], inputs, ["y"], {"n": i(3), "yes": np.array(True), "w": w(4, 4)})
    imported = agree(proto, tmp_path, tolerance=1e-4)
    assert [n.op.name for n in imported.module.graph.nodes()] == ["fold"]


def test_loop_that_collects_is_a_fold(tmp_path: Path) -> None:
    body = [node("Identity", "go", "again"), node("Neg", "h", "out"), node("Mul", "h h", "kept")]
    proto = model([loop(body, ["again", "out", "kept"])], X, ["y", "z"], {"n": i(3), "yes": np.array(True)})
    imported = agree(proto, tmp_path)
    assert [n.op.name for n in imported.module.graph.nodes()] == ["fold"]


@pytest.mark.parametrize("turns", [0, 1, 4])
def test_loop_of_a_computed_number_of_turns_is_a_while(turns: int, tmp_path: Path) -> None:
    body = [node("Identity", "go", "again"), node("Add", "h x", "out")]
    proto = model([loop(body, ["again", "out"])], {**X, "n": ("i64", [])}, ["y"], {"yes": np.array(True)})
    imported = agree(proto, tmp_path, feeds={"n": np.array(turns)})
    assert [n.op.name for n in imported.module.graph.nodes()][-1] == "while"


@pytest.mark.parametrize("bound", [True, False])
def test_loop_that_ends_itself_is_a_while(bound: bool, tmp_path: Path) -> None:
    body = [
        node("Add", "h one", "out"), node("ReduceMax", "out", "most", keepdims=0), node("Less", "most limit", "again"),
    ]  # fmt: skip
    constants = {"yes": np.array(True), "one": np.array(1, np.float32), "limit": np.array(4, np.float32), "n": i(3)}
    made = loop(body, ["again", "out"])
    if not bound:
        made.input[0] = ""
        del constants["n"]
    agree(model([made], X, ["y"], constants), tmp_path)


@pytest.mark.parametrize(
    ("body", "outputs", "message"),
    [
        ([node("ReduceSum", "h", "s", keepdims=0), node("Cast", "s", "again", to=9), node("Neg", "h", "out")],
         ["again", "out", "out"], "collects a result"),
        ([node("Identity", "go", "again"), node("Cast", "h", "out", to=11)], ["again", "out"], "starts as"),
    ],
    ids=["scan output", "type"],
)  # fmt: skip
def test_loops_that_are_refused(body: list[onnx.NodeProto], outputs: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model([loop(body, outputs)], X, ["y"], {"yes": np.array(True), "n": i(3)}), path)
    with pytest.raises(Diagnostic, match=message) as found:
        load(path)
    assert found.value.code == "E0760"


@pytest.mark.parametrize(("axis", "back", "place", "forth"), [(0, 0, 0, 0), (1, 1, 1, 0), (1, 0, 2, 1)])
def test_scan_is_a_fold(axis: int, back: int, place: int, forth: int, tmp_path: Path) -> None:
    inputs = {"h": TensorProto.FLOAT, "e": TensorProto.FLOAT}
    body = graph([node("Add", "h e", "s"), node("Tanh", "s", "out"), node("Mul", "out e", "kept")], inputs, ["out", "kept"])
    attrs = {
        "scan_input_axes": [axis], "scan_input_directions": [back], "scan_output_axes": [place], "scan_output_directions": [forth],
    }  # fmt: skip
    rows = ["T", "B", 4] if axis == 0 else ["B", "T", 4]
    proto = model([node("Scan", "h x", "y z", body=body, num_scan_inputs=1, **attrs)],
                  {"h": ("f32", ["B", 4]), "x": ("f32", rows)}, ["y", "z"])  # fmt: skip
    imported = agree(proto, tmp_path)
    assert "fold" in [n.op.name for n in imported.module.graph.nodes()]


# Randomness ------------------------------------------------------------------------------------------------------------


def test_random_numbers_are_inputs(tmp_path: Path) -> None:
    nodes = [
        node("RandomUniformLike", "x", "u", low=-1.0, high=2.0), node("RandomNormal", "", "n", shape=[3, 4], mean=5.0, scale=0.5),
        node("Add", "x u", "a"), node("Identity", "n", "b"),
    ]  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(model(nodes, X, ["a", "b"]), path)
    imported = load(path)
    text = round_trip(imported)
    assert "random noise: f32[B, T, 4] = uniform(-1.0, 2.0)" in text
    a, b = run_imported(imported, [np.zeros((20, 30, 4), np.float32)])
    assert -1 <= a.min() < -0.9
    assert 1.9 < a.max() <= 2
    assert b.shape == (3, 4)
    assert 4 < b.mean() < 6


# Weights and names -----------------------------------------------------------------------------------------------------


def named(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> list[str]:
    onnx.save(model(nodes, X, ["y"], constants), path)
    imported = load(path)
    round_trip(imported)
    assert list(imported.weights) == list(imported.module.graph.params)
    return list(imported.weights)


def test_names_of_weights(tmp_path: Path) -> None:
    product = node("MatMul", "x onnx::MatMul_12", "h")
    product.name = "/encoder/layer.0/query/MatMul"
    dotted = node("Add", "h encoder.layer.0.query.bias", "g")
    keras = node("Mul", "g model/dense/kernel:0", "y")
    constants = {"onnx::MatMul_12": w(4, 3), "encoder.layer.0.query.bias": w(3), "model/dense/kernel:0": w(3)}
    names = named(tmp_path / "m.onnx", [product, dotted, keras], constants)
    assert names == ["encoder.layer.0.query.weight", "encoder.layer.0.query.bias", "model.dense.kernel"]


def test_scopes_of_the_other_exporter(tmp_path: Path) -> None:
    product = node("MatMul", "x val_3", "y")
    scopes = "['', 'encoder', 'encoder.layers.1', 'encoder.layers.1.fc', 'linear_1']"
    product.metadata_props.append(onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=scopes))
    assert named(tmp_path / "m.onnx", [product], {"val_3": w(4, 3)}) == ["encoder.layers.1.fc.weight"]
    (first,) = load(tmp_path / "m.onnx").module.graph.nodes()
    assert first.scope == "encoder.layers.1.fc"


def test_a_constant_matrix_is_a_transposed_weight(tmp_path: Path) -> None:
    imported = agree(model([node("MatMul", "x w", "y")], X, ["y"], {"w": w(4, 3)}), tmp_path)
    assert "affine(x, w)" in round_trip(imported)
    np.testing.assert_array_equal(imported.weights["w"].numpy(), w(4, 3).T)


def test_tied_weights_are_one_parameter(tmp_path: Path) -> None:
    nodes = [node("Gather", "w x", "e", axis=0), node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "e t", "y")]
    imported = agree(model(nodes, {"x": ("i64", ["B", "T"])}, ["y"], {"w": w(5, 4)}), tmp_path)
    assert list(imported.weights) == ["w"]


def test_weights_of_every_storage(tmp_path: Path) -> None:
    values = {
        "f": w(3), "h": w(3).astype(np.float16), "d": w(3).astype(np.float64), "n": i(5, 6, 70), "b": np.array([1, 0, 1], bool),
    }  # fmt: skip
    proto = model([], X, list(values))
    for name, value in values.items():
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        proto.graph.initializer.append(helper.make_tensor(name, kind, value.shape, value.reshape(-1).tolist()))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    graph = load(path).module.graph
    assert [str(v.type) for v in graph.outputs] == ["f32[3]", "f16[3]", "f64[3]", "i64[3]", "bool[3]"]
    agree(proto, tmp_path)


def test_bf16(tmp_path: Path) -> None:
    import ml_dtypes

    array = w(40).astype(ml_dtypes.bfloat16)
    proto = model([node("Add", "x b", "y")], {"x": ("bf16", ["B", 40])}, ["y"])
    proto.graph.initializer.append(onnx.numpy_helper.from_array(array, "b"))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    imported = load(path)
    round_trip(imported)
    np.testing.assert_array_equal(imported.weights["b"].numpy().view(np.int16), array.view(np.int16))


def test_external_data_is_read_in_place(tmp_path: Path) -> None:
    proto = model([node("MatMul", "x w", "y")], X, ["y"], {"w": w(4, 600)})
    onnx.save(proto, tmp_path / "big.onnx", save_as_external_data=True, location="big.onnx.data", size_threshold=0)
    imported = agree(tmp_path / "big.onnx", tmp_path, tolerance=1e-4)
    assert not imported.weights["w"].numpy().flags.owndata


def test_embedded_weights_are_read_in_place(tmp_path: Path) -> None:
    imported = agree(model([node("Mul", "x w", "y")], {"x": ("f32", ["B", 600])}, ["y"], {"w": w(600)}), tmp_path)
    assert not imported.weights["w"].numpy().flags.owndata


def test_nodes_in_any_order_and_those_nobody_needs(tmp_path: Path) -> None:
    nodes = [node("Neg", "h", "y"), node("Exp", "x", "h"), node("NoSuchOp", "x", "unused")]
    path = tmp_path / "m.onnx"
    onnx.save(model(nodes, X, ["y"]), path)
    assert [n.op.name for n in load(path).module.graph.nodes()] == ["exp", "neg"]


def test_inputs_that_are_initializers_are_weights(tmp_path: Path) -> None:
    """As files of IR version 3 have them."""
    imported = agree(model([node("Add", "x w", "y")], X, ["y"], {"w": w(4)}), tmp_path)
    proto = onnx.load(tmp_path / "model.onnx")
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]))
    onnx.save(proto, tmp_path / "old.onnx")
    assert load(tmp_path / "old.onnx", name="model").module.difference(imported.module) is None


def test_an_input_as_output(tmp_path: Path) -> None:
    imported = agree(model([node("Identity", "x", "y")], X, ["y", "x"]), tmp_path)
    assert [info.name for info in imported.module.graph.output_info] == ["y", "x"]
