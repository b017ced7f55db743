"""Scans along an axis, and loops with a body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...ir.dims.dim import Dim, as_dim, prove_ge
from ...ir.types import boolean, i64
from .registry import lower
from .shape import operand

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Graph, Node, Value
    from .lowering import Lowerer

Combine = Callable[["Lowerer", "list[ox.Value]", "list[ox.Value]"], "list[ox.Value]"]


@lower("cumsum")
def cumsum(e: Lowerer, node: Node, x: ox.Value) -> ox.Value:
    a = node.attrs
    axis = e.constant(a["axis"], i64)
    return e.op("CumSum", x, axis, exclusive=int(a["exclusive"]), reverse=int(a["reverse"]))


@lower("cummax")
def cummax(e: Lowerer, node: Node, x: ox.Value) -> ox.Value:
    axis = node.attrs["axis"]
    return running(e, [x], axis, operand(node).shape, lambda e, a, b: [e.op("Max", a[0], b[0])])[0]


@lower("linear_recurrence")
def linear_recurrence(e: Lowerer, node: Node, a: ox.Value, b: ox.Value) -> ox.Value:
    def compose(e: Lowerer, first: list[ox.Value], then: list[ox.Value]) -> list[ox.Value]:
        # h -> a1 h + b1, then h -> a2 h + b2.
        return [e.op("Mul", first[0], then[0]), e.op("Add", e.op("Mul", then[0], first[1]), then[1])]

    return running(e, [a, b], node.attrs["axis"], operand(node).shape, compose)[1]


def running(e: Lowerer, xs: list[ox.Value], axis: int, shape: Sequence[Dim], combine: Combine) -> list[ox.Value]:
    """Running results of an associative ``combine`` along ``axis``, in log2 n steps over whole tensors (Hillis & Steele 1986).

    After the step of distance d each place holds the result of the 2 d elements up to it. A known length is unrolled; else
    the steps are a Loop.
    """
    n = shape[axis]

    def step(e: Lowerer, xs: list[ox.Value], d: ox.Value) -> list[ox.Value]:
        start, end, axes = e.ints([0]), e.ints([2**62]), e.ints([axis])
        late = [e.op("Slice", x, d, end, axes) for x in xs]
        early = [e.op("Slice", x, start, e.op("Neg", d), axes) for x in xs]
        heads = [e.op("Slice", x, start, d, axes) for x in xs]
        return [e.op("Concat", h, y, axis=axis) for h, y in zip(heads, combine(e, early, late), strict=True)]

    if n.value is not None:
        distance = 1
        while distance < n.value:
            xs = step(e, xs, e.ints([distance]))
            distance *= 2
        return xs
    size = e.scalar(n)

    def body(inner: Lowerer, values: list[ox.Value]) -> list[ox.Value]:
        _, _, d, *xs = values
        doubled = inner.op("Add", d, d)
        more = inner.op("Less", inner.squeeze(doubled, 0), size)
        return [more, doubled, *step(inner, xs, d)]

    carried = [("distance", i64, 1), *(("x", e.dtype(x), len(shape)) for x in xs)]
    region = e.region("scan_steps", [("i", i64, 0), ("go", boolean, 0), *carried], body)
    go = e.op("Less", e.constant(1, i64), size)
    results = e.raw("Loop", [None, go, e.ints([1]), *xs], [dtype for _, dtype, _ in carried], {"body": region})
    return results[1:]


# Bodies --------------------------------------------------------------------------------------------------------------


@lower("fold")
def fold(e: Lowerer, node: Node, *xs: ox.Value) -> list[ox.Value]:
    graph: Graph = node.attrs["body"]
    count = node.attrs["carried"]
    types = [v.type for v in node.outputs]

    def body(inner: Lowerer, values: list[ox.Value]) -> list[ox.Value]:
        i, go, *carried = values
        return [go, *inner.inline(graph, [i, *carried, *xs[count:]])]

    inputs = [("i", i64, 0), ("go", boolean, 0)]
    inputs += [(v.name or "carried", v.type.dtype, v.type.rank) for v in graph.inputs[1 : 1 + count]]
    region = e.region("fold_body", inputs, body)
    steps = as_dim(node.attrs["n"])
    found = e.raw("Loop", [e.scalar(steps), None, *xs[:count]], [t.dtype for t in types], {"body": region})
    if len(found) > count and not prove_ge(steps, 1, e.sizes.facts):
        # ONNX Runtime takes free sizes for 0 where no step told what is kept of one.
        kept = zip(found[count:], types[count:], strict=True)
        found = [*found[:count], *(e.op("Reshape", y, e.shape(type.shape), allowzero=1) for y, type in kept)]
    return found


@lower("cond")
def cond(e: Lowerer, node: Node, p: ox.Value, *xs: ox.Value) -> list[ox.Value]:
    def branch(word: str) -> ox.Graph:
        # A branch takes nothing: it reads the values around it.
        return e.region(f"cond_{word}", [], lambda inner, _: inner.inline(node.attrs[word], xs))

    branches = {"then_branch": branch("then"), "else_branch": branch("orelse")}
    return e.raw("If", [p], [v.type.dtype for v in node.outputs], branches)


@lower("while")
def while_(e: Lowerer, node: Node, *xs: ox.Value) -> list[ox.Value]:
    count = node.attrs["carried"]
    captured = xs[count:]

    def body(inner: Lowerer, values: list[ox.Value]) -> list[ox.Value]:
        carried = inner.inline(node.attrs["body"], [*values[2:], *captured])
        return [*inner.inline(node.attrs["test"], [*carried, *captured]), *carried]

    inputs = [("i", i64, 0), ("go", boolean, 0)]
    inputs += [(v.name or "carried", v.type.dtype, v.type.rank) for v in node.attrs["body"].inputs[:count]]
    region = e.region("while_body", inputs, body)
    go = e.inline(node.attrs["test"], xs)[0]
    limit = e.scalar(as_dim(node.attrs["limit"]))
    return e.raw("Loop", [limit, go, *xs[:count]], [v.type.dtype for v in node.outputs], {"body": region})


@lower("scan")
def scan(e: Lowerer, node: Node, *xs: ox.Value) -> list[ox.Value]:
    graph: Graph = node.attrs["body"]
    count, axis = node.attrs["carried"], node.attrs["axis"]
    scanned, captured = list(xs[:count]), list(xs[count:])
    if all(n.op.family in ("elementwise", "gradient") or n.op.name == "constant" for n in graph.nodes()):
        return _parallel_scan(e, node, graph, scanned, captured, axis)
    return _sequential_scan(e, node, graph, scanned, captured, axis)


def _parallel_scan(
    e: Lowerer, node: Node, graph: Graph, scanned: list[ox.Value], captured: list[ox.Value], axis: int
) -> list[ox.Value]:
    """With the scanned axis in front, an elementwise body works on all places at once."""
    rank = operand(node).rank
    front = [axis, *(i for i in range(rank) if i != axis)]
    back = [front.index(i) for i in range(rank)]

    def combine(e: Lowerer, left: list[ox.Value], right: list[ox.Value]) -> list[ox.Value]:
        lifted: dict[Value, bool] = dict.fromkeys(graph.inputs[: len(left) + len(right)], True)

        def align(inner: Node, operands: list[ox.Value | None]) -> list[ox.Value | None]:
            # A lifted operand of a lower rank gets its missing axes behind the scanned one.
            target = inner.output.type.rank
            for i, (value, made) in enumerate(zip(inner.inputs, operands, strict=True)):
                if value is not None and made is not None and lifted.get(value):
                    operands[i] = e.unsqueeze(made, *range(1, 1 + target - value.type.rank))
                    lifted[inner.output] = True
            return operands

        made = e.aligned(graph, [*left, *right, *captured], align)
        return [
            y if lifted.get(v) else e.op("Expand", y, e.op("Shape", left[i]))
            for i, (v, y) in enumerate(zip(graph.outputs, made, strict=True))
        ]

    xs = [e.transpose(x, front) for x in scanned]
    shape = [operand(node).shape[i] for i in front]
    return [e.transpose(y, back) for y in running(e, xs, 0, shape, combine)]


def _sequential_scan(
    e: Lowerer, node: Node, graph: Graph, scanned: list[ox.Value], captured: list[ox.Value], axis: int
) -> list[ox.Value]:
    """One place after the other. There is no neutral element to start from, so that the first place is only copied."""
    rank = operand(node).rank - 1
    dtypes = [e.dtype(x) for x in scanned]

    def body(inner: Lowerer, values: list[ox.Value]) -> list[ox.Value]:
        first, states, elements = values[0], values[1 : 1 + len(scanned)], values[1 + len(scanned) :]
        combined = inner.inline(graph, [*states, *elements, *captured])
        now = [inner.op("Where", first, x, y) for x, y in zip(elements, combined, strict=True)]
        return [inner.constant(False, boolean), *now, *now]

    rows = [(f"{kind}{i}", dtype, rank) for kind in ("state", "element") for i, dtype in enumerate(dtypes)]
    region = e.region("scan_body", [("first", boolean, 0), *rows], body)
    starts = [e.op("Gather", x, e.constant(0, i64), axis=axis) for x in scanned]
    axes = [axis] * len(scanned)
    results = e.raw(
        "Scan", [e.constant(True, boolean), *starts, *scanned], [boolean, *dtypes, *dtypes],
        {"body": region, "num_scan_inputs": len(scanned), "scan_input_axes": axes, "scan_output_axes": axes},
    )  # fmt: skip
    return results[1 + len(scanned) :]
