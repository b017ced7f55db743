"""Trains the reader of specs/seeds/mergedna.tess on generated DNA, four minutes on one core:

    python -m tessera.tests.seeds.mergedna_training tests/seeds/data/mergedna.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tessera as ts

WEIGHTS = Path(__file__).parent / "data" / "mergedna.safetensors"
SIZES = {"window": 16, "dim": 48, "depth": 4, "latent_depth": 1, "heads": 3, "hidden": 96, "grouping": 8}
# The rate rises over the first 1,200 steps of CYCLE; it is enough to stop soon after.
STEPS, CYCLE, BATCH, LENGTH, RATE, DECAY = 1250, 4000, 4, 256, 3e-3, 0.01
LETTERS = np.frombuffer(b"ACGT", np.uint8)
# A vocabulary of words that sequences share.
WORD = 5
WORDS = LETTERS[np.random.default_rng(42).integers(0, 4, (16, WORD))]
KINDS = ("words", "random", "repeats")
Arrays = dict[str, np.ndarray]


class Dna(NamedTuple):
    """Sequences [B, N]: the letters; of which fragment each is (a word, a random stretch, a stretch of repeats); and its kind."""

    text: np.ndarray
    fragment: np.ndarray
    kind: np.ndarray


def sequences(count: int, length: int, seed: int) -> Dna:
    """Stretches of 20 to 59 letters: words one behind the other, letters at random, or a motif of two to four again and again."""
    rng = np.random.default_rng(seed)
    made = Dna(*(np.zeros((count, length + 128), dtype) for dtype in (np.uint8, np.int64, np.int64)))
    for row in range(count):
        at = fragment = 0
        while at < length:
            kind, n = int(rng.integers(0, 3)), int(rng.integers(20, 60))
            fragment += 1
            if kind == 0:
                piece = WORDS[rng.integers(0, len(WORDS), n // WORD)].reshape(-1)
                n = len(piece)
                numbers = fragment + np.arange(n) // WORD
                fragment += n // WORD
            else:
                piece = LETTERS[rng.integers(0, 4, n)] if kind == 1 else np.resize(LETTERS[motif(rng)], n)
                numbers = np.full(n, fragment)
            made.text[row, at : at + n], made.fragment[row, at : at + n], made.kind[row, at : at + n] = piece, numbers, kind
            at += n
    return Dna(*(part[:, :length] for part in made))


def motif(rng: np.random.Generator) -> list[int]:
    """Two to four letters of which no two beside each other are the same, nor the last and the first."""
    size = int(rng.integers(2, 5))
    found = [int(rng.integers(0, 4))]
    while len(found) < size:
        letter = int(rng.integers(0, 4))
        if letter != found[-1] and (len(found) < size - 1 or letter != found[0]):
            found.append(letter)
    return found


class Reading(NamedTuple):
    """How right letters are read, how long tokens are on average in each kind of stretch, and how many are of one fragment."""

    right: float
    spans: dict[str, float]
    pure: float


def reading(run: Any, dna: Dna) -> Reading:
    """What a compiled or opened `reader` makes of sequences with half as many tokens as letters."""
    left = dna.text.shape[1] // 2
    made = {name: np.asarray(value) for name, value in run(bytes=dna.text, target=np.ones(left, np.float32)).items()}
    right = float(np.mean(LETTERS[made["logits"][..., :4].argmax(-1)] == dna.text))
    return Reading(right, spans(made["source"], left, dna), purity(made["source"], left, dna))


def spans(source: np.ndarray, left: int, dna: Dna) -> dict[str, float]:
    """Letters a token, in each kind of stretch: a letter of a token of n is one n-th of a token."""
    size = np.stack([np.bincount(row, minlength=left) for row in source])
    share = 1 / np.take_along_axis(size, source, 1)
    return {name: float((dna.kind == k).sum() / share[dna.kind == k].sum()) for k, name in enumerate(KINDS)}


def purity(source: np.ndarray, left: int, dna: Dna) -> float:
    """The share of tokens whose letters are of one fragment."""
    pure = []
    for tokens, fragment in zip(source, dna.fragment, strict=True):
        lowest, highest = np.full(left, fragment.max() + 1), np.full(left, -1)
        np.minimum.at(lowest, tokens, fragment)
        np.maximum.at(highest, tokens, fragment)
        pure.append(np.mean(lowest == highest))
    return float(np.mean(pure))


def start(seed: int) -> tuple[Any, dict[str, Any]]:
    """The program as a network, with fresh weights, and those by name: tables of variance 1, products that keep lengths."""
    import torch

    from tessera.backends.torch import build_program

    network = build_program(ts.load("mergedna", params=SIZES), seed=seed, trainable=True)
    weights = {name: p for entry in network.children() for name, p in entry.named_parameters()}
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in weights.items():
            if p.ndim == 2:
                table = "embed" in name or "place" in name
                p.copy_(torch.randn(p.shape, generator=drawn) * (1.0 if table else p.shape[1] ** -0.5))
    return network, weights


def train(seed: int = 0) -> Arrays:
    """The weights after ``STEPS`` steps: the first pass at each, the second at every fourth, the third at every other one. The
    share of tokens that are left is normal about a half, within 0.4 and 0.6."""
    import torch

    torch.set_num_threads(1)
    network, weights = start(seed)
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=CYCLE)
    rng, drawn = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        left = int(np.clip(rng.normal(0.5, 0.05), 0.4, 0.6) * LENGTH)
        given = {"bytes": torch.as_tensor(sequences(BATCH, LENGTH, step).text), "target": torch.ones(left)}
        loss = network.first(**given)["loss"]
        if step and step % 4 == 0:
            loss = loss + 0.25 * network.second(**given)["loss"]
        if step % 2:
            loss = loss + network.third(**given, noise=torch.rand(BATCH, left, generator=drawn))["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        schedule.step()
    return {name: p.detach().numpy().copy() for name, p in weights.items()}


if __name__ == "__main__":
    from safetensors.numpy import save_file

    save_file(train(), sys.argv[1])
