"""`Loop` and `Scan`: a `fold` where the number of turns is known or a size, else a `while`."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from ....ir.diagnostics import Diagnostic
from ....ir.dims.dim import Dim, as_dim
from ....ir.graph import Graph, Input, Value
from ....ir.types import TensorType, boolean, i64
from ..call import Call
from ..scope import Frame, Scope
from ..values import Region, Tensor, dims_of, known_tensor
from .control import agree, control, fail, result

# How often a loop turns at most that says no number.
_MOST_TURNS = (1 << 31) - 1


@control("Loop")
def loop(c: Call) -> Frame | None:
    body = _body(c)
    carried = [c.tensor(i) for i in range(2, len(c.inputs))]
    if len(body.input) != 2 + len(carried) or len(body.output) < 1 + len(carried):
        raise Diagnostic("E0754", f"{c.where}: the body takes and gives another number of values than the loop")
    region, scope, index = _enter(c, body.input[0].name)
    # A turn begins only while the condition holds.
    scope.names[body.input[1].name] = known_tensor(np.array(True))
    _carry(region, scope, [value.name for value in body.input[2:]], carried)
    c.importer.nested(body, scope, c.node)
    again, *results = [result(c, scope, value.name) for value in body.output]
    for old, new in zip(carried, results, strict=False):
        agree(c, old, new, f"a carried value starts as {old.type} but becomes {new.type}")
    count = c.known(0) if c.has(0) else None
    if count is not None and _true(c.known(1) if c.has(1) else np.array(True)) and _true(again.known):
        _finish(c, region, carried, results, dims_of(count)[0])
        return None
    if len(results) > len(carried):
        raise fail(c, "it collects a result of every turn, and how many there are depends on the values of tensors")
    limit = as_dim(_MOST_TURNS) if count is None else dims_of(count)[0]
    _while(c, region, carried, results, index, again, limit)
    return None


@control("Scan")
def scan(c: Call) -> Frame | None:
    """One turn for each place of the scanned operands; what it gives beside its states stands side by side."""
    body, slices = _body(c), c.attr("num_scan_inputs", 0)
    operands = [c.tensor(i) for i in range(len(c.inputs))]
    states, scanned = operands[: len(operands) - slices], operands[len(operands) - slices :]
    if not scanned or len(body.input) != len(operands) or len(body.output) < len(states):
        raise Diagnostic("E0754", f"{c.where}: the body takes and gives another number of values than the scan")
    kept = len(body.output) - len(states)
    axes = c.attr("scan_input_axes") or [0] * slices
    backwards = c.attr("scan_input_directions") or [0] * slices
    region, scope, index = _enter(c, "")
    axes = [c.normal_axis(axis, t.type.rank) for axis, t in zip(axes, scanned, strict=True)]
    steps = scanned[0].type.shape[axes[0]]
    for t, axis in zip(scanned, axes, strict=True):
        c.equal(t.type.shape[axis], steps, f"axis {axis} of {t.type}, which is scanned")
    _carry(region, scope, [value.name for value in body.input[: len(states)]], states)
    b = region.builder
    for given, t, axis, back in zip(body.input[len(states) :], scanned, axes, backwards, strict=True):
        at = b.op("sub", _number(region, steps - 1), index) if back else index
        element = b.op("take", region.value(t), at, axis=axis)
        scope.names[given.name] = Tensor(element.type, value=element, region=region)
    c.importer.nested(body, scope, c.node)
    results = [result(c, scope, value.name) for value in body.output]
    for old, new in zip(states, results, strict=False):
        agree(c, old, new, f"a state starts as {old.type} but becomes {new.type}")
    values = _finish(c, region, states, results, steps)
    directions = c.attr("scan_output_directions") or [0] * kept
    places = c.attr("scan_output_axes") or [0] * kept
    for i, (back, place) in enumerate(zip(directions, places, strict=True)):
        rows = values[len(states) + i]
        if back:
            rows = c.op("flip", rows, axis=0)
        order = list(range(1, rows.type.rank))
        order.insert(c.normal_axis(place, rows.type.rank), 0)
        values[len(states) + i] = c.transpose(rows, order)
    c.importer.assign(c.node, c.scope, values)
    return None


def _body(c: Call) -> Any:
    body = c.attr("body")
    if body is None:
        raise Diagnostic("E0754", f"{c.where} lacks its body")
    return body


def _enter(c: Call, counter: str) -> tuple[Region, Scope, Value]:
    """A region whose first input is the number of the turn."""
    region = Region(Graph("body"), c.importer.names, c.importer.weights, c.region)
    scope = Scope(region, c.scope)
    index = region.builder.input("i", TensorType(i64, ()))
    if counter:
        scope.names[counter] = Tensor(index.type, value=index, region=region, nonnegative=True)
    return region, scope, index


def _carry(region: Region, scope: Scope, names: list[str], carried: list[Tensor]) -> None:
    for name, tensor in zip(names, carried, strict=True):
        inner = region.builder.input(f"carry_{len(region.graph.inputs)}", tensor.type)
        scope.names[name] = Tensor(inner.type, value=inner, region=region)


def _number(region: Region, dim: Dim) -> Value:
    return region.builder.constant(dim.value, i64) if dim.value is not None else region.builder.dim_value(dim)


def _true(known: np.ndarray | None) -> bool:
    return known is not None and known.dtype != object and known.size == 1 and bool(known.reshape(-1)[0])


def _finish(c: Call, region: Region, carried: list[Tensor], results: list[Tensor], turns: Dim) -> list[Value]:
    """The `fold` of so many turns; its results are the node's."""
    for i, tensor in enumerate(results):
        region.graph.add_output(region.value(tensor), f"carry_{i}")
    outer = [c.region.value(tensor) for tensor, _ in region.captured.values()]
    starts = [c.region.value(t) for t in carried]
    values = list(c.multi("fold", *starts, *outer, n=turns, carried=len(carried), body=region.graph))
    c.importer.assign(c.node, c.scope, values)
    return values


