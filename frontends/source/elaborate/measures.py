"""What a pipeline is measured by: ``measure "held/*.txt"``, ``metrics [words.round_trip]``, ``require agree > 0.9, "…"``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Note, Span, did_you_mean
from ....ir.dims.dim import Dim
from ....ir.program import Flow, Measures, Program
from ....ir.tokenizer import Gate
from ....ir.tokenizer_parts import METRICS, OF_WORDS
from ....ir.types import TEXT
from ..syntax import ast
from .library import Unit

if TYPE_CHECKING:
    from .elaborate import Elaborator

_HELP = 'write `require words.tokens_per_character < 0.3, "…"`, or an output: `require agree > 0.9, "…"`'


def measures_of(
    elaborator: Elaborator, unit: Unit, program: Program, node: ast.Pipeline, statics: Mapping[str, Any]
) -> Measures | None:
    """What the clauses of a pipeline say; None without any.

    Raises:
        Diagnostic: E0204 for a second corpus, E1010 without one, E1002 for what is no metric.
    """
    if not node.clauses:
        return None
    flow = program.flows[program.name]
    files = [clause for clause in node.clauses if isinstance(clause, ast.StageFiles)]
    if len(files) > 1:
        notes = [Note("the first one is here", files[0].span)]
        raise Diagnostic("E0204", "a pipeline is measured on one corpus", files[1].span, notes)
    gates, metrics = [], []
    for clause in node.clauses:
        if isinstance(clause, ast.StageList):
            metrics += [_metric(program, flow, item) for item in clause.items]
        elif isinstance(clause, ast.RequireStmt):
            gates.append(_gate(elaborator, unit, program, flow, clause, statics))
    if not files:
        raise Diagnostic(
            "E1010", f"the pipeline `{node.name}` says nothing of what it is measured on", node.clauses[0].span,
            help='name the files: `measure "held/*.txt"`',
        )  # fmt: skip
    if not gates and not metrics:
        help = f"say what: `metrics [words.round_trip]`; {_HELP}"
        raise Diagnostic("E1002", "nothing is measured on these files", files[0].span, help=help)
    return Measures(files[0].path, tuple(metrics), tuple(gates), files[0].span)


def _gate(
    elaborator: Elaborator, unit: Unit, program: Program, flow: Flow, clause: ast.RequireStmt, statics: Mapping[str, Any]
) -> Gate:
    test = clause.condition
    if not isinstance(test, ast.Binary) or test.op not in ("<", "<=", ">", ">="):
        raise Diagnostic("E1002", "a pipeline requires that a metric is below or above a number", test.span, help=_HELP)
    metric = _metric(program, flow, test.left)
    bound = elaborator.static(unit, test.right, dict(statics))
    bound = bound.value if isinstance(bound, Dim) else bound
    if isinstance(bound, bool) or not isinstance(bound, (int, float)):
        raise Diagnostic("E1002", f"`{metric}` is compared with a number, which this is not", test.right.span)
    return Gate(metric, test.op, float(bound), clause.message, clause.span)


def _metric(program: Program, flow: Flow, expr: ast.Expr) -> str:
    """The name of a metric. Raises E1002 for what is none."""
    if isinstance(expr, ast.Attribute) and isinstance(expr.value, ast.Name):
        owner = expr.value.id
        if owner not in program.tokenizers:
            raise _unknown(owner, "tokenizer that this pipeline calls", program.tokenizers, expr.value.span)
        if expr.name not in METRICS:
            raise _unknown(expr.name, "metric of a tokenizer", METRICS, expr.span)
        asked = program.tokenizers[owner].measured
        if expr.name in OF_WORDS and (asked is None or asked.analyser is None):
            raise Diagnostic(
                "E1015", f"nothing says who knows the words that `{expr.name}` is a share of", expr.span,
                help=f'name an analyser in `{owner}`: `measure "held/*.txt" (analyser="simplemma", language="tr")`',
            )  # fmt: skip
        return f"{owner}.{expr.name}"
    if not isinstance(expr, ast.Name):
        raise Diagnostic("E1002", "this is no metric", expr.span, help=_HELP)
    outputs = {port.name: port for port in flow.outputs}
    if expr.id not in outputs:
        if expr.id in METRICS and program.tokenizers:
            help = f"say of which tokenizer: `{next(iter(program.tokenizers))}.{expr.id}`"
            raise Diagnostic("E1002", f"`{expr.id}` is a metric of a tokenizer", expr.span, help=help)
        raise _unknown(expr.id, "output of this pipeline", outputs, expr.span)
    port = outputs[expr.id]
    if port.type.dtype == TEXT:
        raise Diagnostic("E1002", f"`{expr.id}` is {port.type}, and the mean of texts is no number", expr.span)
    if len(flow.inputs) != 1 or flow.inputs[0].type.dtype != TEXT or flow.inputs[0].type.rank != 1:
        raise Diagnostic(
            "E1002", f"outputs of `{flow.name}` are measured where it takes one `text[B]`, the lines of a file", expr.span,
            help="measure a tokenizer, or a pipeline that calls this one",
        )  # fmt: skip
    return expr.id


def _unknown(name: str, what: str, known: Mapping[str, Any] | Sequence[str], span: Span | None) -> Diagnostic:
    listed = list(known)
    help = did_you_mean(name, listed) or f"there {'are' if len(listed) > 1 else 'is'} {', '.join(listed) or 'none'}"
    return Diagnostic("E1002", f"`{name}` is no {what}", span, help=help)
