"""Every core op in ONNX Runtime against its NumPy meaning: at opsets 18 and 24, with known sizes and with symbols."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx.checker
import pytest

from tessera.backends.onnx import build, check, runnable, serialize
from tessera.backends.onnx.registry import lowerings
from tessera.backends.onnx.session import Session
from tessera.ir.analysis.evaluate import evaluate
from tessera.ir.builder import Builder
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Graph, Module
from tessera.ir.op import Sample
from tessera.ir.ops import OPS
from tessera.ir.types import TensorType

from .test_ops_torch import assert_same, cases, graph_of, type_of


def test_every_core_op_has_a_lowering() -> None:
    assert set(lowerings()) == set(OPS)


def artifact(graph: Graph, opset: int = 24) -> bytes:
    """The checked artifact of a graph without weights."""
    model = build(Module(graph.name, graph), {}, opset=opset)
    check(model)
    data = serialize(model)
    onnx.checker.check_model(data, full_check=True)
    return data


def has_nan(sample: Sample) -> bool:
    return any(np.isnan(np.asarray(x, np.float64)).any() for x in sample.inputs)


# NaN has no order and no sign: sessions refuse it where something is selected, and other results differ between kernels.
ORDERED = {"sort", "topk", "argmax", "argmin", "max", "min", "minimum", "maximum", "cummax", "sign"}


def chosen() -> Iterator[Any]:
    for case in cases():
        name, sample = case.values
        if not (name in ORDERED and has_nan(sample)):
            yield case


def compare(graph: Graph, name: str, sample: Sample, attrs: dict[str, Any], opset: int) -> None:
    data = artifact(graph, opset)
    if any(v.type.dtype.name == "bf16" for v in (*graph.inputs, *graph.outputs)):
        # ONNX Runtime does move bf16 about, and converts it; nothing more is promised than a valid file.
        assert not runnable(graph)
        return
    if not runnable(graph):
        with pytest.raises(Diagnostic) as caught:
            Session(data)
        assert caught.value.code == "E0911"
        return
    outputs = Session(data)({f"x{i}": x for i, x in enumerate(sample.inputs)})
    expected = evaluate(OPS[name], sample.inputs, attrs, [v.type for v in graph.outputs])
    assert len(outputs) == len(expected)
    for value, output, wanted in zip(graph.outputs, outputs.values(), expected, strict=True):
        assert_same(output, np.asarray(wanted), f"{name} {attrs} at opset {opset}")
        assert type_of(output).dtype == value.type.dtype


def with_opsets() -> Iterator[Any]:
    """Every case at the newest opset, and as an extended test at the oldest."""
    for case in chosen():
        yield pytest.param(*case.values, 24, id=f"{case.id}-24", marks=case.marks)
        yield pytest.param(*case.values, 18, id=f"{case.id}-18", marks=() if first_of(case) else (pytest.mark.extended,))


def first_of(case: Any) -> bool:
    """Whether it is an op's first sample, in f32 or its own dtype."""
    return case.id.endswith(("-0-f32", "-0-own"))


@pytest.mark.parametrize(("name", "sample", "opset"), list(with_opsets()))
def test_op(name: str, sample: Sample, opset: int) -> None:
    graph, attrs = graph_of(name, sample)
    compare(graph, name, sample, attrs, opset)


def symbolic(name: str, sample: Sample) -> tuple[Graph, dict[str, Any]] | None:
    """The op with a symbol for every size (equal sizes get the same one); None where it needs to know some."""
    b = Builder(Graph(name))
    inputs = []
    for i, x in enumerate(sample.inputs):
        array = np.asarray(x)
        shape = [f"N{size}" if size > 1 else size for size in array.shape]
        inputs.append(b.input(f"x{i}", TensorType.of(type_of(array).dtype, shape)))
    try:
        results = b.multi(name, *inputs, **sample.attrs)
    except Diagnostic:
        return None
    for i, value in enumerate(results):
        b.graph.add_output(value, f"y{i}")
    return b.graph, graph_of(name, sample)[1]


def symbolic_cases() -> Iterator[Any]:
    for case in chosen():
        name, sample = case.values
        kinds = {np.asarray(x).dtype.name for x in sample.inputs}
        if sample.inputs and not kinds & {"float64", "float16", "bfloat16", "int32", "int8"} and symbolic(name, sample):
            yield case


@pytest.mark.parametrize(("name", "sample"), list(symbolic_cases()))
def test_op_with_symbols(name: str, sample: Sample) -> None:
    made = symbolic(name, sample)
    assert made is not None
    compare(made[0], name, sample, made[1], 24)


def test_most_ops_are_tested_with_symbols() -> None:
    tested = {case.values[0] for case in symbolic_cases()}
    # These have no tensor operand, a body, or a shape among their attributes: they are tested with the backend.
    assert set(OPS) - tested == {"constant", "full", "iota", "fold", "scan", "cond", "while", "reshape", "expand"}
