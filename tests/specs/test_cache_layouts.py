"""Caches in lines, rings and pages keep what was appended: whatever is done to them, what is read is a list of tokens in order."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts

LINE = "cache: KVCache[B, 2, C, 3, 2]"
RING = "cache: RingCache[B, 2, C, 3, 2]"
PAGES = "cache: PagedCache[B, M, P, 2, 4, 3, 2]"
NEW = "k: f32[B, 2, S, 3], v: f32[B, 2, S, 2]"
# What is called, its other inputs, and what it returns.
PROGRAMS = {
    "rollback": (LINE, "length: i64[B]", "KVCache[B, 2, C, 3, 2]"),
    "fork": (LINE, "row: i64[R]", "KVCache[R, 2, C, 3, 2]"),
    "picked": (LINE, "index: i64[B, N], count: i64[B]", "KVCache[B, 2, N, 3, 2]"),
    "ring_append": (RING, NEW, "RingCache[B, 2, C, 3, 2]"),
    "ring_places": (RING, "", "i64[B, C]"),
    "ring_visible": (RING, "", "bool[B, 1, 2, C]"),
    "page_append": (PAGES, NEW, "PagedCache[B, M, P, 2, 4, 3, 2]"),
    "gathered": (PAGES, "", "KVCache[B, 2, M * 4, 3, 2]"),
    "share": (PAGES, "row: i64[R]", "PagedCache[R, M, P, 2, 4, 3, 2]"),
}


@lru_cache
def artifacts(name: str) -> list[Any]:
    cache, others, made = PROGRAMS[name]
    names = [part.split(":")[0] for part in others.split(", ") if ":" in part]
    call = f"{name}({', '.join(['cache', *names])}{', queries=2' if name == 'ring_visible' else ''})"
    source = f"""
    use std.cache (KVCache, fork, picked, rollback)
    use std.cache.paged (PagedCache, gathered, page_append, share)
    use std.cache.ring (RingCache, ring_append, ring_places, ring_visible)
    model m({', '.join(filter(None, [cache, others]))}) -> (made: {made}) {{ return {call} }}
    """
    return [ts.compile(ts.loads(source), target=target, verify=False) for target in ("torch", "onnx")]


def run(name: str, cache: dict[str, np.ndarray], **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of what it makes, bit for bit the same on both targets."""
    given = {f"cache_{field}": value for field, value in cache.items()}
    first, second = ({n.removeprefix("made_"): v for n, v in a(**given, **inputs).items()} for a in artifacts(name))
    for field, value in first.items():
        np.testing.assert_array_equal(value, second[field])
    return first


def tokens(rng: np.random.Generator, *shape: int) -> dict[str, np.ndarray]:
    return {name: rng.standard_normal((*shape, width)).astype(np.float32) for name, width in (("k", 3), ("v", 2))}


