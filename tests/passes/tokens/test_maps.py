"""One network in many layouts: tokens behind the features, maps of height and width, heads in the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tessera as ts
from tessera.passes.engine import apply

DIM, HEADS, HIGH, WIDE = 12, 3, 3, 4
# Where features lie behind the batch.
CHANNELS = ("bdt", "bdhw")


class Linear(nn.Linear):
    """A product with features, which may be a convolution of single places."""

    def __init__(self, layout: str, width: int, out: int) -> None:
        super().__init__(width, out)
        self.layout = layout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.layout == "bdt":
            return F.conv1d(x, self.weight[:, :, None], self.bias)
        if self.layout == "bdhw":
            return F.conv2d(x, self.weight[:, :, None, None], self.bias)
        return super().forward(x)


class Norm(nn.LayerNorm):
    """Over features, wherever these lie; ``written``: out of a mean and a root."""

    def __init__(self, layout: str, written: bool) -> None:
        super().__init__(DIM)
        self.layout, self.written = layout, written

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.layout not in CHANNELS:
            return super().forward(x)
        if not self.written:
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)
        apart = x - x.mean(1, keepdim=True)
        shape = (DIM,) + (1,) * (x.ndim - 2)
        scaled = apart / torch.sqrt(apart.pow(2).mean(1, keepdim=True) + self.eps)
        return scaled * self.weight.view(shape) + self.bias.view(shape)


class Block(nn.Module):
    def __init__(self, layout: str, written: bool) -> None:
        super().__init__()
        self.layout = layout
        self.norm1, self.norm2 = Norm(layout, written), Norm(layout, written)
        self.qkv, self.out = Linear(layout, DIM, 3 * DIM), Linear(layout, DIM, DIM)
        self.up, self.down = Linear(layout, DIM, 24), Linear(layout, 24, DIM)
        self.scale = nn.Parameter(torch.rand(DIM) + 0.5)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        whole, width, c = self.qkv(x), DIM // HEADS, (DIM // HEADS) ** -0.5
        if self.layout in CHANNELS:
            q, k, v = whole.reshape(x.shape[0], 3, HEADS, width, HIGH * WIDE).unbind(1)
            if self.layout == "bdt":
                p = (torch.einsum("bhdn,bhdm->bhnm", q, k) * c).softmax(-1)
                z = torch.einsum("bhnm,bhdm->bhdn", p, v)
            else:
                z = v @ ((q.transpose(-1, -2) @ k) * c).softmax(-1).transpose(-1, -2)
            return self.out(z.reshape(x.shape))
        batch = x.shape[0]
        q, k, v = whole.reshape(batch, HIGH * WIDE, 3, HEADS, width).permute(2, 0, 3, 1, 4).unbind(0)
        if self.layout == "folded":
            q, k, v = (part.reshape(-1, HIGH * WIDE, width) for part in (q, k, v))
            z = torch.bmm((torch.bmm(q, k.transpose(1, 2)) * c).softmax(-1), v).view(batch, HEADS, -1, width)
        else:
            z = F.scaled_dot_product_attention(q, k, v)
        return self.out(z.transpose(1, 2).reshape(x.shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.scale.view((DIM,) + (1,) * (x.ndim - 2)) if self.layout in CHANNELS else self.scale
        x = x + scale * self.attend(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Net(nn.Module):
    """Takes [B, T, D]; ``reads``: the mean, or all of the tokens, as [B, T, D] again."""

    def __init__(self, layout: str, reads: str, written: bool) -> None:
        super().__init__()
        self.layout, self.reads = layout, reads
        self.places = nn.Parameter(torch.randn(HIGH, WIDE, DIM) * 0.3)
        self.blocks = nn.ModuleList(Block(layout, written) for _ in range(2))
        self.norm = Norm(layout, written)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unflatten(1, (HIGH, WIDE)) + self.places
        if self.layout in CHANNELS:
            x = x.permute(0, 3, 1, 2)
        if self.layout == "bdt":
            x = x.flatten(2)
        elif not self.layout.endswith(("hw", "hwd")):
            x = x.flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.reads == "mean":
            return x.mean({"bdt": (2,), "bdhw": (2, 3), "bhwd": (1, 2)}.get(self.layout, (1,)))
        x = x.flatten(2).transpose(1, 2) if self.layout in CHANNELS else x
        return x.reshape(-1, HIGH * WIDE, DIM)


def merged(layout: str, reads: str, written: bool, x: torch.Tensor) -> list[dict[str, np.ndarray]]:
    """What both backends give of the network merged twice, which without merging gives what PyTorch does."""
    from torch.export import Dim

    from tessera.frontends.torch import load

    torch.manual_seed(0)
    model = Net(layout, reads, written).eval()
    found = load(model, (x,), dynamic_shapes=({0: Dim("B")},))
    raised, _ = apply(found.module, "raise_composites")
    plain = next(iter(ts.compile(raised, weights=found.weights, passes=[])(x.numpy()).values()))
    np.testing.assert_allclose(plain, model(x).detach().numpy(), atol=2e-5)
    result, report = apply(raised, "merge_tokens", r=2, map=True, restore=reads == "all")
    assert report.modified == 2
    artifacts = (ts.compile(result, weights=found.weights, passes=[], target=t) for t in ("torch", "onnx"))
    return [{name: np.asarray(value) for name, value in artifact(x.numpy()).items()} for artifact in artifacts]


def case(layout: str, reads: str, written: bool = False, quick: bool = False) -> Any:
    return pytest.param(layout, reads, written, marks=() if quick else pytest.mark.extended)


@pytest.mark.parametrize(
    ("layout", "reads", "written"),
    [
        case("bhwd", "mean", quick=True), case("bhwd", "all"), case("bdhw", "mean", quick=True), case("bdhw", "mean", True),
        case("bdhw", "all"), case("bdt", "mean"), case("bdt", "all", True), case("folded", "mean", quick=True),
        case("folded", "all"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_a_layout_merges_to_the_same_indices(layout: str, reads: str, written: bool) -> None:
    x = torch.randn(3, HIGH * WIDE, DIM, generator=torch.Generator().manual_seed(1))
    wanted = merged("btd", reads, False, x)[0]
    for result in merged(layout, reads, written, x):
        np.testing.assert_array_equal(result["token_source"], wanted["token_source"])
        first, other = (next(iter(r.values())) for r in (wanted, result))
        np.testing.assert_allclose(other.reshape(first.shape), first, atol=3e-5)
