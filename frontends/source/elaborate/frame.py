"""One activation of a body: its statements. Expressions are in :mod:`.evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any, ClassVar

from ....ir.builder import Builder
from ....ir.declarations import LOCAL
from ....ir.diagnostics import Diagnostic, Span, several
from ....ir.dims.dim import Dim, prove_ge
from ....ir.graph import Require, Value
from ....ir.signature import RecordPattern
from ..syntax import ast
from . import control, inputs
from .builtin import BUILTIN, known, short
from .deciding import decide
from .evaluate import Evaluator, join
from .mistaken import mentioned, rebound, returns
from .partial import forgotten, shared_weight
from .regions import Region
from .static import COMPARISONS, comparable
from .values import POISON, Bundle, Multi, describe, is_tensor

# Nodes of the largest program that anybody has.
_NODES = 4_000_000


class Frame(Evaluator):
    """A body being elaborated: an evaluator that also runs statements."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The states whose names are alive: name -> that of the program's input (of a record: before the field's).
        self.states: dict[str, str] = {}
        self.result: list[Any] | None = None
        self.return_span: Span | None = None
        # What is wrong with the statements so far, and whether a `return` is among them.
        self.errors: list[Diagnostic] = []
        self.lost_return = False

    # Statements --------------------------------------------------------------------------------------------------

    def step(self, statement: ast.Stmt) -> None:
        """Execute one statement. Raises Diagnostic for what is wrong with it."""
        self._DO[type(statement)](self, statement)
        self.complain()

    def block(self, body: list[ast.Stmt]) -> bool:
        """Execute statements; True when a ``return`` was reached (its values are in ``result``).

        A statement that is wrong goes to ``errors``, and what it binds is poison: the next ones are looked at as well.
        """
        self.body = self.body or body
        for statement, following in zip_longest(body, body[1:]):
            try:
                done = self._DO[type(statement)](self, statement)
            except Diagnostic as error:
                done = self._failed(statement, error)
            if done:
                if isinstance(statement, ast.ReturnStmt) and following is not None:
                    self.errors.append(Diagnostic("E0504", "nothing after a `return` is ever reached", following.span))
                return True
        return False

    def _failed(self, statement: ast.Stmt, error: Diagnostic) -> bool:
        """Go on behind a wrong statement of the user's. True when it is sure to have returned."""
        if self.unit.module != LOCAL:
            raise error
        self.errors.append(error)
        told = {one.span[:3] for one in (error, *error.others) if one.span is not None}
        for name in mentioned(statement):
            if name.span is not None and name.span[:3] in told:
                continue
            try:
                self.eval(name)
            except Diagnostic as undefined:
                self.errors.append(undefined)
        self.env.update(dict.fromkeys(rebound(statement), POISON))
        self.lost_return |= returns(statement)
        return isinstance(statement, ast.ReturnStmt)

    def complain(self) -> None:
        """Raise what is wrong with the statements so far, if anything is."""
        if self.errors:
            errors, self.errors = self.errors, []
            raise several(errors)

    def _assign(self, s: ast.Assign) -> None:
        value = self.eval(s.value)
        if len(s.targets) == 1:
            if isinstance(value, Multi):
                names = [s.targets[0], *(f"{s.targets[0]}_{i}" for i in range(1, len(value.items)))]
                raise Diagnostic(
                    "E0404", f"{len(value.items)} results cannot be assigned to one name", s.span,
                    help=f"name all of them: `{', '.join(names)} = …`",
                )  # fmt: skip
            self.bind(s.targets[0], value, s.target_spans[0] if s.target_spans else s.span)
            return
        items = value.items if isinstance(value, Multi) else (value,)
        if len(set(s.targets)) != len(s.targets):
            twice = next(n for i, n in enumerate(s.targets) if n in s.targets[:i])
            raise Diagnostic("E0204", f"`{twice}` gets two values in one statement", s.span, help="give each result its name")
        if len(items) != len(s.targets):
            message = f"{len(s.targets)} names, but the expression has {len(items)} result(s)"
            raise Diagnostic("E0404", message, s.span, help=forgotten(value))
        for i, (name, item) in enumerate(zip(s.targets, items, strict=True)):
            self.bind(name, item, s.target_spans[i] if s.target_spans else s.span)

    def bind(self, name: str, value: Any, span: Span | None) -> None:
        """Give a name its value; tensors made here take it as their printed name."""
        if name in BUILTIN:
            raise Diagnostic(
                "E0205",
                f"`{name}` is built in and cannot be assigned",
                span,
                help=f"choose another name, such as `{name}_`",
            )
        if isinstance(value, Value) and value.node is not None:
            value.name = value.name or name
        elif isinstance(value, Bundle):
            for field, tensor in value.fields.items():
                if tensor.node is not None:
                    tensor.name = tensor.name or f"{name}_{field}"
        elif isinstance(value, tuple):
            for item in value:
                if isinstance(item, Value) and item.node is not None:
                    item.name = item.name or name
        self.env[name] = value

    def _param(self, s: ast.ParamStmt) -> None:
        if self.kind == "op" or self.kind == "fn":
            raise Diagnostic(
                "E0506",
                f"a `{self.kind}` cannot own the {s.kind} `{s.name}`",
                s.span,
                help="declare a `layer`, or pass it in",
            )
        pattern = self.elaborator.signatures.pattern(self.unit, s.type)
        if isinstance(pattern, RecordPattern):
            raise Diagnostic("E0310", f"the {s.kind} `{s.name}` must be a tensor", s.span)
        type = self.type(pattern, s.type.span)
        init = inputs.initializer(self, s.init, s.kind) if s.init is not None else inputs.ZEROS
        full = join(self.scope, s.external or s.name)
        param = shared_weight(self, full, type, s.span)
        if param is None:
            param = self.root.param(full, type, init, s.kind == "param", self.place(s.span))
            for instance in self.instances:
                instance.fresh[full] = param
        self.bind(s.name, param, s.span)

    @property
    def root(self) -> Builder:
        """The builder of the outermost graph, which owns parameters and inputs."""
        assert self.builder is not None
        return self.builder if self.region is None else self.region.root

    def _tap(self, s: ast.TapStmt) -> None:
        value = self.eval(s.value)
        if not is_tensor(value):
            raise Diagnostic("E0506", f"`tap {s.name}` exposes a tensor, not {describe(value)}", s.span, help=forgotten(value))
        if self.region is not None or self.kind not in ("layer", "model"):
            raise Diagnostic(
                "E0506", f"`tap {s.name}` stands in {self.standing}", s.span,
                help="a tap is a statement of a layer or a model; return the value to one",
            )  # fmt: skip
        name = join(self.scope, s.name).replace(".", "_")
        if any(info.name == name for info in self.root.graph.output_info):
            raise Diagnostic(
                "E0204", f"`{name}` is the name of two outputs", s.span,
                help=f"calls that share weights share one scope: return the value, and `tap {s.name} = …` where they are called"
                if self.instances
                else "taps that are reached twice need scopes: `layer(…) as name`, `repeat … as blocks`",
            )  # fmt: skip
        self.root.graph.add_output(value, name, "tap", inputs.scoped_outside(self, name, s.external))

    def _require(self, s: ast.RequireStmt) -> None:
        self._need(s.condition, s)

    def _need(self, condition: ast.Expr, s: ast.RequireStmt) -> None:
        if isinstance(condition, ast.Binary) and condition.op == "and":
            self._need(condition.left, s)
            self._need(condition.right, s)
            return
        graph = self.builder.graph if self.builder is not None else None
        if isinstance(condition, ast.Binary) and condition.op in COMPARISONS:
            left, right = self.eval(condition.left), self.eval(condition.right)
            sides = comparable(left, right)
            if sides is not None:
                verdict = decide(condition.op, *sides, graph)
                if verdict is None and graph is not None:
                    graph.requires.append(Require(sides[0], condition.op, sides[1], s.message, self.place(s.span)))
                elif not verdict:
                    raise Diagnostic("E0501", f"{s.message} ({left} {condition.op} {right} does not hold)", s.span)
                return
        if not self.static_bool(condition, "require"):
            raise Diagnostic("E0501", s.message, s.span)

    def _let(self, s: ast.LetStmt) -> None:
        value = self.eval(s.value)
        if isinstance(value, bool) or not isinstance(value, (int, Dim)):
            raise Diagnostic("E0402", f"`let {s.name}` names a dimension, not {describe(value)}", s.span)
        if (
            isinstance(value, Dim)
            and self.kind in ("layer", "model")
            and self.region is None
            and self.builder is not None
        ):
            least = 1 if prove_ge(self.builder.graph.expand_lets(value), 1) else 0
            value = known(self.builder.name_dim(s.name, value, least))
        self.bind(s.name, value, s.span)

    def _repeat(self, s: ast.RepeatStmt) -> bool:
        iterable = self.eval(s.iterable)
        if isinstance(iterable, int) and not isinstance(iterable, bool) and iterable >= 0:
            iterable = tuple(range(short(iterable, s.iterable.span)))
        if not isinstance(iterable, tuple):
            raise Diagnostic(
                "E0402", f"`repeat` takes a count or a list known when compiling, not {describe(iterable)}",
                s.iterable.span,
                help="for a count that only run time knows use `fold`",
            )  # fmt: skip
        outer = self.scope
        for i, item in enumerate(iterable):
            self.bind(s.variable, item, s.span)
            self.scope = join(outer, f"{s.scope}.{i}") if s.scope else outer
            if self.block(s.body):
                return True
            if self.builder is not None and len(self.builder.graph) > _NODES:
                message = f"step {i} of {len(iterable)}: the program has more than {_NODES:,} nodes"
                raise Diagnostic("E0408", message, s.span, help="is a number mistyped? steps that share what they do: `fold`")
        self.scope = outer
        return False

    def _if(self, s: ast.IfStmt) -> bool:
        for condition, body in s.branches:
            if self.static_bool(condition, "if"):
                return self.block(body)
        return self.block(s.orelse) if s.orelse is not None else False

    def static_bool(self, expr: ast.Expr, what: str) -> bool:
        """A condition that must be known. Raises E0407 when it is not."""
        value = self.eval(expr)
        if isinstance(value, Value):
            raise Diagnostic(
                "E0407", f"the condition of `{what}` must be static, but is {describe(value)}", expr.span,
                help="`where(condition, a, b)` chooses at run time",
            )  # fmt: skip
        if not isinstance(value, bool):
            raise Diagnostic(
                "E0407", f"the condition of `{what}` must be true or false, but is {describe(value)}", expr.span
            )
        return value

    @property
    def standing(self) -> str:
        """Where a statement stands, for a message."""
        if self.region is None:
            return f"a `{self.kind}`"
        return "a branch of a `cond`" if self.region.graph.name == "cond" else "a step of a loop"

    def nested(self, region: Region) -> Frame:
        """A frame for a region, which sees the names of this one."""
        frame = type(self)(self.elaborator, self.unit, dict(self.env), builder=region.builder, region=region,
                           scope=self.scope, dtypes=self.dtypes, kind=self.kind, bound=self.bound)  # fmt: skip
        frame.caller = self.caller
        frame.instances = self.instances
        frame.states = self.states
        frame.errors = self.errors
        frame.body = self.body
        return frame

    def _return(self, s: ast.ReturnStmt) -> bool:
        values: list[Any] = []
        for value in self.each(s.values):
            values += value.items if isinstance(value, Multi) else [value]
        self.result = values
        self.return_span = s.span
        return True

    _DO: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {
        ast.Assign: _assign, ast.ParamStmt: _param, ast.StateStmt: inputs.state, ast.RandomStmt: inputs.random,
        ast.TapStmt: _tap,
        ast.RequireStmt: _require, ast.LetStmt: _let, ast.RepeatStmt: _repeat, ast.IfStmt: _if,
        ast.FoldStmt: control.fold, ast.CondStmt: control.cond, ast.WhileStmt: control.while_, ast.ReturnStmt: _return,
    }  # fmt: skip
