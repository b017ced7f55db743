"""What is measured of the candidates of ``tessera optimize``, as plain data."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from .fidelity import compare
from .measure import Spread, interleaved, median_within, ratio, ratios
from .memory import peak_memory
from .routers import Rows, counted, mixtures

if TYPE_CHECKING:
    from ...ir.graph import Module
    from .calibration import Examples
    from .measure import Target

    Tell = Callable[[str, int | None, int | None], None]

ORIGINAL, REEXPORTED, OPTIMIZED, FIXED = "original", "re-exported", "optimized", "fixed indices"
RANDOM, FIRST = "random dropping", "first tokens"
# As many blocks, equal parts, as much time: what a search has to be better than.
EVEN = "constant schedule"
INT8, BOTH = "int8", "optimized + int8"
# The result once more, which also gives the experts of every token, or what it became a part of.
ROUTERS, BECAME = "routers", "tokens"
# Runs of the random baseline, each with a seed of its own.
SEEDS = 3
# A ratio nearer to 1 than this is no difference that anybody would notice.
NOTICED = 0.02
# As many times as much is measured at most where nobody can tell yet, and how far apart the ends of a range are that tells.
MORE, NARROW = 4, 1.1


def pays(median: float, low: float, high: float) -> bool | None:
    """Whether a ratio of times is a gain that anybody would notice, where its median lies within ``low`` and ``high``. None:
    that cannot be told, since both a gain and none lie within."""
    if low > 1 and median >= 1 + NOTICED:
        return True
    return False if high < 1 + NOTICED else None


def costs(before: Module, after: Module, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Tokens and FLOPs of each block, before and after."""
    from ...ir.analysis.cost import cost

    old, new = cost(before.graph).at(sizes), cost(after.graph).at(sizes)
    rows = []
    for was, now in zip_longest(old.blocks, new.blocks):
        some = was or now
        rows.append(
            {
                "block": some.name,
                "tokens": was.tokens if was else None,
                "tokens_after": now.tokens if now else None,
                "flops": was.cost.flops if was else 0,
                "flops_after": now.cost.flops if now else 0,
            }
        )
    a, b = old.total.flops, new.total.flops
    return {"blocks": rows, "flops": a, "flops_after": b, "ratio": round(a / b, 4) if b else None}


def latencies(targets: Mapping[str, Target], feeds: Any, rounds: int | None, seed: int, tell: Tell) -> dict[str, Any]:
    """Interleaved times, and the ratios within a round: to the original, and of what was optimized to the same program with
    every token.

    As long as nobody can tell from the rounds so far whether it pays, or how much, more are measured, up to four times as many:
    another process in the way widens the range, and more rounds make it small again. ``within`` is that range.
    """
    timed = {n: t.prepared(feeds, seed) for n, t in targets.items()}
    base = REEXPORTED if REEXPORTED in targets else ORIGINAL
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(1 if rounds is not None else MORE):
        for name, row in interleaved(timed, rounds, tell=lambda i, n: tell("timing", i, n)).items():
            times[name] += row
        gains = ratios(times[base], times[OPTIMIZED])
        within = median_within(gains)
        low, high = median_within(ratios(times[ORIGINAL], times[OPTIMIZED]))
        if pays(statistics.median(gains), *within) is not None and high < NARROW * low:
            break
    original = times[ORIGINAL]
    rows = {
        name: {"ms": Spread.of([s * 1e3 for s in row]).to_dict(), "speedup": ratio(original, row).to_dict()}
        for name, row in times.items()
    }
    found: dict[str, Any] = {"rounds": len(original), "rows": rows, "base": base, "within": [round(v, 4) for v in within]}
    found["gain"] = Spread.of(gains).to_dict()
    if BOTH in times:
        found["stacked"] = ratio(times[INT8], times[BOTH]).to_dict()
    if FIXED in times:
        found["without_matching"] = ratio(times[OPTIMIZED], times[FIXED]).to_dict()
    return found


