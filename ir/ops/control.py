"""Regions: loops and choices, with a graph in an attribute for each body. Samples live in the tests, since a body is a graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..diagnostics import Span
from ..dims.dim import Dim, as_dim, prove_ge
from ..numeric import np
from ..op import Attrs, Trait, fail
from ..types import TensorType
from . import define

if TYPE_CHECKING:
    from ..graph import Graph, Input


def _takes(op: str, what: str, inputs: Sequence[Input], given: list[TensorType], span: Span | None) -> None:
    """Raises E0308 for a region that does not take what it is given."""
    if [v.type for v in inputs] != given:
        raise fail("E0308", f"{op}: {what} takes {_shown(v.type for v in inputs)}, but is given {_shown(given)}", span)


def _keeps(op: str, body: Graph, inputs: Sequence[Input], carried: list[TensorType], span: Span | None) -> None:
    """Raises E0308 for a carried value, one of the first ``inputs``, that another type becomes of."""
    for i, (value, type) in enumerate(zip(body.outputs, carried, strict=False)):
        if value.type != type:
            raise fail("E0308", f"{op}: the carried value `{inputs[i].name}` starts as {type} but becomes {value.type}", span,
                       "a carried value keeps its type; `repeat` is for counts that shrink")  # fmt: skip


def _steps(op: str, what: str, steps: Any, span: Span | None) -> Dim:
    """Raises E0402 for a count that is known to be negative."""
    count = as_dim(steps)
    if prove_ge(-1, count):
        raise fail("E0402", f"{op}: {what} is {count}, but must not be negative", span, "0 steps leave everything as it is")
    return count


def _shown(types: Iterable[TensorType]) -> str:
    return f"({', '.join(map(str, types))})"


def _fold_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    body: Graph = attrs["body"]
    carried = types[: attrs["carried"]]
    _takes("fold", "the body", body.inputs[1:], types, span)
    _keeps("fold", body, body.inputs[1:], carried, span)
    steps = _steps("fold", "the number of steps", attrs["n"], span)
    stacked = [v.type for v in body.outputs[len(carried) :]]
    return [*carried, *(TensorType(type.dtype, (steps, *type.shape)) for type in stacked)]


def _fold(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    carried, captured = xs[: attrs["carried"]], xs[attrs["carried"] :]
    count = len(carried)
    rows = []
    for i in range(attrs["n"]):
        results = attrs["body"]([np.int64(i), *carried, *captured])
        carried = results[:count]
        rows.append(results[count:])
    empty = [np.zeros([0, *map(int, type.shape[1:])], type.dtype.numpy) for type in types[count:]] if not rows else []
    return [*carried, *empty, *map(np.stack, zip(*rows, strict=True))]


define("fold(values: any[...]*, *, n: int, carried: int, body: any) -> any[...]",
       "A sequential loop of n steps. Operands: the carried values, then the captured ones. Body: (i: i64[], carried…,"
       " captured…) -> (carried…, stacked…), of which the latter are kept, one a step: `[n, …]` behind the last carried values."
       " Written `fold i in n from (a, b) stack (y) { … }`.", family="control", rule=_fold_rule, packs="mixed",
       traits=(Trait.REGION,), meaning=_fold)  # fmt: skip


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
    _takes("scan", "the function", body.inputs, wanted, span)
    if [v.type for v in body.outputs] != slices:
        raise fail(
            "E0308",
            f"scan: the function must return {_shown(slices)}, but returns {_shown(v.type for v in body.outputs)}",
            span,
        )
    return list(scanned)


def _scan(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    axis, count = attrs["axis"], attrs["carried"]
    captured = xs[count:]
    scanned = [np.moveaxis(x, axis, 0) for x in xs[:count]]
    out = [x.copy() for x in scanned]
    for t in range(1, len(out[0])):
        left, right = [y[t - 1] for y in out], [x[t] for x in scanned]
        for y, combined in zip(out, attrs["body"]([*left, *right, *captured]), strict=True):
            y[t] = combined
    return [np.moveaxis(y, 0, axis) for y in out]


define("scan(values: any[...]*, *, axis: int, carried: int, body: any) -> any[...]",
       "Running results of an associative function along one axis. Operands: the scanned values, then captured ones. Body:"
       " (left…, right…, captured…) -> combined…, over slices without the axis. Written `scan(f, x, y, axis=1)`.",
       family="control", rule=_scan_rule, packs="mixed", traits=(Trait.REGION,), meaning=_scan)  # fmt: skip


def _cond_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    predicate, values = types[0], types[1:]
    _predicate("cond", predicate, span)
    results = []
    for word, name in (("then", "first"), ("orelse", "second")):
        branch: Graph = attrs[word]
        _takes("cond", f"the {name} branch", branch.inputs, values, span)
        results.append([v.type for v in branch.outputs])
    names = [info.name for info in attrs["then"].output_info]
    for value, a, b in zip(names, *results, strict=True):
        if a != b:
            raise fail("E0308", f"cond: `{value}` is {a} after the first branch, but {b} after the second", span,
                       "both branches give one type; `if` on a static condition may choose between types")  # fmt: skip
    return results[0]


def _cond(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    return list(attrs["then" if xs[0] else "orelse"](xs[1:]))


define("cond(p: any[...], values: any[...]*, *, carried: int, then: any, orelse: any) -> any[...]",
       "One of two branches, chosen by a scalar. Operands: the predicate, the names that the branches rebind, captured values."
       " Branches: (carried…, captured…) -> carried…. Written `cond p from (a, b) { … } else { … }`.",
       family="control", rule=_cond_rule, packs="mixed", traits=(Trait.REGION,), meaning=_cond)  # fmt: skip


def _while_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    _steps("while", "the limit", attrs["limit"], span)
    carried = types[: attrs["carried"]]
    for word in ("test", "body"):
        _takes("while", f"the {word}", attrs[word].inputs, types, span)
    _predicate("while", attrs["test"].outputs[0].type, span)
    body: Graph = attrs["body"]
    _keeps("while", body, body.inputs, carried, span)
    return list(carried)


def _while(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    carried, captured = xs[: attrs["carried"]], xs[attrs["carried"] :]
    for _ in range(attrs["limit"]):
        if not attrs["test"]([*carried, *captured])[0]:
            break
        carried = attrs["body"]([*carried, *captured])
    return carried


define("while(values: any[...]*, *, limit: int, carried: int, test: any, body: any) -> any[...]",
       "A loop that runs as long as a scalar is true, and at most `limit` steps. Operands: the carried values, then captured"
       " ones. Test: (carried…, captured…) -> bool[]; body: (carried…, captured…) -> carried…. Written"
       " `while p from (a, b) limit n { … }`.", family="control", rule=_while_rule, packs="mixed",
       traits=(Trait.REGION,), meaning=_while)  # fmt: skip


def _predicate(op: str, type: TensorType, span: Span | None) -> None:
    """Raises E0308 for a condition that is not one truth value."""
    if type != TensorType.of("bool"):
        raise fail("E0308", f"{op}: the condition must be bool[], but is {type}", span,
                   "`where(c, a, b)` chooses element by element; `any(c, axis=…)` and `all(c, axis=…)` make one of many"
                   if type.dtype.kind == "bool" else None)  # fmt: skip
