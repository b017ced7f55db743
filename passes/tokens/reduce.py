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
from ...ir.graph import Module
from ...ir.notation import show_signature, show_value
from ..engine import Pass
from ..options import Option, check_further, option, options_of
from ..recover.masks import raise_masks
from ..report import Report
from ..tidy.dce import remove_dead
from .method import Limits, Method, check_required, find_method, further_options, methods
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


@dataclass(frozen=True)
class ReduceTokens(Pass):
    """What the passes that reduce tokens have in common."""

    contract = "approximate"
    # What happens to a token that leaves, and why not to more of them.
    verbs: ClassVar[tuple[str, str]]
    why_capped: ClassVar[str]

    method: str = option("", "how: an op of std.token, or one of your own, `mine.tess:name`")
    r: int | float | tuple[int, ...] | None = option(
        None, "tokens that leave at each block: a number, a list, or a share of them (0.1)", least=0, check=_check_r
    )
    keep: float | tuple[float, ...] | None = option(
        None, "instead of r: the share of tokens left at the end, removed in equal parts; or a list, what is left behind each "
        "block", least=0, most=1, check=_check_keep,
    )  # fmt: skip
    protect: int | tuple[int, ...] | None = option(
        None,
        "tokens that stay as they are: how many first ones, or places up to which, from either end (`[0, -1]`); when none, those "
        "that the model reads by place",
        check=_check_protect,
    )
    place: Literal["attention", "block", "start"] = option(
        "attention", "where tokens leave: behind a block's attention, behind the block, or before the first block"
    )
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
    further: tuple[tuple[str, Any], ...] = option((), "", hidden=True)

    @classmethod
    def further_options(cls, spec: PassSpec) -> dict[str, Option] | None:
        """Those of the method; None for one whose file is only known beside a module."""
        method = spec.options.get("method", cls.method)
        if not isinstance(method, str) or ":" in method:
            return None
        return further_options(find_method(method, None, cls.name, spec.span))

    @classmethod
    def method_help(cls, method: str | None) -> str:
        """All methods by the first line of their text, or one with its signature, its text and what it adds to the options."""
        if method is None:
            known = {op.name: op.doc.split("\n")[0] for ops in methods().values() for op in ops}
            own = "one of your own: an op of a file, `mine.tess:name`"
            lines = [f"  {name}  {text}" for name, text in known.items()]
            return "\n".join(["methods (`--method NAME` tells more)", *lines, f"  {own}"])
        op = find_method(method, None, cls.name)
        found = {name: find_want(name, op) for name, _ in Method(op).wants}
        wants = [f"  {name}: {want[0].doc}" for name, want in found.items() if want is not None]
        options = [f"  {o.name}: {o.kind} = {show_value(o.default)}" for o in further_options(op).values()]
        statics = tuple(s for s in op.signature.statics if "." not in s.name)
        parts = [show_signature(replace(op.signature, statics=statics)), op.doc]
        parts += ["it asks for\n" + "\n".join(wants)] if wants else []
        parts += ["its options\n" + "\n".join(options)] if options else []
        return "\n\n".join(parts)

    # What merging and pruning say differently ---------------------------------------------------------------------

    def metric_name(self) -> str:
        """Which want `metric` is."""
        return "keys"

    def numbers(self, count: int) -> tuple[int, ...]:
        """The tokens that leave at each of ``count`` blocks when ``r`` is a number."""
        assert isinstance(self.r, int)
        return (self.r,) * count

    def stay(self) -> int | None:
        """How many tokens are left, where that is an option."""
        return None

    def protected(self) -> tuple[int, int] | None:
        """How many first and last tokens are asked to stay; None when the model says."""
        if self.protect is None or isinstance(self.protect, int):
            return None if self.protect is None else (self.protect, 0)
        return max((at + 1 for at in self.protect if at >= 0), default=0), max(
            (-at for at in self.protect if at < 0), default=0
        )

    # Running ----------------------------------------------------------------------------------------------------

    def run(self, module: Module) -> Report:
        op = find_method(self.method, module, self.name)
        settings = check_further(type(self), further_options(op), dict(self.further))
        check_required(op, settings, self.name)
        method = Method(op, tuple(sorted(settings.items())))
        given, notes = module.graph, _read_masks(module)
        graph = module.graph
        before, originals = cost(given), list(graph.outputs)
        old_types = [v.type for v in originals]
        reducer = Reducer(self, method, graph)
        done = reducer.run()
        report = Report.of(self, done)
        if not done:
            module.graph = given
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
        stay = self.stay()
        given = {"r": self.r, "keep": self.keep, "k": stay}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            known = [name for name in given if name in options_of(type(self))]
            said = " and ".join(f"`{n}`" for n in names)
            told = f"both {said}" if names else "neither " + " nor ".join(f"`{n}`" for n in known)
            raise Diagnostic(
                "E0705",
                f"{self.name} is given {told}, but needs exactly one of them",
                help=f"write `{self.name}(r=8)` or `{self.name}(keep=0.5)`",
            )
        if isinstance(self.r, tuple):
            return Schedule(count, limits, self.r, strict=True, among=among)
        if isinstance(self.r, int):
            return Schedule(count, limits, self.numbers(count), among=among)
        schedule = Schedule(count, limits, self.r, self.keep, stay, among=among)
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
