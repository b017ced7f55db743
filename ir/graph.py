"""The graph: values, nodes in a doubly linked list, def-use chains. Topological by construction; edits are O(1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .diagnostics import Span
from .dims.dim import Dim
from .op import AnyOp, Attrs
from .program import Program
from .signature import RecordPattern
from .types import TensorType
from .vocabulary import Vocabulary


class Value:
    """A tensor in a graph: a node's result, a graph input or a parameter.

    ``name`` is a hint for printing (for inputs it is the public name); ``uses`` maps ``(node, input index)`` to None.
    """

    __slots__ = ("index", "name", "node", "type", "uses")

    def __init__(self, type: TensorType, name: str = "", node: Node | None = None, index: int = 0) -> None:
        self.type = type
        self.name = name
        self.node = node
        self.index = index
        self.uses: dict[tuple[Node, int], None] = {}

    @property
    def users(self) -> list[Node]:
        """The distinct nodes that read this value, in order of first use."""
        return list(dict.fromkeys(node for node, _ in self.uses))

    def replace_uses(self, new: Value, *, skip: Iterable[Node] = ()) -> None:
        """Make every reader (but those in ``skip``) read ``new`` instead."""
        excluded = set(skip)
        for node, i in list(self.uses):
            if node not in excluded:
                node.set_input(i, new)

    def __repr__(self) -> str:
        return f"<{self.name or 'value'}: {self.type}>"


@dataclass(frozen=True, slots=True)
class Part:
    """What a state's tensor is a field of: a record of these dimensions and static values. Its name is ``state.field``."""

    pattern: RecordPattern
    statics: tuple[tuple[str, Any], ...] = ()


class Input(Value):
    """A graph input. ``role`` is ``input``, ``state`` or ``random``; ``init`` is a state's start or a random distribution.

    ``record`` is what a state's tensor is a field of; the fields of one state follow one another in their order. ``outside`` is
    what callers and files call it where that is another name, such as one that is no identifier. ``vocabulary`` is whose ids it
    holds, where that is known.
    """

    __slots__ = ("init", "outside", "record", "role", "span", "vocabulary")

    def __init__(
        self,
        type: TensorType,
        name: str,
        role: str = "input",
        init: Initializer | None = None,
        span: Span | None = None,
        record: Part | None = None,
        outside: str | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        super().__init__(type, name)
        self.outside = outside
        self.vocabulary = vocabulary
        self.record = record
        self.role = role
        self.init = init
        self.span = span

    @property
    def public(self) -> str:
        """What callers and files call it."""
        return self.name if self.outside is None else self.outside


class Parameter(Value):
    """A weight. ``full_name`` is its dotted name in a state dict; a ``buffer`` is not trained."""

    __slots__ = ("full_name", "init", "span", "trainable")

    def __init__(
        self, type: TensorType, full_name: str, init: Initializer, trainable: bool = True, span: Span | None = None
    ) -> None:
        super().__init__(type, full_name.replace(".", "_"))
        self.full_name = full_name
        self.init = init
        self.trainable = trainable
        self.span = span


@dataclass(frozen=True, slots=True)
class Initializer:
    """``normal(0.02)``, ``zeros``, ``uniform(0, 1)``: how a parameter, state or random input is filled.

    ``folder`` is where files that it names are looked for.
    """

    name: str
    args: tuple[Any, ...] = ()
    folder: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.args))})" if self.args else self.name


@dataclass(frozen=True, slots=True)
class Output:
    """The name and role (``output``, ``tap`` or ``state``) of one graph output; ``outside`` as of an :class:`Input`."""

    name: str
    role: str = "output"
    outside: str | None = None

    @property
    def public(self) -> str:
        """What callers and files call it."""
        return self.name if self.outside is None else self.outside


@dataclass(frozen=True, slots=True)
class Require:
    """``left OP right`` over dimensions, which could not be proved and is checked when the sizes are known."""

    left: Dim
    op: str
    right: Dim
    message: str
    span: Span | None = field(default=None, compare=False)

    def holds(self, sizes: dict[str, int]) -> bool:
        """Whether it holds at these sizes. Raises KeyError for a symbol without one."""
        a, b = self.left.evaluate(sizes), self.right.evaluate(sizes)
        return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}[self.op]


