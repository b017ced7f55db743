"""What each core op computes, in NumPy: the plainest program we could write, independent of every backend.

``REFERENCE[name](inputs, attrs)`` returns the results. Attributes are canonical, as ``Op.infer`` leaves them. Floats
are computed in the precision of the operands, but f16 and bf16 in f32.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tessera.ir.ops.contraction import parse_einsum

Array = np.ndarray
Results = list[Array]
Attrs = dict[str, Any]


def _elementwise(function: Callable[..., Any]) -> Callable[[list[Array], Attrs], Results]:
    return lambda inputs, attrs: [np.asarray(function(*inputs))]


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def _round(x: Array) -> Array:
    return np.round(x)  # halves go to the even number


def _rank(value: Any) -> tuple[bool, Any]:
    """A key that sorts NaN behind everything."""
    return (bool(np.isnan(value)) if isinstance(value, (float, np.floating)) else False, value)


# Reductions ----------------------------------------------------------------------------------------------------------


def _reduce(function: Callable[..., Any]) -> Callable[[list[Array], Attrs], Results]:
    def run(inputs: list[Array], attrs: Attrs) -> Results:
        return [np.asarray(function(inputs[0], axis=attrs["axis"], keepdims=attrs["keepdims"]))]

    return run


def _arg(best: Callable[[Any, Any], bool]) -> Callable[[list[Array], Attrs], Results]:
    def run(inputs: list[Array], attrs: Attrs) -> Results:
        x, axis = inputs[0], attrs["axis"]
        out = np.zeros(x.shape[:axis] + x.shape[axis + 1 :], np.int64)
        for at in np.ndindex(out.shape):
            row = x[(*at[:axis], slice(None), *at[axis:])].tolist()
            winner = 0
            for i, value in enumerate(row):
                if not math.isnan(row[winner]) and (math.isnan(value) or best(value, row[winner])):
                    winner = i
            out[at] = winner
        return [np.expand_dims(out, axis) if attrs["keepdims"] else out]

    return run


# Order ---------------------------------------------------------------------------------------------------------------


def _sorted_row(row: list[Any], descending: bool) -> list[int]:
    """Indices in order; equal elements by ascending index; NaN counts as the largest."""
    if not descending:
        return sorted(range(len(row)), key=lambda i: (_rank(row[i]), i))
    # Python sorts stably, also in reverse.
    return sorted(range(len(row)), key=lambda i: _rank(row[i]), reverse=True)


def _sort(inputs: list[Array], attrs: Attrs) -> Results:
    x, axis = inputs[0], attrs["axis"]
    indices = np.zeros(x.shape, np.int64)
    for at in np.ndindex(x.shape[:axis] + x.shape[axis + 1 :]):
        place = (*at[:axis], slice(None), *at[axis:])
        indices[place] = _sorted_row(x[place].tolist(), attrs["descending"])
    return [np.take_along_axis(x, indices, axis), indices]


def _topk(inputs: list[Array], attrs: Attrs) -> Results:
    best = _sort(inputs, {"axis": attrs["axis"], "descending": attrs["largest"]})
    return [y.take(range(attrs["k"]), attrs["axis"]) for y in best]


def _searchsorted(inputs: list[Array], attrs: Attrs) -> Results:
    row, values = inputs
    out = np.zeros(values.shape, np.int64)
    for at in np.ndindex(values.shape):
        before = [e <= values[at] if attrs["right"] else e < values[at] for e in row]
        out[at] = sum(bool(b) for b in before)
    return [out]


# Contraction ---------------------------------------------------------------------------------------------------------


def _einsum(inputs: list[Array], attrs: Attrs) -> Results:
    terms, out = parse_einsum(attrs["equation"])
    sizes = {n: s for term, x in zip(terms, inputs, strict=True) for n, s in zip(term, x.shape, strict=True)}
    names = list(sizes)
    total = np.ones([sizes[n] for n in names], inputs[0].dtype)
    for term, x in zip(terms, inputs, strict=True):
        order = [i for _, i in sorted((names.index(n), i) for i, n in enumerate(term))]
        shape = [sizes[n] if n in term else 1 for n in names]
        total = total * x.transpose(order).reshape(shape)
    total = total.sum(axis=tuple(i for i, n in enumerate(names) if n not in out))
    kept = [n for n in names if n in out]
    return [np.asarray(total).transpose([kept.index(n) for n in out]).astype(inputs[0].dtype)]


def _grouped_matmul(inputs: list[Array], attrs: Attrs) -> Results:
    x, w, ends = inputs
    out = np.zeros((len(x), w.shape[2]), x.dtype)
    for i, row in enumerate(x):
        group = next((e for e, end in enumerate(ends) if end > i), None)
        if group is not None:
            out[i] = row @ w[group]
    return [out]


def _conv(inputs: list[Array], attrs: Attrs) -> Results:
    x, weight = inputs
    spatial, groups = x.ndim - 2, attrs["groups"]
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in attrs["padding"])])
    kernel, stride, dilation = weight.shape[2:], attrs["stride"], attrs["dilation"]
    sizes = [(x.shape[2 + i] - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1 for i in range(spatial)]
    out = np.zeros((x.shape[0], weight.shape[0], *sizes), x.dtype)
    inside, outside = weight.shape[1], weight.shape[0] // groups
    for o in range(weight.shape[0]):
        group = o // outside
        channels = x[:, group * inside : (group + 1) * inside]
        for at in np.ndindex(*sizes):
            window = tuple(
                slice(at[i] * stride[i], at[i] * stride[i] + (kernel[i] - 1) * dilation[i] + 1, dilation[i])
                for i in range(spatial)
            )
            product = channels[(slice(None), slice(None), *window)] * weight[o]
            out[(slice(None), o, *at)] = product.reshape(len(x), -1).sum(axis=1)
    return [out]


# Indexing ------------------------------------------------------------------------------------------------------------


def _gather(inputs: list[Array], attrs: Attrs) -> Results:
    x, index = inputs
    out = np.zeros(index.shape, x.dtype)
    for at in np.ndindex(index.shape):
        source = list(at)
        source[attrs["axis"]] = index[at]
        out[at] = x[tuple(source)]
    return [out]


def _take(inputs: list[Array], attrs: Attrs) -> Results:
    x, index = inputs
    axis, batch = attrs["axis"], attrs["batch"]
    shape = (*x.shape[:axis], *index.shape[batch:], *x.shape[axis + 1 :])
    picked = index.ndim - batch
    out = np.zeros(shape, x.dtype)
    for at in np.ndindex(shape):
        lead, middle, tail = at[:axis], at[axis : axis + picked], at[axis + picked :]
        out[at] = x[(*lead, int(index[(*at[:batch], *middle)]), *tail)]
    return [out]


def _scatter(combine: Callable[[Any, Any], Any]) -> Callable[[list[Array], Attrs], Results]:
    def run(inputs: list[Array], attrs: Attrs) -> Results:
        x, index, updates = inputs
        out = x.copy()
        for at in np.ndindex(index.shape):
            place = (*at[: attrs["batch"]], int(index[at]))
            out[place] = combine(out[place], updates[at])
        return [out]

    return run


def _compact(inputs: list[Array], attrs: Attrs) -> Results:
    mask, capacity = inputs[0], attrs["capacity"]
    indices = np.zeros((*mask.shape[:-1], capacity), np.int64)
    count = np.zeros(mask.shape[:-1], np.int64)
    for at in np.ndindex(count.shape):
        found = [i for i, true in enumerate(mask[at]) if true][:capacity]
        indices[at][: len(found)] = found
        count[at] = len(found)
    return [indices, count]


def _segment(combine: Callable[[Array], Array]) -> Callable[[list[Array], Attrs], Results]:
    def run(inputs: list[Array], attrs: Attrs) -> Results:
        x, ids = inputs
        lead = ids.shape[:-1]
        out = np.zeros((*lead, attrs["segments"], *x.shape[ids.ndim :]), x.dtype)
        for at in np.ndindex(lead):
            for segment in range(attrs["segments"]):
                rows = x[at][ids[at] == segment]
                if len(rows):
                    out[at][segment] = combine(rows)
        return [out]

    return run


def _segment_softmax(inputs: list[Array], attrs: Attrs) -> Results:
    x, ids = inputs
    out = np.zeros_like(x)
    for at in np.ndindex(ids.shape[:-1]):
        for segment in range(attrs["segments"]):
            rows = x[at][ids[at] == segment]
            if len(rows):
                e = np.exp(rows - rows.max(axis=0))
                out[at][ids[at] == segment] = e / e.sum(axis=0)
    return [out]


# Scans and loops -----------------------------------------------------------------------------------------------------


def _cumsum(inputs: list[Array], attrs: Attrs) -> Results:
    x = np.moveaxis(inputs[0], attrs["axis"], 0)
    out, total = np.zeros_like(x), np.zeros_like(x[0]) if len(x) else None
    order = range(len(x) - 1, -1, -1) if attrs["reverse"] else range(len(x))
    for t in order:
        out[t] = total if attrs["exclusive"] else total + x[t]
        total = total + x[t]
    return [np.moveaxis(out, 0, attrs["axis"])]


def _linear_recurrence(inputs: list[Array], attrs: Attrs) -> Results:
    a, b = (np.moveaxis(x, attrs["axis"], 0) for x in inputs)
    out, h = np.zeros_like(b), np.zeros_like(b[0])
    for t in range(len(b)):
        h = a[t] * h + b[t]
        out[t] = h
    return [np.moveaxis(out, 0, attrs["axis"])]


# Shape ---------------------------------------------------------------------------------------------------------------


def _constant(inputs: list[Array], attrs: Attrs) -> Results:
    return [np.array(attrs["value"], attrs["dtype"].numpy)]


def _rearrange(inputs: list[Array], attrs: Attrs) -> Results:
    """Element by element, through the position of each named axis."""
    x, given = inputs[0], dict(attrs["axes"])
    left, right = ([_words(group) for group in _grouped(side)] for side in attrs["pattern"].split("->"))
    sizes: dict[str, int] = dict(given)
    for group, size in zip(left, x.shape, strict=True):
        known = math.prod(sizes[n] for n in group if n in sizes)
        sizes.update({n: size // known for n in group if n not in sizes})
    names = [n for group in left for n in group]
    out = np.zeros([math.prod(sizes[n] for n in group) for group in right], x.dtype)
    for values in itertools.product(*(range(sizes[n]) for n in names)):
        at = dict(zip(names, values, strict=True))
        out[tuple(_flat(g, at, sizes) for g in right)] = x[tuple(_flat(g, at, sizes) for g in left)]
    return [out]


def _grouped(side: str) -> list[str]:
    groups: list[str] = []
    inside = False
    for token in side.replace("(", " ( ").replace(")", " ) ").split():
        if token in "()":
            inside = token == "("
            groups += [""] if inside else []
        elif inside:
            groups[-1] += f" {token}"
        else:
            groups.append(token)
    return groups


def _words(group: str) -> list[str]:
    return [w for w in group.split() if w != "1"]


def _flat(group: list[str], at: dict[str, int], sizes: dict[str, int]) -> int:
    position = 0
    for name in group:
        position = position * sizes[name] + at[name]
    return position


def _slice(inputs: list[Array], attrs: Attrs) -> Results:
    picked = slice(attrs["start"], attrs["stop"], attrs["step"])
    return [inputs[0][(*[slice(None)] * attrs["axis"], picked)]]


def _pad(inputs: list[Array], attrs: Attrs) -> Results:
    widths = [(0, 0)] * inputs[0].ndim
    widths[attrs["axis"]] = (attrs["before"], attrs["after"])
    return [np.pad(inputs[0], widths, constant_values=attrs["value"])]


def _cast(inputs: list[Array], attrs: Attrs) -> Results:
    x, dtype = inputs[0], attrs["dtype"]
    return [
        x != 0
        if dtype.kind == "bool"
        else np.trunc(x).astype(dtype.numpy)
        if dtype.kind == "int"
        else x.astype(dtype.numpy)
    ]


REFERENCE: dict[str, Callable[[list[Array], Attrs], Results]] = {
    "neg": _elementwise(np.negative),
    "abs": _elementwise(np.abs),
    "sign": _elementwise(np.sign),
    "exp": _elementwise(np.exp),
    "log": _elementwise(np.log),
    "sqrt": _elementwise(np.sqrt),
    "rsqrt": _elementwise(lambda x: 1 / np.sqrt(x)),
    "sin": _elementwise(np.sin),
    "cos": _elementwise(np.cos),
    "tanh": _elementwise(np.tanh),
    "sigmoid": _elementwise(lambda x: 1 / (1 + np.exp(-x))),
    "erf": _elementwise(_erf),
    "floor": _elementwise(np.floor),
    "ceil": _elementwise(np.ceil),
    "round": _elementwise(_round),
    "add": _elementwise(np.add),
    "sub": _elementwise(np.subtract),
    "mul": _elementwise(np.multiply),
    "div": _elementwise(np.divide),
    "floordiv": _elementwise(np.floor_divide),
    "mod": _elementwise(np.mod),
    "pow": _elementwise(np.power),
    "minimum": _elementwise(np.minimum),
    "maximum": _elementwise(np.maximum),
    "eq": _elementwise(np.equal),
    "ne": _elementwise(np.not_equal),
    "lt": _elementwise(np.less),
    "le": _elementwise(np.less_equal),
    "gt": _elementwise(np.greater),
    "ge": _elementwise(np.greater_equal),
    "logical_and": _elementwise(np.logical_and),
    "logical_or": _elementwise(np.logical_or),
    "logical_not": _elementwise(np.logical_not),
    "is_nan": _elementwise(np.isnan),
    "where": _elementwise(np.where),
    "cast": _cast,
    "stop_gradient": _elementwise(np.copy),
    "straight_through": _elementwise(lambda hard, soft: hard),
    "scale_gradient": _elementwise(np.copy),
    "einsum": _einsum,
    "matmul": _elementwise(np.matmul),
    "grouped_matmul": _grouped_matmul,
    "conv": _conv,
    "sum": _reduce(lambda x, axis, keepdims: x.sum(axis, keepdims=keepdims, dtype=x.dtype)),
    "mean": _reduce(np.mean),
    "prod": _reduce(lambda x, axis, keepdims: x.prod(axis, keepdims=keepdims, dtype=x.dtype)),
    "max": _reduce(np.max),
    "min": _reduce(np.min),
    "any": _reduce(np.any),
    "all": _reduce(np.all),
    "argmax": _arg(lambda value, best: value > best),
    "argmin": _arg(lambda value, best: value < best),
    "sort": _sort,
    "topk": _topk,
    "searchsorted": _searchsorted,
    "gather": _gather,
    "take": _take,
    "scatter_set": _scatter(lambda old, new: new),
    "scatter_add": _scatter(lambda old, new: old + new),
    "scatter_min": _scatter(np.minimum),
    "scatter_max": _scatter(np.maximum),
    "compact": _compact,
    "segment_sum": _segment(lambda rows: rows.sum(axis=0)),
    "segment_mean": _segment(lambda rows: rows.mean(axis=0)),
    "segment_max": _segment(lambda rows: rows.max(axis=0)),
    "segment_softmax": _segment_softmax,
    "cumsum": _cumsum,
    "cummax": lambda inputs, attrs: [np.maximum.accumulate(inputs[0], axis=attrs["axis"])],
    "linear_recurrence": _linear_recurrence,
    "constant": _constant,
    "full": lambda inputs, attrs: [np.full(attrs["shape"], attrs["value"], attrs["dtype"].numpy)],
    "iota": lambda inputs, attrs: [np.arange(attrs["n"]).astype(attrs["dtype"].numpy)],
    "reshape": lambda inputs, attrs: [inputs[0].reshape(attrs["shape"])],
    "rearrange": _rearrange,
    "transpose": lambda inputs, attrs: [inputs[0].transpose(attrs["perm"])],
    "expand": lambda inputs, attrs: [np.broadcast_to(inputs[0], attrs["shape"])],
    "squeeze": lambda inputs, attrs: [np.squeeze(inputs[0], attrs["axis"])],
    "unsqueeze": lambda inputs, attrs: [np.expand_dims(inputs[0], attrs["axis"])],
    "concat": lambda inputs, attrs: [np.concatenate(inputs, axis=attrs["axis"])],
    "slice": _slice,
    "pad": _pad,
    "flip": lambda inputs, attrs: [np.flip(inputs[0], attrs["axis"])],
}


def run(name: str, inputs: list[Array], attrs: Attrs) -> Results:
    """The reference's results for operands of any dtype; f16 and bf16 are computed in f32 and rounded at the end."""
    halves = [str(x.dtype) in ("float16", "bfloat16") for x in inputs]
    wide = [x.astype(np.float32) if half else x for x, half in zip(inputs, halves, strict=True)]
    results = REFERENCE[name](wide, attrs)
    half = next((x.dtype for x, h in zip(inputs, halves, strict=True) if h), None)
    return [r.astype(half) if half is not None and r.dtype == np.float32 and name != "cast" else r for r in results]
