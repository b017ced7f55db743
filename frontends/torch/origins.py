"""Weights and source places of a ``torch.export`` program. Imports torch."""

from __future__ import annotations

import linecache
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ...ir.diagnostics import Diagnostic, Span, register_source
from ...ir.types import DTYPES, DType
from .finish import TORCH_FILE

if TYPE_CHECKING:
    from ...runtime.weights.bind import LazyTensor

_DTYPES = {getattr(torch, dtype.long): dtype for dtype in DTYPES.values()}


def identity(tensor: torch.Tensor) -> Any:
    """Equal for two names of one tensor."""
    place = tensor.data_ptr() if tensor.numel() else id(tensor)
    return (place, tuple(tensor.shape), tensor.stride(), tensor.dtype)


# Weights -------------------------------------------------------------------------------------------------------------


def dtype_of(dtype: torch.dtype, what: str) -> DType:
    if dtype not in _DTYPES:
        raise Diagnostic("E0782", f"{what} is {dtype}, which Tessera does not have")
    return _DTYPES[dtype]


def dtype_of_tensor(tensor: torch.Tensor, what: str) -> DType:
    return dtype_of(tensor.dtype, what)


def lazy(name: str, tensor: torch.Tensor) -> LazyTensor:
    """A weight as a view of the module's tensor: nothing is copied until somebody asks, and not even then where it is
    contiguous."""
    from ...runtime.weights.bind import LazyTensor

    dtype = dtype_of_tensor(tensor, f"`{name}`")

    def load() -> Any:
        value = tensor.detach().cpu().contiguous()
        if value.dtype == torch.bfloat16:
            return value.view(torch.int16).numpy().view(dtype.numpy)
        return value.numpy()

    return LazyTensor(name, dtype, tuple(tensor.shape), load)


# Places --------------------------------------------------------------------------------------------------------------


class Spans:
    """The user's Python line of each node, from torch's stack traces."""

    def __init__(self) -> None:
        self.known: dict[str, Span | None] = {}

    def of(self, node: torch.fx.Node) -> Span | None:
        trace = node.meta.get("stack_trace") or ""
        if trace not in self.known:
            self.known[trace] = self._parse(trace)
        return self.known[trace]

    def _parse(self, trace: str) -> Span | None:
        frames = re.findall(r'File "([^"]+)", line (\d+)', trace)
        own = [f for f in frames if not TORCH_FILE.search(f[0])] or frames
        if not own:
            return None
        file, line = own[-1][0], int(own[-1][1])
        rows = linecache.getlines(file)
        if rows:
            register_source(file, "".join(rows))
        text = rows[line - 1].rstrip("\n") if 0 < line <= len(rows) else ""
        return Span(file, line, len(text) - len(text.lstrip()) + 1, line, max(len(text), 1) + 1)


def scope(node: torch.fx.Node) -> str:
    """The dotted name of the module that a node belongs to."""
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    path = next(reversed(list(stack.values())), ("", None))[0] if stack else ""
    return re.sub(r"^L\['self'\]\.?", "", path).replace("['", ".").replace("']", "").lstrip(".")
