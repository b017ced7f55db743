"""The one way to add nodes: types are inferred, attributes completed, names and constants shared.

>>> b = Builder(Graph("f"))
>>> x = b.input("x", TensorType.of("f32", ["B", 8]))
>>> y = b.op("exp", x)
>>> str(y.type)
'f32[B, 8]'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .diagnostics import Diagnostic, Span
from .dims.dim import Dim, sym
from .equalities import infer_within
from .graph import Graph, Initializer, Input, Node, Parameter, Value
from .naming import unique
from .op import AnyOp
from .ops import OPS
from .types import DType, TensorType, i64


class Builder:
    """Adds to ``graph``, at its end or behind ``after``. ``span`` and ``scope`` are given to the nodes made."""

    def __init__(self, graph: Graph, *, span: Span | None = None, scope: str = "") -> None:
        self.graph = graph
        self.span = span
        self.scope = scope
        self._before: Node | None = None
        self._constants: dict[tuple[Any, ...], Value] = {}

    def before(self, node: Node | None) -> Builder:
        """A builder that inserts in front of ``node`` (None: at the end)."""
        other = Builder(self.graph, span=self.span, scope=self.scope)
        other._before = node
        if node is not None:
            other.span, other.scope = node.span, node.scope
        return other

    # Leaves ------------------------------------------------------------------------------------------------------

    def input(
        self,
        name: str,
        type: TensorType,
        role: str = "input",
        init: Initializer | None = None,
        span: Span | None = None,
        outside: str | None = None,
    ) -> Input:
        """Declare an input; ``role`` is ``input``, ``state`` or ``random``, of which the last two have an ``init``."""
        return self.graph.add_input(Input(type, name, role, init, span, outside=outside))

    def param(
        self, full_name: str, type: TensorType, init: Initializer | None = None, trainable: bool = True,
        span: Span | None = None,
    ) -> Parameter:  # fmt: skip
        """Declare a weight. Raises E0206 when the name is taken."""
        if full_name in self.graph.params:
            raise Diagnostic(
                "E0206",
                f"the parameter `{full_name}` is declared twice",
                span,
                help="give one of the layers a scope of its own: `linear(…) as name`, `repeat … as blocks`",
            )
        return self.graph.add_param(Parameter(type, full_name, init or Initializer("zeros"), trainable, span))

    def constant(self, value: float | int | bool, dtype: DType) -> Value:
        """A scalar; equal scalars share one node. Raises E0405 for a number that the dtype does not have, 0.5 as i64."""
        canonical = bool(value) if dtype.kind == "bool" else int(value) if dtype.kind == "int" else float(value)
        if canonical != value and value == value:
            raise Diagnostic("E0405", f"{value} is not a value of {dtype}", self.span)
        key = (repr(canonical), dtype)
        found = self._constants.get(key)
        # A pass may have removed the node meanwhile.
        if found is None or found.node is None or found.node.graph is not self.graph:
            found = self.op("constant", value=canonical, dtype=dtype)
            if self._before is None:
                self._constants[key] = found
        return found

    def dim_value(self, dim: Dim) -> Value:
        """A dimension as an ``i64[]`` tensor."""
        return self.op("full", shape=(), value=dim, dtype=i64)

    def name_dim(self, name: str, dim: Dim, least: int = 0) -> Dim:
        """Define ``let name = dim`` (made unique) and return the symbol; an integer or a symbol is returned as it is.

        ``least`` is what the value is known not to fall below.
        """
        if dim.value is not None or dim.symbol is not None:
            return dim
        for known, value in self.graph.lets.items():
            if value == dim:
                return sym(known)
        taken = set(self.graph.lets) | set(self.graph.symbols())
        symbol = unique(name, taken, joint="")
        self.graph.lets[symbol] = dim
        self.graph.facts[symbol] = (least, None)
        return sym(symbol)

    # Nodes -------------------------------------------------------------------------------------------------------

    def op(self, name: str | AnyOp, *inputs: Value | None, **attrs: Any) -> Value:
        """Apply an op with one result."""
        return self.multi(name, *inputs, **attrs)[0]

    def multi(self, name: str | AnyOp, *inputs: Value | None, **attrs: Any) -> list[Value]:
        """Apply an op; all its results."""
        return self.emit(OPS[name] if isinstance(name, str) else name, inputs, attrs)

    def emit(
        self,
        op: AnyOp,
        inputs: Sequence[Value | None],
        attrs: dict[str, Any] | None = None,
        *,
        span: Span | None = None,
        spans: Sequence[Span | None] | None = None,
        scope: str | None = None,
        names: Sequence[str] = (),
    ) -> list[Value]:
        """Infer and insert one node.

        Args:
            span: the call's place; the builder's own when None.
            spans: one an input, for errors about one argument.
            names: hints for the results.

        Raises:
            Diagnostic: when operands or attributes do not fit the op.
        """
        attrs = {k: freeze(v) for k, v in (attrs or {}).items()}
        span = span or self.span
        types = infer_within(self.graph, op, inputs, attrs, span=span, spans=spans)
        node = Node(op, inputs, attrs, span, self.scope if scope is None else scope)
        for i, type in enumerate(types):
            node.outputs.append(Value(type, names[i] if i < len(names) else "", node, i))
        if self._before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self._before, node)
        return node.outputs


def freeze(value: Any) -> Any:
    """Attribute values are immutable and canonical: lists become tuples, known dimensions integers, NumPy scalars plain numbers."""
    if isinstance(value, (list, tuple)):
        return tuple(freeze(v) for v in value)
    if isinstance(value, Dim):
        return value if value.value is None else value.value
    if getattr(value, "ndim", None) == 0:
        return value.item()
    return float(value) if isinstance(value, float) else value


def reinfer(node: Node) -> bool:
    """Infer the result types anew after an input's type changed. Returns whether any result's type changed.

    Raises:
        Diagnostic: when the new operand types no longer fit, with the node's own span.
    """
    attrs = dict(node.attrs)
    types = infer_within(node.graph, node.op, node.inputs, attrs, span=node.span)
    node.attrs = attrs
    changed = False
    for value, type in zip(node.outputs, types, strict=True):
        if value.type != type:
            value.type = type
            changed = True
    return changed
