"""Heads that lie in the batch, [B * H, T, K], as products of three axes have them: split off it, so that attention knows them."""

from __future__ import annotations

from ...ir.analysis.cost import ATTENTION
from ...ir.builder import Builder
from ...ir.dims.dim import Dim, as_dim, product
from ...ir.graph import Graph, Node, Value
from ...ir.op import Trait, has
from ...ir.ops.shape import parse_rearrange
from .words import pattern

Groups = list[tuple[str, ...]]


def split_heads(graph: Graph) -> int:
    """Give each attention over `rearrange(…, "… -> (b h) t k")` its batch and heads; how many there were.

    before: `y = squeeze(attention(unsqueeze(q, axis=[1]), …), axis=[1])   z = rearrange(y, "(b h) t k -> b t (h k)", b=B)`
    after:  `y = attention(q', …)   z = rearrange(y, "b h t k -> b t (h k)")`    q' [B, H, T, K]
    """
    nodes = [node for node in graph.nodes() if node.op.qualified == ATTENTION and len(node.outputs) == 1]
    return sum(_split(node) for node in nodes)


def _split(node: Node) -> bool:
    """One attention, if all that it reads is split alike or has one row for all."""
    q, mask, bias = (node.inputs[i] for i in (0, 3, 4))
    assert q is not None
    found = [_folded(v) for v in node.inputs[:3] if v is not None]
    if q.type.shape[1] != 1 or any(f is None for f in found) or len({f[0] for f in found if f is not None}) != 1:
        return False
    batch, heads = found[0][0]  # type: ignore[index]
    rows = q.type.shape[0]
    if any(v is not None and v.type.shape[0] not in (1, rows) for v in (mask, bias)) or batch * heads != rows:
        return False
    builder = Builder(node.graph).before(node)  # type: ignore[arg-type]
    builder.span, builder.scope = node.span, node.scope
    operands: list[Value | None] = []
    for value in node.inputs:
        if value is None or value.type.shape[0] == 1:
            operands.append(value)
            continue
        folded = _folded(value)
        whole = pattern([("b", "h"), (), ("t",), ("k",)], [("b",), ("h",), ("t",), ("k",)])
        if folded is None:
            operands.append(builder.op("rearrange", value, pattern=whole, axes=(("h", heads),)))
        else:
            _, source, left, right, axes = folded
            operands.append(builder.op("rearrange", source, pattern=pattern(left, right), axes=axes))
    (made,) = builder.multi(node.op, *operands, **node.attrs)
    made.name = node.output.name
    for user in node.output.users:
        _joined(user, node.output, made, heads)
    if node.output.uses:
        back = pattern([("b",), ("h",), ("t",), ("k",)], [("b", "h"), (), ("t",), ("k",)])
        node.output.replace_uses(builder.op("rearrange", made, pattern=back, axes=()))
    node.graph.remove(node)  # type: ignore[union-attr]
    return True


def _folded(value: Value) -> tuple[tuple[Dim, Dim], Value, Groups, Groups, tuple[tuple[str, Dim], ...]] | None:
    """(batch, heads), and what a rearrange makes [B, H, T, K] of, for [B * H, 1, T, K]; None where it was not made so."""
    node = value.node
    if node is None or node.op is None or node.op.qualified != "unsqueeze" or node.attrs["axis"] != (1,):
        return None
    source = node.inputs[0]
    made = source.node if source is not None else None
    if made is None or made.op is None or made.op.qualified != "rearrange" or made.inputs[0] is None:
        return None
    parsed = parse_rearrange(made.attrs["pattern"])
    assert parsed is not None
    left, right = list(parsed[0]), list(parsed[1])
    if len(right) != 3 or len(right[0]) != 2:
        return None
    given = dict(made.attrs["axes"])
    sizes: dict[str, Dim] = {}
    for group, dim in zip(left, made.inputs[0].type.shape, strict=True):
        known = product(given[name] for name in group if name in given)
        sizes |= {name: as_dim(given[name]) if name in given else dim // known for name in group}
    return (
        (sizes[right[0][0]], sizes[right[0][1]]), made.inputs[0], left, [right[0][:1], right[0][1:], *right[1:]], made.attrs["axes"]
    )  # fmt: skip


def _joined(node: Node, old: Value, made: Value, heads: Dim) -> None:
    """Let what takes heads off the batch behind an attention read them where they are."""
    if node.op is None or node.op.qualified != "squeeze" or node.attrs["axis"] != (1,):
        return
    for user in node.output.users:
        parsed = parse_rearrange(user.attrs["pattern"]) if user.op is not None and user.op.qualified == "rearrange" else None
        if parsed is None or len(parsed[0][0]) != 2 or not has(user, Trait.MOVES):
            continue
        left, right = list(parsed[0]), list(parsed[1])
        sizes = dict(user.attrs["axes"])
        batch, split = left[0]
        if sizes.get(split, heads) != heads or (batch in sizes and sizes[batch] != made.type.shape[0]):
            continue
        left = [(batch,), (split,), *left[1:]]
        kept = tuple((name, size) for name, size in user.attrs["axes"] if any(name in g and len(g) > 1 for g in left))
        builder = Builder(user.graph).before(user)  # type: ignore[arg-type]
        moved = builder.op("rearrange", made, pattern=pattern(left, right), axes=kept)
        moved.name = user.output.name
        user.output.replace_uses(moved)
