"""Models built in Python, on the same elaborator and builder as source: what it makes prints as the same source.

    >>> import tessera as ts
    >>> with ts.model("tiny") as m:
    ...     x = m.input("x", "float[B, T, 64]")
    ...     m.output(ts.std.nn.linear(x, out=3, name="head"))
    >>> print(ts.source(m))                                                         # doctest: +SKIP
    use std.nn (linear) ...

Every operation is evaluated as the expression of the language that it stands for, so that types, broadcasting, literals
and messages are the language's. Errors point at the Python line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...ir.analysis.vocabularies import check_vocabularies
from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Span, did_you_mean
from ...ir.dims.dim import Dim, sym
from ...ir.graph import Graph, Module, Value
from ...ir.ops import OPS
from ...ir.signature import Bindings, Operand, Pattern
from ...ir.types import DTYPES, TensorType
from ..source.elaborate.builtin import BUILTIN, known
from ..source.elaborate.elaborate import Elaborator
from ..source.elaborate.frame import Frame
from ..source.elaborate.gather import gather
from ..source.elaborate.inputs import check_outside, declared_outputs, finish_states, outside_name
from ..source.elaborate.library import Unit
from ..source.elaborate.regions import Region
from ..source.elaborate.values import Bundle, DeclValue, Instance, Multi, OpValue, Partial, describe, holds_tensors
from ..source.elaborate.vocabularies import erased, vocabulary
from ..source.syntax import ast
from ..source.syntax.lexer import is_name
from ..source.syntax.parser import parse_expr, parse_type
from .callsite import call_site
from .handles import ACTIVE, Function, Namespace, Record, Tensor, core_ops, folder, library, use


class Model:
    """A model under construction; made by :func:`model`, used as a context manager.

    Types are texts of the language, ``"float[B, T, 64]"``. A declaration that does not fit raises Diagnostic: E0016 for a name
    that is taken or a model that is finished, E01xx for text that cannot be read, E02xx and E03xx for what it says.
    """

    def __init__(self, name: str, *, doc: str = "", dtype: str = "f32") -> None:
        span, _ = call_site()
        if not is_name(name):
            raise Diagnostic("E0016", f"`{name}` cannot be the name of a model", span)
        if dtype not in DTYPES or DTYPES[dtype].kind != "float":
            raise Diagnostic("E0016", f"`float` cannot stand for {dtype!r}", span, help="one of f32, f16, bf16, f64")
        self.name = name
        self.doc = doc
        self._graph = Graph(name)
        self._elaborator = Elaborator(library(), DTYPES[dtype])
        file = span.file if span is not None else "<python>"
        self._unit = Unit(file, file, None, ast.File(file, [], []))
        self._bound = Bindings(dtypes={"float": DTYPES[dtype], "int": DTYPES["i64"]})
        self._frame = Frame(
            self._elaborator, self._unit, {}, builder=Builder(self._graph), dtypes=dict(self._bound.dtypes), kind="model",
            bound=self._bound,
        )  # fmt: skip
        self._results: list[tuple[Tensor | Record, str | None, str | None]] = []
        self._module: Module | None = None

    def __enter__(self) -> Model:
        ACTIVE.append(self)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        ACTIVE.remove(self)
        if kind is None:
            self._finish()

    @property
    def module(self) -> Module:
        """The finished program. Raises E0016 while the ``with`` block is still open."""
        if self._module is None:
            span, _ = call_site()
            raise Diagnostic(
                "E0016", f"the model `{self.name}` is not finished", span, help="leave its `with` block first"
            )
        return self._module

    # Declaring -------------------------------------------------------------------------------------------------------

    def input(self, name: str, type: str, *, external: str | None = None) -> Any:
        """Declare an input: ``m.input("x", "float[B, T, 64]")``. New dimension names are declared by being used.

        Args:
            external: what callers call it, where that is another name, such as one that is no identifier.

        Raises:
            Diagnostic: E0016 name taken or model finished, E0209, E0310 for the type.
        """
        frame, (span, _) = self._open(), call_site()
        self._fresh(name, span)
        type_ = parse_type(type)
        pattern = self._elaborator.signatures.pattern(self._unit, erased(self._unit, type_))
        builder = frame.root
        values: list[Value] = []
        for leaf, leaf_pattern in Operand(name, pattern).leaves():
            if any(d is ... for d in leaf_pattern.shape):
                raise Diagnostic("E0310", f"the input `{leaf}` of a model needs all its axes, not `...`", span)
            dims = [d for d in leaf_pattern.shape if d is not ...]
            for dim in dims:
                for symbol in dim.symbols - self._bound.dims.keys():
                    frame.env[symbol] = self._bound.dims[symbol] = sym(symbol)
            full = leaf.replace(".", "_")
            outside = outside_name(full, external, leaf.partition(".")[2])
            made = builder.input(full, frame.type(leaf_pattern, span), span=span, outside=outside)
            made.vocabulary = vocabulary(self._elaborator, self._unit, type_, self._bound)
            values.append(made)
        frame.env[name] = values[0]
        if isinstance(pattern, Pattern):
            return Tensor(self, values[0])
        fields = dict(zip((n for n, _ in pattern.record.fields), values, strict=True))
        return Record(self, Bundle(pattern.record, fields))

    def param(
        self, name: str, type: str, init: str = "zeros", *, external: str | None = None, trainable: bool = True
    ) -> Tensor:
        """Declare a weight: ``m.param("cls", "float[1, 1, 64]", "normal(0.02)")``.

        Args:
            name: what comes last in its full name, behind the names of the scopes around it.
            type: its dtype and shape; all axes are known.
            init: what fills it when no weights are given: ``zeros``, ``ones``, ``normal(std)``, ``uniform(low, high)``, ….
            external: its full name in files, where that is another.
            trainable: False makes it a buffer.
        """
        kind = "param" if trainable else "buffer"
        return self._declare(ast.ParamStmt(kind, name, parse_type(type), parse_expr(init), external), name)

    def state(self, name: str, type: str, init: str = "zeros", *, external: str | None = None) -> Any:
        """Declare a state: an input and an output of the artifact, ``init`` at the start. :meth:`update` sets its new value.

        A record's fields are an input and an output each. A size that nothing else has is a capacity, which the runtime chooses.
        """
        return self._declare(ast.StateStmt(name, parse_type(type), parse_expr(init), external), name)

    def update(self, name: str, value: Tensor | Record) -> None:
        """Set the new value of a state. Raises E0016 when there is none of that name."""
        frame, (span, _) = self._open(), call_site()
        if name not in frame.states:
            raise Diagnostic(
                "E0016", f"`{name}` is not a state of `{self.name}`", span, help=did_you_mean(name, frame.states)
            )
        frame.env[name] = self._unwrap(value, span)

    def random(self, name: str, type: str, distribution: str = "uniform(0, 1)") -> Tensor:
        """Declare a random input, which the runtime fills from a seed: ``uniform(low, high)``, ``normal(mean, std)``, ``gumbel``,
        ``bernoulli(p)`` or ``categorical(p0, p1)``."""
        return self._declare(ast.RandomStmt(name, parse_type(type), parse_expr(distribution)), name)

    def tap(self, name: str, value: Tensor) -> None:
        """Expose an inner value: an artifact returns it under this name beside the outputs."""
        self._statement(ast.TapStmt(name, ast.Name("value")), {"value": value})

    def let(self, name: str, value: str | int | Dim) -> int | Dim:
        """Name a dimension, so that types stay short: ``r = m.let("r", "min(8, T // 2)")``."""
        expr = parse_expr(value) if isinstance(value, str) else ast.Name("value")
        found: int | Dim = self._statement(
            ast.LetStmt(name, expr), {} if isinstance(value, str) else {"value": value}, name
        )
        return found

    def require(self, condition: str, message: str) -> None:
        """State what must hold of the sizes: ``m.require("T >= 4", "at least four tokens")``.

        Raises:
            Diagnostic: E0501 when it is known not to hold; what only run time knows is checked by the artifact, E0904.
        """
        self._statement(ast.RequireStmt(parse_expr(condition), message), {})

    def output(self, *values: Tensor | Record, name: str | None = None, external: str | None = None) -> None:
        """Declare results, in order. Without names one result is ``output``, several are ``output0``, ``output1``, ….

        Args:
            external: what callers call it, as of :meth:`input`.

        Raises:
            Diagnostic: E0016 for a value of another model, or several values with one name.
        """
        self._open()
        span, _ = call_site()
        if (name or external) is not None and len(values) != 1:
            raise Diagnostic("E0016", "one name cannot stand for several outputs", span, help="call `output` for each")
        for value in values:
            if not isinstance(value, (Tensor, Record)):
                help = f"name an output with `name=`: `m.output(y, name={value!r})`" if isinstance(value, str) else None
                raise Diagnostic("E0016", f"an output is a tensor or a record of the model, not {value!r}", span, help=help)
            self._unwrap(value, span)
            self._results.append((value, name, external))

    @contextmanager
    def scope(self, *parts: str | int) -> Iterator[None]:
        """Parameters within live under ``parts`` joined by dots: ``with m.scope("blocks", i):``."""
        frame = self._open()
        outer = frame.scope
        frame.scope = ".".join([*([outer] if outer else []), *map(str, parts)])
        try:
            yield
        finally:
            frame.scope = outer

    def fold(
        self, count: int | Dim, start: Sequence[Tensor], body: Callable[..., Any], *, stacked: int = 0
    ) -> tuple[Tensor, ...]:
        """A sequential loop: ``body(i, *carried)`` returns the next carried values; the result is the last ones.

        Args:
            stacked: how many more values the body returns, of which those of all steps stand side by side in the result.

        Raises:
            Diagnostic: E0016 when the body returns another number of values, E0308 when it changes their types.
        """
        outer, (span, names) = self._open(), call_site()
        assert outer.builder is not None
        starts = [outer.local(self._unwrap(value, span)) for value in start]
        if len(names) != len(starts) + stacked:
            kept = (f"stacked{k}" for k in range(stacked))
            names = (*(v.name or f"carried{k}" for k, v in enumerate(starts)), *kept)
        region = Region("fold", outer.builder, outer.region)
        self._frame = inner = outer.nested(region)
        try:
            step = Tensor(self, region.argument("i", TensorType.of("i64")))
            carried = [Tensor(self, region.argument(name, v.type)) for name, v in zip(names, starts, strict=False)]
            returned = body(step, *carried)
            results = [returned] if isinstance(returned, Tensor) else list(returned)
            if len(results) != len(starts) + stacked:
                more = f" and stacks {stacked}" if stacked else ""
                raise Diagnostic(
                    "E0016", f"the loop carries {len(starts)} value(s){more}, but its body returns {len(results)}", span
                )
            for name, value in zip(names, results, strict=True):
                region.graph.add_output(inner.local(self._unwrap(value, span)), name)
        finally:
            self._frame = outer
        attrs = {"n": count, "carried": len(starts), "body": region.graph}
        outputs = outer.emit(OPS["fold"], [*starts, *region.used()], attrs, span)
        return tuple(self._wrap(v, (name,)) for v, name in zip(outputs, names, strict=True))

    # Evaluating ------------------------------------------------------------------------------------------------------

    def _open(self) -> Frame:
        if self._module is not None:
            span, _ = call_site()
            raise Diagnostic("E0016", f"the model `{self.name}` is finished and cannot be added to", span)
        return self._frame

    def _fresh(self, name: str, span: Span | None) -> None:
        if not is_name(name) or name in BUILTIN or name in self._frame.env:
            reason = "is taken" if name in self._frame.env else "is built in" if name in BUILTIN else "is no name of the language"
            raise Diagnostic("E0016", f"`{name}` {reason}", span, help="choose another name")

    def _declare(self, statement: ast.Stmt, name: str) -> Any:
        return self._statement(statement, {}, name)

    def _statement(self, statement: ast.Stmt, env: dict[str, Any], result: str | None = None) -> Any:
        """Run one statement of the language in the model's scope; the value of the name ``result`` afterwards."""
        frame, (span, _) = self._open(), call_site()
        _place(statement, span)
        saved = {name: frame.env[name] for name in env if name in frame.env}
        frame.env.update((name, self._unwrap(value, span)) for name, value in env.items())
        try:
            frame.step(statement)
        finally:
            for name in env:
                del frame.env[name]
            frame.env.update(saved)
        return None if result is None else self._wrap(frame.env[result], ())

    def _evaluate(self, expr: ast.Expr, env: dict[str, Any]) -> Any:
        """The value of an expression over ``env``, named as the caller assigns it."""
        frame, (span, names) = self._open(), call_site()
        _place(expr, span)
        values = {name: self._unwrap(value, span) for name, value in env.items()}
        inner = Frame(
            self._elaborator, self._unit, values, builder=frame.builder, region=frame.region, scope=frame.scope,
            dtypes=frame.dtypes, kind="model", bound=self._bound,
        )  # fmt: skip
        return self._wrap(inner.eval(expr), names)

    def _call(self, callee: Any, args: Sequence[Any], kwargs: dict[str, Any], scope: str) -> Any:
        frame, (span, names) = self._open(), call_site()
        kinds = {}
        function = callee.function if isinstance(callee, (Partial, Instance)) else callee
        if isinstance(function, (DeclValue, OpValue)):
            signature = self._signature(function)
            kinds = {s.name: s.kind for s in signature.statics} if signature is not None else {}
        arguments: list[tuple[str | None, Any, Span | None]] = [(None, self._unwrap(a, span), span) for a in args]
        for name, value in kwargs.items():
            value = self._unwrap(value, span)
            if kinds.get(name) == "dtype" and isinstance(value, str) and value in DTYPES:
                value = DTYPES[value]
            arguments.append((name, value, span))
        return self._wrap(self._elaborator.calls.apply(frame, callee, arguments, span, scope), names)

    def _signature(self, callee: Any) -> Any:
        if isinstance(callee, OpValue):
            return callee.op.signature
        node = callee.declared.node
        return self._elaborator.signatures.of(callee.declared) if isinstance(node, ast.Function) else None

    def _unwrap(self, value: Any, span: Span | None) -> Any:
        if isinstance(value, (Tensor, Record)):
            if value._model is not self:
                raise Diagnostic(
                    "E0016", f"{value!r} belongs to the model `{value._model.name}`, not to `{self.name}`", span
                )
            return value._value if isinstance(value, Tensor) else value._bundle
        if isinstance(value, Function):
            return value.callee
        if isinstance(value, Dim):
            return known(value)
        return tuple(self._unwrap(v, span) for v in value) if isinstance(value, (list, tuple)) else value

    def _wrap(self, value: Any, names: Sequence[str]) -> Any:
        if isinstance(value, Multi):
            each = [names[i : i + 1] if len(names) == len(value.items) else () for i in range(len(value.items))]
            return tuple(self._wrap(v, n) for v, n in zip(value.items, each, strict=True))
        if isinstance(value, (Value, Bundle)) and names and names[0] not in BUILTIN:
            outer = self._frame.env.get(names[0])
            self._frame.bind(names[0], value, None)
            # Python's names are not the language's: only the hint for printing is wanted.
            if outer is None:
                del self._frame.env[names[0]]
            else:
                self._frame.env[names[0]] = outer
        if isinstance(value, Value):
            return Tensor(self, value)
        if holds_tensors(value):
            return tuple(self._wrap(item, ()) for item in value)
        if isinstance(value, (Partial, Instance)):
            return Function(value, names[0] if names else describe(value))
        return Record(self, value) if isinstance(value, Bundle) else value

    def _finish(self) -> None:
        graph, frame = self._graph, self._frame
        if not self._results:
            span, _ = call_site()
            raise Diagnostic("E0016", f"the model `{self.name}` has no output", span, help="call `m.output(y)`")
        finish_states(frame)
        frame.complain()
        extra = declared_outputs(graph)
        graph.set_outputs((), ())
        taken = {info.name for _, info in extra}
        for i, (result, name, external) in enumerate(self._results):
            base = name or ("output" if len(self._results) == 1 else f"output{i}")
            value = self._unwrap(result, None)
            fields = value.fields if isinstance(value, Bundle) else {"": value}
            for field, tensor in fields.items():
                full = f"{base}_{field}" if field else base
                if full in taken:
                    raise Diagnostic("E0016", f"`{full}` is the name of two outputs of `{self.name}`")
                taken.add(full)
                graph.add_output(tensor, full, outside=outside_name(full, external, field))
        for tensor, info in extra:
            graph.add_output(tensor, info.name, info.role, info.outside)
        check_outside(graph, None)
        check_vocabularies(graph)
        self._elaborator.bodies.check(graph)
        self._elaborator.check_turned({self.name: graph})
        locals_, uses = gather(self._elaborator, [graph], self._unit, self.name)
        self._module = Module(self.name, graph, self.doc, locals_, uses)


def model(name: str, *, doc: str = "", dtype: str = "f32") -> Model:
    """Build a model: ``with ts.model("tiny") as m: …``; afterwards ``m.module`` is the program.

    Args:
        name: an identifier.
        doc: its documentation, ``##`` in source.
        dtype: what ``float`` stands for: ``f32``, ``f16``, ``bf16`` or ``f64``.

    Raises:
        Diagnostic: E0016 for another name or dtype; when the block is left, for a model without output.
    """
    return Model(name, doc=doc, dtype=dtype)


def _place(node: Any, span: Span | None) -> None:
    """Give a synthesised tree the place of the Python call."""
    if isinstance(node, (list, tuple)):
        for item in node:
            _place(item, span)
    elif isinstance(node, ast.Node):
        node.span = span
        for slot in type(node).__dataclass_fields__:
            if slot not in ("span", "name_span", "target_spans"):
                _place(getattr(node, slot), span)


__all__ = ["Function", "Model", "Namespace", "Record", "Tensor", "core_ops", "folder", "model", "use"]
