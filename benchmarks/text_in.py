"""A tokenizer within an ONNX file beside the same tokenizer in Rust: MiniLM from bytes to the embedding.

    python -m benchmarks.text_in [--texts N]

Needs the extra `real`. Texts are man pages and docstrings (`benchmarks/texts.py`). Both sides run on one thread; of a batch every
row is as long as its longest.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts
from tessera.driver.report.measure import interleaved

from .common import write
from .peers import minilm_folder
from .texts import corpus

SPEC = """
use zoo.minilm (minilm)

tokenizer words {
    from "tokenizer.json"
}

## From bytes to ids.
model ids(text: u8[B, N], count: i64[B]) -> (ids: i64[B, min(N + 2, 128)], tokens: i64[B]) {
    ids, tokens = words(text, count) as tokenizer
    return ids, tokens
}

## From bytes to the embedding.
model embed(text: u8[B, N], count: i64[B]) -> (embedding: float[B, 384]) {
    ids, tokens = words(text, count) as tokenizer
    mask = unsqueeze(iota(ids.shape[1]), 0) < unsqueeze(tokens, 1)
    return minilm(ids, cast(mask, i64))
}
"""
BATCHES = (1, 32)
ROUNDS = 15


def arrays(texts: list[str]) -> dict[str, np.ndarray]:
    """Texts as rows of bytes, and how many of each row count."""
    rows = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    text = np.zeros((len(rows), max(1, *map(len, rows))), np.uint8)
    for i, row in enumerate(rows):
        text[i, : len(row)] = row
    return {"text": text, "count": np.array([len(row) for row in rows])}


def session(module: Any, weights: Path | None, path: Path) -> Any:
    """An artifact in plain ONNX Runtime, on one thread."""
    import onnxruntime as ort

    ts.compile(module, target="onnx", weights=weights, verify=weights is None, output=path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def figures(count: int) -> dict[str, Any]:
    """Whether ids and embeddings are those of the tokenizer in Rust with the model, and what both cost."""
    from tokenizers import Tokenizer

    rust = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    weights = minilm_folder() / "model.safetensors"
    texts = corpus(count)
    # Where the machine has fewer, the second halves of these are others.
    texts += [text[len(text) // 2 :] for text in texts[: count - len(texts)]]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copy(minilm_folder() / "tokenizer.json", folder)
        (folder / "spec.tess").write_text(SPEC, encoding="utf-8")
        ids = session(ts.load(folder / "spec.tess", "ids"), None, folder / "ids.onnx")
        embed = session(ts.load(folder / "spec.tess", "embed"), weights, folder / "embed.onnx")
        plain = session(ts.load("minilm"), weights, folder / "plain.onnx")
        sizes = {name: (folder / f"{name}.onnx").stat().st_size for name in ("ids", "embed", "plain")}

    def in_two(rows: list[str]) -> np.ndarray:
        rust.enable_padding()
        found = rust.encode_batch(rows)
        feeds = {"input_ids": [row.ids for row in found], "attention_mask": [row.attention_mask for row in found]}
        made: np.ndarray = plain.run(None, {name: np.array(value) for name, value in feeds.items()})[0]
        return made

    def in_one(rows: list[str]) -> np.ndarray:
        made: np.ndarray = embed.run(None, arrays(rows))[0]
        return made

    same, apart = 0, 0.0
    for start in range(0, len(texts), 32):
        rows = texts[start : start + 32]
        found, counts = ids.run(None, arrays(rows))
        rust.no_padding()
        expected = [row.ids for row in rust.encode_batch(rows)]
        same += sum(row[:n].tolist() == own for row, n, own in zip(found, counts, expected, strict=True))
        apart = max(apart, float(np.abs(in_one(rows) - in_two(rows)).max()))
    result: dict[str, Any] = {"texts": len(texts), "same_ids": same, "largest_difference": apart, "bytes": sizes}
    for name, most in (("short", 100), ("long", 1000)):
        for batch in BATCHES:
            rows = [text[:most] for text in texts[:batch]]
            feeds = arrays(rows)
            runs = {
                "tokenizers": lambda rows=rows: rust.encode_batch(rows),
                "in_onnx": lambda feeds=feeds: ids.run(None, feeds),
                "tokenizers_then_model": lambda rows=rows: in_two(rows),
                "bytes_to_embedding": lambda feeds=feeds: embed.run(None, feeds),
            }
            times = interleaved(runs, ROUNDS)
            result[f"{name}, {batch} at once: microseconds a text"] = {
                key: round(statistics.median(row) / batch * 1e6) for key, row in times.items()
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    write("text_in", figures(parser.parse_args().texts))


if __name__ == "__main__":
    main()
