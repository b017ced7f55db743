"""Which runs are recorded as CUDA graphs and replayed; what a record does is tried where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

import tessera as ts
from tessera.backends.triton import build, graphs
from tessera.backends.triton.graphs import Graphs, record_runs
from tessera.frontends.source import loads

TWICE = "model m(x: f32[B, T]) -> (y: f32[B, T]) { return x * 2.0 + 1.0 }"


class Network:
    """Notes whether it ran by itself, was recorded or replayed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: str = "") -> None:
        self.seen: list[str] = []
        self.error = error
        self.donate = False
        monkeypatch.setattr(graphs, "recorded", self.record)
        self.run = Graphs(self.forward, lambda: self.donate)

    def forward(self, x: Tensor, *rest: Tensor | None) -> dict[str, Tensor]:
        self.seen.append("run")
        return {"y": x + 1}

    def record(self, forward: object, tensors: Sequence[Tensor | None]) -> Callable[[Sequence[Tensor | None]], dict[str, Tensor]]:
        if self.error:
            raise RuntimeError(self.error)
        self.seen.append("record")

        def replay(tensors: Sequence[Tensor | None]) -> dict[str, Tensor]:
            self.seen.append("replay")
            assert tensors[0] is not None
            return {"y": tensors[0] + 1}

        return replay


def test_shapes_that_come_again_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    for _ in range(3):
        assert network.run(torch.ones(2), None)["y"].tolist() == [2.0, 2.0]
    assert network.seen == ["run", "record", "replay", "replay"]
    network.run(torch.ones(3), None)
    network.run(torch.ones(2, dtype=torch.float16), None)
    network.run(torch.ones(2), torch.ones(1))
    assert network.seen[4:] == ["run"] * 3


def test_runs_that_learn_or_write_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    for _ in range(2):
        network.run(torch.ones(2, requires_grad=True))
    network.donate = True
    for _ in range(2):
        network.run(torch.ones(2))
    assert network.seen == ["run"] * 4


def test_what_cannot_be_recorded_runs_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, error="operation not permitted when stream is capturing\n at …")
    network.run(torch.ones(2))
    with pytest.warns(RuntimeWarning, match="as a CUDA graph: operation not permitted when stream is capturing$"):
        network.run(torch.ones(2))
    network.run(torch.ones(2))
    assert network.seen == ["run"] * 3


def test_records_of_shapes_that_no_longer_come_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST", 2)
    network = Network(monkeypatch)
    for size in (1, 1, 2, 3, 1):
        network.run(torch.ones(size))
    assert network.seen == ["run", "record", "replay", "run", "run", "run"]


def test_a_module_is_called_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build(loads(TWICE, "m.tess"))
    record_runs(module)
    monkeypatch.setattr(graphs, "recorded", lambda forward, tensors: lambda given: forward(*given))
    for size in (2, 2, 3):
        x = torch.ones(1, size)
        assert torch.equal(module(x=x)["y"], x * 2 + 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a graph is recorded on a GPU")
def test_a_record_gives_what_a_run_gives() -> None:
    sizes = {"size": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 2, "hidden": 48}
    module = build(ts.load("vit_classifier", params=sizes)).cuda()
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.standard_normal((2, 3, 32, 32)).astype(np.float32)).cuda() for _ in range(3)]
    with torch.no_grad():
        wanted = [module(image=x) for x in images]
        record_runs(module)
        for x, y in zip(images, wanted, strict=True):
            torch.testing.assert_close(module(image=x), y)
