"""Which target: by name, by a ``compile`` block, or by what a file is called; and opening what one wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from ..backends.target import Readers, Target, default, make, of_file, registry
from ..ir.diagnostics import Diagnostic

if TYPE_CHECKING:
    from ..ir.compiling import CompileSpec
    from ..ir.graph import Module
    from ..ir.imported import Imported
    from ..runtime.runner import Runner

# The file that makes a folder one of a compiled program.
MANIFEST = "program.json"


def chosen(
    module: Module,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    output: str | os.PathLike[str] | None = None,
) -> Target:
    """The target with its options: the one that is named, else that of the ``compile`` block, of the output, the preferred one.

    Raises:
        Diagnostic: E0012 for a target or an option that there is not, a wrong value, and an output of another target.
    """
    return chosen_by(module.compile, name, options, output)


def chosen_by(
    spec: CompileSpec | None,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    output: str | os.PathLike[str] | None = None,
) -> Target:
    """As :func:`chosen`, by a ``compile`` block alone: what it says is right or wrong whatever its model is."""
    span = spec.span if spec is not None else None
    written = spec.target if spec is not None else None
    by_output = of_file(Path(output)) if output is not None else None
    chosen = name or written or (by_output.name if by_output is not None else default())
    given = {k: v for k, v in (options or {}).items() if v is not None}
    if spec is not None and chosen == written:
        given = {**spec.target_options, **given}
    return make(chosen, given, span)


def costed_by(module: Module) -> Target:
    """The target for which a program is costed: that of its ``compile`` block if there is one, else the preferred one."""
    known = registry()
    written = module.compile.target if module.compile is not None else None
    return known[written if written in known else default()]()


def check_output(target: Target, output: str | os.PathLike[str], several: bool = False) -> None:
    """Refuse early what would fail after minutes of work; ``several`` entry points go into a folder. Raises E0010, E0012."""
    from ..runtime.files.aside import check_folder, check_writable

    path = Path(output)
    if several:
        if not target.programs:
            # E0527 will tell of it; a folder would not help.
            return
        if path.suffix.lower() == ".zip":
            check_writable(output)
            return
        if path.suffix == target.suffix:
            raise Diagnostic(
                "E0012", f"a program of several entry points becomes a folder, but the output is `{output}`",
                help=f"-o {quote(str(path.with_suffix('')))}",
            )  # fmt: skip
        check_folder(output, MANIFEST)
        return
    # What is no ordinary file is told first: no ending helps.
    check_writable(output)
    if path.suffix != target.suffix:
        raise Diagnostic(
            "E0012",
            f"the target {target.name} writes `{target.suffix}` files, but the output is `{output}`",
            help=f"-o {quote(str(path.with_suffix(target.suffix)))}",
        )


def check_called(target: Target, output: str | os.PathLike[str], several: bool = False) -> None:
    """Refuse a name that says of a file what it will not be, so that nobody could open it. Raises E0012."""
    path = Path(output)
    ending = path.suffix.lower()
    if several:
        if ending == target.suffix:
            check_output(target, output, several)
    elif ending == ".zip":
        raise Diagnostic(
            "E0012", f"one model is a `{target.suffix}` file, and `{output}` an archive, which holds a pipeline or a program",
            help=f"call it `{path.with_suffix(target.suffix).name}`",
        )  # fmt: skip
    elif ending != target.suffix and ending in {cls.suffix for cls in registry().values()}:
        check_output(target, output)


def open_artifact(path: str | os.PathLike[str], *, threads: int | None = None, measured: bool = False) -> Runner:
    """A saved artifact of any target, ready to run.

    Args:
        threads: of one operator; None leaves it to what runs it.
        measured: as fast as it can be, whatever memory that takes.

    Raises:
        Diagnostic: E0001 no such file, E0014 not an artifact, and what the target finds wrong with it.
    """
    if os.path.isfile(Path(path, MANIFEST)):
        raise Diagnostic(
            "E0520", f"`{path}` holds a program of several entry points, and one is needed here",
            help="name a file of the folder, where each entry point has its own; `tessera run` takes `--entry NAME`, and Python"
            " `ts.open(path)[\"NAME\"]`",
        )  # fmt: skip
    return artifact_target(path).open(Path(path), READERS, threads=threads, measured=measured)


def artifact_target(path: str | os.PathLike[str]) -> Target:
    """The target that wrote a file, or could have. Raises E0001 no such file, E0014 not an artifact."""
    file = Path(path)
    if not os.path.exists(file):
        raise Diagnostic("E0001", f"there is no file `{file}`")
    from ..runtime.files.pickles import refuse_pickled_model

    refuse_pickled_model(file)
    target = of_file(file)
    if target is None:
        first, *rest = (cls.suffix for cls in registry().values())
        command = f"tessera compile {quote(str(file))} -o {quote(f'{file.stem}{first}')}"
        hint = f"compile it first: {command}" if file.suffix == ".tess" else None
        raise Diagnostic("E0014", f"`{file}` is no {first}{_listed(rest)} artifact", help=hint)
    return target()


def _listed(rest: list[str]) -> str:
    return "".join(f"{' or ' if i == len(rest) - 1 else ', '}{word}" for i, word in enumerate(rest))


def _source(text: str, path: str) -> Module:
    from ..frontends import source

    return source.loads(text, path)


def _torch_mlir(text: str, **how: Any) -> Imported:
    from ..frontends.torch import load_mlir

    return load_mlir(text, **how)


READERS = Readers(_source, _torch_mlir)
