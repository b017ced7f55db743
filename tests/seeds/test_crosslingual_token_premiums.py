"""Crosslingual token premiums: what a card asks of `seeds/crosslingual_token_premiums`, on man pages and messages of Django."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.driver.report.tokenizers import sizes_for
from tessera.ir.diagnostics import Diagnostic

from .catalogues import pages, parallel

TARGETS = ("torch", "onnx")
SEED = (Path(ts.__file__).parent / "specs/seeds/crosslingual_token_premiums.tess").read_text(encoding="utf-8")
# Languages with man pages of so many bytes, and what Django calls them where otherwise.
TRAINED = 90_000
LANGUAGES = (
    "da", "de", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "pt_BR", "ro", "ru", "sr", "sv", "tr", "uk", "zh_CN"
)  # fmt: skip
OTHERWISE = {"zh_CN": "zh_Hans"}
GRID = (724, 1024, 1448, 2048, 2896)
PAGED = ("de", "fr", "nl", "pt", "sv")
# They go when the tests end.
FOLDERS: list[TemporaryDirectory[str]] = []


@cache
def folder() -> Path:
    """The seed in a folder of its own, beside what it is trained on; skips where there are no man pages in many languages."""
    if any(sum(len(text.encode()) for text in pages(language).values()) < TRAINED for language in LANGUAGES):
        pytest.skip("no man pages in eighteen languages on this machine")
    FOLDERS.append(TemporaryDirectory(prefix="premiums-"))
    path = Path(FOLDERS[-1].name)
    for name in ("train", "pages"):
        (path / name).mkdir()
    for language in LANGUAGES:
        text = "\n".join(pages(language).values()).encode()[:TRAINED].decode("utf-8", "ignore")
        (path / f"train/{language}.txt").write_text(text, encoding="utf-8")
    for language in PAGED:
        (path / f"pages/{language}.txt").write_text("\n".join(said(language)), encoding="utf-8")
    (path / "premiums.tess").write_text(SEED, encoding="utf-8")
    return path / "premiums.tess"


@cache
def shared_pages() -> tuple[str, ...]:
    """The pages that there are in all of some languages."""
    return tuple(sorted(set.intersection(*(set(pages(language)) for language in PAGED))))


@cache
def said(language: str) -> list[str]:
    """The lines of these pages."""
    return [line for name in shared_pages() for line in pages(language)[name].split("\n") if line]


@cache
def messages() -> dict[str, list[str]]:
    """Messages that all languages have."""
    found = parallel(tuple(OTHERWISE.get(language, language) for language in LANGUAGES))
    return {language: found[OTHERWISE.get(language, language)] for language in LANGUAGES}


def engine(name: str, size: int | None = None, **params: Any) -> Any:
    """A tokenizer of the seed, trained."""
    declared = ts.load_tokenizer(folder(), name, params=params, tables=False)
    assert declared.source is not None
    if not (folder().parent / declared.source.path).exists():
        ts.train_tokenizer(folder(), name, params=params)
    return ts.open_tokenizer(folder(), name, size, params=params)


@cache
def curve() -> dict[str, dict[int, float]]:
    """How many tokens each language takes for the messages, at each size of the family."""
    return {
        language: {
            size: float(engine("grid", size, language=language).encode(rows).count.sum()) for size in GRID
        }
        for language, rows in messages().items()
    }  # fmt: skip


def variation(counts: np.ndarray) -> float:
    return float(counts.std() / counts.mean())


@cache
def best() -> tuple[dict[str, int], np.ndarray]:
    """The size of each language at the mean of what all take at 1448, and what they take at those."""
    mean = float(np.mean([row[1448] for row in curve().values()]))
    sizes = sizes_for(curve(), mean)
    counts = [engine("monolingual", language=name, vocab=v).encode(messages()[name]).count.sum() for name, v in sizes.items()]
    return sizes, np.array(counts)


@pytest.mark.slow
def test_a_size_for_each_language_makes_their_tokens_alike() -> None:
    fixed = np.array([row[1448] for row in curve().values()])
    sizes, counts = best()
    print(f"{len(messages()['de'])} messages: {variation(fixed):.4f} at 1448, {variation(counts):.4f} at {sorted(sizes.values())}")
    assert variation(counts) <= variation(fixed) / 4
    assert counts.mean() == pytest.approx(fixed.mean(), rel=0.01)


@pytest.mark.slow
def test_members_of_the_family_are_what_training_of_their_size_gives() -> None:
    own, member = (engine(name, size, language="tr") for name, size in (("monolingual", None), ("grid", 1448)))
    assert own.vocabulary() == member.vocabulary()
    assert own.encode(messages()["tr"]).ids.tolist() == member.encode(messages()["tr"]).ids.tolist()


@pytest.mark.slow
def test_tokens_over_words_are_fewer_and_more_alike() -> None:
    counts = {}
    for name in ("within_words", "superwords"):
        found = [engine(name, language=language).encode(said(language)) for language in PAGED]
        counts[name] = np.array([one.count.sum() for one in found])
    words, over = counts["within_words"], counts["superwords"]
    saved = 1 - over.sum() / words.sum()
    print(f"{len(shared_pages())} pages: {saved:.3f} fewer, {variation(words):.4f} and {variation(over):.4f}")
    assert saved >= 0.15
    assert variation(over) < variation(words)
    rows = said("pt")[:500]
    own = engine("superwords", language="pt")
    ids = own.encode(rows)
    kept = [row[mask].tolist() for row, mask in zip(ids.ids, ids.mask, strict=True)]
    assert own.decode(kept) == [row.encode() for row in rows]


@pytest.mark.slow
def test_the_second_stage_is_that_of_ids_as_characters() -> None:
    """Each piece of the split is cut as ordinary pairs over the ids of the first stage cut it."""
    declared = ts.load_tokenizer(folder(), "superwords", params={"language": "sv"}, tables=False)
    own = engine("superwords", language="sv")
    assert declared.source is not None
    model = json.loads((folder().parent / declared.source.path).read_text(encoding="utf-8"))["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    letters = {text: number for text, number in model["vocab"].items() if len(text) == 1}
    assert len(letters) == 256
    for row in said("sv")[:40]:
        found = own.encode([row])
        pieces: dict[int, list[str]] = {}
        names = {number: text for text, number in own.vocabulary().items()}
        for word, number in zip(found.words[0], found.ids[0], strict=True):
            pieces.setdefault(int(word), []).append(names[int(number)])
        for tokens in pieces.values():
            assert merged("".join(tokens), ranks) == tokens


def merged(text: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Pairs merged one by one, the lowest rank first, from the left."""
    parts = list(text)
    while len(parts) > 1:
        rank, place = min((ranks.get((a, b), len(ranks)), i) for i, (a, b) in enumerate(itertools.pairwise(parts)))
        if rank == len(ranks):
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_what_is_compiled_counts_and_finds_sizes_as_python_does(target: str) -> None:
    rows = {language: engine("monolingual", language=language).encode(messages()[language][:64]) for language in PAGED}
    mask = np.zeros((len(PAGED), 64, max(one.mask.shape[1] for one in rows.values())), bool)
    for place, one in enumerate(rows.values()):
        mask[place, :, : one.mask.shape[1]] = one.mask
    made = ts.compile(ts.load(folder(), model="premiums"), target=target)(mask=mask)
    counts = mask.sum((1, 2))
    assert np.asarray(made["tokens"]).tolist() == counts.tolist()
    np.testing.assert_allclose(np.asarray(made["premium"]), counts / counts.min(), rtol=1e-6)
    assert float(made["variation"]) == pytest.approx(variation(counts), rel=1e-4)
    tokens = np.array([[*row.values()] for row in curve().values()], np.float32)
    mean = np.float32(np.mean([row[1448] for row in curve().values()]))
    run = ts.compile(ts.load(folder(), model="sizes"), target=target)
    found = run(vocab=np.array(GRID, np.float32), tokens=tokens, target=mean)
    assert np.asarray(found["inside"]).all()
    assert np.round(np.asarray(found["size"])).tolist() == pytest.approx([*best()[0].values()], abs=1)
    # Nothing is guessed of what no size gives.
    far = run(vocab=np.array(GRID, np.float32), tokens=tokens, target=np.float32(1))
    assert not np.asarray(far["inside"]).any()
    assert not np.asarray(far["size"]).any()
    ids = rows["nl"].ids
    weights = np.random.default_rng(0).standard_normal((1448, 32)).astype(np.float32)
    read = ts.load(folder(), model="vectors", params={"vocab": 1448})
    vectors = ts.compile(read, target=target, weights={"tokens.weight": weights})
    np.testing.assert_array_equal(np.asarray(vectors(ids=ids)["output"]), weights[ids])