def memories(targets: Mapping[str, Target], feeds: Any, threads: int | None, tell: Tell) -> dict[str, Any]:
    """Peak memory of each file, in a process of its own."""
    rows = {}
    for name, target in targets.items():
        tell(f"measuring the memory of {name}", None, None)
        rows[name] = peak_memory(target, feeds, threads).to_dict()
    return rows


def fidelities(
    before: Module, after: Module, targets: Mapping[str, Target], examples: Examples, tell: Tell
) -> dict[str, Any]:
    """The outputs of every candidate next to the original's, and the baselines' with as many FLOPs."""
    total = len(examples.feeds)

    def outputs(name: str, seed: int = 0, feeds: Sequence[Any] | None = None) -> list[Any]:
        found = []
        for i, feed in enumerate(feeds or examples.feeds):
            tell(f"comparing outputs: {name}", i, total)
            found.append(targets[name](feed, seed=seed))
        return found

    original = outputs(ORIGINAL)
    candidates = {n: [outputs(n)] for n in (REEXPORTED, OPTIMIZED, EVEN, INT8, BOTH) if n in targets}
    baselines: dict[str, str] = {}
    if RANDOM in targets:
        candidates[RANDOM] = [outputs(RANDOM, seed) for seed in range(SEEDS)]
        baselines[RANDOM] = f"as many tokens in every block, chosen at random; {SEEDS} runs"
        shorter = _first_tokens(before, after, targets[OPTIMIZED], examples)
        if shorter is not None:
            kept, feeds = shorter
            candidates[FIRST] = [outputs(ORIGINAL, feeds=feeds)]
            baselines[FIRST] = f"the original on the first {kept:.0%} of each text: as many FLOPs"
    rows = compare(examples.feeds, original, candidates)
    return {
        "examples": total,
        "what": examples.what,
        "random_inputs": examples.random,
        "baselines": baselines,
        "outputs": [r.to_dict() for r in rows],
    }


def routed(after: Module, targets: Mapping[str, Target], examples: Examples, tell: Tell) -> Rows:
    """What the routers of the result did on the examples; none where it has no router."""
    if ROUTERS not in targets:
        return []
    total = len(examples.feeds)
    runs = []
    for i, feed in enumerate(examples.feeds):
        tell("counting what routers choose", i, total)
        runs.append(targets[ROUTERS](feed))
    return counted(mixtures(after.graph), runs)


def _first_tokens(
    before: Module, after: Module, target: Target, examples: Examples
) -> tuple[float, list[dict[str, Any]]] | None:
    """Each text cut so that the original takes no more FLOPs than the result on all of it, and the mean share kept.

    None for a model that does not take token ids of any length.
    """
    from ...ir.analysis.cost import cost

    ids = next((f for f in target.fields if f.bound is not None and len(f.shape) == 2 and f.shape[1].symbol), None)
    if ids is None:
        return None
    symbol = str(ids.shape[1].symbol)
    old, new = cost(before.graph), cost(after.graph)
    cuts: dict[int, int] = {}
    feeds = []
    shares = []
    for feed in examples.feeds:
        length = feed[ids.name].shape[1]
        sizes = target.sizes(feed)
        if length not in cuts:
            budget = new.at(sizes).total.flops
            cuts[length] = _longest(lambda n: old.at({**sizes, symbol: n}).total.flops <= budget, length)  # noqa: B023
        cut = cuts[length]
        shares.append(cut / length)
        along = {f.name: [i for i, d in enumerate(f.shape) if d.symbol == symbol] for f in target.fields}
        feeds.append({n: _cut(a, along.get(n, []), cut) for n, a in feed.items()})
    return sum(shares) / len(shares), feeds


def _longest(fits: Any, most: int) -> int:
    """The largest length of 1 to ``most`` that fits, by bisection; 1 when none does."""
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _cut(array: Any, axes: list[int], length: int) -> Any:
    for axis in axes:
        array = array.take(range(length), axis=axis)
    return array
