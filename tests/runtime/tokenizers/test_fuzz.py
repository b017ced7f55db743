"""Some hundred fuzzed files; `python -m tessera.tests.fuzz.text_fuzz --seconds 1800` for half an hour of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

pytest.importorskip("tokenizers")


@pytest.mark.extended
@pytest.mark.parametrize("seed", range(3))
def test_nothing_but_diagnostics_comes_out(seed: int, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    from tessera.tests.fuzz.text_fuzz import Fuzzer

    fuzzer = Fuzzer(seed, tmp_path)
    fuzzer.run(150)
    assert fuzzer.failures == []
    assert fuzzer.counts.total() == 150


def test_a_panic_of_the_package_is_told(tmp_path: Path) -> None:
    """The package cuts the prefix off every second piece of a pair, whether it has it or not."""
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "##", "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {"a": 0, "b": 1, "ab": 2},
        "merges": [["a", "b"]],
    }  # fmt: skip
    whole: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
        "post_processor": None, "decoder": None, "model": model,
    }  # fmt: skip
    (tmp_path / "own.json").write_text(json.dumps(whole))
    with pytest.raises(Diagnostic, match=r"E1003.*package `tokenizers` cannot read"):
        ts.open_tokenizer(tmp_path / "own.json")
