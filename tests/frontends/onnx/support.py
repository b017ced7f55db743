"""Small ONNX models, imported and compared with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from tessera.backends import torch as torch_backend
from tessera.frontends import source
from tessera.frontends.onnx import load
from tessera.ir.imported import Imported
from tessera.ir.verifier import verify

ELEMENTS = {
    "f32": TensorProto.FLOAT, "f64": TensorProto.DOUBLE, "f16": TensorProto.FLOAT16, "i64": TensorProto.INT64,
    "i32": TensorProto.INT32, "i8": TensorProto.INT8, "u8": TensorProto.UINT8, "bool": TensorProto.BOOL,
    "bf16": TensorProto.BFLOAT16, "i16": TensorProto.INT16,
}  # fmt: skip
NUMPY = {
    "f32": np.float32, "f64": np.float64, "f16": np.float16, "i64": np.int64, "i32": np.int32, "i8": np.int8,
    "u8": np.uint8, "bool": np.bool_, "i16": np.int16,
}  # fmt: skip

Declared = tuple[str, Sequence[int | str | None]]


def node(op_type: str, inputs: str, outputs: str, domain: str = "", **attrs: Any) -> onnx.NodeProto:
    """``node("Add", "x y", "z")``; ``_`` is an input that is not given."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), name=f"{op_type.lower()}_{outputs.split()[0]}", domain=domain, **attrs)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Declared],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 18,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model whose outputs have no declared type."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, ELEMENTS[dtype], list(shape)) for name, (dtype, shape) in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)


def round_trip(imported: Imported) -> str:
    """Verify, print, read again, compare. The printed text."""
    verify(imported.module.graph)
    text = source.print_module(imported.module)
    again = source.loads(text)
    assert imported.module.difference(again) is None, text
    return text


def draw(dtype: str, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Random numbers; integers are small and not negative, so that they may be indices."""
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype.startswith(("i", "u")):
        return rng.integers(0, 3, shape).astype(NUMPY[dtype])
    return rng.standard_normal(shape).astype(NUMPY[dtype])


def run_imported(imported: Imported, feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
    net = torch_backend.build(imported.module, imported.weights)
    with torch.no_grad():
        results = net(*(torch.from_numpy(np.asarray(array, order="C")) for array in feeds))
    return [value.numpy() for value in imported.rows_that_count(results).values()]


def agree(
    proto: onnx.ModelProto | Path,
    folder: Path,
    sizes: Sequence[Mapping[str, int]] = ({"B": 2, "T": 5}, {"B": 3, "T": 4}),
    feeds: Mapping[str, np.ndarray] | None = None,
    tolerance: float = 1e-5,
) -> Imported:
    """Import, and compare with ONNX Runtime at the given sizes. Returns what was imported."""
    path = folder / "model.onnx" if isinstance(proto, onnx.ModelProto) else proto
    if isinstance(proto, onnx.ModelProto):
        onnx.save(proto, path)
    else:
        proto = onnx.load(path)
    imported = load(path)
    text = round_trip(imported)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    elements = {number: name for name, number in ELEMENTS.items()}
    for choice in sizes:
        given = dict(feeds or {})
        for value in proto.graph.input:
            kind = value.type.tensor_type
            shape = [d.dim_value if d.HasField("dim_value") else choice[d.dim_param] for d in kind.shape.dim]
            given.setdefault(value.name, draw(elements[kind.elem_type], shape, rng))
        wanted = session.run(None, given)
        found = run_imported(imported, [given[value.name] for value in proto.graph.input])
        assert len(wanted) == len(found)
        for a, b in zip(wanted, found, strict=True):
            assert a.shape == b.shape, text
            assert a.dtype == b.dtype, text
            if a.dtype.kind == "f":
                np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance, err_msg=text, equal_nan=True)
            else:
                np.testing.assert_array_equal(b, a, err_msg=text)
    return imported
