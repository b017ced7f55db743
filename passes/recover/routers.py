"""Routers from the primitives that exporters write: which `token_choice` chooses the same experts, with the same weights.

There are many ways to write one, and few routers. What an export computes of the logits is evaluated for drawn ones, ties among
them, and compared with what `token_choice` computes, with each of its options that the export has numbers for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ...ir.analysis.evaluate import evaluate_graph, evaluate_values
from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.graph import Graph, Node, Parameter, Value
from ...ir.library import composite
from ...ir.op import Composite, Trait, has
from ...ir.types import TensorType
from .sizes import Drawn

CHOICE = "std.moe.route.token_choice"
_MIXER = "std.moe.route.sparse_mixer"
_AFFINE = "std.nn.affine"
_SOFTMAX = "std.nn.softmax"
# How many ops lie between logits and routes.
_MOST = 120


@dataclass
class _Region:
    """What lies between logits and routes: the logits, a bias for choosing, and the nodes."""

    logits: Value
    bias: Value | None
    nodes: list[Node]


def route(graph: Graph, expert: Value, weight: Value, experts: int) -> tuple[Value, Value] | None:
    """Experts and weights of a router of std.moe that chooses what ``expert`` and ``weight`` say; None when none is known to."""
    region = _region(expert, weight, experts)
    drawn = Drawn.of(graph)
    if region is None or drawn is None:
        return None
    k = int(expert.type.shape[1])
    try:
        cases = list(_cases(region, expert, weight, drawn))
        found = next((o for o in _options(region, k, experts) if _same(*o, cases, region)), None)
        if found is None:
            return None
        name, attrs = found
        scale = _scale(name, attrs, cases, region)
    except (KeyError, IndexError, ValueError):
        return None
    if scale is None:
        return None
    last = (
        expert.node
        if weight.node is None or (expert.node is not None and _behind(expert.node, weight.node))
        else weight.node
    )
    assert last is not None
    builder = Builder(graph).before(last.next)
    builder.span, builder.scope = last.span, last.scope
    more = {} if scale == 1.0 else {"scale": scale}
    bias = [region.bias] if name == CHOICE else []
    routes = builder.multi(composite(name), _flat(builder, region.logits, expert), *bias, **attrs, **more)
    return routes[0], routes[1]


def _behind(node: Node, other: Node) -> bool:
    """Whether a node stands behind another one."""
    while other.next is not None:
        other = other.next
        if other is node:
            return True
    return False


def _flat(builder: Builder, logits: Value, expert: Value) -> Value:
    shape = (expert.type.shape[0], logits.type.shape[-1])
    return logits if logits.type.shape == shape else builder.op("reshape", logits, shape=shape)


def _region(expert: Value, weight: Value, experts: int) -> _Region | None:
    """The logits are what a linear map, an input or a parameter gives; whatever lies behind is a function of them."""
    logits: dict[Value, None] = {}
    biases: dict[Value, None] = {}
    nodes: dict[Node, None] = {}
    pending = [expert, weight]
    while pending:
        value = pending.pop()
        node, shape = value.node, value.type.shape
        last = shape[-1].value if shape else None
        if node is None and isinstance(value, Parameter) and value.type.rank == 1 and last == experts:
            biases[value] = None
        elif node is None or node.op.qualified == _AFFINE:
            if value.type.rank < 2 or last != experts:
                return None
            logits[value] = None
        elif node not in nodes:
            nodes[node] = None
            pending += [v for v in node.inputs if v is not None]
        if len(nodes) > _MOST:
            return None
    if len(logits) != 1 or len(biases) > 1:
        return None
    return _Region(next(iter(logits)), next(iter(biases), None), list(nodes))


# What is compared ------------------------------------------------------------------------------------------------------


@dataclass
class _Case:
    """Logits [N, E] and a bias, and what the export makes of them."""

    logits: Any
    bias: Any | None
    expert: Any
    weight: Any


def _cases(region: _Region, expert: Value, weight: Value, drawn: Drawn) -> Iterator[_Case]:
    rng = np.random.default_rng(0)
    shape = drawn.shape(region.logits)
    dtype = region.logits.type.dtype.numpy
    for spread, whole in ((1.0, False), (1.0, False), (4.0, False), (0.1, False), (1.0, True), (2.0, True)):
        logits = rng.standard_normal(shape) * spread
        # Whole numbers are often equal.
        logits = (np.round(logits) if whole else logits).astype(dtype)
        known: dict[Value, Any] = {region.logits: logits}
        bias = None
        if region.bias is not None:
            bias = (rng.standard_normal(shape[-1]) * 0.5).astype(region.bias.type.dtype.numpy)
            known[region.bias] = bias
        chosen, shares = evaluate_values([expert, weight], known, drawn.sizes)
        yield _Case(logits.reshape(-1, shape[-1]), bias, chosen, np.asarray(shares, np.float32))


def _options(region: _Region, k: int, experts: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Routers that may be it, the plainest first."""
    groups, scores = _groups(region, experts), ["softmax", "sigmoid", "chosen", "none", "one"]
    # A softmax of all, shared among those that are chosen, is one of the chosen: but for what rounds to 0.
    if any(n.op.qualified == _SOFTMAX and n.output.type.shape[-1].value == k for n in region.nodes):
        scores.sort(key=lambda score: score != "chosen")
    for (count, limit, best), score, shares in product(groups, scores, (True, False)):
        attrs: dict[str, Any] = {"k": k}
        if score != "softmax":
            attrs["score"] = score
        if not shares:
            attrs["renormalize"] = False
        if limit < count:
            attrs |= {"groups": count, "limit": limit, "best": best}
        yield CHOICE, attrs
    if k == 2:
        for number in _written(region):
            yield _MIXER, {"k": k, "jitter": number / 2}


