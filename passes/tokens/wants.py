"""What a method may ask for: a line each, by the name of the operand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, did_you_mean
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Node, Value
from ...ir.library import composite
from ...ir.op import Composite
from ...ir.signature import Bindings, Pattern
from ...ir.types import DType, TensorType, f32, i64
from .stage import random_numbers
from .stream import Origins, Stage, Stream

ROPE = "std.attention.rope"


@dataclass
class Asked:
    """Where a method asks.

    Args:
        x: the features that it reduces, [B, T, D].
        attention: the attention that it stands behind; None in front of the first block.
        metric: which of the others `metric` is.
        first, last: how many first and last tokens are protected.
        blocks: the attentions of these tokens in front of the place, in order.
        text: what the option `text` names; None when it names nothing.
        met: the stage at which the attention meets the tokens.
        counted: whether the first tokens are those that are there, and not those at the first places.
        causal: whether a token sees none behind it, so that the last one says what comes next.
    """

    graph: Graph
    builder: Builder
    stream: Stream
    stage: Stage
    x: Value
    attention: Node | None
    metric: str
    first: int | Dim
    last: int | Dim
    blocks: tuple[Node, ...] = ()
    text: Value | None = None
    met: Stage | None = None
    counted: bool = False
    causal: bool = False

    def of_block(self, number: int, what: str) -> Asked:
        """Asking block ``number``, from 0, or back from the place. Raises E0705 when none of that number stands in front of it."""
        if not -len(self.blocks) <= number < len(self.blocks):
            there = f"only {len(self.blocks)}" if self.blocks else "none"
            raise Diagnostic(
                "E0705",
                f"the method asks for `{what}` of block {number}, but of the blocks that attend to these tokens {there} stand(s) "
                "in front of the place where they leave",
                self.attention.span if self.attention is not None else None,
                help="blocks count from 0, or back from that place: -1 is the last one in front of it; reduce in a later block, "
                "`blocks=[…]`, to ask an early one",
            )
        return replace(self, attention=self.blocks[number])

    def before(self) -> Asked:
        """Asking the last attention in front of the place."""
        return replace(self, attention=self.blocks[-1] if self.blocks else None)

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
    """``make`` gives the tensor, whose tokens, along ``axis``, are those of attention's ``operand``, if they are any of its;
    ``made``: attention makes it, so that what attention reads cannot be chosen by it."""

    doc: str
    make: Callable[[Asked], Value] | None = None
    operand: int | None = None
    axis: int = 1
    made: bool = False


def _heads(asked: Asked, operand: int, what: str) -> Value:
    """Queries, keys or values, averaged over heads, before a rotation: what a token is, not where it stands."""
    value = _each_head(asked, operand, what)
    if value.type.shape[1] == 1:
        return asked.builder.op("squeeze", value, axis=1)
    return asked.builder.op("mean", value, axis=1)


def _each_head(asked: Asked, operand: int, what: str) -> Value:
    value = asked.behind(what).inputs[operand]
    assert value is not None
    if value.node is not None and value.node.op.qualified == ROPE and value.node.inputs[0] is not None:
        return value.node.inputs[0]
    return value


def _row(asked: Asked) -> Value:
    attention = asked.behind("row")
    if not (asked.first or asked.last or asked.causal):
        raise Diagnostic(
            "E0705",
            "the method asks for `row`, the attention of the token that the model reads, but it reads none by its place",
            attention.span,
            help="a model with a class token or a last token that is read has one: say so with `protect=1`",
        )
    if asked.causal or not asked.first:
        return _last_row(asked)
    # Of one token alone that counts, the first that is there, it is the last.
    return _counted(asked, "last_row", first=True) if asked.counted else optional_result(attention, "row", 0)


def _last_row(asked: Asked) -> Value:
    """Of padded rows the last token that is there says it."""
    if asked.stream.padded:
        return _counted(asked, "last_row")
    return optional_result(asked.behind("last_row"), "row", -1)


def _column_mass(asked: Asked) -> Value:
    """What padding looks at has no say."""
    if asked.stream.padded:
        return _counted(asked, "received")
    return optional_result(asked.behind("column_mass"), "column_mass", True)


def _counted(asked: Asked, statistic: str, *, first: bool = False) -> Value:
    """A statistic of attention in which only queries count that are no padding, or the first of them alone, made beside it."""
    attention, builder = asked.behind(statistic), asked.builder
    assert asked.met is not None
    q, k, _, mask, bias = attention.inputs
    counts = builder.op("gt", asked.met.map.size, builder.constant(0.0, f32))
    if first:
        number = builder.op("cumsum", builder.op("cast", counts, dtype=i64), axis=1)
        counts = builder.op("logical_and", counts, builder.op("eq", number, builder.constant(1, i64)))
    same = {name: attention.attrs[name] for name in ("causal", "scale", "softcap")}
    return builder.op(composite(f"std.attention.{statistic}"), q, k, counts, mask, bias, **same)


def _norms(asked: Asked) -> Value:
    wide = asked.builder.op("cast", asked.x, dtype=f32)
    return asked.builder.op("sqrt", asked.builder.op("sum", asked.builder.op("mul", wide, wide), axis=2))


def _text(asked: Asked) -> Value:
    value = asked.text
    if value is None:
        raise Diagnostic(
            "E0705", "the method asks for `text`, what the tokens are compared with, but the option `text` names nothing",
            help="name an input or a tap of the model, [B, D] or [B, L, D], with as many features as the tokens have: "
            '`text="prompt"`',
        )  # fmt: skip
    batch, _, width = asked.x.type.shape
    shape = value.type.shape
    if len(shape) not in (2, 3) or shape[0] != batch or shape[-1] != width or value.type.dtype.kind != "float":
        raise Diagnostic(
            "E0705",
            f"`text` names `{value.name}: {value.type}`, but the tokens are {asked.x.type}: it must be [{batch}, {width}] or "
            f"[{batch}, L, {width}]",
            help="project the text to the features of the tokens, and name that as a tap",
        )
    return value if len(shape) == 3 else asked.builder.op("unsqueeze", value, axis=1)


def _noise(asked: Asked) -> Value:
    taken = {value.name for value in asked.graph.inputs}
    name = next(n for n in (f"noise{i}" for i in range(len(taken) + 1)) if n not in taken)
    return random_numbers(name, asked.stream.batch_size, asked.stage.map, asked.builder)


def _spans(asked: Asked) -> Value:
    """By position: a token that was merged already is where it is."""
    length = asked.builder.graph.expand_lets(asked.stage.map.source.type.shape[1])
    type = TensorType(i64, (asked.stream.batch_size, length))
    given = next((value for value in asked.graph.inputs if value.name == "spans"), None)
    if given is None:
        given = asked.builder.input("spans", type)
    elif given.type != type:
        raise Diagnostic(
            "E0705", f"the method asks for the input `spans`, {type}, but the model has one that is {given.type}", given.span,
            help="rename the model's own",
        )  # fmt: skip
    if asked.stage.node is None:
        return given
    return asked.builder.op("gather", given, asked.stage.map.position, axis=1)


WANTS: dict[str, Want] = {
    "keys": Want("the attention's keys averaged over heads [B, T, K]", lambda a: _heads(a, 1, "keys"), 1),
    "queries": Want("its queries averaged over heads [B, T, K]", lambda a: _heads(a, 0, "queries"), 0),
    "tokens": Want("the features themselves [B, T, D]", lambda a: a.x),
    "metric": Want("what the option `metric` names"),
    "column_mass": Want(
        "the attention that each token receives [B, T]",
        _column_mass,
        1,
        made=True,
    ),
    "row": Want("the attention of the token that the model reads, to each [B, H, T]", _row, 1, axis=2, made=True),
    "last_row": Want(
        "the attention of the last token that is there, to each [B, H, T]",
        _last_row,
        1,
        axis=2,
        made=True,
    ),
    "head_keys": Want("its keys, those of every head [B, H, T, K]", lambda a: _each_head(a, 1, "head_keys"), 1, axis=2),
    "values": Want("its values averaged over heads [B, T, V]", lambda a: _heads(a, 2, "values"), 2),
    "norms": Want("the length of each token's features [B, T]", _norms),
    "noise": Want("uniform random numbers [B, T]", _noise),
    "text": Want("what the option `text` names [B, L, D]", _text),
    "spans": Want("which span each token is part of [B, T], the input `spans` [B, N]", _spans),
}


def find_want(name: str, op: Composite) -> tuple[Want, str | None] | None:
    """The want that an operand of a method is, and the static parameter that says of which block; None when nothing is known of it.

    ``row_early`` is the ``row`` of block number ``early``, if the method has an ``early: int``.
    """
    if name in WANTS:
        return WANTS[name], None
    for static in op.signature.statics:
        want = WANTS.get(name.removesuffix(f"_{static.name}"))
        if want is not None and want.operand is not None and static.kind == "int":
            return replace(want, doc=f"{want.doc}, in block `{static.name}`"), static.name
    return None


def number_of(static: str, op: Composite, settings: Mapping[str, Any]) -> int:
    """The value of a static parameter that says of which block. Raises E0705 when it is not known."""
    default = next(s.default for s in op.signature.statics if s.name == static)
    number = settings.get(static, default(Bindings()) if callable(default) else default)
    number = number.value if isinstance(number, Dim) else number
    if not isinstance(number, int):
        raise Diagnostic(
            "E0705", f"which block the method `{op.name}` asks is said by `{static}`, which is no number",
            help=f"give it one, `{static}=0`",
        )  # fmt: skip
    return number


def named(name: str | None, graph: Graph, stream: Stream, origins: Origins) -> Value | None:
    """The input or the tap that the option `text` names. Raises E0705 when there is none, or it is made from the tokens."""
    if name is None:
        return None
    known: dict[str, Value] = {v.name: v for v in graph.inputs}
    known |= {i.name: v for i, v in zip(graph.output_info, graph.outputs, strict=True) if i.role == "tap"}
    if name not in known:
        raise Diagnostic(
            "E0705", f"`text` names `{name}`, but the model has no input and no tap of that name",
            help=did_you_mean(name, sorted(known)) or f"it has {', '.join(sorted(known))}",
        )  # fmt: skip
    if origins.of(known[name]) & stream.inputs:
        raise Diagnostic("E0705", f"`text` names `{name}`, which is made from the tokens that it would be compared with")
    return known[name]


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
