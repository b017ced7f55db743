"""The Triton backend: a graph as PyTorch source whose composites are launches of our kernels, and whose products are the vendor's.

What is left of elementwise ops and reductions are groups of them, each of which is a kernel that is generated (``fuse.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...ir.graph import Graph, Module
    from ..torch.module import ProgramModule, TesseraModule


def build(
    module: Module | Graph, weights: Mapping[str, Any] | None = None, *, seed: int = 0, trainable: bool = False
) -> TesseraModule:
    """A ``torch.nn.Module`` that computes the model; arguments as of :func:`tessera.backends.torch.build`."""
    from ...ir.graph import Graph
    from ..torch import build as build_torch
    from .claims import claims
    from .fuse import fused, fused_program

    whole = fused(module) if isinstance(module, Graph) else fused_program(module)
    graph = whole if isinstance(whole, Graph) else whole.graph
    return build_torch(whole, weights, seed=seed, trainable=trainable, claims=claims(graph))


def build_program(
    program: Module, weights: Mapping[str, Any] | None = None, *, seed: int = 0, trainable: bool = False
) -> ProgramModule:
    """A method for each entry point, over one set of parameters; as :func:`tessera.backends.torch.build_program`."""
    from ..torch import build_program as build_torch
    from .claims import claims
    from .fuse import fused_program

    whole = fused_program(program)
    return build_torch(whole, weights, seed=seed, trainable=trainable, claims=claims(*whole.functions.values()))
