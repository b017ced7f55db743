"""The target torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ..target import Checked, Compare, Readers, Target

if TYPE_CHECKING:
    from ...ir.graph import Module
    from ...runtime.runner import Runner
    from ...runtime.weights.bind import Bound
    from .runner import TorchRunner

# The file of a program's folder that holds the weights of all its entry points.
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Torch(Target):
    """A safetensors file that carries its program as source, for the reference implementation in PyTorch."""

    name = "torch"
    suffix = ".safetensors"
    programs = True

    def build(self, module: Module, weights: Bound, metadata: Mapping[str, str]) -> tuple[Mapping[str, str], Bound]:
        return metadata, weights

    def write(self, built: tuple[Mapping[str, str], Bound], path: Path) -> None:
        from .file import write_torch_file

        write_torch_file(path, *built)

    def open(self, path: Path, readers: Readers, *, threads: int | None = None, measured: bool = False) -> TorchRunner:
        from ...runtime.weights.bind import bind
        from ...runtime.weights.open import open_weights
        from . import build
        from .file import SOURCE, read_metadata
        from .runner import TorchRunner

        metadata = read_metadata(path)
        module = readers.source(metadata[SOURCE], f"{path.name}:source")
        network = build(module, bind(module.graph, open_weights(path)))
        return TorchRunner(module, network, metadata, threads)

    def write_program(self, built: Mapping[str, tuple[Mapping[str, str], Bound]], folder: Path) -> None:
        from .file import write_torch_file

        # What binds one entry point's weights binds those of all.
        weights = next(iter(built.values()))[1]
        write_torch_file(folder / WEIGHTS, {}, weights)

    def open_program(
        self, program: Module, folder: Path, readers: Readers, *, threads: int | None = None
    ) -> dict[str, TorchRunner]:
        from ...runtime.weights.bind import bind
        from ...runtime.weights.open import open_weights
        from . import build_program
        from .runner import TorchRunner

        networks = build_program(program, bind(program.everything(), open_weights(folder / WEIGHTS)))
        return {e: TorchRunner(program.only(e), networks[e], {}, threads) for e in program.functions}

    def judge(self, opened: Callable[[], Runner], module: Module, weights: Bound, compare: Compare) -> Checked:
        """It is the reference itself: what was written must read back as the same program and weights."""
        from .runner import TorchRunner

        runner = opened()
        assert isinstance(runner, TorchRunner)
        difference = module.difference(runner.module) or runner.different_weight(weights)
        if difference:
            raise Diagnostic("E0809", f"the file does not read back as the same program: {difference}")
        row = {"sizes": {}, "output": "program and weights, read back", "error": 0.0, "tolerance": 0.0}
        return Checked([row], runner=runner)

    def facts(self, path: Path) -> dict[str, Any]:
        from .file import read_metadata

        return {"kind": self.name, "metadata": read_metadata(path), "size": path.stat().st_size}
