"""How passes scale: time for each node at 1,000, 10,000 and 100,000 nodes, which may not differ by more than twice.

python -m benchmarks.passes
"""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any

from tessera.frontends.source import loads
from tessera.ir.analysis.cost import cost
from tessera.ir.builder import Builder
from tessera.ir.graph import Graph, Module
from tessera.ir.library import composite
from tessera.ir.types import TensorType, f32
from tessera.passes.engine import Pass
from tessera.passes.rewrite.rewrite import Rewrite
from tessera.passes.tidy.cse import CommonSubexpressions
from tessera.passes.tidy.dce import DeadCode
from tessera.passes.tidy.fold_constants import FoldConstants
from tessera.passes.tidy.inline import Inline
from tessera.passes.tokens.merge_tokens import MergeTokens

from .common import write

SIZES = (1_000, 10_000, 100_000)
RULES = loads(
    "rewrite exact twice(x: float[...]) { neg(neg(x)) => x }\nmodel m(x: f32[4]) -> f32[4] { return x }"
).rules
PASSES: tuple[Pass, ...] = (
    FoldConstants(), CommonSubexpressions(), DeadCode(), Inline(), Rewrite(tuple(RULES.values())), MergeTokens(r=4),
)  # fmt: skip


def program(nodes: int) -> Module:
    """A residual network of about ``nodes`` nodes: attention in every hundredth, and work for every pass."""
    graph = Graph("program")
    b = Builder(graph)
    attention, gelu = composite("std.attention.attention"), composite("std.nn.gelu")
    x = b.input("x", TensorType.of("f32", ["B", 100_000, 8]))
    while len(graph) < nodes:
        heads = b.op("rearrange", x, pattern="b t (h k) -> b h t k", axes=(("h", 2),))
        y = b.op("rearrange", b.op(attention, heads, heads, heads, None, None), pattern="b h t k -> b t (h k)")
        x = b.op("add", x, y)
        for _ in range(9):
            number = b.op("add", b.constant(1.0, f32), b.constant(2.0, f32))
            twins = [b.op("mul", x, number), b.op("mul", number, x)]
            b.op("exp", twins[0])
            y = b.op("transpose", b.op("transpose", b.op("add", *twins), perm=(0, 2, 1)), perm=(0, 2, 1))
            x = b.op(gelu, b.op("neg", b.op("neg", y)))
    graph.add_output(b.op("mean", x, axis=1), "y")
    return Module("program", graph)


def seconds(what: Pass | None, module: Module) -> float:
    """One run on a fresh copy; None is the cost model."""
    copy = module.clone()
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    if what is None:
        cost(copy.graph)
    else:
        what.run(copy)
    took = time.perf_counter() - start
    gc.enable()
    return took


def main() -> None:
    results: dict[str, Any] = {}
    modules = {size: program(size) for size in SIZES}
    for what in (*PASSES, None):
        name = what.name if what is not None else "cost"
        row = {}
        for size, module in modules.items():
            runs = 5 if size < SIZES[-1] else 1
            took = statistics.median(seconds(what, module) for _ in range(runs))
            row[str(size)] = round(took / len(module.graph) * 1e6, 3)
        results[name] = {
            "microseconds_per_node": row,
            "largest_over_smallest": round(max(row.values()) / min(row.values()), 3),
        }
    write("passes", results)


if __name__ == "__main__":
    main()
