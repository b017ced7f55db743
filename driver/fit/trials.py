"""Schedules tried for real: compiled, run on the examples beside the original, timed beside it, and remembered on disk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...backends.onnx.target import Onnx
from ...frontends import source as text
from ...frontends.source.syntax.store import digest, load_json, save_json
from ...ir.analysis.cost import cost
from ...ir.compiling import PassSpec
from ...ir.diagnostics import Diagnostic
from ...ir.graph import Module
from ...ir.notation import show_value
from ..compile import compile as drive
from ..report.fidelity import compare
from ..report.measure import Spread, Target, interleaved, machine, ratio
from .model import Schedule

if TYPE_CHECKING:
    import numpy as np

    from ..compile import Progress
    from ..read import Source

# Rounds in which one candidate is timed beside the original, to fit a model of costs; and of those that decide.
ROUNDS, DECIDING = 3, 9
_WHAT = "tried"


@dataclass
class Trial:
    """One schedule, measured on the examples of the search.

    Args:
        spec: the pass, as one writes it.
        method: the pass without its schedule.
        fidelity: mean cosine of the output that counts.
        flops, tokens: FLOPs over those of every token, and how many tokens a block attends to on average.
        latency: seconds over those of the original; None where it was not timed.
    """

    spec: str
    method: str
    schedule: Schedule
    fidelity: float
    flops: float
    tokens: float | None
    latency: Spread | None = None
    kind: str = "searched"

    def to_dict(self) -> dict[str, Any]:
        return {
            "pass": self.spec,
            "method": self.method,
            "schedule": list(self.schedule),
            "fidelity": self.fidelity,
            "flops": self.flops,
            "tokens": self.tokens,
            "latency": self.latency.to_dict() if self.latency else None,
            "kind": self.kind,
        }


@dataclass
class Trials:
    """What was tried of one model on one machine.

    Args:
        before: the program with every token, its composites found.
        original: the file that everything is compared with and timed against.
        whole: the program with every token, as it is built here.
        feeds: the examples of the search; ``timed`` is the one that the clock runs on, of ``sizes``.
    """

    source: Source
    before: Module
    leading: Sequence[PassSpec]
    original: Path
    whole: Target
    feeds: Sequence[Mapping[str, np.ndarray]]
    timed: Mapping[str, np.ndarray]
    sizes: Mapping[str, int]
    folder: Path
    threads: int | None
    seed: int
    opset: int | None
    tell: Progress
    rows: dict[str, Trial] = field(default_factory=dict)
    expected: int = 0

    def __post_init__(self) -> None:
        self._base = Target.open(self.original, name="original", threads=self.threads)
        self._wanted = [self._base(feed) for feed in self.feeds]
        self._flops = cost(self.before.graph).at(self.sizes).total.flops
        self._key = "fit-" + self._digest()
        self._known: dict[str, Any] = load_json(self._key) or {}
        self._took: list[float] = []

    def __call__(self, method: PassSpec, schedule: Schedule, kind: str = "searched", timed: bool = False) -> Trial:
        """Try one. Raises what the pass raises, and E0942 when no output can be compared."""
        spec = scheduled(method, schedule)
        shown = show_pass(spec)
        trial = self.rows.get(shown)
        if trial is not None and (trial.latency is not None or not timed):
            return trial
        started = time.perf_counter()
        known = self._known.get(shown)
        if known is None or (timed and known["latency"] is None):
            with self._built(spec) as (target, module):
                known = known or self._measured(target, module)
                if timed:
                    known["latency"] = self._clocked({shown: target}, ROUNDS)[shown].to_dict()
            self._remember(shown, known)
            self._took.append(time.perf_counter() - started)
        self.rows[shown] = trial = Trial(
            shown, show_pass(method), schedule, known["fidelity"], known["flops"], known["tokens"],
            Spread(**known["latency"]) if known["latency"] else None, trial.kind if trial else kind,
        )  # fmt: skip
        self._say()
        return trial

    def decide(self, trials: Sequence[Trial], methods: Mapping[str, PassSpec]) -> None:
        """Time these beside one another and the original, in as many rounds as a decision takes."""
        names = [t.spec for t in trials]
        key = "decided " + ", ".join(sorted(names))
        found = self._known.get(key)
        if found is None:
            targets: dict[str, Target] = {}
            for i, trial in enumerate(trials):
                file = self.folder / f"decide{i}{Onnx.suffix}"
                targets[trial.spec] = self._build(scheduled(methods[trial.method], trial.schedule), file)[0]
            found = {name: spread.to_dict() for name, spread in self._clocked(targets, DECIDING).items()}
            self._known[key] = found
        for trial in trials:
            trial.latency = Spread(**found[trial.spec])
            self._known[trial.spec]["latency"] = found[trial.spec]
        save_json(self._key, self._known)

    def unreduced(self) -> Spread:
        """The time of the program with every token, over the original's."""
        known = self._known.get("every token")
        if known is None:
            known = self._clocked({"every token": self.whole}, ROUNDS)["every token"].to_dict()
            self._remember("every token", known)
        return Spread(**known)

    @property
    def original_ms(self) -> float:
        """Milliseconds of the original, measured by itself."""
        known = self._known.get("original")
        if known is None:
            times = interleaved({"original": self._base.prepared(self.timed, self.seed)}, ROUNDS)["original"]
            self._remember("original", known := statistics.median(times) * 1e3)
        milliseconds: float = known
        return milliseconds

    def plan(self, count: int) -> None:
        """That ``count`` more are to be tried."""
        self.expected = len(self.rows) + count
        self._say()

    # One trial ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def _built(self, spec: PassSpec) -> Iterator[tuple[Target, Module]]:
        file = self.folder / f"{_WHAT}{Onnx.suffix}"
        yield self._build(spec, file)
        for path in self.folder.glob(f"{file.name}*"):
            path.unlink()

    def _build(self, spec: PassSpec, file: Path) -> tuple[Target, Module]:
        made = drive(
            self.before, target=Onnx.name, weights=self.source.weights, passes=[*self.leading, spec],
            opset=self.opset, seed=self.seed, verify=False, output=file,
        )  # fmt: skip
        return Target.open(file, made.module, name=_WHAT, threads=self.threads), made.module

    def _measured(self, target: Target, module: Module) -> dict[str, Any]:
        got = [target(feed, seed=self.seed) for feed in self.feeds]
        rows = [row for row in compare(self.feeds, self._wanted, {_WHAT: [got]}) if _WHAT in row.rows or row.skipped]
        compared = [row for row in rows if _WHAT in row.rows]
        if not compared:
            why = "; ".join(f"`{row.name}`: {row.skipped[_WHAT]}" for row in rows) or "none holds floats"
            raise Diagnostic(
                "E0942", f"the search can compare no output with the model's own: {why}",
                help="`--pass 'merge_tokens(restore=true)'` gives every token a value again",
            )  # fmt: skip
        counting = next((row for row in compared if row.kind.scores), compared[0])
        table = cost(module.graph).at(self.sizes)
        tokens = [block.tokens for block in table.blocks if block.tokens]
        return {
            "fidelity": counting.rows[_WHAT]["cosine"],
            "flops": table.total.flops / max(self._flops, 1),
            "tokens": sum(tokens) / len(tokens) if tokens else None,
            "latency": None,
        }

    def _clocked(self, targets: Mapping[str, Target], rounds: int) -> dict[str, Spread]:
        runs = {"original": self._base.prepared(self.timed, self.seed)}
        runs |= {name: target.prepared(self.timed, self.seed) for name, target in targets.items()}
        times = interleaved(runs, rounds, warmup=1)
        return {name: ratio(times[name], times["original"]) for name in targets}

    # What is remembered --------------------------------------------------------------------------------------------------

    def _remember(self, name: str, row: Any) -> None:
        self._known[name] = row
        save_json(self._key, self._known)

    def _digest(self) -> str:
        """What the measurements hold for: this program with these weights, these examples, this machine."""
        where = {k: v for k, v in machine(self.threads).items() if k != "load"}
        parts = [text.print_module(self.before).encode(), repr(sorted(where.items())).encode(), repr(self.sizes).encode()]
        parts += [repr((self.seed, self.opset, [show_pass(p) for p in self.leading])).encode()]
        for outputs, feed in zip(self._wanted, self.feeds, strict=True):
            # The original's own outputs tell its weights.
            parts += [array.tobytes() for array in (*feed.values(), *outputs.values())]
        return digest(*parts)

    def _say(self) -> None:
        done, total = len(self.rows), max(self.expected, len(self.rows))
        left = (total - done) * (sum(self._took) / len(self._took) if self._took else 0.0)
        self.tell(f"trying schedules{f', about {_duration(left)} left' if left >= 1 else ''}", done, total)


def scheduled(method: PassSpec, schedule: Schedule) -> PassSpec:
    """The pass with its schedule: the shares that are left, as one reads them; the last ones, which repeat, are left out."""
    shares = [round(share, 4) for share in schedule]
    while len(shares) > 1 and shares[-1] == shares[-2]:
        shares.pop()
    return PassSpec(method.name, {**method.options, "keep": tuple(shares)})


def show_pass(spec: PassSpec) -> str:
    """``merge_tokens(metric="tokens", keep=[0.9, 0.8])``, as one writes it."""
    options = ", ".join(f"{name}={show_value(value)}" for name, value in spec.options.items())
    return f"{spec.name}({options})" if options else spec.name


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
