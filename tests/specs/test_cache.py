"""Caches: what is appended is read, evicting keeps the order, a path through a tree stays; equal on every target and in NumPy."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts

PROGRAMS = {
    "append": "(k: f32[B, G, S, 3], v: f32[B, G, S, 2], count: i64[B]) append(cache, k, v, count)",
    "append all": "(k: f32[B, G, S, 3], v: f32[B, G, S, 2]) append(cache, k, v)",
    "evict": "(index: i64[B, N], count: i64[B]) evict(cache, index, count)",
    "window": "(x: f32[B]) window(cache, sinks=1, recent=2)",
    "gather_path": "(start: i64[B], path: i64[B, P], count: i64[B]) gather_path(cache, start, path, count)",
}
TARGETS: list[tuple[str, dict[str, Any]]] = [("torch", {}), ("onnx", {}), ("onnx", {"opset": 18})]
Cache = tuple[np.ndarray, np.ndarray, np.ndarray]


@lru_cache
def artifacts(name: str) -> list[ts.Artifact]:
    params, call = PROGRAMS[name].split(") ", 1)
    source = f"""
    use std.cache (KVCache, append, evict, gather_path, window)
    model m{params}, cache: KVCache[B, G, C, 3, 2]) -> (cache: KVCache[B, G, C, 3, 2]) {{ return {call} }}
    """
    return [ts.compile(ts.loads(source), target=target, verify=False, **options) for target, options in TARGETS]


def run(name: str, cache: Cache, **inputs: np.ndarray) -> Cache:
    """The cache after one op, which is bit for bit the same on every target."""
    fields = dict(zip(("cache_k", "cache_v", "cache_length"), cache, strict=True))
    found = [tuple(a(**inputs, **fields).values()) for a in artifacts(name)]
    for other in found[1:]:
        for x, y in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(x, y)
    k, v, length = found[0]
    return k, v, length


def filled(rng: np.random.Generator, rows: int, heads: int, slots: int) -> Cache:
    k, v = (rng.standard_normal((rows, heads, slots, d)).astype(np.float32) for d in (3, 2))
    return k, v, rng.integers(0, slots + 1, rows)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_what_is_appended_is_read(rows: int, heads: int, slots: int, new: int, seed: int) -> None:
    new = min(new, slots)
    rng = np.random.default_rng(seed)
    before = filled(rng, rows, heads, slots)
    k, v, _ = filled(rng, rows, heads, new)
    count = rng.integers(0, new + 1, rows)
    after = run("append", before, k=k, v=v, count=count)
    for b in range(rows):
        start = min(before[2][b], slots - new)
        assert after[2][b] == start + count[b]
        for old, rows_, got in zip(before, (k, v), after, strict=False):
            expected = old[b].copy()
            expected[:, start : start + new] = rows_[b]
            np.testing.assert_array_equal(got[b], expected)
    whole = run("append all", before, k=k, v=v)
    np.testing.assert_array_equal(whole[0], after[0])
    np.testing.assert_array_equal(whole[2], np.minimum(before[2], slots - new) + new)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(0, 99))
def test_evicting_keeps_the_order(rows: int, heads: int, slots: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = filled(rng, rows, heads, slots)
    kept = int(rng.integers(1, slots + 1))
    index = np.stack([np.sort(rng.permutation(slots)[:kept]) for _ in range(rows)])
    count = rng.integers(0, kept + 1, rows)
    after = run("evict", before, index=index, count=count)
    np.testing.assert_array_equal(after[2], count)
    for b in range(rows):
        for old, got in zip(before[:2], after[:2], strict=True):
            np.testing.assert_array_equal(got[b, :, :kept], old[b][:, index[b]])


@pytest.mark.parametrize("length", [0, 2, 3, 4, 9])
def test_a_window_is_the_first_rows_and_the_last(length: int) -> None:
    k, v, _ = filled(np.random.default_rng(length), 1, 2, 9)
    after = run("window", (k, v, np.array([length])), x=np.zeros(1, np.float32))
    expected = [*range(length)] if length <= 3 else [0, length - 2, length - 1]
    assert after[2].tolist() == [len(expected)]
    np.testing.assert_array_equal(after[0][0, :, : len(expected)], k[0][:, expected])


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(2, 9), st.integers(0, 99))
def test_one_path_of_a_tree_is_left(rows: int, slots: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = filled(rng, rows, 2, slots)
    nodes = int(rng.integers(1, slots))
    start = rng.integers(0, slots - nodes + 1, rows)
    length = int(rng.integers(1, nodes + 1))
    path = np.stack([np.sort(rng.permutation(nodes)[:length]) for _ in range(rows)])
    after = run("gather_path", before, start=start, path=path, count=np.full(rows, length))
    np.testing.assert_array_equal(after[2], start + length)
    for b in range(rows):
        end = start[b] + length
        np.testing.assert_array_equal(after[0][b, :, : start[b]], before[0][b][:, : start[b]])
        np.testing.assert_array_equal(after[1][b, :, start[b] : end], before[1][b][:, start[b] + path[b]])


def test_more_rows_than_slots_are_refused() -> None:
    cache = filled(np.random.default_rng(0), 1, 1, 2)
    k, v, _ = filled(np.random.default_rng(1), 1, 1, 3)
    with pytest.raises(ts.Diagnostic, match="more rows are written than the cache has slots"):
        run("append all", cache, k=k, v=v)


RAGGED = """
use std.cache (KVCache, append, visible)

model m(k: f32[B, G, S, 3], v: f32[B, G, S, 2], count: i64[B], cache: KVCache[B, G, C, 3, 2]) -> (seen: bool[B, 1, S, C]) {
    return visible(append(cache, k, v, count), count, queries=S)
}
"""


@pytest.mark.parametrize(("target", "options"), TARGETS)
def test_rows_of_several_lengths_see_what_is_before_them(target: str, options: dict[str, Any]) -> None:
    artifact = ts.compile(ts.loads(RAGGED), target=target, verify=False, **options)
    rng = np.random.default_rng(0)
    k, v, _ = filled(rng, 4, 2, 9)
    length, count = np.array([0, 2, 5, 3]), np.array([3, 1, 2, 0])
    new = {"k": k[:, :, :3], "v": v[:, :, :3], "count": count}
    seen = artifact(**new, cache_k=k, cache_v=v, cache_length=length)["seen"]
    for row, (before, own) in enumerate(zip(length, count, strict=True)):
        for query in range(own):
            assert np.flatnonzero(seen[row, 0, query]).tolist() == list(range(before + query + 1))
