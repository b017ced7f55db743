"""Losses, which a model that was exported for training ends in."""

from __future__ import annotations

from ....ir.graph import Value
from ..call import Call
from ..registry import imports


@imports("NegativeLogLikelihoodLoss")
def negative_log_likelihood(c: Call) -> Value:
    """Minus the log-probability [B, C, …] of each target [B, …]."""
    return _picked(c, c.x())


@imports("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(c: Call) -> list[Value]:
    log_probability = c.std("nn.log_softmax", c.x(), axis=1)
    return [_picked(c, log_probability), log_probability]


def _picked(c: Call, scores: Value) -> Value:
    target, ignored, reduction = c.x(1), c.attr("ignore_index"), c.attr("reduction", "mean")
    if reduction not in ("none", "mean", "sum"):
        c.misfit(f'reduction="{reduction}"')
    for axis, (d, e) in enumerate(zip(target.type.shape, (scores.type.shape[0], *scores.type.shape[2:]), strict=True)):
        c.equal(d, e, f"axis {axis} of the targets {target.type}")
    kept = None if ignored is None else c.op("ne", target, c.like(ignored, target))
    # What is ignored may lie outside of the classes.
    index = target if kept is None else c.op("where", kept, target, c.like(0, target))
    chosen = c.op("squeeze", c.op("gather", scores, c.op("unsqueeze", index, axis=1), axis=1), axis=1)
    loss, weight = c.op("neg", chosen), _weight(c, index, kept, chosen)
    if weight is not None:
        loss = c.op("mul", loss, weight)
    axes = tuple(range(loss.type.rank))
    if reduction == "none":
        return loss
    total = c.op("sum", loss, axis=axes)
    if reduction == "sum":
        return total
    return c.op("mean", loss, axis=axes) if weight is None else c.op("div", total, c.op("sum", weight, axis=axes))


def _weight(c: Call, index: Value, kept: Value | None, like: Value) -> Value | None:
    """How much each target counts, where not all count the same."""
    if not c.has(2):
        return None if kept is None else c.cast(kept, like.type.dtype)
    weight = c.op("take", c.x(2, "weight"), index, axis=0)
    return weight if kept is None else c.op("where", kept, weight, c.like(0, weight))
