"""Experts' matrices in 8 or 4 bits, `com.microsoft.QMoE`: whole numbers around the middle of their range, with a scale for each output.

A matrix stays what its file says until the artifact is written; what is compared with is the program with the weights as rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Module, Parameter
from ...ir.types import f32, u8
from ...runtime.weights.bind import Bound, LazyTensor
from .weights import Weight

if TYPE_CHECKING:
    import onnx_ir as ox

    from .emit import Emitter

MIXTURES = ("std.moe.experts.gated", "std.moe.experts.plain")
# The matrices [E, I, O] among the operands of a mixture.
MATRICES = (3, 4)


def packed(e: Emitter, value: ox.Value, bits: int, *, dealt: bool) -> tuple[ox.Value, ox.Value]:
    """A weight [E, I, O] as numbers u8 [E, O, I bits / 8] and scales [E, O]; ``dealt``: gate and gated, in halves, in turn."""
    held = value.const_value
    assert held is not None
    tensor: LazyTensor = held.raw.tensor  # type: ignore[attr-defined]
    experts, inner, outer = tensor.shape

    def codes() -> tuple[np.ndarray, np.ndarray]:
        matrices = tensor.numpy().astype(np.float32, copy=False)
        if dealt:
            matrices = np.stack(np.split(matrices, 2, axis=2), axis=3).reshape(tensor.shape)
        return rounding(matrices, bits)

    def numbers() -> np.ndarray:
        found = codes()[0].transpose(0, 2, 1)
        return found if bits == 8 else found[..., ::2] | (found[..., 1::2] << 4)

    name = tensor.name or value.name or "experts"
    made = []
    for tail, dtype, shape, load in (
        (f"u{bits}", u8, (experts, outer, inner * bits // 8), numbers),
        ("scale", f32, (experts, outer), lambda: codes()[1][:, 0]),
    ):
        one = e.root.value(f"{name}.{tail}", dtype, shape)
        one.const_value = Weight(LazyTensor(f"{name}.{tail}", dtype, shape, load)).onnx(one.name)
        made.append(one)
    return made[0], made[1]


def rounding(matrices: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers u8 [E, I, O] around the middle of what ``bits`` hold, and scales [E, 1, O]: a column's largest is the end of the range."""
    most = (1 << (bits - 1)) - 1
    scale = np.abs(matrices).max(axis=1, keepdims=True) / most
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    return (np.round(matrices / scale) + most + 1).astype(np.uint8), scale


def as_rounded(module: Module, weights: Bound, bits: int) -> Bound:
    """The weights that an artifact with rounded experts computes with."""
    made = Bound()
    made.update(weights)
    for node in module.graph.nodes():
        for param in (node.inputs[i] for i in MATRICES) if node.op.qualified in MIXTURES else ():
            if isinstance(param, Parameter):
                made[param.full_name] = _rounded(weights[param.full_name], bits)
    return made


def _rounded(tensor: LazyTensor, bits: int) -> LazyTensor:
    def load() -> np.ndarray:
        numbers, scale = rounding(tensor.numpy().astype(np.float32, copy=False), bits)
        return (numbers.astype(np.float32) - (1 << (bits - 1))) * scale

    return LazyTensor(tensor.name, tensor.dtype, tensor.shape, load, made=True)
