"""Loops with a body graph in the attribute ``body``. Samples live in the tests, since a body is a graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..diagnostics import Span
from ..op import Attrs, fail
from ..types import TensorType
from . import define

if TYPE_CHECKING:
    from ..graph import Graph


def _fold_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    body: Graph = attrs["body"]
    carried = types[: attrs["carried"]]
    if [v.type for v in body.inputs[1:]] != types:
        raise fail(
            "E0308",
            f"fold: the body takes {_shown(v.type for v in body.inputs[1:])}, but is given {_shown(types)}",
            span,
        )
    for i, (value, type) in enumerate(zip(body.outputs, carried, strict=True)):
        if value.type != type:
            raise fail("E0308", f"fold: the carried value `{body.inputs[1 + i].name}` starts as {type} but becomes {value.type}", span,
                       "a carried value keeps its type; `repeat` is for counts that shrink")  # fmt: skip
    return list(carried)


define("fold(values: any[...]*, *, n: int, carried: int, body: any) -> any[...]",
       "A sequential loop of n steps. Operands: the carried values, then the captured ones. Body: (i: i64[], carried…,"
       " captured…) -> carried…. Written `fold i in n from (a, b) { … }`.", family="control", rule=_fold_rule, packs="mixed")  # fmt: skip


def _scan_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    from .axes import normal_axis

    body: Graph = attrs["body"]
    scanned = types[: attrs["carried"]]
    if not scanned:
        raise fail("E0404", "scan needs at least one tensor to run over", span)
    axis = attrs["axis"] = normal_axis(attrs["axis"], scanned[0], span)
    slices = []
    for type in scanned:
        if type.rank <= axis or type.shape[axis] != scanned[0].shape[axis]:
            raise fail(
                "E0302", f"scan: axis {axis} of {type} must be {scanned[0].shape[axis]}, as of the first tensor", span
            )
        slices.append(TensorType(type.dtype, type.shape[:axis] + type.shape[axis + 1 :]))
    wanted = [*slices, *slices, *types[len(scanned) :]]
    if [v.type for v in body.inputs] != wanted:
        raise fail(
            "E0308",
            f"scan: the function takes {_shown(v.type for v in body.inputs)}, but is given {_shown(wanted)}",
            span,
        )
    if [v.type for v in body.outputs] != slices:
        raise fail(
            "E0308",
            f"scan: the function must return {_shown(slices)}, but returns {_shown(v.type for v in body.outputs)}",
            span,
        )
    return list(scanned)


def _shown(types: Iterable[TensorType]) -> str:
    return f"({', '.join(map(str, types))})"


define("scan(values: any[...]*, *, axis: int, carried: int, body: any) -> any[...]",
       "Running results of an associative function along one axis. Operands: the scanned values, then captured ones. Body:"
       " (left…, right…, captured…) -> combined…, over slices without the axis. Written `scan(f, x, y, axis=1)`.",
       family="control", rule=_scan_rule, packs="mixed")  # fmt: skip
