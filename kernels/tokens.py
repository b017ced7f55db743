"""``torch.ops.tessera.select_top``, ``bipartite_match`` and ``merge_pairs``: the launches of :mod:`.match`, and merging with them.

Which tokens leave, and so their sizes, is not differentiable; what merging does to features is, by gathers and scatters of torch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import match as kernels
from . import plain
from .launch import attempt, ceildiv, check, kind, launch, tile

BLOCK = 64


@torch.library.custom_op("tessera::select_top", mutates_args=())
def _select_top(score: Tensor, k: int) -> Tensor:
    return attempt("select_top", None, partial(_select_top_launched, score, k), partial(plain.select_top, score, k))


def _select_top_launched(score: Tensor, k: int) -> Tensor:
    b, t = score.shape
    index = torch.empty((b, k), dtype=torch.int64, device=score.device)
    if b and k:
        score = score.float().contiguous()
        keep = torch.empty((b, t), dtype=torch.int32, device=score.device)
        block = tile(t, BLOCK)
        launch(kernels.rank, (ceildiv(t, block), b), score, keep, score.stride(0), t, k, M=block, N=block)
        launch(kernels.gather_kept, (b,), keep, index, t, k, N=tile(t, 1024))
    return index


@_select_top.register_fake
def _(score: Tensor, k: int) -> Tensor:
    return score.new_empty((score.shape[0], k), dtype=torch.int64)


def select_top(score: Tensor, k: int) -> Tensor:
    """The indices i64[B, k] of the k largest scores [B, T], ascending; ties go to the lowest index, NaN counts as -inf.

    Raises:
        ValueError: k is no number of tokens among T.
        TypeError, RuntimeError: dtypes and devices that no kernel takes.
    """
    if not 0 <= k <= score.shape[1]:
        raise ValueError(f"{k} of {score.shape[1]} tokens cannot be selected")
    check("select_top", score)
    found: Tensor = _select_top(score.detach(), k)
    return found


@torch.library.custom_op("tessera::bipartite_match", mutates_args=())
def _bipartite_match(metric: Tensor, size: Tensor, protect: int, last: int, padding: bool) -> tuple[Tensor, Tensor]:
    given = (metric, size, protect, last, padding)
    return attempt("bipartite_match", None, partial(_match_launched, *given), partial(plain.bipartite_match, *given))


def _match_launched(metric: Tensor, size: Tensor, protect: int, last: int, padding: bool) -> tuple[Tensor, Tensor]:
    b, t, d = metric.shape
    first, odd = (protect + 1) // 2, t // 2
    even = t - odd - first
    best = torch.empty((b, even), dtype=torch.float32, device=metric.device)
    partner = torch.empty((b, even), dtype=torch.int64, device=metric.device)
    if b and even:
        wide = metric.float()
        length = wide.square().sum(-1, keepdim=True).sqrt()
        unit = (wide / torch.where(length == 0, torch.inf, length)).contiguous()
        size = size.contiguous()
        blocks = {"BD": tile(d, 32), "M": tile(even, 32), "N": tile(odd, 32)}
        launch(
            kernels.best_partner, (ceildiv(even, blocks["M"]), b),
            unit, size, best, partner, unit.stride(0), unit.stride(1), size.stride(0), t, d, first, even, odd, protect, last,
            PADDING=padding, **blocks,
        )  # fmt: skip
    return best, partner


@_bipartite_match.register_fake
def _(metric: Tensor, size: Tensor, protect: int, last: int, padding: bool) -> tuple[Tensor, Tensor]:
    b, t, _ = metric.shape
    even = t - t // 2 - (protect + 1) // 2
    return metric.new_empty((b, even), dtype=torch.float32), metric.new_empty((b, even), dtype=torch.int64)


@torch.library.custom_op("tessera::merge_pairs", mutates_args=())
def _merge_pairs(x: Tensor, size: Tensor, kept: Tensor, leaves: Tensor, place: Tensor, padding: bool) -> tuple[Tensor, Tensor]:
    given = (x, size, kept, leaves, place)
    return attempt("merge_pairs", kind(x), partial(_merge_launched, *given, padding), partial(plain.merge_pairs, *given))


def _merge_launched(
    x: Tensor, size: Tensor, kept: Tensor, leaves: Tensor, place: Tensor, padding: bool
) -> tuple[Tensor, Tensor]:
    b, left = kept.shape
    d = x.shape[2]
    y = torch.empty((b, left, d), dtype=x.dtype, device=x.device)
    total = torch.empty((b, left), dtype=torch.float32, device=x.device)
    if b and left:
        x = x if x.stride(2) == 1 else x.contiguous()
        order = torch.argsort(place, dim=1, stable=True)
        places = torch.arange(left, device=x.device).expand(b, left).contiguous()
        ends = torch.searchsorted(torch.gather(place, 1, order).contiguous(), places, right=True)
        block = tile(d, 1024)
        launch(
            kernels.merge, (left, b, ceildiv(d, block) or 1),
            x, size.contiguous(), kept.contiguous(), leaves.contiguous(), order.contiguous(), ends, y, total,
            x.stride(0), x.stride(1), x.shape[1], left, leaves.shape[1], d, PADDING=padding, BD=block,
        )  # fmt: skip
    return y, total


@_merge_pairs.register_fake
def _(x: Tensor, size: Tensor, kept: Tensor, leaves: Tensor, place: Tensor, padding: bool) -> tuple[Tensor, Tensor]:
    b, left = kept.shape
    return x.new_empty(b, left, x.shape[2]), x.new_empty((b, left), dtype=torch.float32)


def _merge_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, size, kept, leaves, place, _ = inputs
    ctx.shape = x.shape
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(size, kept, leaves, place, output[1])


def _merge_gradients(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    size, kept, leaves, place, total = ctx.saved_tensors
    total = torch.where(total == 0, 1.0, total)
    share = (torch.gather(size, 1, leaves) / torch.gather(total, 1, place)).to(dy.dtype)
    own = 1 - torch.zeros(kept.shape, dtype=dy.dtype, device=dy.device).scatter_add(1, place, share)
    wide = [index.unsqueeze(2).expand(*index.shape, dy.shape[2]) for index in (kept, leaves, place)]
    dx = torch.zeros(ctx.shape, dtype=dy.dtype, device=dy.device).scatter(1, wide[0], dy * own.unsqueeze(2))
    return dx.scatter(1, wide[1], torch.gather(dy, 1, wide[2]) * share.unsqueeze(2)), None, None, None, None, None


torch.library.register_autograd("tessera::merge_pairs", _merge_gradients, setup_context=_merge_setup)


def bipartite_merge(
    x: Tensor, source: Tensor, size: Tensor, position: Tensor, metric: Tensor, *, r: int, protect: int = 0, last: int = 0,
    padding: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Merges the r most similar pairs of alternating tokens (``std.token.bipartite_merge``), without the scores between them.

    Args:
        x: features [B, T, D].
        source: i64[B, N], which token each original one is part of.
        size: f32[B, T], how many original tokens are in each; 0 marks padding.
        position: i64[B, T].
        metric: [B, T, K], what is similar.
        r: how many tokens leave.
        protect: so many first tokens take no part.
        last: so many last tokens take no part.
        padding: whether sizes may be 0.

    Returns:
        Features [B, T - r, D], and source, size and position of what is left.

    Raises:
        ValueError: r is more than the tokens allow.
        TypeError, RuntimeError: dtypes and devices that no kernel takes.
    """
    b, t, _ = x.shape
    if not 0 <= r <= max(t - protect - last, 0) // 2:
        raise ValueError(f"{r} of {t} tokens cannot leave: at most half of those that are not protected")
    check("bipartite_merge", x, metric)
    if r == 0:
        return x, source, size, position
    first, end = (protect + 1) // 2, (t + 1) // 2 - (t - last + 1) // 2
    best, partner = _bipartite_match(metric.detach(), size, protect, last, padding)
    order = torch.sort(best, dim=1, descending=True, stable=True).indices
    here = torch.arange(t, device=x.device)
    if protect + last:
        order = order[:, :r]
        leaves = 2 * (order + first)
        # Even tokens by number, then odd ones; protected ones stand at their ends, and what leaves comes behind all.
        place = torch.where(here < protect, here, here + here % 2 * t)
        place = torch.where(here >= t - last, here + 2 * t, place)
        place = place.expand(b, t).scatter(1, leaves, 4 * t)
        kept = torch.sort(place, dim=1, stable=True).indices[:, : t - r]
    else:
        odd = torch.arange(1, t, 2, device=x.device).expand(b, t // 2)
        kept = torch.cat([2 * order[:, r:], odd], dim=1)
        order = order[:, :r]
        leaves = 2 * order
    into = torch.gather(partner, 1, order) + (t - t // 2 - r - end)
    y, total = _merge_pairs(x, size, kept, leaves, into, padding)
    new = torch.zeros((b, t), dtype=torch.int64, device=x.device)
    new = new.scatter(1, kept, torch.arange(t - r, device=x.device).expand(b, t - r)).scatter(1, leaves, into)
    return y, torch.gather(new, 1, source), total, torch.gather(position, 1, kept)
