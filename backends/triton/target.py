"""The target triton."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...ir.analysis.cost import ATTENTION
from ...ir.diagnostics import Diagnostic
from ...ir.options import option
from ..target import Readers, Target
from ..torch.target import WEIGHTS
from .binaries import BINARIES, GPUS, parse_gpus, parse_sizes, wrong_gpus, wrong_sizes

if TYPE_CHECKING:
    from ...ir.graph import Module, Node
    from ...runtime.weights.bind import Bound
    from ..torch.file import Tensor
    from ..torch.runner import TorchRunner

Network = TypeVar("Network")
# A program, what is said of it, and its weights.
Built = tuple["Module", Mapping[str, str], "Bound"]
PLAN = "tessera.plan"


@dataclass(frozen=True)
class Triton(Target):
    """A safetensors file that carries its program as source, for GPUs: Triton kernels, and the vendor's matrix products."""

    name = "triton"
    suffix = ".triton"
    needs = "triton"
    programs = True

    binaries: str = option(
        "", f"GPUs that kernels are compiled for ahead of time, among {', '.join(GPUS)}, or `all`", check=wrong_gpus
    )
    at: str = option("", "binaries: the sizes that they are compiled for, as in B=1,T=128", check=wrong_sizes)

    def build(self, module: Module, weights: Bound, metadata: Mapping[str, str]) -> Built:
        from .plan import plan_of

        return module, {**metadata, PLAN: plan_of(module.graph)}, weights

    def write(self, built: Built, path: Path) -> None:
        from ..torch.file import write_torch_file

        module, metadata, weights = built
        write_torch_file(path, *self._with_binaries([module], metadata, weights))

    def _with_binaries(
        self, modules: Sequence[Module], metadata: Mapping[str, str], weights: Bound
    ) -> tuple[Mapping[str, str], Mapping[str, Tensor]]:
        """What is said of an artifact and the tensors in it, with binaries where they are asked for."""
        from .binaries import compiled_ahead

        gpus = parse_gpus(self.binaries)
        if not gpus:
            return metadata, weights
        said, tensors = compiled_ahead(modules, weights, gpus, parse_sizes(self.at))
        return {**metadata, **said}, {**weights, **tensors}

    def open(self, path: Path, readers: Readers, *, threads: int | None = None, measured: bool = False) -> TorchRunner:
        from ..torch.file import SOURCE, read_metadata

        metadata = read_metadata(path)
        module = readers.source(metadata[SOURCE], f"{path.name}:source")
        self._must_run(module, path)
        from ...runtime.weights.bind import bind
        from ...runtime.weights.open import open_weights
        from ..torch.runner import TorchRunner
        from . import build
        from .binaries import offered

        tensors = open_weights(path)
        offered(metadata.get(BINARIES), tensors, path.name)
        network = _placed(build(module, bind(module.graph, tensors)))
        return TorchRunner(module, network, metadata, threads)

    def write_program(self, built: Mapping[str, Built], folder: Path) -> None:
        from ..torch.file import write_torch_file

        plans = {f"{PLAN}.{entry}": metadata[PLAN] for entry, (_, metadata, _) in built.items()}
        # What binds one entry point's weights binds those of all.
        weights = next(iter(built.values()))[2]
        modules = [module for module, _, _ in built.values()]
        write_torch_file(folder / WEIGHTS, *self._with_binaries(modules, plans, weights))

    def open_program(
        self, program: Module, folder: Path, readers: Readers, *, threads: int | None = None
    ) -> dict[str, TorchRunner]:
        self._must_run(program, folder)
        from ...runtime.weights.bind import bind
        from ...runtime.weights.open import open_weights
        from ..torch.file import header_strings
        from ..torch.runner import TorchRunner
        from . import build_program
        from .binaries import offered

        tensors = open_weights(folder / WEIGHTS)
        offered(header_strings(folder / WEIGHTS).get(BINARIES), tensors, folder.name)
        networks = _placed(build_program(program, bind(program.everything(), tensors)))
        return {e: TorchRunner(program.only(e), networks[e], {}, threads) for e in program.functions}

    def _must_run(self, program: Module, path: Path) -> None:
        """Raises E0830."""
        reason = self.unrunnable(program)
        if reason is not None:
            raise Diagnostic(
                "E0830", f"`{path.name}` cannot run here: {reason}",
                help="compile for `--target torch`" if not find_spec("triton")
                else "set TRITON_INTERPRET=1 to run every kernel in Triton's interpreter, slowly; or compile for `--target torch`",
            )  # fmt: skip

    def stores_map(self, node: Node) -> bool:
        from .claims import launched

        return node.op.qualified == ATTENTION and not launched(node)

    def unrunnable(self, module: Module) -> str | None:
        if not find_spec("triton"):
            return "Triton is not installed (`pip install 'tessera[triton]'`)"
        import torch

        from ...kernels.launch import INTERPRETED

        return None if INTERPRETED or torch.cuda.is_available() else "there is no GPU"

    def facts(self, path: Path) -> dict[str, Any]:
        from ..torch.file import read_metadata
        from .binaries import summary

        metadata = read_metadata(path)
        if BINARIES in metadata:
            metadata[BINARIES] = summary(metadata[BINARIES], path.name)
        return {"kind": self.name, "metadata": metadata, "size": path.stat().st_size}


def _placed(network: Network) -> Network:
    """A module, on the GPU where there is one, and its runs recorded there where that is asked for."""
    import torch

    if not torch.cuda.is_available():
        return network
    placed: Network = network.cuda()  # type: ignore[attr-defined]
    if os.environ.get("TESSERA_CUDA_GRAPHS") == "1":
        from .graphs import record_runs

        record_runs(placed)
    return placed
