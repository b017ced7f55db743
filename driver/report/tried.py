"""What a search tried, for readers: its sentence, the front of what nothing beats, and the drawing of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .results import EVEN, OPTIMIZED

if TYPE_CHECKING:
    Report = Mapping[str, Any]

# Of the drawing, in its own units.
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 300, 56, 40
# What a cosine must differ by to be called better or worse.
_BETTER = 0.0005


def verdict(report: Report) -> dict[str, Any]:
    """Whether the search was worth it, judged on the examples that it did not see. ``pays`` None: there is nothing to compare."""
    found = report["fit"]
    tried, chosen = len(found["tried"]), found["chosen"]
    text = f"{found['budget']}: of {tried} schedules tried, `{chosen['pass']}` is the best"
    if chosen["kind"] == "constant":
        return {"pays": False, "text": f"{text}. No schedule that was searched for is better than equal parts"}
    if found["constant"] is None:
        return {"pays": None, "text": f"{text}. Equal parts at every block cannot save as much"}
    output = next((o for o in report["fidelity"]["outputs"] if {OPTIMIZED, EVEN} <= o["rows"].keys()), None)
    if output is None:
        return {"pays": None, "text": text}
    ours, theirs = (output["rows"][name]["cosine"] for name in (OPTIMIZED, EVEN))
    speeds = [report["latency"]["rows"][name]["speedup"]["median"] for name in (OPTIMIZED, EVEN)]
    better = ours - theirs
    word = "more than" if better > _BETTER else "less than" if better < -_BETTER else "no more than"
    text += (
        f". On the {found['examples']['held_back']} examples held back it keeps {ours:.4f}, {word} equal parts that are meant to "
        f"take as long ({theirs:.4f}); {speeds[0]:.2f}x beside {speeds[1]:.2f}x"
    )
    return {"pays": better > _BETTER, "text": text}


def front(tried: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of the trials those that none beats in both cost and fidelity, the dearest first."""
    ordered = sorted(tried, key=lambda t: (cost(t, tried), -t["fidelity"]))
    best, found = -2.0, []
    for trial in ordered:
        if (not _timed(tried) or trial["latency"]) and trial["fidelity"] > best:
            best = trial["fidelity"]
            found.append(trial)
    return found[::-1]


def cost(trial: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> float:
    """Time over the original's where times were measured, else FLOPs over those of every token."""
    if not _timed(tried):
        return float(trial["flops"])
    return float(trial["latency"]["median"]) if trial["latency"] else 9.0


def _timed(tried: Sequence[Mapping[str, Any]]) -> bool:
    return sum(bool(t["latency"]) for t in tried) > len(tried) // 3


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Of the front: time or FLOPs, fidelity, FLOPs, the pass; the chosen one is marked."""
    tried = found["tried"]
    made = []
    for trial in front(tried):
        mark = "* " if trial["pass"] == found["chosen"]["pass"] else ""
        made.append([f"{cost(trial, tried):.2f}x", f"{trial['fidelity']:.4f}", f"{trial['flops']:.0%}", f"{mark}{trial['pass']}"])
    return made


def heads(found: Mapping[str, Any]) -> list[str]:
    """Of :func:`rows`."""
    return ["time" if _timed(found["tried"]) else "FLOPs", "fidelity", "FLOPs", "pass (* chosen)"]


def drawing(found: Mapping[str, Any]) -> dict[str, Any]:
    """Dots for all that was tried at its cost and fidelity, a line for the front, the chosen one by itself."""
    tried = [t for t in found["tried"] if not _timed(found["tried"]) or t["latency"]]
    costs, kept = [cost(t, found["tried"]) for t in tried], [t["fidelity"] for t in tried]
    left, right = min(costs) - 0.03, max(*costs, 1.0) + 0.03
    low = min(kept) - 0.05 * (1 - min(kept))

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 12) * (value - left) / (right - left), 1)

    def y(value: float) -> float:
        return round(12 + (HEIGHT - BOTTOM - 12) * (1 - (value - low) / max(1 - low, 1e-9)), 1)

    dots = [
        {
            "x": x(c), "y": y(t["fidelity"]), "told": f"{t['pass']}: {c:.2f}x, {t['fidelity']:.4f}",
            "kind": "chosen" if t["pass"] == found["chosen"]["pass"] else "even" if t["kind"] == "constant" else "",
        }
        for c, t in zip(costs, tried, strict=True)
    ]  # fmt: skip
    line = " ".join(f"{x(cost(t, found['tried']))},{y(t['fidelity'])}" for t in front(found["tried"]))
    step = 0.1 if right - left > 0.35 else 0.05
    ticks = [i * step for i in range(int(left / step) + 1, int(right / step) + 1)]
    levels = [low + (1 - low) * i / 4 for i in range(1, 5)]
    return {
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "floor": HEIGHT - BOTTOM, "dots": sorted(dots, key=lambda d: d["kind"]),
        "line": line, "across": [(x(t), f"{t:.2f}×") for t in ticks], "up": [(y(v), f"{v:.3f}") for v in levels],
        "what": "time" if _timed(found["tried"]) else "FLOPs",
    }  # fmt: skip
