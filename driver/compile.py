"""The driver: frontend -> passes -> backend -> an artifact that was compared with the reference.

>>> module = load("vit_s16")                                                     # doctest: +SKIP
>>> artifact = compile(module, target="onnx", weights="vit.safetensors")         # doctest: +SKIP
>>> artifact.save("vit.onnx")                                                    # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic, did_you_mean
from ..ir.graph import Module
from .artifact import Artifact, CompileReport

if TYPE_CHECKING:
    from ..frontends.python.model import Model
    from ..ir.compiling import PassSpec
    from ..passes.engine import After, Pass
    from ..passes.report import Report
    from .artifact import Runner

TARGETS = ("onnx", "torch", "mlir")
DEFAULT_OPSET = 24
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
    from ..specs.catalog import find

    path, found = find(name)
    if path.suffix in (".onnx", ".mlir"):
        raise Diagnostic(
            "E0930",
            f"`{path.name}` is no spec, and a program without its weights would be of little use",
            help="`tessera.driver.read.read_model` gives both; on the command line `compile` and `optimize` take it",
        )
    if os.path.isdir(path):
        from ..frontends import huggingface

        return huggingface.load(path, model, params, dtype).module
    return source.load(path, model or found, dict(params or {}), dtype)


def check(name: str | os.PathLike[str]) -> list[Module]:
    """Type-check a whole ``.tess`` file or shipped spec, and return its models.

    Raises:
        Diagnostic: the first mistake, in a declaration or in a ``compile`` block (E0701 to E0704, E0012).
    """
    from ..frontends import source
    from ..specs.catalog import find

    modules: list[Module] = source.check(find(name)[0])
    for module in modules:
        if module.compile is not None:
            from ..passes.engine import make

            for step in module.compile.passes:
                make(step)
            _target(module, None, None)
    return modules


def parse_pass(text: str) -> PassSpec:
    """``merge_tokens(r=8, metric=keys)`` as a pass spec. Raises Diagnostic for other text."""
    from ..frontends import source

    spec: PassSpec = source.parse_pass(text)
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

    steps = [parse_pass(p) if isinstance(p, str) else p for p in passes]
    return run_pipeline(module, steps, verify_each=verify_each, after=after)


# Compiling -------------------------------------------------------------------------------------------------------------


def compile(
    module: Module | Model,
    *,
    target: str | None = None,
    weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, Any] | None = None,
    renames: Sequence[tuple[str, str]] | None = None,
    passes: Sequence[str | PassSpec | Pass] | None = None,
    opset: int | None = None,
    seed: int = 0,
    verify: bool = True,
    verify_each: bool = False,
    metadata: Mapping[str, str] | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Compile a module or a model built in Python. What is not given comes from its ``compile`` block, else from the defaults.

    Args:
        target: ``onnx`` (the default), ``torch`` or ``mlir``.
        weights: safetensors files, a folder of them, or arrays by name. Without any, ``seed`` initialises them.
        renames: pairs (pattern of names in the file, name in the model).
        passes: run instead of those of the ``compile`` block; ``[]`` runs none.
        opset: of the ONNX file, 24 by default.
        seed: for initial weights and for the inputs of the comparison.
        verify: compare the artifact with the torch reference at two sizes, before it is written.
        verify_each: check the IR after every pass.
        metadata: strings to put into the file.
        output: also write the artifact there; nothing is left there when anything fails.
        progress: told what goes on.

    Raises:
        Diagnostic: for the program, the passes, the weights, the backend or the place of the output; E0809 when the artifact
            and the reference disagree.
    """
    tell = progress or (lambda stage, done, total: None)
    report = CompileReport()
    clock = _Clock(report, tell)
    if not isinstance(module, Module):
        module = module.module
    spec = module.compile
    target, opset = _target(module, target, opset)
    with clock("running the passes"):
        steps = passes if passes is not None else spec.passes if spec else ()
        module, report.passes = apply_passes(module, list(steps), verify_each=verify_each)
        reference = module
        module, _ = apply_passes(module, CLEANUP, verify_each=verify_each)
    with clock("reading the weights"):
        bound, origin = _weights(reference, weights, renames, seed)
        report.notes += bound.notes()
    facts = {**_metadata(module, target, report.passes, origin, seed), **(metadata or {})}
    with clock(f"building for {target}"):
        from .mlir_target import build_mlir

        build = {"onnx": _build_onnx, "torch": _build_torch, "mlir": build_mlir}[target]
        artifact = build(module, bound, facts, opset, report)
    if output is None and not verify:
        return artifact
    _write_and_verify(artifact, reference, bound, seed if verify else None, output, clock)
    return artifact


