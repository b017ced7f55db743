"""Random nodes with as many results as run time finds."""

from __future__ import annotations

import numpy as np

from .drawing import Array, Case, Draw, of


@of("NonZero")
def non_zero(r: Draw, op: str) -> Case:
    shape = r.shape(1, 3)
    return Case(op, {"x": r.one(r.ints(shape, 0, 1), r.coarse(shape), r.ints(shape, 0, 1) > 0)})


@of("Compress")
def compress(r: Draw, op: str) -> Case:
    shape = r.shape(1, 3)
    axis = r.one(None, r.axis(len(shape)))
    size = int(np.prod(shape)) if axis is None else shape[axis]
    mask = r.ints((r.between(1, size),), 0, 1) > 0
    return Case(op, {"x": r.floats(shape), "mask": mask}, {} if axis is None else {"axis": axis})


@of("Unique")
def unique(r: Draw, op: str) -> Case:
    shape = r.shape(1, 3, largest=4)
    axis = {"axis": r.axis(len(shape))} if r.chance() else {}
    return Case(op, {"x": r.one(r.ints(shape, 0, 2), r.coarse(shape))}, {**axis, **r.some(sorted=r.one(0, 1))}, outputs=4)


@of("NonMaxSuppression")
def suppressed(r: Draw, op: str) -> Case:
    batch, classes, count = r.between(1, 2), r.between(1, 3), r.between(1, 8)
    boxes = r.ints((batch, count, 4), 0, 6).astype(np.float32)
    operands: dict[str, Array | None] = {
        "boxes": boxes, "scores": r.coarse((batch, classes, count)), "most": np.array([r.between(1, 4)]),
        "overlap": r.one(None, np.array([0.3], np.float32)), "least": r.one(None, np.array([0.4], np.float32)),
    }  # fmt: skip
    return Case(op, operands, r.some(center_point_box=r.one(0, 1)), frozenset({"most", "overlap", "least"}))
