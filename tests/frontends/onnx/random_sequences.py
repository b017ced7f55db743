"""Random recurrences, transforms of signals, samples at points, bits: see ``drawing``."""

from __future__ import annotations

import numpy as np

from .drawing import Array, Case, Draw, f32, i64, of

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@of("RNN", "GRU", "LSTM")
def recurrent(r: Draw, op: str) -> Case:
    batch, tokens, width, hidden = (r.between(1, 4) for _ in range(4))
    direction = r.one("forward", "reverse", "bidirectional")
    ways, gates = 1 + (direction == "bidirectional"), _GATES[op]
    x, state = (tokens, batch, width), (ways, batch, hidden)
    lengths = r.ints((batch,), 1, tokens, np.int32) if r.chance(0.4) else None
    inputs: dict[str, Array | None] = {
        "x": r.floats(x, 1.0), "w": r.floats((ways, gates * hidden, width), 0.5),
        "r": r.floats((ways, gates * hidden, hidden), 0.5),
        "b": r.floats((ways, 2 * gates * hidden), 0.5) if r.chance() else None, "lengths": lengths,
        "h": r.floats(state, 1.0) if r.chance() else None,
    }  # fmt: skip
    if op == "LSTM":
        inputs["c"] = r.floats(state, 1.0) if r.chance() else None
        inputs["p"] = r.floats((ways, 3 * hidden)) if r.chance(0.1) else None
    attrs = {"hidden_size": hidden, "direction": direction}
    if op == "GRU":
        attrs["linear_before_reset"] = r.between(0, 1)
    if op == "RNN" and r.chance(0.3):
        attrs["activations"] = ["Relu"] * ways
    return Case(op, inputs, attrs, outputs=3 if op == "LSTM" else 2, tolerance=1e-4)


@of("GridSample")
def grid_sample(r: Draw, op: str) -> Case:
    batch = r.between(1, 2)
    x = r.floats((batch, r.between(1, 3), r.between(1, 6), r.between(1, 6)))
    grid = r.rng.uniform(-1.4, 1.4, (batch, r.between(1, 4), r.between(1, 4), 2)).astype(np.float32)
    attrs = {
        "mode": r.one("linear", "nearest", "cubic"), "padding_mode": r.one("zeros", "border", "reflection"),
        "align_corners": r.between(0, 1),
    }  # fmt: skip
    return Case(op, {"x": x, "grid": grid}, attrs, opset=20, tolerance=1e-4)


@of("DFT")
def dft(r: Draw, op: str) -> Case:
    shape = [*r.shape(2, 3), r.between(1, 2)]
    axis = r.between(-len(shape), -2)
    length = i64(r.between(1, 8)).reshape(()) if r.chance(0.4) else None
    attrs = {"onesided": 1} if shape[-1] == 1 and r.chance(0.4) else {"inverse": r.between(0, 1)}
    inputs: dict[str, Array | None] = {"x": r.floats(shape), "length": length, "axis": i64(axis).reshape(())}
    return Case(op, inputs, attrs, frozenset({"length", "axis"}), opset=20, tolerance=1e-4)


@of("STFT")
def stft(r: Draw, op: str) -> Case:
    size, batch, step = r.between(2, 6), r.between(1, 3), r.between(1, 4)
    signal = r.floats((batch, size + r.between(0, 12), 1))
    window = r.floats((size,)) if r.chance(0.7) else None
    inputs: dict[str, Array | None] = {"x": signal, "step": i64(step).reshape(()), "window": window}
    inputs["length"] = i64(size).reshape(())
    fixed = frozenset({"step", "length", "window"})
    return Case(op, inputs, r.some(onesided=r.between(0, 1)), fixed, opset=17, tolerance=1e-4)


@of("HannWindow", "HammingWindow", "BlackmanWindow")
def window(r: Draw, op: str) -> Case:
    attrs = r.some(periodic=r.between(0, 1), output_datatype=r.one(1, 11))
    return Case(op, {"size": i64(r.between(2, 12)).reshape(())}, attrs, frozenset({"size"}))


