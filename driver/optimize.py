"""The driver of ``tessera optimize``: import -> raise -> passes -> an artifact, and a report of what that cost and gained.

report = optimize("model.onnx", passes=["merge_tokens(r=8)"], output="fast.onnx")
report["verdict"]["speed"]["text"]     # "pays here: 1.35x (1.31 … 1.39) at B = 1"
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.onnx.target import Onnx
from ..ir.compiling import PassSpec
from ..ir.diagnostics import Diagnostic
from ..ir.graph import Module
from ..runtime.files.aside import Scratch, check_writable, written_aside
from ..runtime.inputs import Options as InputOptions
from .compile import CLEANUP, Begun, Progress, apply_passes, parse_pass
from .compile import compile as drive
from .read import Source, raising, read_model
from .report.calibration import EXAMPLES, CalibrationOptions, Examples, random_examples, read_examples
from .report.drawing import draw_inputs, find_inverted_masks, sizes_of, workable_sizes
from .report.measure import Target, fields_of, machine, made
from .report.results import (
    BECAME,
    BOTH,
    EVEN,
    FIXED,
    INT8,
    OPTIMIZED,
    ORIGINAL,
    RANDOM,
    REEXPORTED,
    ROUTERS,
    costs,
    fidelities,
    latencies,
    memories,
    routed,
)

if TYPE_CHECKING:
    from ..passes.engine import Pass
    from .artifact import Artifact, CompileReport
    from .fit.budget import Budget
    from .fit.fit import Fitted

# Of QuantizeLinear to i8 in a newer one, ONNX Runtime 1.32 makes nodes that it refuses itself.
_QUANTIZED_OPSET = 20


@dataclass(frozen=True)
class Options:
    """What is measured, and on what. ``calib`` None: on random inputs, which say nothing about fidelity. ``sizes`` are those
    of the timing, and the comparisons keep to them. ``budget``: search for a schedule that keeps to it."""

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
    budget: Budget | None = None


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

    Where the original can be run (an ONNX file), what was read from it is compared with it too, before any pass that changes
    values. Nothing is put into place before everything has been read, compared and measured.

    Args:
        source: a model, or what :func:`read_model` takes.
        passes: run on it; None: those of its ``compile`` block.
        output: the ONNX file to write; with ``int8`` a second one beside it, ``fast.int8.onnx``. ``/dev/null`` keeps none.

    Returns:
        The report, as plain data: ``driver.report.text`` renders it as text, ``driver.report.html`` as a page.

    Raises:
        Diagnostic: whatever is wrong with the model, the passes, the data or the output; E0939 when what was read from a file
            does not compute what the file does.
    """
    options = options or Options()
    tell = progress or (lambda stage, done, total: None)
    if not isinstance(source, Source):
        source = read_model(source)
    integers = _integers(source)
    if integers and options.opset is None:
        options = replace(options, opset=_QUANTIZED_OPSET)
    module = source.module
    steps = list(passes if passes is not None else module.compile.passes if module.compile else [])
    examples = _given_examples(source, options)
    with Scratch() as name, _place(output, options.int8) as aside:
        folder = Path(name)
        tell("finding composites", None, None)
        before, reports = apply_passes(module, raising(source))
        fitted = None
        if options.budget is not None:
            fitted = _fitted(source, before, steps, options, examples, folder, tell)
            steps, examples = list(fitted.passes), fitted.held_back
        tell("rewriting and writing", None, None)
        artifact = drive(
            before, target=Onnx.name, weights=source.weights, passes=steps, opset=options.opset, seed=options.seed,
            sizes=options.sizes, into=aside, progress=progress, begun=Begun(module, reports),
        )  # fmt: skip
        _check_integers(source, integers, aside)
        files = {OPTIMIZED: Candidate(aside, artifact.module)}
        files |= _others(source, before, artifact, fitted, options, folder, tell)
        compared = _compare_with_original(source, files, options, tell)
        if options.int8:
            tell("quantizing", None, None)
            whole = files[ORIGINAL]
            files[INT8] = Candidate(folder / f"int8{Onnx.suffix}", whole.module)
            files[BOTH] = Candidate(int8_path(aside), artifact.module)
            artifact.report.notes += _quantized(whole, files[INT8], examples, options)
            artifact.report.notes += _quantized(files[OPTIMIZED], files[BOTH], examples, options)
        before, _ = apply_passes(before, CLEANUP)
        after, done = artifact.module, artifact.report
        # Its session would keep a copy of the weights through all that follows.
        del artifact
        written = [] if os.fspath(output) == os.devnull else [os.fspath(output)]
        report = {
            "model": after.name,
            "source": source.kind,
            "output": os.fspath(output),
            "written": [
                *written,
                *(str(int8_path(p)) for p in written if options.int8),
                *(str(program_path(p)) for p in written if fitted is not None),
            ],
            "compared_with_original": compared,
            "made": made(source.file, aside, options.seed),
        }
        report |= _report(source, before, after, done, files, examples, fitted, options, tell)
        if fitted is not None and written:
            _write_program(fitted, before, source, program_path(output))
        return report


