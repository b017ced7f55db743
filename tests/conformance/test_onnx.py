"""The onnx package's backend cases: what passed once, passes; every refusal stands in a table with its reason."""

from __future__ import annotations

import pytest

from .onnx_cases import cases, judge, table

ROWS = table()
FREE = table(free=True)


def test_nothing_in_the_tables_is_wrong_or_crashed() -> None:
    every = [*ROWS.items(), *FREE.items()]
    assert not [name for name, row in every if row.startswith(("wrong", "crashed"))]


def test_with_every_size_free_most_pass() -> None:
    passed = sum(row.startswith("passed") for row in FREE.values())
    assert FREE.keys() <= ROWS.keys()
    assert passed >= 0.85 * len(FREE)
    assert passed >= 1000


def check(name: str, known: str, free: bool) -> None:
    found = str(judge(cases()[name], free))
    if known.startswith("passed"):
        assert found in (known, "passed")
    else:
        command = f"python -m tessera.tests.conformance.onnx_cases --write {'--free ' * free}{name}"
        assert found.partition(":")[0] == "refused", f"{command}\n{found}"


@pytest.mark.extended
@pytest.mark.parametrize("name", ROWS)
def test_case(name: str) -> None:
    check(name, ROWS[name], free=False)


@pytest.mark.extended
@pytest.mark.parametrize("name", FREE)
def test_case_with_free_sizes(name: str) -> None:
    check(name, FREE[name], free=True)
