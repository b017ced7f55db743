"""The files of the ONNX backend: where weights lie, dtypes, refusals."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx_ir as ox
import pytest
from safetensors.numpy import save_file

from tessera.backends.onnx import build, check, runnable, save, serialize
from tessera.backends.onnx import weights as onnx_weights
from tessera.backends.onnx import write as onnx_write
from tessera.backends.onnx.emit import Emitter
from tessera.backends.onnx.session import Session
from tessera.frontends.source import loads, resolve
from tessera.ir.builder import Builder
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Graph
from tessera.ir.types import DTYPES, i64
from tessera.runtime.weights.open import open_weights

from .support import linear_model, module, of, ops, randn, session

# Weights and files ---------------------------------------------------------------------------------------------------


def test_a_weight_is_stored_transposed_when_nothing_else_reads_it() -> None:
    model = build(linear_model())
    assert list(model.graph.initializers) == ["layers.0.weight.T", "layers.0.bias"]
    assert ops(model) == ["MatMul", "Add"]
    b = Builder(Graph("m"))
    x, w = b.input("x", of("f32", "B", 4)), b.param("w", of("f32", 6, 4))
    shared = build(
        module(b, y=b.op(resolve("std.nn.affine"), x, w, None), z=b.op("take", w, b.input("ids", of("i64", "B"))))
    )
    assert list(shared.graph.initializers) == ["w"]
    assert ops(shared) == ["Transpose", "MatMul", "Gather"]


def test_a_sum_that_is_normalized_stays_apart_from_its_norm(tmp_path: Path) -> None:
    """ONNX Runtime's op for both is several times slower on CPUs than the two."""
    import onnxruntime

    b = Builder(Graph("m"))
    x, y = b.input("x", of("f32", "B", "T", 4)), b.input("y", of("f32", "B", "T", 4))
    norm = resolve("std.nn.layer_normalize")
    weight, total = b.param("w", of("f32", 4)), b.op("add", x, y)
    model = build(module(b, kept=b.op("add", total, b.op(norm, total, weight, None))))
    assert ops(model) == ["Sum", "LayerNormalization", "Add"]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
    loaded = [node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node]
    assert "LayerNormalization" in loaded
    assert "SkipLayerNormalization" not in loaded


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("external", [False, True])
def test_a_saved_file_computes_with_the_given_weights(tmp_path: Path, dtype: str, external: bool) -> None:
    kind = DTYPES[dtype].numpy
    w, bias, x = randn(70, 45, dtype=kind), randn(70, dtype=kind), randn(3, 45, dtype=kind)
    model = build(linear_model(70, 45, dtype), {"layers.0.weight": w, "layers.0.bias": bias})
    path = save(model, tmp_path / "m.onnx", external=external)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"][: 1 + external]
    onnx.checker.check_model(str(path), full_check=True)
    loaded = onnx.load(path)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in loaded.graph.initializer}
    np.testing.assert_array_equal(stored["layers.0.weight.T"], w.T)
    np.testing.assert_allclose(
        Session(path)({"x": x})["y"], x @ w.T + bias, rtol=2e-3, atol=2e-2 if dtype == "f16" else 1e-5
    )
    if not external:
        assert serialize(model) == path.read_bytes()


def test_external_data_is_aligned(tmp_path: Path) -> None:
    save(build(linear_model()), tmp_path / "m.onnx", external=True)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    offsets = [int(e.value) for t in proto.graph.initializer for e in t.external_data if e.key == "offset"]
    assert offsets == [0, 4096]
    assert {e.value for t in proto.graph.initializer for e in t.external_data if e.key == "location"} == {"m.onnx.data"}


def test_large_weights_go_into_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_write, "EXTERNAL_FROM", 100)
    save(build(linear_model()), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").exists()


@pytest.mark.parametrize("shape", [(7, 5), (100, 3), (33, 65), (1, 9)])
@pytest.mark.parametrize("block", [64, 1 << 20])
def test_weights_are_turned_block_by_block(shape: tuple[int, int], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_weights, "BLOCK", block)
    array = randn(*shape)
    blocks = list(onnx_weights._turned(array))
    assert b"".join(b.tobytes() for b in blocks) == np.ascontiguousarray(array.T).tobytes()
    assert max(b.size for b in blocks) <= max(block, shape[0] * 4)


@pytest.mark.parametrize("external", [False, True])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"earlier")

    def full(self: Any) -> Any:
        yield np.zeros(8, np.uint8)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx_weights.Weight, "blocks", full)
    with pytest.raises(Diagnostic) as caught:
        save(build(linear_model()), path, external=external)
    assert caught.value.code == "E0010"
    assert "No space left" in caught.value.message
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_what_the_last_check_refuses_is_not_written(tmp_path: Path) -> None:
    def refuse(aside: Path) -> None:
        onnx.checker.check_model(str(aside), full_check=True)
        raise Diagnostic("E0809", "differs")

    with pytest.raises(Diagnostic, match="E0809"):
        save(build(linear_model()), tmp_path / "m.onnx", external=True, before=refuse)
    assert not list(tmp_path.iterdir())


