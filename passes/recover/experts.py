"""Mixtures of experts from the primitives that exporters write: rows sorted by expert, or a copy of a matrix for each pair.

What lies between is found by its structure. Which pair goes where is a matter of integers, and there are many ways to count and to
sort: what an export computes of the experts' numbers is evaluated for drawn ones, and compared with what `std.moe` computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir.analysis.evaluate import evaluate_values
from ...ir.builder import Builder
from ...ir.graph import Graph, Module, Node, Parameter, Value
from ...ir.library import composite
from ...ir.op import Composite, FuncRef, Trait, has
from ...ir.ops.shape import slice_bounds
from ...ir.recipe import apply
from ...ir.types import f32
from ..tidy.dce import remove_dead
from ..weights.remake import remade
from .log_weights import raise_log_weights
from .routers import route
from .sizes import Drawn, nearest

# What applies experts.
_APPLY = ("std.moe.experts.gated", "std.moe.experts.plain")
# How many ops lie between the sum over a token's experts and its products.
_DEPTH = 24


def raise_experts(module: Module) -> int:
    """Put `gated` and `plain` of std.moe in the place of what computes them, with the routers that choose; how many.

    before: `rows = take(x, order // 2)   h = grouped_matmul(rows, w, ends)   …   y = sum(reshape(take(p, inverse), …), axis=1)`
    after:  `routes = token_choice(logits, k=2)   y = gated(x, routes, w, v)`

    Matrices that are turned in the program are turned when they are read.
    """
    graph, made = module.graph, list[Node]()
    for node in list(graph.nodes()):
        if node.graph is graph and node.op.qualified == "sum" and (found := _found(graph, node)) is not None:
            expert, weight = found.expert, found.weight
            routed = route(graph, expert, weight, found.experts)
            if routed is not None:
                expert, weight = routed
            made.append(_write(graph, node, found, expert, weight))
    known = [n for n in graph.nodes() if n.op.qualified in _APPLY and raise_log_weights(graph, n)]
    made += known
    if made:
        remove_dead(graph)
    for node in made:
        _turn(module, node)
    return len(made)


@dataclass
class _Product:
    """Rows times the matrix of each one's expert: ``sorted`` by expert, or pair by pair; ``turned`` where the matrix is [O, I]."""

    rows: Value
    weight: Value
    turned: bool
    sorted: bool
    ends: Value | None = None
    numbers: Value | None = None
    bias: Value | None = None
    table: Value | None = None


@dataclass
class _Experts:
    x: Value
    expert: Value
    weight: Value
    first: _Product
    second: _Product
    kind: str
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def experts(self) -> int:
        return int(self.first.weight.type.shape[0])


def _found(graph: Graph, node: Node) -> _Experts | None:
    """The mixture whose results for each token a node adds up."""
    total, out = node.inputs[0], node.output
    if total is None or total.type.rank != 3 or out.type.rank != 2 or tuple(node.attrs["axis"]) != (1,):
        return None
    tokens, k, _ = total.type.shape
    if total.type.dtype.kind != "float" or k.value is None:
        return None
    made = _weighted(total)
    second = _product(made.value) if made is not None else None
    unit = _unit(second.rows) if second is not None else None
    if made is None or second is None or unit is None:
        return None
    kind, attrs, first = unit
    pairs = (tokens, k)
    weight = nearest(made.weight, lambda v: v.type.dtype.kind == "float" and v.type.shape == pairs, _DEPTH, moves=True)
    expert = nearest(
        first.ends or first.numbers, lambda v: v.type.dtype.kind == "int" and v.type.shape == pairs, _DEPTH
    )
    x = nearest(first.rows, lambda v: v.type.shape == (tokens, out.type.shape[1]), _DEPTH, moves=True)
    known = first.weight.type.shape[0].value is not None and first.weight.type.shape[0] == second.weight.type.shape[0]
    if weight is None or expert is None or x is None or not known or first.sorted != second.sorted:
        return None
    found = _Experts(x, expert, weight, first, second, kind, attrs)
    return found if _same_pairs(graph, found, made) else None


