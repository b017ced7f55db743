"""Keys are turned once (E0508), however they are kept, passed on and read: programs put together from all three.

Each comes with its twin, in which they are turned once, which is right.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic


class Kept(NamedTuple):
    """How keys [B, 2, 8, 16] are kept: what is declared, how new ones {new} come in, and how all are read. In `state`, {said} is
    whether the record says that they are turned, of a record that does."""

    state: str
    write: str
    keys: str
    says: bool = False


CACHE = "state cache: {record}[B, 2, 8, 16, 16] = {record}({fields}, rotated={{said}})"
PLAIN = CACHE.format(record="KVCache", fields="k=zeros, v=zeros, length=zeros")
KEPT = {
    "cache": Kept(PLAIN, "cache = append(cache, {new}, v)", "cache.k"),
    "says": Kept(PLAIN, "cache = append(cache, k, v)", "cache.k", says=True),
    "rows": Kept(PLAIN, "cache = fork(rollback(append(cache, {new}, v), cache.length), iota(2))", "cache.k"),
    "picked": Kept(PLAIN, "cache = append(cache, {new}, v)", "picked(cache, expand(unsqueeze(iota(8), 0), [2, 8])).k"),
    "halves": Kept(
        CACHE.format(record="HalfCache", fields="k=zeros, v=zeros, length=zeros"),
        "cache = half_append(cache, {new}, v)", "cast(cache.k, f32)",
    ),
    "narrow": Kept(
        CACHE.format(record="NarrowCache", fields="k=zeros, v=zeros, k_step=ones, v_step=ones, length=zeros"),
        "cache = narrow_append(cache, {new}, v)", "widened(cache.k, cache.k_step)",
    ),
    "narrow says": Kept(
        CACHE.format(record="NarrowCache", fields="k=zeros, v=zeros, k_step=ones, v_step=ones, length=zeros"),
        "cache = narrow_append(cache, k, v)", "widened(cache.k, cache.k_step)", says=True,
    ),
    "ring": Kept(
        CACHE.format(record="RingCache", fields="k=zeros, v=zeros, seen=zeros"), "cache = ring_append(cache, {new}, v)", "cache.k"
    ),
    "pages": Kept(
        "state cache: PagedCache[B, 2, 6, 2, 4, 16, 16] = PagedCache(k=zeros, v=zeros, table=zeros, length=zeros, rotated={said})",
        "cache = page_append(cache, {new}, v)", "gathered(cache).k",
    ),
    "own record": Kept(
        "state mine: Mine[B] = Mine(keys=zeros, rotated={said})",
        "mine = Mine(keys=concat(mine.keys[:, :, 1:], {new}, axis=2), rotated=mine.rotated)", "mine.keys",
    ),
    "own record says": Kept("state mine: Mine[B] = Mine(keys=zeros, rotated={said})", "mine = kept(mine)", "mine.keys", says=True),
    "made": Kept("", "mine = Mine(keys=expand(k, [2, 2, 8, 16]), rotated={said})", "mine.keys", says=True),
    "tensor": Kept("state held: f32[B, 2, 8, 16] = zeros", "held = write_rows(held, start, {new})", "held"),
    "no state": Kept("", "held = expand({new}, [2, 2, 8, 16])", "held"),
}  # fmt: skip
PASSED = {
    "as they are": "x = {keys}",
    "cut": "x = concat({keys}[:, :, :3], {keys}[:, :, 3:], axis=2)",
    "features cut": "x = concat({keys}[..., :3], {keys}[..., 3:], axis=-1)",
    "beside new ones": "x = concat({keys}[:, :, 1:], k, axis=2)",
    "moved": 'x = rearrange(rearrange({keys}, "b g c k -> b c (g k)"), "b c (g k) -> b g c k", g=2)',
    "picked": "x = take({keys}, iota(8), axis=2)",
    "some of them": "x = where(unsqueeze(iota(8), 1) < 3, {keys}, 0.0)",
    "less": "x = -{keys} * 0.5 / 3.0",
    "cast": "x = cast(cast({keys}, f16), f32)",
    "no gradient": "x = stop_gradient({keys})",
    "function": "x = same({keys})",
    "op": "x = twice_same({keys})",
    "list": "both = [k, {keys}]\n    x = both[1]",
    "branch": """x = {keys}
    cond any(start > 3, axis=0) from (x) {{
        x = x + 0.0
    }} else {{
        x = x[:, :, :8]
    }}""",
    "loop": """x = k + zeros_of({keys})
    before = {keys}
    fold i in 3 from (x, before) {{
        x = before
        before = x
    }}""",
}  # fmt: skip
READ = {
    "rope": "rope(x, c, s)",
    "pairs": "rope(x, c, s, interleaved=true)",
    "function": "turn(x, c, s)",
    "op": "turn_op(x, c, s)",
    "loop": "turn_often(x, c, s)",
    "half of it": "rope(x[..., :8], c[..., :4], s[..., :4])",
}
SOURCE = """
use std.attention (rope, rope_table)
use std.cache (KVCache, append, fork, picked, rollback, write_rows)
use std.cache.narrow (HalfCache, NarrowCache, half_append, narrow_append, widened)
use std.cache.paged (PagedCache, gathered, page_append)
use std.cache.ring (RingCache, ring_append)
record Mine[B] {{
    static rotated: bool = false
    keys: f32[B, 2, 8, 16]
}}
op kept(mine: Mine[B]) -> Mine[B] {{
    return Mine(keys=mine.keys, rotated=mine.rotated)
}}
fn same(x: float[...]) -> float[...] {{
    return x
}}
fn zeros_of(x: float[...]) -> float[...] {{
    return x * 0.0
}}
op twice_same(x: float[B, G, C, K]) -> float[B, G, C, K] {{
    return same(same(x)[:, :, :C])
}}
fn turn(x: float[B, G, C, K], c: float[R, C, P], s: float[R, C, P]) -> float[B, G, C, K] {{
    return rope(x, c, s)
}}
op turn_op(x: float[B, G, C, K], c: float[R, C, P], s: float[R, C, P]) -> float[B, G, C, K] {{
    return rope(x, c, s)
}}
op turn_often(x: float[B, G, C, K], c: float[R, C, P], s: float[R, C, P]) -> float[B, G, C, K] {{
    y = x
    fold i in 1 from (y) {{
        y = rope(x, c, s)
    }}
    return y
}}
model m(k: f32[2, 2, 1, 16], v: f32[2, 2, 1, 16], start: i64[2]) -> f32[2, 2, 8] {{
    {state}
    c, s = rope_table(unsqueeze(start, 1), dim=16)
    {write}
    c, s = rope_table(unsqueeze(iota(8), 0), dim=16)
    {passed}
    return sum({read}, axis=-1)  # here
}}
"""


def program(kept: Kept, passed: str, read: str, *, twice: bool) -> str:
    new = "rope(k, c, s)" if twice and not kept.says else "k"
    said = "true" if twice and kept.says else "false"
    lines = {
        "state": kept.state.format(said=said).replace("[B", "[2"), "write": kept.write.format(new=new, said=said),
        "passed": passed.format(keys=kept.keys), "read": read,
    }  # fmt: skip
    return SOURCE.format(**lines)


def check(kept: str, passed: str, read: str) -> None:
    source = program(KEPT[kept], PASSED[passed], READ[read], twice=True)
    with pytest.raises(Diagnostic, match="carry their rotation already") as caught:
        ts.loads(source)
    assert caught.value.code == "E0508"
    assert caught.value.span is not None
    line = source.splitlines()[caught.value.span.line - 1]
    assert "# here" in line or " rope(x" in line
    ts.loads(program(KEPT[kept], PASSED[passed], READ[read], twice=False))


@pytest.mark.parametrize("kept", KEPT)
def test_keys_are_turned_once_however_they_are_kept(kept: str) -> None:
    check(kept, "as they are", "rope")


@pytest.mark.parametrize("passed", PASSED)
def test_keys_are_turned_once_however_they_are_passed_on(passed: str) -> None:
    check("cache", passed, "rope")


@pytest.mark.parametrize("read", READ)
def test_keys_are_turned_once_however_they_are_read(read: str) -> None:
    check("cache", "as they are", read)


@pytest.mark.extended
@pytest.mark.parametrize("kept", KEPT)
def test_keys_are_turned_once(kept: str) -> None:
    for passed, read in product(PASSED, READ):
        check(kept, passed, read)
