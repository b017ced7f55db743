"""What a reduced model is judged against: the same graph with its tokens dropped at random, and with fixed indices.

Both take a module whose tokens a pass reduced, and change nothing but its reductions, so that every block has as many tokens.
"""

from __future__ import annotations

from ...ir.analysis.axes import Axes
from ...ir.builder import Builder
from ...ir.dims.dim import Dim
from ...ir.graph import Module, Node, Value
from ...ir.library import composite
from ...ir.types import DTYPES
from .stage import place_in, random_numbers
from .stream import Origins, facts_of, fields_of, find_streams, reductions


def fixed_indices(module: Module) -> Module:
    """The module without matching and scattering: each merge keeps the last T - r tokens and their sizes.

    Its outputs mean nothing; the time that it takes is that of the merged model if matching were free.
    """
    module = module.clone()
    for node in list(reductions(module.graph)):
        builder = Builder(module.graph).before(node)
        r = _leaving(node)
        x, source, size, position = _operands(node)
        kept = [builder.op("slice", v, axis=1, start=r) for v in (x, size, position)]
        # What restores tokens reads through this: it must stay within those that are left.
        least = builder.constant(0, DTYPES["i64"])
        source = builder.op("maximum", builder.op("sub", source, builder.dim_value(r)), least)
        _replace(node, [kept[0], source, kept[1], kept[2]])
    return module


def random_dropping(module: Module) -> Module:
    """The module with every reduction replaced by keeping as many tokens at random; the runtime's seed decides which.

    The baseline is as strong as it can be without looking at the tokens: what the reduction protects is always kept, and so is
    the first token, on which classifiers rely; padding goes first. A token that was dropped is restored as the last kept
    one before it; what comes from before a reduction is picked, not averaged.
    """
    module = module.clone()
    _pick_features(module)
    taken = {value.name for value in module.graph.inputs}
    for index, node in enumerate(list(reductions(module.graph))):
        builder = Builder(module.graph).before(node)
        f32, i64 = DTYPES["f32"], DTYPES["i64"]
        x, source, size, position = _operands(node)
        facts, left = facts_of(node), node.output.type.shape[1]
        batch, tokens = x.type.shape[:2]
        name = next(n for n in (f"{stem}{index}" for stem in ("noise", "drop_noise", "_noise")) if n not in taken)
        noise = random_numbers(name, batch, fields_of(node), builder)
        empty = builder.op("eq", size, builder.constant(0.0, f32))
        score = builder.op("where", empty, builder.op("sub", noise, builder.constant(2.0, f32)), noise)
        place = builder.op("iota", n=tokens)
        first = builder.op("lt", place, _number(facts.first or 1, builder))
        score = builder.op("where", first, builder.constant(2.0, f32), score)
        if facts.last != 0:
            end = builder.op("sub", builder.dim_value(tokens), _number(facts.last, builder))
            score = builder.op("where", builder.op("ge", place, end), builder.constant(2.0, f32), score)
        kept = builder.op(composite("std.token.select_top"), score, k=left)
        new = [builder.op("take", v, kept, axis=1, batch=1) for v in (x, size, position)]
        # How many of the kept tokens are at or before each one, less one, is the last kept one's place among them.
        none = builder.op("full", shape=(batch, tokens), value=0, dtype=i64)
        ones = builder.op("full", shape=(batch, left), value=1, dtype=i64)
        count = builder.op("cumsum", builder.op("scatter_set", none, kept, ones, batch=1), axis=1)
        rank = builder.op("sub", count, builder.constant(1, i64))
        _replace(node, [new[0], builder.op("gather", rank, source, axis=1), new[1], new[2]])
    return module


def _pick_features(module: Module) -> None:
    """Let features from before reductions be picked where they are averaged over the tokens that a merged one is made of."""
    streams = find_streams(module.graph, Axes(module.graph))
    origins = Origins(module.graph, streams)
    for node in list(module.graph.nodes()):
        weighted, owner = node.inputs[:2] if node.op.qualified == "segment_sum" else (None, None)
        if weighted is None or owner is None or not origins.extensive(weighted):
            continue
        for stream in streams:
            stages = [stage for stage in stream.stages if stage in origins.maps(owner)]
            if stages:
                builder = Builder(module.graph).before(node)
                start = stages[0] if len(stages) > 1 else stream.stages[0]
                place = place_in(stream, start, stages[-1], builder)
                node.output.replace_uses(builder.op("take", weighted, place, axis=1, batch=1))
                module.graph.remove(node)
                break


def _number(count: int | Dim, builder: Builder) -> Value:
    return builder.dim_value(count) if isinstance(count, Dim) else builder.constant(count, DTYPES["i64"])


def _leaving(node: Node) -> Dim:
    x, *_ = _operands(node)
    return x.type.shape[1] - node.output.type.shape[1]


def _operands(node: Node) -> tuple[Value, Value, Value, Value]:
    x = node.inputs[0]
    assert x is not None
    return x, *fields_of(node).fields


def _replace(node: Node, values: list[Value]) -> None:
    for old, new in zip(node.outputs, values, strict=True):
        old.replace_uses(new)
    assert node.graph is not None
    node.graph.remove(node)
