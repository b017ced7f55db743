"""`If`: a branch where the condition is known while importing, else a choice at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir.diagnostics import Diagnostic
from ....ir.dims.dim import Dim, as_dim
from ....ir.graph import Graph, Input, Value
from ....ir.op import Trait, has, kept
from ....ir.types import boolean
from ..call import Call
from ..registry import CONTROL
from ..scope import Frame, Scope
from ..values import Region, Tensor


def control(name: str) -> Callable[[Callable[[Call], Frame | None]], Callable[[Call], Frame | None]]:
    def register(function: Callable[[Call], Frame | None]) -> Callable[[Call], Frame | None]:
        CONTROL[("", name)] = function
        return function

    return register


def fail(c: Call, what: str) -> Diagnostic:
    return Diagnostic("E0760", f"{c.where}: {what}")


@control("If")
def if_(c: Call) -> Frame | None:
    condition = c.known(0)
    if condition is not None and condition.dtype != object and condition.size == 1:
        chosen: bool | None = bool(condition.reshape(-1)[0])
    else:
        chosen = _assumed(c)
    if chosen is None:
        _choice(c)
        return None
    return c.importer.enter(_branch(c, "then_branch" if chosen else "else_branch"), Scope(c.region, c.scope), c.node, c.scope)


def _branch(c: Call, word: str) -> Any:
    body = c.attr(word)
    if body is None:
        raise Diagnostic("E0754", f"{c.where} lacks a branch")
    return body


def _assumed(c: Call) -> bool | None:
    """The answer to whether a free size is one number, as exporters ask before they squeeze it: no, and that is required.

    None for every other question.
    """
    value, answer = c.tensor(0).value, False
    node = None if value is None else value.node
    # Of a single element, what keeps elements gives that one.
    while node is not None and (kept(node) == [0] or node.op.name == "logical_not"):
        answer ^= node.op.name == "logical_not"
        value = node.inputs[0]
        node = None if value is None or value.type.numel != 1 else value.node
    sides = [None, None] if node is None or node.op.name != "eq" else [_size(v) for v in node.inputs]
    left, right = sides
    if left is None or right is None or not (left.symbols or right.symbols):
        return None
    c.importer.differ(left, right, c.where)
    return answer


def _size(value: Value | None) -> Dim | None:
    """The size that a scalar of the program is."""
    node = None if value is None else value.node
    while node is not None and kept(node) == [0]:
        inner = node.inputs[0]
        node = None if inner is None or inner.type.numel != 1 else inner.node
    if node is None or not has(node, Trait.HOLDS):
        return None
    number = node.attrs["value"]
    while isinstance(number, tuple) and len(number) == 1:
        number = number[0]
    return as_dim(number) if isinstance(number, (int, Dim)) and not isinstance(number, bool) else None


def _choice(c: Call) -> None:
    """Both branches as regions of a `cond`, which must give the same types."""
    condition = c.reshape(c.cast(c.x(), boolean), ())
    regions, found = [], []
    for word in ("then_branch", "else_branch"):
        body = _branch(c, word)
        region = Region(Graph(word), c.importer.names, c.importer.weights, c.region)
        scope = Scope(region, c.scope)
        c.importer.nested(body, scope, c.node)
        regions.append(region)
        found.append([result(c, scope, value.name) for value in body.output])
    if len(found[0]) != len(found[1]):
        raise Diagnostic("E0754", f"{c.where}: its branches give {len(found[0])} and {len(found[1])} values")
    for i, (a, b) in enumerate(zip(*found, strict=True)):
        agree(c, a, b, f"result {i} is {a.type} in one branch, and {b.type} in the other")
    # A `cond` rebinds names: here what both branches bind anew starts as zeros.
    starts = [c.op("full", shape=t.type.shape, value=False if t.type.dtype == boolean else 0, dtype=t.type.dtype) for t in found[0]]
    for region, results in zip(regions, found, strict=True):
        for i, tensor in enumerate(results):
            region.graph.add_output(region.value(tensor), f"chosen_{i}")
    captured = list(dict.fromkeys(tensor for region in regions for tensor in region.captured))
    outer = [c.region.value(tensor) for tensor in captured]
    for region in regions:
        region.graph.inputs[:] = [
            *(Input(start.type, f"chosen_{i}") for i, start in enumerate(starts)),
            *(
                region.captured[tensor][1] if tensor in region.captured else Input(value.type, f"captured_{i}")
                for i, (tensor, value) in enumerate(zip(captured, outer, strict=True))
            ),
        ]
    then, orelse = (region.graph for region in regions)
    values = c.multi("cond", condition, *starts, *outer, carried=len(starts), then=then, orelse=orelse)
    c.importer.assign(c.node, c.scope, values)


def agree(c: Call, a: Tensor, b: Tensor, what: str) -> None:
    """Two results that must be of one type: free sizes become equal. Raises E0759, E0760."""
    if a.type.rank != b.type.rank or a.type.dtype != b.type.dtype:
        raise fail(c, what)
    for axis, (d, e) in enumerate(zip(a.type.shape, b.type.shape, strict=True)):
        c.equal(d, e, f"{what}: axis {axis}")


def result(c: Call, scope: Scope, name: str) -> Tensor:
    """What a body gives. Raises E0754 where nothing in it has that name."""
    found = scope.find(name)
    if found is None:
        raise Diagnostic("E0754", f"{c.where}: the body gives `{name[:200]}`, which nothing in it is called")
    return found
