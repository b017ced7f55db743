"""The driver of ``tessera optimize``: import -> raise -> passes -> an artifact, and a report of what that cost and gained.

report = optimize("model.onnx", passes=["merge_tokens(r=8)"], output="fast.onnx")
report["verdict"]["speed"]["text"]     # "pays here: 1.35x (1.31 … 1.39) at B = 1"
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.onnx.target import Onnx
from ..ir.compiling import PassSpec
from ..ir.graph import Module
from ..runtime.files.aside import written_aside
from .compile import CLEANUP, Progress, apply_passes
from .compile import compile as drive
from .read import Source, read_model
from .report.calibration import EXAMPLES, CalibrationOptions, Examples, random_examples, read_examples
from .report.fidelity import compare
from .report.measure import (
    Spread,
    Target,
    draw_inputs,
    interleaved,
    machine,
    ratio,
    sizes_of,
    workable_sizes,
)
from .report.memory import peak_memory

if TYPE_CHECKING:
    from ..passes.engine import Pass
    from .artifact import CompileReport

ORIGINAL, OPTIMIZED, FIXED = "original", "optimized", "fixed indices"
RANDOM, FIRST = "random dropping", "first tokens"
INT8, BOTH = "int8", "optimized + int8"
# Runs of the random baseline, each with a seed of its own.
SEEDS = 3
RAISE = "raise_composites"


@dataclass(frozen=True)
class Options:
    """What is measured, and on what. ``calib`` None: on random inputs, which say nothing about fidelity."""

    calib: str | os.PathLike[str] | None = None
    tokenizer: str | None = None
    fit: str = "crop"
    max_length: int | None = None
    examples: int = EXAMPLES
    sizes: Mapping[str, int] = field(default_factory=dict)
    rounds: int | None = None
    threads: int | None = None
    int8: bool = False
    memory: bool = True
    seed: int = 0
    opset: int | None = None


# The whole way -----------------------------------------------------------------------------------------------------------


def optimize(
    source: Source | str | os.PathLike[str],
    *,
    passes: Sequence[str | PassSpec | Pass] | None = None,
    output: str | os.PathLike[str],
    options: Options | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Rewrite a model, write it as ONNX after comparing it with the torch reference, and measure it against the original.

    Args:
        source: a model, or what :func:`read_model` takes.
        passes: run on it; None: those of its ``compile`` block.
        output: the ONNX file to write; with ``int8`` a second one beside it, ``fast.int8.onnx``.

    Returns:
        The report, as plain data: ``runtime.report`` renders it as text, ``runtime.report_html`` as a page.

    Raises:
        Diagnostic: whatever is wrong with the model, the passes, the data or the output.
    """
    options = options or Options()
    tell = progress or (lambda stage, done, total: None)
    if not isinstance(source, Source):
        source = read_model(source)
    module = source.module
    steps = list(passes if passes is not None else module.compile.passes if module.compile else [])
    raising = _raising(source)
    raised = [module]
    with tempfile.TemporaryDirectory(prefix="tessera-") as name:
        folder = Path(name)
        tell("rewriting and writing", None, None)
        artifact = drive(
            module, target=Onnx.name, weights=source.weights, passes=[*raising, *steps], opset=options.opset,
            seed=options.seed, output=output, progress=progress,
            after=lambda step, report, module: raised.append(module) if step.name == RAISE else None,
        )  # fmt: skip
        files = {OPTIMIZED: Candidate(Path(output), artifact.module)}
        files |= _others(source, artifact.module, options, folder, tell)
        if options.int8:
            from .report.quantize import quantize

            tell("quantizing", None, None)
            whole = files[ORIGINAL]
            files[INT8] = Candidate(quantize(whole.file, folder / "int8.onnx"), whole.module)
            files[BOTH] = Candidate(int8_path(output), artifact.module)
            with written_aside(files[BOTH].file) as aside:
                quantize(Path(output), aside)
        before, _ = apply_passes(raised[len(raising)], CLEANUP)
        after, done = artifact.module, artifact.report
        # Its session would keep a copy of the weights through all that follows.
        del artifact
        return _report(source, before, after, done, files, options, tell, Path(output))


@dataclass(frozen=True)
class Candidate:
    """A file that is measured, and the program in it; None for a file of others."""

    file: Path
    module: Module | None


def int8_path(output: str | os.PathLike[str]) -> Path:
    """Where the quantized form of an output goes."""
    return Path(output).with_suffix(".int8.onnx")


def _raising(source: Source) -> list[PassSpec]:
    """The pass that finds composites in imported primitives."""
    from ..passes.engine import registry

    return [PassSpec(RAISE)] if source.raising and RAISE in registry() else []


