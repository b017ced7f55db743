"""Host stages and flows of a program as syntax."""

from __future__ import annotations

from ....ir.program import Flow, Stage
from ....ir.signature import Pattern
from ..syntax import ast
from .static import literal, type_expr


def host_member(stage: Stage) -> ast.Host:
    """A host stage as a member of a ``program``."""
    params = [ast.Param(o.name, _pattern(o.type)) for o in stage.signature.operands if isinstance(o.type, Pattern)]
    results = [ast.Result(_pattern(r.type), r.name) for r in stage.signature.results if isinstance(r.type, Pattern)]
    return ast.Host(stage.name, stage.reference, params, results)


def _pattern(pattern: Pattern) -> ast.TypeExpr:
    dims = [ast.Ellipsis_() if d is ... else literal(d if d.value is None else d.value) for d in pattern.shape]
    return ast.TypeExpr(str(pattern.dtype), dims)


def flow_member(flow: Flow) -> ast.Function:
    """A flow as a member of a ``program``: one statement a step."""
    params = [ast.Param(p.name, type_expr(p.type)) for p in flow.inputs]
    body: list[ast.Stmt] = []
    for step in flow.steps:
        args = [ast.Arg(None, ast.Name(name)) for name in step.operands]
        body.append(ast.Assign(list(step.results), ast.Call(ast.Name(step.callee), args)))
    body.append(ast.ReturnStmt([ast.Name(port.value) for port in flow.outputs]))
    results = [ast.Result(type_expr(port.type), port.name) for port in flow.outputs]
    if len(results) == 1 and results[0].name == "output":
        results[0].name = None
    return ast.Function("flow", flow.name, params, [], results, body)
