"""MiniLM over the tokens of another tokenizer, made on man pages: what its sentences are like, whatever the new rows are made of.

    python -m tessera.tests.seeds.adapting      # trains the tokenizer, writes it, and prints the figures: some minutes
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import tessera as ts
from tessera.benchmarks.minilm_quality import cosine
from tessera.benchmarks.peers import minilm_folder
from tessera.driver.artifact import Artifact
from tessera.runtime.weights.recipes import Checkpoint

from .texts import corpus

SEED = Path(ts.__file__).parent / "specs/seeds/tokenadapt.tess"
PAGES = Path(__file__).parent / "data" / "pages.json"
TABLE = "embeddings.word_embeddings.weight"
# What `swap_tokenizer` is given for each way to make rows.
WAYS: dict[str, dict[str, Any]] = {
    "global": {"method": "transplant", "g": 1.0},
    "mean": {"method": "mean"},
    "local": {"method": "transplant", "g": 0.0},
    "hybrid": {"method": "transplant"},
}
# They go when the tests end.
FOLDERS: list[TemporaryDirectory[str]] = []


def empty_folder(name: str) -> Path:
    FOLDERS.append(TemporaryDirectory(prefix=name))
    return Path(FOLDERS[-1].name)


def write_corpus(folder: Path, kind: str = "english", most: int = 1 << 21) -> None:
    """The texts that tokenizers are trained on, as the seed has them beside it."""
    (folder / "domain").mkdir(exist_ok=True)
    text = corpus(kind, most=most).tobytes().decode("utf-8", "replace")
    (folder / "domain/all.txt").write_text(text, encoding="utf-8")


@cache
def folder() -> Path:
    """The seed beside its tokenizer and MiniLM's."""
    path = empty_folder("adapt-")
    copyfile(SEED, path / "adapt.tess")
    copyfile(PAGES, path / "pages.json")
    copyfile(minilm_folder() / "tokenizer.json", path / "tokenizer.json")
    return path


@cache
def weights() -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(minilm_folder() / "model.safetensors"))


def sentences(count: int, kind: str = "english", held_back: bool = True) -> list[str]:
    """Sentences of pages, in their order."""
    text = re.sub(r"\s+", " ", corpus(kind, held_back=held_back, most=1 << 21).tobytes().decode("utf-8", "replace"))
    found = [part.strip() for part in re.split(r"(?<=[.!?]) (?=[A-Z])", text)]
    return [part for part in found if 40 <= len(part) <= 300][:count]


def embed(run: Artifact, tokenizer: Path, texts: Sequence[str]) -> np.ndarray:
    """Embeddings f32[N, 384] of texts by a model over the tokens of a tokenizer."""
    engine = ts.open_tokenizer(tokenizer)
    # Those of one length are embedded together, so that little is filled up.
    order = np.argsort([len(text) for text in texts], kind="stable")
    found = np.zeros((len(texts), 384), np.float32)
    for start in range(0, len(texts), 64):
        some = order[start : start + 64]
        rows = engine.encode([texts[i] for i in some])
        length = int(rows.count.max())
        given = {"input_ids": rows.ids[:, :length], "attention_mask": rows.mask[:, :length].astype(np.int64)}
        found[some] = np.asarray(run(**given)["embedding"])
    return found


@cache
def original() -> Artifact:
    return ts.compile(ts.load("minilm"), target="onnx", weights=weights(), passes=[], verify=False)


def with_table(table: np.ndarray, target: str = "onnx") -> Artifact:
    """MiniLM with another table of tokens."""
    module = ts.load("minilm", params={"vocab": len(table)})
    return ts.compile(module, target=target, weights={**weights(), TABLE: table}, passes=[], verify=False)


@cache
def vectors(tokenizer: Path = PAGES) -> Path:
    """MiniLM's own embeddings of the tokens of a tokenizer and of its own: what TokenAdapt compares."""
    old = minilm_folder() / "tokenizer.json"
    return ts.embed_tokens(
        tokenizer, old, lambda texts: embed(original(), old, texts), empty_folder("phi-") / "phi.safetensors", batch=4096
    )


def table(way: str, tokenizer: Path = PAGES) -> np.ndarray:
    """The rows f32[N, 384] of a tokenizer's tokens, by one of the ways; ``random``: as large as those that there are."""
    if way == "random":
        return _at_random(table("mean", tokenizer), tokenizer)
    options = {**WAYS[way], **({"phi": str(vectors(tokenizer))} if WAYS[way]["method"] == "transplant" else {})}
    module = ts.apply(
        ts.load("minilm"), "swap_tokenizer", to=str(tokenizer), old=str(minilm_folder() / "tokenizer.json"), **options
    )
    return Checkpoint(weights()).value(module.recipes[TABLE], TABLE)


def both(tokenizer: Path = PAGES) -> dict[int, int]:
    """(its id, MiniLM's id) of the tokens that are written alike in both; both mark what continues a word by `##`."""
    mine, theirs = (
        ts.open_tokenizer(path).vocabulary() for path in (tokenizer, minilm_folder() / "tokenizer.json")
    )
    return {number: theirs[text] for text, number in mine.items() if text in theirs}


def _at_random(made: np.ndarray, tokenizer: Path) -> np.ndarray:
    old = weights()[TABLE]
    found = np.random.default_rng(0).normal(old.mean(0), old.std(0), made.shape).astype(np.float32)
    shared = list(both(tokenizer))
    found[shared] = made[shared]
    return found


def transferred(count: int, ways: Sequence[str], tokenizer: Path = PAGES) -> dict[str, float]:
    """The mean cosine of sentences to MiniLM's own embeddings, for each way to make rows."""
    texts = sentences(count)
    wanted = embed(original(), minilm_folder() / "tokenizer.json", texts)
    return {way: cosine(embed(with_table(table(way, tokenizer)), tokenizer, texts), wanted) for way in ways}


def fewer(kind: str) -> dict[str, float]:
    """Bytes a token of text held back, of words and of superwords, and how many tokens fewer the latter are, of texts of a kind."""
    path = empty_folder("super-")
    copyfile(SEED, path / "adapt.tess")
    write_corpus(path, kind)
    held = corpus(kind, held_back=True, most=1 << 21).tobytes().decode("utf-8", "replace").split("\n")
    counts = {}
    for name in ("words", "superwords"):
        ts.train_tokenizer(path / "adapt.tess", name=name)
        counts[name] = int(ts.open_tokenizer(path / "adapt.tess", name=name).encode(held).count.sum())
    size = sum(len(line.encode()) for line in held)
    return {**{name: size / count for name, count in counts.items()}, "fewer": 1 - counts["superwords"] / counts["words"]}


def main() -> None:
    path = empty_folder("pages-")
    copyfile(SEED, path / "adapt.tess")
    write_corpus(path)
    ts.train_tokenizer(path / "adapt.tess", name="pages")
    copyfile(path / "pages.json", PAGES)
    print(f"{len(both())} of {ts.open_tokenizer(PAGES).size} tokens are MiniLM's too")
    print(transferred(512, ["random", *WAYS]))
    for kind in ("english", "german", "python", "c"):
        print(kind, fewer(kind))


if __name__ == "__main__":
    main()
