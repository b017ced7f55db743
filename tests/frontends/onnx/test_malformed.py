"""Files that are wrong: each gives one diagnostic, soon, and without much memory."""

# The table: a row reads better on one line.
# ruff: noqa: E501

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tessera.frontends.onnx import load
from tessera.ir.codes.import_onnx import CODES
from tessera.ir.diagnostics import Diagnostic

from .support import model, node

X = {"x": ("f32", ["B", 4])}
Write = Callable[[Path], None]


def w(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def good() -> onnx.ModelProto:
    return model([node("MatMul", "x w", "h"), node("Neg", "h", "y")], X, ["y"], {"w": w(4, 300)})


def changed(change: Callable[[onnx.ModelProto], object], start: Callable[[], onnx.ModelProto] = good) -> Write:
    def write(path: Path) -> None:
        proto = start()
        change(proto)
        path.write_bytes(proto.SerializeToString())

    return write


def raw(make: Callable[[bytes], bytes]) -> Write:
    return lambda path: path.write_bytes(make(good().SerializeToString())) and None


def external(location: str, **entries: str) -> Write:
    def change(proto: onnx.ModelProto) -> None:
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=value)

    return changed(change)


def beside(write: Write, make: Callable[[Path], object]) -> Write:
    def both(path: Path) -> None:
        write(path)
        make(path.parent)

    return both


def link(folder: Path) -> None:
    outside = folder.parent / "outside.bin"
    outside.write_bytes(bytes(4800))
    os.symlink(outside, folder / "w.bin")


def claim(proto: onnx.ModelProto) -> None:
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend([1 << 14, 1 << 15])


def misplaced(proto: onnx.ModelProto) -> None:
    """As many elements as there should be, but in the field of another dtype."""
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_type = TensorProto.INT64
    tensor.dims[:] = [3]
    tensor.int32_data.extend([1, 2, 3])


def simple(*nodes: onnx.NodeProto, **inputs: tuple[str, list[int | str | None]]) -> Write:
    return changed(lambda proto: None, lambda: model(nodes, inputs or X, ["y"]))


def constants(nodes: list[onnx.NodeProto], **values: np.ndarray) -> Write:
    return changed(lambda proto: None, lambda: model(nodes, X, ["y"], values))


def many_functions(proto: onnx.ModelProto) -> None:
    """f20 calls f19 twice, f19 calls f18 twice, …"""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    for level in range(25):
        inner = "Neg" if level == 0 else f"f{level - 1}"
        domain = "" if level == 0 else "local"
        nodes = [node(inner, "x", "h", domain), node(inner, "h", "y", domain)]
        proto.functions.append(helper.make_function("local", f"f{level}", ["x"], ["y"], nodes, opsets))
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "f24", "local"


def opset(version: int, domain: str = "") -> Callable[[onnx.ModelProto], object]:
    def change(proto: onnx.ModelProto) -> None:
        del proto.opset_import[:]
        proto.opset_import.append(helper.make_opsetid(domain, version))

    return change


def add_input(kind: onnx.TypeProto) -> Callable[[onnx.ModelProto], object]:
    return lambda proto: proto.graph.input.append(onnx.ValueInfoProto(name="z", type=kind))


def deep_loops(proto: onnx.ModelProto) -> None:
    made = helper.make_graph([node("Neg", "h9", "o9")], "g", [], [onnx.ValueInfoProto(name="g9"), onnx.ValueInfoProto(name="o9")])
    for level in range(9, -1, -1):
        for name, kind in ((f"i{level}", 7), (f"g{level}", 9), (f"h{level}", 1)):
            made.input.append(helper.make_tensor_value_info(name, kind, []))
        outer = f"h{level - 1}" if level else "x"
        loop = node("Loop", f"n yes {outer}", f"o{level - 1}" if level else "h", body=made)
        made = helper.make_graph([loop], "g", [], [onnx.ValueInfoProto(name=f"g{level - 1}"), onnx.ValueInfoProto(name=f"o{level - 1}")])
    proto.graph.node[0].CopyFrom(made.node[0])
    for name, value in (("n", np.array(2)), ("yes", np.array(True))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))


