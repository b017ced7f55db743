"""The onnx package's backend cases: what passed once, passes; every refusal stands in the table with its reason."""

from __future__ import annotations

import pytest

from .onnx_cases import cases, judge, table

ROWS = table()


def test_nothing_in_the_table_is_wrong_or_crashed() -> None:
    assert not [name for name, row in ROWS.items() if row.startswith(("wrong", "crashed"))]


@pytest.mark.extended
@pytest.mark.parametrize("name", ROWS)
def test_case(name: str) -> None:
    found, known = str(judge(cases()[name])), ROWS[name]
    if known.startswith("passed"):
        assert found in (known, "passed")
    else:
        assert found.partition(":")[0] == "refused", f"python -m tessera.tests.conformance.onnx_cases --write {name}\n{found}"
