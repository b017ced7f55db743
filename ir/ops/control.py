"""Loops with a body graph in the attribute ``body``. Samples live in the tests, since a body is a graph."""

from __future__ import annotations

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
        raise fail("E0308", f"fold: the body takes {[str(v.type) for v in body.inputs[1:]]}, but is given {[str(t) for t in types]}", span)
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
    attrs["axis"] = normal_axis(attrs["axis"], types[0], span)
    for value, type in zip(body.outputs, types[: attrs["carried"]], strict=True):
        wanted = TensorType(type.dtype, type.shape[: attrs["axis"]] + type.shape[attrs["axis"] + 1 :])
        if value.type != wanted:
            raise fail("E0308", f"scan: the function must return {wanted}, but returns {value.type}", span)
    return list(types[: attrs["carried"]])


define("scan(values: any[...]*, *, axis: int, carried: int, body: any) -> any[...]",
       "Running results of an associative function along one axis. Operands: the scanned values, then captured ones. Body:"
       " (left…, right…, captured…) -> combined…, over slices without the axis. Written `scan(f, x, y, axis=1)`.",
       family="control", rule=_scan_rule, packs="mixed")  # fmt: skip
