"""From syntax trees to IR: declarations become signatures and composites, a model becomes a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ....ir.analysis.vocabularies import check_vocabularies
from ....ir.builder import Builder
from ....ir.diagnostics import Diagnostic, Note, Span, did_you_mean, several
from ....ir.dims.dim import Dim, const, sym
from ....ir.graph import Graph, Module, Node, Value
from ....ir.keys import attrs_key
from ....ir.op import Attrs, Composite, FuncRef
from ....ir.ops import OPS
from ....ir.signature import REQUIRED, Bindings, RecordPattern, Signature
from ....ir.tokenizer import Tokenizer
from ....ir.types import DTYPES, DType, TensorType
from ..syntax import ast
from .blame import blame_call
from .bodies import Bodies
from .builtin import STATIC_FUNCTIONS
from .calls import Calls
from .cycles import check_acyclic
from .evaluate import size_of
from .frame import Frame
from .gather import gather
from .given import given_value
from .inputs import check_outside, declared_outputs, finish_states, outside_name
from .library import Declared, Library, Unit
from .results import check_results
from .signatures import Signatures
from .turned import check_turned
from .values import BuiltinValue, Bundle, DeclValue, OpValue, Partial
from .vocabularies import vocabulary


class Elaborator:
    """Elaborates what one :class:`Library` holds. ``dtype`` is what ``float`` means in a model's signature."""

    frames: type[Frame] = Frame

    def __init__(self, library: Library, dtype: DType = DTYPES["f32"]) -> None:
        self.library = library
        self.dtype = dtype
        self.signatures = Signatures(self)
        self.calls = Calls(self)
        self.bodies = Bodies()
        self.called: set[int] = set()
        # Keys that were put into records that say that they are turned, and where.
        self.turned: dict[Value, Span | None] = {}
        self._composites: dict[int, Composite] = {}
        self._by_node: dict[int, Declared] = {}
        self._declared: dict[str, Declared] = {}
        self._consts: dict[int, Any] = {}
        self._tokenizers: dict[int, Tokenizer] = {}
        self._bodies: dict[tuple[Any, ...], Graph] = {}
        self._record_statics: dict[Graph, list[dict[str, Any]]] = {}
        self._acyclic: set[int] = set()
        self._computing: list[int] = []
        # The file of the program, from whose folder files are named.
        self.main: Unit | None = None

    # Names -------------------------------------------------------------------------------------------------------

    def const(self, declared: Declared) -> Any:
        """The value of a ``const``. Raises E0503 when it is defined by itself."""
        node = declared.node
        assert isinstance(node, ast.Const)
        if id(node) not in self._consts:
            if id(node) in self._computing:
                raise Diagnostic("E0503", f"the constant `{node.name}` is defined by itself", node.span)
            self._computing.append(id(node))
            try:
                self._consts[id(node)] = self.static(declared.unit, node.value, {})
            finally:
                self._computing.pop()
        return self._consts[id(node)]

    def tokenizer(self, declared: Declared) -> Tokenizer:
        """What a ``tokenizer`` describes, together with its file. Raises Diagnostic for what is wrong with it."""
        if id(declared.node) not in self._tokenizers:
            from .tokenizers import elaborate_tokenizer

            self._tokenizers[id(declared.node)] = elaborate_tokenizer(self, declared)
        return self._tokenizers[id(declared.node)]

    @property
    def folder(self) -> Path:
        """The folder from which a program names files."""
        return Path(self.main.path).parent if self.main is not None else Path()

    def folder_of(self, file: str, span: Span | None) -> str:
        """Where a file that a table is made of is looked for. Raises E0005 where that leaves the project."""
        root = self.main.root if self.main is not None else None
        if root is not None and not (self.folder / file).resolve().is_relative_to(root.resolve()):
            raise Diagnostic(
                "E0005", f'`"{file}"` is outside of the project', span,
                help="a program may only read files in the folder of its main file, or below it",
            )  # fmt: skip
        return str(self.folder)

    def static(self, unit: Unit, expr: ast.Expr, env: dict[str, Any]) -> Any:
        """Evaluate a static expression."""
        return self.frames(self, unit, env).eval(expr)

    def attribute(self, value: Any) -> Any:
        """A static value as a node's attribute: functions become references."""
        if isinstance(value, tuple):
            return tuple(map(self.attribute, value))
        if isinstance(value, DeclValue):
            self.register(value.declared)
            return value.ref
        if isinstance(value, OpValue):
            return FuncRef("", value.op.name)
        if isinstance(value, BuiltinValue):
            return FuncRef("", value.name)
        if isinstance(value, Partial):
            return replace(self.attribute(value.function), given=value.given)
        return value

    def register(self, declared: Declared) -> None:
        """Note a declaration by its qualified name. Raises E0204 when two of a program's own files share one."""
        other = self._declared.setdefault(declared.qualified, declared)
        if other.node is not declared.node:
            raise Diagnostic(
                "E0204", f"two files of this program declare `{declared.node.name}`", declared.node.span,
                notes=[Note("the other one is here", other.node.span)], help="give one of them another name",
            )  # fmt: skip

    def registered(self, module: str, name: str) -> Declared | None:
        """What goes by that name: an op, a record, or a function that was passed as a value."""
        return self._declared.get(f"{module}.{name}")

    def function_value(self, ref: FuncRef, span: Span | None) -> Any:
        """The function that a reference names."""
        if ref.given:
            return Partial(self.function_value(replace(ref, given=()), span), ref.given)
        if not ref.module:
            return OpValue(OPS[ref.name]) if ref.name not in STATIC_FUNCTIONS else BuiltinValue(ref.name)
        found = self.registered(ref.module, ref.name)
        if found is None:
            unit = self.library.std(ref.module, span)
            found = unit.names.get(ref.name)
            if found is None:
                raise Diagnostic("E0202", f"`{ref.module}` declares no `{ref.name}`", span)
        return DeclValue(found)

    def where_declared(self, name: str) -> str | None:
        """A help line for a name that some shipped module declares."""
        module = self.library.declaring(name)
        return f"did you forget `use {module} ({name})`?" if module else None

    def check_cycles(self, declared: Declared) -> None:
        """Raises E0503 when a function calls itself, directly or not."""
        check_acyclic(declared, self._acyclic)

    # Composites --------------------------------------------------------------------------------------------------

    def composite(self, declared: Declared) -> Composite:
        """The composite of an ``op`` declaration; one object for one declaration. Operands of a ``fn`` may broadcast."""
        node = declared.node
        assert isinstance(node, ast.Function)
        found = self._composites.get(id(node))
        if found is None:
            self.register(declared)
            signature = self.signatures.of(declared)

            def instantiate(types: Sequence[TensorType | None], attrs: Attrs) -> Graph:
                return self.body(declared, types, attrs)

            def facts(body: Graph) -> list[Attrs]:
                # Looked up when it is asked: an editor leaves out what was edited, and keeps composites.
                return self._record_statics[body]

            found = Composite(signature, declared.unit.module, node.doc or "", node, instantiate, record_statics=facts)
            self._composites[id(node)] = found
            self._by_node[id(node)] = declared
        return found

    def body(self, declared: Declared, types: Sequence[TensorType | None], attrs: Attrs) -> Graph:
        """The body of an op for given operand types: cached and shared, so not to be changed."""
        node = declared.node
        assert isinstance(node, ast.Function)
        key = (id(node), tuple(types), attrs_key(attrs))
        found = self._bodies.get(key)
        if found is None:
            self.check_cycles(declared)
            found = self._bodies[key] = self._body(declared, node, types, dict(attrs))
        return found

    def _body(self, declared: Declared, node: ast.Function, types: Sequence[TensorType | None], attrs: Attrs) -> Graph:
        signature = self.signatures.of(declared)
        bound = signature.unify(types, attrs, packs="broadcast" if node.kind == "fn" else "same")
        graph = Graph(node.name)
        builder = Builder(graph)
        operands: list[Value | None] = []
        for (name, _, _), type in zip(signature.leaves(), types, strict=True):
            operands.append(None if type is None else builder.input(name.replace(".", "_"), type))
        env = self.calls.body_environment(signature, bound, operands)
        frame = self.frames(self, declared.unit, env, builder=builder, dtypes=dict(bound.dtypes), kind="op", bound=bound)
        frame.block(node.body)
        if graph.params:
            owned = next(iter(graph.params.values()))
            raise Diagnostic(
                "E0506", f"the op `{node.name}` would own the weight `{owned.full_name}`", owned.span,
                help="an op owns no weights: pass it a function without, or make it a `layer`",
            )  # fmt: skip
        statics = []
        for value in check_results(self, declared, signature, bound, frame):
            if isinstance(value, Bundle):
                statics.append(value.statics)
                for field, tensor in value.fields.items():
                    graph.add_output(tensor, field)
            else:
                graph.add_output(value, f"output{len(graph.output_info)}")
        self._record_statics[graph] = statics
        return graph

    def record_statics(self, composite: Composite, node: Node) -> list[dict[str, Any]]:
        """Static fields of the records that a composite returns; only its body knows them."""
        if not any(isinstance(r.type, RecordPattern) and r.type.record.statics for r in composite.signature.results):
            return []
        try:
            body = composite.instantiate([None if v is None else v.type for v in node.inputs], node.attrs)
        except Diagnostic as error:
            blame_call(error, node.span, f"in the body of `{composite.name}`")
            raise
        return self._record_statics[body]

    # Models ------------------------------------------------------------------------------------------------------

    def model(
        self, unit: Unit, name: str, params: dict[str, Any], spans: Mapping[str, Span | None] | None = None
    ) -> Module:
        """Elaborate one model or program of a unit.

        Args:
            params: values for its static parameters.
            spans: where in the source a value stands, by parameter.

        Raises:
            Diagnostic: whatever is wrong with the program.
        """
        self.main = unit
        if name in unit.programs:
            from .programs import elaborate_program

            return elaborate_program(self, unit, unit.programs[name], params, spans or {})
        node = unit.models[name]
        graph = self.graph(Declared(unit, node), params, spans or {}, name)
        self.check_turned({name: graph})
        locals_, uses = gather(self, [graph], unit, name)
        return Module(name, graph, node.doc or "", locals_, uses, path=unit.path)

    def check_turned(self, graphs: Mapping[str, Graph]) -> None:
        """Raises E0508 for keys that are turned twice in functions that share states."""
        if self.registered("std.attention", "rope") is not None:
            check_turned(graphs, self.turned)

    def graph(
        self, declared: Declared, params: dict[str, Any], spans: Mapping[str, Span | None], name: str, scope: str = ""
    ) -> Graph:
        """A model with these static parameters as a graph called ``name``. Raises Diagnostic for what is wrong with it."""
        node = declared.node
        assert isinstance(node, ast.Function)
        self.register(declared)
        self.check_cycles(declared)
        self.called.add(id(node))
        signature = self.signatures.of(declared)
        graph = Graph(name)
        builder = Builder(graph)
        bound = self.given_statics(declared.unit, node, signature, params, spans)
        operands = self._model_inputs(declared.unit, node, signature, bound, builder)
        env = self.calls.body_environment(signature, bound, operands)
        frame = self.frames(
            self, declared.unit, env, builder=builder, scope=scope, dtypes=dict(bound.dtypes), kind="model",
            bound=bound,
        )  # fmt: skip
        frame.block(node.body)
        finish_states(frame)
        try:
            values = check_results(self, declared, signature, bound, frame)
        except Diagnostic as error:
            raise several([error, *self.bodies.wrong(graph)]) from None
        self._model_outputs(graph, node, signature, bound, values)
        check_outside(graph, node.name_span)
        check_vocabularies(graph)
        self.bodies.check(graph)
        return graph

    def given_statics(
        self, unit: Unit, node: ast.Function, signature: Signature, params: Mapping[str, Any],
        spans: Mapping[str, Span | None],
    ) -> Bindings:  # fmt: skip
        """The static parameters of a model or program: those given, and the defaults of the others.

        Raises:
            Diagnostic: E0403 for one that it does not have, E0401 for one that is missing, E0402 for a wrong value.
        """
        bound = Bindings(dtypes={"float": self.dtype, "int": DTYPES["i64"]})
        for key, value in params.items():
            static = signature.static(key)
            where = spans.get(key)
            if static is None:
                names = [s.name for s in signature.statics]
                raise Diagnostic(
                    "E0403", f"the {node.kind} `{node.name}` has no static parameter `{key}`", where or node.name_span,
                    help=did_you_mean(key, names) or f"its static parameters are {', '.join(names) or 'none'}",
                )  # fmt: skip
            meant = given_value(self, unit, static, value, where)
            bound.statics[key] = self.calls.static_value(static.kind, static.optional, meant, node.name, key, where)
            if isinstance(bound.statics[key], int) and not isinstance(bound.statics[key], bool):
                bound.dims[key] = const(bound.statics[key])
        for static in signature.statics:
            if static.name in bound.statics:
                continue
            if static.default is REQUIRED:
                raise Diagnostic(
                    "E0401", f"the {node.kind} `{node.name}` needs `{static.name}: {static.kind}`", node.name_span,
                    help=f"give it a default, or pass `-p {static.name}=…`",
                )  # fmt: skip
            value = static.default(bound) if callable(static.default) else static.default
            bound.statics[static.name] = value
            if isinstance(value, int) and not isinstance(value, bool):
                bound.dims[static.name] = const(value)
        return bound

    def _model_inputs(
        self, unit: Unit, node: ast.Function, signature: Signature, bound: Bindings, builder: Builder
    ) -> list[Value | None]:
        operands: list[Value | None] = []
        for operand, param in zip(signature.operands, node.params, strict=True):
            if operand.optional:
                raise Diagnostic(
                    "E0310", f"the input `{operand.name}` of a model cannot be optional: it would never be given", param.span,
                    help=f"leave `?` out, or choose while compiling: `*, with_{operand.name}: bool = false`",
                )  # fmt: skip
            for leaf, pattern in operand.leaves():
                if ... in pattern.shape:
                    raise Diagnostic(
                        "E0310", f"the input `{leaf}` of a model needs all its axes, not `...`", param.span
                    )
                dtype = (
                    pattern.dtype if isinstance(pattern.dtype, DType) else bound.dtypes.get(pattern.dtype, self.dtype)
                )
                dims = [d for d in pattern.shape if isinstance(d, Dim)]
                for dim in dims:
                    for name in dim.symbols - bound.dims.keys():
                        bound.dims[name] = sym(name)
                shape = tuple(size_of(d.subs(bound.dims), param.span) for d in dims)
                name = leaf.replace(".", "_")
                outside = outside_name(name, param.external, leaf.partition(".")[2])
                made = builder.input(name, TensorType(dtype, shape), span=param.span, outside=outside)
                made.vocabulary = vocabulary(self, unit, param.type, bound)
                operands.append(made)
        bound.given = frozenset(o.name for o in signature.operands if not o.optional)
        bound.dims.update((name, derive(bound)) for name, derive in signature.derived)
        return operands

    @staticmethod
    def _model_outputs(
        graph: Graph, node: ast.Function, signature: Signature, bound: Bindings, values: list[Any]
    ) -> None:
        taken = {o.name for o in graph.output_info}
        extra = declared_outputs(graph)
        rows = []
        external = {r.name: r.external for r in node.results}
        for i, (result, value) in enumerate(zip(signature.present(bound), values, strict=True)):
            name = result.name or ("output" if len(values) == 1 else f"output{i}")
            given = external.get(result.name) if result.name else None
            if isinstance(value, Bundle):
                for field, tensor in value.fields.items():
                    rows.append((tensor, f"{name}_{field}", outside_name(f"{name}_{field}", given, field)))
            else:
                rows.append((value, name, outside_name(name, given)))
        for _, name, _ in rows:
            if name in taken:
                raise Diagnostic(
                    "E0204", f"`{name}` is the name of two outputs", node.name_span,
                    help="states, taps and results are all outputs: give one of them another name",
                )  # fmt: skip
            taken.add(name)
        graph.set_outputs((), ())
        for value, name, outside in rows:
            graph.add_output(value, name, outside=outside)
        for value, info in extra:
            graph.add_output(value, info.name, info.role, info.outside)
