"""Files of opsets 9 to 12: ops whose operands were attributes, and softmaxes over all axes from one on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tessera.passes.engine import apply

from .support import agree, model, node

X = {"x": ("f32", ["B", "T", 4, 6])}
SOFTMAXES = {f"{op}, axis {axis}": (op, {} if axis is None else {"axis": axis}, "y") for op in ("Softmax", "LogSoftmax")
             for axis in (None, 0, 1, 2, 3, -1, -2)}  # fmt: skip
ATTRIBUTES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "Split": ("Split", {"axis": 3, "split": [1, 2, 3]}, "y z w", 12),
    "Split in equal parts": ("Split", {"axis": 2}, "y z", 12),
    "Clip": ("Clip", {"min": -0.5, "max": 0.25}, "y", 10),
    "Clip from below": ("Clip", {"min": 0.1}, "y", 10),
    "Clip of nothing": ("Clip", {}, "y", 10),
    "Pad": ("Pad", {"pads": [0, 1, 0, 2, 0, 0, 1, 0], "value": 1.5}, "y", 10),
    "Pad with zeros": ("Pad", {"pads": [0, 0, 0, 2, 0, 0, 0, 1]}, "y", 10),
    "Pad by reflection": ("Pad", {"pads": [0, 0, 1, 2, 0, 0, 1, 1], "mode": "reflect"}, "y", 10),
    "Slice": ("Slice", {"starts": [1, 0], "ends": [3, -1], "axes": [2, 3]}, "y", 9),
    "Slice of the first axes": ("Slice", {"starts": [0, 1], "ends": [1, 3]}, "y", 9),
    "TopK": ("TopK", {"k": 2, "axis": 3}, "y z", 9),
}


def check(op: str, attributes: dict[str, Any], outputs: str, opset: int, folder: Path) -> None:
    proto = model([node(op, "x", outputs, **attributes)], X, outputs.split(), opset=opset)
    agree(proto, folder)


@pytest.mark.parametrize("name", SOFTMAXES)
def test_a_softmax_over_all_axes_from_one_on(name: str, tmp_path: Path) -> None:
    check(*SOFTMAXES[name], 12, tmp_path)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_what_was_an_attribute(name: str, tmp_path: Path) -> None:
    op, attributes, outputs, opset = ATTRIBUTES[name]
    check(op, attributes, outputs, opset, tmp_path)


def test_axes_of_known_numbers(tmp_path: Path) -> None:
    """Sizes are computed with the same ops as tensors."""
    nodes = [
        node("Shape", "x", "s"), node("Slice", "s", "two", starts=[1], ends=[2]), node("Squeeze", "two", "t", axes=[0]),
        node("Unsqueeze", "t", "row", axes=[0]), node("Concat", "head row tail", "shape", axis=0), node("Reshape", "x shape", "y"),
        node("Unsqueeze", "s", "table", axes=[0, 2]), node("Squeeze", "table", "z", axes=[2]),
    ]  # fmt: skip
    constants = {"head": np.array([-1]), "tail": np.array([24])}
    agree(model(nodes, X, ["y", "z"], constants, opset=9), tmp_path)


def attention(importer_opset: int, folder: Path) -> Path:
    """A block as PyTorch's first exporter wrote it, with the mask as a bias."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out, self.norm = torch.nn.Linear(24, 72), torch.nn.Linear(24, 24), torch.nn.LayerNorm(24)

        def forward(self, x: Any, mask: Any) -> Any:
            b, t, d = x.shape
            q, k, v = self.qkv(self.norm(x)).view(b, t, 3, 3, d // 3).permute(2, 0, 3, 1, 4).unbind(0)
            scores = q @ k.transpose(-1, -2) / 8**0.5 + (1.0 - mask[:, None, None].float()) * -1e9
            return x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, d))

    torch.manual_seed(0)
    axes = {"x": {0: "B", 1: "T"}, "mask": {0: "B", 1: "T"}}
    torch.onnx.export(
        Block().eval(), (torch.randn(2, 6, 24), torch.ones(2, 6, dtype=torch.long)), str(folder / "model.onnx"), dynamo=False,
        opset_version=importer_opset, input_names=list(axes), output_names=["y"], dynamic_axes=axes,
    )  # fmt: skip
    return folder / "model.onnx"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [9, 10, 11, 12])
def test_attention_of_an_old_file_is_found_and_merges(opset: int, tmp_path: Path) -> None:
    ones = np.ones((2, 9), np.int64)
    found = agree(attention(opset, tmp_path), tmp_path, ({"B": 2, "T": 9},), {"mask": ones}, 1e-4)
    raised, report = apply(found.module, "raise_composites")
    assert report.facts["composites"]["attention"] == 1
    assert apply(raised, "merge_tokens", r=2, restore=True)[1].modified == 1


@pytest.mark.parametrize("op", ["Upsample", "Hardmax"])
def test_what_is_still_refused_says_how_to_go_on(op: str, tmp_path: Path) -> None:
    from tessera.frontends.onnx import load
    from tessera.ir.diagnostics import Diagnostic

    onnx.save(model([node(op, "x", "y")], X, ["y"], opset=9), tmp_path / "model.onnx")
    with pytest.raises(Diagnostic) as caught:
        load(tmp_path / "model.onnx")
    assert caught.value.code == "E0753"
    assert "convert_version" in (caught.value.help or "")
