"""Trains the model of specs/seeds/tokenselect.tess to copy what stands behind a key, on texts of up to 512 tokens:

    python -m tessera.tests.seeds.tokenselect_training tests/seeds/data/tokenselect.safetensors
"""

from __future__ import annotations

import sys

import numpy as np

SIZES = {"vocab": 81, "dim": 64, "depth": 2, "heads": 8, "groups": 2, "size": 16}
LENGTH = 512
# Words that mean nothing, keys, and values: the four behind a key are of four kinds, each one of eight. ASK stands before a key
# that is asked for.
NOISE, KEYS, PLACES, CHOICES = 32, 16, 4, 8
ASK = NOISE + KEYS + PLACES * CHOICES
RECORDS = 8
# Lengths of texts, each for so many steps.
STAGES = ((128, 1100), (256, 100), (LENGTH, 150))


def records(rng: np.random.Generator, *, distinct: bool = False) -> np.ndarray:
    """Keys, each with four values behind it [8, 5]; `distinct`: no two of them have a value in common.

    Where they never had one, a model would learn to leave out what it has answered before, and nothing else.
    """
    keys = NOISE + rng.permutation(KEYS)[:RECORDS]
    rows = [
        rng.permutation(CHOICES)[:RECORDS] if distinct else rng.integers(0, CHOICES, RECORDS) for _ in range(PLACES)
    ]
    values = NOISE + KEYS + np.arange(PLACES) * CHOICES + np.stack(rows, axis=1)
    return np.concatenate([keys[:, None], values], axis=1)


def spread(rng: np.random.Generator, pieces: list[np.ndarray], length: int) -> np.ndarray:
    """The pieces in that order, with noise between them, in ``length`` tokens."""
    free = length - sum(len(piece) for piece in pieces)
    gaps = np.diff(np.sort(rng.integers(0, free + 1, len(pieces))), prepend=0)
    parts = [part for gap, piece in zip(gaps, pieces, strict=True) for part in (rng.integers(0, NOISE, gap), piece)]
    text = np.concatenate(parts)
    return np.concatenate([text, rng.integers(0, NOISE, length - len(text))])


def text(rng: np.random.Generator, length: int) -> np.ndarray:
    """Records, and behind them questions for all of them with their answers."""
    told = records(rng)
    asked = [np.concatenate([[ASK], row]) for row in rng.permutation(told)]
    half = length // 2
    return np.concatenate([spread(rng, list(told), half), spread(rng, asked, length - half)])


def passkey(rng: np.random.Generator, length: int, before: int, behind: int) -> tuple[np.ndarray, np.ndarray]:
    """A text that ends with the begin of one of its records, which lie at least so far from its own ends; what is left of it."""
    told = records(rng, distinct=True)
    middle = spread(rng, list(told), length - before - behind)
    noise = rng.integers(0, NOISE, before + behind)
    asked = told[rng.integers(0, RECORDS)]
    question = np.array([ASK, *asked[:2]])
    return np.concatenate([noise[:before], middle, noise[before : -len(question)], question]), asked[2:]


def train(stages: tuple[tuple[int, int], ...] = STAGES, batch: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """The weights, in f16, after stages of (length, steps)."""
    import torch

    import tessera as ts
    from tessera.backends.torch import build

    torch.set_num_threads(1)
    module = ts.load("tokenselect", "whole", params=SIZES)
    rng = np.random.default_rng(seed)
    start = {}
    for name, p in module.graph.params.items():
        size = [int(d) for d in p.type.shape]
        start[name] = (rng.normal(0, size[-1] ** -0.5, size) if len(size) > 1 else np.ones(size)).astype(np.float32)
    model = build(module, start, trainable=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=sum(n for _, n in stages), pct_start=0.5
    )
    step = 0
    for length, steps in stages:
        for _ in range(steps):
            rows = torch.as_tensor(np.stack([text(rng, length) for _ in range(max(2, batch * 128 // length))]))
            scores = model(input_ids=rows[:, :-1])["logits"]
            # Answers are what stands behind a question's key.
            wanted = rows[:, 1:].clone()
            wanted[wanted < NOISE + KEYS] = -100
            wanted[wanted == ASK] = -100
            wanted[:, : length // 2 - 1] = -100
            loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), wanted.flatten(), ignore_index=-100)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 100 == 0:
                told = wanted != -100
                right = (scores.argmax(-1) == wanted)[told].float().mean()
                print(length, step, round(loss.item(), 3), round(right.item(), 3), flush=True)
            step += 1
    return {name: p.detach().numpy().astype(np.float16) for name, p in model.named_parameters()}


if __name__ == "__main__":
    from safetensors.numpy import save_file

    save_file(train(), sys.argv[1])
