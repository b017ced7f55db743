"""Sorting and selection. Equal elements keep the order of their indices: the lowest index comes first, on every backend."""

from __future__ import annotations

from typing import Any

from ..diagnostics import Span
from ..dims.dim import Dim, as_dim, prove_ge
from ..numeric import np
from ..op import Attrs, Bad, Sample, Trait, fail
from ..types import TensorType, i64
from . import define
from .axes import normal_axis
from .meaning import ordered

_SORTS = (Trait.AXIS, Trait.SELECTS, Trait.KEEPS)


def _sort_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    attrs["axis"] = normal_axis(attrs["axis"], types[0], span)
    return [types[0], TensorType(i64, types[0].shape)]


def _sort_samples(rng: Any) -> list[Sample]:
    x = np.round(rng.standard_normal((3, 7)), 0).astype(np.float32)  # rounded, so that there are ties
    return [Sample((x,), {"axis": axis, "descending": d}) for axis in (-1, 0) for d in (False, True)]


def _sort(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    index = ordered(xs[0], attrs["axis"], attrs["descending"])
    return [np.take_along_axis(xs[0], index, attrs["axis"]), index]


define("sort(x: num[...], *, axis: int = -1, descending: bool = false) -> (num[...], i64[...])",
       "Sorted values and the indices they came from; stable.", family="order", rule=_sort_rule, traits=_SORTS, meaning=_sort,
       samples=_sort_samples,
       bad=(Bad((TensorType.of("f32", []),), {}, "E0305"),))  # fmt: skip


def _topk_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x, k = types[0], as_dim(attrs["k"])
    axis = attrs["axis"] = normal_axis(attrs["axis"], x, span)
    n = x.shape[axis]
    if prove_ge(k, n + 1):
        where = "the last axis" if axis == x.rank - 1 else f"axis {axis}"
        raise fail("E0306", f"topk: k = {k} is larger than the {n} elements of {where} of {x}", span)
    if prove_ge(-1, k):
        raise fail("E0306", f"topk: k = {k} is negative", span)
    shape: tuple[Dim, ...] = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return [TensorType(x.dtype, shape), TensorType(i64, shape)]


def _topk_samples(rng: Any) -> list[Sample]:
    x = np.round(rng.standard_normal((2, 3, 9)), 0).astype(np.float32)
    last = [Sample((x,), {"k": k, "largest": largest}) for k in (0, 1, 4, 9) for largest in (True, False)]
    return [*last, *(Sample((x,), {"k": k, "axis": axis}) for k, axis in ((1, 0), (2, 1), (3, -2)))]


def _topk(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    index = ordered(xs[0], attrs["axis"], attrs["largest"]).take(range(attrs["k"]), attrs["axis"])
    return [np.take_along_axis(xs[0], index, attrs["axis"]), index]


define("topk(x: num[...], *, k: int, axis: int = -1, largest: bool = true) -> (num[...], i64[...])",
       "The k largest (or smallest) elements along an axis, best first, and their indices; the lowest index among equals.",
       family="order", rule=_topk_rule, traits=_SORTS, meaning=_topk, samples=_topk_samples,
       bad=(Bad((TensorType.of("f32", [2, 5]),), {"k": 6}, "E0306"), Bad((TensorType.of("f32", [2, 5]),), {"k": 1, "axis": 2}, "E0305")))  # fmt: skip



def _search_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    row, values = types
    if row.rank != 1 and (row.rank != values.rank or row.shape[:-1] != values.shape[:-1]):
        code = "E0301" if row.rank != values.rank else "E0302"
        raise fail(code, f"searchsorted: {row} is one row, or has the leading axes of the values, which are {values}", span,
                   "a row for each row of values: sorted [..., N], values [..., M]")  # fmt: skip
    return [TensorType(i64, values.shape)]


def _search(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    row, values = xs
    side: Any = "right" if attrs["right"] else "left"
    if row.ndim == 1:
        return [np.searchsorted(row, values, side)]
    found = np.zeros(values.shape, np.int64)
    for at in np.ndindex(*values.shape[:-1]):
        found[at] = np.searchsorted(row[at], values[at], side)
    return [found]


def _search_samples(rng: Any) -> list[Sample]:
    row, values = np.array([1, 2, 2, 5], np.float32), rng.integers(0, 7, (3, 4)).astype(np.float32)
    rows = np.sort(rng.integers(0, 7, (2, 3, 5)), -1).astype(np.float32)
    many = rng.integers(-1, 8, (2, 3, 4)).astype(np.float32)
    return [Sample(pair, {"right": right}) for pair in ((row, values), (rows, many)) for right in (False, True)]


define("searchsorted(sorted: num[..., N], values: num[...], *, right: bool = false) -> i64[...]",
       "For each value the first position in an ascending row where it could be inserted (the last one when `right`). One row for"
       " all values, or sorted [..., N] for values [..., M].", family="order", rule=_search_rule, packs="free",
       traits=(Trait.SELECTS,), meaning=_search, samples=_search_samples,
       bad=(Bad((TensorType.of("f32", [2, 5]), TensorType.of("f32", [3])), {}, "E0301"),
            Bad((TensorType.of("f32", [2, 5]), TensorType.of("f32", [3, 4])), {}, "E0302")))  # fmt: skip
