"""Every core op in PyTorch against its NumPy meaning, on the samples that the op itself declares."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from tessera.backends.torch import build
from tessera.backends.torch.table import LOWERINGS
from tessera.frontends.source import loads
from tessera.ir.analysis.evaluate import evaluate
from tessera.ir.builder import Builder
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Graph
from tessera.ir.op import Bad, Sample
from tessera.ir.ops import OPS
from tessera.ir.types import DType, TensorType, boolean, f32, i64

LOOPS = {"fold", "scan", "cond", "while"}  # their bodies are graphs: tested below
FLOATS = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
INTS = {"i64": np.int64, "i32": np.int32, "i8": np.int8}
TOLERANCE = {"f64": 1e-6, "f32": 1e-5, "f16": 4e-3, "bf16": 3e-2}


# Samples -------------------------------------------------------------------------------------------------------------


def extra_samples(name: str, rng: Any) -> list[Sample]:
    """Ties, not-a-number, infinities, empty axes: what the declarations' own samples leave out."""
    ties = np.array([[2, 1, 2, 1, 2], [0, 0, 0, 0, 0], [-0.0, 0.0, -0.0, 0.0, 0.0]], np.float32)
    holes = np.array([[1, np.nan, 3, np.nan], [np.inf, -np.inf, np.nan, 0]], np.float32)
    rows: dict[str, list[Sample]] = {
        "sort": [Sample((x,), {"axis": -1, "descending": d}) for x in (ties, holes) for d in (False, True)],
        "topk": [Sample((x,), {"k": 3, "largest": b}) for x in (ties, holes) for b in (False, True)]
        + [Sample((rng.integers(0, 3, (2, 200)).astype(np.float32),), {"k": 100})],
        "argmax": [Sample((x,), {"axis": a}) for x in (ties, holes) for a in (0, 1)],
        "argmin": [Sample((x,), {"axis": a}) for x in (ties, holes) for a in (0, 1)],
        "max": [Sample((holes,), {"axis": 1}), Sample((np.array(3, np.float32),))],
        "min": [Sample((holes,), {"axis": 1})],
        "sum": [Sample((ties,), {"axis": []}), Sample((np.zeros((0, 3), np.float32),), {"axis": 0})],
        "prod": [Sample((ties,), {"axis": []})],
        "minimum": [Sample((holes, np.ones((2, 4), np.float32)))],
        "maximum": [Sample((holes, np.ones((2, 4), np.float32)))],
        "sign": [Sample((holes,))],
        "abs": [Sample((holes,))],
        "exp": [Sample((holes,))],
        "round": [Sample((np.array([0.5, 1.5, 2.5, -0.5, -1.5, np.inf], np.float32),))],
        "floordiv": [Sample((np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])))],
        "mod": [Sample((np.array([7, -7, 7, -7]), np.array([3, 3, -3, -3])))],
        "cast": [
            Sample((np.array([1.9, -1.9, 0.5, -0.0], np.float32),), {"dtype": i64}),
            Sample((np.array([0.25, -3.0, 0.0], np.float32),), {"dtype": boolean}),
            Sample((np.array([True, False]),), {"dtype": f32}),
        ],
        "grouped_matmul": [
            Sample((np.zeros((0, 4), np.float32), np.ones((2, 4, 8), np.float32), np.array([0, 0]))),
            Sample((ties, np.ones((2, 5, 8), np.float32), np.array([-1, -2]))),
            Sample((holes, rng.standard_normal((2, 4, 8)).astype(np.float32), np.array([0, 0]))),  # NaN in no group
        ],
        "eq": [Sample((holes, holes))],
        "where": [Sample((np.array([True, False]), np.array([1, 2]), np.array([3, 4])))],
        "cumsum": [Sample((np.zeros((0, 3), np.float32),), {"axis": 0, "exclusive": True})],
        "cummax": [Sample((holes,), {"axis": 1})],
        "compact": [Sample((np.array([[True, False, True]]),), {"capacity": c}) for c in (0, 1, 5)],
        "scatter_add": [
            Sample((np.zeros((2, 4), np.float32), np.array([[1, 1, 1], [0, 3, 0]]), np.ones((2, 3), np.float32)))
        ],
        "scatter_set": [
            Sample((np.zeros((2, 4), bool), np.array([1, 3]), np.array([True, True])), {"batch": 1}),
            Sample(
                (np.zeros((6, 2), np.float32), np.array([[1, 3], [0, 5]]), np.ones((2, 2, 2), np.float32)), {"batch": 0}
            ),
        ],
        "take": [
            Sample((rng.standard_normal((5, 4)).astype(np.float32), np.array([[0, 2], [4, 4]], np.uint8)), {"axis": 0}),
            Sample((np.arange(12).reshape(3, 4), np.array(2)), {"axis": 1}),
            Sample((np.arange(12).reshape(3, 4), np.array([2, 0])), {"axis": 0}),
        ],
        "searchsorted": [Sample((np.array([1, 3, 3, 7]), np.array([[0, 3], [7, 9]])), {"right": True})],
        "linear_recurrence": [
            Sample((rng.random((2, 9)).astype(np.float32), rng.random((2, 9)).astype(np.float32)), {"axis": -1}),
            Sample((np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)), {"axis": 1}),
        ],
        "full": [
            Sample((), {"shape": (2,), "value": True, "dtype": boolean}),
            Sample((), {"shape": (), "value": 7, "dtype": i64}),
            Sample((), {"shape": (3,), "value": float("-inf"), "dtype": f32}),
        ],
        "slice": [Sample((np.arange(10),), {"axis": 0, "start": 1, "stop": 8, "step": 3})],
    }
    return rows.get(name, [])