def _while(
    c: Call, region: Region, carried: list[Tensor], results: list[Tensor], index: Value, again: Tensor, limit: Dim
) -> None:
    """A `while` that carries the number of the turn, and whether there is another."""
    b = region.builder
    following = b.op("add", index, b.constant(1, i64))
    going = [] if _true(again.known) else [_flat(b, region.value(again))]
    starting = [] if not c.has(1) or _true(c.known(1)) else [_flat(c, c.x(1))]
    if c.has(0) and c.known(0) is None:
        # A number of turns that only run time knows.
        going.append(b.op("lt", following, _plain(b, region.value(c.tensor(0)))))
        starting.append(c.op("lt", c.scalar(0, i64), _plain(c, c.x(0))))
    go = reduce(lambda x, y: b.op("logical_and", x, y), going) if going else b.constant(True, boolean)
    start = reduce(lambda x, y: c.op("logical_and", x, y), starting) if starting else c.scalar(True, boolean)
    for value, name in ((following, "i"), (go, "go")):
        region.graph.add_output(value, name)
    for i, tensor in enumerate(results):
        region.graph.add_output(region.value(tensor), f"carry_{i}")
    region.graph.inputs.insert(1, Input(TensorType(boolean, ()), "go"))
    outer = [c.region.value(tensor) for tensor, _ in region.captured.values()]
    test = Graph("test")
    asked = [test.add_input(Input(value.type, value.name)) for value in region.graph.inputs]
    test.add_output(asked[1], "go")
    starts = [c.scalar(0, i64), start, *(c.region.value(t) for t in carried)]
    values = c.multi(
        "while", *starts, *outer, limit=limit.value if limit.value is not None else limit, carried=len(starts), test=test,
        body=region.graph,
    )  # fmt: skip
    c.importer.assign(c.node, c.scope, values[2:])


def _plain(maker: Any, value: Value) -> Value:
    """A number of turns as i64[]."""
    return _flat(maker, value if value.type.dtype == i64 else maker.op("cast", value, dtype=i64))


def _flat(maker: Any, value: Value) -> Value:
    """One element as a tensor of no axes."""
    return value if not value.type.rank else maker.op("reshape", value, shape=())
