"""einsum, matmul and convolution. An einsum becomes reductions, transpositions and MatMul, never ONNX Einsum where these do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from ...ir.dims.dim import Dim, product
from ...ir.ops.contraction import parse_einsum
from .registry import lower
from .shape import operand

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Node
    from .emit import Emitter

Term = tuple["ox.Value", list[str]]


@lower("matmul")
def matmul(e: Emitter, node: Node, a: ox.Value, b: ox.Value) -> ox.Value:
    return e.op("MatMul", a, b)


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
    if any(len(set(term)) != len(term) for term in terms):
        # A diagonal has no other form.
        letters = {name: chr(ord("a") + i) for i, name in enumerate(dims)}
        sides = [",".join("".join(letters[n] for n in t) for t in side) for side in (terms, [out])]
        return e.op("Einsum", *xs, equation="->".join(sides))
    rest: list[Term] = list(zip(xs, terms, strict=True))
    value, axes = rest.pop(0)
    while rest:
        other, other_axes = rest.pop(0)
        keep = set(out).union(*(t for _, t in rest))
        left = _sum_out(e, value, axes, keep | set(other_axes))
        right = _sum_out(e, other, other_axes, keep | set(axes))
        value, axes = _pair(e, left, right, keep, out, dims)
    value, axes = _sum_out(e, value, axes, set(out))
    return e.transpose(value, [axes.index(name) for name in out])


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

    # Without batch axes MatMul takes any number of row axes, and none; several of anything else become one axis.
    row_groups = [rows] if batch else [[name] for name in rows]
    column_groups = [columns] if batch or columns else []
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
