"""Targets: what chooses one, what they refuse, and that one more touches nothing but its own folder."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.backends import target
from tessera.backends.target import registry
from tessera.driver.check import check
from tessera.ir.diagnostics import Diagnostic

from . import toy_target

ROOT = Path(__file__).parents[2]
SCALED = "model scaled(x: f32[B, 4]) -> (y: f32[B, 4]) {\n    return x * 2.0\n}\n"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy target as an installed package would register it."""
    point = SimpleNamespace(load=lambda: toy_target.Dump)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point] if group == target.ENTRY_POINTS else [])
    registry.cache_clear()
    yield
    registry.cache_clear()


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "scaled.tess"
    path.write_text(SCALED)
    return path


def test_the_preferred_one_comes_first() -> None:
    names = list(registry())
    assert names == ["onnx", "mlir", "torch", "triton"]
    assert all(cls.summary().endswith(".") and cls.suffix.startswith(".") for cls in registry().values())


def test_a_target_of_another_package(toy: None, spec: Path, tmp_path: Path) -> None:
    module = ts.load(spec)
    out = tmp_path / "scaled.dump"
    artifact = ts.compile(module, target="dump", width=2, output=out)
    assert (artifact.target, artifact.suffix, artifact.metadata["tessera.width"]) == ("dump", ".dump", "2")
    assert out.read_text().splitlines()[0].startswith("00 ")
    assert len(artifact.report.verified) == 2
    np.testing.assert_array_equal(ts.open(out)({"x": np.ones((1, 4), "f4")})["y"], np.full((1, 4), 2, "f4"))
    with pytest.raises(Diagnostic, match=r"`width` of the target `dump` must be at least 1"):
        ts.compile(module, target="dump", width=0)


def test_a_target_refuses_before_it_builds(toy: None, tmp_path: Path) -> None:
    module = ts.loads("model m(x: f32[B, 4]) -> (y: f32[B, 4]) {\n    return cummax(x, axis=1)\n}\n")
    with pytest.raises(Diagnostic, match="a dump has no `cummax`") as found:
        ts.compile(module, target="dump", output=tmp_path / "m.dump")
    assert found.value.span is not None
    assert found.value.span.line == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_compile_blocks_and_the_command_line_offer_it(toy: None, spec: Path, tmp_path: Path) -> None:
    spec.write_text(f"{SCALED}\ncompile scaled {{\n    target dump(width=4)\n}}\n")
    assert [m.name for m in check(spec)] == ["scaled"]
    assert ts.compile(ts.load(spec), verify=False).metadata["tessera.width"] == "4"
    code = (
        "import sys; from importlib import metadata; sys.path.insert(0, sys.argv.pop(1))\n"
        "import toy_target\n"
        "metadata.entry_points = lambda group: [type('P', (), {'load': staticmethod(lambda: toy_target.Dump)})]\n"
        "from tessera.driver.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    def run(*args: object) -> str:
        command = [sys.executable, "-c", code, str(Path(__file__).parent), *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = run("compile", "--help")
    assert "dump: The program as numbered lines of text." in shown
    assert "--width" in shown
    out = tmp_path / "by_suffix.dump"
    spec.write_text(SCALED)
    assert "wrote" in run("compile", spec, "--width", 5, "-o", out)
    assert out.read_text().startswith("00000 ")
    np.save(tmp_path / "x.npy", np.ones((1, 4), "f4"))
    assert "float32[1, 4]" in run("run", out, "-i", f"x={tmp_path / 'x.npy'}")
    assert "by_suffix.dump" in run("bench", out, "--rounds", 1)


@pytest.mark.parametrize(("name", "target"), [("a.onnx", "onnx"), ("a.safetensors", "torch"), ("a.mlir", "mlir")])
def test_what_the_output_is_called_decides(spec: Path, tmp_path: Path, name: str, target: str) -> None:
    artifact = ts.compile(ts.load(spec), output=tmp_path / name, verify=False)
    assert artifact.target == target


def test_mistakes(spec: Path) -> None:
    module = ts.load(spec)
    for how, text in (
        ({"target": "onxx"}, "there is no target `onxx`"),
        ({"target": "torch", "opset": 20}, "the target `torch` has no option `opset`"),
        ({"opset": True}, "`opset` of the target `onnx` must be int"),
    ):
        with pytest.raises(Diagnostic, match=re.escape(text)) as found:
            ts.compile(module, **how)  # type: ignore[arg-type]
        assert found.value.code == "E0012"


def own_files() -> list[Path]:
    """The package's files but those of the targets' own folders."""
    rooms = (
        "__init__.py",
        "__main__.py",
        "ir",
        "specs",
        "runtime",
        "kernels",
        "frontends",
        "passes",
        "backends",
        "driver",
    )
    files = [
        f for room in rooms for f in ([ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py")))
    ]
    return [f for f in files if f.parent.name not in registry() or f.parents[1].name != "backends"]


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """The texts that a file computes with, docstrings left out, each with its place."""
    tree = ast.parse(path.read_text("utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def test_a_targets_name_is_written_in_its_own_folder_only() -> None:
    # Frameworks that people come from are no targets.
    files = [path for path in own_files() if path.name != "elsewhere.py"]
    found = [f"{place}: {text}" for path in files for place, text in texts(path) if text in registry()]
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_a_targets_suffix_is_written_in_its_own_folder_only() -> None:
    # Weights are safetensors files wherever they come from, `ai.onnx` is a domain; what holds a space is shown to people.
    suffixes = tuple({cls.suffix for cls in registry().values()} - {".safetensors"})
    files = [path for path in own_files() if path.parent.name != "codes"]
    found = [
        f"{place}: {text}"
        for path in files
        for place, text in texts(path)
        if re.fullmatch(r"[\w.-]*", text) and text.endswith(suffixes) and text != "ai.onnx"
    ]
    assert not found, "\n".join(found)


def test_an_artifact_is_written_aside_once(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = tempfile.mkdtemp

    def counted(*args: Any, **named: Any) -> str:
        made.append(real(*args, **named))
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", counted)
    ts.compile(ts.load(spec), output=tmp_path / "a.onnx")
    assert len(made) == 1
    artifact = ts.compile(ts.load(spec), verify=False)
    made.clear()
    artifact.save(tmp_path / "b.onnx")
    assert len(made) == 1
