"""Checking declarations that no model calls: with free dimensions and default static parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ....ir.builder import Builder
from ....ir.diagnostics import Diagnostic, several
from ....ir.dims.dim import const, sym
from ....ir.graph import Graph, Value
from ....ir.signature import REQUIRED, Bindings, RecordPattern
from ....ir.types import DTYPES, KINDS, DType, TensorType
from ..syntax import ast
from .elaborate import Elaborator
from .library import Declared, Unit
from .results import check_results

# What a check without a caller cannot know: a condition or number that depends on a static parameter or a free
# dimension, a size that only some callers make fit.
UNDECIDED = frozenset({"E0402", "E0407", "E0305", "E0306", "E0307", "E0501", "E0304", "E0302", "E0301", "E0208"})
NONE: Mapping[str, tuple[Any, ...]] = {}


def check_declarations(elaborator: Elaborator, unit: Unit) -> list[Diagnostic]:
    """Elaborate each fn, op and layer of a unit once by itself: the mistakes that no caller could make good."""
    errors = []
    for declared in list(unit.names.values()):
        if declared.unit is unit:
            try:
                _check_declaration(elaborator, declared)
            except Diagnostic as error:
                errors.append(error)
    return errors


def _check_declaration(elaborator: Elaborator, declared: Declared) -> None:
    node = declared.node
    if isinstance(node, ast.Const):
        elaborator.const(declared)
    elif isinstance(node, ast.Record):
        elaborator.signatures.record(declared)
    elif isinstance(node, ast.Tokenizer):
        # Without a value of each parameter nothing says which tokenizer it is to be.
        if all(static.default is not None for static in node.statics):
            elaborator.tokenizer(declared)
    elif isinstance(node, ast.Function):
        elaborator.check_cycles(declared)
        elaborator.signatures.of(declared)
        if node.kind != "model" and id(node) not in elaborator.called:
            check_function(elaborator, declared, node)


def check_function(
    elaborator: Elaborator, declared: Declared, node: ast.Function, stand_ins: Mapping[str, tuple[Any, ...]] = NONE
) -> None:
    """Elaborate a function by itself. Raises Diagnostic for mistakes that no caller could make good.

    Args:
        stand_ins: values to try for required static parameters, by kind, two of each. What is wrong with one of them only is no
            mistake, nor is what a `require` says of them. Where a parameter of another kind is needed, nothing is looked at.
    """
    signature = elaborator.signatures.of(declared)
    made_up = any(s.default is REQUIRED and s.kind in stand_ins for s in signature.statics)
    wrong: list[Diagnostic] = []
    for turn in range(2 if made_up else 1):
        values = {kind: given[turn] for kind, given in stand_ins.items()}
        found = [e for e in _wrong(elaborator, declared, node, values) if not (made_up and e.code == "E0501")]
        told = {(e.code, e.span) for e in found}
        wrong = [e for e in wrong if (e.code, e.span) in told] if turn else found
        if not wrong:
            return
    raise several(wrong)


def _wrong(elaborator: Elaborator, declared: Declared, node: ast.Function, values: Mapping[str, Any]) -> list[Diagnostic]:
    """The mistakes of a function whose required static parameters have these values, by kind."""
    signature = elaborator.signatures.of(declared)
    bound = Bindings(dtypes={kind: DTYPES["i64" if kind == "int" else "f32"] for kind in KINDS}, pack=(sym("N_"),))
    assumed = False
    for static in signature.statics:
        if static.default is REQUIRED:
            if static.kind in values:
                bound.statics[static.name] = values[static.kind]
                continue
            if static.kind != "int":
                return []
            bound.dims[static.name] = bound.statics[static.name] = sym(static.name)
            assumed = True
            continue
        try:
            value = static.default(bound) if callable(static.default) else static.default
        except (Diagnostic, KeyError):
            return []
        bound.statics[static.name] = value
        if isinstance(value, int) and not isinstance(value, bool):
            bound.dims[static.name] = const(value)
    # One axis stands for `...`, where a caller may have any number.
    assumed |= any(... in pattern.shape for _, pattern, _ in signature.leaves())
    graph = Graph(node.name)
    builder = Builder(graph)
    operands: list[Value | None] = []
    for name, pattern, optional in signature.leaves():
        if optional:
            operands.append(None)
            continue
        for dim in pattern.shape:
            if dim is not ...:
                for symbol in dim.symbols - bound.dims.keys():
                    bound.dims[symbol] = sym(symbol)
        dtype = pattern.dtype if isinstance(pattern.dtype, DType) else bound.dtypes[pattern.dtype]
        shape: list[Any] = []
        for dim in pattern.shape:
            shape += bound.pack or () if dim is ... else [dim.subs(bound.dims)]
        operands.append(builder.input(name.replace(".", "_"), TensorType(dtype, tuple(shape))))
    if any(isinstance(o.type, RecordPattern) and o.type.record.statics for o in signature.operands):
        return []
    bound.given = frozenset(o.name for o in signature.operands if not o.optional)
    bound.dims.update((name, derive(bound)) for name, derive in signature.derived)
    env = elaborator.calls.body_environment(signature, bound, operands)
    frame = elaborator.frames(
        elaborator, declared.unit, env, builder=builder, dtypes=dict(bound.dtypes), kind=node.kind, bound=bound
    )
    try:
        frame.block(node.body)
        check_results(elaborator, declared, signature, bound, frame)
    except Diagnostic as error:
        found = [error, *error.others]
        return [e for e in found if e.code not in UNDECIDED or not (assumed or _depends(e))]
    return []


def _depends(error: Diagnostic) -> bool:
    """Whether the mistake names a free symbol: a caller with other sizes may be right."""
    # What a shape rule says begins with the name of its op, `expand: f32[R, T] does not …`.
    said = re.sub(r"^\w+: ", "", error.message).split(":")[0]
    return error.code in ("E0402", "E0407", "E0208", "E0307") or any(c.isupper() for c in said)
