"""The reference backend: a graph as a ``torch.nn.Module`` with autograd, which ``torch.compile`` and ``torch.export`` take.

A core op is a row of ``table.py``; a composite that PyTorch has in one call is a row of ``claims.py``; any other composite
is lowered through its body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...ir.graph import Graph, Module

if TYPE_CHECKING:
    from .claims import Claims
    from .module import ProgramModule, TesseraModule


def build(
    module: Module | Graph,
    weights: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    trainable: bool = False,
    claims: bool | Claims = True,
) -> TesseraModule:
    """A ``torch.nn.Module`` that computes the model.

    Args:
        weights: full name -> array, :class:`~tessera.runtime.weights.open.Weights`, or what ``bind`` returned. Arrays of the
            parameter's dtype are shared, not copied, memory maps included. Without weights the initialisers fill them.
        seed: for initial values.
        trainable: parameters require gradients; they then are copies of their own.
        claims: use PyTorch's fused forms of composites; without, every composite is lowered through its body. A table of
            another target's takes their place.

    Returns:
        A module whose ``state_dict`` has the full names, and whose ``source`` is the generated forward::

            >>> y = build(module)(image=torch.zeros(1, 3, 224, 224))["logits"]     # doctest: +SKIP

    Raises:
        Diagnostic: E0605 E0606 E0607 E0611 E0612 for weights, E0907 for a size that no input shows.
    """
    from ...runtime.weights.bind import Bound, bind
    from .module import build_module

    graph, recipes = (module.graph, module.recipes) if isinstance(module, Module) else (module, {})
    if weights is not None and not isinstance(weights, Bound):
        weights = bind(graph, weights, recipes=recipes)
    return build_module(graph, weights, seed=seed, trainable=trainable, claims=claims)


def build_program(
    program: Module,
    weights: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    trainable: bool = False,
    claims: bool | Claims = True,
) -> ProgramModule:
    """A ``torch.nn.Module`` with a method for each entry point, over one set of parameters; arguments as of :func:`build`.

    >>> chat = build_program(program, trainable=True)                            # doctest: +SKIP
    >>> chat.prefill(ids=ids)["output"].sum().backward()                         # doctest: +SKIP
    """
    from ...runtime.weights.bind import Bound, bind
    from .module import build_program_module

    if weights is not None and not isinstance(weights, Bound):
        weights = bind(program.everything(), weights, recipes=program.recipes)
    return build_program_module(program, weights, seed=seed, trainable=trainable, claims=claims)