def test_sizes_lie_between_those_that_were_tried() -> None:
    assert sizes_for({"de": {1000: 8000.0, 4000: 4000.0}, "tr": {1000: 6000.0, 2000: 5000.0}}, 5656.854) == {"de": 2000, "tr": 1251}
    for target in (9000.0, 3000.0):
        with pytest.raises(Diagnostic) as caught:
            sizes_for({"de": {1000: 8000.0, 4000: 4000.0}}, target)
        assert caught.value.message == f"`de` takes between 4000 and 8000 tokens at the sizes that were tried, and never {target:g}"


@pytest.mark.parametrize("target", TARGETS)
def test_small_counts_come_out(target: str) -> None:
    mask = np.arange(24).reshape(2, 3, 4) % 3 != 0
    mask[1, 0] = False
    made = ts.compile(ts.load("seeds/crosslingual_token_premiums", model="premiums"), target=target)(mask=mask)
    assert np.asarray(made["tokens"]).tolist() == [8, 6]
    assert np.asarray(made["premium"]).tolist() == pytest.approx([8 / 6, 1])
    assert float(made["variation"]) == pytest.approx(1 / 7)


def test_a_declaration_is_as_many_tokenizers_as_its_parameters_say(tmp_path: Path) -> None:
    path = tmp_path / "sweep.tess"
    path.write_text(SEED, encoding="utf-8")

    def load(name: str, **params: Any) -> Any:
        return ts.load_tokenizer(path, name, params=params, tables=False)

    one = load("superwords", language="de", vocab=8192)
    assert (one.model["vocab"], one.training["within"], one.training.corpus) == (8192, 4096, "pages/de.txt")
    assert one.source.path == "superwords_de_8192.json"
    for params, code in (({}, "E0401"), ({"language": "de", "size": 1}, "E0403"), ({"language": 1}, "E0402")):
        with pytest.raises(Diagnostic) as caught:
            load("superwords", **params)
        assert caught.value.code == code
    with pytest.raises(Diagnostic, match="leaves nothing of 4096 trained tokens"):
        load("superwords", language="de", within=4096)
    with pytest.raises(Diagnostic, match="is outside of the project"):
        load("grid", language="../../de")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/xx.txt").touch()
    with pytest.raises(Diagnostic) as caught:
        ts.train_tokenizer(path, "monolingual", params={"language": "xx"})
    assert caught.value.code == "E1010"
