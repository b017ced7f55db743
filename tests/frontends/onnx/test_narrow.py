"""Element types of 8 bits or less: as weights, rounded to on the way, and refused where they would come out."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tessera.frontends.onnx import load
from tessera.frontends.onnx.narrow import NARROW
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.imported import Imported

from .support import round_trip, run_imported

FLOATS = {narrow.name: number for number, narrow in NARROW.items() if narrow.rounds is not None}


def made(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], result: int = TensorProto.FLOAT) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])
    y = helper.make_tensor_value_info("y", result, ["N"])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=12)


def imported(model: onnx.ModelProto, folder: Path, **how: bool) -> Imported:
    onnx.save(model, folder / "m.onnx", **how)
    found = load(folder / "m.onnx")
    round_trip(found)
    return found


@pytest.mark.parametrize("saturate", [1, 0])
@pytest.mark.parametrize("name", FLOATS)
def test_every_half_and_many_singles_are_rounded_as_the_reference_has_it(name: str, saturate: int, tmp_path: Path) -> None:
    if name == "float4e2m1" and not saturate:
        pytest.skip("it has no number beyond its largest")
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    rng = np.random.default_rng(0)
    x = np.concatenate([halves, rng.standard_normal(20_000) * np.exp(rng.uniform(-15, 15, 20_000))]).astype(np.float32)
    x = x[~np.isnan(x)] if name == "float4e2m1" else x
    there = helper.make_node("Cast", ["x"], ["t"], to=FLOATS[name], saturate=saturate)
    model = made([there, helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT)], {})
    (found,) = run_imported(imported(model, tmp_path), [x])
    np.testing.assert_array_equal(found, ReferenceEvaluator(model).run(None, {"x": x})[0])  # type: ignore[index]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    "dtype",
    ["int4", "uint4", "int2", "uint2", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float4_e2m1fn"],
)
def test_weights_of_every_width_are_read(dtype: str, beside: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, 301) if dtype == "int2" else rng.integers(0, 4, 301)
    values = (values - (2 if dtype in ("int4", "int2") else 0)).astype(getattr(ml_dtypes, dtype))
    nodes = [helper.make_node("Cast", ["w"], ["t"], to=TensorProto.FLOAT), helper.make_node("Mul", ["x", "t"], ["y"])]
    model = made(nodes, {"w": values})
    found = imported(model, tmp_path, save_as_external_data=beside) if beside else imported(model, tmp_path)
    x = rng.standard_normal(301).astype(np.float32)
    np.testing.assert_array_equal(run_imported(found, [x])[0], x * values.astype(np.float32))


def test_reals_become_them_and_reals_again(tmp_path: Path) -> None:
    x = np.linspace(-40, 40, 999, dtype=np.float32)
    for dtype in (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        weights = {"s": np.float32(0.5), "z": np.zeros((), np.int32).astype(dtype)}
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["t"]), helper.make_node("Reshape", ["t", "shape"], ["u"]),
            helper.make_node("DequantizeLinear", ["u", "s", "z"], ["y"]),
        ]  # fmt: skip
        model = made(nodes, {**weights, "shape": np.array([-1], np.int64)})
        (found,) = run_imported(imported(model, tmp_path), [x])
        np.testing.assert_array_equal(found, ReferenceEvaluator(model).run(None, {"x": x})[0], err_msg=str(dtype))  # type: ignore[index]


@pytest.mark.parametrize(
    ("to", "then", "message"),
    [
        (TensorProto.FLOAT8E5M2, "Identity", "the output `y` has the element type float8e5m2"),
        (TensorProto.FLOAT8E4M3FN, "Neg", "computes with float8e4m3fn"),
        (TensorProto.INT4, "Identity", "a conversion to int4"),
    ],
)
def test_what_would_come_out_as_another_type_is_refused(to: int, then: str, message: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["t"], to=to), helper.make_node(then, ["t"], ["y"])]
    with pytest.raises(Diagnostic, match=message):
        imported(made(nodes, {}), tmp_path)
