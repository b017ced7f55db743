"""Dynamic tokenization: what a card asks of `seeds/dynamic_tokenization`. Predicted rows are those of `seeds/zett`."""

from __future__ import annotations

import gettext
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.benchmarks.minilm_quality import cosine
from tessera.driver.artifact import Artifact
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.directions import directions_of
from tessera.runtime.tokenizers.batches import Merged, RowCache, Token, merge_batch

from . import adapting, zett_training

TARGETS = ("torch", "onnx")


def encoded(*rows: Sequence[tuple[int, int]], width: int = 0) -> Any:
    """(id, word) of each token."""
    width = max(width, *map(len, rows))
    ids, words = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), -1)
    for place, row in enumerate(rows):
        ids[place, : len(row)], words[place, : len(row)] = np.transpose(row)
    count = np.array([*map(len, rows)])
    return SimpleNamespace(ids=ids, words=words, count=count, mask=np.arange(width) < count[:, None])


A, B, C, S = 5, 6, 7, 1
BATCH = encoded([(S, -1), (A, 0), (B, 0), (C, 0), (A, 1), (B, 1), (S, -1)], [(S, -1), (A, 0), (B, 1), (B, 2), (C, 2), (S, -1)])


def test_the_pair_that_is_there_most_often_merges_everywhere_within_words() -> None:
    found = [merge_batch(BATCH, merges) for merges in range(5)]
    assert [one.rows[0] for one in found] == [
        [(S,), (A,), (B,), (C,), (A,), (B,), (S,)],
        # (A, B) and (B, C) are both there twice.
        [(S,), (A, B), (C,), (A, B), (S,)],
        [(S,), (A, B, C), (A, B), (S,)],
        [(S,), (A, B, C), (A, B), (S,)],
        [(S,), (A, B, C), (A, B), (S,)],
    ]
    # Across words nothing merges.
    assert [one.rows[1] for one in found][2:4] == [[(S,), (A,), (B,), (B,), (C,), (S,)], [(S,), (A,), (B,), (B, C), (S,)]]
    assert [one.merges for one in found] == [0, 1, 2, 3, 3]
    assert found[3].words == [[-1, 0, 1, -1], [-1, 0, 1, 2, -1]]
    assert found[3].labels([[8, 9], [1, 2, 3]]) == [[-100, 8, 9, -100], [-100, 1, 2, 3, -100]]


def test_padding_in_front_is_no_token() -> None:
    left = encoded([(S, -1), (A, 0), (B, 0)], [(S, -1), (A, 0), (B, 0), (C, 0)])
    for name in ("ids", "words", "mask"):
        getattr(left, name)[0] = np.roll(getattr(left, name)[0], 1)
    assert merge_batch(left, 1).rows == [[(S,), (A, B)], [(S,), (A, B), (C,)]]


def test_rows_are_kept_by_token() -> None:
    asked: list[list[Token]] = []

    def compute(tokens: list[Token]) -> np.ndarray:
        asked.append(tokens)
        return np.array([[sum(token), len(token)] for token in tokens], np.float32)

    cache_ = RowCache(compute, capacity=3)
    table, ids = cache_.table([[(1,), (2, 3)], [(2, 3)]])
    assert ids.tolist() == [[0, 1], [1, 0]]
    np.testing.assert_array_equal(table[ids[0]], [[1, 1], [5, 2]])
    again, _ = cache_.table([[(2, 3), (4,)]])
    assert asked == [[(1,), (2, 3)], [(4,)]]
    assert again[0].tobytes() == table[1].tobytes()
    # The one that was asked for least lately goes.
    cache_.table([[(5,), (4,)]])
    cache_.table([[(1,), (5,)]])
    assert asked[2:] == [[(5,)], [(1,)]]
    assert (len(cache_), cache_.hits, cache_.misses) == (3, 3, 5)


# Bad input ------------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    of_words = encoded([(S, 0), (A, 0), (B, 0)])
    for wrong, said in (
        (lambda: merge_batch(BATCH, -1), "E0011.*at least 0, and not -1"),
        (lambda: merge_batch(of_words, 1, special={S}), "E0011.*special token 1 is said to be of a word"),
        (lambda: RowCache(_means, 2).table([[(1,), (2,), (3,)]]), "E0011.*the batch has 3 tokens, and the cache keeps 2"),
        (lambda: RowCache(_means, 0), "E0011.*at least 1, and not 0"),
        (lambda: merge_batch(BATCH, 2).labels([[1], [1, 2, 3]]), "E0011.*row 0 has 2 words, and 1 labels"),
        (lambda: directions_of(np.eye(3), 4), "E0011.*how many of 3 directions are kept"),
    ):
        with pytest.raises(Diagnostic, match=said):
            wrong()


