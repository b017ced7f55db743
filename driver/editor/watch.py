"""An elaborator that remembers what the expressions of a text came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...frontends.source.elaborate.bodies import Bodies
from ...frontends.source.elaborate.builtin import short
from ...frontends.source.elaborate.cycles import names_in
from ...frontends.source.elaborate.elaborate import Elaborator
from ...frontends.source.elaborate.evaluate import join
from ...frontends.source.elaborate.frame import Frame
from ...frontends.source.elaborate.values import Bundle, Multi, describe
from ...frontends.source.syntax import ast
from ...ir.declarations import LOCAL
from ...ir.diagnostics import Span
from ...ir.dims.dim import Dim, sym
from ...ir.graph import Value
from ...ir.op import FuncRef
from ...ir.signature import Bindings, RecordDef
from ...ir.types import TensorType
from .library import OpenLibrary
from .recall import RecallingCalls

# A place in a piece: the piece's name, then lines and columns as in a span.
Spot = tuple[str, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Record:
    """A record that an expression came to: the types of its fields, and the values of its static ones."""

    record: RecordDef
    fields: tuple[tuple[str, TensorType], ...]
    statics: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return self.record.name


def kept(value: Any) -> Any:
    """What is remembered of a value: types of tensors, not the graph that they are part of."""
    if isinstance(value, Value):
        return value.type
    if isinstance(value, Bundle):
        fields = tuple((name, tensor.type) for name, tensor in value.fields.items())
        return Record(value.record, fields, tuple(value.statics.items()))
    return tuple(map(kept, value.items)) if isinstance(value, Multi) else value


def shown(value: Any) -> str:
    """How an editor writes what is remembered."""
    if isinstance(value, TensorType):
        return str(value)
    if isinstance(value, Record):
        return str(value)
    if isinstance(value, tuple) and any(isinstance(item, (TensorType, Record)) for item in value):
        return f"({', '.join(map(shown, value))})"
    text = describe(value)
    return text.removeprefix("the ")


@dataclass
class Facts:
    """What is known of a piece: of each expression (and name that is bound) its first and its last value, and of each call what
    its signature was bound to, or (signature, types of operands, attributes) that say so."""

    values: dict[Spot, tuple[Any, Any]] = field(default_factory=dict)
    calls: dict[Spot, Any] = field(default_factory=dict)


def spot(span: Span) -> Spot:
    return span[:5]


class WatchedFrame(Frame):
    """A frame that tells its elaborator what it evaluates."""

    elaborator: Watching

    def __init__(self, elaborator: Watching, *args: Any, **kwargs: Any) -> None:
        super().__init__(elaborator, *args, **kwargs)
        elaborator.entered(self)

    def eval(self, expr: ast.Expr) -> Any:
        watching = self.elaborator
        if expr.span is None or expr.span.file not in watching.facts:
            return super().eval(expr)
        call = expr.value if isinstance(expr, ast.Scoped) else expr
        if isinstance(call, (ast.Call, ast.Pipe)) and call.span is not None:
            watching.within.append(call.span)
            try:
                value = super().eval(expr)
            finally:
                watching.within.pop()
            watching.called_core(call.span, value)
            watching.saw(call.span, value)
        else:
            value = super().eval(expr)
        watching.saw(expr.span, value)
        return value

    def _static_binary(self, e: ast.Binary, left: Any, right: Any) -> Any:
        reals = e.op == "**" or (e.op == "/" and not isinstance(left, Dim))
        if self.elaborator.alone and reals and any(isinstance(v, Dim) for v in (left, right)):
            # As `K ** -0.5`, where only a caller says what K is: no type hangs on such a real.
            return 1.0
        return super()._static_binary(e, left, right)

    def bind(self, name: str, value: Any, span: Span | None) -> None:
        super().bind(name, value, span)
        if span is not None and span.file in self.elaborator.facts:
            self.elaborator.saw(span, value)

    def _repeat(self, s: ast.RepeatStmt) -> bool:
        """As it is, with two exceptions. Steps that do not mention their number are all like one that changed no type, which
        ends it. A count that is not known, as in a layer that nothing calls, is looked at for one step.
        """
        count = self.eval(s.iterable)
        if isinstance(count, Dim) and self.elaborator.alone:
            return self._unknown(s)
        plain = isinstance(count, int) and not isinstance(count, bool) and count >= 0
        if self.elaborator.whole or not plain or s.variable in set(names_in(s.body)):
            return super()._repeat(s)
        before = None
        for step in range(short(count, s.iterable.span)):
            done = self._step(s, step)
            after = self._types() | {s.variable: None}
            if done or after == before:
                return done
            before = after
        return False

    def _step(self, s: ast.RepeatStmt, step: Any) -> bool:
        self.bind(s.variable, step, s.span)
        outer = self.scope
        self.scope = join(outer, f"{s.scope}.{step}") if s.scope else outer
        done = self.block(s.body)
        self.scope = outer
        return done

    def _unknown(self, s: ast.RepeatStmt) -> bool:
        before = self._types()
        self._step(s, sym(s.variable))
        after = self._types()
        # What a step changes is not known behind all of them.
        return False if all(after[name] == value for name, value in before.items()) else super()._repeat(s)

    def _types(self) -> dict[str, Any]:
        return {name: kept(value) for name, value in self.env.items()}

    _DO: ClassVar[dict[type, Any]] = {**Frame._DO, ast.RepeatStmt: _repeat}


class Watching(Elaborator):
    """One elaborator for all edits of a text: it keeps what it made of the library, and forgets what it made of the text.

    Attributes:
        facts: what it remembers, of those pieces that are asked about.
        whole: a `repeat` is unrolled to its end, whatever its steps do: a `weights` block speaks of all their parameters.
        alone: a function is looked at without a caller.
    """

    frames = WatchedFrame

    def __init__(self, library: OpenLibrary) -> None:
        super().__init__(library)
        self.calls = RecallingCalls(self)
        self.library: OpenLibrary = library
        self.facts: dict[str, Facts] = {}
        self.within: list[Span] = []
        self.whole = False
        self.alone = False

    def saw(self, span: Span, value: Any) -> None:
        values = self.facts[span.file].values
        now = kept(value)
        first = values.get(spot(span))
        values[spot(span)] = (now, now) if first is None else (first[0], now)

    def entered(self, frame: WatchedFrame) -> None:
        """A body begins."""
        if frame.bound is not None and frame.region is None and frame.kind in ("fn", "layer", "model"):
            self.bound_to(frame.bound)

    def bound_to(self, bound: Bindings) -> None:
        """Of the call that is being evaluated the dimensions are known now."""
        if self.within:
            self.facts[self.within[-1].file].calls.setdefault(spot(self.within[-1]), bound)

    def called_core(self, span: Span, value: Any) -> None:
        """A call came to a value: if one node made it, that node's signature says what its dimensions are."""
        first = value.items[0] if isinstance(value, Multi) and value.items else value
        node = first.node if isinstance(first, Value) else None
        if node is None or node.span is None or node.span[:5] != span[:5]:
            return
        signature = node.op.signature
        types = [None if v is None else v.type for v in node.inputs]
        self.facts[span.file].calls.setdefault(spot(span), (signature, types, dict(node.attrs)))

    def forget(self) -> None:
        """Forget all that comes from the text: its declarations have changed, or what they mention has."""
        shipped = {id(item) for unit in self.library.units if unit.module != LOCAL for item in unit.file.items}
        self.signatures.keep(shipped)
        self._composites = {key: value for key, value in self._composites.items() if key in shipped}
        self._by_node = {key: value for key, value in self._by_node.items() if key in shipped}
        self._consts = {key: value for key, value in self._consts.items() if key in shipped}
        self._declared = {key: value for key, value in self._declared.items() if id(value.node) in shipped}
        self._bodies = {k: body for k, body in self._bodies.items() if k[0] in shipped and not _mentions_local(k)}
        kept_bodies = set(self._bodies.values())
        self._record_statics = {key: value for key, value in self._record_statics.items() if key in kept_bodies}
        self.bodies = Bodies()
        self._acyclic &= shipped
        self.called.clear()


def _mentions_local(key: Any) -> bool:
    """Whether a function of the text is among the static arguments of a body."""
    flat: list[Any] = [key]
    while flat:
        item = flat.pop()
        if isinstance(item, FuncRef):
            if item.module == LOCAL:
                return True
        elif isinstance(item, (tuple, list)):
            flat.extend(item)
    return False
