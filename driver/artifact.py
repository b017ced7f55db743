"""Saved artifacts, ready to run: whatever the target, arrays by name go in and arrays by name come out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.files.aside import Scratch, written_aside
from ..runtime.runner import by_name
from .targets import READERS, check_called

if TYPE_CHECKING:
    import numpy as np

    from ..backends.target import Target
    from ..ir.graph import Module
    from ..passes.report import Report
    from ..runtime.inputs import InputSpec
    from ..runtime.runner import Runner
    from ..runtime.states import Carrying


@dataclass
class CompileReport:
    """What ``compile`` did.

    Args:
        passes: the reports of the passes, in order.
        verified: how the artifact compares with the reference at each size: rows with ``sizes``, ``output``, ``error``.
        notes: what a user should know, such as tensors of the weights file that the model does not use.
        seconds: time by stage.
        size: bytes of the artifact's files; 0 before there are any.
    """

    passes: list[Report] = field(default_factory=list)
    verified: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    size: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "passes": [r.to_dict() for r in self.passes],
            "verified": self.verified,
            "notes": self.notes,
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "size": self.size,
        }

    def __str__(self) -> str:
        lines = [str(report) for report in self.passes]
        lines += [f"note: {note}" for note in self.notes]
        errors: dict[str, float] = {}
        for row in self.verified:
            sizes = ", ".join(f"{k} = {v}" for k, v in row["sizes"].items())
            errors[sizes] = max(errors.get(sizes, 0.0), row["error"])
        for sizes, error in errors.items():
            lines.append(f"verified{f' at {sizes}' if sizes else ''}: largest relative difference {error:.2g}")
        return "\n".join(lines)


class Artifact:
    """A compiled model: call it with NumPy arrays, or save it.

        outputs = artifact(image=x)          # {"output": array}
        artifact.save("vit.onnx")

    Attributes:
        module: the program after all passes.
        target: the name of its target.
        suffix: the ending of its files.
        report: what compiling did.
        metadata: what is written into the file about its making.
    """

    def __init__(
        self, module: Module, target: Target, built: Any, metadata: Mapping[str, str], report: CompileReport
    ) -> None:
        self.module = module
        self.target = target.name
        self.suffix = target.suffix
        self.metadata = dict(metadata)
        self.report = report
        self._target = target
        self._built = built
        self._runner: Runner | None = None
        self._folder: Scratch | None = None
        self._file: tuple[Path, tuple[int, ...]] | None = None

    @property
    def runner(self) -> Runner:
        """What runs it, opened at first use: the file that was written, or a temporary one where that is gone or another."""
        if self._runner is None:
            if self._file is None or _identity(self._file[0]) != self._file[1]:
                path = self._aside()
                self._write(path)
                self._wrote(path)
            assert self._file is not None
            self._runner = self._target.open(self._file[0], READERS)
        return self._runner

    def _aside(self) -> Path:
        """Where it is written when nobody says where: in a folder that goes with it."""
        self._folder = Scratch()
        return Path(self._folder.name, f"{self.module.name}{self.suffix}")

    def _write(self, path: Path) -> None:
        self._target.write(self._built, path)

    def _wrote(self, path: Path) -> None:
        self._file = path, _identity(path)

    @property
    def inputs(self) -> list[InputSpec]:
        """Names, dtypes and shapes of what it takes; behind what a call must give, states and random inputs (their ``role``)."""
        return [*self.runner.inputs, *self.runner.optional]

    def __call__(
        self, *args: Any, seed: int = 0, sizes: Mapping[str, int] | None = None, **inputs: Any
    ) -> dict[str, np.ndarray]:
        """Run it: arrays by input name, or in the order of the inputs, or one mapping of names to arrays.

        Args:
            seed: for the model's random inputs, where they are not given.
            sizes: those that no input tells, such as the capacity of states that are not given.

        Raises:
            Diagnostic: E09xx for what does not fit.
        """
        return self.runner(by_name(self.runner, args, inputs), seed=seed, sizes=sizes)

    def session(
        self, *, sizes: Mapping[str, int] | None = None, states: Mapping[str, Any] | None = None, seed: int = 0
    ) -> Carrying:
        """A run that carries the states from call to call, without copying them: see :class:`~tessera.runtime.states.Carrying`.

        Args:
            sizes: those that no input tells, such as a cache's capacity: ``artifact.session(sizes={"C": 4096})``.
            states: first values by name (``cache.k``); they are copied.
            seed: for random inputs and initialisers.
        """
        return self.runner.carrying(states=states, sizes=sizes, seed=seed)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file (and, past 2 GB of weights, its data file beside it) aside, then rename it.

        Raises:
            Diagnostic: E0010 when it cannot be written; an earlier file is then as it was. E0012 for the name of another kind
                of file.
        """
        check_called(self._target, path)
        with written_aside(path) as aside:
            self._write(aside)
        return Path(path)

    def __repr__(self) -> str:
        return f"<{self.target} artifact of {self.module.name}>"


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is written anew; nothing when there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
