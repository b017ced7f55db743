"""Attention in one launch: scores are never stored, whatever is asked of them besides the result.

After FlashAttention-2 (Dao 2023, algorithms 1 and 2), with masks, biases, grouped keys, soft caps, and the statistics that token
reduction asks for (column mass, one row, log-sum-exp), each of which is one more pass over the scores and no map of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dot import dot


@triton.jit
def scores(
    q, k, BIAS, MASK, bias_at, mask_at, rows, columns, bias_t, bias_s, mask_t, mask_s, T, S, scale, cap,
    CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """Scores [M, N] in f32 of the queries at `rows` and the keys at `columns`, -inf where a query may not attend; and the
    derivative of the soft cap there."""
    s = dot(q, tl.trans(k)) * scale
    slope = tl.full(s.shape, 1.0, tl.float32)
    if CAPPED:
        # tanh, by an exponential that cannot overflow
        e = tl.exp(-2.0 * tl.abs(s) / cap)
        t = (1.0 - e) / (1.0 + e)
        t = tl.where(s < 0, -t, t)
        slope = 1.0 - t * t
        s = t * cap
    inside = (rows[:, None] < T) & (columns[None, :] < S)
    if HAS_BIAS:
        s += tl.load(BIAS + bias_at + rows[:, None] * bias_t + columns[None, :] * bias_s, inside, 0.0).to(tl.float32)
    if HAS_MASK:
        inside = inside & (tl.load(MASK + mask_at + rows[:, None] * mask_t + columns[None, :] * mask_s, inside, 0) != 0)
    if CAUSAL:
        inside = inside & (columns[None, :] <= rows[:, None] + (S - T))
    return tl.where(inside, s, float("-inf")), slope


@triton.jit
def block(X, at, rows, columns, stride, R, C):
    """Rows of a matrix whose last axis is dense; 0 outside of it."""
    return tl.load(X + at + rows[:, None] * stride + columns[None, :], (rows[:, None] < R) & (columns[None, :] < C), 0.0)


@triton.jit
def absorbed(s, V, inside, highest, total, y):
    """One step of the online softmax: what is known of M queries, with the scores s [M, N] and the values at V [N, E] in it.

    Returns:
        The exponentials in the dtype of values and the level [M] that was subtracted; the highest scores [M], the sums of
        exponentials [M], and the values weighed by these y [M, E].
    """
    # A score of NaN is no maximum; it makes the sums NaN.
    above = tl.maximum(highest, tl.max(tl.where(s == s, s, float("-inf")), 1))
    # A query that has seen no key yet: 0 is subtracted, so that the difference of two -inf never arises.
    level = tl.where(above == float("-inf"), 0.0, above)
    p = tl.exp(s - level[:, None])
    shrunk = tl.exp(highest - level)
    total = total * shrunk + tl.sum(p, 1)
    # Values are loaded when the scores have left their registers.
    v = tl.load(V, inside, 0.0)
    p = p.to(v.dtype)
    return p, level, above, total, y * shrunk[:, None] + dot(p, v)


@triton.jit
def finished(Y, LSE, at, real, e, E, highest, total, y):
    """Stores the weighed values over their sums, and the logs of these."""
    known = tl.where(total == 0.0, 1.0, total)
    tl.store(Y + at[:, None] * E + e[None, :], (y / known[:, None]).to(Y.dtype.element_ty), real[:, None] & (e < E)[None, :])
    tl.store(LSE + at, tl.where(total == 0.0, float("-inf"), highest + tl.log(known)), real)


@triton.jit
def forward(
    Q, K, V, BIAS, MASK, Y, LSE,
    q_b, q_h, q_t, k_b, k_h, k_s, v_b, v_h, v_s, bias_b, bias_h, bias_t, bias_s, mask_b, mask_h, mask_t, mask_s,
    H, GROUP, T, S, D, E, scale, cap,
    CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, CAPPED: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Y [B, H, T, E] and LSE [B, H, T] in f32, both dense; a program for M queries of one head."""
    head = tl.program_id(1).to(tl.int64)
    b, h = head // H, head % H
    rows = tl.program_id(0) * M + tl.arange(0, M)
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    q = block(Q, b * q_b + h * q_h, rows, d, q_t, T, D)
    highest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    y = tl.zeros([M, BE], tl.float32)
    end = S
    if CAUSAL:
        end = tl.minimum(S, (tl.program_id(0) + 1) * M + S - T)
    for start in range(0, end, N):
        columns = start + tl.arange(0, N)
        k = block(K, b * k_b + h // GROUP * k_h, columns, d, k_s, S, D)
        s, _ = scores(
            q, k, BIAS, MASK, b * bias_b + h * bias_h, b * mask_b + h * mask_h, rows, columns, bias_t, bias_s, mask_t, mask_s,
            T, S, scale, cap, CAUSAL, HAS_BIAS, HAS_MASK, CAPPED,
        )  # fmt: skip
        at = V + b * v_b + h // GROUP * v_h + columns[:, None] * v_s + e[None, :]
        _, _, highest, total, y = absorbed(s, at, (columns < S)[:, None] & (e < E)[None, :], highest, total, y)
    finished(Y, LSE, head * T + rows, rows < T, e, E, highest, total, y)


@triton.jit
def paying(
    Q, K, V, BIAS, MASK, Y, LSE, PAID,
    q_b, q_h, q_t, k_b, k_h, k_s, v_b, v_h, v_s, bias_b, bias_h, bias_t, bias_s, mask_b, mask_h, mask_t, mask_s,
    H, GROUP, T, S, D, E, scale, cap,
    CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, CAPPED: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """What :func:`forward` gives, and PAID f32[B, H, ceildiv(T, M), S], what M queries pay each key.

    The exponentials of the first HELD * N keys stay in registers until the sums are known that they are divided by; the scores of
    the others are computed again.
    """
    head = tl.program_id(1).to(tl.int64)
    b, h = head // H, head % H
    rows = tl.program_id(0) * M + tl.arange(0, M)
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    k_at, v_at = b * k_b + h // GROUP * k_h, V + b * v_b + h // GROUP * v_h
    bias_at, mask_at = b * bias_b + h * bias_h, b * mask_b + h * mask_h
    q = block(Q, b * q_b + h * q_h, rows, d, q_t, T, D)
    highest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    y = tl.zeros([M, BE], tl.float32)
    kept = ()
    levels = ()
    end = S
    if CAUSAL:
        end = tl.minimum(S, (tl.program_id(0) + 1) * M + S - T)
    for i in tl.static_range(HELD):
        p = tl.zeros([M, N], V.dtype.element_ty)
        level = tl.zeros([M], tl.float32)
        # At most one round: what a compiler must not draw into the next tile's, which takes registers.
        for start in range(i * N, tl.minimum(end, i * N + N), N):
            columns = start + tl.arange(0, N)
            k = block(K, k_at, columns, d, k_s, S, D)
            s, _ = scores(
                q, k, BIAS, MASK, bias_at, mask_at, rows, columns, bias_t, bias_s, mask_t, mask_s, T, S, scale, cap,
                CAUSAL, HAS_BIAS, HAS_MASK, CAPPED,
            )  # fmt: skip
            values = v_at + columns[:, None] * v_s + e[None, :]
            p, level, highest, total, y = absorbed(s, values, (columns < S)[:, None] & (e < E)[None, :], highest, total, y)
        kept += (p,)  # type: ignore[assignment]
        levels += (level,)  # type: ignore[assignment]
    for start in range(HELD * N, end, N):
        columns = start + tl.arange(0, N)
        k = block(K, k_at, columns, d, k_s, S, D)
        s, _ = scores(
            q, k, BIAS, MASK, bias_at, mask_at, rows, columns, bias_t, bias_s, mask_t, mask_s, T, S, scale, cap,
            CAUSAL, HAS_BIAS, HAS_MASK, CAPPED,
        )  # fmt: skip
        values = v_at + columns[:, None] * v_s + e[None, :]
        p, level, highest, total, y = absorbed(s, values, (columns < S)[:, None] & (e < E)[None, :], highest, total, y)
    finished(Y, LSE, head * T + rows, rows < T, e, E, highest, total, y)
    last = tl.where(highest == float("-inf"), 0.0, highest)
    share = 1.0 / tl.where(total == 0.0, 1.0, total)
    at = (head * tl.num_programs(0) + tl.program_id(0)) * S
    for i in tl.static_range(HELD):
        columns = i * N + tl.arange(0, N)
        # A level only grows, but for the 0 of a query that had seen no key.
        weight = tl.exp(tl.minimum(levels[i] - last, 0.0)) * share
        tl.store(PAID + at + columns, tl.sum(kept[i].to(tl.float32) * weight[:, None], 0), columns < S)
    for start in range(HELD * N, end, N):
        columns = start + tl.arange(0, N)
        k = block(K, k_at, columns, d, k_s, S, D)
        s, _ = scores(
            q, k, BIAS, MASK, bias_at, mask_at, rows, columns, bias_t, bias_s, mask_t, mask_s, T, S, scale, cap,
            CAUSAL, HAS_BIAS, HAS_MASK, CAPPED,
        )  # fmt: skip
        tl.store(PAID + at + columns, tl.sum(tl.exp(s - last[:, None]) * share[:, None], 0), columns < S)


@triton.jit
def mass(
    Q, K, BIAS, MASK, LSE, OUT,
    q_b, q_h, q_t, k_b, k_h, k_s, bias_b, bias_h, bias_t, bias_s, mask_b, mask_h, mask_t, mask_s,
    H, GROUP, T, S, D, scale, cap, first, last,
    CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, CAPPED: tl.constexpr,
    BD: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """OUT [B, H, S] in f32: the sum of the weights that the queries `first` to `last` - 1 pay each key; a program for N keys of
    a head."""
    head = tl.program_id(1).to(tl.int64)
    b, h = head // H, head % H
    columns = tl.program_id(0) * N + tl.arange(0, N)
    d = tl.arange(0, BD)
    k = block(K, b * k_b + h // GROUP * k_h, columns, d, k_s, S, D)
    out = tl.zeros([N], tl.float32)
    if CAUSAL:
        first = tl.maximum(first, tl.program_id(0) * N - (S - T))
    for start in range(first, last, M):
        rows = start + tl.arange(0, M)
        q = block(Q, b * q_b + h * q_h, rows, d, q_t, last, D)
        s, _ = scores(
            q, k, BIAS, MASK, b * bias_b + h * bias_h, b * mask_b + h * mask_h, rows, columns, bias_t, bias_s, mask_t, mask_s,
            T, S, scale, cap, CAUSAL, HAS_BIAS, HAS_MASK, CAPPED,
        )  # fmt: skip
        lse = tl.load(LSE + head * T + rows, rows < last, float("-inf"))
        # A query that attends to nothing, or is none of those asked for, pays nothing.
        lse = tl.where(lse == float("-inf"), float("inf"), lse)
        out += tl.sum(tl.exp(s - lse[:, None]), 0)
    tl.store(OUT + head * S + columns, out, columns < S)


@triton.jit
def weights_and_slopes(
    q, k, v, dy, lse, delta, BIAS, MASK, MASS, ROW, bias_at, mask_at, mass_at, row_at, rows, columns,
    bias_t, bias_s, mask_t, mask_s, T, S, scale, cap, row,
    CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, CAPPED: tl.constexpr,
    HAS_MASS: tl.constexpr, HAS_ROW: tl.constexpr,
):  # fmt: skip
    """The weights [M, N], the gradient of the scores before bias and soft cap, and behind them."""
    s, slope = scores(
        q, k, BIAS, MASK, bias_at, mask_at, rows, columns, bias_t, bias_s, mask_t, mask_s, T, S, scale, cap,
        CAUSAL, HAS_BIAS, HAS_MASK, CAPPED,
    )  # fmt: skip
    p = tl.exp(s - tl.where(lse == float("-inf"), float("inf"), lse)[:, None])
    dp = dot(dy, tl.trans(v))
    if HAS_MASS:
        dp += tl.load(MASS + mass_at + columns, columns < S, 0.0)[None, :]
    if HAS_ROW:
        dp += tl.where(rows[:, None] == row, tl.load(ROW + row_at + columns, columns < S, 0.0)[None, :], 0.0)
    ds = p * (dp - delta[:, None])
    return p, ds * slope, ds


@triton.jit
def backward_keys(
    Q, K, V, BIAS, MASK, DY, LSE, DELTA, MASS, ROW, DK, DV,
    q_b, q_h, q_t, k_b, k_h, k_s, v_b, v_h, v_s, bias_b, bias_h, bias_t, bias_s, mask_b, mask_h, mask_t, mask_s,
    H, GROUP, T, S, D, E, scale, cap, row,
    CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, CAPPED: tl.constexpr,
    HAS_MASS: tl.constexpr, HAS_ROW: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """DK [B, G, S, D] and DV [B, G, S, E]: a program for N keys of one group, over the queries of all of its heads."""
    group = tl.program_id(1).to(tl.int64)
    groups = H // GROUP
    b, g = group // groups, group % groups
    columns = tl.program_id(0) * N + tl.arange(0, N)
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    k = block(K, b * k_b + g * k_h, columns, d, k_s, S, D)
    v = block(V, b * v_b + g * v_h, columns, e, v_s, S, E)
    dk = tl.zeros([N, BD], tl.float32)
    dv = tl.zeros([N, BE], tl.float32)
    begin = 0
    if CAUSAL:
        begin = tl.maximum(0, tl.program_id(0) * N - (S - T))
    for inner in range(GROUP):
        h = g * GROUP + inner
        head = b * H + h
        for start in range(begin, T, M):
            rows = start + tl.arange(0, M)
            q = block(Q, b * q_b + h * q_h, rows, d, q_t, T, D)
            dy = block(DY, head * T * E, rows, e, E, T, E)
            lse = tl.load(LSE + head * T + rows, rows < T, float("-inf"))
            delta = tl.load(DELTA + head * T + rows, rows < T, 0.0)
            p, ds, _ = weights_and_slopes(
                q, k, v, dy, lse, delta, BIAS, MASK, MASS, ROW, b * bias_b + h * bias_h, b * mask_b + h * mask_h, b * S, head * S,
                rows, columns, bias_t, bias_s, mask_t, mask_s, T, S, scale, cap, row, CAUSAL, HAS_BIAS, HAS_MASK, CAPPED,
                HAS_MASS, HAS_ROW,
            )  # fmt: skip
            dv += dot(tl.trans(p).to(dy.dtype), dy)
            dk += dot(tl.trans(ds).to(q.dtype), q) * scale
    at = (group * S + columns)[:, None]
    tl.store(DK + at * D + d[None, :], dk.to(DK.dtype.element_ty), (columns[:, None] < S) & (d[None, :] < D))
    tl.store(DV + at * E + e[None, :], dv.to(DV.dtype.element_ty), (columns[:, None] < S) & (e[None, :] < E))


@triton.jit
def backward_queries(
    Q, K, V, BIAS, MASK, DY, LSE, DELTA, MASS, ROW, DQ, DBIAS,
    q_b, q_h, q_t, k_b, k_h, k_s, v_b, v_h, v_s, bias_b, bias_h, bias_t, bias_s, mask_b, mask_h, mask_t, mask_s,
    H, GROUP, T, S, D, E, scale, cap, row,
    CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, CAPPED: tl.constexpr,
    HAS_MASS: tl.constexpr, HAS_ROW: tl.constexpr, BIAS_LEARNS: tl.constexpr,
    BD: tl.constexpr, BE: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """DQ [B, H, T, D], and where a bias learns its gradient [B, H, T, S] before it is added up over broadcast axes."""
    head = tl.program_id(1).to(tl.int64)
    b, h = head // H, head % H
    rows = tl.program_id(0) * M + tl.arange(0, M)
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    q = block(Q, b * q_b + h * q_h, rows, d, q_t, T, D)
    dy = block(DY, head * T * E, rows, e, E, T, E)
    lse = tl.load(LSE + head * T + rows, rows < T, float("-inf"))
    delta = tl.load(DELTA + head * T + rows, rows < T, 0.0)
    dq = tl.zeros([M, BD], tl.float32)
    end = S
    if CAUSAL:
        end = tl.minimum(S, (tl.program_id(0) + 1) * M + S - T)
    for start in range(0, end, N):
        columns = start + tl.arange(0, N)
        k = block(K, b * k_b + h // GROUP * k_h, columns, d, k_s, S, D)
        v = block(V, b * v_b + h // GROUP * v_h, columns, e, v_s, S, E)
        _, ds, dbias = weights_and_slopes(
            q, k, v, dy, lse, delta, BIAS, MASK, MASS, ROW, b * bias_b + h * bias_h, b * mask_b + h * mask_h, b * S, head * S,
            rows, columns, bias_t, bias_s, mask_t, mask_s, T, S, scale, cap, row, CAUSAL, HAS_BIAS, HAS_MASK, CAPPED,
            HAS_MASS, HAS_ROW,
        )  # fmt: skip
        dq += dot(ds.to(k.dtype), k) * scale
        if BIAS_LEARNS:
            at = (head * T + rows)[:, None] * S + columns[None, :]
            tl.store(DBIAS + at, dbias, (rows[:, None] < T) & (columns[None, :] < S))
    at = (head * T + rows)[:, None]
    tl.store(DQ + at * D + d[None, :], dq.to(DQ.dtype.element_ty), (rows[:, None] < T) & (d[None, :] < D))