@dataclass(frozen=True)
class Candidate:
    """A file that is measured, and the program in it; None for a file of others."""

    file: Path
    module: Module | None


def int8_path(output: str | os.PathLike[str]) -> Path:
    """Where the quantized form of an output goes."""
    return Path(output).with_suffix(f".int8{Onnx.suffix}")


def program_path(output: str | os.PathLike[str]) -> Path:
    """Where the program that a search chose is written as source."""
    return Path(output).with_suffix(".tess")


def _integers(source: Source) -> int:
    """How many products the file computes in integers."""
    from .report.quantize import integer_products

    return 0 if source.file is None else integer_products(source.file)


def _check_integers(source: Source, count: int, written: Path) -> None:
    """Raises E0940 where a file computes ``count`` products in integers, of which what was written computes some in floats."""
    from .report.quantize import integer_products

    lost = count - integer_products(written) if count else 0
    if source.file is not None and lost > 0:
        products = f"{lost} of its products are" if lost > 1 else "one of its products is"
        raise Diagnostic(
            "E0940", f"`{source.file.name}` is quantized: {products} computed in integers, and would be in floats here",
            help="optimize the model that it was made from, with `--int8`: fewer tokens and int8 stack",
        )  # fmt: skip


@contextmanager
def _place(output: str | os.PathLike[str], int8: bool) -> Iterator[Path]:
    """Where to write what becomes ``output`` in the end, with all that lies beside it; nowhere for ``/dev/null``."""
    if os.fspath(output) == os.devnull:
        with Scratch() as folder:
            yield Path(folder, f"model{Onnx.suffix}")
        return
    if int8:
        check_writable(int8_path(output))
    with written_aside(output) as aside:
        yield aside


def _fitted(
    source: Source,
    before: Module,
    steps: Sequence[str | PassSpec | Pass],
    options: Options,
    examples: Examples | None,
    folder: Path,
    tell: Progress,
) -> Fitted:
    """The passes that keep to the budget. Raises E0011 for passes that are objects: they have their schedule."""
    from .fit.fit import How, fit

    assert options.budget is not None
    named = [parse_pass(p) if isinstance(p, str) else p for p in steps]
    specs = [p for p in named if isinstance(p, PassSpec)]
    if len(specs) < len(named):
        raise Diagnostic("E0011", "a budget goes with passes by name", help='write `passes=["merge_tokens"]`')
    how = How(options.sizes, options.threads, options.seed, options.opset)
    return fit(source, before, specs, options.budget, examples, how, folder, tell)


def _write_program(fitted: Fitted, before: Module, source: Source, path: Path) -> None:
    """The program beside the artifact, with the passes that were chosen and where its weights are."""
    from .fit.fit import program_text

    with written_aside(path) as aside:
        aside.write_text(program_text(before, fitted.passes, source, path.parent), encoding="utf-8")


def _others(
    source: Source, before: Module, artifact: Artifact, fitted: Fitted | None, options: Options, folder: Path, tell: Progress
) -> dict[str, Candidate]:
    """What the result is compared with: the original, the same program with every token, the two graphs that say what
    merging is worth, and the schedule that nobody had to search for; and what tells what its routers choose."""
    from ..passes.tokens.baselines import fixed_indices, random_dropping
    from ..passes.tokens.stream import reductions
    from .report.fates import traced as traced_tokens
    from .report.routers import mixtures, traced

    after = artifact.module
    wanted = {} if source.file else {ORIGINAL: source.module}
    if source.file and any(row.contract != "exact" for row in artifact.report.passes):
        wanted[REEXPORTED] = before
    if any(reductions(after.graph)):
        wanted |= {FIXED: fixed_indices(after), RANDOM: random_dropping(after)}
        if options.calib is not None:
            wanted[BECAME] = traced_tokens(after)[0]
    if mixtures(after.graph):
        wanted[ROUTERS] = traced(after)
    if fitted is not None and fitted.even is not None:
        wanted[EVEN] = apply_passes(before, fitted.even)[0]
    files = {ORIGINAL: Candidate(source.file, None)} if source.file else {}
    for what, module in wanted.items():
        tell(f"building for comparison: {what}", None, None)
        file = folder / f"{what.replace(' ', '_')}{Onnx.suffix}"
        made = drive(
            module, target=Onnx.name, weights=source.weights, passes=[], opset=options.opset, seed=options.seed,
            verify=False, output=file,
        )  # fmt: skip
        files[what] = Candidate(file, made.module)
    return files


