"""Pages of scikit-learn's digits on blank canvas, and the reader of `seeds/correlation_guided_compression` that is trained on them.

    python -m tessera.tests.seeds.reading      # trains for about a minute, writes tests/seeds/data/reading.safetensors
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts

WEIGHTS = Path(__file__).parent / "data" / "reading.safetensors"
SEED = "correlation_guided_compression"
ROWS, COLUMNS, CELLS = 2, 4, 4
# How many of the 16 cells of a sub-image hold a digit: pages are blank in part, and full in part.
FILLED = (0, 0, 0, 1, 2, 4, 8, 16)
BLANK = 10


@cache
def digits(held_back: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 8, 8] from 0 to 1 and their classes: every third one is held back from training."""
    from sklearn.datasets import load_digits

    data = load_digits()
    mine = (np.arange(len(data.target)) % 3 == 0) == held_back
    return data.images[mine].astype(np.float32) / 16, data.target[mine]


def pages(count: int, seed: int, *, held_back: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pages [count, 64, 128] of 2 x 4 sub-images of 4 x 4 cells, and the class [count, 128] of every token; 10 is blank."""
    rng = np.random.default_rng(seed)
    images, classes = digits(held_back)
    subs = ROWS * COLUMNS
    filled = rng.permuted(np.tile(FILLED, (count, 1)), axis=1)
    order = rng.random((count, subs, CELLS * CELLS)).argsort(-1)
    chosen = rng.integers(0, len(classes), order.shape)
    there = order < filled[..., None]
    label = np.where(there, classes[chosen], BLANK)
    ink = np.where(there[..., None, None], images[chosen], 0).astype(np.float32)
    grid = ink.reshape(count, ROWS, COLUMNS, CELLS, CELLS, 8, 8).transpose(0, 1, 3, 5, 2, 4, 6)
    return grid.reshape(count, ROWS * CELLS * 8, COLUMNS * CELLS * 8), label.reshape(count, -1)


def reader(how: str, **params: Any) -> Any:
    return ts.load(SEED, model="page_reader", params={"how": how, **params})


def train(steps: int = 300, batch: int = 24) -> dict[str, np.ndarray]:
    """The weights of a reader that keeps every token; its class tokens learn which digits are in their sub-image."""
    import torch
    import torch.nn.functional as F

    from tessera.backends.torch import build

    torch.manual_seed(0)
    module = reader("all")
    net = build(module, None, trainable=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        page, label = pages(batch, step + 1, held_back=False)
        out = net(page=torch.as_tensor(page))
        target = torch.as_tensor(label)
        there = F.one_hot(target.reshape(batch, ROWS * COLUMNS, -1), BLANK + 1).amax(2)[..., :BLANK].float()
        loss = F.cross_entropy(out["scores"].flatten(0, 1), target.flatten())
        loss = loss + F.binary_cross_entropy_with_logits(out["there"], there)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(step, float(loss.detach()))
    return {name: p.detach().numpy() for name, p in net.state_dict().items()}


if __name__ == "__main__":
    from safetensors.numpy import save_file

    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file(train(), WEIGHTS)