def cast_sample(sample: Sample, kind: str, dtype: Any) -> Sample:
    """The f32 operands in another dtype; to integers they are scaled and rounded."""

    def convert(x: Any) -> Any:
        x = np.asarray(x)
        if x.dtype != np.float32:
            return x
        return np.round(x * 3).astype(dtype) if kind == "int" else x.astype(dtype)

    return Sample(tuple(convert(x) for x in sample.inputs), sample.attrs)


def case(name: str, number: int, label: str, sample: Sample) -> Any:
    """A row of the table: every sample in f32 or its own dtype, and the first one in every dtype, are among the quick tests."""
    quick = number == 0 or label in ("f32", "own")
    return pytest.param(name, sample, id=f"{name}-{number}-{label}", marks=() if quick else (pytest.mark.extended,))


def cases() -> Iterator[Any]:
    for name, op in sorted(OPS.items()):
        if name in LOOPS:
            continue
        assert op.samples is not None
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        for number, sample in enumerate([*op.samples(rng), *extra_samples(name, rng)]):
            floats = any(np.asarray(x).dtype == np.float32 for x in sample.inputs)
            accepts_ints = any(getattr(o.type, "dtype", None) in ("num", "any") for o in op.signature.operands)
            finite = all(np.isfinite(x).all() for x in sample.inputs if np.asarray(x).dtype == np.float32)
            for label, dtype in FLOATS.items() if floats else [("own", None)]:
                made = sample if dtype is None else cast_sample(sample, "float", dtype)
                yield case(name, number, label, made)
            for label, dtype in INTS.items() if floats and accepts_ints and finite else ():
                if name != "cast":
                    yield case(name, number, label, cast_sample(sample, "int", dtype))


# Running -------------------------------------------------------------------------------------------------------------


def type_of(array: Any) -> TensorType:
    array = np.asarray(array)
    return TensorType.of(DType.from_numpy(array.dtype), array.shape)


def to_torch(array: Any) -> torch.Tensor:
    array = np.asarray(array)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (
        tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
    )


def graph_of(name: str, sample: Sample) -> tuple[Graph, dict[str, Any]]:
    """One node; returns the graph and the node's canonical attributes."""
    b = Builder(Graph(name))
    inputs = [b.input(f"x{i}", type_of(x)) for i, x in enumerate(sample.inputs)]
    results = b.multi(name, *inputs, **sample.attrs)
    for i, value in enumerate(results):
        b.graph.add_output(value, f"y{i}")
    node = results[0].node
    assert node is not None
    return b.graph, node.attrs


def assert_same(
    actual: np.ndarray, expected: np.ndarray, message: str, tolerances: Mapping[str, float] = TOLERANCE
) -> None:
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}\n{message}"
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}\n{message}"
    name = {v: k for k, v in ((k, np.dtype(d)) for k, d in FLOATS.items())}.get(actual.dtype)
    if name is None:
        np.testing.assert_array_equal(actual, expected, err_msg=message)
    else:
        tolerance = tolerances[name]
        np.testing.assert_allclose(
            actual.astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=tolerance, err_msg=message
        )


