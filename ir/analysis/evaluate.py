"""What nodes and whole graphs compute, in NumPy: by the meaning that each core op declares, composites by their bodies.

Constants are folded with it, and every backend is compared with it; no backend has a say in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..dims.dim import Dim, const
from ..graph import Graph, Node, Value
from ..op import Attrs, Composite, Op, Trait, has
from ..types import DType, TensorType

Array = Any


def can_evaluate(node: Node) -> bool:
    """Whether the op has one result, of a size that is known, and needs no size that only run time knows."""
    return (
        isinstance(node.op, Op)
        and node.op.meaning is not None
        and not has(node, Trait.REGION)
        and len(node.outputs) == 1
        and all(d.value is not None for d in node.output.type.shape)
        and not any(_symbolic(value) for value in node.attrs.values())
    )


def _symbolic(value: Any) -> bool:
    return any(map(_symbolic, value)) if isinstance(value, tuple) else isinstance(value, Dim) and value.value is None


def evaluate(op: Op, inputs: Sequence[Array], attrs: Attrs, types: Sequence[TensorType]) -> list[Array]:
    """The results of a core op, in the dtypes of its result types. Halves are computed in f32 and rounded at the end.

    ``attrs`` are canonical, their dimensions integers, a region a function from arrays to arrays.
    """
    assert op.meaning is not None
    wide = [np.asarray(x) for x in inputs]
    wide = [x.astype(np.float32) if str(x.dtype) in ("float16", "bfloat16") else x for x in wide]
    with np.errstate(all="ignore"):
        results = op.meaning(wide, attrs, list(types))
        return [np.asarray(y).astype(type.dtype.numpy) for y, type in zip(results, types, strict=True)]


def evaluate_graph(
    graph: Graph, inputs: Mapping[str, Array], sizes: Mapping[str, int], weights: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Every output by its name.

    Args:
        inputs: an array for each input.
        sizes: the graph's free symbols.
        weights: an array for each parameter, by its full name.

    Raises:
        KeyError: an input, a size or a weight is missing.
    """
    known: dict[Value, Array] = {v: inputs[v.public] for v in graph.inputs}
    known.update((p, (weights or {})[name]) for name, p in graph.params.items())
    results = _run(graph, known, dict(sizes))
    return dict(zip((info.public for info in graph.output_info), results, strict=True))


def _run(graph: Graph, known: dict[Value, Array], outer: dict[str, int]) -> list[Array]:
    """The outputs, from what is known of inputs and weights; ``outer`` are sizes of the graphs around it, too."""
    sizes = graph.sizes(outer)
    for node in graph.nodes():
        known.update(zip(node.outputs, _results(node, known, sizes), strict=True))
    return [known[v] for v in graph.outputs]


def _results(node: Node, known: Mapping[Value, Array], sizes: dict[str, int]) -> list[Array]:
    given = [known[v] for v in node.inputs if v is not None]
    if isinstance(node.op, Composite):
        body = node.op.instantiate([None if v is None else v.type for v in node.inputs], dict(node.attrs))
        return _run(body, dict(zip(body.inputs, given, strict=True)), sizes)
    return evaluate_node(node, given, sizes)


def evaluate_values(values: Sequence[Value], known: Mapping[Value, Array], sizes: dict[str, int]) -> list[Array]:
    """What values of one graph are, from others that are known, at known sizes (``graph.sizes``). Only what they need is computed.

    Raises:
        KeyError: they need an input or a weight that is not known, or a size.
    """
    found = dict(known)
    pending = list(values)
    while pending:
        value = pending[-1]
        if value in found:
            pending.pop()
            continue
        if value.node is None:
            raise KeyError(value.name)
        missing = [v for v in value.node.inputs if v is not None and v not in found]
        if missing:
            pending += missing
        else:
            found.update(zip(value.node.outputs, _results(value.node, found, sizes), strict=True))
    return [found[v] for v in values]


def evaluate_node(node: Node, given: Sequence[Array], sizes: dict[str, int]) -> list[Array]:
    """The results of a node of a core op at known sizes."""
    assert isinstance(node.op, Op)
    types = [TensorType(v.type.dtype, tuple(const(d.evaluate(sizes)) for d in v.type.shape)) for v in node.outputs]
    return evaluate(node.op, given, {name: _at(value, sizes) for name, value in node.attrs.items()}, types)


def _at(value: Any, sizes: dict[str, int]) -> Any:
    """An attribute at known sizes."""
    if isinstance(value, tuple):
        return tuple(_at(v, sizes) for v in value)
    if isinstance(value, Dim):
        return value.evaluate(sizes)
    if isinstance(value, Graph):
        return lambda arrays: _run(value, dict(zip(value.inputs, arrays, strict=True)), sizes)
    return value


def to_array(value: Any, dtype: DType) -> Array:
    """A ``constant`` node's value as an array."""
    return np.array(value).astype(dtype.numpy)


def to_value(array: Array) -> Any:
    """An array as a ``constant`` node's value: a number, or nested tuples of numbers."""

    def nested(items: Any) -> Any:
        return tuple(map(nested, items)) if isinstance(items, list) else items

    # bfloat16 and float16 reach Python floats through float32, which holds them exactly.
    wide = array.astype(np.float32) if array.dtype.kind not in "biu" and array.dtype.itemsize < 4 else array
    return nested(wide.tolist())
