"""Decoders of `seeds/tokompiler` from its ids, and from as many pairs of bytes merged in the same programs with their names:

    python -m tessera.tests.seeds.tokompiler_training
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import tessera as ts

from .programs_in_c import parsed, write
from .texts import fit_windows, weights_of, widened

DATA = Path(__file__).parent / "data"
KINDS = ("names", "pairs")
STEPS, BATCH, LENGTH = 400, 8, 128
# Every eighth file is held back.
EVERY = 8
PAIRS = """
tokenizer pairs {
    special "[PAD]" = 0
    split byte_level(space=false)
    model bpe(vocab=SIZE)
    decode byte_level
    train "programs/*.txt"
    from "pairs.json"
}
"""


def programs(held_back: bool) -> list[tuple[str, str]]:
    """(leaves, the program of these with its names) of the files of both languages."""
    from tessera.runtime.code import written

    rows = sorted((name, leaves, scope) for lang in ("c", "fortran") for name, (_, leaves, scope) in parsed(lang).items())
    return [(leaves, written(leaves, scope)) for i, (_, leaves, scope) in enumerate(rows) if (i % EVERY == 0) == held_back]


def rows_of(kind: str, held_back: bool) -> list[np.ndarray]:
    """The ids of each program."""
    size = ts.load_tokenizer("tokompiler", "code").size
    with TemporaryDirectory() as name:
        folder = Path(name)
        if kind == "names":
            engine = ts.open_tokenizer(write(folder), name="code")
            given = [leaves for leaves, _ in programs(held_back)]
        else:
            (folder / "programs").mkdir()
            text = "\n".join(source for _, source in programs(False))
            (folder / "programs" / "all.txt").write_text(text, encoding="utf-8")
            (folder / "pairs.tess").write_text(PAIRS.replace("SIZE", str(size)), encoding="utf-8")
            ts.train_tokenizer(folder / "pairs.tess")
            engine = ts.open_tokenizer(folder / "pairs.tess")
            given = [source for _, source in programs(held_back)]
        found = engine.encode(given)
    return [row[mask] for row, mask in zip(found.ids, found.mask, strict=True)]


def decoder(folder: Path) -> Any:
    return ts.load(write(folder), model="decoder", params={"vocab": ts.load_tokenizer("tokompiler", "code").size})


def train(kind: str) -> dict[str, np.ndarray]:
    from tessera.backends.torch import build

    ids = np.concatenate([np.append(row, 0) for row in rows_of(kind, False)])
    with TemporaryDirectory() as folder:
        net = build(decoder(Path(folder)), seed=0, trainable=True)
    losses = fit_windows(net, ids, LENGTH, BATCH, STEPS)
    print(kind, f"{len(ids)} ids, {losses[0]:.3f} to {np.mean(losses[-20:]):.3f}")
    return weights_of(net)


def weights(kind: str) -> dict[str, np.ndarray]:
    """Those that are committed."""
    return widened(DATA / f"tokompiler_{kind}.safetensors")


def nats(kind: str, run: Any) -> float:
    """What all programs that were held back take together, but the first id of each window."""
    total = 0.0
    for row in rows_of(kind, True):
        for start in range(0, len(row) - 1, LENGTH - 1):
            window = row[None, start : start + LENGTH]
            scores = np.asarray(run(ids=window)["scores"], np.float64)[0, :-1]
            scores -= scores.max(axis=1, keepdims=True)
            logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
            total -= float(logs[np.arange(len(logs)), window[0, 1:]].sum())
    return total


def lexemes() -> int:
    """How many words and signs the programs that were held back have: a name with its number is one."""
    from tessera.runtime.code import KINDS as NAMES

    parts = [leaves.split(" ") for leaves, _ in programs(True)]
    return sum(not (part.isdigit() and row[i - 1] in NAMES) for row in parts for i, part in enumerate(row))


def perplexity(kind: str, weights: dict[str, np.ndarray]) -> float:
    """exp(nats a lexeme)."""
    with TemporaryDirectory() as folder:
        run = ts.compile(decoder(Path(folder)), target="onnx", weights=weights, verify=False)
        return float(np.exp(nats(kind, run) / lexemes()))


def main() -> None:
    from safetensors.numpy import save_file

    for kind in KINDS:
        found = {name: value.astype(np.float16) for name, value in train(kind).items()}
        save_file(found, DATA / f"tokompiler_{kind}.safetensors")
        print(kind, f"normalised perplexity {perplexity(kind, weights(kind)):.3f}", flush=True)


if __name__ == "__main__":
    main()
