"""Compiling and opening programs of several entry points: a folder with one set of weights and a ``program.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.target import find, registry
from ..ir.diagnostics import Diagnostic, did_you_mean
from ..runtime.files.aside import Scratch, folder_aside, written_aside
from ..runtime.program import Entry, Host, Opened, ProgramRunner
from .artifact import Artifact, CompileReport
from .bundles import SUFFIX, check_files, is_bundle, pack, read_manifest, unpacked, write_manifest
from .targets import MANIFEST, READERS, check_called, open_artifact

if TYPE_CHECKING:
    import numpy as np

    from ..backends.target import Target
    from ..ir.graph import Module
    from ..ir.program import Program
    from ..runtime.runner import Runner
    from ..runtime.sessions import ProgramSession
    from ..runtime.weights.bind import Bound


def open_any(path: str | os.PathLike[str], *, threads: int | None = None) -> Opened | ProgramRunner:
    """A saved artifact, ready to run: what :func:`tessera.driver.targets.open_artifact` opens, or the folder of a program.

    Args:
        threads: of one operator; None leaves it to what runs it.

    Raises:
        Diagnostic: E0001 no such file, E0014 not an artifact, and what the target finds wrong with it.
    """
    if is_bundle(path) or os.path.isfile(Path(path, MANIFEST)):
        return open_program(path, threads=threads)
    return Opened(open_artifact(path, threads=threads))


def open_program(path: str | os.PathLike[str], *, threads: int | None = None) -> ProgramRunner:
    """The folder of a compiled program, or its archive, ready to run. Nothing that it names is imported.

    Raises:
        Diagnostic: E0014 for a folder that is none, E0528 for files that are not those that were compiled, and what the target
            finds wrong with them.
    """
    held = unpacked(Path(path)) if is_bundle(path) else None
    folder = Path(held.name) if held is not None else Path(path)
    metadata, files = read_manifest(folder)
    if files is not None:
        check_files(folder, files, os.fspath(path))
    try:
        source, name = metadata["tessera.source"], metadata["tessera.target"]
    except KeyError as error:
        raise Diagnostic(
            "E0014", f"`{folder / MANIFEST}` does not say `{error.args[0]}`, so that it is none of Tessera's"
        ) from None
    if not find(name).programs:
        raise Diagnostic("E0014", f"`{folder}` is no folder of a compiled program: the target {name} writes none")
    target = find(name)()
    program = _read(source, folder)
    runners = target.open_program(program, folder, READERS, threads=threads)
    for entry, runner in runners.items():
        _check_entry(program.only(entry), runner, folder, entry)
    return ProgramRunner(program, runners, metadata, held)


def _read(source: str, folder: Path) -> Program:
    """The program of a folder, whose tokenizers have their files there."""
    from ..frontends.source import loads

    # A name in the folder: files are looked for beside it.
    return loads(source, str(folder / "source.tess"), root=folder)


def _check_entry(alone: Program, runner: Runner, folder: Path, entry: str) -> None:
    """Raises E0014 where the file of an entry point, if it carries its source, is of another one."""
    from ..frontends.source import print_module

    source = runner.metadata.get("tessera.source")
    if source is None or source == print_module(alone):
        return
    difference = alone.difference(READERS.source(source, f"{folder.name}/{entry}:source"))
    if difference:
        raise Diagnostic(
            "E0014", f"the file of the entry point `{entry}` in `{folder}` is that of another program: {difference}",
            help="compile the program again: the files of a folder belong together",
        )  # fmt: skip


def open_part(
    path: str | os.PathLike[str], entry: str | None = None, flow: str | None = None, allow_host: bool = False,
    batch: int | None = None,
) -> Runner:  # fmt: skip
    """An artifact of one model, or one entry point or flow of a program's folder.

    Raises:
        Diagnostic: E0520 when a program's part is not named, E0521 when there is none of that name, E0014 for a name of an
            artifact that has no parts.
    """
    if not is_bundle(path) and not os.path.isfile(Path(path, MANIFEST)):
        if entry is not None or flow is not None:
            raise Diagnostic(
                "E0014", f"`{path}` is no folder of a compiled program, so that it has no `{entry or flow}`"
            )
        _refuse_batches(path, batch)
        return open_artifact(path)
    program = open_program(path)
    if flow is None and entry is None and program.program.whole is not None:
        flow = program.program.name
    if flow is not None:
        return program.flow(flow, allow_host, batch)
    _refuse_batches(path, batch)
    names = program.entries
    if entry is None and len(names) > 1:
        raise Diagnostic(
            "E0520", f"`{path}` has the entry points {', '.join(names)}", help=f"choose one: --entry {names[0]}",
        )  # fmt: skip
    return program[entry or names[0]].runner


def _refuse_batches(path: str | os.PathLike[str], batch: int | None) -> None:
    if batch is not None:
        raise Diagnostic("E0014", f"`{path}` has no flow to run, and only that takes texts in batches")


def _writing_several() -> list[str]:
    return [f"`--target {name}`" for name, cls in registry().items() if cls.programs]


def refuse(program: Program, target: Target) -> None:
    """Raise E0527 for a target that writes one entry point, E08xx for an entry point that it cannot express."""
    if not target.programs:
        raise Diagnostic(
            "E0527", f"the target {target.name} writes one entry point, and `{program.name}` has {', '.join(program.functions)}",
            help=f"a target that writes several: {', '.join(_writing_several())}; or, in Python, one entry point:"
            " `ts.compile(program.only(\"NAME\"))`",
        )  # fmt: skip
    for entry in program.functions:
        problem = target.refuses(program.only(entry))
        if problem is not None:
            raise problem


@contextmanager
def folder_of(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which becomes the one at ``path``, or the archive there where that is a `.zip`. Raises E0010."""
    if Path(path).suffix.lower() != SUFFIX:
        with folder_aside(path, MANIFEST) as aside:
            yield aside
        return
    with Scratch() as folder, written_aside(path) as archive:
        yield Path(folder)
        pack(Path(folder), archive)


