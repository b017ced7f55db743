"""Declarations as signatures: the types of a declaration, with dimension names, static parameters and defaults."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Span, did_you_mean
from ....ir.dims.dim import Dim, as_dim, sym
from ....ir.dims.ratio import Ratio
from ....ir.signature import (
    REQUIRED,
    Bindings,
    ListPattern,
    Operand,
    Pattern,
    RecordDef,
    RecordPattern,
    Result,
    Signature,
    Static,
)
from ....ir.types import DTYPES, KINDS, TEXT
from ..syntax import ast
from .cycles import names_in
from .library import Declared, Unit
from .vocabularies import erased, is_ids

if TYPE_CHECKING:
    from .elaborate import Elaborator

STATIC_KINDS = frozenset({"int", "real", "bool", "str", "list", "fn", "dtype"})


class Signatures:
    """Signatures of declarations, made once each. ``evaluate`` is the elaborator's evaluator of static expressions."""

    def __init__(self, elaborator: Elaborator) -> None:
        self.elaborator = elaborator
        self._functions: dict[int, Signature] = {}
        self._records: dict[int, RecordDef] = {}

    def keep(self, nodes: Collection[int]) -> None:
        """Forget the signatures of all declarations but these, given by the identity of their trees."""
        self._functions = {key: value for key, value in self._functions.items() if key in nodes}
        self._records = {key: value for key, value in self._records.items() if key in nodes}

    def of(self, declared: Declared) -> Signature:
        """The signature of a function. Raises Diagnostic when one of its types is not understood."""
        node = declared.node
        assert isinstance(node, ast.Function)
        found = self._functions.get(id(node))
        if found is None:
            found = self._functions[id(node)] = self.function(declared.unit, node)
        return found

    def record(self, declared: Declared) -> RecordDef:
        node = declared.node
        assert isinstance(node, ast.Record)
        found = self._records.get(id(node))
        if found is None:
            fields = []
            statics = []
            defaults = []
            seen: set[str] = set()
            for name, where in [(d, node.span) for d in node.dims] + [(f.name, f.span) for f in node.fields]:
                if name in seen:
                    raise Diagnostic("E0204", f"`{name}` is a name of the record `{node.name}` twice", where)
                seen.add(name)
            for item in node.fields:
                if item.static:
                    self._check_static(item.name, item.type, item.span)
                    statics.append((item.name, item.type.name))
                    if item.default is not None:
                        value = self.elaborator.static(declared.unit, item.default, {})
                        value = self.elaborator.calls.static_value(
                            item.type.name, item.type.optional, value, node.name, item.name, item.default.span
                        )
                        defaults.append((item.name, value))
                    continue
                pattern = self.pattern(declared.unit, item.type)
                if not isinstance(pattern, Pattern):
                    raise Diagnostic("E0310", f"the field `{item.name}` of `{node.name}` must be a tensor", item.span)
                if item.type.optional:
                    raise Diagnostic(
                        "E0310", f"the field `{item.name}` of `{node.name}` cannot be optional", item.span,
                        help="a record has all its tensors: pass the optional one beside it, or declare a second record",
                    )  # fmt: skip
                unknown = {s for d in pattern.shape if d is not ... for s in d.symbols} - set(node.dims)
                if unknown:
                    raise Diagnostic(
                        "E0310", f"`{sorted(unknown)[0]}` is not a dimension of the record `{node.name}`", item.span,
                        help=f"declare it: `record {node.name}[{', '.join([*node.dims, *sorted(unknown)])}]`",
                    )  # fmt: skip
                fields.append((item.name, pattern))
            if not fields:
                raise Diagnostic(
                    "E0310", f"the record `{node.name}` holds no tensor", node.span,
                    help="static values alone are static parameters, after `*`",
                )  # fmt: skip
            module, dims = declared.unit.module, tuple(node.dims)
            found = RecordDef(node.name, module, dims, tuple(fields), tuple(statics), tuple(defaults))
            self._records[id(node)] = found
        return found

    def function(self, unit: Unit, node: ast.Function) -> Signature:
        """The signature of a function that need not be declared under its name."""
        operands: list[Operand] = []
        statics: list[Static] = []
        derived = _Derived({p.name for p in node.statics if p.type.name == "real"})
        seen: set[str] = set()
        for param in [*node.params, *node.statics]:
            if param.name in seen:
                raise Diagnostic("E0204", f"`{param.name}` is a parameter of `{node.name}` twice", param.span)
            seen.add(param.name)
        for param in node.params:
            pattern = self._of_kind(unit, node.kind, param.type, derived)
            optional = param.type.optional or isinstance(param.default, ast.NoneValue)
            if param.default is not None and not isinstance(param.default, ast.NoneValue):
                raise Diagnostic(
                    "E0405", f"`{param.name}` is a tensor, whose only default is `none`", param.default.span,
                    help="a number known when compiling is a static parameter, after `*`",
                )  # fmt: skip
            operands.append(Operand(param.name, pattern, optional))
            if isinstance(pattern, RecordPattern):
                record = pattern.record
                known = dict(record.defaults)
                statics += [
                    Static(f"{param.name}.{n}", kind, known.get(n, REQUIRED), optional) for n, kind in record.statics
                ]
        for param in node.statics:
            self._check_static(param.name, param.type, param.span)
            default = REQUIRED if param.default is None else self._default(unit, node.name, param)
            statics.append(Static(param.name, param.type.name, default, param.type.optional))
        results = []
        for result in node.results:
            condition = None if result.condition is None else self._condition(unit, result.condition)
            listed = result.type.name == "list" and result.type.dims is None and node.kind in ("fn", "layer")
            pattern = ListPattern("list", ()) if listed else self._of_kind(unit, node.kind, result.type, derived)
            results.append(Result(pattern, result.name, condition))
        made = tuple((name, self._derived_dim(unit, expr)) for name, expr in derived.exprs.items())
        return Signature(node.name, tuple(operands), tuple(statics), tuple(results), made)

    def _of_kind(self, unit: Unit, kind: str, type: ast.TypeExpr, derived: _Derived) -> Pattern | RecordPattern:
        """As :meth:`pattern`: what runs on the host has texts too, and inputs are ids of a vocabulary."""
        if kind in ("host", "flow") and type.name == TEXT.name and unit.find(TEXT.name) is None:
            found = self.pattern(unit, replace(type, name="u8"), derived)
            assert isinstance(found, Pattern)
            return replace(found, dtype=TEXT)
        return self.pattern(unit, erased(unit, type) if kind in ("model", "flow") else type, derived)

    def _derived_dim(self, unit: Unit, expr: ast.Expr) -> Callable[[Bindings], Dim]:
        """What a dimension that real parameters size is in one call. Raises E0310 when it is no integer."""

        def dim(bound: Bindings) -> Dim:
            value = self.elaborator.static(unit, expr, environment(bound))
            if isinstance(value, bool) or not isinstance(value, (int, Dim)):
                raise Diagnostic(
                    "E0310", f"a dimension is an integer expression, but this is {value}", expr.span,
                    help="round it: `ceil(keep * T)`, `floor(keep * T)` or `round(keep * T)`",
                )  # fmt: skip
            return as_dim(value)

        return dim

    @staticmethod
    def _check_static(name: str, type: ast.TypeExpr, span: Span | None) -> None:
        if type.dims is not None:
            raise Diagnostic(
                "E0402", f"`{name}` stands after `*`, so its type must be static, not `{type.name}[…]`", span,
                help="static types are int, real, bool, str, list, fn, dtype; tensors stand before `*`",
            )  # fmt: skip
        if type.name not in STATIC_KINDS:
            hint = {"float": "real", "f32": "real", "string": "str", "function": "fn", "i64": "int"}.get(type.name)
            raise Diagnostic(
                "E0402", f"there is no static type `{type.name}`", span,
                help=(f"write `{hint}`" if hint else did_you_mean(type.name, STATIC_KINDS))
                or "static types are int, real, bool, str, list, fn, dtype",
            )  # fmt: skip

    def pattern(self, unit: Unit, type: ast.TypeExpr, derived: _Derived | None = None) -> Pattern | RecordPattern:
        """A tensor or record type. Raises E0209 for an unknown type, E0310 for a record's wrong dimensions."""
        declared = unit.find(type.name)
        if declared is not None and isinstance(declared.node, ast.Record):
            record = self.record(declared)
            dims = tuple(self.dim(unit, d, derived) for d in type.dims or ())
            if len(dims) != len(record.dims):
                raise Diagnostic(
                    "E0310", f"`{record.name}` has {len(record.dims)} dimensions, but {len(dims)} are given", type.span,
                    help=f"write `{record.name}[{', '.join(record.dims)}]`",
                )  # fmt: skip
            return RecordPattern(record, dims)
        if type.name not in DTYPES and type.name not in KINDS:
            records = [n for n, d in unit.names.items() if isinstance(d.node, ast.Record)]
            if type.name in STATIC_KINDS:
                raise Diagnostic(
                    "E0209", f"`{type.name}` is no type of tensors", type.span,
                    help="static parameters stand after `*`: `(x: float[B, D], *, act: fn = gelu)`",
                )  # fmt: skip
            if is_ids(unit, type):
                raise Diagnostic(
                    "E0209", f"`{type.name}` is a type of a model's inputs only", type.span,
                    help="ids are `i64[…]` elsewhere; whose they are is followed from the input on",
                )  # fmt: skip
            raise Diagnostic(
                "E0209", f"there is no type `{type.name}`", type.span,
                help=_meant(type.name) or did_you_mean(type.name, [*DTYPES, *KINDS, *records])
                or "such as float, int, f32, i64, bool",
            )  # fmt: skip
        if type.dims is None:
            raise Diagnostic(
                "E0209", f"a tensor type has dimensions: `{type.name}[…]`", type.span,
                help=f"write `{type.name}[]` for a scalar tensor; static parameters stand after `*`",
            )  # fmt: skip
        shape = tuple(... if isinstance(d, ast.Ellipsis_) else self.dim(unit, d, derived) for d in type.dims)
        if shape.count(...) > 1:
            raise Diagnostic("E0310", "a type holds `...` at most once", type.span)
        return Pattern(DTYPES.get(type.name, type.name), shape)

    def dim(self, unit: Unit, expr: ast.Expr, derived: _Derived | None = None) -> Dim:
        """A dimension expression of a signature: unknown names are dimension symbols; one of reals is known in each call."""
        if isinstance(expr, ast.Name):
            declared = unit.find(expr.id)
            if declared is None or not isinstance(declared.node, ast.Const):
                return sym(expr.id)
        if isinstance(expr, ast.Int):
            return as_dim(expr.value)
        if derived is not None and not derived.reals.isdisjoint(names_in(expr)):
            return derived.symbol(expr)
        value = self.elaborator.static(unit, expr, _Symbols(unit))
        if isinstance(value, bool) or not isinstance(value, (int, Dim)):
            raise Diagnostic(
                "E0310", "a dimension is an integer expression", expr.span,
                help="round it: `ceil(keep * T)`, `floor(keep * T)` or `round(keep * T)`" if isinstance(value, Ratio) else None,
            )  # fmt: skip
        return as_dim(value)

    def _default(self, unit: Unit, function: str, param: ast.Param) -> Any:
        """The value of a parameter that is not given. Raises E0402 when it is of another kind."""
        expr = param.default
        assert expr is not None
        if isinstance(expr, ast.NoneValue):
            return None

        def default(bound: Bindings) -> Any:
            value = self.elaborator.static(unit, expr, environment(bound))
            kind, optional = param.type.name, param.type.optional
            return self.elaborator.calls.static_value(kind, optional, value, function, param.name, expr.span)

        return default(Bindings()) if isinstance(expr, (ast.Int, ast.Real, ast.Str, ast.Bool)) else default

    def _condition(self, unit: Unit, expr: ast.Expr) -> Callable[[Bindings], bool]:
        return lambda bound: bool(self.elaborator.static(unit, expr, environment(bound)))


