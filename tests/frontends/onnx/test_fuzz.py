"""A few hundred fuzzed files in every test run; `python tests/fuzz/onnx_fuzz.py --seconds 3600` for an hour of them."""

from __future__ import annotations

from pathlib import Path

from tessera.tests.fuzz.onnx_fuzz import CORPUS, Fuzzer


def test_the_corpus_imports(tmp_path: Path) -> None:
    fuzzer = Fuzzer(0)
    fuzzer.prepare(tmp_path)
    for data in fuzzer.files:
        fuzzer.run(data, tmp_path)
    assert fuzzer.failures == []
    assert fuzzer.counts == {"imported": len(fuzzer.files)}
    assert sum(path.stat().st_size for path in CORPUS.iterdir()) < 200_000


def test_fuzzed_files(tmp_path: Path) -> None:
    fuzzer = Fuzzer(20)
    fuzzer.prepare(tmp_path)
    for _ in range(400):
        fuzzer.run(fuzzer.case(), tmp_path)
    assert fuzzer.failures == []
    # Neither are all of them refused, nor is nothing found.
    assert fuzzer.counts["imported"] > 40
    assert len(fuzzer.counts) > 6


def test_the_fuzzer_notices(tmp_path: Path) -> None:
    fuzzer = Fuzzer(0, keep=tmp_path / "kept")
    fuzzer.outcome = lambda path: 1 // 0  # type: ignore[assignment,method-assign]
    fuzzer.run(b"any", tmp_path)
    assert "ZeroDivisionError" in fuzzer.failures[0]
    assert (tmp_path / "kept" / "case1.onnx").read_bytes() == b"any"
