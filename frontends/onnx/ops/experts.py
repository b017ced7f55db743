"""Mixtures of experts: products by group, which standard ops make them of, and Microsoft's own op."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.dims.dim import const
from ....ir.graph import Value
from ....ir.op import FuncRef
from ..call import Call
from ..groups import GROUPED
from ..registry import MICROSOFT, imports
from ..tensors import Weight
from ..values import Tensor

# Of gated experts, by the op's `alpha` in `x sigmoid(alpha x)`; and of others, by its name.
_GATES = {1.0: "silu", 1.702: "quick_gelu"}
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu_tanh", "silu": "silu"}


@imports(GROUPED)
def grouped_matmul(c: Call) -> Value:
    """Rows x [N, K], sizes [E] of groups, or [E + 1] with rows that are in none, and E matrices."""
    x, sizes, first = c.x(), c.x(1), c.tensor(4).type
    count = len(c.inputs) - 4
    if x.type.rank != 2 or first.rank != 2 or any(c.type(i) != first for i in range(4, len(c.inputs))):
        c.refuse("a product of each part of rows with matrices of several shapes")
    c.equal(x.type.shape[1], first.shape[0], f"the inner sizes of {x.type} and {first}")
    rest = c.has(2)
    c.equal(sizes.type.shape[0], const(count + rest), f"the sizes {sizes.type} of {count} parts")
    zeros = not rest or not np.any(c.static(2, "what is in the place of a product"))
    if not zeros or (rest and c.numbers(3, "the first part without a matrix") != [count]):
        c.refuse("something else than zeros for rows without a matrix")
    ends = c.op("cumsum", sizes, axis=0)
    return c.op("grouped_matmul", x, _stacked(c, 4), c.op("slice", ends, axis=0, start=0, stop=count) if rest else ends)


def _stacked(c: Call, start: int) -> Value:
    """The operands from one on as one more axis in front: weights as one weight of the name that they share."""
    tensors = [c.tensor(i) for i in range(start, len(c.inputs))]
    held = tuple(t.weight for t in tensors if t.weight is not None and t.value is None and t.perm is None)
    if len(held) < len(tensors):
        return c.op("concat", *(c.op("unsqueeze", c.x(start + i, f"weight{i}"), axis=0) for i in range(len(tensors))), axis=0)
    found = c.importer.stacks.get(held)
    if found is None:
        stem = held[0].name.removesuffix(".0")
        name = stem if all(w.name == f"{stem}.{i}" for i, w in enumerate(held)) else held[0].name
        shape = (len(held), *held[0].shape)
        found = c.importer.stacks[held] = Weight(name, held[0].dtype, shape, lambda: np.stack([w.load() for w in held]))
    return c.region.value(Tensor(found.type, weight=found), c.hint("weight"))


@imports("MoE", domain=MICROSOFT)
def mixture(c: Call) -> Value:
    """A softmax router and experts whose matrices are [O, I]."""
    shape, k = c.shape(), c.attr("k", 1)
    sparse = bool(c.attr("use_sparse_mixer", 0))
    if len(shape) not in (2, 3) or c.rank(1) != 2 or any(c.rank(i) != 3 for i in (2, 4)):
        c.misfit(f"a mixture of experts of {c.type()} with scores {c.type(1)} and matrices {c.type(2)} and {c.type(4)}")
    x = c.x() if len(shape) == 2 else c.reshape(c.x(), (shape[0] * shape[1], shape[2]))
    c.equal(c.shape(1)[0], x.type.shape[0], f"the rows of {c.type(1)} and {x.type}")
    for i in (2, 4):
        c.equal(c.shape(i)[0], c.shape(1)[1], f"the experts of {c.type(i)} and of the scores {c.type(1)}")
    if sparse:
        routes = c.std_many("moe.route.sparse_mixer", c.x(1), k=k)
    else:
        more = {} if c.attr("normalize_routing_weights", 0) else {"renormalize": False}
        routes = c.std_many("moe.route.token_choice", c.x(1), None, k=k, **more)
    kind, attrs = _kind(c)
    up, up_bias = _turned(c, 2), c.maybe(3, "bias")
    if c.has(6):
        up = c.op("concat", up, _turned(c, 6), axis=2)
        biases = [c.x(i, "bias") for i in (3, 7) if c.has(i)]
        if len(biases) == 1:
            c.refuse("a bias of one half of gated experts")
        up_bias = c.op("concat", *biases, axis=1) if biases else None
    y = c.std(f"moe.experts.{kind}", x, *routes, up, _turned(c, 4), up_bias, c.maybe(5, "bias"), **attrs)
    return c.reshape(y, shape)


def _kind(c: Call) -> tuple[str, dict[str, Any]]:
    """The op of std.moe.experts, and its attributes."""
    name = c.attr("activation_type", "relu")
    if name == "swiglu":
        fusion, alpha, limit = c.attr("swiglu_fusion", 0), c.attr("activation_alpha", 1.0), c.attr("swiglu_limit", 0.0)
        act = next((own for number, own in _GATES.items() if abs(alpha - number) < 1e-6), None)
        if act is None or fusion not in (0, 1, 2) or (fusion == 0) != c.has(6):
            c.refuse(f"swiglu with activation_alpha={alpha:g} and swiglu_fusion={fusion}")
        attrs: dict[str, Any] = {"act": FuncRef("std.nn", act)}
        if fusion == 1:
            attrs["interleaved"] = True
        if 0 < limit < np.inf:
            attrs["limit"] = limit
        if c.attr("activation_beta", 0.0):
            attrs["offset"] = c.attr("activation_beta")
        return "gated", attrs
    if name not in _ACTIVATIONS:
        c.refuse(f'activation_type="{name}"')
    return "gated" if c.has(6) else "plain", {"act": FuncRef("std.nn", _ACTIVATIONS[name])}


def _turned(c: Call, index: int) -> Value:
    return c.transpose(c.x(index, "weight"), (0, 2, 1))
