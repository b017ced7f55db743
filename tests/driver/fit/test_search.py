"""The search against a machine and a model that are known: what it finds, and when it finds nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tessera.driver.fit.budget import Budget, parse_budget
from tessera.driver.fit.model import Costs, Losses, Schedule, constant, lowest, present, proposed
from tessera.driver.fit.search import search
from tessera.driver.fit.trials import Trial, scheduled, show_pass
from tessera.driver.report.measure import Spread
from tessera.ir.compiling import PassSpec
from tessera.ir.diagnostics import Diagnostic

MERGE, PRUNE = PassSpec("merge_tokens"), PassSpec("prune_tokens")
# Blocks that lose much or little when tokens leave there, in units of the loss of an even schedule.
EARLY = (0.9, 0.6, 0.3, 0.1, 0.05, 0.02)
LATE = EARLY[::-1]


class Machine:
    """Trials whose costs and losses are formulas. ``slower`` is how much more a reduction takes than anybody could foretell,
    ``disturbed`` what times are multiplied by that are measured in few rounds."""

    def __init__(self, losses: Sequence[float], slower: float = 0.0, overhead: float = 0.005, disturbed: float = 1.0) -> None:
        self.losses, self.slower, self.overhead, self.disturbed = losses, slower, overhead, disturbed
        self.rows: dict[str, Trial] = {}
        self.original_ms = 10.0
        self.leading: list[PassSpec] = []
        self.decided = 0

    def fidelity(self, method: PassSpec, schedule: Schedule) -> float:
        lost = sum(w * (1 - b / a) ** 2 for w, a, b in zip(self.losses, present(schedule), schedule, strict=True))
        return 1 - lost * (1.0 if method.name == "merge_tokens" else 3.0)

    def seconds(self, schedule: Schedule) -> float:
        front, n = present(schedule), len(schedule)
        work = sum(0.6 * a + 0.4 * b for a, b in zip(front, schedule, strict=True)) / n
        return 0.1 + 0.9 * work + self.overhead * sum(b < a for a, b in zip(front, schedule, strict=True))

    def __call__(self, method: PassSpec, schedule: Schedule, kind: str = "searched", timed: bool = False) -> Trial:
        spec = show_pass(scheduled(method, schedule))
        front = present(schedule)
        trial = self.rows.get(spec) or Trial(
            spec, show_pass(method), schedule, self.fidelity(method, schedule), sum(front) / len(front),
            100 * sum(front) / len(front), kind=kind,
        )  # fmt: skip
        if timed:
            trial.latency = Spread(*[self.seconds(schedule) * self.disturbed] * 3)
        self.rows[spec] = trial
        return trial

    def decide(self, trials: Sequence[Trial], methods: Any) -> None:
        self.decided += 1
        for trial in trials:
            assert trial.method in methods
            trial.latency = Spread(*[self.seconds(trial.schedule) * (1 + self.slower)] * 3)

    def unreduced(self) -> Spread:
        return Spread(1.0, 1.0, 1.0)

    def plan(self, count: int) -> None:
        assert count > 0


@pytest.fixture(autouse=True)
def _blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.driver.fit.search._blocks", lambda trials, method: len(trials.losses))


@pytest.mark.parametrize("losses", [EARLY, LATE, (0.3,) * 12], ids=["early", "late", "even"])
@pytest.mark.parametrize("budget", ["latency=0.7x", "latency=8ms", "flops=0.6x", "tokens=70"])
def test_a_search_keeps_to_its_budget_and_is_no_worse_than_constant(losses: Sequence[float], budget: str) -> None:
    machine: Any = Machine(losses)
    found = search(machine, [MERGE], parse_budget([budget]), 100)
    spent = {
        "latency=0.7x": lambda t: machine.seconds(t.schedule) / 0.7,
        "latency=8ms": lambda t: machine.seconds(t.schedule) / 0.8,
        "flops=0.6x": lambda t: t.flops / 0.6,
        "tokens=70": lambda t: t.tokens / 70,
    }[budget]
    assert spent(found.chosen) <= 1.011
    # In six blocks equal parts cannot save that many FLOPs.
    assert (found.constant is None) == (budget == "flops=0.6x" and len(losses) == 6)
    if found.constant is not None:
        assert found.chosen.fidelity >= found.constant.fidelity or spent(found.constant) > 1.01


@pytest.mark.parametrize(("losses", "share"), [(EARLY, 0.95), (LATE, 0.7), (LATE[:3] * 4, 0.8)], ids=["early", "late", "mixed"])
def test_a_search_finds_where_tokens_cost_least(losses: Sequence[float], share: float) -> None:
    """At the same time it loses less than equal parts do, well less where these take most from sensitive blocks."""
    machine: Any = Machine(losses)
    found = search(machine, [MERGE], parse_budget(["latency=0.7x"]), 100)
    assert found.constant is not None
    assert 1 - found.chosen.fidelity < share * (1 - found.constant.fidelity)


def test_equal_parts_may_be_too_slow_where_a_reduction_costs_much() -> None:
    found = search(Machine(EARLY, overhead=0.03), [MERGE], parse_budget(["latency=0.7x"]), 100)  # type: ignore[arg-type]
    assert found.constant is None
    assert found.chosen.latency is not None
    assert found.chosen.latency.median <= 0.707


def test_the_method_that_loses_less_is_searched() -> None:
    found = search(Machine(EARLY), [PRUNE, MERGE], parse_budget(["latency=0.7x"]), 100)  # type: ignore[arg-type]
    assert found.chosen.method == "merge_tokens"
    assert any("searched with `merge_tokens`" in note for note in found.notes)


@pytest.mark.parametrize("slower", [0.15, -0.15])
def test_a_time_that_was_foretold_wrong_is_aimed_at_again(slower: float) -> None:
    machine: Any = Machine(EARLY, slower)
    found = search(machine, [MERGE], parse_budget(["latency=0.7x"]), 100)
    took = machine.seconds(found.chosen.schedule) * (1 + slower)
    assert took <= 0.71
    assert took >= 0.6, "much more fidelity could be had in the time"
    assert machine.decided > 1


@pytest.mark.parametrize("disturbed", [1.6, 3.0])
def test_times_that_were_disturbed_do_not_end_a_search(disturbed: float) -> None:
    """By them nothing is cheap enough; measured in more rounds, much is."""
    machine: Any = Machine(EARLY, disturbed=disturbed)
    found = search(machine, [MERGE], parse_budget(["latency=0.7x"]), None)
    assert machine.seconds(found.chosen.schedule) <= 0.7 * 1.01


@pytest.mark.parametrize("wanted", [0.999, 0.99, 0.95])
def test_the_fastest_that_is_faithful_enough(wanted: float) -> None:
    machine: Any = Machine(LATE)
    found = search(machine, [MERGE], Budget(fidelity=wanted), 100)
    assert found.chosen.fidelity >= wanted
    rivals = [constant(6, 1 - i / 200) for i in range(1, 170)]
    faithful = [s for s in rivals if machine.fidelity(MERGE, s) >= wanted and s[-1] >= lowest(6, 0.5)]
    assert machine.seconds(found.chosen.schedule) <= min(map(machine.seconds, faithful)) + 0.02


@pytest.mark.parametrize("asked", [["latency=0.05x"], ["latency=0.7x", "fidelity=0.9999"], ["fidelity=1.0"], ["tokens=1"]])
def test_a_budget_that_nothing_keeps_to(asked: list[str]) -> None:
    machine: Any = Machine(EARLY)
    with pytest.raises(Diagnostic) as caught:
        search(machine, [MERGE], parse_budget(asked), 100)
    assert caught.value.code == "E0941"
    # What it names was measured.
    assert "00000" not in caught.value.message


def test_costs_are_learnt_from_times() -> None:
    machine = Machine(EARLY)
    schedules = [constant(6, k) for k in (0.9, 0.8, 0.6, 0.4)] + [(1.0,) * i + (0.6,) * (6 - i) for i in range(6)]
    costs = Costs.fitted({s: machine.seconds(s) for s in [(1.0,) * 6, *schedules]})
    for schedule in (constant(6, 0.7), (1.0, 0.7, 0.7, 0.5, 0.5, 0.5)):
        assert costs(schedule) == pytest.approx(machine.seconds(schedule), abs=0.01)
    assert all(w >= 0 for w in costs.weights)


def test_losses_between_probed_blocks_are_interpolated() -> None:
    losses = Losses.fitted(5, {0: {0.2: 0.04, 0.4: 0.16}, 4: {0.2: 0.0, 0.4: 0.0}})
    assert losses((0.5,) * 5) == pytest.approx(0.25)
    assert losses((1.0, 1.0, 0.5, 0.5, 0.5)) == pytest.approx(0.125)
    assert losses((1.0,) * 5) == 0


def test_proposals_fall_and_leave_what_a_block_must() -> None:
    losses = Losses(((0.0, 1.0),) * 3 + ((0.0, 0.01),) * 3)
    for aim in (0.9, 0.7, 0.5):
        found = proposed(6, 0.5, losses, lambda s: sum(s) / 6, aim)
        assert found is not None
        assert sum(found) / 6 <= aim
        assert all(0.5 * a <= b <= a for a, b in zip(present(found), found, strict=True))
    assert proposed(6, 0.5, losses, lambda s: 1.0, 0.5) is None


@pytest.mark.parametrize(
    "text",
    ["latency=2x", "latency=0x", "latency=fast", "speed=0.5x", "fidelity=1.5", "tokens=0", "tokens=1.5", "flops=", "flops=12ms"],
)
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        parse_budget([text])
    assert caught.value.code == "E0011"
    assert caught.value.help


def test_budgets_print_as_they_are_written() -> None:
    assert str(parse_budget(["latency=0.60x", "fidelity=.98"])) == "latency=0.6x, fidelity=0.98"
    with pytest.raises(Diagnostic, match="twice"):
        parse_budget(["tokens=3", "tokens=4"])
