"""The search: blocks are tried one by one, models of cost and loss are fitted to that, and what they propose is tried for real.

found = search(trials, methods, parse_budget(["latency=0.6x"]), first=128)
found.chosen.spec                   # "merge_tokens(keep=[1.0, 0.95, 0.95, 0.7, 0.5, 0.4])"

Constant schedules of the same cost are tried beside every proposal: what is chosen is never worse than they are on the examples
of the search, and whether it stays so on others is for the caller to measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...ir.compiling import PassSpec
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import as_dim
from ...passes.engine import registry
from ...passes.tokens.method import Method, find_method
from ...passes.tokens.reduce import ReduceTokens
from .budget import Budget
from .model import Costs, Losses, Schedule, constant, lowest, neighbours, present, proposed
from .trials import Trial, Trials, show_pass

# What one block alone lets go when it is tried, of the tokens before it; and at how many blocks that is done.
_ALONE, _PROBED = (0.15, 0.4), 12
# The constant schedule by which methods are compared, and those that fit the model of costs.
_COMPARED, _CONSTANT = 0.6, (0.85, 0.4)
# The costs at which the front is drawn, over that of every token.
_FRONT = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
# Parts moved between blocks that are tried for real around the best proposal.
_MOVES = 8
# How often a cost that was not foretold rightly is aimed at again, and when a proposal is near enough below it.
_AIMS, _NEAR = 5, 0.93
# What a block leaves at least, whatever the method allows.
_KEPT = 0.05
# A cost this much above what was asked, as a share of it, is not told from it.
_SLACK = 0.01
# Shares are written with four digits: the least of them lies so far above what a block must leave.
_WRITTEN = 1e-3
_LARGE = 10**9


@dataclass
class Found:
    """What a search found.

    Args:
        chosen: within the budget, the most faithful; or the cheapest that is faithful enough.
        constant: the constant schedule of the same cost.
        trials: all that was tried.
        notes: what a user should know, such as a method that does not go with this model.
    """

    chosen: Trial
    constant: Trial | None
    trials: list[Trial]
    notes: list[str] = field(default_factory=list)


@dataclass
class _Search:
    """One method's way through the search."""

    trials: Trials
    method: PassSpec
    count: int
    least: float
    budget: Budget
    first: int | None
    cost: Callable[[Schedule], float]
    losses: Losses

    def propose(self, aim: float) -> Schedule | None:
        """What is foretold to be most faithful at a cost of ``aim``."""
        return proposed(self.count, self.least, self.losses, self.cost, aim)

    def even(self, aim: float) -> Schedule | None:
        """The constant schedule of that cost, by bisection; None where none is that cheap."""
        low, high = lowest(self.count, self.least), 1.0
        if self.cost(constant(self.count, low)) > aim:
            return None
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if self.cost(constant(self.count, middle)) <= aim else (low, middle)
        return constant(self.count, low)


def search(trials: Trials, methods: Sequence[PassSpec], budget: Budget, first: int | None) -> Found:
    """Look for a schedule.

    Args:
        methods: passes without a schedule; the one that loses least for what it saves is searched through.
        first: how many tokens there are before the first block, at the sizes that are timed.

    Raises:
        Diagnostic: E0705 when no method goes with the model, E0941 when none of its schedules keeps to the budget.
    """
    notes: list[str] = []
    method, count = _best_method(trials, methods, notes)
    least = _least(method)
    by_cost, losses = _probed(trials, method, count, least, budget.timed)
    cost, aim = _cost(trials, budget, by_cost, first)
    way = _Search(trials, method, count, least, budget, first, cost, losses)
    known = {show_pass(method): method}
    chosen, even = _within(way, aim, known) if budget.limits else _faithful(way, known)
    for level in _FRONT:
        schedule = way.propose(level)
        pair = (schedule, way.even(level)) if schedule is not None else ()
        for s, kind in zip(pair, ("searched", "constant"), strict=False):
            if s is not None:
                trials(method, s, kind, timed=budget.timed)
    if budget.fidelity is not None and chosen.fidelity < budget.fidelity:
        raise Diagnostic(
            "E0941", f"no schedule that was tried keeps {budget.fidelity:g} at {budget}: the best keeps {chosen.fidelity:.4f}",
            help="ask for less fidelity, or allow more time",
        )  # fmt: skip
    return Found(chosen, even, list(trials.rows.values()), notes)


