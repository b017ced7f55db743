"""Segmenter agrees with its encoder and decoders as the paper's repository has them, written in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

from .judges import TOLERANCE, images

PARAMS = {"size": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 4, "hidden": 64, "classes": 5, "decoder_dim": 24,
          "decoder_heads": 3}  # fmt: skip


class Block(torch.nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(dim), torch.nn.LayerNorm(dim)
        self.attn = torch.nn.ModuleDict({"qkv": torch.nn.Linear(dim, 3 * dim), "proj": torch.nn.Linear(dim, dim)})
        self.mlp = torch.nn.ModuleDict({"fc1": torch.nn.Linear(dim, hidden), "fc2": torch.nn.Linear(hidden, dim)})

    def forward(self, x: Any) -> Any:
        batch, tokens, dim = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = torch.nn.functional.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(batch, tokens, dim)
        x = x + self.attn["proj"](y)
        return x + self.mlp["fc2"](torch.nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))


class Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = torch.nn.ModuleDict({"proj": torch.nn.Conv2d(3, 32, 8, 8)})
        self.cls_token = torch.nn.Parameter(torch.randn(1, 1, 32))
        self.pos_embed = torch.nn.Parameter(torch.randn(1, 17, 32))
        self.blocks = torch.nn.ModuleList(Block(32, 4, 64) for _ in range(2))
        self.norm = torch.nn.LayerNorm(32)

    def forward(self, image: Any) -> Any:
        x = self.patch_embed["proj"](image)
        rows, columns = x.shape[2:]
        grid = self.pos_embed[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(grid, size=(rows, columns), mode="bilinear").flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)), 1)
        x = x + torch.cat((self.pos_embed[:, :1], grid), 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class MaskTransformer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_emb = torch.nn.Parameter(torch.randn(1, 5, 24))
        self.proj_dec = torch.nn.Linear(32, 24)
        self.proj_patch = torch.nn.Parameter(torch.randn(24, 24) * 24**-0.5)
        self.proj_classes = torch.nn.Parameter(torch.randn(24, 24) * 24**-0.5)
        self.blocks = torch.nn.ModuleList(Block(24, 3, 96) for _ in range(2))
        self.decoder_norm, self.mask_norm = torch.nn.LayerNorm(24), torch.nn.LayerNorm(5)

    def forward(self, x: Any) -> Any:
        x = torch.cat((self.proj_dec(x), self.cls_emb.expand(len(x), -1, -1)), 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        patches, classes = x[:, :-5] @ self.proj_patch, x[:, -5:] @ self.proj_classes
        patches = patches / patches.norm(dim=-1, keepdim=True)
        classes = classes / classes.norm(dim=-1, keepdim=True)
        return self.mask_norm(patches @ classes.transpose(1, 2))


class Segmenter(torch.nn.Module):
    def __init__(self, decoder: str) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = MaskTransformer() if decoder == "mask" else torch.nn.ModuleDict({"head": torch.nn.Linear(32, 5)})

    def forward(self, image: Any) -> Any:
        x = self.encoder(image)[:, 1:]
        x = self.decoder(x) if isinstance(self.decoder, MaskTransformer) else self.decoder["head"](x)
        rows, columns = image.shape[2] // 8, image.shape[3] // 8
        x = x.transpose(1, 2).reshape(len(image), -1, rows, columns)
        return torch.nn.functional.interpolate(x, size=image.shape[2:], mode="bilinear")


def judge(decoder: str) -> Any:
    torch.manual_seed(0)
    return Segmenter(decoder).eval()


@pytest.mark.parametrize(
    ("decoder", "height", "width"),
    [("mask", 32, 32), *(pytest.param(*row, marks=pytest.mark.extended) for row in (("linear", 32, 32), ("mask", 48, 24)))],
)
def test_scores_of_every_pixel(decoder: str, height: int, width: int) -> None:
    model, image = judge(decoder), images(2, height, width)
    weights = {name: array.detach().numpy() for name, array in model.state_dict().items()}
    with torch.no_grad():
        want = model(torch.as_tensor(image)).numpy()
    for target in ("torch", "onnx"):
        module = ts.load("zoo/segmenter", params={**PARAMS, "decoder": decoder, "height": height, "width": width})
        got = ts.compile(module, weights=weights, target=target, verify=False)(image=image)["logits"]
        np.testing.assert_allclose(np.asarray(got), want, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"decoder": "fpn"}, 'the decoder is "linear" or "mask"'), ({"height": 30}, "the patches must cover the image")],
    ids=str,
)
def test_what_it_cannot_do_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        ts.load("zoo/segmenter", params={**PARAMS, **changes})
    assert caught.value.code == "E0501"
    assert said in str(caught.value)
