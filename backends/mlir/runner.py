"""Running what a file of MLIR computes."""

from __future__ import annotations

from pathlib import Path

from ...ir.op import Trait, has
from ..target import Readers
from ..torch import build
from ..torch.runner import TorchRunner
from .file import has_program, read, read_text


class MlirRunner(TorchRunner):
    """What a file of MLIR computes, run by PyTorch: the text is read back by torch-mlir and imported."""

    @property
    def selects(self) -> bool:
        """As it is; in the text a selection may be comparisons."""
        return any(has(n, Trait.SELECTS) or has(n, Trait.COMPARES) for n in self.module.graph.nodes())


def open_text(path: Path, readers: Readers, threads: int | None) -> MlirRunner:
    """A file of MLIR, ready to run: one that Tessera wrote, or one that has its weights in it.

    Raises:
        Diagnostic: what :func:`has_program` and :func:`read` raise, and what the importer finds wrong.
    """
    if has_program(path):
        module, bound, metadata = read(path, readers)
        return MlirRunner(module, build(module, bound), metadata, threads)
    found = readers.torch_mlir(read_text(path))
    return MlirRunner(found.module, build(found.module, found.weights), {}, threads)
