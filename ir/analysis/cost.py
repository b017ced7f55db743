"""What a graph costs: floating-point operations, and bytes of weights and activations, block by block.

Figures are dimensions, exact for every size of the free symbols, and become numbers at given sizes:

    >>> from tessera import load
    >>> cost(load("vit_b16").graph).at({"B": 1}).total.flops
    35263152674
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..dims.dim import Dim, const, dim_max
from ..graph import Graph, Node, Parameter, Value
from ..keys import instance_key
from ..op import Composite, Trait, has
from ..types import TensorType
from .table import Table

ATTENTION = "std.attention.attention"

ZERO = const(0)


@dataclass(frozen=True)
class Cost:
    """``flops``; bytes of parameters (``weights``) and activations (``read``, ``written``). Dims, or integers."""

    flops: Any = ZERO
    weights: Any = ZERO
    read: Any = ZERO
    written: Any = ZERO

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops, self.weights + other.weights, self.read + other.read, self.written + other.written
        )

    @property
    def bytes(self) -> Any:
        """All bytes moved: weights, activations read and written."""
        return self.weights + self.read + self.written


@dataclass(frozen=True)
class Block:
    """The span from one attention to the next; ``tokens`` is how many its queries are (None for the stem)."""

    name: str
    tokens: Any
    cost: Cost


@dataclass(frozen=True)
class CostTable:
    """A graph's blocks and their total. ``lets`` defines the symbols that are not free."""

    blocks: tuple[Block, ...]
    lets: Mapping[str, Dim] = field(default_factory=dict)

    @property
    def total(self) -> Cost:
        total = Cost(0, 0, 0, 0)
        for block in self.blocks:
            total = total + block.cost
        return total

    def at(self, sizes: Mapping[str, int]) -> CostTable:
        """The same table in integers. Raises KeyError for a free symbol that ``sizes`` lacks."""
        values = dict(sizes)
        for name, dim in self.lets.items():
            values[name] = dim.evaluate(values)

        def number(d: Any) -> Any:
            return d.evaluate(values) if isinstance(d, Dim) else d

        return CostTable(
            tuple(
                Block(
                    b.name,
                    number(b.tokens),
                    Cost(number(b.cost.flops), number(b.cost.weights), number(b.cost.read), number(b.cost.written)),
                )
                for b in self.blocks
            )
        )

    def table(self, sizes: Mapping[str, int]) -> Table:
        """For people: one row a block, and the total."""
        known = self.at(sizes)
        rows: list[tuple[Any, ...]] = [_row(b.name, b.tokens, b.cost) for b in known.blocks]
        return Table(
            ("block", "tokens", "flops", "weights", "read", "written"), (*rows, _row("total", None, known.total))
        )


def _row(name: str, tokens: Any, cost: Cost) -> tuple[Any, ...]:
    return (name, "" if tokens is None else tokens, cost.flops, cost.weights, cost.read, cost.written)


def stores_map(node: Node) -> bool:
    """Whether an attention writes its map [B, H, T, S] to memory where the kernel is one that gives no statistics of all rows and
    caps no scores. One row is one small product more."""
    if node.op.qualified != ATTENTION:
        return False
    return bool(node.attrs["column_mass"] or node.attrs["log_sum_exp"]) or node.attrs["softcap"] != 0


def cost(graph: Graph, stores: Callable[[Node], bool] = stores_map) -> CostTable:
    """The cost of each block; what lies before the first attention is the ``stem``, what follows is the last block's.

    A composite's operations are those of its body. Its bytes are those of its operands and results: a backend claims it
    whole, and an attention map that is never stored is no traffic. Where it is stored, a call moves what its body moves.

    Args:
        stores: which attentions store it, as a target says (``Target.stores_map``).
    """
    blocks: list[Block] = []
    name, tokens, total = "stem", None, Cost()
    for node, own in each(graph, stores):
        if node.op.qualified == ATTENTION:
            blocks.append(Block(name, tokens, total))
            name, total = str(len(blocks) - 1), Cost()
            tokens = node.inputs[0].type.shape[2] if node.inputs[0] is not None else None
        total = total + own
    blocks.append(Block(name, tokens, total))
    return CostTable(tuple(blocks), dict(graph.lets))


