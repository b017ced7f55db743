"""int8 of a file: products as they come, and convolutions with scales from calibration where that is better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tessera.driver.report import measure, results
from tessera.driver.report.calibration import Examples
from tessera.driver.report.quantize import integer_products, quantize_best

RNG = np.random.default_rng(0)
CONVOLUTIONS = 3


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here says how long something takes."""
    monkeypatch.setattr(measure, "SETTLE", 0.0)
    monkeypatch.setattr(measure, "TURN", 0.0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three convolutions and a classifier."""
    nodes, tables, x, channels = [], [], "image", 3
    for i in range(CONVOLUTIONS):
        weight = (RNG.standard_normal((16, channels, 3, 3)) / np.sqrt(9 * channels)).astype(np.float32)
        tables.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes += [helper.make_node("Conv", [x, f"w{i}"], [f"c{i}"], pads=[1] * 4), helper.make_node("Relu", [f"c{i}"], [f"r{i}"])]
        x, channels = f"r{i}", 16
    tables.append(numpy_helper.from_array(RNG.standard_normal((16, 5)).astype(np.float32), "head"))
    nodes += [helper.make_node("GlobalAveragePool", [x], ["pooled"]), helper.make_node("Flatten", ["pooled"], ["flat"])]
    nodes.append(helper.make_node("MatMul", ["flat", "head"], ["logits"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["B", 3, 16, 16])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 5])
    graph = helper.make_graph(nodes, "g", [image], [logits], tables)
    path = tmp_path / "pictures.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


EXAMPLES = Examples([{"image": RNG.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(4)], "4 images")


@pytest.mark.parametrize("pays", [True, False, None])
def test_convolutions_are_calibrated_where_it_pays(pictures: Path, pays: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "pays", lambda *_: pays)
    output = pictures.with_name("int8.onnx")
    [told] = quantize_best(pictures, output, None, EXAMPLES, threads=1)
    assert told.startswith(f"3 convolutions of `pictures` {'are in int8 with' if pays else 'stay in floats'}")
    # The product with the classifier is one of integers either way.
    assert integer_products(output) == 1 + CONVOLUTIONS * bool(pays)


def test_what_loses_too_much_is_not_taken(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel that is a thousand times as large as the rest leaves one level for these."""
    model = onnx.load(pictures)
    table = next(t for t in model.graph.initializer if t.name == "w0")
    weight = numpy_helper.to_array(table).copy()
    weight[0] *= 5000
    table.CopyFrom(numpy_helper.from_array(weight, "w0"))
    second = next(t for t in model.graph.initializer if t.name == "w1")
    weight = numpy_helper.to_array(second).copy()
    weight[:, 0] = 0
    second.CopyFrom(numpy_helper.from_array(weight, "w1"))
    onnx.save(model, pictures)
    monkeypatch.setattr(results, "pays", lambda *_: True)
    output = pictures.with_name("int8.onnx")
    assert "stay in floats" in str(quantize_best(pictures, output, None, EXAMPLES, threads=1))
    assert integer_products(output) == 1


def test_without_convolutions_or_attention_nothing_is_told(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(RNG.standard_normal((8, 8)).astype(np.float32), "w")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", 8]) for n in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "one.onnx")
    examples = Examples([{"x": np.ones((1, 8), np.float32)}], "1 example")
    assert quantize_best(tmp_path / "one.onnx", tmp_path / "int8.onnx", None, examples, threads=1) == []
    assert integer_products(tmp_path / "int8.onnx") == 1
