"""Measuring artifacts fairly: they take turns (A B B A …) in one process, and what is reported are ratios within a round.

    a, b = Target.open("vit.onnx"), Target.open("fast.onnx")
    feeds = drawing.draw_inputs(a, drawing.sizes_of(a, {"B": 8}))
    times = interleaved({t.name: t.prepared(feeds) for t in (a, b)})
    print(ratio(times["vit.onnx"], times["fast.onnx"]))        # 1.35 (1.31 … 1.39)

Another process that takes the machine for a while slows both halves of a round, so that the ratio stays where two separate
measurements would disagree.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.analysis.bounds import Bound, index_bounds
from ...ir.analysis.sizes import TOKENS
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim
from ...ir.types import DTYPES

if TYPE_CHECKING:
    import numpy as np

    from ...ir.graph import Graph, Module
    from ...runtime.runner import Runner

WARMUP = 2
# Rounds when nobody says: as many as fit into the seconds, within these bounds.
FEWEST, MOST, SECONDS = 7, 60, 12.0
# How long a turn is at least, as far as so many runs suffice.
TURN, MOST_RUNS = 0.1, 25
# ONNX Runtime's threads go on spinning after a run, and the next session is up to 1.9 times slower for 20 to 50 ms. Then its
# weights come back into the cache: after 60 ms it is still 2 percent slower, and one with more to do between them 3 percent.
SETTLE = 0.25
# Something this long is not run for nothing: the spinning is then a few percent of it, and a pause ends it too.
LONG = 0.5

Run = Callable[[], Any]


# Timing ----------------------------------------------------------------------------------------------------------------


def interleaved(
    candidates: Mapping[str, Run],
    rounds: int | None = None,
    warmup: int = WARMUP,
    tell: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each candidate in each round; every candidate has its turn once a round, in the given order and backwards by
    turns: on a machine with other work, who comes first has more of it.

    A turn begins with runs that do not count, until the threads of the candidate before it are idle and its own weights are
    back in the cache: what is measured is how fast each is alone, as it will be used. A turn of something short is several
    runs, of which the median counts, so that a moment in which the machine does something else does not decide.

    Args:
        rounds: how many; None: what fits into about 12 seconds, 7 to 60.
        warmup: runs of each candidate that do not count, at least 1.
        tell: told which round of how many goes on.
        clock: seconds; `time.process_time` for runs of one thread, on a machine with other work.
    """
    turns: dict[str, int] = {}
    shortest: dict[str, float] = {}
    expected = 0.0
    for name, run in candidates.items():
        took = shortest[name] = min(_seconds(run) for _ in range(max(warmup, 1)))
        turns[name] = max(1, min(MOST_RUNS, int(TURN / max(took, 1e-9))))
        expected += took * turns[name] + (SETTLE if took > LONG else max(SETTLE, took))
    count = rounds or max(FEWEST, min(MOST, int(SECONDS / max(expected, 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in candidates}
    # A collection would land on one candidate and not on the other.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(count):
            if tell is not None:
                tell(turn, count)
            for name, run in list(candidates.items())[:: -1 if turn % 2 else 1]:
                _settle(run, shortest[name])
                times[name].append(statistics.median(_seconds(run, clock) for _ in range(turns[name])))
    finally:
        if collecting:
            gc.enable()
    return times


def _settle(run: Run, took: float) -> None:
    if took > LONG:
        time.sleep(SETTLE)
        return
    end = time.perf_counter() + SETTLE
    while time.perf_counter() < end:
        run()


def _seconds(run: Run, clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    run()
    return clock() - start


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value."""
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return Spread(statistics.median(values), low, high)

    def to_dict(self, digits: int = 4) -> dict[str, float]:
        return {"median": round(self.median, digits), "low": round(self.low, digits), "high": round(self.high, digits)}

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} … {self.high:.2f})"


def ratios(base: Sequence[float], other: Sequence[float]) -> list[float]:
    """How many times faster ``other`` is: the base's seconds over the other's, round by round."""
    return [a / b for a, b in zip(base, other, strict=True)]


def ratio(base: Sequence[float], other: Sequence[float]) -> Spread:
    """The median of :func:`ratios`, and their quartiles."""
    return Spread.of(ratios(base, other))


def median_within(values: Sequence[float]) -> tuple[float, float]:
    """Where the median lies of what the ``values`` are a sample of, with 95 % and whatever the distribution: the k-th from below
    and from above, for as many fall short of the median as heads in so many tosses. Their whole range for fewer than six."""
    n, ordered = len(values), sorted(values)
    k, below = 0, 0.5**n
    while below <= 0.025 and k < n // 2:
        k += 1
        below += math.comb(n, k) * 0.5**n
    outer = max(k - 1, 0)
    return ordered[outer], ordered[n - 1 - outer]


def machine(threads: int | None = None) -> dict[str, Any]:
    """Where it was measured, and with what."""
    from importlib import metadata

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "threads": threads or "default",
        "onnxruntime": metadata.version("onnxruntime"),
        "python": platform.python_version(),
    }


def made(original: Path | None, result: Path, seed: int) -> dict[str, Any]:
    """When and of what a report was made: what is needed to make it again, and to tell whether a file is the one it speaks of."""
    import hashlib
    from datetime import datetime
    from importlib import metadata

    def digest(path: Path) -> str:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "tessera": metadata.version("tessera"),
        "seed": seed,
        "sha256": {**({"original": digest(original)} if original else {}), "optimized": digest(result)},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


# What is measured --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """One input: ``bound`` is what its values may be, where that is known."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    bound: Bound | None = None


@dataclass
class Target:
    """An artifact that can be timed: ours or anybody's ONNX file, or our torch target.

    Attributes:
        fields: what a caller gives.
        graph: the program, where the file carries it.
        capacities: the sizes that only states have, which each call makes anew.
        inverted: masks that are true where there is padding, as far as that was seen
            (:func:`~tessera.driver.report.drawing.find_inverted_masks`).
    """

    name: str
    path: Path
    fields: list[Field]
    outputs: list[str]
    graph: Graph | None = None
    _session: Any = field(default=None, repr=False)
    capacities: dict[str, int] = field(default_factory=dict)
    inverted: frozenset[str] = frozenset()

    @staticmethod
    def open(
        path: str | os.PathLike[str],
        module: Module | None = None,
        *,
        name: str | None = None,
        threads: int | None = None,
    ) -> Target:
        """Load an artifact as it is fastest: ONNX Runtime with its weights packed.

        Args:
            module: the program in it, where it is at hand; else what the file carries is read.

        Raises:
            Diagnostic: E0001, E0014 no artifact, E0910 and E0911 when it cannot be loaded.
        """
        from ..targets import artifact_target, open_artifact

        file = Path(path)
        runner: Any = open_artifact(file, threads=threads, measured=True)
        module = module or getattr(runner, "module", None) or _carried(runner.metadata, file)
        bounds: Mapping[str, Bound | None]
        if module is not None:
            bounds = {value.public: bound for value, bound in index_bounds(module.graph).items()}
        else:
            bounds = {name: Bound(length) for name, length in artifact_target(file).bounds(file).items()}
        given = [port for port in runner.ports.ports if port.role == "input"]
        fields = [Field(p.name, p.dtype.name, p.shape, bounds.get(p.name)) for p in given]
        graph = module.graph if module is not None else None
        told = {s for f in fields for d in f.shape for s in d.symbols}
        capacities = {s: TOKENS for s in (graph.symbols() if graph is not None else ()) if s not in told}
        return Target(name or file.name, file, fields, runner.outputs, graph, runner, capacities)

    @property
    def runner(self) -> Runner:
        """What runs it."""
        runner: Runner = self._session
        return runner

    def as_reference(self, module: Module) -> Callable[..., dict[str, Any]]:
        """This artifact as what ``verify`` compares with: tensors by the names of ``module``, whose outputs are in the same
        order."""
        from ...backends.torch.inputs import from_numpy, to_numpy

        def reference(tensors: Mapping[str, Any], *, seed: int = 0) -> dict[str, Any]:
            found = self({name: to_numpy(tensor) for name, tensor in tensors.items()}, seed=seed)
            names = (info.public for info in module.graph.output_info)
            return {name: from_numpy(array) for name, array in zip(names, found.values(), strict=False)}

        return reference

    def match(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays under this artifact's names: by name, else in order. Raises E0936 when they do not fit."""
        names = [f.name for f in self.fields]
        if set(names) == set(feeds):
            found = {name: feeds[name] for name in names}
        elif len(names) == len(feeds):
            found = dict(zip(names, feeds.values(), strict=True))
        else:
            theirs, ours = ", ".join(f"`{n}`" for n in feeds), ", ".join(f"`{n}`" for n in names)
            raise Diagnostic("E0936", f"`{self.name}` takes {ours or 'nothing'}, but the first one takes {theirs}")
        for f in self.fields:
            array = found[f.name]
            fixed = all(d.value in (None, size) for d, size in zip(f.shape, array.shape, strict=False))
            if array.ndim != len(f.shape) or not fixed or DTYPES[f.dtype].numpy != array.dtype:
                shape = ", ".join(map(str, f.shape))
                message = (
                    f"`{self.name}` takes `{f.name}: {f.dtype}[{shape}]`, but is given {array.dtype}{list(array.shape)}"
                )
                raise Diagnostic("E0936", message)
        return found

    @property
    def bytes(self) -> int:
        """Of its file, and of the data file beside it."""
        return sum(p.stat().st_size for p in (self.path, Path(f"{self.path}.data")) if p.exists())

    def sizes(self, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The size of every free symbol for these arrays. Raises E0902 when they contradict each other."""
        found = self._session.ports.sizes({name: array.shape for name, array in feeds.items()})
        return {name: found[name] for name in self.symbols if name in found}

    @property
    def symbols(self) -> list[str]:
        """The free sizes of its inputs, in the order in which they show, and the capacities of its states."""
        lets = self.graph.lets if self.graph is not None else {}
        shown = dict.fromkeys(s for f in self.fields for d in f.shape for s in sorted(d.symbols) if s not in lets)
        return [*shown, *self.capacities]

    def __call__(self, feeds: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
        """All outputs by name. Raises E0936, and what a session raises."""
        result: dict[str, np.ndarray] = self._session(self.match(feeds), seed=seed, **self.extra)
        return result

    @property
    def extra(self) -> dict[str, Any]:
        """What a call is given beside its arrays and seed."""
        return {"sizes": self.capacities} if self.capacities else {}

    def prepared(self, feeds: Mapping[str, np.ndarray], seed: int = 0) -> Run:
        """A call without checks: what an outside stopwatch around ``InferenceSession.run`` would measure."""
        matched = self.match(feeds)
        if hasattr(self._session, "feeds"):
            whole = self._session.feeds(matched, seed=seed, **self.extra)
            return lambda: self._session.run(whole)
        return lambda: self._session(matched, seed=seed, **self.extra)


def fields_of(graph: Graph) -> list[Field]:
    """The inputs of a program, as those of an artifact of it."""
    bounds = index_bounds(graph)
    given = [v for v in graph.inputs if v.role == "input"]
    return [Field(v.public, v.type.dtype.name, v.type.shape, bounds.get(v)) for v in given]


def _carried(metadata: Mapping[str, str], file: Path) -> Module | None:
    """The program that an artifact of ours carries as source."""
    from ..targets import READERS

    text = metadata.get("tessera.source")
    try:
        return READERS.source(text, f"{file.name}:source") if text else None
    except Diagnostic:
        # The file runs all the same; only what its integers mean is not known.
        return None