class Node:
    """One application of an op. ``inputs`` may hold None for an optional operand that was not passed."""

    __slots__ = ("attrs", "graph", "inputs", "next", "op", "outputs", "prev", "scope", "span")

    def __init__(
        self, op: AnyOp | None, inputs: Iterable[Value | None], attrs: Attrs, span: Span | None = None, scope: str = ""
    ) -> None:
        self.op: AnyOp = op  # type: ignore[assignment]  # None only for the graph's own terminator
        self.inputs: list[Value | None] = []
        self.attrs = attrs
        self.outputs: list[Value] = []
        self.span = span
        self.scope = scope
        self.graph: Graph | None = None
        self.prev: Node | None = None
        self.next: Node | None = None
        for value in inputs:
            self.add_input(value)

    def add_input(self, value: Value | None) -> None:
        """Read one value more; None stands for an optional operand that is not passed."""
        if value is not None:
            value.uses[(self, len(self.inputs))] = None
        self.inputs.append(value)

    def set_input(self, index: int, value: Value | None) -> None:
        """Read another value at one place."""
        old = self.inputs[index]
        if old is not None:
            old.uses.pop((self, index), None)
        self.inputs[index] = value
        if value is not None:
            value.uses[(self, index)] = None

    def clear_inputs(self) -> None:
        """Read nothing any more."""
        for i in range(len(self.inputs)):
            self.set_input(i, None)
        self.inputs.clear()

    @property
    def output(self) -> Value:
        """The first result."""
        return self.outputs[0]

    @property
    def body(self) -> Graph | None:
        """What a ``fold``, ``scan`` or ``while`` does at each step."""
        return self.attrs.get("body")

    @property
    def bodies(self) -> tuple[Graph, ...]:
        """Every region of a control op: a loop's body, behind the test of a ``while``; the branches of a ``cond``."""
        if self.op is None or self.op.family != "control":
            return ()
        return tuple(value for value in self.attrs.values() if isinstance(value, Graph))

    def __repr__(self) -> str:
        return f"<node {self.op.name if self.op else 'return'}>"


