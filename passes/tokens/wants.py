"""What a method may ask for: a line each, by the name of the operand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.graph import Graph, Node, Value
from ...ir.signature import Pattern
from ...ir.types import DType, f32
from .stage import random_numbers
from .stream import Stage, Stream

ROPE = "std.attention.rope"


@dataclass
class Asked:
    """Where a method asks.

    Args:
        x: the features that it reduces, [B, T, D].
        attention: the attention that it stands behind; None in front of the first block.
        metric: which of the others `metric` is.
        first, last: how many first and last tokens are protected.
    """

    graph: Graph
    builder: Builder
    stream: Stream
    stage: Stage
    x: Value
    attention: Node | None
    metric: str
    first: int
    last: int

    def behind(self, what: str) -> Node:
        """The attention. Raises E0705 when there is none yet."""
        if self.attention is None:
            raise Diagnostic(
                "E0705",
                f"the method asks for `{what}`, which attention makes, but no attention stands in front of the first block",
                help="reduce behind attention (`place=attention`), or with a method that reads `tokens` or `norms`",
            )
        return self.attention


@dataclass(frozen=True)
class Want:
    """``make`` gives the tensor, whose tokens are those of attention's ``operand``, if they are any of its; ``missing`` says why
    there is none yet."""

    doc: str
    make: Callable[[Asked], Value] | None = None
    operand: int | None = None
    missing: str = ""


def _heads(asked: Asked, operand: int, what: str) -> Value:
    """Queries or keys, averaged over heads, before a rotation: what a token is, not where it stands."""
    value = asked.behind(what).inputs[operand]
    assert value is not None
    if value.node is not None and value.node.op.qualified == ROPE and value.node.inputs[0] is not None:
        value = value.node.inputs[0]
    if value.type.shape[1] == 1:
        return asked.builder.op("squeeze", value, axis=1)
    return asked.builder.op("mean", value, axis=1)


def _row(asked: Asked) -> Value:
    attention = asked.behind("row")
    if not asked.first and not asked.last:
        raise Diagnostic(
            "E0705",
            "the method asks for `row`, the attention of the token that the model reads, but it reads none by its place",
            attention.span,
            help="a model with a class token or a last token that is read has one: say so with `protect=1`",
        )
    return optional_result(attention, "row", 0 if asked.first else -1)


def _norms(asked: Asked) -> Value:
    wide = asked.builder.op("cast", asked.x, dtype=f32)
    return asked.builder.op("sqrt", asked.builder.op("sum", asked.builder.op("mul", wide, wide), axis=2))


def _noise(asked: Asked) -> Value:
    taken = {value.name for value in asked.graph.inputs}
    name = next(n for n in (f"noise{i}" for i in range(len(taken) + 1)) if n not in taken)
    return random_numbers(name, asked.stream.batch_size, asked.stage.map, asked.builder)


WANTS: dict[str, Want] = {
    "keys": Want("the attention's keys averaged over heads [B, T, K]", lambda a: _heads(a, 1, "keys"), 1),
    "queries": Want("its queries averaged over heads [B, T, K]", lambda a: _heads(a, 0, "queries"), 0),
    "tokens": Want("the features themselves [B, T, D]", lambda a: a.x),
    "metric": Want("what the option `metric` names", lambda a: make(a.metric, a)),
    "column_mass": Want(
        "the attention that each token receives [B, T]",
        lambda a: optional_result(a.behind("column_mass"), "column_mass", True),
        1,
    ),
    "row": Want("the attention of the token that the model reads, to each [B, H, T]", _row, 1),
    "norms": Want("the length of each token's features [B, T]", _norms),
    "noise": Want("uniform random numbers [B, T]", _noise),
    "text": Want("the prompt's features", missing="a model's text and its images are one stream of tokens so far"),
    "spans": Want("where images lie among the tokens", missing="a model's inputs do not say so yet"),
}


def make(name: str, asked: Asked) -> Value:
    """The tensor of that name, at whatever stage it is."""
    want = WANTS[name].make
    assert want is not None
    return want(asked)


def fitted(value: Value, pattern: Pattern, asked: Asked) -> Value:
    """In the dtype in which the method asks for it."""
    wanted = pattern.dtype if isinstance(pattern.dtype, DType) else asked.x.type.dtype
    return value if value.type.dtype == wanted else asked.builder.op("cast", value, dtype=wanted)


def optional_result(node: Node, name: str, value: object) -> Value:
    """An optional result of attention, which is asked for it where it was not; its other readers keep theirs.

    Raises:
        Diagnostic: E0705 when it is asked for another row already.
    """
    if node.attrs[name] not in (False, None, value):
        raise Diagnostic(
            "E0705", f"the method asks for the `{name}` {value} of an attention that gives that of {node.attrs[name]}", node.span
        )  # fmt: skip
    fresh = node.attrs[name] is not value and node.attrs[name] != value
    node.attrs[name] = value
    types = [None if v is None else v.type for v in node.inputs]
    bound = node.op.signature.unify(types, dict(node.attrs))
    index = [result.name for result in node.op.signature.present(bound)].index(name)
    if fresh:
        type = node.op.infer(types, dict(node.attrs), span=node.span)[index]
        node.outputs.insert(index, Value(type, name, node, index))
        for i, output in enumerate(node.outputs):
            output.index = i
    return node.outputs[index]
