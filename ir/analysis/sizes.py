"""What the free sizes of a model stand for, and sizes to try it, to cost it and to time it at when nobody says.

A *batch* counts items that a model treats one by one, whatever their number: one of them shows what the model costs. An axis
that only leads inputs is not one for that alone: in `x: float[N, D]` N may as well be the *tokens* of one flat sequence, or of many
packed behind one another. So a leading axis is a batch if nothing mixes its elements, or if what it counts is more than a
token: an image or video (three axes and more), or rows that have a free length of their own. *Groups* are what ascending
borders (ends of rows, of experts) delimit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from ..dims.dim import Dim, product
from ..graph import Graph, Input, Node, Value
from ..ops.shape import rearrange_plan
from .along import Along, Bodies, along
from .axes import Axes
from .bounds import index_bounds

Role = Literal["batch", "tokens", "groups"]

BATCH, TOKENS, GROUPS = 1, 128, 8
_REPRESENTATIVE: dict[Role, int] = {"batch": BATCH, "tokens": TOKENS, "groups": GROUPS}

# They say where elements lie, not what becomes of them.
_LAYOUT = ("reshape", "rearrange")


def default_sizes(graph: Graph) -> dict[str, int]:
    """Sizes to show a cost at when nobody said which: 1 of a batch, 8 groups, 128 of everything else.

    >>> from tessera import load
    >>> default_sizes(load("bert", model="bert").graph)
    {'B': 1, 'T': 128}
    """
    sizes: dict[str, int] = {}
    for symbol, role in roles(graph).items():
        least, most = graph.facts.get(symbol, (1, None))
        wanted = max(_REPRESENTATIVE[role], least)
        sizes[symbol] = wanted if most is None else min(wanted, most)
    return sizes


def roles(graph: Graph) -> dict[str, Role]:
    """What each free symbol counts."""
    found: dict[str, Role] = {}
    for symbol in graph.symbols():
        if any(symbol in dim.symbols for value in graph.inputs for dim in value.type.shape[1:]):
            found[symbol] = "tokens"
            continue
        led = [v for v in graph.inputs if v.type.rank and symbol in v.type.shape[0].symbols]
        if any(map(_is_item, led)):
            found[symbol] = "batch"
        elif any(bound is not None and bound.ascending for bound in map(index_bounds(graph).get, led)):
            found[symbol] = "groups"
        else:
            found[symbol] = "batch" if _independent(graph, led) else "tokens"
    return found


def _is_item(value: Input) -> bool:
    """Whether what the first axis counts is more than a token: an image, or a row of its own length."""
    inner = value.type.shape[1:]
    free = any(dim.value is None for dim in inner)
    # In `x: float[N, D]` a free D is how wide a token is.
    return len(inner) > 2 or (free and (len(inner) > 1 or value.type.dtype.kind != "float"))


def _independent(graph: Graph, led: Sequence[Input]) -> bool:
    """Whether no op mixes elements along the first axis of these inputs, nor tells one from another by its place."""
    classes, bodies = Axes(graph), Bodies()
    nodes = list(_nodes(graph))
    roots = {classes.find(value, 0) for value in led}

    def axes_of(value: Value) -> list[int]:
        return [i for i in range(value.type.rank) if classes.find(value, i) in roots]

    # An axis that is joined with others, `(b t)`, still has the items one after the other.
    grown = -1
    while grown != len(roots):
        grown = len(roots)
        for node in nodes:
            if node.op.qualified in _LAYOUT and node.inputs[0] is not None:
                for axis in axes_of(node.inputs[0]):
                    joined = _outermost(node, axis)
                    if joined is not None:
                        roots.add(classes.find(node.output, joined))
    for node in nodes:
        given = [v for v in node.inputs if v is not None]
        if any(len(axes_of(v)) > 1 for v in node.outputs):
            return False
        if not any(map(axes_of, given)):
            # Numbers that are made along the axis belong to places.
            if node.op.qualified == "iota" and axes_of(node.output):
                return False
        elif node.bodies:
            # Their nodes are asked one by one.
            if node.op.qualified == "scan" and any(node.attrs["axis"] in axes_of(v) for v in given):
                return False
        elif node.op.qualified not in _LAYOUT:
            kind = along(node, axes_of, classes)
            types = [None if v is None else v.type for v in node.inputs]
            if kind is not Along.EACH and not (kind is Along.INSIDE and bodies.each(node, types, axes_of)):
                return False
    return True


def _nodes(graph: Graph) -> Iterator[Node]:
    """All nodes, those of regions too."""
    for node in graph.nodes():
        yield node
        for region in node.bodies:
            yield from _nodes(region)


def _outermost(node: Node, axis: int) -> int | None:
    """The axis of a reshape's result whose elements lie one after the other as those of its operand's ``axis`` do."""
    x = node.inputs[0]
    assert x is not None
    if node.op.qualified == "reshape":
        return _behind(x.type.shape, axis, node.output.type.shape)
    split, order, final = rearrange_plan(x.type, dict(node.attrs))
    first = _behind(x.type.shape, axis, split)
    return None if first is None else _behind([split[i] for i in order], order.index(first), final)


def _behind(source: Sequence[Dim], axis: int, target: Sequence[Dim]) -> int | None:
    """The axis of ``target`` that begins where ``axis`` of ``source`` does."""
    before = product(source[:axis])
    places = [j for j in range(len(target)) if product(target[:j]) == before and target[j] != 1]
    return places[0] if places else None
