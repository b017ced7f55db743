"""What `seeds/binary_bpe` is trained on, programs of the system, its tokens, and decoders of these and of bytes at equal steps:

    python -m tessera.tests.seeds.binary_bpe_training tokens        # minutes
    python -m tessera.tests.seeds.binary_bpe_training decoders
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import tessera as ts

from .programs import own, system
from .texts import fit_windows, weights_of, widened

DATA = Path(__file__).parent / "data"
TOKENS = DATA / "binary_bpe.json"
SEED = (Path(ts.__file__).parent / "specs/seeds/binary_bpe.tess").read_text(encoding="utf-8")
# Tokens, and what is one before there is any merge: the special ones and the bytes.
MEMBERS = {"tokens": 4096, "bytes": 263}
STEPS, BATCH, LENGTH = 300, 8, 128


def write(folder: Path, corpus: bool = False, source: str = SEED) -> Path:
    """The seed in a folder of its own, beside its tokens or its corpus."""
    path = folder / "binary.tess"
    path.write_text(source, encoding="utf-8")
    if not corpus:
        (folder / "binary_bpe.json").write_bytes(TOKENS.read_bytes())
        return path
    (folder / "programs").mkdir()
    for name, data in system():
        (folder / "programs" / name).write_bytes(data)
    return path


def rows_of(kind: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Bytes as ids, and how many bytes each stands for: tokens of the smallest member, or the bytes themselves."""
    if kind == "bytes":
        return np.frombuffer(data, np.uint8).astype(np.int64) + 7, np.ones(len(data), np.int64)
    with TemporaryDirectory() as folder:
        engine = ts.open_tokenizer(write(Path(folder)), name="programs", size=MEMBERS[kind])
        found = engine.encode([data[i : i + 65536] for i in range(0, len(data), 65536)])
    sizes = np.diff(found.offsets, axis=2)[..., 0]
    return found.ids[found.mask], sizes[found.mask]


def decoder(kind: str) -> Any:
    return ts.load("binary_bpe", model="decoder", params={"vocab": MEMBERS[kind], "rows": MEMBERS[kind]})


def bits(kind: str, run: Any, data: bytes) -> float:
    """Bits for a byte, of windows of as many tokens as in training; each one's first token is given."""
    ids, sizes = rows_of(kind, data)
    total, count = 0.0, 0
    for start in range(0, len(ids) - LENGTH, LENGTH):
        window = ids[None, start : start + LENGTH]
        scores = np.asarray(run(ids=window)["scores"], np.float64)[0, :-1]
        scores -= scores.max(axis=1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        total -= logs[np.arange(LENGTH - 1), window[0, 1:]].sum()
        count += int(sizes[start + 1 : start + LENGTH].sum())
    return total / np.log(2) / count


def train(kind: str) -> dict[str, np.ndarray]:
    from tessera.backends.torch import build

    ids, _ = rows_of(kind, b"".join(data for _, data in system()))
    net = build(decoder(kind), seed=0, trainable=True)
    losses = fit_windows(net, ids, LENGTH, BATCH, STEPS)
    print(kind, f"{losses[0]:.3f} to {np.mean(losses[-20:]):.3f}")
    return weights_of(net)


def weights(kind: str) -> dict[str, np.ndarray]:
    """Those that are committed."""
    return widened(DATA / f"binary_{kind}.safetensors")


def main(what: str) -> None:
    from safetensors.numpy import save_file

    if what == "tokens":
        with TemporaryDirectory() as folder:
            path = write(Path(folder), corpus=True)
            print(ts.train_tokenizer(path, name="programs")[1])
            TOKENS.write_bytes((path.parent / TOKENS.name).read_bytes())
        return
    for kind in MEMBERS:
        halves = {name: value.astype(np.float16) for name, value in train(kind).items()}
        save_file(halves, DATA / f"binary_{kind}.safetensors")
        run = ts.compile(decoder(kind), target="torch", weights=weights(kind), verify=False)
        print(kind, f"{bits(kind, run, own()[:65536]):.3f} bits a byte")


if __name__ == "__main__":
    main(sys.argv[1])
