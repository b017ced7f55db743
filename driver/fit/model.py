"""What a schedule will cost and lose, foretold from those that were measured: models that a search can ask thousands of times.

A schedule is the share of the first tokens that is left behind each block, falling: ``(0.95, 0.95, 0.7)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Schedule = tuple[float, ...]
Steps = tuple[int, ...]
# What one step of a search lets go, of the tokens before a block.
STEP = 0.025


def constant(count: int, keep: float) -> Schedule:
    """Equal parts leave at each of ``count`` blocks, so that ``keep`` is left: what nobody had to search for."""
    return tuple(1 - (1 - keep) * (i + 1) / count for i in range(count))


def lowest(count: int, least: float) -> float:
    """The least that a constant schedule can keep, where one block leaves the share ``least`` of those present."""
    return (least / count) / (1 - least + least / count)


def present(schedule: Schedule) -> Schedule:
    """The share of tokens in front of each block."""
    return (1.0, *schedule[:-1])


@dataclass(frozen=True)
class Costs:
    """A cost relative to that of every token: a sum of nonnegative parts, each with its measured weight."""

    weights: tuple[float, ...]

    @staticmethod
    def fitted(measured: Mapping[Schedule, float]) -> Costs:
        """From schedules and what each of them costs."""
        import numpy as np

        rows = np.array([_parts(s) for s in measured])
        return Costs(tuple(_nonnegative(rows, np.array(list(measured.values())))))

    def __call__(self, schedule: Schedule) -> float:
        return sum(w * p for w, p in zip(self.weights, _parts(schedule), strict=True))


def _parts(schedule: Schedule) -> tuple[float, ...]:
    """What does not depend on tokens; products over those in front of and behind each block; pairs of them in attention; for
    each reduction, that it happens, and the pairs that it compares. Means over the blocks."""
    front, n = present(schedule), len(schedule)
    reducing = [a for a, b in zip(front, schedule, strict=True) if b < a]
    sums = (sum(front), sum(schedule), sum(a * a for a in front), len(reducing), sum(a * a for a in reducing))
    return (1.0, *(s / n for s in sums))


def _nonnegative(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Least squares with weights of at least 0: what would get a negative one is left out, and the others fitted anew."""
    import numpy as np

    used = list(range(rows.shape[1]))
    found = np.zeros(rows.shape[1])
    while used:
        # Towards equal weights where the measurements do not tell parts apart.
        small = 1e-3 * np.eye(len(used))
        stacked = np.concatenate([rows[:, used], small])
        aims = np.concatenate([wanted, 1e-3 * np.full(len(used), float(wanted.mean()) / len(used))])
        weights = np.linalg.lstsq(stacked, aims, rcond=None)[0]
        if (weights >= 0).all():
            found[used] = weights
            break
        used = [u for u, w in zip(used, weights, strict=True) if w >= 0]
    return found


@dataclass(frozen=True)
class Losses:
    """What is lost of the fidelity: a sum over the blocks of ``a x + b x²``, where x is the share of those present that leaves."""

    blocks: tuple[tuple[float, float], ...]

    @staticmethod
    def fitted(count: int, measured: Mapping[int, Mapping[float, float]]) -> Losses:
        """From blocks that were tried alone: block -> share of the present that left -> loss. Blocks between them are
        interpolated."""
        import numpy as np

        tried = sorted(measured)
        curves = np.array([_curve(measured[block]) for block in tried])
        places = range(count)
        columns = [np.interp(places, tried, curves[:, k]) for k in (0, 1)]
        return Losses(tuple((float(a), float(b)) for a, b in zip(*columns, strict=True)))

    def __call__(self, schedule: Schedule) -> float:
        total = 0.0
        for (a, b), before, after in zip(self.blocks, present(schedule), schedule, strict=True):
            x = 1 - after / before if before else 0.0
            total += a * x + b * x * x
        return total


def _curve(points: Mapping[float, float]) -> tuple[float, float]:
    """``a x + b x²`` through two points, both weights at least 0."""
    (x, y), (u, v) = sorted(points.items())
    b = (v / u - y / x) / (u - x)
    a = y / x - b * x
    if b < 0:
        return (y + v) / (x + u), 0.0
    return (a, b) if a >= 0 else (0.0, (y + v) / (x * x + u * u))


def proposed(count: int, least: float, losses: Losses, cost: Callable[[Schedule], float], aim: float) -> Schedule | None:
    """The schedule that is foretold to lose least among those whose cost is at most ``aim``; None where none is that cheap.

    What a block lets go is counted in steps, each ``STEP`` of the tokens before it. Tokens leave where they cost least fidelity
    for the time saved, then steps are moved from block to block as long as that loses less.

    Args:
        least: the least share of those present that one block can leave.
    """
    most = _most(least)
    steps = (0,) * count
    while cost(_schedule(steps)) > aim:
        schedule = _schedule(steps)
        now, lost = cost(schedule), losses(schedule)
        ways = [
            ((now - cost(s)) / max(losses(s) - lost, 1e-12), tried)
            for tried in _more(steps, most)
            for s in (_schedule(tried),)
        ]
        gain, steps = max(ways, default=(0.0, steps))
        if gain <= 0:
            return None
    return _settled(steps, most, losses, cost, aim)


def _most(least: float) -> int:
    """The most steps of one block; a little less than it can, so that rounding asks for no more than that."""
    return int((1 - least) / STEP - 0.1)


def _more(steps: Steps, most: int) -> list[Steps]:
    """Every way to let more go at one block: a reduction costs something itself, so that a large step may pay where a small one
    does not."""
    return [
        _with(steps, block, steps[block] + more)
        for block in range(len(steps))
        for more in (1, 2, 4, 8, 16)
        if steps[block] + more <= most
    ]


def _settled(steps: Steps, most: int, losses: Losses, cost: Callable[[Schedule], float], aim: float) -> Schedule:
    """Where no move loses less at that cost."""
    schedule = _schedule(steps)
    while True:
        best, now = None, losses(schedule)
        for tried in _moves(steps, most):
            moved = _schedule(tried)
            if losses(moved) < now - 1e-9 and cost(moved) <= aim:
                best, now = tried, losses(moved)
        if best is None:
            return schedule
        steps, schedule = best, _schedule(best)


def neighbours(schedule: Schedule, least: float) -> list[Schedule]:
    """Schedules with steps moved from one block to another."""
    steps = tuple(round((1 - b / a) / STEP) for a, b in zip(present(schedule), schedule, strict=True))
    return [_schedule(tried) for tried in _moves(steps, _most(least))]


def _moves(steps: Steps, most: int) -> list[Steps]:
    """Fewer steps at one block and others at another one; some more there, since what leaves later saves less."""
    found = []
    for source, amount in enumerate(steps):
        for taken in {1, 2, amount}:
            if not 0 < taken <= amount:
                continue
            fewer = _with(steps, source, amount - taken)
            found.append(fewer)
            for target in range(len(steps)):
                for more in range(max(taken - 2, 1), taken + 3):
                    if target != source and fewer[target] + more <= most:
                        found.append(_with(fewer, target, fewer[target] + more))
    return found


def _with(steps: Steps, block: int, number: int) -> Steps:
    return (*steps[:block], number, *steps[block + 1 :])


def _schedule(steps: Steps) -> Schedule:
    left, found = 1.0, []
    for number in steps:
        left *= 1 - number * STEP
        found.append(left)
    return tuple(found)
