"""One run of a pass that reduces tokens over one graph: blocks, their schedules and places, and a reduction at each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...ir.analysis.axes import Axes
from ...ir.builder import Builder, freeze, reinfer
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim, as_dim, prove_ge
from ...ir.graph import Graph, Node, Require, Value
from . import keys
from . import stage as flow
from .answer import answer
from .back import way_back
from .choice import choose
from .ends import read_by_place
from .follow import Follower
from .method import Limits, Method
from .outputs import finish
from .own_maps import give_own_maps
from .places import AROUND, AttentionBlock, Place, end_of, find_blocks, no_block, place_of
from .restore import Region
from .schedule import Schedule, TooMany, exact, larger, padded, smaller
from .segment import Outside, find_outside
from .stream import Ends, Facts, Origins, Stage, Stream, TokenMap, facts_of, find_streams
from .wants import Asked, named

if TYPE_CHECKING:
    from .reduce import ReduceTokens


class Reducer:
    """One run of a pass over one graph."""

    def __init__(self, options: ReduceTokens, method: Method, graph: Graph) -> None:
        self.options, self.method, self.graph = options, method, graph
        self.notes: list[str] = []
        self.done = 0
        give_own_maps(graph)
        self.order = {node: i for i, node in enumerate(graph.nodes())}
        self.moved: dict[Value, Value] = {}
        axes = self.axes = Axes(graph)
        found_streams = find_streams(graph, axes)
        self.found, misses = find_blocks(graph, axes, found_streams)
        if not self.found:
            raise no_block(graph, misses, options.name)
        if around := sum(miss.reason == AROUND for miss in misses):
            self.notes.append(f"{around} block(s) are not counted: {AROUND}")
        choice = choose(options, method, graph, self.found)
        self.chosen, self.causal, self.method = choice.chosen, choice.causal, choice.method
        self.notes += choice.notes
        self.origins = Origins(graph, found_streams)
        # The stream of every block that has one, and of those that are chosen.
        self.peers: dict[AttentionBlock, Stream] = {}
        self.of_block: dict[AttentionBlock, Stream] = {}
        self.streams = found_streams
        self._assign(axes)
        self.follower = Follower(
            graph, axes, self.streams, self.origins, proportional=options.proportional, restore=options.restore,
            fit=self._fit,
        )  # fmt: skip
        self.places = {b: place for b in self.chosen if (place := self._place(b)) is not None}
        self.by_node = {place.x.node: b for b, place in self.places.items()}
        # The regions that are open, by the node behind which they end.
        self.open: dict[Node | None, Region] = {}
        # What stays of each stream, where only a part of it may leave.
        self.outside: dict[Stream, Outside] = {}
        # The streams whose first tokens are asked to stay and read by nobody: those that are there, not those at the first places.
        self.counted: set[Stream] = set()
        self.ends = {stream: self._ends(stream) for stream in self.streams if self._blocks_of(stream)}
        self.schedules = self._schedules()
        # The stage at which each attention was met.
        self.met: dict[Node, Stage] = {}
        self.attentions = {block.attention: block for block in self.chosen}

    def run(self) -> int:
        for block, place in self.places.items():
            if place.x.node is None:
                self._reduce(block, place)
        self.follower.walk(self._behind)
        if self.done:
            finish(self.graph, self.follower, self.options)
            places = [(node.op.name, f" at {node.span}" if node.span is not None else "") for node in self.follower.restored]
            self.notes += [f"`{name}`{place} reads every original token's merged value" for name, place in dict.fromkeys(places)]
            self._check_keep()
        return self.done

    def _behind(self, node: Node) -> None:
        if node in self.attentions:
            stream, queries = self.of_block[self.attentions[node]], node.inputs[0]
            assert queries is not None
            if self.follower.was_given(stream.current):
                # Behind a region that was there before.
                stream.current = self.follower.stage(queries, stream)
            self.met[node] = stream.current
            if self.options.where == "keys":
                self._reduce_keys(self.attentions[node])
        if node in self.open:
            self.follower.close(self.open.pop(node))
        if node in self.by_node:
            self._reduce(self.by_node[node], self.places[self.by_node[node]])

    # Before anything happens ----------------------------------------------------------------------------------------

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
            if stream is not None:
                self.peers[block] = stream
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
        return blocks[:1] if self.options.where == "start" else blocks

    def _place(self, block: AttentionBlock) -> Place | None:
        options, stream = self.options, self.of_block[block]
        if options.where == "keys" or block not in self._blocks_of(stream):
            return None
        peers = [b for b in self.found if self.peers.get(b) is stream]
        place = place_of(block, peers, options.where, lambda v: self.follower.is_feature(v, stream))
        if place is not None and options.end is not None:
            last = [b for b in self.chosen if self.of_block[b] is stream][-1]
            place = replace(place, end=end_of(last, peers))
        return place

    def _ends(self, stream: Stream) -> Ends:
        """How many first and last tokens stay: those outside of a segment, what is asked for, or what is read by its place."""
        first_block = self._blocks_of(stream)[0]
        if self.options.segment is not None:
            outside = find_outside(self.options.segment, self.graph, stream, first_block, self.axes, self.origins)
            self.outside[stream] = outside
            return self.method.checked_ends((outside.first, outside.last), "segment", self.options.segment)
        behind = first_block.attention
        # Of keys nothing is read by its place: every token goes on.
        alone = self.options.where == "keys"
        firsts, last = ([], 0) if alone else read_by_place(self.follower, stream, behind, self.options.restore)
        if not alone and any(self.of_block[block] is stream for block in self.causal):
            # What comes next is said by the last token.
            last = max(last, 1)
        asked = self.options.ends(self.method, stream.current.count)
        if asked is None:
            # Of merged tokens the last one can be had again where all are restored.
            merged = self.options.restore and self.method.limits(0, 0).facts.merged
            last = last if self.method.admits(0, last) and not merged else 0
            return next((f for f in sorted(set(firsts), reverse=True) if self.method.admits(f, last)), 0), last
        # A list says all of it; behind a number, what is read at the end stays where that costs the others nothing.
        keeps = not isinstance(self.options.protect, tuple) and not self.method.limits(0, 0).facts.merged
        ends = asked[0], max(asked[1], last if keeps and self.method.admits(0, last) else 0)
        if not firsts:
            self.counted.add(stream)
        return self.method.checked_ends(ends, "protect", self.options.protect)

    def _limits(self, stream: Stream, ends: Ends) -> Limits:
        """Of what is counted of a stream: all of it, or its segment."""
        first, last = (end if isinstance(end, int) else self.graph.expand_lets(end) for end in ends)
        limits = self.method.limits(first, last)
        if stream not in self.outside:
            return limits
        outside = self.outside[stream].count
        fewest = max(limits.fewest - (outside.value or 0), 1)
        return replace(limits, shift=limits.shift + outside, fewest=fewest)

    def _schedules(self) -> dict[AttentionBlock, tuple[Schedule, int]]:
        """The schedule that each block follows, and its place in it: one for each stream of tokens."""
        options, chosen = self.options, self.chosen if self.options.where == "keys" else list(self.places)
        for name, given in (("r", options.r), ("keep", options.keep)):
            if isinstance(given, tuple) and len(given) > len(chosen):
                raise Diagnostic(
                    "E0705", f"`{name}` of {options.name} lists {len(given)} numbers for {len(chosen)} block(s)"
                )
        listed = dict(zip(chosen, padded(options.r, len(chosen)), strict=True)) if isinstance(options.r, tuple) else {}
        places: dict[AttentionBlock, tuple[Schedule, int]] = {}
        for stream, ends in self.ends.items():
            blocks = [b for b in chosen if self.of_block[b] is stream]
            # Where every token comes back behind each block, each begins with all of them.
            for part in [[b] for b in blocks] if options.each else [blocks]:
                schedule = options.schedule(len(part), self._limits(stream, ends), len(stream.stages) > 1)
                if listed:
                    schedule = replace(schedule, r=tuple(listed[b] for b in part))
                places.update((block, (schedule, i)) for i, block in enumerate(part))
        self.before = {stream: stream.stages[0] for stream in self.streams}
        return places

    # Reducing ----------------------------------------------------------------------------------------------------

    def _reduce(self, block: AttentionBlock, place: Place) -> None:
        """Let tokens of a block's stream go, and let everything behind read what is left, up to the end of a region."""
        stream, follower, given = self.of_block[block], self.follower, place.x
        builder = Builder(self.graph).before(given.node.next if given.node is not None else next(iter(self.graph.nodes())))
        builder.span, builder.scope = block.attention.span, block.attention.scope
        current, at = stream.current, block.attention if place.behind else None
        x = follower.given_back(given, builder)
        now = follower.stage(x, stream)
        if now is not current and follower.was_given(current):
            # Behind a region that was there before.
            current = stream.current = now
        if self.schedules[block][1] == 0:
            self.before[stream] = current
        left = self._left(block, stream, current.count)
        if left == current.count:
            return
        if now is not current:
            self.notes.append(
                f"block {block.index}: its tokens were restored before it, and none is {self.options.verbs[1]} again"
            )
            return
        queries = block.attention.inputs[0]
        assert queries is not None
        if at is not None and follower.stage(queries, stream) is not self.met.get(at, current):
            self.notes.append(f"block {block.index}: it attends to restored tokens, and {self.options.verbs[0]} none")
            return
        if current.tokens is None:
            mask = block.attention.inputs[3]
            known = flow.padding_in(mask, stream, self.axes) if mask is not None else None
            known = known and self._hoisted(known, given, builder)
            flow.start(stream, known, self.origins, builder)
        elif current.node is None:
            current.tokens = TokenMap(*(self._hoisted(v, given, builder) for v in current.map.fields))
            self.origins.adopt(current)
        first, last = self.ends[stream]
        text = named(self.options.text, self.graph, stream, self.origins)
        limits = self.method.limits(first, last)
        if current is self.before[stream]:
            self._need(current.count, limits, block)
        number = len(stream.stages)
        left = builder.name_dim(f"{stream.length.symbol or 'tokens'}{number}", left, least=1)
        counted = stream.padded and first != 0 and stream in self.counted
        asked = Asked(
            self.graph, builder, stream, current, x, at or (block.attention if self.options.where == "keys" else None),
            self.options.metric_name(), 0 if stream in self.outside and last != 0 else first, last,
            self._in_front(stream, given), text and self._hoisted(text, given, builder), counted=counted,
            causal=block in self.causal,
        )  # fmt: skip
        # A tap on this very value shows it as it was, and what lies beside a region or behind it reads it as it was.
        readers = self._readers(place)
        alone = self.options.where == "keys"
        wants = [answer(name, pattern, asked, self.method, follower, alone) for name, pattern in self.method.wants]
        attrs = self.method.attrs(left, current.count, first, last, stream.padded, counted)
        op = self.method.op
        made = builder.multi(op, x, *current.map.fields, *wants, **attrs, **current.facts.attrs("map"))
        y, node = made[0], made[0].node
        assert node is not None
        y.name = x.name
        for reader, i in readers:
            reader.set_input(i, y)
        stage = Stage(left, current, node, Facts(), flow.name_fields(made[1:], number), at or block.attention)
        stage.facts = facts_of(node)
        stream.padded |= stage.facts.padded
        stream.meet(stage)
        self.origins.adopt(stage)
        follower.adopt_reduced(x, y, stream, stage)
        if place.end is not None:
            back = way_back(self.method, x, y, stage, self.ends[stream])
            self.open[place.end.node] = Region(stream, current, stage, back)
        self.done += 1

    def _reduce_keys(self, block: AttentionBlock) -> None:
        """Let keys and values of a block go, for its own attention alone."""
        stream, node = self.of_block[block], block.attention
        k = node.inputs[1]
        assert k is not None
        start = self.follower.stage(k, stream)
        x, *read = keys.pack(node, Builder(self.graph).before(node))
        assert x.node is not None
        self.order[x.node] = self.order[node]
        self.follower.adopt(x, 1, (k, 2), stream, start)
        self._reduce(block, Place(x))
        left = stream.current
        stream.current = start
        if left is start:
            keys.unpacked(x)
            return
        for i, value in enumerate(read, 1):
            for part in (value.node.inputs[0], value):  # type: ignore[union-attr]
                reinfer(part.node)  # type: ignore[union-attr, arg-type]
            self.follower.adopt(value, 2, (k, 2), stream, left)
            node.set_input(i, value)
        keys.read(node, stream, left, block in self.causal, self.options.proportional, self.follower)
        reinfer(node)

    def _readers(self, place: Place) -> list[tuple[Any, int]]:
        """What reads the features of a place and is to read those that are left: of a region, what its end is made of."""
        readers = [(reader, i) for reader, i in place.x.uses if reader is not self.graph.end]
        if place.end is None:
            return readers
        start = self.order.get(place.x.node, -1)  # type: ignore[arg-type]
        pending, within = [place.end.node], set()
        while pending:
            node = pending.pop()
            if node is not None and node not in within and self.order.get(node, -1) > start:
                within.add(node)
                pending += [v.node for v in node.inputs if v is not None]
        return [(reader, i) for reader, i in readers if reader in within]

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
        """The attentions of a stream in front of a place, at whatever stage."""
        end = self.order.get(x.node, -1)  # type: ignore[arg-type]
        views = ((b.attention, self.follower.view(b.tokens)) for b in self.found)
        blocks = (attention for attention, view in views if view is not None and view[0] is stream)
        return tuple(attention for attention in blocks if self.order[attention] < end)

    def _need(self, present: Dim, limits: Limits, block: AttentionBlock) -> None:
        if limits.only is None:
            need = Require(present, ">=", as_dim(limits.fewest), limits.why, block.attention.span)
            known = prove_ge(self.graph.expand_lets(present), limits.fewest, self.graph.facts)
        else:
            need = Require(present, "==", as_dim(limits.only), limits.why, block.attention.span)
            known = present.value is not None
        if not known and need not in self.graph.requires:
            self.graph.requires.append(need)

    def _left(self, block: AttentionBlock, stream: Stream, present: Dim) -> Dim:
        (schedule, index), options = self.schedules[block], self.options
        first, _ = self.ends[stream]
        outside = self.outside[stream].count if stream in self.outside else None
        try:
            if outside is None:
                left = schedule.left(index, present, self.before[stream].count)
            else:
                counted = self.graph.expand_lets(present) - outside
                left = schedule.left(index, counted, self.graph.expand_lets(self.before[stream].count) - outside)
                left = present if left == counted else left + outside
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

    def _check_keep(self) -> None:
        """Say it where rounding and protected tokens keep more than was asked for."""
        keep = self.options.keep[-1] if isinstance(self.options.keep, tuple) else self.options.keep
        for stream in self.ends if keep is not None else ():
            outside = self.outside[stream].count if stream in self.outside else as_dim(0)
            counts = (self.before[stream].count, stream.stages[-1].count)
            first, final = (self.graph.expand_lets(count) - outside for count in counts)
            if first.value is not None and final.value is not None:
                wanted = first.value - int(first.value * (1 - exact(keep or 0.0)))
                if final.value > wanted:
                    self.notes.append(f"keep={keep} of {first} tokens is {wanted}, but {final} are left")
