"""The files of the target mlir: torch-dialect text, and the weights and the program's source in a safetensors file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...ir.diagnostics import Diagnostic
from ..target import Readers
from ..torch.file import SOURCE, read_metadata, write_torch_file

if TYPE_CHECKING:
    from ...ir.graph import Module
    from ...runtime.weights.bind import Bound

# What of the metadata is worth a comment in front of the text; the rest is in the weights' file.
_SHOWN = ("tessera.version", "tessera.model", "tessera.weights")
# What a text begins with that has its weights beside it.
_HEAD = b"// tessera."


class Text(NamedTuple):
    """The text, and what goes beside it."""

    text: str
    metadata: Mapping[str, str]
    weights: Bound


def text_of(module: Module, weights: Bound, metadata: Mapping[str, str]) -> Text:
    """The artifact. Raises Diagnostic E0820 and E0803."""
    from . import build

    text = build(module, metadata={key: metadata[key] for key in _SHOWN if key in metadata})
    return Text(text, metadata, weights)


def write(built: Text, path: Path) -> None:
    """Write both files."""
    path.write_text(built.text, "utf-8")
    write_torch_file(weights_path(path), built.metadata, built.weights)


def weights_path(path: Path) -> Path:
    """Where the weights of ``vit.mlir`` are: ``vit.safetensors``."""
    return path.with_suffix(".safetensors")


def has_program(path: Path) -> bool:
    """Whether Tessera wrote a file of MLIR, and says beside it what its arguments are.

    Raises:
        Diagnostic: E0001 when the file says so, but there is none beside it.
    """
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


def read(path: Path, readers: Readers) -> tuple[Module, dict[str, Any], dict[str, str]]:
    """A file that :func:`write` wrote, and the weights beside it: the program of the text, its parameters, the metadata.

    Raises:
        Diagnostic: E0001 without the weights' file, E0014 when the two do not belong together, E0785 without torch-mlir,
            E0784 for a text that is none.
    """
    from ...runtime.weights.bind import bind
    from ...runtime.weights.open import open_weights
    from . import argument_names

    beside = weights_path(path)
    metadata = read_metadata(beside)
    program = readers.source(metadata[SOURCE], f"{beside.name}:source")
    bound = bind(program.graph, open_weights(beside))
    names = argument_names(program)
    found = readers.torch_mlir(read_text(path), name=program.name, names=names, weights=dict(bound)).module
    # The field of a state is `cache.k`, which is no identifier.
    inputs = [[v.name.replace(".", "_") for v in graph.inputs] for graph in (found.graph, program.graph)]
    if inputs[0] != inputs[1] or len(found.graph.outputs) != len(program.graph.outputs):
        raise Diagnostic("E0014", f"`{path.name}` and `{beside.name}` are not of one program")
    for value, original in zip(found.graph.inputs, program.graph.inputs, strict=True):
        value.name, value.role, value.init, value.record = original.name, original.role, original.init, original.record
        value.outside, value.vocabulary = original.outside, original.vocabulary
    found.graph.set_outputs(found.graph.outputs, program.graph.output_info)
    return found, {n: bound[n] for n in found.graph.params}, metadata


def read_text(path: Path) -> str:
    """The text of a file of MLIR. Raises Diagnostic E0930 for bytes that are no text."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise Diagnostic("E0930", f"`{path}` is not MLIR text", help="bytecode: print it as text first") from None
