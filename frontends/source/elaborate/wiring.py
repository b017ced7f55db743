"""The body of a flow as steps: calls, and loops of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Span, did_you_mean
from ....ir.dims.dim import Dim
from ....ir.naming import unique
from ....ir.program import Carry, Flow, Loop, Port, Program, Step
from ....ir.signature import Signature
from ....ir.stages import METHODS, UTF8, fields_of, stage_of
from ....ir.wiring import signature_of
from ..syntax import ast
from .library import Unit
from .values import describe

if TYPE_CHECKING:
    from .elaborate import Elaborator


class Wiring:
    """The body of a flow as steps."""

    def __init__(
        self, elaborator: Elaborator, unit: Unit, program: Program, node: ast.Function, called: bool, statics: Mapping[str, Any]
    ) -> None:
        self.elaborator = elaborator
        self.statics = statics
        # Whether calls say what the entry points are.
        self.called = called
        self.unit = unit
        self.program = program
        self.node = node
        self.interface = program.flows[node.name]
        self.taken = {port.value for port in self.interface.inputs}
        # What a name of the source stands for now, as it may be bound again.
        self.values = {port.name: port.value for port in self.interface.inputs}
        self.steps: list[Step | Loop] = []
        # Values that have fields, by the name before the dot.
        self.fielded: dict[str, tuple[str, ...]] = {}

    def flow(self) -> Flow:
        outputs: tuple[Port, ...] | None = None
        for statement in self.node.body:
            if outputs is not None:
                raise Diagnostic("E0504", "nothing after a `return` is ever reached", statement.span)
            if isinstance(statement, ast.ReturnStmt):
                outputs = self._outputs(statement)
            else:
                self._statement(statement)
        if outputs is None:
            raise Diagnostic("E0504", f"`{self.node.name}` reaches its end without a `return`", self.node.name_span)
        return Flow(self.node.name, self.interface.inputs, tuple(self.steps), outputs, self.node.name_span)

    def _statement(self, statement: ast.Stmt) -> None:
        if isinstance(statement, ast.Assign):
            self._assign(statement)
        elif isinstance(statement, (ast.FoldStmt, ast.WhileStmt)):
            self._loop(statement)
        elif isinstance(statement, ast.RepeatStmt):
            help = "what is called again is a loop: `fold i in 8 from (x) { … }`"
            raise Diagnostic("E0524", "a flow unrolls nothing", statement.span, help=help)
        else:
            raise _not_a_call(statement.span)

    def _loop(self, s: ast.FoldStmt | ast.WhileStmt) -> None:
        """Raises E0204 for names, E0308 for what is carried or stacked, E0402 for a number of steps, E0504 for a `return`."""
        fold = isinstance(s, ast.FoldStmt)
        word = "fold" if fold else "while"
        count = self._count(s.count if isinstance(s, ast.FoldStmt) else s.limit, "fold" if fold else "limit")
        stacked = s.stacked if isinstance(s, ast.FoldStmt) else []
        variable = s.variable if isinstance(s, ast.FoldStmt) else None
        names = [*s.carried, *stacked, *([variable] if variable is not None else [])]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise Diagnostic("E0204", f"`{twice}` is a name of this `{word}` twice", s.span)
        firsts = [self._whole(self._named(ast.Name(name, span=s.span)), s.span) for name in s.carried]
        before, outside = dict(self.values), self.steps
        number = unique(variable, self.taken) if variable is not None else None
        if variable is not None and number is not None:
            self.values[variable] = number
        insides = [unique(name, self.taken) for name in s.carried]
        self.values.update(zip(s.carried, insides, strict=True))
        self.steps = []
        going = None if isinstance(s, ast.FoldStmt) else self._condition(s.condition)
        test, self.steps = self.steps, []
        for statement in s.body:
            if isinstance(statement, ast.ReturnStmt):
                raise Diagnostic("E0504", f"a `return` cannot stand within a `{word}`", statement.span)
            self._statement(statement)
        body, self.steps = self.steps, outside
        afters = [self._whole(self.values[name], s.span) for name in s.carried]
        ends = [self._stacked(name, before, s.span) for name in stacked]
        self.values = before
        results = [unique(inside, self.taken) for inside in insides]
        stacks = [unique(name, self.taken) for name in stacked]
        self.values.update([*zip(s.carried, results, strict=True), *zip(stacked, stacks, strict=True)])
        carried = tuple(Carry(*row) for row in zip(firsts, insides, afters, results, strict=True))
        asked = tuple(step for step in test if isinstance(step, Step))
        self.steps.append(
            Loop(count, carried, tuple(zip(ends, stacks, strict=True)), tuple(body), number, asked, going, s.span)
        )

    def _count(self, expr: ast.Expr, word: str) -> int:
        count = self.elaborator.static(self.unit, expr, dict(self.statics))
        count = count.value if isinstance(count, Dim) else count
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise Diagnostic("E0402", f"`{word}` takes a number of steps, at least 1, not {describe(count)}", expr.span)
        return count

    def _condition(self, expr: ast.Expr) -> str:
        """The value that says whether a loop goes on."""
        found = self._values(expr, [])
        if len(found) != 1:
            raise Diagnostic("E0506", f"a `while` asks one bool[], and this is {len(found)} results", expr.span)
        return self._whole(found[0], expr.span)

    def _stacked(self, name: str, before: Mapping[str, str], span: Span | None) -> str:
        if name not in self.values or self.values[name] == before.get(name):
            raise Diagnostic("E0308", f"`{name}` is stacked, but the body of the `fold` does not bind it", span)
        return self._whole(self.values[name], span)

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
        what = f"entry point, stage or flow of the program `{self.program.name}`"
        what = "model, tokenizer, host stage or pipeline" if self.called else what
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
        "E0524", "a flow holds calls of entry points, stages and flows, loops of them, and nothing else", span,
        help="compute in a model, or in a host stage: `logits = prefill(ids)`, `return sample(logits)`",
    )  # fmt: skip
