"""The driver: frontend -> passes -> backend -> an artifact that was compared with the reference.

>>> module = load("vit_s16")                                                     # doctest: +SKIP
>>> artifact = compile(module, target="onnx", weights="vit.safetensors")         # doctest: +SKIP
>>> artifact.save("vit.onnx")                                                    # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic
from ..ir.graph import Module

if TYPE_CHECKING:
    from ..backends.target import Checked, Target
    from ..frontends.python.model import Model
    from ..ir.compiling import PassSpec
    from ..passes.engine import After, Pass
    from ..passes.report import Report
    from ..runtime.program import Host, ProgramRunner
    from ..runtime.runner import Runner
    from ..runtime.weights.bind import Bound
    from .artifact import Artifact, CompileReport

# Exact passes that every artifact goes through after the user's own.
CLEANUP = ("fold_constants", "cse", "dce")

# What goes on, how much of it is done, and how much there is; None where nobody knows.
Progress = Callable[[str, int | None, int | None], None]


# Loading ---------------------------------------------------------------------------------------------------------------


def load(
    name: str | os.PathLike[str], model: str | None = None, params: Mapping[str, Any] | None = None, dtype: str = "f32"
) -> Module:
    """A model from a ``.tess`` file, a shipped one by its name, or one of the zoo's families from a Hugging Face folder.

    Args:
        name: a path, ``zoo/vit``, or the name of a shipped model, ``vit_s16``; or a folder with ``config.json``.
        model: which model, where the file holds several.
        params: values of its static parameters.
        dtype: what ``float`` means in its signature: ``f32``, ``f16``, ``bf16`` or ``f64``.

    Raises:
        Diagnostic: whatever is wrong with the program; E0001 when there is none.
    """
    from ..frontends import source
    from ..runtime.files.pickles import refuse_pickled_model
    from ..runtime.states import named
    from ..specs.catalog import find

    refuse_pickled_model(name)
    path, found = find(name)
    if brings_weights(path):
        raise Diagnostic(
            "E0930",
            f"`{path.name}` is no spec, and a program without its weights would be of little use",
            help="`tessera.driver.read.read_model` gives both; on the command line `compile` and `optimize` take it",
        )
    if os.path.isdir(path):
        from ..frontends import huggingface

        return huggingface.load(path, model, params, dtype).module
    return source.load(path, model or found, named(params, "params", "E0402"), dtype)


def brings_weights(path: Path) -> bool:
    """Whether a file is imported with its weights; a spec is not looked at."""
    if path.suffix in ("", ".tess"):
        return False
    from .read import IMPORTED

    return path.suffix.lower() in IMPORTED


def parse_pass(text: str, shown: str = "<pass>") -> PassSpec:
    """``merge_tokens(r=8, metric=keys)`` as a pass spec; ``shown`` names the text in messages. Raises Diagnostic for other text."""
    from ..frontends import source

    spec: PassSpec = source.parse_pass(text, shown)
    return spec


def parse_literal(text: str, shown: str) -> Any:
    """A number, ``true``, ``"text"``, a bare word or a list, as Python has it. Raises E0011; ``shown`` names it."""
    from ..frontends.source import options
    from ..frontends.source.syntax import ast
    from ..frontends.source.syntax.parser import parse_expr

    try:
        return options([ast.Arg("value", parse_expr(text, "<option>"))])["value"]
    except Diagnostic as error:
        raise Diagnostic(
            "E0011", f"`{shown}`: {error.message}", help='a value is 12, 1e-5, true, "text", a word, or a list [1, 2]'
        ) from None


def apply_passes(
    module: Module, passes: Sequence[str | PassSpec | Pass], *, verify_each: bool = False, after: After | None = None
) -> tuple[Module, list[Report]]:
    """Run passes on a copy: names with options (``"merge_tokens(r=8)"``), specs or pass objects.

    Raises:
        Diagnostic: E0701 to E0706.
    """
    from ..passes.engine import run_pipeline

    steps = [parse_pass(p) if isinstance(p, str) else p for p in _listed(passes)]
    return run_pipeline(module, steps, verify_each=verify_each, after=after)


def _listed(passes: Any) -> Sequence[str | PassSpec | Pass]:
    """Raises E0701 for what is no list of passes."""
    from ..ir.compiling import PassSpec
    from ..passes.engine import Pass

    odd = passes if isinstance(passes, str) or not isinstance(passes, Iterable) else None
    listed = [] if odd is not None else list(passes)
    odd = next((p for p in listed if not isinstance(p, (str, PassSpec, Pass))), odd)
    if odd is not None:
        raise Diagnostic(
            "E0701", f"`passes` is a list of passes, and {odd!r} is neither", help='write `passes=["merge_tokens(r=8)"]`'
        )
    return listed


# Compiling -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Begun:
    """Passes that were run on a module before it is compiled: the module in front of them, and their reports."""

    read: Module
    reports: Sequence[Report]


def compile(
    module: Module | Model,
    *,
    target: str | None = None,
    weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, Any] | None = None,
    renames: Sequence[tuple[str, str]] | None = None,
    passes: Sequence[str | PassSpec | Pass] | None = None,
    seed: int = 0,
    verify: bool = True,
    sizes: Mapping[str, int] | None = None,
    verify_each: bool = False,
    metadata: Mapping[str, str] | None = None,
    output: str | os.PathLike[str] | None = None,
    into: Path | None = None,
    progress: Progress | None = None,
    begun: Begun | None = None,
    host: Mapping[str, Host] | None = None,
    allow_host: bool = False,
    **options: Any,
) -> Artifact:
    """Compile a module or a model built in Python. What is not given comes from its ``compile`` block, else from the defaults.

    Args:
        target: its name; ``tessera.backends.target.registry`` has them. Without one, what ``output`` is called decides.
        weights: safetensors files, a folder of them, or arrays by name. Without any, ``seed`` initialises them.
        renames: pairs (pattern of names in the file, name in the model).
        passes: run instead of those of the ``compile`` block; ``[]`` runs none.
        seed: for initial weights and for the inputs of the comparison.
        verify: compare the artifact with the torch reference at two sizes, before it is written.
        sizes: what the comparison keeps to, by symbol, where the model takes some sizes only; the others are chosen.
        verify_each: check the IR after every pass.
        metadata: strings to put into the file.
        output: also write the artifact there; nothing is left there when anything fails.
        into: write it exactly there, instead of ``output``: the caller puts it into place.
        progress: told what goes on.
        begun: what the module was before the passes that it has been through already, and their reports.
        host, allow_host: functions of host stages by name, and whether others are imported, where outputs of a pipeline are
            measured.
        options: of the target, such as ``opset=20``. None counts as not given.

    Raises:
        Diagnostic: for the program, the passes, the weights, the backend or the place of the output; E0809 when the artifact
            and the reference disagree.
    """
    from .artifact import Artifact, CompileReport
    from .bundles import placed
    from .targets import check_called, chosen

    tell = progress or (lambda stage, done, total: None)
    report = CompileReport()
    clock = _Clock(report, tell)
    if not isinstance(module, Module):
        module = module.module
    spec = module.compile
    goal = chosen(module, target, options, output or into)
    read = module if begun is None else begun.read
    with clock("running the passes"):
        steps = passes if passes is not None else spec.passes if spec else ()
        module, made = apply_passes(module, steps, verify_each=verify_each)
        report.passes = [*(begun.reports if begun is not None else ()), *made]
        reference = module
        module, _ = apply_passes(module, CLEANUP, verify_each=verify_each)
        if output is not None:
            check_called(goal, output, module.several)
        module, tables = placed(module)
    with clock("reading the weights"):
        bound, origin, notes = _weights(reference, read, weights, renames, seed)
        report.notes += bound.notes() + notes
    facts = {**_metadata(module, goal, report.passes, origin, seed), **(metadata or {})}
    if verify:
        from .tokenized import check_tokenizers

        report.notes += check_tokenizers(reference, goal)
    with clock(f"building for {goal.name}"):
        if module.several:
            from .measured import check_measures
            from .programs import ProgramArtifact, refuse, save_program

            refuse(module, goal)
            built = {}
            for entry in module.functions:
                alone = module.only(entry)
                made = [r for r in report.passes if r.entry in ("", entry)]
                own = {**_metadata(alone, goal, made, origin, seed), **(metadata or {})}
                built[entry] = goal.build(alone, bound, own)
            whole = ProgramArtifact(module, goal, built, facts, report, tables)

            def continues(opened: ProgramRunner) -> list[str]:
                return [] if read.several else _continues(read, opened, report.passes, weights, renames, seed, sizes)

            def gates(opened: ProgramRunner) -> dict[str, float]:
                return check_measures(reference, opened, host or {}, allow_host)

            save_program(whole, reference, bound, seed if verify else None, sizes, output, clock, continues, gates)
            return whole
        problem = goal.refuses(module)
        if problem is not None:
            raise problem
        artifact = Artifact(module, goal, goal.build(module, bound, facts), facts, report)
    if output is None and into is None and not verify:
        return artifact

    def ahead() -> list[str]:
        from .one_way import check_one_way

        def own() -> Bound:
            return _weights(read, read, weights, renames, seed)[0]

        return check_one_way(read, reference, own, bound, report.passes, seed, sizes)

    _write_and_verify(artifact, reference, bound, seed if verify else None, sizes, output, into, clock, ahead)
    return artifact


def _write_and_verify(
    artifact: Artifact,
    reference: Module,
    bound: Bound,
    seed: int | None,
    sizes: Mapping[str, int] | None,
    output: str | os.PathLike[str] | None,
    into: Path | None,
    clock: _Clock,
    ahead: Callable[[], list[str]],
) -> None:
    """Write the artifact aside, compare what was written (``seed`` None: do not), and only then put it into place."""
    from ..runtime.files.aside import written_aside

    with ExitStack() as stack:
        aside = into or (stack.enter_context(written_aside(output)) if output is not None else artifact._aside())
        with clock("writing"):
            artifact._write(aside)
        artifact.report.size = sum(p.stat().st_size for p in aside.parent.iterdir())
        if seed is not None:
            with clock("comparing with the reference"):
                _compare(artifact, aside, reference, bound, seed, sizes, ahead)
    artifact._wrote(aside if output is None else Path(output))


def _continues(
    read: Module, opened: ProgramRunner, reports: Sequence[Report], weights: Any, renames: Sequence[tuple[str, str]] | None,
    seed: int, sizes: Mapping[str, int] | None,
) -> list[str]:  # fmt: skip
    """Whether a model that a pass parted into a beginning and what follows still is that model. Raises E0809."""
    from ..passes.memory.add_cache import DECODE, LENGTHS, PREFILL
    from .continuing import check_continues

    def own() -> Bound:
        return _weights(read, read, weights, renames, seed)[0]

    return check_continues(read, own, opened, reports, (PREFILL, DECODE), LENGTHS, seed, sizes)


def _compare(
    artifact: Artifact, path: Path, reference: Module, bound: Bound, seed: int, sizes: Mapping[str, int] | None,
    ahead: Callable[[], list[str]],
) -> None:  # fmt: skip
    """Open the file and compare it with the torch reference on the same inputs. Raises E0809 when they differ, and what
    ``ahead`` raises of later tokens that it sees."""
    from concurrent.futures import ThreadPoolExecutor

    from .targets import READERS

    def compare(runner: Runner) -> Checked:
        importing.result()
        from .mapped import mapped
        from .verify import compared

        with mapped(artifact._target.held(artifact.module, bound), path.parent) as values:
            return compared(artifact.module, runner, reference, values, seed, sizes)

    # torch takes about as long to import as ONNX Runtime to open the file, which does not hold the interpreter.
    with ThreadPoolExecutor(1) as pool:
        importing = pool.submit(_import_reference)
        found = artifact._target.check(path, artifact.module, bound, READERS, compare)
    artifact._runner = found.runner
    artifact.report.verified = found.rows
    artifact.report.notes += [*found.notes, *ahead()]


def _import_reference() -> None:
    from ..backends.torch import module  # noqa: F401


class _Clock:
    """Measures stages and tells who waits."""

    def __init__(self, report: CompileReport, tell: Progress) -> None:
        self.report = report
        self.tell = tell
        self._stack: list[tuple[str, float]] = []

    def __call__(self, stage: str) -> _Clock:
        self.tell(stage, None, None)
        self._stack.append((stage, time.perf_counter()))
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        stage, start = self._stack.pop()
        self.report.seconds[stage] = time.perf_counter() - start


def _weights(
    module: Module, read: Module, weights: Any, renames: Sequence[tuple[str, str]] | None, seed: int
) -> tuple[Bound, str, list[str]]:
    """The bound parameters, in a word where they come from, and what is to be said of that; ``read`` is the module before any
    pass."""
    from ..ir.recipe import relative
    from ..runtime.weights.bind import bind, initialise
    from ..runtime.weights.open import open_weights

    spec = module.compile
    span = None
    if weights is None and spec is not None and spec.weights is not None:
        base = Path(module.path).parent if module.path else Path()
        weights, span = base / spec.weights, spec.span
    if renames is None:
        renames = spec.renames if spec is not None else ()
    if weights is None:
        # Passes make their parameters of those first values, so that they do not change what the model computes.
        bound = bind(module.everything(), initialise(read.everything(), seed), recipes=relative(module, read), seed=seed)
        origin = f"initialised with seed {seed}"
        reading = any(True for recipe in read.recipes.values() for _ in recipe.takes())
        note = f"no weights are given, though recipes read a checkpoint: parameters are {origin}"
        return bound, origin, [note] if reading else []
    if isinstance(weights, Mapping):
        return bind(module.everything(), weights, recipes=module.recipes, seed=seed), "arrays", []
    paths = [weights] if isinstance(weights, (str, os.PathLike)) else list(weights)
    if len(paths) == 1 and brings_weights(Path(paths[0])):
        # Those of the file that a program was imported from.
        from .read import read_model

        tensors = read_model(paths[0]).weights
        return bind(module.everything(), tensors, recipes=module.recipes, seed=seed, span=span), Path(paths[0]).name, []
    opened = open_weights([Path(p) for p in paths], renames, span=span)
    bound = bind(module.everything(), opened, recipes=module.recipes, seed=seed, span=span)
    return bound, ", ".join(Path(p).name for p in paths), []


def _metadata(module: Module, target: Target, reports: Sequence[Report], origin: str, seed: int) -> dict[str, str]:
    """What a file says about its making: enough to explain it and to make it again."""
    from importlib.metadata import version

    from ..frontends import source

    return {
        "tessera.version": version("tessera"),
        "tessera.model": module.name,
        "tessera.target": target.name,
        **{f"tessera.{f.name}": str(getattr(target, f.name)) for f in fields(target)},
        "tessera.weights": origin,
        "tessera.seed": str(seed),
        "tessera.passes": json.dumps([r.to_dict() for r in reports], default=str),
        "tessera.source": source.print_module(module),
    }
