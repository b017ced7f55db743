"""einsum, matmul, matmul by group, and convolution. An einsum becomes reductions, transpositions and MatMul, never ONNX Einsum."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.dims.dim import Dim, product
from ...ir.ops.contraction import parse_einsum
from ...ir.types import boolean, i64
from .registry import lower
from .shape import operand

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Node
    from ...ir.types import TensorType
    from .emit import Emitter

Term = tuple["ox.Value", list[str]]


@lower("matmul")
def matmul(e: Emitter, node: Node, a: ox.Value, b: ox.Value) -> ox.Value:
    return e.op("MatMul", a, b)


@lower("grouped_matmul")
def grouped_matmul(e: Emitter, node: Node, x: ox.Value, w: ox.Value, ends: ox.Value) -> ox.Value:
    """The rows split into groups, a MatMul a group, and one behind the other again; an empty group costs next to nothing.

    Of eight forms (benchmarks/grouped_matmul.py) the fastest or level with it, within the noise, at nine of ten sizes: slices and an
    `If` a group come next, and are level from some 1000 rows on. At four rows among 64 groups copying each row's matrix is 1.3
    times as fast; from 16 rows on it is several times slower, and how many rows there are is seldom known here. A Loop is what is
    left when the number of groups is not known; the one written here appends, and is up to a fifth slower than one over sequences.
    """
    given, matrices = operand(node), operand(node, 1)
    count = matrices.shape[0].value
    if not count:
        return _grouped_loop(e, given, matrices, x, w, ends)
    known = e.recall(groups_key(ends, given.shape[0], rest=False))
    sizes = known or e.remember(groups_key(ends, given.shape[0]), lambda: _group_sizes(e, ends, count, given.shape[0]))
    groups = e.multi("Split", x, sizes, outputs=count + (known is None), axis=0)
    parts = [e.op("MatMul", group, matrix) for group, matrix in zip(groups, e.rows(w, count), strict=False)]
    if known is None:
        parts.append(_zeros(e, e.slice(sizes, 0, count, None), matrices))
    return e.op("Concat", *parts, axis=0)


def groups_key(ends: ox.Value, rows: Dim, *, rest: bool = True) -> Hashable:
    """Under what the sizes of groups of rows are filed, ``[E + 1]`` with the rows that are in none, or ``[E]`` where all are in some."""
    return "groups", ends, rows, rest


def _group_sizes(e: Emitter, ends: ox.Value, count: int, rows: Dim) -> ox.Value:
    """How many rows each group has, and how many are in none, ``[count + 1]``."""
    before, zero, limit = e.constant(np.tri(count, dtype=bool), boolean), e.ints([0]), e.size(rows)
    highest = e.op("ReduceMax", e.op("Where", before, e.op("Max", ends, zero), zero), e.ints([1]), keepdims=0)
    edges = e.op("Concat", zero, e.op("Min", highest, limit), limit, axis=0)
    return e.op("Sub", e.slice(edges, 0, 1, None), e.slice(edges, 0, 0, count + 1))


def _zeros(e: Emitter, rows: ox.Value, matrices: TensorType) -> ox.Value:
    """``rows`` (i64[1]) rows of zeros, as wide as the matrices."""
    shape = e.op("Concat", rows, e.size(matrices.shape[2]), axis=0)
    return e.op("Expand", e.constant(0, matrices.dtype), shape)


def _grouped_loop(
    e: Emitter, given: TensorType, matrices: TensorType, x: ox.Value, w: ox.Value, ends: ox.Value
) -> ox.Value:
    rows = e.size(given.shape[0])

    def body(inner: Emitter, values: list[ox.Value]) -> list[ox.Value]:
        i, go, start, y = values
        end = inner.op("Min", inner.op("Gather", ends, inner.unsqueeze(i, 0)), rows)
        end = inner.op("Max", end, start)
        group = inner.op("Slice", x, start, end, inner.ints([0]))
        return [go, end, inner.op("Concat", y, inner.op("MatMul", group, inner.op("Gather", w, i, axis=0)), axis=0)]

    dtype = given.dtype
    region = e.region("groups", [("i", i64, 0), ("go", boolean, 0), ("start", i64, 1), ("y", dtype, 2)], body)
    trips = e.scalar(matrices.shape[0])
    end, y = e.raw("Loop", [trips, None, e.ints([0]), _zeros(e, e.ints([0]), matrices)], [i64, dtype], {"body": region})
    return e.op("Concat", y, _zeros(e, e.op("Sub", rows, end), matrices), axis=0)


@lower("conv")
def conv(e: Emitter, node: Node, x: ox.Value, weight: ox.Value) -> ox.Value:
    a = node.attrs
    kernel = [d.value for d in operand(node, 1).shape[2:]]
    known: dict[str, Any] = {} if None in kernel else {"kernel_shape": kernel}
    return e.op("Conv", x, weight, strides=list(a["stride"]), pads=list(a["padding"]) * 2, dilations=list(a["dilation"]),
                group=a["groups"], **known)  # fmt: skip


@lower("einsum")
def einsum(e: Emitter, node: Node, *xs: ox.Value) -> ox.Value:
    terms, out = parse_einsum(node.attrs["equation"])
    dims = {name: dim for i, term in enumerate(terms) for name, dim in zip(term, operand(node, i).shape, strict=True)}
    rest = [_diagonal(e, x, axes, dims) for x, axes in zip(xs, terms, strict=True)]
    value, axes = rest.pop(0)
    while rest:
        other, other_axes = rest.pop(0)
        keep = set(out).union(*(t for _, t in rest))
        left = _sum_out(e, value, axes, keep | set(other_axes))
        right = _sum_out(e, other, other_axes, keep | set(axes))
        value, axes = _pair(e, left, right, keep, out, dims)
    value, axes = _sum_out(e, value, axes, set(out))
    return e.transpose(value, [axes.index(name) for name in out])


def _diagonal(e: Emitter, x: ox.Value, axes: list[str], dims: dict[str, Dim]) -> Term:
    """The operand with each axis once. Of ``n`` by ``n`` elements in a row every ``n + 1``-th is on the diagonal."""
    while len(set(axes)) != len(axes):
        name = next(name for name in axes if axes.count(name) > 1)
        pair = [i for i, other in enumerate(axes) if other == name][:2]
        others = [i for i in range(len(axes)) if i not in pair]
        n, shape = dims[name], [dims[axes[i]] for i in others]
        x = e.reshape(e.transpose(x, [*others, *pair]), [*shape, n, n], [*shape, n * n])
        axes = [*(axes[i] for i in others), name]
        x = e.op("Slice", x, e.ints([0]), e.size(n * n), e.ints([len(others)]), e.size(n + 1))
    return x, axes


def _sum_out(e: Emitter, x: ox.Value, axes: list[str], keep: Collection[str]) -> Term:
    gone = [i for i, name in enumerate(axes) if name not in keep]
    if not gone:
        return x, axes
    return e.op("ReduceSum", x, e.ints(gone), keepdims=0), [name for name in axes if name in keep]


def _pair(e: Emitter, left: Term, right: Term, keep: Collection[str], out: list[str], dims: dict[str, Dim]) -> Term:
    """The product of two operands, summed over the axes that both have and nothing else needs."""
    shared = [name for name in left[1] if name in right[1]]
    summed = [name for name in shared if name not in keep]
    order = [name for name in out if name in left[1] or name in right[1]]
    order += [name for name in (*left[1], *right[1]) if name not in order and name in keep]
    order = list(dict.fromkeys(order))
    if not summed:
        return e.op("Mul", _align(e, left, order), _align(e, right, order)), order
    free = [name for name in order if name not in shared]
    if free and free[0] not in left[1]:
        left, right = right, left  # so that the result needs no transposition
    batch = [name for name in order if name in shared]
    rows = [name for name in order if name not in shared and name in left[1]]
    columns = [name for name in order if name not in shared and name in right[1]]

    def size(names: Sequence[str]) -> Dim:
        return product(dims[name] for name in names)

    def matrix(term: Term, groups: list[list[str]]) -> ox.Value:
        """The operand with the batch axes first, then one axis for each group."""
        names = [*batch, *(name for group in groups for name in group)]
        x = e.transpose(term[0], [term[1].index(name) for name in names])
        return e.reshape(x, [dims[n] for n in names], [*(dims[n] for n in batch), *map(size, groups)])

    # Without batch axes MatMul takes any number of row axes, and none; several of anything else become one axis. A vector on
    # the right is written as one column: ONNX Runtime 1.32 drops a transposition in front of a MatMul by a vector.
    row_groups = [rows] if batch else [[name] for name in rows]
    column_groups = [columns] if batch or rows or columns else []
    y = e.op("MatMul", matrix(left, [*row_groups, summed]), matrix(right, [summed, *column_groups]))
    made = [dims[n] for n in batch] + [size(g) for g in (*row_groups, *column_groups)]
    names = batch + rows + columns
    return e.reshape(y, made, [dims[n] for n in names]), names


def _align(e: Emitter, term: Term, order: list[str]) -> ox.Value:
    """The operand's axes in ``order``, with axes of size 1 for those that it lacks."""
    x, axes = term
    present = [name for name in order if name in axes]
    x = e.transpose(x, [axes.index(name) for name in present])
    return e.unsqueeze(x, *(i for i, name in enumerate(order) if name not in axes))
