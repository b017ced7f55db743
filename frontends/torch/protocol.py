"""What an importer of one aten op sees, whichever way the program came: the operands in the order of the op's schema, complete.

An operand is a :class:`Value` (a tensor), an ``int`` or :class:`Dim` (an integer, maybe symbolic), a float, a bool, a str, None,
a :class:`DType`, or a tuple of those. An importer returns a value, a size, or a list of values, one a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim, as_dim
from ...ir.graph import Value
from ...ir.library import composite, function
from ...ir.op import Trait, has
from ...ir.signature import broadcast_shapes
from ...ir.types import DTYPES, DType, TensorType, boolean, f32, i32, i64
from ..counted import Counts
from ..foreign import elementwise, inline
from .known import Known

Importer = Callable[..., Any]

ATEN: dict[str, Importer] = {}
# Importers of the same ops where an operand is complex.
COMPLEX: dict[str, Importer] = {}


@dataclass(frozen=True, eq=False, slots=True)
class Complex:
    """A tensor of complex numbers: its parts, of one shape and dtype."""

    re: Value
    im: Value

    @property
    def type(self) -> TensorType:
        return self.re.type


@dataclass(frozen=True, slots=True)
class ComplexOf:
    """A complex dtype, by that of its parts."""

    part: DType


def aten(*names: str) -> Callable[[Importer], Importer]:
    """Register the importer of ``add.Tensor``; ``relu`` means ``relu.default``."""
    return _into(ATEN, names)


def of_complex(*names: str) -> Callable[[Importer], Importer]:
    """Register the importer of an op for complex operands, a :class:`Complex`, a :class:`ComplexOf` or a Python number."""
    return _into(COMPLEX, names)


def _into(table: dict[str, Importer], names: Iterable[str]) -> Callable[[Importer], Importer]:
    def register(importer: Importer) -> Importer:
        for name in names:
            table[name if "." in name else f"{name}.default"] = importer
        return importer

    return register


def on_rows(*, booleans: bool = False) -> Callable[[Importer], Importer]:
    """For importers of ops along axes: a tensor without axes is a row of one element, which the results then are again.

    Args:
        booleans: compute with them as integers; results of their kind are booleans again.
    """

    def wrap(importer: Importer) -> Importer:
        def wrapped(i: Import, x: Value, *rest: Any) -> Any:
            if x.type.rank and not (booleans and x.type.dtype == boolean):
                return importer(i, x, *rest)
            row = x if x.type.rank else i.reshape(x, [1])
            made = importer(i, i.cast(row, i32) if booleans and x.type.dtype == boolean else row, *rest)
            results = [_as_operand(i, x, y) for y in (made if isinstance(made, list) else [made])]
            return results if isinstance(made, list) else results[0]

        return wrapped

    return wrap


def _as_operand(i: Import, x: Value, y: Value) -> Value:
    if x.type.dtype == boolean and y.type.dtype == i32:
        y = i.cast(y, boolean)
    return y if x.type.rank else i.reshape(y, [])


class Unsupported(Exception):
    """An operand or a use of an op that has no counterpart here; the text says which."""


@dataclass(slots=True)
class Import:
    """Adds the nodes of one program to a graph. Importers of ops get it as their first argument."""

    builder: Builder
    notes: list[str] = field(default_factory=list)
    # What the program requires of its sizes.
    known: Known = field(default_factory=Known)
    # The sizes that only run time knows.
    counts: Counts = field(default_factory=Counts)

    # Nodes -------------------------------------------------------------------------------------------------------

    def op(self, name: str, *inputs: Value | None, **attrs: Any) -> Value:
        """One core op with one result."""
        return self.builder.op(name, *inputs, **attrs)

    def call(self, name: str, *inputs: Value | None, **attrs: Any) -> Value:
        """One composite of the library with one result: ``call("std.nn.gelu", x)``."""
        return self.builder.op(composite(name), *inputs, **attrs)

    def foreign(self, name: str, *inputs: Value, **statics: Any) -> Value:
        """A function of ``specs/foreign``, inlined: ``foreign("log1p", x)``, ``foreign("running.logcumsumexp", x, axis=0)``."""
        called = function(f"foreign.{name}") if "." in name else elementwise(name)
        return inline(self.builder, called, inputs, statics)

    # Dtypes and scalars ------------------------------------------------------------------------------------------

    def cast(self, x: Value, dtype: DType) -> Value:
        return x if x.type.dtype == dtype else self.op("cast", x, dtype=dtype)

    def scalar(self, value: Any, dtype: DType) -> Value:
        """A number or a size as a tensor without axes."""
        if isinstance(value, Dim) and value.value is None:
            return self.cast(self.builder.dim_value(value), dtype)
        number = int(value) if isinstance(value, Dim) else value
        if dtype == boolean:
            number = bool(number)
        if dtype.kind == "int" and isinstance(number, float):
            number = int(number)
        return self.builder.constant(number, dtype)

    def tensor(self, value: Any, dtype: DType | None = None) -> Value:
        """An operand that may be a tensor or a number, as a tensor."""
        if isinstance(value, Value):
            return value if dtype is None else self.cast(value, dtype)
        return self.scalar(value, dtype or _number_dtype(value))

    def together(self, *operands: Any, floating: bool = False) -> list[Value]:
        """Operands of an elementwise op as tensors of one dtype, by PyTorch's rules of promotion."""
        dtype = result_type(operands)
        if floating and dtype.kind != "float":
            dtype = f32
        return [self.tensor(v, dtype) for v in operands]

    def broadcast(self, *operands: Value) -> list[Value]:
        """All of one shape."""
        shape: tuple[Dim, ...] = ()
        for value in operands:
            merged = broadcast_shapes(shape, value.type.shape)
            if merged is None:
                raise Unsupported(f"shapes that do not broadcast: {', '.join(str(v.type) for v in operands)}")
            shape = merged
        return [self.expand(v, shape) for v in operands]

    # Shapes ------------------------------------------------------------------------------------------------------

    def expand(self, x: Value, shape: Sequence[Dim | int]) -> Value:
        dims = tuple(as_dim(d) for d in shape)
        if any(d == 0 for d in dims) and x.type.shape != dims:
            return self.op("full", shape=dims, value=False if x.type.dtype == boolean else 0, dtype=x.type.dtype)
        return x if x.type.shape == dims else self.op("expand", x, shape=dims)

    def reshape(self, x: Value, shape: Sequence[Dim | int]) -> Value:
        """Another shape, by the plainest op that makes it: nothing, (un)squeeze, or reshape."""
        dims = tuple(as_dim(d) for d in shape)
        while x.type.shape != dims and x.node is not None and has(x.node, Trait.RESHAPES):
            inner = x.node.inputs[0]
            assert inner is not None
            x = inner
        if x.type.shape == dims:
            return x
        added = _inserted_ones(x.type.shape, dims)
        if added:
            return self.op("unsqueeze", x, axis=added)
        removed = _inserted_ones(dims, x.type.shape)
        if removed:
            return self.op("squeeze", x, axis=removed)
        return self.op("reshape", x, shape=dims)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        return x if list(perm) == sorted(perm) else self.op("transpose", x, perm=tuple(perm))

    def slice(self, x: Value, axis: int, start: Any, stop: Any, step: int = 1) -> Value:
        """``x[start:stop:step]`` along one axis; the whole of it is x itself."""
        size = x.type.shape[axis]
        if start in (None, 0) and step == 1 and (stop is None or as_dim(stop) == size):
            return x
        return self.op("slice", x, axis=axis, start=start, stop=stop, step=step)


