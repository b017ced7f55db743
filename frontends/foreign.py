"""Functions of ``specs/foreign``: what importers map other systems' ops to. A call is inlined, and prints as primitives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from ..ir.builder import Builder
from ..ir.graph import Value, clone_node
from ..ir.library import function
from ..ir.op import Composite


@cache
def elementwise(name: str) -> Composite:
    """The function of ``specs/foreign/elementwise.tess``; its file is read when the first one is asked for."""
    return function(f"foreign.elementwise.{name}")


def inline(builder: Builder, called: Composite, operands: Sequence[Value], statics: dict[str, Any]) -> Value:
    """The result of a function: a copy of its body at the builder's place, with its constants and without idle casts.

    Raises:
        Diagnostic: E03xx where the operands do not fit.
    """
    body = called.instantiate([v.type for v in operands], statics)
    copies: dict[Value, Value] = dict(zip(body.inputs, operands, strict=True))
    for node in body.nodes():
        name = node.op.name
        if name == "constant":
            copies[node.output] = builder.constant(node.attrs["value"], node.attrs["dtype"])
        elif name == "cast" and node.inputs[0] is not None and node.inputs[0].type == node.output.type:
            copies[node.output] = copies[node.inputs[0]]
        else:
            copy = clone_node(node, copies)
            copy.span, copy.scope = builder.span, builder.scope
            copy.output.name = ""
            builder.graph.append(copy)
    return copies[body.outputs[0]]
