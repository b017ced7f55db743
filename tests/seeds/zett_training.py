"""Trains the network of specs/seeds/zett.tess, a few minutes on one core, and says what it makes of other tokenizers:

    python -m tessera.tests.seeds.zett_training      # writes data/zett.safetensors, and prints the figures

Neighbours of one word are joined at random in sentences, which are to keep MiniLM's embedding. No other tokenizer is seen, and all
weights of MiniLM stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts
from tessera.benchmarks.peers import minilm_folder
from tessera.driver.artifact import Artifact
from tessera.runtime.weights.bind import initialise

from . import adapting
from .texts import fit, weights_of

NETWORK = Path(__file__).parent / "data" / "zett.safetensors"
STEPS, BATCH, RATE, PIECES = 96, 24, 1e-3, 7
Spelled = tuple[np.ndarray, np.ndarray]


def padded(rows: Sequence[Sequence[int]], width: int) -> Spelled:
    """Ids i64[N, width] and the weights of their mean; behind the last they are 0."""
    ids, parts = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.float32)
    for place, row in enumerate(rows):
        ids[place, : len(row)], parts[place, : len(row)] = row, 1 / len(row)
    return ids, parts


def joined(texts: Sequence[str], rng: np.random.Generator) -> tuple[list[list[int]], list[list[tuple[int, ...]]]]:
    """Ids of texts, and the same with neighbours of one word joined at random: each token by the old ones that spell it."""
    engine = ts.open_tokenizer(minilm_folder() / "tokenizer.json")
    found = engine.encode(texts)
    plain, made = [], []
    for ids, words, count in zip(found.ids.tolist(), found.words.tolist(), found.count.tolist(), strict=True):
        row: list[tuple[int, ...]] = []
        whole = rng.random() < 0.7
        for place in range(count):
            inside = words[place] >= 0 and place > 0 and words[place] == words[place - 1] and len(row[-1]) < PIECES
            if inside and (whole or rng.random() < 0.5):
                row[-1] = (*row[-1], ids[place])
            else:
                row.append((ids[place],))
        plain.append(ids[:count])
        made.append(row)
    return plain, made


def batch_of(rows: Sequence[Sequence[tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """What `zett` is given of texts whose tokens are spelled so: a vocabulary of those that they have."""
    known = {token: number for number, token in enumerate(dict.fromkeys(token for row in rows for token in row))}
    ids, parts = padded([list(token) for token in known], max(map(len, known)))
    length = max(map(len, rows))
    given = {"rows": ids, "weights": parts, "input_ids": np.zeros((len(rows), length), np.int64)}
    given["attention_mask"] = np.zeros((len(rows), length), np.int64)
    for place, row in enumerate(rows):
        given["input_ids"][place, : len(row)] = [known[token] for token in row]
        given["attention_mask"][place, : len(row)] = 1
    return given


def train(steps: int = STEPS, seed: int = 0) -> dict[str, np.ndarray]:
    """The weights of the network, with which sentences of joined tokens keep MiniLM's embeddings."""
    import torch

    from tessera.backends.torch import build

    module = ts.load("zett")
    drawn = {name: tensor.numpy() for name, tensor in initialise(module.graph, seed).items() if "hypernet" in name}
    # It begins as the mean of pieces.
    drawn |= {name: np.zeros_like(value) for name, value in drawn.items() if "outer" in name}
    given = {**adapting.weights(), **drawn}
    net = build(module, {name: given[name] for name in module.graph.params}, trainable=True)
    learning = [param for name, param in net.named_parameters() if "hypernet" in name]
    for param in net.parameters():
        param.requires_grad_(any(param is one for one in learning))
    texts = [text for text in adapting.sentences(1 << 20, held_back=False) if len(text) < 160]
    rng = np.random.default_rng(seed)

    def loss_of(step: int) -> Any:
        plain, rows = joined([texts[i] for i in rng.integers(0, len(texts), BATCH)], rng)
        ids, mask = padded(plain, max(map(len, plain)))
        wanted = torch.as_tensor(adapting.original()(input_ids=ids, attention_mask=(mask > 0).astype(np.int64))["embedding"])
        made = net(**{name: torch.as_tensor(value) for name, value in batch_of(rows).items()})["embedding"]
        loss = 1 - (made * wanted).sum(1).mean()
        if step % 10 == 0:
            print(f"step {step}: cosine {1 - float(loss.detach()):.4f}", flush=True)
        return loss

    fit(net, loss_of, steps, RATE, learning)
    return {name.removeprefix("embeddings."): value for name, value in weights_of(net).items() if "hypernet" in name}


def trained() -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(NETWORK))


def network(target: str = "onnx") -> Artifact:
    return ts.compile(ts.load("zett", model="zett_rows"), target=target, weights=NETWORK, verify=False)


def rows_of(tokenizer: Path) -> np.ndarray:
    """The table f32[N, 384] that the network makes for a tokenizer."""
    rows, parts = ts.spell_tokens(tokenizer, minilm_folder() / "tokenizer.json", pieces=PIECES)
    run, old = network(), adapting.weights()[adapting.TABLE]
    made = [run(old=old, rows=rows[i : i + 2048], weights=parts[i : i + 2048])["output"] for i in range(0, len(rows), 2048)]
    return np.concatenate([np.asarray(part) for part in made])


def write() -> None:
    from safetensors.numpy import save_file

    save_file(train(), NETWORK)


def main() -> None:
    write()
    texts = adapting.sentences(512)
    wanted = adapting.embed(adapting.original(), minilm_folder() / "tokenizer.json", texts)
    found = adapting.embed(adapting.with_table(rows_of(adapting.PAGES)), adapting.PAGES, texts)
    print("hypernet", adapting.cosine(found, wanted))


if __name__ == "__main__":
    main()
