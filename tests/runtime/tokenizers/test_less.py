"""LiB's lexicon: the steps of its training by hand, and matches in the engine, against a plain greedy search."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tessera as ts
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.tokenizers.less import DEFAULTS, Lexicon, learn_units, read

LETTERS = "abcdefghij"


def lexicon(*units: str) -> Lexicon:
    made = Lexicon(LETTERS, 12)
    for unit in units:
        made.append(unit)
    return made


def after(made: Lexicon, line: str, life: dict[str, int] | None = None, **options: float) -> list[str]:
    """The units in order when one line was read."""
    read(made, [line], random.Random(0), {**DEFAULTS, "memorize": 0.0, **options}, {} if life is None else life)
    return made.units()


def test_a_longer_unit_that_reads_as_well_moves_up() -> None:
    # `ab` is one piece where `a`, `b` are two: from rank 10 by 10 // 5 + 1.
    assert after(lexicon("ab"), "ab") == [*"abcdefg", "ab", *"hij"]


def test_one_that_cuts_what_stands_behind_it_moves_down_and_the_shorter_one_up() -> None:
    # `abc`, `d`, `e` are three pieces where `ab`, `cde` are two: `abc` goes from 11 by 3, off the end of 13.
    made = lexicon("ab", "abc", "cde")
    assert after(made, "abcde") == [*"abcdefg", "ab", *"hij", "cde"]
    assert "abc" not in made
    # With more behind it `abc` only loses places: from 11 by 3 to 14.
    found = after(lexicon("ab", "abc", "cde", "x1", "x2", "x3"), "abcde")
    assert found == [*"abcdefg", "ab", *"hij", "cde", "x1", "x2", "abc", "x3"]


def test_of_as_many_pieces_those_that_stand_before_are_better() -> None:
    # `abc`, `d` have ranks 12 + 3, `ab`, `cd` 10 + 11: up from 12 by 3.
    assert after(lexicon("ab", "cd", "abc", "y"), "abcd").index("abc") == 9
    # Ranks 17 + 5 are more than 0 + 1: down from 17 by 4.
    made = Lexicon(["ab", "cd", *LETTERS, "u", "v", "w", "x", "y", "abc", *"opqrst"], 12)
    assert after(made, "abcd").index("abc") == 21


def test_unknown_letters_weigh_more_than_pieces() -> None:
    # `abx` and an unknown `!` are two pieces, `a`, `b`, `x!` three: from 10 by 3.
    made = lexicon("abx", "x!", "x1", "x2", "x3")
    assert after(made, "abx!").index("abx") == 13


def test_neighbours_are_noted_twice_before_they_are_a_unit() -> None:
    assert "ab" not in after(lexicon(), "ab", memorize=1.0)
    found = after(lexicon(), "ab,ab", memorize=1.0)
    assert "ab" in found
    # What is unknown is a unit where it is short, and no longer than twelve letters are joined.
    assert "," in after(lexicon(), ",a,a", memorize=1.0)
    assert ",,," not in after(lexicon(), ",,,a,,,a", memorize=1.0)
    assert "abcdef" * 2 + "g" not in after(lexicon("abcdef" * 2), ("abcdef" * 2 + "g") * 3, memorize=1.0)


def test_what_stands_last_is_forgotten_unless_it_is_of_use() -> None:
    life: dict[str, int] = {}
    made = lexicon("ef")
    after(made, "a", life)
    assert life == {"ef": 10}
    for _ in range(9):
        after(made, "b", life)
    assert "ef" in made
    after(made, "b", life)
    assert "ef" not in made
    assert "ef" not in life
    life = {}
    made = lexicon("ef")
    after(made, "a", life)
    after(made, "ef", life)
    assert "ef" not in life


def test_the_order_is_as_a_list_would_have_it() -> None:
    draw = random.Random(1)
    made, plain = lexicon(), list(LETTERS)
    for step in range(3000):
        unit = draw.choice(plain) if len(plain) > 5 and draw.random() < 0.7 else f"u{step}"
        if unit not in plain:
            made.append(unit)
            plain.append(unit)
        elif draw.random() < 0.02:
            made.remove(unit)
            plain.remove(unit)
        else:
            up, place = draw.random() < 0.5, plain.index(unit)
            by = place // 5 + 1
            made.move(unit, up, 0.2)
            if place:
                plain.remove(unit)
                if up or place + by <= len(plain):
                    plain.insert(max(place - by, 0) if up else place + by, unit)
    assert made.units() == plain
    assert [made.rank(unit) for unit in plain] == list(range(len(plain)))
    assert all(made.two(unit, 0)[1] == unit for unit in plain)


def test_a_key_gives_one_lexicon() -> None:
    lines = ["the cat and the dog", "a dog and a cat", "the end"] * 40
    once, again, other = (learn_units(lines, key, {"epochs": 60, "lines": 10}) for key in (3, 3, 4))
    assert once == again
    assert once != other
    assert any(" " in unit.strip() for unit in once)


SPEC = """
tokenizer units {
    special "<unk>" = 0
    model longest
    decode fuse
    train "lines.txt" (key=1, epochs=30, lines=20)
    from "units.json"
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("less")
    (path / "units.tess").write_text(SPEC)
    (path / "lines.txt").write_text("ab ba abba\nthe [a] and the (b) \\d+ ^$\n.*?|{}\n" * 60)
    ts.train_tokenizer(path / "units.tess")
    return path


def greedy(text: str, vocab: dict[str, int]) -> list[int]:
    found, start = [], 0
    while start < len(text):
        end = next((e for e in range(min(len(text), start + 12), start, -1) if text[start:e] in vocab), start + 1)
        found.append(vocab.get(text[start:end], 0))
        start = end
    return found


@given(st.lists(st.text(st.sampled_from("abthe []()\\d+^$.*?|{}\n\u00e9\0"), max_size=40), min_size=1, max_size=4))
def test_the_engine_is_greedy(folder: Path, texts: list[str]) -> None:
    engine = ts.open_tokenizer(folder / "units.tess")
    vocab = {text: number for text, number in engine.vocabulary().items() if text != "<unk>"}
    found = engine.encode(texts)
    assert [row[mask].tolist() for row, mask in zip(found.ids, found.mask, strict=True)] == [greedy(t, vocab) for t in texts]


def test_the_file_says_what_it_is(folder: Path) -> None:
    found = ts.load_tokenizer(folder / "units.json")
    assert found.model.name == "longest"
    assert found.split == ()
    text = "ab " * 100_000
    assert np.asarray(ts.open_tokenizer(folder / "units.tess").encode([text]).count).tolist() == [
        len(greedy(text, dict(ts.open_tokenizer(folder / "units.tess").vocabulary())))
    ]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("longest=0", r"E1002.*`longest` of `train` must be int or none of at least 1"),
        ("memorize=1.5", r"E1002.*`memorize` is a share, from 0 to 1, but is 1.5"),
        ("step=-0.1", r"E1002.*`step` of `train` must be"),
        ("min_frequency=2", r"E1002.*has no option `min_frequency`"),
        ("listed=true, life=3", r"E1002.*a lexicon that is listed is not learnt"),
    ],
)
def test_options_that_do_not_fit(option: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "units.tess").write_text(SPEC.replace("epochs=30", option))
    (tmp_path / "lines.txt").write_text("ab")
    with pytest.raises(Diagnostic, match=message):
        ts.train_tokenizer(tmp_path / "units.tess")


