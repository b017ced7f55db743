"""Trains a model and its draft for specs/seeds/dyspec.tess on the bytes of Python's own library, some minutes on one core:

    python -m tessera.tests.seeds.dyspec_training tests/seeds/data
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import numpy as np

SIZES = {
    "model": {"vocab": 128, "dim": 64, "depth": 2, "heads": 4, "groups": 2},
    "draft": {"vocab": 128, "dim": 32, "depth": 1, "heads": 2, "groups": 1},
}
LENGTH = 64


def text(part: int) -> np.ndarray:
    """ASCII of a third of the modules of the standard library, one after another; the last is not trained on."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("*.py"))[part::3]
    raw = b"\n\n".join(file.read_bytes() for file in files)
    return np.frombuffer(bytes(byte for byte in raw if byte < 128), np.uint8).astype(np.int64)


def train(which: str, steps: int, batch: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """The weights after so many steps, in f16."""
    import torch

    import tessera as ts
    from tessera.backends.torch import build

    torch.manual_seed(seed)
    module = ts.load("dyspec", "reader", params=SIZES[which])
    rng = np.random.default_rng(seed)
    start = {}
    for name, p in module.graph.params.items():
        size = [int(d) for d in p.type.shape]
        start[name] = (rng.normal(0, 0.05, size) if len(size) > 1 else np.full(size, 1.0)).astype(np.float32)
    model = build(module, start, trainable=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
    data = np.concatenate([text(0), text(1)])
    for step in range(steps):
        places = rng.integers(0, len(data) - LENGTH - 1, batch)
        rows = torch.as_tensor(np.stack([data[p : p + LENGTH + 1] for p in places]))
        scores = model(input_ids=rows[:, :-1], sizes={"C": LENGTH})["logits"]
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(which, step, round(loss.item(), 3), flush=True)
    return {name: p.detach().numpy().astype(np.float16) for name, p in model.named_parameters()}


if __name__ == "__main__":
    from safetensors.numpy import save_file

    for which, steps in (("draft", 700), ("model", 1000)):
        save_file(train(which, steps), Path(sys.argv[1], f"dyspec_{which}.safetensors"))
