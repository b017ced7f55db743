"""What several ops share when they say in NumPy what they compute."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from ..numeric import np
from ..op import Attrs, Meaning
from ..types import TensorType

# A function of arrays, or NumPy's name of one, which takes no NumPy until it is called: "maximum.accumulate".
Function = str | Callable[..., Any]


def resolved(function: Function) -> Any:
    return attrgetter(function)(np) if isinstance(function, str) else function


def plain(function: Function) -> Meaning:
    """A function of the operands, whatever the attributes are."""
    return lambda xs, attrs, types: [resolved(function)(*xs)]


def along(function: Function) -> Meaning:
    """A function of one operand and the axis that the attributes name."""
    return lambda xs, attrs, types: [resolved(function)(xs[0], attrs["axis"])]


def reduction(function: Function) -> Meaning:
    """A NumPy reduction of one operand, in the operand's own dtype."""

    def run(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
        return [resolved(function)(xs[0], axis=attrs["axis"], keepdims=attrs["keepdims"])]

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
