"""Programs of several entry points on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from .conftest import Cli

FILE = Path(__file__).parents[2] / "frontends" / "source" / "elaborate" / "programs" / "chat.tess"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the function of the host stage and inputs."""
    (tmp_path / "chat_sampling.py").write_text("def greedy(logits):\n    return logits.argmax(-1)[:, None]\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("chat_sampling", None)
    np.save("ids.npy", np.arange(6).reshape(2, 3))
    np.save("one.npy", np.arange(2).reshape(2, 1))


def test_compile_and_run(cli: Cli) -> None:
    written = cli("compile", FILE, "--target", "onnx")
    assert written.code == 0, written.err
    assert "wrote chat (" in written.out
    found = json.loads(cli("run", "chat", "--entry", "step", "-i", "ids=one.npy", "--json").out)
    assert set(found["outputs"]) == {"output", "length"}
    found = json.loads(cli("run", "chat", "--flow", "answer", "--allow-host", "-i", "ids=ids.npy", "--json").out)
    assert found["outputs"]["second"]["shape"] == [2, 1]
    for args, code in (
        (["run", "chat"], "E0520"),
        (["run", "chat", "--entry", "x"], "E0521"),
        (["run", "chat/step.onnx", "--entry", "x"], "E0014"),
        (["run", "chat", "--entry", "step", "--flow", "answer"], "E0011"),
        (["run", "chat", "--flow", "answer", "-i", "ids=ids.npy"], "E0913"),
        (["compile", FILE, "-o", "a.onnx", "--target", "onnx"], "E0012"),
        (["compile", FILE, "-o", "ids.npy", "--target", "onnx"], "E0010"),
    ):
        assert f"error[{code}]" in cli(*args).err, args
    assert json.loads(cli("explain", "chat", "--json").out)["entries"].keys() == {"prefill", "step"}


def test_look_at_a_program(cli: Cli) -> None:
    text = cli("explain", FILE, "--at", "B=2,T=4").out
    assert "entry prefill" in text
    _, _, inner = text.partition("entry prefill\n")
    assert all(line.startswith("  ") for line in inner[: inner.index("\nentry ")].splitlines())
    assert "sample  python chat_sampling:greedy" in text
    assert "answer  first -> step -> sample" in text
    assert "error[E0011]" in cli("explain", FILE, "--at", "Q=2").err
    assert "program chat {" in cli("show", FILE, "--pass", "inline").out
    assert cli("check", FILE).out.endswith("ok (one, chat)\n")
