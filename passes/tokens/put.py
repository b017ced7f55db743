"""Reduced tokens that a mask puts into a sequence: image tokens among those of a prompt, wherever they stand (`masked_scatter`).

What places them reads every token, restored. Where they are put, the sequence is cut down to the places whose tokens stayed, and to
those of others. Which these are is told by what places the tokens: it places their sizes too. How many are left is known before:
each row must have as many tokens put into it as any other, and one that has not is stopped while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...ir.builder import Builder
from ...ir.dims.dim import Dim
from ...ir.graph import Node, Value
from ...ir.library import composite
from ...ir.op import Trait, has
from ...ir.types import f32, i64
from . import stage as flow
from .carry import CannotFollow, Targets, plain
from .join import Joiner, again
from .restore import Restorer
from .stream import Facts, Stage, Stream, TokenMap


@dataclass(frozen=True)
class _Put:
    """Tokens [R, n, D] on their way to where they are put.

    Args:
        nodes: what moves them there, one after the other.
        given, stage: where the stream was in the graph that was given, and is now.
        first: how many first tokens of the stream are not among them.
    """

    nodes: list[Node]
    stream: Stream
    given: Stage
    stage: Stage
    first: int

    @property
    def count(self) -> Dim:
        """How many tokens of a row there were before any was reduced."""
        return self.given.count - self.first


class Putter(Restorer, Joiner):
    """A carrier that shortens the sequences into which reduced tokens are put."""

    _puts: dict[Node, _Put]

    def put_later(self, node: Node, targets: Targets) -> bool:
        """Whether what a node makes of reduced tokens is put into a sequence by a mask. It reads all of them then.

        Raises CannotFollow when as many may not be put into each row.
        """
        value = node.inputs[0] if has(node, Trait.MOVES) else None
        if value is None or value.type.rank != 3 or node.output.type.rank == 3:
            return False
        found = next(((s, f, g) for a, s, f, g in self.token_axes(value) if a == 1 and g in targets), None)
        ways = list(_ways([node]))
        if found is None or self.batch(value, found[0], 1) != 0 or len(ways) != 1:
            return False
        stream, first, given = found
        nodes, end = ways[0][:-1], ways[0][-1]
        rows, each = stream.batch_size, end.output.type.shape[0]
        stage = targets[given][1]
        if given.node is not None:
            raise again()
        if stream.padded or stream.emptied(stage):
            raise CannotFollow(f"`{end.op.name}` puts tokens into a sequence of which some are padding")
        if rows // each * each != rows:
            raise CannotFollow(
                f"how many of {rows} rows of tokens are put into each of {each} sequences is known at run time only",
                "give it a value for every token with `restore=true`; or fix both numbers, or join them by `concat`",
            )
        self._puts[end] = _Put(nodes, stream, given, stage, first)
        self.unmerge_operands(node)
        return True

    def shorten(self, node: Node) -> Targets:
        """At a node that puts tokens into a sequence: only the places that are left, a stage of their own."""
        put = self._puts.pop(node)
        builder = Builder(self.graph).before(node)
        batch, tokens, _ = node.output.type.shape
        rows = put.stream.batch_size
        left = tokens - rows // batch * (put.given.count - put.stage.count)
        here = node.inputs[0]
        assert here is not None
        source, size, position, fits = builder.multi(
            composite("std.token.put.put_map"), *self._placed(put, builder), _each_token(here, batch, tokens, builder),
            count=plain(rows * put.count), k=plain(left),
        )  # fmt: skip
        # Outside, in a row that does not fit.
        outside = builder.dim_value(tokens)
        position = builder.op("where", builder.op("unsqueeze", fits, axis=(1,)), position, outside)
        for i, value in enumerate(node.inputs):
            assert value is not None
            if value.type.shape[1] == tokens:
                whole = value
                if value.type.shape[0] != batch:
                    whole = builder.op("expand", value, shape=tuple(map(plain, (batch, *value.type.shape[1:]))))
                node.set_input(i, builder.op("take", whole, position, axis=1, batch=1))
        steps = put.stream.until(put.stage)
        facts = Facts(merged=any(s.facts.merged for s in steps), total=all(s.facts.total for s in steps))
        targets: Targets = {put.given: (put.stream, put.stage)}
        self.derive(node, TokenMap(source, size, position), left, [facts], (0, 1), targets)
        return targets

    def _placed(self, put: _Put, builder: Builder) -> list[Value]:
        """The size, the number and the host's number of the token in each place [B, T], as what moves the tokens moves them."""
        stream, rows, count = put.stream, put.stream.batch_size, put.count
        source, size, position = (
            flow.vector(stream, put.stage, what, put.first, builder) for what in ("source", "size", "position")
        )
        none = builder.op("full", shape=tuple(map(plain, (rows, count))), value=0.0, dtype=f32)
        row = builder.op("unsqueeze", builder.op("iota", n=rows, dtype=i64), axis=(1,))
        row = builder.op("mul", row, builder.dim_value(count))
        here = builder.op("unsqueeze", builder.op("iota", n=count, dtype=i64), axis=(0,))
        numbers = (
            builder.op("scatter_set", none, position, size, batch=1),
            builder.op("add", row, here),
            builder.op("add", row, builder.op("gather", position, source, axis=1)),
        )
        size, *others = (self._moved(put, number, builder) for number in numbers)
        return [size, *(builder.op("cast", number, dtype=i64) for number in others)]

    def _moved(self, put: _Put, number: Value, builder: Builder) -> Value:
        """A number of each token [R, n], where it is put: f32[B, T]."""
        value = put.nodes[0].inputs[0]
        assert value is not None
        wide = builder.op("cast", number, dtype=f32)
        moved = builder.op("expand", builder.op("unsqueeze", wide, axis=(2,)), shape=tuple(map(plain, value.type.shape)))
        for node in put.nodes:
            if node.op.qualified != "cast":
                moved = builder.op(node.op, moved, *node.inputs[1:], **node.attrs)
        return builder.op("squeeze", builder.op("slice", moved, axis=2, start=0, stop=1), axis=(2,))


def _ways(nodes: list[Node]) -> Iterator[list[Node]]:
    """The ways from the last of some nodes to where a mask puts what they move into a sequence [B, T, D]."""
    for user in nodes[-1].output.users:
        place = user.inputs.index(nodes[-1].output) if user.op is not None else -1
        if place == 1 and user.op.qualified == "where" and _is_sequence(user):
            yield [*nodes, user]
        elif place == 0 and has(user, Trait.KEEPS) and has(user, Trait.SCALES):
            yield from _ways([*nodes, user])


def _is_sequence(node: Node) -> bool:
    """Whether a `where` makes [B, T, D] of features and others, by a mask of its tokens."""
    shape = node.output.type.shape
    values = [v for v in node.inputs if v is not None]
    rows = all(v.type.rank == 3 and v.type.shape[1] in (shape[1], 1) for v in values)
    return len(shape) == 3 and rows and values[1].type.shape == shape and values[0].type.shape[1] == shape[1]


def picks(node: Node) -> bool:
    """Whether a node picks elements by their places."""
    return has(node, Trait.INDEXES) and has(node, Trait.SCALES)


def _each_token(mask: Value, batch: Dim, tokens: Dim, builder: Builder) -> Value:
    """A mask [B, T, D], or one that broadcasts to it, as [B, T]: it is the same for all features of a token."""
    row = builder.op("squeeze", builder.op("slice", mask, axis=2, start=0, stop=1), axis=(2,))
    return row if row.type.shape[0] == batch else builder.op("expand", row, shape=tuple(map(plain, (batch, tokens))))
