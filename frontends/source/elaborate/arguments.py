"""The arguments of a call, bound to a signature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Span, did_you_mean
from ....ir.dims.dim import Dim
from ....ir.dims.ratio import Ratio
from ....ir.graph import Value
from ....ir.signature import Operand, Pattern, RecordPattern, Signature
from ....ir.types import DTYPES, DType
from .frame import Frame
from .partial import forgotten, instances
from .values import (
    FUNCTIONS,
    Bundle,
    KindValue,
    describe,
    holds_tensors,
    is_tensor,
    static_kind,
)  # fmt: skip

if TYPE_CHECKING:
    from .elaborate import Elaborator

# Kinds of static parameters that may be a function.
_TAKE_FUNCTIONS = ("fn", "any")
Argument = tuple[str | None, Any, Span | None]


class Arguments:
    """The part of :class:`Calls` that binds arguments."""

    def __init__(self, elaborator: Elaborator) -> None:
        self.elaborator = elaborator

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
                if isinstance(value, FUNCTIONS) and free_operands:
                    # A tensor was meant where no function can be.
                    tensorial = not any(s.kind in _TAKE_FUNCTIONS for s in signature.statics if s.name in free_statics)
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
            "E0506", f"`{operand.name}` of `{signature.name}` must be a tensor, not {describe(value)}", where, help=forgotten(value)
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
        ratio = next((v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Ratio)), None)
        if ratio is not None:
            raise Diagnostic(
                "E0402", f"`{name}` of `{function}` cannot be `{ratio}`, a real that only run time knows", where,
                help=f"round it to an integer: `floor({ratio})`, `ceil({ratio})` or `round({ratio})`",
            )  # fmt: skip
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
