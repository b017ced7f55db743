"""Whatever a mask is made of, and by whichever importer it comes: where a token does not see those behind it, none is merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tessera.frontends.source import loads
from tessera.ir.analysis.cost import ATTENTION
from tessera.ir.analysis.sight import Sight, Sights
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.passes.engine import apply

LOW = torch.finfo(torch.float32).min
HEADS, MOST = 2, 32

Bias = Callable[["Masks", torch.Tensor], torch.Tensor]


def _places(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    at = torch.arange(x.shape[1], device=x.device)
    return at[:, None], at[None, :]


def _alibi(x: torch.Tensor) -> torch.Tensor:
    t, s = _places(x)
    return (s - t).float().abs() * torch.tensor([-0.25, -0.0625])[:, None, None]


def _hidden(seen: torch.Tensor, low: float = LOW) -> torch.Tensor:
    return torch.where(seen, torch.zeros(()), torch.full((), low))


def _segments(x: torch.Tensor) -> torch.Tensor:
    """1, 1, 1, 0, …: the first three tokens are a prefix."""
    return (torch.arange(x.shape[1]) < 3).long()


# What is added to the scores [B, H, T, T] of x [B, T, D].
CAUSAL: dict[str, Bias] = {
    "where": lambda m, x: _hidden(_places(x)[1] <= _places(x)[0]),
    "tril": lambda m, x: _hidden(torch.ones(x.shape[1], x.shape[1]).tril().bool(), -torch.inf),
    "triu": lambda m, x: torch.full((x.shape[1], x.shape[1]), -1e9).triu(1),
    "buffer": lambda m, x: m.triangle[: x.shape[1], : x.shape[1]],
    "buffer of heads": lambda m, x: m.slopes[:, : x.shape[1], : x.shape[1]],
    "bool buffer": lambda m, x: _hidden(m.seen[: x.shape[1], : x.shape[1]]),
    "ALiBi": lambda m, x: torch.where(_places(x)[1] > _places(x)[0], LOW, _alibi(x)),
    "ALiBi, added": lambda m, x: _alibi(x) + torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1),
    "product": lambda m, x: (1.0 - (_places(x)[1] <= _places(x)[0]).float()) * -10000.0,
    "product of masks": lambda m, x: (
        (1.0 - (_places(x)[1] <= _places(x)[0]).float() * (_places(x)[1] > _places(x)[0] - 9).float()) * LOW
    ),
    "subtraction": lambda m, x: _hidden(_places(x)[0] - _places(x)[1] >= 0),
    "running sum": lambda m, x: _hidden(
        torch.ones(x.shape[1], x.shape[1]).cumsum(1) <= torch.arange(1, x.shape[1] + 1)[:, None]
    ),
    "minimum": lambda m, x: torch.minimum(
        _hidden(_places(x)[1] <= _places(x)[0]), _hidden(_places(x)[1] > _places(x)[0] - 5)
    ),
    "window": lambda m, x: _hidden((_places(x)[1] <= _places(x)[0]) & (_places(x)[0] - _places(x)[1] < 4)),
    "sign": lambda m, x: torch.sign(torch.relu((_places(x)[1] - _places(x)[0]).float())) * -1e9,
    "chunks": lambda m, x: _hidden(_places(x)[1] // 12 <= _places(x)[0] // 12),
    "prefix": lambda m, x: _hidden((_places(x)[1] <= _places(x)[0]) | (_segments(x)[None, :] > 0)),
    "prefix by running sum": lambda m, x: _hidden(
        (1 - _segments(x)).cumsum(0)[None, :] <= (1 - _segments(x)).cumsum(0)[:, None]
    ),
    "gathered": lambda m, x: m.triangle[_places(x)[0], _places(x)[1]],
    "index_select": lambda m, x: m.triangle.index_select(0, torch.arange(x.shape[1]))[:, : x.shape[1]],
    "repeat": lambda m, x: _hidden(torch.ones(1, 1, x.shape[1], x.shape[1]).tril().bool()).repeat(1, HEADS, 1, 1),
    "logical_not": lambda m, x: torch.zeros(x.shape[1], x.shape[1]).masked_fill(
        torch.logical_not(_places(x)[1] <= _places(x)[0]), LOW
    ),
}
OPEN: dict[str, Bias] = {
    "ALiBi both ways": lambda m, x: _alibi(x),
    "window both ways": lambda m, x: _hidden((_places(x)[1] - _places(x)[0]).abs() < 4),
    "learned": lambda m, x: m.table[(_places(x)[1] - _places(x)[0]).clamp(-7, 7) + 7].permute(2, 0, 1),
    "zero": lambda m, x: torch.zeros(x.shape[1], x.shape[1]),
    "blocks": lambda m, x: _hidden(_places(x)[1] // 5 == _places(x)[0] // 5),
    "distance": lambda m, x: -0.1 * (_places(x)[1] - _places(x)[0]).float() ** 2 / 64,
}
MADE = {**CAUSAL, **OPEN}


class Masks(nn.Module):
    """Two blocks of one mask, which is added to the scores."""

    triangle: torch.Tensor
    seen: torch.Tensor
    slopes: torch.Tensor
    table: nn.Parameter

    def __init__(self, bias: Bias) -> None:
        super().__init__()
        self.bias = bias
        self.qkv = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))
        self.table = nn.Parameter(torch.randn(15, HEADS))
        triangle = torch.full((MOST, MOST), LOW).triu(1)
        at = torch.arange(MOST)
        self.register_buffer("triangle", triangle)
        self.register_buffer("seen", torch.ones(MOST, MOST).tril().bool())
        slopes = (at[None, :] - at[:, None]).float() * torch.tensor([0.25, 0.0625])[:, None, None]
        self.register_buffer("slopes", torch.where(triangle == 0, slopes, triangle))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        for layer in self.qkv:
            q, k, v = layer(x).reshape(b, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
            scores = q @ k.transpose(-1, -2) * (d // HEADS) ** -0.5 + self.bias(self, x)
            x = x + (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, d)
        return x


def raised(bias: Bias, importer: str, folder: Path) -> Module:
    torch.manual_seed(0)
    model, x = Masks(bias).eval(), torch.randn(2, 9, 8)
    if importer == "onnx":
        from tessera.frontends.onnx import load as load_onnx

        path = folder / "model.onnx"
        torch.onnx.export(
            model, (x,), str(path), dynamo=False, opset_version=17, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "B", 1: "T"}}, verbose=False,
        )  # fmt: skip
        found = load_onnx(path).module
    else:
        from torch.export import Dim

        from tessera.frontends.torch import load as load_torch

        found = load_torch(model, (x,), dynamic_shapes=({0: Dim("B"), 1: Dim("T", min=2, max=MOST - 1)},)).module
    module, _ = apply(found, "raise_composites")
    assert sum(node.op.qualified == ATTENTION for node in module.graph.nodes()) == 2
    return module


@pytest.mark.parametrize("importer", ["onnx", pytest.param("torch", marks=pytest.mark.extended)])
@pytest.mark.parametrize("name", MADE)
@pytest.mark.filterwarnings("ignore")
def test_a_mask_is_seen_through(name: str, importer: str, tmp_path: Path) -> None:
    module = raised(MADE[name], importer, tmp_path)
    if name in CAUSAL:
        with pytest.raises(Diagnostic, match="attends causally") as caught:
            apply(module, "merge_tokens", r=1, restore=True)
        assert caught.value.code == "E0708"
    else:
        sights = Sights(module.graph)
        assert not any(sights.of(n).one_way for n in module.graph.nodes() if n.op.qualified == ATTENTION)
        _, report = apply(module, "merge_tokens", r=1, restore=True)
        assert report.modified == 2


FRAMES = """
use std.attention (attention)
model frames(x: f32[B, N, 8]) -> f32[B, (N + 19) // 20, 8] {
    require N % 20 == 0, "whole frames"
    t = x[:, ::20]
    q = unsqueeze(t, 1)
    at = iota((N + 19) // 20, dtype=i64)
    ahead = unsqueeze(at, 0) - unsqueeze(at, 1)
    return t + squeeze(attention(q, q, q, unsqueeze(MASK, [0, 1])), 1)
}
"""


@pytest.mark.parametrize(("mask", "one_way"), [("ahead < 1", True), ("abs(ahead) < 4", False)])
def test_sizes_are_looked_at_that_the_model_takes(mask: str, one_way: bool) -> None:
    """The fewest samples with which there are so many frames are never whole frames: the most are."""
    graph = loads(FRAMES.replace("MASK", mask)).graph
    (attention,) = (n for n in graph.nodes() if n.op.qualified == ATTENTION)
    assert Sights(graph).of(attention) == Sight(one_way)


@pytest.mark.extended
@pytest.mark.parametrize("most", [None, 11])
@pytest.mark.parametrize("name", ["window both ways", "distance", "where", "chunks of 3"])
def test_a_mask_is_seen_through_where_a_token_stands_for_many_samples(name: str, most: int | None) -> None:
    """Frames of a sound; and of one of which there are never more than a few."""
    from torch.export import Dim

    from tessera.frontends.torch import load as load_torch

    bias = {**MADE, "chunks of 3": lambda m, x: _hidden(_places(x)[1] // 3 <= _places(x)[0] // 3)}[name]

    class Frames(Masks):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.nn.functional.conv1d(x[:, None], self.kernel, stride=320).mT)

    model = Frames(bias).eval()
    model.kernel = nn.Parameter(torch.randn(8, 1, 320))
    samples = Dim("samples", min=640, max=most and 320 * most + 319)
    found = load_torch(model, (torch.randn(2, 2080),), dynamic_shapes=({0: Dim("B"), 1: samples},)).module
    module, _ = apply(found, "raise_composites")
    if name in ("where", "chunks of 3"):
        with pytest.raises(Diagnostic, match="attends causally"):
            apply(module, "merge_tokens", r=1, restore=True)
    else:
        _, report = apply(module, "merge_tokens", r=1, restore=True)
        assert report.modified == 2
