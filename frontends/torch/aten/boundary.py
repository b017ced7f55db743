"""Padding: what lies beyond the ends of an axis is read at places within it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.dims.dim import as_dim
from ....ir.graph import Value
from ....ir.types import i64
from ..protocol import Import, Unsupported, aten
from .shape import pad


def _places(i: Import, x: Value, axis: int, before: Any, after: Any, mode: str) -> Value:
    """Where in ``axis`` each element of the padded axis is read."""
    size = x.type.shape[axis]
    at = i.op("iota", n=size + before + after, dtype=i64)
    if before != 0:
        at = i.op("sub", at, i.scalar(before, i64))
    last, zero = i.scalar(size - 1, i64), i.scalar(0, i64)
    if mode == "replicate":
        return i.op("minimum", i.op("maximum", at, zero), last)
    if mode == "reflect":
        return i.op("sub", last, i.op("abs", i.op("sub", last, i.op("abs", at))))
    return i.op("mod", i.op("add", at, i.scalar(size, i64)), i.scalar(size, i64))


def _beyond(i: Import, x: Value, widths: Sequence[Any], mode: str) -> Value:
    """Pairs of widths from the last axis on; a negative one cuts."""
    for pair in range(len(widths) // 2):
        axis, (before, after) = x.type.rank - 1 - pair, widths[2 * pair : 2 * pair + 2]
        cut = [as_dim(w).value or 0 for w in (before, after)]
        if mode == "circular" and min(cut) < 0:  # what is cut off does not come round again
            x = i.slice(x, axis, max(0, -cut[0]), x.type.shape[axis] + min(0, cut[1]))
            before, after = max(before, 0), max(after, 0)
        if (before, after) != (0, 0):
            x = i.op("take", x, _places(i, x, axis, as_dim(before), as_dim(after), mode), axis=axis)
    return x


@aten("pad")
def _pad(i: Import, x: Value, widths: Sequence[Any], mode: str = "constant", value: Any = None) -> Value:
    if mode == "constant":
        return pad(i, x, widths, value or 0)
    if mode not in ("reflect", "replicate", "circular"):
        raise Unsupported(f"padding by `{mode}`")
    return _beyond(i, x, widths, mode)


def _fixed(name: str, mode: str) -> None:
    @aten(name)
    def importer(i: Import, x: Value, widths: Sequence[Any]) -> Value:
        return _beyond(i, x, widths, mode)


for _mode, _name in (("reflect", "reflection"), ("replicate", "replication")):
    for _axes in (1, 2, 3):
        _fixed(f"{_name}_pad{_axes}d", _mode)
_fixed("_pad_circular", "circular")
