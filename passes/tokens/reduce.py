"""The engine of all passes that reduce tokens: a schedule, a place in each block, a method, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

from ...ir.analysis.cost import CostTable, cost
from ...ir.analysis.sizes import default_sizes
from ...ir.analysis.table import Table
from ...ir.compiling import PassSpec
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim
from ...ir.graph import Module
from ...ir.notation import show_signature, show_value
from ...ir.op import Composite
from ..engine import Pass
from ..options import Option, check_further, option
from ..recover.masks import raise_masks
from ..report import Report
from ..tidy.dce import remove_dead
from .back import find_back
from .method import Limits, Method, check_required, find_method, further_options, methods, misfit
from .reducer import Reducer
from .schedule import Schedule, Unreachable
from .wants import find_want


def _check_r(r: Any) -> str | None:
    if isinstance(r, float) and not r < 1:
        return f"must be a number of tokens, or a share of them between 0 and 1, but is {r}"
    return None


def _check_keep(keep: Any) -> str | None:
    if isinstance(keep, tuple) and (not keep or any(now > was for was, now in pairwise(keep))):
        return f"must be a share for each block, none larger than the one before it, but is {show_value(keep)}"
    return None


def _check_protect(protect: Any) -> str | None:
    if isinstance(protect, int) and protect < 0:
        return f"must be at least 0, or a list of places, [{protect}], but is {protect}"
    return None


def _check_segment(segment: Any) -> str | None:
    if isinstance(segment, tuple) and len(segment) not in (1, 2):
        return f"must be a name, or the place of the first token and that of the first one behind it, but is {show_value(segment)}"
    return None


@dataclass(frozen=True)
class ReduceTokens(Pass):
    """What the passes that reduce tokens have in common."""

    contract = "approximate"
    # What happens to a token that leaves, and why not to more of them.
    verbs: ClassVar[tuple[str, str]]
    why_capped: ClassVar[str]
    # Static parameters of a method that the pass gives it beside the budget; all others are options.
    told: ClassVar[frozenset[str]] = frozenset()

    method: str = option("", "how: an op of std.token or of a module below it, or one of your own, `mine.tess:name`")
    r: int | float | tuple[int, ...] | None = option(
        None, "tokens that leave at each block: a number, a list, or a share of them (0.1)", least=0, check=_check_r
    )
    keep: float | tuple[float, ...] | None = option(
        None, "instead of r: the share of tokens left at the end, removed in equal parts; or a list, what is left behind each "
        "block", least=0, most=1, check=_check_keep,
    )  # fmt: skip
    k: int | None = option(
        None, "instead of r: how many tokens the first of the blocks leaves; the others keep them", least=1
    )
    protect: int | tuple[int, ...] | None = option(
        None,
        "tokens that stay as they are: how many first ones, or places up to which, from either end (`[0, -1]`); when none, those "
        "that the model reads by place",
        check=_check_protect,
    )
    segment: str | tuple[int, ...] | None = option(
        None,
        "the part of the tokens that may leave, by the input that it is made of or the name of what is joined with others, or from "
        "which token to which, `[3, -20]`; all others stay, and are not counted in `r`, `keep` and `k`",
        check=_check_segment,
    )
    place: Literal["attention", "block", "start", "around_attention", "around_block", "keys"] = option(
        "attention",
        "where tokens leave: behind a block's attention, behind the block, or before the first block; around attention or around "
        "the block, behind which all of them are back; of a block's keys and values alone",
    )
    begin: int | None = option(None, "the block before which tokens leave, all at once: `place=start` at a block of its own")
    end: int | None = option(None, "the last block that works on fewer tokens: behind it every token has a value again")
    proportional: bool = option(True, "attend to a merged token as often as its size says")
    restore: bool = option(
        False, "give outputs, and what needs tokens in their places, the value of every original token"
    )
    map: bool = option(False, "expose where each token went: the taps `token_source` and `token_size`")
    blocks: tuple[int, ...] | None = option(
        None, "the self-attention blocks to reduce in, counted from 0; all when none"
    )
    text: str | None = option(
        None, "the input or tap that a method which asks for `text` compares tokens with: [B, D] or [B, L, D]"
    )
    back: str = option(
        "copy",
        "how tokens get a value back where a region ends: copy, that of the token that each became part of; or an op beside the "
        "method, `reconstruct`",
    )
    further: tuple[tuple[str, Any], ...] = option((), "", hidden=True)

    @classmethod
    def further_options(cls, spec: PassSpec) -> dict[str, Option] | None:
        """Those of the method; None for one whose file is only known beside a module."""
        method, back = spec.options.get("method", cls.method), spec.options.get("back", cls.back)
        if not isinstance(method, str) or not isinstance(back, str) or ":" in method + back:
            return None
        op = find_method(method, None, cls.name, spec.span)
        return further_options(op, find_back(back, method, op, None, spec.span), cls.told)

    @classmethod
    def method_help(cls, method: str | None) -> str:
        """All methods by the first line of their text, or one with its signature, its text and what it adds to the options."""
        if method is None:
            known = {op.name: op.doc.split("\n")[0] for ops in methods().values() for op in ops if cls.goes_with(op)}
            own = "one of your own: an op of a file, `mine.tess:name`"
            lines = [f"  {name}  {text}" for name, text in known.items()]
            return "\n".join(["methods (`--method NAME` tells more)", *lines, f"  {own}"])
        op = find_method(method, None, cls.name)
        found = {name: find_want(name, op) for name, _ in Method(op).wants}
        wants = [f"  {name}: {want[0].doc}" for name, want in found.items() if want is not None]
        options = [f"  {o.name}: {o.kind} = {show_value(o.default)}" for o in further_options(op, None, cls.told).values()]
        statics = tuple(s for s in op.signature.statics if "." not in s.name)
        parts = [show_signature(replace(op.signature, statics=statics)), op.doc]
        parts += ["it asks for\n" + "\n".join(wants)] if wants else []
        parts += ["its options\n" + "\n".join(options)] if options else []
        return "\n\n".join(parts)

    # What merging and pruning say differently ---------------------------------------------------------------------

    def metric_name(self) -> str:
        """Which want `metric` is: the keys, where attention has run."""
        return "keys" if self.where in ("attention", "block", "keys") else "tokens"

    @classmethod
    def goes_with(cls, op: Composite) -> bool:
        """Whether a method is listed among those of this pass."""
        return misfit(op) is None

    def numbers(self, count: int) -> tuple[int, ...]:
        """The tokens that leave at each of ``count`` blocks when ``r`` is a number."""
        assert isinstance(self.r, int)
        return (self.r,) * count

    def settled(self, method: Method, tokens: Dim) -> Method:
        """The method with what only a stream of so many tokens tells of its settings."""
        return method

    def ends(self, method: Method, tokens: Dim) -> tuple[int, int] | None:
        """How many first and last of so many tokens are asked to stay; None when the model says."""
        return self.protected()

    def protected(self) -> tuple[int, int] | None:
        """How many first and last tokens are asked to stay; None when the model says."""
        if self.protect is None or isinstance(self.protect, int):
            return None if self.protect is None else (self.protect, 0)
        return max((at + 1 for at in self.protect if at >= 0), default=0), max(
            (-at for at in self.protect if at < 0), default=0
        )

    # Where ------------------------------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        """The place, as the blocks see it."""
        return "start" if self.begin is not None else self.place

    @property
    def each(self) -> bool:
        """Whether every token is back behind each block, so that blocks do not share a budget."""
        return self.place.startswith("around_") or self.where == "keys"

    def chosen(self, count: int) -> list[int]:
        """The blocks to reduce in, of ``count``. Raises E0704 for one that there is not, E0705 for options that say two things."""
        if self.segment is not None and self.protect is not None:
            raise Diagnostic(
                "E0705", "`segment` says which tokens may leave, and `protect` which stay", help="leave one of them out"
            )
        ends = {n: at for n, at in (("begin", self.begin), ("end", self.end)) if at is not None}
        for name, numbers in {"blocks": self.blocks or (), **{n: (at,) for n, at in ends.items()}}.items():
            for index in numbers:
                if not -count <= index < count:
                    raise Diagnostic(
                        "E0704",
                        f"`{name}` of the pass `{self.name}` names block {index}, but the model has {count} self-attention "
                        "block(s)",
                    )
        if ends and self.each:
            raise Diagnostic(
                "E0705", f"`place={self.place}` gives tokens back in each block, so that there is no `{next(iter(ends))}`",
                help=f"leave `{next(iter(ends))}` out, and choose blocks with `blocks=[…]`; or leave `place` out",
            )  # fmt: skip
        if self.back != type(self).back and self.end is None and not self.each:
            raise Diagnostic(
                "E0705", f"`back={self.back}` gives tokens back at the end of a region, but no `end` says where that is",
                help="name the last block that works on fewer tokens, `end=8`",
            )  # fmt: skip
        if self.begin is not None and (self.blocks is not None or self.place not in ("attention", "start")):
            other = "blocks" if self.blocks is not None else "place"
            raise Diagnostic(
                "E0705", f"`begin` says where tokens leave, and `{other}` says it too", help="leave one of them out"
            )
        if self.blocks is not None:
            blocks = sorted({i % count for i in self.blocks})
            if self.end is not None and blocks and blocks[-1] > self.end % count:
                raise Diagnostic(
                    "E0705", f"`blocks` names block {blocks[-1]}, which lies behind `end={self.end}`",
                    help="let the region end behind the last of the blocks",
                )  # fmt: skip
            return blocks
        first, last = (self.begin or 0) % count, (-1 if self.end is None else self.end) % count
        if last < first:
            raise Diagnostic(
                "E0705", f"the region begins in front of block {first} and ends behind block {last}, which comes before it",
                help="blocks are counted from 0: let `end` be `begin` or a later one",
            )  # fmt: skip
        return list(range(first, last + 1))

    # Running ----------------------------------------------------------------------------------------------------

    def run(self, module: Module) -> Report:
        op = find_method(self.method, module, self.name)
        back = find_back(self.back, self.method, op, module)
        settings = check_further(type(self), further_options(op, back, self.told), dict(self.further))
        check_required(op, settings, self.name, self.told)
        method = Method(op, tuple(sorted(settings.items())), back)
        given, notes = module.graph, _read_masks(module)
        graph = module.graph
        before, originals = cost(given), list(graph.outputs)
        old_types = [v.type for v in originals]
        reducer = Reducer(self, method, graph)
        done = reducer.run()
        report = Report.of(self, done)
        if not done:
            module.graph = given
            report.notes += reducer.notes
            return report
        # Masks that are now in the sizes, and maps that nobody reads.
        remove_dead(graph)
        report.facts["tokens"] = [[str(s.count) for s in stream.stages] for stream in reducer.streams]
        report.facts["blocks"] = [b.index for b in reducer.chosen]
        for info, old, value in zip(graph.output_info, old_types, graph.outputs, strict=False):
            if value.type != old:
                report.notes.append(f"the output `{info.name}` is now {value.type}; it was {old}")
        report.notes += notes + reducer.notes
        report.sizes = default_sizes(graph)
        comparison = _Comparison(before, cost(graph))
        report.tables["blocks_before_and_after"] = comparison.table
        return report

    def schedule(self, count: int, limits: Limits, among: bool) -> Schedule:
        """For ``count`` blocks. Raises E0705 for options that do not go together."""
        given = {"r": self.r, "keep": self.keep, "k": self.k}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            said = " and ".join(f"`{n}`" for n in names)
            told = f"both {said}" if names else "neither " + " nor ".join(f"`{n}`" for n in given)
            raise Diagnostic(
                "E0705",
                f"{self.name} is given {told}, but needs exactly one of them",
                help=f"write `{self.name}(r=8)` or `{self.name}(keep=0.5)`",
            )
        if isinstance(self.r, tuple):
            return Schedule(count, limits, self.r, strict=True, among=among)
        if isinstance(self.r, int):
            return Schedule(count, limits, self.numbers(count), among=among)
        schedule = Schedule(count, limits, self.r, self.keep, self.k, among=among)
        try:
            assert self.keep is None or schedule.shares
        except Unreachable as problem:
            if problem.entry is not None:
                raise Diagnostic(
                    "E0709",
                    f"`keep` lists {float(problem.entry):.3g} for a block that leaves at least {float(problem.least):.3g}",
                    help=f"{self.why_capped}: keep more there, or let blocks before it remove more",
                ) from None
            raise Diagnostic(
                "E0709",
                f"keep={self.keep} cannot be reached in {count} block(s): at least {float(problem.least):.3g} of the tokens stay "
                "when each block removes as many as it may",
                help="keep more, or reduce in more blocks",
            ) from None
        return schedule


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
