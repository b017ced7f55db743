"""What stands behind a number of rows that only run time knows: followed through ops of every kind, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tessera.backends.onnx import build as build_onnx
from tessera.backends.onnx import serialize
from tessera.backends.onnx.session import Session
from tessera.backends.torch import build
from tessera.frontends.onnx import load
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.imported import Imported

from .support import model, node, round_trip

CONSTANTS = {
    "w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]),
    "three": np.array([3]), "eight": np.array([8]), "minus": np.array([-1]), "least": np.array([-(1 << 62)]),
    "flat": np.array([-1]), "low": np.float32(-0.5), "half": np.float32(0.5), "pair": np.array([2, -1]), "last": np.array(-1),
    "step": np.array(1), "begin": np.array(0),
}  # fmt: skip
ROWS = [node("Compress", "x p", "rows", axis=0), node("Shape", "rows", "shape"), node("Gather", "shape zero", "n", axis=0)]
TAILS: dict[str, list[Any]] = {
    "element by element": [node("Relu", "rows", "a"), node("Mul", "a rows", "y")],
    "sum": [node("ReduceSum", "rows zero", "y")],
    "mean": [node("ReduceMean", "rows zero", "y")],
    "largest": [node("Add", "rows w_row", "b"), node("Concat", "b x", "a", axis=0), node("ReduceMax", "a zero", "y")],
    "place of the largest": [node("Concat", "rows x", "a", axis=0), node("ArgMax", "a", "y", axis=0)],
    "softmax over the rows": [node("Softmax", "rows", "y", axis=0)],
    "softmax over the columns": [node("Softmax", "rows", "y", axis=1)],
    "a norm of each": [node("LayerNormalization", "rows w_row", "y")],
    "product with a weight": [node("MatMul", "rows w", "y")],
    "product over the rows": [node("Transpose", "rows", "a", perm=[1, 0]), node("MatMul", "a rows", "y")],
    "rows with one another": [
        node("Transpose", "rows", "a", perm=[1, 0]), node("MatMul", "rows a", "b"), node("Softmax", "b", "c", axis=1),
        node("MatMul", "c rows", "y"),
    ],
    "an einsum over the rows": [node("Einsum", "rows rows", "y", equation="nd,ne->de")],
    "the best": [
        node("Min", "n two", "k"), node("Slice", "rows zero one one", "a"), node("Squeeze", "a one", "b"),
        node("TopK", "b k", "v at"), node("Gather", "rows at", "y", axis=0),
    ],
    "all in order": [node("Slice", "rows zero one one", "a"), node("TopK", "a n", "y at", axis=0)],
    "behind one another": [node("Concat", "rows x rows", "y", axis=0)],
    "beside one another": [node("Concat", "rows rows", "y", axis=1)],
    "the first": [node("Slice", "rows zero three zero", "y")],
    "without the first": [node("Slice", "rows one eight zero", "y")],
    "padded to eight": [
        node("Sub", "eight n", "more"), node("Concat", "zero zero more zero", "pads", axis=0), node("Pad", "rows pads low", "y"),
    ],
    "numbers of the rows": [node("Squeeze", "n zero", "m"), node("Range", "begin m step", "y")],
    "made for the rows": [node("Concat", "n two", "s", axis=0), node("Expand", "half s", "y")],
    "flat": [node("Reshape", "rows flat", "y")],
    "in pairs of columns": [node("Concat", "n two two", "s", axis=0), node("Reshape", "rows s", "y")],
    "running sums": [node("CumSum", "rows begin", "y")],
    "picked again": [
        node("ReduceMax", "rows one", "a", keepdims=0), node("Greater", "a low", "q"), node("Compress", "rows q", "b", axis=0),
        node("Tanh", "b", "y"),
    ],
    "written to places": [
        node("NonZero", "p", "at"), node("Transpose", "at", "t", perm=[1, 0]), node("Tanh", "rows", "v"),
        node("ScatterND", "x t v", "y"),
    ],
    "places of what is positive": [node("Greater", "rows low", "g"), node("NonZero", "g", "y")],
    "a table by the rows": [node("ArgMax", "rows", "a", axis=1, keepdims=0), node("Gather", "w a", "y", axis=0)],
    "compared with one another": [
        node("Slice", "rows zero one one", "a"), node("Transpose", "a", "b", perm=[1, 0]), node("Less", "a b", "c"),
        node("Cast", "c", "d", to=7), node("ReduceSum", "d one", "y"),
    ],
}  # fmt: skip
QUICK = ("the best", "behind one another", "written to places")


def made(tail: list[Any], path: Path, capacity: int | None = None) -> tuple[onnx.ModelProto, Imported]:
    constants = {**CONSTANTS, "w_row": np.linspace(0.5, 2, 4, dtype=np.float32)}
    proto = model([*ROWS, *tail], {"x": ("f32", ["N", 4]), "p": ("bool", ["N"])}, ["y"], constants)
    onnx.save(proto, path / "m.onnx")
    return proto, load(path / "m.onnx", capacity=capacity)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.extended) for n in TAILS])
def test_a_tail(name: str, tmp_path: Path) -> None:
    proto, imported = made(TAILS[name], tmp_path)
    again = loads(round_trip(imported))
    theirs = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    ours, session = build(again, imported.weights), Session(serialize(build_onnx(again, imported.weights)))
    rng = np.random.default_rng(0)
    for size, share in ((6, 0.5), (7, 1.0), (5, 0.0), (1, 1.0)):
        x, p = rng.standard_normal((size, 4)).astype(np.float32), rng.random(size) < share
        if not p.any() and name in ("mean", "place of the largest", "all in order", "the best"):
            continue
        (wanted,) = theirs.run(None, {"x": x, "p": p})
        with torch.no_grad():
            by_torch = {k: v.numpy() for k, v in ours(torch.from_numpy(x), torch.from_numpy(p)).items()}
        for kind, results in (("torch", by_torch), ("onnx", session({"x": x, "p": p}))):
            (found,) = imported.rows_that_count(results).values()
            assert found.dtype == wanted.dtype
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg=f"{kind}, {int(p.sum())} of {size} rows")


REFUSED = {
    "the last": ([node("Gather", "rows last", "y", axis=0)], "counted from the last row"),
    "turned round": ([node("Slice", "rows minus least zero minus", "y")], "turned round|counted from the last"),
    "in two halves": ([node("Reshape", "rows pair", "y")], "must be|rows"),
    "as many as the columns": ([node("Add", "rows x", "y")], "rows that depends on values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_let_in_rows_that_do_not_count_is_refused(name: str, tmp_path: Path) -> None:
    tail, message = REFUSED[name]
    with pytest.raises(Diagnostic, match=message) as error:
        made(tail, tmp_path)
    assert error.value.code in ("E0759", "E0761")


def test_a_capacity_keeps_the_first_rows(tmp_path: Path) -> None:
    _, imported = made([node("Tanh", "rows", "y")], tmp_path, capacity=3)
    assert imported.counted == {"y": {0: "y_count"}}
    assert "the first `y_count` count" in imported.notes[-1]
    assert str(imported.module.graph.outputs[0].type) == "f32[min(3, N), 4]"
    x = torch.randn(6, 4)
    results = build(imported.module, imported.weights)(x, torch.tensor([True, False, True, True, True, True]))
    assert int(results["y_count"]) == 3
    torch.testing.assert_close(results["y"], x[[0, 2, 3]].tanh())


@pytest.mark.parametrize("size", [3, 5, 9])
def test_fewer_rows_are_written_than_there_are_places(size: int, tmp_path: Path) -> None:
    """What `masked_scatter` becomes: BLIP-2 puts 16 features in the place of as many marked tokens of a text of any length."""
    rows = [
        node("NonZero", "p", "where"), node("Transpose", "where", "places", perm=[1, 0]), node("Shape", "places", "shape"),
        node("Gather", "shape zero", "n", axis=0), node("Slice", "features zero n", "taken"),
        node("ScatterND", "x places taken", "y"),
    ]  # fmt: skip
    constants = {**CONSTANTS, "features": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}
    proto = model(rows, {"x": ("f32", ["N", 4]), "p": ("bool", ["N"])}, ["y"], constants)
    onnx.save(proto, tmp_path / "m.onnx")
    imported = load(tmp_path / "m.onnx")
    again = loads(round_trip(imported))
    theirs = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    ours, session = build(again, imported.weights), Session(serialize(build_onnx(again, imported.weights)))
    x = np.random.default_rng(0).standard_normal((size, 4)).astype(np.float32)
    for count in range(4):
        p = np.arange(size) >= size - count
        (wanted,) = theirs.run(None, {"x": x, "p": p})
        np.testing.assert_array_equal(ours(torch.from_numpy(x), torch.from_numpy(p))["y"].numpy(), wanted)
        np.testing.assert_array_equal(session({"x": x, "p": p})["y"], wanted)


@pytest.mark.parametrize("centred", [False, True])
def test_the_tail_of_a_detector(centred: bool, tmp_path: Path) -> None:
    """Boxes that are decoded, kept by score and overlap, and gathered with their scores, as YOLO and SSD export them."""
    nodes = [
        node("Sigmoid", "scores", "s"),
        node("NonMaxSuppression", "boxes s most overlap least", "kept", center_point_box=int(centred)),
        node("Gather", "kept zero", "b", axis=1), node("Gather", "kept two", "at", axis=1),
        node("Gather", "kept one", "class", axis=1), node("Concat", "b at", "where", axis=1),
        node("GatherND", "boxes where", "box"), node("GatherND", "s kept", "score"),
        node("Unsqueeze", "score one", "column"), node("Cast", "b", "b_real", to=1), node("Cast", "class", "c_real", to=1),
        node("Concat", "b_real box c_real column", "y", axis=1),
    ]  # fmt: skip
    constants = {
        "most": np.array([5]), "overlap": np.array([0.4], np.float32), "least": np.array([0.5], np.float32), "zero": np.array([0]),
        "one": np.array([1]), "two": np.array([2]),
    }  # fmt: skip
    proto = model(nodes, {"boxes": ("f32", ["B", "N", 4]), "scores": ("f32", ["B", 3, "N"])}, ["y"], constants)
    onnx.save(proto, tmp_path / "m.onnx")
    imported = load(tmp_path / "m.onnx")
    again = loads(round_trip(imported))
    theirs = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    ours, session = build(again, imported.weights), Session(serialize(build_onnx(again, imported.weights)))
    rng = np.random.default_rng(0)
    for batch, count in ((1, 20), (3, 9), (2, 1)):
        low, size = rng.random((2, batch, count, 2)).astype(np.float32) * 8
        boxes = np.concatenate([low, size if centred else low + size], -1)
        scores = rng.standard_normal((batch, 3, count)).astype(np.float32)
        (wanted,) = theirs.run(None, {"boxes": boxes, "scores": scores})
        by_torch = {k: v.numpy() for k, v in ours(torch.from_numpy(boxes), torch.from_numpy(scores)).items()}
        for results in (by_torch, session({"boxes": boxes, "scores": scores})):
            (found,) = imported.rows_that_count(results).values()
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
