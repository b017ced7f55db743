"""Trains the small segmenter of specs/seeds/expediting_vit.tess on generated masks, about a minute on one core:

    python -m tessera.tests.seeds.expediting_vit_training tests/seeds/data/expediting_vit.safetensors
"""

from __future__ import annotations

import sys

import numpy as np

CLASSES, SIZE, PATCH = 4, 64, 4


def scenes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 3, 64, 64] of discs, boxes and stripes over a noisy ground, and the class of each patch [N, 256]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    images = rng.normal(0, 0.6, (count, 3, SIZE, SIZE)) + rng.normal(0, 0.5, (count, 3, 1, 1))
    masks = np.zeros((count, SIZE, SIZE), np.int64)
    for i in range(count):
        for _ in range(int(rng.integers(3, 7))):
            kind = int(rng.integers(1, CLASSES))
            cy, cx, r = rng.integers(8, SIZE - 8), rng.integers(8, SIZE - 8), rng.integers(6, 15)
            inside = [None, (y - cy) ** 2 + (x - cx) ** 2 < r * r, np.maximum(abs(y - cy), abs(x - cx)) < r,
                      (abs(y - cy) < r) & (abs(x - cx) < r // 2 + 2)][kind]  # fmt: skip
            texture = [None, 0.9 * np.ones_like(y), -0.9 * np.ones_like(y), np.where((x + y) // 3 % 2, 1.2, -1.2)][kind]
            images[i] = np.where(inside, images[i] * 0.7 + texture * rng.uniform(0.7, 1.3, (3, 1, 1)), images[i])
            masks[i][inside] = kind
    patches = masks.reshape(count, SIZE // PATCH, PATCH, SIZE // PATCH, PATCH).transpose(0, 1, 3, 2, 4)
    patches = patches.reshape(count, (SIZE // PATCH) ** 2, PATCH * PATCH)
    counts = np.stack([(patches == c).sum(-1) for c in range(CLASSES)], axis=-1)
    return images.astype(np.float32), counts.argmax(-1)


def mean_iou(scores: np.ndarray, classes: np.ndarray) -> float:
    """The mean over classes of intersection over union, of patches."""
    found = scores.argmax(-1)
    both = [((found == c) & (classes == c)).sum() / ((found == c) | (classes == c)).sum() for c in range(CLASSES)]
    return float(np.mean(both))


def train(steps: int, batch: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """The weights after so many steps, by name."""
    import torch

    import tessera as ts
    from tessera.backends.torch import build

    torch.manual_seed(seed)
    module = ts.load("expediting_vit", model="expedit_segmenter")
    rng = np.random.default_rng(seed)
    sizes = {name: [int(d) for d in p.type.shape] for name, p in module.graph.params.items()}
    start = {
        name: (rng.normal(0, 0.05, size) if len(size) > 1 else np.full(size, float("norm" in name and "weight" in name)))
        for name, size in sizes.items()
    }
    model = build(module, {name: value.astype(np.float32) for name, value in start.items()}, trainable=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for step in range(steps):
        images, classes = scenes(batch, 1000 + step)
        scores = model(image=torch.as_tensor(images))["scores"]
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), torch.as_tensor(classes).flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(step, loss.item(), flush=True)
    return {name: p.detach().numpy() for name, p in model.named_parameters()}


if __name__ == "__main__":
    from safetensors.numpy import save_file

    save_file(train(500), sys.argv[1])
