"""`optimize --budget` the whole way: the files, the program that is written, what is remembered, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.driver.fit.trials import Trials
from tessera.driver.report.text import render
from tessera.passes.engine import registry

from .conftest import Cli

TEXT = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)

model seen(x: float[B, 24, 16]) -> (embedding: float[B, 16]) {
    repeat i in 2 as blocks {
        x = x + self_attention(layer_norm(x) as n1, heads=2) as attn
        x = x + mlp(layer_norm(x) as n2, hidden=32) as mlp
    }
    return mean(x, axis=1)
}
"""
BUDGET = ("--budget", "flops=0.8x", "--pass", "merge_tokens")
QUICK = ("--rounds", "2", "--no-memory")


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    # Half of the tokens are nearly the same, as patches of a sky are.
    x = rng.standard_normal((12, 24, 16)).astype(np.float32)
    x[:, 12:] = x[:, 12:13] + 0.01 * x[:, 12:]
    np.savez(tmp_path / "calib.npz", x=x)
    return tmp_path / "calib.npz"


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    ts.compile(ts.loads(TEXT), target="onnx", verify=False, output=tmp_path / "seen.onnx")
    return tmp_path / "seen.onnx"


@pytest.mark.slow
def test_the_file_and_the_program_keep_to_the_budget(
    cli: Cli, seen: Path, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))
    raising, raised = registry()["raise_composites"], []
    run = raising.run

    def counted(step: Any, module: Any) -> Any:
        raised.append(module)
        return run(step, module)

    monkeypatch.setattr(raising, "run", counted)
    out, page = tmp_path / "fast.onnx", tmp_path / "fast.html"
    command = ("optimize", str(seen), *BUDGET, "--calib", str(examples), *QUICK, "-o", str(out), "--html", str(page), "--json")
    result = cli(*command)
    assert result.code == 0, result.err
    report: dict[str, Any] = json.loads(result.out)
    # The search and the build start from one program, and the report tells how that was made.
    assert len(raised) == 1
    assert [p["pass"] for p in report["passes"]] == ["raise_composites", "merge_tokens"]
    found = report["fit"]
    assert found["chosen"]["flops"] <= 0.8
    assert found["examples"] == {"searched": 6, "held_back": 6}
    assert report["fidelity"]["examples"] == 6
    assert report["cost"]["flops_after"] <= 0.81 * report["cost"]["flops"]
    assert {"searched", "constant", "one block"} <= {t["kind"] for t in found["tried"]}
    assert found["constant"] is None or found["chosen"]["fidelity"] >= found["constant"]["fidelity"]
    assert f"`{found['chosen']['pass']}`" in report["verdict"]["search"]["text"]
    assert found["chosen"]["pass"] in render(report)
    drawn = page.read_text()
    assert drawn.count('class="dot chosen"') == 1
    assert "What nothing beats" in drawn

    # The program beside it is the same one: to read, to change, and to compile.
    program = tmp_path / "fast.tess"
    assert str(program) in report["written"]
    assert f"pass {found['chosen']['pass']}" in program.read_text()
    again = cli("compile", str(program), "-o", str(tmp_path / "again.onnx"))
    assert again.code == 0, again.err
    x = np.load(examples)["x"][:2]
    np.testing.assert_array_equal(*(ts.open(f)({"x": x})["embedding"] for f in (tmp_path / "again.onnx", out)))

    # What was measured is not measured again.
    monkeypatch.setattr(Trials, "_built", None)
    assert json.loads(cli(*command).out)["fit"]["tried"] == found["tried"]


@pytest.mark.extended
def test_a_stopped_search_goes_on(cli: Cli, seen: Path, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "fast.onnx"
    command = ("optimize", str(seen), *BUDGET, "--calib", str(examples), *QUICK, "-o", str(out), "--json")
    measured, built = Trials._measured, 0

    def interrupted(self: Trials, *args: Any) -> Any:
        nonlocal built
        built += 1
        if built == 4:
            raise KeyboardInterrupt
        return measured(self, *args)

    monkeypatch.setattr(Trials, "_measured", interrupted)
    assert cli(*command).code == 130
    assert not out.exists()
    assert not out.with_suffix(".tess").exists()
    assert cli(*command).code == 0
    # The three before the interrupt, and not one of them a second time.
    tried = json.loads((next((tmp_path / "cache").glob("fit-*.json"))).read_text())
    assert built - 1 == sum(isinstance(row, dict) and "fidelity" in row for row in tried.values())


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--budget", "latency=0.6x"), "E0011", "without `--calib`"),
        (("--budget", "flops=0.8x", "--calib", "few.npz"), "E0011", "at least 8 examples"),
        (("--budget", "flops=0.8", "--calib", "calib.npz"), "E0011", "flops=0.5x"),
        (("--budget", "flops=0.01x", "--calib", "calib.npz", "--pass", "merge_tokens"), "E0941", "no schedule keeps to"),
        (("--budget", "flops=0.8x", "--calib", "calib.npz", "--pass", "merge_tokens(method=nothing)"), "E0201", "nothing"),
    ],
)
def test_what_is_refused(
    cli: Cli,
    seen: Path,
    examples: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: str,
    told: str,
) -> None:
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    np.savez("few.npz", x=np.load(examples)["x"][:5])
    result = cli("optimize", str(seen), *arguments, *QUICK, "-o", "fast.onnx")
    assert result.code != 0
    assert f"error[{code}]" in result.err
    assert told in result.err
    assert not Path("fast.onnx").exists()
    assert not Path("fast.tess").exists()


@pytest.mark.extended
def test_outputs_that_lose_tokens_cannot_be_compared(
    cli: Cli, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))
    spec = tmp_path / "each.tess"
    spec.write_text(TEXT.replace("return mean(x, axis=1)", "return x").replace("float[B, 16])", "float[B, 24, 16])"))
    command = ("optimize", str(spec), "--budget", "flops=0.8x", "--calib", str(examples), *QUICK, "-o", str(tmp_path / "f.onnx"))
    result = cli(*command, "--pass", "merge_tokens")
    assert "error[E0942]" in result.err
    assert cli(*command, "--pass", "merge_tokens(restore=true)").code == 0
