"""Trains specs/seeds/setrec.tess on what Python files of this machine import, some minutes on one core, and says how it ranks:

    python -m tessera.tests.seeds.setrec_training
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import tessera as ts

from .imports import LENGTH, Imports, imports
from .texts import fit, weights_of
from .tokenflex_training import Arrays

STEPS, BATCH, RATE, ALPHA = 900, 64, 4e-3, 0.6


def histories(rows: Sequence[Sequence[int]], left: bool = False) -> Arrays:
    """Items i64[B, LENGTH] that are padded on one side, and which places have one."""
    items, present = np.zeros((len(rows), LENGTH), np.int64), np.zeros((len(rows), LENGTH), bool)
    for i, row in enumerate(rows):
        place = slice(LENGTH - len(row), LENGTH) if left else slice(0, len(row))
        items[i, place], present[i, place] = row, True
    return {"items": items, "present": present}


def train(data: Imports, steps: int = STEPS, seed: int = 0) -> Arrays:
    """The weights."""
    import torch

    from tessera.backends.torch import build

    net = build(ts.load("setrec", model="setrec_train"), seed=seed, trainable=True)
    rng = np.random.default_rng(seed)
    catalogue = {"cf": torch.as_tensor(data.cf), "embedding": torch.as_tensor(data.embedding)}

    def loss_of(step: int) -> Any:
        rows = [data.train[i] for i in rng.integers(0, len(data.train), BATCH)]
        at = [int(rng.integers(2, len(row))) for row in rows]
        given = histories([row[:i][-LENGTH:] for row, i in zip(rows, at, strict=True)])
        target = torch.as_tensor([row[i] for row, i in zip(rows, at, strict=True)])
        made = net(**{name: torch.as_tensor(value) for name, value in given.items()}, **catalogue)
        scores = made["scores"]
        ranking = torch.nn.functional.cross_entropy(scores.flatten(0, 1), target.repeat(len(scores)))
        return ranking + ALPHA * (made["back"] - catalogue["embedding"]).square().sum(1).mean()

    fit(net, loss_of, steps, RATE)
    return weights_of(net)


def best(data: Imports, weights: Arrays, rows: Sequence[Sequence[int]], beta: float, target: str = "onnx") -> np.ndarray:
    """The ten best modules behind each history, i64[B, 10]."""
    run = ts.compile(ts.load("setrec"), target=target, weights=weights, verify=False)
    found = [
        run(**histories(rows[i : i + 256]), cf=data.cf, embedding=data.embedding, beta=np.array(beta, np.float32))["best"]
        for i in range(0, len(rows), 256)
    ]
    return np.concatenate(found)


def by_count(data: Imports, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """The ten that most files import, of those that a history does not have."""
    counts = np.bincount([i for row in data.train for i in row], minlength=len(data.names)).astype(np.float32)
    return _ten(np.tile(counts, (len(rows), 1)), rows)


def by_use(data: Imports, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """The ten whose rows of collaborative filtering are nearest to the history's; one without takes the mean of the others."""
    length = np.linalg.norm(data.cf, axis=1, keepdims=True)
    unit = data.cf / np.maximum(length, 1e-9)
    scores = np.stack([unit @ unit[row].sum(0) for row in rows])
    cold = np.repeat(scores.mean(1, keepdims=True), len(data.names) - data.warm, axis=1)
    return _ten(np.concatenate([scores, cold], axis=1), rows)


def _ten(scores: np.ndarray, rows: Sequence[Sequence[int]]) -> np.ndarray:
    for i, row in enumerate(rows):
        scores[i, list(row)] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :10]


def recall(found: np.ndarray, wanted: Sequence[int]) -> float:
    """How often what came next is among the ten."""
    return float((found == np.asarray(wanted)[:, None]).any(1).mean())


def ranked(data: Imports, weights: Arrays, betas: Sequence[float]) -> dict[str, dict[str, float]]:
    """Recall@10 on warm and on cold modules: of counts, of collaborative filtering, and of the model by its ``beta``."""
    found: dict[str, dict[str, float]] = {}
    for part, cases in (("warm", data.test), ("cold", data.cold)):
        rows, wanted = [row for row, _ in cases], [next_ for _, next_ in cases]
        found[part] = {"count": recall(by_count(data, rows), wanted), "use": recall(by_use(data, rows), wanted)}
        for beta in betas:
            found[part][f"beta {beta}"] = recall(best(data, weights, rows, beta), wanted)
    return found


if __name__ == "__main__":
    modules = imports()
    print(len(modules.names), modules.warm, len(modules.train), len(modules.test), len(modules.cold))
    for part, measured in ranked(modules, train(modules), (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)).items():
        print(part, {name: round(value, 3) for name, value in measured.items()})
