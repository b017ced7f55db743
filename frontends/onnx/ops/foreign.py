"""Ops that are functions of ``specs/foreign``: operands in order, attributes by name."""

from __future__ import annotations

from ....ir.graph import Value
from ..call import Call
from ..registry import MICROSOFT, imports

_FUNCTIONS = {
    "Acosh": "acosh", "Asinh": "asinh", "Atanh": "atanh", "Celu": "celu", "Cosh": "cosh", "Elu": "elu",
    "HardSigmoid": "clipped_line", "HardSwish": "hardswish", "LeakyRelu": "leaky_relu", "Mish": "mish", "PRelu": "prelu",
    "QuickGelu": "quick_swish", "Reciprocal": "reciprocal", "Selu": "selu", "Shrink": "shrink", "Sinh": "sinh",
    "Softplus": "softplus", "Softsign": "softsign", "Swish": "swish", "Tan": "tan", "ThresholdedRelu": "thresholded_relu",
}  # fmt: skip


@imports(*(name for name in _FUNCTIONS if name != "QuickGelu"))
@imports("QuickGelu", domain=MICROSOFT)
def function(c: Call) -> Value:
    return c.foreign(_FUNCTIONS[c.op_type])
