"""Labels for a router and how it learns from them, for specs/seeds/r2r.tess; the two models are those of `dyspec_training`.

    python -m tessera.tests.seeds.routing tests/seeds/data
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import tessera as ts

from .dyspec_training import text
from .texts import fit, weights_of

DATA = Path(__file__).parent / "data"
PROMPT, ANSWER, AHEAD = 40, 64, 32
Judge = Callable[[list[int], list[int]], bool]


def drawn(seed: int) -> dict[str, np.ndarray]:
    """Weights of a router that has learned nothing."""
    found = {}
    for i, (name, p) in enumerate(ts.load("r2r", "route").graph.params.items()):
        size = [int(d) for d in p.type.shape]
        std = size[-1] ** -0.5
        value = np.random.default_rng([seed, i]).normal(0, std, size) if len(size) > 1 else np.full(size, "norm" in name)
        found[name] = value.astype(np.float32)
    return found


@cache
def models() -> dict[str, np.ndarray]:
    """The weights of both models, by the names that they have in `pair`."""
    files = {"small": "dyspec_draft", "large": "dyspec_model"}
    return {
        f"{part}.{name}": value.astype(np.float32)
        for part, file in files.items()
        for name, value in load_file(DATA / f"{file}.safetensors").items()
    }


def known(seed: int = 0, trained: bool = False) -> dict[str, np.ndarray]:
    """The weights of both models and of a router that has learned or not."""
    router = load_file(DATA / "r2r_router.safetensors") if trained else drawn(seed)
    return {**models(), **{f"router.{name}": value.astype(np.float32) for name, value in router.items()}}


@cache
def pair(target: str, seed: int = 0, trained: bool = False) -> Any:
    """Both models and a router, ready to run."""
    return ts.compile(ts.load("r2r"), target=target, weights=known(seed, trained), verify=False).program


def prompts(part: int, count: int, seed: int = 0) -> list[list[int]]:
    """Places in a third of the standard library; the third 2 is not trained on."""
    data = text(part)
    places = np.random.default_rng(seed).integers(0, len(data) - PROMPT, count)
    return [[int(i) for i in data[p : p + PROMPT]] for p in places]


def rejoined(a: list[int], b: list[int], tail: int = 8) -> bool:
    """The judge, in place of a language model: whether two ways on have come together, so that the end of one is in the other."""
    def within(end: list[int], whole: list[int]) -> bool:
        return any(whole[i : i + tail] == end for i in range(len(whole) - tail + 1))

    return within(a[-tail:], b) or within(b[-tail:], a)


@dataclass(frozen=True)
class Labels:
    """Tokens of the large model's answers.

    Args:
        hidden, logits, token: what the router is given for each, [N, D], [N, V] and [N].
        other: whether the small model's token is another one.
        divergent: of these, whether the text goes on otherwise with it.
    """

    hidden: np.ndarray
    logits: np.ndarray
    token: np.ndarray
    other: np.ndarray
    divergent: np.ndarray


def continued(contexts: list[list[int]], count: int, rows: int = 256) -> list[list[int]]:
    """The large model's best tokens behind contexts of any lengths, many side by side."""
    found: list[list[int]] = []
    for start in range(0, len(contexts), rows):
        part = contexts[start : start + rows]
        lengths = np.asarray([len(ids) for ids in part])
        ids = np.zeros((len(part), lengths.max()), np.int64)
        for row, context in enumerate(part):
            ids[row, : len(context)] = context
        read = pair("torch").session(sizes={"B": len(part), "C": int(lengths.max()) + count}).large
        made = []
        for _ in range(count):
            ids = read(input_ids=ids, lengths=lengths, row=np.arange(len(part)))["logits"].argmax(-1)[:, None]
            lengths = np.ones(len(part), np.int64)
            made.append(ids[:, 0])
        found += np.stack(made, axis=1).tolist()
    return found


def labelled(given: list[list[int]], judge: Judge = rejoined) -> Labels:
    """The large model answers; where the small one would say something else, the large one goes on with that instead, and the judge
    says whether that comes to the same."""
    whole = [[*p, *more] for p, more in zip(given, continued(given, ANSWER + AHEAD), strict=True)]
    read = np.asarray(whole, np.int64)[:, : PROMPT + ANSWER - 1]
    found = pair("torch").prefill(input_ids=read, lengths=np.full(len(read), read.shape[1]), sizes={"C": read.shape[1]})
    logits, hidden = (found[name][:, PROMPT - 1 :] for name in ("logits", "hidden"))
    token = logits.argmax(-1)
    other = token != np.asarray(whole)[:, PROMPT : PROMPT + ANSWER]
    rows, places = np.nonzero(other)
    branches = [[*whole[row][: PROMPT + place], int(token[row, place])] for row, place in zip(rows, places, strict=True)]
    divergent = np.zeros(other.shape, bool)
    for row, place, way in zip(rows, places, continued(branches, AHEAD - 1), strict=True):
        own = whole[row][PROMPT + place : PROMPT + place + AHEAD]
        divergent[row, place] = not judge([int(token[row, place]), *way], own)
    flat = (hidden.reshape(-1, hidden.shape[-1]), logits.reshape(-1, logits.shape[-1]), token.ravel())
    return Labels(*flat, other.ravel(), divergent.ravel())


def learned(labels: Labels, seed: int, steps: int = 400, batch: int = 512) -> dict[str, np.ndarray]:
    """A router's weights after so many steps; both classes count alike."""
    import torch

    from tessera.backends.torch import build

    weight = float((~labels.divergent).sum() / max(labels.divergent.sum(), 1))
    net = build(ts.load("r2r", "routing_loss", params={"weight": weight}), drawn(seed), trainable=True)
    rng = np.random.default_rng(seed)

    def loss_of(step: int) -> Any:
        at = rng.integers(0, len(labels.token), batch)
        given = {name: torch.as_tensor(getattr(labels, name)[at]) for name in ("hidden", "logits", "token")}
        return net(**given, label=torch.as_tensor(labels.divergent[at].astype(np.float32)))["loss"]

    fit(net, loss_of, steps, 2e-3)
    return weights_of(net)


def entropy(logits: np.ndarray) -> np.ndarray:
    """Of the distributions that scores [N, V] stand for, in nats."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    found: np.ndarray = -(p * np.log(p + 1e-30)).sum(-1)
    return found


def agreement(wrong: np.ndarray, score: np.ndarray, rate: float = 0.2) -> float:
    """The share of tokens that are right once those of the highest scores are the large model's."""
    asked = np.argsort(-score, kind="stable")[: int(rate * len(score))]
    left = wrong.copy()
    left[asked] = False
    return float(1 - left.mean())


if __name__ == "__main__":
    from safetensors.numpy import save_file

    kept = learned(labelled([p for part in (0, 1) for p in prompts(part, 150)]), 0)
    save_file({name: value.astype(np.float16) for name, value in kept.items()}, Path(sys.argv[1], "r2r_router.safetensors"))