def test_an_index_needs_the_rows_themselves() -> None:
    """What is found in few directions, or by directions alone, is not what is worth most: scores are those of the rows."""
    text = """
use seeds.dynamic_tokenization (ann_head)

model m(x: f32[B, 4], directions: f32[4, 2], short: f32[V, 2]) -> (i64[B, 1], f32[B, 1]) {
    return ann_head(x, directions=directions, short=short, kept=1, k=1)
}
"""
    with pytest.raises(Diagnostic, match=r"E0404.*`ann_head` needs `table"):
        ts.loads(text)


# A large vocabulary ---------------------------------------------------------------------------------------------------


def head(target: str, **params: int) -> Artifact:
    return ts.compile(ts.load("dynamic_tokenization", "large_head", params or None), target=target, verify=False)


@pytest.mark.parametrize("target", TARGETS)
def test_all_directions_find_the_best_and_fewer_give_scores_of_the_rows(target: str) -> None:
    rng = np.random.default_rng(0)
    # Rows of many lengths.
    table = (rng.standard_normal((300, 8)) * rng.lognormal(0, 1, (300, 1))).astype(np.float32)
    x = rng.standard_normal((5, 8)).astype(np.float32)
    run = head(target, kept=40, k=6)
    wanted = np.argsort(-(x @ table.T), axis=1, kind="stable")[:, :6]
    for count, whole in ((1, True), (8, False), (2, False)):
        directions, short = directions_of(table, count)
        np.testing.assert_allclose(directions.T @ directions, np.eye(count), atol=1e-5)
        found = run(x=x, table=table, directions=directions, short=short, whole=np.array(whole))
        if count != 2:
            np.testing.assert_array_equal(found["best"], wanted)
        else:
            assert not np.array_equal(found["best"], wanted)
        scores = np.take_along_axis(x @ table.T, np.asarray(found["best"]), 1)
        np.testing.assert_allclose(found["scores"], scores, atol=1e-4)


# MiniLM ---------------------------------------------------------------------------------------------------------------


def _means(tokens: list[Token]) -> np.ndarray:
    old = adapting.weights()[adapting.TABLE]
    return np.stack([old[list(token)].mean(0) if len(token) > 1 else old[token[0]] for token in tokens])


def _predicted(tokens: list[Token]) -> np.ndarray:
    """What the network makes of at most seven pieces; of more, their mean."""
    made = _means(tokens)
    short = [place for place, token in enumerate(tokens) if 1 < len(token) <= zett_training.PIECES]
    if short:
        rows, parts = zett_training.padded([tokens[place] for place in short], zett_training.PIECES)
        found = network()(old=adapting.weights()[adapting.TABLE], rows=rows, weights=parts)["output"]
        made[short] = np.asarray(found)
    return made


@cache
def network() -> Artifact:
    return zett_training.network()


@cache
def encoder(target: str) -> Artifact:
    module = ts.load("dynamic_tokenization", model="dynamic_encoder")
    return ts.compile(module, target=target, weights=adapting.weights(), verify=False)


@cache
def tokenizer() -> Any:
    return ts.open_tokenizer(adapting.minilm_folder() / "tokenizer.json")


def merged(texts: Sequence[str], merges: int) -> Merged:
    special = {number for text, number in tokenizer().vocabulary().items() if text.startswith("[") and len(text) > 3}
    return merge_batch(tokenizer().encode(texts), merges, special)


def embedded(rows: Merged, cache_: RowCache, target: str) -> np.ndarray:
    table, tokens = cache_.table(rows.rows)
    mask = (np.arange(tokens.shape[1]) < np.array(rows.count)[:, None]).astype(np.int64)
    return np.asarray(encoder(target)(tokens=tokens, attention_mask=mask, table=table)["embedding"])


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_merges_give_the_same_bits(target: str) -> None:
    texts = adapting.sentences(32)
    rows = tokenizer().encode(texts)
    length = int(rows.count.max())
    plain = ts.compile(ts.load("minilm"), target=target, weights=adapting.weights(), passes=[], verify=False)
    mask = rows.mask[:, :length].astype(np.int64)
    # Filled up by whatever stands first: what is masked is not read.
    ids = np.where(mask, rows.ids[:, :length], rows.ids[0, 0])
    wanted = np.asarray(plain(input_ids=ids, attention_mask=mask)["embedding"])
    for compute in (_means, _predicted):
        found = embedded(merged(texts, 0), RowCache(compute, 4096), target)
        assert found.tobytes() == wanted.tobytes()


