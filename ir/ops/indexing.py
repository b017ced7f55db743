"""Gathering and scattering by index. Indices count from 0 and lie within their axis; what is given is checked where it is given,
and nothing is said of a result of computed ones that do not."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from ..diagnostics import Span
from ..dims.dim import as_dim
from ..numeric import np
from ..op import Attrs, Bad, Meaning, Sample, Trait, fail
from ..types import TensorType
from . import define
from .axes import normal_axis
from .meaning import Function, along, resolved, rows

_PICKS = (Trait.INDEXES, Trait.KEEPS)


def _gather_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x, index = types
    axis = attrs["axis"] = normal_axis(attrs["axis"], x, span)
    if x.rank != index.rank:
        raise fail("E0301", f"gather: x {x} and index {index} must have the same number of axes", span,
                   "to pick whole rows use `take`")  # fmt: skip
    for i, (a, b) in enumerate(zip(x.shape, index.shape, strict=True)):
        if i != axis and a != b:
            raise fail(
                "E0302", f"gather: axis {i} of x is {a}, but of index {b}; they may differ only at axis {axis}", span
            )
    return [TensorType(x.dtype, index.shape)]


def _gather_samples(rng: Any) -> list[Sample]:
    x = rng.standard_normal((3, 5)).astype(np.float32)
    return [Sample((x, rng.integers(0, 5, (3, 2))), {"axis": 1}), Sample((x, rng.integers(0, 3, (4, 5))), {"axis": 0})]


def _gather(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    return [np.take_along_axis(xs[0], xs[1].astype(np.int64), attrs["axis"])]


define("gather(x: any[...], index: int[...], *, axis: int) -> any[...]",
       "`out[i, j] = x[i, index[i, j]]` (for axis 1): one element for each index.", family="indexing", rule=_gather_rule,
       packs="free", traits=(*_PICKS, Trait.SCALES), meaning=_gather, samples=_gather_samples,
       bad=(Bad((TensorType.of("f32", [3, 5]), TensorType.of("i64", [4, 2])), {"axis": 1}, "E0302"),))  # fmt: skip


def _batch(op: str, x: TensorType, index: TensorType, batch: int, span: Span | None) -> None:
    if not 0 <= batch <= index.rank or x.rank <= batch:
        raise fail("E0305", f"{op}: batch={batch}, but x is {x} and index {index}", span)
    if x.shape[:batch] != index.shape[:batch]:
        raise fail("E0302", f"{op}: the first {batch} axes of x {x} and of index {index} must be equal", span)


def _take_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x, index = types
    axis, batch = normal_axis(attrs["axis"], x, span), attrs["batch"]
    attrs["axis"] = axis
    _batch("take", x, index, batch, span)
    if axis < batch:
        raise fail("E0305", f"take: axis {axis} is one of the {batch} batch axes", span)
    return [TensorType(x.dtype, (*x.shape[:axis], *index.shape[batch:], *x.shape[axis + 1 :]))]


def _take_samples(rng: Any) -> list[Sample]:
    def x(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    return [
        Sample((x(7, 4), rng.integers(0, 7, (2, 3))), {"axis": 0}),
        Sample((x(2, 7, 4), rng.integers(0, 7, (2, 3))), {"axis": 1, "batch": 1}),
        Sample((x(2, 3, 7), rng.integers(0, 7, (2, 3, 2))), {"axis": 2, "batch": 2}),
        Sample((x(2, 3, 7), rng.integers(0, 7, (2, 5))), {"axis": 2, "batch": 1}),
        Sample((x(2, 7, 4), rng.integers(0, 7, (3,)).astype(np.int32)), {"axis": 1}),
        Sample((x(2, 7, 4), rng.integers(0, 7, (2,))), {"axis": 1, "batch": 1}),
        Sample((x(5, 4), np.array(3)), {"axis": 0}),
    ]


def _take(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    x, index = xs
    axis, batch, picked = attrs["axis"], attrs["batch"], index.ndim - attrs["batch"]
    # The indexed axes come first, then those between the batch and the axis; they go back to where they stood.
    found = np.moveaxis(x, axis, batch)[rows(index, batch)]
    return [np.moveaxis(found, range(batch, batch + picked), range(axis, axis + picked))]


define("take(x: any[...], index: int[...], *, axis: int = 0, batch: int = 0) -> any[...]",
       "Whole slices of x at `index` along `axis` (an embedding lookup, picked tokens); the first `batch` axes of both"
       " are walked together: `take(x[B, T, D], index[B, K], axis=1, batch=1)` is `[B, K, D]`.",
       family="indexing", rule=_take_rule, packs="free", traits=(*_PICKS, Trait.SCALES), meaning=_take, samples=_take_samples,
       bad=(Bad((TensorType.of("f32", ["B", 5, 4]), TensorType.of("i64", ["C", 2])), {"axis": 1, "batch": 1}, "E0302"),))  # fmt: skip


def _scatter_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x, index, updates = types
    batch = attrs["batch"]
    _batch("scatter", x, index, batch, span)
    wanted = (*index.shape, *x.shape[batch + 1 :])
    if updates.shape != wanted:
        shown = TensorType(x.dtype, wanted)
        raise fail("E0302", f"scatter: updates must be {shown} for x {x} and index {index}, but are {updates}", span)
    return [x]


def _scatter_samples(unique: bool) -> Any:
    def samples(rng: Any) -> list[Sample]:
        def x(*shape: int) -> Any:
            return rng.standard_normal(shape).astype(np.float32)

        def rows(n: int, *shape: int) -> Any:
            if not unique:
                return rng.integers(0, n, shape)
            flat = np.stack([rng.permutation(n)[: shape[-1]] for _ in range(int(np.prod(shape[:-1])))])
            return flat.reshape(shape)

        return [
            Sample((x(7, 4), rows(7, 5), x(5, 4)), {"batch": 0}),
            Sample((x(2, 7, 4), rows(7, 2, 5), x(2, 5, 4)), {"batch": 1}),
            Sample((x(2, 3, 7), rows(7, 2, 3, 4), x(2, 3, 4)), {"batch": 2}),
        ]

    return samples


def _scatter(combine: Function) -> Meaning:
    def run(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
        x, index, updates = xs
        out = x.copy()
        resolved(combine)(out, rows(index, attrs["batch"]), updates)
        return [out]

    return run


_COMBINE: list[tuple[str, str, Function, tuple[Trait, ...]]] = [
    ("set", "x with `updates` written at `index`; an index occurs at most once.", operator.setitem, _PICKS),
    ("add", "x with `updates` added at `index`; an index may occur many times.", "add.at", (Trait.INDEXES,)),
    ("min", "x, or the smallest of the `updates` at `index` where that is smaller.", "minimum.at", _PICKS),
    ("max", "x, or the largest of the `updates` at `index` where that is larger.", "maximum.at", _PICKS),
]
for _mode, _doc, _combine, _traits in _COMBINE:
    _kind = "any" if _mode == "set" else "num"
    define(f"scatter_{_mode}(x: {_kind}[...], index: int[...], updates: {_kind}[...], *, batch: int = 1) -> {_kind}[...]",
           _doc + " x [batch…, N, …], index [batch…, K], updates [batch…, K, …].", family="indexing",
           rule=_scatter_rule, packs="free", traits=_traits, meaning=_scatter(_combine),
           samples=_scatter_samples(_mode == "set"),
           bad=(Bad((TensorType.of("f32", ["B", 7, 4]), TensorType.of("i64", ["B", 5]), TensorType.of("f32", ["B", 4, 4])), {}, "E0302"),))  # fmt: skip


def _compact_samples(rng: Any) -> list[Sample]:
    mask = rng.random((4, 9)) < 0.4
    mask[0], mask[1] = False, True
    return [Sample((mask,), {"capacity": c}) for c in (3, 9)]


def _compact(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    mask, capacity = xs[0], attrs["capacity"]
    first = np.argsort(~mask, axis=-1, kind="stable")[..., :capacity]
    count = np.minimum(mask.sum(axis=-1), capacity)
    index = np.pad(first, [(0, 0)] * (mask.ndim - 1) + [(0, capacity - first.shape[-1])])
    return [np.where(np.arange(capacity) < count[..., None], index, 0), count]


define("compact(mask: bool[..., N], *, capacity: int) -> (i64[..., capacity], i64[...])",
       "The ascending indices of the true elements of the last axis, up to `capacity` (the first ones stay), padded with 0;"
       " and how many of them count.", family="indexing", meaning=_compact, samples=_compact_samples,
       bad=(Bad((TensorType.of("f32", [2, 5]),), {"capacity": 3}, "E0303"),))  # fmt: skip


def _segment_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x, ids = types
    if x.rank < ids.rank or ids.rank == 0 or x.shape[: ids.rank] != ids.shape:
        raise fail("E0302", f"segment ids {ids} must have the leading axes of x {x}", span)
    return [TensorType(x.dtype, (*ids.shape[:-1], as_dim(attrs["segments"]), *x.shape[ids.rank :]))]


def _segment_softmax_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    _segment_rule(types, attrs, span)
    return [types[0]]


def _segment_samples(attrs: Attrs) -> Any:
    def samples(rng: Any) -> list[Sample]:
        def x(*shape: int) -> Any:
            return rng.standard_normal(shape).astype(np.float32)

        return [
            Sample((x(6, 4), np.array([0, 0, 1, 3, 3, 3])), attrs),
            Sample((x(2, 6), rng.integers(0, 4, (2, 6))), attrs),
            Sample((x(2, 6, 3), rng.integers(0, 4, (2, 6))), attrs),
        ]

    return samples


def _segments(x: Any, ids: Any, segments: int, start: float, combine: Callable[..., None]) -> Any:
    out = np.full((*ids.shape[:-1], segments, *x.shape[ids.ndim :]), start, x.dtype)
    combine(out, rows(ids, ids.ndim - 1), x)
    return out


def _segment_sum(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    return [_segments(xs[0], xs[1], attrs["segments"], 0, np.add.at)]


def _segment_mean(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    x, ids = xs
    counts = _segments(np.ones_like(x), ids, attrs["segments"], 0, np.add.at)
    return [_segments(x, ids, attrs["segments"], 0, np.add.at) / np.maximum(counts, 1)]


def _segment_max(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    x, ids = xs
    filled = _segments(np.ones_like(x), ids, attrs["segments"], 0, np.maximum.at)
    return [np.where(filled > 0, _segments(x, ids, attrs["segments"], -np.inf, np.maximum.at), 0)]


def _segment_softmax(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    x, ids = xs
    own = rows(ids, ids.ndim - 1)
    e = np.exp(x - _segments(x, ids, attrs["segments"], -np.inf, np.maximum.at)[own])
    return [e / _segments(e, ids, attrs["segments"], 0, np.add.at)[own]]


_SEGMENT_BAD = (TensorType.of("f32", ["B", 7, 4]), TensorType.of("i64", ["B", 6]))
for _name, _kind, _doc, _meaning, _traits in [
    ("segment_sum", "num", "The sum of each segment; 0 for an empty one.", _segment_sum, (Trait.SCALES,)),
    ("segment_mean", "float", "The mean of each segment; 0 for an empty one.", _segment_mean, ()),
    ("segment_max", "float", "The maximum of each segment; 0 for an empty one.", _segment_max, ()),
]:
    define(f"{_name}(x: {_kind}[...], ids: int[...], *, segments: int) -> {_kind}[...]",
           _doc + " x [batch…, N, …], ids [batch…, N] in 0 … segments - 1.", family="segment", rule=_segment_rule,
           packs="free", traits=_traits, meaning=_meaning, samples=_segment_samples({"segments": 4}),
           bad=(Bad(_SEGMENT_BAD, {"segments": 3}, "E0302"),))  # fmt: skip
define("segment_softmax(x: float[...], ids: int[...], *, segments: int) -> float[...]",
       "Softmax among the elements of each segment. x [batch…, N, …], ids [batch…, N] in 0 … segments - 1.",
       family="segment", rule=_segment_softmax_rule, packs="free", meaning=_segment_softmax,
       samples=_segment_samples({"segments": 4}), bad=(Bad(_SEGMENT_BAD, {"segments": 3}, "E0302"),))  # fmt: skip


def _along_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    attrs["axis"] = normal_axis(attrs["axis"], types[0], span)
    return [types[0]]


def _scan_samples(options: list[Attrs]) -> Any:
    def samples(rng: Any) -> list[Sample]:
        x = rng.standard_normal((2, 5, 3)).astype(np.float32)
        return [Sample((x,), {"axis": axis, **o}) for axis in (1, -1) for o in options]

    return samples


def _cumsum(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    axis = attrs["axis"]
    x = np.flip(xs[0], axis) if attrs["reverse"] else xs[0]
    total = np.cumsum(x, axis, dtype=x.dtype)
    if attrs["exclusive"]:
        first = np.zeros_like(total.take(range(min(1, total.shape[axis])), axis))
        total = np.concatenate([first, total.take(range(total.shape[axis] - 1), axis)], axis)
    return [np.flip(total, axis) if attrs["reverse"] else total]


def _recurrence(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    a, b = (np.moveaxis(x, attrs["axis"], 0) for x in xs)
    h = np.zeros_like(b)
    for t in range(len(b)):
        h[t] = a[t] * h[t - 1] + b[t] if t else b[t]
    return [np.moveaxis(h, 0, attrs["axis"])]


_AXIS_BAD = (Bad((TensorType.of("f32", ["B", 3]),), {"axis": 2}, "E0305"),)
define("cumsum(x: num[...], *, axis: int, exclusive: bool = false, reverse: bool = false) -> num[...]",
       "Running sums along one axis; `exclusive` leaves out the element itself, `reverse` sums from the end.",
       family="scan", rule=_along_rule, bad=_AXIS_BAD, traits=(Trait.AXIS,), meaning=_cumsum,
       samples=_scan_samples([{"exclusive": e, "reverse": r} for e in (False, True) for r in (False, True)]))  # fmt: skip
define("cummax(x: num[...], *, axis: int) -> num[...]", "Running maxima along one axis.", family="scan",
       rule=_along_rule, traits=(Trait.AXIS, Trait.KEEPS), meaning=along("maximum.accumulate"),
       samples=_scan_samples([{}]), bad=_AXIS_BAD)  # fmt: skip


def _recurrence_samples(rng: Any) -> list[Sample]:
    a = rng.uniform(0.1, 0.9, (2, 6, 3)).astype(np.float32)
    b = rng.standard_normal((2, 6, 3)).astype(np.float32)
    return [Sample((a, b), {"axis": axis}) for axis in (1, 2)]


define("linear_recurrence(a: float[...], b: float[...], *, axis: int) -> float[...]",
       "`h[t] = a[t] * h[t - 1] + b[t]` along one axis, from 0.", family="scan", rule=_along_rule,
       traits=(Trait.AXIS,), meaning=_recurrence,
       samples=_recurrence_samples,
       bad=(Bad((TensorType.of("f32", ["B", 3]), TensorType.of("f32", ["B", 4])), {"axis": 1}, "E0302"),))  # fmt: skip
