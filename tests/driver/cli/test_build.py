"""compile: what it writes, and that nothing is left behind when it cannot."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import tessera as ts

from .conftest import Cli

VIT = ("vit_s16", "-p", "size=64", "-p", "depth=2", "-p", "classes=5")


def left_over(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights for the tiny model."""
    rng = np.random.default_rng(1)
    shapes = {"inner.weight": (16, 8), "inner.bias": (16,), "head.weight": (3, 16), "head.bias": (3,)}
    path = tmp_path / "tiny.safetensors"
    save_file({k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}, path)
    return path


def test_onnx(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    import onnx

    out = tmp_path / "tiny.onnx"
    result = cli("compile", tiny, "-p", "classes=4", "-o", out)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("verified at B = ") == 2
    assert result.out.splitlines()[-1].startswith(f"wrote {out} (")
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == ["B", "T", 4]
    assert left_over(tmp_path) == {"tiny.tess", "tiny.onnx"}


def test_both_targets_agree_with_the_weights(cli: Cli, tiny: Path, weights: Path, x: Path, tmp_path: Path) -> None:
    results = []
    for target, suffix in (("onnx", ".onnx"), ("torch", ".safetensors")):
        out = tmp_path / f"out{suffix}"
        assert cli("compile", tiny, "-t", target, "-w", weights, "-o", out).code == 0
        saved = tmp_path / f"{target}.npz"
        assert cli("run", out, "--input", f"x={x}", "--save", saved).code == 0
        results.append(np.load(saved)["output"])
    assert results[0].shape == (2, 5, 3)
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=1e-5)
    assert np.abs(results[0]).max() > 0.1


