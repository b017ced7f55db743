"""Whatever is done to caches, as they are, of f16 or of 8 bits, what is filled is a list of tokens: rows are moved bit for bit."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts

ROWS, HEADS, SLOTS = 2, 2, 8
RECORDS = {"": "KVCache", "half_": "HalfCache", "narrow_": "NarrowCache"}
# What an op takes beside a cache.
OPS = {
    "append": "k: f32[B, 2, S, 3], v: f32[B, 2, S, 2], count: i64[B]",
    "evict": "index: i64[B, N], count: i64[B]",
    "keep": "index: i64[B, 2, N]",
    "gather_path": "start: i64[B], path: i64[B, P], count: i64[B]",
    "rollback": "length: i64[B]",
    "fork": "row: i64[B]",
}
State = dict[str, np.ndarray]


@lru_cache
def artifacts(storage: str, name: str) -> list[Any]:
    params = OPS[name]
    given = ", ".join(part.split(":")[0] for part in params.split(", ") if ":" in part)
    record = f"{RECORDS[storage]}[B, 2, 8, 3, 2]"
    module = "std.cache.narrow" if storage else "std.cache"
    source = f"""
    use {module} ({RECORDS[storage]}, {storage}{name})
    model m(cache: {record}, {params}) -> (made: {record}) {{ return {storage}{name}(cache, {given}) }}
    """
    return [ts.compile(ts.loads(source), target=target, verify=False) for target in ("torch", "onnx")]


def run(storage: str, name: str, cache: State, **inputs: Any) -> State:
    """The fields of what an op makes, bit for bit the same on both targets."""
    feed = {f"cache_{field}": value for field, value in cache.items()} | {n: np.asarray(v) for n, v in inputs.items()}
    first, second = ({n.removeprefix("made_"): v for n, v in a(**feed).items()} for a in artifacts(storage, name))
    for field, value in first.items():
        np.testing.assert_array_equal(value, second[field])
    return first


def held(storage: str, rows: np.ndarray, name: str) -> State:
    """How a cache holds rows of keys or values."""
    if storage != "narrow_":
        return {name: rows.astype(np.float16) if storage else rows}
    step = np.abs(rows).max(-1, keepdims=True) / np.float32(127)
    return {name: np.rint(rows / step).astype(np.int8), f"{name}_step": step}


def empty(storage: str) -> State:
    fields: State = {}
    for name, width in (("k", 3), ("v", 2)):
        ones = np.ones((ROWS, HEADS, SLOTS, width), np.float32)
        fields |= {field: np.zeros_like(value) for field, value in held(storage, ones, name).items()}
    # As the record has them.
    order = ["k", "v", "k_step", "v_step"]
    return {**{f: fields[f] for f in order if f in fields}, "length": np.zeros(ROWS, np.int64)}


@pytest.mark.extended
@pytest.mark.parametrize("storage", RECORDS)
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 999))
def test_what_is_filled_is_a_list_of_tokens(storage: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    text = {name: rng.standard_normal((HEADS, 99, width)).astype(np.float32) for name, width in (("k", 3), ("v", 2))}
    told = {field: value for name, rows in text.items() for field, value in held(storage, rows, name).items()}
    cache, done = empty(storage), 0
    # The tokens of each row, head by head.
    lists: list[list[list[int]]] = [[[] for _ in range(HEADS)] for _ in range(ROWS)]
    for _ in range(10):
        lengths = [len(row[0]) for row in lists]
        name = str(rng.choice(list(OPS)))
        if name == "append":
            new = int(rng.integers(1, 4))
            if max(lengths) + new > SLOTS or done + new > 99:
                continue
            count = rng.integers(0, new + 1, ROWS)
            rows = {n: np.stack([x[:, done : done + new]] * ROWS) for n, x in text.items()}
            cache = run(storage, name, cache, **rows, count=count)
            lists = [[[*head, *range(done, done + count[b])] for head in row] for b, row in enumerate(lists)]
            done += new
        elif name == "rollback":
            back = rng.integers(-1, SLOTS + 1, ROWS)
            cache = run(storage, name, cache, length=back)
            lists = [[head[: max(back[b], 0)] for head in row] for b, row in enumerate(lists)]
        elif name == "fork":
            row = rng.integers(0, ROWS, ROWS)
            cache = run(storage, name, cache, row=row)
            lists = [[[*head] for head in lists[r]] for r in row]
        elif name == "evict":
            kept = [np.sort(rng.permutation(n)[: rng.integers(0, n + 1)]) for n in lengths]
            most = max(1, *map(len, kept))
            index = np.array([[*row, *[0] * (most - len(row))] for row in kept], np.int64)
            cache = run(storage, name, cache, index=index, count=np.array([len(row) for row in kept]))
            lists = [[[head[i] for i in kept[b]] for head in row] for b, row in enumerate(lists)]
        elif name == "keep":
            most = int(rng.integers(1, SLOTS + 1))
            # A row that has fewer keeps all, which come first.
            chosen = [[np.sort(rng.permutation(n)[:most]) if n > most else np.arange(most) for _ in range(HEADS)] for n in lengths]
            cache = run(storage, name, cache, index=np.array(chosen))
            lists = [
                [[head[i] for i in chosen[b][h] if i < len(head)] for h, head in enumerate(row)] for b, row in enumerate(lists)
            ]
        else:
            start = np.array([rng.integers(0, n + 1) for n in lengths])
            paths = [np.sort(rng.permutation(n - s)[: rng.integers(0, n - s + 1)]) for n, s in zip(lengths, start, strict=True)]
            most = max(1, *map(len, paths))
            if max(start) + most > SLOTS:
                continue
            path = np.array([[*row, *[0] * (most - len(row))] for row in paths], np.int64)
            cache = run(storage, name, cache, start=start, path=path, count=np.array([len(row) for row in paths]))
            lists = [
                [[*head[: start[b]], *(head[start[b] + i] for i in paths[b])] for head in row] for b, row in enumerate(lists)
            ]
        assert cache["length"].tolist() == [len(row[0]) for row in lists]
        for b, row in enumerate(lists):
            for h, head in enumerate(row):
                for field, value in told.items():
                    np.testing.assert_array_equal(cache[field][b, h, : len(head)], value[h][head])


@pytest.mark.parametrize("storage", ["half_", "narrow_"])
def test_what_is_too_large_is_the_largest_that_there_is(storage: str) -> None:
    """An attention over it has a result: infinity would leave none, of any token."""
    rows = np.array([[1.0, -7e4, np.inf], [2.0, 65504.0, -65519.0], [3.0, 4.0, -np.inf]], np.float32)
    k, v = (np.broadcast_to(rows[:, :width], (ROWS, HEADS, 3, width)).copy() for width in (3, 2))
    made = run(storage, "append", empty(storage), k=k, v=v, count=[3, 3])
    for name, rows in (("k", k), ("v", v)):
        wide = made[name][:, :, :3].astype(np.float32) * (made[f"{name}_step"][:, :, :3] if storage == "narrow_" else 1.0)
        most = 3.4e38 if storage == "narrow_" else 65504.0
        wanted = np.clip(rows, -most, most)
        np.testing.assert_allclose(wide, wanted, atol=np.abs(wanted).max(-1).max() / 127 if storage == "narrow_" else 0.0)
        assert np.isfinite(wide).all()
