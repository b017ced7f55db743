"""Which experts tokens go to, and their pairs sorted by expert (``std.moe.route.token_choice``, ``std.ragged.sort_by_group``).

A token's scores stay in registers while its experts are chosen one after the other. Pairs are sorted by counting, as MegaBlocks
does (Gale et al. 2023): what each block of pairs has of each expert is counted, added up once, and every pair finds its place by
that.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import plain
from .launch import attempt, ceildiv, check, kind, launch

SCORES = ("softmax", "sigmoid", "chosen", "none", "one")
# The most experts whose scores stay in registers, elements of a tile, and pairs of a block.
_MOST, _TILE, _BLOCK = 2048, 2048, 64


@triton.jit
def choose(
    LOGITS, BIAS, EXPERT, WEIGHT,
    l_n, l_e, N, E, K, scale,
    SCORE: tl.constexpr, HAS_BIAS: tl.constexpr, RENORMALIZE: tl.constexpr,
    BM: tl.constexpr, BE: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """EXPERT i64[N, K] and WEIGHT f32[N, K] of the K best of E experts, ties to the lowest; a program for BM tokens."""
    rows = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    e, k = tl.arange(0, BE), tl.arange(0, BK)
    free = (rows < N)[:, None] & (e < E)[None, :]
    p = tl.load(LOGITS + rows[:, None] * l_n + e[None, :] * l_e, free, float("-inf")).to(tl.float32)
    if SCORE == "softmax":
        p = tl.exp(p - tl.max(p, 1, keep_dims=True))
        p = tl.div_rn(p, tl.sum(p, 1, keep_dims=True))
    if SCORE == "sigmoid":
        p = tl.div_rn(1.0, 1.0 + tl.exp(-p))
    choice = p
    if HAS_BIAS:
        choice = p + tl.load(BIAS + e, e < E, 0.0).to(tl.float32)[None, :]
    # What is no number comes first, as in a sort.
    choice = tl.where(choice == choice, choice, float("inf"))
    weight = tl.zeros([BM, BK], tl.float32)
    expert = tl.zeros([BM, BK], tl.int32)
    for i in range(K):
        best = tl.max(tl.where(free, choice, float("-inf")), 1, keep_dims=True)
        at = tl.min(tl.where(free & (choice == best), e[None, :], BE), 1, keep_dims=True)
        taken = e[None, :] == at
        own = tl.sum(tl.where(taken, p, 0.0), 1, keep_dims=True)
        weight = tl.where(k[None, :] == i, own, weight)
        expert = tl.where(k[None, :] == i, at, expert)
        free = free & ~taken
    there = (k < K)[None, :]
    if SCORE == "chosen":
        weight = tl.where(there, weight, float("-inf"))
        weight = tl.exp(weight - tl.max(weight, 1, keep_dims=True))
        weight = weight / tl.sum(weight, 1, keep_dims=True)
    elif SCORE == "one":
        weight = tl.full([BM, BK], 1.0, tl.float32)
    elif RENORMALIZE:
        total = tl.sum(tl.where(there, weight, 0.0), 1, keep_dims=True)
        if SCORE == "softmax" and not HAS_BIAS:
            weight = weight / total
        else:
            weight = tl.where(total == 0.0, 0.0, weight / tl.where(total == 0.0, 1.0, total))
    inside = (rows < N)[:, None] & there
    at = rows[:, None] * K + k[None, :]
    tl.store(EXPERT + at, expert.to(tl.int64), inside)
    tl.store(WEIGHT + at, weight * scale, inside)


@triton.jit
def counted(GROUP, COUNT, N, GROUPS, BLOCKS, BN: tl.constexpr, BG: tl.constexpr):
    """COUNT i64[GROUPS + 1, BLOCKS]: how many of each block's BN rows are in each group, the last of which is none."""
    i = tl.program_id(0) * BN + tl.arange(0, BN)
    g = tl.program_id(1) * BG + tl.arange(0, BG)
    own = tl.minimum(tl.maximum(tl.load(GROUP + i, i < N, 0), 0), GROUPS)
    same = (own[:, None] == g[None, :]) & (i < N)[:, None]
    tl.store(COUNT + g.to(tl.int64) * BLOCKS + tl.program_id(0), tl.sum(same.to(tl.int64), 0), g <= GROUPS)


@triton.jit
def placed(GROUP, UPTO, ORDER, INVERSE, N, GROUPS, BLOCKS, BN: tl.constexpr):
    """ORDER i64[N] and INVERSE i64[N]: which row comes where, and where each row goes. UPTO i64[GROUPS + 1, BLOCKS]: how many rows
    come in earlier groups, and in the group up to a block's end."""
    block = tl.program_id(0)
    i = block * BN + tl.arange(0, BN)
    own = tl.minimum(tl.maximum(tl.load(GROUP + i, i < N, 0), 0), GROUPS)
    # From the block's end back over the rows that come behind.
    later = (own[:, None] == own[None, :]) & (i[None, :] >= i[:, None]) & (i < N)[None, :]
    at = tl.load(UPTO + own * BLOCKS + block, i < N, 0) - tl.sum(later.to(tl.int64), 1)
    tl.store(ORDER + at, i.to(tl.int64), i < N)
    tl.store(INVERSE + i, at, i < N)


