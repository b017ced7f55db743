"""The core ops as aten ops of the torch dialect: op -> lowering; and those that have none, with the reason."""

from __future__ import annotations

import math
from typing import Any

from ...ir.diagnostics import Diagnostic, Note
from ...ir.dims.dim import Dim, as_dim, const, dim_max
from ...ir.graph import Node
from ...ir.ops.contraction import parse_einsum
from ...ir.ops.shape import rearrange_plan
from ...ir.types import DType, TensorType, boolean, i64
from .emit import Call, Lowering, Tensor
from .indexing import INDEXING, ORDER
from .literals import constant
from .scatter import SCATTER, iota

_CODES = "torch-mlir has no lowering of it to linalg"

UNSUPPORTED: dict[str, str] = {
    "cummax": f"{_CODES} (aten.cummax)",
    "linear_recurrence": "a sequential recurrence is no aten op",
    "scan": "torch-mlir does not import associative_scan",
    "cond": "torch-mlir does not lower torch.prim.If over tensors to linalg",
    "while": "torch-mlir does not lower a torch.prim.Loop with a condition to linalg",
}

# A loop of so many steps is written out.
MOST_STEPS = 64


def unsupported(node: Node) -> Diagnostic | None:
    """Why a node has no lowering, as E0820."""
    if node.op.qualified in UNSUPPORTED:
        message = f"`{node.op.name}` has no lowering to torch-dialect MLIR"
        notes = [Note(UNSUPPORTED[node.op.name])]
    elif node.op.qualified == "fold" and as_dim(node.attrs["n"]).value not in range(MOST_STEPS + 1):
        message = f"`fold` of {node.attrs['n']} steps: loops are written out in MLIR, up to {MOST_STEPS} steps"
        notes = []
    else:
        return None
    return Diagnostic("E0820", message, notes=notes, help="the targets onnx and torch have it")


def _same(op: str) -> Lowering:
    """The aten op of the same operands."""
    return lambda call: call.aten(op, *call.args)


def _scaled(op: str) -> Lowering:
    """``add`` and ``sub`` have a factor for the second operand."""
    return lambda call: call.aten(op, *call.args, 1)


def _identity(call: Call) -> Tensor:
    return call.args[0]