@of("BitwiseAnd", "BitwiseOr", "BitwiseXor")
def bitwise(r: Draw, op: str) -> Case:
    dtype, shape = r.one(np.int64, np.int32, np.int16, np.int8, np.uint8), r.shape()
    other = shape if r.chance() else shape[-1:]
    return Case(op, {n: r.ints(s, 0, 120, dtype) - dtype(r.between(0, 60)) for n, s in (("a", shape), ("b", other))})


@of("BitwiseNot")
def bitwise_not(r: Draw, op: str) -> Case:
    return Case(op, {"x": r.ints(r.shape(), 0, 120, r.one(np.int64, np.int32, np.int16, np.int8, np.uint8))})


@of("BitShift")
def bit_shift(r: Draw, op: str) -> Case:
    shape = r.shape()
    operands = {"a": r.ints(shape, 0, 255, np.uint8), "b": r.ints(shape, 0, 7, np.uint8)}
    return Case(op, operands, {"direction": r.one("LEFT", "RIGHT")})


@of("Asin", "Acos", "Atan")
def arc(r: Draw, op: str) -> Case:
    x = r.rng.uniform(-1, 1, r.shape()).astype(np.float32) if op != "Atan" else r.floats(r.shape(), 20.0)
    return Case(op, {"x": x})


@of("CumProd")
def cumprod(r: Draw, op: str) -> Case:
    x = r.coarse(r.shape())
    attrs = r.some(exclusive=r.between(0, 1), reverse=r.between(0, 1))
    return Case(op, {"x": x, "axis": i64(r.axis(x.ndim)).reshape(())}, attrs, frozenset({"axis"}), opset=26)


@of("Hardmax")
def hardmax(r: Draw, op: str) -> Case:
    x = r.coarse(r.shape())
    return Case(op, {"x": x}, r.some(axis=r.axis(x.ndim)))


@of("LRN")
def local_response(r: Draw, op: str) -> Case:
    attrs = {"size": r.one(1, 3, 5), **r.some(alpha=0.5, beta=0.6, bias=2.0)}
    return Case(op, {"x": r.floats((r.between(1, 2), r.between(1, 6), 3, 2))}, attrs)


@of("CenterCropPad")
def center_crop_pad(r: Draw, op: str) -> Case:
    x = r.floats(r.shape())
    return Case(op, {"x": x, "shape": i64(*(r.between(1, 7) for _ in x.shape))}, fixed=frozenset({"shape"}))


@of("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def loss(r: Draw, op: str) -> Case:
    batch, classes, rest = r.between(1, 3), r.between(1, 5), r.shape(0, 2)
    attrs = {"reduction": r.one("none", "mean", "sum"), **r.some(ignore_index=r.one(0, -1))}
    target = r.ints((batch, *rest), 0, classes - 1)
    if attrs.get("ignore_index") == -1 and target.size > 1:
        target.reshape(-1)[0] = -1
    weight = f32(*r.rng.uniform(0.5, 2.0, classes)) if r.chance() else None
    inputs: dict[str, Array | None] = {"x": r.floats((batch, classes, *rest)), "target": target, "weight": weight}
    return Case(op, inputs, attrs, outputs=1 + (op == "SoftmaxCrossEntropyLoss"), tolerance=1e-4)


@of("LinearAttention")
def linear_attention(r: Draw, op: str) -> Case:
    batch, tokens, groups, times, key, value = (r.between(1, 3) for _ in range(6))
    rule = r.one("linear", "gated", "delta", "gated_delta")
    decay = -np.abs(r.floats((batch, tokens, groups * r.one(1, key)))) if "gated" in rule else None
    inputs: dict[str, Array | None] = {
        "q": r.floats((batch, tokens, groups * times * key)), "k": r.floats((batch, tokens, groups * key), 0.5),
        "v": r.floats((batch, tokens, groups * value)),
        "state": r.floats((batch, groups, key, value)) if r.chance() else None, "decay": decay,
        "beta": np.abs(r.floats((batch, tokens, r.one(1, groups)), 0.3)) if "delta" in rule else None,
    }  # fmt: skip
    attrs = {"q_num_heads": groups * times, "kv_num_heads": groups, "update_rule": rule, **r.some(scale=0.5)}
    return Case(op, inputs, attrs, outputs=2, opset=27, tolerance=1e-4)