# Getting to know the model -------------------------------------------------------------------------------------------------


def _best_method(trials: Trials, methods: Sequence[PassSpec], notes: list[str]) -> tuple[PassSpec, int]:
    """The method that loses least for each part of the cost that it saves, and how many blocks it reduces in."""
    tried: list[tuple[float, int, PassSpec, int]] = []
    refused: Diagnostic | None = None
    for place, method in enumerate(methods):
        try:
            count = _blocks(trials, method)
            keep = max(_COMPARED, lowest(count, _least(method)))
            trial = trials(method, constant(count, keep), "constant", timed=len(methods) > 1)
        except Diagnostic as error:
            refused = refused or error
            notes.append(f"`{show_pass(method)}` does not go with this model: {error.message}")
            continue
        saved = trials.unreduced().median - trial.latency.median if trial.latency is not None else 1.0
        tried.append(((1 - trial.fidelity) / max(saved, 1e-3), place, method, count))
    if not tried:
        assert refused is not None
        raise refused
    _, _, method, count = min(tried)
    if len(tried) > 1:
        notes.append(f"searched with `{show_pass(method)}`, which lost least for the time that it saved")
    return method, count


def _blocks(trials: Trials, method: PassSpec) -> int:
    """How many blocks the pass reduces in."""
    from ..compile import apply_passes

    spec = PassSpec(method.name, {**method.options, "keep": _COMPARED})
    _, reports = apply_passes(trials.before, [*trials.leading, spec])
    return len(reports[-1].facts["blocks"])


def _least(method: PassSpec) -> float:
    """The share that one block leaves at least; merging pairs half of the tokens with the others."""
    kind = registry()[method.name]
    assert issubclass(kind, ReduceTokens)
    op = find_method(method.options.get("method", kind.method), None, method.name)
    cap = Method(op).limits(0, 0).cap(as_dim(_LARGE)).value
    assert cap is not None
    return max(1 - cap / _LARGE, _KEPT)


def _probed(
    trials: Trials, method: PassSpec, count: int, least: float, timing: bool
) -> tuple[dict[Schedule, Trial], Losses]:
    """Trials of single blocks and of a few constant schedules, and the losses that follow."""
    blocks = sorted({round(i * (count - 1) / max(min(count, _PROBED) - 1, 1)) for i in range(min(count, _PROBED))})
    trials.plan(len(blocks) * len(_ALONE) + len(_CONSTANT) + 2 * len(_FRONT) + _MOVES + 2)
    alone: dict[int, dict[float, float]] = {}
    by_cost: dict[Schedule, Trial] = {}
    for block in blocks:
        for gone in _ALONE:
            schedule = (1.0,) * block + (1 - gone,) * (count - block)
            # The time that a reduction takes shows where much leaves.
            trial = trials(method, schedule, "one block", timed=timing and gone == _ALONE[-1])
            alone.setdefault(block, {})[gone] = max(1 - trial.fidelity, 0.0)
            by_cost[schedule] = trial
    for keep in (*_CONSTANT, _COMPARED):
        schedule = constant(count, max(keep, lowest(count, least)))
        by_cost[schedule] = trials(method, schedule, "constant", timed=timing)
    return by_cost, Losses.fitted(count, alone)


def _cost(
    trials: Trials, budget: Budget, tried: Mapping[Schedule, Trial], first: int | None
) -> tuple[Callable[[Schedule], float], float]:
    """What a schedule costs, of the kind that the budget limits, and how much it may."""
    count = len(next(iter(tried)))
    if budget.tokens is not None:
        if first is None:
            raise Diagnostic("E0011", "`--budget tokens` needs a model whose blocks have tokens that can be counted")
        return (lambda schedule: sum(present(schedule)) / count), budget.tokens / first
    if budget.flops is not None:
        return Costs.fitted({(1.0,) * count: 1.0, **{s: t.flops for s, t in tried.items()}}), budget.flops
    every = trials.unreduced().median
    times = {s: t.latency.median for s, t in tried.items() if t.latency is not None}
    aim = budget.latency if budget.latency is not None else 0.0
    if budget.ms is not None:
        aim = budget.ms / trials.original_ms
    return Costs.fitted({(1.0,) * count: every, **times}), aim


