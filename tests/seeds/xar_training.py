"""Trains the flows of specs/seeds/xar.tess on scikit-learn's digits, with noise in the context and without: minutes on one core:

    python -m tessera.tests.seeds.xar_training tests/seeds/data
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts

from .texts import fit, weights_of
from .tokenflex_training import Arrays, digits

CELLS, TOKENS = 4, 16
NOTHING = 10
STEPS, BATCH, RATE = 2000, 64, 4e-3


def noised(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator, cells: int = CELLS) -> dict[str, Any]:
    """Images [N, 8, 8] with a class, each entity's time in thousandths, and noise, as the models take them."""
    count = len(labels)
    time = np.rint(1000 / (1 + np.exp(-rng.standard_normal((count, cells))))).astype(np.int64)
    noise = rng.standard_normal((count, TOKENS, 4)).astype(np.float32)
    return {"image": images, "label": labels, "time": time, "noise": noise}


def train(model: str, steps: int, seed: int = 0, **params: Any) -> Arrays:
    """The weights of ``xar``, or of ``xar_behind``, whose context has no noise."""
    import torch

    from tessera.backends.torch import build

    torch.set_num_threads(1)
    net = build(ts.load("xar", model=model, params=params), seed=seed, trainable=True)
    data, rng = digits("train"), np.random.default_rng(seed)
    behind = {"slip": torch.zeros(BATCH, TOKENS, 4)} if model == "xar_behind" else {}

    def loss_of(step: int) -> Any:
        rows = rng.integers(0, len(data["label"]), BATCH)
        label = np.where(rng.random(BATCH) < 0.1, NOTHING, data["label"][rows])
        given = noised(data["image"][rows, 0], label, rng, params.get("cells", CELLS))
        made = net(**{name: torch.as_tensor(value) for name, value in given.items()}, **behind)
        return (made["velocity"] - made["target"]).square().mean()

    fit(net, loss_of, steps, RATE)
    return weights_of(net)


if __name__ == "__main__":
    from safetensors.numpy import save_file

    for model in ("xar", "xar_behind"):
        weights = {name: value.astype(np.float16) for name, value in train(model, STEPS).items()}
        save_file(weights, Path(sys.argv[1], f"{model}.safetensors"))
