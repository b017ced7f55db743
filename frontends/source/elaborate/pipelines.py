"""A ``pipeline`` as the program that it is: the models that it calls become entry points, pipelines that it calls further flows."""

from __future__ import annotations

from dataclasses import replace

from ....ir.diagnostics import Diagnostic, Note, Span
from ....ir.naming import unique
from ..syntax import ast
from .library import Unit


def program_of(unit: Unit, node: ast.Pipeline) -> ast.Program:
    """The program of a pipeline. Raises E0524 for a call of another file's pipeline, or of one with static parameters."""
    made = _Entries(unit)
    made.pipeline(node)
    members: list[ast.Entry | ast.Host | ast.Function] = [*made.entries, *made.hosts, *made.flows.values()]
    return ast.Program(node.name, node.statics, members, node.doc, name_span=node.name_span, span=node.span)


class _Entries:
    """The members of the program, as calls show them."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.entries: list[ast.Entry] = []
        self.hosts: list[ast.Host] = []
        self.flows: dict[str, ast.Function] = {}
        self.here: dict[str, ast.Host] = {}
        self.taken = set(unit.names)

    def pipeline(self, node: ast.Pipeline) -> None:
        """Take over a pipeline, and those that it calls. One that calls itself is told of by what checks flows."""
        outer = self.here
        hosts = [member for member in node.members if isinstance(member, ast.Host)]
        self.here = {host.name: host for host in hosts}
        for host in hosts:
            if host not in self.hosts:
                self.hosts.append(host)
            self.taken.add(host.name)
        flow = node.members[-1]
        assert isinstance(flow, ast.Function)
        # Its place among the flows is before those that it calls, whose calls may lead back to it.
        self.flows[node.name] = flow
        self.flows[node.name] = replace(flow, body=[self._statement(statement) for statement in flow.body])
        self.here = outer

    def _statement(self, statement: ast.Stmt) -> ast.Stmt:
        if isinstance(statement, ast.Assign):
            return replace(statement, value=self._expr(statement.value))
        if isinstance(statement, ast.ReturnStmt):
            return replace(statement, values=[self._expr(value) for value in statement.values])
        if isinstance(statement, ast.FoldStmt):
            return replace(statement, body=[self._statement(inner) for inner in statement.body])
        if isinstance(statement, ast.WhileStmt):
            test = self._expr(statement.condition)
            return replace(statement, condition=test, body=[self._statement(inner) for inner in statement.body])
        return statement

    def _expr(self, expr: ast.Expr, scope: str | None = None) -> ast.Expr:
        """An expression whose models are called as entry points. What a call is given is called before it."""
        if isinstance(expr, ast.Scoped):
            return self._expr(expr.value, expr.scope)
        if isinstance(expr, ast.Attribute):
            return replace(expr, value=self._expr(expr.value))
        if isinstance(expr, ast.Pipe):
            scope = expr.right.scope if isinstance(expr.right, ast.Scoped) else scope
            right = expr.right.value if isinstance(expr.right, ast.Scoped) else expr.right
            call = right if isinstance(right, ast.Call) else ast.Call(right, [], span=right.span)
            whole = ast.Call(call.function, [ast.Arg(None, expr.left, span=expr.left.span), *call.args], span=expr.span)
            return self._expr(whole, scope)
        if not isinstance(expr, ast.Call):
            return expr if scope is None else ast.Scoped(expr, scope, span=expr.span)
        if not isinstance(expr.function, ast.Name) or expr.function.id in self.here:
            self._refuse_scope(scope, expr.function.span)
            return replace(expr, args=[replace(arg, value=self._expr(arg.value)) for arg in expr.args])
        return self._call(expr, expr.function, scope)

    def _call(self, expr: ast.Call, function: ast.Name, scope: str | None) -> ast.Call:
        declared = self.unit.find(function.id)
        node = declared.node if declared is not None else None
        model = node if isinstance(node, ast.Function) and node.kind == "model" else None
        inputs = {param.name for param in model.params} if model is not None else set()
        statics = [arg for arg in expr.args if model is not None and arg.name is not None and arg.name not in inputs]
        args = [replace(arg, value=self._expr(arg.value)) for arg in expr.args if arg not in statics]
        if model is None:
            self._refuse_scope(scope, function.span)
        else:
            function = replace(function, id=self._entry(function, statics, scope))
        if isinstance(node, ast.Pipeline) and declared is not None:
            if declared.unit is not self.unit or node.statics:
                raise Diagnostic(
                    "E0524", f"the pipeline `{function.id}` cannot be called here", function.span,
                    notes=[Note("it is declared here", node.name_span)],
                    help="a pipeline calls pipelines of its own file that have no static parameters",
                )  # fmt: skip
            if node.name not in self.flows:
                self.pipeline(node)
        return replace(expr, function=function, args=args)

    @staticmethod
    def _refuse_scope(scope: str | None, span: Span | None) -> None:
        if scope is not None:
            raise Diagnostic(
                "E0524", f"`as {scope}` names the weights of a model, and this is none", span, help=f"leave `as {scope}` out"
            )

    def _entry(self, model: ast.Name, statics: list[ast.Arg], scope: str | None) -> str:
        """The name of the entry point that a model with these static parameters and this scope is."""
        for entry in self.entries:
            if (entry.model, entry.args, entry.scope) == (model.id, statics, scope):
                return entry.name
        others = {entry.name for entry in self.entries}
        plain = model.id if scope is None else scope.replace(".", "_")
        name = plain if plain not in others | (self.taken - {model.id}) else unique(plain, self.taken | others)
        self.entries.append(ast.Entry(name, model.id, statics, scope, span=model.span))
        return name
