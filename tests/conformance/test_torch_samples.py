"""PyTorch's operator samples: what passes goes on passing, and what is refused is in the table. See ``torch_samples.py``."""

from __future__ import annotations

import pytest

from .torch_samples import LEFT_OUT, judged, left_out, row, table

OPERATORS = table()["operators"]


def check(name: str) -> None:
    found, known = row(name), OPERATORS[name]
    assert "wrong" not in found
    assert "crashed" not in found
    refused = found.get("refused", {})
    more = {key: reason for key, reason in refused.items() if key not in known.get("refused", {})}
    assert not more, "these passed before"


@pytest.mark.parametrize("name", ["addbmm", "bitwise_not", "roll", "logsumexp", "nn.functional.pad.reflect", "kthvalue"])
def test_some_operators(name: str) -> None:
    check(name)


@pytest.mark.extended
@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str) -> None:
    check(name)


def test_the_table_is_whole() -> None:
    """Every operator is in it or is left out by a reason, its counts add up, nothing in it is wrong, and most passes."""
    assert set(OPERATORS) == set(judged())
    assert list(table()["left out"]) == list(LEFT_OUT)
    assert all(left_out(name) == reason for reason, names in table()["left out"].items() for name in names)
    counts = table()["counts"]
    assert counts["passed"] == sum(r["passed"] for r in OPERATORS.values())
    assert counts["wrong"] == counts["crashed"] == 0
    assert counts["refused"] <= 0.15 * (counts["passed"] + counts["refused"])
