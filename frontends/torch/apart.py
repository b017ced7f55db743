"""Ops that the importer does not know, one at a time: taken apart by torch's own decompositions. Imports torch.

Tracing a whole program once more to take it apart costs more than everything else; one op costs milliseconds, and an op that
nothing takes apart costs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree

from .aten import ATEN


def aten_name(op: Any) -> str:
    """``add.Tensor`` for aten's; the whole name for others."""
    return str(op).removeprefix("aten.")


def writes(module: torch.fx.GraphModule) -> bool:
    """Whether an op of the graph writes to a tensor."""
    targets = [node.target for node in module.graph.nodes]
    return any(isinstance(t, torch._ops.OpOverload) and t._schema.is_mutable for t in targets)


@cache
def decompositions() -> Mapping[Any, Any]:
    """What torch can take apart and the importer does not know: core aten's own rules before those of the references."""
    import torch._refs  # registers the references
    from torch._decomp import decomposition_table

    rules = {**decomposition_table, **dict(torch.export.default_decompositions().items())}
    return {op: rule for op, rule in rules.items() if aten_name(op) not in ATEN}


class Apart:
    """Graphs of single ops, by the op and what it is applied to."""

    def __init__(self) -> None:
        self.known: dict[Any, torch.fx.GraphModule | None] = {}

    def graph(self, node: torch.fx.Node) -> tuple[torch.fx.GraphModule, list[torch.fx.Node]] | None:
        """The op of ``node`` as a graph of others, and which nodes are its inputs; None where torch has no rule for it, or
        its rule fails."""
        target: Any = node.target
        implicit = torch._C.DispatchKey.CompositeImplicitAutograd
        if target not in decompositions() and not target.has_kernel_for_dispatch_key(implicit):
            return None
        leaves, form = _pytree.tree_flatten((node.args, node.kwargs))
        places = [at for at, leaf in enumerate(leaves) if isinstance(leaf, torch.fx.Node)]
        given = [leaves[at] for at in places]
        key = (target, form, tuple(_key(leaf) for leaf in leaves))
        if key not in self.known:
            self.known[key] = _traced(target, leaves, form, places)
        found = self.known[key]
        return None if found is None else (found, given)


def _traced(target: Any, leaves: list[Any], form: Any, places: list[int]) -> torch.fx.GraphModule | None:
    def call(*operands: Any) -> Any:
        filled = list(leaves)
        for at, operand in zip(places, operands, strict=True):
            filled[at] = operand
        args, kwargs = _pytree.tree_unflatten(filled, form)
        return target(*args, **kwargs)

    examples = [leaves[at].meta.get("val") for at in places]
    try:
        with torch.no_grad():
            rules = dict(decompositions())
            graph = make_fx(torch.func.functionalize(call), decomposition_table=rules)(*examples)
            if writes(graph):
                # Rules in C++ are unfolded below what writes them without assignments: once more does it.
                graph = make_fx(torch.func.functionalize(graph), decomposition_table=rules)(*examples)
            return graph
    except Exception:  # whatever torch's rules raise for sizes that are free, or dtypes they do not expect
        return None


def _key(leaf: Any) -> Any:
    value = leaf.meta.get("val") if isinstance(leaf, torch.fx.Node) else leaf
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(map(str, value.shape)), tuple(map(str, value.stride())))
    return (type(value), str(value))