@pytest.mark.extended
@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 99))
def test_a_line_is_rolled_back_forked_and_picked_from(rows: int, slots: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cache = {**tokens(rng, rows, 2, slots), "length": rng.integers(0, slots + 1, rows)}
    back = rng.integers(-1, slots + 2, rows)
    rolled = run("rollback", cache, length=back)
    assert rolled["length"].tolist() == np.clip(np.minimum(cache["length"], back), 0, None).tolist()
    row = rng.integers(0, rows, int(rng.integers(1, 5)))
    forked = run("fork", cache, row=row)
    index = np.sort(rng.integers(0, slots, (rows, 3)), axis=1)
    count = rng.integers(0, 4, rows)
    chosen = run("picked", cache, index=index, count=count)
    assert chosen["length"].tolist() == count.tolist()
    for field in ("k", "v"):
        np.testing.assert_array_equal(rolled[field], cache[field])
        np.testing.assert_array_equal(forked[field], cache[field][row])
        for b in range(rows):
            np.testing.assert_array_equal(chosen[field][b], cache[field][b][:, index[b]])
    assert forked["length"].tolist() == cache["length"][row].tolist()


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 2), st.integers(2, 6), st.integers(0, 99))
def test_a_ring_holds_the_latest_tokens(rows: int, slots: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ring = {**{n: np.zeros_like(x) for n, x in tokens(rng, rows, 2, slots).items()}, "seen": np.zeros(rows, np.int64)}
    text = tokens(rng, rows, 2, 18)
    done = 0
    while done < 12:
        new = int(rng.integers(1, slots + 1))
        ring = run("ring_append", ring, **{n: x[:, :, done : done + new] for n, x in text.items()})
        done += new
        (places,) = run("ring_places", ring).values()
        for b in range(rows):
            held = [p for p in places[b].tolist() if p >= 0]
            assert sorted(held) == list(range(max(0, done - slots), done))
            for slot, place in enumerate(places[b].tolist()):
                if place >= 0:
                    np.testing.assert_array_equal(ring["k"][b, :, slot], text["k"][b, :, place])
                    np.testing.assert_array_equal(ring["v"][b, :, slot], text["v"][b, :, place])
        (seen,) = run("ring_visible", ring).values()
        wanted = (places[:, None] >= 0) & (places[:, None] <= done - 2 + np.arange(2)[None, :, None])
        np.testing.assert_array_equal(seen[:, 0], wanted)


@pytest.mark.extended
@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(0, 99))
def test_pages_read_as_a_line_whatever_their_order(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pages = rng.permutation(3 * rows)
    pool = {**tokens(rng, 3 * rows, 2, 4), "table": pages.reshape(rows, 3), "length": np.zeros(rows, np.int64)}
    text = tokens(rng, rows, 2, 12)
    done = 0
    while done < 12:
        new = min(int(rng.integers(1, 6)), 12 - done)
        pool = run("page_append", pool, **{n: x[:, :, done : done + new] for n, x in text.items()})
        done += new
        line = run("gathered", pool)
        assert line["length"].tolist() == [done] * rows
        for field in ("k", "v"):
            np.testing.assert_array_equal(line[field][:, :, :done], text[field][:, :, :done])
    row = rng.integers(0, rows, 2)
    both = run("gathered", run("share", pool, row=row))
    np.testing.assert_array_equal(both["k"], text["k"][row])


TURNED = """
use std.attention (attention, rope, rope_table)
use std.cache (KVCache, by_group, read, turned)

model m(q: f32[B, 8, T, 8], k: f32[B, 2, 6, 8], v: f32[B, 2, 6, 4]) -> (ours: f32[B, 8, T, 4], plain: f32[B, 8, T, 4]) {
    cosine, sine = rope_table(unsqueeze(iota(6), 0), dim=8)
    cache = turned(KVCache(k=k, v=v, length=full([B], 6, dtype=i64)), cosine, sine)
    seen = full([1, 1, 1, 6], true, dtype=bool)
    y = read(by_group(q, kv_heads=2), cache, seen)
    return rearrange(y, "b g r t v -> b (g r) t v"), attention(q, rope(k, cosine, sine), v)
}
"""


def test_raw_keys_are_turned_when_they_are_read_and_heads_meet_their_keys() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((2, 8, 3, 8), (2, 2, 6, 8), (2, 2, 6, 4)))
    for target in ("torch", "onnx"):
        found = ts.compile(ts.loads(TURNED), target=target, verify=False)(q=q, k=k, v=v)
        np.testing.assert_allclose(found["ours"], found["plain"], atol=1e-6)


def test_a_fact_of_a_cache_is_source() -> None:
    text = """
    use std.cache (KVCache, append)
    model m(k: f32[B, 2, S, 4]) -> i64[B] {
        state cache: KVCache[B, 2, C, 4, 4] = KVCache(k=zeros, v=zeros, length=zeros, rotated=true)
        cache = append(cache, k, k)
        return cache.length
    }
    """
    module = ts.loads(text)
    assert "rotated=true" in ts.source(module)
    assert ts.loads(ts.source(module)) == module
    with pytest.raises(ts.Diagnostic) as caught:
        ts.loads(text.replace("append(cache, k, k)", "append(KVCache(k=cache.k, v=cache.v, length=cache.length), k, k)"))
    assert caught.value.code.startswith("E03")
