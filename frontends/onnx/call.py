"""One ONNX node as its importer function sees it: operands, attributes, and ways to add to our graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim, prove_ge
from ...ir.graph import Value
from ...ir.keys import instance_key
from ...ir.library import composite, function
from ...ir.types import DType, TensorType, i64
from ..foreign import elementwise, inline
from .names import scope_of
from .values import Tensor, dims_of, known_tensor

if TYPE_CHECKING:
    from .importer import Importer, Scope

# Static operands (axes, pads, scales) have few elements; a weight of more is never read for one.
_STATIC_ELEMENTS = 1 << 16


class Call:
    """A node with its operands. ``c.x(0)`` is the first operand as a value, ``c.attr("axis", 0)`` an attribute."""

    def __init__(self, importer: Importer, node: Any, inputs: list[Tensor | None], scope: Scope) -> None:
        self.importer = importer
        self.node = node
        self.inputs = inputs
        self.scope = scope
        self.region = scope.region
        self.opset: int = importer.file.opset
        self.path = scope_of(node)
        self.region.builder.scope = self.path
        self._attributes: dict[str, Any] | None = None

    # Reading the node ----------------------------------------------------------------------------------------------

    @property
    def op_type(self) -> str:
        return str(self.node.op_type)

    @property
    def where(self) -> str:
        """How messages name the node."""
        return where(self.node)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute as Python has it: numbers, text, lists of them, or a message."""
        if self._attributes is None:
            self._attributes = self.scope.attributes(self.node)
        return self._attributes.get(name, default)

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def tensor(self, index: int) -> Tensor:
        """An operand that must be there. Raises E0754."""
        if not self.has(index):
            raise Diagnostic("E0754", f"{self.where} lacks its input {index}")
        found = self.inputs[index]
        assert found is not None
        return found

    def type(self, index: int = 0) -> TensorType:
        return self.tensor(index).type

    def shape(self, index: int = 0) -> tuple[Dim, ...]:
        return self.type(index).shape

    def rank(self, index: int = 0) -> int:
        return self.type(index).rank

    def axis(self, default: int, index: int = 0, extra: int = 0) -> int:
        """The attribute ``axis``, counted from the front. Raises E0759."""
        return self.normal_axis(self.attr("axis", default), self.rank(index) + extra)

    def normal_axis(self, axis: int, rank: int) -> int:
        if not -rank <= axis < rank:
            raise Diagnostic("E0759", f"{self.where}: axis {axis} of a tensor with {rank} axes")
        return axis % rank

    def known(self, index: int) -> np.ndarray | None:
        """The numbers of an operand (objects where sizes are symbols), or None when they depend on data."""
        if not self.has(index):
            return None
        tensor = self.tensor(index)
        if tensor.known is None and tensor.weight is not None and tensor.weight.size <= _STATIC_ELEMENTS:
            array = tensor.weight.load()
            return array if tensor.perm is None else array.transpose(tensor.perm)
        return tensor.known

    def static(self, index: int, what: str) -> np.ndarray:
        """The numbers of an operand. Raises E0761 when they depend on data."""
        found = self.known(index)
        if found is None:
            raise Diagnostic("E0761", f"{self.where}: {what} depends on the values of a tensor")
        return found

    def dims(self, index: int, what: str) -> list[Dim]:
        """A list of sizes. Raises E0761."""
        return dims_of(self.static(index, what))

    def numbers(self, index: int, what: str) -> list[int]:
        """A list of plain integers. Raises E0761 when one is a symbol or depends on data."""
        dims = self.dims(index, what)
        if any(d.value is None for d in dims):
            raise Diagnostic("E0761", f"{self.where}: {what} must be plain numbers, but are {', '.join(map(str, dims))}")
        return [int(d) for d in dims]

    def axes(self, index: int, attribute: str = "axes") -> list[int] | None:
        """Axes given as an operand or, before that was so, as an attribute."""
        if self.has(index):
            return self.numbers(index, "axes")
        return self.attr(attribute)

    # Refusing ------------------------------------------------------------------------------------------------------

    def refuse(self, what: str, help: str | None = None) -> NoReturn:
        raise Diagnostic("E0758", f"{self.where}: {what} is not imported", help=help)

    def misfit(self, what: str) -> NoReturn:
        raise Diagnostic("E0759", f"{self.where}: {what}")

    def equal(self, a: Dim, b: Dim, what: str) -> None:
        """Sizes that must be equal: free ones become so. Raises E0759 when they cannot be."""
        if a != b:
            self.importer.unify(a, b, f"{self.where}: {what}")

    def broadcast(self, *tensors: Tensor) -> tuple[Dim, ...]:
        """The common shape; free sizes that must be equal become so."""
        shape: list[Dim] = []
        for tensor in tensors:
            dims = tensor.type.shape
            if len(dims) > len(shape):
                shape = [*dims[: len(dims) - len(shape)], *shape]
            for i in range(1, len(dims) + 1):
                if shape[-i] == 1:
                    shape[-i] = dims[-i]
                elif dims[-i] != 1 and dims[-i] != shape[-i]:
                    shown = ", ".join(str(t.type) for t in tensors[:3]) + (", …" if len(tensors) > 3 else "")
                    self.equal(shape[-i], dims[-i], f"axis {-i} of {shown}")
        return tuple(shape)

    def at_most(self, a: Dim, b: Dim) -> bool:
        """Whether ``a <= b`` is proved."""
        return prove_ge(b, a, self.region.graph.facts)

    # Building ------------------------------------------------------------------------------------------------------

    def x(self, index: int = 0, part: str = "") -> Value:
        """An operand as a value; ``part`` ends the name of a weight whose own name says nothing."""
        return self.region.value(self.tensor(index), self.hint(part) if part else self.hint("constant"))

    def maybe(self, index: int, part: str = "") -> Value | None:
        return self.x(index, part) if self.has(index) else None

    def hint(self, part: str) -> str:
        return f"{self.path}.{part}" if self.path else part

    def op(self, name: str, *values: Value | None, **attrs: Any) -> Value:
        return self.region.builder.op(name, *values, **attrs)

    def multi(self, name: str, *values: Value | None, **attrs: Any) -> list[Value]:
        return self.region.builder.multi(name, *values, **attrs)

    def std(self, name: str, *values: Value | None, **attrs: Any) -> Value:
        """A composite of the shipped library: ``c.std("nn.gelu", x)``."""
        return self.std_many(name, *values, **attrs)[0]

    def std_many(self, name: str, *values: Value | None, **attrs: Any) -> list[Value]:
        """All results of a composite."""
        op = self.importer.composites.get(name)
        if op is None:
            op = self.importer.composites[name] = composite(f"std.{name}")
        absent = len(op.signature.leaves()) - len(values)
        results = self.region.builder.emit(op, [*values, *[None] * absent], attrs)
        node = results[0].node
        assert node is not None
        key = instance_key(node)
        if key not in self.importer.checked:
            # What the body requires of its operands is more than the signature says.
            op.instantiate([None if v is None else v.type for v in node.inputs], dict(node.attrs))
            self.importer.checked.add(key)
        return results

    def foreign(self, name: str, *values: Value, **statics: Any) -> Value:
        """A function of ``specs/foreign`` of the values, or else of the node's operands, with the node's attributes."""
        called = function(f"foreign.{name}") if "." in name else elementwise(name)
        names = [operand.name for operand in called.signature.operands]
        if not values:
            self.broadcast(*(self.tensor(i) for i in range(len(names))))
            values = tuple(self.x(i, part if i else "") for i, part in enumerate(names))
        attrs = statics or {s.name: self.attr(s.name) for s in called.signature.statics}
        return inline(self.region.builder, called, values, {k: v for k, v in attrs.items() if v is not None})

    def scalar(self, value: float | int | bool, dtype: DType) -> Value:
        return self.region.builder.constant(value, dtype)

    def like(self, value: float | int, x: Value) -> Value:
        """A scalar of the dtype of ``x``."""
        return self.scalar(int(value) if x.type.dtype.kind == "int" else value, x.type.dtype)

    def number(self, dim: Dim) -> Value:
        """A size as an ``i64[]``."""
        return self.scalar(dim.value, i64) if dim.value is not None else self.region.builder.dim_value(dim)

    def cast(self, x: Value, dtype: DType) -> Value:
        return x if x.type.dtype == dtype else self.op("cast", x, dtype=dtype)

    def reshape(self, x: Value, shape: Sequence[Dim | int]) -> Value:
        return x if x.type.shape == tuple(shape) else self.op("reshape", x, shape=tuple(shape))

    def expand(self, x: Value, shape: Sequence[Dim | int]) -> Value:
        return x if x.type.shape == tuple(shape) else self.op("expand", x, shape=tuple(shape))

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        return x if list(perm) == list(range(x.type.rank)) else self.op("transpose", x, perm=tuple(perm))

    def tensor_of(self, value: Value, nonnegative: bool = False) -> Tensor:
        return Tensor(value.type, value=value, region=self.region, nonnegative=nonnegative)

    def constant(self, array: np.ndarray) -> Value:
        """Known numbers as a value."""
        return self.region.value(known_tensor(array), self.hint("constant"))


def where(node: Any) -> str:
    """How messages name a node."""
    name = node.name or (node.output[0] if node.output else "")
    return f"node `{name[:200]}` ({node.op_type[:100]})"
