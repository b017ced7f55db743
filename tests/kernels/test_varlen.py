"""Attention within packed sequences by kernels against its definition: empty sequences, ends that descend, padding of NaN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.backends.torch import build
from tessera.backends.triton.claims import claims
from tessera.frontends.source import loads
from tessera.kernels import varlen, varlen_attention
from tessera.kernels.launch import INTERPRETED

from .mutation import mutate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PACKED = """use std.ragged (Ragged, varlen_attention)

model m(q: f32[N, heads * width], k: f32[S, kv_heads * width], v: f32[S, kv_heads * out], q_ends: i64[B], k_ends: i64[B], *,
    heads: int, kv_heads: int, width: int, out: int, causal: bool) -> (y: f32[N, heads * out], ends: i64[B]) {
    keys = Ragged(values=k, ends=k_ends)
    values = Ragged(values=v, ends=k_ends)
    y = varlen_attention(Ragged(values=q, ends=q_ends), keys, values, heads=heads, kv_heads=kv_heads, causal=causal)
    return y.values, y.ends
}
"""


def compare(sequences: int, groups: int, share: int, queries: int, keys: int, width: int, out: int, causal: bool,
            seed: int) -> None:  # fmt: skip
    torch.manual_seed(seed)
    heads = groups * share
    q, k, v = (
        torch.randn(n, w, device=DEVICE) for n, w in ((queries, heads * width), (keys, groups * width), (keys, groups * out))
    )
    # Ends in any order, below the first row and behind the last.
    q_ends, k_ends = (torch.randint(-3, n + 4, (sequences,), device=DEVICE) for n in (queries, keys))
    if seed % 3:
        q_ends, k_ends = q_ends.sort().values, k_ends.sort().values
    if seed % 2:
        q[max(q_ends.max(), 0) :], k[max(k_ends.max(), 0) :], v[max(k_ends.max(), 0) :] = 1e30, 1e30, 1e30
    params = {"heads": heads, "kv_heads": groups, "width": width, "out": out, "causal": causal}
    module = loads(PACKED, "packed.tess", params=params)
    feed = {"q": q, "k": k, "v": v, "q_ends": q_ends, "k_ends": k_ends}
    kernel, body = build(module, claims=claims()), build(module, claims=False)
    assert "varlen_attention" in kernel.source
    with torch.no_grad():
        ours, wanted = kernel(**feed), body(**feed)
    torch.testing.assert_close(ours["y"], wanted["y"], atol=1e-5, rtol=1e-4)
    assert torch.equal(ours["ends"], q_ends)
    learn = [x.requires_grad_() for x in (q, k, v)]
    mine, theirs = (torch.autograd.grad(network(**feed)["y"].square().sum(), learn) for network in (kernel, body))
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.extended
@settings(max_examples=10, deadline=None)
@given(sequences=st.integers(1, 4), groups=st.integers(1, 2), share=st.integers(1, 2), queries=st.integers(1, 40),
       keys=st.integers(1, 40), width=st.integers(1, 18), out=st.integers(1, 18), causal=st.booleans(),
       seed=st.integers(0, 1000))  # fmt: skip
def test_varlen_attention(sequences: int, groups: int, share: int, queries: int, keys: int, width: int, out: int, causal: bool,
                          seed: int) -> None:  # fmt: skip
    compare(sequences, groups, share, queries, keys, width, out, causal, seed)


@pytest.mark.parametrize("causal", [pytest.param(False, marks=pytest.mark.extended), True])
def test_several_tiles(causal: bool) -> None:
    compare(2, 1, 2, 70, 80, 5, 3, causal, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(20, 16, device=DEVICE) for _ in range(3))
    ends = torch.tensor([7, 7, 19], device=DEVICE)
    ours = varlen_attention(q.to(dtype), ends, k.to(dtype), ends, v.to(dtype), heads=2)
    assert ours.dtype == dtype
    wanted = varlen_attention(q, ends, k, ends, v, heads=2)
    torch.testing.assert_close(ours.float(), wanted, atol=2e-2, rtol=2e-2)
    assert not ours[19].any()


def test_padding_is_not_read() -> None:
    q, k, v = (torch.randn(9, 4, device=DEVICE) for _ in range(3))
    ends = torch.tensor([4, 6], device=DEVICE)
    wanted = varlen_attention(q, ends, k, ends, v, heads=2)
    q[6:], k[6:], v[6:] = torch.nan, torch.nan, torch.nan
    for learns in (False, True):
        torch.testing.assert_close(varlen_attention(q.requires_grad_(learns), ends, k, ends, v, heads=2), wanted)


@pytest.mark.extended
@pytest.mark.skipif(not INTERPRETED, reason="kernels are changed where they are interpreted")
@pytest.mark.parametrize(("right", "wrong"), [
    ("t = (tl.load(Q_ENDS + b) - begin)", "t = (tl.load(Q_ENDS + b) + 1 - begin)"),
    ("first = tl.load(K_ENDS + b - 1, b > 0, 0)", "first = tl.load(Q_ENDS + b - 1, b > 0, 0)"),
    (".to(tl.int32) + M + s - t", ".to(tl.int32) + s - t"),
])  # fmt: skip
def test_a_mistake_is_found(right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(varlen.packed, right, wrong, tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        compare_both()


def compare_both() -> None:
    """More keys than queries, and fewer."""
    compare(3, 1, 2, 30, 37, 5, 3, True, 2)
    compare(1, 1, 1, 30, 9, 5, 3, True, 4)


def test_what_does_not_go_together_is_refused() -> None:
    q, ends = torch.zeros(5, 12, device=DEVICE), torch.tensor([2, 5], device=DEVICE)
    with pytest.raises(ValueError, match=r"\(5, 12\), \(2,\), \(5, 12\), \(2,\), \(5, 12\) do not go with 5/5 heads"):
        varlen_attention(q, ends, q, ends, q, heads=5)
    with pytest.raises(TypeError, match="takes f32, f16 and bf16"):
        varlen_attention(q.double(), ends, q.double(), ends, q.double(), heads=3)


def test_it_is_an_op_of_torch() -> None:
    q, ends = torch.randn(5, 8, device=DEVICE), torch.tensor([2, 5], device=DEVICE)
    torch.library.opcheck(torch.ops.tessera.varlen_attention, (q, ends, q, ends, q, 2, 2, True, 0.5))
