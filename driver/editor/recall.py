"""Layers of the library, elaborated once for operands of given types: an edit of a text changes none of what they come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...frontends.source.elaborate.calls import Calls
from ...frontends.source.elaborate.deciding import decide
from ...frontends.source.elaborate.library import Declared
from ...frontends.source.elaborate.partial import instances
from ...frontends.source.elaborate.values import Bundle, Multi, holds_tensors, is_tensor
from ...frontends.source.syntax import ast
from ...ir.declarations import LOCAL, references
from ...ir.diagnostics import Diagnostic, Span
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Initializer, Node, Value
from ...ir.keys import attrs_key
from ...ir.op import Composite, Op
from ...ir.signature import Bindings, Signature
from ...ir.types import TensorType

if TYPE_CHECKING:
    from ...frontends.source.elaborate.frame import Frame
    from .watch import Watching

# What stands in a graph for all nodes of a layer that was looked at before.
_LAYER = Op(Signature("layer", (), (), ()), "A layer that was elaborated before.", "shape")
_MOST = 4000


@dataclass(frozen=True, slots=True)
class _Param:
    """A weight of a layer: ``name`` within the layer's scope, ``span`` in the library."""

    name: str
    type: TensorType
    init: Initializer
    trainable: bool
    span: Span | None


@dataclass(frozen=True, slots=True)
class _Known:
    """What a layer came to: its weights, its results with types for tensors, and the sizes that its results brought."""

    params: tuple[_Param, ...]
    results: Any
    dims: dict[str, Dim]


class RecallingCalls(Calls):
    """Calls of which those of the library's layers are elaborated once for each kind of operands."""

    elaborator: Watching

    def __init__(self, elaborator: Watching) -> None:
        super().__init__(elaborator)
        self._known: dict[tuple[Any, ...], _Known | None] = {}

    def inline(
        self, frame: Frame, declared: Declared, signature: Any, bound: Bindings, operands: list[Any], scope: str,
        span: Span | None,
    ) -> Any:  # fmt: skip
        """As it is; again for the same operands, the weights and one node instead of the body."""
        key = self._key(frame, declared, bound, operands)
        if key is None:
            return super().inline(frame, declared, signature, bound, operands, scope, span)
        assert frame.builder is not None
        graph = frame.builder.graph
        known = self._known.get(key)
        prefix = f"{scope}." if scope else ""
        if known is not None and not any(f"{prefix}{p.name}" in graph.params for p in known.params):
            return self._recalled(frame, known, bound, operands, prefix, span)
        before = _Mark(graph)
        value = super().inline(frame, declared, signature, bound, operands, scope, span)
        if key not in self._known:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = before.since(value, bound, prefix)
        return value

    def _key(self, frame: Frame, declared: Declared, bound: Bindings, operands: list[Any]) -> tuple[Any, ...] | None:
        """What the body of a call hangs on; None where that is more than its operands and static parameters."""
        node, graph = declared.node, frame.builder.graph if frame.builder is not None else None
        shipped = declared.unit.module != LOCAL and isinstance(node, ast.Function) and node.kind == "layer"
        if not shipped or frame.unit.module != LOCAL or graph is None or self.elaborator.whole:
            return None
        statics = bound.statics.values()
        own = any(ref.module == LOCAL for ref in references(statics)) or any(True for _ in instances(statics))
        own |= any(map(holds_tensors, statics))
        if own or frame.region is not None or frame.instances or graph.requires:
            return None
        types = tuple(None if v is None else v.type for v in operands)
        return id(node), types, attrs_key(bound.statics), tuple(graph.lets.items())

    def _recalled(
        self, frame: Frame, known: _Known, bound: Bindings, operands: list[Any], prefix: str, span: Span | None
    ) -> Any:
        assert frame.builder is not None
        self.elaborator.bound_to(bound)
        for name, dim in known.dims.items():
            bound.dims.setdefault(name, dim)
        params = [
            frame.root.param(f"{prefix}{p.name}", p.type, p.init, p.trainable, span and span.over(p.span))
            for p in known.params
        ]
        node = Node(_LAYER, [*operands, *params], {}, None, frame.scope)
        frame.builder.graph.append(node)
        return _made(known.results, node)


class _Mark:
    """A graph before a layer is elaborated in it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.last = next(graph.reversed_nodes(), None)
        self.counts = self._counts()
        self.params = len(graph.params)

    def _counts(self) -> tuple[int, ...]:
        graph = self.graph
        return len(graph.inputs), len(graph.output_info), len(graph.requires), len(graph.lets)

    def since(self, value: Any, bound: Bindings, prefix: str) -> _Known | None:
        """What has come to it; None where that is more than weights and nodes, each of which is right wherever it stands."""
        params = list(self.graph.params.values())[self.params :]
        if self._counts() != self.counts or not all(p.uses and p.full_name.startswith(prefix) for p in params):
            return None
        node = next(self.graph.nodes(), None) if self.last is None else self.last.next
        while node is not None:
            if node.bodies or not self._right(node):
                return None
            node = node.next
        rows = tuple(
            _Param(p.full_name[len(prefix) :], p.type, p.init, p.trainable, p.span and p.span.origin) for p in params
        )
        return _Known(rows, _types(value), dict(bound.dims))

    def _right(self, node: Node) -> bool:
        """Whether nothing that a node requires is open."""
        if not isinstance(node.op, Composite):
            return True
        try:
            body = node.op.instantiate([None if v is None else v.type for v in node.inputs], node.attrs)
        except Diagnostic:
            return False
        return all(decide(need.op, need.left, need.right, self.graph) for need in body.requires)


def _types(value: Any) -> Any:
    """Results with types in the place of their tensors."""
    if is_tensor(value):
        return value.type
    if isinstance(value, Bundle):
        return Bundle(value.record, {name: _types(v) for name, v in value.fields.items()}, value.statics)
    if isinstance(value, Multi):
        return Multi(tuple(map(_types, value.items)))
    return tuple(map(_types, value)) if isinstance(value, tuple) else value


def _made(results: Any, node: Node) -> Any:
    """Results of those types, as outputs of a node."""
    if isinstance(results, TensorType):
        node.outputs.append(Value(results, "", node, len(node.outputs)))
        return node.outputs[-1]
    if isinstance(results, Bundle):
        return Bundle(results.record, {name: _made(t, node) for name, t in results.fields.items()}, results.statics)
    if isinstance(results, Multi):
        return Multi(tuple(_made(t, node) for t in results.items))
    return tuple(_made(t, node) for t in results) if isinstance(results, tuple) else results