TABLE: dict[str, tuple[Write, str, str]] = {
    # The file
    "empty": (raw(lambda data: b""), "E0751", "is empty"),
    "text": (raw(lambda data: b"version https://git-lfs.github.com/spec/v1\n"), "E0751", "not an ONNX file"),
    "zeros": (raw(lambda data: bytes(1000)), "E0751", "not an ONNX file"),
    "truncated": (raw(lambda data: data[: len(data) // 2]), "E0751", "but a field reaches to byte"),
    "truncated in a number": (raw(lambda data: data + b"\x08\xff"), "E0751", "within a number"),
    "a number without end": (raw(lambda data: b"\x08" + b"\xff" * 20 + data), "E0751", "does not end"),
    "a group": (raw(lambda data: b"\x0b" + data), "E0751", "begins no field"),
    "a length of 2 GB": (raw(lambda data: b"\x3a\xff\xff\xff\xff\x07" + data), "E0751", "but a field reaches to byte"),
    "another message": (raw(lambda data: onnx.TensorProto(name="x", dims=[1]).SerializeToString()), "E0751", "not an ONNX file"),
    "no graph": (changed(lambda p: p.ClearField("graph")), "E0751", "no graph"),
    # Versions and ops
    "no opset": (changed(lambda p: p.ClearField("opset_import")), "E0753", "does not say which opset"),
    "old opset": (changed(opset(6)), "E0753", "uses opset 6"),
    "opset of the future": (changed(opset(99)), "E0753", "uses opset 99"),
    "unknown ops": (simple(node("Foo", "x", "h"), node("Foo", "h", "i"), node("Bar", "i", "y", "org.acme")), "E0752",
                    r"3 node\(s\) have ops that are not imported: Foo, org.acme.Bar"),
    # The graph
    "no outputs": (changed(lambda p: p.graph.ClearField("output")), "E0754", "no outputs"),
    "cycle": (changed(lambda p: p.graph.node[0].input.__setitem__(0, "y")), "E0754", "has a cycle"),
    "two producers": (changed(lambda p: p.graph.node[1].output.__setitem__(0, "h")), "E0754", "`h` is produced twice"),
    "an input is produced": (changed(lambda p: p.graph.node[0].output.__setitem__(0, "x")), "E0754", "`x` is produced twice"),
    "two initializers": (changed(lambda p: p.graph.initializer.append(p.graph.initializer[0])), "E0754", "two initializers are called `w`"),
    "two inputs": (changed(lambda p: p.graph.input.append(p.graph.input[0])), "E0754", "two inputs"),
    "missing initializer": (changed(lambda p: p.graph.ClearField("initializer")), "E0754", "reads `w`, which no node"),
    "missing output": (changed(lambda p: p.graph.output[0].__setattr__("name", "z")), "E0754", "the graph's output reads `z`"),
    "missing operand": (simple(node("Add", "x", "y")), "E0754", "lacks its input 1"),
    "an If without a branch": (constants([node("If", "c", "y")], c=np.array(True)), "E0754", "lacks a branch"),
    "a Loop without a body": (simple(node("Loop", "_ _ x", "y")), "E0754", "lacks its body"),
    "bomb": (changed(many_functions), "E0762", "functions and branches within others"),
    "loops within loops": (changed(deep_loops), "E0762", "loops within 8 loops"),
    # Types
    "strings": (changed(add_input(helper.make_tensor_type_proto(TensorProto.STRING, [1]))), "E0757", "element type string"),
    "a dtype that is none": (changed(add_input(helper.make_tensor_type_proto(77, [1]))), "E0757", "number 77"),
    "a sequence": (changed(add_input(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1])))), "E0757", "sequence_type"),
    "no shape": (changed(add_input(helper.make_tensor_type_proto(1, None))), "E0757", "no known number of axes"),
    "no type": (changed(add_input(onnx.TypeProto())), "E0757", "the type of nothing"),
    "complex weights": (changed(lambda p: p.graph.initializer[0].__setattr__("data_type", 14)), "E0757", "complex64"),
    "sparse weights": (changed(lambda p: p.graph.sparse_initializer.append(onnx.SparseTensorProto())), "E0757", "sparse"),
    "segments": (changed(lambda p: p.graph.initializer[0].segment.__setattr__("begin", 1)), "E0757", "segments"),
    "a constant of text": (simple(node("Constant", "", "y", value_string="a")), "E0757", "constant of text"),
    "an attribute of another kind": (simple(node("Neg", "x", "y", t=helper.make_tensor_type_proto(1, [1]))), "", ""),
    # Tensors
    "2 GB in 1 kB": (changed(claim), "E0755", "2147483648 bytes, but the file holds 4800"),
    "negative sizes": (changed(lambda p: p.graph.initializer[0].dims.__setitem__(0, -4)), "E0755", "negative size"),
    "too few numbers": (changed(lambda p: p.graph.initializer.append(TensorProto(name="v", data_type=1, dims=[3], float_data=[1.0]))),
                        "E0755", r"f32\[3\], 12 bytes, but the file holds 4"),
    "data of another type": (changed(misplaced), "E0755", "but the file holds 0 for it"),
    "no data": (changed(lambda p: p.graph.initializer[0].ClearField("raw_data")), "E0755", "holds 0"),
    # External data
    "data in ..": (external("../w.bin"), "E0756", "outside of the model's folder"),
    "data in a/../..": (external("a/../../w.bin"), "E0756", "outside of the model's folder"),
    "absolute data": (external("/etc/passwd"), "E0756", "outside of the model's folder"),
    "data on a drive": (external("C:\\w.bin"), "E0756", "outside of the model's folder"),
    "data without a place": (external(""), "E0756", "outside of the model's folder"),
    "data behind a link": (beside(external("w.bin"), link), "E0756", "a link that leads outside"),
    "data that is a folder": (beside(external("w.bin"), lambda f: (f / "w.bin").mkdir()), "E0756", "no such file"),
    "data that is missing": (external("w.bin"), "E0756", "no such file"),
    "data that is too short": (beside(external("w.bin"), lambda f: (f / "w.bin").write_bytes(bytes(99))), "E0755", "has 99 bytes"),
    "data past the end": (beside(external("w.bin", offset="4000"), lambda f: (f / "w.bin").write_bytes(bytes(4800))), "E0755", "4000 to 8800"),
    "data before the start": (beside(external("w.bin", offset="-8"), lambda f: (f / "w.bin").write_bytes(bytes(4800))), "E0755", "-8 to"),
    "data of another length": (beside(external("w.bin", length="48"), lambda f: (f / "w.bin").write_bytes(bytes(4800))), "E0755", "has 48"),
    "data at no number": (beside(external("w.bin", offset="x"), lambda f: (f / "w.bin").write_bytes(bytes(4800))), "E0756", "no number"),
    # Shapes and attributes
    "shapes that do not fit": (changed(lambda p: p.graph.input[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 5)), "E0759",
                               "node `matmul_h` .* 5 and 4 must be equal"),
    "dtypes that do not fit": (simple(node("Add", "x z", "y"), x=("f32", [2]), z=("i64", [2])), "E0759", "must be f|dtype"),
    "an axis that is not there": (simple(node("Softmax", "x", "y", axis=7)), "E0759", "axis 7 of a tensor with 2 axes"),
    "an index outside": (constants([node("Gather", "x k", "y", axis=1)], k=np.array(9)), "E0759", "outside of axis 1"),
    "a negative size in a shape": (constants([node("Reshape", "x s", "y")], s=np.array([-5, 3])), "E0759", "must"),
    "two holes in a shape": (constants([node("Reshape", "x s", "y")], s=np.array([-1, -1])), "E0759", "two axes of the new shape"),
    "an attribute of nonsense": (simple(node("Transpose", "x", "y", perm="ab")), "E0759", "transpose_y"),
    "an attribute that names no axis": (simple(node("Softmax", "x", "y", axis="a")), "E0759", "make no sense"),
    "a range of 2 ** 60": (constants([node("Range", "a b c", "r"), node("Add", "x r", "y")], a=np.array(0), b=np.array(2**60), c=np.array(1)),
                           "E0759", "must"),
    "a window without end": (simple(node("MaxPool", "x", "y", kernel_shape=[2**30]), x=("f32", [1, 1, 2**31])), "E0758", "a window of"),
    # What is not imported
    "an unknown mode": (constants([node("Pad", "x p", "y", mode="swirl")], p=np.array([0, 1, 0, 1])), "E0758", "swirl|free size"),
    "multiplying scatter": (simple(node("ScatterND", "x k u", "y", reduction="mul"), x=("f32", [3]), k=("i64", [2, 1]), u=("f32", [2])),
                            "E0758", 'reduction="mul"'),
    "a size from data": (simple(node("Reshape", "x s", "y"), x=("f32", ["B", 4]), s=("i64", [2])), "E0761", "the new shape depends on"),
    "a root of a size": (simple(node("Shape", "x", "s", start=0, end=1), node("Reshape", "x s", "y")), "E0759", "must be equal"),
}  # fmt: skip
del TABLE["an attribute of another kind"]


