"""Models of transformers, exported by both exporters, go all the way through: imported, printed, raised, compiled and run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.architectures import ARCHITECTURES
from benchmarks.end_to_end import DOCS, IMPORTERS, TOLERANCE, survey
from benchmarks.timm_architectures import TIMM, unavailable

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

QUICK = {("vit", "torch"), ("bert", "onnx")}
ROWS = [
    pytest.param(
        name, importer, id=f"{name}-{importer}", marks=() if (name, importer) in QUICK else pytest.mark.extended
    )
    for name in ARCHITECTURES
    for importer in IMPORTERS
]


@pytest.mark.parametrize(("name", "importer"), ROWS)
def test_architecture_goes_through(name: str, importer: str, tmp_path: Path) -> None:
    row = survey(ARCHITECTURES[name], importer, tmp_path)
    assert row.error == ""
    assert row.passes, row.cells
    assert len(row.differences) == 2
    assert max(row.differences) <= TOLERANCE


@pytest.mark.extended
@pytest.mark.parametrize("importer", IMPORTERS)
@pytest.mark.parametrize("name", TIMM)
def test_model_of_timm_goes_through(name: str, importer: str, tmp_path: Path) -> None:
    if reason := unavailable():
        pytest.skip(reason)
    row = survey(TIMM[name], importer, tmp_path)
    assert row.passes, row.cells


def test_the_table_lists_every_architecture() -> None:
    lines = [line.split(" | ")[:2] for line in DOCS.read_text(encoding="utf-8").split("\n") if line.startswith("| ")]
    listed = {(name.removeprefix("| "), importer) for name, importer in lines}
    assert listed >= {(name, importer) for name in ARCHITECTURES for importer in IMPORTERS}
