"""The entry points that read a tree of drafted tokens behind a cache, and keep one path of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.builder import Builder
from ...ir.dims.dim import sym
from ...ir.graph import Graph, Input, Module, Node, Value
from ...ir.library import composite
from ...ir.naming import unique
from ...ir.types import TensorType, boolean, i64
from .places import Places

if TYPE_CHECKING:
    from .add_cache import Half

VERIFY, COMMIT = "verify", "commit"


def add_tree(module: Module, half: Half) -> None:
    """Give a program both entry points; ``half`` is the model, on the way to the first."""
    module.functions[COMMIT] = kept_path(half)
    read_tree(half)
    module.functions[VERIFY] = half.graph
    module.docs[VERIFY] = f"{module.doc}\n\nReads a tree of drafted tokens.".strip()
    module.docs[COMMIT] = "Keeps one path of the tree that was read last."


def read_tree(half: Half) -> None:
    """Tokens [B, T] behind those of the cache, each at its depth [B, T], where it sees those before the tree and its ancestors
    [B, T, T], itself among them. They are written behind the length, which stays."""
    b, batch, tokens, slots = half.builder, half.batch, half.tokens, half.capacity
    depth = half.input("depth", TensorType(i64, (batch, tokens)))
    ancestors = half.input("ancestors", TensorType(boolean, (batch, tokens, tokens)))
    length = b.op("unsqueeze", half.caches[0][-1], axis=(1,))
    every = b.op("unsqueeze", b.op("iota", n=slots), axis=(0,))
    at = b.op("sub", every, length)
    zero = b.constant(0, i64)
    # The token of the tree in each slot, some token of it where there is none.
    token = b.op("minimum", b.op("maximum", at, zero), b.dim_value(tokens - 1))
    before = b.op("lt", at, zero)
    inside = b.op("logical_and", b.op("ge", at, zero), b.op("lt", at, b.dim_value(tokens)))
    column = b.op("expand", b.op("unsqueeze", token, axis=(1,)), shape=(batch, tokens, slots))
    own = b.op("logical_and", b.op("gather", ancestors, column, axis=2), b.op("unsqueeze", inside, axis=(1,)))
    seen = b.op("unsqueeze", b.op("logical_or", b.op("unsqueeze", before, axis=(1,)), own), axis=(1,))
    last = b.dim_value(slots - 1)
    place = b.op("minimum", b.op("add", length, depth), last)
    behind = b.op("minimum", b.op("add", length, b.op("gather", depth, token, axis=1)), last)
    stands = b.op("where", before, every, behind)
    places = Places(half.graph, tokens, batch, slots, place, half.masks, half.positions, half.known, stands)
    half.finish(half.read_behind(seen, places, _written))
    # States stand behind what is given.
    given = [v for v in half.graph.inputs if v is not half.lengths]
    half.graph.inputs = sorted(given, key=lambda v: v.role == "state")


def _written(half: Half, node: Node, cache: list[Value]) -> list[Value]:
    """The cache with the keys and values of an attention behind its length, which stays."""
    *held, length = cache
    b, write = Builder(half.graph).before(node), composite("std.cache.write_rows")
    rows = half.storage.rows(node, b)
    return [*(b.op(write, value, length, new) for value, new in zip(held, rows, strict=True)), length]


def kept_path(half: Half) -> Graph:
    """A graph that keeps of what stands behind the lengths the slots of a path [B, P], counted from there, of which ``count`` [B]
    count: they move together, in their order."""
    graph = Graph(COMMIT)
    taken = {*half.batch.symbols, *(s for v in half.graph.inputs for d in v.type.shape for s in d.symbols)}
    path = graph.add_input(Input(TensorType(i64, (half.batch, sym(unique("P", taken, joint="")))), "path"))
    count = graph.add_input(Input(TensorType(i64, (half.batch,)), "count"))
    b = Builder(graph)
    kept = []
    for cache in half.caches:
        states = [v for v in cache if isinstance(v, Input)]
        fields = [graph.add_input(Input(v.type, v.name, "state", v.init, v.span, v.record)) for v in states]
        record = states[0].record
        assert record is not None
        attrs = {f"cache.{name}": value for name, value in record.statics}
        kept.append((states, b.multi(half.storage.op("gather_path"), *fields, fields[-1], path, count, **attrs)))
    graph.add_output(b.op("add", kept[0][1][-1], b.constant(0, i64)), "length")
    for states, values in kept:
        for state, value in zip(states, values, strict=True):
            graph.add_output(value, state.name, "state")
    return graph
