"""Calls: arguments are bound to a signature; the callee is inlined (fn, layer, model) or becomes a node (an op)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....ir.declarations import LOCAL, references
from ....ir.diagnostics import Diagnostic, Span, did_you_mean
from ....ir.dims.dim import Dim
from ....ir.graph import Value
from ....ir.op import FuncRef, Op
from ....ir.ops import OPS
from ....ir.signature import Bindings, Operand, Pattern, RecordDef, RecordPattern, Signature
from ....ir.types import DTYPES, DType
from ..syntax import ast
from .blame import blame_call, blame_user
from .builtin import STATIC_FUNCTIONS
from .cycles import recursion
from .evaluate import join
from .frame import Frame
from .inputs import finish_states
from .partial import instances, partial, sharing, unwrapped
from .records import construct
from .results import check_results
from .scans import scan, stack
from .signatures import environment
from .values import (
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
    static_kind,
)  # fmt: skip

if TYPE_CHECKING:
    from .elaborate import Elaborator
    from .library import Declared

Argument = tuple[str | None, Any, Span | None]


class Calls:
    """How each kind of callee is called. One for each elaborator."""

    def __init__(self, elaborator: Elaborator) -> None:
        self.elaborator = elaborator
        self._active: list[tuple[Any, ...]] = []

    def call(self, frame: Frame, e: ast.Call, scope: str = "") -> Any:
        """Evaluate a call expression; ``scope`` is what ``as`` gave."""
        if isinstance(e.function, ast.Name) and e.function.id == "given":
            return self._given(frame, e)
        given = [a.value for a in e.args]
        try:
            callee = frame.eval(e.function)
        except Diagnostic as error:
            raise frame.also(error, given) from None
        arguments = [(a.name, v, a.value.span) for a, v in zip(e.args, frame.each(given), strict=True)]
        try:
            return self.apply(frame, callee, arguments, e.span, scope)
        except Diagnostic as error:
            from .remedies import of_call

            raise of_call(error, e, frame.unit, callee) from None

    def apply(self, frame: Frame, callee: Any, arguments: list[Argument], span: Span | None, scope: str = "") -> Any:
        """Call a function value with evaluated arguments."""
        for _, value, where in arguments:
            if isinstance(value, Multi):
                raise Diagnostic(
                    "E0404", f"{describe(value)} cannot be one argument", where, help="name them first: `a, b = …`"
                )
        if isinstance(callee, FuncRef):
            callee = self.elaborator.function_value(callee, span)
        callee, arguments, scope, instance = unwrapped(frame, callee, arguments, scope)
        if isinstance(callee, (DeclValue, OpValue)):
            value = partial(self, frame, callee, arguments, scope)
            if value is not None:
                return value
        if isinstance(callee, DeclValue):
            try:
                return self._declared(frame, callee.declared, arguments, span, scope, instance)
            except Diagnostic as error:
                # The default of a static parameter is computed before there is a body.
                for one in (error, *error.others):
                    blame_user(one, span)
                raise
        if isinstance(callee, OpValue):
            return self._core(frame, callee.op, arguments, span)
        if isinstance(callee, BuiltinValue):
            return self._builtin(frame, callee.name, arguments, span)
        raise Diagnostic(
            "E0208", f"{describe(callee)} is not a function", span,
            help="to multiply write `a * (…)`" if is_tensor(callee) else None,
        )  # fmt: skip

    # Built-in ------------------------------------------------------------------------------------------------------

    def _given(self, frame: Frame, e: ast.Call) -> bool:
        if len(e.args) != 1 or not isinstance(e.args[0].value, ast.Name):
            raise Diagnostic("E0405", "`given` takes the name of one optional parameter", e.span)
        name = e.args[0].value.id
        if f"given {name}" in frame.env:
            return True
        if name not in frame.env and frame.builder is None:
            return False
        return frame.eval(e.args[0].value) is not None

    def _builtin(self, frame: Frame, name: str, arguments: list[Argument], span: Span | None) -> Any:
        if name == "where" and arguments and isinstance(arguments[0][1], bool):
            if len(arguments) != 3:
                raise Diagnostic("E0404", "`where` takes a condition and two values", span)
            return arguments[1 if arguments[0][1] else 2][1]
        if name == "scan":
            return scan(self, frame, arguments, span)
        if name == "stack":
            return stack(frame, arguments, span)
        if name in OPS and any(isinstance(v, Value) for _, v, _ in arguments):
            return self._core(frame, OPS[name], arguments, span)
        if name == "sum" and len(arguments) == 1 and holds_tensors(arguments[0][1]):
            return self._sum(frame, arguments[0][1], span)
        if name in OPS and (value := partial(self, frame, OpValue(OPS[name]), arguments, "")) is not None:
            return value
        function = STATIC_FUNCTIONS.get(name)
        for keyword, value, where in arguments:
            if keyword is not None:
                raise Diagnostic("E0403", f"`{name}` of static values has no parameter `{keyword}`", where)
            if isinstance(value, (Value, Bundle)):
                raise Diagnostic("E0505", f"`{name}` takes static values, not {describe(value)}", where)
        if function is None:
            raise Diagnostic("E0506", f"`{name}` needs a tensor", span)
        try:
            return function(*(v for _, v, _ in arguments))
        except Diagnostic as error:
            error.span = span
            raise
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            shown = ", ".join(describe(v) for _, v, _ in arguments)
            raise Diagnostic("E0402", f"`{name}` cannot be applied to {shown or 'nothing'}", span) from None

    def _sum(self, frame: Frame, items: tuple[Any, ...], span: Span | None) -> Any:
        """The sum of a list of tensors."""
        total = items[0]
        for item in items[1:]:
            total = self.apply(frame, OpValue(OPS["add"]), [(None, total, span), (None, item, span)], span)
        return total

    def _core(self, frame: Frame, op: Op, arguments: list[Argument], span: Span | None) -> Any:
        extra: dict[str, Any] = {}
        if op.open_attrs:
            known = {s.name for s in op.signature.statics} | {o.name for o in op.signature.operands}
            axes = [(n, v) for n, v, _ in arguments if n is not None and n not in known]
            for name, value in axes:
                if isinstance(value, bool) or not isinstance(value, (int, Dim)):
                    raise Diagnostic(
                        "E0402", f"the size of axis `{name}` must be an integer, not {describe(value)}", span
                    )
            arguments = [a for a in arguments if a[0] is None or a[0] in known]
            extra = {"axes": tuple(axes)} if axes else {}
        operands, statics, spans = self.bind(frame, op.signature, arguments, span)
        outputs = frame.emit(op, operands, {**statics, **extra}, span, spans=spans)
        return outputs[0] if len(outputs) == 1 else Multi(tuple(outputs))

    # Binding -------------------------------------------------------------------------------------------------------

    def bind(
        self, frame: Frame, signature: Signature, arguments: list[Argument], span: Span | None, inlined: bool = False
    ) -> tuple[list[Any], dict[str, Any], list[Span | None]]:
        """Arguments as (one tensor or None for each leaf, static values, spans of the leaves). What is ``inlined`` may be given
        lists of tensors.

        Raises:
            Diagnostic: E0402 kind, E0403 unknown, E0404 count, E0406 twice, E0303 dtype of a literal, E0310 record, E0505 a list
                of tensors for an op.
        """
        values: dict[str, tuple[Any, Span | None]] = {}
        rest: list[tuple[Any, Span | None]] = []
        operand_names = [o.name for o in signature.operands if not o.variadic]
        static_names = [s.name for s in signature.statics if "." not in s.name]
        variadic = bool(signature.operands) and signature.operands[-1].variadic
        free_operands, free_statics = list(operand_names), list(static_names)
        for name, value, where in arguments:
            if name is None:
                tensorial = isinstance(value, (Value, Bundle)) or (
                    bool(free_operands) and (value is None or isinstance(value, (int, float, Dim)))
                )
                if isinstance(value, Value) and variadic and not free_operands:
                    rest.append((value, where))
                    continue
                if holds_tensors(value) and variadic and not free_operands:
                    rest += [(item, where) for item in value]
                    continue
                slots = free_operands if tensorial else free_statics
                if not slots:
                    what = "tensor" if tensorial else "static"
                    count = len(operand_names) if tensorial else len(static_names)
                    raise Diagnostic(
                        "E0404", f"`{signature.name}` takes {count} {what} argument(s), but more are given", where
                    )
                name = slots[0]
            elif name not in operand_names and name not in static_names:
                raise Diagnostic(
                    "E0403", f"`{signature.name}` has no parameter `{name}`", where,
                    help=did_you_mean(name, [*operand_names, *static_names])
                    or f"its parameters are {', '.join([*operand_names, *static_names]) or 'none'}",
                )  # fmt: skip
            if name in values:
                raise Diagnostic("E0406", f"`{name}` of `{signature.name}` is given twice", where)
            values[name] = (value, where)
            for slots in (free_operands, free_statics):
                if name in slots:
                    slots.remove(name)
        statics: dict[str, Any] = {}
        for static in signature.statics:
            if static.name in values:
                value, where = values[static.name]
                if not inlined and next(instances([value]), None) is not None:
                    raise Diagnostic(
                        "E0505", f"`{static.name}` of `{signature.name}` cannot be {describe(value)}: an op owns no weights", where,
                        help="a `fn` or `layer` takes a function with weights; an op takes one without",
                    )  # fmt: skip
                if holds_tensors(value) and not inlined:
                    raise Diagnostic(
                        "E0505", f"`{static.name}` of `{signature.name}` must be known when compiling, but is {describe(value)}",
                        where, help="a `fn` or `layer` takes a list of tensors; an op takes its tensors one by one",
                    )  # fmt: skip
                statics[static.name] = self.static_value(
                    static.kind, static.optional, value, signature.name, static.name, where
                )
        operands, spans = self._operands(frame, signature, values, rest, span)
        for operand in signature.operands:
            bundle = values.get(operand.name, (None, None))[0]
            if isinstance(bundle, Bundle):
                statics.update((f"{operand.name}.{n}", v) for n, v in bundle.statics.items())
        return operands, statics, spans

    def _operands(
        self, frame: Frame, signature: Signature, values: dict[str, tuple[Any, Span | None]],
        rest: list[tuple[Any, Span | None]], span: Span | None,
    ) -> tuple[list[Any], list[Span | None]]:  # fmt: skip
        leaves: list[Any] = []
        spans: list[Span | None] = []
        for operand in signature.operands:
            if operand.variadic:
                leaves += [frame.local(v) for v, _ in rest]
                spans += [where for _, where in rest]
                continue
            value, where = values.get(operand.name, (None, None))
            if operand.name not in values and not operand.optional:
                raise Diagnostic(
                    "E0404", f"`{signature.name}` needs `{operand.name}: {operand.type}`", span,
                    help=f"write `{signature.name}({', '.join(o.name for o in signature.operands)}, …)`",
                )  # fmt: skip
            for item in self._leaves(frame, signature, operand, value, where, values):
                leaves.append(item)
                spans.append(where)
        return leaves, spans

    def _leaves(
        self, frame: Frame, signature: Signature, operand: Operand, value: Any, where: Span | None,
        values: dict[str, tuple[Any, Span | None]],
    ) -> list[Any]:  # fmt: skip
        if isinstance(operand.type, RecordPattern):
            record = operand.type.record
            if value is None:
                return [None] * len(record.fields)
            if not isinstance(value, Bundle) or value.record != record:
                raise Diagnostic(
                    "E0310",
                    f"`{operand.name}` of `{signature.name}` must be a record {record.name}, not {describe(value)}",
                    where,
                )
            return [frame.local(value.fields[name]) for name, _ in record.fields]
        if value is None:
            return [None]
        if is_tensor(value):
            return [frame.local(value)]
        if isinstance(value, (int, float, Dim)) and frame.builder is not None:
            return [
                frame.local(frame.scalar(value, self._literal_dtype(operand.type, signature, values, value), where))
            ]
        raise Diagnostic(
            "E0506", f"`{operand.name}` of `{signature.name}` must be a tensor, not {describe(value)}", where
        )

    @staticmethod
    def _literal_dtype(
        pattern: Pattern, signature: Signature, values: dict[str, tuple[Any, Span | None]], value: Any
    ) -> DType:
        """A literal takes the dtype of the tensors that share its dtype variable."""
        if isinstance(pattern.dtype, DType):
            return pattern.dtype
        for operand in signature.operands:
            if isinstance(operand.type, Pattern) and operand.type.dtype == pattern.dtype:
                other = values.get(operand.name, (None, None))[0]
                if isinstance(other, Value):
                    return other.type.dtype
        return DTYPES["bool" if isinstance(value, bool) else "f32" if isinstance(value, float) else "i64"]

    def static_value(self, kind: str, optional: bool, value: Any, function: str, name: str, where: Span | None) -> Any:
        """A static argument, checked against its kind and brought to the form of an attribute."""
        if isinstance(value, (Value, Bundle)):
            raise Diagnostic(
                "E0505",
                f"`{name}` of `{function}` is static: it must be known when compiling, not {describe(value)}",
                where,
            )
        if kind == "any" or (value is None and (optional or kind == "fn")):
            return self.elaborator.attribute(value)
        if kind == "real" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if kind == "dtype" and isinstance(value, KindValue):
            raise Diagnostic("E0402", f"`{value.kind}` has no dtype here; name one, such as f32", where)
        found = static_kind(value)
        if found != kind:
            raise Diagnostic(
                "E0402", f"`{name}` of `{function}` must be of kind `{kind}`, but is {describe(value)}", where
            )
        return self.elaborator.attribute(value)

    # Declared ------------------------------------------------------------------------------------------------------

    def _declared(
        self, frame: Frame, declared: Declared, arguments: list[Argument], span: Span | None, scope: str,
        instance: Instance | None,
    ) -> Any:  # fmt: skip
        node = declared.node
        if isinstance(node, ast.Record):
            return construct(self, frame, declared, arguments, span)
        if not isinstance(node, ast.Function):
            raise Diagnostic("E0208", f"`{node.name}` is not a function", span)
        self.elaborator.check_cycles(declared)
        self.elaborator.called.add(id(node))
        signature = self.elaborator.signatures.of(declared)
        operands, statics, spans = self.bind(frame, signature, arguments, span, inlined=node.kind != "op")
        if frame.builder is None:
            raise Diagnostic("E0505", f"`{node.name}` makes a tensor, but a static value is needed here", span)
        if node.kind == "op":
            composite = self.elaborator.composite(declared)
            outputs = frame.emit(composite, operands, statics, span, spans=spans)
            node_made = outputs[0].node
            assert node_made is not None
            bound = signature.unify([None if v is None else v.type for v in operands], dict(node_made.attrs))
            record_statics = self.elaborator.record_statics(composite, node_made)
            return self.pack(signature, bound, outputs, record_statics)
        attrs = dict(statics)
        types = [None if v is None else v.type for v in operands]
        bound = signature.unify(types, attrs, span=span, spans=spans)
        if instance is not None:
            with sharing(frame, instance):
                return self.inline(frame, declared, signature, bound, operands, instance.scope, span)
        inner_scope = join(frame.scope, scope) if scope else frame.scope
        return self.inline(frame, declared, signature, bound, operands, inner_scope, span)

    def inline(
        self, frame: Frame, declared: Declared, signature: Signature, bound: Bindings, operands: list[Any], scope: str,
        span: Span | None,
    ) -> Any:  # fmt: skip
        """Elaborate the body of a fn, layer or model in place."""
        node = declared.node
        assert isinstance(node, ast.Function)
        env = self.body_environment(signature, bound, operands)
        inner = self.elaborator.frames(self.elaborator, declared.unit, env, builder=frame.builder, region=frame.region,
                                       scope=scope, dtypes=dict(bound.dtypes), kind=node.kind, bound=bound)  # fmt: skip
        inner.instances = frame.instances
        if declared.unit.module != LOCAL:
            inner.caller = frame.caller if frame.unit.module != LOCAL else span
        # Through functions that are passed on a call cycle is not to be seen in the source alone.
        call = (id(node), *references(bound.statics.values()), *map(id, instances(bound.statics.values())))
        if call in self._active:
            raise recursion(node, [node.name, node.name], span)
        self._active.append(call)
        try:
            inner.block(node.body)
            finish_states(inner)
            values = check_results(self.elaborator, declared, signature, bound, inner)
        except Diagnostic as error:
            blame_call(error, span, f"in `{node.name}`")
            raise
        finally:
            self._active.pop()
        return values[0] if len(values) == 1 else Multi(tuple(values))

    def body_environment(self, signature: Signature, bound: Bindings, operands: list[Any]) -> dict[str, Any]:
        """The names a body starts with: dimensions, static parameters, operands (records as bundles)."""
        env = {k: v for k, v in environment(bound).items() if not k.startswith("given ") and "." not in k}
        for name, value in list(env.items()):
            if isinstance(value, FuncRef):
                env[name] = self.elaborator.function_value(value, None)
        leaves = iter(operands)
        for operand in signature.operands:
            if isinstance(operand.type, RecordPattern):
                record = operand.type.record
                fields = {name: next(leaves) for name, _ in record.fields}
                statics = {name: bound.statics.get(f"{operand.name}.{name}") for name, _ in record.statics}
                env[operand.name] = None if None in fields.values() else Bundle(record, fields, statics)
            else:
                env[operand.name] = next(leaves)
        return env

    def pack(
        self, signature: Signature, bound: Bindings, outputs: list[Value], record_statics: list[dict[str, Any]]
    ) -> Any:
        """A composite's flat results as the call's value: tensors and records."""
        items: list[Any] = []
        flat = iter(outputs)
        statics = iter(record_statics)
        for result in signature.present(bound):
            if isinstance(result.type, RecordPattern):
                record: RecordDef = result.type.record
                items.append(Bundle(record, {name: next(flat) for name, _ in record.fields}, next(statics, {})))
            else:
                items.append(next(flat))
        return items[0] if len(items) == 1 else Multi(tuple(items))