@cache
def english() -> dict[int, dict[str, float]]:
    """By how many pairs merge: how long the rows of four batches are, and how alike their embeddings stay."""
    texts = adapting.sentences(128)
    batches = [texts[i : i + 32] for i in range(0, len(texts), 32)]
    kept = {"mean": RowCache(_means, 8192), "hypernet": RowCache(_predicted, 8192)}
    wanted = np.concatenate([embedded(merged(batch, 0), kept["mean"], "onnx") for batch in batches])
    found = {}
    for merges in (0, 10, 40, 10_000):
        rows = [merged(batch, merges) for batch in batches]
        found[merges] = {"tokens": float(np.mean([np.mean(one.count) for one in rows]))}
        for name, cache_ in kept.items():
            found[merges][name] = cosine(np.concatenate([embedded(one, cache_, "onnx") for one in rows]), wanted)
    return found


@pytest.mark.slow
def test_predicted_rows_are_nearer_than_means_at_every_length() -> None:
    found = english()
    print({m: {name: round(v, 4) for name, v in row.items()} for m, row in found.items()})
    lengths = [row["tokens"] for row in found.values()]
    assert lengths == sorted(lengths, reverse=True)
    assert 0.85 < lengths[-1] / lengths[0] < 0.95
    assert all(row["hypernet"] > row["mean"] for merges, row in found.items() if merges)
    assert found[10_000]["hypernet"] > found[10_000]["mean"] + 0.005


@pytest.mark.slow
def test_backends_agree_on_merged_batches() -> None:
    rows = merged(adapting.sentences(16), 20)
    one, other = (embedded(rows, RowCache(_predicted, 4096), target) for target in TARGETS)
    np.testing.assert_allclose(other, one, atol=1e-5)


def messages(language: str, count: int) -> list[str]:
    """What Django says in a language, the longest first; a test that asks for what is not here is skipped."""
    spec = find_spec("django")
    path = Path(str(spec.origin)).parent / f"conf/locale/{language}/LC_MESSAGES/django.mo" if spec is not None else None
    if path is None or not path.is_file():
        pytest.skip(f"no messages of Django in `{language}`")
    with path.open("rb") as file:
        known = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    texts = {text for text in known.values() if 30 <= len(text) <= 120 and "%" not in text}
    return sorted(texts, key=lambda text: (-len(text), text))[:count]


@pytest.mark.slow
@pytest.mark.parametrize("language", ["tr", "de"])
def test_foreign_texts_shrink_more(language: str) -> None:
    texts = messages(language, 128)
    batches = [texts[i : i + 32] for i in range(0, len(texts), 32)]
    counts = {m: sum(sum(merged(batch, m).count) for batch in batches) for m in (0, 100, 10_000)}
    print(language, {m: round(1 - count / counts[0], 3) for m, count in counts.items()})
    assert 1 - counts[100] / counts[0] > 0.15
    assert 1 - counts[10_000] / counts[0] > 0.3


@pytest.mark.extended
def test_the_best_of_a_hundred_thousand_tokens() -> None:
    """Rows of MiniLM's tokens and of words of several, and vectors near some of them: there is no model of so many tokens here."""
    found = searched(100_000, 128)
    print(found)
    assert found["recall"] >= 0.95
    assert found["greedy"] >= 0.95
    assert found["multiplications"] < 0.3
    assert found["backends"] == 1.0


def searched(size: int, count: int, noise: float = 1.0) -> dict[str, float]:
    rng = np.random.default_rng(0)
    old = adapting.weights()[adapting.TABLE]
    pairs = rng.integers(1000, len(old), (size - len(old), 2))
    table = np.concatenate([old, old[pairs].mean(1)])
    spread = table.std(0)
    x = table[rng.integers(0, size, count)] + (noise * spread * rng.standard_normal((count, table.shape[1]))).astype(np.float32)
    directions, short = directions_of(table, 96)

    def best_of(run: Artifact, whole: bool) -> np.ndarray:
        """Some at a time: what is read of the table for each is a part of its own."""
        given = {"table": table, "directions": directions, "short": short, "whole": np.array(whole)}
        return np.concatenate([np.asarray(run(x=x[i : i + 16], **given)["best"]) for i in range(0, count, 16)])

    best = best_of(head("onnx"), True)
    one, other = (best_of(head(target), False) for target in ("onnx", "torch"))
    return {
        "recall": float(np.mean([len(set(a) & set(b)) / 20 for a, b in zip(one.tolist(), best.tolist(), strict=True)])),
        "greedy": float((one[:, 0] == best[:, 0]).mean()),
        "multiplications": (96 * size + 1024 * 384) / (384 * size),
        "backends": float((one == other).mean()),
    }
