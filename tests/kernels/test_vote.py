"""The heads' vote over a cache by kernels against its definition: odd sizes, empty and full caches, groups, views."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.backends.torch import build
from tessera.backends.triton.claims import claims
from tessera.frontends.source import loads
from tessera.kernels import token_vote, vote
from tessera.kernels.launch import INTERPRETED

from .mutation import mutate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOTE = """use std.token.slots (token_vote)

model m(q: f32[B, H, T, K], keys: f32[B, G, C, K], length: i64[B], *, k: int, sinks: int, recent: int, scale: real)
    -> (slots: i64[B, min(k, C)]) {
    return token_vote(q, keys, length, k=k, sinks=sinks, recent=recent, scale=scale)
}
"""


def compare(batch: int, groups: int, share: int, queries: int, slots: int, width: int, sinks: int, recent: int, middle: int,
            seed: int) -> None:  # fmt: skip
    torch.manual_seed(seed)
    module = loads(
        VOTE, "vote.tess", params={"k": sinks + recent + middle, "sinks": sinks, "recent": recent, "scale": width**-0.5}
    )
    q = torch.randn(batch, groups * share, queries, width, device=DEVICE)
    # Keys as a cache's transposed view may have them.
    keys = torch.randn(batch, slots, groups, width, device=DEVICE).transpose(1, 2)
    length = torch.randint(0, slots + 1, (batch,), device=DEVICE)
    ours, body = (build(module, claims=c)(q=q, keys=keys, length=length)["slots"] for c in (claims(), False))
    assert torch.equal(ours, body)


@settings(max_examples=12, deadline=None)
@given(batch=st.integers(1, 3), groups=st.integers(1, 2), share=st.integers(1, 3), queries=st.integers(1, 3),
       slots=st.integers(1, 150), width=st.integers(1, 40), sinks=st.integers(0, 4), recent=st.integers(1, 4),
       middle=st.integers(1, 20), seed=st.integers(0, 1000))  # fmt: skip
def test_token_vote(batch: int, groups: int, share: int, queries: int, slots: int, width: int, sinks: int, recent: int,
                    middle: int, seed: int) -> None:  # fmt: skip
    compare(batch, groups, share, queries, slots, width, sinks, recent, middle, seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, keys = torch.randn(2, 4, 1, 16, device=DEVICE), torch.randn(2, 2, 90, 16, device=DEVICE)
    # One key that every head wants, and many that none does: rounding changes no place.
    keys[:, :, 40] = q.mean((1, 2))[:, None] * 20
    found = token_vote(q.to(dtype), keys.to(dtype), torch.tensor([90, 60], device=DEVICE), k=4, sinks=2, recent=1)
    assert found.tolist()[0][:2] == [0, 1]
    assert found.tolist()[0][-1] == 89
    assert found.tolist()[1][-1] == 59


@pytest.mark.skipif(not INTERPRETED, reason="kernels are changed where they are interpreted")
@pytest.mark.parametrize(("kernel", "right", "wrong"), [
    (vote.products, "slots < length - recent", "slots <= length - recent"),
    (vote.votes, "slots < sinks", "slots <= sinks"),
])  # fmt: skip
def test_a_mistake_is_found(
    kernel: object, right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(kernel, right, wrong, tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        compare_often()


def compare_often() -> None:
    for seed in range(20):
        compare(2, 2, 2, 1, 90, 16, 2, 3, 3, seed)


def test_what_does_not_go_together_is_refused() -> None:
    q, keys, length = torch.zeros(1, 3, 1, 4), torch.zeros(1, 2, 6, 4), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"q \(1, 3, 1, 4\), keys \(1, 2, 6, 4\) and length \(1,\) do not go together"):
        token_vote(q, keys, length, k=8)
    with pytest.raises(ValueError, match="of 4 slots, 4 first and 1 latest ones leave none to vote for"):
        token_vote(q[:, :2], keys, length, k=4)
    with pytest.raises(TypeError, match="takes f32, f16 and bf16"):
        token_vote(q[:, :2].double(), keys.double(), length, k=8)


def test_it_is_an_op_of_torch() -> None:
    q, keys = torch.randn(1, 2, 4, device=DEVICE), torch.randn(1, 1, 9, 4, device=DEVICE)
    torch.library.opcheck(torch.ops.tessera.slot_votes, (q, keys, torch.tensor([7], device=DEVICE), 1, 2, 0.5))
