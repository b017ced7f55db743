"""From a parsed file to a graph: node by node through the tables, sizes computed on the way, functions inlined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ...ir.diagnostics import Diagnostic, Note, did_you_mean
from ...ir.dims.dim import Dim, const, prove_ge, sym
from ...ir.dims.monomials import DimCall
from ...ir.dims.ratio import Ratio, Unfoldable
from ...ir.graph import Graph, Module, Require, Value
from ...ir.op import Composite
from ...ir.types import TensorType, f32, i64
from ..counted import Counts, Uncountable, within_capacity
from . import narrow, older, ops  # noqa: F401  # `ops` fills the tables
from .advice import advice
from .call import Call, where
from .dims import parse_dim
from .equal import Unify, choose, solve
from .groups import grouped
from .limits import check_numbers
from .names import Names, outside
from .order import ordered
from .reader import File, domain
from .registry import CONTROL, FOLDS, IMPORTS, Result
from .scope import Frame, Scope
from .tensors import Weight, dtype_of
from .values import Region, Tensor, known_tensor, settle, weight_tensor

# Functions that call functions multiply: so many nodes may come from them, and as many again as the graph has.
_MOST_INLINED = 50_000
_DEEPEST = 128
_MOST_SYMBOLS = 1000
_DEEPEST_LOOPS = 8
_OWN_CODES = frozenset(f"E{n:04}" for n in range(751, 780))
# The opset from which on an op has the form that is read here; of those that opsets from 7 on have.
_CHANGED = {
    "BatchNormalization": 9, "Hardmax": 13, "Resize": 11, "Scan": 9, "Upsample": 99,
}  # fmt: skip
# Ops that only move the elements of their first operand, or convert them without loss where they are equal.
_MOVES = frozenset({"Expand", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "GatherElements", "Tile"})
# What a node with nonsense for attributes or inputs makes its importer function raise.
_NONSENSE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


class Importer:
    """One import of a file. ``values`` for symbols and arguments for ``extrema`` are what earlier attempts or the caller found."""

    def __init__(
        self, file: File, name: str, values: Mapping[str, Dim], extrema: Mapping[DimCall, Dim] | None = None,
        capacity: int | None = None,
    ) -> None:  # fmt: skip
        self.file = file
        self.values = dict(values)
        # Which argument stands for a `min` or `max` of sizes.
        self.extrema = dict(extrema or {})
        self.names = Names()
        self.weights: dict[str, Weight] = {}
        self.graph = Graph(self.names.fresh(name, "model"))
        # Weights whose axes `affine` wants the other way round.
        self.turned: dict[Weight, Tensor] = {}
        # Weights as one, by what they were.
        self.stacks: dict[tuple[Weight, ...], Weight] = {}
        self.composites: dict[str, Composite] = {}
        # Calls of composites whose bodies were found to fit.
        self.checked: set[Any] = set()
        self.notes: list[str] = []
        self.counts = Counts(capacity)
        self.symbols: dict[str, int] = {}
        # What an earlier attempt put for a size that must be a multiple: how many times its divisor goes into it.
        for quotient in dict.fromkeys(s for d in values.values() for s in d.symbols if s not in values):
            if quotient.rpartition("_")[0] in values:
                self.symbols[self.names.fresh(quotient, "size")] = -1 - len(self.symbols)
        self.raw_symbols: dict[str, str] = {}
        self.count = 0
        self.most = _MOST_INLINED + 2 * file.nodes
        self.nesting = 0
        self.root = Scope(Region(self.graph, self.names, self.weights))

    # The whole -----------------------------------------------------------------------------------------------------

    def module(self) -> Module:
        """Import the graph. Raises Unify to be started again with sizes put for symbols, else Diagnostic."""
        graph = self.file.graph
        if not graph.output:
            raise Diagnostic("E0754", "the graph has no outputs")
        if graph.sparse_initializer:
            raise Diagnostic("E0757", "sparse initializers are not imported")
        self._initializers(graph)
        self._inputs(graph)
        wanted = [value.name for value in graph.output]
        # What is given back as it came keeps the name of the input.
        called = {v.public: v.name for v in self.graph.inputs}
        nodes = grouped(ordered(graph.node, wanted, set(self.root.names)), wanted)
        self._check_ops(nodes)
        self.run(Frame(self.root, iter(nodes), lambda: None))
        for name in wanted:
            value = self.root.region.value(narrow.whole(self._found(name, self.root, "the graph's output"), name))
            own = called.get(name) or self.names.fresh(name, "output")
            self.graph.add_output(value, own, outside=outside(name, own, (i.public for i in self.graph.output_info)))
        try:
            self.notes += within_capacity(self.graph, self.counts)
        except Uncountable as error:
            raise Diagnostic("E0761", f"a number of rows depends on the values of tensors: {error}") from error
        self._clean()
        check_numbers(self.graph)
        return Module(self.graph.name, self.graph)

    def _initializers(self, graph: Any) -> None:
        for i, proto in enumerate(graph.initializer):
            if proto.name in self.root.names:
                raise Diagnostic("E0754", f"two initializers are called `{proto.name[:200]}`")
            weight = self.file.store.weight(proto, self.file.extents[i])
            self.root.names[proto.name] = weight_tensor(weight)

    def _inputs(self, graph: Any) -> None:
        given = [value for value in graph.input if value.name not in self.root.names]
        names = [value.name for value in given]
        if len(set(names)) != len(names):
            raise Diagnostic("E0754", "two inputs of the graph have one name")
        fresh = self.names.each(names, "input")
        for value, name in zip(given, fresh, strict=True):
            shape = self._input_shape(value, name)
            dtype = dtype_of(value.type.tensor_type.elem_type, f"the input `{value.name}`")
            made = self.root.region.builder.input(name, TensorType(dtype, shape), outside=outside(value.name, name))
            self.root.names[value.name] = Tensor(made.type, value=made, region=self.root.region)
        unknown = [s for s in self.values if s not in self.symbols and not any(s in d.symbols for d in self.values.values())]
        for symbol in unknown:
            help = did_you_mean(symbol, self.symbols) or f"there is {', '.join(self.symbols) or 'none'}"
            raise Diagnostic("E0759", f"no input has a free size `{symbol}`", help=help)

    def _input_shape(self, value: Any, name: str) -> tuple[Dim, ...]:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type" or not value.type.tensor_type.HasField("shape"):
            what = "no known number of axes" if kind == "tensor_type" else f"the type {kind or 'of nothing'}"
            raise Diagnostic("E0757", f"the input `{value.name[:200]}` has {what}, but must be a tensor with a shape")
        shape: list[Dim] = []
        for axis, entry in enumerate(value.type.tensor_type.shape.dim):
            if entry.WhichOneof("value") == "dim_value" and entry.dim_value >= 0:
                shape.append(const(entry.dim_value))
                continue
            param = entry.dim_param if entry.WhichOneof("value") == "dim_param" else ""
            parsed = parse_dim(param, self._symbol) if param.strip() else None
            shape.append(self._symbol(param.strip() or f"{name}_{axis}") if parsed is None else parsed)
        for _ in range(len(self.values) + 1):
            before, shape = shape, [d.subs(self.values) for d in shape]
            if shape == before:
                break
        return tuple(shape)

    def _symbol(self, raw: str) -> Dim:
        if raw not in self.raw_symbols:
            if len(self.symbols) >= _MOST_SYMBOLS:
                raise Diagnostic("E0762", f"the inputs have more than {_MOST_SYMBOLS} free sizes")
            name = self.names.fresh(raw, "size")
            self.raw_symbols[raw] = name
            self.symbols[name] = len(self.symbols)
        return sym(self.raw_symbols[raw])

    def _check_ops(self, nodes: Iterable[Any]) -> None:
        """Refuse all unknown ops at once."""
        self._check_age(nodes)
        unknown: dict[str, tuple[int, str]] = {}
        seen: set[Any] = set()
        pending = list(nodes)[::-1]
        while pending:
            node = pending.pop()
            key = (domain(node.domain), node.op_type)
            function = self.file.functions.get((*key, node.overload))
            if key in IMPORTS or key in CONTROL:
                continue
            if function is None:
                shown = f"{key[0]}.{key[1]}" if key[0] else key[1]
                count, first = unknown.get(shown, (0, node.name or (node.output[0] if node.output else "")))
                unknown[shown] = count + 1, first
            elif (*key, node.overload) not in seen:
                seen.add((*key, node.overload))
                pending += reversed(function.node)
        if unknown:
            notes = [
                Note(f"{name[:200]}: {count} node{'s' if count > 1 else ''}, the first is `{first[:200]}`")
                for name, (count, first) in sorted(unknown.items())
            ]
            total = sum(count for count, _ in unknown.values())
            names = ", ".join(name[:100] for name in sorted(unknown))
            message = f"{total} node(s) have ops that are not imported: {names}"
            raise Diagnostic("E0752", message, notes=notes, help=advice(unknown))

    def _check_age(self, nodes: Iterable[Any]) -> None:
        """Refuse what had another meaning in an opset as old as the file's."""
        older = {n.op_type for n in nodes if domain(n.domain) == "" and self.file.opset < _CHANGED.get(n.op_type, 0)}
        if older:
            raise Diagnostic(
                "E0753", f"in opset {self.file.opset}, {', '.join(sorted(older))} had another form than now",
                help="convert it: `onnx.version_converter.convert_version(onnx.load(path), 17)`",
            )  # fmt: skip

    def _clean(self) -> None:
        """Take out what turned out not to be needed."""
        for node in self.graph.reversed_nodes():
            if not any(value.uses for value in node.outputs):
                self.graph.remove(node)
        for name, param in list(self.graph.params.items()):
            if not param.uses:
                del self.graph.params[name]
                del self.weights[name]

    # Node by node --------------------------------------------------------------------------------------------------

    def run(self, frame: Frame) -> None:
        """Import the nodes of a frame, and those of the functions and branches they enter."""
        stack = [frame]
        while stack:
            top = stack[-1]
            node = next(top.nodes, None)
            if node is None:
                stack.pop()
                top.finish()
                continue
            self.count += 1
            if self.count > self.most or len(stack) > _DEEPEST:
                raise Diagnostic("E0762", f"{where(node)}: functions and branches within others without end")
            entered = self._step(node, top.scope)
            if entered is not None:
                stack.append(entered)

    def _step(self, node: Any, scope: Scope) -> Frame | None:
        key = (domain(node.domain), node.op_type)
        inputs = [self._found(name, scope, where(node)) if name else None for name in node.input]
        if key in CONTROL:
            return self._control(node, inputs, scope)
        function = IMPORTS.get(key)
        if function is None:
            return self._function(node, inputs, scope)
        call = Call(self, node, inputs, scope)
        call.inputs = inputs = older.operands(call)
        with _naming(node):
            moved = narrow.of_operands(call)
            folded = self._fold(call, key)
            results = function(call) if folded is None else folded
            if moved:
                results = narrow.marked(results, moved, scope.region)
            if call.op_type in _MOVES and inputs and inputs[0] is not None and inputs[0].fill is not None:
                results = _filled(results, inputs[0].fill)
        self.assign(node, scope, results)
        return None

    def _found(self, name: str, scope: Scope, reader: str) -> Tensor:
        found = scope.find(name)
        if found is None:
            message = f"{reader} reads `{name[:200]}`, which no node, input or initializer is called"
            raise Diagnostic("E0754", message, help="an initializer may have been lost: export the model again")
        return found

    def _fold(self, call: Call, key: tuple[str, str]) -> Sequence[Tensor] | None:
        """Compute on known numbers, where all operands are known; a weight of one element beside computed ones is."""
        fold = FOLDS.get(key)
        if fold is None:
            return None
        given = [t for t in call.inputs if t is not None]
        computed = any(t.known is not None and t.weight is None for t in given)
        if not all(t.known is not None or (computed and t.weight is not None and t.weight.size == 1) for t in given):
            return None
        try:
            results = fold(call, *(call.known(i) for i in range(len(call.inputs))))
        except Unfoldable:
            return None
        rows = results if isinstance(results, (list, tuple)) else [results]
        return [_known(row, call) for row in rows]

    def assign(self, node: Any, scope: Scope, results: Result | Sequence[Result | None]) -> None:
        """Give a node's results their names."""
        rows: Sequence[Result | None] = [results] if isinstance(results, (Value, Tensor)) else results
        for name, result in zip(node.output, rows, strict=False):
            if name and result is not None:
                if isinstance(result, Value):
                    result = Tensor(result.type, value=result, region=scope.region)
                scope.names[name] = result
        for i, name in enumerate(node.output):
            if name and (i >= len(rows) or rows[i] is None):
                # Absent only until somebody reads it: exporters name results that nobody wants.
                scope.names.pop(name, None)

    def _function(self, node: Any, inputs: list[Tensor | None], scope: Scope) -> Frame:
        function = self.file.functions.get((domain(node.domain), node.op_type, node.overload))
        if function is None:
            self._check_ops([node])
        assert function is not None
        bound = {a.name: a for a in function.attribute_proto}
        for attribute in node.attribute:
            given = scope.resolve(attribute)
            if given is not None:
                bound[attribute.name] = given
        inner = Scope(scope.region, None, bound=bound)
        for name, tensor in zip(function.input, inputs, strict=False):
            if tensor is not None:
                inner.names[name] = tensor
        return self.enter(function, inner, node, scope)

    def enter(self, body: Any, inner: Scope, node: Any, scope: Scope) -> Frame:
        """The nodes of a function or of a branch, whose results become those of ``node``."""
        is_function = not hasattr(body, "initializer")
        wanted = list(body.output) if is_function else [value.name for value in body.output]
        if not is_function:
            self.local_initializers(body, inner)
        nodes = grouped(ordered(body.node, wanted, set(inner.names)), wanted)
        self._check_ops(nodes)

        def finish() -> None:
            self.assign(node, scope, [self._found(name, inner, where(node)) if name else None for name in wanted])

        return Frame(inner, iter(nodes), finish)

    def nested(self, body: Any, inner: Scope, node: Any) -> None:
        """Import a loop's body; its results stay in ``inner``."""
        if self.nesting >= _DEEPEST_LOOPS:
            raise Diagnostic("E0762", f"{where(node)}: loops within {self.nesting} loops")
        self.nesting += 1
        self.local_initializers(body, inner)
        wanted = [value.name for value in body.output]
        nodes = grouped(ordered(body.node, wanted, set(inner.names)), wanted)
        self._check_ops(nodes)
        self.run(Frame(inner, iter(nodes), lambda: None))
        self.nesting -= 1

    def local_initializers(self, graph: Any, scope: Scope) -> None:
        """The initializers of a subgraph."""
        for proto in graph.initializer:
            scope.names[proto.name] = weight_tensor(self.file.store.weight(proto))

    def _control(self, node: Any, inputs: list[Tensor | None], scope: Scope) -> Frame | None:
        call = Call(self, node, inputs, scope)
        narrow.of_operands(call)
        with _naming(node):
            return CONTROL[(domain(node.domain), node.op_type)](call)

    # Sizes ---------------------------------------------------------------------------------------------------------

    def extremum(self, dim: Dim) -> Dim:
        """A ``min`` or ``max`` of sizes, or the argument that an earlier attempt found it must be, which is required."""
        call = dim.atom
        chosen = self.extrema.get(call) if isinstance(call, DimCall) else None
        if chosen is None or not isinstance(call, DimCall):
            return dim
        for other in call.args:
            self.require(chosen, ">=" if call.fn == "max" else "<=", other)
        return chosen

    def require(self, left: Dim, op: str, right: Dim) -> None:
        """Check ``left op right`` (``>=`` or ``<=``) when the model runs, where it is not proved."""
        proved = prove_ge(left, right) if op == ">=" else prove_ge(right, left)
        need = Require(left, op, right, "the exported model needs this of its sizes")
        if not proved and need not in self.graph.requires:
            self.graph.requires.append(need)

    def differ(self, left: Dim, right: Dim, where: str) -> None:
        """Check that two sizes differ when the model runs, and say so."""
        if self.counts.of(left) or self.counts.of(right):
            raise Diagnostic("E0761", f"{where}: what is done depends on a number of rows, and that on the values of tensors")
        need = Require(left, "!=", right, "the exported model was decided for other sizes")
        if need not in self.graph.requires:
            self.graph.requires.append(need)
            self.notes.append(f"{left} is taken not to be {right}: {where}")

    def unify(self, a: Dim, b: Dim, reason: str) -> None:
        """Start again with free sizes made equal. Raises Unify, or E0759 when they cannot be equal."""
        if self.counts.of(a) or self.counts.of(b):
            raise Diagnostic("E0761", f"{reason}: a number of rows that depends on values must be another size")
        chosen = choose(a, b)
        if chosen is not None:
            raise Unify(chosen, reason)
        values = solve(a, b, self.symbols)
        if values is None:
            raise Diagnostic(
                "E0759", f"{reason}: {a} and {b} must be equal",
                help="if sizes that are left free make it so, fix them: `load(path, sizes={…})`"
                if a.symbols | b.symbols else None,
            )  # fmt: skip
        raise Unify(values, reason)


