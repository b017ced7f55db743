"""Token merging (Bolya et al. 2023) in any model whose blocks attend to themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...ir.analysis.axes import Axes, Axis
from ...ir.analysis.cost import CostTable, cost
from ...ir.analysis.sizes import default_sizes
from ...ir.analysis.table import Table
from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Note
from ...ir.dims.dim import Dim, as_dim, prove_ge
from ...ir.graph import Graph, Module, Node, Output, Require, Value
from ...ir.library import composite
from ..engine import BrokenContract, Pass
from ..options import option
from ..recover.masks import raise_masks, sees_no_later
from ..report import Report
from ..tidy.dce import remove_dead
from . import streams as flow
from .blocks import AttentionBlock, find_blocks, no_block
from .follow import Follower
from .schedule import FEWEST, Schedule, TooMany, linear, padded
from .streams import Origins, Stream

ROPE = "std.attention.rope"


def _check_r(r: Any) -> str | None:
    if isinstance(r, float) and not r < 1:
        return f"must be a number of tokens, or a share of them between 0 and 1, but is {r}"
    return None


@dataclass(frozen=True)
class MergeTokens(Pass):
    """Merges the most similar tokens behind the attention of each block, as ToMe does (Bolya et al. 2023).

    Merged tokens remember how many they are: attention counts them as often (``proportional``), and means over tokens
    become means weighted by size. Padding is of size 0.

    before: `x = x + attn(norm1(x))   x = x + mlp(norm2(x))`
    after:  `x = x + attn(norm1(x))   x, map = bipartite_merge(x, map, keys, r=8)   x = x + mlp(norm2(x))`
    """

    name = "merge_tokens"
    contract = "approximate"

    r: int | float | tuple[int, ...] | None = option(
        None, "tokens to merge at each block: a number, a list, or a share of them (0.1)", least=0, check=_check_r
    )
    inflect: float = option(
        0.0, "how a number r changes over the blocks: 0 constant, -1 falls from 2 r to 0, 1 rises", least=-1, most=1
    )
    keep: float | None = option(
        None, "instead of r: the share of tokens left at the end, merged in equal parts", least=0, most=1
    )
    metric: Literal["keys", "tokens"] = option(
        "keys", "what is compared: the attention keys averaged over heads, or the tokens"
    )
    protect: Literal[0, 1, 2] = option(
        0, "first tokens that never merge: 1 the class token, 2 also the distillation token"
    )
    proportional: bool = option(True, "attend to a merged token as often as its size says")
    restore: bool = option(
        False, "give outputs, and what needs tokens in their places, the merged value of every original token"
    )
    map: bool = option(False, "expose where each token went: the taps `token_source` and `token_size`")
    blocks: tuple[int, ...] | None = option(
        None, "the self-attention blocks to merge in, counted from 0; all when none"
    )

    def run(self, module: Module) -> Report:
        given, notes = module.graph, _read_masks(module)
        graph = module.graph
        before, originals = cost(given), list(graph.outputs)
        old_types = [v.type for v in originals]
        axes = Axes(graph)
        found, misses = find_blocks(graph, axes)
        if not found:
            raise no_block(graph, misses, self.name)
        chosen = self._chosen(found)
        merger = _Merger(self, graph, axes, found, self._schedules(chosen))
        merged = merger.run()
        report = Report.of(self, merged)
        if not merged:
            module.graph = given
            return report
        # Masks that are now in the sizes, and maps that nobody reads.
        remove_dead(graph)
        report.facts["tokens"] = [[str(c) for c in s.counts] for s in merger.streams.values()]
        report.facts["blocks"] = [b.index for b in chosen]
        for info, old, value in zip(graph.output_info, old_types, graph.outputs, strict=False):
            if value.type != old:
                report.notes.append(f"the output `{info.name}` is now {value.type}; it was {old}")
        report.notes += notes + merger.notes
        report.sizes = default_sizes(graph)
        comparison = _Comparison(before, cost(graph))
        report.tables["blocks_before_and_after"] = comparison.table
        return report

    def ensures(self, before: Module, after: Module) -> None:
        old = [p.full_name for p in before.graph.params.values()]
        if old != [p.full_name for p in after.graph.params.values()]:
            raise BrokenContract("the weights changed")

    # Options against the model -----------------------------------------------------------------------------------

    def _chosen(self, found: list[AttentionBlock]) -> list[AttentionBlock]:
        if self.blocks is None:
            chosen = found
        else:
            for index in self.blocks:
                if not -len(found) <= index < len(found):
                    raise Diagnostic(
                        "E0704",
                        f"`blocks` of the pass `merge_tokens` names block {index}, but the model has {len(found)} "
                        "self-attention block(s)",
                    )
            chosen = [found[i] for i in sorted({i % len(found) for i in self.blocks})]
        causal = next((b for b in chosen if sees_no_later(b.attention)), None)
        if causal is not None:
            raise Diagnostic(
                "E0708",
                f"block {causal.index} attends causally: merging its tokens would let early places see later ones",
                causal.attention.span,
                help="merge in blocks that see all tokens, chosen with `blocks=[…]`",
            )
        return chosen

    def _schedules(self, chosen: list[AttentionBlock]) -> dict[AttentionBlock, tuple[Schedule, int]]:
        """The schedule that each block follows, and its place in it: one for each stream of tokens."""
        if (self.r is None) == (self.keep is None):
            both = "both `r` and `keep`" if self.r is not None else "neither `r` nor `keep`"
            raise Diagnostic(
                "E0705",
                f"merge_tokens is given {both}, but needs exactly one of them",
                help="write `merge_tokens(r=8)` or `merge_tokens(keep=0.5)`",
            )
        if self.inflect and not isinstance(self.r, int):
            raise Diagnostic(
                "E0705", "`inflect` changes a number `r` over the blocks; it does not go with a list, a share or `keep`"
            )
        if isinstance(self.r, tuple) and len(self.r) > len(chosen):
            raise Diagnostic("E0705", f"`r` of merge_tokens lists {len(self.r)} numbers for {len(chosen)} block(s)")
        listed = dict(zip(chosen, padded(self.r, len(chosen)), strict=True)) if isinstance(self.r, tuple) else {}
        streams: dict[Axis, list[AttentionBlock]] = {}
        for block in chosen:
            streams.setdefault(block.tokens, []).append(block)
        places: dict[AttentionBlock, tuple[Schedule, int]] = {}
        for blocks in streams.values():
            count = len(blocks)
            if isinstance(self.r, tuple):
                schedule = Schedule(count, tuple(listed[b] for b in blocks), strict=True)
            elif isinstance(self.r, int):
                schedule = Schedule(count, linear(count, self.r, self.inflect))
            else:
                schedule = Schedule(count, self.r, self.keep)
            places.update((block, (schedule, i)) for i, block in enumerate(blocks))
        return places


def _read_masks(module: Module) -> list[str]:
    """Let masks say what they hide: what they add to scores does not tell padding. What that changes, in words."""
    clone = module.clone()
    counts = raise_masks(clone.graph, padding=True)
    if not counts:
        return []
    remove_dead(clone.graph)
    module.graph = clone.graph
    number = counts["mask_from_lowest"]
    told = f"{number} mask(s) of the lowest number hide keys altogether: a query that may attend to nothing gives 0"
    return [told] if number else []


class _Merger:
    """One run of the pass over one graph."""

    def __init__(
        self, options: MergeTokens, graph: Graph, axes: Axes, found: list[AttentionBlock],
        schedules: dict[AttentionBlock, tuple[Schedule, int]],
    ) -> None:  # fmt: skip
        self.options, self.graph, self.axes, self.schedules = options, graph, axes, schedules
        self.origins = Origins(graph)
        self.notes: list[str] = []
        self.merged = 0
        self.streams: dict[Any, Stream] = {}
        first = {b.tokens: b for b in reversed(found)}
        for block in schedules:
            if block.tokens not in self.streams:
                # What features are made from shows in front of the first block: behind it, masks are in them too.
                inputs = self.origins.of(first[block.tokens].residual)
                self.streams[block.tokens] = flow.stream_of(block, axes, inputs)
        self.by_node = {block.stream.node: block for block in schedules}
        self.follower = Follower(
            graph, axes, self.streams, self.origins,
            protect=options.protect, proportional=options.proportional, restore=options.restore,
        )  # fmt: skip

    def run(self) -> int:
        self.follower.walk(self._behind)
        if self.merged:
            self._outputs()
        return self.merged

    def _behind(self, node: Node) -> None:
        if node in self.by_node:
            self._merge(self.by_node[node])

    def _merge(self, block: AttentionBlock) -> None:
        """Merge the tokens of a block's stream, and let everything behind read the merged ones."""
        stream, x = self.streams[block.tokens], block.stream
        present = stream.counts[-1]
        left = self._left(block, stream, present)
        if left == present:
            return
        if self.follower.stage(x, stream) != stream.stage:
            self.notes.append(f"block {block.index}: its tokens were restored before it, and are not merged again")
            return
        keys = block.attention.inputs[1]
        assert keys is not None
        if self.follower.stage(keys, stream) != stream.stage:
            self.notes.append(f"block {block.index}: it attends to restored tokens, and merges none")
            return
        builder = Builder(self.graph).before(x.node.next)  # type: ignore[union-attr]
        builder.span, builder.scope = block.attention.span, block.attention.scope
        if not stream.maps:
            mask = block.attention.inputs[3]
            known = flow.padding_in(mask, stream, self.axes) if mask is not None else None
            flow.start(stream, known, self.origins, builder)
            self._need_two(stream, block)
        left = builder.name_dim(f"{stream.length.symbol or 'tokens'}{len(stream.maps)}", left, least=1)
        metric = x if self.options.metric == "tokens" else self._keys(block, builder)
        fields = stream.maps[-1].fields
        bipartite = composite("std.token.bipartite_merge")
        options = {"protect": self.options.protect, "padding": stream.padded}
        merge = builder.multi(bipartite, x, *fields, metric, r=present - left, **options)
        y, node = merge[0], merge[0].node
        assert node is not None
        y.name = x.name
        # A tap on this very value shows it as it was.
        x.replace_uses(y, skip=(node, self.graph.end))
        stream.maps.append(flow.name_fields(merge[1:], len(stream.maps)))
        stream.counts.append(left)
        stream.merged_at.append(block.attention)
        self.follower.adopt_merged(x, y, stream)
        self.merged += 1

    def _need_two(self, stream: Stream, block: AttentionBlock) -> None:
        if stream.length.value is None and not prove_ge(stream.length, FEWEST, self.graph.facts):
            message = f"merging needs at least {FEWEST} tokens"
            need = Require(stream.length, ">=", as_dim(FEWEST), message, block.attention.span)
            self.graph.requires.append(need)

    def _left(self, block: AttentionBlock, stream: Stream, present: Dim) -> Dim:
        schedule, index = self.schedules[block]
        try:
            left = schedule.left(index, present, stream.length, self.options.protect)
        except TooMany as problem:
            raise Diagnostic(
                "E0709",
                f"`r` merges {problem.r} of {problem.present} tokens at block {block.index}, at most {problem.cap} can",
                block.attention.span,
                help="each merge pairs half of the tokens with the other half; protected tokens take no part",
            ) from None
        wanted = schedule.r[index] if isinstance(schedule.r, tuple) else None
        if wanted and present.value is not None:
            gone = int(present - left)
            if gone == 0 and index == 0:
                raise Diagnostic(
                    "E0709",
                    f"no token of {present} at block {block.index} can be merged with protect={self.options.protect}",
                    block.attention.span,
                )
            if gone < wanted:
                self.notes.append(f"block {block.index}: r = {wanted} was cut to {gone} of {present} tokens")
        return left

    def _keys(self, block: AttentionBlock, builder: Builder) -> Value:
        """The keys of the attention, averaged over heads, before a rotation: what a token is, not where it stands."""
        keys = block.attention.inputs[1]
        assert keys is not None
        if keys.node is not None and keys.node.op.qualified == ROPE and keys.node.inputs[0] is not None:
            keys = keys.node.inputs[0]
        if keys.type.shape[1] == 1:
            return builder.op("squeeze", keys, axis=1)
        return builder.op("mean", keys, axis=1)

    def _outputs(self) -> None:
        """Graph outputs that shrank: restored, or reported. A state has to keep its shape."""
        graph, follower = self.graph, self.follower
        states = {v.name: v.type for v in graph.inputs if v.role == "state"}
        for i, (value, info) in enumerate(zip(list(graph.outputs), graph.output_info, strict=True)):
            if self.options.restore:
                value = follower.unmerged(value, Builder(graph))
                graph.end.set_input(i, value)
            if info.role == "state" and value.type != states.get(info.name, value.type):
                raise self._changed_state(info, value)
        if self.options.map:
            self._expose_maps()
        for node in follower.restored:
            self.notes.append(f"`{node.op.name}` at {node.span} reads every original token's merged value")

    def _expose_maps(self) -> None:
        """The last map of every stream as taps; of several streams each is numbered."""
        merged = [s for s in self.streams.values() if s.maps]
        for i, stream in enumerate(merged):
            number = str(i) if len(merged) > 1 else ""
            self.graph.add_output(stream.maps[-1].source, f"token_source{number}", "tap")
            self.graph.add_output(stream.maps[-1].size, f"token_size{number}", "tap")

    @staticmethod
    def _changed_state(info: Output, value: Value) -> Diagnostic:
        return Diagnostic(
            "E0710",
            f"the state `{info.name}` would become {value.type}: its tokens were merged, but a state keeps its shape",
            notes=[Note("the value is computed here", value.node.span if value.node is not None else None)],
            help="restore every token with `restore=true`",
        )


@dataclass(frozen=True)
class _Comparison:
    """The cost of each block before and after."""

    before: CostTable
    after: CostTable

    def table(self, sizes: Mapping[str, int]) -> Table:
        old, new = self.before.at(sizes), self.after.at(sizes)
        rows: list[tuple[Any, ...]] = []
        for was, now in zip(old.blocks, new.blocks, strict=True):
            counts = (was.tokens or "", now.tokens or "")
            rows.append((was.name, *counts, was.cost.flops, now.cost.flops, was.cost.bytes, now.cost.bytes))
        a, b = old.total, new.total
        rows.append(("total", "", "", a.flops, b.flops, a.bytes, b.bytes))
        return Table(("block", "tokens", "tokens_after", "flops", "flops_after", "bytes", "bytes_after"), tuple(rows))
