"""Torch-dialect MLIR -> IR, through torch-mlir's Python bindings; torch itself is not imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Note, Span
from ...ir.dims import Dim, as_dim, ceildiv, dim_max, dim_min, sym
from ...ir.graph import Graph, Initializer, Module, Value
from ...ir.imported import Imported
from ...ir.types import DTYPES, DType, TensorType
from ..positions import write_positions
from .aten import ATEN
from .finish import INLINE, TORCH_FILE, identifier, input_names, prune
from .protocol import Import, Refusals, Unsupported
from .symbols import usual_name

_TYPE = re.compile(r"!torch\.vtensor<\[([^\]]*)\],\s*(\w+)>")
_ELEMENTS = {
    "si64": "i64", "si32": "i32", "si16": "i16", "si8": "i8", "ui8": "u8", "i1": "bool", "f64": "f64", "f32": "f32",
    "f16": "f16", "bf16": "bf16", "i64": "i64", "i32": "i32",
}  # fmt: skip
_RESOURCE = re.compile(r'(?:"([^"]+)"|([\w.$-]+)):\s*"0x([0-9A-Fa-f]*)"')

# Arithmetic of sizes.
_SIZE_OPS: dict[str, Callable[..., Any]] = {
    "aten.add.int": lambda a, b: a + b,
    "aten.sub.int": lambda a, b: a - b,
    "aten.mul.int": lambda a, b: a * b,
    "aten.floordiv.int": lambda a, b: a // b,
    "aten.remainder.int": lambda a, b: a % b,
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
    with ir.Context() as context:
        dialect.register_dialect(context)
        try:
            module = ir.Module.parse(source)
            module.operation.verify()
        except (ir.MLIRError, ValueError) as error:
            raise Diagnostic("E0784", f"this is not torch-dialect MLIR: {str(error)[:600]}") from error
        return _Walk(module, source, name, names, dims, weights).run()


class _Walk:
    def __init__(
        self, module: Any, text: str, name: str, names: Sequence[str] | None, dims: Any, weights: Mapping[str, Any] | None
    ) -> None:  # fmt: skip
        functions = [f.operation for f in module.body.operations if f.operation.name == "func.func"]
        if len(functions) != 1:
            raise Diagnostic("E0784", f"the module has {len(functions)} functions, but one is needed")
        self.block = functions[0].regions[0].blocks[0]
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
            type = _tensor_type(str(argument.type))
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
            self.env[argument] = self.importing.builder.input(next(plain), TensorType(dtype, tuple(shape)))

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
            expressions = _affine(str(op.attributes["shape_expressions"]), names)
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
        builder.span = _span(str(op.location))
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
        self.env.update(zip(op.results, results, strict=True))

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
        return [_MISSING if v is None else v for v in made or ()]

    # Constants and weights ---------------------------------------------------------------------------------------

    def _literal(self, op: Any) -> Value:
        import numpy as np

        attribute = op.attributes["value"]
        type = _tensor_type(str(op.results[0].type))
        if type is None:
            raise Unsupported(f"a constant of type {op.results[0].type}")
        dtype, sizes = type
        shape = [size or 0 for size in sizes]
        resource = re.match(r"dense_resource<\"?([^\">]+)\"?>", str(attribute)[:400])
        if resource:
            array = self._resource(resource.group(1), dtype, shape)
        elif getattr(attribute, "is_splat", False) and np.prod(shape) > 1:
            number = _scalar(str(attribute.get_splat_value()))
            return self.importing.expand(self.importing.scalar(number, dtype), shape)
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
        count = int(np.prod(shape)) * dtype.size
        if len(data) != count:
            raise Diagnostic("E0784", f"the resource `{name}` has {len(data)} bytes, but {count} are needed")
        return np.frombuffer(data, dtype.numpy).reshape(shape)

    def _param(self, name: str, type: TensorType, value: Any) -> Value:
        self.weights[name] = value
        return self.importing.builder.param(name, type, Initializer("zeros"), type.dtype.kind == "float")

    def _outputs(self, values: list[Any]) -> None:
        for index, value in enumerate(values):
            if not isinstance(value, Value):
                raise Diagnostic("E0783", f"result {index} is no tensor")
            self.graph.add_output(value, f"output_{index}" if len(values) > 1 else "output")


def _missing(value: Any) -> bool:
    return value is _MISSING or (isinstance(value, tuple) and any(map(_missing, value)))


def _first(made: Any) -> Any:
    return made[0] if isinstance(made, list) else made


def _integer(dim: Dim) -> int | Dim:
    return dim if dim.value is None else dim.value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _constant(op: Any, kind: str) -> Any:
    if kind == "none":
        return None
    if kind not in _CONSTANTS:
        raise Unsupported(f"a constant {kind}")
    value = op.attributes["value"]
    return None if kind == "device" else value.value


def _scalar(text: str) -> int | float | bool:
    """``5 : i64``, ``true`` or ``1.0e+00 : f32``."""
    word = text.split(":")[0].strip()
    if word in ("true", "false"):
        return word == "true"
    if word.startswith("0x"):  # infinities and NaN are written by their bits
        import struct

        bits = int(word, 16)
        return float(
            struct.unpack("<d", bits.to_bytes(8, "little"))[0]
            if len(word) > 10
            else struct.unpack("<f", bits.to_bytes(4, "little"))[0]
        )
    return float(word) if "." in word or "e" in word else int(word)


def _tensor_type(text: str) -> tuple[DType, list[int | None]] | None:
    """``!torch.vtensor<[?,3],f32>`` as dtype and sizes; None for other types."""
    found = _TYPE.fullmatch(text)
    if found is None or found.group(2) not in _ELEMENTS:
        return None
    sizes = [None if s.strip() == "?" else int(s) for s in found.group(1).split(",") if s.strip()]
    return DTYPES[_ELEMENTS[found.group(2)]], sizes


def _affine(text: str, names: list[str]) -> list[Dim]:
    """The results of ``affine_map<()[s0] -> (s0 * 15, 4)>`` with the symbols' names."""
    results = text[text.index("->") + 2 :].strip().rstrip(">").strip()[1:-1]
    parts, depth, start = [], 0, 0
    for at, char in enumerate(results):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(results[start:at])
            start = at + 1
    parts.append(results[start:])
    return [_Affine(part, names).sum() for part in parts if part.strip()]


