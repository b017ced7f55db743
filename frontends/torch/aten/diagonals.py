"""Diagonals and triangles, by the places of their elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.dims.dim import Dim, as_dim, dim_max, dim_min
from ....ir.graph import Value
from ....ir.types import DType, i64
from ..protocol import Import, Unsupported, aten, axis_of
from .elementwise import dtype_of


def _length(rows: Dim, columns: Dim, offset: int) -> Dim:
    below, right = (rows + offset, columns) if offset < 0 else (rows, columns - offset)
    return dim_max(0, dim_min(below, right))


def _beginning(i: Import, count: Dim, offset: int, by: int) -> Value:
    """The rows of a diagonal's elements, or with the offset turned round their columns."""
    at = i.op("iota", n=count, dtype=i64)
    return at if by * offset <= 0 else i.op("add", at, i.scalar(abs(offset), i64))


@aten("diagonal", "diagonal_copy", "linalg_diagonal")
def _diagonal(i: Import, x: Value, offset: int = 0, first: int = 0, second: int = 1) -> Value:
    a, b = axis_of(first, x.type.rank), axis_of(second, x.type.rank)
    rest = [c for c in range(x.type.rank) if c not in (a, b)]
    x = i.transpose(x, [*rest, a, b])
    *lead, rows, columns = x.type.shape
    count = _length(rows, columns, offset)
    place = i.op("mul", _beginning(i, count, offset, -1), i.scalar(columns, i64))
    place = i.op("add", place, _beginning(i, count, offset, 1))
    return i.op("take", i.reshape(x, [*lead, rows * columns]), place, axis=len(lead))


@aten("diagonal_scatter")
def _diagonal_scatter(
    i: Import, x: Value, source: Value, offset: int = 0, first: int = 0, second: int = 1
) -> Value:
    a, b = axis_of(first, x.type.rank), axis_of(second, x.type.rank)
    order = [*(c for c in range(x.type.rank) if c not in (a, b)), a, b]
    moved = i.transpose(x, order)
    *lead, rows, columns = moved.type.shape
    row = i.op("unsqueeze", i.op("iota", n=rows, dtype=i64), axis=1)
    column = i.op("iota", n=columns, dtype=i64)
    on = i.op("eq", i.op("add", row, i.scalar(offset, i64)), column)
    # Element i of the diagonal stands in row i, or in row i - offset where the diagonal begins further down.
    count = source.type.shape[-1]
    if count == 0:
        return x
    at = i.op("minimum", i.op("maximum", i.op("add", i.op("iota", n=rows, dtype=i64), i.scalar(min(offset, 0), i64)),
                              i.scalar(0, i64)), i.scalar(count - 1, i64))  # fmt: skip
    spread = i.op("unsqueeze", i.op("take", source, at, axis=len(lead)), axis=-1)
    written = i.op("where", on, spread, moved)
    return i.transpose(written, [order.index(c) for c in range(x.type.rank)])


def _triangle(i: Import, rows: Any, columns: Any, offset: int, dtype: DType | None, lower: bool) -> Value:
    """The rows and the columns of the triangle's elements, row by row [2, count]."""
    sizes = [as_dim(rows).value, as_dim(columns).value]
    if sizes[0] is None or sizes[1] is None:
        raise Unsupported("the places of a triangle of a size that is not known")
    count = len((np.tril_indices if lower else np.triu_indices)(sizes[0], offset, sizes[1])[0])
    row = i.op("unsqueeze", i.op("iota", n=rows, dtype=i64), axis=1)
    shifted = i.op("add", row, i.scalar(offset, i64)) if offset else row
    inside = i.op("le" if lower else "ge", i.op("iota", n=columns, dtype=i64), shifted)
    places, _ = i.builder.multi("compact", i.reshape(inside, [sizes[0] * sizes[1]]), capacity=count)
    width = i.scalar(max(sizes[1], 1), i64)
    both = [i.op("unsqueeze", i.op(op, places, width), axis=0) for op in ("floordiv", "mod")]
    return i.cast(i.op("concat", *both, axis=0), dtype or i64)


@aten("tril_indices")
def _tril_indices(i: Import, rows: Any, columns: Any, offset: int = 0, dtype: Any = None, *rest: Any) -> Value:
    return _triangle(i, rows, columns, offset, dtype_of(dtype), lower=True)


@aten("triu_indices")
def triu_indices(i: Import, rows: Any, columns: Any, offset: int = 0, dtype: Any = None, *rest: Any) -> Value:
    return _triangle(i, rows, columns, offset, dtype_of(dtype), lower=False)
