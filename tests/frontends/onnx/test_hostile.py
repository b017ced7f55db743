"""Files that are well formed and unreasonable: sizes that are computed without end, and graphs within graphs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tessera.frontends.onnx import load
from tessera.ir.diagnostics import Diagnostic

from .support import Declared, agree, model, node

SQUARE: dict[str, Declared] = {"x": ("f32", ["A", "B"])}


def squared(turns: int) -> list[onnx.NodeProto]:
    """((s + 1) ** 2 + 1) ** 2 …"""
    nodes = [node("Shape", "x", "s0")]
    for i in range(turns):
        nodes += [node("Add", f"s{i} one", f"t{i}"), node("Mul", f"t{i} t{i}", f"s{i + 1}")]
    return [*nodes, node("ConstantOfShape", f"s{turns}", "y")]


def mixed(turns: int) -> list[onnx.NodeProto]:
    nodes = [node("Shape", "x", "s0")]
    for i in range(turns):
        nodes += [
            node("Gather", f"s{i} turn", f"a{i}"), node("Mul", f"a{i} s{i}", f"b{i}"), node("Div", f"b{i} two", f"c{i}"),
            node("Mod", f"c{i} s0", f"d{i}"), node("Max", f"d{i} s{i}", f"s{i + 1}"),
        ]  # fmt: skip
    return [*nodes, node("ConstantOfShape", f"s{turns}", "y")]


def product(doublings: int) -> list[onnx.NodeProto]:
    nodes = [node("Shape", "x", "s0")]
    nodes += [node("Concat", f"s{i} s{i}", f"s{i + 1}", axis=0) for i in range(doublings)]
    return [*nodes, node("ReduceProd", f"s{doublings}", "p"), node("ConstantOfShape", "p", "y")]


@pytest.mark.parametrize("nodes", [squared(40), mixed(60), product(10)], ids=["squares", "mixed", "a long product"])
def test_sizes_that_grow_without_end(nodes: list[onnx.NodeProto], tmp_path: Path) -> None:
    constants = {"one": np.array([1, 1]), "two": np.array([2, 2]), "turn": np.array([1, 0])}
    onnx.save(model(nodes, SQUARE, ["y"], constants), tmp_path / "m.onnx")
    start = time.perf_counter()
    with pytest.raises(Diagnostic) as found:
        load(tmp_path / "m.onnx")
    assert found.value.code == "E0762"
    assert time.perf_counter() - start < 20


def test_more_free_sizes_than_any_model_has(tmp_path: Path) -> None:
    inputs: dict[str, Declared] = {f"i{k}": ("f32", [f"n{k}", 4]) for k in range(1001)}
    onnx.save(model([node("Concat", " ".join(inputs), "y", axis=0)], inputs, ["y"]), tmp_path / "m.onnx")
    with pytest.raises(Diagnostic, match="more than 1000 free sizes"):
        load(tmp_path / "m.onnx")


def test_sizes_that_become_equal_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: dict[str, Declared] = {f"i{k}": ("f32", [f"n{k}", 4]) for k in range(30)}
    onnx.save(model([node("Sum", " ".join(inputs), "y")], inputs, ["y"]), tmp_path / "m.onnx")
    assert len(load(tmp_path / "m.onnx").notes) == 29
    monkeypatch.setattr("tessera.frontends.onnx._MOST_ATTEMPTS", 10)
    monkeypatch.setattr("tessera.frontends.onnx._MOST_WORK", 500)
    with pytest.raises(Diagnostic, match="17 free sizes had to become others") as found:
        load(tmp_path / "m.onnx")
    assert found.value.code == "E0762"
    assert len(found.value.message) < 300


def branch(nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, "branch", [], [onnx.ValueInfoProto(name=output)])


def test_a_long_branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.frontends.onnx.importer._MOST_INLINED", 10)
    nodes = [node("Neg", "x" if i == 0 else f"n{i - 1}", f"n{i}") for i in range(100)]
    short = branch([node("Abs", "x", "m")], "m")
    taken = node("If", "c", "y", then_branch=branch(nodes, "n99"), else_branch=short)
    onnx.save(model([taken], {"x": ("f32", [4])}, ["y"], {"c": np.array(True)}), tmp_path / "m.onnx")
    assert len(list(load(tmp_path / "m.onnx").module.graph.nodes())) == 100


def test_names_within_branches_are_their_own(tmp_path: Path) -> None:
    same = branch([node("Neg", "x", "t")], "t")
    nodes = [
        node("If", "c", "u", then_branch=same, else_branch=same),
        node("If", "c", "v", then_branch=same, else_branch=same),
        node("Add", "u v", "y"),
    ]
    agree(model(nodes, {"x": ("f32", ["B", 3])}, ["y"], {"c": np.array(True)}), tmp_path, [{"B": 2}])


def test_names_that_are_no_identifiers(tmp_path: Path) -> None:
    add = helper.make_node("Add", ["größe/x:0", "a b"], ["日本.1"], name="n/1 ü:0")
    proto = model([add], {"größe/x:0": ("f32", ["数 量", 4]), "a b": ("f32", ["数 量", 4])}, ["日本.1"])
    agree(proto, tmp_path, [{"数 量": 3}])


@pytest.mark.parametrize(
    ("ops", "domain", "advice"),
    [
        (["QGemm"], "com.microsoft", "the model is quantized"),
        (["Conv", "ReorderOutput"], "com.microsoft.nchwc", "for one kind of machine"),
    ],
)
def test_advice_for_files_made_from_others(ops: list[str], domain: str, advice: str, tmp_path: Path) -> None:
    nodes = [node(op, "x", "y" if i == len(ops) - 1 else f"h{i}", domain) for i, op in enumerate(ops)]
    nodes += [node("Neg", f"h{i}", f"g{i}") for i in range(len(ops) - 1)]
    onnx.save(model(nodes, {"x": ("f32", [4])}, ["y", *(f"g{i}" for i in range(len(ops) - 1))]), tmp_path / "m.onnx")
    with pytest.raises(Diagnostic) as found:
        load(tmp_path / "m.onnx")
    assert found.value.code == "E0752"
    assert advice in (found.value.help or "")


def test_squeeze_without_axes_takes_free_sizes_not_to_be_one(tmp_path: Path) -> None:
    imported = agree(model([node("Squeeze", "x", "y")], {"x": ("f32", ["B", 1, 4])}, ["y"]), tmp_path, [{"B": 2}])
    assert imported.notes == ["B is taken not to be 1: node `squeeze_y` (Squeeze)"]
    assert [str(r.left) + r.op + str(r.right) for r in imported.module.graph.requires] == ["B!=1"]


def test_a_free_size_scaled_by_a_half_is_rounded_down(tmp_path: Path) -> None:
    scales = {"s": np.array([1, 1, 0.5], np.float32)}
    proto = model([node("Resize", "x _ s", "y", mode="linear")], {"x": ("f32", [1, 2, "T"])}, ["y"], scales)
    agree(proto, tmp_path, [{"T": 6}, {"T": 7}, {"T": 10}])


def test_a_conversion_there_and_back_is_none(tmp_path: Path) -> None:
    nodes = [node("Softmax", "x", "s"), node("Cast", "s", "w", to=1), node("Cast", "w", "y", to=10)]
    imported = agree(model(nodes, {"x": ("f16", ["B", 4])}, ["y"]), tmp_path, [{"B": 2}], tolerance=1e-3)
    assert not any(n.op.name == "cast" for n in imported.module.graph.nodes())
    # What a narrower dtype cut off stays cut off.
    nodes = [node("Cast", "x", "w", to=10), node("Cast", "w", "y", to=1)]
    imported = agree(model(nodes, {"x": ("f32", ["B", 4])}, ["y"]), tmp_path, [{"B": 2}])
    assert [n.op.name for n in imported.module.graph.nodes()] == ["cast", "cast"]


def test_a_model_in_training_is_refused_with_advice(tmp_path: Path) -> None:
    proto = model(
        [node("Dropout", "x r t", "y")], {"x": ("f32", [4])}, ["y"], {"r": np.float32(0.1), "t": np.array(True)}
    )
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(Diagnostic, match="dropout while training") as found:
        load(tmp_path / "m.onnx")
    assert "model.eval()" in (found.value.help or "")
