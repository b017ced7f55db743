"""MiniLM on man pages: what merging changes, and documents that are found by what a query leaves of them.

    python -m tessera.tests.seeds.pages       # prints the figures
"""

from __future__ import annotations

import numpy as np

import tessera as ts
from tessera.benchmarks.minilm_quality import cosine, embeddings, nearest_agree, tokenized
from tessera.benchmarks.texts import man_pages, man_paragraphs
from tessera.passes.tokens.baselines import random_dropping

CHUNK = 120


# How much nearer the nearest page is than the next one, for it to be told apart.
CLEAR = 0.04


def agreement(found: np.ndarray, original: np.ndarray) -> dict[str, float]:
    """The mean cosine to the original embeddings, and the share of pages with the same nearest one: among reduced pages, among
    unmerged ones, and of these where it is at least ``CLEAR`` nearer than the next (``clear`` says of how many)."""
    alike = original @ original.T
    np.fill_diagonal(alike, -1)
    first, second = np.sort(alike, axis=1)[:, :-3:-1].T
    clear = first - second >= CLEAR
    across = found @ original.T
    np.fill_diagonal(across, -1)
    return {
        "cosine": cosine(found, original),
        "nearest": nearest_agree(found, original),
        "nearest_of_unmerged": float(np.mean(across.argmax(1) == alike.argmax(1))),
        "nearest_where_clear": float(np.mean(across.argmax(1)[clear] == alike.argmax(1)[clear])),
        "clear": float(clear.mean()),
    }


def drift(count: int, kept: float) -> tuple[dict[str, float], dict[str, float]]:
    """Merging and random dropping to a share of the tokens: :func:`agreement` with the unmerged embeddings."""
    plain = ts.load("minilm")
    ids = tokenized(man_paragraphs(count))
    original = embeddings(plain, ids, "onnx")
    merged = ts.apply(plain, "merge_tokens", keep=kept, protect=1)
    found = [embeddings(program, ids, "onnx") for program in (merged, random_dropping(merged))]
    return agreement(found[0], original), agreement(found[1], original)


def retrieval(count: int, seed: int = 0) -> dict[str, float]:
    """The share of pages that their first line finds before all others: in whole documents of two chunks of the page and nine of
    others, in the two that the query chooses, and in two at random."""
    rng = np.random.default_rng(seed)
    queries: list[str] = []
    chunks: list[list[str]] = []
    for name, text in man_pages(least=400):
        first, _, rest = text.removeprefix(name).partition(". ")
        parts = [rest[i : i + CHUNK] for i in range(0, len(rest) - CHUNK, CHUNK)]
        if len(parts) >= 2 and len(queries) < count:
            queries.append(text[:CHUNK] if not first else first[:CHUNK])
            chunks.append([parts[i] for i in rng.choice(len(parts), 2, replace=False)])
    vectors = embeddings(ts.load("minilm"), tokenized([*queries, *(c for two in chunks for c in two)]), "onnx")
    query, own = vectors[:count], vectors[count:].reshape(count, 2, -1)
    # Nine chunks of other pages for each, in any order.
    pool = own.reshape(2 * count, -1)
    others = np.stack([pool[rng.choice(np.flatnonzero(np.arange(2 * count) // 2 != i), 9, replace=False)] for i in range(count)])
    documents = np.concatenate([own, others], axis=1)
    documents = np.stack([rows[rng.permutation(11)] for rows in documents]).astype(np.float32)
    at_random = np.stack([rows[rng.choice(11, 2, replace=False)] for rows in documents])
    found = {}
    for name, chunk, keep in (("whole", documents, 11), ("guided", documents, 2), ("random", at_random, 2)):
        program = ts.load("token_reduction_beyond_efficiency", model="guided", params={"keep": keep})
        score = np.asarray(ts.compile(program, target="onnx", verify=False)(query=query, chunk=chunk)["score"])
        found[name] = float(np.mean(score.argmax(1) == np.arange(count)))
    return found


if __name__ == "__main__":
    print(*drift(100, 0.71), retrieval(300), sep="\n")
