"""Trains what tests/seeds/test_meta_tokens.py asks, some minutes a model on one core: lists of items, each ended by its name and
the meta-token, and behind them names that ask for the last item of their list.

    python -m tessera.tests.seeds.recalling tests/seeds/data
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts

from .texts import fit, weights_of

ITEMS, NAMES = 16, 64
# Behind items and names the token that asks; behind the vocabulary the meta-token.
ASK = ITEMS + NAMES
META = ASK + 1
# Steps, tokens, rows, questions in each, and from how many up to how many items a list has: short texts are learned first.
COURSE = ((500, 64, 32, 9, 1, 4), (300, 128, 16, 16, 2, 8), (250, 256, 8, 32, 2, 12))


def lists(
    count: int, length: int, rng: np.random.Generator, asked: int = 8, least: int = 2, most: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """``i64[count, length]`` token ids, and which of them are answers."""
    ids, answers = np.zeros((count, length), np.int64), np.zeros((count, length), bool)
    for row in range(count):
        last, text = {}, list[int]()
        for name in (rng.permutation(NAMES) + ITEMS).tolist():
            items = rng.integers(0, ITEMS, rng.integers(least, most)).tolist()
            if len(text) + len(items) + 2 > length - 4 * asked:
                break
            last[name] = items[-1]
            text += [*items, name, META]
        # In front stand items of no list.
        text = [*rng.integers(0, ITEMS, length - 4 * asked - len(text)).tolist(), *text]
        for name in rng.choice(list(last), asked).tolist():
            text += [ASK, name, META, last[name]]
        ids[row] = text
        answers[row, length - 4 * asked + 3 :: 4] = True
    return ids, answers


def begun(form: str, seed: int) -> dict[str, np.ndarray]:
    """Weights to begin with. The biases of queries and keys of the first attention are 1, so that it looks at what is near; in the
    second one queries and keys are alike, so that what is alike finds itself."""
    found = {}
    for i, (name, p) in enumerate(ts.load("meta_tokens", "meta_lm", params={"form": form}).graph.params.items()):
        size = [int(d) for d in p.type.shape]
        if len(size) > 1:
            found[name] = np.random.default_rng([seed, i]).normal(0, size[-1] ** -0.5, size).astype(np.float32)
        else:
            found[name] = np.full(size, 0 if name.endswith("bias") and ".attn." not in name else 1, np.float32)
    for name in found:
        if name.endswith("meta.k.weight"):
            found[name] = found[name.replace("k.weight", "q.weight")].copy()
    return found


def trained(form: str, seed: int) -> dict[str, np.ndarray]:
    """The weights after the course."""
    import torch
    import torch.nn.functional as F

    from tessera.backends.torch import build

    net = build(ts.load("meta_tokens", "meta_lm", params={"form": form}), begun(form, seed), trainable=True)
    rng = np.random.default_rng(seed)
    stages = [stage for stage in COURSE for _ in range(stage[0])]

    def loss_of(step: int) -> Any:
        _, length, rows, *how = stages[step]
        ids, answers = lists(rows, length, rng, *how)
        logits = net(ids=torch.as_tensor(ids))["logits"][:, :-1]
        asked = torch.as_tensor(answers[:, 1:])
        loss = F.cross_entropy(logits[asked], torch.as_tensor(ids[:, 1:])[asked])
        if step % 100 == 0:
            print(form, seed, step, round(float(loss.detach()), 3), flush=True)
        return loss

    fit(net, loss_of, len(stages), 3e-3)
    return weights_of(net)


def recalled(artifact: Any, length: int, count: int = 32, seed: int = 99) -> float:
    """The share of questions that are answered rightly."""
    ids, answers = lists(count, length, np.random.default_rng(seed))
    found = np.asarray(artifact(ids=ids)["logits"]).argmax(-1)
    return float((found[:, :-1] == ids[:, 1:])[answers[:, 1:]].mean())


if __name__ == "__main__":
    from safetensors.numpy import save_file

    for form in ("masked", "open"):
        kept = {name: value.astype(np.float16) for name, value in trained(form, 0).items()}
        save_file(kept, Path(sys.argv[1], f"meta_tokens_{form}.safetensors"))
