"""Constants that only compare positions: a triangle or a band of a file's weights is written as what it says.

GPT-Neo's buffer of a lower triangle becomes `iota(64) <= unsqueeze(iota(64), 1)`, which tells passes that attention is causal.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import numpy as np

from ..ir.builder import Builder
from ..ir.graph import Graph, Value
from ..ir.types import DType, boolean

# A float that hides what it is added to: exp of it is 0 next to any other.
_LOW = -1e4


def write_positions(graph: Graph, weights: MutableMapping[str, Any], trained: bool = False) -> list[str]:
    """Replace such buffers and constants in place, and drop them from ``weights``; a note for each buffer.

    Only the last two axes may have more than one element: rows are places of queries, columns of keys.

    Args:
        trained: look at parameters too, where it is not known which of them are constants.
    """
    notes = []
    for name, param in list(graph.params.items()):
        if not _may_be(param.type.shape) or name not in weights or (param.trainable and not trained):
            continue
        made = _written(graph, param, np.asarray(weights[name]))
        if made is not None:
            param.replace_uses(made)
            del graph.params[name], weights[name]
            notes.append(f"`{name}` is a triangle or a band: it is computed from positions")
    for node in list(graph.nodes()):
        if node.op.qualified == "constant" and _may_be(node.output.type.shape):
            made = _written(graph, node.output, np.array(node.attrs["value"]))
            if made is not None:
                node.output.replace_uses(made)
                graph.remove(node)
    return notes


def _may_be(shape: Any) -> bool:
    return (
        len(shape) >= 2
        and all(d == 1 for d in shape[:-2])
        and all(d.value is not None and d.value > 1 for d in shape[-2:])
    )


def _written(graph: Graph, value: Value, array: np.ndarray) -> Value | None:
    rank, dtype = value.type.rank, value.type.dtype
    found = _band(array.reshape(array.shape[-2:]), dtype)
    if found is None:
        return None
    inside, outside, low, high = found
    builder = Builder(graph).before(next(iter(graph.nodes()), None))
    rows = builder.op("unsqueeze", builder.op("iota", n=array.shape[-2]), axis=(*range(rank - 2), rank - 1))
    columns = builder.op("unsqueeze", builder.op("iota", n=array.shape[-1]), axis=tuple(range(rank - 1)))
    conditions = [
        builder.op(op, columns, _moved(rows, by, builder)) for op, by in (("le", high), ("ge", low)) if by is not None
    ]
    within = conditions[0] if len(conditions) == 1 else builder.op("logical_and", *conditions)
    if {inside, outside} == {0, 1}:
        within = within if inside else builder.op("logical_not", within)
        return within if dtype == boolean else builder.op("cast", within, dtype=dtype)
    return builder.op("where", within, builder.constant(inside, dtype), builder.constant(outside, dtype))


def _moved(rows: Value, by: int, builder: Builder) -> Value:
    return rows if by == 0 else builder.op("add", rows, builder.constant(by, rows.type.dtype))


def _band(matrix: np.ndarray, dtype: DType) -> tuple[Any, Any, int | None, int | None] | None:
    """(value within, value outside, least and greatest of column - row within) of a matrix that is a band of the diagonal;
    a bound is None where the band reaches the corner."""
    rows, columns = matrix.shape
    # Weights fail at the first element, and are not read as a whole.
    if matrix[0, 0] != matrix[1, 1] or (matrix[1:, 1:] != matrix[:-1, :-1]).any():
        return None
    diagonals = np.concatenate([matrix[:0:-1, 0], matrix[0]])
    inside = diagonals == matrix[0, 0]
    outside = diagonals[~inside]
    at = np.flatnonzero(inside)
    if not len(outside) or (outside != outside[0]).any() or at[-1] - at[0] + 1 != len(at):
        return None
    values = [v.item() if hasattr(v, "item") else v for v in (matrix[0, 0], outside[0])]
    masks = set(values) == {0, 1} and len(at) > 1
    if dtype.kind == "float" and not masks and min(values) > _LOW:
        return None
    low, high = int(at[0]) - (rows - 1), int(at[-1]) - (rows - 1)
    return *values, None if low == 1 - rows else low, None if high == columns - 1 else high  # type: ignore[return-value]
