"""Experts that are chosen by the logarithms of weights: so a router of any kind is told to an op that knows a softmax only."""

from __future__ import annotations

import numpy as np

from ...ir.analysis.evaluate import evaluate_values
from ...ir.graph import Graph, Node, Parameter, Value
from ...ir.op import Trait, has
from .routers import CHOICE, route

# What is below this takes no part in a softmax.
_LOWEST = -1e20
# Larger weights are left as they lie.
_LARGEST = 1 << 24


def raise_log_weights(graph: Graph, node: Node) -> bool:
    """Let experts read the routes whose weights' logarithms they are chosen by; whether they did.

    before: `shares = sum(where(unsqueeze(expert, 2) == iota(E), unsqueeze(weight, 2), 0.0), axis=1)
            l = where(shares > 0.0, log(where(shares > 0.0, shares, 1.0)), -1e30)
            y = gated(x, token_choice(l, k=2), …) * sum(shares, axis=1, keepdims=true)`
    after:  `y = gated(x, token_choice(logits, k=2), …)`

    Only where the weights are known not to be negative: a softmax gives none.
    """
    choice, scaled = _node(node.inputs[1], CHOICE), _only(node.output)
    if choice is None or scaled is None or scaled.op.qualified != "mul" or choice.inputs[1] is not None:
        return False
    a = choice.attrs
    plain = a["score"] == "softmax" and a["renormalize"] and a["scale"] == 1.0 and a["limit"] == a["groups"]
    shares = _shares(choice.inputs[0])
    total = scaled.inputs[1 - scaled.inputs.index(node.output)]
    summed = _node(total, "sum")
    if not plain or shares is None or summed is None or summed.inputs[0] is not shares:
        return False
    found = _pairs(shares)
    if found is None or not summed.attrs["keepdims"] or tuple(summed.attrs["axis"]) != (1,):
        return False
    expert, weight = found
    experts = int(shares.type.shape[1])
    if a["k"] != min(int(expert.type.shape[1]), experts):
        return False
    routed = route(graph, expert, weight, experts)
    router = routed[0].node if routed is not None else None
    if routed is None or router is None or router.attrs.get("score") == "none" or router.attrs.get("scale", 1.0) < 0:
        return False
    for i, value in enumerate(routed):
        node.set_input(1 + i, value)
    scaled.output.replace_uses(node.output)
    graph.remove(scaled)
    _in_halves(node)
    return True


def _node(value: Value | None, name: str) -> Node | None:
    node = value.node if value is not None else None
    return node if node is not None and node.op.qualified == name else None


def _only(value: Value) -> Node | None:
    """The one node that reads a value."""
    users = list(value.users)
    return users[0] if len(users) == 1 and users[0].op is not None else None


def _number(value: Value | None) -> float | None:
    node = _node(value, "constant")
    held = node.attrs["value"] if node is not None else None
    return float(held) if isinstance(held, (int, float)) else None


def _shares(logits: Value | None) -> Value | None:
    """The weights [N, E] whose logarithms logits are, where they are above 0."""
    outer = _node(logits, "where")
    log = _node(outer.inputs[1], "log") if outer is not None else None
    inner = _node(log.inputs[0], "where") if log is not None else None
    if outer is None or inner is None:
        return None
    taken, shares = _node(outer.inputs[0], "gt"), inner.inputs[1]
    same = taken is not None and inner.inputs[0] is outer.inputs[0] and taken.inputs[0] is shares
    lowest = _number(outer.inputs[2])
    if taken is None or not same or _number(taken.inputs[1]) != 0 or _number(inner.inputs[2]) != 1:
        return None
    return shares if lowest is not None and lowest <= _LOWEST and shares is not None and shares.type.rank == 2 else None


def _pairs(shares: Value) -> tuple[Value, Value] | None:
    """The experts and weights [N, K] of which shares are the sums, an expert each."""
    summed = _node(shares, "sum")
    picked = _node(summed.inputs[0], "where") if summed is not None else None
    own = _node(picked.inputs[0], "eq") if picked is not None else None
    if summed is None or picked is None or own is None or tuple(summed.attrs["axis"]) != (1,) or _number(picked.inputs[2]) != 0:
        return None
    expert, weight = (_node(value, "unsqueeze") for value in (own.inputs[0], picked.inputs[1]))
    numbers = own.inputs[1]
    if expert is None or weight is None or numbers is None or not (expert.attrs["axis"] == weight.attrs["axis"] == (2,)):
        return None
    counted = evaluate_values([numbers], {}, {})[0] if numbers.node is not None and not numbers.node.inputs else None
    if counted is None or not np.array_equal(counted, np.arange(int(shares.type.shape[1]))):
        return None
    pair = expert.inputs[0], weight.inputs[0]
    return pair if pair[0] is not None and pair[1] is not None and pair[0].type.shape == pair[1].type.shape else None  # type: ignore[return-value]


def _in_halves(node: Node) -> None:
    """Let gated experts read gate and gated one behind the other where the program deals them out in turn."""
    places = (3, 5)
    params = {i: _dealt(node.inputs[i]) for i in places if node.attrs.get("interleaved") and node.inputs[i] is not None}
    if params and all(p is not None for p in params.values()):
        for i, param in params.items():
            node.set_input(i, param)
        node.attrs = {**node.attrs, "interleaved": False}


def _dealt(value: Value | None) -> Parameter | None:
    """The parameter whose last axis lies in halves where the value has them in turn."""
    source = value
    while source is not None and source.node is not None and (has(source.node, Trait.RESHAPES) or has(source.node, Trait.MOVES)):
        source = source.node.inputs[0]
    if value is None or not isinstance(source, Parameter) or source.type != value.type or source.type.numel.value is None:
        return None
    shape = tuple(int(d) for d in source.type.shape)
    if int(source.type.numel) > _LARGEST:
        return None
    held = np.arange(int(source.type.numel), dtype=np.float32).reshape(shape)
    (found,) = evaluate_values([value], {source: held}, {})
    gate, up = np.split(held, 2, axis=-1)
    return source if np.array_equal(found, np.stack([gate, up], axis=-1).reshape(shape)) else None