@pytest.mark.parametrize("name", TABLE)
def test_table(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The real limit is reached just as surely, 20 seconds later.
    monkeypatch.setattr("tessera.frontends.onnx.importer._MOST_INLINED", 2000)
    write, code, message = TABLE[name]
    folder = tmp_path / "inside"
    folder.mkdir()
    write(folder / "m.onnx")
    start = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(Diagnostic, match=message) as found:
            load(folder / "m.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.value.code == code
    assert peak < 100 << 20
    assert time.perf_counter() - start < 60


def test_every_code_is_in_the_table() -> None:
    elsewhere = {"E0760"}  # test_structure.py
    assert {code for _, code, _ in TABLE.values()} | elsewhere == set(CODES)


def test_unknown_ops_are_listed_with_counts_and_first_nodes(tmp_path: Path) -> None:
    TABLE["unknown ops"][0](tmp_path / "m.onnx")
    with pytest.raises(Diagnostic) as found:
        load(tmp_path / "m.onnx")
    notes = [note.message for note in found.value.notes]
    assert notes == ["Foo: 2 nodes, the first is `foo_h`", "org.acme.Bar: 1 node, the first is `bar_y`"]


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(Diagnostic) as found:
        load(tmp_path / "absent.onnx")
    assert found.value.code == "E0001"
    with pytest.raises(Diagnostic) as found:
        load(tmp_path)
    assert found.value.code == "E0002"


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    external("w.bin")(tmp_path / "m.onnx")
    (tmp_path / "blob").write_bytes(np.ones(1200, np.float32).tobytes())
    os.symlink("blob", tmp_path / "w.bin")
    assert load(tmp_path / "m.onnx").weights["w"].numpy().sum() == 1200
