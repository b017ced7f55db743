"""A module as source: the graph becomes a syntax tree, which the formatter writes. ``parse(print(m)) == m``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ....ir.compare import same_attr
from ....ir.compiling import CompileSpec
from ....ir.declarations import LOCAL
from ....ir.diagnostics import Diagnostic
from ....ir.graph import Graph, Input, Node, Parameter, Value
from ....ir.op import Composite, FuncRef, Trait, has
from ....ir.program import Program
from ....ir.signature import Bindings, RecordDef, RecordPattern, Static
from ..elaborate.builtin import BINARY, BUILTIN
from ..syntax import ast
from ..syntax.lexer import RESERVED
from .fmt import format_file
from .recipes import compile_block
from .regions import Names, RegionPrinter
from .roll import rolled
from .static import initialiser, literal, type_expr
from .tokenizers import tokenizer_declaration
from .wiring import flow_member, host_member, pipeline

_HINTS = {"add": "x", "mul": "x", "affine": "y"}
_INFIX = {op: symbol for symbol, op in BINARY.items() if symbol != "**"}


def print_module(program: Program) -> str:
    """The program as Tessera source, which elaborates to an equal program."""
    return format_file(_Printer(program).file())


def print_rolled(program: Program) -> str:
    """As :func:`print_module`, with `repeat` where blocks are equal; it elaborates to an equal program as well."""
    return format_file(rolled(_Printer(program).file()))


def print_compiled(program: Program, spec: CompileSpec) -> str:
    """As :func:`print_rolled`, with a ``compile`` block that names the weights and the passes of ``spec``: a file to go on from."""
    return format_file(rolled(_Printer(program, spec).file()))


class _Printer(RegionPrinter):
    def __init__(self, program: Program, spec: CompileSpec | None = None) -> None:
        self.program = program
        self.spec = spec
        self.declared = program.declared()
        needed = {name for declaration in self.declared.values() for name in declaration.needs}
        self.imports = {target: name for name, target in program.uses.items() if name in needed}
        self.helpers: list[ast.Function] = []
        # Names of the file: whatever an op or a symbol of any function is called must mean the same everywhere.
        self.top = Names(set(RESERVED) | set(BUILTIN) | set(self.declared) | {program.name} | set(program.tokenizers))
        # What a model binds hides a function of that name, which then goes by another.
        self.bound: set[str] = set()
        for graph in program.functions.values():
            sizes = {s for v in graph.inputs for d in v.type.shape for s in d.symbols} | set(graph.lets)
            self.top.taken |= sizes
            self.bound |= sizes | {v.name.partition(".")[0] for v in graph.inputs}
        self.models = {name: name if program.plain else self.top.fresh(name) for name in program.functions}
        for graph in program.functions.values():
            self.top.taken |= {n.op.name for n in graph.nodes()}
        self.names = self.top
        self.values: dict[Value, ast.Expr] = {}

    def file(self) -> ast.File:
        program = self.program
        docs = {program.name: program.doc} if program.plain else program.docs
        items: list[ast.Declaration] = [tokenizer_declaration(tokenizer) for tokenizer in program.tokenizers.values()]
        items += [
            self._model(self.models[name], graph, docs.get(name, "")) for name, graph in program.functions.items()
        ]
        if not program.plain:
            items.append(self._wiring())
        items += compile_block(program, self.spec)
        return ast.File("", self._uses(), [*(d.syntax for d in self.declared.values()), *self.helpers, *items])

    def _model(self, name: str, graph: Graph, doc: str) -> ast.Function:
        self.names = Names(self.top.taken | {v.name.partition(".")[0] for v in graph.inputs})
        for value in graph.inputs:
            self.values[value] = _input_name(value)
        body: list[ast.Stmt] = [ast.LetStmt(n, literal(d)) for n, d in graph.lets.items()]
        for value in graph.inputs:
            if value.role == "state":
                body += self._state(graph, value)
            elif value.role == "random" and value.init is not None:
                body.append(ast.RandomStmt(value.name, type_expr(value.type), initialiser(value.init), value.outside))
        body += [self._param(p) for p in graph.params.values()]
        for need in graph.requires:
            body.append(ast.RequireStmt(ast.Binary(need.op, literal(need.left), literal(need.right)), need.message))
        body += self._nodes(graph)
        results = self._outputs(graph, body)
        params = [ast.Param(v.name, _input_type(v), None, v.outside) for v in graph.inputs if v.role == "input"]
        return ast.Function("model", name, params, [], results, body, doc or None)

    def _wiring(self) -> ast.Program:
        whole = self.program.pipeline
        if whole is not None and all(name == model for name, model in self.models.items()):
            return pipeline(self.program, whole)
        members: list[ast.Entry | ast.Host | ast.Function] = [
            ast.Entry(name, model, []) for name, model in self.models.items()
        ]
        members += [host_member(stage) for stage in self.program.stages.values() if stage.kind == "python"]
        members += [flow_member(self.program, flow) for flow in self.program.flows.values()]
        return ast.Program(self.program.name, [], members, self.program.doc or None)

    def _state(self, graph: Graph, value: Input) -> list[ast.Stmt]:
        """The statement that declares a state; that of a record stands where its first field is."""
        assert value.init is not None
        if value.record is None:
            return [ast.StateStmt(value.name, type_expr(value.type), initialiser(value.init), value.outside)]
        pattern = value.record.pattern
        name, _, field = value.name.rpartition(".")
        fields = [n for n, _ in pattern.record.fields]
        if field != fields[0]:
            return []
        record = self._imported(pattern.record.module, pattern.record.name)
        dims = [literal(d if d.value is None else d.value) for d in pattern.dims]
        starts = [v.init for v in graph.inputs if v.init is not None and v.name.rpartition(".")[0] == name]
        init = initialiser(value.init)
        told = [pair for pair in value.record.statics if pair not in pattern.record.defaults]
        if told or any(start != value.init for start in starts):
            args = [ast.Arg(n, initialiser(start)) for n, start in zip(fields, starts, strict=True)]
            args += [ast.Arg(n, self._static(v)) for n, v in told]
            init = ast.Call(ast.Name(record), args)
        outside = None if value.outside is None else value.outside.removesuffix(f".{field}")
        return [ast.StateStmt(name, ast.TypeExpr(record, dims), init, outside)]

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
        states: dict[str, Value] = {}
        for value, info in zip(graph.outputs, graph.output_info, strict=True):
            expr = self._operand(value)
            if info.role == "tap":
                body.append(ast.TapStmt(info.name, expr, info.outside))
            elif info.role == "state":
                states[info.name] = value
            else:
                results.append(ast.Result(type_expr(value.type), info.name, None, info.outside))
                returned.append(expr)
        if len(results) == 1 and results[0].name == "output" and results[0].external is None:
            results[0].name = None
        held: dict[str, str] = {}
        changed: set[str] = set()
        updates: list[ast.Stmt] = []
        for name, expr in self._updates(graph, states).items():
            updates.append(ast.Assign([name], self._earlier(expr, changed, held)))
            changed.add(name)
        returned = [self._earlier(expr, changed, held) for expr in returned]
        body += [ast.Assign([kept], ast.Name(name)) for name, kept in held.items()]
        body += [*updates, ast.ReturnStmt(returned)]
        return results

    def _updates(self, graph: Graph, states: dict[str, Value]) -> dict[str, ast.Expr]:
        """The new value of each state that does not stay as it is."""
        updates: dict[str, ast.Expr] = {}
        for value in graph.inputs:
            if value.name not in states:
                continue
            name, expr = value.name, self._operand(states[value.name])
            if value.record is not None:
                name, record = name.rpartition(".")[0], value.record.pattern.record
                tensors: list[Value | None] = [states[f"{name}.{field}"] for field, _ in record.fields]
                expr = self._record(record, tensors, dict(value.record.statics))
            if expr != ast.Name(name):
                updates[name] = expr
        return updates

    def _earlier(self, expr: ast.Expr, changed: set[str], held: dict[str, str]) -> ast.Expr:
        """``expr`` with names that are ``changed`` by then replaced by others, in ``held``, of what they meant before."""
        if isinstance(expr, ast.Name) and expr.id in changed:
            if expr.id not in held:
                held[expr.id] = self.names.fresh(f"{expr.id}_before")
            return ast.Name(held[expr.id])
        if isinstance(expr, ast.Attribute):
            return ast.Attribute(self._earlier(expr.value, changed, held), expr.name)
        if isinstance(expr, ast.Call):
            args = [ast.Arg(a.name, self._earlier(a.value, changed, held)) for a in expr.args]
            return ast.Call(expr.function, args)
        return expr

    # Nodes -------------------------------------------------------------------------------------------------------

    def _nodes(self, graph: Graph) -> list[ast.Stmt]:
        statements: list[ast.Stmt] = []
        for node in graph.nodes():
            if node.op.name == "constant":
                continue
            if node.bodies and node.op.name != "scan":
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
        name = self.names.fresh(value.name or _HINTS.get(node.op.name, f"{node.op.name}_"))
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
        elif has(node, Trait.MAKES):
            args = [ast.Arg(None, k.value) for k in keywords if k.name != "dtype"]
            keywords = [k for k in keywords if k.name == "dtype"]
        elif has(node, Trait.SHAPED) or op.name == "cast":
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
                statics = {n: node.attrs.get(f"{operand.name}.{n}") for n, _ in operand.type.record.statics}
                value = None if tensors[0] is None else self._record(operand.type.record, tensors, statics)
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
            name = ast.Name(self._imported(value.module, value.name) if value.module else value.name)
            return ast.Call(name, [ast.Arg(n, self._static(v)) for n, v in value.given]) if value.given else name
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
            taken = {*self.imports.values(), *self.declared, *self.models.values(), self.program.name, *self.bound}
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

    def _record(self, record: RecordDef, tensors: list[Value | None], statics: dict[str, Any]) -> ast.Expr:
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
        kept = [(n, statics[n]) for n, _ in record.statics if (n, statics[n]) not in record.defaults]
        args += [ast.Arg(name, self._static(value)) for name, value in kept]
        return ast.Call(ast.Name(self._imported(record.module, record.name)), args)


def _input_name(value: Input) -> ast.Expr:
    if value.record is None:
        return ast.Name(value.name)
    name, _, field = value.name.rpartition(".")
    return ast.Attribute(ast.Name(name), field)


def _input_type(value: Input) -> ast.TypeExpr:
    found = type_expr(value.type)
    if value.vocabulary is None:
        return found
    return ast.TypeExpr("token", [literal(value.vocabulary.size), *(found.dims or ())])


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
