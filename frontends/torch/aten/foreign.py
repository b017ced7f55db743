"""Ops that are functions of ``specs/foreign``: operands and static parameters in the order of the schema."""

from __future__ import annotations

from typing import Any

from ....ir.graph import Value
from ...foreign import elementwise
from ..protocol import Import, aten

_SAME_NAMES = """
    acosh asinh atanh celu copysign.Scalar copysign.Tensor cosh elu exp2 expm1 frac hardshrink
    hardsigmoid hardswish hypot isfinite isinf isneginf isposinf leaky_relu log10 log1p log2 logaddexp mish reciprocal
    selu signbit sinh softplus softshrink square tan
"""


def _import(name: str) -> None:
    @aten(name)
    def importer(i: Import, *operands: Any) -> Value:
        called = elementwise(name.partition(".")[0]).signature
        leaves = called.leaves()
        count = len(leaves)
        tensors = i.together(*operands[:count], floating=leaves[0][1].dtype == "float")
        statics = {s.name: float(v) for s, v in zip(called.statics, operands[count:], strict=False)}
        return i.foreign(called.name, *tensors, **statics)


for _name in _SAME_NAMES.split():
    _import(_name)
