"""Torch-dialect MLIR -> IR, through torch-mlir's Python bindings; torch itself is not imported."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Note
from ...ir.dims.dim import Dim, as_dim, dim_max, dim_min, sym
from ...ir.graph import Graph, Initializer, Module, Value
from ...ir.imported import Imported
from ...ir.types import DType, TensorType, bf16
from ...runtime.files.mlir_text import check_text
from ..multiples import remainder
from ..positions import write_positions
from .aten import ATEN
from .finish import INLINE, identifier, input_names, outside, prune
from .mlir_text import affine, check_size, first_error, numbers, scalar, span_of, tensor_type
from .protocol import Import, Refusals, Unsupported
from .symbols import usual_name

_RESOURCE = re.compile(r'(?:"([^"]+)"|([\w.$-]+)):\s*"0x([0-9A-Fa-f]*)"')

# Arithmetic of sizes.
_SIZE_OPS: dict[str, Callable[..., Any]] = {
    "aten.add.int": lambda a, b: a + b,
    "aten.sub.int": lambda a, b: a - b,
    "aten.mul.int": lambda a, b: a * b,
    "aten.floordiv.int": lambda a, b: a // b,
    "aten.remainder.int": remainder,
    "aten.neg.int": lambda a: -a,
    "prim.min.int": dim_min,
    "prim.max.int": dim_max,
}
# Conversions of numbers, and of integers that a size may stand for.
_NUMBERS: dict[str, Callable[..., Any]] = {
    "aten.Int.bool": int,
    "aten.Float.bool": float,
    "aten.Float.Scalar": lambda x: x if isinstance(x, Dim) else float(x),
}
# What operands that an op does not take end in: the text may give any to any.
_MISTAKES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)
_CONSTANTS = frozenset({"int", "float", "bool", "str", "device"})
_MISSING = object()


def import_mlir(
    source: Any, *, name: str = "imported", names: Sequence[str] | None = None,
    dims: Sequence[Sequence[Any]] | None = None, weights: Mapping[str, Any] | None = None,
) -> Imported:  # fmt: skip
    """See :func:`tessera.frontends.torch.load_mlir`."""
    try:
        from torch_mlir import ir
        from torch_mlir.dialects import torch as dialect
    except ImportError as error:
        raise Diagnostic(
            "E0785", "reading MLIR needs torch-mlir, which is not installed", help="pip install 'tessera[mlir]'"
        ) from error
    if not isinstance(source, str):
        return _Walk(source, source.operation.get_asm(), name, names, dims, weights).run()
    check_text(source)
    with ir.Context() as context:
        dialect.register_dialect(context)
        try:
            module = ir.Module.parse(source)
            module.operation.verify()
        except (ir.MLIRError, ValueError) as error:
            raise Diagnostic("E0784", f"this is not torch-dialect MLIR: {first_error(str(error))}") from error
        return _Walk(module, source, name, names, dims, weights).run()


class _Walk:
    def __init__(
        self, module: Any, text: str, name: str, names: Sequence[str] | None, dims: Any, weights: Mapping[str, Any] | None
    ) -> None:  # fmt: skip
        functions = [f.operation for f in module.body.operations if f.operation.name == "func.func"]
        if len(functions) != 1:
            raise Diagnostic("E0784", f"the module has {len(functions)} functions, but one is needed")
        blocks = list(functions[0].regions[0].blocks)
        if len(blocks) != 1:
            raise Diagnostic("E0784", f"the function has {len(blocks)} blocks, but one is needed")
        self.block = blocks[0]
        self.text = text
        self.graph = Graph(identifier(name))
        self.importing = Import(Builder(self.graph))
        self.refusals = Refusals()
        self.env: dict[Any, Any] = {}
        self.names = list(names) if names is not None else self._written_names()
        self.dims = dims
        self.given = weights or {}
        self.weights: dict[str, Any] = {}
        self.resources: dict[str, str] | None = None
        self.taken: set[str] = set()

    def run(self) -> Imported:
        operations = [op.operation for op in self.block.operations]
        self._inputs(operations)
        known = 0
        for op in operations:
            if op.name in ("func.return", "return"):
                self.refusals.check(known)
                self._outputs([self.env[v] for v in op.operands])
                continue
            known += 1
            self._op(op)
        notes = prune(self.graph, self.weights) + write_positions(self.graph, self.weights)
        return Imported(Module(self.graph.name, self.graph, "Imported from MLIR."), self.weights, notes)

    # Inputs ------------------------------------------------------------------------------------------------------

    def _inputs(self, operations: list[Any]) -> None:
        shapes = self._bound_shapes(operations)
        arguments = list(self.block.arguments)
        names = self.names if len(self.names) == len(arguments) else [f"arg{n}" for n in range(len(arguments))]
        plain = iter(input_names(n for n in names if n not in self.given))
        self.taken |= set(map(identifier, names))
        for index, (argument, name) in enumerate(zip(arguments, names, strict=True)):
            type = tensor_type(str(argument.type))
            if type is None:
                raise Diagnostic(
                    "E0782", f"the argument `{name}` is {argument.type}, not a tensor of a known rank and dtype"
                )
            dtype, sizes = type
            if name in self.given:
                known = self.given[name].shape
                if len(known) != len(sizes):
                    raise Diagnostic("E0606", f"`{name}` has {len(known)} axes, but the argument is {argument.type}")
                shape = [as_dim(a if b is None else b) for a, b in zip(known, sizes, strict=True)]
                self.env[argument] = self._param(name, TensorType(dtype, tuple(shape)), self.given[name])
                continue
            shape = [self._size(size, axis, len(sizes), shapes.get(argument), index) for axis, size in enumerate(sizes)]
            own = next(plain)
            self.env[argument] = self.importing.builder.input(
                own, TensorType(dtype, tuple(shape)), outside=outside(name, own)
            )

    def _size(self, size: int | None, axis: int, rank: int, bound: Any, index: int) -> Dim:
        if size is not None:
            return as_dim(size)
        if self.dims is not None and index < len(self.dims) and axis < len(self.dims[index]):
            wanted = self.dims[index][axis]
            if wanted is not None:
                return as_dim(wanted)
        if bound is not None and bound[axis].value is None:
            return bound[axis]
        name = usual_name(axis, rank, self.taken)
        self.taken.add(name)
        return sym(name)

    def _bound_shapes(self, operations: list[Any]) -> dict[Any, list[Dim]]:
        """What ``torch.bind_symbolic_shape`` says of the arguments, in symbols with names for readers."""
        symbols: dict[Any, str] = {}
        found: dict[Any, list[Dim]] = {}
        arguments = set(self.block.arguments)
        for op in operations:
            if op.name == "torch.symbolic_int":
                symbols[op.results[0]] = str(op.attributes["symbol_name"]).strip('"')
        renamed: dict[str, str] = {}
        for op in operations:
            if op.name != "torch.bind_symbolic_shape" or op.operands[0] not in arguments:
                continue
            names = [symbols[v] for v in list(op.operands)[1:]]
            type = tensor_type(str(op.operands[0].type))
            try:
                expressions = [check_size(d) for d in affine(str(op.attributes["shape_expressions"]), names)]
            except _MISTAKES as error:
                raise Diagnostic("E0784", "the shape that is bound to an argument has a size that is none") from error
            if type is None or len(type[1]) != len(expressions):
                raise Diagnostic("E0784", f"{len(expressions)} sizes are bound to an argument {op.operands[0].type}")
            for axis, dim in enumerate(expressions):
                own = dim.symbol
                # torch calls its own symbols s0, s77: no names for readers.
                if own is not None and own not in renamed:
                    made_up = re.fullmatch(r"[su]\d+", own) or not own.isidentifier()
                    renamed[own] = usual_name(axis, len(expressions), self.taken) if made_up else own
                    self.taken.add(renamed[own])
            found[op.operands[0]] = expressions
        table = {old: sym(new) for old, new in renamed.items()}
        return {value: [d.subs(table) for d in dims] for value, dims in found.items()}

    def _written_names(self) -> list[str]:
        """The names of the arguments in the text, which the parser forgets; those that it made up itself count for none."""
        header = re.search(r"func\.func[^(]*\((.*?)\)\s*(?:->|\{|attributes)", self.text, re.DOTALL)
        names = re.findall(r"%([\w.$-]+)\s*:", header.group(1)) if header else []
        return [] if any(re.fullmatch(r"arg\d+|\d+", n) for n in names) else names

    # Operations --------------------------------------------------------------------------------------------------

    def _op(self, op: Any) -> None:
        builder = self.importing.builder
        builder.span = span_of(str(op.location))
        name = op.name.removeprefix("torch.")
        if name == "operator":
            name = str(op.attributes["name"]).strip('"').removeprefix("torch.")
        try:
            results = self._results(op, name)
        except Unsupported as error:
            self.refusals.add(f"`{op.name}` ({error})", builder.span)
            results = [_MISSING] * len(op.results)
        except Diagnostic as error:
            error.span = error.span or builder.span
            error.notes.append(Note(f"while importing `{op.name}`", builder.span))
            raise
        except _MISTAKES as error:
            raise Diagnostic("E0784", f"`torch.{name}` does not take these operands", builder.span) from error
        self._check_types(op, results)
        self.env.update(zip(op.results, results, strict=True))

    def _check_types(self, op: Any, results: Sequence[Any]) -> None:
        """The results must be what the text says that they are."""
        for result, made in zip(op.results, results, strict=False):
            type = tensor_type(str(result.type)) if isinstance(made, Value) else None
            if type is None:
                continue
            shape = [check_size(d).value for d in made.type.shape]
            sizes = len(shape) == len(type[1]) and all(
                a is None or b is None or a == b for a, b in zip(shape, type[1], strict=False)
            )
            if made.type.dtype != type[0] or not sizes:
                span = self.importing.builder.span
                raise Diagnostic("E0784", f"`{op.name}` makes {made.type} here, but the text says {result.type}", span)

    def _results(self, op: Any, name: str) -> Sequence[Any]:
        kind, _, rest = name.partition(".")
        if kind == "constant":
            return [_constant(op, rest)]
        if name == "vtensor.literal":
            return [self._literal(op)]
        if name in ("symbolic_int", "bind_symbolic_shape") or name.startswith("runtime.assert"):
            return [_MISSING] * len(op.results)
        operands = [self.env[v] for v in op.operands]
        if any(_missing(v) for v in operands):
            return [_MISSING] * len(op.results)
        if name in ("prim.ListConstruct", "prim.TupleConstruct"):
            return [tuple(operands)]
        if name in ("prim.ListUnpack", "prim.TupleUnpack"):
            return list(operands[0])
        if name == "aten.__getitem__.t":
            return [operands[0][operands[1]]]
        if name in ("aten.size.int", "aten.sym_size.int"):
            return [_integer(operands[0].type.shape[operands[1]])]
        if name in _SIZE_OPS:
            return [_integer(_SIZE_OPS[name](*map(as_dim, operands)))]
        if name in _NUMBERS:
            return [_NUMBERS[name](*operands)]
        if name in ("prim.NumToTensor.Scalar", "aten.tensor.int", "aten.tensor.float"):
            return [self.importing.tensor(operands[0])]
        if name in ("tensor_static_info_cast", "copy.to_vtensor", "copy.to_tensor", "derefine"):
            return [operands[0]]
        short = name.removeprefix("aten.")
        importer = ATEN.get(short) or ATEN.get(f"{short}.default")
        if importer is None or kind not in ("aten", "prims"):
            self.refusals.add(f"`{op.name if op.name != 'torch.operator' else name}`", self.importing.builder.span)
            return [_MISSING] * len(op.results)
        made = importer(self.importing, *operands)
        if len(op.results) == 1:
            return [tuple(made) if isinstance(made, list) and "list" in str(op.results[0].type) else _first(made)]
        return [_MISSING if v is None else v() if callable(v) else v for v in made or ()]

    # Constants and weights ---------------------------------------------------------------------------------------

    def _literal(self, op: Any) -> Value:
        import numpy as np

        attribute = op.attributes["value"]
        type = tensor_type(str(op.results[0].type))
        if type is None:
            raise Unsupported(f"a constant of type {op.results[0].type}")
        dtype, sizes = type
        shape = [size or 0 for size in sizes]
        resource = re.match(r"dense_resource<\"?([^\">]+)\"?>", str(attribute)[:400])
        if resource:
            array = self._resource(resource.group(1), dtype, shape)
        elif getattr(attribute, "is_splat", False) and math.prod(shape) > 1:
            number = scalar(str(attribute.get_splat_value()))
            return self.importing.expand(self.importing.scalar(number, dtype), shape)
        elif dtype == bf16:  # which the bindings do not read
            found = numbers(str(attribute))
            array = np.array(found * (1 if len(found) > 1 else math.prod(shape)), dtype.numpy).reshape(shape)
        else:
            array = np.array(attribute).astype(dtype.numpy).reshape(shape)
        if 0 < array.size <= INLINE and not resource:
            return self.importing.op("constant", value=_tuples(array.tolist()), dtype=dtype)
        return self._param(f"weight_{len(self.weights)}", TensorType.of(dtype, shape), array)

    def _resource(self, name: str, dtype: DType, shape: list[int]) -> Any:
        import numpy as np

        if self.resources is None:
            self.resources = {a or b: blob for a, b, blob in _RESOURCE.findall(self.text)}
        if name not in self.resources:
            raise Diagnostic(
                "E0784", f"the resource `{name}` is not in the text", help="print the module with its resources"
            )
        data = bytes.fromhex(self.resources[name])[4:]  # the first four bytes are its alignment
        count = math.prod(shape) * dtype.size
        if len(data) != count:
            raise Diagnostic("E0784", f"the resource `{name}` has {len(data)} bytes, but {count} are needed")
        return np.frombuffer(data, dtype.numpy).reshape(shape)

    def _param(self, name: str, type: TensorType, value: Any) -> Value:
        self.weights[name] = value
        return self.importing.builder.param(name, type, Initializer("zeros"), type.dtype.kind == "float")

    def _outputs(self, values: list[Any]) -> None:
        if not values:
            raise Diagnostic("E0783", "the function returns nothing")
        for index, value in enumerate(values):
            if not isinstance(value, Value):
                raise Diagnostic("E0783", f"result {index} is no tensor")
            self.graph.add_output(value, f"output_{index}" if len(values) > 1 else "output")


def _missing(value: Any) -> bool:
    return value is _MISSING or (isinstance(value, tuple) and any(map(_missing, value)))


def _first(made: Any) -> Any:
    return made[0] if isinstance(made, list) else made


def _integer(dim: Dim) -> int | Dim:
    return check_size(dim) if dim.value is None else dim.value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _constant(op: Any, kind: str) -> Any:
    if kind == "none":
        return None
    if kind not in _CONSTANTS:
        raise Unsupported(f"a constant {kind}")
    value = op.attributes["value"]
    return None if kind == "device" else value.value
