"""Streams that lie otherwise, [T, B, D], [B, D, T], maps [B, H, W, D], brought to [B, T, D]: the same network in one layout."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ...ir.analysis.along import Bodies
from ...ir.builder import Builder
from ...ir.dims.dim import Dim, as_dim, product
from ...ir.graph import Graph, Node, Value
from ...ir.library import composite
from ...ir.op import Composite
from ...ir.ops.shape import parse_rearrange
from .words import CANONICAL, Layouts, Tokens, Words, is_pointwise, pattern

Groups = list[tuple[str, ...]]


def batch_first(graph: Graph) -> int:
    """Rewrite what lies between attentions on features [B, T, D]; how many values there were in another layout.

    before: `x = transpose(x, perm=[1, 0, 2])   x = x + affine(…, …)                         # [T, B, D]`
    after:  `x = x + affine(…, …)   y = transpose(x, perm=[1, 0, 2])   # where somebody else reads it`
    """
    layouts = Layouts(graph)
    values = dict.fromkeys(v for node in graph.nodes() for v in (*node.inputs, *node.outputs) if v is not None)
    found = {v: words for v in values if (words := layouts.of(v)) is not None and words[0] != CANONICAL}
    if not any(node.op.qualified == "add" and node.output in found for node in graph.nodes()):
        return 0
    layout = _Layout(graph, found)
    for node in list(graph.nodes()):
        layout.visit(node)
    for i, value in enumerate(graph.outputs):
        if value in found:
            graph.end.set_input(i, layout.back(value))
    return len(found)


class _Layout:
    """Values of a graph in another layout and their twins [B, T, D]."""

    def __init__(self, graph: Graph, found: dict[Value, tuple[Words, Tokens]]) -> None:
        self.graph, self.words = graph, {v: words for v, (words, _) in found.items()}
        self._names = {v: stream.names for v, (_, stream) in found.items()}
        self._twins: dict[Value, Value] = {}
        self._backs: dict[Value, Value] = {}
        self._bodies = Bodies()

    def visit(self, node: Node) -> None:
        """Let a node make, or read, twins."""
        reads = [v for v in node.inputs if v is not None and v in self.words]
        makes = [v for v in node.outputs if v in self.words]
        if not reads and not makes:
            return
        builder = Builder(self.graph).before(node)
        builder.span, builder.scope = node.span, node.scope
        made = self._made(node, reads, builder) if reads and len(makes) == len(node.outputs) else None
        if made is not None:
            for value, twin in zip(node.outputs, made, strict=True):
                twin.name = value.name
                self._twins[value] = twin
            return
        if reads and not makes and (whole := self._left(node, reads[0], builder)) is not None:
            whole.name = whole.name or node.output.name
            node.output.replace_uses(whole)
            return
        for i, operand in enumerate(node.inputs):
            if operand is not None and operand in self.words:
                node.set_input(i, self.back(operand, builder))
        for value in makes:
            self._twins[value] = self._canonical(value, Builder(self.graph).before(node.next))

    # What a node becomes on twins -------------------------------------------------------------------------------------

    def _made(self, node: Node, reads: Sequence[Value], builder: Builder) -> Sequence[Value] | None:
        """The twins of a node's results, of those of its operands; None where it has to see the other layout."""
        words = self.words[node.outputs[0]]
        if node.op.qualified in ("transpose", "rearrange"):
            moved = self._moved(node, self._twin(reads[0]), self.words[reads[0]], words, builder)
            return None if moved is None else [moved]
        if is_pointwise(node) and words[1] == "d" and node.inputs[0] is reads[0]:
            weight = node.inputs[1]
            assert weight is not None
            ones = [()] * (weight.type.rank - 2)
            flat = builder.op("rearrange", weight, pattern=pattern([("o",), ("i",), *ones], [("o",), ("i",)]), axes=())
            return builder.emit(composite("std.nn.affine"), [self._twin(reads[0]), flat, None], {})
        if any(self.words[v] != words for v in reads):
            return None
        if node.op.family == "reduction":
            axis = node.attrs["axis"]
            feature = node.attrs.get("keepdims") and axis == (words.index("d"),)
            return builder.multi(node.op, self._twin(reads[0]), **{**node.attrs, "axis": (2,)}) if feature else None
        if isinstance(node.op, Composite):
            if not self._walks(node, words):
                return None
            operands = [v and (self._twin(v) if v in self.words else v) for v in node.inputs]
        elif node.op.family == "elementwise":
            operands = [v and self._operand(v, node.output, builder) for v in node.inputs]
        else:
            return None
        return builder.multi(node.op, *operands, **node.attrs)

    def _walks(self, node: Node, words: Words) -> bool:
        """Whether a composite takes rows and tokens one by one, and features last, or as it takes those."""
        types = [None if v is None else v.type for v in node.inputs]
        if self._bodies.each(node, types, lambda v: tuple(range(v.type.rank)) if v in self.words else ()):
            return True
        others = tuple(i for i, word in enumerate(words) if word != "d")
        return words[-1] == "d" and self._bodies.each(node, types, lambda v: others if v in self.words else ())

    def _operand(self, value: Value, result: Value, builder: Builder) -> Value:
        """What an elementwise op reads in place of an operand that broadcasts to ``result``."""
        if value in self.words:
            return self._twin(value)
        rank = value.type.rank
        words = self.words[result][len(self.words[result]) - rank :]
        if all(d == 1 for d in value.type.shape) or (rank == 1 and words == ("d",)):
            return value if rank < 2 else builder.op("reshape", value, shape=())
        there = [word for word, d in zip(words, value.type.shape, strict=True) if d != 1]
        parts = self._names[result]
        if any(p in there for p in parts) and not all(p in there for p in parts):
            # One row, or one column, of a map: at all places of it.
            full = result.type.shape[len(self.words[result]) - rank :]
            shape = [f if word in parts else d for word, d, f in zip(words, value.type.shape, full, strict=True)]
            lead = [d for w, d in zip(self.words[result], result.type.shape, strict=True) if w in parts and w not in words]
            if lead:
                value = builder.op("unsqueeze", value, axis=tuple(range(len(lead))))
                words = (*(w for w in self.words[result] if w in parts and w not in words), *words)
            value = builder.op("expand", value, shape=(*lead, *shape))
            there = [word for word, d in zip(words, value.type.shape, strict=True) if d != 1]
        left: Groups = [(w,) if w in there else () for w in words]
        whole = tuple(w for w in ("t", *parts) if w in there)
        right: Groups = [("b",) if "b" in there else (), whole, ("d",) if "d" in there else ()]
        while not right[0]:
            del right[0]
        return builder.op("rearrange", value, pattern=pattern(left, right), axes=())

    # From one layout to another ----------------------------------------------------------------------------------------

    def _left(self, node: Node, value: Value, builder: Builder) -> Value | None:
        """What reads a stream and makes none in another layout, of its twin; None where it has to see the other layout."""
        words = self.words[value]
        if node.op.qualified in ("transpose", "rearrange"):
            return self._moved(node, self._twin(value), words, None, builder)
        tokens = tuple(i for i, word in enumerate(words) if word not in "bd")
        whole = node.op.family == "reduction" and not node.attrs.get("keepdims") and node.attrs["axis"] == tokens
        if whole and words.index("b") < words.index("d"):
            return builder.op(node.op.qualified, self._twin(value), **{**node.attrs, "axis": (1,)})
        return None

    def _moved(
        self, node: Node, source: Value, before: Words | None, after: Words | None, builder: Builder
    ) -> Value | None:
        """A transpose or rearrange of ``source``, which is [B, T, D] where the node reads words ``before``; its result is where it
        makes ``after``."""
        x = node.inputs[0]
        assert x is not None
        sides = sides_of(node)
        sizes = sizes_of(node, x, sides[0])
        if sizes is None:
            return None
        for i, words in enumerate((before, after)):
            if words is not None:
                sides[i] = _to_canonical(sides[i], words)
        rejoin(sides, sizes)
        left, right = sides
        if left == right:
            return source
        if all(len(group) == 1 for group in (*left, *right)):
            return builder.op("transpose", source, perm=tuple(left.index(group) for group in right))
        axes = tuple((name, sizes[name]) for group in left for name in group[1:])
        return builder.op("rearrange", source, pattern=pattern(left, right), axes=axes)

    def _canonical(self, value: Value, builder: Builder) -> Value:
        """[B, T, D] of a value in another layout that something else made."""
        node, words = value.node, self.words[value]
        if node is not None and node.op is not None and node.op.qualified in ("transpose", "rearrange"):
            source = node.inputs[0]
            assert source is not None
            moved = self._moved(node, source, None, words, builder)
            if moved is not None:
                return moved
        return _relaid(value, [(w,) for w in words], _to_canonical([(w,) for w in words], words), (), builder)

    def _twin(self, value: Value) -> Value:
        if value not in self._twins:
            # An input of the graph, or a parameter.
            self._twins[value] = self._canonical(value, Builder(self.graph).before(next(iter(self.graph.nodes()))))
        return self._twins[value]

    def back(self, value: Value, builder: Builder | None = None) -> Value:
        """The layout that it had again, for what asks for nothing else."""
        twin = self._twin(value)
        if twin.node is not None and twin.node.inputs[:1] == [value]:
            return value
        if value not in self._backs:
            behind = Builder(self.graph) if twin.node is None else Builder(self.graph).before(twin.node.next)
            words = self.words[value]
            sizes = dict(zip(words, value.type.shape, strict=True))
            left = _to_canonical([(w,) for w in words], words)
            axes = tuple((name, sizes[name]) for group in left for name in group[1:])
            self._backs[value] = _relaid(twin, left, [(w,) for w in words], axes, behind)
            self._backs[value].name = value.name
        return self._backs[value]


