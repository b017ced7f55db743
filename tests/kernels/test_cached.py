"""Attention to slots of a cache by kernels against what gathers and masks it: lists, pages, turned keys, last slots and trees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tessera as ts
from tessera.backends.torch import build as build_torch
from tessera.backends.triton import build
from tessera.backends.triton.fuse import fused
from tessera.backends.triton.plan import plan_of
from tessera.backends.triton.reads import READ
from tessera.driver.compile import apply_passes
from tessera.frontends.source import loads
from tessera.kernels import attend_cache, cached, cached_attention
from tessera.kernels.launch import INTERPRETED

from .mutation import mutate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEAD = """use std.attention (attention, rope)
use std.cache (KVCache, picked, turned, visible)
use std.cache.paged (PagedCache, page_picked)

"""
# Programs that read a cache, each with the operands of the node that is found in it besides queries, keys and values.
PROGRAMS = {
    "slots": (
        """model m(q: f32[B, 4, T, 9], k: f32[B, 2, C, 9], v: f32[B, 2, C, V], length: i64[B], slots: i64[B, N])
    -> (y: f32[B, 4, T, V]) {
    read = picked(KVCache(k=k, v=v, length=length), slots)
    return attention(q, read.k, read.v, unsqueeze(slots < unsqueeze(length, 1), [1, 2]))
}""", {"index", "until"},
    ),
    "slots of each head": (
        """model m(q: f32[B, 4, T, 9], k: f32[B, 2, C, 9], v: f32[B, 2, C, V], own: i64[B, 2, N], bias: f32[B, 1, T, N])
    -> (y: f32[B, 4, T, V]) {
    return attention(q, take(k, own, axis=2, batch=2), take(v, own, axis=2, batch=2), none, bias)
}""", {"index", "bias"},
    ),
    "slots, turned": (
        """model m(q: f32[B, 4, T, 8], k: f32[B, 2, C, 8], v: f32[B, 2, C, V], length: i64[B], slots: i64[B, N],
    seen: bool[B, 1, T, N], cosine: f32[1, N, 3], sine: f32[1, N, 3]) -> (y: f32[B, 4, T, V]) {
    read = turned(picked(KVCache(k=k, v=v, length=length), slots), cosine, sine, interleaved=true)
    return attention(q, rearrange(read.k, "b g (n r) k -> (b n) g r k", n=1), read.v, seen, softcap=2.0)
}""", {"index", "cosine", "sine", "mask"},
    ),
    "pages": (
        """model m(q: f32[B, 4, T, 8], pool: f32[P, 2, 4, 8], held: f32[P, 2, 4, V], table: i64[B, M], length: i64[B],
    place: i64[B, N], cosine: f32[B, N, 4], sine: f32[B, N, 4]) -> (y: f32[B, 4, T, V]) {
    read = page_picked(PagedCache(k=pool, v=held, table=table, length=length), place)
    read = turned(read, cosine, sine)
    return attention(q, read.k, read.v)
}""", {"index", "cosine", "sine"},
    ),
    "what is filled": (
        """model m(q: f32[B, 4, T, 9], k: f32[B, 2, C, 9], v: f32[B, 2, C, V], length: i64[B]) -> (y: f32[B, 4, T, V]) {
    return attention(q, k, v, visible(KVCache(k=k, v=v, length=length), queries=T))
}""", {"until"},
    ),
    "a last slot of each query, turned about": (
        """model m(q: f32[B, 4, T, 9], k: f32[B, 2, C, 9], v: f32[B, 2, C, V], last: i64[T, B]) -> (y: f32[B, 4, T, V]) {
    return attention(q, k, v, unsqueeze(unsqueeze(iota(C), 0) <= unsqueeze(transpose(last, perm=[1, 0]), 2), 1))
}""", {"until"},
    ),
    "a tree": (
        """model m(q: f32[B, 4, T, 9], k: f32[B, 2, C, 9], v: f32[B, 2, C, V], start: i64[B], ancestors: bool[B, T, T])
    -> (y: f32[B, 4, T, V]) {
    at = unsqueeze(iota(C), 0) - unsqueeze(start, 1)
    column = expand(unsqueeze(minimum(maximum(at, 0), T - 1), 1), [B, T, C])
    own = gather(ancestors, column, axis=2) and unsqueeze(at >= 0 and at < T, 1)
    return attention(q, k, v, unsqueeze(unsqueeze(at < 0, 1) or own, 1))
}""", {"start", "tree"},
    ),
    "a comparison of something else": (
        """model m(q: f32[B, 4, T, 9], k: f32[B, 2, C, 9], v: f32[B, 2, C, V], slots: i64[B, N], place: i64[B, N], length: i64[B])
    -> (y: f32[B, 4, T, V]) {
    read = picked(KVCache(k=k, v=v, length=length), slots)
    return attention(q, read.k, read.v, unsqueeze(place <= unsqueeze(length, 1), [1, 2]))
}""", {"index", "mask"},
    ),
}  # fmt: skip
QUICK = ("pages", "a tree", "slots of each head", "a last slot of each query, turned about")
LLAMA = {"vocab": 61, "dim": 32, "depth": 1, "heads": 4, "kv_heads": 2, "hidden": 48}
SELECT = {"depth": 1, "sinks": 2, "k": 4, "recent": 4}
# Models that read a cache: a file, its model, parameters, passes, and the entry point.
MODELS: dict[str, tuple[str, str | None, dict[str, Any], list[str], str | None]] = {
    "a step that votes": ("llama_lm", None, LLAMA, ["add_cache", "select_kv(k=8, method=token_vote)"], "decode"),
    "a step that chooses pages": ("llama_lm", None, LLAMA, ["add_cache", "select_kv(k=8, method=page_bounds, page=4)"], "decode"),
    "a step": ("llama_lm", None, LLAMA, ["add_cache"], "decode"),
    "a tree that is verified": ("llama_lm", None, LLAMA, ["add_cache(tree=true)"], "verify"),
    "TokenSelect": ("seeds/tokenselect", "further", SELECT, [], None),
    "TokenSelect, pages of one": ("seeds/tokenselect", "paged", SELECT, [], None),
    "TokenSelect, pages": ("seeds/tokenselect", "paged", {**SELECT, "page": 4}, [], None),
    "DySpec": ("seeds/dyspec", "tree_reader", {}, [], None),
}  # fmt: skip
OPERANDS = ("q", "keys", "values", "index", "cosine", "sine", "mask", "bias", "until", "start", "tree")
SIZES = {"B": 2, "T": 3, "C": 41, "V": 7, "N": 37, "P": 20, "M": 10}


def drawn(name: str, shape: list[int], dtype: str, seed: int) -> Tensor:
    torch.manual_seed(seed)
    if dtype == "f32":
        return torch.randn(shape, device=DEVICE)
    if dtype == "bool":
        return torch.rand(shape, device=DEVICE) < 0.6
    ends = {"table": SIZES["P"], "start": SIZES["C"] - SIZES["T"], "length": SIZES["C"] + 1}
    return torch.randint(0, ends.get(name, 4 * SIZES["M"]), shape, device=DEVICE)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.extended) for name in PROGRAMS
])  # fmt: skip
def test_programs_that_read_a_cache(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend_cache, "PROGRAMS", 8)
    text, operands = PROGRAMS[name]
    module = loads(HEAD + text, "read.tess")
    reads = [node for node in fused(module.graph).nodes() if node.op.qualified == READ]
    assert len(reads) == 1
    given = {o for o, v in zip(OPERANDS, reads[0].inputs, strict=True) if v is not None}
    assert given == {"q", "keys", "values", *operands}
    feed = {
        v.public: drawn(v.public, [d.evaluate(SIZES) for d in v.type.shape], v.type.dtype.name, i)
        for i, v in enumerate(module.graph.inputs)
    }
    ours, body = build(module), build_torch(module, claims=False)
    with torch.no_grad():
        torch.testing.assert_close(ours(**feed)["y"], body(**feed)["y"], atol=1e-5, rtol=1e-4)
    # Gradients are those of what is gathered.
    q = feed["q"].requires_grad_()
    theirs, mine = (torch.autograd.grad(network(**feed)["y"].square().sum(), q)[0] for network in (body, ours))
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.extended
@pytest.mark.parametrize("name", MODELS)
def test_models_that_read_a_cache(name: str) -> None:
    file, model, params, passes, entry = MODELS[name]
    module, _ = apply_passes(ts.load(file, model, params=params), passes)
    module = module if entry is None else module.only(entry)
    assert READ in json.loads(plan_of(module.graph))["kernels"]
    artifact = ts.compile(module, target="triton")
    assert max(row["error"] for row in artifact.report.verified) < 1e-4


def compare(batch: int, groups: int, share: int, queries: int, slots: int, width: int, out: int, read: int, kind: int,
            seed: int) -> None:  # fmt: skip
    torch.manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=DEVICE)

    pages = kind % 3 == 1
    keys, values = (
        (draw(5, groups, 4, width), draw(5, groups, 4, out))
        if pages
        # As a cache's transposed view may have them.
        else (draw(batch, slots, groups, width).transpose(1, 2), draw(batch, groups, slots, out))
    )
    listed = pages or kind % 3 == 0
    many = read if listed else slots
    most = 20 if pages else slots
    index = torch.randint(0, most, (batch, groups, many) if seed % 2 else (batch, many), device=DEVICE) if listed else None
    turns = (draw(1 + seed % 2 * (batch - 1), many, width // 2), draw(1 + seed % 2 * (batch - 1), many, width // 2))
    options: dict[str, Any] = {"pages": pages, "interleaved": kind % 2 == 0}
    if width >= 2 and kind % 4 < 3:
        options |= dict(zip(("cosine", "sine"), turns, strict=True))
    if kind % 5 == 0:
        options["mask"] = torch.rand(batch, 1, queries, many, device=DEVICE) < 0.5
    if kind % 5 == 1:
        options["bias"] = draw(1, groups * share, 1, many)
    if kind % 2:
        options["until"] = torch.randint(-1, most, (batch, queries), device=DEVICE)
    elif not listed and slots >= queries:
        options |= {
            "start": torch.randint(0, slots - queries + 1, (batch,), device=DEVICE),
            "tree": torch.rand(batch, queries, queries, device=DEVICE) < 0.5,
        }
    q = draw(batch, groups * share, queries, width)
    ours = cached_attention(q, keys, values, index, **options)
    theirs = cached_attention(q.clone().requires_grad_(), keys, values, index, **options)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.extended
@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 2), groups=st.integers(1, 2), share=st.integers(1, 3), queries=st.integers(1, 18),
       slots=st.integers(1, 80), width=st.integers(1, 20), out=st.integers(1, 20), read=st.integers(0, 70),
       kind=st.integers(0, 59), programs=st.sampled_from([1, 8, 512]), seed=st.integers(0, 1000))  # fmt: skip
def test_cached_attention(batch: int, groups: int, share: int, queries: int, slots: int, width: int, out: int, read: int,
                          kind: int, programs: int, seed: int) -> None:  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attend_cache, "PROGRAMS", programs)
        compare(batch, groups, share, queries, slots, width, out, read, kind, seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, t, 16, device=DEVICE).to(dtype) for n, t in ((4, 2), (2, 70), (2, 70)))
    angle = torch.randn(1, 40, 8, device=DEVICE).to(dtype)
    index = torch.randint(0, 70, (2, 40), device=DEVICE)
    ours = cached_attention(q, k, v, index, angle.cos(), angle.sin())
    wanted = cached_attention(*(x.float() for x in (q, k, v)), index, angle.cos().float(), angle.sin().float())
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), wanted, atol=2e-2, rtol=2e-2)


@pytest.mark.extended
@pytest.mark.skipif(not INTERPRETED, reason="kernels are changed where they are interpreted")
@pytest.mark.parametrize(("kernel", "right", "wrong"), [
    (cached.partial, "slots[None, :] <= until[:, None]", "slots[None, :] < until[:, None]"),
    (cached.partial, "(node < 0)[None, :] | own", "(node <= 0)[None, :] | own"),
    (cached.turned, "tl.where(first, -1.0, 1.0)", "tl.where(first, 1.0, -1.0)"),
    (cached.joined, "parts * weight[:, None]", "parts"),
])  # fmt: skip
def test_a_mistake_is_found(
    kernel: Any, right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(kernel, right, wrong, tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        compare_often()


def compare_often() -> None:
    for kind in range(3, 9):
        compare(2, 2, 2, 3, 70, 12, 8, 65, kind, kind)


def test_a_slot_that_there_is_not_is_seen() -> None:
    q, k = torch.randn(1, 1, 2, 4, device=DEVICE), torch.randn(1, 1, 6, 4, device=DEVICE)
    for odd, hidden in ((6, False), (-1, False), (9, True)):
        index, until = torch.tensor([[1, odd, 2]], device=DEVICE), torch.tensor([[5, 3]], device=DEVICE)
        mask = torch.tensor([True, not hidden, True], device=DEVICE).view(1, 1, 1, 3)
        y = cached_attention(q, k, k, index, mask=mask, until=until)
        # Clipped to the last slot, it lies behind what the second query sees.
        wanted = [not hidden, not hidden and odd < 0]
        assert y.isnan().any(3).flatten().tolist() == wanted


def test_what_does_not_go_together_is_refused() -> None:
    q, k = torch.zeros(1, 3, 1, 4, device=DEVICE), torch.zeros(1, 2, 6, 4, device=DEVICE)
    with pytest.raises(ValueError, match=r"q \(1, 3, 1, 4\), keys \(1, 2, 6, 4\) and values \(1, 2, 6, 4\) do not go together"):
        cached_attention(q, k, k)
    q = q[:, :2]
    with pytest.raises(ValueError, match=r"the index \(2, 3\) does not go with 2 heads of 1 rows"):
        cached_attention(q, k, k, torch.zeros(2, 3, dtype=torch.int64, device=DEVICE))
    with pytest.raises(ValueError, match="an index with pages"):
        cached_attention(q, k, k, pages=True)
    with pytest.raises(ValueError, match=r"the bias \(1, 2, 1, 5\) does not go with scores \(1, 2, 1, 6\)"):
        cached_attention(q, k, k, bias=torch.zeros(1, 2, 1, 5, device=DEVICE))
    with pytest.raises(TypeError, match="takes f32, f16 and bf16"):
        cached_attention(q.double(), k.double(), k.double())


def test_it_is_an_op_of_torch() -> None:
    q, k = torch.randn(1, 2, 1, 4, device=DEVICE), torch.randn(1, 1, 9, 4, device=DEVICE)
    given = (q, k, k, torch.tensor([[2, 7]], device=DEVICE), *[None] * 7, False, False, 0.5, 0.0)
    torch.library.opcheck(torch.ops.tessera.cached_attention, given)
