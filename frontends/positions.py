"""Constants that only compare positions: a triangle or a band of a file's weights is written as what it says.

GPT-Neo's buffer of a lower triangle becomes `iota(64) <= unsqueeze(iota(64), 1)`, which tells passes that attention is causal. Of a
buffer of other numbers (ALiBi's slopes) whose later places are hidden, that is written beside the numbers.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import numpy as np

from ..ir.analysis.evaluate import to_value
from ..ir.builder import Builder
from ..ir.dims.dim import as_dim
from ..ir.graph import Graph, Initializer, Parameter, Value
from ..ir.op import Trait, has
from ..ir.types import DType, TensorType, boolean

# A float that hides what it is added to: exp of it is 0 next to any other.
_LOW = -1e4
# Tables of more elements are weights, not constants in the source.
_TABLE = 4096


def write_positions(graph: Graph, weights: MutableMapping[str, Any], trained: bool = False) -> list[str]:
    """Replace such buffers and constants in place, and drop them from ``weights``; a note for each buffer.

    The last two axes are places of queries and of keys.

    Args:
        trained: look at parameters too, where it is not known which of them are constants.
    """
    notes = []
    for name, param in list(graph.params.items()):
        if not _of_places(param.type.shape) or name not in weights or (param.trainable and not trained):
            continue
        made = _written(graph, param, np.asarray(weights[name])) if _one_matrix(param.type.shape) else None
        if made is not None:
            param.replace_uses(made)
            del graph.params[name], weights[name]
            notes.append(f"`{name}` is a triangle or a band: it is computed from positions")
        elif _added(param) and (seen := _hiding(array := np.asarray(weights[name]), param.type.dtype)) is not None:
            _write_seen(graph, name, array, seen, weights)
            notes.append(f"`{name}` hides places from others: which ones is written beside it")
    for node in list(graph.nodes()):
        if node.op.qualified == "constant" and _one_matrix(node.output.type.shape):
            made = _written(graph, node.output, np.array(node.attrs["value"]))
            if made is not None:
                node.output.replace_uses(made)
                graph.remove(node)
    return notes


def _of_places(shape: Any) -> bool:
    return len(shape) >= 2 and all(d.value is not None and d.value > 1 for d in shape[-2:])


def _one_matrix(shape: Any) -> bool:
    return _of_places(shape) and all(d == 1 for d in shape[:-2])


def _added(value: Value) -> bool:
    """Whether somebody reads a buffer, however it is moved about, as something else than a weight: that of a product, a convolution
    or an embedding is not looked at as a whole."""
    for node, position in value.uses:
        if node.op is None or node.op.family == "control":
            return True
        weighs = node.op.family == "contraction" or node.op.qualified == "std.nn.affine"
        weighs |= has(node, Trait.INDEXES) and position == 0
        moved = has(node, Trait.MOVES) or node.op.qualified == "cast"
        if not weighs and (not moved or _added(node.output)):
            return True
    return False


def _hiding(array: np.ndarray, dtype: DType) -> np.ndarray | None:
    """Which places a buffer of biases shows to which, where some are hidden one way: one matrix if that is all it says."""
    if dtype.kind != "float" or not array.size or not array.min() <= _LOW:
        return None
    seen = array > _LOW
    if (seen == seen.swapaxes(-1, -2)).all() if seen.shape[-1] == seen.shape[-2] else seen.all():
        return None
    alike = len(np.unique(array[~seen])) == 1
    if not alike and (seen.ndim == 2 or not seen.any(-1).all()):
        # A query that sees nothing gives what the hidden numbers say.
        return None
    first = seen.reshape(-1, *seen.shape[-2:])[0]
    return first if (seen == first).all() else seen


def _write_seen(
    graph: Graph, name: str, array: np.ndarray, seen: np.ndarray, weights: MutableMapping[str, Any]
) -> None:
    """Let a buffer be `where(seen, buffer, low)`."""
    param = graph.params[name]
    builder = Builder(graph).before(next(iter(graph.nodes()), None))
    band = _band(seen, boolean) if seen.ndim == 2 else None
    if band is not None:
        within = _within(builder, 2, seen.shape, *band[2:])
        within = within if band[0] else builder.op("logical_not", within)
    elif seen.size <= _TABLE:
        within = builder.op("constant", value=to_value(seen), dtype=boolean)
    else:
        type = TensorType(boolean, tuple(map(as_dim, seen.shape)))
        within = graph.add_param(Parameter(type, f"{name}.seen", Initializer("zeros", ()), trainable=False))
        weights[f"{name}.seen"] = seen
    made = builder.op("where", within, param, builder.constant(float(array[array <= _LOW].max()), param.type.dtype))
    assert made.node is not None
    param.replace_uses(made, skip=[made.node])


def _written(graph: Graph, value: Value, array: np.ndarray) -> Value | None:
    rank, dtype = value.type.rank, value.type.dtype
    found = _band(array.reshape(array.shape[-2:]), dtype)
    if found is None:
        return None
    inside, outside, low, high = found
    builder = Builder(graph).before(next(iter(graph.nodes()), None))
    within = _within(builder, rank, array.shape, low, high)
    if {inside, outside} == {0, 1}:
        within = within if inside else builder.op("logical_not", within)
        return within if dtype == boolean else builder.op("cast", within, dtype=dtype)
    return builder.op("where", within, builder.constant(inside, dtype), builder.constant(outside, dtype))


def _within(builder: Builder, rank: int, shape: tuple[int, ...], low: int | None, high: int | None) -> Value:
    """Where column - row is from ``low`` to ``high``, in a tensor of ``rank`` axes."""
    rows = builder.op("unsqueeze", builder.op("iota", n=shape[-2]), axis=(*range(rank - 2), rank - 1))
    columns = builder.op("unsqueeze", builder.op("iota", n=shape[-1]), axis=tuple(range(rank - 1)))
    conditions = [
        builder.op(op, columns, _moved(rows, by, builder)) for op, by in (("le", high), ("ge", low)) if by is not None
    ]
    return conditions[0] if len(conditions) == 1 else builder.op("logical_and", *conditions)


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
