"""From the IR to torch-dialect text: values, sizes, constants. Nothing here imports torch or torch-mlir."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...ir.binding import axis_symbol, solve_inputs
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim, as_dim
from ...ir.dims.monomials import Atom
from ...ir.graph import Graph, Node
from ...ir.types import DType, TensorType
from ..lower import Plan, Scope, Walk

_SIZE_FUNCTIONS = {
    "floordiv": "torch.aten.floordiv.int",
    "mod": "torch.aten.remainder.int",
    "min": "torch.prim.min.int",
    "max": "torch.prim.max.int",
}

Lowering = Callable[["Call"], "Tensor | Sequence[Tensor]"]
Claim = Callable[["Call"], "Tensor"]


class Tensor:
    """A tensor in the text: its name and type."""

    __slots__ = ("name", "type")

    def __init__(self, name: str, type: TensorType) -> None:
        self.name = name
        self.type = type


class Scalar:
    """A number, list or string in the text: its name, and its MLIR type."""

    __slots__ = ("name", "type")

    def __init__(self, name: str, type: str) -> None:
        self.name = name
        self.type = type


Operand = Tensor | Scalar


def tensor_text(type: TensorType) -> str:
    """``!torch.vtensor<[?,4],f32>``."""
    sizes = ",".join("?" if d.value is None else str(d.value) for d in type.shape)
    return f"!torch.vtensor<[{sizes}],{type.dtype.mlir}>"


def _type_text(value: Operand) -> str:
    return value.type if isinstance(value, Scalar) else tensor_text(value.type)


class Emitter(Walk[Tensor]):
    """Writes the lines of one function."""

    def __init__(self, graph: Graph, plan: Plan, lowerings: Mapping[str, Lowering], claims: Mapping[str, Claim]) -> None:
        super().__init__(plan)
        self.sizes = Scope(graph)
        self.lowerings = lowerings
        self.claims = claims
        self.lines: list[str] = []
        self.resources: dict[str, str] = {}
        self._count = 0
        self._scalars: dict[Any, Scalar] = {}
        self._sizes: dict[str, Scalar] = {}
        self._dims: dict[Dim, Scalar] = {}
        self.span: Any = None

    # Lines -------------------------------------------------------------------------------------------------------

    def fresh(self) -> str:
        self._count += 1
        return f"%{self._count - 1}"

    def line(self, op: str, operands: Sequence[Operand], result: str) -> str:
        """One operation with one result; returns the result's name."""
        name = self.fresh()
        names = ", ".join(v.name for v in operands)
        types = ", ".join(map(_type_text, operands))
        self.lines.append(f"{name} = {op} {names} : {types} -> {result}" if operands else f"{name} = {op} : {result}")
        return name

    def aten(self, op: str, *operands: Any, type: TensorType) -> Tensor:
        """``torch.aten.op`` with one tensor as the result. Numbers, lists, None and strings become constants."""
        return Tensor(self.line(f"torch.aten.{op}", [self.operand(v) for v in operands], tensor_text(type)), type)

    def aten_many(self, op: str, *operands: Any, types: Sequence[TensorType]) -> list[Tensor]:
        """The same with several results."""
        given = [self.operand(v) for v in operands]
        name = self.fresh()
        names, kinds = ", ".join(v.name for v in given), ", ".join(map(_type_text, given))
        self.lines.append(
            f"{name}:{len(types)} = torch.aten.{op} {names} : {kinds} -> {', '.join(map(tensor_text, types))}"
        )
        return [Tensor(f"{name}#{n}", type) for n, type in enumerate(types)]

    # Operands that are no tensors --------------------------------------------------------------------------------

    def operand(self, value: Any) -> Operand:
        if isinstance(value, (Tensor, Scalar)):
            return value
        if isinstance(value, (list, tuple)):
            return self.sequence(value)
        if isinstance(value, Dim):
            return self.size(value)
        if isinstance(value, DType):
            return self.constant(value.torch)
        return self.constant(value)

    def constant(self, value: Any) -> Scalar:
        """None, a bool, an int, a float or a string."""
        key = (type(value).__name__, repr(value))
        if key not in self._scalars:
            name = self.fresh()
            kind, text = _literal(value)
            self.lines.append(f"{name} = torch.constant.{kind}{' ' + text if text else ''}")
            self._scalars[key] = Scalar(name, f"!torch.{kind}")
        return self._scalars[key]

    def sequence(self, values: Sequence[Any]) -> Scalar:
        items = [self.operand(v) for v in values]
        kind = "vtensor" if items and isinstance(items[0], Tensor) else "int"
        if items and isinstance(items[0], Scalar):
            kind = items[0].type.removeprefix("!torch.")
        names, types = ", ".join(v.name for v in items), ", ".join(map(_type_text, items))
        name = self.fresh()
        self.lines.append(f"{name} = torch.prim.ListConstruct {names} : ({types}) -> !torch.list<{kind}>")
        return Scalar(name, f"!torch.list<{kind}>")

    # Sizes -------------------------------------------------------------------------------------------------------

    def define_sizes(self, graph: Graph, tensors: Mapping[str, Tensor]) -> None:
        """Read the symbols of the graph from the shapes of its inputs."""
        for value in graph.inputs:
            for axis, dim in enumerate(value.type.shape):
                if dim.value is None:
                    operands: list[Operand] = [tensors[value.name], self.constant(axis)]
                    name = self.line("torch.aten.size.int", operands, "!torch.int")
                    self._sizes[axis_symbol(value.name, axis)] = Scalar(name, "!torch.int")
        for symbol, at in solve_inputs(graph).items():
            self._sizes[symbol] = self.size(at.dim)
        self._dims.clear()

    def size(self, dim: Dim) -> Scalar:
        """A dimension as a number. Raises E0803 for one that no input's shape tells."""
        dim = self.sizes.expanded(dim)
        if dim.value is not None:
            return self.constant(dim.value)
        if dim not in self._dims:
            self._dims[dim] = self._sum(dim)
        return self._dims[dim]

    def _sum(self, dim: Dim) -> Scalar:
        total: Scalar | None = None
        for monomial, coefficient in dim.terms:
            factors = [self._atom(a) for a, power in monomial for _ in range(power)]
            if coefficient != 1 or not factors:
                factors.append(self.constant(coefficient))
            term = factors[0]
            for factor in factors[1:]:
                term = self._int("torch.aten.mul.int", term, factor)
            total = term if total is None else self._int("torch.aten.add.int", total, term)
        assert total is not None
        return total

    def _atom(self, atom: Atom) -> Scalar:
        if isinstance(atom, str):
            if atom not in self._sizes:
                raise Diagnostic("E0803", f"the size `{atom}` does not follow from the shapes of the inputs", self.span)
            return self._sizes[atom]
        result = self.size(atom.args[0])
        for arg in atom.args[1:]:
            result = self._int(_SIZE_FUNCTIONS[atom.fn], result, self.size(arg))
        return result

    def _int(self, op: str, a: Scalar, b: Scalar) -> Scalar:
        return Scalar(self.line(op, [a, b], "!torch.int"), "!torch.int")

    # The walk ----------------------------------------------------------------------------------------------------

    def at(self, node: Node) -> None:
        self.span = node.span

    def core(self, node: Node, operands: list[Tensor | None]) -> Sequence[Tensor]:
        return _several(self.lowerings[node.op.name](Call(self, node, operands)))

    def claim(self, node: Node, operands: list[Tensor | None]) -> Sequence[Tensor]:
        return _several(self.claims[node.op.qualified](Call(self, node, operands)))