def _write_and_verify(
    artifact: Artifact,
    reference: Module,
    bound: Any,
    seed: int | None,
    output: str | os.PathLike[str] | None,
    clock: _Clock,
) -> None:
    """Write the artifact aside, compare what was written (``seed`` None: do not), and only then put it into place."""
    from contextlib import ExitStack

    from ..runtime.files.aside import written_aside

    with ExitStack() as stack:
        aside = stack.enter_context(written_aside(output)) if output is not None else artifact._aside()
        with clock("writing"):
            artifact._write(aside)
        artifact.report.size = sum(p.stat().st_size for p in aside.parent.iterdir())
        if seed is not None:
            with clock("comparing with the reference"):
                _compare(artifact, aside, reference, bound, seed)
    artifact._wrote(aside if output is None else Path(output))


def _compare(artifact: Artifact, path: Path, reference: Module, bound: Any, seed: int) -> None:
    if artifact.target == "onnx":
        _compare_onnx(artifact, path, reference, bound, seed)
    elif artifact.target == "mlir":
        from .mlir_target import compare_mlir

        compare_mlir(artifact, path, reference, bound, seed)
    else:
        _compare_torch(artifact, path, bound)


def _compare_onnx(artifact: Artifact, path: Path, reference: Module, bound: Any, seed: int) -> None:
    """Run the file and the torch reference on the same inputs. Raises E0809 when they differ."""
    from concurrent.futures import ThreadPoolExecutor

    from ..backends import onnx
    from ..backends.onnx.session import Session
    from .verify import verify

    if not onnx.runnable(artifact.module.graph):
        artifact.report.notes.append("not compared with the reference: ONNX Runtime cannot execute this dtype here")
        return
    # torch takes about as long to import as ONNX Runtime to open the file, which does not hold the interpreter.
    with ThreadPoolExecutor(1) as pool:
        importing = pool.submit(import_module, "torch")
        session = Session(path, mapped=True)
        importing.result()
    from ..backends import torch

    found = verify(artifact.module, session, torch.build(reference, bound, claims=False), seed=seed)
    artifact.report.verified = [row.to_dict() for row in found.rows]


def _compare_torch(artifact: Artifact, path: Path, bound: Any) -> None:
    """The torch target is the reference; its file must read back as the same program and weights. Raises E0809."""
    from .artifact import TorchRunner

    runner = artifact._open_runner(path)
    assert isinstance(runner, TorchRunner)
    difference = artifact.module.difference(runner.module) or runner.different_weight(bound)
    if difference:
        raise Diagnostic("E0809", f"the file does not read back as the same program: {difference}")
    artifact._runner = runner
    artifact.report.verified = [
        {"sizes": {}, "output": "program and weights, read back", "error": 0.0, "tolerance": 0.0}
    ]


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


def _target(module: Module, target: str | None, opset: int | None) -> tuple[str, int]:
    spec = module.compile
    span = spec.span if spec is not None else None
    options: dict[str, Any] = {}
    if spec is not None and (target is None or target == spec.target):
        options = spec.target_options
        target = target or spec.target
    target = target or "onnx"
    if target not in TARGETS:
        raise Diagnostic(
            "E0012",
            f"there is no target `{target}`",
            span,
            help=did_you_mean(target, TARGETS) or "the targets are onnx, torch and mlir",
        )
    for name in options:
        if target != "onnx" or name != "opset":
            raise Diagnostic(
                "E0012", f"the target `{target}` has no option `{name}`", span, help="`onnx(opset=24)` has one"
            )
    chosen = opset if opset is not None else options.get("opset", DEFAULT_OPSET)
    if isinstance(chosen, bool) or not isinstance(chosen, int):
        raise Diagnostic("E0012", f"`opset` must be an integer, but is {chosen!r}", span)
    return target, chosen