@pytest.mark.parametrize(("name", "sample"), list(cases()))
def test_op(name: str, sample: Sample, request: pytest.FixtureRequest) -> None:
    graph, attrs = graph_of(name, sample)
    module = build(graph)
    # Called below the checks, which refuse NaN for selections; the op itself has an answer, and it is tested.
    outputs = module.forward(*map(to_torch, sample.inputs))
    expected = evaluate(OPS[name], sample.inputs, attrs, [v.type for v in graph.outputs])
    repro = f"reproduce: python -m pytest '{request.node.nodeid}'\n{module.source}"
    assert len(outputs) == len(expected), repro
    for value, output, wanted in zip(graph.outputs, outputs.values(), expected, strict=True):
        assert_same(to_numpy(output), np.asarray(wanted), repro)
        assert type_of(to_numpy(output)) == value.type, f"the shape rule says {value.type}\n{repro}"


def bad_cases() -> Iterator[Any]:
    for name, op in sorted(OPS.items()):
        for number, bad in enumerate(op.bad):
            yield pytest.param(name, bad, id=f"{name}-{number}")


@pytest.mark.parametrize(("name", "bad"), list(bad_cases()))
def test_bad_operands_are_refused(name: str, bad: Bad) -> None:
    with pytest.raises(Diagnostic) as caught:
        OPS[name].infer(list(bad.types), dict(bad.attrs))
    assert caught.value.code == bad.code


def test_every_core_op_has_a_lowering_and_a_meaning() -> None:
    assert set(LOWERINGS) == set(OPS)
    assert not [name for name, op in OPS.items() if op.meaning is None]
    assert not [name for name, op in OPS.items() if op.samples is None and name not in LOOPS]


# Gradients -----------------------------------------------------------------------------------------------------------


def gradient(name: str, *inputs: Any, **attrs: Any) -> list[torch.Tensor | None]:
    """Gradients of ``sum(op(inputs) * 2)``."""
    graph, _ = graph_of(name, Sample(tuple(inputs), attrs))
    tensors = [to_torch(x).requires_grad_() for x in inputs]
    (build(graph)(*tensors)["y0"] * 2).sum().backward()
    return [t.grad for t in tensors]


def test_stop_gradient_stops() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", TensorType.of("f32", [3]))
    b.graph.add_output(b.op("mul", b.op("stop_gradient", x), x), "y")
    t = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    build(b.graph)(t)["y"].sum().backward()
    assert t.grad is not None
    assert t.grad.tolist() == [1, 2, 3]  # x * x would give 2 x


def test_straight_through_sends_the_gradient_to_soft() -> None:
    hard, soft = np.ones(3, np.float32), np.full(3, np.inf, np.float32)
    assert gradient("straight_through", hard, soft)[0] is None
    grad = gradient("straight_through", hard, soft)[1]
    assert grad is not None
    assert grad.tolist() == [2, 2, 2]


def test_scale_gradient_scales() -> None:
    (grad,) = gradient("scale_gradient", np.ones(3, np.float32), scale=0.25)
    assert grad is not None
    assert grad.tolist() == [0.5, 0.5, 0.5]


DIFFERENTIABLE = [
    "grouped_matmul",
    "segment_softmax",
    "segment_mean",
    "segment_max",
    "linear_recurrence",
    "scatter_add",
    "take",
    "cumsum",
]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    op = OPS[name]
    assert op.samples is not None
    for sample in op.samples(np.random.default_rng(1))[:2]:
        graph, _ = graph_of(name, cast_sample(sample, "float", np.float64))
        module = build(graph)
        tensors = [to_torch(x).double() if np.asarray(x).dtype == np.float32 else to_torch(x) for x in sample.inputs]
        for tensor in tensors:
            tensor.requires_grad_(tensor.is_floating_point())
        assert torch.autograd.gradcheck(lambda *xs, m=module: m(*xs)["y0"], tensors)


# Loops ---------------------------------------------------------------------------------------------------------------


def power_sum(n: Any = 4) -> Graph:
    """``fold i in n from (h, s) { h = h * x + i   s = s + h }``, with x captured."""
    body = Builder(Graph("body"))
    row = TensorType.of("f64", ["B", 3])
    i = body.input("i", TensorType.of("i64", []))
    h, s, x = (body.input(name, row) for name in "hsx")
    h2 = body.op("add", body.op("mul", h, x), body.op("cast", i, dtype=row.dtype))
    body.graph.add_output(h2, "h")
    body.graph.add_output(body.op("add", s, h2), "s")
    b = Builder(Graph("f"))
    start, x = b.input("start", row), b.input("x", row)
    zero = b.op("mul", start, b.constant(0.0, row.dtype))
    results = b.multi("fold", start, zero, x, n=n, carried=2, body=body.graph)
    for value, name in zip(results, "hs", strict=True):
        b.graph.add_output(value, name)
    return b.graph


