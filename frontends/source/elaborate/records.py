"""Making records: a call of a record's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Span, did_you_mean
from ....ir.signature import Operand, Signature
from .library import Declared
from .turned import KEYS, ROTATED
from .values import Bundle, describe, is_tensor

if TYPE_CHECKING:
    from .arguments import Argument
    from .calls import Calls
    from .frame import Frame


def construct(calls: Calls, frame: Frame, declared: Declared, arguments: list[Argument], span: Span | None) -> Bundle:
    """The record that ``Name(field=…, …)`` makes. Raises Diagnostic E0203, E0404, E0406, E0506, and what types do not fit."""
    record = calls.elaborator.signatures.record(declared)
    names = [n for n, _ in record.fields] + [n for n, _ in record.statics]
    given: dict[str, tuple[Any, Span | None]] = {}
    positional = iter(names)
    for name, value, where in arguments:
        name = name or next(positional, None)
        if name is None or name not in names:
            raise Diagnostic(
                "E0203", f"the record {record.name} has no field `{name}`", where,
                help=did_you_mean(str(name), names) or f"its fields are {', '.join(names)}",
            )  # fmt: skip
        if name in given:
            raise Diagnostic("E0406", f"the field `{name}` is given twice", where)
        given[name] = (value, where)
    for name, value in record.defaults:
        given.setdefault(name, (value, span))
    missing = [n for n in names if n not in given]
    if missing:
        raise Diagnostic("E0404", f"the record {record.name} needs a value for `{missing[0]}`", span)
    operands = tuple(Operand(n, p) for n, p in record.fields)
    check = Signature(record.name, operands, (), ())
    fields = {}
    for name, _ in record.fields:
        value, where = given[name]
        if not is_tensor(value):
            raise Diagnostic("E0506", f"the field `{name}` must be a tensor, not {describe(value)}", where)
        fields[name] = frame.local(value)
    check.unify([v.type for v in fields.values()], {}, span=span, spans=[given[n][1] for n in fields])
    statics = {n: calls.static_value(k, False, given[n][0], record.name, n, given[n][1]) for n, k in record.statics}
    if statics.get(ROTATED) is True:
        calls.elaborator.turned.update({fields[name]: given[name][1] for name in KEYS if name in fields})
    return Bundle(record, fields, statics)
