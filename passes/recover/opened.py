"""Axes that a `rearrange` joins and another, behind slices, splits again: never joined, so that both can be followed."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.analysis.axes import kept_axes
from ...ir.builder import Builder
from ...ir.dims.dim import Dim, product
from ...ir.graph import Graph, Node, Value
from ...ir.naming import unique
from .streams import sides_of, sizes_of
from .words import pattern

Groups = list[tuple[str, ...]]

# How many ops lie between the two: a slice, a squeeze, a transpose, a factor, a cast.
_BETWEEN = 6


def open_joined(graph: Graph) -> int:
    """Leave axes apart that are joined only to be split behind slices, transposes and factors; how many splits there were.

    before: `y = rearrange(x, "n b h t k -> n (b h) t k")[:1]   q = rearrange(y, "1 (b h) t k -> b h t k", b=B)`
    after:  `q = squeeze(x[:1], axis=[0])`

    What else is a `rearrange` of the same, such as relative positions that read queries with heads in the batch, reads what is open
    too: `rearrange(q, "b h (u v) k -> (b h) u v k")`.
    """
    last = [(node, chain) for node in graph.nodes() if node.op.qualified == "rearrange" and (chain := _chain(node))]
    opened = [chain[0] for node, chain in last if _open(node, chain, kept=False)]
    for node, chain in last:
        if chain[0] in opened and node.output.users:
            _open(node, chain, kept=True)
    return len(opened)


def _open(last: Node, chain: list[Node], kept: bool) -> bool:
    """One split, if what it splits was joined of just that. ``kept``: or if it leaves whole what was joined."""
    first, *between = chain
    source = first.inputs[0]
    assert source is not None
    left, right = sides_of(first)
    sizes = sizes_of(first, source, left)
    x = last.inputs[0]
    assert x is not None
    split, result = sides_of(last)
    parts = sizes_of(last, x, split)
    if sizes is None or parts is None:
        return False
    groups: Groups | None = right
    for node in between:
        groups = _through(node, groups, sizes)
        if groups is None:
            return False
    assert groups is not None
    if kept:
        split, result = _named_apart(groups, sizes, split, result, parts)
    taken = [_taken(a, sizes, b, parts) for a, b in zip(groups, split, strict=True)]
    if any(t is None for t in taken) or not any(t is not None and len(t) > 1 for t in taken):
        return False
    builder = Builder(last.graph).before(last)  # type: ignore[arg-type]
    value = moved(source, left, [(name,) for group in right for name in group or ("",)], sizes, builder)
    groups = right
    for node in between:
        value, groups = _again(node, value, groups, builder), _through(node, groups, sizes)
        assert groups is not None
    # Each axis as it is now is one name of the split, or several.
    opened = [names for own in taken for names in own or ()]
    made = moved(value, opened, result, parts, builder)
    made.name = last.output.name
    last.output.replace_uses(made)
    return True


def _chain(last: Node) -> list[Node] | None:
    """The rearrange that joins axes, and what lies between it and ``last``, in order; None where something else does."""
    found: list[Node] = []
    value = last.inputs[0]
    while value is not None and value.node is not None and value.node.op is not None and len(found) <= _BETWEEN:
        node = value.node
        found.insert(0, node)
        if node.op.qualified == "rearrange":
            return found
        others = [v for v in node.inputs[1:] if v is not None]
        if not node.inputs or len(node.outputs) != 1 or any(v.type.rank for v in others):
            return None
        value = node.inputs[0]
    return None


def _through(node: Node, groups: Groups | None, sizes: dict[str, Dim]) -> Groups | None:
    """The groups of names behind a node; None where it mixes what is joined. A name that is cut has its new size."""
    if groups is None:
        return None
    name = node.op.qualified
    if node.op.family == "elementwise" and node.output.type.rank == len(groups):
        return groups
    if name == "transpose":
        return [groups[axis] for axis in node.attrs["perm"]]
    if name == "slice" and len(groups[node.attrs["axis"]]) == 1:
        sizes[groups[node.attrs["axis"]][0]] = node.output.type.shape[node.attrs["axis"]]
        return groups
    if name in ("squeeze", "unsqueeze"):
        kept = {j: i for i, j in kept_axes(node)}
        if name == "squeeze" and any(len(g) > 1 for i, g in enumerate(groups) if i not in kept.values()):
            return None
        return [groups[kept[j]] if j in kept else () for j in range(node.output.type.rank)]
    return None


def _places(groups: Groups) -> list[int]:
    """The axis at which each group begins when all names have axes of their own; a group of none has one of size 1."""
    starts, at = [], 0
    for group in groups:
        starts.append(at)
        at += max(1, len(group))
    return [*starts, at]


def _again(node: Node, value: Value, groups: Groups, builder: Builder) -> Value:
    """What a node does, with every name of ``groups`` on an axis of its own."""
    builder.span, builder.scope = node.span, node.scope
    starts = _places(groups)
    attrs = dict(node.attrs)
    if node.op.qualified == "transpose":
        attrs["perm"] = tuple(i for axis in attrs["perm"] for i in range(starts[axis], starts[axis + 1]))
    elif node.op.qualified == "slice":
        attrs["axis"] = starts[attrs["axis"]]
    elif node.op.qualified == "squeeze":
        attrs["axis"] = tuple(starts[axis] for axis in attrs["axis"])
    elif node.op.qualified == "unsqueeze":
        behind = {j: i for i, j in kept_axes(node)}
        wide = [len(groups[behind[j]]) or 1 if j in behind else 1 for j in range(node.output.type.rank)]
        attrs["axis"] = tuple(sum(wide[:axis]) for axis in attrs["axis"])
    return builder.emit(node.op, [value, *node.inputs[1:]], attrs)[0]


def _taken(
    joined: Sequence[str], sizes: dict[str, Dim], split: Sequence[str], parts: dict[str, Dim]
) -> Groups | None:
    """For each joined name the names that it is split into, in order; None where one of these lies across two.

    One axis of size 1 stands for a group of none.
    """
    found: Groups = []
    left = list(split)
    for name in joined or ("",):
        size = sizes[name] if name else product(())
        own: list[str] = []
        while left and product(parts[n] for n in own) != size:
            own.append(left.pop(0))
        if product(parts[n] for n in own) != size:
            return None
        found.append(tuple(own))
    if any(parts[n] != 1 for n in left):
        return None
    return [*found[:-1], (*found[-1], *left)]


def _named_apart(
    groups: Groups, sizes: dict[str, Dim], split: Groups, result: Groups, parts: dict[str, Dim]
) -> tuple[Groups, Groups]:
    """Both sides of a rearrange with the names of what is joined in place of one name for all of it; ``parts`` gets their sizes."""
    apart: dict[str, tuple[str, ...]] = {}
    taken = set(parts)
    for joined, names in zip(groups, split, strict=True):
        if len(joined) > 1 and len(names) == 1:
            apart[names[0]] = tuple(unique(f"{names[0]}{i}", taken, joint="_") for i in range(len(joined)))
            parts.update({name: sizes[own] for name, own in zip(apart[names[0]], joined, strict=True)})

    def named(side: Groups) -> Groups:
        return [tuple(n for name in group for n in apart.get(name, (name,))) for group in side]

    return named(split), named(result)


def moved(value: Value, left: Groups, right: Groups, sizes: dict[str, Dim], builder: Builder) -> Value:
    """A rearrange, as little of it as is needed; axes of none go first, so that equal values stay equal."""
    right = [tuple(name for name in group if name) for group in right]
    if left == right:
        return value
    if not all(left) and all(right):
        value = builder.op("squeeze", value, axis=tuple(i for i, g in enumerate(left) if not g))
        return moved(value, [g for g in left if g], right, sizes, builder)
    if all(len(g) == 1 for g in (*left, *right)):
        return builder.op("transpose", value, perm=tuple(left.index(g) for g in right))
    axes = tuple((name, sizes[name]) for group in left for name in group[1:])
    return builder.op("rearrange", value, pattern=pattern(left, right), axes=axes)
