"""Core ops on NumPy arrays: what constant folding needs, and no more. The torch backend is the reference of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..dims.dim import as_dim
from ..graph import Node
from ..op import Attrs
from ..ops.contraction import parse_einsum
from ..ops.shape import rearrange_plan
from ..types import DType, TensorType

Array = Any
Evaluator = Callable[[list[Array], Attrs, list[TensorType]], Array]


def _elementwise(fn: Callable[..., Array]) -> Evaluator:
    return lambda xs, attrs, types: fn(*xs)


def _reduction(fn: Callable[..., Array]) -> Evaluator:
    return lambda xs, attrs, types: fn(xs[0], axis=attrs["axis"], keepdims=attrs["keepdims"])


def _cast(xs: list[Array], attrs: Attrs, types: list[TensorType]) -> Array:
    return (xs[0] != 0) if attrs["dtype"].kind == "bool" else xs[0].astype(attrs["dtype"].numpy)


def _full(xs: list[Array], attrs: Attrs, types: list[TensorType]) -> Array:
    value = attrs["value"]
    return np.full(_ints(attrs["shape"]), value if isinstance(value, float) else int(as_dim(value)))


def _ints(dims: Any) -> tuple[int, ...]:
    return tuple(int(d) for d in dims)


def _rearrange(xs: list[Array], attrs: Attrs, types: list[TensorType]) -> Array:
    split, permutation, final = rearrange_plan(types[0], attrs)
    return xs[0].reshape(_ints(split)).transpose(permutation).reshape(_ints(final))


def _slice(xs: list[Array], attrs: Attrs, types: list[TensorType]) -> Array:
    index = [slice(None)] * xs[0].ndim
    index[attrs["axis"]] = slice(attrs["start"], attrs["stop"], attrs["step"])
    return xs[0][tuple(index)]


def _pad(xs: list[Array], attrs: Attrs, types: list[TensorType]) -> Array:
    widths = [(0, 0)] * xs[0].ndim
    widths[attrs["axis"]] = (attrs["before"], attrs["after"])
    return np.pad(xs[0], widths, constant_values=attrs["value"])


def _einsum(xs: list[Array], attrs: Attrs, types: list[TensorType]) -> Array:
    terms, out = parse_einsum(attrs["equation"])
    letters: dict[str, int] = {}
    operands: list[Any] = []
    for x, term in zip(xs, terms, strict=True):
        operands += [x, [letters.setdefault(name, len(letters)) for name in term]]
    return np.einsum(*operands, [letters[name] for name in out])


def _cumsum(xs: list[Array], attrs: Attrs, types: list[TensorType]) -> Array:
    axis = attrs["axis"]
    x = np.flip(xs[0], axis) if attrs["reverse"] else xs[0]
    total = np.cumsum(x, axis) - (x if attrs["exclusive"] else 0)
    return np.flip(total, axis) if attrs["reverse"] else total


_erf = np.frompyfunc(math.erf, 1, 1)

TABLE: dict[str, Evaluator] = {
    **{name: _elementwise(fn) for name, fn in dict[str, Callable[..., Array]]({
        "neg": np.negative, "abs": np.abs, "sign": np.sign, "exp": np.exp, "log": np.log, "sqrt": np.sqrt,
        "rsqrt": lambda x: 1 / np.sqrt(x), "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "erf": lambda x: np.asarray(_erf(x.astype(float)), float),
        "floor": np.floor, "ceil": np.ceil, "round": np.round,
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "floordiv": np.floor_divide,
        "mod": np.mod, "pow": np.power, "minimum": np.minimum, "maximum": np.maximum,
        "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
        "ge": np.greater_equal,
        "logical_and": np.logical_and, "logical_or": np.logical_or, "logical_not": np.logical_not,
        "is_nan": np.isnan, "where": np.where, "stop_gradient": lambda x: x,
        "straight_through": lambda hard, soft: hard,
        "matmul": np.matmul,
    }).items()},
    **{name: _reduction(getattr(np, name)) for name in ("sum", "mean", "prod", "max", "min", "any", "all")},
    "scale_gradient": lambda xs, attrs, types: xs[0],
    "argmax": lambda xs, attrs, types: np.argmax(xs[0], attrs["axis"], keepdims=attrs["keepdims"]),
    "argmin": lambda xs, attrs, types: np.argmin(xs[0], attrs["axis"], keepdims=attrs["keepdims"]),
    "cast": _cast,
    "constant": lambda xs, attrs, types: np.array(attrs["value"]),
    "full": _full,
    "iota": lambda xs, attrs, types: np.arange(int(as_dim(attrs["n"]))),
    "reshape": lambda xs, attrs, types: xs[0].reshape(_ints(attrs["shape"])),
    "rearrange": _rearrange,
    "transpose": lambda xs, attrs, types: xs[0].transpose(attrs["perm"]),
    "expand": lambda xs, attrs, types: np.broadcast_to(xs[0], _ints(attrs["shape"])),
    "squeeze": lambda xs, attrs, types: np.squeeze(xs[0], attrs["axis"]),
    "unsqueeze": lambda xs, attrs, types: np.expand_dims(xs[0], attrs["axis"]),
    "concat": lambda xs, attrs, types: np.concatenate(xs, attrs["axis"]),
    "slice": _slice,
    "pad": _pad,
    "flip": lambda xs, attrs, types: np.flip(xs[0], attrs["axis"]),
    "cumsum": _cumsum,
    "einsum": _einsum,
}  # fmt: skip


def can_evaluate(node: Node) -> bool:
    """Whether :func:`evaluate` knows the op and every dimension in its result is an integer."""
    return (
        node.op.qualified in TABLE
        and len(node.outputs) == 1
        and all(d.value is not None for d in node.output.type.shape)
    )


def evaluate(node: Node, inputs: list[Array]) -> Array:
    """The result of a node for given operands, in the dtype of its result type."""
    types = [v.type for v in node.inputs if v is not None]
    with np.errstate(all="ignore"):
        result = TABLE[node.op.qualified](inputs, node.attrs, types)
    return np.asarray(result).astype(node.output.type.dtype.numpy)


def to_array(value: Any, dtype: DType) -> Array:
    """A ``constant`` node's value as an array."""
    return np.array(value).astype(dtype.numpy)


def to_value(array: Array) -> Any:
    """An array as a ``constant`` node's value: a number, or nested tuples of numbers."""

    def nested(items: Any) -> Any:
        return tuple(map(nested, items)) if isinstance(items, list) else items

    # bfloat16 and float16 reach Python floats through float32, which holds them exactly.
    wide = array.astype(np.float32) if array.dtype.kind not in "biu" and array.dtype.itemsize < 4 else array
    return nested(wide.tolist())
