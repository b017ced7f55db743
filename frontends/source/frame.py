"""One activation of a body: its names, and the statements and expressions evaluated in it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Span, did_you_mean
from ...ir.dims import Dim, as_dim, prove_ge
from ...ir.graph import Initializer, Require, Value
from ...ir.ops import OPS
from ...ir.signature import Bindings, Pattern, RecordPattern
from ...ir.types import DTYPES, KINDS, DType, TensorType
from . import ast
from .builtin import BINARY, BUILTIN, SPECIAL, STATIC_FUNCTIONS, known
from .library import Unit
from .regions import Region
from .values import BuiltinValue, Bundle, DeclValue, KindValue, Multi, OpValue, describe, is_tensor

if TYPE_CHECKING:
    from .elaborate import Elaborator

_STATIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "**": operator.pow, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_INITIALISERS = {
    "zeros": 0, "ones": 0, "normal": 1, "trunc_normal": 1, "uniform": 2, "constant": 1,
    "xavier_uniform": 0, "kaiming_uniform": 0,
}  # fmt: skip
_DISTRIBUTIONS = {"uniform": 2, "normal": 2, "gumbel": 0}


class Frame:
    """A body being elaborated.

    Args:
        scope: dotted prefix of the parameters declared here.
        builder: None in a purely static context.
        main: whether dimensions may be named by ``let`` (not within an op's body, which is shared).
    """

    def __init__(
        self, elaborator: Elaborator, unit: Unit, env: dict[str, Any], *, builder: Builder | None = None,
        region: Region | None = None, scope: str = "", dtypes: dict[str, DType] | None = None, kind: str = "fn",
        bound: Bindings | None = None,
    ) -> None:  # fmt: skip
        self.elaborator = elaborator
        self.unit = unit
        self.env = env
        self.builder = builder
        self.region = region
        self.scope = scope
        self.dtypes = dtypes or {}
        self.kind = kind
        self.bound = bound
        self.states: dict[str, str] = {}
        self.result: list[Any] | None = None
        self.return_span: Span | None = None

    # Statements --------------------------------------------------------------------------------------------------

    def run(self, body: list[ast.Stmt]) -> bool:
        """Execute statements; True when a ``return`` was reached (its values are in ``result``)."""
        for statement in body:
            if self._DO[type(statement)](self, statement):
                return True
        return False

    def _assign(self, s: ast.Assign) -> None:
        value = self.eval(s.value)
        if len(s.targets) == 1:
            if isinstance(value, Multi):
                raise Diagnostic(
                    "E0404", f"{len(value.items)} results cannot be assigned to one name", s.span,
                    help=f"name all of them: `{', '.join(s.targets + ['_' + str(i) for i in range(1, len(value.items))])} = …`",
                )  # fmt: skip
            self.bind(s.targets[0], value, s.target_spans[0] if s.target_spans else s.span)
            return
        items = value.items if isinstance(value, Multi) else (value,)
        if len(items) != len(s.targets):
            raise Diagnostic("E0404", f"{len(s.targets)} names, but the expression has {len(items)} result(s)", s.span)
        for i, (name, item) in enumerate(zip(s.targets, items, strict=True)):
            self.bind(name, item, s.target_spans[i] if s.target_spans else s.span)

    def bind(self, name: str, value: Any, span: Span | None) -> None:
        """Give a name its value; tensors made here take it as their printed name."""
        if name in BUILTIN:
            raise Diagnostic(
                "E0205", f"`{name}` is built in and cannot be assigned", span, help=f"choose another name, such as `{name}_`"
            )
        if isinstance(value, Value) and value.node is not None:
            value.name = value.name or name
        elif isinstance(value, Bundle):
            for field, tensor in value.fields.items():
                if tensor.node is not None:
                    tensor.name = tensor.name or f"{name}_{field}"
        self.env[name] = value

    def _param(self, s: ast.ParamStmt) -> None:
        if self.kind == "op" or self.kind == "fn":
            raise Diagnostic(
                "E0506", f"a `{self.kind}` cannot own the {s.kind} `{s.name}`", s.span, help="declare a `layer`, or pass it in"
            )
        pattern = self.elaborator.signatures.pattern(self.unit, s.type)
        if isinstance(pattern, RecordPattern):
            raise Diagnostic("E0310", f"the {s.kind} `{s.name}` must be a tensor", s.span)
        type = self.type(pattern, s.type.span)
        init = self._initializer(s.init, _INITIALISERS, s.kind) if s.init is not None else Initializer("zeros")
        full = _join(self.scope, s.external or s.name)
        self.bind(s.name, self.root.param(full, type, init, s.kind == "param", s.span), s.span)

    @property
    def root(self) -> Builder:
        """The builder of the outermost graph, which owns parameters and inputs."""
        assert self.builder is not None
        return self.builder if self.region is None else self.region.root

    def _initializer(self, expr: ast.Expr, table: dict[str, int], what: str) -> Initializer:
        name = expr.function if isinstance(expr, ast.Call) else expr
        if not isinstance(name, ast.Name) or name.id not in table:
            shown = name.id if isinstance(name, ast.Name) else "this"
            raise Diagnostic(
                "E0405", f"`{shown}` does not say how to fill a {what}", expr.span,
                help=did_you_mean(shown, table) or f"one of: {', '.join(table)}",
            )  # fmt: skip
        args = [self.eval(a.value) for a in expr.args] if isinstance(expr, ast.Call) else []
        if len(args) > table[name.id] or any(isinstance(a, bool) or not isinstance(a, (int, float)) for a in args):
            raise Diagnostic("E0405", f"`{name.id}` takes {table[name.id]} number(s)", expr.span)
        if len(args) < table[name.id] and table is _INITIALISERS:
            raise Diagnostic("E0405", f"`{name.id}` takes {table[name.id]} number(s)", expr.span)
        return Initializer(name.id, tuple(float(a) for a in args))

    def _input(self, s: ast.StateStmt | ast.RandomStmt, role: str, init: Initializer) -> None:
        pattern = self.elaborator.signatures.pattern(self.unit, s.type)
        if isinstance(pattern, RecordPattern) or self.kind not in ("layer", "model"):
            raise Diagnostic("E0506", f"a `{role}` is a tensor of a layer or a model", s.span)
        name = _join(self.scope, s.name).replace(".", "_")
        self.bind(s.name, self.root.input(name, self.type(pattern, s.type.span), role, init, s.span), s.span)
        if role == "state":
            self.states[s.name] = name

    def _state(self, s: ast.StateStmt) -> None:
        init = self._initializer(s.init, _INITIALISERS, "state") if s.init is not None else Initializer("zeros")
        self._input(s, "state", init)

    def _random(self, s: ast.RandomStmt) -> None:
        self._input(s, "random", self._initializer(s.distribution, _DISTRIBUTIONS, "random input"))

    def _tap(self, s: ast.TapStmt) -> None:
        value = self.eval(s.value)
        if not is_tensor(value) or self.region is not None or self.kind not in ("layer", "model"):
            raise Diagnostic("E0506", f"`tap {s.name}` must be a tensor of a layer or a model, not {describe(value)}", s.span)
        self.root.graph.add_output(value, _join(self.scope, s.name).replace(".", "_"), "tap")

    def _require(self, s: ast.RequireStmt) -> None:
        self._need(s.condition, s)

    def _need(self, condition: ast.Expr, s: ast.RequireStmt) -> None:
        if isinstance(condition, ast.Binary) and condition.op == "and":
            self._need(condition.left, s)
            self._need(condition.right, s)
            return
        graph = self.builder.graph if self.builder is not None else None
        if isinstance(condition, ast.Binary) and condition.op in _STATIC:
            left, right = self.eval(condition.left), self.eval(condition.right)
            if isinstance(left, Dim) or isinstance(right, Dim):
                verdict = decide(condition.op, as_dim(left), as_dim(right), graph)
                if verdict is None and graph is not None:
                    graph.requires.append(Require(as_dim(left), condition.op, as_dim(right), s.message, s.span))
                elif not verdict:
                    raise Diagnostic("E0501", f"{s.message} ({left} {condition.op} {right} does not hold)", s.span)
                return
        if not self.static_bool(condition, "require"):
            raise Diagnostic("E0501", s.message, s.span)

    def _let(self, s: ast.LetStmt) -> None:
        value = self.eval(s.value)
        if isinstance(value, bool) or not isinstance(value, (int, Dim)):
            raise Diagnostic("E0402", f"`let {s.name}` names a dimension, not {describe(value)}", s.span)
        if isinstance(value, Dim) and self.kind in ("layer", "model") and self.region is None and self.builder is not None:
            least = 1 if prove_ge(self.builder.graph.expand_lets(value), 1) else 0
            value = known(self.builder.name_dim(s.name, value, least))
        self.bind(s.name, value, s.span)

    def _repeat(self, s: ast.RepeatStmt) -> bool:
        iterable = self.eval(s.iterable)
        if isinstance(iterable, int) and not isinstance(iterable, bool) and iterable >= 0:
            iterable = tuple(range(iterable))
        if not isinstance(iterable, tuple):
            raise Diagnostic(
                "E0402", f"`repeat` takes a count or a list known when compiling, not {describe(iterable)}", s.iterable.span,
                help="for a count that only run time knows use `fold`",
            )  # fmt: skip
        outer = self.scope
        for i, item in enumerate(iterable):
            self.bind(s.variable, item, s.span)
            self.scope = _join(outer, f"{s.scope}.{i}") if s.scope else outer
            if self.run(s.body):
                return True
        self.scope = outer
        return False

    def _if(self, s: ast.IfStmt) -> bool:
        for condition, body in s.branches:
            if self.static_bool(condition, "if"):
                return self.run(body)
        return self.run(s.orelse) if s.orelse is not None else False

    def static_bool(self, expr: ast.Expr, what: str) -> bool:
        """A condition that must be known. Raises E0407 when it is not."""
        value = self.eval(expr)
        if isinstance(value, Value):
            raise Diagnostic(
                "E0407", f"the condition of `{what}` must be static, but is {describe(value)}", expr.span,
                help="`where(condition, a, b)` chooses at run time",
            )  # fmt: skip
        if not isinstance(value, bool):
            raise Diagnostic("E0407", f"the condition of `{what}` must be true or false, but is {describe(value)}", expr.span)
        return value

    def _fold(self, s: ast.FoldStmt) -> None:
        count = self.eval(s.count)
        if isinstance(count, bool) or not isinstance(count, (int, Dim)):
            raise Diagnostic("E0402", f"`fold` takes a number of steps, not {describe(count)}", s.count.span)
        assert self.builder is not None
        starts = []
        for name in s.carried:
            value = self.eval(ast.Name(name, span=s.span))
            if not is_tensor(value):
                raise Diagnostic("E0308", f"the carried value `{name}` must be a tensor, but is {describe(value)}", s.span)
            starts.append(self.local(value))
        region = Region("fold", self.builder, self.region)
        inner = self.nested(region)
        inner.env[s.variable] = region.argument(s.variable, TensorType.of("i64"))
        for name, start in zip(s.carried, starts, strict=True):
            inner.env[name] = region.argument(name, start.type)
        if inner.run(s.body):
            raise Diagnostic("E0504", "`return` inside of `fold`", s.span, help="carry the value and return it after the loop")
        for name in s.carried:
            value = inner.env[name]
            if not is_tensor(value):
                raise Diagnostic("E0308", f"the carried value `{name}` became {describe(value)}", s.span)
            region.graph.add_output(region.local(value), name)
        outputs = self.emit(
            OPS["fold"], [*starts, *region.captured], {"n": count, "carried": len(starts), "body": region.graph}, s.span
        )
        for name, value in zip(s.carried, outputs, strict=True):
            self.bind(name, value, s.span)

    def nested(self, region: Region) -> Frame:
        """A frame for a loop's body, which sees the names of this one."""
        frame = Frame(self.elaborator, self.unit, dict(self.env), builder=region.builder, region=region,
                      scope=self.scope, dtypes=self.dtypes, kind=self.kind, bound=self.bound)  # fmt: skip
        frame.states = self.states
        return frame

    def _return(self, s: ast.ReturnStmt) -> bool:
        values = []
        for expr in s.values:
            value = self.eval(expr)
            values += value.items if isinstance(value, Multi) else [value]
        self.result = values
        self.return_span = s.span
        return True

    _DO: dict[type, Callable[[Any, Any], Any]] = {
        ast.Assign: _assign, ast.ParamStmt: _param, ast.StateStmt: _state, ast.RandomStmt: _random, ast.TapStmt: _tap,
        ast.RequireStmt: _require, ast.LetStmt: _let, ast.RepeatStmt: _repeat, ast.IfStmt: _if, ast.FoldStmt: _fold,
        ast.ReturnStmt: _return,
    }  # fmt: skip

    # Expressions -------------------------------------------------------------------------------------------------

    def eval(self, expr: ast.Expr) -> Any:
        """The value of an expression: a tensor, a record, a function or a static value."""
        return self._EVAL[type(expr)](self, expr)

    def tensor(self, expr: ast.Expr, what: str) -> Value:
        """The value of an expression that must be a tensor. Raises E0506 when it is not."""
        value = self.eval(expr)
        if not is_tensor(value):
            raise Diagnostic("E0506", f"{what} must be a tensor, not {describe(value)}", expr.span)
        return value

    def _name(self, e: ast.Name) -> Any:
        name = e.id
        if name in self.env:
            return self.env[name]
        declared = self.unit.names.get(name)
        if declared is not None:
            if isinstance(declared.node, ast.Const):
                return self.elaborator.const(declared)
            return DeclValue(declared)
        if name in SPECIAL or name in STATIC_FUNCTIONS:
            return BuiltinValue(name)
        if name in OPS:
            return OpValue(OPS[name])
        if name in DTYPES:
            return DTYPES[name]
        if name in KINDS:
            return self.dtypes.get(name) or self.env.get(f"dtype {name}") or KindValue(name)
        visible = [n for n in self.env if " " not in n]
        known_names = [*visible, *self.unit.names, *BUILTIN]
        raise Diagnostic(
            "E0201", f"`{name}` is not defined", e.span,
            help=did_you_mean(name, known_names) or self.elaborator.where_declared(name),
        )  # fmt: skip

    def _literal(self, e: Any) -> Any:
        return e.value

    def _none(self, e: ast.NoneValue) -> None:
        return None

    def _list(self, e: ast.ListExpr) -> tuple[Any, ...]:
        items = tuple(self.eval(item) for item in e.items)
        for item, expr in zip(items, e.items, strict=True):
            if isinstance(item, (Value, Bundle, Multi)):
                raise Diagnostic(
                    "E0505", f"a list holds static values, not {describe(item)}", expr.span,
                    help="join tensors with `concat(a, b, axis=…)`",
                )  # fmt: skip
        return items

    def _unary(self, e: ast.Unary) -> Any:
        value = self.eval(e.operand)
        if is_tensor(value):
            return self.emit(OPS["neg" if e.op == "-" else "logical_not"], [value], {}, e.span)[0]
        if e.op == "not" and isinstance(value, bool):
            return not value
        if e.op == "-" and isinstance(value, (int, float, Dim)) and not isinstance(value, bool):
            return -value
        raise Diagnostic("E0402", f"`{e.op}` cannot be applied to {describe(value)}", e.span)

    def _binary(self, e: ast.Binary) -> Any:
        left = self.eval(e.left)
        if e.op in ("and", "or") and isinstance(left, bool):
            if left == (e.op == "or"):
                return left
            return self.eval(e.right)
        right = self.eval(e.right)
        if is_tensor(left) or is_tensor(right):
            return self._tensor_binary(e, left, right)
        return self._static_binary(e, left, right)

    def _tensor_binary(self, e: ast.Binary, left: Any, right: Any) -> Value:
        if e.op == "**" and not is_tensor(right):
            return self._power(e, left, right)
        op = OPS[BINARY[e.op]]
        dtype = (left if is_tensor(left) else right).type.dtype
        inputs = [v if is_tensor(v) else self.scalar(v, dtype, x.span) for v, x in ((left, e.left), (right, e.right))]
        return self.emit(op, inputs, {}, e.span, spans=[e.left.span, e.right.span])[0]

    def _power(self, e: ast.Binary, base: Value, exponent: Any) -> Value:
        if exponent == 2:
            return self.emit(OPS["mul"], [base, base], {}, e.span)[0]
        if exponent == 0.5:
            return self.emit(OPS["sqrt"], [base], {}, e.span)[0]
        if exponent == -0.5:
            return self.emit(OPS["rsqrt"], [base], {}, e.span)[0]
        return self.emit(OPS["pow"], [base, self.scalar(exponent, base.type.dtype, e.right.span)], {}, e.span)[0]

    def scalar(self, value: Any, dtype: DType, span: Span | None) -> Value:
        """A static number as a scalar tensor of ``dtype``. Raises E0303 when it does not fit."""
        assert self.builder is not None
        if isinstance(value, Dim):
            return self.emit(OPS["full"], [], {"shape": (), "value": value, "dtype": dtype}, span)[0]
        fits = {"float": (int, float), "int": (int,), "bool": (bool,)}[dtype.kind]
        if not isinstance(value, fits) or (isinstance(value, bool) != (dtype.kind == "bool")):
            raise Diagnostic(
                "E0303", f"{describe(value)} cannot stand beside a tensor of {dtype}", span,
                help="convert the tensor first: `cast(x, f32)`" if isinstance(value, float) else None,
            )  # fmt: skip
        return self.builder.constant(value, dtype)

    def _static_binary(self, e: ast.Binary, left: Any, right: Any) -> Any:
        for side, expr in ((left, e.left), (right, e.right)):
            if isinstance(side, (Bundle, Multi, DeclValue, OpValue, BuiltinValue)):
                raise Diagnostic("E0402", f"`{e.op}` cannot be applied to {describe(side)}", expr.span)
        dims = isinstance(left, Dim) or isinstance(right, Dim)
        if dims and e.op in ("<", "<=", ">", ">=", "==", "!=") and all(isinstance(v, (int, Dim)) for v in (left, right)):
            verdict = decide(e.op, as_dim(left), as_dim(right), self.builder.graph if self.builder else None)
            if verdict is None:
                raise Diagnostic(
                    "E0407", f"`{left} {e.op} {right}` is not known when compiling", e.span,
                    help="`require` may state it; `if` needs to know it",
                )  # fmt: skip
            return verdict
        if dims and (isinstance(left, float) or isinstance(right, float) or e.op in ("/", "**")):
            raise Diagnostic(
                "E0402", f"`{left} {e.op} {right}` needs a number, but the dimension is only known at run time", e.span
            )
        try:
            result = _STATIC[e.op](left, right)
        except (TypeError, KeyError):
            raise Diagnostic("E0402", f"`{e.op}` cannot be applied to {describe(left)} and {describe(right)}", e.span) from None
        except (ZeroDivisionError, OverflowError, ValueError) as error:
            raise Diagnostic("E0402", f"`{left} {e.op} {right}`: {error}", e.span) from None
        if isinstance(result, complex) or (isinstance(result, int) and abs(result) >= 1 << 63):
            raise Diagnostic("E0402", f"`{left} {e.op} {right}` is out of range", e.span)
        return known(result) if isinstance(result, Dim) else result

    def _attribute(self, e: ast.Attribute) -> Any:
        value = self.eval(e.value)
        if isinstance(value, Bundle):
            if e.name in value.fields:
                return value.fields[e.name]
            if e.name in value.statics:
                return value.statics[e.name]
            names = [*value.fields, *value.statics]
            raise Diagnostic(
                "E0203", f"the record {value.record.name} has no field `{e.name}`", e.span,
                help=did_you_mean(e.name, names) or f"its fields are {', '.join(names)}",
            )  # fmt: skip
        if isinstance(value, Value):
            properties = {"dtype": value.type.dtype, "shape": tuple(known(d) for d in value.type.shape), "rank": value.type.rank}
            if e.name in properties:
                return properties[e.name]
            raise Diagnostic("E0203", f"a tensor has no field `{e.name}`", e.span, help="it has dtype, shape and rank")
        raise Diagnostic("E0203", f"{describe(value)} has no fields", e.span)

    def _scoped(self, e: ast.Scoped) -> Any:
        if isinstance(e.value, ast.Call):
            return self.elaborator.calls.call(self, e.value, scope=e.scope)
        if isinstance(e.value, ast.Pipe):
            return self._pipe(e.value, scope=e.scope)
        outer, self.scope = self.scope, _join(self.scope, e.scope)
        try:
            return self.eval(e.value)
        finally:
            self.scope = outer

    def _call(self, e: ast.Call) -> Any:
        return self.elaborator.calls.call(self, e)

    def _pipe(self, e: ast.Pipe, scope: str = "") -> Any:
        right = e.right
        if isinstance(right, ast.Scoped):
            right, scope = right.value, right.scope
        first = ast.Arg(None, e.left, span=e.left.span)
        if isinstance(right, ast.Call):
            call = ast.Call(right.function, [first, *right.args], span=e.span)
        elif isinstance(right, ast.Name):
            call = ast.Call(right, [first], span=e.span)
        else:
            raise Diagnostic("E0208", "the right side of `|>` must be a function", right.span, help="write `x |> f(a)`")
        return self.elaborator.calls.call(self, call, scope=scope)

    def _index(self, e: ast.Index) -> Any:
        value = self.eval(e.value)
        if isinstance(value, tuple):
            return self._list_index(e, value)
        if not is_tensor(value):
            raise Diagnostic("E0506", f"{describe(value)} cannot be indexed", e.span)
        items = list(e.items)
        dots = [i for i, item in enumerate(items) if isinstance(item, ast.Ellipsis_)]
        if len(dots) > 1 or len(items) - len(dots) > value.type.rank:
            raise Diagnostic("E0305", f"{len(items)} indices for the {value.type.rank} axes of {value.type}", e.span)
        if dots:
            fill: list[ast.Expr] = [ast.Slice(None, None, None)] * (value.type.rank - len(items) + 1)
            items[dots[0] : dots[0] + 1] = fill
        axis = 0
        for item in items:
            value, kept = self._index_axis(value, item, axis)
            axis += kept
        return value

    def _index_axis(self, value: Value, item: ast.Expr, axis: int) -> tuple[Value, int]:
        span = item.span
        if isinstance(item, ast.Slice):
            start, stop, step = (None if x is None else self.eval(x) for x in (item.start, item.stop, item.step))
            if start is None and stop is None and step is None:
                return value, 1
            for bound in (start, stop, step):
                if bound is not None and (isinstance(bound, bool) or not isinstance(bound, (int, Dim))):
                    raise Diagnostic("E0402", f"a slice is made of integers, not {describe(bound)}", span)
            attrs = {"axis": axis, "start": start, "stop": stop, "step": 1 if step is None else step}
            return self.emit(OPS["slice"], [value], attrs, span)[0], 1
        index = self.eval(item)
        if is_tensor(index):
            return self.emit(OPS["take"], [value, index], {"axis": axis, "batch": 0}, span)[0], index.type.rank
        if isinstance(index, bool) or not isinstance(index, (int, Dim)):
            raise Diagnostic("E0402", f"an index is an integer, a slice or an integer tensor, not {describe(index)}", span)
        stop = None if index == -1 else index + 1
        one = self.emit(OPS["slice"], [value], {"axis": axis, "start": index, "stop": stop}, span)[0]
        return self.emit(OPS["squeeze"], [one], {"axis": axis}, span)[0], 0

    def _list_index(self, e: ast.Index, value: tuple[Any, ...]) -> Any:
        if len(e.items) == 1 and isinstance(e.items[0], ast.Slice):
            item = e.items[0]
            return value[slice(*(None if x is None else self.eval(x) for x in (item.start, item.stop, item.step)))]
        index = self.eval(e.items[0]) if len(e.items) == 1 else None
        if isinstance(index, bool) or not isinstance(index, int) or not -len(value) <= index < len(value):
            raise Diagnostic("E0402", f"a list of {len(value)} items has no item {describe(index)}", e.span)
        return value[index]

    def _misplaced(self, e: ast.Expr) -> Any:
        raise Diagnostic("E0405", "a slice or `...` stands only within brackets", e.span)

    _EVAL: dict[type, Callable[[Any, Any], Any]] = {
        ast.Name: _name, ast.Int: _literal, ast.Real: _literal, ast.Str: _literal, ast.Bool: _literal, ast.NoneValue: _none,
        ast.ListExpr: _list, ast.Unary: _unary, ast.Binary: _binary, ast.Attribute: _attribute, ast.Scoped: _scoped,
        ast.Call: _call, ast.Pipe: _pipe, ast.Index: _index, ast.Slice: _misplaced, ast.Ellipsis_: _misplaced,
    }  # fmt: skip

    # Emission ----------------------------------------------------------------------------------------------------

    def local(self, value: Value) -> Value:
        """``value`` as seen from the graph being built: a value of an outer graph is captured."""
        return value if self.region is None else self.region.local(value)

    def emit(self, op: Any, inputs: list[Any], attrs: dict[str, Any], span: Span | None, *,
             spans: list[Span | None] | None = None) -> list[Value]:  # fmt: skip
        """Add a node. Raises E0505 in a static context."""
        if self.builder is None:
            raise Diagnostic("E0505", f"`{op.name}` makes a tensor, but a static value is needed here", span)
        if self.region is not None:
            inputs = [None if v is None else self.region.local(v) for v in inputs]
        return self.builder.emit(op, inputs, attrs, span=span, spans=spans, scope=self.scope)

    def type(self, pattern: Pattern, span: Span | None) -> TensorType:
        """The type that a pattern has here. Raises E0201 when a dimension or dtype variable has no value."""
        shape: list[Dim] = []
        for dim in pattern.shape:
            if dim is ...:
                shape += (self.bound.pack if self.bound else None) or ()
                continue
            values = {}
            for name in dim.symbols:
                value = self.env.get(name)
                if isinstance(value, bool) or not isinstance(value, (int, Dim)):
                    raise Diagnostic(
                        "E0201", f"the dimension `{name}` is not defined", span,
                        help=did_you_mean(name, [n for n, v in self.env.items() if isinstance(v, (int, Dim))]),
                    )  # fmt: skip
                values[name] = as_dim(value)
            shape.append(dim.subs(values))
        dtype = pattern.dtype if isinstance(pattern.dtype, DType) else self.dtypes.get(pattern.dtype)
        if dtype is None:
            dtype = self.elaborator.dtype if pattern.dtype in ("float", "num", "any") else DTYPES["i64"]
        return TensorType(dtype, tuple(shape))


def _join(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name


def decide(op: str, left: Dim, right: Dim, graph: Any) -> bool | None:
    """Whether ``left op right`` holds for all sizes (True), for none (False), or cannot be told (None)."""
    facts = {} if graph is None else graph.facts
    if graph is not None:
        left, right = graph.expand_lets(left), graph.expand_lets(right)
    if op in ("==", "!="):
        if left == right:
            return op == "=="
        if prove_ge(left, right + 1, facts) or prove_ge(right, left + 1, facts):
            return op == "!="
        return None
    if op in ("<", "<="):
        left, right, op = right, left, ">" if op == "<" else ">="
    margin = 1 if op == ">" else 0
    if prove_ge(left, right + margin, facts):
        return True
    return False if prove_ge(right, left + 1 - margin, facts) else None