def _written(expr: ast.Expr) -> str:
    """An expression as a short name for it."""
    if isinstance(expr, ast.Binary):
        return f"({_written(expr.left)} {expr.op} {_written(expr.right)})"
    if isinstance(expr, ast.Call):
        inner = ", ".join(_written(arg.value).removeprefix("(").removesuffix(")") for arg in expr.args)
        return f"{_written(expr.function)}({inner})"
    return expr.id if isinstance(expr, ast.Name) else str(getattr(expr, "value", "…"))


# What a dimension of a signature may call.
DIM_FUNCTIONS = frozenset({"min", "max", "ceildiv", "floor", "ceil", "round"})


class _Derived:
    """Dimensions that real parameters size: symbols called as they are written, until a call gives their values."""

    def __init__(self, reals: set[str]) -> None:
        self.reals = reals
        self.exprs: dict[str, ast.Expr] = {}

    def symbol(self, expr: ast.Expr) -> Dim:
        text = _written(expr)
        self.exprs[text] = expr
        return sym(text)


# Types as they are called elsewhere.
_TYPES = {d.long: d.name for d in DTYPES.values() if d.long != d.name} | {
    "half": "f16", "single": "f32", "double": "f64", "byte": "u8", "short": "i16", "long": "i64",
    "Tensor": "float", "tensor": "float", "Array": "float", "array": "float", "ndarray": "float", "FloatTensor": "float",
    "LongTensor": "int", "BoolTensor": "bool", "boolean": "bool", "integer": "int", "real": "float",
}  # fmt: skip


def _meant(name: str) -> str | None:
    if name in ("tuple", "Tuple"):
        return "several results stand in parentheses: `-> (float[B], float[B])`"
    if name in (TEXT.name, "string", "str"):
        return "`text[B]` is a type of pipelines, flows and host stages; a model takes ids, or bytes, `u8[B, N]`"
    return f"it is called `{_TYPES[name]}` here" if name in _TYPES else None


class _Symbols(dict[str, Any]):
    """An environment in which a name that is nothing else is a dimension symbol."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.unit = unit

    def __contains__(self, name: object) -> bool:
        return self.unit.find(str(name)) is None and str(name) not in DIM_FUNCTIONS

    def __getitem__(self, name: str) -> Any:
        return sym(name)


def environment(bound: Bindings) -> dict[str, Any]:
    """Names that a static expression of a signature may use: dimensions, static parameters, operands that are given."""
    from .builtin import known

    env: dict[str, Any] = {name: known(dim) for name, dim in bound.dims.items()}
    env.update(bound.statics)
    env.update((f"given {name}", True) for name in bound.given)
    env.update((f"dtype {kind}", dtype) for kind, dtype in bound.dtypes.items())
    return env