def test_a_lexicon_may_be_listed(tmp_path: Path) -> None:
    source = re.sub(r"\(key=.*?\)|\(epochs=.*?\)", "(listed=true)", SPEC)
    assert "listed" in source
    (tmp_path / "units.tess").write_text(source)
    (tmp_path / "lines.txt").write_text("ev\nevler\nler\nev\nde\n")
    ts.train_tokenizer(tmp_path / "units.tess")
    engine = ts.open_tokenizer(tmp_path / "units.tess")
    assert {"ev", "evler", "ler", "de", "e", "v", "l", "r", "d"} <= set(engine.vocabulary())
    ids = engine.vocabulary()
    assert engine.encode(["evlerde", "delerv"]).ids.tolist() == [
        [ids["evler"], ids["de"], 0], [ids["de"], ids["ler"], ids["v"]]
    ]  # fmt: skip


def test_a_corpus_without_a_letter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "units.tess").write_text(SPEC)
    (tmp_path / "lines.txt").write_text("\n\n")
    with pytest.raises(Diagnostic, match=r"E1010.*the corpus is empty"):
        ts.train_tokenizer(tmp_path / "units.tess")


def test_a_letter_without_a_unit_and_no_unknown_is_refused(tmp_path: Path) -> None:
    (tmp_path / "units.tess").write_text(SPEC.replace('    special "<unk>" = 0\n', ""))
    (tmp_path / "lines.txt").write_text("ab\n" * 40)
    ts.train_tokenizer(tmp_path / "units.tess")
    with pytest.raises(Diagnostic, match=r"E1007"):
        ts.open_tokenizer(tmp_path / "units.tess").encode(["abc"])