def token_choice(
    logits: Tensor, bias: Tensor | None = None, *, k: int, score: str = "softmax", renormalize: bool = True, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Experts i64[N, k] and weights f32[N, k] of each token, its k best by logits [N, E] (``std.moe.route.token_choice``).

    Where a gradient is asked for, PyTorch computes it.

    Args:
        bias: [E], added for choosing only.
        score: softmax, sigmoid, chosen, none or one.
        renormalize: whether a token's weights add up to 1 before they are multiplied by ``scale``.

    Raises:
        ValueError: shapes that do not go together, a score that there is not, or a k that is no number of experts.
        TypeError, RuntimeError: dtypes and devices that no kernel takes.
    """
    if logits.dim() != 2 or not 1 <= k <= logits.shape[1] or (bias is not None and bias.shape != logits.shape[1:]):
        raise ValueError(f"{k} experts cannot be chosen by logits {tuple(logits.shape)}")
    if score not in SCORES:
        raise ValueError(f"the score is one of {', '.join(SCORES)}, and not {score}")
    check("token_choice", logits, bias)
    learns = torch.is_grad_enabled() and (logits.requires_grad or (bias is not None and bias.requires_grad))
    if learns or logits.shape[1] > _MOST:
        return plain.token_choice(logits, bias, k, score, renormalize, scale)
    expert, weight = _token_choice(logits, bias, k, score, renormalize, float(scale))
    return expert, weight


@torch.library.custom_op("tessera::token_choice", mutates_args=())
def _token_choice(
    logits: Tensor, bias: Tensor | None, k: int, score: str, renormalize: bool, scale: float
) -> tuple[Tensor, Tensor]:
    given = (logits, bias, k, score, renormalize, scale)
    return attempt("token_choice", kind(logits), partial(_choice_launched, *given), partial(plain.token_choice, *given))


def _choice_launched(
    logits: Tensor, bias: Tensor | None, k: int, score: str, renormalize: bool, scale: float
) -> tuple[Tensor, Tensor]:
    n, experts = logits.shape
    expert = torch.empty((n, k), dtype=torch.int64, device=logits.device)
    weight = torch.empty((n, k), dtype=torch.float32, device=logits.device)
    if n:
        width = triton.next_power_of_2(experts)
        rows = min(triton.next_power_of_2(n), max(1, _TILE // width))
        launch(
            choose, (ceildiv(n, rows),), logits, logits if bias is None else bias.contiguous(), expert, weight,
            *logits.stride(), n, experts, k, scale,
            SCORE=score, HAS_BIAS=bias is not None, RENORMALIZE=renormalize, BM=rows, BE=width, BK=triton.next_power_of_2(k),
        )  # fmt: skip
    return expert, weight


@_token_choice.register_fake
def _(logits: Tensor, bias: Tensor | None, k: int, score: str, renormalize: bool, scale: float) -> tuple[Tensor, Tensor]:
    shape = (logits.shape[0], k)
    return logits.new_empty(shape, dtype=torch.int64), logits.new_empty(shape, dtype=torch.float32)


def sort_by_group(group: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows sorted by their group i64[N], which is from 0 to ``groups``, of which the last is none (``std.ragged.sort_by_group``).

    Returns:
        Which row comes where, in the order of their numbers within a group [N]; where each group ends [groups]; where each row
        went [N].

    Raises:
        ValueError: no row of groups.
        RuntimeError: devices that no kernel takes.
    """
    if group.dim() != 1 or group.dtype != torch.int64 or groups < 0:
        raise ValueError(f"rows are not sorted into {groups} groups by {group.dtype} {tuple(group.shape)}")
    check("sort_by_group", group)
    order, ends, inverse = _sort_by_group(group, groups)
    return order, ends, inverse


@torch.library.custom_op("tessera::sort_by_group", mutates_args=())
def _sort_by_group(group: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    definition = partial(plain.sort_by_group, group, groups)
    return attempt("sort_by_group", None, partial(_sort_launched, group, groups), definition)


def _sort_launched(group: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    n, group = group.shape[0], group.contiguous()
    order, inverse = torch.empty_like(group), torch.empty_like(group)
    if not n:
        return order, group.new_zeros(groups), inverse
    blocks, tile = ceildiv(n, _BLOCK), min(64, triton.next_power_of_2(groups + 1))
    count = torch.empty((groups + 1, blocks), dtype=torch.int64, device=group.device)
    launch(counted, (blocks, ceildiv(groups + 1, tile)), group, count, n, groups, blocks, BN=_BLOCK, BG=tile)
    upto = torch.cumsum(count.flatten(), 0).view(groups + 1, blocks)
    launch(placed, (blocks,), group, upto, order, inverse, n, groups, blocks, BN=_BLOCK)
    return order, upto[:groups, -1].contiguous(), inverse


@_sort_by_group.register_fake
def _(group: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(group), group.new_empty(groups), torch.empty_like(group)
