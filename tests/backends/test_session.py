"""Sessions: what goes in is checked and named; broken artifacts and runtime failures are diagnostics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tessera.backends.onnx import build, save, serialize
from tessera.backends.onnx.session import Session
from tessera.frontends.source import loads
from tessera.ir.binding import decode_dim, encode_dim, solve_symbols, symbol_sizes
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import Dim, ceildiv, const, dim_min, sym
from tessera.runtime.files.wire import mapped_model

SUM = """
model m(x: float[B, T, 2], bias: float[T, 2], *, most: int = 6) -> float[B, T, 2] {
    require T <= most, "too many tokens"
    return x + bias
}
"""
BEST = """
model m(x: float[B, T]) -> (float[B, 2], i64[B, 2]) {
    values, index = topk(x, k=2)
    return values, index
}
"""


def session(text: str, dtype: str = "f32", **options: Any) -> Session:
    return Session(serialize(build(loads(text, dtype=dtype))), **options)


def refused(call: Any, *args: Any, **named: Any) -> Diagnostic:
    with pytest.raises(Diagnostic) as caught:
        call(*args, **named)
    return caught.value


X, BIAS = np.ones((3, 4, 2), np.float32), np.ones((4, 2), np.float32)


def test_nothing_is_told_of_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    said: list[str] = []
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: said.append("off"))

    def made(*args: Any, **named: Any) -> Any:
        said.append("session")
        return real(*args, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", made)
    session(SUM)
    assert said == ["off", "session"]


def test_a_session_says_what_it_takes() -> None:
    runs = session(SUM)
    assert [str(spec) for spec in runs.inputs] == ["x: f32[B, T, 2]", "bias: f32[T, 2]"]
    assert runs.optional == []
    assert len(runs.outputs) == 1
    assert runs.metadata["tessera.model"] == "m"
    (y,) = runs({"x": X, "bias": BIAS}).values()
    np.testing.assert_array_equal(y, X + BIAS)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_weights_may_stay_mapped_in_the_file(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
    use std.nn (linear, layer_norm)
    model m(x: float[B, 37]) -> float[B, 33] { return linear(layer_norm(x) as norm, out=33) as head }
    """
    path = save(build(loads(text, dtype=dtype)), tmp_path / "m.onnx")
    monkeypatch.setattr("tessera.backends.onnx.session._MAP_FROM", 0)
    model = onnx.load_from_string(mapped_model(path))
    outside = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert [(list(t.dims), t.external_data[0].value) for t in outside] == [([37, 33], "m.onnx")]
    x = np.random.default_rng(0).standard_normal((4, 37)).astype(dtype.replace("f", "float"))
    for a, b in zip(Session(path, mapped=True)({"x": x}).values(), Session(path)({"x": x}).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5 if dtype == "f32" else 1e-2, atol=1e-6)


def test_a_width_of_the_same_kind_is_converted() -> None:
    (y,) = session(SUM)({"x": X.astype(np.float64), "bias": BIAS.tolist()}).values()
    assert y.dtype == np.float32


def test_names() -> None:
    runs = session(SUM)
    error = refused(runs, {"x": X, "bais": BIAS})
    assert (error.code, error.message, error.help) == (
        "E0901",
        "the artifact has no input `bais`",
        "did you mean `bias`?",
    )
    error = refused(runs, {"x": X})
    assert (error.code, error.message) == ("E0901", "no value for `bias: f32[T, 2]`")


def test_dtypes_and_ranks() -> None:
    runs = session(SUM)
    assert refused(runs, {"x": X.astype(np.int64), "bias": BIAS}).code == "E0903"
    assert refused(runs, {"x": X[0], "bias": BIAS}).code == "E0902"
    assert refused(runs, {"x": X[:, :, :1], "bias": BIAS}).code == "E0902"


def test_sizes_that_disagree_show_where_they_come_from() -> None:
    error = refused(session(SUM), {"x": X, "bias": BIAS[:3]})
    assert error.code == "E0902"
    assert error.message == "axis 0 of `bias` must be T = 4, but is 3: [3, 2]"
    assert [note.message for note in error.notes] == ["T is 4, from axis 1 of `x`"]


def test_a_requirement_that_does_not_hold() -> None:
    x, bias = np.ones((1, 7, 2), np.float32), np.ones((7, 2), np.float32)
    error = refused(session(SUM), {"x": x, "bias": bias})
    assert error.code == "E0904"
    assert error.message == "too many tokens: 7 <= 6 does not hold"
    assert [note.message for note in error.notes] == ["this is `T <= 6`", "T is 7"]


def test_what_a_selection_needs_is_a_requirement() -> None:
    error = refused(session(BEST), {"x": np.ones((2, 1), np.float32)})
    assert error.code == "E0904"
    assert "cannot select more elements than there are" in error.message


def test_nan_is_refused_where_something_is_selected() -> None:
    x = np.ones((2, 3), np.float32)
    x[1, 2] = np.nan
    runs = session(BEST)
    assert runs.selects
    assert refused(runs, {"x": x}).code == "E0922"
    plain = session("model m(x: float[B, T]) -> float[B, T] { return x * 2.0 }")
    assert not plain.selects
    (y,) = plain({"x": x}).values()
    assert np.isnan(y[1, 2])


