"""What the axes of a stream are called where they do not lie as [B, T, D]: `b`, `t` or the parts that it is made of, `d`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.analysis.axes import Axes, Axis
from ...ir.analysis.cost import ATTENTION
from ...ir.graph import Graph, Node, Value
from ...ir.ops.shape import parse_rearrange

# What an axis is: the batch, all tokens, a part of them (`h`, `w`), features; `1` is none.
Words = tuple[str, ...]

CANONICAL: Words = ("b", "t", "d")
_PARTS = "hwuv"


@dataclass(frozen=True)
class Tokens:
    """The axis classes of one stream: the batch, the tokens, and what these are split into, outermost first."""

    batch: Axis
    tokens: Axis
    parts: tuple[Axis, ...]

    @property
    def names(self) -> Words:
        return tuple(_PARTS[: len(self.parts)])


class Layouts:
    """How the streams of a graph lie, value by value."""

    def __init__(self, graph: Graph) -> None:
        self.axes = Axes(graph)
        for node in graph.nodes():
            if is_pointwise(node):
                # Each place by itself: its axes are those of its operand.
                for axis in range(2, node.output.type.rank):
                    self.axes.link(node.inputs[0], axis, node.output, axis)
        self.streams = self._streams(graph)

    def of(self, value: Value) -> tuple[Words, Tokens] | None:
        """The words of a value [B, T, D] in whatever order; None for all others."""
        for stream in self.streams if 3 <= value.type.rank <= 2 + len(_PARTS) else ():
            words = self._words(value, stream)
            if words is not None:
                return words, stream
        return None

    def _words(self, value: Value, stream: Tokens) -> Words | None:
        names = dict(zip(stream.parts, stream.names, strict=True))
        words: list[str] = []
        for axis, dim in enumerate(value.type.shape):
            found = self.axes.find(value, axis)
            if found == stream.batch:
                words.append("b")
            elif found == stream.tokens:
                words.append("t")
            else:
                words.append(names.get(found, "1" if dim == 1 else "d"))
        if words.count("d") == 0 and words.count("1") == 1:
            # One feature, as a mean over features leaves.
            words[words.index("1")] = "d"
        whole = [w for w in words if w == "t" or w in stream.names]
        complete = whole == ["t"] or (stream.parts and sorted(whole) == sorted(stream.names))
        return tuple(words) if complete and words.count("b") == words.count("d") == 1 and "1" not in words else None

    def _streams(self, graph: Graph) -> list[Tokens]:
        pairs: dict[tuple[Axis, Axis], None] = {}
        for node in graph.nodes():
            if node.op.qualified == ATTENTION:
                for value in node.inputs[:2]:
                    assert value is not None
                    pairs[self.axes.find(value, 0), self.axes.find(value, 2)] = None
        parts = self._parts(graph, {tokens for _, tokens in pairs})
        return [Tokens(batch, tokens, made) for batch, tokens in pairs for made in parts.get(tokens, [()])]

    def _parts(self, graph: Graph, tokens: set[Axis]) -> dict[Axis, list[tuple[Axis, ...]]]:
        """What a `rearrange` splits tokens into, or joins them from: a stream's own, and those of queries alone."""
        found: dict[Axis, dict[tuple[Axis, ...], None]] = {}
        for node in graph.nodes():
            if node.op.qualified != "rearrange" or node.inputs[0] is None:
                continue
            parsed = parse_rearrange(node.attrs["pattern"])
            assert parsed is not None
            sides = [(node.inputs[0], parsed[0]), (node.output, parsed[1])]
            for (value, groups), (other, others) in (sides, sides[::-1]):
                alone = {group[0]: (other, axis) for axis, group in enumerate(others) if len(group) == 1}
                for axis, group in enumerate(groups):
                    whole = self.axes.find(value, axis)
                    if 2 <= len(group) <= len(_PARTS) and whole in tokens and all(name in alone for name in group):
                        found.setdefault(whole, {})[tuple(self.axes.find(*alone[name]) for name in group)] = None
        return {whole: list(parts) for whole, parts in found.items()}


def is_pointwise(node: Node) -> bool:
    """Whether a node is a convolution of single places: a product with features."""
    if node.op.qualified != "conv" or node.attrs["groups"] != 1:
        return False
    weight, a = node.inputs[1], node.attrs
    assert weight is not None
    kernel = weight.type.shape[2:]
    return all(d == 1 for d in kernel) and set(a["stride"]) == {1} and set(a["padding"]) == {0}


def pattern(left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> str:
    """Groups of names as `rearrange` takes them."""
    return " -> ".join(" ".join(map(_shown, side)) for side in (left, right))


def _shown(group: Sequence[str]) -> str:
    return "1" if not group else group[0] if len(group) == 1 else f"({' '.join(group)})"