MEMORY = """
import sys
from pathlib import Path
from tessera.backends.onnx import build, save
from tessera.frontends.source import loads
from tessera.runtime.weights.open import open_weights
text = "use std.nn (linear)\\nmodel m(x: float[B, 4096]) -> float[B, 4096] {\\n"
text += "".join(f"x = linear(x, out=4096, bias=false) as l{i}\\n" for i in range(4)) + "return x }"
module = loads(text)

def anonymous(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) >> 10

folder = Path(sys.argv[1])
weights = open_weights(folder / "w.safetensors")
model = build(module, weights)
before = anonymous("RssAnon")
import threading, time
peak, done = [0], threading.Event()
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous("RssAnon"))
threading.Thread(target=watch, daemon=True).start()
save(model, folder / "m.onnx", external=sys.argv[2] == "external")
done.set()
print(peak[0] - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("where", ["external", "embedded"])
def test_weights_are_never_all_in_private_memory(tmp_path: Path, where: str) -> None:
    array = randn(4096, 4096)  # 64 MiB
    save_file({f"l{i}.weight": array for i in range(4)}, tmp_path / "w.safetensors")
    command = [sys.executable, "-c", MEMORY, str(tmp_path), where]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 100, f"{grown} MiB for 256 MiB of weights"
    assert sum(p.stat().st_size for p in tmp_path.glob("m.onnx*")) > 4 * array.nbytes
    x = randn(2, 4096)
    wanted = x
    for _ in range(4):
        wanted = wanted @ array.T
    (found,) = Session(tmp_path / "m.onnx")({"x": x}).values()
    np.testing.assert_allclose(found / abs(wanted).max(), wanted / abs(wanted).max(), atol=1e-4)


def test_a_file_in_another_dtype_is_converted(tmp_path: Path) -> None:
    arrays = {"layers.0.weight": randn(6, 4, dtype=np.float16), "layers.0.bias": randn(6, dtype=np.float16)}
    save_file(arrays, tmp_path / "w.safetensors")
    runs = session(linear_model(), open_weights(tmp_path / "w.safetensors"))
    wanted = randn(2, 4) @ arrays["layers.0.weight"].astype(np.float32).T + arrays["layers.0.bias"]
    np.testing.assert_allclose(runs({"x": randn(2, 4)})["y"], wanted, rtol=1e-5, atol=1e-6)


# Dtypes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [18, 20, 22, 24])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_a_whole_block_is_valid_in_every_dtype(dtype: str, opset: int) -> None:
    text = """
        use std.attention (self_attention, rope, rope_table)
        use std.nn (layer_norm, rms_norm, mlp, swiglu_mlp, embedding)
        model block(ids: i64[B, T]) -> (float[B, T, 16], i64[B, 3]) {
            x = embedding(ids, vocab=20, dim=16) as embed
            x = x + self_attention(layer_norm(x) as norm1, heads=4, causal=true) as attn
            x = x + mlp(rms_norm(x) as norm2, hidden=32) as mlp
            x = x + swiglu_mlp(x, hidden=32) as gated
            best, picked = topk(cast(sum(x, axis=-1), f32), k=3)
            return x, picked
        }
    """
    made = loads(text, dtype=dtype)
    check(build(made, opset=opset))
    check(build(made, opset=opset, claims=False))
    assert runnable(made.graph) == (dtype != "bf16")
    if dtype != "bf16":
        ids = np.random.default_rng(0).integers(0, 20, (2, 5))
        x, _ = session(made, opset=opset)({"ids": ids}).values()
        assert x.dtype == DTYPES[dtype].numpy
        assert np.isfinite(x).all()


def test_bf16_weights_are_written_bit_by_bit(tmp_path: Path) -> None:
    w = randn(6, 4).astype(DTYPES["bf16"].numpy)
    bias = randn(6).astype(DTYPES["bf16"].numpy)
    path = save(build(linear_model(dtype="bf16"), {"layers.0.weight": w, "layers.0.bias": bias}), tmp_path / "m.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    stored = {t.name: t.raw_data for t in onnx.load(path).graph.initializer}
    assert stored["layers.0.weight.T"] == np.ascontiguousarray(w.T).tobytes()


@pytest.mark.parametrize(
    ("dtype", "values"), [("i16", [300, -5, 7]), ("i8", [100, -5, 7]), ("u8", [200, 5, 7]), ("bool", [1, 0, 1])]
)
def test_dtypes_without_kernels_are_computed_in_wider_ones(dtype: str, values: list[int]) -> None:
    b = Builder(Graph("m"))
    x = b.input("x", of(dtype, 3))
    c = b.input("c", of("bool", 3))
    outputs = {"picked": b.op("where", c, x, b.op("flip", x, axis=0))}
    if dtype != "bool":
        outputs |= {
            "low": b.op("minimum", x, b.op("flip", x, axis=0)),
            "total": b.op("sum", x),
            "negative": b.op("neg", x),
        }
        outputs |= {"best": b.op("argmax", x), "padded": b.op("pad", x, axis=0, before=1)}
    array = np.array(values).astype(DTYPES[dtype].numpy)
    found = session(module(b, **outputs))({"x": array, "c": np.array([True, False, False])})
    wanted = {
        "picked": np.where([True, False, False], array, array[::-1]), "low": np.minimum(array, array[::-1]),
        "total": array.sum(dtype=array.dtype), "best": np.argmax(array), "padded": np.pad(array, (1, 0)),
    }  # fmt: skip
    for name in outputs:
        if name == "negative":
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(found[name], np.negative(array))
        else:
            np.testing.assert_array_equal(found[name], wanted[name])
        assert found[name].dtype == outputs[name].type.dtype.numpy


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [17, 25])
def test_an_unsupported_opset(opset: int) -> None:
    with pytest.raises(Diagnostic) as caught:
        build(linear_model(), opset=opset)
    assert caught.value.code == "E0801"
    assert caught.value.message == f"ONNX opset {opset} is not supported: Tessera writes opsets 18 to 24"


def test_a_dtype_that_no_wider_one_replaces() -> None:
    e = Emitter(24)
    with pytest.raises(Diagnostic) as caught:
        e.op("Not", e.constant([1, 2], i64))
    assert caught.value.code == "E0802"
    assert caught.value.message == "ONNX Not (opset 24) cannot compute i64"


def test_a_size_that_no_input_determines() -> None:
    made = loads(
        "model m(x: float[B * T]) -> float[B * T] { return x + cast(full([], B, dtype=i64), x.dtype) }", "m.tess"
    )
    with pytest.raises(Diagnostic) as caught:
        build(made)
    assert caught.value.code == "E0803"
    assert caught.value.message == "the size `B` cannot be computed: no input's shape determines it"
    assert caught.value.span is not None
    assert caught.value.span.file == "m.tess"


def test_too_large_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_write, "_LIMIT", 100)
    with pytest.raises(Diagnostic, match="E0804"):
        save(build(linear_model()), tmp_path / "m.onnx", external=False)
    assert not list(tmp_path.iterdir())


def test_an_invalid_model_is_reported_as_our_bug() -> None:
    model = build(linear_model())
    model.graph.outputs[0].shape = ox.Shape(["B", 7])
    with pytest.raises(Diagnostic, match="E0805"):
        check(model)


def test_missing_weights_are_listed() -> None:
    with pytest.raises(Diagnostic, match="E0606"):
        build(linear_model(), {"layers.0.bias": np.zeros(6, np.float32)})


def test_padding_behind_a_transpose(tmp_path: Path) -> None:
    """ONNX Runtime moves transposes through Pad: the axis that is padded must go with them."""
    moved = "transpose(pad(transpose(x, perm=[0, 2, 1]), axis=2, before=1, after=2), perm=[0, 2, 1])"
    model = loads(f"model m(x: f32[B, T, 4]) -> f32[B, T + 3, 4] {{ return {moved} }}")
    save(build(model), tmp_path / "m.onnx")
    x = randn(2, 5, 4)
    want = np.pad(x, ((0, 0), (1, 2), (0, 0)))
    np.testing.assert_array_equal(next(iter(Session(tmp_path / "m.onnx")({"x": x}).values())), want)
