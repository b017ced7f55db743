"""Whether two graphs are the same, and where they first differ."""

from __future__ import annotations

from typing import Any

from .equalities import equalities, mapped, same_within
from .graph import Graph, Initializer, Value
from .keys import attr_key


def first_difference(a: Graph, b: Graph, *, names: bool = True) -> str | None:
    """None when the graphs are structurally equal; else a sentence about the first place where they differ.

    ``names``: whether inputs and outputs must have the same names too; a loop's body has none that anybody sees.
    """

    def interface(g: Graph) -> list[tuple[Any, ...]]:
        known = equalities(g)
        shown = {v: mapped(v.type, known.shown) if known and not names else v.type for v in g.inputs}
        return [
            ((v.name, v.outside) if names else (), shown[v], v.role, _init_key(v.init), v.record, v.vocabulary) for v in g.inputs
        ]

    if interface(a) != interface(b):
        return f"inputs differ: {a.inputs} and {b.inputs}"
    same = _same_params(a, b)
    if same is not None:
        return same
    if a.lets != b.lets:
        return f"let definitions differ: {a.lets} and {b.lets}"
    twin: dict[Value, Value] = dict(zip(a.inputs, b.inputs, strict=True))
    twin.update((p, b.params[name]) for name, p in a.params.items())
    left = [n for n in a.nodes() if n.op.name != "constant"]
    right = [n for n in b.nodes() if n.op.name != "constant"]
    if len(left) != len(right):
        return f"{len(left)} nodes and {len(right)} nodes"
    for x, y in zip(left, right, strict=True):
        if x.op.qualified != y.op.qualified or not same_attr(x.attrs, y.attrs) or len(x.inputs) != len(y.inputs):
            return f"{x.op.qualified}{x.attrs} and {y.op.qualified}{y.attrs}"
        if not all(map(lambda v, w: _same_value(v, w, twin), x.inputs, y.inputs)):
            return f"the inputs of {x.op.qualified} at {x.span} differ: {x.inputs} and {y.inputs}"
        types = zip(x.outputs, y.outputs, strict=False)
        if len(x.outputs) != len(y.outputs) or not all(same_within(a, v.type, w.type) for v, w in types):
            return f"the types of {x.op.qualified} differ: {x.outputs} and {y.outputs}"
        twin.update(zip(x.outputs, y.outputs, strict=True))
    if names and a.output_info != b.output_info:
        return f"outputs differ: {a.output_info} and {b.output_info}"
    if len(a.outputs) != len(b.outputs) or not all(map(lambda v, w: _same_value(v, w, twin), a.outputs, b.outputs)):
        return "the outputs are different values"
    return None


def same_attr(a: Any, b: Any) -> bool:
    """Whether two attribute values mean the same: by their key, regions by their structure."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_attr(v, b[k]) for k, v in a.items())
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same_attr, a, b))
    return bool(attr_key(a) == attr_key(b))


def _init_key(init: Initializer | None) -> Any:
    return None if init is None else (init.name, attr_key(init.args))


def _same_params(a: Graph, b: Graph) -> str | None:
    def rows(g: Graph) -> list[tuple[Any, ...]]:
        return [(p.full_name, p.type, _init_key(p.init), p.trainable) for p in g.params.values()]

    for x, y in zip(rows(a), rows(b), strict=False):
        if x != y:
            return f"parameters differ: {x} and {y}"
    return None if len(a.params) == len(b.params) else f"{len(a.params)} parameters and {len(b.params)}"


def _same_value(v: Value | None, w: Value | None, twin: dict[Value, Value]) -> bool:
    if v is None or w is None:
        return v is w
    if v.node is not None and v.node.op is not None and v.node.op.name == "constant":
        return (
            w.node is not None
            and w.node.op.name == "constant"
            and same_attr(v.node.attrs, w.node.attrs)
            and v.type == w.type
        )
    return twin.get(v) is w
