"""The benchmark of kernels: what it compares, in the interpreter too, and what its page says that costs promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera.benchmarks.gpu import FULL, ROWS, TINY, rows
from tessera.benchmarks.roofline import predicted

ROOT = Path(__file__).parents[2]


@pytest.mark.extended
def test_every_kernel_is_compared() -> None:
    assert TINY.keys() == FULL.keys() == ROWS.keys()
    for row in rows(TINY, 0):
        for what, error in row["errors"].items():
            # Halves in, and compared with float64; what was chosen is the same.
            assert error <= (2e-2 if what in ("y", "mass") else 0.0), row["name"]


def test_the_page_says_what_costs_promise() -> None:
    page = (ROOT / "docs" / "triton.md").read_text("utf-8")
    for row in predicted():
        assert f"| {' | '.join(row)} |" in page
