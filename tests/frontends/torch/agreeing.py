"""Modules imported through torch.export, and compared with PyTorch on both backends at sizes that were not those of the export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree

from tessera.backends.onnx import build as build_onnx
from tessera.backends.onnx import serialize
from tessera.backends.onnx.session import Session
from tessera.backends.torch import build
from tessera.frontends.source import loads, print_module
from tessera.frontends.torch import load
from tessera.ir.verifier import verify

Make = Callable[[int], tuple[torch.Tensor, ...]]


class Call(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Any) -> Any:
        return self.function(*tensors)


def agree(
    model: torch.nn.Module | Callable[..., Any], make: Make, shapes: Any = None, sizes: Sequence[int] = (4, 7), rtol: float = 1e-4
) -> Any:
    """Export at ``sizes[0]``, import, print, read again and run at every size; gives the import."""
    module = model if isinstance(model, torch.nn.Module) else Call(model)
    if shapes is not None and not isinstance(model, torch.nn.Module):
        shapes = (shapes,)
    imported = load(module.eval(), make(sizes[0]), dynamic_shapes=shapes)
    verify(imported.module.graph)
    again = loads(print_module(imported.module))
    assert imported.module.difference(again) is None
    run = build(again, imported.weights)
    session = Session(serialize(build_onnx(again, imported.weights)))
    for size in sizes:
        tensors = make(size)
        with torch.no_grad():
            wanted = [w for w in _pytree.tree_leaves(module(*tensors)) if isinstance(w, torch.Tensor)]
            found = imported.rows_that_count(run(*tensors))
        feeds = {v.name: t.numpy() for v, t in zip(again.graph.inputs, tensors, strict=True)}
        results = {"torch": [y.numpy() for y in found.values()], "onnx": imported.rows_that_count(session(feeds)).values()}
        for kind, rows in results.items():
            for a, b in zip(wanted, rows, strict=True):
                assert a.numpy().dtype == b.dtype, kind
                np.testing.assert_allclose(b, a.numpy(), rtol=rtol, atol=1e-5, err_msg=kind)
    return imported
