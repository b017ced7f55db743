"""The target triton."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ..target import Readers, Target

if TYPE_CHECKING:
    from ...ir.graph import Module
    from ...runtime.weights.bind import Bound
    from ..torch.runner import TorchRunner

PLAN = "tessera.plan"


@dataclass(frozen=True)
class Triton(Target):
    """A safetensors file that carries its program as source, for GPUs: Triton kernels, and the vendor's matrix products."""

    name = "triton"
    suffix = ".triton"
    needs = "triton"

    def build(self, module: Module, weights: Bound, metadata: Mapping[str, str]) -> tuple[Mapping[str, str], Bound]:
        from .plan import plan_of

        return {**metadata, PLAN: plan_of(module.graph)}, weights

    def write(self, built: tuple[Mapping[str, str], Bound], path: Path) -> None:
        from ..torch.file import write_torch_file

        write_torch_file(path, *built)

    def open(self, path: Path, readers: Readers, *, threads: int | None = None, measured: bool = False) -> TorchRunner:
        from ..torch.file import SOURCE, read_metadata

        metadata = read_metadata(path)
        module = readers.source(metadata[SOURCE], f"{path.name}:source")
        reason = self.unrunnable(module)
        if reason is not None:
            raise Diagnostic(
                "E0830", f"`{path.name}` cannot run here: {reason}",
                help="compile for `--target torch`" if not find_spec("triton")
                else "set TRITON_INTERPRET=1 to run every kernel in Triton's interpreter, slowly; or compile for `--target torch`",
            )  # fmt: skip
        import torch

        from ...runtime.weights.bind import bind
        from ...runtime.weights.open import open_weights
        from ..torch import build
        from ..torch.runner import TorchRunner
        from .claims import claims

        network = build(module, bind(module.graph, open_weights(path)), claims=claims())
        if torch.cuda.is_available():
            network = network.cuda()
        return TorchRunner(module, network, metadata, threads)

    def unrunnable(self, module: Module) -> str | None:
        if not find_spec("triton"):
            return "Triton is not installed (`pip install 'tessera[triton]'`)"
        import torch

        from ...kernels.launch import INTERPRETED

        return None if INTERPRETED or torch.cuda.is_available() else "there is no GPU"

    def facts(self, path: Path) -> dict[str, Any]:
        from ..torch.file import read_metadata

        return {"kind": self.name, "metadata": read_metadata(path), "size": path.stat().st_size}
