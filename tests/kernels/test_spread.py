"""Tokens that are unlike each other by a kernel against the definition: equal tokens, barred ones, none left, no numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.backends.torch import build
from tessera.backends.triton.claims import claims
from tessera.frontends.source import loads
from tessera.kernels import spread, spread_out
from tessera.kernels.launch import INTERPRETED
from tessera.kernels.spread import OBJECTIVES

from .mutation import mutate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SPREAD = """use std.token.prune (spread_out)

model m(x: f32[B, T, D], score: f32[B, T], *, k: int, objective: str) -> (chosen: f32[B, T]) {
    return spread_out(x, score, k=k, objective=objective)
}
"""


def compare(batch: int, tokens: int, width: int, k: int, kinds: int, objective: str, seed: int) -> None:
    torch.manual_seed(seed)
    # Axes of few kinds, whose cosines are exact, so that many tokens are equally unlike; other tokens are never.
    same = torch.eye(width, device=DEVICE)[torch.randint(0, min(kinds, width), (batch, tokens), device=DEVICE)]
    x = same if kinds < 6 else torch.randn(batch, tokens, width, device=DEVICE)
    score = torch.randint(0, 4, (batch, tokens), device=DEVICE).float()
    score[torch.rand(batch, tokens, device=DEVICE) < 0.3] = -torch.inf
    module = loads(SPREAD, "spread.tess", params={"k": k, "objective": objective})
    kernel, body = build(module, claims=claims()), build(module, claims=False)
    assert "spread_out" in kernel.source
    assert torch.equal(kernel(x=x, score=score)["chosen"], body(x=x, score=score)["chosen"])


@pytest.mark.extended
@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 3), tokens=st.integers(1, 40), width=st.integers(1, 20), share=st.floats(0, 1), kinds=st.integers(1, 9),
       objective=st.sampled_from(OBJECTIVES), seed=st.integers(0, 1000))  # fmt: skip
def test_spread_out(batch: int, tokens: int, width: int, share: float, kinds: int, objective: str, seed: int) -> None:
    compare(batch, tokens, width, round(share * tokens), kinds, objective, seed)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equal_tokens(objective: str) -> None:
    compare(2, 19, 70, 7, 3, objective, 0)
    compare(2, 19, 70, 7, 9, objective, 0)


def test_what_is_no_number_is_chosen_next() -> None:
    x = torch.eye(4, device=DEVICE)[None].clone()
    x[0, 2] = torch.nan
    score = torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=DEVICE)
    for objective in OBJECTIVES:
        assert spread_out(x, score, k=2, objective=objective).tolist() == [[1.0, 0.0, 1.0, 0.0]]


@pytest.mark.extended
@pytest.mark.skipif(not INTERPRETED, reason="kernels are changed where they are interpreted")
@pytest.mark.parametrize(("kernel", "right", "wrong"), [
    (spread.lowest, "t, BT), 0)", "BT - t, BT), 0)"),
    (spread.greedy, "left & (t == pick)", "t == pick"),
    (spread.greedy, "tl.maximum(alike, cosine,", "tl.minimum(alike, cosine,"),
])  # fmt: skip
def test_a_mistake_is_found(
    kernel: object, right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(kernel, right, wrong, tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        compare_often()


def compare_often() -> None:
    for seed in range(4):
        compare(2, 19, 20, 19 if seed % 2 else 7, 3 + 6 * (seed // 2), "k_center", seed)


def test_what_does_not_go_together_is_refused() -> None:
    x, score = torch.zeros(1, 3, 4, device=DEVICE), torch.zeros(1, 3, device=DEVICE)
    with pytest.raises(ValueError, match=r"4 tokens cannot be chosen of x \(1, 3, 4\) by scores \(1, 3\)"):
        spread_out(x, score, k=4)
    with pytest.raises(ValueError, match="the objective is one of max_sum, k_center, and not far"):
        spread_out(x, score, k=1, objective="far")
    with pytest.raises(TypeError, match="takes f32, f16 and bf16"):
        spread_out(x.double(), score, k=1)


def test_it_is_an_op_of_torch() -> None:
    given = (torch.randn(2, 5, 4, device=DEVICE), torch.randn(2, 5, device=DEVICE), 2, True)
    torch.library.opcheck(torch.ops.tessera.spread_out, given)
