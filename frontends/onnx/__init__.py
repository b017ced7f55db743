"""ONNX files as programs: ``load("model.onnx")`` gives a module that prints as source, and its weights.

Sizes are computed while importing: ``Shape``, ``Gather`` and ``Concat`` on small integers become dimensions, not tensors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim, as_dim
from ...ir.dims.monomials import DimCall
from ...ir.imported import Imported

_MOST_EXTREMA = 64
# Each free size that turns out to be another starts the import again: so often, or so many nodes and inputs in all.
_MOST_ATTEMPTS, _MOST_WORK = 64, 200_000


def load(
    path: str | os.PathLike[str], *, name: str | None = None, sizes: Mapping[str, int] | None = None,
    capacity: int | None = None,
) -> Imported:  # fmt: skip
    """Import an ONNX file of opset 7 to 28.

    Args:
        path: the file. External data must lie in its folder; it is mapped, and read when a weight is asked for.
        name: of the model; the file's name by default.
        sizes: numbers for sizes that the file leaves free, by their names: ``{"height": 224}``.
        capacity: how many rows there may be at most where only run time knows how many (boxes that are kept); by default as many as
            could be.

    Raises:
        Diagnostic: E0001, E0002 and E0751 to E0762; one for each file, whatever is wrong with it.
    """
    from ...runtime.weights.bind import LazyTensor
    from ..positions import write_positions
    from .equal import Unify
    from .importer import Importer
    from .reader import read

    file = read(Path(path))
    values: dict[str, Dim] = {symbol: as_dim(size) for symbol, size in (sizes or {}).items()}
    notes: list[str] = []
    extrema: dict[DimCall, Dim] = {}
    for attempt in count(1):
        importer = Importer(file, name or file.path.stem, values, extrema, capacity)
        try:
            module = importer.module()
            break
        except Unify as found:
            if attempt > _MOST_ATTEMPTS and attempt * (file.nodes + len(file.graph.input)) > _MOST_WORK:
                help = "give sizes that are equal the same name when exporting"
                raise Diagnostic("E0762", f"{found.reason}: {attempt} free sizes had to become others", help=help) from found
            # Each attempt replaces a symbol by others, or decides one extremum; a file has only so many of both.
            for what, value in found.values.items():
                if isinstance(what, str):
                    values[what] = value
                elif len(extrema) >= _MOST_EXTREMA:
                    raise Diagnostic("E0762", f"{found.reason}: more than {_MOST_EXTREMA} extrema of sizes") from found
                else:
                    extrema[what] = value
                shown = what if isinstance(what, str) else Dim([(((what, 1),), 1)])
                fixed = isinstance(what, str) and value.value is not None
                notes.append(
                    f"the free size `{shown}` is fixed, the result takes only {value}: {found.reason}"
                    if fixed
                    else f"`{shown}` is {value}: {found.reason}"
                )
    weights = {
        full_name: LazyTensor(full_name, weight.dtype, weight.shape, weight.load)
        for full_name, weight in importer.weights.items()
    }
    notes += importer.notes + write_positions(module.graph, weights, trained=True)
    return Imported(module, weights, notes, importer.counts.outputs)
