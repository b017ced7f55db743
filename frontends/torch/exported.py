"""``torch.export`` programs -> IR: one walk over the FX graph. Imports torch."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Note
from ...ir.dims.dim import Dim, as_dim, dim_max, dim_min, prove_ge
from ...ir.graph import Graph, Initializer, Module, Require, Value
from ...ir.imported import Imported
from ...ir.naming import unique
from ...ir.types import TensorType
from ..counted import Counts, Uncountable, within_capacity
from ..multiples import remainder
from ..positions import write_positions
from .apart import Apart, aten_name
from .aten import ATEN
from .finish import identifier, input_names, lift_inline, output_names, outside, prune
from .fx import body_of, ever_writes, guards, is_region, live_nodes
from .origins import Spans, dtype_of, dtype_of_tensor, identity, lazy, scope
from .protocol import COMPLEX, Complex, ComplexOf, Import, Refusals, Unsupported
from .symbols import Symbols, frozen, wanted_names

if TYPE_CHECKING:
    from ...runtime.weights.bind import LazyTensor


# What Python does with sizes, as torch.export writes it.
_SIZE_OPS: dict[Any, Callable[..., Any]] = {
    operator.add: operator.add,
    operator.sub: operator.sub,
    operator.mul: operator.mul,
    operator.floordiv: operator.floordiv,
    operator.mod: remainder,
    operator.neg: operator.neg,
    operator.pow: operator.pow,
    torch.sym_max: dim_max,
    torch.sym_min: dim_min,
    max: dim_max,
    min: dim_min,
}
_MISSING = object()


def import_program(
    program: ExportedProgram, *, dynamic_shapes: Any = None, name: str = "imported", doc: str = "",
    capacity: int | None = None,
) -> Imported:  # fmt: skip
    """See :func:`tessera.frontends.torch.load`."""
    if ever_writes(program.graph_module):
        table = torch.export.default_decompositions()
        for op in list(table):
            # What the importer knows stays whole; the rest is taken apart into core aten, which it mostly knows.
            if aten_name(op) in ATEN:
                table.pop(op)
        try:
            program = program.run_decompositions(table)
        except Exception as error:  # whatever torch raises while it traces the program once more
            raise Diagnostic(
                "E0781",
                f"torch.export does not take the program apart: {type(error).__name__}: {str(error).strip()[:1500]}",
                help="write what assigns to parts of tensors in another way: `torch.where`, `torch.cat`",
            ) from error
    return _Walk(program, dynamic_shapes, name, doc, capacity).run()


class _Walk:
    def __init__(self, program: ExportedProgram, dynamic_shapes: Any, name: str, doc: str, capacity: int | None) -> None:
        self.program = program
        self.graph = Graph(name)
        self.doc = doc
        self.importing = Import(Builder(self.graph), counts=Counts(capacity))
        self.refusals = Refusals()
        self.env: dict[torch.fx.Node, Any] = {}
        self.weights: dict[str, LazyTensor] = {}
        self.shapes = dynamic_shapes
        self.live = live_nodes(program.graph)
        self.first_names: dict[Any, str] = {}
        for key, tensor in program.state_dict.items():
            self.first_names.setdefault(identity(tensor), key)
        self.spans = Spans()
        self.made: dict[Any, Any] = {}
        self.apart = Apart()
        # The op that is taken apart just now.
        self.inside: torch.fx.Node | None = None

    def run(self) -> Imported:
        self._inputs()
        calls = [n for n in self.program.graph.nodes if n.op not in ("placeholder", "output") and n in self.live]
        for node in calls:
            self._node(node)
        self.refusals.check(len(calls))
        self._outputs()
        self._requires()
        counts = self.importing.counts
        try:
            self.importing.notes += within_capacity(self.graph, counts)
        except Uncountable as error:
            message = f"a number of rows depends on the values of tensors: {error}"
            raise Diagnostic("E0780", message, help="keep all rows, and a mask that says which of them count") from error
        notes = self.importing.notes + prune(self.graph, self.weights) + write_positions(self.graph, self.weights)
        return Imported(Module(self.graph.name, self.graph, self.doc), self.weights, notes, counts.outputs)

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
        found, decided = guards(given)
        self.importing.notes += symbols.divide(found) + frozen(self.shapes, {n.name: n.meta["val"].shape for n in given})
        known = self.importing.known
        known.facts = symbols.facts(self.program.range_constraints)
        known.decided += symbols.decided(decided)
        for a, b in symbols.equalities(found):
            known.equal(a, b)
        for node, name in zip(given, names, strict=True):
            type = self._type(node.meta["val"], f"the input `{name}`")
            self.env[node] = self.importing.builder.input(name, type, outside=outside(node.name, name))
        owners: dict[Any, Value | Complex] = {}
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
                self.env[node] = self._weight(spec, owners)
            else:
                raise Diagnostic(
                    "E0782", f"the input `{node.name}` is a {spec.kind.name.lower()}, which has no counterpart"
                )

    def _weight(self, spec: Any, owners: dict[Any, Value | Complex]) -> Value | Complex:
        full = spec.target
        tensor = self.program.state_dict.get(full)
        if tensor is None:
            tensor = self.program.constants[full]
        if spec.kind == InputKind.CONSTANT_TENSOR and (inline := lift_inline(tensor)) is not None:
            return self.importing.op("constant", value=inline, dtype=dtype_of_tensor(tensor, full))
        if spec.kind == InputKind.BUFFER and not spec.persistent and (made := self._positions(tensor)) is not None:
            return made
        # Tied weights are one tensor under several names: one parameter, under the first.
        place = identity(tensor)
        if place in owners:
            return owners[place]
        first = self.first_names.get(place, full)
        if first != full:
            self.importing.notes.append(f"`{full}` is the same tensor as `{first}`")
            full = first
        trainable = spec.kind == InputKind.PARAMETER and tensor.is_floating_point()
        owners[place] = held = self._held(full, tensor, trainable)
        return held

    def _held(self, full: str, tensor: torch.Tensor, trainable: bool) -> Value | Complex:
        """The parameter for a tensor; for one of complex numbers, a parameter for each part."""
        if tensor.is_complex():
            re, im = (self._held(f"{full}.{part}", getattr(tensor, part), trainable) for part in ("real", "imag"))
            assert isinstance(re, Value)
            assert isinstance(im, Value)
            return Complex(re, im)
        self.weights[full] = lazy(full, tensor)
        return self.importing.builder.param(full, self._type(tensor, f"`{full}`"), Initializer("zeros"), trainable)

    def _positions(self, tensor: torch.Tensor) -> Value | None:
        """A buffer that no checkpoint holds because it is only ``0, 1, …`` or one number: written as that."""
        if tensor.dtype not in (torch.int64, torch.int32) or not tensor.numel():
            return None
        shape, dtype = tuple(tensor.shape), dtype_of_tensor(tensor, "a buffer")
        flat = tensor.flatten()
        if bool((flat == flat[0]).all()):
            return self.importing.expand(self.importing.scalar(int(flat[0]), dtype), shape)
        count = flat.numel()
        if max(shape) != count or not torch.equal(flat, torch.arange(count, dtype=flat.dtype, device=flat.device)):
            return None
        return self.importing.reshape(self.importing.op("iota", n=count, dtype=dtype), shape)

    def _type(self, value: torch.Tensor, what: str) -> TensorType:
        try:
            return TensorType(dtype_of_tensor(value, what), tuple(self.symbols.dim(d) for d in value.shape))
        except Unsupported as error:
            raise Diagnostic("E0782", f"{what} has {error}, which no dimension expresses") from None

    # Nodes -------------------------------------------------------------------------------------------------------

    def _node(self, node: torch.fx.Node) -> None:
        builder = self.importing.builder
        if self.inside is None:
            builder.span = self.spans.of(node)
            builder.scope = scope(node)
        try:
            before = builder.graph._last
            self.env[node] = result = self._call(node)
        except (Unsupported, Diagnostic) as error:
            if isinstance(error, Diagnostic) and self.inside is None:
                error.span = error.span or builder.span
                error.notes.append(Note(f"while importing `{node.target}`", builder.span))
                raise
            # Where torch's rule for an op fixed a size that is free, the op as a whole is refused.
            self.refusals.add(f"`{(self.inside or node).target}` ({getattr(error, 'message', error)})", builder.span)
            self.env[node] = _MISSING
            return
        if result is _MISSING:
            return
        if isinstance(result, Value):
            self.importing.known.sizes.update(result.type.shape)
        # A name for the reader: torch's own, on the last node that the op made.
        if isinstance(result, Value) and not result.name and builder.graph._last is not before:
            result.name = re.sub(r"_default|_tensor", "", node.name)

    def _call(self, node: torch.fx.Node) -> Any:
        target: Any = node.target
        known = self.importing.known
        if node.op == "get_attr":
            return self._attribute(node)
        args = [self._operand(a) for a in node.args]
        if any(_holds_missing(a) for a in args):
            return _MISSING
        if target is operator.getitem:
            found = args[0][args[1]]
            if found is None:
                raise Unsupported("a result that only training needs")
            return found() if callable(found) else found
        if target in _SIZE_OPS:
            last = args[-1] if target is operator.pow else as_dim(args[-1])
            return _integer(known.size(_SIZE_OPS[target](*map(as_dim, args[:-1]), last)))
        if isinstance(target, torch._ops.OpOverload):
            if target.namespace == "aten" and aten_name(target) == "sym_size.int":
                return _integer(args[0].type.shape[args[1]])
            name = aten_name(target)
            if name not in ATEN and name not in COMPLEX:
                return self._taken_apart(node)
            operands = tuple(self._complete(node, target))
            if any(map(_holds_missing, operands)):
                return _MISSING
            with_pairs = any(map(_holds_complex, operands))
            importer = (COMPLEX if with_pairs else ATEN).get(name)
            if importer is None:
                if not with_pairs:
                    return self._taken_apart(node)
                raise Unsupported("complex numbers")
            # Models make the same positions and masks in every layer: once is enough.
            key = (target, _key(operands))
            if key not in self.made:
                self.made[key] = importer(self.importing, *operands)
            return self.made[key]
        if is_region(node):
            return self._region(node)
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            return _integer(known.size(self.symbols.dim(value)))
        if target in (math.ceil, math.floor, round) or isinstance(value, (torch.SymFloat, torch.SymBool, float, bool)):
            raise Unsupported("arithmetic of a size that is no integer")
        self.refusals.add(f"`{getattr(target, '__name__', target)}`", self.importing.builder.span)
        return _MISSING

    def _region(self, node: torch.fx.Node) -> Any:
        """The results of a part of the program."""
        return self._graph(body_of(node).graph, [self._operand(v) for v in node.args[2:]])

    def _graph(self, graph: torch.fx.Graph, operands: Iterable[Any]) -> Any:
        given = iter(operands)
        live = live_nodes(graph)
        for inner in graph.nodes:
            if inner.op == "placeholder":
                self.env[inner] = next(given)
            elif inner.op == "output":
                return self._operand(inner.args[0])
            elif inner in live:
                self._node(inner)
        raise AssertionError("a graph ends with its output")

    def _taken_apart(self, node: torch.fx.Node) -> Any:
        """The results of an op that has no importer, by the ops that torch makes of it."""
        found = self.apart.graph(node)
        inside = self.inside
        if found is None or inside is not None:
            what = f"`{node.target}`" if inside is None else f"`{inside.target}` (of which `{node.target}` is a part)"
            self.refusals.add(what, self.importing.builder.span)
            return _MISSING
        operands = [self.env[n] for n in found[1]]
        if any(map(_holds_missing, operands)):
            return _MISSING
        self.inside = node
        try:
            return self._graph(found[0].graph, operands)
        finally:
            self.inside = None

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
            return ComplexOf(dtype_of(value.to_real(), "an operand")) if value.is_complex else dtype_of(value, "an operand")
        if isinstance(value, (torch.device, torch.layout, torch.memory_format)):
            return None
        return value

    def _attribute(self, node: torch.fx.Node) -> Any:
        value: Any = node.graph.owning_module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if isinstance(value, torch.fx.GraphModule):
            return None  # what calls it looks at it
        if not isinstance(value, torch.Tensor):
            raise Unsupported("a region of code")
        inline = lift_inline(value)
        if inline is not None:
            return self.importing.op("constant", value=inline, dtype=dtype_of_tensor(value, node.name))
        name = unique(node.name, set(self.graph.params))
        return self._held(name, value, False)

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
            if isinstance(self.env[node], Complex):
                help = "return its parts: `torch.view_as_real(y)`"
                raise Diagnostic("E0783", f"the output `{name}` is complex", help=help)
            own = unique(identifier(name), taken)
            given = (info.public for info in self.graph.output_info)
            self.graph.add_output(self.env[node], own, outside=outside(name, own, given))
        if not self.graph.output_info:
            raise Diagnostic("E0783", "the program returns no tensor")

    def _requires(self) -> None:
        for symbol, bounds in self.program.range_constraints.items():
            if symbol not in self.symbols.names:
                continue
            name = self.symbols.names[symbol]
            size = self.symbols.values.get(name, as_dim(name))
            # torch.export starts at 2 because it treats 0 and 1 by themselves; sizes here are free from 1.
            if bounds.lower.is_Integer and bounds.lower > 2:
                self._require(size, ">=", int(bounds.lower), name)
            if bounds.upper.is_Integer and bounds.upper < 2**31:
                self._require(size, "<=", int(bounds.upper), name)
        for left, op, right in self.importing.known.needs():
            if not prove_ge(*((left, right) if op == ">=" else (right, left)), self.importing.known.facts):
                self.graph.requires.append(Require(left, op, right, "the model was exported for such sizes"))

    def _require(self, size: Dim, op: str, bound: int, name: str) -> None:
        relation = "at least" if op == ">=" else "at most"
        self.graph.requires.append(Require(size, op, as_dim(bound), f"{name} was exported for {relation} {bound}"))


def _key(value: Any) -> Any:
    """Equal for operands that are the same: tensors by identity, numbers by their kind too."""
    if isinstance(value, tuple):
        return tuple(map(_key, value))
    if isinstance(value, Complex):
        return id(value.re), id(value.im)
    return id(value) if isinstance(value, Value) else (type(value), repr(value))


def _holds_missing(value: Any) -> bool:
    return value is _MISSING or (isinstance(value, tuple) and any(map(_holds_missing, value)))


def _holds_complex(value: Any) -> bool:
    return isinstance(value, (Complex, ComplexOf, complex)) or (isinstance(value, tuple) and any(map(_holds_complex, value)))


def _integer(dim: Dim) -> int | Dim:
    return dim if dim.value is None else dim.value
