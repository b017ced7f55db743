"""What the shipped specs say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera.specs import catalog

HEADER = """\
## Some system: it does something. And more of it.
##
## paper: A Title: With a Colon
## kind: token reduction (training-free)
## measured: half of the tokens, cosine 0.99 (random: 0.90),
##     same nearest neighbour for 0.9
##
## Further text, of which a list may see the first sentence only.

model m(x: f32[B]) -> f32[B] {
    return x
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "seeds").mkdir()
    monkeypatch.setattr(catalog, "FOLDER", tmp_path)
    return tmp_path


def test_a_seed_says_its_paper_its_kind_and_its_effect(folder: Path) -> None:
    (folder / "seeds" / "some.tess").write_text(HEADER)
    assert catalog.seed("seeds/some") == catalog.Seed(
        "Some system",
        "A Title: With a Colon",
        "token reduction (training-free)",
        "half of the tokens, cosine 0.99 (random: 0.90), same nearest neighbour for 0.9",
    )
    said = catalog.summary("seeds/some")
    assert said.startswith("Some system: it does something. And more of it. Further text")
    assert "paper" not in said
    assert catalog.find("some") == (folder / "seeds" / "some.tess", None)


def test_a_spec_that_leaves_out_a_field_is_no_seed(folder: Path) -> None:
    (folder / "seeds" / "some.tess").write_text(HEADER.replace("## kind:", "## sort:"))
    assert catalog.seed("seeds/some") is None
