"""The dispatch of a mixture of experts: rows sorted by expert with few nodes, which are most of the time where tokens are few."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.types import i64
from .contraction import groups_key
from .registry import claim
from .shape import operand

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Node
    from .emit import Emitter

# What moves numbers of experts about and changes none.
_MOVES = ("Reshape", "Identity", "Squeeze", "Unsqueeze", "Slice", "Transpose")


@claim("std.moe.experts.dispatch", unless=lambda node: not 0 < node.attrs["experts"] <= 4096)
def dispatch(e: Emitter, node: Node, x: ox.Value, expert: ox.Value, weight: ox.Value | None) -> list[ox.Value]:
    """Sizes of the groups are counted without sorting, and a permutation is sorted to turn it round: one node for four.

    Where the router cannot name an expert that there is none of, no row is left over, and nothing is said of such rows.
    """
    count, (rows, k) = node.attrs["experts"], operand(node, 1).shape
    all_chosen = _highest(expert) < count
    flat = e.reshape(expert, (rows, k), (rows * k,))
    if not all_chosen:
        flat = e.op("Clip", flat, e.constant(0, i64), e.constant(count, i64))
    pairs = e.op("Shape", flat)
    order = e.multi("TopK", flat, pairs, outputs=2, axis=0, largest=0)[1]
    inverse = e.multi("TopK", order, pairs, outputs=2, axis=0, largest=0)[1]
    numbers = e.constant(np.arange(count + (not all_chosen)).reshape(-1, 1), i64)
    sizes = e.op("ReduceSum", e.cast(e.op("Equal", numbers, flat), i64), e.ints([1]), keepdims=0)
    own = sizes if all_chosen else e.slice(sizes, 0, 0, count)
    ends = e.op("CumSum", own, e.constant(0, i64))
    e.remember(groups_key(ends, rows * k, rest=not all_chosen), lambda: sizes)
    token = order if k.value == 1 else e.op("Div", order, e.scalar(k))
    return [e.op("Gather", x, token, axis=0), ends, inverse]


def _highest(expert: ox.Value) -> float:
    """The highest number that experts may have; infinity where that is not known."""
    made = expert.producer()
    while made is not None and made.op_type in _MOVES and made.inputs[0] is not None:
        expert = made.inputs[0]
        made = expert.producer()
    # Of its two results places are the second.
    if made is None or made.op_type != "TopK" or expert.index() != 1:
        return np.inf
    scores = made.inputs[0]
    if scores is None or scores.shape is None:
        return np.inf
    width = scores.shape[made.attributes["axis"].as_int() if "axis" in made.attributes else -1]
    return width - 1 if isinstance(width, int) else np.inf
