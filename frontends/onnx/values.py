"""What an ONNX name stands for while importing: a value of our graph, a weight, or numbers known (perhaps symbolically)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.builder import Builder
from ...ir.dims.dim import Dim, as_dim
from ...ir.dims.ratio import Ratio
from ...ir.graph import Graph, Initializer, Input, Value
from ...ir.types import TensorType, i64
from .names import Names, made_up

if TYPE_CHECKING:
    from .tensors import Weight

# A constant of more elements than this is a parameter, not text in the program.
TEXT_ELEMENTS = 16
# Integers of a weight up to this many are known numbers, with which shapes are computed.
_KNOWN_ELEMENTS = 1024


class Tensor:
    """One ONNX value.

    Exactly one of these says what it is, in this order: ``known`` numbers (an array; of objects where sizes are symbols),
    ``fill``, the number that all its elements are, a ``weight`` with the axes in the order ``perm``, or ``value`` in the
    graph of ``region``. A small weight has ``known`` numbers too. ``nonnegative``: no element is below 0. ``narrow``: ONNX's
    number of the file's element type, where that is one that Tessera does not have.
    """

    __slots__ = ("fill", "known", "narrow", "nonnegative", "perm", "region", "type", "value", "weight")

    def __init__(
        self, type: TensorType, *, known: np.ndarray | None = None, weight: Weight | None = None,
        perm: tuple[int, ...] | None = None, value: Value | None = None, region: Region | None = None,
        nonnegative: bool = False, fill: float | int | bool | None = None, narrow: int = 0,
    ) -> None:  # fmt: skip
        self.type = type
        self.known = known
        self.weight = weight
        self.perm = perm
        self.value = value
        self.region = region
        self.nonnegative = nonnegative
        self.fill = fill
        self.narrow = narrow if weight is None else weight.narrow


def known_tensor(array: np.ndarray, type: TensorType | None = None) -> Tensor:
    """A tensor of known numbers; of integers (perhaps symbolic) unless ``type`` says otherwise."""
    if type is None:
        from ...ir.types import DType

        dtype = i64 if array.dtype == object else DType.from_numpy(array.dtype)
        type = TensorType.of(dtype, array.shape)
    return Tensor(type, known=settle(array, type))


def settle(array: np.ndarray, type: TensorType) -> np.ndarray:
    """Objects that turned out to be plain numbers become numbers of the dtype."""
    if array.dtype != object:
        return array.astype(type.dtype.numpy, copy=False)
    plain = [plain_number(item) for item in array.reshape(-1)]
    if any(p is None for p in plain):
        return array
    return np.array(plain, dtype=type.dtype.numpy).reshape(array.shape)


def weight_tensor(weight: Weight) -> Tensor:
    """A weight as a tensor; the numbers of small integer ones, and of made-up scalars, are known."""
    small = weight.size <= _KNOWN_ELEMENTS and weight.dtype.kind != "float"
    scalar = weight.size == 1 and (not weight.shape or made_up(weight.name))
    known = weight.load() if small or scalar else None
    return Tensor(weight.type, known=known, weight=weight)


def plain_number(item: object) -> int | float | bool | None:
    """The number that a symbolic element is, or None."""
    if isinstance(item, Dim):
        return item.value
    if isinstance(item, Ratio):
        return item.number
    return item  # type: ignore[return-value]


class Region:
    """A graph under construction: the model's, or a loop's body, which captures what it reads from around it."""

    def __init__(self, graph: Graph, names: Names, weights: dict[str, Weight], parent: Region | None = None) -> None:
        self.graph = graph
        self.builder = Builder(graph)
        self.names = names
        self.weights = weights
        self.parent = parent
        self.captured: dict[Tensor, tuple[Tensor, Input]] = {}
        self._made: dict[Tensor, Value] = {}
        self._params: dict[Weight, Value] = {}

    def value(self, tensor: Tensor, hint: str = "") -> Value:
        """The tensor as a value of this graph. ``hint`` names a weight whose own name says nothing."""
        if tensor.value is not None and tensor.region is self:
            return tensor.value
        found = self._made.get(tensor)
        # A constant may be asked for again after others were removed; values of this graph stay.
        if found is None:
            found = self._made[tensor] = self._make(tensor, hint)
        return found

    def _make(self, tensor: Tensor, hint: str) -> Value:
        known = tensor.known
        if known is not None and (known.size <= TEXT_ELEMENTS or known.dtype == object):
            return self._numbers(known, tensor.type)
        if tensor.fill is not None:
            return self.builder.op("full", shape=tensor.type.shape, value=tensor.fill, dtype=tensor.type.dtype)
        regular = None if known is None else self._regular(known, tensor.type)
        if regular is not None:
            return regular
        if self.parent is not None:
            return self._capture(tensor, hint)
        if tensor.weight is not None:
            value = self.param(tensor.weight, hint)
            return value if tensor.perm is None else self.builder.op("transpose", value, perm=tensor.perm)
        assert tensor.known is not None, "a value of a region that is not around this one"
        return self._folded(tensor.known, tensor.type, hint)

    def _capture(self, tensor: Tensor, hint: str) -> Value:
        assert self.parent is not None
        outer = self.parent.value(tensor, hint)
        inner = self.builder.input(f"captured_{len(self.captured)}", outer.type)
        self.captured[tensor] = tensor, inner
        return inner

    def param(self, weight: Weight, hint: str = "") -> Value:
        """The parameter for a weight, declared when first asked for."""
        found = self._params.get(weight)
        if found is None:
            name = self.names.param(weight.name, hint)
            trainable = weight.dtype.kind == "float"
            found = self.builder.param(name, weight.type, Initializer("zeros"), trainable)
            self._params[weight] = found
            self.weights[name] = weight
        return found

    def _folded(self, array: np.ndarray, type: TensorType, hint: str) -> Value:
        """Many known numbers: a buffer."""
        from .tensors import Weight

        return self.param(Weight("", type.dtype, array.shape, lambda: array), hint or "constant")

    def _regular(self, array: np.ndarray, type: TensorType) -> Value | None:
        """Known numbers that are a count or all alike, as what they are."""
        row = array.reshape(-1)
        if type.dtype.kind == "int" and (row == np.arange(row.size)).all():
            value = self.builder.op("iota", n=row.size, dtype=type.dtype)
            return value if array.ndim == 1 else self.builder.op("reshape", value, shape=array.shape)
        if (row == row[0]).all():
            return self.builder.op("full", shape=array.shape, value=short(row[0]), dtype=type.dtype)
        return None

    def _numbers(self, array: np.ndarray, type: TensorType) -> Value:
        b = self.builder
        if array.dtype != object:
            if array.ndim == 0:
                return b.constant(short(array[()]), type.dtype)
            if not array.size:
                return b.op("full", shape=array.shape, value=0, dtype=type.dtype)
            return b.op("constant", value=_nested(array), dtype=type.dtype)
        if array.size and all(item is array.flat[0] for item in array.flat):
            return self._symbolic(array.flat[0], array.shape, type)
        parts = [self._symbolic(item, (1,), type) for item in array.reshape(-1)]
        row = parts[0] if len(parts) == 1 else b.op("concat", *parts, axis=0)
        return row if array.ndim == 1 else b.op("reshape", row, shape=array.shape)

    def _symbolic(self, item: object, shape: Sequence[int], type: TensorType) -> Value:
        b, dtype = self.builder, type.dtype
        if isinstance(item, Ratio):
            top = b.op("full", shape=shape, value=item.top, dtype=dtype)
            bottom = b.op("full", shape=shape, value=item.bottom, dtype=dtype)
            return b.op("div", top, bottom)
        if isinstance(item, Dim) and dtype.kind == "bool":
            return b.op("cast", b.op("full", shape=shape, value=item, dtype=i64), dtype=dtype)
        return b.op("full", shape=shape, value=item, dtype=dtype)


def short(number: Any) -> float | int | bool:
    """A NumPy scalar with as few digits as tell it from others of its dtype: 0.1, not 0.10000000149011612."""
    if number.dtype.kind in "iub":
        plain: int | bool = number.item()
        return plain
    exact = float(number)
    if number.dtype == np.float64 or not np.isfinite(exact):
        return exact
    # The largest number of a dtype, rounded to fewer digits, may be beyond it.
    rounded = float(str(number))
    return rounded if abs(rounded) <= abs(exact) or abs(rounded) < 1e4 else exact


def _nested(array: np.ndarray) -> object:
    """Nested tuples of Python numbers."""
    if array.ndim == 0:
        return short(array[()])
    return tuple(_nested(row) for row in array)


def elementwise(function: Callable[..., object], *arrays: np.ndarray) -> np.ndarray:
    """Apply to the broadcast elements of arrays of objects."""
    rows = [a.astype(object) for a in arrays]
    result = np.frompyfunc(function, len(rows), 1)(*rows)
    return np.asarray(result, dtype=object)


def dims_of(array: np.ndarray) -> list[Dim]:
    """Integers, perhaps symbolic, as dimensions. Raises TypeError for anything else."""
    return [as_dim(item) for item in array.reshape(-1).tolist()]
