"""Random arithmetic on sizes: what the importer makes of it symbolically is what ONNX Runtime computes, or is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tessera.frontends.onnx import load
from tessera.ir.diagnostics import Diagnostic

from .drawing import Draw
from .judging import by_runtime
from .support import round_trip, run_imported

SIZES = [(5, 3), (1, 1), (2, 7), (8, 8), (9, 4)]


class Expression:
    """Nodes that compute an integer from the sizes of an input [A, B]."""

    def __init__(self, r: Draw) -> None:
        self.r = r
        self.nodes = [helper.make_node("Shape", ["x"], ["shape"])]
        self.constants: dict[str, np.ndarray] = {}
        self.ints = [self.add("Gather", "shape", self.constant(i)) for i in (0, 1)]
        self.ints += [self.constant(v) for v in (1, 2, 3)]
        self.bools: list[str] = []

    def constant(self, value: object, dtype: object = np.int64) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.array(value, dtype)  # type: ignore[call-overload]
        return name

    def add(self, op: str, *inputs: str, **attrs: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attrs))
        return name

    def grow(self) -> None:
        r = self.r
        a, b = r.one(*self.ints), r.one(*self.ints)
        kind = r.one("arithmetic", "arithmetic", "division", "fraction", "comparison", "choice", "list")
        if kind == "arithmetic":
            made = self.add(r.one("Add", "Sub", "Mul", "Max", "Min"), a, b)
        elif kind == "division":
            divisor = self.constant(r.between(1, 5)) if r.chance(0.7) else self.add("Max", b, self.constant(1))
            made = self.add(r.one("Div", "Mod"), a, divisor)
        elif kind == "fraction":
            wide = self.add("Cast", a, to=TensorProto.FLOAT)
            scaled = self.add(r.one("Mul", "Div"), wide, self.constant(r.one(0.5, 2.0, 4.0, 0.25), np.float32))
            made = self.add("Cast", self.add(r.one("Floor", "Ceil", "Identity"), scaled), to=TensorProto.INT64)
        elif kind == "comparison" or not self.bools:
            self.bools.append(self.add(r.one("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"), a, b))
            return
        elif kind == "choice":
            made = self.add("Where", r.one(*self.bools), a, b)
        else:
            axes = self.constant([0])
            row = self.add("Concat", self.add("Unsqueeze", a, axes), self.add("Unsqueeze", b, axes), axis=0)
            made = self.add(r.one("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin"), row, axes, keepdims=0)
        self.ints.append(made)

    def model(self) -> onnx.ModelProto:
        result = self.ints[-1]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["A", "B"])]
        constants = [numpy_helper.from_array(a, n) for n, a in self.constants.items()]
        self.nodes.append(helper.make_node("Identity", [result], ["y"]))
        graph = helper.make_graph(self.nodes, "g", inputs, [onnx.ValueInfoProto(name="y")], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def outcomes(count: int, seed: int, folder: Path) -> Counter[str]:
    """Imports so many expressions. Raises AssertionError for a wrong number."""
    found: Counter[str] = Counter()
    for i in range(count):
        r = Draw(np.random.default_rng([seed, i]))
        expression = Expression(r)
        for _ in range(r.between(2, 9)):
            expression.grow()
        proto = expression.model()
        onnx.save(proto, folder / "m.onnx")
        try:
            imported = load(folder / "m.onnx")
            text = round_trip(imported)
        except Diagnostic:
            found["refused"] += 1
            continue
        for shape in SIZES:
            x = np.zeros(shape, np.float32)
            # Optimized, 1 / 2 * 2 of integers is 1 in ONNX Runtime 1.32.
            wanted = by_runtime(proto.SerializeToString(), {"x": x}, optimized=False)
            try:
                (got,) = run_imported(imported, [x])
            except Diagnostic:
                found["refused at some size"] += 1
                continue
            assert wanted is not None
            assert got.dtype == wanted[0].dtype, text
            assert got == wanted[0], (
                f"{seed} {i} at {shape}: {got}, not {wanted[0]}\n{onnx.printer.to_text(proto)}\n{text}"
            )
            found["same"] += 1
    return found


def test_sizes(tmp_path: Path) -> None:
    found = outcomes(150, 0, tmp_path)
    assert found["same"] > 300, found


@pytest.mark.extended
def test_many_sizes(tmp_path: Path) -> None:
    found = outcomes(4000, 1, tmp_path)
    assert found["same"] > 8000, found
