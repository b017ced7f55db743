"""`If` whose condition is known while importing, and `Loop` with a known number of turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....ir.diagnostics import Diagnostic
from ....ir.dims.dim import Dim, as_dim
from ....ir.graph import Graph, Value
from ....ir.op import Trait, has
from ....ir.types import TensorType, i64
from ..call import Call
from ..registry import CONTROL
from ..scope import Frame, Scope
from ..values import Region, Tensor, dims_of, known_tensor


def control(name: str) -> Callable[[Callable[[Call], Frame | None]], Callable[[Call], Frame | None]]:
    def register(function: Callable[[Call], Frame | None]) -> Callable[[Call], Frame | None]:
        CONTROL[("", name)] = function
        return function

    return register


def _fail(c: Call, what: str) -> Diagnostic:
    return Diagnostic("E0760", f"{c.where}: {what}")


@control("If")
def if_(c: Call) -> Frame | None:
    condition = c.known(0)
    if condition is not None and condition.dtype != object and condition.size == 1:
        chosen = bool(condition.reshape(-1)[0])
    else:
        chosen = _assumed(c)
    body = c.attr("then_branch" if chosen else "else_branch")
    if body is None:
        raise Diagnostic("E0754", f"{c.where} lacks a branch")
    return c.importer.enter(body, Scope(c.region, c.scope), c.node, c.scope)


def _assumed(c: Call) -> bool:
    """The answer to whether a free size is one number, as exporters ask before they squeeze it: no, and that is required.

    Raises E0760 for every other question.
    """
    value, answer = c.tensor(0).value, False
    while value is not None and value.node is not None and value.node.op.name in ("squeeze", "reshape", "logical_not", "cast"):
        answer ^= value.node.op.name == "logical_not"
        value = value.node.inputs[0]
    node = None if value is None else value.node
    sides = [None, None] if node is None or node.op.name != "eq" else [_size(v) for v in node.inputs]
    left, right = sides
    if left is None or right is None or not (left.symbols or right.symbols):
        raise _fail(c, "its condition depends on the values of tensors, or on sizes that are left free")
    c.importer.differ(left, right, c.where)
    return answer


def _size(value: Value | None) -> Dim | None:
    """The size that a scalar of the program is."""
    node = None if value is None else value.node
    while node is not None and (has(node, Trait.RESHAPES) or node.op.name == "cast"):
        inner = node.inputs[0]
        node = None if inner is None else inner.node
    if node is None or node.op.name not in ("full", "constant"):
        return None
    number = node.attrs["value"]
    while isinstance(number, tuple) and len(number) == 1:
        number = number[0]
    return as_dim(number) if isinstance(number, (int, Dim)) and not isinstance(number, bool) else None


@control("Loop")
def loop(c: Call) -> Frame | None:
    body = c.attr("body")
    if body is None:
        raise Diagnostic("E0754", f"{c.where} lacks its body")
    carried = [c.tensor(i) for i in range(2, len(c.inputs))]
    if len(body.input) != 2 + len(carried) or len(body.output) < 1 + len(carried):
        raise Diagnostic("E0754", f"{c.where}: the body takes and gives another number of values than the loop")
    if len(body.output) > 1 + len(carried):
        raise _fail(c, "it collects a result of every turn")
    count = c.known(0) if c.has(0) else None
    if count is None:
        raise _fail(c, "how often it runs depends on the values of tensors")
    if c.has(1):
        start = c.known(1)
        if start is None or not bool(start.reshape(-1)[0]):
            raise _fail(c, "whether it runs at all depends on the values of tensors")
    graph = Graph("body")
    region = Region(graph, c.importer.names, c.importer.weights, c.region)
    scope = Scope(region, c.scope)
    index = region.builder.input("i", TensorType(i64, ()))
    scope.names[body.input[0].name] = Tensor(index.type, value=index, region=region, nonnegative=True)
    scope.names[body.input[1].name] = known_tensor(np.array(True))
    for given, tensor in zip(body.input[2:], carried, strict=True):
        inner = region.builder.input(f"carry_{len(graph.inputs)}", tensor.type)
        scope.names[given.name] = Tensor(inner.type, value=inner, region=region)
    c.importer.nested(body, scope, c.node)
    again = scope.find(body.output[0].name)
    if again is None or again.known is None or not bool(again.known.reshape(-1)[0]):
        raise _fail(c, "when it ends depends on the values of tensors")
    results = [_found(c, scope, value.name) for value in body.output[1:]]
    for result, tensor in zip(results, carried, strict=True):
        if result.type.rank != tensor.type.rank or result.type.dtype != tensor.type.dtype:
            raise _fail(c, f"a carried value starts as {tensor.type} but becomes {result.type}")
        for axis, (a, b) in enumerate(zip(result.type.shape, tensor.type.shape, strict=True)):
            c.equal(a, b, f"axis {axis} of a carried value")
    for i, result in enumerate(results):
        graph.add_output(region.value(result), f"carry_{i}")
    operands = [c.region.value(t) for t in carried] + [c.region.value(outer) for outer, _ in region.captured.values()]
    values = c.multi("fold", *operands, n=dims_of(count)[0], carried=len(carried), body=graph)
    c.importer.assign(c.node, c.scope, values)
    return None


def _found(c: Call, scope: Scope, name: str) -> Any:
    found = scope.find(name)
    if found is None:
        raise Diagnostic("E0754", f"{c.where}: the body gives `{name[:200]}`, which nothing in it is called")
    return found
