"""What the generated source knows as ``fused``: composites' signatures in front of :mod:`tessera.kernels`. Imported with torch only."""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels.attend import attention as _attention
from ...kernels.attend_cache import cached_attention
from ...kernels.experts import gated_experts as gated_experts
from ...kernels.grouped import grouped_matmul as grouped_matmul
from ...kernels.route import sort_by_group as sort_by_group
from ...kernels.route import token_choice as token_choice
from ...kernels.spread import spread_out as spread_out
from ...kernels.tokens import bipartite_merge as bipartite_merge
from ...kernels.tokens import select_top as select_top
from ...kernels.varlen import varlen_attention as _varlen
from ...kernels.vote import token_vote as token_vote


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, *, causal: bool, scale: float, softcap: float,
    column_mass: bool = False, row: int | None = None, log_sum_exp: bool = False,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    """``std.attention.attention``: the result, and behind it what was asked for of the weights."""
    y, mass, picked, lse = _attention(
        q, k, v, mask, bias, causal=causal, scale=scale, softcap=softcap, column_mass=column_mass, row=row
    )
    asked = ((column_mass, mass), (row is not None, picked), (log_sum_exp, lse.to(q.dtype)))
    found = [result for wanted, result in asked if wanted]
    return (y, *found) if found else y


def attention_row(
    q: Tensor, k: Tensor, mask: Tensor | None, bias: Tensor | None, *, row: int, causal: bool, scale: float, softcap: float
) -> Tensor:
    """``std.attention.attention_row``: one query's, by itself."""
    place = row % q.shape[2]
    one = slice(place, place + 1)
    mask, bias = (x if x is None or x.shape[2] == 1 else x[:, :, one] for x in (mask, bias))
    if causal:
        # A query alone would see all keys.
        seen = torch.arange(k.shape[2], device=q.device) <= place + k.shape[2] - q.shape[2]
        mask = seen.expand(1, 1, 1, -1) if mask is None else mask & seen
    return _attention(q[:, :, one], k, k[..., :1], mask, bias, scale=scale, softcap=softcap, row=0)[2]


def column_mass(q: Tensor, k: Tensor, mask: Tensor | None, *, scale: float, block: int) -> Tensor:
    """``std.attention.column_mass``; ``block`` is how its definition goes about it."""
    return _attention(q, k, k[..., :1], mask, scale=scale, column_mass=True)[1]


def read(
    q: Tensor, keys: Tensor, values: Tensor, index: Tensor | None, cosine: Tensor | None, sine: Tensor | None, mask: Tensor | None,
    bias: Tensor | None, until: Tensor | None, start: Tensor | None, tree: Tensor | None, *, pages: bool, rows: tuple[int, ...],
    inclusive: bool, interleaved: bool, scale: float, softcap: float,
) -> Tensor:  # fmt: skip
    """What :mod:`.reads` found: the axes of ``until`` lie at ``rows`` of the scores' axes, -1 for one of size 1."""
    if until is not None:
        sizes = [until.shape[rows.index(axis)] if axis in rows else 1 for axis in (0, 2)]
        # Queries may stand before rows: views between it and the mask are left out.
        until = until.permute(sorted(range(until.dim()), key=rows.__getitem__)).reshape(sizes)
        until = until if inclusive else until - 1
    if keys.dim() == 3:
        # Rows of a pool are pages of one slot.
        keys, values = keys.unsqueeze(2), values.unsqueeze(2)
    return cached_attention(
        q, keys, values, index, cosine, sine, mask, bias, until, start, tree, pages=pages, interleaved=interleaved, scale=scale,
        softcap=softcap,
    )


def varlen_attention(
    q: Tensor, q_ends: Tensor, k: Tensor, k_ends: Tensor, v: Tensor, _: Tensor, *, heads: int, kv_heads: int, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """``std.ragged.varlen_attention``, whose values have the ends of the keys."""
    return _varlen(q, q_ends, k, k_ends, v, heads=heads, kv_heads=kv_heads, causal=causal, scale=scale), q_ends
