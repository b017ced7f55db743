"""Trains what specs/seeds/hamburger.tess asks on Python source, some minutes on one core: a base, then all of it.

    python -m tessera.tests.seeds.smashing tests/seeds/data/hamburger.safetensors
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

import tessera as ts

from .dyspec_training import text
from .texts import fit, weights_of, windows

BASE = {"vocab": 128, "dim": 64, "depth": 4, "heads": 4}
SIZES = {**BASE, "taps": 4, "micro": 4, "most": 4}
# The base by itself, as the seed of DySpec has it.
PLAIN = {**BASE, "groups": 2}
LENGTH, PROMPT = 96, 16
# The published 0.3, for words of a large model, makes groups of 1.34 of a small model's bytes.
RULE = {"least": 0.05, "ratio": 0.7}


def without_grafts(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The base by itself, as the seed of DySpec names it."""
    return {n.removeprefix("base."): v for n, v in weights.items() if n.startswith("base.") or n in ("words", "head.weight")}


def drawn(module: Any, seed: int) -> dict[str, np.ndarray]:
    """Weights to begin with: groups are means, biases 0, norms 1."""
    found = {}
    for i, (name, p) in enumerate(module.graph.params.items()):
        size = [int(d) for d in p.type.shape]
        if len(size) == 1 or name == "composer.out.weight":
            found[name] = np.full(size, "norm" in name, np.float32)
        else:
            found[name] = np.random.default_rng([seed, i]).normal(0, size[-1] ** -0.5, size).astype(np.float32)
    return found


def read() -> np.ndarray:
    """The bytes that are trained on."""
    return np.concatenate([text(0), text(1)])


def based(seed: int, steps: int = 3000, batch: int = 8) -> dict[str, np.ndarray]:
    """A base that reads tokens one by one, under the names that it has in the seed."""
    import torch
    import torch.nn.functional as F

    from tessera.backends.torch import build

    module = ts.load("dyspec", "reader", params=PLAIN)
    net = build(module, drawn(module, seed), trainable=True)
    data, rng = read(), np.random.default_rng(seed)

    def loss_of(step: int) -> Any:
        rows = torch.as_tensor(windows(data, batch, LENGTH + 1, rng))
        scores = net(input_ids=rows[:, :-1], sizes={"C": LENGTH})["logits"]
        loss = F.cross_entropy(scores.flatten(0, 1), rows[:, 1:].flatten())
        if step % 500 == 0:
            print("base", step, round(float(loss.detach()), 3), flush=True)
        return loss

    fit(net, loss_of, steps, 4e-3)
    return {name if name in ("words", "head.weight") else f"base.{name}": value for name, value in weights_of(net).items()}


def groups(ids: np.ndarray, base: Mapping[str, np.ndarray], rows: int = 64) -> np.ndarray:
    """How many tokens each group of texts [N, T] has, 0 behind the last, by how sure the base is of them."""
    module = ts.load("hamburger", "cut", params={**BASE, **RULE, "prompt": PROMPT})
    cut = ts.compile(module, target="onnx", weights={name: base[name] for name in module.graph.params}, verify=False)
    lengths = np.concatenate([cut(ids=ids[i : i + rows])["lengths"] for i in range(0, len(ids), rows)])
    return lengths[:, : (lengths > 0).sum(1).max()]


def trained(
    base: Mapping[str, np.ndarray], seed: int, steps: int = 1600, batch: int = 8, rate: float = 2e-3
) -> dict[str, np.ndarray]:
    """The weights after so many steps; the base learns at half the rate of what is grafted on it, as published."""
    import torch

    from tessera.backends.torch import build

    torch.set_num_threads(1)
    module = ts.load("hamburger", "taught", params={**SIZES, "prompt": PROMPT})
    net = build(module, {**drawn(module, seed), **base}, trainable=True)
    rng = np.random.default_rng(seed)
    texts = windows(read(), min(steps * batch, 8000), LENGTH, rng)
    lengths = groups(texts, base)
    named = list(net.named_parameters())
    slow, fast = ([p for name, p in named if (name in base) == old] for old in (True, False))
    optimizer = torch.optim.AdamW([{"params": slow, "lr": rate / 2}, {"params": fast, "lr": rate}], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 50, 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
    )
    for step in range(steps):
        at = rng.integers(0, len(texts), batch)
        own = lengths[at]
        own = own[:, : (own > 0).sum(1).max()]
        found = net(ids=torch.as_tensor(texts[at]), lengths=torch.as_tensor(own))
        optimizer.zero_grad()
        found["loss"].backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            shown = [round(float(found[name].detach()), 3) for name in ("loss", "of_tokens", "of_ends")]
            print(step, *shown, f"{LENGTH * batch / (own > 0).sum():.2f} tokens a group", flush=True)
    return weights_of(net)


if __name__ == "__main__":
    from safetensors.numpy import save_file

    kept = trained(based(0), 0)
    save_file({name: value.astype(np.float16) for name, value in kept.items()}, sys.argv[1])
