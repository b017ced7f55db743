"""Runs of a network as CUDA graphs: hundreds of small launches become one, for each set of shapes that comes again."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

Given = Sequence[Tensor | None]
Results = dict[str, Tensor]
Forward = Callable[..., Results]
# So many sets of shapes are kept, each with memory of its own.
MOST = 16


class Graphs:
    """In the place of a network's ``forward``: the first run at some shapes is as it was, which compiles kernels; the second is
    recorded, and from then on its record is replayed.

    What cannot be recorded, because the host waits for a number in it, stays as it was, with a warning. So do runs that learn, and
    those that write into their inputs.

    Args:
        donates: whether the network writes into its inputs now.
    """

    def __init__(self, forward: Forward, donates: Callable[[], bool]) -> None:
        self._forward, self._donates = forward, donates
        # None of shapes that were seen once; the network itself of those that cannot be recorded.
        self._kept: OrderedDict[Hashable, Callable[[Given], Results] | None] = OrderedDict()

    def __call__(self, *tensors: Tensor | None) -> Results:
        learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        if learns or self._donates() or torch.compiler.is_compiling():
            return self._forward(*tensors)
        key = tuple(None if t is None else (t.shape, t.dtype, t.device) for t in tensors)
        if key not in self._kept:
            self._keep(key, None)
            return self._forward(*tensors)
        run = self._kept[key]
        if run is None:
            try:
                run = recorded(self._forward, tensors)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
                warnings.warn(f"runs at these shapes cannot be recorded as a CUDA graph: {reason}", RuntimeWarning, stacklevel=3)
                run = self._plain
        self._keep(key, run)
        return run(tensors)

    def _plain(self, tensors: Given) -> Results:
        return self._forward(*tensors)

    def _keep(self, key: Hashable, run: Callable[[Given], Results] | None) -> None:
        self._kept[key] = run
        self._kept.move_to_end(key)
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)


def recorded(forward: Forward, tensors: Given) -> Callable[[Given], Results]:
    """A run that replays one: what it is given is copied to where the recorded one read, and its results are copies."""
    held = [None if t is None else t.clone() for t in tensors]
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        results = forward(*held)

    def replay(tensors: Given) -> Results:
        for own, given in zip(held, tensors, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        graph.replay()
        return {name: y.clone() for name, y in results.items()}

    return replay


def record_runs(network: Any) -> None:
    """Have a module's runs recorded; each entry point's, of a program."""
    for module in [network[entry] for entry in getattr(network, "entries", ())] or [network]:
        module.forward = Graphs(module.forward, partial(getattr, module, "donate"))
