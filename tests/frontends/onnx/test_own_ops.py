"""Every core op, exported and imported again: it computes what it did, with known sizes and with symbols."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.frontends.onnx import load
from tessera.ir.analysis.evaluate import evaluate
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Graph
from tessera.ir.op import Sample
from tessera.ir.ops import OPS
from tessera.tests.differential.test_ops_onnx import artifact, chosen, first_of, symbolic, symbolic_cases
from tessera.tests.differential.test_ops_torch import assert_same, graph_of

from .support import round_trip, run_imported

# Of a number of groups that no dimension tells: a loop over parts that end where a tensor says.
ENDING_AT_RUN_TIME = "grouped_matmul"


def some(cases: Iterator[Any]) -> list[Any]:
    """The f32 and integer cases, an op's first among the quick tests: how dtypes are exported is tested with the backend."""
    kinds = ("float64", "float16", "bfloat16", "int8", "int16", "uint8", "int32")
    kept = [c for c in cases if not any(np.asarray(x).dtype.name in kinds for x in c.values[1].inputs)]
    return [pytest.param(*c.values, id=c.id, marks=() if first_of(c) else (pytest.mark.extended,)) for c in kept]


def compare(graph: Graph, name: str, sample: Sample, attrs: dict[str, Any], folder: Path) -> None:
    (folder / "op.onnx").write_bytes(artifact(graph))
    imported = load(folder / "op.onnx")
    text = round_trip(imported)
    found = run_imported(imported, [np.asarray(x) for x in sample.inputs])
    expected = evaluate(OPS[name], sample.inputs, attrs, [v.type for v in graph.outputs])
    assert len(found) == len(expected)
    for value, output, wanted, result in zip(graph.outputs, found, expected, imported.module.graph.outputs, strict=True):
        assert_same(output, np.asarray(wanted), f"{name} {attrs}\n{text}")
        assert result.type.dtype == value.type.dtype


@pytest.mark.parametrize(("name", "sample"), some(chosen()))
def test_op(name: str, sample: Sample, tmp_path: Path) -> None:
    graph, attrs = graph_of(name, sample)
    compare(graph, name, sample, attrs, tmp_path)


def test_rows_that_end_at_run_time_are_refused(tmp_path: Path) -> None:
    (first, *_) = (c.values for c in symbolic_cases() if c.values[0] == ENDING_AT_RUN_TIME)
    made = symbolic(*first)
    assert made is not None
    (tmp_path / "op.onnx").write_bytes(artifact(made[0]))
    with pytest.raises(Diagnostic, match="depends on the values of a tensor") as caught:
        load(tmp_path / "op.onnx")
    assert caught.value.code == "E0761"


# Exported as a loop that runs as often as the logarithm of the size says.
LOGARITHMIC = {"cummax", "linear_recurrence"}
LEFT_OUT = {*LOGARITHMIC, ENDING_AT_RUN_TIME}


@pytest.mark.parametrize(("name", "sample"), [c for c in some(symbolic_cases()) if c.values[0] not in LEFT_OUT])
def test_op_with_symbols(name: str, sample: Sample, tmp_path: Path) -> None:
    made = symbolic(name, sample)
    assert made is not None
    compare(made[0], name, sample, made[1], tmp_path)