def test_a_selection_inside_a_loop_counts() -> None:
    text = """
        model m(x: float[B, 4]) -> float[B, 4] {
            fold i in 2 from (x) { values, index = sort(x)  x = values }
            return x
        }
    """
    assert session(text).selects


def test_a_state_needs_the_sizes_of_the_inputs() -> None:
    text = """
        model m(x: float[B, 2]) -> float[B, 2] {
            state memory: float[B, 2] = ones
            memory = memory + x
            return memory
        }
    """
    runs = session(text)
    assert [s.name for s in runs.optional] == ["memory"]
    outputs = runs({"x": np.ones((3, 2), np.float32)})
    assert outputs["memory"].tolist() == [[2, 2]] * 3
    again = runs({"x": np.ones((3, 2), np.float32), "memory": outputs["memory"]})
    assert again["memory"].tolist() == [[3, 3]] * 3


# Artifacts -----------------------------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    error = refused(Session, tmp_path / "no.onnx")
    assert error.code == "E0910"


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "no data"])
def test_a_damaged_file(tmp_path: Path, damage: str) -> None:
    text = "use std.nn (linear)\nmodel m(x: float[B, 64]) -> float[B, 64] { return linear(x, out=64) as l }"
    path = save(build(loads(text)), tmp_path / "m.onnx", external=damage == "no data")
    data = path.read_bytes()
    if damage == "no data":
        (tmp_path / "m.onnx.data").unlink()
    else:
        path.write_bytes({"empty": b"", "text": b"hello, world", "truncated": data[: len(data) // 2]}[damage])
    error = refused(Session, path)
    assert error.code == "E0910"
    assert "m.onnx" in error.message


def test_damaged_metadata() -> None:
    model = build(loads(SUM), metadata={"tessera.inputs": '[{"name": 3}]'})
    error = refused(Session, serialize(model))
    assert error.code == "E0910"
    assert "says of its inputs" in error.message


def test_a_dtype_that_onnx_runtime_does_not_execute() -> None:
    error = refused(session, "model m(x: float[B]) -> float[B] { return exp(x) }", dtype="bf16")
    assert error.code == "E0911"


def test_a_failure_inside_onnx_runtime() -> None:
    # Of a computed index nothing is known beforehand.
    text = "use std.nn (embedding)\nmodel m(ids: i64[B]) -> float[B, 4] { return embedding(ids * ids, vocab=3, dim=4) as e }"
    error = refused(session(text), {"ids": np.array([7])})
    assert error.code == "E0912"
    assert "an index that is computed lies outside its axis" in error.message
    assert any("Gather" in note.message for note in error.notes)


def test_a_file_that_tessera_did_not_write(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", None, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None, 2])
    graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "other", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "o.onnx")
    runs = Session(tmp_path / "o.onnx")
    assert [str(s) for s in runs.inputs] == ["x: f32[N, x.1, 2]"]
    assert runs.outputs == ["y"]
    np.testing.assert_allclose(runs({"x": X})["y"], np.exp(X), rtol=1e-6)


def test_options_reach_onnx_runtime(tmp_path: Path) -> None:
    runs = session(SUM, threads=1, options={"session.intra_op.allow_spinning": "0"}, profile=str(tmp_path / "profile"))
    runs({"x": X, "bias": BIAS})
    del runs
    assert list(tmp_path.glob("profile*.json"))


MEMORY = """
import sys
from tessera.backends.onnx.session import Session
import numpy as np

def private():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) >> 10

import onnxruntime
before = private()
session = Session(sys.argv[1], **eval(sys.argv[2]))
session({"x": np.ones((1, 4096), np.float32)})
print(private() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_in_a_data_file_stay_mapped(tmp_path: Path) -> None:
    text = "use std.nn (linear)\nmodel m(x: float[B, 4096]) -> float[B, 4096] { return linear(x, out=4096) as l }"
    path = save(build(loads(text)), tmp_path / "m.onnx", external=True)  # 64 MiB

    def grown(**options: Any) -> int:
        command = [sys.executable, "-c", MEMORY, str(path), repr(options)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert grown() < 24
    assert grown(prepack=True) > 48


# Symbols -------------------------------------------------------------------------------------------------------------

B, T = sym("B"), sym("T")


@pytest.mark.parametrize(
    "dim", [const(5), T, T * B * 2 - 7, ceildiv(T, 3) % B, dim_min(const(8), (T - 1) // 2) * T, T * T - B // (T + 1)]
)
def test_dimensions_survive_json(dim: Dim) -> None:
    import json

    assert decode_dim(json.loads(json.dumps(encode_dim(dim)))) is dim


def test_symbols_are_solved_in_the_order_they_need() -> None:
    shapes = {"x": (B * 2 + T, const(3)), "y": (T - 1,), "z": (T * B,)}
    solved = solve_symbols(shapes)
    assert list(solved) == ["T", "B"]
    assert symbol_sizes(solved, {"x": (13, 3), "y": (4,), "z": (20,)}) == {"T": 5, "B": 4}


def test_what_nothing_determines_is_left_out() -> None:
    assert solve_symbols({"x": (T * B,)}) == {}
    assert solve_symbols({"x": (T // 2,)}) == {}
