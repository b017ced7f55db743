"""One run of a pass that reduces tokens over one graph: blocks, their schedules and places, and a reduction at each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...ir.analysis.axes import Axes
from ...ir.analysis.sight import Sight, Sights
from ...ir.builder import Builder, freeze
from ...ir.diagnostics import Diagnostic, Note
from ...ir.dims.dim import Dim, as_dim, prove_ge
from ...ir.graph import Graph, Node, Output, Require, Value
from ...ir.notation import show_value
from ...ir.types import f32
from . import stage as flow
from .ends import read_by_place
from .follow import Follower
from .method import Limits, Method
from .places import AttentionBlock, find_blocks, no_block, place_of
from .schedule import Schedule, TooMany, exact, larger, padded, smaller
from .stream import Facts, Origins, Stage, Stream, TokenMap, facts_of, find_streams
from .wants import Asked, find_want, fitted, named, number_of

if TYPE_CHECKING:
    from .reduce import ReduceTokens


class Reducer:
    """One run of a pass over one graph."""

    def __init__(self, options: ReduceTokens, method: Method, graph: Graph) -> None:
        self.options, self.method, self.graph = options, method, graph
        self.notes: list[str] = []
        self.done = 0
        self.order = {node: i for i, node in enumerate(graph.nodes())}
        self.moved: dict[Value, Value] = {}
        axes = self.axes = Axes(graph)
        found_streams = find_streams(graph, axes)
        self.found, misses = find_blocks(graph, axes)
        if not self.found:
            raise no_block(graph, misses, options.name)
        self.causal: list[AttentionBlock] = []
        self.chosen = self._chosen()
        self.origins = Origins(graph, found_streams)
        self.of_block: dict[AttentionBlock, Stream] = {}
        self.streams = found_streams
        self._assign(axes)
        self.follower = Follower(
            graph, axes, self.streams, self.origins, proportional=options.proportional, restore=options.restore,
            fit=self._fit,
        )  # fmt: skip
        self.places = {block: self._place(block) for block in self.chosen}
        self.by_node = {x.node: b for b, x in self.places.items() if x is not None}
        self.ends = {stream: self._ends(stream) for stream in self.streams if self._blocks_of(stream)}
        self.schedules = self._schedules()
        # The stage at which each attention was met.
        self.met: dict[Node, Stage] = {}
        self.attentions = {block.attention: block for block in self.chosen}

    def run(self) -> int:
        for block, x in self.places.items():
            if x is not None and x.node is None:
                self._reduce(block, x)
        self.follower.walk(self._behind)
        if self.done:
            self._outputs()
            self._check_keep()
        return self.done

    def _behind(self, node: Node) -> None:
        if node in self.attentions:
            self.met[node] = self.of_block[self.attentions[node]].current
        if node in self.by_node:
            x = self.places[self.by_node[node]]
            assert x is not None
            self._reduce(self.by_node[node], x)

    # Before anything happens ----------------------------------------------------------------------------------------

    def _chosen(self) -> list[AttentionBlock]:
        found, options = self.found, self.options
        chosen = found
        if options.blocks is not None:
            for index in options.blocks:
                if not -len(found) <= index < len(found):
                    raise Diagnostic(
                        "E0704",
                        f"`blocks` of the pass `{options.name}` names block {index}, but the model has {len(found)} "
                        "self-attention block(s)",
                    )
            chosen = [found[i] for i in sorted({i % len(found) for i in options.blocks})]
        known = Sights(self.graph)
        sights = {block: known.of(block.attention) for block in chosen}
        causal = [b for b, sight in sights.items() if sight.one_way]
        facts = self.method.limits(0, 0).facts
        if facts.ordered and not facts.merged:
            self.causal = causal
            return chosen
        kept = [b for b, sight in sights.items() if not sight.one_way and (options.blocks or sight.unknown is None)]
        left = [b for b in chosen if b not in kept]
        if left and (options.blocks is not None or not kept):
            raise self._causal(left[0], sights[left[0]])
        for told in ("attend causally", "may attend causally"):
            numbers = [str(b.index) for b in left if (b in causal) == (told == "attend causally")]
            if numbers:
                self.notes.append(f"block(s) {', '.join(numbers)} {told}: the pass {options.verbs[0]} none")
        self.notes += dict.fromkeys(
            f"the input `{name}` is taken for a bias of distances: where it hides later tokens, early ones see them now"
            for name in (sights[block].given for block in kept)
            if name is not None
        )
        return kept

    def _causal(self, block: AttentionBlock, sight: Sight) -> Diagnostic:
        span = block.attention.span
        if sight.unknown is None:
            return Diagnostic(
                "E0708",
                f"block {block.index} attends causally: merging its tokens would let early places see later ones",
                span,
                help="merge in blocks that see all tokens, chosen with `blocks=[…]`, or use `prune_tokens` and a method that "
                "merges none",
            )
        return Diagnostic(
            "E0708",
            f"whether block {block.index} attends causally cannot be told: {sight.unknown}",
            span,
            help=f"where every token sees those behind it, name the blocks, `blocks=[{block.index}]`; else use `prune_tokens`",
        )

    def _assign(self, axes: Axes) -> None:
        """The stream of each chosen block: one that was there already, or a new one."""
        known = {axes.find(*s.tokens): s for s in self.streams}
        known |= {axes.find(stage.map.size, 1): s for s in self.streams for stage in s.stages[1:]}
        chosen = set(self.chosen)
        for block in self.found:
            stream = known.get(block.tokens)
            if stream is None and block in chosen:
                x = block.stream
                stream = Stream(block.tokens, axes.find(x, 0), x.type.shape[0], [Stage(x.type.shape[1])])
                known[block.tokens] = stream
                self.streams.append(stream)
            if block in chosen:
                assert stream is not None
                self.of_block[block] = stream
        for stream in self.streams:
            # What features are made from shows in front of the first block: behind it, masks are in them too.
            classes = {root for root, s in known.items() if s is stream}
            first = next((b for b in self.found if b.tokens in classes), None)
            if first is not None:
                stream.inputs = self.origins.of(first.residual)
            if stream.stages[0].tokens is not None:
                flow.padding_known(stream, self.origins)

    def _blocks_of(self, stream: Stream) -> list[AttentionBlock]:
        blocks = [b for b in self.chosen if self.of_block[b] is stream]
        return blocks[:1] if self.options.place == "start" else blocks

    def _place(self, block: AttentionBlock) -> Value | None:
        if self.options.place == "start":
            return block.residual if block is self._blocks_of(self.of_block[block])[0] else None
        return place_of(block, self.found, self.options.place)

    def _ends(self, stream: Stream) -> tuple[int, int]:
        """How many first and last tokens stay: what is asked for, or what the model reads by its place."""
        first_block = self._blocks_of(stream)[0]
        behind = first_block.attention
        firsts, last = read_by_place(self.follower, stream, behind, self.options.restore)
        if any(self.of_block[block] is stream for block in self.causal):
            # What comes next is said by the last token.
            last = max(last, 1)
        asked = self.options.protected()
        if asked is None:
            # Of merged tokens the last one can be had again where all are restored.
            merged = self.options.restore and self.method.limits(0, 0).facts.merged
            last = last if self.method.admits(0, last) and not merged else 0
            return next((f for f in sorted(set(firsts), reverse=True) if self.method.admits(f, last)), 0), last
        # A list says all of it; behind a number, what is read at the end stays where that costs the others nothing.
        keeps = not isinstance(self.options.protect, tuple) and not self.method.limits(0, 0).facts.merged
        ends = asked[0], max(asked[1], last if keeps and self.method.admits(0, last) else 0)
        for name, number in zip(("protect", "last"), ends, strict=True):
            if number and name not in self.method.statics:
                raise Diagnostic(
                    "E0705",
                    f"`protect={show_value(self.options.protect)}` asks that tokens stay, but the method "
                    f"`{self.method.op.name}` has no `{name}: int = 0`",
                    help=f"declare `{name}: int = 0` among its static parameters, as `keep_best` has it, or leave `protect` out",
                )
        self.method.limits(*ends)
        return ends

    def _schedules(self) -> dict[AttentionBlock, tuple[Schedule, int]]:
        """The schedule that each block follows, and its place in it: one for each stream of tokens."""
        options, chosen = self.options, [b for b, x in self.places.items() if x is not None]
        for name, given in (("r", options.r), ("keep", options.keep)):
            if isinstance(given, tuple) and len(given) > len(chosen):
                raise Diagnostic(
                    "E0705", f"`{name}` of {options.name} lists {len(given)} numbers for {len(chosen)} block(s)"
                )
        listed = dict(zip(chosen, padded(options.r, len(chosen)), strict=True)) if isinstance(options.r, tuple) else {}
        places: dict[AttentionBlock, tuple[Schedule, int]] = {}
        for stream, (first, last) in self.ends.items():
            blocks = [b for b in chosen if self.of_block[b] is stream]
            schedule = options.schedule(len(blocks), self.method.limits(first, last), len(stream.stages) > 1)
            if listed:
                schedule = replace(schedule, r=tuple(listed[b] for b in blocks))
            places.update((block, (schedule, i)) for i, block in enumerate(blocks))
        self.before = {stream: stream.stages[0] for stream in self.streams}
        return places

    # Reducing ----------------------------------------------------------------------------------------------------

    def _reduce(self, block: AttentionBlock, x: Value) -> None:
        """Let tokens of a block's stream go, and let everything behind read what is left."""
        stream, follower = self.of_block[block], self.follower
        current, at = stream.current, None if self.options.place == "start" else block.attention
        if self.schedules[block][1] == 0:
            self.before[stream] = current
        left = self._left(block, stream, current.count)
        if left == current.count:
            return
        if follower.stage(x, stream) is not current:
            self.notes.append(
                f"block {block.index}: its tokens were restored before it, and none is {self.options.verbs[1]} again"
            )
            return
        keys = block.attention.inputs[1]
        assert keys is not None
        if at is not None and follower.stage(keys, stream) is not self.met.get(at, current):
            self.notes.append(f"block {block.index}: it attends to restored tokens, and {self.options.verbs[0]} none")
            return
        builder = Builder(self.graph).before(x.node.next if x.node is not None else next(iter(self.graph.nodes())))
        builder.span, builder.scope = block.attention.span, block.attention.scope
        if current.tokens is None:
            mask = block.attention.inputs[3]
            known = flow.padding_in(mask, stream, self.axes) if mask is not None else None
            known = known and self._hoisted(known, x, builder)
            flow.start(stream, known, self.origins, builder)
        elif current.node is None:
            current.tokens = TokenMap(*(self._hoisted(v, x, builder) for v in current.map.fields))
            self.origins.adopt(current)
        first, last = self.ends[stream]
        text = named(self.options.text, self.graph, stream, self.origins)
        limits = self.method.limits(first, last)
        if current is self.before[stream]:
            self._need(current.count, limits, block)
        number = len(stream.stages)
        left = builder.name_dim(f"{stream.length.symbol or 'tokens'}{number}", left, least=1)
        asked = Asked(
            self.graph, builder, stream, current, x, at, self.options.metric_name(), first, last,
            self._in_front(stream, x), text and self._hoisted(text, x, builder),
        )  # fmt: skip
        # A tap on this very value shows it as it was.
        readers = [(reader, i) for reader, i in x.uses if reader is not self.graph.end]
        wants = [self._want(name, pattern, asked) for name, pattern in self.method.wants]
        attrs = self.method.attrs(left, current.count, first, last, stream.padded)
        op = self.method.op
        made = builder.multi(op, x, *current.map.fields, *wants, **attrs, **current.facts.attrs("map"))
        y, node = made[0], made[0].node
        assert node is not None
        y.name = x.name
        for reader, i in readers:
            reader.set_input(i, y)
        stage = Stage(left, node, Facts(), flow.name_fields(made[1:], number), at or block.attention)
        stage.facts = facts_of(node)
        stream.padded |= stage.facts.padded
        stream.stages.insert(stream.stages.index(current) + 1, stage)
        stream.current = stage
        self.origins.adopt(stage)
        follower.adopt_reduced(x, y, stream, stage)
        self.done += 1

    def _hoisted(self, value: Value, x: Value, builder: Builder) -> Value:
        """A value that is made behind the place of ``x``, made in front of it: a mask, or the map that another pass began."""
        if value in self.moved:
            return self.moved[value]
        node = value.node
        if node is None or self.order.get(node, -1) <= self.order.get(x.node, -1):  # type: ignore[arg-type]
            return value
        inputs = [v and self._hoisted(v, x, builder) for v in node.inputs]
        for was, now in zip(node.outputs, builder.multi(node.op, *inputs, **node.attrs), strict=True):
            now.name = was.name
            for axis in range(was.type.rank):
                self.axes.join((was, axis), (now, axis))
            self.origins.add(now.node)  # type: ignore[arg-type]
            was.replace_uses(now)
            self.moved[was] = now
        return self.moved[value]

    def _in_front(self, stream: Stream, x: Value) -> tuple[Node, ...]:
        """The attentions of a stream in front of a place."""
        end = self.order.get(x.node, -1)  # type: ignore[arg-type]
        blocks = (b.attention for b in self.found if b.tokens == stream.tokens)
        return tuple(attention for attention in blocks if self.order[attention] < end)

    def _want(self, name: str, pattern: Any, asked: Asked) -> Value:
        """What the method asks for, at the stage of the features."""
        found, stream = find_want(asked.metric if name == "metric" else name, self.method.op), asked.stream
        assert found is not None
        want, static = found
        if static is not None:
            number = number_of(static, self.method.op, dict(self.method.settings))
            asked = asked.of_block(number, name.removesuffix(f"_{static}"))
        assert want.make is not None
        value = want.make(asked)
        if want.operand is not None and asked.attention is not None:
            whole = asked.attention.inputs[want.operand]
            assert whole is not None
            stage = self.follower.stage(whole, stream)
            value = self.follower.brought(value, want.axis, (whole, 2), stream, stage, asked.stage, asked.builder)
        return fitted(value, pattern, asked)

    def _need(self, present: Dim, limits: Limits, block: AttentionBlock) -> None:
        if not prove_ge(self.graph.expand_lets(present), limits.fewest, self.graph.facts):
            need = Require(present, ">=", as_dim(limits.fewest), limits.why, block.attention.span)
            if need not in self.graph.requires:
                self.graph.requires.append(need)

    def _left(self, block: AttentionBlock, stream: Stream, present: Dim) -> Dim:
        (schedule, index), options = self.schedules[block], self.options
        first, _ = self.ends[stream]
        try:
            left = schedule.left(index, present, self.before[stream].count)
        except TooMany as problem:
            raise Diagnostic(
                "E0709",
                f"`r` {options.verbs[0]} {problem.r} of {problem.present} tokens at block {block.index}, at most "
                f"{problem.cap} can",
                block.attention.span,
                help=options.why_capped,
            ) from None
        wanted = schedule.r[index] if isinstance(schedule.r, tuple) else None
        if wanted and present.value is not None:
            gone = int(present - left)
            if gone == 0 and index == 0:
                raise Diagnostic(
                    "E0709",
                    f"no token of {present} at block {block.index} can be {options.verbs[1]} with protect={first}",
                    block.attention.span,
                )
            if gone < wanted:
                self.notes.append(f"block {block.index}: r = {wanted} was cut to {gone} of {present} tokens")
        return left

    def _fit(self, node: Node, before: Stage) -> None:
        """Let a reduction that was there already remove as many of fewer tokens as it did, as far as they allow it."""
        own = {name: value for name, value in node.attrs.items() if "." not in name}
        ends = own.pop("protect", 0), own.pop("last", 0)
        budget = "r" if "r" in own else "k"
        old = as_dim(own.pop(budget))
        own.pop("padding", None)
        limits = Method(node.op, tuple(sorted(own.items()))).limits(*ends)  # type: ignore[arg-type]
        present = before.count
        wanted = present - old if budget == "r" else old
        left = smaller(larger(larger(wanted, present - limits.cap(present)), as_dim(limits.fewest)), present)
        left = Builder(self.graph).name_dim("tokens", left, least=1)
        node.attrs[budget] = freeze(present - left if budget == "r" else left)

    # The end ------------------------------------------------------------------------------------------------------

    def _outputs(self) -> None:
        """Graph outputs that shrank: restored, or reported. A state has to keep its shape."""
        graph, follower = self.graph, self.follower
        states = {v.name: v.type for v in graph.inputs if v.role == "state"}
        last = {
            v: stream.stages[-1] for stream in self.streams for s in stream.stages if s.tokens for v in s.map.fields
        }
        for i, (value, info) in enumerate(zip(list(graph.outputs), graph.output_info, strict=True)):
            if info.role == "tap" and value in last:
                # A map that a pass before exposed.
                final = last[value].map
                what = "size" if value.type.dtype == f32 else "source"
                graph.end.set_input(i, getattr(final, what))
                continue
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
        reduced = [s for s in self.streams if len(s.stages) > 1]
        taken = {info.name for info in self.graph.output_info}
        for i, stream in enumerate(reduced):
            number = str(i) if len(reduced) > 1 else ""
            for what in ("source", "size"):
                if f"token_{what}{number}" not in taken:
                    self.graph.add_output(getattr(stream.stages[-1].map, what), f"token_{what}{number}", "tap")

    def _check_keep(self) -> None:
        """Say it where rounding and protected tokens keep more than was asked for."""
        keep = self.options.keep[-1] if isinstance(self.options.keep, tuple) else self.options.keep
        for stream in self.ends if keep is not None else ():
            first, final = self.before[stream].count, stream.stages[-1].count
            if first.value is not None and final.value is not None:
                wanted = first.value - int(first.value * (1 - exact(keep or 0.0)))
                if final.value > wanted:
                    self.notes.append(f"keep={keep} of {first} tokens is {wanted}, but {final} are left")

    def _changed_state(self, info: Output, value: Value) -> Diagnostic:
        return Diagnostic(
            "E0710",
            f"the state `{info.name}` would become {value.type}: its tokens were {self.options.verbs[1]}, but a state keeps its "
            "shape",
            notes=[Note("the value is computed here", value.node.span if value.node is not None else None)],
            help="restore every token with `restore=true`",
        )
