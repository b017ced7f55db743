"""Attention and the patches of an image as integer products: against the floats, over every form that a file has of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ox
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import ShapeInferencePass

from tessera.driver.report import integers, measure, results
from tessera.driver.report.calibration import Examples
from tessera.driver.report.quantize import integer_products, quantize_best

HEADS, WIDTH, TOKENS = 3, 8, 11


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _save(path: Path, nodes: list[Any], inputs: dict[str, list[int | str]], tables: dict[str, np.ndarray]) -> Path:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", ports, out, [numpy_helper.from_array(a, n) for n, a in tables.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11), path)
    return path


def _run(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def _open(path: Path) -> ox.Model:
    return ShapeInferencePass()(ox.load(path)).model


def _attention(path: Path, joined: bool, mask: np.ndarray | None, **more: Any) -> tuple[Path, dict[str, np.ndarray]]:
    """A file whose queries, keys and values are made from inputs, which `ranges` can show; and inputs for it."""
    shape = (2, TOKENS, HEADS * WIDTH) if joined else (2, HEADS, TOKENS, WIDTH)
    heads = {"q_num_heads": HEADS, "kv_num_heads": HEADS} if joined else {}
    nodes = [helper.make_node("Mul", [x, "three"], [f"{x}3"]) for x in "qkv"]
    tables = {"three": np.float32(3)}
    masks = []
    if mask is not None:
        tables["mask"], masks = mask, ["mask"]
    options = {"scale": 0.3, **heads, **more}
    nodes.append(helper.make_node("Attention", ["q3", "k3", "v3", *masks], ["y"], **options))
    rng = _rng()
    feeds = {x: rng.standard_normal(shape).astype(np.float32) for x in "qkv"}
    return _save(path, nodes, {x: list(shape) for x in "qkv"}, tables), feeds


def _far(found: np.ndarray, floats: np.ndarray) -> float:
    return float(np.linalg.norm(found - floats) / np.linalg.norm(floats))


SEEN = np.arange(TOKENS) < TOKENS - 3
MASKS = {
    "none": None,
    "bool": np.broadcast_to(SEEN, (2, 1, TOKENS, TOKENS)).copy(),
    "infinite": np.where(SEEN, 0.0, -np.inf).astype(np.float32)[None, None, None].repeat(TOKENS, 2),
    "bias": _rng().standard_normal((1, HEADS, TOKENS, TOKENS)).astype(np.float32),
}


@pytest.mark.parametrize("joined", [True, False], ids=["joined", "split"])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_of_integers_is_near_that_of_floats(tmp_path: Path, mask: str, joined: bool) -> None:
    path, feeds = _attention(tmp_path / "floats.onnx", joined, MASKS[mask])
    model = _open(path)
    limits = integers.ranges(path, ["q3", "k3", "v3"], [feeds])
    assert limits["k3"] == (feeds["k"].min() * 3, feeds["k"].max() * 3)
    integers.attention_in_integers(model, limits)
    made = tmp_path / "integers.onnx"
    ox.save(model, made)
    assert "Attention" not in {n.op_type for n in onnx.load(made).graph.node}
    assert integer_products(made) == 2
    floats, found = _run(path, feeds), _run(made, feeds)
    assert found.shape == floats.shape
    assert 0 < _far(found, floats) < 0.05


def test_a_row_that_sees_nothing_spoils_no_other(tmp_path: Path) -> None:
    """Not a number in the shares of one row would leave no scale for the others."""
    mask = np.zeros((2, 1, TOKENS, TOKENS), np.float32)
    mask[1] = -np.inf
    path, feeds = _attention(tmp_path / "floats.onnx", True, mask)
    model = _open(path)
    integers.attention_in_integers(model, integers.ranges(path, ["q3", "k3", "v3"], [feeds]))
    ox.save(model, tmp_path / "integers.onnx")
    floats, found = _run(path, feeds)[0], _run(tmp_path / "integers.onnx", feeds)
    assert np.isfinite(found).all()
    assert _far(found[0], floats) < 0.05


@pytest.mark.parametrize("more", [{"is_causal": 1}, {"softcap": 2.0}, {"scale": 0.0}], ids=lambda more: next(iter(more)))
def test_what_is_more_than_two_products_stays(tmp_path: Path, more: dict[str, Any]) -> None:
    path, _ = _attention(tmp_path / "floats.onnx", True, None, **more)
    assert not integers.plain_attention(_open(path))


def test_heads_that_share_keys_stay(tmp_path: Path) -> None:
    node = helper.make_node("Attention", ["q", "k", "k"], ["y"], scale=0.3, q_num_heads=4, kv_num_heads=2)
    path = _save(tmp_path / "shared.onnx", [node], {"q": [1, TOKENS, 4 * WIDTH], "k": [1, TOKENS, 2 * WIDTH]}, {})
    assert not integers.plain_attention(_open(path))


def _patches(path: Path, window: tuple[int, int], bias: bool, size: int | str = 32, **more: Any) -> Path:
    rng = _rng()
    tables = {"kernel": rng.standard_normal((5, 3, *window)).astype(np.float32)}
    if bias:
        tables["bias"] = rng.standard_normal(5).astype(np.float32)
    node = helper.make_node("Conv", ["image", *tables], ["y"], **{"strides": list(window), **more})
    return _save(path, [node], {"image": ["B", 3, size, 32]}, tables)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("window", [(8, 8), (16, 8), (4, 16), (32, 32)], ids=str)
def test_patches_are_a_product(tmp_path: Path, window: tuple[int, int], bias: bool) -> None:
    path = _patches(tmp_path / "conv.onnx", window, bias)
    model = _open(path)
    assert integers.patches_as_products(model) == 1
    made = tmp_path / "product.onnx"
    ox.save(model, made)
    onnx.checker.check_model(made, full_check=True)
    assert {n.op_type for n in onnx.load(made).graph.node} == {"Reshape", "Transpose", "MatMul"} | ({"Add"} if bias else set())
    images = {"image": _rng().standard_normal((2, 3, 32, 32)).astype(np.float32)}
    np.testing.assert_allclose(_run(made, images), _run(path, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "other",
    [
        {"window": (4, 4)}, {"window": (8, 8), "strides": [8, 4]}, {"window": (8, 8), "pads": [1, 0, 0, 0]},
        {"window": (8, 8), "size": "H"}, {"window": (24, 8)}, {"window": (8, 8), "dilations": [2, 1]},
    ],
    ids=["narrow", "overlap", "padded", "free", "cut", "dilated"],
)  # fmt: skip
def test_other_windows_stay(tmp_path: Path, other: dict[str, Any]) -> None:
    assert not integers.patches_as_products(_open(_patches(tmp_path / "conv.onnx", bias=False, **other)))


@pytest.mark.parametrize("pays", [True, False])
def test_attention_is_taken_where_it_pays(tmp_path: Path, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SETTLE", 0.0)
    monkeypatch.setattr(measure, "TURN", 0.0)
    monkeypatch.setattr(results, "pays", lambda *_: pays)
    path, feeds = _attention(tmp_path / "floats.onnx", True, None)
    [told] = quantize_best(path, tmp_path / "int8.onnx", None, Examples([feeds], "one example"), threads=1)
    assert told.startswith("1 op of attention of `floats` " + ("is in int8 with" if pays else "stays in floats"))
    assert integer_products(tmp_path / "int8.onnx") == 2 * pays
