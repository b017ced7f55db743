"""The target mlir: a file of torch-dialect text, and the weights and the program's source in a safetensors file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..ir.diagnostics import Diagnostic
from ..ir.graph import Module
from ..ir.requirements import requirements
from .artifact import Artifact, CompileReport, TorchRunner

# What of the metadata is worth a comment in front of the text; the rest is in the weights' file.
_SHOWN = ("tessera.version", "tessera.model", "tessera.weights")
# What a text begins with that has its weights beside it.
_HEAD = b"// tessera."


def weights_path(path: Path) -> Path:
    """Where the weights of ``vit.mlir`` are: ``vit.safetensors``."""
    return path.with_suffix(".safetensors")


def build_mlir(module: Module, bound: Any, metadata: dict[str, str], opset: int, report: CompileReport) -> Artifact:
    """The artifact; ``opset`` is not used. Raises Diagnostic E0820 and E0803."""
    from ..backends import mlir
    from ..backends.torch.file import write_torch_file

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


def has_program(path: Path) -> bool:
    """Whether Tessera wrote a file of MLIR, and says beside it what its arguments are.

    Raises:
        Diagnostic: E0001 when the file says so, but there is none beside it.
    """
    from ..backends.torch.file import SOURCE, read_metadata

    beside = weights_path(path)
    if beside.is_file():
        return SOURCE in read_metadata(beside)
    with open(path, "rb") as file:
        if file.read(len(_HEAD)) == _HEAD:
            raise Diagnostic(
                "E0001",
                f"there is no file `{beside}`",
                help=f"it was written with `{path.name}`, and holds its weights",
            )
    return False


def read_mlir(path: Path) -> tuple[Module, dict[str, Any], dict[str, str]]:
    """A file that `build_mlir` wrote, and the weights beside it: the program of the text, its parameters, the metadata.

    Raises:
        Diagnostic: E0001 without the weights' file, E0014 when the two do not belong together, E0785 without torch-mlir,
            E0784 for a text that is none.
    """
    from ..backends import mlir
    from ..backends.torch.file import SOURCE, read_metadata
    from ..frontends import source
    from ..frontends.torch import load_mlir
    from ..runtime.weights.bind import bind, open_weights

    beside = weights_path(path)
    metadata = read_metadata(beside)
    program = source.loads(metadata[SOURCE], f"{beside.name}:source")
    bound = bind(program.graph, open_weights(beside))
    names = mlir.argument_names(program)
    found = load_mlir(read_text(path), name=program.name, names=names, weights=dict(bound)).module
    inputs = [[v.name for v in graph.inputs] for graph in (found.graph, program.graph)]
    if inputs[0] != inputs[1] or len(found.graph.outputs) != len(program.graph.outputs):
        raise Diagnostic("E0014", f"`{path.name}` and `{beside.name}` are not of one program")
    for value, original in zip(found.graph.inputs, program.graph.inputs, strict=True):
        value.role, value.init = original.role, original.init
    found.graph.set_outputs(found.graph.outputs, program.graph.output_info)
    return found, {n: bound[n] for n in found.graph.params}, metadata


def read_text(path: Path) -> str:
    """The text of a file of MLIR. Raises Diagnostic E0930 for bytes that are no text."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise Diagnostic("E0930", f"`{path}` is not MLIR text", help="bytecode: print it as text first") from None


def open_mlir(path: Path) -> MlirRunner:
    """A file of MLIR, ready to run: one that Tessera wrote, or one that has its weights in it.

    Raises:
        Diagnostic: what :func:`has_program` and :func:`read_mlir` raise, and what the importer finds wrong.
    """
    from ..backends import torch as backend
    from ..frontends.torch import load_mlir

    if has_program(path):
        module, bound, metadata = read_mlir(path)
        return MlirRunner(module, backend.build(module, bound), metadata)
    found = load_mlir(read_text(path))
    return MlirRunner(found.module, backend.build(found.module, found.weights), {})


def compare_mlir(artifact: Artifact, path: Path, reference: Module, bound: Any, seed: int) -> None:
    """Read the file back and compare it with the torch reference; without torch-mlir only a note says so. Raises E0809."""
    from importlib.util import find_spec

    from ..backends import mlir, torch
    from .verify import verify

    if find_spec("torch_mlir") is None:
        artifact.report.notes.append("not compared with the reference: torch-mlir is not installed")
        return
    mlir.check(path.read_text("utf-8"))
    runner = open_mlir(path)
    found = verify(artifact.module, runner, torch.build(reference, bound, claims=False), seed=seed)
    artifact._runner = runner
    artifact.report.verified = [row.to_dict() for row in found.rows]
    if found.skipped:
        artifact.report.notes.append(f"not compared with the reference: {found.skipped}")
