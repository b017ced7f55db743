"""Mixtures of experts: products by group, which standard ops make them of, and Microsoft's own op."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.dims.dim import const
from ....ir.graph import Value
from ....ir.op import FuncRef
from ....ir.types import f32, u8
from ..call import Call
from ..groups import GROUPED
from ..registry import MICROSOFT, imports
from ..tensors import Weight
from ..values import Tensor

# Of gated experts, by the op's `alpha` in `x sigmoid(alpha x)`; and of others, by its name.
_GATES = {1.0: "silu", 1.702: "quick_gelu"}
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu_tanh", "silu": "silu"}
_FIRST = "give the model that the file was made from, and round afterwards (`tessera compile --moe contrib_int4`)"


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
    if any(c.rank(i) != 3 for i in (2, 4)):
        c.misfit(f"a mixture of experts with matrices {c.type(2)} and {c.type(4)}")
    matrices = [c.transpose(c.x(i, "weight"), (0, 2, 1)) if c.has(i) else None for i in (2, 4, 6)]
    return _mixture(c, matrices, [c.maybe(i, "bias") for i in (3, 5, 7)])


@imports("QMoE", domain=MICROSOFT)
def rounded_mixture(c: Call) -> Value:
    """As `MoE`, with matrices of whole numbers: they are read as the numbers that they stand for."""
    if c.attr("quant_type", "int") != "int":
        c.refuse(f'matrices of quant_type="{c.attr("quant_type")}"', _FIRST)
    if c.attr("weights_prepacked", -1) == 1:
        c.refuse("matrices in an order of one kind of machine", _FIRST)
    own = c.attr("expert_weight_bits", 4)
    bits = [c.attr(f"fc{i}_expert_weight_bits", own) for i in (1, 2, 3)]
    # ONNX Runtime's CPU kernel takes no notice of either.
    if c.attr("use_sparse_mixer", 0):
        c.refuse("a sparse mixer in front of matrices of whole numbers", _FIRST)
    if not c.has(14) and not c.attr("normalize_routing_weights", 0):
        help = "ONNX Runtime takes them for shares on some machines: write `normalize_routing_weights=1` if that is meant"
        c.refuse("routing weights that are no shares of what was chosen", help)
    places = [(2, 3, 11), (5, 6, 12), (8, 9, 13)]
    matrices = [_rounded(c, *at, width) if c.has(at[0]) else None for at, width in zip(places, bits, strict=True)]
    return _mixture(c, matrices, [c.maybe(i, "bias") for i in (4, 7, 10)], mixed=14)


def _mixture(c: Call, matrices: list[Value | None], biases: list[Value | None], mixed: int | None = None) -> Value:
    """What both ops compute with matrices [E, I, O] of two products, and of what is gated where that is apart.

    ``mixed``: which operand weighs what the scores choose, where there may be one.
    """
    shape, k = c.shape(), c.attr("k", 1)
    up, down, gated = matrices
    assert up is not None
    assert down is not None
    if len(shape) not in (2, 3) or c.rank(1) != 2:
        c.misfit(f"a mixture of experts of {c.type()} with scores {c.type(1)}")
    x = c.x() if len(shape) == 2 else c.reshape(c.x(), (shape[0] * shape[1], shape[2]))
    c.equal(c.shape(1)[0], x.type.shape[0], f"the rows of {c.type(1)} and {x.type}")
    for matrix in (up, down):
        c.equal(matrix.type.shape[0], c.shape(1)[1], f"the experts of {matrix.type} and of the scores {c.type(1)}")
    routes = _routes(c, k, mixed if mixed is not None and c.has(mixed) else None)
    kind, attrs = _kind(c, gated is not None)
    up_bias, down_bias, gated_bias = biases
    if gated is not None:
        up = c.op("concat", up, gated, axis=2)
        if (up_bias is None) != (gated_bias is None):
            c.refuse("a bias of one half of gated experts")
        up_bias = c.op("concat", up_bias, gated_bias, axis=1) if up_bias is not None else None
    y = c.std(f"moe.experts.{kind}", x, *routes, up, down, up_bias, down_bias, **attrs)
    return c.reshape(y, shape)


def _routes(c: Call, k: int, mixed: int | None) -> list[Value]:
    """The experts of each token and their weights."""
    shared = bool(c.attr("normalize_routing_weights", 0))
    if c.attr("use_sparse_mixer", 0):
        return c.std_many("moe.route.sparse_mixer", c.x(1), k=k)
    if mixed is None:
        return c.std_many("moe.route.token_choice", c.x(1), None, k=k, **({} if shared else {"renormalize": False}))
    expert = c.std_many("moe.route.token_choice", c.x(1), None, k=k)[0]
    if c.type(mixed) != c.type(1):
        c.misfit(f"weights {c.type(mixed)} of the scores {c.type(1)}")
    weight = c.cast(c.op("gather", c.x(mixed), expert, axis=1), f32)
    if shared:
        weight = c.op("div", weight, c.op("sum", weight, axis=(1,), keepdims=True))
    return [expert, weight]


def _rounded(c: Call, index: int, scale_at: int, zero_at: int, bits: int) -> Value:
    """Matrices of bytes [E, O, I bits / 8] with a scale for each output, or for each block of its inputs: one weight [E, I, O]."""
    held = [_weight(c, i) for i in (index, scale_at, zero_at) if i != zero_at or c.has(i)]
    packed, scale, *zero = held
    block = c.attr("block_size", 0)
    if bits not in (2, 4, 8):
        c.refuse(f"matrices of {bits} bits", _FIRST)
    if packed.dtype != u8 or len(packed.shape) != 3 or 0 in packed.shape or any(z.dtype != u8 for z in zero):
        c.misfit(f"matrices of {bits} bits that are {packed.type}")
    experts, outer, inner = *packed.shape[:2], packed.shape[2] * 8 // bits
    blocks = inner // block if block > 0 else 1
    columns = (experts, outer, blocks) if block > 0 else (experts, outer)
    rows = (*columns[:-1], -(-columns[-1] * bits // 8))
    divides = block <= 0 or blocks * block == inner
    if not divides or scale.shape != columns or any(z.shape != rows for z in zero):
        told = " and ".join(str(w.type) for w in held[1:])
        c.misfit(f"scales {told} of matrices of {outer} x {inner}" + (f" in blocks of {block}" if block > 0 else ""))

    def load() -> np.ndarray:
        numbers = _numbers(packed.load(), bits).reshape(experts, outer, blocks, -1).astype(np.float32)
        middle = np.full(columns, 1 << (bits - 1), np.float32)
        if zero:
            middle = _numbers(zero[0].load(), bits)[..., : columns[-1]]
        made = (numbers - middle.reshape(experts, outer, blocks, 1)) * scale.load().reshape(experts, outer, blocks, 1)
        return np.ascontiguousarray(made.reshape(experts, outer, inner).transpose(0, 2, 1)).astype(dtype.numpy)

    dtype, known = c.type().dtype, tuple(held)
    found = c.importer.stacks.get(known)
    if found is None:
        name = packed.name.removesuffix(f".u{bits}")
        found = c.importer.stacks[known] = Weight(name, dtype, (experts, inner, outer), load)
    return c.region.value(Tensor(found.type, weight=found), c.hint("weight"))


def _weight(c: Call, index: int) -> Weight:
    tensor = c.tensor(index)
    if tensor.weight is None or tensor.value is not None or tensor.perm is not None:
        c.refuse("matrices of whole numbers that are computed when the model runs")
    return tensor.weight


def _numbers(packed: np.ndarray, bits: int) -> np.ndarray:
    """[…, M] bytes as […, M * 8 / bits] numbers, the lowest bits first."""
    parts = [packed >> at & (1 << bits) - 1 for at in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1)


def _kind(c: Call, apart: bool) -> tuple[str, dict[str, Any]]:
    """The op of std.moe.experts, and its attributes; ``apart``: whether gate and gated are two matrices."""
    name = c.attr("activation_type", "relu")
    if name == "swiglu":
        fusion, alpha, limit = c.attr("swiglu_fusion", 0), c.attr("activation_alpha", 1.0), c.attr("swiglu_limit", 0.0)
        act = next((own for number, own in _GATES.items() if abs(alpha - number) < 1e-6), None)
        if act is None or fusion not in (0, 1, 2) or (fusion == 0) != apart:
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
    return "gated" if apart else "plain", {"act": FuncRef("std.nn", _ACTIVATIONS[name])}
