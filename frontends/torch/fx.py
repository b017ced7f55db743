"""What a graph of ``torch.fx`` says of itself. Imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .apart import writes

_TORCH = Path(torch.__file__).parent


def ever_writes(module: torch.fx.GraphModule) -> bool:
    """Whether an op writes to a tensor: then torch must trace the program once more to write it without, which costs more
    than everything else."""
    return writes(module) or any(is_region(node) and ever_writes(body_of(node)) for node in module.graph.nodes)


def is_region(node: torch.fx.Node) -> bool:
    """A part of the program without gradients (``torch.no_grad``), which makes no difference here."""
    return str(node.target) == "wrap_with_set_grad_enabled"


def body_of(node: torch.fx.Node) -> torch.fx.GraphModule:
    """The graph of such a part."""
    reference: Any = node.args[1]
    body = getattr(node.graph.owning_module, reference.target)
    assert isinstance(body, torch.fx.GraphModule)
    return body


def live_nodes(graph: torch.fx.Graph) -> set[torch.fx.Node]:
    """Nodes that the outputs depend on."""
    (end,) = (n for n in graph.nodes if n.op == "output")
    live, waiting = set(), [end]
    while waiting:
        node = waiting.pop()
        if node not in live:
            live.add(node)
            waiting += node.all_input_nodes
    return live


def guards(inputs: Iterable[torch.fx.Node]) -> tuple[list[Any], list[Any]]:
    """What torch.export found to hold of the sizes of the inputs; and what of that the model's own code decided by.

    The rest is asked by torch's kernels: of strides, of what fits into 32 bits.
    """
    sizes = [size for node in inputs for size in node.meta["val"].shape if isinstance(size, torch.SymInt)]
    found = sizes[0].node.shape_env.guards if sizes else []
    return [guard.expr for guard in found], [guard.expr for guard in found if not _by_torch(guard)]


def _by_torch(guard: Any) -> bool:
    """Whether a guard was asked for within torch itself."""
    place = getattr(guard.sloc.framework_loc, "filename", None)
    return place is None or Path(place).is_relative_to(_TORCH)
