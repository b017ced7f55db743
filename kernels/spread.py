"""Tokens that are unlike each other, chosen one after the other in one launch: ``torch.ops.tessera.spread_out``.

Greedy k-center (Gonzalez 1985) and the largest sum of distances (``std.token.prune.spread_out``). A program for a row of tokens,
which holds how alike each is to those chosen and compares all with the one just chosen: neither a map of cosines is stored, nor
does a choice wait for a launch.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import plain
from .launch import attempt, check, launch

OBJECTIVES = ("max_sum", "k_center")
# The most tokens whose likeness stays in registers, and elements of a tile of theirs.
_MOST, _TILE = 4096, 8192


@triton.jit
def lowest(x, t, BT: tl.constexpr):
    """Where x [BT] is lowest, the first such place; what is no number is lower than anything."""
    x = tl.where(x == x, x, float("-inf"))
    return tl.min(tl.where(x == tl.min(x, 0), t, BT), 0)


@triton.jit
def greedy(
    UNIT, SCORE, CHOSEN,
    unit_b, unit_t, score_b, T, D, K,
    SUMS: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """CHOSEN f32[B, T]: 1 at K of the T tokens, the first of which has the best SCORE f32[B, T], -inf bars. UNIT f32[B, T, D] has
    rows of length 1."""
    b = tl.program_id(0).to(tl.int64)
    t, d = tl.arange(0, BT), tl.arange(0, BD)
    score = tl.load(SCORE + b * score_b + t, t < T, float("-inf"))
    score = tl.where(score == score, score, float("-inf"))
    left = score > float("-inf")
    pick = lowest(tl.where(t < T, -score, float("inf")), t, BT)
    chosen = tl.zeros([BT], tl.float32)
    alike = tl.full([BT], 0.0 if SUMS else float("-inf"), tl.float32)
    for _ in range(K):
        chosen = tl.where(left & (t == pick), 1.0, chosen)
        left = left & (t != pick)
        cosine = tl.zeros([BT], tl.float32)
        for start in range(0, D, BD):
            at = start + d
            x = tl.load(UNIT + b * unit_b + t[:, None] * unit_t + at[None, :], (t < T)[:, None] & (at < D)[None, :], 0.0)
            y = tl.load(UNIT + b * unit_b + pick * unit_t + at, at < D, 0.0)
            cosine += tl.sum(x * y[None, :], 1)
        alike = alike + cosine if SUMS else tl.maximum(alike, cosine, propagate_nan=tl.PropagateNan.ALL)
        # Of none that is left the first is it, as for argmin.
        pick = lowest(tl.where(left, alike, float("inf")), t, BT)
    tl.store(CHOSEN + b * T + t, chosen, t < T)


def spread_out(x: Tensor, score: Tensor, *, k: int, objective: str = "max_sum") -> Tensor:
    """1 at k tokens [B, T] that are unlike each other, 0 elsewhere (``std.token.prune.spread_out``); it has no gradient.

    Args:
        x: features [B, T, D].
        score: f32[B, T]; the best one is chosen first, and -inf bars a token.
        objective: max_sum, the largest sum of distances 1 - cosine to those chosen before; k_center, the largest one to the nearest
            of them.

    Raises:
        ValueError: shapes that do not go together, more tokens than there are, or an objective that there is not.
        TypeError, RuntimeError: dtypes and devices that no kernel takes.
    """
    if x.dim() != 3 or score.shape != x.shape[:2] or not 0 <= k <= x.shape[1]:
        raise ValueError(f"{k} tokens cannot be chosen of x {tuple(x.shape)} by scores {tuple(score.shape)}")
    if objective not in OBJECTIVES:
        raise ValueError(f"the objective is one of {', '.join(OBJECTIVES)}, and not {objective}")
    check("spread_out", x, score)
    sums = objective == "max_sum"
    x, score = plain.unit(x.detach()), score.detach().float()
    if x.shape[1] > _MOST:
        return plain.spread_out(x, score, k, sums)
    chosen: Tensor = _spread_out(x, score, k, sums)
    return chosen


@torch.library.custom_op("tessera::spread_out", mutates_args=())
def _spread_out(unit: Tensor, score: Tensor, k: int, sums: bool) -> Tensor:
    given = (unit, score, k, sums)
    return attempt("spread_out", None, partial(_launched, *given), partial(plain.spread_out, *given))


def _launched(unit: Tensor, score: Tensor, k: int, sums: bool) -> Tensor:
    b, t, width = unit.shape
    chosen = torch.zeros((b, t), dtype=torch.float32, device=unit.device)
    if b and k:
        unit, score = unit.contiguous(), score.contiguous()
        rows = triton.next_power_of_2(t)
        block = min(triton.next_power_of_2(max(width, 1)), _TILE // rows, 64)
        launch(
            greedy, (b,), unit, score, chosen, *unit.stride()[:2], score.stride(0), t, width, k, SUMS=sums, BT=rows, BD=block,
            options={"num_warps": 8, "num_stages": 1},
        )  # fmt: skip
    return chosen


@_spread_out.register_fake
def _(unit: Tensor, score: Tensor, k: int, sums: bool) -> Tensor:
    return unit.new_empty(unit.shape[:2], dtype=torch.float32)
