"""A module as source: the graph becomes a syntax tree, which the formatter writes. ``parse(print(m)) == m``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ....ir.compare import same_attr
from ....ir.declarations import LOCAL
from ....ir.diagnostics import Diagnostic
from ....ir.graph import Graph, Node, Parameter, Value
from ....ir.naming import unique
from ....ir.op import Composite, FuncRef
from ....ir.program import Program
from ....ir.signature import Bindings, RecordDef, RecordPattern, Static
from ..elaborate.builtin import BINARY, BUILTIN
from ..syntax import ast
from ..syntax.lexer import RESERVED
from .fmt import format_file
from .static import initialiser, literal, type_expr
from .wiring import flow_member, host_member

_INFIX = {op: symbol for symbol, op in BINARY.items() if symbol != "**"}


def print_module(program: Program) -> str:
    """The program as Tessera source, which elaborates to an equal program."""
    return format_file(_Printer(program).file())


class _Names:
    """Unique names for values."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)

    def fresh(self, hint: str) -> str:
        base = re.sub(r"\W", "_", hint).strip("_") or "v"
        if base[0].isdigit():
            base = f"v{base}"
        base = re.sub(r"_\d+$", "", base) or base
        return unique(base, self.taken)


class _Printer:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.declared = program.declared()
        needed = {name for declaration in self.declared.values() for name in declaration.needs}
        self.imports = {target: name for name, target in program.uses.items() if name in needed}
        self.helpers: list[ast.Function] = []
        # Names of the file: whatever an op or a symbol of any function is called must mean the same everywhere.
        self.top = _Names(set(RESERVED) | set(BUILTIN) | set(self.declared) | {program.name})
        for graph in program.functions.values():
            self.top.taken |= {s for v in graph.inputs for d in v.type.shape for s in d.symbols} | set(graph.lets)
        self.models = {name: name if program.plain else self.top.fresh(name) for name in program.functions}
        for graph in program.functions.values():
            self.top.taken |= {n.op.name for n in graph.nodes()}
        self.names = self.top
        self.values: dict[Value, ast.Expr] = {}

    def file(self) -> ast.File:
        program = self.program
        docs = {program.name: program.doc} if program.plain else program.docs
        items: list[ast.Declaration] = [
            self._model(self.models[name], graph, docs.get(name, "")) for name, graph in program.functions.items()
        ]
        if not program.plain:
            items.append(self._wiring())
        return ast.File("", self._uses(), [*(d.syntax for d in self.declared.values()), *self.helpers, *items])

    def _model(self, name: str, graph: Graph, doc: str) -> ast.Function:
        self.names = _Names(self.top.taken | {v.name for v in graph.inputs})
        for value in graph.inputs:
            self.values[value] = ast.Name(value.name)
        body: list[ast.Stmt] = [ast.LetStmt(n, literal(d)) for n, d in graph.lets.items()]
        for value in graph.inputs:
            if value.role == "state":
                init = None if value.init is None else initialiser(value.init)
                body.append(ast.StateStmt(value.name, type_expr(value.type), init))
            elif value.role == "random" and value.init is not None:
                body.append(ast.RandomStmt(value.name, type_expr(value.type), initialiser(value.init)))
        body += [self._param(p) for p in graph.params.values()]
        for need in graph.requires:
            body.append(ast.RequireStmt(ast.Binary(need.op, literal(need.left), literal(need.right)), need.message))
        body += self._nodes(graph)
        results = self._outputs(graph, body)
        params = [ast.Param(v.name, type_expr(v.type)) for v in graph.inputs if v.role == "input"]
        return ast.Function("model", name, params, [], results, body, doc or None)

    def _wiring(self) -> ast.Program:
        members: list[ast.Entry | ast.Host | ast.Function] = [
            ast.Entry(name, model, []) for name, model in self.models.items()
        ]
        members += map(host_member, self.program.stages.values())
        members += map(flow_member, self.program.flows.values())
        return ast.Program(self.program.name, [], members, self.program.doc or None)

    def _uses(self) -> list[ast.Use]:
        by_module: dict[str, list[tuple[str, str | None]]] = {}
        for (module, name), alias in sorted(self.imports.items()):
            by_module.setdefault(module, []).append((name, None if alias == name else alias))
        return [ast.Use(module, names) for module, names in by_module.items()]

    def _param(self, param: Parameter) -> ast.ParamStmt:
        # The last two parts of the full name, which follows in quotes: short, and usually telling.
        name = self.names.fresh("_".join(param.full_name.split(".")[-2:]))
        self.values[param] = ast.Name(name)
        kind = "param" if param.trainable else "buffer"
        external = None if name == param.full_name else param.full_name
        return ast.ParamStmt(kind, name, type_expr(param.type), initialiser(param.init), external)

    def _outputs(self, graph: Graph, body: list[ast.Stmt]) -> list[ast.Result]:
        results = []
        returned = []
        for value, info in zip(graph.outputs, graph.output_info, strict=True):
            expr = self._operand(value)
            if info.role == "tap":
                body.append(ast.TapStmt(info.name, expr))
            elif info.role == "state":
                if expr != ast.Name(info.name):
                    body.append(ast.Assign([info.name], expr))
            else:
                results.append(ast.Result(type_expr(value.type), info.name))
                returned.append(expr)
        if len(results) == 1 and results[0].name == "output":
            results[0].name = None
        body.append(ast.ReturnStmt(returned))
        return results

    # Nodes -------------------------------------------------------------------------------------------------------

    def _nodes(self, graph: Graph) -> list[ast.Stmt]:
        statements: list[ast.Stmt] = []
        for node in graph.nodes():
            if node.op.name == "constant":
                continue
            if node.op.name in ("fold", "cond", "while"):
                statements += self._region(node)
                continue
            expr = self._expression(node)
            statements.append(ast.Assign(self._targets(node), expr))
        return statements

    def _targets(self, node: Node) -> list[str]:
        """Names for a node's results; a record result is one name, and its tensors are fields."""
        targets: list[str] = []
        flat = iter(node.outputs)
        if isinstance(node.op, Composite):
            bound = _bindings(node)
            for result in node.op.signature.present(bound):
                if isinstance(result.type, RecordPattern):
                    fields = [next(flat) for _ in result.type.record.fields]
                    hint = re.sub(r"_[a-z]+$", "", fields[0].name) or result.type.record.name.lower()
                    name = self.names.fresh(hint)
                    for (field, _), value in zip(result.type.record.fields, fields, strict=True):
                        self.values[value] = ast.Attribute(ast.Name(name), field)
                    targets.append(name)
                else:
                    targets.append(self._name(next(flat), node))
            return targets
        return [self._name(value, node) for value in flat]

    def _name(self, value: Value, node: Node) -> str:
        name = self.names.fresh(value.name or _hint(node))
        self.values[value] = ast.Name(name)
        return name

    def _operand(self, value: Value | None) -> ast.Expr:
        if value is None:
            return ast.NoneValue()
        node = value.node
        if node is not None and node.op is not None and node.op.name == "constant":
            args = [ast.Arg(None, literal(node.attrs["value"])), ast.Arg("dtype", literal(node.attrs["dtype"]))]
            return ast.Call(ast.Name("constant"), args)
        return self.values[value]

    def _expression(self, node: Node) -> ast.Expr:
        op = node.op
        if isinstance(op, Composite):
            return self._composite(node, op)
        if op.name in _INFIX and len(node.inputs) == 2 and any(not _is_scalar(v) for v in node.inputs):
            left, right = (self._number(v, node.inputs) for v in node.inputs)
            return ast.Binary(_INFIX[op.name], left, right)
        if op.name == "neg":
            return ast.Unary("-", self._operand(node.inputs[0]))
        if op.name == "logical_not":
            return ast.Unary("not", self._operand(node.inputs[0]))
        if op.name == "slice":
            return self._slice(node)
        if op.name == "scan":
            return self._scan(node)
        alike = {"where": node.inputs[1:], "minimum": node.inputs, "maximum": node.inputs, "pow": node.inputs}.get(
            op.name, []
        )
        args = [ast.Arg(None, self._number(v, alike)) for v in node.inputs]
        keywords = [ast.Arg(n, literal(v)) for n, v in self._attrs(node)]
        if op.name == "einsum":
            args, keywords = [ast.Arg(None, literal(node.attrs["equation"])), *args], []
        elif op.name == "rearrange":
            args.append(ast.Arg(None, literal(node.attrs["pattern"])))
            keywords = [ast.Arg(name, literal(size)) for name, size in node.attrs["axes"]]
        elif op.name in ("full", "iota", "constant"):
            args = [ast.Arg(None, k.value) for k in keywords if k.name != "dtype"]
            keywords = [k for k in keywords if k.name == "dtype"]
        elif op.name in ("reshape", "expand", "cast"):
            args += [ast.Arg(None, k.value) for k in keywords]
            keywords = []
        return ast.Call(ast.Name(op.name), [*args, *keywords])

    def _number(self, value: Value | None, others: Iterable[Value | None]) -> ast.Expr:
        """An operand; a scalar beside a tensor of its dtype is written as a bare number."""
        if value is not None and value.node is not None and _is_scalar(value):
            beside = [v for v in others if v is not None and not _is_scalar(v)]
            if any(v.type.dtype == value.type.dtype for v in beside):
                return literal(value.node.attrs["value"])
        return self._operand(value)

    def _slice(self, node: Node) -> ast.Expr:
        attrs = node.attrs
        start = None if attrs["start"] == 0 else literal(attrs["start"])
        stop = None if attrs["stop"] is None else literal(attrs["stop"])
        step = None if attrs["step"] == 1 else literal(attrs["step"])
        if start is None and stop is None and step is None:
            start = ast.Int(0)
        items: list[ast.Expr] = [ast.Slice(None, None, None) for _ in range(attrs["axis"])]
        return ast.Index(self._operand(node.inputs[0]), [*items, ast.Slice(start, stop, step)])

    def _attrs(self, node: Node) -> list[tuple[str, Any]]:
        """The attributes that differ from their defaults, in the order of the signature."""
        bound = _bindings(node)
        rows = []
        for static in node.op.signature.statics:
            if static.name in node.attrs and "." not in static.name and not _is_default(static, node.attrs, bound):
                rows.append((static.name, node.attrs[static.name]))
        return rows

    def _composite(self, node: Node, op: Composite) -> ast.Expr:
        args: list[ast.Arg] = []
        leaves = iter(node.inputs)
        named = False
        for operand in op.signature.operands:
            if isinstance(operand.type, RecordPattern):
                tensors = [next(leaves) for _ in operand.type.record.fields]
                value = None if tensors[0] is None else self._record(operand.type.record, tensors, operand.name, node)
            else:
                tensor = next(leaves)
                value = None if tensor is None else self._operand(tensor)
            if value is None:
                named = True
            else:
                args.append(ast.Arg(operand.name if named else None, value))
        for name, value in self._attrs(node):
            args.append(ast.Arg(name, self._static(value)))
        return ast.Call(ast.Name(self._imported(op.module, op.name)), args)

    def _static(self, value: Any) -> ast.Expr:
        if isinstance(value, FuncRef):
            return ast.Name(self._imported(value.module, value.name) if value.module else value.name)
        if isinstance(value, tuple):
            return ast.ListExpr([self._static(v) for v in value])
        return literal(value)

    def _imported(self, module: str, name: str) -> str:
        if module == LOCAL:
            if name not in self.declared:
                raise Diagnostic("E0202", f"`{name}` of `{module}` cannot be printed: it is not a shipped declaration")
            return name
        found = self.imports.get((module, name))
        if found is None:
            taken = {*self.imports.values(), *self.declared, *self.models.values(), self.program.name}
            found = self._top_name(name) if name in taken else name
            self.names.taken.add(found)
            self.top.taken.add(found)
            self.imports[(module, name)] = found
        return found

    def _top_name(self, hint: str) -> str:
        """A name for something beside the models, which nothing in the one at hand has either."""
        name = self.names.fresh(hint)
        self.top.taken.add(name)
        return name

    def _record(self, record: RecordDef, tensors: list[Value | None], operand: str, node: Node) -> ast.Expr:
        exprs = [self._operand(t) for t in tensors]
        bases = [e.value for e in exprs if isinstance(e, ast.Attribute)]
        names = [e.name for e in exprs if isinstance(e, ast.Attribute)]
        if (
            len(bases) == len(record.fields)
            and all(b == bases[0] for b in bases)
            and names == [n for n, _ in record.fields]
        ):
            return bases[0]
        args = [ast.Arg(name, expr) for (name, _), expr in zip(record.fields, exprs, strict=True)]
        args += [ast.Arg(name, self._static(node.attrs[f"{operand}.{name}"])) for name, _ in record.statics]
        return ast.Call(ast.Name(self._imported(record.module, record.name)), args)

    # Regions -----------------------------------------------------------------------------------------------------

    def _region(self, node: Node) -> list[ast.Stmt]:
        """A `fold`, `cond` or `while`, after the assignments that name what it carries."""
        word, count = node.op.name, node.attrs["carried"]
        first = word == "cond"
        names = [self.names.fresh(value.name or "carry") for value in node.outputs]
        before: list[ast.Stmt] = [
            ast.Assign([name], self._operand(value))
            for name, value in zip(names, node.inputs[first : first + count], strict=True)
        ]
        predicate = self._operand(node.inputs[0]) if first else None
        outer = [self._captured(value, before) for value in node.inputs[first + count :]]
        made: ast.Stmt
        if word == "fold":
            body: Graph = node.attrs["body"]
            index = self.names.fresh(body.inputs[0].name or "i")
            self.values[body.inputs[0]] = ast.Name(index)
            made = ast.FoldStmt(index, literal(node.attrs["n"]), names, self._body(body, names, outer, 1))
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
        """The statements of a region, which rebind ``names``; ``skip`` of its inputs have their names already."""
        shown = [*map(ast.Name, names), *outer]
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
        for value in body.inputs:
            shown = self.names.fresh(value.name)
            self.values[value] = ast.Name(shown)
            params.append(ast.Param(shown, type_expr(value.type)))
        statements = self._nodes(body)
        statements.append(ast.ReturnStmt([self._operand(v) for v in body.outputs]))
        results = [ast.Result(type_expr(v.type)) for v in body.outputs]
        self.helpers.append(ast.Function("fn", name, params, [], results, statements))
        return name

    def _scan(self, node: Node) -> ast.Expr:
        body: Graph = node.attrs["body"]
        if len(body.inputs) > 2 * node.attrs["carried"]:
            raise Diagnostic("E0405", "a `scan` whose function captures tensors cannot be printed", node.span)
        args = [ast.Arg(None, ast.Name(self._helper(body, "combine")))]
        args += [ast.Arg(None, self._operand(v)) for v in node.inputs]
        return ast.Call(ast.Name("scan"), [*args, ast.Arg("axis", literal(node.attrs["axis"]))])


def _hint(node: Node) -> str:
    return {"add": "x", "mul": "x", "affine": "y"}.get(node.op.name, f"{node.op.name}_")


def _is_scalar(value: Value | None) -> bool:
    return (
        value is not None and value.node is not None and value.node.op is not None and value.node.op.name == "constant"
        and not isinstance(value.node.attrs["value"], tuple)
    )  # fmt: skip


def _bindings(node: Node) -> Bindings:
    return node.op.signature.unify(
        [None if v is None else v.type for v in node.inputs], dict(node.attrs), packs=getattr(node.op, "packs", "same")
    )


def _is_default(static: Static, attrs: dict[str, Any], bound: Bindings) -> bool:
    from ....ir.signature import REQUIRED

    if static.default is REQUIRED:
        return False
    try:
        value = static.default(bound) if callable(static.default) else static.default
    except Diagnostic:
        return False  # it cannot be computed here, so the attribute was given
    return same_attr(value, attrs[static.name])
