"""Products of matrices, einsum, convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.dims.dim import Dim, as_dim
from ....ir.graph import Value
from ....ir.types import boolean, i64
from ..protocol import Import, Unsupported, aten
from .diagonals import triu_indices as _upper_triangle
from .reduction import norm
from .shape import pad


@aten("linear")
def _linear(i: Import, x: Value, weight: Value, bias: Value | None = None) -> Value:
    if weight.type.rank == 1:
        y = i.op("sum", i.op("mul", x, weight), axis=-1)
        return y if bias is None else i.op("add", y, bias)
    if x.type.dtype.kind != "float":
        return _added(i, bias or i.scalar(0, x.type.dtype), matmul(i, x, i.transpose(weight, [1, 0])), 1, 1)
    if x.type.rank == 1:
        return i.op("squeeze", i.call("std.nn.affine", i.op("unsqueeze", x, axis=0), weight, bias), axis=0)
    return i.call("std.nn.affine", x, weight, bias)


@aten("_trilinear")
def _trilinear(
    i: Import, a: Value, b: Value, c: Value, wide_a: Any, wide_b: Any, wide_c: Any, summed: Any, *rest: Any
) -> Value:
    """The product of three tensors that broadcast once axes of size 1 are put in, summed over axes of the result."""
    widened = [
        i.op("unsqueeze", x, axis=tuple(axes)) if axes else x for x, axes in zip((a, b, c), (wide_a, wide_b, wide_c), strict=True)
    ]
    product = i.op("mul", i.op("mul", widened[0], widened[1]), widened[2])
    return i.op("sum", product, axis=tuple(summed))


@aten("_cdist_forward")
def _distances(i: Import, a: Value, b: Value, order: float, *rest: Any) -> Value:
    """Between all rows of a [..., P, D] and all of b [..., R, D]."""
    apart = i.op("sub", i.op("unsqueeze", a, axis=-2), i.op("unsqueeze", b, axis=-3))
    return norm(i, apart, order, -1)


@aten("pdist")
def _distances_within(i: Import, x: Value, order: float = 2.0) -> Value:
    """Between each row and those behind it."""
    pairs = _upper_triangle(i, x.type.shape[0], x.type.shape[0], 1)
    first, second = (i.op("take", x, i.op("squeeze", i.slice(pairs, 0, at, at + 1), axis=0)) for at in (0, 1))
    return norm(i, i.op("sub", first, second), order, -1)


@aten("matmul", "mm", "bmm")
def matmul(i: Import, a: Value, b: Value) -> Value:
    if a.type.rank == 1 and b.type.rank == 1:
        return i.op("sum", i.op("mul", a, b))
    if a.type.rank == 1:
        return i.op("squeeze", i.op("matmul", i.op("unsqueeze", a, axis=0), b), axis=-2)
    if b.type.rank == 1:
        return i.op("squeeze", i.op("matmul", a, i.op("unsqueeze", b, axis=1)), axis=-1)
    return i.op("matmul", a, b)


@aten("mv", "dot", "vdot")
def _mv(i: Import, a: Value, b: Value) -> Value:
    return matmul(i, a, b)


@aten("outer")
def _outer(i: Import, a: Value, b: Value) -> Value:
    product = "logical_and" if a.type.dtype == boolean else "mul"
    return i.op(product, i.op("unsqueeze", a, axis=1), i.op("unsqueeze", b, axis=0))


@aten("addmm", "baddbmm", "addmv")
def _addmm(i: Import, bias: Value, a: Value, b: Value, beta: Any = 1, alpha: Any = 1) -> Value:
    return _added(i, bias, matmul(i, a, b), beta, alpha)


@aten("addbmm")
def _addbmm(i: Import, bias: Value, a: Value, b: Value, beta: Any = 1, alpha: Any = 1) -> Value:
    return _added(i, bias, i.op("sum", i.op("matmul", a, b), axis=0), beta, alpha)


@aten("addr")
def _addr(i: Import, bias: Value, a: Value, b: Value, beta: Any = 1, alpha: Any = 1) -> Value:
    bias, a, b = i.together(bias, a, b)
    if a.type.dtype == boolean:
        product = i.op("logical_and", i.op("unsqueeze", a, axis=1), i.op("unsqueeze", b, axis=0))
        product = product if alpha else i.op("logical_and", product, i.scalar(False, boolean))
        return i.op("logical_or", bias, product) if beta else product
    return _added(i, bias, _outer(i, a, b), beta, alpha)


def _added(i: Import, bias: Value, y: Value, beta: Any, alpha: Any) -> Value:
    if alpha != 1:
        y = i.op("mul", y, i.scalar(alpha, y.type.dtype))
    if beta == 0:
        return y
    if beta != 1:
        bias = i.op("mul", bias, i.scalar(beta, y.type.dtype))
    return i.op("add", y, bias)


@aten("einsum")
def _einsum(i: Import, equation: str, tensors: Sequence[Value], path: Any = None) -> Value:
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    # `...` stands for the leading axes: named by letters that the equation does not use, counted from the last one.
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in text]
    widths = [
        t.type.rank - len(term.replace("...", "")) for t, term in zip(tensors, terms, strict=True) if "..." in term
    ]
    pack = "".join(spare[: max(widths, default=0)])
    named = []
    for tensor, term in zip(tensors, terms, strict=True):
        width = tensor.type.rank - len(term.replace("...", ""))
        named.append(term.replace("...", pack[len(pack) - width :] if width else ""))
    letters = "".join(named)
    if not arrow:
        right = "..." if pack else ""
        right += "".join(sorted(c for c in set(letters) if letters.count(c) == 1 and c not in pack))
    right = right.replace("...", pack)
    # Axes of size 1 broadcast in PyTorch, and do not here.
    sizes: dict[str, set[Dim]] = {}
    for term, tensor in zip(named, tensors, strict=True):
        for letter, dim in zip(term, tensor.type.shape, strict=True):
            sizes.setdefault(letter, set()).add(dim)
    operands = []
    for at, (term, tensor) in enumerate(zip(named, tensors, strict=True)):
        ones = [a for a, c in enumerate(term) if tensor.type.shape[a] == 1 and len(sizes[c]) > 1]
        operands.append(i.op("squeeze", tensor, axis=tuple(ones)) if ones else tensor)
        named[at] = "".join(c for a, c in enumerate(term) if a not in ones)
    spaced = ", ".join(" ".join(term) for term in named)
    return i.op("einsum", *i.together(*operands), equation=f"{spaced} -> {' '.join(right)}".rstrip())


def _conv(
    i: Import, x: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Value:
    spatial = weight.type.rank - 2
    batched = x.type.rank == weight.type.rank
    if not batched:
        x = i.op("unsqueeze", x, axis=0)
    many = [tuple(v) * spatial if isinstance(v, tuple) and len(v) == 1 else v for v in (stride, padding, dilation)]
    y = i.op("conv", x, weight, stride=many[0], padding=many[1], dilation=many[2], groups=groups)
    if bias is not None:
        y = i.op("add", y, i.op("unsqueeze", bias, axis=tuple(range(1, spatial + 1))))
    return y if batched else i.op("squeeze", y, axis=0)


@aten("conv1d", "conv2d", "conv3d")
def _conv_nd(
    i: Import, x: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Value:  # fmt: skip
    return _conv(i, x, weight, bias, stride, padding, dilation, groups)


@aten("conv1d.padding", "conv2d.padding", "conv3d.padding")
def _conv_padding(
    i: Import, x: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: str = "valid",
    dilation: Any = 1, groups: int = 1,
) -> Value:  # fmt: skip
    spatial = weight.type.rank - 2
    if padding == "same":
        gaps = dilation if isinstance(dilation, tuple) else (dilation,)
        gaps = gaps * spatial if len(gaps) == 1 else gaps
        widths: list[Any] = []
        for axis in reversed(range(spatial)):
            total = (weight.type.shape[2 + axis] - 1) * gaps[axis]
            widths += [total // 2, total - total // 2]
        x = pad(i, x, widths, 0.0)
    return _conv(i, x, weight, bias, stride, 0, dilation, groups)


@aten("convolution", "_convolution")
def _convolution(
    i: Import, x: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, *rest: Any,
) -> Value:  # fmt: skip
    if transposed:
        return _spread(i, x, weight, bias, stride, padding, dilation, output_padding, groups)
    return _conv(i, x, weight, bias, stride, padding, dilation, groups)


def _dilated(i: Import, x: Value, steps: Sequence[int]) -> Value:
    """x with step - 1 zeros between the elements of each spatial axis."""
    for axis, step in enumerate(steps, 2):
        if step > 1:
            shape = x.type.shape
            wide = i.op("pad", i.op("unsqueeze", x, axis=axis + 1), axis=axis + 1, before=0, after=step - 1, value=0.0)
            joined = i.reshape(wide, [*shape[:axis], shape[axis] * step, *shape[axis + 1 :]])
            x = i.slice(joined, axis, 0, (shape[axis] - 1) * step + 1)
    return x


def _overlapping(
    i: Import, x: Value, weight: Value, bias: Value | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], output_padding: Sequence[int], groups: int,
) -> Value:  # fmt: skip
    """A convolution of the spread-out elements with the kernel turned round."""
    axes = weight.type.rank - 2
    inputs, outputs, *kernel = weight.type.shape
    for axis in range(2, axes + 2):
        weight = i.op("flip", weight, axis=axis)
    weight = i.reshape(weight, [groups, inputs // groups, outputs, *kernel])
    weight = i.transpose(weight, [0, 2, 1, *range(3, axes + 3)])
    weight = i.reshape(weight, [groups * outputs, inputs // groups, *kernel])
    widths: list[Any] = []
    for axis in reversed(range(axes)):
        before = dilation[axis] * (kernel[axis] - 1) - padding[axis]
        widths += [_number(before), _number(before + output_padding[axis])]
    return _conv(i, pad(i, _dilated(i, x, stride), widths, 0.0), weight, bias, 1, 0, tuple(dilation), groups)


def _number(dim: Dim) -> Any:
    return dim if dim.value is None else dim.value


def _spread(
    i: Import, x: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, output_padding: Any,
    groups: int,
) -> Value:  # fmt: skip
    """A transposed convolution whose patches do not overlap: every element becomes a patch of its own."""
    kernel = tuple(weight.type.shape[2:])
    if x.type.rank == weight.type.rank - 1:
        one = i.op("unsqueeze", x, axis=0)
        options = (stride, padding, dilation, output_padding, groups)
        return i.op("squeeze", _spread(i, one, weight, bias, *options), axis=0)
    plain = all(p == 0 for p in (*padding, *output_padding)) and all(d == 1 for d in dilation) and groups == 1
    if not plain or kernel != tuple(map(as_dim, stride)) or len(kernel) != 2:
        return _overlapping(i, x, weight, bias, stride, padding, dilation, output_padding, groups)
    y = i.op("einsum", x, weight, equation="b c h w, c o i j -> b o h i w j")
    b, o, h, p, w, q = y.type.shape
    y = i.reshape(y, [b, o, h * p, w * q])
    return y if bias is None else i.op("add", y, i.op("unsqueeze", bias, axis=(1, 2)))


@aten("conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input")
def _conv_transpose(
    i: Import, x: Value, weight: Value, bias: Value | None = None, stride: Any = (1,), padding: Any = (0,),
    output_padding: Any = (0,), groups: int = 1, dilation: Any = (1,),
) -> Value:  # fmt: skip
    stride, padding, dilation, output_padding = (
        tuple(v) * (weight.type.rank - 2) if len(v) == 1 else v for v in (stride, padding, dilation, output_padding)
    )
    return _spread(i, x, weight, bias, stride, padding, dilation, output_padding, groups)


@aten("transformers.grouped_mm_fallback.default", "_grouped_mm")
def _grouped_mm(
    i: Import, x: Value, weight: Value, ends: Value | None = None, bias: Value | None = None, dtype: Any = None
) -> Value:
    """Rows of x [S, K] sorted by expert, times the matrix of their expert: weight [E, K, N], ends [E] of the groups."""
    if ends is None or x.type.rank != 2 or weight.type.rank != 3 or bias is not None or dtype is not None:
        raise Unsupported("a grouped product of another form")
    return i.op("grouped_matmul", x, weight, i.cast(ends, i64))
