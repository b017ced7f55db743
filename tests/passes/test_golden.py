"""Programs before and after: each ``golden/NAME.tess`` names its passes in its compile block, ``NAME.after`` is the result.

After a change: ``python -m pytest tests/passes/test_golden.py --update-golden``, then read the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import tessera  # noqa: F401  (lets passes find composites)
from tessera.frontends.source import load, loads, print_module
from tessera.passes.engine import run_pipeline

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(GOLDEN.glob("*.tess"))


@pytest.mark.parametrize("path", CASES, ids=[p.stem for p in CASES])
def test_golden(path: Path, update_golden: bool) -> None:
    module = load(path)
    assert module.compile is not None
    untouched = module.clone()
    result, _ = run_pipeline(module, module.compile.passes, verify_each=True)
    assert module == untouched
    text = print_module(result)
    assert loads(text).difference(result) is None
    expected = path.with_suffix(".after")
    if update_golden:
        expected.write_text(text, encoding="utf-8")
    assert expected.is_file(), "run `python -m pytest tests/passes/test_golden.py --update-golden`"
    assert text == expected.read_text(encoding="utf-8")


def test_no_expected_program_is_left_over() -> None:
    assert [p for p in GOLDEN.glob("*.after") if not p.with_suffix(".tess").is_file()] == []
