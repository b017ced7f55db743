"""Choosing which keys and values the attention of a causal decoder reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

from ...ir.analysis.cost import ATTENTION
from ...ir.analysis.sight import Sights
from ...ir.builder import Builder
from ...ir.compiling import PassSpec
from ...ir.diagnostics import Diagnostic, Note, did_you_mean
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Module, Node, Value
from ...ir.library import ops_of, written
from ...ir.op import Composite, Trait, has
from ...ir.types import boolean
from ..engine import Pass
from ..options import Option, check_further, option
from ..report import Report
from ..tokens.method import check_required, find_method, further_options, methods, statics_of
from ..tokens.prune_tokens import PruneTokens
from ..tokens.schedule import exact
from ..tokens.stream import is_visibility
from .evict import Eviction, evicts
from .evict import shipped as evicting
from .memo import reader
from .past import PAST
from .slots import appends, cached, is_choice, keep_bounds, kept_choice, page_of, read_chosen, shipped
from .tree import COMMIT, VERIFY

STD = "std.token.kv"
# The entry points of add_cache in which nothing is appended to a cache, by what asks for them.
_FURTHER = {VERIFY: "tree", COMMIT: "tree", PAST: "past"}


@dataclass(frozen=True)
class SelectKV(Pass):
    """Lets each query of a causal decoder read at most so many keys and values, those that a method chooses.

    In a prompt that is what decoding with a cache of `k` slots would have read. A method that reduces tokens chooses for all
    queries at once, so that keys and values are fewer. Behind `add_cache`, methods of std.token.slots choose which slots of the
    cache the new tokens read; the others stay, and prompts are read as they are. Those of std.token.evict choose which tokens
    stay in the cache: the others leave it, and positions are counted beside it.

    before: `attention(q, k, v, causal=true)`
    after:  `attention(q, k, v, sinks_and_recent(q, k, k=64), causal=true)`
    """

    name = "select_kv"
    contract = "approximate"

    method: str = option(
        "sinks_and_recent",
        "how: an op of std.token.kv, std.token.slots or std.token.evict, one that reduces tokens, or your own, `mine.tess:name`",
    )
    k: int | None = option(None, "how many keys a query reads at most", least=1)
    keep: float | None = option(None, "instead of k: the share of all keys, where their number is known", least=0, most=1)
    blocks: tuple[int, ...] | None = option(None, "the causal attentions to choose in, counted from 0; all when none")
    reuse: float | None = option(
        None, "of a cache: read again what was chosen last, where the cosine between new queries and those of then is at least "
        "this, and score nothing", least=-1, most=1
    )  # fmt: skip
    further: tuple[tuple[str, Any], ...] = option((), "", hidden=True)

    @classmethod
    def further_options(cls, spec: PassSpec) -> dict[str, Option] | None:
        """Those of the method; None for one whose file is only known beside a module."""
        method = spec.options.get("method", cls.method)
        return None if not isinstance(method, str) or ":" in method else _options(_method(method, None))

    @classmethod
    def method_help(cls, method: str | None) -> str:
        """All methods by the first line of their text, or the text of one."""
        if method is not None:
            op = _method(method, None)
            return op.doc if _is_own(op) else PruneTokens.method_help(method)
        own = (*_visible().values(), *shipped().values(), *evicting().values())
        lines = [f"  {op.name}  {op.doc.splitlines()[0]}" for op in own]
        return "\n".join(["methods (`--method NAME` tells more), and those of prune_tokens", *lines])

    def run(self, module: Module) -> Report:
        op = _method(self.method, module)
        settings = check_further(type(self), _options(op), dict(self.further))
        check_required(op, settings, self.name)
        if (self.k is None) == (self.keep is None):
            told = "neither `k` nor `keep`" if self.k is None else "both `k` and `keep`"
            raise Diagnostic(
                "E0705", f"select_kv is given {told}, but needs exactly one of them",
                help="write `select_kv(k=64)` or `select_kv(keep=0.5)`",
            )  # fmt: skip
        if self.reuse is not None and not is_choice(op):
            raise Diagnostic(
                "E0705", f"`reuse` reads slots of a cache again, and `{op.name}` chooses none",
                help=f"without `reuse`, or with one of {', '.join(shipped())}, behind `add_cache`",
            )  # fmt: skip
        if is_choice(op) or evicts(op):
            return self._from_cache(module, op, settings)
        chosen = self._chosen(module.graph)
        if not is_visibility(op):
            alike = PruneTokens(self.method, k=self.k, keep=self.keep, place="keys", blocks=self.blocks, further=self.further)
            return alike.run(module)
        done = [index for index, node in chosen.items() if self._choose(module.graph, node, op, settings)]
        report = Report.of(self, len(done))
        report.facts["blocks"] = done
        return report

    def _from_cache(self, module: Module, op: Composite, settings: dict[str, Any]) -> Report:
        """Let new tokens read the slots of a cache that a method chooses. Raises E0705, E0707, E0704."""
        graph = module.graph
        found, written = cached(graph), appends(graph)
        if not written:
            entry = next(iter(module.functions))
            if entry in _FURTHER:
                raise Diagnostic(
                    "E0707", f"`{op.name}` chooses slots of a cache that tokens are appended to, and `{entry}` appends none",
                    help=f"`add_cache` without `{_FURTHER[entry]}=`, which adds that entry point",
                )  # fmt: skip
            raise Diagnostic(
                "E0707", f"`{op.name}` chooses slots of a cache, and this model has none",
                help="give it one: `add_cache` in front; without a cache, the methods are those of std.token.kv",
            )  # fmt: skip
        if self.k is None:
            raise Diagnostic("E0705", "a share of a cache is no number before it runs", help="say how many slots are read, `k=64`")
        if evicts(op):
            if self.blocks is not None:
                raise Diagnostic(
                    "E0705", f"`{op.name}` lets tokens leave all caches alike, and `blocks` names some",
                    help="without `blocks`; methods that choose what is read take it",
                )  # fmt: skip
            return Report.of(self, Eviction(graph, op, {"k": self.k, **settings}).run(written, found))
        page = page_of(op, settings)
        bounds = {}
        if page is not None:
            # Prompts write them too: entry points share their states.
            bounds = {append: keep_bounds(graph, append, i, page) for i, append in self._numbered(written).items()}
        chosen = self._numbered(found) if found else {}
        for i, append in self._numbered(written).items() if found or self.reuse is not None else ():
            node = chosen[i] if found else reader(graph, append, op)
            own = {"scale": node.attrs["scale"]} if "scale" in statics_of(op) else {}
            attrs, kept = {"k": self.k, **settings, **own}, bounds.get(append)
            memo = None if self.reuse is None else kept_choice(graph, append, node, op, attrs, i, self.reuse, kept)
            if found:
                read_chosen(graph, node, op, attrs, kept, memo)
            elif memo is not None:
                memo.forget()
        report = Report.of(self, len(chosen))
        report.facts["blocks"] = list(chosen)
        return report

    def _chosen(self, graph: Graph) -> dict[int, Node]:
        """The causal attentions by number. Raises E0707 without one, or where keys are those of a cache; E0704."""
        sights, found, first = Sights(graph), [], None
        for node in graph.nodes():
            if node.op.qualified == ATTENTION and sights.of(node).one_way:
                found.append(node)
            elif node.op.qualified == ATTENTION:
                first = first or node
        states = [v.name for v in graph.inputs if v.role == "state"]
        if states:
            raise Diagnostic(
                "E0707", f"select_kv chooses among the keys of a prompt, but those of this model lie in its state `{states[0]}`",
                help=f"the slots of a cache are chosen by {', '.join(shipped())}; this method works on the model without one",
            )  # fmt: skip
        if not found:
            notes = [Note("this attention sees tokens behind it", first.span)] if first is not None else []
            raise Diagnostic(
                "E0707", "select_kv found no causal `std.attention.attention` to work on", notes=notes,
                help="in an encoder, keys and values leave with `prune_tokens(place=keys)`; behind an import, run "
                "`raise_composites` first",
            )  # fmt: skip
        return self._numbered(found)

    def _numbered(self, found: list[Node]) -> dict[int, Node]:
        """Those of the attentions that `blocks` names. Raises E0704."""
        numbers = range(len(found)) if self.blocks is None else self.blocks
        for index in numbers:
            if not -len(found) <= index < len(found):
                raise Diagnostic(
                    "E0704", f"`blocks` of the pass `select_kv` names block {index}, but the model has {len(found)} causal "
                    "attention(s)",
                )  # fmt: skip
        return {i: found[i] for i in sorted({index % len(found) for index in numbers})}

    def _choose(self, graph: Graph, node: Node, op: Composite, settings: dict[str, Any]) -> bool:
        """Hide from each query what the method does not choose; whether that may be any."""
        q, keys, _, mask = node.inputs[:4]
        assert q is not None
        assert keys is not None
        present = keys.type.shape[2]
        budget = self._budget(present)
        if present.value is not None and budget >= present.value:
            return False
        builder = Builder(graph).before(node)
        builder.span, builder.scope = node.span, node.scope
        known = statics_of(op)
        own = {"scale": node.attrs["scale"]} if "scale" in known else {}
        operands: list[Value | None] = [q, keys]
        if len(op.signature.operands) > 2:
            operands.append(_there(mask, keys, builder))
            if operands[2] is not None and "rows" in known:
                own["rows"] = keys.type.shape[0]
        seen = builder.op(op, *operands, k=budget, **settings, **own)
        assert seen.node is not None
        # What it requires of the budget is told now.
        op.instantiate([None if v is None else v.type for v in operands], seen.node.attrs)
        node.set_input(3, seen if mask is None else builder.op("logical_and", mask, seen))
        return True

    def _budget(self, present: Dim) -> int:
        if self.k is not None:
            return self.k
        if present.value is None:
            raise Diagnostic(
                "E0705", f"a share of {present} keys is no number before it runs", help="say how many each query reads, `k=64`"
            )
        return max(1, int(present.value * exact(self.keep or 0.0)))


def _options(op: Composite) -> dict[str, Option]:
    """What a method adds to the options; the scale is that of each attention, and `rows` are those of its batch."""
    told = {"scale", "rows"} if _is_own(op) else set()
    return {name: value for name, value in further_options(op).items() if name not in told}


def _there(mask: Value | None, keys: Value, builder: Builder) -> Value | None:
    """Which keys [B, S] are no padding, as far as an attention's mask says it of each key by itself; all that it says of them."""
    if mask is None:
        return None
    batch, _, count, _ = keys.type.shape
    if mask.type.rank == 4 and mask.type.shape[1:] == (1, 1, count):
        row = builder.op("squeeze", mask, axis=(1, 2))
        row = row if row.type.dtype.kind == "bool" else builder.op("cast", row, dtype=boolean)
        return row if row.type.shape[0] == batch else builder.op("expand", row, shape=(batch, count))
    joins = mask.node is not None and has(mask.node, Trait.MEETS)
    parts = [_there(v, keys, builder) for v in mask.node.inputs] if joins and mask.node is not None else []
    told = [part for part in parts if part is not None]
    return reduce(lambda a, b: builder.op("logical_and", a, b), told) if told else None


def _is_own(op: Composite) -> bool:
    """Whether a method is one of this pass alone."""
    return is_visibility(op) or is_choice(op) or evicts(op)


def _visible() -> dict[str, Composite]:
    """The shipped methods that choose for each query."""
    return {op.name: op for op in ops_of(STD) if is_visibility(op)}


def _method(name: str, module: Module | None) -> Composite:
    """The op that ``name`` means. Raises E0001, E0201, E0716."""
    op = written(name, module)
    known = {**_visible(), **shipped(), **evicting()}
    if op is None:
        if name in known:
            return known[name]
        if name not in methods() and name != "random":
            names = sorted({*known, *methods(), "random"})
            raise Diagnostic(
                "E0201", f"there is no method `{name}` for select_kv", help=did_you_mean(name, names)
                or f'the methods are {", ".join(names)}; one of your own is `method="mine.tess:name"`',
            )  # fmt: skip
        return find_method(name, module, SelectKV.name)
    return op if _is_own(op) else find_method(name, module, SelectKV.name)