def _several(made: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [made] if isinstance(made, Tensor) else made


class Call:
    """One node while it is lowered: what a row of the tables sees."""

    def __init__(self, emitter: Emitter, node: Node, operands: list[Tensor | None]) -> None:
        self.emitter = emitter
        self.node = node
        self.operands = operands
        self.attrs = node.attrs

    @property
    def args(self) -> list[Tensor]:
        """The operands, none of which is missing."""
        return [x for x in self.operands if x is not None]

    @property
    def out(self) -> TensorType:
        return self.node.outputs[0].type

    @property
    def outs(self) -> list[TensorType]:
        return [v.type for v in self.node.outputs]

    def aten(self, op: str, *operands: Any, type: TensorType | None = None) -> Tensor:
        """An aten op whose result has the node's own type, unless another is given."""
        return self.emitter.aten(op, *operands, type=type or self.out)

    # Small things that many rows are made of ---------------------------------------------------------------------

    def view(self, x: Tensor, shape: Sequence[Any]) -> Tensor:
        dims = tuple(as_dim(d) for d in shape)
        return x if x.type.shape == dims else self.aten("view", x, dims, type=TensorType(x.type.dtype, dims))

    def expand(self, x: Tensor, shape: Sequence[Any]) -> Tensor:
        dims = tuple(as_dim(d) for d in shape)
        return x if x.type.shape == dims else self.aten("broadcast_to", x, dims, type=TensorType(x.type.dtype, dims))

    def permute(self, x: Tensor, order: Sequence[int]) -> Tensor:
        if list(order) == sorted(order):
            return x
        type = TensorType(x.type.dtype, tuple(x.type.shape[i] for i in order))
        return self.aten("permute", x, list(order), type=type)

    def cast(self, x: Tensor, dtype: DType) -> Tensor:
        if x.type.dtype == dtype:
            return x
        return self.aten("to.dtype", x, dtype, False, False, None, type=TensorType(dtype, x.type.shape))

    def full(self, shape: Sequence[Any], value: Any, dtype: DType) -> Tensor:
        dims = tuple(as_dim(d) for d in shape)
        number = value if isinstance(value, Dim) else float(value) if dtype.kind == "float" else int(value)
        return self.aten("full", dims, number, dtype, None, None, None, type=TensorType(dtype, dims))

    def slice(self, x: Tensor, axis: int, start: Any, stop: Any, step: int = 1) -> Tensor:
        """``x[start:stop:step]``, bounds counted from the front."""
        length = (as_dim(stop) - start + step - 1) // step
        type = TensorType(x.type.dtype, (*x.type.shape[:axis], length, *x.type.shape[axis + 1 :]))
        return self.aten("slice.Tensor", x, axis, start, stop, step, type=type)


def _literal(value: Any) -> tuple[str, str]:
    if value is None:
        return "none", ""
    if isinstance(value, bool):
        return "bool", str(value).lower()
    if isinstance(value, int):
        return "int", str(value)
    if isinstance(value, float):
        return "float", float_text(value)
    return "str", quoted(value)


def float_text(value: float) -> str:
    """A double as MLIR reads it back exactly; infinities and NaN by their bits."""
    if math.isfinite(value):
        mantissa, _, exponent = f"{value:.17e}".partition("e")
        return f"{mantissa}e{exponent}"
    return {math.inf: "0x7FF0000000000000", -math.inf: "0xFFF0000000000000"}.get(value, "0x7FF8000000000000")


def quoted(text: str) -> str:
    return '"' + re.sub(r'[^ -~]|["\\]', lambda m: "".join(f"\\{b:02X}" for b in m.group().encode()), text) + '"'
