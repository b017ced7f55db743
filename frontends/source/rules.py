"""``rewrite`` declarations as rules: the pattern becomes a tree, the replacement is elaborated at each match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, did_you_mean
from ...ir.graph import Value
from ...ir.op import Op
from ...ir.ops import OPS
from ...ir.pattern import Call, Match, Number, Pattern, Rule, Scalar, Static, Var
from ...ir.signature import REQUIRED, Bindings, RecordPattern, Signature
from ...ir.types import DTYPES
from . import ast
from .builtin import BINARY
from .frame import Frame
from .library import Declared
from .signatures import environment
from .values import DeclValue, Multi, OpValue, describe

if TYPE_CHECKING:
    from .elaborate import Elaborator


def rule_of(elaborator: Elaborator, declared: Declared) -> Rule:
    """The rule of a ``rewrite`` declaration.

    Raises:
        Diagnostic: E0208 when the pattern calls what is no op, E0405 when it is no tree of calls, variables and numbers.
    """
    node = declared.node
    assert isinstance(node, ast.Rewrite)
    function = ast.Function("fn", node.name, node.params, node.statics, [], [], span=node.span)
    # Not `of`, which remembers signatures by the identity of a declaration; this one is made here.
    signature = elaborator.signatures.function(declared.unit, function)
    pattern = _PatternReader(elaborator, declared, signature).call(node.pattern)
    optional = [o.name for o in signature.operands if o.optional]

    def environment_of(match: Match) -> dict[str, Any]:
        bound = match.bindings or Bindings()
        env = {k: v for k, v in environment(bound).items() if not k.startswith("given ")}
        return {**env, **dict.fromkeys(optional), **match.statics, **match.tensors}

    def replace(builder: Builder, match: Match) -> Sequence[Value]:
        dtypes = dict(match.bindings.dtypes) if match.bindings else {}
        frame = Frame(elaborator, declared.unit, environment_of(match), builder=builder, dtypes=dtypes, kind="op")
        value = frame.eval(node.replacement)
        items = value.items if isinstance(value, Multi) else (value,)
        for item in items:
            if not isinstance(item, Value):
                raise Diagnostic(
                    "E0506", f"the replacement must be a tensor, not {describe(item)}", node.replacement.span
                )
        return items

    def where(match: Match) -> bool | str:
        assert node.condition is not None
        try:
            holds = elaborator.static(declared.unit, node.condition, environment_of(match))
        except Diagnostic as error:
            # What is not known, or cannot be computed of these sizes, does not hold.
            if error.code not in ("E0402", "E0407"):
                raise
            return error.message
        return True if holds is True else "the `where` condition does not hold"

    return Rule(
        node.name,
        node.contract,
        pattern,
        replace,
        where if node.condition is not None else None,
        signature,
        node.doc or "",
        node.span,
    )


class _PatternReader:
    """Reads a pattern. Names are the rule's parameters; operators and calls are ops; numbers are scalar constants."""

    def __init__(self, elaborator: Elaborator, declared: Declared, signature: Signature) -> None:
        self.elaborator = elaborator
        self.declared = declared
        self.tensors = {o.name: o.optional for o in signature.operands}
        self.statics = {s.name for s in signature.statics}
        self.frame = Frame(elaborator, declared.unit, {})

    def call(self, expr: ast.Expr) -> Call:
        """The root of a pattern, which must be a call or an operator."""
        found = self.pattern(expr)
        if not isinstance(found, Call):
            raise Diagnostic("E0405", "a pattern is a call or an operator, such as `neg(neg(x))`", expr.span)
        return found

    def pattern(self, expr: ast.Expr) -> Pattern:
        if isinstance(expr, ast.Name) and expr.id in self.tensors:
            return Var(expr.id, self.tensors[expr.id])
        if isinstance(expr, ast.Name) and expr.id in self.statics:
            return Scalar(expr.id)
        number = _number(expr)
        if number is not None:
            return Number(number)
        if isinstance(expr, ast.Unary):
            name = "neg" if expr.op == "-" else "logical_not"
            return Call(name, (self.pattern(expr.operand),), span=expr.span)
        if isinstance(expr, ast.Binary):
            return self._binary(expr)
        if isinstance(expr, ast.Call):
            return self._call(expr)
        shown = f"`{expr.id}`" if isinstance(expr, ast.Name) else "this"
        names = [*self.tensors, *self.statics]
        raise Diagnostic(
            "E0405",
            f"{shown} cannot stand in a pattern: it is made of the rule's parameters, calls, operators and numbers",
            expr.span,
            help=did_you_mean(expr.id, names) if isinstance(expr, ast.Name) else None,
        )

    def _binary(self, expr: ast.Binary) -> Call:
        left = self.pattern(expr.left)
        exponent = _number(expr.right) if expr.op == "**" else None
        # What the evaluator makes of these powers.
        if exponent == 2:
            return Call("mul", (left, left), span=expr.span)
        if exponent in (0.5, -0.5):
            return Call("sqrt" if exponent == 0.5 else "rsqrt", (left,), span=expr.span)
        return Call(BINARY[expr.op], (left, self.pattern(expr.right)), span=expr.span)

    def _call(self, expr: ast.Call) -> Call:
        name = expr.function.id if isinstance(expr.function, ast.Name) else ""
        callee = OpValue(OPS[name]) if name in OPS else self.frame.eval(expr.function)
        if isinstance(callee, OpValue):
            op: Op = callee.op
            return self._bound(expr, op.signature, op.qualified)
        node = callee.declared.node if isinstance(callee, DeclValue) else None
        if not isinstance(node, ast.Function) or node.kind != "op":
            raise Diagnostic(
                "E0208",
                f"a pattern calls core ops and `op`s, not {describe(callee)}",
                expr.span,
                help="an `fn` or `layer` is gone once a model is elaborated: write what it consists of",
            )
        composite = self.elaborator.composite(callee.declared)
        return self._bound(expr, composite.signature, composite.qualified)

    def _bound(self, expr: ast.Call, signature: Signature, qualified: str) -> Call:
        operands: dict[str, Pattern] = {}
        rest: list[Pattern] = []
        attrs: dict[str, Any] = {}
        free = [o.name for o in signature.operands if not o.variadic]
        free_statics = [s.name for s in signature.statics]
        variadic = bool(signature.operands) and signature.operands[-1].variadic
        for arg in expr.args:
            name = arg.name
            static = next((s for s in free_statics if s not in attrs), None)
            # A static parameter of the rule may also stand for a number among the operands: `maximum(x, c)`.
            scalar = isinstance(arg.value, ast.Name) and static is None
            if name is None and self._is_static(arg.value) and not scalar:
                name = static
            elif name is None and free:
                name = free[0]
            elif name is None and variadic:
                rest.append(self.pattern(arg.value))
                continue
            if name is not None and name in free:
                free.remove(name)
                operands[name] = self.pattern(arg.value)
            elif name is not None and name in free_statics and name not in attrs:
                attrs[name] = self._static(arg.value)
            else:
                shown = f"has no parameter `{name}`" if name else "takes fewer arguments"
                raise Diagnostic("E0403", f"`{signature.name}` {shown}", arg.value.span or expr.span)
        inputs: list[Pattern | None] = []
        for operand in signature.operands:
            if operand.variadic:
                inputs += rest
            elif isinstance(operand.type, RecordPattern):
                raise Diagnostic("E0405", f"`{signature.name}` takes a record, which no pattern matches yet", expr.span)
            elif operand.name in operands:
                inputs.append(operands[operand.name])
            elif operand.optional:
                inputs.append(None)
            else:
                raise Diagnostic("E0404", f"`{signature.name}` needs `{operand.name}`", expr.span)
        for parameter in signature.statics:
            if parameter.default is REQUIRED and parameter.name not in attrs:
                raise Diagnostic(
                    "E0401", f"`{signature.name}` needs the static parameter `{parameter.name}`", expr.span
                )
        return Call(qualified, tuple(inputs), tuple(attrs.items()), span=expr.span)

    def _is_static(self, expr: ast.Expr) -> bool:
        return isinstance(expr, (ast.Str, ast.ListExpr, ast.Bool, ast.NoneValue)) or (
            isinstance(expr, ast.Name) and (expr.id in self.statics or expr.id in DTYPES)
        )

    def _static(self, expr: ast.Expr) -> Any:
        if isinstance(expr, ast.Name) and expr.id in self.statics:
            return Static(expr.id)
        value = self.frame.eval(expr)
        return self.elaborator.attribute(value)


def _number(expr: ast.Expr) -> float | None:
    if isinstance(expr, (ast.Int, ast.Real)):
        return float(expr.value)
    if isinstance(expr, ast.Unary) and expr.op == "-":
        inner = _number(expr.operand)
        return None if inner is None else -inner
    return None
