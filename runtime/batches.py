"""A pipeline on more texts than go into one call: in batches of texts of about one length, so that little is filled up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..ir.diagnostics import Diagnostic, Note
from ..ir.dims.dim import Dim
from ..ir.program import Flow
from ..ir.types import TEXT

Run = Callable[[dict[str, Any]], dict[str, Any]]


def in_batches(flow: Flow, arrays: Mapping[str, Any], size: int, run: Run) -> dict[str, Any]:
    """The outputs of ``run`` on all rows, in their order, from calls of at most ``size`` rows each.

    Args:
        arrays: the inputs, as they were checked. Those that have the first axis of the texts are cut; others go into each call.

    Raises:
        Diagnostic: E0902 for a size that is none, E0520 where the flow has no texts, or an output is not one row for each.
    """
    import numpy as np

    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        help = "write how many texts there are in each: `batch=32`"
        raise Diagnostic("E0902", f"a batch has at least one row, not {size!r}", help=help)
    texts = [port for port in flow.inputs if port.type.dtype == TEXT and port.type.rank]
    if not texts:
        raise Diagnostic("E0520", f"`{flow.name}` takes no texts, by whose length it could be run in batches")
    rows = texts[0].type.shape[0]
    if rows.symbol is None:
        raise Diagnostic(
            "E0520", f"`{texts[0].name}` of `{flow.name}` are {rows} texts, neither more nor fewer", texts[0].span,
            help="run it without batches",
        )  # fmt: skip
    whole = next((port for port in flow.outputs if not _by_rows(port.type.shape, rows)), None)
    odd = whole or next((port for port in (*flow.inputs, *flow.outputs) if _beside(port.type.shape, rows)), None)
    if odd is not None:
        what = "is not one row for each text" if odd is whole else f"has the size {rows} of all texts within its rows"
        raise Diagnostic(
            "E0520", f"`{odd.name}: {odd.type}` of `{flow.name}` {what}", odd.span, help="run it without batches"
        )
    cut = [port.name for port in flow.inputs if _by_rows(port.type.shape, rows)]
    lengths = np.zeros(len(arrays[texts[0].name]), np.int64)
    for port in texts:
        if port.name in cut:
            lengths += [len(str(text)) for text in arrays[port.name].reshape(len(lengths), -1).sum(axis=1)]
    order = np.argsort(lengths, kind="stable")
    found = []
    for start in range(0, max(1, len(order)), size):
        chosen = order[start : start + size]
        try:
            found.append(run({name: array[chosen] if name in cut else array for name, array in arrays.items()}))
        except Diagnostic as error:
            error.notes.append(Note(f"in the batch of the rows {', '.join(map(str, chosen))}"))
            raise
    back = np.argsort(order, kind="stable")
    return {port.name: _joined(port.name, [part[port.name] for part in found])[back] for port in flow.outputs}


def _by_rows(shape: tuple[Dim, ...], rows: Dim) -> bool:
    return bool(shape) and shape[0] == rows


def _beside(shape: tuple[Dim, ...], rows: Dim) -> bool:
    """Whether how many rows there are shows elsewhere than as the first axis."""
    return any(rows.symbol in dim.symbols for dim in (shape[1:] if _by_rows(shape, rows) else shape))


def _joined(name: str, parts: list[Any]) -> Any:
    """Rows of several calls. Raises E0520 where they are not of one length."""
    import numpy as np

    shapes = sorted({str(list(part.shape[1:])) for part in parts})
    if len(shapes) > 1:
        raise Diagnostic(
            "E0520", f"the rows of `{name}` are {' and '.join(shapes)} in different batches",
            help="run it without batches, or let a model make one vector of each text",
        )  # fmt: skip
    return np.concatenate(parts)
