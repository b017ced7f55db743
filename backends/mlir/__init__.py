"""Torch-dialect MLIR, written as text; torch-mlir (extra ``mlir``) checks it and lowers it further, IREE runs it.

>>> text = build(module)                                                         # doctest: +SKIP
>>> linalg = lower(text)                                                         # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ...ir.diagnostics import Diagnostic
from ...ir.graph import Graph, Module

if TYPE_CHECKING:
    from collections.abc import Sequence

# torch-mlir's pipelines, one behind the other.
_TO_TORCH = "torchdynamo-export-to-torch-backend-pipeline{extra-library=}"
_PIPELINES = {
    "torch": (_TO_TORCH,),
    "linalg": (_TO_TORCH, "torch-backend-to-linalg-on-tensors-backend-pipeline"),
}


def build(
    module: Module | Graph,
    weights: Mapping[str, Any] | None = None,
    *,
    mode: Literal["arguments", "inline"] = "arguments",
    metadata: Mapping[str, str] | None = None,
) -> str:
    """The program as one function ``main`` of the torch dialect.

    The function takes the inputs in order (states and random inputs among them), and behind them, with mode "arguments", the
    parameters in the graph's order; arguments have the names of the inputs and parameters. It returns the outputs in
    order. Sizes that are not known are ``?``; ``torch.symbolic_int`` gives them their names. Everything ``require`` states
    is left to the caller.

    Args:
        weights: arrays by parameter name; needed with mode "inline" only.
        mode: whether parameters are arguments, or constants in the text.
        metadata: written as comments in front.

    Raises:
        Diagnostic: E0820 for an op that the torch dialect or torch-mlir does not have, E0803 for a size that no input tells.
    """
    from .assemble import assemble

    return assemble(module.graph if isinstance(module, Module) else module, weights, mode == "inline", metadata or {})


def argument_names(module: Module | Graph) -> list[str]:
    """What the function of mode "arguments" takes, in order: inputs, then parameters under their full names."""
    graph = module.graph if isinstance(module, Module) else module
    return [v.name for v in graph.inputs] + list(graph.params)


def check(text: str) -> None:
    """Parse and verify the text with torch-mlir. Raises E0821 when it is not installed, E0822 when it is refused."""
    _sound(text)
    with _context() as (ir, _):
        try:
            ir.Module.parse(text).operation.verify()
        except (ir.MLIRError, ValueError) as error:
            raise Diagnostic("E0822", f"torch-mlir refuses the module: {str(error)[:1500]}") from error


def lower(text: str, output: Literal["torch", "linalg"] = "linalg") -> str:
    """Lower torch-dialect text by torch-mlir: to its backend contract ("torch"), or to linalg on tensors.

    Raises:
        Diagnostic: E0821 when torch-mlir is not installed, E0822 when it refuses the module or cannot lower it.
    """
    if output not in _PIPELINES:
        raise Diagnostic("E0822", f"there is no output `{output}`", help="torch or linalg")
    _sound(text)
    with _context() as (ir, passes):
        try:
            module = ir.Module.parse(_without_symbols(text))
            pipeline = ",".join(_PIPELINES[output])
            passes.PassManager.parse(f"builtin.module({pipeline})").run(module.operation)
        except (ir.MLIRError, ValueError) as error:
            raise Diagnostic("E0822", f"torch-mlir cannot lower the module: {str(error)[:1500]}") from error
        return str(module.operation.get_asm())


def _sound(text: str) -> None:
    """Raises E0822 for text that MLIR's parser crashes on."""
    from ...runtime.files.mlir_text import check_text

    try:
        check_text(text)
    except Diagnostic as error:
        raise Diagnostic("E0822", f"torch-mlir would not take the module: {error.message}") from None


def _without_symbols(text: str) -> str:
    """The names of sizes, which the pipelines of torch-mlir do not take (IREE's does)."""
    lines = text.split("\n")
    return "\n".join(x for x in lines if " = torch.symbolic_int " not in x and "torch.bind_symbolic_shape " not in x)


class _context:
    """A context of torch-mlir with the torch dialect, and its modules ``ir`` and ``passmanager``."""

    def __enter__(self) -> tuple[Any, Any]:
        try:
            from torch_mlir import ir, passmanager
            from torch_mlir.dialects import torch as dialect
        except ImportError as error:
            raise Diagnostic(
                "E0821", "this needs torch-mlir, which is not installed", help="pip install 'tessera[mlir]'"
            ) from error
        self.context = ir.Context()
        self.context.__enter__()
        dialect.register_dialect(self.context)
        return ir, passmanager

    def __exit__(self, *error: object) -> None:
        self.context.__exit__(*error)


__all__: Sequence[str] = ["argument_names", "build", "check", "lower"]
