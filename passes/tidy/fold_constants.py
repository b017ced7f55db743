"""Constant folding, and identities that make an op do nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.analysis.evaluate import can_evaluate, evaluate, to_array, to_value
from ...ir.builder import Builder, reinfer
from ...ir.dims.dim import as_dim
from ...ir.graph import Graph, Module, Node, Value
from ...ir.op import Op, Trait, has
from ...ir.ops.shape import parse_rearrange
from ...ir.regions import settle_captured
from ..engine import Pass
from ..options import option
from ..report import Report


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Computes what is constant, and removes ops that do nothing: `x + 0`, `x * 1`, a cast to the same dtype.

    before: `y = reshape(x * 1.0, [B, 4]) * (2.0 ** 0.5)`    after: `y = x * 1.414…`, where x is already [B, 4]
    """

    name = "fold_constants"
    contract = "exact"

    limit: int = option(
        64, "the most elements that a folded constant may have, so that printed source stays readable", least=1
    )

    def run(self, module: Module) -> Report:
        constants, identities = fold_graph(module.graph, self.limit)
        return Report.of(self, constants + identities, constants=constants, identities=identities)


def fold_graph(graph: Graph, limit: int) -> tuple[int, int]:
    """Fold in place: (constants computed, identities removed). One walk: operands are simplified before readers."""
    known: dict[Value, Any] = {}
    constants = identities = 0
    for node in graph.nodes():
        for region in node.bodies:
            inner = fold_graph(region, limit)
            constants, identities = constants + inner[0], identities + inner[1]
        if node.bodies:
            settle_captured(node)
        array = _constant_result(node, known, limit)
        if array is not None:
            known[node.output] = array
            if node.op.name != "constant":
                _replace(node, _emit(node, array, known))
                constants += 1
            continue
        same = _same_as(node, known)
        if same is not None:
            _replace(node, same)
            identities += 1
        elif _compose(node):
            identities += 1
    return constants, identities


def _constant_result(node: Node, known: dict[Value, Any], limit: int) -> Any | None:
    """The value of a node whose operands are all known and whose result is small; else None."""
    if not can_evaluate(node) or not all(v in known for v in node.inputs):
        return None
    if int(node.output.type.numel) > limit or 0 in node.output.type.shape:
        return None
    if node.op.name == "constant":
        return to_array(node.attrs["value"], node.attrs["dtype"])
    # `full` and `iota` say in a few words what a list of numbers would not.
    if has(node, Trait.MAKES) and node.output.type.rank:
        return None
    assert isinstance(node.op, Op)
    (array,) = evaluate(node.op, [known[v] for v in node.inputs if v is not None], node.attrs, [node.output.type])
    # Not a number has no literal that compares equal to itself, and an overflow may be the backend's to round.
    return array if array.dtype.kind in "biu" or np.isfinite(array.astype(np.float64)).all() else None


def as_dim_like(value: Any) -> bool:
    """Whether an attribute is a number, not an expression of symbols."""
    return isinstance(value, float) or as_dim(value).value is not None


def _emit(node: Node, array: Any, known: dict[Value, Any]) -> Value:
    made = Builder(node.graph).before(node).op("constant", value=to_value(array), dtype=node.output.type.dtype)  # type: ignore[arg-type]
    known[made] = array
    return made


def _replace(node: Node, value: Value) -> None:
    if not value.name:
        value.name = node.output.name
    node.output.replace_uses(value)
    node.graph.remove(node)  # type: ignore[union-attr]


# Identities ----------------------------------------------------------------------------------------------------------


def _same_as(node: Node, known: dict[Value, Any]) -> Value | None:
    """The operand that the node's only result equals, or None."""
    if len(node.outputs) != 1:
        return None
    name, out = node.op.qualified, node.output.type
    if isinstance(node.op, Op) and node.op.neutral is not None:
        for same, other in (node.inputs, node.inputs[::-1]) if has(node, Trait.COMMUTES) else (node.inputs,):
            if (
                same is not None
                and same.type == out
                and other is not None
                and _uniform(other, known) == node.op.neutral
            ):
                return same
    x = node.inputs[0] if node.inputs else None
    if name == "where":
        picked = _picked(node, known)
        return picked if picked is not None and picked.type == out else None
    if x is None or x.type != out:
        return None
    if has(node, Trait.STILL):
        return x
    if name == "concat":
        return x if len(node.inputs) == 1 else None
    if name == "transpose":
        return x if list(node.attrs["perm"]) == sorted(node.attrs["perm"]) else None
    if name == "rearrange":
        parsed = parse_rearrange(node.attrs["pattern"])
        return x if parsed is not None and parsed[0] == parsed[1] else None
    return None


def _uniform(value: Value, known: dict[Value, Any]) -> float | None:
    """The number that every element of ``value`` is, if that is known."""
    array = known.get(value)
    if array is not None:
        first = array.flat[0]
        return float(first) if (array == first).all() else None
    node = value.node
    if node is None:
        return None
    if node.op.qualified == "full" and as_dim_like(node.attrs["value"]):
        number = node.attrs["value"]
        return float(number if isinstance(number, float) else int(as_dim(number)))
    if has(node, Trait.MOVES) and len(node.inputs) == 1 and node.inputs[0] is not None:
        return _uniform(node.inputs[0], known)
    return None


def _picked(node: Node, known: dict[Value, Any]) -> Value | None:
    condition, a, b = node.inputs
    if a is b:
        return a
    chosen = None if condition is None else _uniform(condition, known)
    return None if chosen is None else a if chosen else b


# Two that make one ----------------------------------------------------------------------------------------------------


def _compose(node: Node) -> bool:
    """Let a move read through an equal move before it: two transposes, or two that say what shape they give, of which the last
    one says it all. Returns whether it now does."""
    before = node.inputs[0].node if node.inputs and node.inputs[0] is not None else None
    turned = node.op.qualified == "transpose"
    if before is None or before.op is not node.op or not (turned or has(node, Trait.SHAPED)):
        return False
    source = before.inputs[0]
    assert source is not None
    if turned:
        node.attrs["perm"] = tuple(before.attrs["perm"][i] for i in node.attrs["perm"])
    node.set_input(0, source)
    reinfer(node)
    same = _same_as(node, {})
    if same is not None:
        _replace(node, same)
    return True
