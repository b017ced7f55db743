"""Importing is cheap: linear in the number of nodes, and weights stay where they are."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tessera.frontends.onnx import load

from .support import model, node


def chain(count: int) -> onnx.ModelProto:
    """Blocks of shape arithmetic, a reshape and a product, one behind the other."""
    nodes = []
    x = "x"
    for i in range(count // 10):
        p = f"b{i}_"
        nodes += [
            node("Shape", x, p + "s"), node("Gather", f"{p}s zero", p + "b", axis=0), node("Unsqueeze", f"{p}b axis", p + "b1"),
            node("Concat", f"{p}b1 rest", p + "shape", axis=0), node("Reshape", f"{x} {p}shape", p + "r"),
            node("MatMul", f"{p}r w", p + "m"), node("Add", f"{p}m bias", p + "a"), node("Relu", p + "a", p + "g"),
            node("Mul", f"{p}g half", p + "h"), node("Add", f"{p}h {x}", p + "y"),
        ]  # fmt: skip
        x = p + "y"
    constants = {
        "zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1, 4]), "w": np.ones((4, 4), np.float32),
        "bias": np.ones(4, np.float32), "half": np.array(0.5, np.float32),
    }  # fmt: skip
    return model(nodes, {"x": ("f32", ["B", "T", 4])}, [x], constants)


def seconds(path: Path, count: int) -> float:
    onnx.save(chain(count), path)
    start = time.process_time()
    graph = load(path).module.graph
    assert len(graph) == count // 2 + 1  # five a block, and the half
    return time.process_time() - start


@pytest.mark.slow
def test_a_hundred_thousand_nodes_take_ten_times_ten_thousand(tmp_path: Path) -> None:
    seconds(tmp_path / "warm.onnx", 1000)
    small = min(seconds(tmp_path / "small.onnx", 10_000) for _ in range(2))
    assert seconds(tmp_path / "large.onnx", 100_000) < 25 * small


def test_names_that_clash_take_linear_time(tmp_path: Path) -> None:
    """Every weight wants the same name."""
    nodes = [node("Add", f"h{i} onnx::Add_{i}", f"h{i + 1}") for i in range(2000)]
    constants = {f"onnx::Add_{i}": np.ones(4, np.float32) for i in range(2000)}
    path = tmp_path / "m.onnx"
    onnx.save(model(nodes, {"h0": ("f32", ["B", 4])}, ["h2000"], constants), path)
    start = time.process_time()
    assert len(load(path).weights) == 2000
    assert time.process_time() - start < 20


MEASURE = """
import sys
import tessera
from tessera.frontends.onnx import load
from tessera.backends import onnx as backend

def private() -> int:
    # Pages of a mapped file can be dropped at any time: they are not the process's own.
    rows = dict(line.split(":") for line in open("/proc/self/status").read().splitlines())
    return int(rows["RssAnon"].split()[0]) * 1024

load(sys.argv[1] + "/small.onnx")
before = private()
peak = 0
imported = load(sys.argv[1] + "/large.onnx")
peak = max(peak, private() - before)
total = sum(float(weight.numpy()[0, 0]) for weight in imported.weights.values())
peak = max(peak, private() - before)
print(sum(w.nbytes for w in imported.weights.values()), peak)
"""


def write_weights(path: Path, count: int, rows: int, external: bool) -> None:
    """A model with ``count`` weights [rows, rows], written without holding them."""
    shape = [rows, rows]
    size = rows * rows * 4
    nodes = [node("MatMul", f"h{i} w{i}", f"h{i + 1}") for i in range(count)]
    proto = model(nodes, {"h0": ("f32", ["B", rows])}, [f"h{count}"])
    block = np.random.default_rng(0).standard_normal(rows * rows).astype(np.float32).tobytes()
    if external:
        with open(path.with_suffix(".data"), "wb") as file:
            for i in range(count):
                tensor = TensorProto(name=f"w{i}", data_type=1, dims=shape, data_location=TensorProto.EXTERNAL)
                for key, value in (("location", path.with_suffix(".data").name), ("offset", str(i * size)), ("length", str(size))):
                    tensor.external_data.add(key=key, value=value)
                proto.graph.initializer.append(tensor)
                file.write(block)
        path.write_bytes(proto.SerializeToString())
        return
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    heads = [TensorProto(name=f"w{i}", data_type=1, dims=shape).SerializeToString() for i in range(count)]

    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    fields = [b"\x2a" + varint(len(h) + 1 + len(varint(size)) + size) + h + b"\x4a" + varint(size) for h in heads]
    with open(path, "wb") as file:
        file.write(proto.SerializeToString() + b"\x3a" + varint(len(graph) + sum(len(f) + size for f in fields)) + graph)
        for field in fields:
            file.write(field + block)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize("external", [False, True], ids=["embedded", "external"])
def test_weights_are_not_copied(external: bool, tmp_path: Path) -> None:
    write_weights(tmp_path / "small.onnx", 1, 8, external)
    write_weights(tmp_path / "large.onnx", 16, 2048, external)
    result = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True)
    weights, private = map(int, result.stdout.split())
    assert weights == 256 << 20
    assert private < 32 << 20


def test_large_values_are_not_computed(tmp_path: Path) -> None:
    """A shape of a terabyte costs nothing as long as it is a shape."""
    fill = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    nodes = [node("ConstantOfShape", "s", "c", value=fill), node("ReduceSum", "c", "r", keepdims=0), node("Add", "x r", "y")]
    path = tmp_path / "m.onnx"
    onnx.save(model(nodes, {"x": ("f32", ["B"])}, ["y"], {"s": np.array([1 << 20, 1 << 20])}), path)
    assert [n.op.name for n in load(path).module.graph.nodes()] == ["full", "sum", "add"]
