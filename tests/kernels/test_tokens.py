"""Selecting and merging by kernels against their definitions, on generated ties, padding and protected ends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.backends.torch import build
from tessera.backends.triton.claims import claims
from tessera.frontends.source import loads
from tessera.kernels import bipartite_merge, grouped_matmul, select_top

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MERGE = """use std.token (TokenMap, token_map, bipartite_merge)

model m(x: f32[B, T, D], metric: f32[B, T, K], valid: bool[B, T], *, r: int, protect: int, last: int, padding: bool)
    -> (y: f32[B, T - r, D], source: i64[B, T], size: f32[B, T - r], position: i64[B, T - r]) {
    map = token_map(valid, batch=B, tokens=T)
    y, after = bipartite_merge(x, map, metric, r=r, protect=protect, last=last, padding=padding)
    return y, after.source, after.size, after.position
}
"""


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 150), st.floats(0, 1), st.integers(1, 4), st.booleans(), st.integers(0, 1000))
def test_select_top(tokens: int, share: float, values: int, hole: bool, seed: int) -> None:
    torch.manual_seed(seed)
    score = torch.randint(0, values, (2, tokens), device=DEVICE).float()
    if hole:
        score[0, tokens // 2] = torch.nan
    k = int(share * tokens)
    known = torch.where(score.isnan(), -torch.inf, score)
    wanted = torch.sort(known, dim=1, descending=True, stable=True).indices[:, :k].sort(1).values
    assert torch.equal(select_top(score, k), wanted)


@settings(max_examples=8, deadline=None)
@given(
    tokens=st.integers(8, 40), r=st.integers(0, 8), protect=st.integers(0, 3), last=st.integers(0, 2), holes=st.integers(0, 3),
    kinds=st.integers(1, 30), seed=st.integers(0, 1000),
)  # fmt: skip
def test_bipartite_merge(tokens: int, r: int, protect: int, last: int, holes: int, kinds: int, seed: int) -> None:
    torch.manual_seed(seed)
    r = min(r, (tokens - protect - last) // 2)
    params = {"r": r, "protect": protect, "last": last, "padding": holes > 0}
    module = loads(MERGE, "merge.tess", params=params)
    x = torch.randn(2, tokens, 20, device=DEVICE, requires_grad=True)
    # A few vectors of 16 signs again and again: their cosines are exact, in whatever order they are summed.
    signs = torch.randint(2, (kinds, 16), device=DEVICE).float() * 2 - 1
    metric = signs[torch.randint(kinds, (2, tokens), device=DEVICE)]
    valid = torch.ones(2, tokens, dtype=torch.bool, device=DEVICE)
    valid[0, tokens - holes :] = False
    ours, body = (build(module, claims=c)(x=x, metric=metric, valid=valid) for c in (claims(), False))
    for name in ("source", "size", "position"):
        assert torch.equal(ours[name], body[name]), name
    torch.testing.assert_close(ours["y"], body["y"])
    share = torch.randn_like(body["y"])
    torch.testing.assert_close(*(torch.autograd.grad((found["y"] * share).sum(), x)[0] for found in (ours, body)))


def test_more_than_half_cannot_leave() -> None:
    x = torch.zeros(1, 6, 2, device=DEVICE)
    index, size = torch.arange(6, device=DEVICE)[None], torch.ones(1, 6, device=DEVICE)
    with pytest.raises(ValueError, match="3 of 6 tokens cannot leave"):
        bipartite_merge(x, index, size, index, x, r=3, protect=1)
    with pytest.raises(ValueError, match="7 of 6 tokens cannot be selected"):
        select_top(size, 7)


@settings(max_examples=8, deadline=None)
@given(rows=st.integers(0, 80), groups=st.lists(st.integers(0, 40), min_size=1, max_size=5), width=st.integers(1, 40),
       out=st.integers(1, 40), seed=st.integers(0, 1000))  # fmt: skip
def test_grouped_matmul(rows: int, groups: list[int], width: int, out: int, seed: int) -> None:
    torch.manual_seed(seed)
    ends = torch.tensor(groups, device=DEVICE).cumsum(0)
    if seed % 3 == 0:  # an end below an earlier one is an empty group
        ends = ends.flip(0)
    x = torch.randn(rows, width, device=DEVICE, requires_grad=True)
    w = torch.randn(len(groups), width, out, device=DEVICE, requires_grad=True)
    reached = torch.cummax(ends, 0).values
    owner = (torch.arange(rows, device=DEVICE)[:, None] >= reached).sum(1)
    padded = torch.cat([w, w.new_zeros(1, width, out)])
    wanted = (x[:, :, None] * padded[owner]).sum(1)
    found = grouped_matmul(x, w, ends)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    share = torch.randn_like(wanted)
    ours, theirs = (torch.autograd.grad((y * share).sum(), (x, w)) for y in (found, wanted))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_they_are_ops_of_torch() -> None:
    x, w = torch.randn(6, 4, device=DEVICE, requires_grad=True), torch.randn(2, 4, 3, device=DEVICE, requires_grad=True)
    torch.library.opcheck(torch.ops.tessera.grouped_matmul, (x, w, torch.tensor([2, 5], device=DEVICE)))
    torch.library.opcheck(torch.ops.tessera.select_top, (torch.randn(2, 5, device=DEVICE), 2))
    index = torch.tensor([[0, 2, 3]], device=DEVICE)
    given = (
        x[None],
        torch.ones(1, 6, device=DEVICE),
        index,
        torch.tensor([[1, 4]], device=DEVICE),
        torch.tensor([[0, 0]], device=DEVICE),
    )
    torch.library.opcheck(torch.ops.tessera.merge_pairs, (*given, False))