def _written(region: _Region) -> list[float]:
    """The numbers above 0 that are written in it."""
    values = [n.attrs["value"] for n in region.nodes if has(n, Trait.HOLDS) and not n.output.type.rank]
    return sorted({float(v) for v in values if isinstance(v, float) and v > 0})


def _groups(region: _Region, experts: int) -> list[tuple[int, int, int]]:
    """(groups, limit, best) that the sizes in it tell of; (1, 1, 1) first."""
    counts = {
        size
        for node in region.nodes
        for value in node.outputs
        if value.type.rank == 3
        and (size := value.type.shape[1].value)
        and size * (value.type.shape[2].value or 0) == experts
    }
    chosen = [n for n in region.nodes if n.op.qualified == "topk"]
    found = [(1, 1, 1)]
    for count in sorted(counts):
        limits = {n.attrs["k"] for n in chosen if (n.inputs[0] and n.inputs[0].type.shape[-1].value == count)}
        bests = {n.attrs["k"] for n in chosen if n.inputs[0] and n.inputs[0].type.rank == 3} | {1}
        found += [(count, limit, best) for limit in sorted(limits) for best in sorted(bests)]
    return found


def _computed(name: str, attrs: dict[str, Any], case: _Case) -> tuple[Any, Any]:
    op = composite(name)
    assert isinstance(op, Composite)
    given = [case.logits] + ([case.bias] if name == CHOICE else [])
    types = [None if a is None else TensorType.of(_dtype(a), a.shape) for a in given]
    full = dict(attrs)
    op.infer(types, full)
    body = op.instantiate(types, full)
    arrays = [a for a in given if a is not None]
    named = dict(zip((v.public for v in body.inputs), arrays, strict=True))
    expert, weight = evaluate_graph(body, named, {}).values()
    return expert, np.asarray(weight, np.float64)


def _dtype(array: Any) -> str:
    return {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}[str(array.dtype)]


def _same(name: str, attrs: dict[str, Any], cases: list[_Case], region: _Region) -> bool:
    """Whether a router chooses the same, with weights that are the same but for one factor."""
    try:
        return all(_alike(*_computed(name, attrs, case), case) for case in cases) and (
            _scale(name, attrs, cases, region) in ((1.0,) if name == _MIXER else (1.0, *_written(region)))
        )
    except Diagnostic:
        # Options that do not go with these sizes.
        return False


def _alike(expert: Any, weight: Any, case: _Case) -> bool:
    return (
        expert.shape == case.expert.shape
        and bool(np.array_equal(expert, case.expert))
        and weight.shape == case.weight.shape
    )


def _scale(name: str, attrs: dict[str, Any], cases: list[_Case], region: _Region) -> float | None:
    """What the weights are multiplied by, where that is 1 or a number that is written in the export."""
    theirs = np.concatenate([case.weight.ravel() for case in cases]).astype(np.float64)
    ours = np.concatenate([_computed(name, attrs, case)[1].ravel() for case in cases])
    largest = int(np.abs(ours).argmax())
    wanted = float(theirs[largest] / ours[largest]) if ours[largest] else 1.0
    scale = min((1.0, *_written(region)), key=lambda number: abs(number - wanted))
    return scale if np.allclose(theirs, ours * scale, rtol=2e-5, atol=1e-6) else None
