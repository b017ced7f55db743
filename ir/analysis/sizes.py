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
from ..op import Trait, has
from ..ops.shape import rearrange_plan
from .along import Along, Bodies, along
from .axes import Axes
from .bounds import index_bounds
from .cost import ATTENTION

Role = Literal["batch", "tokens", "groups"]

BATCH, TOKENS, GROUPS = 1, 128, 8
_REPRESENTATIVE: dict[Role, int] = {"batch": BATCH, "tokens": TOKENS, "groups": GROUPS}

# The longest axis that is looked at for enough tokens, and how far an allowed size is looked for below it.
_LARGEST, _STEPS = 1 << 22, 4096


def default_sizes(graph: Graph, tokens: int = TOKENS) -> dict[str, int]:
    """Sizes to show a cost at when nobody said which: 1 of a batch, 8 groups, and of everything else as much as makes
    ``tokens`` tokens in the first block. Where tokens are computed from other sizes (patches of an image, frames of a sound),
    those are chosen so that about as many come out: the most that are no more.

    >>> from tessera import load
    >>> default_sizes(load("bert", model="bert").graph)
    {'B': 1, 'T': 128}
    """
    found = roles(graph)
    sizes = {s: _within(graph, s, tokens if role == "tokens" else _REPRESENTATIVE[role]) for s, role in found.items()}
    first = _first_tokens(graph)
    scaled = sorted(s for s in (first.symbols if first is not None else ()) if found.get(s) == "tokens")
    if first is None or not scaled or first.evaluate(sizes) == tokens:
        return sizes

    def at(size: int) -> dict[str, int]:
        return sizes | {s: _within(graph, s, size) for s in scaled}

    def count(size: int) -> int:
        try:
            return first.evaluate(at(size))
        except ZeroDivisionError:
            return 0

    low, high = 1, 2
    while high < _LARGEST and count(high) <= tokens:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= tokens else (low, middle)
    # Where only some sizes are allowed (a multiple of the patch), the largest of them; where none is, nobody's fault here.
    fitting = (s for s in range(low, max(0, low - _STEPS), -1) if count(s) > 0 and _allowed(graph, at(s)))
    return at(next(fitting, low))


def _within(graph: Graph, symbol: str, size: int) -> int:
    least, most = graph.facts.get(symbol, (1, None))
    size = max(size, least)
    return size if most is None else min(size, most)


def _first_tokens(graph: Graph) -> Dim | None:
    """How many tokens the queries of the first attention are, in free symbols; None where there is none."""
    found = next((n for n in graph.nodes() if n.op.qualified == ATTENTION and n.inputs[0] is not None), None)
    if found is None or found.inputs[0] is None:
        return None
    dim = graph.expand_lets(found.inputs[0].type.shape[2])
    return dim if dim.value is None else None


def _allowed(graph: Graph, sizes: dict[str, int]) -> bool:
    values = graph.sizes(sizes)
    shapes = (d.evaluate(values) for v in graph.inputs for d in v.type.shape)
    return all(size > 0 for size in shapes) and all(r.holds(values) for r in graph.requires)


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
            if _lays_out(node) and node.inputs[0] is not None:
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
        elif not _lays_out(node):
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


def _lays_out(node: Node) -> bool:
    """Whether a node says where elements lie, not what becomes of them: it joins and parts axes."""
    return has(node, Trait.RESHAPES) or node.op.qualified == "rearrange"


def _outermost(node: Node, axis: int) -> int | None:
    """The axis of a layout's result whose elements lie one after the other as those of its operand's ``axis`` do."""
    x = node.inputs[0]
    assert x is not None
    if has(node, Trait.RESHAPES):
        return _behind(x.type.shape, axis, node.output.type.shape)
    split, order, final = rearrange_plan(x.type, dict(node.attrs))
    first = _behind(x.type.shape, axis, split)
    return None if first is None else _behind([split[i] for i in order], order.index(first), final)


def _behind(source: Sequence[Dim], axis: int, target: Sequence[Dim]) -> int | None:
    """The axis of ``target`` that begins where ``axis`` of ``source`` does."""
    before = product(source[:axis])
    places = [j for j in range(len(target)) if product(target[:j]) == before and target[j] != 1]
    return places[0] if places else None
