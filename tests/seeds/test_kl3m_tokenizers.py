"""KL3M: what a card asks of `seeds/kl3m_tokenizers`, trained here on man pages."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

from .texts import corpus

TARGETS = ("torch", "onnx")
SEED = (Path(ts.__file__).parent / "specs/seeds/kl3m_tokenizers.tess").read_text(encoding="utf-8")
# The same of a quarter of the size, which as much less text gives.
SMALL = SEED.replace("SIZE = 8192", "SIZE = 2048")
# They go when the tests end.
FOLDERS: list[TemporaryDirectory[str]] = []
# Letters that a reader of scans takes for one another.
LIKE = dict(zip("l1O0ecnumhbijrtS5B8gqvyofa", "1l0Ocomnnbhaitf5S8Bqgyvcti", strict=True))
PIPELINE = """
## Texts as vectors of their domain.
pipeline embed(texts: text[B]) -> float[B, 64] {
    found = domain(texts)
    return vectors(found.ids, found.mask)
}
"""


def text_of(kind: str, held_back: bool = False, most: int = 1 << 20) -> str:
    return corpus(kind, held_back, most).tobytes().decode("utf-8", "replace")


@cache
def trained(source: str, name: str, kind: str, most: int) -> Path:
    """The seed in a folder of its own, where ``name`` was trained."""
    FOLDERS.append(TemporaryDirectory(prefix="kl3m-"))
    folder = Path(FOLDERS[-1].name)
    (folder / "domain").mkdir()
    (folder / "domain/all.txt").write_text(text_of(kind, most=most), encoding="utf-8")
    path = folder / "kl3m.tess"
    path.write_text(source, encoding="utf-8")
    ts.train_tokenizer(path, name=name)
    return path


def small() -> Path:
    return trained(SMALL, "domain", "english", 1 << 19)


def test_the_size_is_a_power_of_two_and_each_injected_text_is_one_token() -> None:
    tokenizer = ts.load_tokenizer(small(), name="domain")
    engine = ts.open_tokenizer(small(), name="domain")
    assert engine.size == 2048 == len(engine.vocabulary())
    injected = [token for token in tokenizer.added if not token.special]
    assert {"  ", "\n\n\n", "</table>", "1776", "2049", "10", "999", "(viii)", "U.S.C."} <= {token.text for token in injected}
    assert engine.encode([token.text for token in injected], around=False).ids.tolist() == [[token.id] for token in injected]
    assert len(injected) > 1373


def test_the_file_alone_gives_the_same_ids() -> None:
    from tokenizers import Tokenizer

    lines = text_of("english", held_back=True, most=1 << 19).split("\n")[:500]
    engine = ts.open_tokenizer(small(), name="domain")
    found = engine.encode(lines)
    again = Tokenizer.from_file(str(small().parent / "kl3m_domain.json"))
    for row, mask, line in zip(found.ids, found.mask, lines, strict=True):
        assert row[mask].tolist() == again.encode(line).ids
    # Padding stands in front.
    assert (np.diff(found.mask.astype(int), axis=1) >= 0).all()
    assert engine.decode([[*map(int, row[mask])] for row, mask in zip(found.ids, found.mask, strict=True)]) == [
        again.decode(again.encode(line).ids).encode() for line in lines
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_ids_choose_rows_of_a_compiled_embedding(target: str, tmp_path: Path) -> None:
    path = small().with_name(f"embed_{target}.tess")
    path.write_text(SMALL + PIPELINE, encoding="utf-8")
    texts = ["ls lists files", "the terminal is reset", "<p>1984</p>\n\n"]
    rows = np.random.default_rng(0).standard_normal((2048, 64)).astype(np.float32)
    run = ts.compile(ts.load(path, model="embed"), target=target, weights={"tokens.weight": rows})
    engine = ts.open_tokenizer(small(), name="domain")
    found = engine.encode(texts)
    wanted = np.stack([rows[ids[mask]].mean(0) for ids, mask in zip(found.ids, found.mask, strict=True)])
    np.testing.assert_allclose(np.asarray(run(texts=texts)["output"]), wanted, atol=1e-5)


def boundaries(path: Path, size: int) -> tuple[float, float]:
    """F1 of the boundaries of lines and of the same lines with slips, and how many boundaries a slip moves."""
    rng = np.random.default_rng(0)
    lines = [line for line in text_of("english", held_back=True).split("\n") if len(line) > 30]
    slips = [[c in LIKE and rng.random() < 0.09 for c in line] for line in lines]
    read = ["".join(LIKE[c] if s else c for c, s in zip(line, row, strict=True)) for line, row in zip(lines, slips, strict=True)]
    engine = ts.open_tokenizer(path, name="characters", size=size)
    clean, noisy = (
        [set(ends[:count, 1].tolist()) for ends, count in zip(found.offsets, found.count, strict=True)]
        for found in map(engine.encode, (lines, read))
    )
    both = sum(len(a & b) for a, b in zip(clean, noisy, strict=True))
    moved = sum(len(a ^ b) for a, b in zip(clean, noisy, strict=True))
    return 2 * both / (2 * both + moved), moved / sum(map(sum, slips))


@pytest.mark.slow
def test_tokens_of_three_characters_move_less_than_merged_pairs() -> None:
    short = trained(SEED, "characters", "english", 1 << 21)
    free = trained(SEED.replace(" (longest=3)", ""), "characters", "english", 1 << 21)
    longest = {path: max(map(len, vocabulary(path))) for path in (short, free)}
    assert longest[short] == 3 < longest[free]
    for size in (2048, 4096):
        (few, moved), (more, others) = boundaries(short, size), boundaries(free, size)
        print(f"{size}: F1 {few:.3f} and {more:.3f}, {moved:.2f} and {others:.2f} boundaries a slip")
        assert few >= more + 0.05
        assert moved < others


def vocabulary(path: Path) -> list[str]:
    engine = ts.open_tokenizer(path, name="characters")
    return [token for token in engine.vocabulary() if not token.startswith("<|")]


@pytest.mark.slow
def test_a_domain_takes_fewer_tokens_than_another_one() -> None:
    half = SEED.replace("SIZE = 8192", "SIZE = 4096")
    held = text_of("english", held_back=True, most=1 << 21).split("\n")
    count = {}
    for kind in ("english", "python"):
        engine = ts.open_tokenizer(trained(half, "domain", kind, 1 << 21), name="domain")
        assert engine.size == 4096
        count[kind] = int(engine.encode(held).count.sum()) / sum(map(len, held))
    print({kind: f"{each:.4f} tokens a character" for kind, each in count.items()})
    assert count["english"] <= 0.92 * count["python"]


BAD = {
    "too few tokens for the bytes": (("SIZE - 1373", "260"), r"E1005.*260 tokens are fewer than the 256 bytes"),
    "less than what is trained": (("SIZE = 2048", "SIZE = 1024"), r"E1002.*`vocab` of `model bpe` must be"),
    "a target below it": (("of=SIZE", "of=2000"), r"E1005.*the vocabulary has 20\d\d tokens, which is more than 2000"),
    "a text twice": (('"[^"', '"**"'), r"E1005.*`\*\*` is declared twice"),
    "a special token twice": (('"</\\|user\\|>"', '"<|user|>"'), r"E1005.*is declared twice"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_refused(bad: str, tmp_path: Path) -> None:
    (old, new), message = BAD[bad]
    assert old.replace("\\", "") in SMALL
    path = tmp_path / "kl3m.tess"
    path.write_text(SMALL.replace(old.replace("\\", ""), new), encoding="utf-8")
    (tmp_path / "domain").mkdir()
    (tmp_path / "domain/all.txt").write_text(text_of("english", most=1 << 19), encoding="utf-8")
    with pytest.raises(Diagnostic, match=message):
        ts.train_tokenizer(path, name="domain")
    assert not (tmp_path / "kl3m_domain.json").exists()


def test_composing_characters_is_not_left_out_of_a_graph() -> None:
    head = "model ids(text: u8[B, N], count: i64[B]) -> (ids: i64[B, N]) {"
    model = head + "\n    ids, n = domain(text, count, length=N)\n    return ids\n}\n"
    path = small().with_name("inside.tess")
    path.write_text(SMALL + model, encoding="utf-8")
    with pytest.raises(Diagnostic, match=r"E1012.*nfkc"):
        ts.load(path, model="ids")
