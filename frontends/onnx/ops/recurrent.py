"""RNN, LSTM and GRU, in both directions, as recurrences of ``std.recurrent``."""

from __future__ import annotations

from ....ir.dims.dim import Dim
from ....ir.graph import Value
from ....ir.types import i64
from ..call import Call
from ..registry import imports

_ACTIVATIONS = {"RNN": [["Tanh"], ["Relu"]], "GRU": [["Sigmoid", "Tanh"]], "LSTM": [["Sigmoid", "Tanh", "Tanh"]]}
# Where PyTorch's gates stand among ONNX's.
_ORDER = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}


@imports("RNN", "LSTM", "GRU")
def recurrent(c: Call) -> list[Value | None]:
    kind, direction = c.op_type, c.attr("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        c.misfit(f'direction="{direction}"')
    directions = 2 if direction == "bidirectional" else 1
    relu = _activations(c, directions) == ["Relu"]
    for what, wanted in (("clip", None), ("input_forget", 0)):
        if c.attr(what, wanted) != wanted:
            c.refuse(f"{what}={c.attr(what)}")
    if c.has(7):
        c.refuse("an LSTM with peepholes")
    batch_first = bool(c.attr("layout", 0))
    x = c.x() if batch_first else c.transpose(c.x(), (1, 0, 2))
    batch = x.type.shape[0]
    parts = [_Direction(c, d, batch, x) for d in range(directions)]
    ys, states = [], []
    for d, part in enumerate(parts):
        reverse = direction == "reverse" or d == 1
        results = part.run(kind, x, reverse, relu)
        ys.append(results[0])
        states.append(results[1:])
    # Y is [T, directions, B, H], or [B, T, directions, H]; the states [directions, B, H], or [B, directions, H].
    y = _joined(c, [c.transpose(v, (0, 1, 2) if batch_first else (1, 0, 2)) for v in ys], 2 if batch_first else 1)
    last = [_joined(c, [s[i] for s in states], 1 if batch_first else 0) for i in range(len(states[0]))]
    return [y, *last]


def _joined(c: Call, values: list[Value], axis: int) -> Value:
    rows = [c.op("unsqueeze", v, axis=axis) for v in values]
    return rows[0] if len(rows) == 1 else c.op("concat", *rows, axis=axis)


def _activations(c: Call, directions: int) -> list[str]:
    """Those of one direction. Raises E0758 for others than the default ones, or ``Relu`` of an RNN."""
    given = c.attr("activations") or _ACTIVATIONS[c.op_type][0] * directions
    size = len(given) // directions
    own = given[:size]
    if given != own * directions or own not in _ACTIVATIONS[c.op_type]:
        c.refuse(f"the activations {', '.join(given)}")
    return own


class _Direction:
    """The operands of one direction, in PyTorch's order of gates."""

    def __init__(self, c: Call, d: int, batch: Dim, x: Value) -> None:
        self.c = c
        weight, hidden = c.type(1), c.shape(2)[-1]
        gates = len(_ORDER[c.op_type])
        if weight.rank != 3 or c.rank(2) != 3:
            c.misfit(f"the weights {weight} and {c.type(2)}")
        c.equal(weight.shape[2], x.type.shape[2], f"the features of {c.type()} and of the weight {weight}")
        for shape, i in ((weight.shape[1], 1), (c.shape(2)[1], 2)):
            c.equal(shape, hidden * gates, f"the gates of the weight {c.type(i)}")
        self.hidden = hidden
        self.weights = [self._gates(self._row(i, d, name), gates) for i, name in ((1, "weight_ih"), (2, "weight_hh"))]
        self.biases: list[Value | None] = [None, None]
        if c.has(3):
            both, half = self._row(3, d, "bias"), hidden * gates
            c.equal(both.type.shape[0], half * 2, f"the bias {c.type(3)}")
            self.biases = [self._gates(c.op("slice", both, axis=0, start=half * i, stop=half * (i + 1)), gates) for i in (0, 1)]
        self.lengths = c.cast(c.x(4), i64) if c.has(4) else None
        if self.lengths is not None:
            c.equal(self.lengths.type.shape[0], batch, f"the lengths {c.type(4)}")
        self.states = [self._state(i, d, batch) for i in ((5, 6) if c.op_type == "LSTM" else (5,))]

    def _row(self, index: int, d: int, part: str) -> Value:
        """One direction of an operand [directions, …]."""
        c = self.c
        x = c.x(index, part)
        if c.shape(index)[0] != 1:
            x = c.op("slice", x, axis=0, start=d, stop=d + 1)
        return c.op("squeeze", x, axis=0)

    def _gates(self, x: Value, count: int) -> Value:
        c, n = self.c, self.hidden
        order = _ORDER[c.op_type]
        if order == tuple(range(count)):
            return x
        parts = [c.op("slice", x, axis=0, start=n * g, stop=None if g == count - 1 else n * (g + 1)) for g in order]
        return c.op("concat", *parts, axis=0)

    def _state(self, index: int, d: int, batch: Dim) -> Value:
        c = self.c
        if not c.has(index):
            return c.op("full", shape=(batch, self.hidden), value=0, dtype=c.type().dtype)
        x, axis = c.x(index), 1 if c.attr("layout", 0) else 0
        if x.type.shape[axis] != 1:
            x = c.op("slice", x, axis=axis, start=d, stop=d + 1)
        x = c.op("squeeze", x, axis=axis)
        for place, dim in enumerate((batch, self.hidden)):
            c.equal(x.type.shape[place], dim, f"the state {c.type(index)}")
        return x

    def run(self, kind: str, x: Value, reverse: bool, relu: bool) -> list[Value]:
        attrs = {"reverse": reverse}
        if kind == "RNN":
            attrs["relu"] = relu
        elif kind == "GRU":
            attrs["reset_first"] = not self.c.attr("linear_before_reset", 0)
        values = [x, *self.states, *self.weights, *self.biases, self.lengths]
        return self.c.std_many(f"recurrent.{kind.lower()}_sequence", *values, **attrs)