def test_the_torch_file_is_plain_safetensors(cli: Cli, tiny: Path, weights: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    out = tmp_path / "out.safetensors"
    assert cli("compile", tiny, "-t", "torch", "-w", weights, "-o", out).code == 0
    with safe_open(out, "np") as ours, safe_open(weights, "np") as given:
        assert set(ours.keys()) == set(given.keys())
        for name in given.keys():  # noqa: SIM118 (not a mapping)
            np.testing.assert_array_equal(ours.get_tensor(name), given.get_tensor(name))
        assert ts.loads(ours.metadata()["tessera.source"]).name == "tiny"


def test_json_and_passes(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "v.onnx"
    args = (*VIT, "--pass", "merge_tokens(r=3, protect=1)", "--verify-each", "--map", "-o", out, "--json")
    facts = json.loads(cli("compile", *args).out)
    assert facts["output"] == str(out)
    assert facts["size"] == out.stat().st_size
    assert [p["pass"] for p in facts["passes"]] == ["merge_tokens"]
    assert {r["output"] for r in facts["verified"]} == {"logits", "token_source", "token_size"}
    assert max(r["error"] for r in facts["verified"]) < 1e-4


def test_the_compile_block_decides_and_options_override(cli: Cli, weights: Path, tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(
        f'{tiny.read_text()}\ncompile tiny(classes=3) {{ weights "{weights.name}" pass dce target onnx(opset=20) }}\n'
    )
    out = tmp_path / "a.onnx"
    facts = json.loads(cli("compile", tiny, "-o", out, "--json").out)
    assert [p["pass"] for p in facts["passes"]] == ["dce"]
    explained = json.loads(cli("explain", out, "--json").out)
    assert explained["opset"]["ai.onnx"] == 20
    assert explained["metadata"]["tessera.weights"] == weights.name
    facts = json.loads(cli("compile", tiny, "--pass", "cse", "--opset", "22", "-o", out, "--json").out)
    assert [p["pass"] for p in facts["passes"]] == ["cse"]
    assert json.loads(cli("explain", out, "--json").out)["opset"]["ai.onnx"] == 22
    facts = json.loads(
        cli("compile", tiny, "--no-passes", "-t", "torch", "-o", tmp_path / "t.safetensors", "--json").out
    )
    assert facts["passes"] == []


def test_half_precision(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.onnx"
    assert cli("compile", tiny, "--dtype", "f16", "-o", out).code == 0
    assert json.loads(cli("explain", out, "--json").out)["inputs"][0]["type"] == "f16[B, T, 8]"
    result = cli("compile", tiny, "--dtype", "bf16", "-o", out)
    assert result.code == 0
    assert "not compared with the reference" in result.out


def test_the_comparison_keeps_to_sizes_that_are_given(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    rows = json.loads(cli("compile", tiny, "--size", "T=5", "-o", out, "--json").out)["verified"]
    assert {row["sizes"]["T"] for row in rows} == {5}
    assert "error[E0935]" in cli("compile", tiny, "--size", "Q=5", "-o", tmp_path / "n.onnx").err
    assert "--no-verify" in cli("compile", tiny, "--size", "T=5", "--no-verify", "-o", out).err
    assert not (tmp_path / "n.onnx").exists()


def test_metadata(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    assert cli("compile", tiny, "--no-verify", "--meta", "image_mean=0.5,0.5,0.5", "-o", out).code == 0
    assert json.loads(cli("explain", out, "--json").out)["metadata"]["image_mean"] == "0.5,0.5,0.5"
    assert "error[E0011]" in cli("compile", tiny, "--meta", "novalue", "-o", out).err
    assert "error[E0011]" in cli("compile", tiny, "--meta", "tessera.model=x", "-o", out).err


def test_the_same_command_writes_the_same_file(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        assert cli("compile", tiny, "--seed", "7", "-o", tmp_path / name).code == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["-t", "tensorrt"], "E0012", "the targets are onnx, mlir, torch and triton"),
        (["-o", "x.bin"], "E0012", "-o x.onnx"),
        (["-o", "/dev/null"], "E0010", "it is not an ordinary file"),
        (["-t", "torch", "-o", "x.onnx"], "E0012", "-o x.safetensors"),
        (["-o", "no/such/folder/x.onnx"], "E0010", "create the folder first"),
        (["--map"], "E0925", "merge_tokens"),
        (["-w", "none.safetensors"], "E0001", "none.safetensors"),
        (["--opset", "99"], "E0801", "99"),
        (["-p", "classes=0.5"], "E0402", "classes"),
    ],
)
def test_refused(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], code: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("compile", tiny, *args)
    assert result.code == 1
    assert f"error[{code}]" in result.err
    assert text in result.err
    assert left_over(tmp_path) == {"tiny.tess"}


@pytest.mark.parametrize("command", ["compile", "run", "optimize", "bench"])
@pytest.mark.parametrize("seed", ["-1", str(2**63)])
def test_seeds_that_are_none(cli: Cli, tiny: Path, command: str, seed: str) -> None:
    result = cli(command, tiny, "--seed", seed)
    assert result.code == 2
    assert f"{seed} is not in the range" in result.err


def test_a_folder_or_device_as_output(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dir.onnx"
    folder.mkdir()
    for out in (folder, tmp_path):
        assert "it is a folder" in cli("compile", tiny, "-o", out).err
    fifo = tmp_path / "fifo.onnx"
    os.mkfifo(fifo)
    assert "not an ordinary file" in cli("compile", tiny, "-o", fifo).err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "error[E0010]" in cli("compile", tiny, "-o", locked / "x.onnx").err


def test_a_full_disk_leaves_the_old_file(cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tessera.backends.onnx import write

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "old.onnx"
    out.write_bytes(b"before")
    monkeypatch.setattr(write, "_write_embedded", full)
    result = cli("compile", tiny, "-o", out)
    assert result.code == 1
    assert result.err.count("error[") == 1
    assert "error[E0010]" in result.err
    assert "No space left on device" in result.err
    assert out.read_bytes() == b"before"
    assert left_over(tmp_path) == {"tiny.tess", "old.onnx"}


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_a_limit_that_the_system_sets(tmp_path: Path, target: str) -> None:
    """As a full disk, but by the real system call: files may not grow beyond 100 kB."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    out = tmp_path / ("v.onnx" if target == "onnx" else "v.safetensors")
    command = [sys.executable, "-m", "tessera", "compile", *VIT, "-t", target, "-o", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert result.returncode == 1
    assert "error[E0010]" in result.stderr
    assert "Traceback" not in result.stderr
    assert left_over(tmp_path) == set()


def test_a_weight_that_does_not_fit(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"inner.weight": np.zeros((16, 9), np.float32), "extra": np.zeros(1, np.float32)}, path)
    result = cli("compile", tiny, "-w", path, "-o", tmp_path / "x.onnx")
    assert result.code == 1
    assert "error[E0606]" in result.err
    for word in ("inner.bias", "inner.weight", "extra"):
        assert word in result.err
    assert not (tmp_path / "x.onnx").exists()


def test_weights_that_are_broken(cli: Cli, tiny: Path, weights: Path, tmp_path: Path) -> None:
    whole = weights.read_bytes()
    for name, data in {"cut": whole[:-10], "lie": (2**40).to_bytes(8, "little") + whole[8:], "empty": b""}.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        result = cli("compile", tiny, "-w", path, "-o", tmp_path / "x.onnx")
        assert result.code == 1
        assert "error[E06" in result.err
    integers = tmp_path / "int.safetensors"
    shapes = {"inner.weight": (16, 8), "inner.bias": (16,), "head.weight": (3, 16), "head.bias": (3,)}
    save_file({k: np.zeros(s, np.int64) for k, s in shapes.items()}, integers)
    assert "error[E0607]" in cli("compile", tiny, "-w", integers, "-o", tmp_path / "x.onnx").err
    assert not (tmp_path / "x.onnx").exists()


def test_an_artifact_that_disagrees_is_not_written(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison before writing: a backend that gets `erf` wrong."""
    from tessera.backends.onnx import session

    original = session.Session.__call__

    def wrong(self: session.Session, arrays: dict[str, np.ndarray], *, seed: int = 0) -> dict[str, np.ndarray]:
        return {k: v + np.float32(0.01) for k, v in original(self, arrays, seed=seed).items()}

    monkeypatch.setattr(session.Session, "__call__", wrong)
    result = cli("compile", tiny, "-o", tmp_path / "x.onnx")
    assert result.code == 1
    assert "error[E0809]" in result.err
    assert left_over(tmp_path) == {"tiny.tess"}
    assert cli("compile", tiny, "-o", tmp_path / "x.onnx", "--no-verify").code == 0
