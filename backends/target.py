"""What a target is, and which there are.

A target is a frozen dataclass. Its fields are its options, under the same names in a ``compile`` block, on the command line and
in Python; it lives in ``target.py`` of a folder beside this file, or in another package that registers it under the entry point
group ``tessera.targets``:

    @dataclass(frozen=True)
    class Dump(Target):
        '''The program as text.'''
        name = "dump"
        suffix = ".dump"
        width: int = option(80, "Columns of a line", least=20)
        def build(self, module, weights, metadata): return metadata["tessera.source"]
        def write(self, built, path): path.write_text(built, "utf-8")
        def open(self, path, readers, *, threads=None, measured=False): ...
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, ClassVar

from ..ir.analysis.cost import stores_map
from ..ir.diagnostics import Diagnostic, Span, did_you_mean
from ..ir.options import Mistakes, check_values

if TYPE_CHECKING:
    from ..ir.graph import Module, Node
    from ..ir.imported import Imported
    from ..runtime.runner import Runner
    from ..runtime.weights.bind import Bound

ENTRY_POINTS = "tessera.targets"


@dataclasses.dataclass(frozen=True)
class Readers:
    """How what a file holds becomes a program again. The driver brings them: no backend knows a frontend.

    Args:
        source: text in the language, and the name of the place where it stands.
        torch_mlir: text of the torch dialect, by ``name``, ``names`` and ``weights`` as the importer takes them.
    """

    source: Callable[[str, str], Module]
    torch_mlir: Callable[..., Imported]


@dataclasses.dataclass(frozen=True)
class Checked:
    """How what was written compares with the reference: rows with ``sizes``, ``output``, ``error``, ``tolerance``.

    Args:
        notes: why nothing was compared.
        runner: what was opened for it, where it is good for more than that.
    """

    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    runner: Runner | None = None


# Runs a runner next to the reference.
Compare = Callable[["Runner"], Checked]


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a compiled program goes.

    Attributes:
        name: in ``compile`` blocks and on the command line.
        suffix: of its files; it also says which target opens a file, or writes one whose name is given alone.
        preferred: whether it is taken when nobody names one.
        needs: what must be installed besides Tessera to check and run what it writes.
        programs: whether it writes several entry points over one set of weights.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    preferred: ClassVar[bool] = False
    needs: ClassVar[str] = ""
    programs: ClassVar[bool] = False

    def refuses(self, module: Module) -> Diagnostic | None:
        """What of the program it cannot express, with the source line; asked before anything is built."""
        return None

    def build(self, module: Module, weights: Bound, metadata: Mapping[str, str]) -> Any:
        """What :meth:`write` writes. No weight is read before that.

        Raises:
            Diagnostic: for a program that only building shows to be none for this target.
        """
        raise NotImplementedError

    def held(self, module: Module, weights: Bound) -> Bound:
        """The weights that an artifact computes with, and is compared with: the program's, or what it rounds them to."""
        return weights

    def write(self, built: Any, path: Path) -> None:
        """Write the file, and what belongs to it beside it. The caller has it written aside, and renames it when it is whole."""
        raise NotImplementedError

    def open(self, path: Path, readers: Readers, *, threads: int | None = None, measured: bool = False) -> Runner:
        """A file, ready to run.

        Args:
            threads: of one operator; None leaves it to what runs it.
            measured: as fast as it can be, whatever memory that takes.

        Raises:
            Diagnostic: what is wrong with the file.
        """
        raise NotImplementedError

    def write_program(self, built: Mapping[str, Any], folder: Path) -> None:
        """Write what :meth:`build` made of each entry point into a folder, and the weights once. Only where ``programs``."""
        raise NotImplementedError

    def open_program(
        self, program: Module, folder: Path, readers: Readers, *, threads: int | None = None
    ) -> Mapping[str, Runner]:
        """Every entry point that :meth:`write_program` wrote, ready to run. Only where ``programs``."""
        raise NotImplementedError

    def stores_map(self, node: Node) -> bool:
        """Whether an attention writes its map to memory here, for what a program costs."""
        return stores_map(node)

    def unrunnable(self, module: Module) -> str | None:
        """Why a program cannot be run here once it is written; None when it can."""
        return None

    def check(self, path: Path, module: Module, weights: Bound, readers: Readers, compare: Compare) -> Checked:
        """Open what was written and compare it with the reference, before anybody relies on it. Raises E0809."""
        return self.judge(lambda: self.open(path, readers), module, weights, compare)

    def judge(self, opened: Callable[[], Runner], module: Module, weights: Bound, compare: Compare) -> Checked:
        """Compare what was opened with the reference: a file, or one entry point of a program's folder. Raises E0809."""
        reason = self.unrunnable(module)
        if reason is not None:
            return Checked(notes=[f"not compared with the reference: {reason}"])
        return compare(opened())

    def facts(self, path: Path) -> dict[str, Any] | None:
        """What a file says of itself: ``kind``, ``size``, ``metadata`` and more. None: it is explained as a model.

        Raises:
            Diagnostic: E0014 for a file that is none of this target's.
        """
        return None

    def bounds(self, path: Path) -> dict[str, int]:
        """Of a file without a program: what the integers of its inputs must stay below, where they index a table."""
        return {}

    @classmethod
    def summary(cls) -> str:
        """The first sentence of the docstring."""
        return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


@cache
def _shipped() -> dict[str, type[Target]]:
    """The targets of the folders beside this file by name, the preferred one first."""
    package = __name__.rpartition(".")[0]
    found: list[type[Target]] = []
    for info in iter_modules(import_module(package).__path__, f"{package}."):
        if info.ispkg and find_spec(f"{info.name}.target") is not None:
            module = import_module(f"{info.name}.target")
            found += [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    return _sorted(value for value in found if issubclass(value, Target))


@cache
def registry() -> dict[str, type[Target]]:
    """Every known target by name, the preferred one first: those of installed entry points, and the shipped ones, whose names
    nobody can take."""
    from importlib.metadata import entry_points

    found = {value.name: value for value in (point.load() for point in entry_points(group=ENTRY_POINTS))}
    return _sorted({**found, **_shipped()}.values())


def _sorted(targets: Iterable[type[Target]]) -> dict[str, type[Target]]:
    return {value.name: value for value in sorted(targets, key=lambda t: (not t.preferred, t.name))}


def default() -> str:
    """The name of the target that is taken when nobody names one."""
    return next(iter(_shipped()))


def find(name: str, span: Span | None = None) -> type[Target]:
    """The target of that name. Raises E0012 when there is none."""
    # Other packages are looked at only for what is not here: finding out what is installed takes long.
    known = _shipped() if name in _shipped() else registry()
    if name not in known:
        *names, last = known
        listed = f"the targets are {', '.join(names)} and {last}"
        raise Diagnostic("E0012", f"there is no target `{name}`", span, help=did_you_mean(name, known) or listed)
    return known[name]


def make(name: str, options: Mapping[str, Any], span: Span | None = None) -> Target:
    """The target of that name with these options. Raises E0012 for one that there is not, and for wrong options."""
    cls = find(name, span)
    return cls(**check_values(cls, f"the target `{name}`", options, span, Mistakes("E0012", "E0012", "E0012")))


def of_file(path: Path) -> type[Target] | None:
    """The target that writes files of this name, None when none does."""
    return next((cls for cls in registry().values() if cls.suffix == path.suffix.lower()), None)