# Deciding ------------------------------------------------------------------------------------------------------------------


def _within(way: _Search, aim: float, known: Mapping[str, PassSpec]) -> tuple[Trial, Trial | None]:
    """The most faithful within a cost.

    What is foretold may be wrong: a proposal that turns out to cost more is followed by one that is aimed lower, one that costs
    much less by one aimed higher, between those known to hold and not to hold. Where all are foretold to cost more, what leaves
    least is measured.
    """
    low, high, goal = 0.0, 1.5, aim
    best: tuple[Trial, Trial | None] | None = None
    cheapest = math.inf
    for _ in range(_AIMS):
        schedule, even = way.propose(goal), way.even(goal)
        if schedule is None:
            schedule = constant(way.count, min(lowest(way.count, way.least) + _WRITTEN, 1.0))
        searched = _climbed(way, schedule, goal)
        rival = way.trials(way.method, even, "constant") if even is not None else None
        contenders = [searched] if rival is None or rival.spec == searched.spec else [searched, rival]
        if way.budget.timed:
            way.trials.decide(contenders, known)
        costs = [_spent(way, t) for t in contenders]
        cheapest = min(cheapest, *costs)
        kept = [t for t, spent in zip(contenders, costs, strict=True) if spent <= aim * (1 + _SLACK)]
        if kept:
            found = max(kept, key=lambda t: t.fidelity)
            if best is None or found.fidelity > best[0].fidelity:
                best = found, rival
        if costs[0] > aim * (1 + _SLACK):
            high = goal
        else:
            low = goal
            if costs[0] >= aim * _NEAR:
                break
        # Counts of tokens are rounded: a small step may change nothing.
        wanted = goal * min(aim / costs[0], 0.95) if costs[0] > aim else goal * aim / costs[0]
        goal = wanted if low < wanted < high else (low + min(high, 1.0)) / 2
    if best is None:
        raise Diagnostic(
            "E0941", f"no schedule keeps to {way.budget}: the cheapest of those tried takes {cheapest:.2f}x",
            help="allow more, or let several methods be tried, with a `--pass` each",
        )  # fmt: skip
    return best


def _spent(way: _Search, trial: Trial) -> float:
    """What a trial really costs, in the unit of the budget's share."""
    if way.budget.flops is not None:
        return trial.flops
    if way.first is not None and trial.tokens is not None and way.budget.tokens is not None:
        return trial.tokens / way.first
    assert trial.latency is not None
    return trial.latency.median


def _faithful(way: _Search, known: Mapping[str, PassSpec]) -> tuple[Trial, Trial | None]:
    """The fastest that is faithful enough: the cost is halved in between until proposals pass and fail side by side."""
    wanted = way.budget.fidelity
    assert wanted is not None
    low, high = 0.2, 1.0
    best: Trial | None = None
    for _ in range(7):
        middle = (low + high) / 2
        schedule = way.propose(middle)
        trial = way.trials(way.method, schedule, timed=True) if schedule is not None else None
        if trial is not None and trial.fidelity >= wanted:
            best, high = trial, middle
        else:
            low = middle
    if best is None:
        raise Diagnostic(
            "E0941", f"no schedule that was tried keeps {wanted:g} of the model's output", help="ask for less fidelity"
        )
    even = way.even(way.cost(best.schedule))
    rival = way.trials(way.method, even, "constant", timed=True) if even is not None else None
    way.trials.decide([best] if rival is None or rival.spec == best.spec else [best, rival], known)
    return best, rival


def _climbed(way: _Search, schedule: Schedule, goal: float) -> Trial:
    """From a proposal by parts moved from block to block, tried for real in the order of what is foretold of them."""
    best = way.trials(way.method, schedule)
    tried = {schedule}
    for _ in range(_MOVES):
        moves = [s for s in neighbours(best.schedule, way.least) if s not in tried and way.cost(s) <= goal]
        if not moves:
            break
        move = min(moves, key=way.losses)
        tried.add(move)
        trial = way.trials(way.method, move)
        if trial.fidelity > best.fidelity:
            best = trial
    return best
