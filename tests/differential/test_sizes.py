"""Every core op on torch and ONNX Runtime, and where it is installed through torch-mlir, at other sizes than its samples have:
no elements, one, odd numbers, many. What the op itself refuses at a size is left out; all but a few have a result at each."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tessera.backends.mlir.table import UNSUPPORTED
from tessera.backends.onnx import runnable
from tessera.ir.analysis.evaluate import evaluate
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.op import Sample, Trait
from tessera.ir.ops import OPS
from tessera.ir.requirements import requirements

from .test_composites import BACKENDS
from .test_ops_torch import LOOPS, assert_same, graph_of

# Of how many elements an axis may be at the largest scale, by the most axes that an operand has.
MANY = {0: 1, 1: 5000, 2: 257, 3: 65, 4: 17, 5: 9}
SCALES = ("zero", "one", "odd", "large")
# Sums of so many products: the order of summing shows.
TOLERANCE = {"f64": 1e-6, "f32": 2e-4, "f16": 2e-2, "bf16": 1e-1}


def length(n: int, scale: str, rank: int, gone: int) -> int:
    """What an axis of n elements becomes; equal ones stay equal, and 1 stays 1, which broadcasts. ``gone`` may become 0."""
    if n <= 1 or scale == "one":
        return min(n, 1)
    return {"zero": 0 if n == gone else n, "odd": 2 * n + 1, "large": min(32 * n + 1, MANY[rank])}[scale]


def resized(name: str, sample: Sample, scale: str) -> Sample:
    """The sample with its arrays repeated or cut to other lengths; places stay below the shortest axis, what is sorted is."""
    arrays = [np.asarray(x) for x in sample.inputs]
    rank = max((x.ndim for x in arrays), default=0)
    places = Trait.INDEXES in OPS[name].traits or OPS[name].family == "segment"
    # Nothing is picked from something, rather than something from nothing.
    gone = next(iter(arrays[-1 if places else 0].shape), 0) if arrays else 0
    shapes = [tuple(length(n, scale, rank, gone) for n in x.shape) for x in arrays]
    made = [np.resize(x, shape) for x, shape in zip(arrays, shapes, strict=True)]
    if places:
        most = min((n for shape in shapes for n in shape if n), default=1)
        made[1] = np.minimum(made[1], most - 1).astype(arrays[1].dtype)
    if name == "searchsorted":
        made[0] = np.sort(made[0])
    return Sample(tuple(made), sample.attrs)


def answers(name: str, sample: Sample) -> bool:
    """Whether the op has a result for the sample: its attributes fit the sizes, and what it requires holds."""
    try:
        graph, _ = graph_of(name, sample)
    except Diagnostic:
        return False
    return all(need.holds({}) for need in requirements(graph))


def samples() -> Iterator[tuple[str, int, str, Sample]]:
    for name, op in sorted(OPS.items()):
        if name in LOOPS or name == "scatter_set":  # an index that occurs twice has no answer
            continue
        assert op.samples is not None
        for number, sample in enumerate(op.samples(np.random.default_rng(zlib.crc32(name.encode())))):
            for scale in SCALES:
                made = resized(name, sample, scale)
                if sample.inputs and answers(name, made):
                    yield name, number, scale, made


def cases() -> Iterator[Any]:
    for name, number, scale, sample in samples():
        for backend in ("torch", "onnx", "mlir"):
            if backend == "mlir" and (name in UNSUPPORTED or scale == "zero"):
                continue  # torch-mlir takes no empty tensor into a reduction
            quick = backend != "mlir" and number == 0
            yield pytest.param(
                name, sample, backend, id=f"{name}-{number}-{scale}-{backend}", marks=() if quick else (pytest.mark.extended,)
            )


@pytest.mark.parametrize(("name", "sample", "backend"), list(cases()))
def test_op(name: str, sample: Sample, backend: str, request: pytest.FixtureRequest) -> None:
    graph, attrs = graph_of(name, sample)
    if backend == "onnx" and not runnable(graph):
        pytest.skip("ONNX Runtime has no kernels for this dtype")
    wanted = evaluate(OPS[name], sample.inputs, attrs, [v.type for v in graph.outputs])
    found = BACKENDS[backend](graph)({f"x{i}": np.asarray(x) for i, x in enumerate(sample.inputs)})
    repro = f"reproduce: python -m pytest '{request.node.nodeid}'"
    assert len(found) == len(wanted), repro
    for output, value in zip(found, wanted, strict=True):
        assert_same(output, value, repro, TOLERANCE)


def test_nearly_every_op_has_a_result_at_every_scale() -> None:
    reached = {(name, scale) for name, _, scale, _ in samples()}
    names = {name for name, _ in reached}
    fixed = {"reshape", "expand", "constant", "full", "iota", "scatter_set", *LOOPS}  # their sizes are attributes
    assert set(OPS) - names <= fixed
    for scale in ("one", "odd", "large"):
        missing = names - {name for name, at in reached if at == scale}
        assert missing <= fixed | {"rearrange", "conv", "topk", "slice", "squeeze"}, scale
    assert len({name for name, at in reached if at == "zero"}) >= len(names) - 12
