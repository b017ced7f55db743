"""``nn.RNN``, ``nn.LSTM`` and ``nn.GRU``: any number of layers, in both directions, as recurrences of ``std.recurrent``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.graph import Value
from ....ir.library import composite
from ..protocol import Import, Unsupported, aten
from .shape import cat, select


def _layers(
    i: Import, kind: str, x: Value, starts: Sequence[Value], weights: Sequence[Value], biases: bool, layers: int,
    dropout: float, training: bool, both: bool, batch_first: bool, **options: Any,
) -> list[Value]:  # fmt: skip
    """The tokens behind the last layer, and each state [layers * directions, B, H] that the sequence ends in."""
    if training and dropout:
        raise Unsupported("dropout between layers (call `model.eval()` first)")
    directions, count = (2 if both else 1), (4 if biases else 2)
    if len(weights) != count * layers * directions:
        raise Unsupported("an LSTM whose states are projected (`proj_size`)")
    op = composite(f"std.recurrent.{kind}_sequence")
    absent = [None] * (5 - count)  # biases and lengths
    x = x if batch_first else i.transpose(x, [1, 0, 2])
    ends: list[list[Value]] = [[] for _ in starts]
    for layer in range(layers):
        rows = []
        for at in range(layer * directions, (layer + 1) * directions):
            own = weights[count * at : count * (at + 1)]
            states = [select(i, s, 0, at) for s in starts]
            y, *last = i.builder.multi(op, x, *states, *own, *absent, reverse=at % directions == 1, **options)
            rows.append(y)
            for gathered, state in zip(ends, last, strict=True):
                gathered.append(i.op("unsqueeze", state, axis=0))
        x = cat(i, rows, 2)
    return [x if batch_first else i.transpose(x, [1, 0, 2]), *(cat(i, states, 0) for states in ends)]


def _of_one_state(name: str, kind: str, **options: Any) -> None:
    @aten(f"{name}.input", f"tessera.{name}.default")
    def importer(i: Import, x: Value, start: Value, weights: Sequence[Value], *rest: Any) -> list[Value]:
        return _layers(i, kind, x, [start], weights, *rest, **options)


_of_one_state("gru", "gru")
_of_one_state("rnn_tanh", "rnn", relu=False)
_of_one_state("rnn_relu", "rnn", relu=True)


@aten("lstm.input", "tessera.lstm.default")
def _lstm(i: Import, x: Value, starts: Sequence[Value], weights: Sequence[Value], *rest: Any) -> list[Value]:
    return _layers(i, "lstm", x, starts, weights, *rest)