class _Affine:
    """Reads one affine expression: ``+ - * floordiv ceildiv mod``, parentheses, symbols s0 …, integers."""

    def __init__(self, text: str, names: list[str]) -> None:
        self.words: Iterator[str] = iter([*re.findall(r"[()+*-]|\w+", text), ""])
        self.names = names
        self.word = next(self.words)

    def take(self) -> str:
        word, self.word = self.word, next(self.words, "")
        return word

    def sum(self) -> Dim:
        value = self.product()
        while self.word in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> Dim:
        value = self.atom()
        while self.word in ("*", "floordiv", "ceildiv", "mod"):
            op, other = self.take(), self.atom()
            value = {
                "*": lambda a, b: a * b,
                "floordiv": lambda a, b: a // b,
                "ceildiv": ceildiv,
                "mod": lambda a, b: a % b,
            }[op](value, other)
        return value

    def atom(self) -> Dim:
        word = self.take()
        if word == "-":
            return -self.atom()
        if word == "(":
            value = self.sum()
            self.take()
            return value
        if word.isdigit():
            return as_dim(int(word))
        return sym(self.names[int(word[1:])])


def _span(location: str) -> Span | None:
    """The innermost place of the user's own in ``loc("model.py":12:3)``, which may be a chain of callers."""
    places = [p for p in re.findall(r'"([^"]+)":(\d+):(\d+)', location) if p[0] != "-"]
    own = [p for p in places if not TORCH_FILE.search(p[0])] or places
    if not own:
        return None
    file, line, column = own[0][0], int(own[0][1]), max(int(own[0][2]), 1)
    return Span(file, line, column, line, column + 1)
