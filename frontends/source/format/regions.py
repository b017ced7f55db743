"""Control ops as statements: what a `fold`, `cond`, `while` or `scan` is written as."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ....ir.binding import solve_symbols
from ....ir.diagnostics import Diagnostic
from ....ir.dims.dim import Dim, sym
from ....ir.graph import Graph, Node, Value
from ....ir.naming import unique
from ....ir.types import TensorType
from ..syntax import ast
from .static import literal, type_expr


def _renamed(type: TensorType, named: Mapping[Dim, Dim]) -> TensorType:
    return TensorType(type.dtype, tuple(named.get(d, d) for d in type.shape))


class Names:
    """Unique names for values."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)

    def fresh(self, hint: str) -> str:
        base = re.sub(r"\W", "_", hint, flags=re.ASCII).strip("_") or "v"
        if base[0].isdigit():
            base = f"v{base}"
        base = re.sub(r"_\d+$", "", base) or base
        return unique(base, self.taken)


class RegionPrinter:
    """The part of the printer that writes regions.

    ``values`` is how each value is written, ``helpers`` are the functions that stand beside the model.
    """

    names: Names
    values: dict[Value, ast.Expr]
    helpers: list[ast.Function]

    def _nodes(self, graph: Graph) -> list[ast.Stmt]:
        raise NotImplementedError

    def _operand(self, value: Value | None) -> ast.Expr:
        raise NotImplementedError

    def _expression(self, node: Node) -> ast.Expr:
        raise NotImplementedError

    def _top_name(self, hint: str) -> str:
        raise NotImplementedError

    def _region(self, node: Node) -> list[ast.Stmt]:
        """A `fold`, `cond` or `while`, after the assignments that name what it carries."""
        word, count = node.op.name, node.attrs["carried"]
        first = word == "cond"
        names = [self.names.fresh(value.name or "carry") for value in node.outputs]
        before: list[ast.Stmt] = [
            ast.Assign([name], self._operand(value))
            for name, value in zip(names, node.inputs[first : first + count], strict=False)
        ]
        predicate = self._operand(node.inputs[0]) if first else None
        outer = [self._captured(value, before) for value in node.inputs[first + count :]]
        made: ast.Stmt
        if word == "fold":
            body: Graph = node.attrs["body"]
            index = self.names.fresh(body.inputs[0].name or "i")
            self.values[body.inputs[0]] = ast.Name(index)
            statements = self._body(body, names, outer, 1)
            made = ast.FoldStmt(index, literal(node.attrs["n"]), names[:count], statements, names[count:])
        elif predicate is not None:
            then, orelse = (self._body(node.attrs[branch], names, outer) for branch in ("then", "orelse"))
            made = ast.CondStmt(predicate, names, then, orelse or None)
        else:
            test = self._test(node.attrs["test"], names, outer)
            made = ast.WhileStmt(
                test, names, literal(node.attrs["limit"]), self._body(node.attrs["body"], names, outer)
            )
        for name, value in zip(names, node.outputs, strict=True):
            self.values[value] = ast.Name(name)
        return [*before, made]

    def _captured(self, value: Value | None, before: list[ast.Stmt]) -> ast.Expr:
        """An outer value by a name: a number that is written within the region would be made there."""
        expr = self._operand(value)
        if isinstance(expr, ast.Call):
            name = self.names.fresh("number")
            before.append(ast.Assign([name], expr))
            return ast.Name(name)
        return expr

    def _body(self, body: Graph, names: list[str], outer: list[ast.Expr], skip: int = 0) -> list[ast.Stmt]:
        """The statements of a region, which binds ``names``, of which it takes all that are carried; ``skip`` of its inputs have
        their names already."""
        taken = len(body.inputs) - skip - len(outer)
        shown = [*map(ast.Name, names[:taken]), *outer]
        self.values.update(zip(body.inputs[skip:], shown, strict=True))
        inner = self._nodes(body)
        # All results are read before any carried name is rebound.
        return inner + self._rebind(dict(zip(names, map(self._operand, body.outputs), strict=True)))

    def _rebind(self, finals: dict[str, ast.Expr]) -> list[ast.Stmt]:
        """Assignments that give each name its final value, where some of these are other names of the list."""
        held: list[ast.Stmt] = []
        last: list[ast.Stmt] = []
        for name, expr in finals.items():
            if isinstance(expr, ast.Name) and expr.id in finals and expr.id != name:
                temporary = self.names.fresh(f"{expr.id}_next")
                held.append(ast.Assign([temporary], expr))
                expr = ast.Name(temporary)
            if expr != ast.Name(name):
                last.append(ast.Assign([name], expr))
        return held + last

    def _test(self, test: Graph, names: list[str], outer: list[ast.Expr]) -> ast.Expr:
        """The condition of a `while`: an expression where each of its values is read once, else a call of a function."""
        nodes = [n for n in test.nodes() if n.op.name != "constant"]
        if all(len(n.outputs) == 1 and len(n.output.uses) == 1 and not n.bodies for n in nodes):
            self.values.update(zip(test.inputs, [*map(ast.Name, names), *outer], strict=True))
            for node in nodes:
                self.values[node.output] = self._expression(node)
            return self._operand(test.outputs[0])
        called = self._helper(test, "test")
        return ast.Call(ast.Name(called), [ast.Arg(None, shown) for shown in [*map(ast.Name, names), *outer]])

    def _helper(self, body: Graph, hint: str) -> str:
        """The name of a function that is written beside the model."""
        name = self._top_name(hint)
        params = []
        named = self._unsolved(body)
        for value in body.inputs:
            shown = self.names.fresh(value.name)
            self.values[value] = ast.Name(shown)
            params.append(ast.Param(shown, type_expr(_renamed(value.type, named))))
        statements = self._nodes(body)
        statements.append(ast.ReturnStmt([self._operand(v) for v in body.outputs]))
        results = [ast.Result(type_expr(_renamed(v.type, named))) for v in body.outputs]
        self.helpers.append(ast.Function("fn", name, params, [], results, statements))
        return name

    def _unsolved(self, body: Graph) -> dict[Dim, Dim]:
        """A name for each size of the operands from which a call could not tell its symbols, such as ``2 * B + T``."""
        shapes = {str(i): v.type.shape for i, v in enumerate(body.inputs)}
        told = solve_symbols(shapes).keys()
        found = dict.fromkeys(d for dims in shapes.values() for d in dims if d.symbols - told)
        return {d: sym(self.names.fresh("N")) for d in found}

    def _scan(self, node: Node) -> ast.Expr:
        body: Graph = node.attrs["body"]
        if len(body.inputs) > 2 * node.attrs["carried"]:
            raise Diagnostic("E0405", "a `scan` whose function captures tensors cannot be printed", node.span)
        args = [ast.Arg(None, ast.Name(self._helper(body, "combine")))]
        args += [ast.Arg(None, self._operand(v)) for v in node.inputs]
        return ast.Call(ast.Name("scan"), [*args, ast.Arg("axis", literal(node.attrs["axis"]))])
