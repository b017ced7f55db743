"""Axis arguments: counted from the front, negative ones from the back."""

from __future__ import annotations

from typing import Any

from ..diagnostics import Span
from ..op import fail
from ..types import TensorType


def normal_axis(axis: Any, type: TensorType, span: Span | None, extra: int = 0) -> int:
    """``axis`` in 0 … rank - 1 (+ ``extra`` for ops that add axes). Raises E0305 when it is out of range."""
    rank = type.rank + extra
    if not isinstance(axis, int) or isinstance(axis, bool) or not -rank <= axis < rank:
        raise fail("E0305", f"axis {axis} does not exist in {type}, which has {type.rank} axes", span,
                   f"use an axis from {-rank} to {rank - 1}" if rank else "a scalar has no axes")  # fmt: skip
    return axis % rank


def normal_axes(axes: Any, type: TensorType, span: Span | None, extra: int = 0) -> tuple[int, ...]:
    """One axis, a list of axes, or None for all, sorted. Raises E0305 when one is out of range or named twice."""
    if axes is None:
        return tuple(range(type.rank))
    given = axes if isinstance(axes, tuple) else (axes,)
    result = sorted(normal_axis(a, type, span, extra) for a in given)
    if len(set(result)) != len(result):
        raise fail("E0305", f"an axis is named twice in {list(given)}", span)
    return tuple(result)
