"""Attention within sequences that are packed one behind the other: ``torch.ops.tessera.varlen_attention``.

FlashAttention-2 (Dao 2023) over the tiles of each sequence by itself, which a program finds by counting: no mask of all rows is
stored, and what lies between, before and behind the sequences is never read.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import plain
from .attend import attention
from .flash import absorbed, block, scores
from .grouped import tile_of
from .launch import attempt, ceildiv, check, kind, launch, tile


@triton.jit
def packed(
    Q, K, V, Q_ENDS, K_ENDS, Y,
    q_n, k_n, v_n, B, H, GROUP, D, E, scale,
    CAUSAL: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Y [N, H E]: a program for M queries of one sequence and one head, whose features lie one behind the other in a row.

    Q_ENDS, K_ENDS i64[B]: ascending ends of the sequences.
    """
    b, start = tile_of(Q_ENDS, B, tl.program_id(0), M)
    if b < B:
        begin = tl.load(Q_ENDS + b - 1, b > 0, 0)
        first = tl.load(K_ENDS + b - 1, b > 0, 0)
        t = (tl.load(Q_ENDS + b) - begin).to(tl.int32)
        s = (tl.load(K_ENDS + b) - first).to(tl.int32)
        h = tl.program_id(1)
        rows = start.to(tl.int32) + tl.arange(0, M)
        d, e = tl.arange(0, BD), tl.arange(0, BE)
        q = block(Q, begin * q_n + h * D, rows, d, q_n, t, D)
        highest = tl.full([M], float("-inf"), tl.float32)
        total = tl.zeros([M], tl.float32)
        y = tl.zeros([M, BE], tl.float32)
        end = s
        if CAUSAL:
            end = tl.minimum(s, start.to(tl.int32) + M + s - t)
        for left in range(0, end, N):
            columns = left + tl.arange(0, N)
            k = block(K, first * k_n + h // GROUP * D, columns, d, k_n, s, D)
            found, _ = scores(q, k, Q, Q, 0, 0, rows, columns, 0, 0, 0, 0, t, s, scale, 0.0, CAUSAL, False, False, False)
            at = V + first * v_n + h // GROUP * E + columns[:, None] * v_n + e[None, :]
            _, _, highest, total, y = absorbed(found, at, (columns < s)[:, None] & (e < E)[None, :], highest, total, y)
        y = y / tl.where(total == 0.0, 1.0, total)[:, None]
        out = ((begin + rows) * H + h)[:, None] * E + e[None, :]
        tl.store(Y + out, y.to(Y.dtype.element_ty), (rows < t)[:, None] & (e < E)[None, :])


def varlen_attention(
    q: Tensor,
    q_ends: Tensor,
    k: Tensor,
    k_ends: Tensor,
    v: Tensor,
    *,
    heads: int,
    kv_heads: int | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Attention within each of B packed sequences (``std.ragged.varlen_attention``), [N, H V]; padding gives 0.

    Where a gradient is asked for, :func:`tessera.kernels.attention` computes it, with a mask of all rows.

    Args:
        q: [N, H K], heads one behind the other; sequence b is the rows from ``q_ends[b - 1]`` to ``q_ends[b]``.
        q_ends: i64[B]; an end below an earlier one counts as that one, one beyond N as N.
        k: [S, G K], the keys of head h being those of head h // (H / G).
        k_ends: i64[B], of keys and values.
        v: [S, G V].
        heads: H.
        kv_heads: G; H where it is not given.
        causal: query t of a sequence sees its keys up to t + (its keys) - (its queries).
        scale: of the scores; K ** -0.5 where it is not given.

    Raises:
        ValueError: shapes that do not go together.
        TypeError, RuntimeError: dtypes and devices that no kernel takes.
    """
    groups = heads if kv_heads is None else kv_heads
    if heads < 1 or groups < 1 or heads % groups or q.shape[1] % heads or v.shape[1] % groups or k.shape[0] != v.shape[0] \
            or k.shape[1] * heads != q.shape[1] * groups or q_ends.shape != k_ends.shape:  # fmt: skip
        found = ", ".join(str(tuple(x.shape)) for x in (q, q_ends, k, k_ends, v))
        raise ValueError(f"queries, their ends, keys, their ends and values {found} do not go with {heads}/{groups} heads")
    check("varlen_attention", q, k, v)
    q_ends, k_ends = (plain.ascending(ends, x.shape[0]) for ends, x in ((q_ends, q), (k_ends, k)))
    width = q.shape[1] // heads
    call = (q, q_ends, k, k_ends, v, heads, groups, causal, width**-0.5 if scale is None else float(scale))
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return _masked(*call)
    y: Tensor = _varlen(*call)
    return y


def _masked(
    q: Tensor, q_ends: Tensor, k: Tensor, k_ends: Tensor, v: Tensor, heads: int, groups: int, causal: bool, scale: float
) -> Tensor:
    """The same by ``attention``, with a mask of all rows."""
    mask = plain.within(q_ends, q.shape[0], k_ends, k.shape[0], causal)
    there = plain.sequence(k_ends, k.shape[0]) < len(k_ends)
    # What is no token may be NaN, which a weight of 0 does not hide.
    k, v = (torch.where(there[:, None], x, 0.0) for x in (k, v))
    q = torch.where((plain.sequence(q_ends, q.shape[0]) < len(q_ends))[:, None], q, 0.0)
    q, k, v = (x.unflatten(1, (n, -1)).transpose(0, 1)[None] for x, n in ((q, heads), (k, groups), (v, groups)))
    return attention(q, k, v, mask[None, None], scale=scale)[0][0].transpose(0, 1).flatten(1)


@torch.library.custom_op("tessera::varlen_attention", mutates_args=())
def _varlen(
    q: Tensor, q_ends: Tensor, k: Tensor, k_ends: Tensor, v: Tensor, heads: int, groups: int, causal: bool, scale: float
) -> Tensor:
    given = (q, q_ends, k, k_ends, v, heads, groups, causal, scale)
    return attempt("varlen_attention", kind(q, v), partial(_launched, *given), partial(_masked, *given))


def _launched(
    q: Tensor, q_ends: Tensor, k: Tensor, k_ends: Tensor, v: Tensor, heads: int, groups: int, causal: bool, scale: float
) -> Tensor:
    n, width, out = q.shape[0], q.shape[1] // heads, v.shape[1] // groups
    y = v.new_zeros(n, heads * out)
    sequences = len(q_ends)
    if 0 in (n, k.shape[0], out, sequences):
        return y
    q, k, v = (x if x.stride(1) == 1 else x.contiguous() for x in (q, k, v))
    # As large as leaves everything in registers on sm_80 and sm_90 (tests/kernels/compiled.json).
    blocks = {"BD": tile(width), "BE": tile(out), "M": tile(n, 64), "N": tile(k.shape[0], 32 if max(width, out) > 64 else 64)}
    launch(
        packed, (ceildiv(n, blocks["M"]) + sequences, heads), q, k, v, q_ends, k_ends, y,
        q.stride(0), k.stride(0), v.stride(0), sequences, heads, heads // groups, width, out, scale, CAUSAL=causal,
        options={"num_warps": 8 if max(width, out) > 64 else 4}, **blocks,
    )  # fmt: skip
    return y


@_varlen.register_fake
def _(
    q: Tensor, q_ends: Tensor, k: Tensor, k_ends: Tensor, v: Tensor, heads: int, groups: int, causal: bool, scale: float
) -> Tensor:
    return v.new_empty(q.shape[0], v.shape[1] // groups * heads)
