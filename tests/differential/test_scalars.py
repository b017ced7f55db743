"""Tensors of no axes wherever a tensor may stand, in every dtype and on every target: compiled with the comparison, saved,
opened, run once and twice with its states, and equal to the NumPy meaning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads, print_module
from tessera.ir.analysis.evaluate import evaluate_graph
from tessera.ir.graph import Graph
from tessera.runtime.inputs import InputSpec, read_inputs
from tessera.runtime.weights.bind import initialise

from .test_ops_torch import assert_same

# The dtype stands for `D`, and an op of two operands for `o`.
PLACES = {
    "input": "(x: D[B, 4], t: D[]) -> D[B, 4] { return x o t }",
    "param": "(x: D[B, 4]) -> D[B, 4] { param s: D[] = ones  return x o s }",
    "buffer": "(x: D[B, 4]) -> D[B, 4] { buffer s: D[] = ones as \"scale.s\"  return x o s }",
    "state": "(x: D[B, 4], t: D[]) -> D[B, 4] { state s: D[] = ones  y = x o s  s = s o t  return y }",
    "output": "(x: D[B, 4], t: D[]) -> (a: D[], b: D[B, 4]) { return t o t, x o t }",
    "handed through": "(t: D[]) -> D[] { return t }",
    "all": "(t: D[]) -> D[] { param s: D[] = ones  state u: D[] = zeros  u = t  return s o t }",
    "tap": "(x: D[B, 4], t: D[]) -> D[B, 4] { tap q = t o t  return x }",
    "taken": "(x: D[B, 4]) -> D[B] { index = constant(2, dtype=i64)  return take(x, index, axis=1) }",
    "carried": "(x: D[B, 4], t: D[]) -> D[] { fold i in 3 from (t) { t = t o t }  return t }",
    "chosen": "(t: D[], u: D[], p: bool[]) -> D[] { cond p from (t) { t = t o u }  return t }",
    "made longer": "(t: D[]) -> D[3, 2] { return expand(reshape(t, [1, 1]), [3, 2]) }",
}  # fmt: skip
DTYPES = ("f32", "i64", "bool", "f16", "bf16", "f64", "i32", "i16", "i8", "u8")
TARGETS = {"onnx": {}, "onnx18": {"opset": 18}, "torch": {}, "mlir": {}}
TOLERANCE = {"f64": 1e-6, "f32": 1e-5, "f16": 4e-3, "bf16": 3e-2}


def source(place: str, dtype: str) -> str:
    return "model m" + PLACES[place].replace("D[", f"{dtype}[").replace(" o ", " and " if dtype == "bool" else " * ")


def feed(graph: Graph, rng: np.random.Generator) -> dict[str, np.ndarray]:
    made = {}
    for value in graph.inputs:
        shape, dtype = [d.value or 3 for d in value.type.shape], value.type.dtype
        drawn = rng.standard_normal(shape) if dtype.kind == "float" else rng.integers(0, 2, shape)
        made[value.name] = np.asarray(drawn).astype(dtype.numpy)
    return {value.name: made[value.name] for value in graph.inputs if value.role == "input"}


def compare(found: dict[str, Any], graph: Graph, given: dict[str, Any]) -> None:
    sizes = dict.fromkeys(graph.symbols(), 3)
    weights = {name: tensor.numpy() for name, tensor in initialise(graph, 0).items()}
    wanted = evaluate_graph(graph, given, sizes, weights)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert_same(found[name], value, name, TOLERANCE)


def cases() -> Iterator[Any]:
    for place in PLACES:
        for dtype in DTYPES:
            for target in TARGETS:
                quick = dtype in ("f32", "i64", "bool") and target in ("onnx", "torch")
                yield pytest.param(place, dtype, target, marks=() if quick else (pytest.mark.extended,))


@pytest.mark.parametrize(("place", "dtype", "target"), list(cases()))
def test_scalar(place: str, dtype: str, target: str, tmp_path: Path) -> None:
    if target == "mlir":
        pytest.importorskip("torch_mlir", reason="torch-mlir (extra `mlir`) is not installed")
        if place == "chosen":
            pytest.skip("MLIR refuses `cond` by name")
    module = loads(source(place, dtype))
    assert module.difference(loads(print_module(module))) is None
    name = target.removesuffix("18")
    artifact = ts.compile(module, target=name, **TARGETS[target])
    if name == "onnx" and dtype == "bf16":
        assert "cannot execute" in artifact.report.notes[0]
        return
    assert artifact.report.verified
    graph = artifact.module.graph
    given = feed(graph, np.random.default_rng(0))
    states = {v.name: np.asarray(v.init.name == "ones").astype(v.type.dtype.numpy) for v in graph.inputs if v.role == "state"}
    compare(artifact(**given), graph, given | states)
    opened = ts.open(artifact.save(tmp_path / f"m{artifact.suffix}"))
    compare(opened(given), graph, given | states)
    compare(opened(**given), graph, given | states)
    session = artifact.session()
    for _ in range(2):
        found = {**session(**given), **session.states()}
        outputs = {info.name: found[info.name] for info in graph.output_info}
        compare(outputs, graph, given | states)
        states = session.states()


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_python_numbers_are_scalars(target: str) -> None:
    source = "model m(t: f16[], n: i32[], p: bool[]) -> (f16[], i32[], bool[]) { return t * 2.0, n + 1, not p }"
    artifact = ts.compile(loads(source), target=target)
    found = list(artifact(t=3, n=4, p=True).values())
    assert [x.item() for x in found] == [6, 5, False]
    assert [x.dtype.name for x in found] == ["float16", "int32", "bool"]
    with pytest.raises(ts.Diagnostic, match="E0903"):
        artifact(t=3, n=0.5, p=True)


def test_a_module_takes_python_numbers() -> None:
    source = "model m(t: f64[], n: i8[], p: bool[]) -> (f64[], i8[], bool[]) { return t * 2.0, n + 1, not p }"
    from tessera.backends.torch import build

    module = build(loads(source))
    assert [y.item() for y in module(3, 4, True).values()] == [6, 5, False]
    with pytest.raises(ts.Diagnostic, match="E0903"):
        module(3, 0.5, True)


def test_scalars_pass_through_a_flow() -> None:
    source = """
        model count(step: i64[]) -> i64[] { state n: i64[] = zeros  n = n + step  return n * 1 }
        model warm(n: i64[], t: f32[]) -> f32[] { param scale: f32[] = constant(0.5)  return cast(n, f32) * t * scale }
        program p {
            entry count = count
            entry warm = warm
            host half = "m:half"(t: f32[]) -> f32[]
            flow twice(step: i64[], t: f32[]) -> f32[] {
                a = count(step)
                b = count(a)
                return warm(b, half(t))
            }
        }
    """
    for target in ("onnx", "torch"):
        artifact = ts.compile(loads(source), target=target)
        found = artifact.run("twice", {"step": 3, "t": 4.0}, host={"half": lambda t: t / 2})
        assert list(found.values()) == [6 * 2 * 0.5]


def test_scalars_are_read_from_files(tmp_path: Path) -> None:
    specs = [InputSpec("t", "f32", ()), InputSpec("n", "i64", ())]
    np.savez(tmp_path / "both.npz", t=0.5, n=3)
    np.save(tmp_path / "n.npy", np.int32(4))
    found = read_inputs(specs, [("", str(tmp_path / "both.npz")), ("n", str(tmp_path / "n.npy"))])
    assert {name: (array.item(), array.shape, array.dtype.name) for name, array in found.items()} == {
        "t": (0.5, (), "float32"), "n": (3, (), "int64"),
    }  # fmt: skip
    with pytest.raises(ts.Diagnostic, match="a scalar has no axis along which to join them"):
        read_inputs(specs[1:], [("n", str(tmp_path / "n.npy"))] * 2)