def _compare_with_original(
    source: Source, files: Mapping[str, Candidate], options: Options, tell: Progress
) -> list[dict[str, Any]]:
    """Run the file that was brought along beside what was read from it, at two sizes. Raises E0939 when they differ."""
    if source.file is None:
        return []
    from .verify import verify

    tell("comparing with the original", None, None)
    ours = files[REEXPORTED if REEXPORTED in files else OPTIMIZED]
    assert ours.module is not None
    if any(v.role == "random" for v in ours.module.graph.inputs):
        return []
    runner = Target.open(ours.file, ours.module, name=ours.file.name, threads=options.threads)
    original = Target.open(source.file, name=source.file.name, threads=options.threads)
    try:
        found = verify(
            ours.module, runner.runner, original.as_reference(ours.module), given=options.sizes, seed=options.seed, finite=True
        )
    except Diagnostic as error:
        if error.code != "E0809":
            raise
        raise Diagnostic(
            "E0939", f"what was read from `{source.file.name}` does not compute what the file does: {error.message}", error.span,
            error.notes, help="this is a fault of ours: please report it, with the file",
        ) from None  # fmt: skip
    return [row.to_dict() for row in found.rows]


def _quantized(given: Candidate, made: Candidate, examples: Examples | None, options: Options) -> list[str]:
    """Write the int8 form of a file, on examples where there are some; and what was found about it."""
    from .report.quantize import quantize, quantize_best

    if examples is None:
        quantize(given.file, made.file)
        return []
    return quantize_best(given.file, made.file, given.module, examples, options.threads)


def _report(
    source: Source,
    before: Module,
    after: Module,
    done: CompileReport,
    files: dict[str, Candidate],
    examples: Examples | None,
    fitted: Fitted | None,
    options: Options,
    tell: Progress,
) -> dict[str, Any]:
    from .report.text import verdict

    def opened(*names: str) -> dict[str, Target]:
        candidates = {n: files[n] for n in names if n in files}
        return {n: Target.open(c.file, c.module, name=n, threads=options.threads) for n, c in candidates.items()}

    targets = opened(ORIGINAL, REEXPORTED, OPTIMIZED, EVEN, FIXED, INT8, BOTH)
    optimized = targets[OPTIMIZED]
    notes = [*source.notes, *done.notes]
    if source.file is not None and any(v.role == "random" for v in after.graph.inputs):
        notes.append("not compared with the original: both draw random numbers of their own")
    if examples is None:
        sizes = workable_sizes([optimized, targets[ORIGINAL]], options.sizes, notes.append)
    else:
        # Those of the median example.
        sizes = {**sizes_of(optimized, options.sizes), **optimized.sizes(examples.middle), **options.sizes}
    optimized.inverted = find_inverted_masks(optimized, sizes, [targets[ORIGINAL]])
    examples = examples or random_examples(optimized, sizes, options.seed)
    feeds = draw_inputs(optimized, sizes, options.seed)
    report: dict[str, Any] = {
        "files": {n: t.bytes for n, t in targets.items() if n != FIXED},
        "machine": machine(options.threads),
        "sizes": sizes,
        "fit": fitted.to_dict() if fitted is not None else None,
        "random_weights": source.random,
        "notes": notes,
        "passes": [r.to_dict() for r in done.passes],
        "verified": done.verified,
        "cost": costs(before, after, sizes),
        "latency": latencies(targets, feeds, options.rounds, options.seed, tell),
    }
    # Each session holds the weights: what is not needed any more makes room.
    targets.pop(FIXED, None)
    report["memory"] = memories(targets, feeds, options.threads, tell) if options.memory else None
    targets |= opened(RANDOM, ROUTERS, BECAME)
    report["fidelity"] = fidelities(before, after, targets, examples, tell)
    report["routers"] = routed(after, targets, examples, tell)
    report["became"] = _became(after, targets.get(BECAME), examples, source, options)
    report["verdict"] = verdict(report)
    return report


def _became(
    after: Module, target: Target | None, examples: Examples, source: Source, options: Options
) -> dict[str, Any] | None:
    """What became of the tokens of the median example; None where none left, or inputs are random."""
    from .report.became import became
    from .report.fates import traced

    if target is None:
        return None
    how = InputOptions(tokenizer=options.tokenizer, beside=source.beside)
    return became(target.fields, traced(after)[1], examples.middle, target(examples.middle), how)


def _given_examples(source: Source, options: Options) -> Examples | None:
    """The calibration data, read before anything is built; None where there is none."""
    if options.calib is None:
        return None
    how = CalibrationOptions(options.tokenizer, options.fit, options.max_length, options.examples, source.beside)
    return read_examples(fields_of(source.module.graph), options.calib, how)