# Structure ---------------------------------------------------------------------------------------------------------------


@dataclass
class _Weighted:
    """Results of pairs, their weights beside them, and how they were brought back into the pairs' order; ``early`` where they were
    multiplied with the weights before that."""

    value: Value
    weight: Value
    back: list[Value]
    early: bool


def _weighted(value: Value) -> _Weighted | None:
    """What is multiplied with the weights of pairs, before or after it was put back in order."""
    weight, back, early = None, list[Value](), False
    for _ in range(_DEPTH):
        node = value.node
        if node is None:
            break
        name = node.op.qualified
        if name == "take" and node.attrs["axis"] == 0 and not node.attrs["batch"] and node.inputs[1] is not None:
            back.append(node.inputs[1])
            value = node.inputs[0]  # type: ignore[assignment]
        elif name == "cast" or has(node, Trait.RESHAPES):
            value = node.inputs[0]  # type: ignore[assignment]
        elif name == "mul" and weight is None:
            a, b = node.inputs
            if a is None or b is None or (a.type.shape[-1].value == 1) == (b.type.shape[-1].value == 1):
                break
            weight, value = (a, b) if a.type.shape[-1].value == 1 else (b, a)
            early = bool(back)
        else:
            break
    return None if weight is None or len(back) > 1 else _Weighted(value, weight, back, early)


def _product(value: Value | None) -> _Product | None:
    """Rows times their experts' matrices, with biases at most."""
    node = _made(value)
    if node is None:
        return None
    if node.op.qualified == "add":
        for one, other in (node.inputs, node.inputs[::-1]):
            found, bias = _product(one), _made(other)
            if found is None or found.bias is not None or bias is None or bias.op.qualified != "take":
                continue
            table, numbers = bias.inputs
            experts = found.weight.type.shape[0]
            rows = nearest(table, lambda v, experts=experts: v.type.rank == 2 and v.type.shape[0] == experts, 4)  # type: ignore[misc]
            if rows is not None and numbers is not None:
                found.bias, found.table = other, rows
                return found
        return None
    if node.op.qualified == "grouped_matmul":
        rows, weight, ends = node.inputs
        return _Product(rows, weight, False, True, ends=ends)  # type: ignore[arg-type]
    while node is not None and node.op.qualified != "matmul" and has(node, Trait.RESHAPES):
        node = _made(node.inputs[0])
    if node is None or node.op.qualified != "matmul" or node.output.type.rank != 3:
        return None
    for i, matrices in enumerate(node.inputs):
        taken = _made(matrices)
        rows = node.inputs[1 - i]
        if (
            taken is None
            or rows is None
            or taken.op.qualified != "take"
            or taken.attrs["axis"] != 0
            or taken.attrs["batch"]
        ):
            continue
        weight, numbers = taken.inputs
        alone = rows.type.shape[2 if i == 0 else 1].value == 1
        if weight is not None and numbers is not None and weight.type.rank == 3 and numbers.type.rank == 1 and alone:
            return _Product(_matrix(rows), weight, i == 0, False, numbers=numbers)
    return None


def _matrix(rows: Value) -> Value:
    """Rows [S, D] of which each was made a matrix of one column or one row."""
    node = rows.node
    narrow = (
        node is not None and has(node, Trait.RESHAPES) and node.inputs[0] is not None and node.inputs[0].type.rank == 2
    )
    return node.inputs[0] if narrow else rows  # type: ignore[union-attr,return-value]


def _unit(h: Value) -> tuple[str, dict[str, Any], _Product] | None:
    """What lies between the two products of an expert: (op of std.moe, its attributes, the first product)."""
    node = _made(h)
    if node is None:
        return None
    halves: list[tuple[FuncRef, Value, Value]] = []
    if node.op.qualified == "std.nn.swiglu":
        gate, up = node.inputs
        halves = [(FuncRef("std.nn", "silu"), gate, up)]  # type: ignore[list-item]
    elif node.op.qualified == "mul":
        for one, other in (node.inputs, node.inputs[::-1]):
            made = _function(one)
            if made is not None and other is not None:
                halves.append((*made, other))
    for act, gate, up in halves:
        found = _halves(gate, up)
        if found is not None:
            attrs, product = found
            return "gated", {"act": act, **attrs}, product
    made = _function(h)
    alone = _product(made[1]) if made is not None else None
    return ("plain", {"act": made[0]}, alone) if made is not None and alone is not None else None