def _relaid(value: Value, left: Groups, right: Groups, axes: tuple[tuple[str, Dim], ...], builder: Builder) -> Value:
    if all(len(group) == 1 for group in (*left, *right)):
        return builder.op("transpose", value, perm=tuple(left.index(group) for group in right))
    return builder.op("rearrange", value, pattern=pattern(left, right), axes=axes)


def _to_canonical(side: Groups, words: Words) -> Groups:
    """The groups of axes that are called ``words``, as batch, tokens and features."""
    of = dict(zip(words, side, strict=True))
    tokens = tuple(name for word in ("t", *sorted(set(words) - set(CANONICAL), key="hwuv".index)) for name in of.get(word, ()))
    return [of["b"], tokens, of["d"]]


def sides_of(node: Node) -> list[Groups]:
    """What a transpose or rearrange does, as names of both sides."""
    if node.op.qualified == "transpose":
        names: Groups = [(f"a{axis}",) for axis in range(node.output.type.rank)]
        return [names, [names[axis] for axis in node.attrs["perm"]]]
    parsed = parse_rearrange(node.attrs["pattern"])
    assert parsed is not None
    return [list(parsed[0]), list(parsed[1])]


def sizes_of(node: Node, x: Value, left: Groups) -> dict[str, Dim] | None:
    """The size of every name; None where one is not told."""
    given = dict(node.attrs.get("axes", ()))
    sizes: dict[str, Dim] = {}
    for group, dim in zip(left, x.type.shape, strict=True):
        unknown = [name for name in group if name not in given]
        if len(unknown) > 1:
            return None
        sizes |= {name: as_dim(given[name]) for name in group if name in given}
        for name in unknown:
            sizes[name] = dim // product(sizes[other] for other in group if other != name)
    return sizes


def rejoin(sides: list[Groups], sizes: dict[str, Dim]) -> None:
    """Two names that stand side by side on both sides become one: what is not taken apart needs no name of its own."""
    for group in list(sides[0]):
        for first, second in pairwise(group):
            for other in sides[1]:
                if first in other and other.index(first) + 1 < len(other) and other[other.index(first) + 1] == second:
                    for side in sides:
                        side[:] = [tuple(n for n in names if n != second) for names in side]
                    sizes[first] = sizes[first] * sizes.pop(second)
                    rejoin(sides, sizes)
                    return
