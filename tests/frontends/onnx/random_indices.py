"""Random nodes that reduce, sort, gather and scatter: with unusual attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .drawing import Array, Case, Draw, f32, i64, of

# Reductions ----------------------------------------------------------------------------------------------------------


@of("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSum", "ReduceLogSumExp")  # fmt: skip
def reduce(r: Draw, op: str) -> Case:
    x = r.coarse(r.shape(0, 4))
    if op == "ReduceLogSum":
        x = np.abs(x) + f32(0.5).reshape(())
    elif op not in ("ReduceMean", "ReduceLogSumExp") and r.chance(0.3):
        x = r.ints(x.shape, -3, 3, r.one(np.int64, np.int32))
    elif op in ("ReduceMax", "ReduceMin", "ReduceLogSumExp") and r.chance(0.2):
        x = np.full(r.shape(1, 2), -np.inf, np.float32)
    axes: list[int] | None = r.axes(x.ndim) if r.chance(0.8) else None
    attrs = r.some(keepdims=r.between(0, 1), noop_with_empty_axes=r.between(0, 1))
    return Case(op, {"x": x, "a": None if axes is None else i64(*axes)}, attrs, frozenset({"a"}))


@of("ArgMax", "ArgMin")
def arg(r: Draw, op: str) -> Case:
    x = r.one(r.coarse, r.ints)(r.shape())
    return Case(op, {"x": x}, r.some(axis=r.axis(x.ndim), keepdims=r.between(0, 1), select_last_index=r.between(0, 1)))


@of("TopK")
def topk(r: Draw, op: str) -> Case:
    x = r.one(r.coarse, r.ints, r.floats)(r.shape())
    axis = r.axis(x.ndim)
    attrs = {"axis": axis, **r.some(largest=r.between(0, 1), sorted=1)}
    return Case(op, {"x": x, "k": i64(r.between(1, x.shape[axis]))}, attrs, frozenset({"k"}), 2)


@of("CumSum")
def cumsum(r: Draw, op: str) -> Case:
    x = r.one(r.coarse, r.ints)(r.shape())
    return Case(
        op,
        {"x": x, "a": np.array(r.axis(x.ndim))},
        r.some(exclusive=r.between(0, 1), reverse=r.between(0, 1)),
        frozenset({"a"}),
    )


# Indexing ------------------------------------------------------------------------------------------------------------


@of("Gather")
def gather(r: Draw, op: str) -> Case:
    x = r.one(r.coarse, r.ints)(r.shape())
    axis = r.axis(x.ndim)
    n = x.shape[axis]
    fixed = frozenset(n for n in "xk" if r.chance(0.4))
    # What the user gives to look up in a table is not negative.
    k = r.ints(r.shape(0, 2), 0 if fixed == {"x"} else -n, n - 1, r.one(np.int64, np.int32))
    return Case(op, {"x": x, "k": k}, {"axis": axis}, fixed)


@of("GatherElements")
def gather_elements(r: Draw, op: str) -> Case:
    x = r.coarse(r.shape())
    axis = r.axis(x.ndim)
    shape = [r.between(1, d) if r.chance(0.3) else d for d in x.shape]
    shape[axis] = r.between(1, 5)
    n = x.shape[axis]
    return Case(
        op, {"x": x, "k": r.ints(shape, -n, n - 1)}, {"axis": axis}, frozenset({"k"}) if r.chance(0.4) else frozenset()
    )


def positions(r: Draw, shape: Sequence[int], depth: int, lead: Sequence[int], unique: bool) -> Array:
    """Indices [*lead, depth] into the first axes of ``shape``, negative ones too."""
    n = int(np.prod(lead))
    total = int(np.prod(shape[:depth]))
    flat = r.rng.permutation(total)[:n] if unique else r.rng.integers(0, total, n)
    found = np.stack(np.unravel_index(flat, shape[:depth]), axis=-1).reshape(*lead, depth)
    return np.where(r.rng.random(found.shape) < 0.4, found - np.array(shape[:depth]), found).astype(np.int64)


@of("GatherND")
def gather_nd(r: Draw, op: str) -> Case:
    x = r.coarse(r.shape(1, 4))
    batch = r.between(0, x.ndim - 1)
    depth = r.between(1, x.ndim - batch)
    lead = [*x.shape[:batch], *r.shape(0, 2)]
    k = positions(r, x.shape[batch:], depth, lead, False)
    return Case(
        op, {"x": x, "k": k}, {"batch_dims": batch} if batch else {}, frozenset({"k"}) if r.chance(0.4) else frozenset()
    )


@of("ScatterND")
def scatter_nd(r: Draw, op: str) -> Case:
    x = r.one(r.coarse, r.ints)(r.shape(1, 3))
    depth = r.between(1, x.ndim)
    mode = r.one("none", "add", "mul", "min", "max")
    total = int(np.prod(x.shape[:depth]))
    lead = (r.between(1, total),)
    k = positions(r, x.shape, depth, lead, True)
    updates = (r.coarse if x.dtype == np.float32 else r.ints)((*lead, *x.shape[depth:]))
    return Case(
        op,
        {"x": x, "k": k, "u": updates},
        {"reduction": mode} if mode != "none" else {},
        frozenset({"k"}) if r.chance(0.4) else frozenset(),
    )


@of("ScatterElements")
def scatter_elements(r: Draw, op: str) -> Case:
    x = r.coarse(r.shape())
    axis = r.axis(x.ndim)
    shape = [r.between(1, d) if r.chance(0.2) else d for d in x.shape]
    shape[axis] = r.between(1, x.shape[axis])
    n = x.shape[axis]
    order = np.argsort(
        r.rng.random((*shape[:axis], n, *shape[axis % x.ndim + 1 :]) if axis >= 0 else x.shape), axis=axis
    )
    order = order[tuple(slice(0, d) for d in shape)]
    k = np.where(r.rng.random(order.shape) < 0.4, order - n, order).astype(np.int64)
    mode = r.one("none", "add", "max", "min", "mul")
    return Case(
        op,
        {"x": x, "k": k, "u": r.coarse(k.shape)},
        {"axis": axis, **({"reduction": mode} if mode != "none" else {})},
        frozenset({"k"}) if r.chance(0.4) else frozenset(),
    )


@of("OneHot")
def one_hot(r: Draw, op: str) -> Case:
    x = r.ints(r.shape(0, 3), -5, 5, r.one(np.int64, np.int64, np.float32))
    depth = r.one(np.array(4), i64(4))
    return Case(
        op, {"x": x, "d": depth, "v": r.one(f32(0, 1), i64(2, 5))}, r.some(axis=r.axis(x.ndim + 1)), frozenset("dv")
    )


@of("Compress")
def compress(r: Draw, op: str) -> Case:
    x = r.coarse(r.shape())
    axis = r.axis(x.ndim) if r.chance(0.7) else None
    n = x.size if axis is None else x.shape[axis]
    return Case(
        op, {"x": x, "c": r.rng.random(r.between(1, n)) < 0.5}, {} if axis is None else {"axis": axis}, frozenset({"c"})
    )


@of("ReverseSequence")
def reverse_sequence(r: Draw, op: str) -> Case:
    x = r.coarse(r.shape(2, 3))
    attrs = r.one({}, {"time_axis": 1, "batch_axis": 0}, {"time_axis": 0, "batch_axis": 1})
    steps, batch = x.shape[attrs.get("time_axis", 0)], x.shape[attrs.get("batch_axis", 1)]
    return Case(op, {"x": x, "n": r.ints((batch,), 1, steps)}, attrs)


@of("NonZero")
def counted(r: Draw, op: str) -> Case:
    x = r.ints(r.shape(1, 2), -1, 1)
    return Case(op, {"x": x}, {}, frozenset({"x"}))


@of("Range")
def range_(r: Draw, op: str) -> Case:
    kind = r.one(np.int64, np.int32, np.float32)
    scale = 0.5 if kind is np.float32 else 1
    start, stop, step = (
        r.between(-5, 5) * scale,
        r.between(-5, 9) * scale,
        r.one(1, 2, -1, -3, 0.3 if kind is np.float32 else 1),
    )
    return Case(
        op, {n: np.array(v, kind) for n, v in zip("sld", (start, stop, step), strict=True)}, fixed=frozenset("sld")
    )
