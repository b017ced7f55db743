"""The target mlir."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.analysis.cost import ATTENTION
from ...ir.diagnostics import Diagnostic
from ..target import Checked, Compare, Readers, Target

if TYPE_CHECKING:
    from ...ir.graph import Module, Node
    from ...runtime.weights.bind import Bound
    from .file import Text
    from .runner import MlirRunner


@dataclass(frozen=True)
class Mlir(Target):
    """A text of MLIR's torch dialect, with the weights in a safetensors file beside it."""

    name = "mlir"
    suffix = ".mlir"
    needs = "torch-mlir"

    def refuses(self, module: Module) -> Diagnostic | None:
        from .assemble import plan

        return plan().refused(module.graph)

    def stores_map(self, node: Node) -> bool:
        from .claims import more_than_attention

        return node.op.qualified == ATTENTION and more_than_attention(node)

    def build(self, module: Module, weights: Bound, metadata: Mapping[str, str]) -> Text:
        from .file import text_of

        return text_of(module, weights, metadata)

    def write(self, built: Text, path: Path) -> None:
        from .file import write

        write(built, path)

    def open(self, path: Path, readers: Readers, *, threads: int | None = None, measured: bool = False) -> MlirRunner:
        from .runner import open_text

        return open_text(path, readers, threads)

    def unrunnable(self, module: Module) -> str | None:
        return None if find_spec("torch_mlir") else "torch-mlir is not installed"

    def check(self, path: Path, module: Module, weights: Bound, readers: Readers, compare: Compare) -> Checked:
        from . import check

        if self.unrunnable(module) is None:
            check(path.read_text("utf-8"))
        return super().check(path, module, weights, readers, compare)