def _filled(results: Result | Sequence[Result | None], fill: float | int | bool) -> list[Tensor]:
    """What an op that only moves elements makes of equal ones. The nodes it added are taken out in the end."""
    rows: Sequence[Result | None] = [results] if isinstance(results, (Value, Tensor)) else results
    return [Tensor(row.type, fill=fill, nonnegative=fill >= 0) for row in rows if row is not None]


def _known(result: Any, call: Call) -> Tensor:
    """What a fold returned as a tensor. Objects have the dtype of an operand of their kind."""
    import numpy as np

    if isinstance(result, Tensor):
        return result
    array = np.asarray(result)
    if array.dtype != object:
        return known_tensor(array)
    kind, default = ("float", f32) if any(isinstance(item, Ratio) for item in array.flat) else ("int", i64)
    dtypes = [t.type.dtype for t in call.inputs if t is not None and t.type.dtype.kind == kind]
    type = TensorType.of(dtypes[0] if dtypes else default, array.shape)
    return Tensor(type, known=settle(array, type))


@contextmanager
def _naming(node: Any) -> Iterator[None]:
    """Errors name the node. What nonsense in a file makes an importer function raise is the file's mistake."""
    try:
        yield
    except Diagnostic as error:
        if error.code in _OWN_CODES:
            raise
        raise Diagnostic("E0759", f"{where(node)}: {error.message}", notes=error.notes) from error
    except Unfoldable as error:
        raise Diagnostic("E0761", f"{where(node)}: a size is computed from others in a way that is no size") from error
    except _NONSENSE as error:
        message = f"{where(node)}: its inputs or attributes make no sense ({type(error).__name__}: {str(error)[:200]})"
        raise Diagnostic("E0759", message) from error