@pytest.mark.parametrize("n", [0, 1, 4])
def test_fold_runs_its_body_n_times(n: int) -> None:
    rng = np.random.default_rng(0)
    start, x = rng.standard_normal((2, 5, 3))
    module = build(power_sum(n))
    outputs = module(torch.from_numpy(start), torch.from_numpy(x))
    h, s = start, np.zeros_like(start)
    for i in range(n):
        h = h * x + i
        s = s + h
    np.testing.assert_allclose(outputs["h"].numpy(), h)
    np.testing.assert_allclose(outputs["s"].numpy(), s)


def test_fold_has_gradients() -> None:
    module = build(power_sum())
    tensors = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: tuple(module(a, b).values()), tensors)


def choice_in_a_loop() -> Graph:
    """``while sum(x) < c from (x) limit 6 { cond sum(x) < d from (x) { x = x * w } else { x = x * x + w } }``"""
    return loads(
        """model m(x: f64[3], w: f64[3], c: f64[], d: f64[]) -> f64[3] {
            while sum(x, axis=0) < c from (x) limit 6 {
                cond sum(x, axis=0) < d from (x) { x = x * w } else { x = x * x + w }
            }
            return x
        }"""
    ).graph


@pytest.mark.parametrize(("c", "d"), [(0.0, 0.0), (100.0, 0.0), (1000.0, 20.0)])
def test_choices_and_conditional_loops_have_gradients(c: float, d: float) -> None:
    module = build(choice_in_a_loop())
    x, w = (torch.linspace(a, a + 1, 3, dtype=torch.float64, requires_grad=True) for a in (1.0, 1.5))
    bounds = [torch.tensor(v, dtype=torch.float64) for v in (c, d)]
    assert torch.autograd.gradcheck(lambda a, b: module(a, b, *bounds)["output"], (x, w))


def affine_scan(axis: int, shape: list[Any]) -> Graph:
    """The scan of ``(a, b) ∘ (c, d) = (a c, c b + d * k)`` along ``axis``: a linear recurrence, with k captured."""
    cell = TensorType.of("f64", [d for i, d in enumerate(shape) if i != axis])
    body = Builder(Graph("body"))
    a, b, c, d, k = (body.input(name, cell) for name in "abcdk")
    body.graph.add_output(body.op("mul", a, c), "p")
    body.graph.add_output(body.op("add", body.op("mul", c, b), body.op("mul", d, k)), "q")
    outer = Builder(Graph("f"))
    x, y = (outer.input(name, TensorType.of("f64", shape)) for name in "xy")
    z = outer.input("k", cell)
    for value, name in zip(outer.multi("scan", x, y, z, axis=axis, carried=2, body=body.graph), "pq", strict=True):
        outer.graph.add_output(value, name)
    return outer.graph


@pytest.mark.parametrize(("axis", "shape"), [(0, ["T", 3]), (1, ["B", "T", 2]), (2, [2, 3, "T"])])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_scan_combines_from_left_to_right(axis: int, shape: list[Any], length: int) -> None:
    rng = np.random.default_rng(length)
    sizes = [length if s == "T" else 4 if s == "B" else s for s in shape]
    x, y = rng.uniform(0.5, 1, (2, *sizes))
    k = np.ones([s for i, s in enumerate(sizes) if i != axis])
    outputs = build(affine_scan(axis, shape))(*map(torch.from_numpy, (x, y, k)))
    p, q = np.moveaxis(x, axis, 0).copy(), np.moveaxis(y, axis, 0).copy()
    for t in range(1, length):
        p[t], q[t] = p[t - 1] * p[t], p[t] * q[t - 1] + q[t]
    np.testing.assert_allclose(outputs["p"].numpy(), np.moveaxis(p, 0, axis))
    np.testing.assert_allclose(outputs["q"].numpy(), np.moveaxis(q, 0, axis))


def test_scan_of_nothing_is_nothing() -> None:
    module = build(affine_scan(0, ["T", 3]))
    empty, k = torch.zeros(0, 3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    assert module.forward(empty, empty, k)["q"].shape == (0, 3)


def test_scan_has_gradients() -> None:
    module = build(affine_scan(0, ["T", 2]))
    tensors = [torch.rand(4, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    tensors.append(torch.rand(2, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(lambda *xs: tuple(module(*xs).values()), tensors)
