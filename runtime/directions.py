"""Rows of a table in few directions, so that the best of them for a vector are found without scoring all of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.diagnostics import Diagnostic

if TYPE_CHECKING:
    import numpy as np

# Rows that the directions are found from.
_MANY = 16384


def directions_of(table: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The directions f32[D, count] in which the rows of a table differ most, and the rows along them, f32[V, count].

    What rows have in common is left out: it adds the same to the scores of all.

    Args:
        table: rows [V, D].

    Raises:
        Diagnostic: E0011 for more directions than a row has, or none.
    """
    import numpy as np

    rows = np.asarray(table, np.float32)
    if not 1 <= count <= rows.shape[1]:
        raise Diagnostic("E0011", f"`count` is how many of {rows.shape[1]} directions are kept, from 1 on, and not {count}")
    rows = rows - rows.mean(0)
    some = rows[:: -(-len(rows) // _MANY)].astype(np.float64)
    _, vectors = np.linalg.eigh(some.T @ some)
    basis = vectors[:, ::-1][:, :count].astype(np.float32)
    return basis, rows @ basis
