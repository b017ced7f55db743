"""Bipartite matching without the matrix of scores, and merging as one pass over the tokens that are left.

Bolya et al. 2023, "Token Merging: Your ViT But Faster", section 3 and appendix D.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dot import dot


@triton.jit
def best_partner(
    UNIT, SIZE, BEST, PARTNER,
    unit_b, unit_t, size_b, T, D, FIRST, EVEN, ODD, PROTECT, LAST,
    PADDING: tl.constexpr, BD: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """BEST f32[B, EVEN] and PARTNER i64[B, EVEN]: the largest cosine of each even token 2 (i + FIRST) with the odd tokens 2 j + 1,
    and the lowest such j. UNIT [B, T, D] has rows of length 1."""
    b = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * M + tl.arange(0, M)
    even = 2 * (i + FIRST)
    d = tl.arange(0, BD)
    best = tl.full([M], float("-inf"), tl.float32)
    # Where nothing is above -inf the first one is it, as for argmax.
    partner = tl.zeros([M], tl.int32)
    for start in range(0, ODD, N):
        j = start + tl.arange(0, N)
        odd = 2 * j + 1
        s = tl.zeros([M, N], tl.float32)
        for chunk in range(0, D, BD):
            at = chunk + d
            x = tl.load(UNIT + b * unit_b + even[:, None] * unit_t + at[None, :], (i < EVEN)[:, None] & (at < D)[None, :], 0.0)
            y = tl.load(UNIT + b * unit_b + odd[:, None] * unit_t + at[None, :], (j < ODD)[:, None] & (at < D)[None, :], 0.0)
            s += dot(x, tl.trans(y))
        if PADDING:
            onto = tl.load(SIZE + b * size_b + odd, j < ODD, 1.0) == 0.0
            beside = even[:, None] + 1 == odd[None, :]
            s = tl.where(onto[None, :], tl.where(beside, -2.0, -3.0), s)
            s = tl.where((tl.load(SIZE + b * size_b + even, i < EVEN, 1.0) == 0.0)[:, None], 2.0, s)
        apart = (odd < PROTECT)[None, :] | (odd >= T - LAST)[None, :] | (even >= T - LAST)[:, None] | (j >= ODD)[None, :]
        s = tl.where(apart, float("-inf"), s)
        here, where = tl.max(s, 1, return_indices=True, return_indices_tie_break_left=True)
        partner = tl.where(here > best, start + where, partner)
        best = tl.maximum(here, best)
    tl.store(BEST + b * EVEN + i, best, i < EVEN)
    tl.store(PARTNER + b * EVEN + i, partner.to(tl.int64), i < EVEN)


@triton.jit
def merge(
    X, SIZE, KEPT, LEAVES, ORDER, ENDS, Y, TOTAL,
    x_b, x_t, size_b, L, R, D,
    PADDING: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Y [B, L, D] and TOTAL f32[B, L]: each token KEPT [B, L], moved towards the LEAVES [B, R] that are merged into it.

    ORDER [B, R] sorts the leaves by the place they go to, ENDS [B, L] is where those of each place end: a token has one reader,
    so that sums have one order and no atomics.
    """
    b = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0)
    d = tl.program_id(2) * BD + tl.arange(0, BD)
    kept = tl.load(KEPT + b * L + place)
    end = tl.load(ENDS + b * L + place)
    begin = tl.load(ENDS + b * L + place - 1, place > 0, 0)
    total = tl.load(SIZE + b * size_b + kept)
    for at in range(begin, end):
        leaf = tl.load(LEAVES + b * R + tl.load(ORDER + b * R + at))
        total += tl.load(SIZE + b * size_b + leaf)
    own = tl.load(X + b * x_b + kept * x_t + d, d < D, 0.0)
    y = own.to(tl.float32)
    divisor = total
    if PADDING:
        divisor = tl.where(total == 0.0, 1.0, total)
    for at in range(begin, end):
        leaf = tl.load(LEAVES + b * R + tl.load(ORDER + b * R + at))
        share = tl.load(SIZE + b * size_b + leaf) / divisor
        other = tl.load(X + b * x_b + leaf * x_t + d, d < D, 0.0).to(tl.float32)
        y += (other - own.to(tl.float32)) * share
    tl.store(Y + (b * L + place) * D + d, y.to(Y.dtype.element_ty), d < D)
    if tl.program_id(2) == 0:
        tl.store(TOTAL + b * L + place, total)


@triton.jit
def rank(SCORE, KEEP, score_b, T, K, M: tl.constexpr, N: tl.constexpr):
    """KEEP i32[B, T]: 1 for the K largest scores f32[B, T]; of equal ones the lowest index comes first, NaN is -inf."""
    b = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * M + tl.arange(0, M)
    mine = tl.load(SCORE + b * score_b + i, i < T, 0.0)
    mine = tl.where(mine == mine, mine, float("-inf"))
    before = tl.zeros([M], tl.int32)
    for start in range(0, T, N):
        j = start + tl.arange(0, N)
        other = tl.load(SCORE + b * score_b + j, j < T, 0.0)
        other = tl.where(other == other, other, float("-inf"))
        ahead = (other[None, :] > mine[:, None]) | ((other[None, :] == mine[:, None]) & (j[None, :] < i[:, None]))
        before += tl.sum((ahead & (j < T)[None, :]).to(tl.int32), 1)
    tl.store(KEEP + b * T + i, (before < K).to(tl.int32), i < T)


@triton.jit
def gather_kept(KEEP, INDEX, T, K, N: tl.constexpr):
    """INDEX i64[B, K]: where KEEP i32[B, T] is 1, ascending."""
    b = tl.program_id(0).to(tl.int64)
    found = 0
    for start in range(0, T, N):
        j = start + tl.arange(0, N)
        keep = tl.load(KEEP + b * T + j, j < T, 0)
        place = found + tl.cumsum(keep, 0) - 1
        tl.store(INDEX + b * K + place, j.to(tl.int64), (keep == 1) & (place < K))
        found += tl.sum(keep, 0)
