"""``torch.export`` programs -> IR: one walk over the FX graph. Imports torch."""

from __future__ import annotations

import linecache
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Note, Span, register_source
from ...ir.dims import Dim, as_dim, dim_max, dim_min
from ...ir.graph import Graph, Initializer, Module, Require, Value
from ...ir.imported import Imported
from ...ir.types import DTYPES, DType, TensorType
from .aten import ATEN
from .finish import TORCH_FILE, input_names, lift_inline, output_names, prune
from .protocol import Import, Refusals, Unsupported
from .symbols import Symbols, wanted_names

if TYPE_CHECKING:
    from ...runtime.weights import LazyTensor

_DTYPES = {
    torch.float64: "f64", torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int64: "i64",
    torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "bool",
}  # fmt: skip

# What Python does with sizes, as torch.export writes it.
_SIZE_OPS: dict[Any, Callable[..., Any]] = {
    operator.add: operator.add,
    operator.sub: operator.sub,
    operator.mul: operator.mul,
    operator.floordiv: operator.floordiv,
    operator.mod: operator.mod,
    operator.neg: operator.neg,
    operator.pow: operator.pow,
    torch.sym_max: dim_max,
    torch.sym_min: dim_min,
    max: dim_max,
    min: dim_min,
}
_MISSING = object()


def import_program(
    program: ExportedProgram, *, dynamic_shapes: Any = None, name: str = "imported", doc: str = ""
) -> Imported:
    """See :func:`tessera.frontends.torch.load`."""
    table = torch.export.default_decompositions()
    for op in list(table):
        # What the importer knows stays whole; the rest is taken apart into core aten, which it mostly knows.
        if _aten_name(op) in ATEN:
            table.pop(op)
    program = program.run_decompositions(table)
    return _Walk(program, dynamic_shapes, name, doc).run()


def _aten_name(op: Any) -> str:
    """``add.Tensor`` for aten's; the whole name for others."""
    text = str(op)
    return text.removeprefix("aten.")


