"""Expressions: evaluated to tensors (which adds nodes to the graph being built) or to static values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ....ir.builder import Builder
from ....ir.diagnostics import Diagnostic, FollowUp, Span, did_you_mean, several
from ....ir.dims.dim import Dim, as_dim
from ....ir.dims.ratio import Exact, Ratio
from ....ir.graph import Value
from ....ir.ops import OPS
from ....ir.signature import Bindings, Pattern
from ....ir.types import DTYPES, KINDS, DType, TensorType
from ..syntax import ast
from . import indexing
from .builtin import BINARY, BUILTIN, SPECIAL, STATIC_FUNCTIONS, known
from .library import Unit
from .partial import forgotten, instance_of
from .regions import Region
from .static import static_binary
from .values import (
    FUNCTIONS,
    POISON,
    BuiltinValue,
    Bundle,
    DeclValue,
    Instance,
    KindValue,
    Multi,
    OpValue,
    describe,
    holds_tensors,
    is_tensor,
)
from .vocabularies import vocabulary_of

if TYPE_CHECKING:
    from .elaborate import Elaborator
    from .frame import Frame

class Evaluator:
    """The names of one activation of a body, and the evaluation of expressions in it.

    Args:
        scope: dotted prefix of the parameters declared here.
        builder: None in a purely static context.
        kind: what is being elaborated: fn, op, layer or model.
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
        # The statements of the body, of which a name may be bound further below.
        self.body: list[ast.Stmt] = []
        # Within the library, where the user called into it.
        self.caller: Span | None = None
        # The instances whose calls this is part of, outermost first.
        self.instances: tuple[Instance, ...] = ()

    @property
    def frame(self) -> Frame:
        """Itself: an evaluator is always the part of a frame that knows expressions."""
        return cast("Frame", self)

    def eval(self, expr: ast.Expr) -> Any:
        """The value of an expression: a tensor, a record, a function or a static value."""
        return self._EVAL[type(expr)](self, expr)

    def each(self, exprs: Sequence[ast.Expr]) -> list[Any]:
        """The values of expressions that do not depend on one another: what is wrong with any of them is told of all."""
        values: list[Any] = []
        for i, expr in enumerate(exprs):
            try:
                values.append(self.eval(expr))
            except Diagnostic as error:
                raise self.also(error, exprs[i + 1 :]) from None
        return values

    def also(self, error: Diagnostic, exprs: Sequence[ast.Expr]) -> Diagnostic:
        """A mistake, and those of expressions that stand beside it."""
        errors = [error]
        for expr in exprs:
            try:
                self.eval(expr)
            except Diagnostic as other:
                errors.append(other)
        return several(errors)

    def tensor(self, expr: ast.Expr, what: str) -> Value:
        """The value of an expression that must be a tensor. Raises E0506 when it is not."""
        value = self.eval(expr)
        if not is_tensor(value):
            raise Diagnostic("E0506", f"{what} must be a tensor, not {describe(value)}", expr.span, help=forgotten(value))
        return value

    def _name(self, e: ast.Name) -> Any:
        name = e.id
        if name in self.env:
            value = self.env[name]
            if value is POISON:
                raise FollowUp
            return value
        declared = self.unit.find(name)
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
            help=self.elaborator.where_declared(name) or self._undefined(e) or did_you_mean(name, known_names),
        )  # fmt: skip

    def _undefined(self, e: ast.Name) -> str | None:
        from .remedies import bound_elsewhere, name_help

        return bound_elsewhere(self.body, e) or name_help(e.id)

    def _literal(self, e: Any) -> Any:
        return e.value

    def _none(self, e: ast.NoneValue) -> None:
        return None

    def _list(self, e: ast.ListExpr) -> tuple[Any, ...]:
        items = tuple(self.each(e.items))
        for item, expr in zip(items, e.items, strict=True):
            if isinstance(item, Multi):
                raise Diagnostic(
                    "E0404", f"{describe(item)} cannot be one item of a list", expr.span, help="name them first: `a, b = …`"
                )
        return items

    def _unary(self, e: ast.Unary) -> Any:
        value = self.eval(e.operand)
        if is_tensor(value):
            return self.emit(OPS["neg" if e.op == "-" else "logical_not"], [value], {}, e.span)[0]
        if e.op == "not" and isinstance(value, bool):
            return not value
        if e.op == "-" and isinstance(value, (int, float, Dim, Ratio)) and not isinstance(value, bool):
            return Exact(-value, -value.fraction) if isinstance(value, Exact) else -value
        raise Diagnostic("E0402", f"`{e.op}` cannot be applied to {describe(value)}", e.span)

    def _binary(self, e: ast.Binary) -> Any:
        try:
            left = self.eval(e.left)
        except Diagnostic as error:
            raise self.also(error, [e.right]) from None
        if e.op in ("and", "or") and isinstance(left, bool):
            if left == (e.op == "or"):
                return left
            return self.eval(e.right)
        right = None
        try:
            right = self.eval(e.right)
            if e.op == "in":
                return self._member(e, left, right)
            if is_tensor(left) or is_tensor(right):
                return self._tensor_binary(e, left, right)
            return self._static_binary(e, left, right)
        except Diagnostic as error:
            from .remedies import of_operator

            raise of_operator(error, e, left, right) from None

    def _static_binary(self, e: ast.Binary, left: Any, right: Any) -> Any:
        return static_binary(self, e, left, right)

    def _member(self, e: ast.Binary, item: Any, items: Any) -> bool:
        """``i in [2, 5]``. Raises E0407 where an item is a size that is not known."""
        if not isinstance(items, tuple) or is_tensor(item) or isinstance(item, (Bundle, Multi)) or holds_tensors(items):
            culprit, expr = (item, e.left) if isinstance(items, tuple) else (items, e.right)
            raise Diagnostic(
                "E0402", f"`in` asks whether a static value is in a list of such, not {describe(culprit)}", expr.span,
                help="elements at run time are compared: `any(x == y, axis=0)`",
            )  # fmt: skip
        if isinstance(item, FUNCTIONS):
            item = self.elaborator.attribute(item)
        equal = ast.Binary("==", e.left, e.right, span=e.span)
        return any(self._static_binary(equal, item, self.elaborator.attribute(other)) for other in items)

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
        if isinstance(value, Ratio):
            raise Diagnostic(
                "E0402", f"`{value}` is a real that only run time knows", span,
                help="round it to an integer, `ceil(…)`, or compute with the size: `cast(full([], T, dtype=i64), f32) / 2.0`",
            )  # fmt: skip
        fits = {"float": (int, float), "int": (int,), "bool": (bool,)}[dtype.kind]
        if not isinstance(value, fits) or (isinstance(value, bool) != (dtype.kind == "bool")):
            raise Diagnostic(
                "E0303", f"{describe(value)} cannot stand beside a tensor of {dtype}", span,
                help="convert the tensor first: `cast(x, f32)`" if isinstance(value, float)
                else forgotten(value),
            )  # fmt: skip
        return self.builder.constant(value, dtype)

    def one(self, expr: ast.Expr) -> Any:
        """The value of an expression that is taken apart further."""
        value = self.eval(expr)
        if isinstance(value, Multi):
            raise Diagnostic("E0404", f"{describe(value)} have no parts", expr.span, help="name them first: `a, b = …`")
        return value

    def _attribute(self, e: ast.Attribute) -> Any:
        try:
            value = self.one(e.value)
        except Diagnostic as error:
            from .remedies import of_path

            raise of_path(error, e) from None
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
        if isinstance(value, DeclValue) and isinstance(value.declared.node, ast.Tokenizer):
            if e.name == "size":
                return vocabulary_of(self.elaborator, value.declared, e.span).size
            raise Diagnostic("E0203", f"a tokenizer has no field `{e.name}`", e.span, help="it has `size`, how many ids it has")
        if isinstance(value, Value):
            properties = {
                "dtype": value.type.dtype,
                "shape": tuple(known(d) for d in value.type.shape),
                "rank": value.type.rank,
            }
            if e.name in properties:
                return properties[e.name]
            from .remedies import member_help

            help = member_help(e.name) or did_you_mean(e.name, properties) or "it has dtype, shape and rank"
            raise Diagnostic("E0203", f"a tensor has no field `{e.name}`", e.span, help=help)
        raise Diagnostic("E0203", f"{describe(value)} has no fields", e.span)

    def _scoped(self, e: ast.Scoped) -> Any:
        if isinstance(e.value, ast.Call):
            return self.elaborator.calls.call(self.frame, e.value, scope=e.scope)
        if isinstance(e.value, ast.Pipe):
            return self._pipe(e.value, scope=e.scope)
        if isinstance(e.value, ast.Name):
            return instance_of(self.frame, self.eval(e.value), e.scope)
        outer, self.scope = self.scope, join(self.scope, e.scope)
        try:
            return self.eval(e.value)
        finally:
            self.scope = outer

    def _call(self, e: ast.Call) -> Any:
        return self.elaborator.calls.call(self.frame, e)

    def _pipe(self, e: ast.Pipe, scope: str = "") -> Any:
        right: ast.Expr = e.right
        if isinstance(right, ast.Scoped):
            scope = right.scope
            right = right.value
        first = ast.Arg(None, e.left, span=e.left.span)
        if isinstance(right, ast.Call):
            call = ast.Call(right.function, [first, *right.args], span=e.span)
        elif isinstance(right, ast.Name):
            call = ast.Call(right, [first], span=e.span)
        else:
            raise Diagnostic("E0208", "the right side of `|>` must be a function", right.span, help="write `x |> f(a)`")
        return self.elaborator.calls.call(self.frame, call, scope=scope)

    def _misplaced(self, e: ast.Expr) -> Any:
        raise Diagnostic("E0405", "a slice or `...` stands only within brackets", e.span)

    _EVAL: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {
        ast.Name: _name, ast.Int: _literal, ast.Real: _literal, ast.Str: _literal, ast.Bool: _literal,
        ast.NoneValue: _none, ast.ListExpr: _list, ast.Unary: _unary, ast.Binary: _binary, ast.Attribute: _attribute,
        ast.Scoped: _scoped, ast.Call: _call, ast.Pipe: _pipe, ast.Index: indexing.index,
        ast.Slice: _misplaced, ast.Ellipsis_: _misplaced,
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
        spans = spans if spans is None else list(map(self.place, spans))
        return self.builder.emit(op, inputs, attrs, span=self.place(span), spans=spans, scope=self.scope)

    def place(self, span: Span | None) -> Span | None:
        """Where a user looks for what stands at ``span`` of this body: within the library, at the call of it."""
        return span if self.caller is None else self.caller.over(span)

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
                if value is POISON:
                    raise FollowUp
                if isinstance(value, bool) or not isinstance(value, (int, Dim)):
                    raise Diagnostic(
                        "E0201", f"the dimension `{name}` is not defined", span,
                        help=did_you_mean(name, [n for n, v in self.env.items() if isinstance(v, (int, Dim))])
                        or f"sizes come from the inputs, from `let`, and from static parameters: `*, {name}: int`",
                    )  # fmt: skip
                values[name] = as_dim(value)
            shape.append(size_of(dim.subs(values), span))
        dtype = pattern.dtype if isinstance(pattern.dtype, DType) else self.dtypes.get(pattern.dtype)
        if dtype is None:
            dtype = self.elaborator.dtype if pattern.dtype in ("float", "num", "any") else DTYPES["i64"]
        return TensorType(dtype, tuple(shape))


def size_of(dim: Dim, span: Span | None) -> Dim:
    """A dimension of a declared type. Raises E0306 when it is known to be negative."""
    if dim.value is not None and dim.value < 0:
        raise Diagnostic("E0306", f"a dimension of this type is {dim}, but must not be negative", span)
    return dim


def join(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name