class Graph:
    """Inputs, parameters, nodes and outputs.

    ``lets`` maps a symbol to the dimension it names, in order of definition. ``facts`` bounds symbols
    (symbol -> (least, greatest or None)); a symbol without one is at least 1.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.inputs: list[Input] = []
        self.params: dict[str, Parameter] = {}
        self.lets: dict[str, Dim] = {}
        self.facts: dict[str, tuple[int, int | None]] = {}
        self.requires: list[Require] = []
        self.output_info: list[Output] = []
        self._end = Node(None, (), {})
        self._end.graph = self
        self._first: Node | None = None
        self._last: Node | None = None
        self._count = 0

    # Reading -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._count

    def nodes(self) -> Iterator[Node]:
        """Nodes in order. Any node may be removed, and others inserted, while iterating."""
        node = self._first
        while node is not None:
            yield node
            node = node.next
            # A removed node keeps the link to what followed it; go on from there.
            while node is not None and node.graph is not self:
                node = node.next

    def reversed_nodes(self) -> Iterator[Node]:
        """Nodes from last to first. Any node may be removed, and others inserted, while iterating."""
        node = self._last
        while node is not None:
            yield node
            node = node.prev
            while node is not None and node.graph is not self:
                node = node.prev

    @property
    def outputs(self) -> list[Value]:
        """The values that it returns, in the order of ``output_info``."""
        return [v for v in self._end.inputs if v is not None]

    @property
    def end(self) -> Node:
        """The terminator: its inputs are the graph's outputs, so that outputs take part in def-use chains."""
        return self._end

    def symbols(self) -> list[str]:
        """The free dimension symbols, in the order in which the inputs show them (``let`` names excluded)."""
        seen: dict[str, None] = {}
        for value in self.inputs:
            for dim in value.type.shape:
                for name in sorted(dim.symbols):
                    if name not in self.lets:
                        seen.setdefault(name)
        return list(seen)

    def expand_lets(self, dim: Dim) -> Dim:
        """``dim`` in terms of the free symbols only."""
        while not dim.symbols.isdisjoint(self.lets):
            dim = dim.subs(self.lets)
        return dim

    def sizes(self, symbols: dict[str, int]) -> dict[str, int]:
        """``symbols`` extended with the value of every ``let``."""
        values = dict(symbols)
        for name, dim in self.lets.items():
            values[name] = dim.evaluate(values)
        return values

    # Building ----------------------------------------------------------------------------------------------------

    def add_input(self, value: Input) -> Input:
        """Append an input, and return it."""
        self.inputs.append(value)
        return value

    def add_param(self, param: Parameter) -> Parameter:
        """Add a parameter under its full name, and return it."""
        self.params[param.full_name] = param
        return param

    def add_output(self, value: Value, name: str, role: str = "output", outside: str | None = None) -> None:
        """Return one value more; ``role`` is ``output``, ``tap`` or ``state``."""
        self.output_info.append(Output(name, role, outside))
        self._end.add_input(value)

    def set_outputs(self, values: Iterable[Value], info: Iterable[Output]) -> None:
        """Return these values, under these names, in the place of all that were returned."""
        chosen = list(values)
        self._end.clear_inputs()
        for value in chosen:
            self._end.add_input(value)
        self.output_info = list(info)

    def append(self, node: Node) -> Node:
        """Insert a node at the end, and return it."""
        return self.insert_after(self._last, node)

    def insert_after(self, anchor: Node | None, node: Node) -> Node:
        """Insert ``node`` behind ``anchor``; None means in front of all."""
        node.graph = self
        node.prev = anchor
        node.next = anchor.next if anchor is not None else self._first
        if node.prev is not None:
            node.prev.next = node
        else:
            self._first = node
        if node.next is not None:
            node.next.prev = node
        else:
            self._last = node
        self._count += 1
        return node

    def insert_before(self, anchor: Node | None, node: Node) -> Node:
        """Insert ``node`` in front of ``anchor``; None means at the end."""
        return self.insert_after(self._last if anchor is None else anchor.prev, node)

    def remove(self, node: Node) -> None:
        """Take out a node whose results nobody reads. Raises ValueError when somebody does, or when it is not in here."""
        if node.graph is not self:
            raise ValueError(f"{node!r} is not in this graph")
        if any(v.uses for v in node.outputs):
            raise ValueError(f"{node!r} still has readers")
        node.clear_inputs()
        if node.prev is not None:
            node.prev.next = node.next
        else:
            self._first = node.next
        if node.next is not None:
            node.next.prev = node.prev
        else:
            self._last = node.prev
        node.graph = None
        self._count -= 1

    # Copying and comparing -----------------------------------------------------------------------------------------

    def clone(self) -> Graph:
        """A deep copy; types, spans and initialisers are shared (they are immutable)."""
        other = Graph(self.name)
        copies: dict[Value, Value] = {}
        for value in self.inputs:
            copies[value] = other.add_input(
                Input(
                    value.type, value.name, value.role, value.init, value.span, value.record, value.outside, value.vocabulary
                )
            )
        for param in self.params.values():
            copy = Parameter(param.type, param.full_name, param.init, param.trainable, param.span)
            copy.name = param.name
            copies[param] = other.add_param(copy)
        other.lets = dict(self.lets)
        other.facts = dict(self.facts)
        other.requires = list(self.requires)
        for node in self.nodes():
            other.append(clone_node(node, copies))
        other.set_outputs((copies[v] for v in self.outputs), self.output_info)
        return other

    def __eq__(self, other: object) -> bool:
        """Structural equality: the same nodes in the same order, up to value names, spans and scopes.

        Constants compare by value, so that sharing one or writing it twice is the same graph.
        """
        from .compare import first_difference

        return isinstance(other, Graph) and first_difference(self, other, names=False) is None

    __hash__ = object.__hash__


def clone_node(node: Node, copies: dict[Value, Value]) -> Node:
    """Copy one node with its inputs mapped by ``copies``; its outputs are added to ``copies``."""
    attrs = {k: v.clone() if isinstance(v, Graph) else v for k, v in node.attrs.items()}
    copy = Node(node.op, (None if v is None else copies[v] for v in node.inputs), attrs, node.span, node.scope)
    for i, value in enumerate(node.outputs):
        twin = Value(value.type, value.name, copy, i)
        copy.outputs.append(twin)
        copies[value] = twin
    return copy


# A program of one function, as it was called before there were others.
Module = Program
