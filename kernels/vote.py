"""The vote of a decoder's heads over the slots of its cache, which stores no scores (``std.token.slots.token_vote``).

After Wu et al. 2025, "TokenSelect": a softmax over the slots for each head, of which the sum over heads is the vote. Slots are
split among programs, as in split-KV decoding: the logs of the splits' sums are joined first, then each program adds up its
slots' votes.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import plain
from .dot import dot
from .launch import attempt, ceildiv, check, kind, launch, tile
from .tokens import select_top


@triton.jit
def products(
    Q, KEYS, b, g, rows, slots, length, k_b, k_g, k_c, H, GROUP, C, D, sinks, recent, scale,
    BD: tl.constexpr,
):  # fmt: skip
    """Scores f32[M, N] of the query heads `rows` of group g and the keys at `slots`; -inf at those that are not voted for."""
    d = tl.arange(0, BD)
    head = b * H + g * GROUP + rows
    q = tl.load(Q + head[:, None] * D + d[None, :], (rows < GROUP)[:, None] & (d < D)[None, :], 0.0)
    at = KEYS + b * k_b + g * k_g + slots[:, None] * k_c + d[None, :]
    keys = tl.load(at, (slots < C)[:, None] & (d < D)[None, :], 0.0)
    s = dot(q, tl.trans(keys)) * scale
    middle = (slots >= sinks) & (slots < length - recent) & (slots < C)
    return tl.where((rows < GROUP)[:, None] & middle[None, :], s, float("-inf"))


@triton.jit
def split_sums(
    Q, KEYS, LENGTH, LSE,
    k_b, k_g, k_c, H, GROUP, C, D, SPLITS, sinks, recent, scale,
    BD: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """LSE f32[B, H, SPLITS]: the log of the sum of exponentials of each head over N slots, -inf where none is voted for."""
    group = tl.program_id(1).to(tl.int64)
    groups = H // GROUP
    b, g = group // groups, group % groups
    rows = tl.arange(0, M)
    slots = tl.program_id(0) * N + tl.arange(0, N)
    s = products(
        Q, KEYS, b, g, rows, slots, tl.load(LENGTH + b), k_b, k_g, k_c, H, GROUP, C, D, sinks, recent, scale, BD
    )
    highest = tl.max(s, 1)
    # Nothing is subtracted where nothing is voted for, so that the difference of two -inf never arises.
    level = tl.where(highest == float("-inf"), 0.0, highest)
    total = tl.sum(tl.exp(s - level[:, None]), 1)
    lse = tl.where(total == 0.0, float("-inf"), level + tl.log(tl.where(total == 0.0, 1.0, total)))
    tl.store(LSE + (b * H + g * GROUP + rows) * SPLITS + tl.program_id(0), lse, rows < GROUP)


@triton.jit
def votes(
    Q, KEYS, LENGTH, LSE, OUT,
    k_b, k_g, k_c, H, GROUP, C, D, sinks, recent, scale,
    BD: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """OUT f32[B, C]: the votes of all heads for each slot; +inf where it is read anyway, -inf behind `length`. LSE f32[B, H]."""
    b = tl.program_id(1).to(tl.int64)
    slots = tl.program_id(0) * N + tl.arange(0, N)
    rows = tl.arange(0, M)
    length = tl.load(LENGTH + b)
    out = tl.zeros([N], tl.float32)
    for g in range(H // GROUP):
        s = products(Q, KEYS, b, g, rows, slots, length, k_b, k_g, k_c, H, GROUP, C, D, sinks, recent, scale, BD)
        lse = tl.load(LSE + b * H + g * GROUP + rows, rows < GROUP, float("-inf"))
        # A head that has nothing to vote for gives no votes.
        lse = tl.where(lse == float("-inf"), float("inf"), lse)
        out += tl.sum(tl.exp(s - lse[:, None]), 0)
    out = tl.where((slots < sinks) | (slots >= length - recent), float("inf"), out)
    out = tl.where(slots < length, out, float("-inf"))
    tl.store(OUT + b * C + slots, out, slots < C)


@torch.library.custom_op("tessera::slot_votes", mutates_args=())
def _slot_votes(q: Tensor, keys: Tensor, length: Tensor, sinks: int, recent: int, scale: float) -> Tensor:
    given = (q, keys, length, sinks, recent, scale)
    return attempt("slot_votes", kind(q, keys), partial(_votes_launched, *given), partial(plain.slot_votes, *given))


def _votes_launched(q: Tensor, keys: Tensor, length: Tensor, sinks: int, recent: int, scale: float) -> Tensor:
    b, h, width = q.shape
    groups, slots = keys.shape[1], keys.shape[2]
    out = torch.empty((b, slots), dtype=torch.float32, device=q.device)
    if b and slots:
        q, length = q.contiguous(), length.contiguous()
        keys = keys if keys.stride(3) == 1 else keys.contiguous()
        blocks = {"BD": tile(width), "M": tile(h // groups), "N": tile(slots, 32)}
        splits = ceildiv(slots, blocks["N"])
        parts = torch.empty((b, h, splits), dtype=torch.float32, device=q.device)
        sizes = (*keys.stride()[:3], h, h // groups, slots, width)
        launch(split_sums, (splits, b * groups), q, keys, length, parts, *sizes, splits, sinks, recent, scale, **blocks)
        lse = torch.logsumexp(parts, 2)
        launch(votes, (splits, b), q, keys, length, lse, out, *sizes, sinks, recent, scale, **blocks)
    return out


@_slot_votes.register_fake
def _(q: Tensor, keys: Tensor, length: Tensor, sinks: int, recent: int, scale: float) -> Tensor:
    return q.new_empty((q.shape[0], keys.shape[2]), dtype=torch.float32)


def token_vote(
    q: Tensor,
    keys: Tensor,
    length: Tensor,
    *,
    k: int,
    sinks: int = 4,
    recent: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """The slots of a cache that heads vote for, beside the first `sinks` and the `recent` latest (``std.token.slots.token_vote``).

    Args:
        q: [B, H, T, K], the queries of the new tokens, which vote as one, by their mean; f32, f16 or bf16.
        keys: [B, G, C, K]; head h votes by the keys of head h // (H / G).
        length: i64[B], how many slots are filled.
        k: how many slots are read at most.
        recent: k // 4 where it is not given.
        scale: of the scores; K ** -0.5 where it is not given.

    Returns:
        Slots i64[B, min(k, C)], ascending; ties go to the lowest.

    Raises:
        ValueError: shapes that do not go together, or a k that leaves nothing to vote for.
        TypeError, RuntimeError: dtypes and devices that no kernel takes.
    """
    recent = k // 4 if recent is None else recent
    b, h, _, width = q.shape
    if keys.dim() != 4 or keys.shape[0] != b or keys.shape[3] != width or h % keys.shape[1] or length.shape != (b,) \
            or q.dtype != keys.dtype:  # fmt: skip
        raise ValueError(
            f"q {tuple(q.shape)}, keys {tuple(keys.shape)} and length {tuple(length.shape)} do not go together"
        )
    if sinks < 0 or recent < 1 or sinks + recent >= k:
        raise ValueError(f"of {k} slots, {sinks} first and {recent} latest ones leave none to vote for")
    check("token_vote", q, keys)
    scale = width**-0.5 if scale is None else scale
    found = _slot_votes(q.detach().mean(2), keys.detach(), length, sinks, recent, float(scale))
    return select_top(found, min(k, keys.shape[2]))
