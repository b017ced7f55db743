"""Normalisations. Those over the last axis are composites of std; over several axes these are reshaped into one."""

from __future__ import annotations

from ....ir.dims.dim import const, product
from ....ir.graph import Value
from ....ir.types import f32
from ..call import Call
from ..registry import MICROSOFT, imports


def _last_axes(c: Call, x: Value, axis: int, *weights: Value | None) -> tuple[Value, list[Value | None]]:
    """x and its weights with the axes from ``axis`` on as one; weights as they are where it is the last already."""
    for w in weights:
        for d, e in zip(reversed(x.type.shape), reversed(() if w is None else w.type.shape), strict=False):
            if e != 1:
                c.equal(d, e, f"the weight {w.type if w else None} of {x.type}")
    if axis == x.type.rank - 1:
        return x, list(weights)
    size = product(x.type.shape[axis:])
    flat = [None if w is None else c.reshape(c.expand(w, x.type.shape[axis:]), (size,)) for w in weights]
    return c.reshape(x, (*x.type.shape[:axis], size)), flat


def _vector(c: Call, w: Value | None, width: Value) -> Value | None:
    """A weight that broadcasts over the last axis as one of that axis' size."""
    if w is None:
        return None
    w = c.reshape(w, (w.type.numel,)) if w.type.rank != 1 else w
    c.equal(w.type.shape[0], width.type.shape[-1], f"the weight {w.type} of {width.type}") if w.type.shape[
        0
    ] != 1 else None
    return c.expand(w, width.type.shape[-1:])


@imports("LayerNormalization")
def layer_normalization(c: Call) -> list[Value]:
    x, axis = c.x(), c.axis(-1)
    flat, (weight, bias) = _last_axes(c, x, axis, c.x(1, "weight"), c.maybe(2, "bias"))
    y = c.std("nn.layer_normalize", flat, _vector(c, weight, flat), _vector(c, bias, flat), eps=c.attr("epsilon", 1e-5))
    results = [c.reshape(y, x.type.shape)]
    if any(c.node.output[1:]):
        results += _statistics(c, c.cast(x, f32), tuple(range(axis, x.type.rank)))
    return results


def _statistics(c: Call, x: Value, axes: tuple[int, ...]) -> list[Value]:
    """Mean and inverse deviation, which some exporters name though nobody reads them."""
    mean = c.op("mean", x, axis=axes, keepdims=True)
    centred = c.op("sub", x, mean)
    variance = c.op("mean", c.op("mul", centred, centred), axis=axes, keepdims=True)
    return [mean, c.op("rsqrt", c.op("add", variance, c.like(c.attr("epsilon", 1e-5), x)))]


@imports("RMSNormalization", "SimplifiedLayerNormalization")
@imports("RMSNormalization", "SimplifiedLayerNormalization", domain=MICROSOFT)
def rms_normalization(c: Call) -> Value:
    x, axis = c.x(), c.axis(-1)
    flat, (weight,) = _last_axes(c, x, axis, c.x(1, "weight"))
    y = c.std("nn.rms_normalize", flat, _vector(c, weight, flat), eps=c.attr("epsilon", 1e-5))
    return c.reshape(y, x.type.shape)


@imports("BatchNormalization")
def batch_normalization(c: Call) -> Value:
    if c.attr("training_mode", 0):
        c.refuse("BatchNormalization while training", help="export the model after `model.eval()`")
    names = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, variance = (c.cast(c.x(i + 1, name), c.type().dtype) for i, name in enumerate(names))
    c.equal(c.shape()[1], weight.type.shape[0], f"the channels of {c.type()} and {weight.type}")
    return c.std("nn.batch_normalize", c.x(), mean, variance, weight, bias, eps=c.attr("epsilon", 1e-5))


@imports("InstanceNormalization")
def instance_normalization(c: Call) -> Value:
    channels = c.shape()[1]
    if channels.value is None:
        c.equal(channels, c.shape(1)[0], f"the channels of {c.type()} and {c.type(1)}")
    return c.std(
        "nn.group_normalize", c.x(), c.x(1, "weight"), c.x(2, "bias"), groups=channels, eps=c.attr("epsilon", 1e-5)
    )


@imports("GroupNormalization")
def group_normalization(c: Call) -> Value:
    x, groups = c.x(), c.attr("num_groups", 1)
    channels = x.type.shape[1]
    c.equal(channels // groups * groups, channels, f"the {groups} groups of channels of {c.type()}")
    for i in (1, 2):
        c.equal(c.shape(i)[0], channels if c.opset >= 21 else const(groups), f"the weight {c.type(i)} of {c.type()}")
    weight, bias = c.x(1, "weight"), c.x(2, "bias")
    if c.opset < 21:  # one weight a group then
        weight, bias = (
            c.reshape(c.expand(c.op("unsqueeze", w, axis=1), (groups, channels // groups)), (channels,))
            for w in (weight, bias)
        )
    return c.std("nn.group_normalize", x, weight, bias, groups=groups, eps=c.attr("epsilon", 1e-5))


@imports("LpNormalization")
def lp_normalization(c: Call) -> Value:
    x, axis = c.x(), c.axis(-1)
    if c.attr("p", 2) == 1:
        length = c.op("sum", c.op("abs", x), axis=axis, keepdims=True)
    else:
        length = c.op("sqrt", c.op("sum", c.op("mul", x, x), axis=axis, keepdims=True))
    # What has no length stays 0.
    return c.op("div", x, c.op("where", c.op("eq", length, c.like(0.0, x)), c.like(1.0, x), length))


@imports("MeanVarianceNormalization")
def mean_variance(c: Call) -> Value:
    x, axes = c.x(), tuple(c.attr("axes") or (0, 2, 3))
    centred = c.op("sub", x, c.op("mean", x, axis=axes, keepdims=True))
    variance = c.op("mean", c.op("mul", centred, centred), axis=axes, keepdims=True)
    return c.op("div", centred, c.op("add", c.op("sqrt", variance), c.like(1e-9, x)))
