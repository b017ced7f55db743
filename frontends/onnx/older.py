"""Ops as they were before: what is an operand today was an attribute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .values import Tensor, known_tensor

if TYPE_CHECKING:
    from .call import Call

# (the opset that made them operands, attributes in the order of those operands).
_OPERANDS = {
    "Clip": (11, ("min", "max")), "Pad": (11, ("pads", "value")), "Slice": (10, ("starts", "ends", "axes")),
    "Split": (13, ("split",)), "Squeeze": (13, ("axes",)), "TopK": (10, ("k",)), "Unsqueeze": (13, ("axes",)),
}  # fmt: skip


def operands(c: Call) -> list[Tensor | None]:
    """The operands of a node, those that its opset has as attributes with them."""
    since, names = _OPERANDS.get(c.op_type, (0, ()))
    if c.opset >= since or c.node.domain:
        return c.inputs
    given = [c.attr(name) for name in names]
    arrays = [None if value is None else np.asarray(value) for value in given]
    arrays = [a.reshape(-1) if a is not None and c.op_type == "TopK" else a for a in arrays]
    kinds = [None if a is None else a.astype(np.int64 if a.dtype.kind == "i" else np.float32) for a in arrays]
    return [c.inputs[0] if c.inputs else None, *(None if a is None else known_tensor(a) for a in kinds)]
