"""Host stages and flows of a program as syntax."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ....ir.program import Flow, Loop, Port, Program, Stage, Step
from ....ir.signature import Pattern
from ....ir.stages import METHODS, fields_of
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


def flow_member(program: Program, flow: Flow) -> ast.Function:
    """A flow as a member of a ``program``: one statement a step."""
    params = [ast.Param(p.name, _input_type(p)) for p in flow.inputs]
    body = _statements(program, flow.steps)
    body.append(ast.ReturnStmt([_value(port.value) for port in flow.outputs]))
    results = [ast.Result(type_expr(port.type), port.name) for port in flow.outputs]
    if len(results) == 1 and results[0].name == "output":
        results[0].name = None
    return ast.Function("flow", flow.name, params, [], results, body)


def pipeline(program: Program, flow: Flow) -> ast.Pipeline:
    """The program of a pipeline as the declaration that it is."""
    hosts = [host_member(stage) for stage in program.stages.values() if stage.kind == "python"]
    clauses: list[ast.StageFiles | ast.StageList | ast.RequireStmt] = []
    if program.measures is not None:
        measures = program.measures
        clauses.append(ast.StageFiles("measure", measures.corpus, []))
        if measures.metrics:
            clauses.append(ast.StageList("metrics", [_value(name) for name in measures.metrics]))
        clauses += [
            ast.RequireStmt(ast.Binary(gate.op, _value(gate.metric), literal(gate.bound)), gate.message) for gate in measures.gates
        ]
    return ast.Pipeline(program.name, [], [*hosts, flow_member(program, flow)], program.doc or None, clauses=clauses)


def _statements(program: Program, steps: Iterable[Step | Loop]) -> list[ast.Stmt]:
    return [made for step in steps for made in (
        _loop(program, step) if isinstance(step, Loop) else [_statement(program, step)]
    )]  # fmt: skip


def _loop(program: Program, loop: Loop) -> list[ast.Stmt]:
    """A loop, with other names for what it carries in front of it, at the end of its body and behind it."""
    names = [carry.inside for carry in loop.carried]
    stacked = [result for _, result in loop.stacked]
    ends = [(c.inside, c.after) for c in loop.carried if c.inside != c.after] + [(r, v) for v, r in loop.stacked]
    body = [*_statements(program, loop.body), *_alike(ends)]
    made: ast.Stmt
    if loop.going is None:
        made = ast.FoldStmt(loop.variable or "i", literal(loop.count), names, body, stacked)
    else:
        made = ast.WhileStmt(_asked(program, loop), names, literal(loop.count), body)
    firsts = [(carry.inside, carry.first) for carry in loop.carried]
    return [*_alike(firsts), made, *_alike([(carry.result, carry.inside) for carry in loop.carried])]


def _alike(pairs: Iterable[tuple[str, str]]) -> list[ast.Stmt]:
    return [ast.Assign([name], _value(value)) for name, value in pairs]


def _asked(program: Program, loop: Loop) -> ast.Expr:
    """The condition of a loop, with its calls one within the other."""
    made: dict[str, ast.Expr] = {}
    for step in loop.test:
        statement = _statement(program, step)
        assert isinstance(statement, ast.Assign)
        assert isinstance(statement.value, ast.Call)
        args = [ast.Arg(None, _value(name, made)) for name in step.operands]
        made[statement.targets[0]] = replace(statement.value, args=args)
    assert loop.going is not None
    return _value(loop.going, made)


def _statement(program: Program, step: Step) -> ast.Stmt:
    stage = program.stages.get(step.callee)
    targets = [step.results[0].partition(".")[0]] if fields_of(stage) else list(step.results)
    owner, _, method = step.callee.partition(".")
    callee: ast.Expr = ast.Attribute(ast.Name(owner), method) if method in METHODS and method else ast.Name(owner)
    return ast.Assign(targets, ast.Call(callee, [ast.Arg(None, _value(name)) for name in step.operands]))


def _value(name: str, made: Mapping[str, ast.Expr] | None = None) -> ast.Expr:
    """A value of a flow, as the call that makes it if it is one of ``made``; a field is told from what it is of by a dot."""
    owner, _, field = name.partition(".")
    value = (made or {}).get(owner, ast.Name(owner))
    return ast.Attribute(value, field) if field else value


def _input_type(port: Port) -> ast.TypeExpr:
    found = type_expr(port.type)
    if port.vocabulary is None:
        return found
    return ast.TypeExpr("token", [literal(port.vocabulary.size), *(found.dims or ())])