def save_program(
    artifact: ProgramArtifact, reference: Program, bound: Bound, seed: int | None, sizes: Mapping[str, int] | None,
    output: str | os.PathLike[str] | None, clock: Callable[[str], AbstractContextManager[None]],
    continues: Callable[[ProgramRunner], list[str]], gates: Callable[[ProgramRunner], dict[str, float]],
) -> None:  # fmt: skip
    """Write the folder of a program aside, compare it (``seed`` None: do not), measure it, and only then put it into place."""
    if output is None and seed is None and reference.measures is None:
        return
    with ExitStack() as stack:
        folder = stack.enter_context(folder_of(output)) if output is not None else Path(stack.enter_context(Scratch()))
        with clock("writing"):
            artifact._write(folder)
        artifact.report.size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        opened = None
        if seed is not None:
            with clock("comparing with the reference"):
                opened = artifact.verify(folder, reference, bound, seed, sizes)
                artifact.report.notes += continues(opened)
        if reference.measures is not None:
            with clock("measuring"):
                found = gates(opened or open_program(folder))
            artifact.report.notes += [f"`{name}` is {value:.6g}" for name, value in found.items()]
            artifact.metadata["tessera.metrics"] = json.dumps(found)
            artifact._tell(folder)


class ProgramArtifact(Artifact):
    """A compiled program: its entry points, over one set of weights.

    chat = ts.compile(ts.load("chat.tess"))
    chat.prefill(ids=ids)["output"]
    chat.save("chat")                     # a folder
    """

    def __init__(
        self,
        program: Module,
        target: Target,
        built: Mapping[str, Any],
        metadata: Mapping[str, str],
        report: CompileReport,
        tables: Mapping[str, bytes],
    ) -> None:
        super().__init__(program, target, built, metadata, report)
        self.suffix = ""
        self._tables = tables
        self._opened: ProgramRunner | None = None

    @property
    def program(self) -> ProgramRunner:
        """What runs it, opened from a temporary folder at first use."""
        if self._opened is None:
            self._folder = Scratch()
            folder = Path(self._folder.name)
            self._write(folder)
            self._opened = open_program(folder)
            # Tokenizers are read from there when they are first called, however long this artifact lives.
            self._opened.held = self._folder
        return self._opened

    @property
    def runner(self) -> Runner:
        """Of one entry point, ``artifact["prefill"].runner``; the whole has none. Raises E0520."""
        self.module.graph  # noqa: B018  # raises where there are several
        return self.program[next(iter(self.module.functions))].runner

    @property
    def entries(self) -> list[str]:
        """The names of the entry points."""
        return list(self.module.functions)

    def __getitem__(self, name: str) -> Entry:
        """An entry point by name. Raises E0521 when there is none."""
        return self.program[name]

    def __getattr__(self, name: str) -> Entry:
        if name.startswith("_") or name not in self.module.functions:
            raise AttributeError(f"the program has no entry point `{name}`")
        return self[name]

    def run(
        self, flow: str, arrays: Mapping[str, Any], *, host: Mapping[str, Host] | None = None, allow_host: bool = False,
        seed: int = 0, sizes: Mapping[str, int] | None = None,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """The outputs of a flow; see :meth:`tessera.runtime.program.ProgramRunner.run`."""
        return self.program.run(flow, arrays, host=host, allow_host=allow_host, seed=seed, sizes=sizes)

    def session(  # type: ignore[override]
        self, *, sizes: Mapping[str, int] | None = None, states: Mapping[str, Any] | None = None, seed: int = 0
    ) -> ProgramSession:
        """The entry points on one set of states; see :class:`tessera.runtime.sessions.ProgramSession`."""
        return self.program.session(sizes=sizes, states=states, seed=seed)

    def _write(self, path: Path) -> None:
        self._target.write_program(self._built, path)
        for place, data in self._tables.items():
            path.joinpath(place).parent.mkdir(exist_ok=True)
            path.joinpath(place).write_bytes(data)
        self._tell(path)

    def _tell(self, path: Path) -> None:
        """Write the manifest of a folder that has all else."""
        files = {entry: f"{entry}{self._target.suffix}" for entry in self.entries}
        found = {entry: file for entry, file in files.items() if path.joinpath(file).is_file()}
        write_manifest(path, self.metadata, self.module, found)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the folder, or the archive that a `.zip` is, aside, then rename it. Raises E0010 when something else is there,
        E0012 for the name of a model's file."""
        check_called(self._target, path, several=True)
        with folder_of(path) as aside:
            self._write(aside)
        return Path(path)

    def __call__(self, *args: Any, **inputs: Any) -> dict[str, np.ndarray]:
        """Run a pipeline, as :class:`tessera.runtime.program.ProgramRunner` does; or the one entry point of another program."""
        if self.module.whole is not None:
            return self.program(*args, **inputs)
        return super().__call__(*args, **inputs)

    def verify(
        self, folder: Path, reference: Program, bound: Bound, seed: int, sizes: Mapping[str, int] | None = None
    ) -> ProgramRunner:
        """Compare every entry point of what was written with the torch reference, and give what was opened.

        Args:
            sizes: what the comparison keeps to, by symbol, in every entry point that has it.

        Raises:
            Diagnostic: E0809 where they differ; E0935 for a size that no entry point has.
        """
        from .mapped import mapped
        from .verify import compared

        opened = open_program(folder)
        difference = self.module.difference(opened.program)
        if difference:
            raise Diagnostic("E0809", f"the folder does not read back as the same program: {difference}")
        known = {entry: self.module.only(entry).graph.symbols() for entry in self.entries}
        for name in sizes or {}:
            if all(name not in symbols for symbols in known.values()):
                every = sorted(set().union(*known.values()))
                help = did_you_mean(name, every) or f"their sizes are {', '.join(every)}"
                raise Diagnostic("E0935", f"no entry point has a size `{name}`", help=help)
        held = bound
        for entry in self.entries:
            held = self._target.held(self.module.only(entry), held)
        with mapped(held, folder) as values:
            for entry in self.entries:
                given = {name: size for name, size in (sizes or {}).items() if name in known[entry]}
                alone, part, runner = self.module.only(entry), reference.only(entry), opened[entry].runner
                compare = partial(compared, alone, reference=part, values=values, seed=seed, sizes=given)
                found = self._target.judge(lambda runner=runner: runner, alone, bound, compare)  # type: ignore[misc]
                self.report.verified += [{"entry": entry, **row} for row in found.rows]
                self.report.notes += [f"`{entry}`: {note}" for note in found.notes]
        return opened
