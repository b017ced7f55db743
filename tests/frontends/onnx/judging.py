"""A random node, judged: what ONNX Runtime and the reference say beside what the importer makes of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tessera.backends import onnx as onnx_backend
from tessera.frontends.onnx import load
from tessera.ir.diagnostics import Diagnostic

from .drawing import Array, Case, Draw
from .support import round_trip, run_imported


@dataclass
class Verdict:
    """``outcome``: same, refused (with its code and message in ``text``), different, or unjudged."""

    outcome: str
    text: str = ""


def proto_of(case: Case, r: Draw) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model, with some sizes left free, and what to feed it."""
    inputs, constants, nodes = [], [], []
    feeds: dict[str, Array] = {}
    operands = {name: None if a is None else np.asarray(a) for name, a in case.inputs.items()}
    known = r.chance(0.25)  # everything is: what the importer computes itself
    for name, array in operands.items():
        if array is None:
            continue
        if known and r.chance():
            nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, "")))
        elif known or name in case.fixed:
            constants.append(numpy_helper.from_array(array, name))
        else:
            shape = [f"{name}{i}" if r.chance(0.3) else d for i, d in enumerate(array.shape)]
            inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape))
            feeds[name] = array
    outputs = [onnx.ValueInfoProto(name=name) for name in case.node().output if name]
    graph = helper.make_graph([*nodes, case.node()], "graph", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", case.opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), feeds


def by_runtime(data: bytes, feeds: dict[str, Array], optimized: bool = True) -> list[Array] | None:
    """What ONNX Runtime computes; None where it refuses. ``optimized``: with its graph rewrites, not all of which are exact."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return [np.asarray(a) for a in session.run(None, feeds)]
    except Exception:
        return None


def by_reference(proto: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array] | None:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return [np.asarray(a) for a in ReferenceEvaluator(proto).run(None, feeds)]
    except Exception:
        return None


def same(found: list[Array], wanted: list[Array] | None, tolerance: float) -> bool:
    if wanted is None or len(found) != len(wanted):
        return False
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if a.dtype.kind == "f":
            if not np.allclose(
                a.astype(np.float64), b.astype(np.float64), rtol=tolerance, atol=tolerance, equal_nan=True
            ):
                return False
        elif a.dtype == bool:
            if not (a == b).all():
                return False
        elif (np.abs(a.astype(np.int64) - b.astype(np.int64)) > tolerance).any():
            return False
    return True


def judge(case: Case, r: Draw, folder: Path, again: bool = True) -> Verdict:
    """Import the case and compare. ``again``: also export what was imported, and run that."""
    proto, feeds = proto_of(case, r)
    data = proto.SerializeToString()
    (folder / "case.onnx").write_bytes(data)
    shown = f"{helper.printable_node(proto.graph.node[-1])}\n" + "\n".join(
        f"{n}: {a.dtype}{list(a.shape)} {a.tolist() if a.size <= 64 else '...'}"
        for n, a in case.inputs.items()
        if a is not None
    )
    try:
        imported = load(folder / "case.onnx")
        text = round_trip(imported)
    except Diagnostic as error:
        valid = by_runtime(data, feeds) is not None or by_reference(proto, feeds) is not None
        return Verdict("refused" if valid else "unjudged", f"{error.code} {error.message}\n{shown}")
    judges = [by_runtime(data, feeds), by_reference(proto, feeds)]
    if all(j is None for j in judges):
        return Verdict("unjudged", f"nobody runs it\n{shown}")
    try:
        found = run_imported(imported, list(feeds.values()))
    except Diagnostic as error:
        return Verdict("refused", f"{error.code} {error.message}\n{shown}")
    if not any(same(found, j, case.tolerance) for j in judges):
        wanted = next(j for j in judges if j is not None)
        return Verdict(
            "different",
            f"{shown}\n{text}\nours: {found}\nruntime: {judges[0]}\nreference: {judges[1]}\n{_dtypes(found, wanted)}",
        )
    if again:
        second = _exported(imported, feeds)
        if isinstance(second, str):
            return Verdict("different", f"exported again: {second}\n{shown}\n{text}")
        if second is not None and not same(second, found, max(case.tolerance, 1e-5)):
            return Verdict("different", f"{shown}\n{text}\nby torch: {found}\nexported again: {second}")
    return Verdict("same")


def _dtypes(found: list[Array], wanted: list[Array]) -> str:
    return f"{[f'{a.dtype}{list(a.shape)}' for a in found]} {[f'{a.dtype}{list(a.shape)}' for a in wanted]}"


def _exported(imported: Any, feeds: dict[str, Array]) -> list[Array] | str | None:
    import onnx_ir

    try:
        model = onnx_backend.build(imported.module, imported.weights)
    except Diagnostic as error:
        return f"{error.code} {error.message}"
    names = [value.name for value in imported.module.graph.inputs]
    proto = onnx_ir.to_proto(model)
    given = {a.name: feeds[n] for a, n in zip(proto.graph.input, feeds, strict=True)}
    assert len(names) == len(feeds)
    found = by_runtime(proto.SerializeToString(), given)
    if found is None:
        return "ONNX Runtime refuses it"
    results = dict(zip((info.public for info in imported.module.graph.output_info), found, strict=False))
    return list(imported.rows_that_count(results).values())
