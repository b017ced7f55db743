"""The pattern of a ``rewrite`` declaration as a tree of ir/pattern.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, did_you_mean
from ....ir.ops import OPS
from ....ir.pattern import Call, Number, Pattern, Scalar, Static, Var
from ....ir.signature import REQUIRED, Operand, RecordDef, RecordPattern, Signature
from ....ir.types import DTYPES
from ..syntax import ast
from .builtin import BINARY, BUILTIN
from .frame import Frame
from .library import Declared
from .values import DeclValue, OpValue, describe

if TYPE_CHECKING:
    from .elaborate import Elaborator


@dataclass(frozen=True)
class Named:
    """A result that the pattern gives a name: of which call, from which of its tensors on, and if it is a record, which one;
    ``record`` counts the records among the call's results."""

    call: Call
    first: int
    type: RecordDef | None = None
    record: int = 0


@dataclass(frozen=True)
class _Callee:
    name: str
    qualified: str
    signature: Signature


class PatternReader:
    """Reads a pattern. Names are the rule's parameters and the results named before; operators and calls are ops; numbers
    are scalar constants."""

    def __init__(self, elaborator: Elaborator, declared: Declared, signature: Signature) -> None:
        self.elaborator = elaborator
        self.declared = declared
        self.tensors = {o.name: o.optional for o in signature.operands if not isinstance(o.type, RecordPattern)}
        self.records = {o.name: o for o in signature.operands if isinstance(o.type, RecordPattern)}
        self.statics = {s.name for s in signature.statics if "." not in s.name}
        self.named: dict[str, Named] = {}
        self.frame = Frame(elaborator, declared.unit, {})
        self._unnamed = 0

    def read(self, node: ast.Rewrite) -> Call:
        """The root of the pattern.

        Raises:
            Diagnostic: E0405 when it is no call or operator, or holds no occurrence of a parameter; E0204 and E0205 for a
                name that is taken, E0404 for too many or too few, E0208 for a call of what is no op.
        """
        for naming in node.named:
            self._naming(naming)
        found = self._pattern(node.pattern)
        if not isinstance(found, Call) or isinstance(node.pattern, (ast.Name, ast.Attribute)):
            raise Diagnostic("E0405", "a pattern is a call or an operator, such as `neg(neg(x))`", node.pattern.span)
        self._check_complete(node, found)
        return found

    def _naming(self, naming: ast.Assign) -> None:
        spans = naming.target_spans or [naming.span] * len(naming.targets)
        for i, (name, span) in enumerate(zip(naming.targets, spans, strict=True)):
            if name in BUILTIN:
                raise Diagnostic("E0205", f"`{name}` is built in and cannot be assigned", span)
            if name in {*self.tensors, *self.records, *self.statics, *self.named, *naming.targets[:i]}:
                raise Diagnostic("E0204", f"`{name}` is a name of this rule twice", span)
        call = self._pattern(naming.value)
        if not isinstance(call, Call) or isinstance(naming.value, (ast.Name, ast.Attribute)):
            raise Diagnostic("E0405", "a name before the pattern stands for results of a call", naming.value.span)
        results = self._callee(naming.value).signature.results
        if len(results) < len(naming.targets) or (
            len(results) > len(naming.targets) and results[len(naming.targets)].condition is None
        ):
            raise Diagnostic("E0404", f"{len(naming.targets)} name(s) for {len(results)} result(s)", naming.span)
        leaves: list[str] = []
        places: list[tuple[str, int, RecordDef | None, int]] = []
        records = 0
        for name, result in zip(naming.targets, results, strict=False):
            record = result.type.record if isinstance(result.type, RecordPattern) else None
            places.append((name, len(leaves), record, records))
            records += record is not None
            leaves += [name] if record is None else [f"{name}.{field}" for field, _ in record.fields]
        call = replace(call, names=tuple(leaves))
        self.named.update((name, Named(call, first, type, nth)) for name, first, type, nth in places)

    def _check_complete(self, node: ast.Rewrite, root: Call) -> None:
        """Whatever a rule names must be found by matching: else it could never fire, or not be written."""
        held: set[str] = set()
        _names(root, held)
        heads = {name.split(".")[0] for name in held}
        for naming in node.named:
            if not heads & set(naming.targets):
                names = "`, `".join(naming.targets)
                raise Diagnostic("E0405", f"the pattern mentions none of `{names}`", naming.span)
        for param in [*node.params, *node.statics]:
            record = self.records.get(param.name)
            wanted = {name for name, _ in record.leaves()} if record is not None else {param.name}
            given = (
                self.tensors.get(param.name) or (record is not None and record.optional) or param.default is not None
            )
            if not given and not wanted <= held:
                raise Diagnostic(
                    "E0405", f"the pattern does not hold {_missing(param.name, wanted - held)}, so nothing would bind it",
                    param.span or node.pattern.span,
                )  # fmt: skip

    # Expressions -------------------------------------------------------------------------------------------------

    def _pattern(self, expr: ast.Expr) -> Pattern:
        leaf = self._leaf(expr)
        if leaf is not None:
            return leaf
        if isinstance(expr, ast.Name) and expr.id in self.statics:
            return Scalar(expr.id)
        number = _number(expr)
        if number is not None:
            return Number(number)
        if isinstance(expr, (ast.Unary, ast.Binary)):
            return self._operator(expr)
        if isinstance(expr, ast.Call):
            return self._call(expr)
        shown = f"`{expr.id}`" if isinstance(expr, ast.Name) else "this"
        names = [*self.tensors, *self.records, *self.statics, *self.named]
        record = isinstance(expr, ast.Name) and (expr.id in self.records or expr.id in self.named)
        raise Diagnostic(
            "E0506" if record else "E0405",
            f"{shown} is a record, and stands only where an op takes one" if record else
            f"{shown} cannot stand in a pattern: it is made of the rule's parameters, calls, operators and numbers",
            expr.span,
            help=did_you_mean(expr.id, names) if isinstance(expr, ast.Name) and not record else None,
        )  # fmt: skip

    def _leaf(self, expr: ast.Expr) -> Pattern | None:
        """A tensor by its name: a parameter, a named result, or the field of a record."""
        if isinstance(expr, ast.Name):
            if expr.id in self.tensors:
                return Var(expr.id, self.tensors[expr.id])
            named = self.named.get(expr.id)
            return replace(named.call, result=named.first) if named is not None and named.type is None else None
        if not isinstance(expr, ast.Attribute):
            return None
        found = self._record(expr.value)
        if found is None:
            return None
        _, record, fields = found
        for (name, _), pattern in zip(record.fields, fields, strict=True):
            if name == expr.name:
                return pattern
        names = [n for n, _ in record.fields]
        raise Diagnostic(
            "E0203", f"the record {record.name} has no tensor `{expr.name}`", expr.span,
            help=did_you_mean(expr.name, names) or f"its tensors are {', '.join(names)}",
        )  # fmt: skip

    def _record(self, expr: ast.Expr) -> tuple[str, RecordDef, list[Pattern]] | None:
        """A record, and the name that it has here or is given: with the patterns of its fields."""
        if isinstance(expr, ast.Call):
            return self._returned(expr)
        if not isinstance(expr, ast.Name):
            return None
        operand = self.records.get(expr.id)
        if operand is not None:
            assert isinstance(operand.type, RecordPattern)
            return expr.id, operand.type.record, [Var(name, operand.optional) for name, _ in operand.leaves()]
        named = self.named.get(expr.id)
        if named is None or named.type is None:
            return None
        fields = range(named.first, named.first + len(named.type.fields))
        return expr.id, named.type, [replace(named.call, result=i) for i in fields]

    def _returned(self, expr: ast.Call) -> tuple[str, RecordDef, list[Pattern]] | None:
        """The record that a call of an op gives back."""
        name = expr.function.id if isinstance(expr.function, ast.Name) else ""
        declared = self.declared.unit.find(name)
        if declared is None or not isinstance(declared.node, ast.Function):
            return None
        results = self._callee(expr).signature.results
        record = results[0].type.record if len(results) == 1 and isinstance(results[0].type, RecordPattern) else None
        if record is None:
            return None
        # A name of its own, which no program can write: its fields must be those of one node.
        self._unnamed += 1
        own = f"{self._unnamed} {name}"
        call = replace(self._call(expr), names=tuple(f"{own}.{field}" for field, _ in record.fields))
        return own, record, [replace(call, result=i) for i in range(len(record.fields))]

    def _operator(self, expr: ast.Unary | ast.Binary) -> Call:
        if isinstance(expr, ast.Unary):
            return Call("neg" if expr.op == "-" else "logical_not", (self._pattern(expr.operand),), span=expr.span)
        left = self._pattern(expr.left)
        exponent = _number(expr.right) if expr.op == "**" else None
        # What the evaluator makes of these powers.
        if exponent == 2:
            return Call("mul", (left, left), span=expr.span)
        if exponent in (0.5, -0.5):
            return Call("sqrt" if exponent == 0.5 else "rsqrt", (left,), span=expr.span)
        if expr.op not in BINARY:
            raise Diagnostic("E0405", f"`{expr.op}` is no op, and stands only behind `where`", expr.span)
        return Call(BINARY[expr.op], (left, self._pattern(expr.right)), span=expr.span)

    # Calls -------------------------------------------------------------------------------------------------------

    def _callee(self, expr: ast.Expr) -> _Callee:
        """The op that an expression applies last."""
        if isinstance(expr, (ast.Unary, ast.Binary)):
            op = OPS[self._operator(expr).op]
            return _Callee(op.name, op.qualified, op.signature)
        assert isinstance(expr, ast.Call)
        name = expr.function.id if isinstance(expr.function, ast.Name) else ""
        callee = OpValue(OPS[name]) if name in OPS else self.frame.eval(expr.function)
        if isinstance(callee, OpValue):
            return _Callee(callee.op.name, callee.op.qualified, callee.op.signature)
        node = callee.declared.node if isinstance(callee, DeclValue) else None
        if not isinstance(node, ast.Function) or node.kind != "op":
            raise Diagnostic(
                "E0208",
                f"a pattern calls core ops and `op`s, not {describe(callee)}",
                expr.span,
                help="an `fn` or `layer` is gone once a model is elaborated: write what it consists of",
            )
        composite = self.elaborator.composite(callee.declared)
        return _Callee(composite.name, composite.qualified, composite.signature)

    def _call(self, expr: ast.Call) -> Call:
        callee = self._callee(expr)
        signature = callee.signature
        operands: dict[str, ast.Expr] = {}
        rest: list[Pattern] = []
        attrs: dict[str, Any] = {}
        free = [o.name for o in signature.operands if not o.variadic]
        free_statics = [s.name for s in signature.statics if "." not in s.name]
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
                rest.append(self._pattern(arg.value))
                continue
            if name is not None and name in free:
                free.remove(name)
                operands[name] = arg.value
            elif name is not None and name in free_statics and name not in attrs:
                attrs[name] = self._static(arg.value)
            else:
                shown = f"has no parameter `{name}`" if name else "takes fewer arguments"
                raise Diagnostic("E0403", f"`{signature.name}` {shown}", arg.value.span or expr.span)
        inputs: list[Pattern | None] = []
        for operand in signature.operands:
            if operand.variadic:
                inputs += rest
            elif operand.name not in operands:
                if not operand.optional:
                    raise Diagnostic("E0404", f"`{signature.name}` needs `{operand.name}`", expr.span)
                inputs += [None] * len(operand.leaves())
            elif isinstance(operand.type, RecordPattern):
                inputs += self._record_operand(operand, operand.type.record, operands[operand.name], attrs)
            else:
                inputs.append(self._pattern(operands[operand.name]))
        for parameter in signature.statics:
            if parameter.default is REQUIRED and parameter.name not in attrs and "." not in parameter.name:
                raise Diagnostic(
                    "E0401", f"`{signature.name}` needs the static parameter `{parameter.name}`", expr.span
                )
        return Call(callee.qualified, tuple(inputs), tuple(attrs.items()), span=expr.span)

    def _record_operand(
        self, operand: Operand, record: RecordDef, expr: ast.Expr, attrs: dict[str, Any]
    ) -> Sequence[Pattern]:
        """The tensors of a record that is an operand; what is static about it goes into ``attrs``."""
        found = self._record(expr)
        if found is not None and found[1] == record:
            attrs.update((f"{operand.name}.{name}", Static(f"{found[0]}.{name}")) for name, _ in record.statics)
            return found[2]
        made = self.frame.eval(expr.function) if isinstance(expr, ast.Call) else None
        if not isinstance(expr, ast.Call) or not isinstance(made, DeclValue) or made.declared.node.name != record.name:
            raise Diagnostic(
                "E0310", f"`{operand.name}` must be a record {record.name}", expr.span,
                help=f"a parameter of the rule, a named result, or `{record.name}(…)`",
            )  # fmt: skip
        names = [n for n, _ in (*record.fields, *record.statics)]
        given = self._fields(expr, record, names)
        attrs.update((f"{operand.name}.{name}", self._static(given[name])) for name, _ in record.statics)
        return [self._pattern(given[name]) for name, _ in record.fields]

    def _fields(self, expr: ast.Call, record: RecordDef, names: list[str]) -> dict[str, ast.Expr]:
        given: dict[str, ast.Expr] = {}
        for i, arg in enumerate(expr.args):
            name = arg.name or (names[i] if i < len(names) else "")
            if name not in names or name in given:
                raise Diagnostic(
                    "E0203", f"the record {record.name} has no field `{name}`, or has it already", arg.value.span,
                    help=did_you_mean(name, names) or f"its fields are {', '.join(names)}",
                )  # fmt: skip
            given[name] = arg.value
        for name in names:
            if name not in given:
                raise Diagnostic("E0404", f"the record {record.name} needs a value for `{name}`", expr.span)
        return given

    # Static values -----------------------------------------------------------------------------------------------

    def _is_static(self, expr: ast.Expr) -> bool:
        return isinstance(expr, (ast.Str, ast.ListExpr, ast.Bool, ast.NoneValue)) or (
            isinstance(expr, ast.Name) and (expr.id in self.statics or expr.id in DTYPES)
        )

    def _static(self, expr: ast.Expr) -> Any:
        if isinstance(expr, ast.Name) and expr.id in self.statics:
            return Static(expr.id)
        if isinstance(expr, ast.Attribute) and isinstance(expr.value, ast.Name):
            found = self._record(expr.value)
            if found is not None and expr.name in dict(found[1].statics):
                return Static(f"{found[0]}.{expr.name}")
        value = self.frame.eval(expr)
        return self.elaborator.attribute(value)


def _names(pattern: Pattern | None, into: set[str]) -> None:
    if isinstance(pattern, (Var, Scalar)):
        into.add(pattern.name)
    elif isinstance(pattern, Call):
        into.update(pattern.names)
        into.update(value.name for _, value in pattern.attrs if isinstance(value, Static))
        for inner in pattern.inputs:
            _names(inner, into)


def _missing(name: str, leaves: set[str]) -> str:
    return f"`{'`, `'.join(sorted(leaves))}`" if leaves and leaves != {name} else f"`{name}`"


def _number(expr: ast.Expr) -> float | None:
    if isinstance(expr, (ast.Int, ast.Real)):
        return float(expr.value)
    if isinstance(expr, ast.Unary) and expr.op == "-":
        inner = _number(expr.operand)
        return None if inner is None else -inner
    return None