def _others(source: Source, after: Module, options: Options, folder: Path, tell: Progress) -> dict[str, Candidate]:
    """What the result is compared with: the original, and the two graphs that say what merging is worth."""
    from ..passes.tokens.baselines import fixed_indices, random_dropping
    from ..passes.tokens.stream import reductions

    wanted = {} if source.file else {ORIGINAL: source.module}
    if any(reductions(after.graph)):
        wanted |= {FIXED: fixed_indices(after), RANDOM: random_dropping(after)}
    files = {ORIGINAL: Candidate(source.file, None)} if source.file else {}
    for what, module in wanted.items():
        tell(f"building for comparison: {what}", None, None)
        file = folder / f"{what.replace(' ', '_')}.onnx"
        made = drive(
            module, target=Onnx.name, weights=source.weights, passes=[], opset=options.opset, seed=options.seed,
            verify=False, output=file,
        )  # fmt: skip
        files[what] = Candidate(file, made.module)
    return files


def _report(
    source: Source,
    before: Module,
    after: Module,
    done: CompileReport,
    files: dict[str, Candidate],
    options: Options,
    tell: Progress,
    output: Path,
) -> dict[str, Any]:
    from .report.text import verdict

    def opened(*names: str) -> dict[str, Target]:
        candidates = {n: files[n] for n in names if n in files}
        return {n: Target.open(c.file, c.module, name=n, threads=options.threads) for n, c in candidates.items()}

    targets = opened(ORIGINAL, OPTIMIZED, FIXED, INT8, BOTH)
    optimized = targets[OPTIMIZED]
    examples = _examples(source, [optimized, targets[ORIGINAL]], options)
    sizes = _sizes(optimized, examples, options.sizes)
    feeds = draw_inputs(optimized, sizes, options.seed)
    report: dict[str, Any] = {
        "model": after.name,
        "source": source.kind,
        "output": str(output),
        "written": [str(p) for p in (output, int8_path(output)) if p == output or options.int8],
        "files": {n: t.bytes for n, t in targets.items() if n != FIXED},
        "machine": machine(options.threads),
        "sizes": sizes,
        "random_weights": source.random,
        "notes": [*source.notes, *done.notes],
        "passes": [r.to_dict() for r in done.passes],
        "verified": done.verified,
        "cost": _cost(before, after, sizes),
        "latency": _latency(targets, feeds, options, tell),
    }
    # Each session holds the weights: what is not needed any more makes room.
    targets.pop(FIXED, None)
    report["memory"] = _memory(targets, feeds, options, tell)
    targets |= opened(RANDOM)
    report["fidelity"] = _fidelity(before, after, targets, examples, tell)
    report["verdict"] = verdict(report)
    return report


# The parts of the report ---------------------------------------------------------------------------------------------------


def _examples(source: Source, targets: list[Target], options: Options) -> Examples:
    target = targets[0]
    if options.calib is None:
        return random_examples(target, workable_sizes(targets, options.sizes), options.seed)
    how = CalibrationOptions(options.tokenizer, options.fit, options.max_length, options.examples, source.beside)
    return read_examples(target.fields, options.calib, how)


def _sizes(target: Target, examples: Examples, given: Mapping[str, int]) -> dict[str, int]:
    """The sizes for timing: given ones, else those of the median example."""
    return {**sizes_of(target, given), **target.sizes(examples.middle), **given}


def _cost(before: Module, after: Module, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Tokens and FLOPs of each block, before and after."""
    from itertools import zip_longest

    from ..ir.analysis.cost import cost

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


def _latency(targets: Mapping[str, Target], feeds: Any, options: Options, tell: Progress) -> dict[str, Any]:
    """Interleaved times."""
    timed = {n: t.prepared(feeds, options.seed) for n, t in targets.items()}
    times = interleaved(timed, options.rounds, tell=lambda i, n: tell("timing", i, n))
    base = times[ORIGINAL]
    rows = {
        name: {"ms": Spread.of([s * 1e3 for s in row]).to_dict(), "speedup": ratio(base, row).to_dict()}
        for name, row in times.items()
    }
    found: dict[str, Any] = {"rounds": len(base), "rows": rows}
    if BOTH in times:
        found["stacked"] = ratio(times[INT8], times[BOTH]).to_dict()
    if FIXED in times:
        # Paired like everything else: the difference within a round.
        extra = Spread.of([(a - b) * 1e3 for a, b in zip(times[OPTIMIZED], times[FIXED], strict=True)])
        found["matching"] = {"ms": extra.to_dict(), "share": round(extra.median / rows[OPTIMIZED]["ms"]["median"], 4)}
    return found


def _memory(targets: Mapping[str, Target], feeds: Any, options: Options, tell: Progress) -> dict[str, Any] | None:
    if not options.memory:
        return None
    rows = {}
    for name, target in targets.items():
        tell(f"measuring the memory of {name}", None, None)
        rows[name] = peak_memory(target, feeds, options.threads).to_dict()
    return rows


def _fidelity(
    before: Module, after: Module, targets: Mapping[str, Target], examples: Examples, tell: Progress
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
    candidates = {n: [outputs(n)] for n in (OPTIMIZED, INT8, BOTH) if n in targets}
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


def _first_tokens(
    before: Module, after: Module, target: Target, examples: Examples
) -> tuple[float, list[dict[str, Any]]] | None:
    """Each text cut so that the original takes no more FLOPs than the result on all of it, and the mean share kept.

    None for a model that does not take token ids of any length.
    """
    from ..ir.analysis.cost import cost

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
