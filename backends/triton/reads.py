"""Attentions to slots of a cache, recovered from what a program gathers, turns and masks for them: one node each.

A program that reads a part of a cache says so in core ops: it takes keys and values at indices, from rows or from pages of a pool,
turns the keys by the angles of the places that they have among those, and compares slots with places to see what a query may see. A
node whose body is all of that is what :func:`tessera.kernels.attend_cache.cached_attention` computes, which stores none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...ir.analysis.cost import ATTENTION
from ...ir.dims.dim import as_dim
from ...ir.graph import Graph, Input, Node, Output, Value, clone_node
from ...ir.op import Composite
from ...ir.ops.shape import rearrange_plan
from ...ir.signature import Signature
from ...kernels.frame import Places
from .write import VIEWS, core, operand_places

# The qualified name of these nodes, and of the composite that stands until they are found.
READ = "tessera.read"
ROPE = "std.attention.rope"
_ATTENTIONS = (ATTENTION, "std.attention.attend")
_SIGNATURE = Signature("read", (), (), ())
# Comparisons of a slot with the last one that is seen: where the slot stands, and whether that one is seen itself.
_COMPARED = {"le": (0, True), "lt": (0, False), "ge": (1, True), "gt": (1, False)}
# The axes of scores.
_ROW, _QUERY, _SLOT = 0, 2, 3


@dataclass(frozen=True)
class _Slots:
    """Keys or values: what they are taken from, at which slots, and the angles by which they are turned.

    Args:
        pages: the source is a pool of pages [P, G, S, K], or of single rows [R, G, K].
        index: [B, N] or [B, G, N]; None where all slots are read.
    """

    source: Value
    index: Value | None = None
    pages: bool = False
    turn: tuple[Value, Value] | None = None
    interleaved: bool = False


@dataclass(frozen=True)
class _Sight:
    """A mask that is a comparison: with the last slot that is seen, which lies at ``rows`` of the axes of scores, or with a tree."""

    until: Value | None = None
    rows: tuple[int, ...] = ()
    inclusive: bool = True
    tree: tuple[Value, Value] | None = None


def find_reads(graph: Graph) -> None:
    """Put a node in the place of each attention that reads slots of a cache."""
    for node in graph.nodes():
        for region in node.bodies:
            find_reads(region)
        if node.op.qualified in _ATTENTIONS and len(node.outputs) == 1 and not node.attrs["causal"]:
            _replace(node)


def _replace(node: Node) -> None:
    q, k, v, mask, bias = node.inputs
    assert q is not None
    assert k is not None
    assert v is not None
    keys, values = _slots(k), _slots(v)
    if keys.index is None or keys.index is not values.index or keys.pages != values.pages or values.turn is not None \
            or keys.source.type.rank != values.source.type.rank:  # fmt: skip
        keys, values = _Slots(k), _Slots(v)
    sight = None if mask is None else _sight(mask, keys.index, q)
    if keys.index is None and sight is None:
        return
    sight, mask = (_Sight(), mask) if sight is None else (sight, None)
    turn, tree = keys.turn or (None, None), sight.tree or (None, None)
    operands = [q, keys.source, values.source, keys.index, *turn, mask, bias, sight.until, *tree]
    attrs: dict[str, Any] = {
        "pages": keys.pages, "rows": sight.rows, "inclusive": sight.inclusive, "interleaved": keys.interleaved,
        "scale": node.attrs["scale"], "softcap": node.attrs["softcap"],
    }  # fmt: skip
    body = _outlined(node.output, [x for x in operands if x is not None])
    made = Node(Composite(_SIGNATURE, "tessera", "", None, lambda types, attrs: body), operands, attrs, node.span, node.scope)
    new = Value(node.output.type, node.output.name, made, 0)
    made.outputs.append(new)
    graph = node.graph
    assert graph is not None
    graph.insert_after(node, made)
    node.output.replace_uses(new)
    graph.remove(node)


def _outlined(result: Value, leaves: list[Value]) -> Graph:
    """What makes a value of others, as a graph of its own."""
    graph = Graph("read")
    # The same value twice is two inputs, of which one is read.
    copies: dict[Value, Value] = {v: graph.add_input(Input(v.type, f"x{i}")) for i, v in enumerate(leaves)}

    def copy(value: Value) -> Value:
        if value not in copies:
            node = value.node
            assert node is not None
            operands = {v: copy(v) for v in node.inputs if v is not None}
            graph.append(clone_node(node, operands))
            copies.update((v, operands[v]) for v in node.outputs)
        return copies[value]

    graph.set_outputs([copy(result)], [Output("y")])
    return graph


def _slots(value: Value) -> _Slots:
    """What keys or values are taken from; themselves where they are not taken."""
    turn, interleaved, found = None, False, _same(value)
    if found.node is not None and found.node.op.qualified == ROPE:
        x, cosine, sine = found.node.inputs
        assert x is not None
        assert cosine is not None
        assert sine is not None
        turn, interleaved, found = (cosine, sine), found.node.attrs["interleaved"], _same(x)
    taken = _taken(found, axis=2)
    if taken is not None:
        return _Slots(*taken, False, turn, interleaved)
    rows = _turned_about(found)
    taken = None if rows is None else _taken(_same(rows), axis=0)
    if taken is None or taken[0].type.rank != 3 or taken[1].type.rank != 2:
        return _Slots(value)
    pool = _pool(taken[0])
    return _Slots(taken[0] if pool is None else pool, taken[1], True, turn, interleaved)


def _taken(value: Value, axis: int) -> tuple[Value, Value] | None:
    """Source and index where a value is taken along this axis, by rows or by rows and heads."""
    node = value.node
    if node is None or core(node) != "take" or node.attrs["axis"] != axis or (node.attrs["batch"] == 0) != (axis == 0):
        return None
    source, index = node.inputs
    assert source is not None
    assert index is not None
    if axis and (source.type.rank, index.type.rank) != (4, node.attrs["batch"] + 1):
        return None
    if index.node is not None and core(index.node) == "expand":
        each = index.node.inputs[0]
        if each is not None and each.node is not None and core(each.node) == "unsqueeze" and each.node.attrs["axis"] == (1,):
            shared = each.node.inputs[0]
            if shared is not None and index.type.shape == (shared.type.shape[0], source.type.shape[1], *shared.type.shape[1:]):
                index = shared
    return source, index


def _same(value: Value) -> Value:
    """What a value shows under views that change neither shape nor order."""
    while value.node is not None and core(value.node) in ("rearrange", "reshape"):
        x = value.node.inputs[0]
        if x is None or x.type.shape != value.type.shape:
            break
        if core(value.node) == "rearrange":
            split, permutation, _ = rearrange_plan(x.type, value.node.attrs)
            kept = [axis for axis in permutation if split[axis] != 1]
            if kept != sorted(kept):
                break
        value = x
    return value


def _turned_about(value: Value) -> Value | None:
    """What a value shows [B, N, G, K] as [B, G, N, K]."""
    node = value.node
    x = None if node is None else node.inputs[0]
    if node is None or x is None or x.type.rank != 4:
        return None
    if core(node) == "transpose":
        return x if tuple(node.attrs["perm"]) == (0, 2, 1, 3) else None
    if core(node) != "rearrange":
        return None
    split, permutation, final = rearrange_plan(x.type, node.attrs)
    return x if (tuple(split), permutation, len(final)) == (x.type.shape, [0, 2, 1, 3], 4) else None


def _pool(rows: Value) -> Value | None:
    """The pool [P, G, S, K] whose rows [P * S, G, K] these are."""
    node = rows.node
    x = None if node is None else node.inputs[0]
    if node is None or x is None or core(node) != "rearrange" or x.type.rank != 4:
        return None
    split, permutation, final = rearrange_plan(x.type, node.attrs)
    pages, heads, slots, size = x.type.shape
    wanted = ((pages, heads, slots, size), [0, 2, 1, 3], [pages * slots, heads, size])
    return x if (tuple(split), permutation, final) == wanted else None


# What a mask compares ------------------------------------------------------------------------------------------------


def _sight(mask: Value, index: Value | None, q: Value) -> _Sight | None:
    """What a mask is of the slots that are read; None where it is anything."""
    places: Places = tuple(None if d == 1 else i for i, d in enumerate(mask.type.shape))
    root, places = _under(mask, places)
    if index is not None and root.node is not None and core(root.node) == "take":
        # What is seen of all slots, at those that are read.
        whole, at = root.node.inputs
        assert whole is not None
        if at is not index or (root.node.attrs["axis"], root.node.attrs["batch"], whole.type.rank) != (3, 1, 4):
            return None
        places = tuple(None if d == 1 else i for i, d in enumerate(whole.type.shape))
        return _bound(*_under(whole, places), None)
    bound = _bound(root, places, index)
    return _tree(root, places, q) if bound is None and index is None else bound


def _under(value: Value, places: Places) -> tuple[Value, Places]:
    """What views show, and where it lies in scores."""
    while True:
        value = _same(value)
        node = value.node
        if node is None or core(node) not in VIEWS or node.inputs[0] is None:
            return value, places
        below = operand_places(node, places)
        assert below is not None
        value, places = node.inputs[0], below[0]


def _operands(node: Node, places: Places) -> list[tuple[Value, Places]]:
    below = operand_places(node, places)
    assert below is not None
    return [_under(v, p) for v, p in zip((v for v in node.inputs if v is not None), below, strict=True)]


def _bound(value: Value, places: Places, index: Value | None) -> _Sight | None:
    """A mask that is true up to a slot: of all slots, or of those in a list."""
    node = value.node
    if node is None or core(node) not in _COMPARED:
        return None
    first, inclusive = _COMPARED[core(node)]
    sides = _operands(node, places)
    (slot, at), (until, rows) = sides[first], sides[1 - first]
    counted = slot.node is not None and core(slot.node) == "iota" and at == (_SLOT,)
    listed = index is not None and slot is index and at in ((_ROW, _SLOT), (None, _SLOT))
    if not (listed if index is not None else counted) or until.type.dtype.name != "i64" or not {*rows} <= {_ROW, _QUERY, None}:
        return None
    return _Sight(until, tuple(-1 if p is None else p for p in rows), inclusive)


def _tree(value: Value, places: Places, q: Value) -> _Sight | None:
    """A mask that is true of the slots before a tree, and in it where a mask [B, T, T] says so."""
    for before, own in _both(value, places, "logical_or"):
        for chosen, inside in _both(*own, "logical_and"):
            at = _against(before, "lt", 0)
            node = chosen[0].node
            if at is None or node is None or core(node) != "gather" or node.attrs["axis"] != 2:
                continue
            ancestors, column = node.inputs
            assert ancestors is not None
            assert column is not None
            batch, _, tokens, _ = q.type.shape
            if ancestors.type.shape != (batch, tokens, tokens):
                continue
            start = _behind(at, batch)
            held = _clamped(_under(column, chosen[1]), tokens - 1)
            within = [{_against(x, "ge", 0), _against(y, "lt", tokens)} for x, y in _both(*inside, "logical_and")]
            if start is not None and held == at and {at} in within:
                return _Sight(tree=(start, ancestors))
    return None


_Placed = tuple[Value, Places]


def _both(value: Value, places: Places, name: str) -> Iterator[tuple[_Placed, _Placed]]:
    """The operands of a node of this name, in both orders."""
    if value.node is not None and core(value.node) == name:
        one, two = _operands(value.node, places)
        yield one, two
        yield two, one


def _against(placed: _Placed, name: str, number: Any) -> _Placed | None:
    """What is compared so with a number."""
    node = placed[0].node
    if node is None or core(node) != name:
        return None
    x, y = _operands(node, placed[1])
    return x if _is(y[0], number) else None


def _clamped(placed: _Placed, most: Any) -> _Placed | None:
    """What is held between 0 and a number."""
    node = placed[0].node
    if node is None or core(node) != "minimum":
        return None
    (x, at), y = _operands(node, placed[1])
    if x.node is None or core(x.node) != "maximum" or not _is(y[0], most):
        return None
    held, least = _operands(x.node, at)
    return held if _is(least[0], 0) else None


def _behind(placed: _Placed, batch: Any) -> Value | None:
    """The start [B] from which slots are counted."""
    node = placed[0].node
    if node is None or core(node) != "sub":
        return None
    (slot, at), (start, row) = _operands(node, placed[1])
    counted = slot.node is not None and core(slot.node) == "iota" and at == (_SLOT,)
    return start if counted and start.type.shape == (batch,) and row in ((_ROW,), (None,)) else None


def _is(value: Value, number: Any) -> bool:
    node = value.node
    if node is None or core(node) not in ("constant", "full") or isinstance(node.attrs["value"], (tuple, float)):
        return False
    return as_dim(node.attrs["value"]) == as_dim(number)
