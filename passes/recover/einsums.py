"""Einsums around a softmax, whose axes may be in any order: brought to the one that rules know.

Flax and Keras keep heads behind tokens, `b t h k, b s h k -> b h t s`, and may name the keys first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value
from ...ir.op import Trait, has
from ...ir.ops.contraction import parse_einsum

_SOFTMAX = "std.nn.softmax"
# How many ops lie between a softmax and a product.
_DEPTH = 12


@dataclass(frozen=True)
class _Product:
    """A product of matrices: ``batch`` axes that both operands and the result have, then rows, columns, and what is summed.

    ``operands`` are the one with the rows and the one with the columns.
    """

    batch: tuple[str, ...]
    row: str
    column: str
    summed: str
    operands: tuple[int, int]


def order_einsums(graph: Graph) -> int:
    """Give the einsums around each softmax the order `b h t k, b h s k -> b h t s` in front of it, and
    `b h t s, b h s v -> b h t v` behind; how many had another one.

    before: `einsum(k, q, equation="b s h k, b t h k -> b h t s")`
    after:  `einsum(transpose(q, perm=[0, 2, 1, 3]), transpose(k, perm=[0, 2, 1, 3]), equation="b h t k, b h s k -> b h t s")`
    """
    # Beside each einsum behind a softmax, the operand that comes from there.
    found: dict[Node, Value | None] = {}
    for node in graph.nodes():
        if node.op.qualified == _SOFTMAX:
            _before(node.inputs[0], _DEPTH, found)
            _behind(node.output, _DEPTH, found)
    return sum(_ordered(graph, node, weights) for node, weights in found.items())


def order_products(graph: Graph) -> int:
    """Give the keys in front of each softmax that is left the place of rows, where they came as columns; how many did.

    before: `softmax(q @ k * 0.5)`    k [B, H, K, S], as maps of features have it
    after:  `softmax(einsum(q, transpose(k, perm=[0, 1, 3, 2]), equation="b h t k, b h s k -> b h t s") * 0.5)`
    """
    found: dict[Node, Value | None] = {}
    for node in graph.nodes():
        if node.op.qualified == _SOFTMAX:
            _before(node.inputs[0], _DEPTH, found, "matmul")
    products = [node for node in found if _columns(node)]
    for node in products:
        builder, (q, k) = Builder(graph).before(node), node.inputs
        rows = builder.op("transpose", k, perm=(0, 1, 3, 2))
        made = builder.op("einsum", q, rows, equation="b h t k, b h s k -> b h t s")
        made.name = node.output.name
        node.output.replace_uses(made)
        graph.remove(node)
    return len(products)


def _columns(node: Node) -> bool:
    q, k = node.inputs
    assert q is not None
    assert k is not None
    turned = k.node is not None and k.node.op is not None and k.node.op.qualified == "transpose"
    return q.type.rank == k.type.rank == 4 and q.type.shape[:2] == k.type.shape[:2] and not turned


def _passes(node: Node) -> bool:
    return node.op.family == "elementwise" or node.op.qualified == "cast" or has(node, Trait.MOVES)


def _before(value: Value | None, depth: int, found: dict[Node, Value | None], product: str = "einsum") -> None:
    node = value.node if value is not None else None
    if node is None or node.op is None or not depth:
        return
    if node.op.qualified == product:
        found.setdefault(node, None)
    elif _passes(node):
        for operand in node.inputs:
            _before(operand, depth - 1, found, product)


def _behind(value: Value, depth: int, found: dict[Node, Value | None]) -> None:
    for node in value.users if depth else ():
        if node.op is None:
            continue
        if node.op.qualified == "einsum":
            found.setdefault(node, value)
        elif _passes(node):
            _behind(node.output, depth - 1, found)


def _product(inputs: Sequence[Sequence[str]], output: Sequence[str], rows: int | None) -> _Product | None:
    """What an einsum multiplies, where that is matrices of two operands of four axes; the rows are those of operand ``rows``, or
    what the result names first."""
    if len(inputs) != 2 or len(output) != 4 or any(len(set(axes)) != 4 or len(axes) != 4 for axes in inputs):
        return None
    shared = [a for a in inputs[0] if a in inputs[1]]
    batch, summed = tuple(a for a in output if a in shared), [a for a in shared if a not in output]
    free = [a for a in output if a not in shared]
    if len(batch) != 2 or len(summed) != 1 or len(free) != 2:
        return None
    first = rows if rows is not None else 0 if free[0] in inputs[0] else 1
    row, column = (next((a for a in free if a in inputs[i]), None) for i in (first, 1 - first))
    return None if row is None or column is None else _Product(batch, row, column, summed[0], (first, 1 - first))


def _ordered(graph: Graph, node: Node, weights: Value | None) -> bool:
    inputs, output = parse_einsum(node.attrs["equation"])
    found = _product(inputs, output, None if weights is None else node.inputs.index(weights))
    if found is None:
        return False
    whole = (*found.batch, found.row, found.column)
    columns = (found.column, found.summed) if weights is None else (found.summed, found.column)
    wanted = ((*found.batch, found.row, found.summed), (*found.batch, *columns))
    if found.operands == (0, 1) and tuple(map(tuple, inputs)) == wanted and tuple(output) == whole:
        return False
    builder = Builder(graph).before(node)
    moved = [_moved(builder, node.inputs[i], inputs[i], axes) for i, axes in zip(found.operands, wanted, strict=True)]
    equation = f"{', '.join(map(' '.join, wanted))} -> {' '.join(whole)}"
    made = _moved(builder, builder.op("einsum", *moved, equation=equation), whole, output)
    made.name = made.name or node.output.name
    node.output.replace_uses(made)
    graph.remove(node)
    return True


def _moved(builder: Builder, value: Value | None, axes: Sequence[str], wanted: Sequence[str]) -> Value:
    """A value of these axes with them in another order."""
    assert value is not None
    perm = tuple(list(axes).index(a) for a in wanted)
    return value if perm == tuple(range(len(perm))) else builder.op("transpose", value, perm=perm)
