"""Attention of a few queries to a cache: to the slots of a list, in pages or not, with keys turned as they are read.

Split-KV decoding (Dao et al. 2023, "Flash-Decoding"): the slots are split among programs, each of which serves all query heads that
read the same keys, and a second launch joins what they found. What is read through a list is never gathered, and no mask is stored
where it says up to which slot a query sees, or who sees whom in a tree of drafted tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .flash import absorbed, finished, scores


@triton.jit
def turned(
    k, KEYS, COSINE, SINE, at, angle, inside, d, P,
    INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """Keys k [N, BD], which lie at KEYS + at [N], with their first 2 P features turned by the angles at `angle` [N]."""
    if INTERLEAVED:
        first = d % 2 == 0
        other = tl.where(first, d + 1, d - 1)
        pair = d // 2
    else:
        first = d < P
        other = tl.where(first, d + P, d - P)
        pair = tl.where(first, d, d - P)
    turns = inside[:, None] & (d < 2 * P)[None, :]
    beside = tl.load(KEYS + at[:, None] + other[None, :], turns, 0.0).to(tl.float32)
    cosine = tl.load(COSINE + angle[:, None] + pair[None, :], turns, 1.0).to(tl.float32)
    sine = tl.load(SINE + angle[:, None] + pair[None, :], turns, 0.0).to(tl.float32)
    moved = k.to(tl.float32) * cosine + tl.where(first, -1.0, 1.0)[None, :] * beside * sine
    return tl.where(turns, moved.to(k.dtype), k)


@triton.jit
def partial(
    Q, K, V, INDEX, COSINE, SINE, MASK, BIAS, UNTIL, START, TREE, PARTS, LSE,
    q_b, q_h, q_t, k_b, k_g, k_p, k_s, v_b, v_g, v_p, v_s, i_b, i_g, i_n, turn_b,
    bias_b, bias_h, bias_t, bias_s, mask_b, mask_h, mask_t, mask_s, until_b, until_t,
    H, GROUP, T, S, SLOTS, PAGE, D, E, P, SPLITS, EACH, scale, cap,
    LISTED: tl.constexpr, PAGED: tl.constexpr, TURNED: tl.constexpr, INTERLEAVED: tl.constexpr,
    BOUNDED: tl.constexpr, DRAFTED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, CAPPED: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """PARTS f32[B, H, T, SPLITS, E] and LSE f32[B, H, T, SPLITS]: attention to EACH tiles of N of the S slots that are read, by
    M of the GROUP * T queries that read one head's keys.

    PAGED: a slot is number `slot % PAGE` of page `slot // PAGE`. BOUNDED: query t sees the slots up to UNTIL [b, t]. DRAFTED: those
    before START [b], and of the T behind them the ones that TREE i8[B, T, T] says.
    """
    group = tl.program_id(2).to(tl.int64)
    groups = H // GROUP
    b, g = group // groups, group % groups
    row = tl.program_id(1) * M + tl.arange(0, M)
    head = g * GROUP + row // T
    t = tl.where(row < GROUP * T, row % T, T)
    real = t < T
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    q = tl.load(Q + (b * q_b + head * q_h + t * q_t)[:, None] + d[None, :], real[:, None] & (d < D)[None, :], 0.0)
    first = tl.program_id(0) * EACH * N
    last = tl.minimum(first + EACH * N, S)
    until = tl.zeros([M], tl.int64)
    start = tl.zeros([], tl.int64)
    if BOUNDED:
        until = tl.load(UNTIL + b * until_b + t * until_t, real, -1)
        if not LISTED:
            last = tl.minimum(last, tl.maximum(tl.max(until) + 1, 0)).to(tl.int32)
    if DRAFTED:
        start = tl.load(START + b)
        last = tl.minimum(last, start + T).to(tl.int32)
    highest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    y = tl.zeros([M, BE], tl.float32)
    for begin in range(first, last, N):
        columns = begin + tl.arange(0, N)
        inside = columns < S
        slots = columns
        if LISTED:
            asked = tl.load(INDEX + b * i_b + g * i_g + columns * i_n, inside, 0)
            slots = tl.minimum(tl.maximum(asked, 0), SLOTS - 1).to(tl.int32)
        at = b * k_b + g * k_g + (slots % PAGE if PAGED else slots).to(tl.int64) * k_s
        from_v = b * v_b + g * v_g + (slots % PAGE if PAGED else slots).to(tl.int64) * v_s
        if PAGED:
            page = (slots // PAGE).to(tl.int64)
            at += page * k_p
            from_v += page * v_p
        k = tl.load(K + at[:, None] + d[None, :], inside[:, None] & (d < D)[None, :], 0.0)
        if TURNED:
            k = turned(k, K, COSINE, SINE, at, b * turn_b + columns * P, inside, d, P, INTERLEAVED)
        s, _ = scores(
            q, k, BIAS, MASK, (b * bias_b + head * bias_h)[:, None], (b * mask_b + head * mask_h)[:, None], t, columns,
            bias_t, bias_s, mask_t, mask_s, T, S, scale, cap, False, HAS_BIAS, HAS_MASK, CAPPED,
        )  # fmt: skip
        if LISTED:
            # Who reads a slot that there is not shall see it.
            s = tl.where((asked == slots)[None, :] | (s == float("-inf")), s, float("nan"))
        if BOUNDED:
            s = tl.where(slots[None, :] <= until[:, None], s, float("-inf"))
        if DRAFTED:
            node = slots - start
            own = real[:, None] & ((node >= 0) & (node < T))[None, :]
            own = tl.load(TREE + ((b * T + t) * T)[:, None] + node[None, :], own, 0) != 0
            s = tl.where((node < 0)[None, :] | own, s, float("-inf"))
        values = V + from_v[:, None] + e[None, :]
        _, _, highest, total, y = absorbed(s, values, inside[:, None] & (e < E)[None, :], highest, total, y)
    out = ((b * H + head) * T + t) * SPLITS + tl.program_id(0)
    finished(PARTS, LSE, out, real, e, E, highest, total, y)


@triton.jit
def joined(PARTS, LSE, Y, SPLITS, E, BE: tl.constexpr, BS: tl.constexpr):
    """Y [R, E] of the parts f32[R, SPLITS, E] and the logs of their sums f32[R, SPLITS]; a program for one of the R queries."""
    row = tl.program_id(0).to(tl.int64)
    split, e = tl.arange(0, BS), tl.arange(0, BE)
    lse = tl.load(LSE + row * SPLITS + split, split < SPLITS, float("-inf"))
    highest = tl.max(lse, 0)
    weight = tl.exp(lse - tl.where(highest == float("-inf"), 0.0, highest))
    total = tl.sum(weight, 0)
    at = (row * SPLITS + split)[:, None] * E + e[None, :]
    parts = tl.load(PARTS + at, (split < SPLITS)[:, None] & (e < E)[None, :], 0.0)
    y = tl.sum(parts * weight[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(Y + row * E + e, y.to(Y.dtype.element_ty), e < E)