def _function(value: Value | None) -> tuple[FuncRef, Value] | None:
    """A function of each element, and what it is taken of."""
    node = _made(value)
    if node is None or len(node.inputs) != 1 or node.attrs or node.inputs[0] is None:
        return None
    if node.inputs[0].type != node.output.type or not (
        isinstance(node.op, Composite) or node.op.family == "elementwise"
    ):
        return None
    return FuncRef(node.op.module if isinstance(node.op, Composite) else "", node.op.name), node.inputs[0]


def _halves(gate: Value, up: Value) -> tuple[dict[str, Any], _Product] | None:
    """The product of which gate and up are halves, and what was done to them: clipped, moved by a number."""
    attrs: dict[str, Any] = {}
    offset = _number(up, "add")
    if offset is not None:
        attrs["offset"], up = offset
    clipped = _clipped(up)
    limit = _number(gate, "minimum")
    if (clipped is None) != (limit is None):
        return None
    if clipped is not None and limit is not None:
        if clipped[0] != limit[0] or limit[0] <= 0:
            return None
        attrs["limit"], gate = limit
        up = clipped[1]
    a, b = _made(gate), _made(up)
    if (
        a is None
        or b is None
        or a.op.qualified != "slice"
        or b.op.qualified != "slice"
        or a.inputs[0] is not b.inputs[0]
    ):
        return None
    whole = a.inputs[0]
    assert whole is not None
    size = whole.type.shape[-1].value
    if size is None or size % 2 or any(node.attrs["axis"] != whole.type.rank - 1 for node in (a, b)):
        return None
    places = [(*map(int, slice_bounds(n.attrs, whole.type.shape[-1])), n.attrs["step"]) for n in (a, b)]
    if [p[::2] for p in places] == [(0, 2), (1, 2)] and places[0][1] >= size - 1 and places[1][1] == size:
        attrs["interleaved"] = True
    elif places != [(0, size // 2, 1), (size // 2, size, 1)]:
        return None
    first = _product(whole)
    return None if first is None else (attrs, first)


def _number(value: Value, op: str) -> tuple[float, Value] | None:
    """A number and a value that ``op`` was applied to."""
    node = _made(value)
    if node is None or node.op.qualified != op:
        return None
    for one, other in (node.inputs, node.inputs[::-1]):
        made = _made(one)
        if (
            made is not None
            and made.op.qualified == "constant"
            and other is not None
            and one is not None
            and not one.type.rank
        ):
            return float(made.attrs["value"]), other
    return None


def _clipped(value: Value) -> tuple[float, Value] | None:
    """l and x of a value that is x from -l to l."""
    for outer, inner, sign in (("minimum", "maximum", 1), ("maximum", "minimum", -1)):
        above = _number(value, outer)
        below = _number(above[1], inner) if above is not None else None
        if above is not None and below is not None and above[0] == -below[0]:
            return sign * above[0], below[1]
    return None


def _made(value: Value | None) -> Node | None:
    """What made a value, before other shapes that come back to its own."""
    found = value
    while value is not None and value.node is not None and has(value.node, Trait.RESHAPES):
        value = value.node.inputs[0]
        found = value if value is not None and found is not None and value.type == found.type else found
    node = found.node if found is not None else None
    return node if node is not None and node.op is not None else None


# Which pair goes where ---------------------------------------------------------------------------------------------------


def _same_pairs(graph: Graph, found: _Experts, made: _Weighted) -> bool:
    """Whether rows, ends, weights and the way back are those of the experts' numbers, for drawn ones."""
    drawn = Drawn.of(graph)
    if drawn is None:
        return False
    try:
        return all(_agrees(found, made, drawn, expert) for expert in _numbers(found, drawn))
    except (KeyError, IndexError, ValueError):
        # A size, an input or a weight that is part of it, or places that there are not: something else is computed.
        return False


def _numbers(found: _Experts, drawn: Drawn) -> Iterator[np.ndarray]:
    """Numbers of experts for each pair: any, all of one, in turn."""
    shape = drawn.shape(found.expert)
    rng = np.random.default_rng(0)
    for _ in range(3):
        yield rng.integers(0, found.experts, shape)
    yield np.full(shape, found.experts - 1)
    yield np.arange(np.prod(shape)).reshape(shape)[::-1] % found.experts


def _agrees(found: _Experts, made: _Weighted, drawn: Drawn, expert: np.ndarray) -> bool:
    flat, k = expert.ravel(), expert.shape[1]
    order = np.argsort(flat, kind="stable") if found.first.sorted else np.arange(flat.size)
    known: dict[Value, Any] = {found.expert: expert}

    def same(value: Value, want: np.ndarray, **more: Any) -> bool:
        (array,) = evaluate_values([value], known | more.get("given", {}), drawn.sizes)
        return bool(np.array_equal(np.asarray(array).reshape(want.shape), want))

    rng = np.random.default_rng(1)
    x = rng.integers(-9, 9, drawn.shape(found.x)).astype(found.x.type.dtype.numpy)
    weight = rng.integers(-9, 9, expert.shape).astype(found.weight.type.dtype.numpy)
    if not same(found.first.rows, x[order // k], given={found.x: x}):
        return False
    own = weight.ravel()[order] if made.early else weight.ravel()
    if not same(made.weight, own, given={found.weight: weight}):
        return False
    if found.first.sorted != bool(made.back) or (made.back and not same(made.back[0], np.argsort(order))):
        return False
    for product in (found.first, found.second):
        if product.ends is not None and not same(product.ends, np.bincount(flat, minlength=found.experts).cumsum()):
            return False
        if product.numbers is not None and not same(product.numbers, flat):
            return False
        if product.bias is not None and product.table is not None:
            table = rng.integers(-9, 9, drawn.shape(product.table)).astype(product.table.type.dtype.numpy)
            if not same(product.bias, table[flat[order]], given={product.table: table}):
                return False
    return True


# Writing -----------------------------------------------------------------------------------------------------------------


def _write(graph: Graph, node: Node, found: _Experts, expert: Value, weight: Value) -> Node:
    builder = Builder(graph).before(node)
    builder.span, builder.scope = node.span, node.scope
    matrices = [
        builder.op("transpose", product.weight, perm=(0, 2, 1)) if product.turned else product.weight
        for product in (found.first, found.second)
    ]
    biases = [found.first.table, found.second.table]
    wide = weight if weight.type.dtype == f32 else builder.op("cast", weight, dtype=f32)
    op = composite(f"std.moe.experts.{found.kind}")
    made = builder.op(op, found.x, expert, wide, *matrices, *biases, **found.attrs)
    applied = made.node
    assert applied is not None
    out = node.output
    if made.type.dtype != out.type.dtype:
        made = builder.op("cast", made, dtype=out.type.dtype)
    made.name = made.name or out.name
    out.replace_uses(made)
    graph.remove(node)
    return applied


def _turn(module: Module, node: Node) -> None:
    """Let parameters that a mixture alone reads, the other way round, be read the way it reads them."""
    for value in node.inputs:
        turned = _made(value)
        param = turned.inputs[0] if turned is not None and turned.op.qualified == "transpose" else None
        if (
            turned is None
            or not isinstance(param, Parameter)
            or len(param.uses) > 1
            or turned.attrs["perm"] != (0, 2, 1)
        ):
            continue
        count, rows, columns = (int(d) for d in param.type.shape)
        recipe = apply("transpose", module.recipe(param.full_name), perm=(0, 2, 1))
        turned.output.replace_uses(remade(module, param, recipe, (count, columns, rows)))
        module.graph.remove(turned)
