"""A small decoder with weights that a test knows, compiled once for each target, and what it makes without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

import tessera as ts

TARGETS = ("torch", "onnx")
VOCAB = 64
WORDS = ["<s>", "</s>", *(f"w{i}" for i in range(2, VOCAB))]


def words(folder: Path) -> Path:
    """A tokenizer.json of the words w2 to w63; the text of ids has spaces between them."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<s>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<s>", "</s>"])
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path


def said(tokens: Sequence[int]) -> str:
    """The text of what is made, up to the token that ends it."""
    ends = tokens.index(1) if 1 in tokens else len(tokens)
    return "".join(f" {WORDS[i]}" for i in tokens[:ends])


def weights(program: ts.Program, seed: int, scale: float = 0.4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: (scale * rng.standard_normal([int(d) for d in p.type.shape])).astype(np.float32)
        for name, p in program.parameters().items()
    }


@cache
def decoder(target: str, seed: int = 0, **params: int) -> Any:
    """The program, ready to run; another seed is another model."""
    program = ts.load("dyspec", params=params)
    return ts.compile(program, target=target, weights=weights(program, seed), verify=False).program


@cache
def whole(seed: int = 0) -> Any:
    """The model that reads everything anew for each token, with the same weights."""
    program = ts.load("dyspec")
    model = ts.load("dyspec", "reader")
    return ts.compile(model, target="torch", weights=weights(program, seed), verify=False)


def scores(ids: Sequence[int], seed: int = 0) -> np.ndarray:
    """Scores [T, V] after each token."""
    found: np.ndarray = whole(seed)(input_ids=[list(ids)], sizes={"C": 128})["logits"][0]
    return found


def greedy(ids: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """The best tokens after a prompt, one after the other."""
    out = [int(i) for i in ids]
    for _ in range(count):
        out.append(int(scores(out, seed)[-1].argmax()))
    return out[len(ids) :]


def prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[int(i) for i in rng.integers(0, VOCAB, n)] for n in lengths]
