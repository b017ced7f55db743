"""Trains the picture reader of specs/seeds/tokenflex.tess on scikit-learn's digits, half a minute on one core:

    python -m tessera.tests.seeds.tokenflex_training tests/seeds/data/tokenflex.safetensors
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

import tessera as ts

WEIGHTS = Path(__file__).parent / "data" / "tokenflex.safetensors"
SIDES, CHANCES = (2, 3, 4), (0.2, 0.3, 0.5)
STEPS, BATCH, RATE, DECAY = 2500, 32, 6e-3, 0.2
Arrays = dict[str, np.ndarray]


@cache
def digits(part: str) -> Arrays:
    """Pictures [N, 1, 8, 8] and labels of a part: 997 to ``train`` with, 200 beside them (``valid``), and 600 for the ``test``.

    Rate, decay and steps were chosen on three folds of the first two parts, with other seeds than the test's.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    mine = {"train": order[:997], "valid": order[997:1197], "test": order[1197:]}[part]
    return {"image": (data.images[mine, None] / 8 - 1).astype(np.float32), "label": data.target[mine]}


def drawn_sides(seed: int) -> Iterator[int]:
    """What `draw_side` draws for one step after another."""
    draw = ts.compile(ts.load("tokenflex", model="draw_side"), target="torch", verify=False)
    for step in range(STEPS):
        yield int(draw(seed=seed * STEPS + step)["side"])


def train(sides: Iterable[int], seed: int) -> Arrays:
    """The weights after ``STEPS`` steps, at each of which a picture becomes the next of ``sides`` tokens a side."""
    import torch

    from tessera.backends.torch import build

    torch.set_num_threads(1)
    model = build(ts.load("tokenflex", model="tokenflex"), seed=seed, trainable=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    data, rng = digits("train"), np.random.default_rng(seed)
    for _, side in zip(range(STEPS), sides, strict=False):
        rows = rng.integers(0, len(data["label"]), BATCH)
        logits = model(image=torch.as_tensor(data["image"][rows]), side=torch.ones(side))["logits"]
        loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(data["label"][rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def accuracy(weights: Arrays, side: int, part: str = "test") -> float:
    """The share of a part's digits that are read rightly from ``side`` tokens a side."""
    artifact = ts.compile(ts.load("tokenflex", model="tokenflex"), target="torch", weights=weights, verify=False)
    held = digits(part)
    logits = np.asarray(artifact(image=held["image"], side=np.ones(side, np.float32))["logits"])
    return float(np.mean(logits.argmax(1) == held["label"]))


if __name__ == "__main__":
    from safetensors.numpy import save_file

    save_file(train(drawn_sides(0), 0), sys.argv[1])
