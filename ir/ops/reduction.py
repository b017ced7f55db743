"""Reductions over axes."""

from __future__ import annotations

from typing import Any

from ..diagnostics import Span
from ..dims.dim import Dim, const
from ..numeric import np
from ..op import Attrs, Bad, Sample, Trait
from ..types import TensorType, boolean, i64
from . import define
from .axes import normal_axes, normal_axis
from .meaning import Function, reduction


def reduced_shape(shape: tuple[Dim, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[Dim, ...]:
    """The shape after reducing ``axes``, which are canonical."""
    if keepdims:
        return tuple(const(1) if i in axes else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in axes)


def _rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x = types[0]
    attrs["axis"] = normal_axes(attrs["axis"], x, span)
    return [TensorType(x.dtype, reduced_shape(x.shape, attrs["axis"], attrs["keepdims"]))]


def _arg_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x = types[0]
    attrs["axis"] = normal_axis(attrs["axis"], x, span)
    return [TensorType(i64, reduced_shape(x.shape, (attrs["axis"],), attrs["keepdims"]))]


def _flops(types: list[TensorType], outputs: list[TensorType], attrs: Attrs) -> Dim:
    return types[0].numel


def _samples(boolean_input: bool = False, one_axis: bool = False) -> Any:
    def samples(rng: Any) -> list[Sample]:
        x = rng.standard_normal((3, 4, 5)).astype(np.float32)
        x = x > 0 if boolean_input else np.round(x, 1)
        axes: list[Any] = [0, -1] if one_axis else [0, -1, [0, 2], None]
        return [Sample((x,), {"axis": axis, "keepdims": keep}) for axis in axes for keep in (False, True)]

    return samples


_BAD = Bad((TensorType.of("f32", ["B", 3]),), {"axis": 2}, "E0305")

_EXTREME = (Trait.IDEMPOTENT, Trait.KEEPS, Trait.NONEMPTY)


def _logsumexp(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    most = np.max(x, axis=axis, keepdims=True)
    offset = np.where(np.isinf(most), 0, most)  # inf - inf is no number
    y = np.log(np.sum(np.exp(x - offset), axis=axis, keepdims=True)) + offset
    return y if keepdims else np.squeeze(y, axis=axis)


def _mean(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    return np.sum(x, axis=axis, keepdims=keepdims) / np.prod([x.shape[a] for a in axis])


_OVER_AXES: list[tuple[str, str, str, Function, tuple[Trait, ...]]] = [
    ("sum", "num", "The sum over `axis` (one, a list, or all).", "sum", (Trait.SUMS, Trait.SCALES)),
    ("mean", "float", "The arithmetic mean over `axis`.", _mean, (Trait.SUMS, Trait.SCALES, Trait.NONEMPTY)),
    ("logsumexp", "float", "`log(sum(exp(x)))` over `axis`, which does not overflow; of nothing but -inf it is -inf.", _logsumexp,
     (Trait.NONEMPTY,)),
    ("prod", "num", "The product over `axis`.", "prod", ()),
    ("max", "num", "The largest element over `axis`.", "max", _EXTREME),
    ("min", "num", "The smallest element over `axis`.", "min", _EXTREME),
]
for _name, _kind, _doc, _meaning, _traits in _OVER_AXES:
    define(f"{_name}(x: {_kind}[...], *, axis: any = none, keepdims: bool = false) -> {_kind}[...]", _doc,
           family="reduction", rule=_rule, flops=_flops, traits=_traits, meaning=reduction(_meaning),
           samples=_samples(), bad=(_BAD,))  # fmt: skip

for _name, _doc in [("any", "Whether some element is true."), ("all", "Whether all elements are true.")]:
    define(f"{_name}(x: bool[...], *, axis: any = none, keepdims: bool = false) -> bool[...]", _doc, family="reduction",
           rule=_rule, flops=_flops, traits=(Trait.IDEMPOTENT,), meaning=reduction(_name), samples=_samples(True),
           bad=(Bad((TensorType(boolean, (const(2),)),), {"axis": 1}, "E0305"),))  # fmt: skip

for _name, _doc in [
    ("argmax", "The index of the largest element along one axis; the lowest index among equals."),
    ("argmin", "The index of the smallest element along one axis; the lowest index among equals."),
]:
    define(f"{_name}(x: num[...], *, axis: int = -1, keepdims: bool = false) -> i64[...]", _doc, family="reduction",
           rule=_arg_rule, flops=_flops, traits=(Trait.SELECTS, Trait.NONEMPTY), meaning=reduction(_name),
           samples=_samples(one_axis=True), bad=(_BAD,))  # fmt: skip