class _Walk:
    def __init__(self, program: ExportedProgram, dynamic_shapes: Any, name: str, doc: str) -> None:
        self.program = program
        self.graph = Graph(name)
        self.doc = doc
        self.importing = Import(Builder(self.graph))
        self.refusals = Refusals()
        self.env: dict[torch.fx.Node, Any] = {}
        self.weights: dict[str, LazyTensor] = {}
        self.shapes = dynamic_shapes
        self.live = _live(program.graph)
        self.first_names: dict[Any, str] = {}
        for key, tensor in program.state_dict.items():
            self.first_names.setdefault(_identity(tensor), key)
        self.spans = _Spans()

    def run(self) -> Imported:
        self._inputs()
        calls = [n for n in self.program.graph.nodes if n.op not in ("placeholder", "output") and n in self.live]
        for node in calls:
            self._node(node)
        self.refusals.check(len(calls))
        self._outputs()
        self._requires()
        notes = self.importing.notes + prune(self.graph, self.weights)
        return Imported(Module(self.graph.name, self.graph, self.doc), self.weights, notes)

    # Inputs and weights ------------------------------------------------------------------------------------------

    def _inputs(self) -> None:
        nodes = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        specs = self.program.graph_signature.input_specs
        user = [n for n, s in zip(nodes, specs, strict=True) if s.kind == InputKind.USER_INPUT]
        given = [n for n in user if isinstance(n.meta.get("val"), torch.Tensor)]
        names = input_names([n.name for n in given])
        symbols = self.symbols = Symbols(set(names))
        wanted = wanted_names(self.shapes, [n.name for n in user])
        # All bare symbols get their names first, so that an expression of them can be written.
        for node in given:
            for axis, size in enumerate(node.meta["val"].shape):
                expression = getattr(getattr(size, "node", None), "expr", None)
                if expression is not None and expression.is_Symbol:
                    symbols.name(expression, wanted.get((node.name, axis)), axis, node.meta["val"].ndim)
        for node, name in zip(given, names, strict=True):
            self.env[node] = self.importing.builder.input(name, self._type(node.meta["val"], f"the input `{name}`"))
        owners: dict[Any, Value] = {}
        for node, spec in zip(nodes, specs, strict=True):
            if node in self.env or node not in self.live:
                continue
            if spec.kind == InputKind.USER_INPUT:
                if not isinstance(spec.arg, ConstantArgument):
                    raise Diagnostic(
                        "E0782",
                        f"the input `{node.name}` is no tensor",
                        help="pass a tensor, or fix the value when exporting",
                    )
                self.env[node] = spec.arg.value
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                self.env[node] = self._weight(node, spec, owners)
            else:
                raise Diagnostic(
                    "E0782", f"the input `{node.name}` is a {spec.kind.name.lower()}, which has no counterpart"
                )

    def _weight(self, node: torch.fx.Node, spec: Any, owners: dict[Any, Value]) -> Value:
        full = spec.target
        tensor = self.program.state_dict.get(full)
        if tensor is None:
            tensor = self.program.constants[full]
        if spec.kind == InputKind.CONSTANT_TENSOR and (inline := lift_inline(tensor)) is not None:
            return self.importing.op("constant", value=inline, dtype=_dtype(tensor, full))
        if spec.kind == InputKind.BUFFER and not spec.persistent and (made := self._positions(tensor)) is not None:
            return made
        # Tied weights are one tensor under several names: one parameter, under the first.
        identity = _identity(tensor)
        if identity in owners:
            return owners[identity]
        first = self.first_names.get(identity, full)
        if first != full:
            self.importing.notes.append(f"`{full}` is the same tensor as `{first}`")
            full = first
        trainable = spec.kind == InputKind.PARAMETER and tensor.is_floating_point()
        type = self._type(tensor, f"`{full}`")
        owners[identity] = param = self.importing.builder.param(full, type, Initializer("zeros"), trainable)
        self.weights[full] = lazy(full, tensor)
        return param

    def _positions(self, tensor: torch.Tensor) -> Value | None:
        """A buffer that no checkpoint holds because it is only ``0, 1, …`` or one number: written as that."""
        if tensor.dtype not in (torch.int64, torch.int32) or not tensor.numel():
            return None
        shape, dtype = tuple(tensor.shape), _dtype(tensor, "a buffer")
        flat = tensor.flatten()
        if bool((flat == flat[0]).all()):
            return self.importing.expand(self.importing.scalar(int(flat[0]), dtype), shape)
        count = flat.numel()
        if max(shape) != count or not torch.equal(flat, torch.arange(count, dtype=flat.dtype, device=flat.device)):
            return None
        return self.importing.reshape(self.importing.op("iota", n=count, dtype=dtype), shape)

    def _type(self, value: torch.Tensor, what: str) -> TensorType:
        try:
            return TensorType(_dtype(value, what), tuple(self.symbols.dim(d) for d in value.shape))
        except Unsupported as error:
            raise Diagnostic("E0782", f"{what} has {error}, which no dimension expresses") from None

    # Nodes -------------------------------------------------------------------------------------------------------

    def _node(self, node: torch.fx.Node) -> None:
        builder = self.importing.builder
        builder.span = self.spans.of(node)
        builder.scope = _scope(node)
        try:
            before = builder.graph._last
            self.env[node] = result = self._call(node)
        except Unsupported as error:
            self.refusals.add(f"`{node.target}` ({error})", builder.span)
            self.env[node] = _MISSING
            return
        except Diagnostic as error:
            error.span = error.span or builder.span
            error.notes.append(Note(f"while importing `{node.target}`", builder.span))
            raise
        if result is _MISSING:
            return
        # A name for the reader: torch's own, on the last node that the op made.
        if isinstance(result, Value) and not result.name and builder.graph._last is not before:
            result.name = re.sub(r"_default|_tensor", "", node.name)

    def _call(self, node: torch.fx.Node) -> Any:
        target: Any = node.target
        if node.op == "get_attr":
            return self._attribute(node)
        args = [self._operand(a) for a in node.args]
        if any(_holds_missing(a) for a in args):
            return _MISSING
        if target is operator.getitem:
            found = args[0][args[1]]
            if found is None:
                raise Unsupported("a result that only training needs")
            return found
        if target in _SIZE_OPS:
            return _integer(
                _SIZE_OPS[target](*map(as_dim, args[:-1]), args[-1] if target is operator.pow else as_dim(args[-1]))
            )
        if isinstance(target, torch._ops.OpOverload):
            if target.namespace == "aten" and _aten_name(target) == "sym_size.int":
                return _integer(args[0].type.shape[args[1]])
            importer = ATEN.get(_aten_name(target))
            if importer is None:
                self.refusals.add(f"`{target}`", self.importing.builder.span)
                return _MISSING
            operands = list(self._complete(node, target))
            return _MISSING if any(map(_holds_missing, operands)) else importer(self.importing, *operands)
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            return _integer(self.symbols.dim(value))
        if target in (math.ceil, math.floor, round) or isinstance(value, (torch.SymFloat, torch.SymBool, float, bool)):
            raise Unsupported("arithmetic of a size that is no integer")
        self.refusals.add(f"`{getattr(target, '__name__', target)}`", self.importing.builder.span)
        return _MISSING

    def _complete(self, node: torch.fx.Node, target: Any) -> Iterator[Any]:
        """The operands in the order of the schema, defaults filled in."""
        for index, argument in enumerate(target._schema.arguments):
            if index < len(node.args):
                yield self._operand(node.args[index])
            elif argument.name in node.kwargs:
                yield self._operand(node.kwargs[argument.name])
            else:
                default = argument.default_value
                yield tuple(default) if isinstance(default, list) else default

    def _operand(self, value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return self.env[value]
        if isinstance(value, (list, tuple)):
            return tuple(self._operand(v) for v in value)
        if isinstance(value, torch.dtype):
            return _dtype_of(value, "an operand")
        if isinstance(value, (torch.device, torch.layout, torch.memory_format)):
            return None
        return value

    def _attribute(self, node: torch.fx.Node) -> Any:
        value = self.program.graph_module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if not isinstance(value, torch.Tensor):
            raise Unsupported("a region of code")
        inline = lift_inline(value)
        if inline is not None:
            return self.importing.op("constant", value=inline, dtype=_dtype(value, node.name))
        self.weights[node.name] = lazy(node.name, value)
        type = self._type(value, f"`{node.name}`")
        return self.importing.builder.param(node.name, type, Initializer("zeros"), False)

    # Outputs -----------------------------------------------------------------------------------------------------

    def _outputs(self) -> None:
        (end,) = (n for n in self.program.graph.nodes if n.op == "output")
        specs = self.program.graph_signature.output_specs
        users = [(n, s) for n, s in zip(end.args[0], specs, strict=True) if s.kind == OutputKind.USER_OUTPUT]
        written = [s.target for s in specs if s.kind != OutputKind.USER_OUTPUT]
        if written:
            raise Diagnostic(
                "E0783",
                f"the program writes to {', '.join(f'`{w}`' for w in written[:6])} when it runs",
                help="export in eval mode, and return what changes instead of keeping it in the module",
            )
        names = output_names(
            self.program.call_spec.out_spec,
            [n.meta.get("val") if isinstance(n, torch.fx.Node) else n for n, _ in users],
        )
        taken: set[str] = set()
        for (node, spec), name in zip(users, names, strict=True):
            if not isinstance(spec.arg, TensorArgument):
                if node is not None:
                    self.importing.notes.append(f"the output `{name}` is no tensor and is left out")
                continue
            unique, n = name, 0
            while unique in taken:
                n += 1
                unique = f"{name}_{n}"
            taken.add(unique)
            self.graph.add_output(self.env[node], unique)
        if not self.graph.output_info:
            raise Diagnostic("E0783", "the program returns no tensor")

    def _requires(self) -> None:
        for symbol, bounds in self.program.range_constraints.items():
            if symbol not in self.symbols.names:
                continue
            name = self.symbols.names[symbol]
            size = as_dim(name)
            # torch.export starts at 2 because it treats 0 and 1 by themselves; sizes here are free from 1.
            if bounds.lower.is_Integer and bounds.lower > 2:
                self._require(size, ">=", int(bounds.lower), name)
            if bounds.upper.is_Integer and bounds.upper < 2**31:
                self._require(size, "<=", int(bounds.upper), name)

    def _require(self, size: Dim, op: str, bound: int, name: str) -> None:
        relation = "at least" if op == ">=" else "at most"
        self.graph.requires.append(Require(size, op, as_dim(bound), f"{name} was exported for {relation} {bound}"))


def _holds_missing(value: Any) -> bool:
    return value is _MISSING or (isinstance(value, tuple) and any(map(_holds_missing, value)))


def _integer(dim: Dim) -> int | Dim:
    return dim if dim.value is None else dim.value


def _live(graph: torch.fx.Graph) -> set[torch.fx.Node]:
    """Nodes that the outputs depend on."""
    (end,) = (n for n in graph.nodes if n.op == "output")
    live, waiting = set(), [end]
    while waiting:
        node = waiting.pop()
        if node not in live:
            live.add(node)
            waiting += node.all_input_nodes
    return live


def _identity(tensor: torch.Tensor) -> Any:
    """Equal for two names of one tensor."""
    place = tensor.data_ptr() if tensor.numel() else id(tensor)
    return (place, tuple(tensor.shape), tensor.stride(), tensor.dtype)


# Weights -------------------------------------------------------------------------------------------------------------


def _dtype_of(dtype: torch.dtype, what: str) -> DType:
    if dtype not in _DTYPES:
        raise Diagnostic("E0782", f"{what} is {dtype}, which Tessera does not have")
    return DTYPES[_DTYPES[dtype]]


def _dtype(tensor: torch.Tensor, what: str) -> DType:
    return _dtype_of(tensor.dtype, what)


def lazy(name: str, tensor: torch.Tensor) -> LazyTensor:
    """A weight as a view of the module's tensor: nothing is copied until somebody asks, and not even then where it is
    contiguous."""
    from ...runtime.weights import LazyTensor

    dtype = _dtype(tensor, f"`{name}`")

    def load() -> Any:
        value = tensor.detach().cpu().contiguous()
        if value.dtype == torch.bfloat16:
            return value.view(torch.int16).numpy().view(dtype.numpy)
        return value.numpy()

    return LazyTensor(name, dtype, tuple(tensor.shape), load)


# Places --------------------------------------------------------------------------------------------------------------


class _Spans:
    """The user's Python line of each node, from torch's stack traces."""

    def __init__(self) -> None:
        self.known: dict[str, Span | None] = {}

    def of(self, node: torch.fx.Node) -> Span | None:
        trace = node.meta.get("stack_trace") or ""
        if trace not in self.known:
            self.known[trace] = self._parse(trace)
        return self.known[trace]

    def _parse(self, trace: str) -> Span | None:
        frames = re.findall(r'File "([^"]+)", line (\d+)', trace)
        own = [f for f in frames if not TORCH_FILE.search(f[0])] or frames
        if not own:
            return None
        file, line = own[-1][0], int(own[-1][1])
        rows = linecache.getlines(file)
        if rows:
            register_source(file, "".join(rows))
        text = rows[line - 1].rstrip("\n") if 0 < line <= len(rows) else ""
        return Span(file, line, len(text) - len(text.lstrip()) + 1, line, max(len(text), 1) + 1)


def _scope(node: torch.fx.Node) -> str:
    """The dotted name of the module that a node belongs to."""
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    path = next(reversed(list(stack.values())), ("", None))[0] if stack else ""
    return re.sub(r"^L\['self'\]\.?", "", path).replace("['", ".").replace("']", "").lstrip(".")
