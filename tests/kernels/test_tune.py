"""Which tiles kernels are launched with: what is measured, kept on disk and taken again; and that every choice gives the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from tessera.kernels import attention, gated_experts, tune
from tessera.kernels.launch import LaunchFailed
from tessera.kernels.tune import tuning

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FILE = "GPU_X_9.0_triton_0.json"


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would be launched on a GPU that keeps its choices in the test's folder, whose clock likes large tiles."""
    seen: list[dict[str, Any]] = []

    def recorded(kernel: Any, grid: Any, *args: Any, **given: Any) -> None:
        seen.append({name: x for name, x in given.items() if name in ("M", "N", "options")})

    def clock(run: Callable[[], None]) -> float:
        run()
        last = seen[-1]
        return -float(last["M"] * last["N"])

    monkeypatch.setattr(tune, "launch", recorded)
    monkeypatch.setattr(tune, "milliseconds", clock)
    monkeypatch.setattr(tune, "machine", lambda device: "GPU X 9.0 triton 0")
    monkeypatch.setattr(tune, "_kept", {})
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    return seen


def attended(tokens: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    q = torch.linspace(-2, 2, tokens * 4, device=DEVICE, dtype=dtype).view(1, 1, tokens, 4)
    return attention(q, q, q)[0]


def test_what_was_measured_is_kept_and_taken_again(
    launched: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attended(70)
    file = tmp_path / "tessera" / FILE
    assert launched == [{"M": 64, "N": 64, "options": {}}]
    assert not file.exists()
    with tuning():
        attended(70)
    assert launched[-1] == {"M": 128, "N": 128, "options": {"num_warps": 8}}
    key = "flash.forward 1x128x128 float32 BD=16 BE=16 CAPPED=False CAUSAL=False HAS_BIAS=False HAS_MASK=False"
    assert json.loads(file.read_text("utf-8")) == {key: {"M": 128, "N": 128, "num_warps": 8}}
    # Another process reads the file; sizes of the same bucket take it, and nothing is measured again.
    monkeypatch.setattr(tune, "_kept", {})
    launched.clear()
    with tuning():
        attended(100)
    assert launched == [{"M": 128, "N": 128, "options": {"num_warps": 8}}]
    # Another dtype, and another bucket, are not what was measured.
    attended(70, torch.float16)
    attended(20)
    assert [row["M"] for row in launched[1:]] == [64, 32]


def test_a_file_that_holds_something_else_is_passed_over(launched: list[dict[str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "tessera" / FILE
    file.parent.mkdir()
    for text in ("{", "[]", json.dumps({"flash.forward 1x32x32 float32": {"M": 3}})):
        file.write_text(text, "utf-8")
        tune._kept.clear()
        attended(20)
        assert launched[-1] == {"M": 32, "N": 32, "options": {}}


def test_choices_that_cannot_be_launched_are_left_out(launched: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = tune.launch

    def launch(kernel: Any, grid: Any, *args: Any, **given: Any) -> None:
        if given["M"] > 64:
            raise LaunchFailed("out of resource: shared memory")
        recorded(kernel, grid, *args, **given)

    monkeypatch.setattr(tune, "launch", launch)
    with tuning():
        attended(130)
    assert launched[-1]["M"] == 64


def nth(number: int, choices: Sequence[dict[str, int]], run: Callable[[dict[str, int]], None]) -> dict[str, int]:
    return choices[min(number, len(choices) - 1)]


def mixed() -> torch.Tensor:
    x, gate_up, down = torch.randn(70, 130), torch.randn(2, 130, 140) / 16, torch.randn(2, 70, 130) / 16
    expert, weight = torch.randint(0, 2, (70, 1)), torch.rand(70, 1)
    return gated_experts(*(t.to(DEVICE) for t in (x, expert, weight, gate_up, down)))


@pytest.mark.extended
@pytest.mark.parametrize("run", [partial(attended, 130), mixed])
def test_every_choice_gives_the_same(run: Callable[[], torch.Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tune, "machine", lambda device: "GPU X 9.0 triton 0")
    torch.manual_seed(0)
    wanted = run()
    for number in range(1, 4):
        monkeypatch.setattr(tune, "_fastest", partial(nth, number))
        monkeypatch.setattr(tune, "_kept", {})
        monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / str(number)))
        torch.manual_seed(0)
        with tuning():
            torch.testing.assert_close(run(), wanted, atol=1e-4, rtol=1e-4)
