"""Activations, normalisations, attention, resizing: what the library has as composites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....ir.dims.dim import Dim, as_dim, const, product
from ....ir.graph import Value
from ....ir.types import boolean, i64
from ..protocol import Import, Unsupported, aten
from .elementwise import literal_of
from .indexing import whole_axis

# Activations ---------------------------------------------------------------------------------------------------------

for _name in ("relu", "silu"):

    def _importer(i: Import, x: Value, _composite: str = f"std.nn.{_name}") -> Value:
        if x.type.dtype.kind != "float":
            return i.op("maximum", x, i.scalar(0, x.type.dtype))
        return i.call(_composite, x)

    aten(_name)(_importer)


@aten("gelu")
def _gelu(i: Import, x: Value, approximate: str = "none") -> Value:
    return i.call("std.nn.gelu_tanh" if approximate == "tanh" else "std.nn.gelu", x)


# Normalisations ------------------------------------------------------------------------------------------------------


def _over_last(i: Import, x: Value, shape: Sequence[Any], *weights: Value | None) -> tuple[Value, list[Value | None]]:
    """x with the normalised axes joined into one, and the weights likewise."""
    if len(shape) == 1:
        return x, list(weights)
    size = product(as_dim(d) for d in shape)
    joined = i.reshape(x, [*x.type.shape[: x.type.rank - len(shape)], size])
    return joined, [None if w is None else i.reshape(w, [size]) for w in weights]


@aten("layer_norm")
def _layer_norm(
    i: Import, x: Value, shape: Sequence[Any], weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5,
    *rest: Any,
) -> Value:  # fmt: skip
    joined, weights = _over_last(i, x, shape, weight, bias)
    if weights[0] is None and weights[1] is not None:
        y = i.op("add", i.call("std.nn.layer_normalize", joined, None, None, eps=eps), weights[1])
    else:
        y = i.call("std.nn.layer_normalize", joined, *weights, eps=eps)
    return i.reshape(y, x.type.shape)


@aten("native_layer_norm")
def _native_layer_norm(
    i: Import, x: Value, shape: Sequence[Any], weight: Value | None, bias: Value | None, eps: float
) -> list[Value | Callable[[], Value]]:
    axes = tuple(range(x.type.rank - len(shape), x.type.rank))

    def mean() -> Value:
        return i.op("mean", x, axis=axes, keepdims=True)

    def scale() -> Value:
        centred = i.op("sub", x, mean())
        variance = i.op("mean", i.op("mul", centred, centred), axis=axes, keepdims=True)
        return i.op("rsqrt", i.op("add", variance, i.scalar(eps, x.type.dtype)))

    return [_layer_norm(i, x, shape, weight, bias, eps), mean, scale]


_EPSILON = {"f64": 2.0**-52, "f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}


@aten("rms_norm", "_fused_rms_norm")
def _rms_norm(
    i: Import, x: Value, shape: Sequence[Any], weight: Value | None = None, eps: float | None = None
) -> Value:
    joined, weights = _over_last(i, x, shape, weight)
    y = i.call("std.nn.rms_normalize", joined, *weights, eps=_EPSILON[x.type.dtype.name] if eps is None else eps)
    return i.reshape(y, x.type.shape)


@aten("group_norm")
def _group_norm(
    i: Import,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *rest: Any,
) -> Value:
    return i.call("std.nn.group_normalize", x, weight, bias, groups=groups, eps=eps)


@aten("native_group_norm")
def _native_group_norm(
    i: Import, x: Value, weight: Value | None, bias: Value | None, count: Any, channels: Any, size: Any, groups: int, eps: float
) -> list[Value | Callable[[], Value]]:
    shape = x.type.shape
    rows = i.reshape(x, [shape[0], groups, product(shape[1:]) // groups])

    def mean() -> Value:
        return i.op("mean", rows, axis=2)

    def scale() -> Value:
        centred = i.op("sub", rows, i.op("unsqueeze", mean(), axis=2))
        variance = i.op("mean", i.op("mul", centred, centred), axis=2)
        return i.op("rsqrt", i.op("add", variance, i.scalar(eps, x.type.dtype)))

    return [_group_norm(i, x, groups, weight, bias, eps), mean, scale]


@aten("batch_norm")
def _batch_norm(
    i: Import, x: Value, weight: Value | None, bias: Value | None, mean: Value | None, variance: Value | None,
    training: bool, momentum: float, eps: float, *rest: Any,
) -> Value:  # fmt: skip
    if training and mean is None and variance is None:
        return _batch_statistics(i, x, weight, bias, training, momentum, eps)[0]
    if training or mean is None or variance is None:
        raise Unsupported("batch normalisation that gathers statistics (call `model.eval()` first)")
    return i.call("std.nn.batch_normalize", x, mean, variance, weight, bias, eps=eps)


@aten("_native_batch_norm_legit_no_training")
def _native_batch_norm(
    i: Import,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    momentum: float,
    eps: float,
) -> list[Value | None]:
    return [i.call("std.nn.batch_normalize", x, mean, variance, weight, bias, eps=eps), None, None]


@aten("_native_batch_norm_legit.no_stats")
def _batch_statistics(
    i: Import, x: Value, weight: Value | None, bias: Value | None, training: bool, momentum: float, eps: float
) -> list[Value | None]:
    """Normalised by the statistics of the tensor itself, channel by channel (weight standardisation)."""
    axes = (0, *range(2, x.type.rank))
    centred = i.op("sub", x, i.op("mean", x, axis=axes, keepdims=True))
    variance = i.op("mean", i.op("mul", centred, centred), axis=axes, keepdims=True)
    y = i.op("mul", centred, i.op("rsqrt", i.op("add", variance, i.scalar(eps, x.type.dtype))))
    spread = [const(1) if a != 1 else x.type.shape[1] for a in range(x.type.rank)]
    if weight is not None:
        y = i.op("mul", y, i.reshape(weight, spread))
    return [y if bias is None else i.op("add", y, i.reshape(bias, spread)), None, None]


# Attention -----------------------------------------------------------------------------------------------------------


@aten("scaled_dot_product_attention")
def _attention(
    i: Import, q: Value, k: Value, v: Value, mask: Value | None = None, dropout: float = 0.0, causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Value:  # fmt: skip
    if dropout:
        raise Unsupported("attention with dropout (call `model.eval()` first)")
    lead = q.type.shape[:-2]
    q, k, v = (_four(i, x) for x in (q, k, v))
    batch = q.type.shape[0]
    k, v = (x if x.type.shape[0] == batch else i.expand(x, [batch, *x.type.shape[1:]]) for x in (k, v))
    queries, keys = q.type.shape[2], k.type.shape[2]
    bias = None
    if mask is not None and literal_of(mask) is True:
        mask = None
    if mask is not None:
        while mask.node is not None and mask.node.op.name == "expand" and _fits(mask.node.inputs[0], mask, keys):
            mask = mask.node.inputs[0]  # attention broadcasts it by itself
            assert mask is not None
        wide = [*[const(1)] * (4 - mask.type.rank), *mask.type.shape]
        mask = i.reshape(mask, wide) if mask.type.rank < 4 else _four(i, mask)
        mask = i.expand(mask, [*mask.type.shape[:3], keys])
        if mask.type.dtype != boolean:
            bias, mask = i.cast(mask, q.type.dtype), None
    if mask is not None and queries == keys and not causal:
        mask, causal = _without_triangle(mask)
    if causal and queries != keys:
        # PyTorch aligns the triangle at the first query, the language at the last one.
        rows = i.op("unsqueeze", i.op("iota", n=queries, dtype=i64), axis=1)
        lower = i.op("le", i.op("unsqueeze", i.op("iota", n=keys, dtype=i64), axis=0), rows)
        lower = i.reshape(lower, [1, 1, queries, keys])
        mask, causal = lower if mask is None else i.op("logical_and", mask, lower), False
    width = q.type.shape[3].value
    options: dict[str, Any] = {} if scale is None or (width and scale == width**-0.5) else {"scale": float(scale)}
    y = i.call("std.attention.attention", q, k, v, mask, bias, causal=causal, **options)
    return i.reshape(y, [*lead, *y.type.shape[2:]])


def _without_triangle(mask: Value) -> tuple[Value | None, bool]:
    """A boolean mask [B, H, T, T] that lets a query see only what is before it, and maybe hides more: the rest of it."""
    if _is_triangle(mask):
        return None, True
    if mask.node is not None and mask.node.op.name == "logical_and":
        for part, other in (mask.node.inputs, mask.node.inputs[::-1]):
            if part is not None and other is not None and _is_triangle(part) and other.type.rank == 4:
                return other, True
    return mask, False


def _is_triangle(mask: Value) -> bool:
    """``key <= query``, by position."""
    if mask.node is None or mask.node.op.name not in ("le", "ge") or mask.type.rank != 4:
        return False
    key, query = mask.node.inputs if mask.node.op.name == "le" else mask.node.inputs[::-1]
    assert key is not None
    assert query is not None
    size = mask.type.shape[3]
    return (whole_axis(key, size), whole_axis(query, size)) == (3, 2) and key.type.rank == query.type.rank == 4


def _fits(inner: Value | None, mask: Value, keys: Dim) -> bool:
    return inner is not None and inner.type.rank == mask.type.rank and inner.type.shape[-1] == keys


def _four(i: Import, x: Value) -> Value:
    """[…, T, K] as [B, H, T, K]."""
    shape = x.type.shape
    if x.type.rank > 4:
        return i.reshape(x, [product(shape[:-3]), *shape[-3:]])
    # A batch without heads: what was the batch stays it, so that keys of another count cannot be taken for groups.
    return i.reshape(x, [shape[0], 1, *shape[1:]] if x.type.rank == 3 else [1, 1, *shape]) if x.type.rank < 4 else x


@aten("_scaled_dot_product_flash_attention_for_cpu")
def _flash(
    i: Import, q: Value, k: Value, v: Value, dropout: float = 0.0, causal: bool = False, mask: Value | None = None,
    scale: float | None = None,
) -> list[Value | None]:  # fmt: skip
    return [_attention(i, q, k, v, mask, dropout, causal, scale), None]