def _weights(module: Module, weights: Any, renames: Sequence[tuple[str, str]] | None, seed: int) -> tuple[Any, str]:
    """The bound parameters, and in a word where they come from."""
    from ..runtime.weights.bind import bind, initialise, open_weights

    spec = module.compile
    span = None
    if weights is None and spec is not None and spec.weights is not None:
        base = Path(module.path).parent if module.path else Path()
        weights, span = base / spec.weights, spec.span
    if renames is None:
        renames = spec.renames if spec is not None else ()
    if weights is None:
        return initialise(module.graph, seed), f"initialised with seed {seed}"
    if isinstance(weights, Mapping):
        return bind(module.graph, weights), "arrays"
    paths = [weights] if isinstance(weights, (str, os.PathLike)) else list(weights)
    opened = open_weights([Path(p) for p in paths], renames, span=span)
    return bind(module.graph, opened, span=span), ", ".join(Path(p).name for p in paths)


def _metadata(module: Module, target: str, reports: Sequence[Report], origin: str, seed: int) -> dict[str, str]:
    """What a file says about its making: enough to explain it and to make it again."""
    from importlib.metadata import version

    from ..frontends import source

    return {
        "tessera.version": version("tessera"),
        "tessera.model": module.name,
        "tessera.target": target,
        "tessera.weights": origin,
        "tessera.seed": str(seed),
        "tessera.passes": json.dumps([r.to_dict() for r in reports], default=str),
        "tessera.source": source.print_module(module),
    }


def _build_onnx(module: Module, bound: Any, metadata: dict[str, str], opset: int, report: CompileReport) -> Artifact:
    from ..backends import onnx

    metadata["tessera.opset"] = str(opset)
    model = onnx.build(module, bound, opset=opset, metadata=metadata)
    return Artifact(module, "onnx", metadata, report, lambda path: onnx.save(model, path), _open_onnx)


def _build_torch(module: Module, bound: Any, metadata: dict[str, str], opset: int, report: CompileReport) -> Artifact:
    from ..backends.torch.file import write_torch_file

    return Artifact(
        module, "torch", metadata, report, lambda path: write_torch_file(path, metadata, bound), _open_torch
    )


# Opening ---------------------------------------------------------------------------------------------------------------


def open_artifact(path: str | os.PathLike[str]) -> Runner:
    """A saved artifact, ready to run: an ONNX file, the torch target's safetensors file, or a file of MLIR.

    Raises:
        Diagnostic: E0001 no such file, E0014 not an artifact, and what the session finds wrong with it.
    """
    file = Path(path)
    if not os.path.exists(file):
        raise Diagnostic("E0001", f"there is no file `{file}`")
    if file.suffix == ".onnx":
        return _open_onnx(file)
    if file.suffix == ".safetensors":
        return _open_torch(file)
    if file.suffix == ".mlir":
        from .mlir_target import open_mlir

        return open_mlir(file)
    command = f"tessera compile {quote(str(file))} -o {quote(f'{file.stem}.onnx')}"
    hint = f"compile it first: {command}" if file.suffix == ".tess" else None
    raise Diagnostic("E0014", f"`{file}` is no .onnx, .safetensors or .mlir artifact", help=hint)


def _open_onnx(path: Path) -> Runner:
    from ..backends.onnx.session import Session

    return Session(path)


def _open_torch(path: Path) -> Runner:
    from ..backends import torch as backend
    from ..backends.torch.file import SOURCE, read_metadata
    from ..frontends import source
    from ..runtime.weights.bind import bind, open_weights
    from .artifact import TorchRunner

    metadata = read_metadata(path)
    module = source.loads(metadata[SOURCE], f"{path.name}:source")
    bound = bind(module.graph, open_weights(path))
    return TorchRunner(module, backend.build(module, bound), metadata)