def _inserted_ones(short: Sequence[Dim], long: Sequence[Dim]) -> tuple[int, ...]:
    """Where axes of size 1 go into ``short`` to make ``long``; empty when that is not what makes it."""
    if len(long) <= len(short):
        return ()
    places, at = [], 0
    for i, dim in enumerate(long):
        if at < len(short) and short[at] == dim and len(long) - i > len(short) - at - 1:
            at += 1
        elif dim == 1:
            places.append(i)
        else:
            return ()
    return tuple(places) if at == len(short) else ()


def axis_of(axis: int, rank: int) -> int:
    """A dimension argument counted from the front."""
    return axis % rank if rank else 0


def axes_of(axes: Any, rank: int) -> tuple[int, ...] | None:
    """A dimension argument that may be one, a list, or None or empty for all; None then."""
    if axes is None or axes == ():
        return None
    return tuple(axis_of(a, rank) for a in (axes if isinstance(axes, tuple) else (axes,)))


# Dtypes --------------------------------------------------------------------------------------------------------------

# Dtypes by torch's numbers, which torch-dialect MLIR writes.
SCALAR_TYPES = {dtype.torch: dtype for dtype in DTYPES.values()}
_RANK = {"bool": 0, "int": 1, "float": 2}


def _number_dtype(value: Any) -> DType:
    if isinstance(value, bool):
        return boolean
    return f32 if isinstance(value, float) else i64


def promote(a: DType, b: DType) -> DType:
    """The dtype that holds both, as PyTorch has it."""
    if a == b:
        return a
    if a.kind != b.kind:
        return a if _RANK[a.kind] > _RANK[b.kind] else b
    if a.kind == "float" and a.size == b.size:
        return f32  # f16 with bf16
    if a.kind == "int" and a.size == b.size:
        return DTYPES["i16"]  # u8 with i8
    return a if a.size > b.size else b


def result_type(operands: Iterable[Any]) -> DType:
    """The dtype of an elementwise result: tensors with axes decide, unless a tensor without axes or a number is of a
    higher kind."""
    levels: list[DType | None] = [None, None, None]
    for value in operands:
        if isinstance(value, Value):
            level, dtype = (0 if value.type.rank else 1), value.type.dtype
        else:
            level, dtype = 2, _number_dtype(value)
        known = levels[level]
        levels[level] = dtype if known is None else promote(known, dtype)
    result: DType | None = None
    for dtype_or_none in levels:
        if dtype_or_none is not None and (result is None or _RANK[dtype_or_none.kind] > _RANK[result.kind]):
            result = dtype_or_none
    assert result is not None
    return result


def tensor_type(dtype: DType, shape: Iterable[Any]) -> TensorType:
    return TensorType(dtype, tuple(as_dim(d) for d in shape))


# Refusals ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Refusals:
    """Ops that cannot be imported, gathered so that one error lists all of them."""

    found: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, what: str, span: Any) -> None:
        self.found.setdefault(what, []).append(span)

    def check(self, known: int) -> None:
        """Raises E0780 when there is any."""
        from ...ir.diagnostics import Note

        if not self.found:
            return
        notes = []
        for what, spans in sorted(self.found.items(), key=lambda row: (-len(row[1]), row[0])):
            place = next((s for s in spans if s is not None), None)
            notes.append(Note(f"{what}, {len(spans)} time{'s' if len(spans) > 1 else ''}", place))
        total = sum(map(len, self.found.values()))
        first = next((n.span for n in notes if n.span is not None), None)
        raise Diagnostic(
            "E0780",
            f"{total} of the program's {known} operations cannot be imported: {', '.join(n.message for n in notes)}",
            first,
            notes=[n for n in notes if n.span is not None][:20],
            help="write those lines in another way; `tessera help E0780` says what cannot be imported",
        )
