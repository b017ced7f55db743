"""Encoders with their decoders, drawn over families of transformers, sizes and options (`benchmarks/seq2seq.py`): by both roads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera.benchmarks.seq2seq import IMPORTERS, Found, draw, survey

# Of the draws of seed 0, those that were looked at; `python -m benchmarks.seq2seq` draws more of them, and of further families.
DRAWN = (
    "t5", "mt5", "umt5", "bart", "m2m_100", "mbart", "pegasus", "bigbird_pegasus", "fsmt", "t5gemma", "whisper", "speech_to_text",
    "moonshine",
)  # fmt: skip


def test_a_seed_draws_the_same_again() -> None:
    first, again, other = (draw("bart", seed).architecture for seed in (1, 1, 2))
    assert first.sizes == again.sizes
    assert first.sizes != other.sizes


@pytest.mark.extended
@pytest.mark.parametrize("importer", IMPORTERS)
@pytest.mark.parametrize("family", DRAWN)
def test_goes_through(family: str, importer: str, tmp_path: Path) -> None:
    found: Found = survey(draw(family, 0), importer, tmp_path)
    assert not found.error, str(found)