ELEMENTWISE: dict[str, Lowering] = {
    **{op: _same(op) for op in ("neg", "abs", "exp", "log", "sqrt", "rsqrt", "sin", "cos", "atan", "bitwise_not", "tanh", "sigmoid", "erf",
                                "floor", "ceil", "round", "minimum", "maximum", "logical_and", "logical_or", "logical_not")},
    "sign": lambda call: call.aten("sign", call.args[0]),
    "add": _scaled("add.Tensor"),
    "sub": _scaled("sub.Tensor"),
    "mul": _same("mul.Tensor"),
    "div": _same("div.Tensor"),
    "floordiv": lambda call: call.aten("div.Tensor_mode", *call.args, "floor"),
    "mod": _same("remainder.Tensor"),
    "pow": _same("pow.Tensor_Tensor"),
    **{op: _same(f"{op}.Tensor") for op in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{op: _same(f"{op}.Tensor") for op in ("bitwise_and", "bitwise_or", "bitwise_xor")},
    **{op: _same(f"bitwise_{op}.Tensor") for op in ("left_shift", "right_shift")},
    "is_nan": lambda call: call.aten("ne.Tensor", call.args[0], call.args[0]),
    "where": _same("where.self"),
    "cast": lambda call: call.cast(call.args[0], call.out.dtype),
}  # fmt: skip

GRADIENT: dict[str, Lowering] = dict.fromkeys(("stop_gradient", "straight_through", "scale_gradient"), _identity)


# Contractions --------------------------------------------------------------------------------------------------------


def _einsum(call: Call) -> Tensor:
    terms, out = parse_einsum(call.attrs["equation"])
    if len(terms) == 1 and len(set(terms[0])) == len(terms[0]):
        return _summed(call, call.args[0], terms[0], out)
    names = dict.fromkeys(n for term in terms for n in term)
    letters = dict(zip(names, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", strict=False))
    left = ",".join("".join(letters[n] for n in term) for term in terms)
    equation = f"{left}->{''.join(letters[n] for n in out)}"
    return call.aten("einsum", equation, call.args, None)


def _summed(call: Call, x: Tensor, axes: list[str], out: list[str]) -> Tensor:
    """Sums over the axes that are not in the result, which are put in order."""
    gone = [a for a, name in enumerate(axes) if name not in out]
    if gone:
        type = TensorType(x.type.dtype, tuple(d for a, d in enumerate(x.type.shape) if a not in gone))
        x = call.aten("sum.dim_IntList", x, gone, False, _narrow(x.type.dtype), type=type)
    kept = [name for name in axes if name in out]
    return call.permute(x, [kept.index(name) for name in out])


def _grouped_matmul(call: Call) -> Tensor:
    """Every row by every matrix, of which the right one is kept: the torch dialect has no products by group, and a count of
    rows that only run time knows is no shape."""
    x, w, ends = call.args
    count, rows = ends.type.shape[0], x.type.shape[0]
    which = TensorType(boolean, (count, rows))
    behind = call.aten("gt.Tensor", call.view(ends, [count, 1]), call.view(iota(call, rows), [1, rows]), type=which)
    place = call.aten("cumsum", call.cast(behind, i64), 0, i64, type=TensorType(i64, which.shape))
    first = call.aten("eq.Scalar", place, 1, type=which)
    mine = call.view(call.aten("logical_and", behind, first, type=which), [count, rows, 1])
    type = TensorType(call.out.dtype, (count, *call.out.shape))
    every = call.aten("bmm", call.expand(call.view(x, [1, *x.type.shape]), [count, *x.type.shape]), w, type=type)
    chosen = call.aten("where.self", mine, every, call.full([], 0, call.out.dtype), type=type)
    return call.aten("sum.dim_IntList", chosen, [0], False, None)


def _conv(call: Call) -> Tensor:
    x, weight = call.args
    spatial = weight.type.rank - 2
    attrs = call.attrs
    return call.aten(
        "convolution", x, weight, None, list(attrs["stride"]), list(attrs["padding"]), list(attrs["dilation"]), False,
        [0] * spatial, attrs["groups"],
    )  # fmt: skip


def _pool(call: Call) -> Tensor:
    attrs = call.attrs
    window = [list(attrs[name]) for name in ("kernel", "stride", "padding")]
    name = call.node.op.name
    if name.startswith("max"):
        return call.aten(name, call.args[0], *window, [1] * len(window[0]), attrs["ceil_mode"])
    rest = [None] if name == "avg_pool2d" else []
    return call.aten(name, call.args[0], *window, attrs["ceil_mode"], attrs["count_include_pad"], *rest)


CONTRACTION: dict[str, Lowering] = {
    "einsum": _einsum,
    "matmul": _same("matmul"),
    "grouped_matmul": _grouped_matmul,
    "conv": _conv,
    **dict.fromkeys(("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d"), _pool),
}


# Reductions ----------------------------------------------------------------------------------------------------------


def _narrow(dtype: DType) -> DType | None:
    """The dtype of a sum or product that must be named, because aten's would be i64."""
    return dtype if dtype.kind == "int" and dtype.size < 8 else None


def _reduction(op: str, *, typed: bool = False) -> Lowering:
    def lower(call: Call) -> Tensor:
        axes = call.attrs["axis"]
        rest = [_narrow(call.out.dtype)] if typed else []
        return call.aten(op, call.args[0], list(axes), call.attrs["keepdims"], *rest) if axes else call.args[0]

    return lower


def _one_by_one(op: str) -> Lowering:
    """Reduced axis by axis, from the last one, by an op that takes one."""

    def lower(call: Call) -> Tensor:
        x, keep = call.args[0], call.attrs["keepdims"]
        for axis in sorted(call.attrs["axis"], reverse=True):
            shape = [*x.type.shape[:axis], *([const(1)] if keep else []), *x.type.shape[axis + 1 :]]
            rest = [_narrow(x.type.dtype)] if op == "prod.dim_int" else []
            x = call.aten(op, x, axis, keep, *rest, type=TensorType(x.type.dtype, tuple(shape)))
        return x

    return lower


def _logsumexp(call: Call) -> Tensor:
    """With an offset that is finite in a row of infinities, which torch-mlir's own form of aten.logsumexp has not."""
    axes, x = list(call.attrs["axis"]), call.args[0]
    if not axes:
        return x
    kept = TensorType(x.type.dtype, tuple(const(1) if i in axes else d for i, d in enumerate(x.type.shape)))
    most = call.aten("amax", x, axes, True, type=kept)
    infinite = call.aten("eq.Scalar", call.aten("abs", most, type=kept), math.inf, type=TensorType(boolean, kept.shape))
    offset = call.aten("where.self", infinite, call.full([], 0, x.type.dtype), most, type=kept)
    powers = call.aten("exp", call.aten("sub.Tensor", x, offset, 1, type=x.type), type=x.type)
    total = call.aten("log", call.aten("sum.dim_IntList", powers, axes, True, None, type=kept), type=kept)
    return call.view(call.aten("add.Tensor", total, offset, 1, type=kept), call.out.shape)


def _argument(name: str) -> Lowering:
    return lambda call: call.aten(f"arg{name}", call.args[0], call.attrs["axis"], call.attrs["keepdims"])


REDUCTION: dict[str, Lowering] = {
    "sum": _reduction("sum.dim_IntList", typed=True),
    "mean": _reduction("mean.dim", typed=True),
    "max": _reduction("amax"),
    "min": _reduction("amin"),
    "logsumexp": _logsumexp,
    "prod": _one_by_one("prod.dim_int"),
    "any": _one_by_one("any.dim"),
    "all": _one_by_one("all.dim"),
    "argmax": _argument("max"),
    "argmin": _argument("min"),
}


# Shapes --------------------------------------------------------------------------------------------------------------


def _rearrange(call: Call) -> Tensor:
    split, order, final = rearrange_plan(call.args[0].type, dict(call.attrs))
    return call.view(call.permute(call.view(call.args[0], split), order), final)


def _slice(call: Call) -> Tensor:
    axis, size = call.attrs["axis"], call.args[0].type.shape[call.attrs["axis"]]
    start, stop = (_from_front(call.attrs[name], size, end) for name, end in (("start", const(0)), ("stop", size)))
    return call.slice(call.args[0], axis, start, stop, call.attrs["step"])


def _from_front(bound: Any, size: Dim, default: Dim) -> Dim:
    if bound is None:
        return default
    at = as_dim(bound)
    return size + at if at.value is not None and at.value < 0 else at


def _pad(call: Call) -> Tensor:
    if call.attrs["mode"] != "constant":
        return call.aten("index_select", call.args[0], call.attrs["axis"], _places(call))
    behind = [0] * (2 * (call.out.rank - 1 - call.attrs["axis"]))  # torch counts from the last axis
    value = call.attrs["value"]
    number = float(value) if call.out.dtype.kind == "float" else int(value)
    widths = [as_dim(call.attrs["before"]), as_dim(call.attrs["after"])]
    return call.aten("constant_pad_nd", call.args[0], [*behind, *widths], number)


def _places(call: Call) -> Tensor:
    """Which elements of the axis one holds that is padded with elements of its own."""
    axis, mode = call.attrs["axis"], call.attrs["mode"]
    n, type = call.args[0].type.shape[axis], TensorType(i64, (call.out.shape[axis],))
    place = call.aten("sub.Scalar", iota(call, call.out.shape[axis]), as_dim(call.attrs["before"]), 1, type=type)
    if mode == "edge":
        first, last = call.full([], 0, i64), call.full([], n - 1, i64)
        return call.aten("minimum", call.aten("maximum", place, first, type=type), last, type=type)
    if mode == "circular":
        return call.aten("remainder.Scalar", place, n, type=type)
    period = dim_max(n * 2 - 2, 1)
    place = call.aten("remainder.Scalar", place, period, type=type)
    return call.aten("minimum", place, call.aten("sub.Tensor", call.full([], period, i64), place, 1, type=type), type=type)


SHAPE: dict[str, Lowering] = {
    "constant": constant,
    "full": lambda call: call.full(call.out.shape, call.attrs["value"], call.out.dtype),
    "iota": lambda call: call.aten("arange", as_dim(call.attrs["n"]), call.out.dtype, None, None, None),
    "reshape": lambda call: call.view(call.args[0], call.out.shape),
    "rearrange": _rearrange,
    "transpose": lambda call: call.permute(call.args[0], call.attrs["perm"]),
    "expand": lambda call: call.expand(call.args[0], call.out.shape),
    "squeeze": lambda call: call.view(call.args[0], call.out.shape),
    "unsqueeze": lambda call: call.view(call.args[0], call.out.shape),
    "concat": lambda call: call.aten("cat", call.args, call.attrs["axis"]),
    "slice": _slice,
    "pad": _pad,
    "flip": lambda call: call.aten("flip", call.args[0], [call.attrs["axis"]]),
}


# Loops ---------------------------------------------------------------------------------------------------------------


def _fold(call: Call) -> list[Tensor]:
    carried = call.attrs["carried"]
    values, captured = call.args[:carried], call.args[carried:]
    rows: list[list[Tensor]] = [[] for _ in call.outs[carried:]]
    for step in range(int(as_dim(call.attrs["n"]))):
        number = call.full([], step, i64)
        results = call.emitter.inline(call.attrs["body"], [number, *values, *captured])
        values = results[:carried]
        for kept, value in zip(rows, results[carried:], strict=True):
            kept.append(call.view(value, [1, *value.type.shape]))
    stacked = [
        call.aten("cat", kept, 0, type=type) if kept else call.full(type.shape, 0, type.dtype)
        for kept, type in zip(rows, call.outs[carried:], strict=True)
    ]
    return [*values, *stacked]


LOWERINGS: dict[str, Lowering] = {
    **ELEMENTWISE, **GRADIENT, **CONTRACTION, **REDUCTION, **ORDER, **INDEXING, **SCATTER, **SHAPE, "fold": _fold,
}  # fmt: skip
