"""Elaborating a ``program``: models become its functions, `host` members its stages, flows its wiring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Note, Span, did_you_mean
from ....ir.dims.dim import Dim, sym
from ....ir.naming import unique
from ....ir.program import Flow, Port, Program, Stage, Step
from ....ir.signature import Bindings, Pattern, RecordPattern, Signature
from ....ir.stages import METHODS, UTF8, fields_of, stage_of
from ....ir.types import DTYPES, DType, TensorType
from ....ir.wiring import check, check_shared, signature_of
from ..syntax import ast
from .gather import gather
from .library import Declared, Unit
from .pipelines import program_of
from .signatures import environment
from .vocabularies import vocabulary

if TYPE_CHECKING:
    from .elaborate import Elaborator


def elaborate_program(
    elaborator: Elaborator, unit: Unit, node: ast.Program, params: dict[str, Any], spans: Mapping[str, Span | None]
) -> Program:
    """The program that a declaration of ``unit`` describes, with these static parameters.

    Raises:
        Diagnostic: whatever is wrong with it.
    """
    called = isinstance(node, ast.Pipeline)
    if isinstance(node, ast.Pipeline):
        node = program_of(unit, node)
    _check_names(node)
    head = ast.Function("program", node.name, [], node.statics, [], [], name_span=node.name_span, span=node.span)
    signature = elaborator.signatures.function(unit, head)
    bound = elaborator.given_statics(unit, head, signature, params, spans)
    program = Program(node.name, {}, node.doc or "", path=unit.path)
    entries = [m for m in node.members if isinstance(m, ast.Entry)]
    if not entries and not called:
        raise Diagnostic(
            "E0521", f"the program `{node.name}` has no entry point", node.name_span,
            help="name one of the models as one: `entry prefill = decoder(layers=2)`",
        )  # fmt: skip
    for entry in entries:
        declared = _model(unit, entry)
        try:
            values = _arguments(elaborator, unit, entry, environment(bound))
            places = {a.name: a.value.span for a in entry.args if a.name}
            graph = elaborator.graph(declared, values, places, entry.name, entry.scope or "")
        except Diagnostic as error:
            error.notes.append(Note(f"in the entry point `{entry.name}` of `{node.name}`", entry.span))
            if error.code == "E0401" and error.span == _name_span(declared):
                # The options of the command line go to the program.
                call = f"{entry.model}(…, " if called else f"entry {entry.name} = {entry.model}("
                error.help = f"give it a default, or say it there: `{call}{_missing(declared, entry)}=…)`"
            raise
        program.functions[entry.name] = graph
        if isinstance(declared.node, ast.Function) and declared.node.doc:
            program.docs[entry.name] = declared.node.doc
    check_shared(program)
    for host in node.members:
        if isinstance(host, ast.Host):
            program.stages[host.name] = _stage(elaborator, unit, host)
    flows = [m for m in node.members if isinstance(m, ast.Function)]
    # Flows may call flows that stand behind them: their interfaces are known before any body is read.
    for flow in flows:
        program.flows[flow.name] = _interface(elaborator, unit, flow, bound)
    for flow in flows:
        program.flows[flow.name] = _Wiring(elaborator, unit, program, flow, called).flow()
    check(program)
    if not entries:
        raise Diagnostic(
            "E0521", f"the pipeline `{node.name}` calls no model", node.name_span,
            help="a tokenizer alone runs by itself: `ts.open_tokenizer`",
        )  # fmt: skip
    program.locals, program.uses = gather(elaborator, list(program.functions.values()), unit, node.name)
    if program.plain:
        program.doc = program.doc or program.docs.pop(node.name, "")
    return program


def _name_span(declared: Declared) -> Span | None:
    return declared.node.name_span if isinstance(declared.node, ast.Function) else None


def _missing(declared: Declared, entry: ast.Entry) -> str:
    """The first static parameter that an entry point leaves out, and that has no default."""
    assert isinstance(declared.node, ast.Function)
    given = {arg.name for arg in entry.args}
    return next(p.name for p in declared.node.statics if p.default is None and p.name not in given)


def _check_names(node: ast.Program) -> None:
    seen: dict[str, ast.Entry | ast.Host | ast.Function] = {}
    for member in node.members:
        if seen.setdefault(member.name, member) is not member:
            raise Diagnostic(
                "E0204", f"`{member.name}` is a name of the program `{node.name}` twice", _place(member),
                notes=[Note("the first one is here", _place(seen[member.name]))],
                help="entry points, stages and flows each have a name of their own",
            )  # fmt: skip


def _place(member: ast.Entry | ast.Host | ast.Function) -> Span | None:
    return member.name_span if isinstance(member, ast.Function) else member.span


def _model(unit: Unit, entry: ast.Entry) -> Declared:
    """The model that an entry names. Raises E0201 when there is none."""
    declared = unit.find(entry.model)
    if declared is None or not isinstance(declared.node, ast.Function) or declared.node.kind != "model":
        models = [n for n, d in unit.names.items() if isinstance(d.node, ast.Function) and d.node.kind == "model"]
        raise Diagnostic(
            "E0201",
            f"`{entry.model}` is {'not defined' if declared is None else 'no model'}, and an entry point is a model",
            entry.span, help=did_you_mean(entry.model, models) or f"the models are {', '.join(models) or 'none'}",
        )  # fmt: skip
    return declared


def _arguments(elaborator: Elaborator, unit: Unit, entry: ast.Entry, env: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for arg in entry.args:
        if arg.name is None:
            raise Diagnostic(
                "E0405", "an entry point gives its model's static parameters by name", arg.span,
                help=f"write `entry {entry.name} = {entry.model}(name=value)`; tensors come when it is called",
            )  # fmt: skip
        if arg.name in values:
            raise Diagnostic("E0406", f"`{arg.name}` is given twice", arg.span)
        values[arg.name] = elaborator.static(unit, arg.value, env)
    return values


def _stage(elaborator: Elaborator, unit: Unit, host: ast.Host) -> Stage:
    head = ast.Function("host", host.name, host.params, [], host.results, [], span=host.span)
    signature = elaborator.signatures.function(unit, head)
    for what, item in [
        *((o.name, o.type) for o in signature.operands),
        *(("result", r.type) for r in signature.results),
    ]:
        if isinstance(item, RecordPattern):
            raise Diagnostic(
                "E0310", f"`{what}` of the host stage `{host.name}` must be a tensor, not a {item}", host.span,
                help="pass the tensors of the record one by one",
            )  # fmt: skip
    if any(o.optional for o in signature.operands) or any(r.condition for r in signature.results):
        raise Diagnostic(
            "E0405", f"the host stage `{host.name}` takes and gives all of its tensors", host.span,
            help="take out `?` and `if`: what a stage does without is another stage",
        )  # fmt: skip
    return Stage(host.name, "python", host.reference, signature, host.span)


def _interface(elaborator: Elaborator, unit: Unit, node: ast.Function, bound: Bindings) -> Flow:
    """A flow's inputs and outputs, with the program's static parameters in their types; its body is not read yet, so that
    outputs have no values."""
    signature = elaborator.signatures.function(unit, node)
    inputs = []
    for operand, param in zip(signature.operands, node.params, strict=True):
        if operand.optional or not isinstance(operand.type, Pattern):
            raise Diagnostic(
                "E0310", f"the input `{operand.name}` of a flow is a tensor that is always given", param.span
            )
        ids = vocabulary(elaborator, unit, param.type, bound)
        inputs.append(Port(operand.name, _type(elaborator, operand.type, param.span, bound), operand.name, ids, param.span))
    outputs = []
    for i, (result, written) in enumerate(zip(signature.results, node.results, strict=True)):
        name = result.name or ("output" if len(signature.results) == 1 else f"output{i}")
        if result.condition is not None or not isinstance(result.type, Pattern):
            raise Diagnostic("E0310", f"the result `{name}` of a flow is a tensor that is always there", written.span)
        outputs.append(Port(name, _type(elaborator, result.type, written.span, bound), "", span=written.span))
    names = [port.name for port in outputs]
    if len(set(names)) != len(names):
        raise Diagnostic("E0204", f"two results of the flow `{node.name}` have one name", node.name_span)
    return Flow(node.name, tuple(inputs), (), tuple(outputs), node.name_span)


def _type(elaborator: Elaborator, pattern: Pattern, span: Span | None, bound: Bindings) -> TensorType:
    if ... in pattern.shape:
        raise Diagnostic("E0310", "a flow's tensors need all their axes, not `...`", span)
    dtype = pattern.dtype
    if not isinstance(dtype, DType):
        if dtype not in ("float", "int"):
            raise Diagnostic("E0310", f"`{dtype}` is no dtype: a flow's tensors have one, such as f32 or i64", span)
        dtype = elaborator.dtype if dtype == "float" else DTYPES["i64"]
    dims = [d for d in pattern.shape if isinstance(d, Dim)]
    symbols = {name: bound.dims.get(name, sym(name)) for d in dims for name in d.symbols}
    return TensorType(dtype, tuple(d.subs(symbols) for d in dims))


class _Wiring:
    """The body of a flow as steps."""

    def __init__(self, elaborator: Elaborator, unit: Unit, program: Program, node: ast.Function, called: bool) -> None:
        self.elaborator = elaborator
        # Whether calls say what the entry points are.
        self.called = called
        self.unit = unit
        self.program = program
        self.node = node
        self.interface = program.flows[node.name]
        self.taken = {port.value for port in self.interface.inputs}
        # What a name of the source stands for now, as it may be bound again.
        self.values = {port.name: port.value for port in self.interface.inputs}
        self.steps: list[Step] = []
        # Values that have fields, by the name before the dot.
        self.fielded: dict[str, tuple[str, ...]] = {}

    def flow(self) -> Flow:
        outputs: tuple[Port, ...] | None = None
        for statement in self.node.body:
            if outputs is not None:
                raise Diagnostic("E0504", "nothing after a `return` is ever reached", statement.span)
            if isinstance(statement, ast.ReturnStmt):
                outputs = self._outputs(statement)
            elif isinstance(statement, ast.Assign):
                self._assign(statement)
            else:
                raise _not_a_call(statement.span)
        if outputs is None:
            raise Diagnostic("E0504", f"`{self.node.name}` reaches its end without a `return`", self.node.name_span)
        return Flow(self.node.name, self.interface.inputs, tuple(self.steps), outputs, self.node.name_span)

    def _assign(self, s: ast.Assign) -> None:
        values = self._values(s.value, s.targets)
        if len(values) != len(s.targets):
            raise Diagnostic("E0404", f"{len(s.targets)} names, but the expression has {len(values)} result(s)", s.span)
        self.values.update(zip(s.targets, values, strict=True))

    def _outputs(self, s: ast.ReturnStmt) -> tuple[Port, ...]:
        declared = self.interface.outputs
        values = [value for expr in s.values for value in self._values(expr, [])]
        if len(values) != len(declared):
            raise Diagnostic(
                "E0309", f"`{self.node.name}` declares {len(declared)} result(s), but returns {len(values)}", s.span
            )
        return tuple(Port(p.name, p.type, self._whole(v, s.span), span=s.span) for p, v in zip(declared, values, strict=True))

    def _values(self, expr: ast.Expr, names: list[str]) -> tuple[str, ...]:
        """The values that an expression has; those of a call are named ``names`` where there are so many."""
        if isinstance(expr, ast.Name):
            return (self._named(expr),)
        if isinstance(expr, ast.Attribute):
            return (self._field(expr),)
        if isinstance(expr, ast.Pipe):
            right = expr.right if isinstance(expr.right, ast.Call) else ast.Call(expr.right, [], span=expr.right.span)
            expr = ast.Call(
                right.function, [ast.Arg(None, expr.left, span=expr.left.span), *right.args], span=expr.span
            )
        if not isinstance(expr, ast.Call):
            raise _not_a_call(expr.span)
        callee = self._callee(expr.function)
        signature = signature_of(self.program, callee, expr.function.span)
        operands, spans = self._operands(signature, expr)
        fields = fields_of(self.program.stages.get(callee))
        plain = f"{callee.replace('.', '_')}_out"
        if fields:
            name = unique(names[0] if len(names) == 1 else plain, self.taken)
            self.fielded[name] = fields
            self.steps.append(Step(callee, operands, tuple(f"{name}.{field}" for field in fields), expr.span, spans))
            return (name,)
        wanted = names if len(names) == len(signature.results) else [plain] * len(signature.results)
        results = tuple(unique(name, self.taken) for name in wanted)
        self.steps.append(Step(callee, operands, results, expr.span, spans))
        return results

    def _callee(self, function: ast.Expr) -> str:
        """The name of what is called; a stage of a tokenizer becomes one of the program's."""
        method = function.name if isinstance(function, ast.Attribute) else ""
        owner = function.value if isinstance(function, ast.Attribute) else function
        if not isinstance(owner, ast.Name):
            raise _not_a_call(function.span)
        known = {*self.program.functions, *self.program.stages, *self.program.flows}
        if not method and owner.id in known:
            return owner.id
        declared = self.unit.find(owner.id)
        if declared is not None and isinstance(declared.node, ast.Tokenizer):
            if method not in METHODS:
                raise Diagnostic(
                    "E0403", f"a tokenizer has no `{method}`", function.span,
                    help=f"write `{owner.id}(text)`, `{owner.id}.pair(text, other)` or"
                    f" `{owner.id}.decode(ids)`",
                )  # fmt: skip
            stage = stage_of(METHODS[method], owner.id)
            self.program.tokenizers[owner.id] = self.elaborator.tokenizer(declared)
        elif not method and owner.id == UTF8 and declared is None:
            stage = stage_of(UTF8)
        elif not method and declared is not None and isinstance(declared.node, ast.Function):
            raise Diagnostic(
                "E0524", f"`{owner.id}` is of the kind `{declared.node.kind}`, which a flow cannot call", function.span,
                help="call it in a model, and the model here" if declared.node.kind != "model" else "make it an entry point",
            )  # fmt: skip
        elif not method:
            raise self._unknown(owner)
        else:
            raise _not_a_call(function.span)
        self.program.stages.setdefault(stage.name, replace(stage, span=function.span))
        return stage.name

    def _unknown(self, name: ast.Name) -> Diagnostic:
        """What there is to call, where a name is nothing of that."""
        kinds = (ast.Tokenizer, ast.Pipeline) if self.called else (ast.Tokenizer,)
        others = [n for n, d in self.unit.names.items() if isinstance(d.node, kinds)]
        models = [n for n, d in self.unit.names.items() if isinstance(d.node, ast.Function) and d.node.kind == "model"]
        own = [*self.program.functions, *(n for n, s in self.program.stages.items() if s.kind == "python"), *self.program.flows]
        known = [n for n in dict.fromkeys([*own, *(models if self.called else ()), *others]) if n != self.node.name]
        what = "model, tokenizer, host stage or pipeline" if self.called else f"entry point, stage or flow of the program `{self.program.name}`"
        return Diagnostic(
            "E0201", f"`{name.id}` is no {what}", name.span,
            help=did_you_mean(name.id, [*known, UTF8]) or f"there {'are' if len(known) > 1 else 'is'} {', '.join(known)}"
            if known else None,
        )  # fmt: skip

    def _field(self, expr: ast.Attribute) -> str:
        """The value that a field is. Raises E0203 where there is none of that name, E0404 for several results."""
        found = self._values(expr.value, [])
        if len(found) != 1:
            raise Diagnostic(
                "E0404", f"{len(found)} results have no field `{expr.name}`", expr.span, help="name them first: `a, b = …`"
            )
        (name,) = found
        fields = self.fielded.get(name, ())
        if expr.name not in fields:
            raise Diagnostic(
                "E0203", f"this has no field `{expr.name}`", expr.span,
                help=did_you_mean(expr.name, fields) or (f"its fields are {', '.join(fields)}" if fields else None),
            )  # fmt: skip
        return f"{name}.{expr.name}"

    def _whole(self, name: str, span: Span | None) -> str:
        """A value without fields, which goes into what takes tensors. Raises E0404 for one that has some."""
        fields = self.fielded.get(name)
        if fields is not None:
            raise Diagnostic(
                "E0404", f"this is {len(fields)} values, and one is needed here", span,
                help=f"name one of them: `.{'`, `.'.join(fields)}`",
            )  # fmt: skip
        return name

    def _named(self, expr: ast.Name) -> str:
        if expr.id not in self.values:
            raise Diagnostic("E0201", f"`{expr.id}` is not defined", expr.span, help=did_you_mean(expr.id, self.values))
        return self.values[expr.id]

    def _operands(self, signature: Signature, call: ast.Call) -> tuple[tuple[str, ...], tuple[Span | None, ...]]:
        """The values that a call passes, in the order of the callee's inputs, and where each stands."""
        free = [o.name for o in signature.operands]
        given: dict[str, tuple[str, Span | None]] = {}
        for arg in call.args:
            value = self._values(arg.value, [])
            if len(value) != 1:
                raise Diagnostic(
                    "E0404",
                    f"{len(value)} results cannot be one argument",
                    arg.span,
                    help="name them first: `a, b = …`",
                )
            name = arg.name or next((n for n in free if n not in given), None)
            if name is None:
                raise Diagnostic(
                    "E0404", f"`{signature.name}` takes {len(free)} tensor argument(s), but more are given", arg.span
                )
            if name not in free:
                raise Diagnostic(
                    "E0403", f"`{signature.name}` has no input `{name}`", arg.span,
                    help=did_you_mean(name, free) or f"its inputs are {', '.join(free) or 'none'}",
                )  # fmt: skip
            if name in given:
                raise Diagnostic("E0406", f"`{name}` of `{signature.name}` is given twice", arg.span)
            given[name] = self._whole(value[0], arg.value.span), arg.value.span
        missing = next((o for o in signature.operands if o.name not in given), None)
        if missing is not None:
            raise Diagnostic(
                "E0404", f"`{signature.name}` needs `{missing.name}: {missing.type}`", call.span,
                help=f"write `{signature.name}({', '.join(free)})`",
            )  # fmt: skip
        rows = [given[name] for name in free]
        return tuple(value for value, _ in rows), tuple(span for _, span in rows)


def _not_a_call(span: Span | None) -> Diagnostic:
    return Diagnostic(
        "E0524", "a flow holds calls of entry points, stages and flows, and nothing else", span,
        help="compute in a model, or in a host stage: `logits = prefill(ids)`, `return sample(logits)`",
    )  # fmt: skip
