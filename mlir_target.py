"""The target mlir: a file of torch-dialect text, and the weights and the program's source in a safetensors file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .ir.diagnostics import Diagnostic
from .ir.graph import Module
from .ir.requirements import requirements
from .runtime.artifact import Artifact, CompileReport, TorchRunner

# What of the metadata is worth a comment in front of the text; the rest is in the weights' file.
_SHOWN = ("tessera.version", "tessera.model", "tessera.weights")


def weights_path(path: Path) -> Path:
    """Where the weights of ``vit.mlir`` are: ``vit.safetensors``."""
    return path.with_suffix(".safetensors")


def build_mlir(module: Module, bound: Any, metadata: dict[str, str], opset: int, report: CompileReport) -> Artifact:
    """The artifact; ``opset`` is not used. Raises Diagnostic E0820 and E0803."""
    from .backends import mlir
    from .runtime.torch_file import write_torch_file

    text = mlir.build(module, metadata={key: metadata[key] for key in _SHOWN if key in metadata})

    def write(path: Path) -> None:
        path.write_text(text, "utf-8")
        write_torch_file(weights_path(path), metadata, bound)

    return Artifact(module, "mlir", metadata, report, write, open_mlir)


class MlirRunner(TorchRunner):
    """What a file of MLIR computes, run by PyTorch: the text is read back by torch-mlir and imported."""

    @property
    def selects(self) -> bool:
        """Whether rounding could make it select other tokens than the reference."""
        return any(n.op.name in ("topk", "sort", "gt", "lt", "ge", "le") for n in self.module.graph.nodes())

    def holds(self, sizes: dict[str, int]) -> bool:
        """Whether these sizes are ones that it takes."""
        values = self.module.graph.sizes(sizes)
        return all(r.holds(values) for r in requirements(self.module.graph))


def open_mlir(path: Path) -> MlirRunner:
    """A saved file, ready to run.

    Raises:
        Diagnostic: E0001 without the weights' file, E0785 without torch-mlir, E0784 for a text that is none.
    """
    from .backends import mlir
    from .backends import torch as backend
    from .frontends import source
    from .frontends.torch import load_mlir
    from .runtime.torch_file import SOURCE, read_metadata
    from .runtime.weights import bind, open_weights

    beside = weights_path(path)
    metadata = read_metadata(beside)
    program = source.loads(metadata[SOURCE], f"{beside.name}:source")
    bound = bind(program.graph, open_weights(beside))
    names = mlir.argument_names(program)
    found = load_mlir(path.read_text("utf-8"), name=program.name, names=names, weights=dict(bound)).module
    if len(found.graph.inputs) != len(program.graph.inputs) or len(found.graph.outputs) != len(program.graph.outputs):
        raise Diagnostic("E0014", f"`{path.name}` and `{beside.name}` are not of one program")
    for value, original in zip(found.graph.inputs, program.graph.inputs, strict=True):
        value.name, value.role, value.init = original.name, original.role, original.init
    found.graph.set_outputs(found.graph.outputs, program.graph.output_info)
    return MlirRunner(found, backend.build(found, {n: bound[n] for n in found.graph.params}), metadata)


def compare_mlir(artifact: Artifact, path: Path, reference: Module, bound: Any, seed: int) -> None:
    """Read the file back and compare it with the torch reference; without torch-mlir only a note says so. Raises E0809."""
    from importlib.util import find_spec

    from .backends import mlir, torch
    from .runtime.verify import verify

    if find_spec("torch_mlir") is None:
        artifact.report.notes.append("not compared with the reference: torch-mlir is not installed")
        return
    mlir.check(path.read_text("utf-8"))
    runner = open_mlir(path)
    found = verify(artifact.module, runner, torch.build(reference, bound, claims=False), seed=seed)
    artifact._runner = runner
    artifact.report.verified = [row.to_dict() for row in found.rows]
