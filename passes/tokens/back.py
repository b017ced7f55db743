"""The way back at the end of a region: an op beside the method, which makes of what is left features of every token.

    op reconstruct(x: float[B, T, D], map: TokenMap[B, N, T], <before, after>, *, protect, last, <options>) -> float[B, P, D]

`before` are the features [B, P, D] that were reduced, `after` those [B, T, D] that the method left of them. P are the tokens in
front of the region: all N that there were, or those that an earlier reduction left.
"""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Span
from ...ir.graph import Module, Value
from ...ir.library import composite, local_composite
from ...ir.op import Composite
from ...ir.signature import Pattern
from .method import Method, statics_of
from .restore import Back
from .stream import RECORD, Ends, Stage, is_map, map_operand

COPY = "copy"
_SEES = ("before", "after")


def find_back(name: str, method: str, op: Composite, module: Module | None, span: Span | None = None) -> Composite | None:
    """The op that ``name`` means: one beside the method ``op``, which is given as ``method``, a qualified one, or
    `file.tess:name`. None for copying.

    Raises:
        Diagnostic: E0001 no such file, E0201 no such op, E0716 a signature that does not fit.
    """
    if name == COPY:
        return None
    path, colon, own = name.rpartition(":")
    beside = method.rpartition(":")[0]
    if colon or (beside and "." not in name):
        found = local_composite(path if colon else beside, own if colon else name, module)
    else:
        found = composite(name if "." in name else f"{op.module}.{name}")
    problem = _misfit(found)
    if problem is not None:
        raise Diagnostic(
            "E0716", f"the op `{found.name}` cannot give tokens their values back: {problem}", span,
            help=f"write `op {found.name}(x: float[B, T, D], map: TokenMap[B, N, T], before: float[B, P, D], …) -> "
            f"float[B, P, D]`, or copy: `back={COPY}`",
        )  # fmt: skip
    return found


def _misfit(op: Composite) -> str | None:
    """What about an op's signature keeps it from leading back."""
    operands, results = op.signature.operands, op.signature.results
    first = operands[0].type if operands else None
    if not isinstance(first, Pattern) or first.dtype != "float" or len(first.shape) != 3:
        return "its first operand must be the features `x: float[B, T, D]`"
    if len(operands) < 2 or not is_map(operands[1].type):
        return f"its second operand must be the token map, the record {RECORD[1]} of {RECORD[0]}"
    if len(results) != 1 or not isinstance(results[0].type, Pattern) or len(results[0].type.shape) != 3:
        return "it must return the features of every token, `float[B, P, D]`"
    unknown = next((o.name for o in operands[2:] if o.name not in _SEES), None)
    if unknown is not None:
        return f"nothing is known of its operand `{unknown}`; it may ask for {' and '.join(_SEES)}"
    return None


def way_back(method: Method, before: Value, after: Value, stage: Stage, ends: Ends) -> Back | None:
    """What makes of features at ``stage`` those of the tokens in front of it; None where they are copied."""
    op = method.back
    if op is None:
        return None
    sees = {"before": before, "after": after}
    own = {**dict(method.settings), "protect": ends[0], "last": ends[1]}
    attrs = {name: value for name, value in own.items() if name in statics_of(op)}

    def back(value: Value, builder: Builder) -> Value:
        wants = [sees[o.name] for o in op.signature.operands[2:]]
        facts = stage.facts.attrs(map_operand(op))
        return builder.op(op, value, *stage.map.fields, *wants, **attrs, **facts)

    return back
