"""What becomes of every core op and composite on every backend, with no elements, one, odd numbers and many: ``table.json``.

A size at which a backend has an op's own answer is a test, of :mod:`.test_sizes` (core ops), :mod:`.test_composites`, or below (ops
whose sizes are attributes, loops). For every other one the table has the reason.

After a change: ``python -m pytest tests/differential/test_table.py --update-golden``, then read the difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.backends.mlir.assemble import plan
from tessera.backends.onnx import runnable
from tessera.frontends.source import loads
from tessera.ir.analysis.evaluate import evaluate_graph
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Graph
from tessera.ir.op import Sample
from tessera.ir.ops import OPS
from tessera.ir.requirements import requirements
from tessera.ir.types import f32, i64

from .test_composites import BACKENDS, ROWS, Row, call, shipped
from .test_ops_torch import LOOPS, assert_same, graph_of
from .test_sizes import SCALES, TOLERANCE, resized

TABLE = Path(__file__).parent / "table.json"
TARGETS = ("torch", "onnx", "mlir")
EQUAL = "equal"
EMPTY = {"mlir": "torch-mlir takes no empty tensor", "onnx": "a free size is at least 1"}
LENGTHS = {"zero": 0, "one": 1, "odd": 7, "large": 257}

# Ops whose sizes are attributes, and loops ---------------------------------------------------------------------------------

_PROGRAMS = {
    "fold": "fold i in 3 from (s) {\n        s = s * 0.5 + x\n    }\n    return s",
    "scan": "return scan(larger, x, axis=0)",
    "cond": "cond sum(x) > 0.0 from (s) {\n        s = s + x\n    } else {\n        s = s - x\n    }\n    return s",
    "while": "n = constant(0, dtype=i64)\n    while n < 3 from (s, n) limit 5 {\n        s = s * 0.5 + x\n"
    "        n = n + 1\n    }\n    return s",
}
_HEAD = "fn larger(a: f32[B], b: f32[B]) -> f32[B] {\n    return maximum(a, b)\n}\n"


def of_length(name: str, n: int) -> tuple[Graph, dict[str, np.ndarray]] | None:
    """A graph of one op over n rows, and its inputs; None for an op whose samples are resized."""
    x = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)
    if name in LOOPS:
        text = f"{_HEAD}model m(x: f32[{n}, 3], s: f32[{n}, 3]) -> f32[{n}, 3] {{\n    {_PROGRAMS[name]}\n}}\n"
        graph = loads(text).graph
        return graph, {v.name: y for v, y in zip(graph.inputs, (x, x[::-1].copy()), strict=True)}
    samples = {
        "reshape": Sample((x,), {"shape": (3, n)}),
        "expand": Sample((x[:, :1],), {"shape": (2, n, 3)}),
        "full": Sample((), {"shape": (n, 3), "value": 1.5, "dtype": f32}),
        "iota": Sample((), {"n": n}),
        "constant": Sample((), {"value": tuple(range(n)), "dtype": i64}),
        "scatter_set": Sample((x, np.arange(n)[::-1].copy(), x[::-1].copy()), {"batch": 0}),
    }
    if name not in samples:
        return None
    graph, _ = graph_of(name, samples[name])
    return graph, {f"x{i}": np.asarray(y) for i, y in enumerate(samples[name].inputs)}


OWN = sorted({*LOOPS, "reshape", "expand", "full", "iota", "constant", "scatter_set"})


@pytest.mark.extended
@pytest.mark.parametrize("backend", TARGETS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", OWN)
def test_ops_of_given_sizes(name: str, scale: str, backend: str) -> None:
    if table()["ops"][name][backend][scale] != EQUAL:
        pytest.skip(table()["ops"][name][backend][scale])
    made = of_length(name, LENGTHS[scale])
    assert made is not None
    graph, feed = made
    found = BACKENDS[backend](graph)(feed)
    for output, wanted in zip(found, evaluate_graph(graph, feed, {}).values(), strict=True):
        assert_same(output, wanted, f"{name} at {scale} on {backend}", TOLERANCE)


# The table -----------------------------------------------------------------------------------------------------------------


@cache
def table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


def candidates(name: str, scale: str) -> Iterator[Graph | Diagnostic]:
    """Graphs of one core op at a scale, or why there is none."""
    try:
        made = of_length(name, LENGTHS[scale])
    except Diagnostic as error:
        yield error
        return
    if made is not None:
        yield made[0]
        return
    samples = OPS[name].samples
    assert samples is not None
    for sample in samples(np.random.default_rng(0)):
        try:
            graph, _ = graph_of(name, resized(name, sample, scale))
            needs = next((need for need in requirements(graph) if not need.holds({})), None)
            yield graph if needs is None else Diagnostic("E0501", needs.message)
        except Diagnostic as error:
            yield error


def core(name: str) -> dict[str, dict[str, str]]:
    cells: dict[str, dict[str, str]] = {backend: {} for backend in TARGETS}
    for scale in SCALES:
        made = list(candidates(name, scale))
        graphs = [g for g in made if isinstance(g, Graph)]
        for backend in TARGETS:
            reasons = [refused(graph, backend, scale) for graph in graphs]
            none = next(f"no result: {e.message}" for e in made if isinstance(e, Diagnostic)) if not graphs else ""
            cells[backend][scale] = EQUAL if None in reasons else reasons[0] if reasons else none  # type: ignore[assignment]
    return cells


def refused(graph: Graph, backend: str, scale: str) -> str | None:
    """Why a backend does not run a graph."""
    if backend == "onnx":
        return None if runnable(graph) else "ONNX Runtime has no kernels for this dtype"
    if backend != "mlir":
        return None
    problem = plan().refused(graph)
    return problem.message if problem is not None else EMPTY["mlir"] if scale == "zero" else None


def composite(name: str) -> dict[str, dict[str, str]]:
    cells: dict[str, dict[str, str]] = {backend: {} for backend in TARGETS}
    graphs = [(row.scales, call(name, row, "f32")) for row in ROWS.get(name, (Row(),))]
    for scale in SCALES:
        fitting = [graph for scales, graph in graphs if scale in scales]
        for backend in TARGETS:
            if not fitting:
                cells[backend][scale] = "no result: see its row in test_composites.py"
            elif scale == "zero" and backend == "onnx":
                cells[backend][scale] = EMPTY["onnx"]
            else:
                reasons = [refused(graph, backend, "") for graph in fitting]
                cells[backend][scale] = EQUAL if None in reasons else str(reasons[0])
    return cells


@pytest.mark.extended
def test_the_table_says_what_every_op_does(update_golden: bool) -> None:
    check("ops", {name: core(name) for name in sorted(OPS)}, update_golden)


@pytest.mark.extended
def test_the_table_says_what_every_composite_does(update_golden: bool) -> None:
    check("composites", {name: composite(name) for name in sorted(shipped())}, update_golden)


def check(part: str, found: dict[str, Any], update_golden: bool) -> None:
    if update_golden:
        whole = {**(json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.is_file() else {}), part: found}
        parts = [
            f'"{name}": {{\n' + ",\n".join(f"{json.dumps(op)}: {json.dumps(row)}" for op, row in rows.items()) + "\n}"
            for name, rows in sorted(whole.items())
        ]
        TABLE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
        table.cache_clear()
    assert table()[part] == found


def test_what_has_no_answer_is_little() -> None:
    cells = [
        (name, backend, scale, cell)
        for name, row in table()["ops"].items() for backend, at in row.items() for scale, cell in at.items()
    ]  # fmt: skip
    equal = sum(cell == EQUAL for *_, cell in cells)
    assert equal > 0.85 * len(cells)
    assert {name for name, backend, scale, cell in cells if backend == "torch" and scale != "zero" and cell != EQUAL} <= {"squeeze"}
