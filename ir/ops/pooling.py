"""Maxima and means of windows that move over the last one or two axes."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..diagnostics import Span
from ..dims.dim import Dim, as_dim, ceildiv, const, dim_min, product, prove_ge
from ..numeric import np
from ..op import Attrs, Bad, Meaning, Sample, fail
from ..types import TensorType
from . import define


def pooled(size: Dim, attrs: Attrs, i: int) -> Dim:
    """How many windows fit along spatial axis ``i``, whose elements are ``size`` without padding."""
    kernel, stride, padding = attrs["kernel"][i], attrs["stride"][i], attrs["padding"][i]
    room = size + 2 * padding - kernel
    if not attrs["ceil_mode"]:
        return room // stride + 1
    # The last window may hang over the end, but does not start behind the elements.
    return dim_min(ceildiv(room, as_dim(stride)) + 1, ceildiv(size + padding, as_dim(stride)))


def overhang(size: Dim, attrs: Attrs, i: int) -> Dim:
    """How far the last window reaches over the padded end; at most 0 where all windows fit."""
    kernel, stride, padding = attrs["kernel"][i], attrs["stride"][i], attrs["padding"][i]
    return (pooled(size, attrs, i) - 1) * stride + kernel - size - 2 * padding


def _rule(types: list[TensorType], attrs: Attrs, span: Span | None, *, name: str) -> list[TensorType]:
    x, spatial = types[0], int(name[-2])
    if attrs["stride"] is None:
        attrs["stride"] = attrs["kernel"]
    for key, least in (("kernel", 1), ("stride", 1), ("padding", 0)):
        value = attrs[key]
        attrs[key] = value if isinstance(value, tuple) else (value,) * spatial
        if len(attrs[key]) != spatial:
            raise fail("E0405", f"{name}: `{key}` has {len(attrs[key])} entries for {spatial} spatial axes", span)
        if not all(isinstance(v, int) and v >= least for v in attrs[key]):
            code = "E0402" if any(isinstance(v, Dim) for v in attrs[key]) else "E0405"
            shown = ", ".join(map(str, attrs[key]))
            raise fail(code, f"{name}: `{key}` must be integers from {least}, but is [{shown}]", span)
    if any(2 * p > k for p, k in zip(attrs["padding"], attrs["kernel"], strict=True)):
        raise fail("E0405", f"{name}: padding {list(attrs['padding'])} is more than half of the window"
                   f" {list(attrs['kernel'])}, so that some window would hold nothing else", span)  # fmt: skip
    for i in range(spatial):
        size = x.shape[2 + i]
        if prove_ge(attrs["kernel"][i] - 1, size + 2 * attrs["padding"][i]):
            raise fail("E0306", f"{name}: the window of {attrs['kernel'][i]} is longer than axis {2 + i} of {x},"
                       " padding included", span)  # fmt: skip
    return [TensorType(x.dtype, (*x.shape[:2], *(pooled(x.shape[2 + i], attrs, i) for i in range(spatial))))]


def _flops(types: list[TensorType], outputs: list[TensorType], attrs: Attrs) -> Dim:
    return outputs[0].numel * product(const(k) for k in attrs["kernel"])


def _pool(largest: bool) -> Meaning:
    def run(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
        x, spatial = xs[0], range(len(attrs["kernel"]))
        sizes = [int(pooled(const(x.shape[2 + i]), attrs, i)) for i in spatial]
        ends = [max(0, int(overhang(const(x.shape[2 + i]), attrs, i))) for i in spatial]
        inner = [(0, 0), (0, 0), *((p, p) for p in attrs["padding"])]
        outer = [(0, 0), (0, 0), *((0, end) for end in ends)]
        fill = -np.inf if largest else 0
        # What counts: the elements, and the padding if it is asked for; never what hangs over.
        counted = np.pad(np.ones_like(x), inner, constant_values=float(attrs.get("count_include_pad", False)))
        padded, counted = np.pad(np.pad(x, inner, constant_values=fill), outer, constant_values=fill), np.pad(counted, outer)
        out, count = np.full((*x.shape[:2], *sizes), fill, x.dtype), np.zeros((*x.shape[:2], *sizes), x.dtype)
        for at in np.ndindex(*attrs["kernel"]):
            seen: Any = (..., *(slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(at, sizes, attrs["stride"], strict=True)))
            out = np.maximum(out, padded[seen]) if largest else out + padded[seen]
            count = count + counted[seen]
        return [out if largest else out / count]

    return run


def _samples(spatial: int, largest: bool) -> Any:
    def samples(rng: Any) -> list[Sample]:
        x = rng.standard_normal((2, 3, 9, 8)[: 2 + spatial]).astype(np.float32)
        rows: list[Attrs] = [
            {"kernel": 2}, {"kernel": 3, "stride": 2, "padding": 1}, {"kernel": 3, "stride": 1},
            {"kernel": 4, "stride": 3, "padding": 2, "ceil_mode": True}, {"kernel": 2, "ceil_mode": True},
        ]  # fmt: skip
        if spatial == 2:
            rows.append({"kernel": [3, 2], "stride": [2, 3], "padding": [1, 0], "ceil_mode": True})
        if not largest:
            rows += [{**row, "count_include_pad": False} for row in rows if "padding" in row]
        return [Sample((x,), row) for row in rows]

    return samples


for _spatial, _shape in ((1, "B, C, N"), (2, "B, C, H, W")):
    _X = TensorType.of("f32", ["B", 3, *[4] * _spatial])
    for _which, _word, _more, _help in (
        ("max", "largest element", "", ""),
        ("avg", "mean", ", count_include_pad: bool = true", "; `count_include_pad` has its zeros count"),
    ):
        _name = f"{_which}_pool{_spatial}d"
        define(f"{_name}(x: float[{_shape}], *, kernel: any, stride: any = none, padding: any = 0, ceil_mode: bool = false{_more})"
               " -> float[...]",
               f"The {_word} of each window of `kernel` elements, every `stride` (the kernel, unless given), over x with `padding` on"
               f" both sides{_help}. With `ceil_mode` the last window may hang over the end.",
               family="contraction", rule=partial(_rule, name=_name), packs="free", flops=_flops,
               meaning=_pool(_which == "max"), samples=_samples(_spatial, _which == "max"),
               bad=(Bad((_X,), {"kernel": 5}, "E0306"), Bad((_X,), {"kernel": 3, "padding": 2}, "E0405"),
                    Bad((_X,), {"kernel": 0}, "E0405")))  # fmt: skip
