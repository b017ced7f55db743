"""Calls: arguments are bound to a signature; the callee is inlined (fn, layer, model) or becomes a node (an op)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....ir.declarations import LOCAL, references
from ....ir.diagnostics import Diagnostic, Span
from ....ir.dims.dim import Dim
from ....ir.equalities import SIZES, settle
from ....ir.graph import Value
from ....ir.op import FuncRef, Op
from ....ir.ops import OPS
from ....ir.signature import Bindings, RecordDef, RecordPattern, Signature
from ..syntax import ast
from .arguments import Argument, Arguments
from .blame import blame_call, blame_user
from .builtin import STATIC_FUNCTIONS
from .cycles import recursion
from .ellipsis import WITH_ELLIPSIS, spelled_out
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
    Multi,
    OpValue,
    describe,
    holds_tensors,
    is_tensor,
)  # fmt: skip

if TYPE_CHECKING:
    from .elaborate import Elaborator
    from .library import Declared

class Calls(Arguments):
    """How each kind of callee is called. One for each elaborator."""

    def __init__(self, elaborator: Elaborator) -> None:
        super().__init__(elaborator)
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
        callee, arguments, scope, instance = unwrapped(callee, arguments, scope, span)
        if isinstance(callee, (DeclValue, OpValue)):
            value = partial(self, frame, callee, arguments, scope, instance)
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
            result = function(*(v for _, v, _ in arguments))
        except Diagnostic as error:
            error.span = span
            raise
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            shown = ", ".join(describe(v) for _, v, _ in arguments)
            raise Diagnostic("E0402", f"`{name}` cannot be applied to {shown or 'nothing'}", span) from None
        if isinstance(result, int) and abs(result) >= 1 << 63:
            raise Diagnostic("E0402", f"what `{name}` gives here is out of range", span)
        return result

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
        if op.name in WITH_ELLIPSIS:
            arguments = spelled_out(op.name, arguments, span)
        operands, statics, spans = self.bind(frame, op.signature, arguments, span)
        outputs = frame.emit(op, operands, {**statics, **extra}, span, spans=spans)
        return outputs[0] if len(outputs) == 1 else Multi(tuple(outputs))

    # Declared ------------------------------------------------------------------------------------------------------

    def _declared(
        self, frame: Frame, declared: Declared, arguments: list[Argument], span: Span | None, scope: str,
        instance: Instance | None,
    ) -> Any:  # fmt: skip
        node = declared.node
        if isinstance(node, ast.Record):
            return construct(self, frame, declared, arguments, span)
        if isinstance(node, ast.Tokenizer):
            from .tokenized import call_tokenizer

            return call_tokenizer(self, frame, declared, arguments, span, scope)
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
            bound = self._unify(frame, signature, operands, dict(node_made.attrs), span, spans)
            record_statics = self.elaborator.record_statics(composite, node_made)
            return self.pack(signature, bound, outputs, record_statics)
        attrs = dict(statics)
        bound = self._unify(frame, signature, operands, attrs, span, spans)
        if instance is not None:
            with sharing(frame, instance):
                return self.inline(frame, declared, signature, bound, operands, instance.scope, span)
        inner_scope = join(frame.scope, scope) if scope else frame.scope
        return self.inline(frame, declared, signature, bound, operands, inner_scope, span)

    @staticmethod
    def _unify(
        frame: Frame, signature: Signature, operands: list[Any], attrs: dict[str, Any], span: Span | None,
        spans: list[Span | None],
    ) -> Bindings:  # fmt: skip
        """As ``signature.unify``, with sizes that may only be equal by what the program requires."""

        def unify() -> Bindings:
            types = [None if v is None else v.type for v in operands]
            return signature.unify(types, attrs, span=span, spans=spans)

        given = dict(attrs)
        try:
            return unify()
        except Diagnostic as error:
            if error.code not in SIZES or frame.builder is None or not settle(frame.builder.graph, operands):
                raise
            attrs.clear()
            attrs.update(given)
            try:
                return unify()
            except Diagnostic:
                raise error from None

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
