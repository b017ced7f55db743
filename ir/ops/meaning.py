"""What several ops share when they say in NumPy what they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..op import Attrs, Meaning
from ..types import TensorType


def plain(function: Callable[..., Any]) -> Meaning:
    """A function of the operands, whatever the attributes are."""
    return lambda xs, attrs, types: [function(*xs)]


def along(function: Callable[..., Any]) -> Meaning:
    """A function of one operand and the axis that the attributes name."""
    return lambda xs, attrs, types: [function(xs[0], attrs["axis"])]


def reduction(function: Callable[..., Any]) -> Meaning:
    """A NumPy reduction of one operand, in the operand's own dtype."""

    def run(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
        return [function(xs[0], axis=attrs["axis"], keepdims=attrs["keepdims"])]

    return run


def ordered(x: Any, axis: int, descending: bool) -> Any:
    """The indices that sort along an axis: equal elements by ascending index, NaN as the largest."""
    if not descending:
        return np.argsort(x, axis, kind="stable")
    return x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)


def rows(index: Any, batch: int) -> tuple[Any, ...]:
    """What indexes an array [batch…, N, …] at ``index`` [batch…, K…]: one array for each of its first axes."""
    lead = np.indices(index.shape[:batch], sparse=True)
    tail = (1,) * (index.ndim - batch)
    return (*(i.reshape(*i.shape, *tail) for i in lead), index.astype(np.int64))
