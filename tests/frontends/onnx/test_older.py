"""Files of opsets 9 to 12: ops whose operands were attributes, and softmaxes over all axes from one on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

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


@pytest.mark.parametrize("op", ["Upsample", "Hardmax"])
def test_what_is_still_refused_says_how_to_go_on(op: str, tmp_path: Path) -> None:
    from tessera.frontends.onnx import load
    from tessera.ir.diagnostics import Diagnostic

    onnx.save(model([node(op, "x", "y")], X, ["y"], opset=9), tmp_path / "model.onnx")
    with pytest.raises(Diagnostic) as caught:
        load(tmp_path / "model.onnx")
    assert caught.value.code == "E0753"
    assert "convert_version" in (caught.value.help or "")