def each(graph: Graph, stores: Callable[[Node], bool] = stores_map) -> Iterator[tuple[Node, Cost]]:
    """Every node in order, and what it costs by itself, as :func:`cost` counts."""
    meter = _Meter(stores)
    seen: set[Value] = set()
    for node in graph.nodes():
        yield node, meter.node(node, seen)


def working_bytes(graph: Graph, sizes: Mapping[str, int]) -> int:
    """Bytes of the operands and results of the step that has most of them, at these sizes: about what a call needs beside the
    weights. The map of every attention counts, since there are backends that store it.

    Raises:
        KeyError: for a free symbol that ``sizes`` lacks.
    """
    values = graph.sizes(dict(sizes))
    most = 0

    def size(type: TensorType) -> int:
        return (type.numel * type.dtype.size).evaluate(values)

    for node in graph.nodes():
        moved = [v.type for v in (*node.inputs, *node.outputs) if v is not None and not isinstance(v, Parameter)]
        total = sum(map(size, moved))
        query, key = node.inputs[:2] if node.op.qualified == ATTENTION else (None, None)
        if query is not None and key is not None:
            # The scores and what the softmax makes of them.
            scores = TensorType.of(query.type.dtype, (*query.type.shape[:3], key.type.shape[2]))
            total += 2 * size(scores)
        most = max(most, total)
    return most


class _Meter:
    """Counts nodes; equal calls are counted once and looked up after."""

    def __init__(self, stores: Callable[[Node], bool]) -> None:
        self._stores = stores
        self._flops: dict[Any, Dim] = {}
        self._sizes: dict[TensorType, Dim] = {}

    def node(self, node: Node, seen: set[Value]) -> Cost:
        """One node. A weight is read once, by its first reader: later ones add nothing (``seen``)."""
        if has(node, Trait.VIEWS) or has(node, Trait.MAKES):
            return Cost()
        if self._stores(node):
            return self._through_body(node)
        weights = read = const(0)
        for value in dict.fromkeys(v for v in node.inputs if v is not None):
            if not isinstance(value, Parameter):
                read = read + self._bytes(value.type)
            elif value not in seen:
                seen.add(value)
                weights = weights + self._weight_bytes(node, value)
        written = const(0)
        for value in node.outputs:
            written = written + self._bytes(value.type)
        return Cost(self.flops(node), weights, read, written)

    def _through_body(self, node: Node) -> Cost:
        """What the body moves. A weight among the operands counts as read: it is one of the body's inputs."""
        body, total = _body(node), Cost()
        for inner in body.nodes():
            total = total + self.node(inner, set())
        return Cost(self.flops(node), const(0), body.expand_lets(total.read), body.expand_lets(total.written))

    def flops(self, node: Node) -> Dim:
        key = instance_key(node)
        found = self._flops.get(key)
        if found is None:
            found = self._flops[key] = self._count(node, [v.type for v in node.inputs if v is not None])
        return found

    def _count(self, node: Node, types: list[TensorType]) -> Dim:
        if isinstance(node.op, Composite):
            body = _body(node)
            # The caller's symbols are all it may speak of.
            return body.expand_lets(self.graph(body))
        if node.bodies:
            return self._regions(node, types)
        return node.op.cost(types, [v.type for v in node.outputs], node.attrs)

    def _regions(self, node: Node, types: list[TensorType]) -> Dim:
        """What is done at most: every step that a loop may take, the dearer branch of a choice."""
        costs = [self.graph(region) for region in node.bodies]
        if node.op.qualified == "cond":
            return dim_max(*costs)
        steps = {"fold": "n", "while": "limit"}.get(node.op.qualified)
        return sum(costs, const(0)) * (types[0].shape[node.attrs["axis"]] if steps is None else node.attrs[steps])

    def graph(self, graph: Graph) -> Dim:
        total = const(0)
        for node in graph.nodes():
            total = total + self.flops(node)
        return total

    def _bytes(self, type: TensorType) -> Dim:
        found = self._sizes.get(type)
        if found is None:
            found = self._sizes[type] = type.numel * type.dtype.size
        return found

    def _weight_bytes(self, node: Node, weight: Parameter) -> Dim:
        """A lookup reads the rows that it picks, anything else the whole weight."""
        lookup = node.op.qualified == "take" and node.inputs[0] is weight
        return self._bytes(node.output.type if lookup else weight.type)


def _body(node: Node) -> Graph:
    assert isinstance(node.op, Composite)
    return node.op.instantiate([None if v is None else v.type for v in node.inputs], dict(node.attrs))
