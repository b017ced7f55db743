"""The weights in a file of ours under the names of its program's parameters: as they are, turned, or row by row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.graph import Graph, Parameter

if TYPE_CHECKING:
    import numpy as np

# `experts.down.201.3`: row 3 of the weight with its axes in the order 2, 0, 1; `.T` is the order 1, 0.
_SUFFIX = re.compile(r"(?:\.(?P<order>T|\d+))??(?:\.(?P<row>\d+))?")


def stored(path: Path, graph: Graph) -> dict[str, np.ndarray] | None:
    """Parameter -> its tensor; None where one is not in the file as it was, such as a weight of 8 bits or one that was folded."""
    import onnx

    model = onnx.load(str(path))
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    found = {name: _tensor(param, tensors) for name, param in graph.params.items()}
    whole = {name: tensor for name, tensor in found.items() if tensor is not None}
    return whole if len(whole) == len(found) else None


def _tensor(param: Parameter, tensors: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """One weight, put together of what the file has of it."""
    import numpy as np

    rank, name = param.type.rank, param.full_name
    rows: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
    for key, tensor in tensors.items():
        part = _SUFFIX.fullmatch(key, len(name)) if key.startswith(name) else None
        if part is None or tensor.dtype != param.type.dtype.numpy:
            continue
        order, row = part["order"], part["row"]
        perm = (1, 0) if order == "T" else tuple(map(int, order or range(rank)))
        if sorted(perm) != list(range(rank)) or tensor.ndim != rank - (row is not None):
            continue
        if row is None:
            return _shaped(np.transpose(tensor, np.argsort(perm)), param)
        rows.setdefault(perm, {})[int(row)] = tensor
    for perm, parts in rows.items():
        if sorted(parts) == list(range(len(parts))):
            stacked = np.stack([parts[row] for row in range(len(parts))])
            if (whole := _shaped(np.transpose(stacked, np.argsort(perm)), param)) is not None:
                return whole
    return None


def _shaped(tensor: np.ndarray, param: Parameter) -> np.ndarray | None:
    return tensor if tensor.shape == tuple(d.value for d in param.type.shape) else None
