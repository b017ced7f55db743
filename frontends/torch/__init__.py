"""PyTorch models as IR: an ``nn.Module`` or a ``torch.export`` program, and torch-dialect MLIR.

>>> imported = load(model, (ids,), dynamic_shapes=({0: "B", 1: "T"},))           # doctest: +SKIP
>>> artifact = compile(imported.module, weights=imported.weights)               # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...ir.imported import Imported

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram


def load(
    model: nn.Module | ExportedProgram,
    args: Sequence[Any] | Tensor = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    *,
    name: str | None = None,
    capacity: int | None = None,
) -> Imported:
    """Import a model. Its parameters and buffers keep their names, and stay views of the module's tensors.

    Args:
        model: a module in eval mode, which is exported here, or a program that was exported already.
        args: example inputs, as ``torch.export.export`` takes them, or the one input; not needed for a program.
        kwargs: example inputs by name.
        dynamic_shapes: as ``torch.export.export`` takes them; axes of one name have one size. The names become the
            dimensions' names. A program without them gets the usual ones: B, T, H, W.
        name: of the model in the source; else the class's.
        capacity: how many rows there may be at most where only run time knows how many (``x[mask]``, ``nonzero``); by default
            as many as could be.

    Raises:
        Diagnostic: E0780 with all operations that have no counterpart, E0781 when torch.export itself refuses the model,
            E0782 for an input, and E0783 for an output or a state that cannot be expressed.
    """
    import torch

    from .exported import import_program
    from .finish import identifier

    if isinstance(model, torch.export.ExportedProgram):
        title = identifier(name or "imported")
        return import_program(model, dynamic_shapes=dynamic_shapes, name=title, capacity=capacity)
    if model.training:
        raise Diagnostic("E0781", f"{type(model).__name__} is in training mode", help="call `model.eval()` first")
    given = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    try:
        program = _export(model, given, dict(kwargs or {}), dynamic_shapes)
    except Diagnostic:
        raise
    except Exception as error:  # whatever the model's own code raises while it is traced
        text = str(error).strip()
        raise Diagnostic(
            "E0781",
            f"torch.export does not take {type(model).__name__}: {type(error).__name__}: {text[:1500]}",
            help="export it yourself with torch.export.export, and give the program to `load`",
        ) from error
    title = type(model).__name__
    return import_program(
        program, dynamic_shapes=dynamic_shapes, name=identifier(name or title), doc=f"Imported from {title}.", capacity=capacity
    )


# What torch.export says where a size is no dimension to it that stands for itself.
_NO_DIMENSION = ("Constraints violated", "Cannot create Dim with inconsistent min")


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> ExportedProgram:
    import torch

    from .experts import experts_grouped
    from .symbols import frozen
    from .unrolled import recurrences_whole

    def export(shapes: Any) -> ExportedProgram:
        with torch.no_grad(), recurrences_whole(), experts_grouped(model):
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)

    try:
        return export(_shapes(dynamic_shapes))
    except Exception as error:
        if not any(said in str(error) for said in _NO_DIMENSION):
            raise
        # A size that the model divides, or pads to a multiple, is no dimension to torch.export unless it may find out itself.
        program = export(_shapes(dynamic_shapes, found_out=True))
        inputs = set(program.graph_signature.user_inputs)
        nodes = [n for n in program.graph.nodes if n.name in inputs and isinstance(n.meta.get("val"), torch.Tensor)]
        fixed = frozen(dynamic_shapes, {n.name: n.meta["val"].shape for n in nodes})
        if fixed:
            raise Diagnostic(
                "E0781",
                f"torch.export does not keep all sizes of {type(model).__name__} free: {'; '.join(fixed)}",
                help="leave these axes out of `dynamic_shapes` to have the model for the example's sizes; they are fixed where its "
                "code goes through an axis in a loop of Python, or makes a number of a size",
            ) from error
        return program


def _shapes(given: Any, *, found_out: bool = False) -> Any:
    """Names of axes as torch.export's dimensions: one object for each name, or all of them as it finds them to be."""
    from torch.export import Dim

    dims: dict[str, Any] = {}

    def convert(value: Any) -> Any:
        if found_out and (isinstance(value, str) or hasattr(value, "__name__")):
            return Dim.AUTO
        if isinstance(value, str):
            return dims.setdefault(value, Dim(value))
        if isinstance(value, Mapping):
            return {k: convert(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(convert(v) for v in value)
        return value

    return convert(given)


def load_mlir(
    text_or_module: Any,
    *,
    name: str = "imported",
    names: Sequence[str] | None = None,
    dims: Sequence[Sequence[str | int | None]] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> Imported:
    """Import torch-dialect MLIR, as torch-mlir's importer writes it (output_type "raw" or "torch"). Needs the extra ``mlir``.

    Args:
        text_or_module: the text, or a ``torch_mlir.ir.Module``.
        name: of the model in the source.
        names: of the arguments, in order; else those of the text, or arg0, arg1, …
        dims: names (or numbers) of the sizes of each argument, where the text does not bind them. Sizes written ``?``
            without names are taken for different ones.
        weights: arrays for those arguments that are weights, by these names.

    Raises:
        Diagnostic: E0780 with all operations that have no counterpart, E0782 and E0783 for arguments and results, E0784 for
            text that is no torch-dialect MLIR, E0785 without torch-mlir.
    """
    from .mlir import import_mlir

    return import_mlir(text_or_module, name=name, names=names, dims=dims, weights=weights)
