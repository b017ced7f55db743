"""Graphs of any size, for the tests and the benchmark of how passes scale."""

from __future__ import annotations

from tessera.ir.builder import Builder
from tessera.ir.graph import Graph, Module
from tessera.ir.library import composite
from tessera.ir.types import TensorType, f32


def chain(nodes: int) -> Module:
    """About ``nodes`` nodes in steps of ten: composites, constants to fold, twins to merge, and what nobody reads."""
    graph = Graph("chain")
    b = Builder(graph)
    x = b.input("x", TensorType.of("f32", ["B", "T", 8]))
    gelu = composite("std.nn.gelu")
    while len(graph) < nodes:
        number = b.op("add", b.constant(1.0, f32), b.constant(2.0, f32))
        twins = [b.op("mul", x, number), b.op("mul", number, x)]
        b.op("exp", twins[0])
        y = b.op("add", *twins)
        y = b.op("transpose", b.op("transpose", y, perm=(0, 2, 1)), perm=(0, 2, 1))
        x = b.op(gelu, b.op("neg", b.op("neg", y)))
    graph.add_output(x, "y")
    return Module("chain", graph)


def encoder(blocks: int) -> Module:
    """A pre-norm encoder, about 17 nodes a block, as the frontend makes it."""
    from tessera.frontends.source import loads

    return loads(
        f"""
        use std.attention (self_attention)
        use std.nn (layer_norm, mlp)
        model encoder(x: f32[B, 4096, 8]) -> f32[B, 8] {{
            repeat i in {blocks} as blocks {{
                x = x + self_attention(layer_norm(x) as norm1, heads=2) as attn
                x = x + mlp(layer_norm(x) as norm2, hidden=16) as mlp
            }}
            return mean(x, axis=1)
        }}"""
    )
