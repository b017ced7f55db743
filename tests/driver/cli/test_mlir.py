"""Files of MLIR on the command line: written, run, compiled further, and those that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.backends.mlir.file import weights_path
from tessera.driver.read import read_model

from .conftest import Cli

pytest.importorskip("torch_mlir", reason="torch-mlir (extra `mlir`) is not installed")


@pytest.fixture
def written(cli: Cli, tiny: Path, tmp_path: Path) -> Path:
    """The small model as MLIR, with its weights beside it."""
    path = tmp_path / "tiny.mlir"
    assert cli("compile", tiny, "-t", "mlir", "-o", path).code == 0
    return path


def ran(cli: Cli, path: Path, x: Path, name: str = "x") -> Any:
    out = path.with_name(f"{path.name}.npz")
    result = cli("run", path, "--input", f"{name}={x}", "--save", out)
    assert result.code == 0, result.err
    with np.load(out) as file:
        return next(iter(file.values()))


def test_there_and_on_to_onnx(cli: Cli, written: Path, x: Path, tmp_path: Path) -> None:
    onnx = tmp_path / "tiny.onnx"
    assert cli("compile", written, "-o", onnx).code == 0
    np.testing.assert_allclose(ran(cli, onnx, x), ran(cli, written, x), rtol=1e-4, atol=1e-6)
    assert list(read_model(written).module.graph.params) == ["inner.weight", "inner.bias", "head.weight", "head.bias"]


@pytest.mark.parametrize("command", ["run", "compile", "explain"])
def test_its_weights_are_missed(cli: Cli, written: Path, command: str) -> None:
    weights_path(written).unlink()
    result = cli(command, written)
    assert (result.code, "error[E0001]" in result.err) == (1, True)
    assert "tiny.safetensors" in result.err


def test_weights_of_another_program_are_refused(cli: Cli, written: Path, tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.mlir"
    tiny.write_text(tiny.read_text().replace("return linear(h", "h = linear(h, out=16) as middle  return linear(h"))
    assert cli("compile", tiny, "-t", "mlir", "-o", other).code == 0
    weights_path(other).replace(weights_path(written))
    for command in ("run", "compile"):
        assert "error[E0014]" in cli(command, written).err


def test_options_of_specs_are_refused(cli: Cli, written: Path) -> None:
    for options in (["--dtype", "f16"], ["-m", "tiny"], ["-p", "classes=2"]):
        assert "error[E0011]" in cli("compile", written, *options).err


def test_bf16_is_compared(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    result = cli("compile", tiny, "-t", "mlir", "--dtype", "bf16", "-o", tmp_path / "half.mlir")
    assert result.code == 0, result.err
    assert result.out.count("verified at") == 2


FOREIGN = """
func.func @main(%x: !torch.vtensor<[?,8],f32>, %scale: !torch.vtensor<[8],f32>) -> !torch.vtensor<[?,8],f32> {
  %0 = torch.aten.mul.Tensor %x, %scale : !torch.vtensor<[?,8],f32>, !torch.vtensor<[8],f32> -> !torch.vtensor<[?,8],f32>
  return %0 : !torch.vtensor<[?,8],f32>
}
"""


def test_text_of_others_takes_weights_by_name(cli: Cli, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path, weights, x = tmp_path / "m.mlir", tmp_path / "w.safetensors", tmp_path / "in.npy"
    path.write_text(FOREIGN)
    np.save(x, np.ones((3, 8), "f4"))
    save_file({"scale": np.arange(8, dtype="f4"), "other": np.zeros(1, "f4")}, weights)
    result = cli("compile", path, "-w", weights, "-o", tmp_path / "m.onnx", "--json")
    assert result.code == 0, result.err
    assert "1 of 2 tensors are no arguments" in str(json.loads(result.out)["notes"])
    np.testing.assert_array_equal(ran(cli, tmp_path / "m.onnx", x), [list(range(8))] * 3)
    save_file({"other": np.zeros(1, "f4")}, weights)
    assert "error[E0606]" in cli("compile", path, "-w", weights).err
    save_file({"scale": np.zeros((8, 1), "f4")}, weights)
    assert "error[E0606]" in cli("compile", path, "-w", weights).err


def test_text_of_others_runs(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "m.mlir"
    path.write_text(FOREIGN)
    np.save(tmp_path / "in.npy", np.ones((3, 8), "f4"))
    np.save(tmp_path / "scale.npy", np.arange(8, dtype="f4"))
    result = cli("run", path, "-i", f"x={tmp_path / 'in.npy'}", "-i", f"scale={tmp_path / 'scale.npy'}", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["outputs"]["output"]["shape"] == [3, 8]


@pytest.mark.parametrize("command", ["compile", "run", "optimize", "show", "explain"])
@pytest.mark.parametrize(
    "text", ["", "module {", FOREIGN[:200], FOREIGN + '{-# dialect_resources: { builtin: { a: "0x04']
)
def test_broken_text_is_one_error(cli: Cli, tmp_path: Path, command: str, text: str) -> None:
    path = tmp_path / "m.mlir"
    path.write_text(text)
    result = cli(command, path)
    assert (result.code, result.err.count("error["), "E0784" in result.err) == (1, 1, True), result.err


@pytest.mark.parametrize("command", ["compile", "run", "optimize", "show", "explain"])
def test_bytes_are_no_text(cli: Cli, tmp_path: Path, command: str) -> None:
    path = tmp_path / "m.mlir"
    path.write_bytes(b"ML\xefR\xff\xfe")
    result = cli(command, path)
    assert (result.code, "error[E0930]" in result.err) == (1, True), result.err
