"""Sizes that the language alone cannot tell to be equal: what torch.export required of them decides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tessera.backends.torch import build
from tessera.frontends.torch.known import Known
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import const, dim_max, dim_min, sym

from .agreeing import agree

T = sym("T")


def test_an_extremum_is_what_an_equality_makes_it() -> None:
    known = Known()
    known.equal(T, const(64) - dim_max(0, 64 - T))
    assert known.size(100 - dim_max(0, 64 - T)) == T + 36
    assert list(known.needs()) == [(64 - T, ">=", const(0))]
    assert known.size(dim_max(0, 65 - T)) == dim_max(0, 65 - T)


def test_bounds_and_sizes_of_tensors_decide() -> None:
    known = Known({"T": (10, 40)})
    assert known.size(dim_min(T, 64)) == T
    assert known.size(dim_max(12, T)) == dim_max(12, T)
    frames = (T - 10) // 20
    assert known.size(frames - dim_min(0, frames)) == frames  # by the bound
    assert Known().size(dim_min(0, frames)) == dim_min(0, frames)
    assert Known(sizes={frames}).size(dim_min(0, frames)) == 0


class Biased(nn.Module):
    """Positions cut from the end of a table, as MPT does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(4, 1, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = x @ x.mT
        rows, columns = (max(0, self.table.size(axis) - scores.shape[-1]) for axis in (1, 2))
        return scores + self.table[:, rows:, columns:]  # type: ignore[index]


def test_a_table_cut_from_its_end() -> None:
    imported = agree(Biased(), lambda size: (torch.randn(2, 4, size, 8),), ({0: "B", 2: "T"},), sizes=(6, 9))
    with pytest.raises(Diagnostic, match="T"):
        build(imported.module, imported.weights)(torch.randn(2, 4, 65, 8))


class Frames(nn.Module):
    """Convolutions, positions of the frames, and rows joined with heads, as speech encoders have them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 32, 10, 5), nn.Conv1d(32, 32, 3, 4)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(wave.unsqueeze(1))).mT
        heads = x.unflatten(-1, (4, 8)).transpose(1, 2).reshape(-1, x.shape[1], 8)
        seen = torch.arange(x.shape[1])[None, None, 0:] <= torch.arange(x.shape[1])[None, :, None]
        scores = (heads @ heads.mT).masked_fill(~seen, -1e4).softmax(-1)
        return (scores @ heads).view(-1, 4, x.shape[1], 8)


def test_frames_of_convolutions() -> None:
    agree(Frames(), lambda size: (torch.randn(2, 60 + 10 * size),), ({0: "B", 1: "L"},), sizes=(6, 9))


def test_sizes_of_one_name_are_one_size() -> None:
    def picked(x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Halves make torch.export find sizes out by itself, and an index says nothing of the sizes of what it picks from.
        b, t = x.shape
        places = torch.arange(b)[:, None] * t + torch.arange(t)
        return x.reshape(b, t // 2, 2).sum(-1), x * mask.reshape(-1)[places]

    free = {0: "B", 1: "T"}
    imported = agree(picked, lambda size: (torch.randn(3, size), torch.rand(3, size)), (free, free), sizes=(6, 10))
    assert [str(v.type) for v in imported.module.graph.inputs] == ["f32[B, 2 * T_2]"] * 2
