"""What the generated source knows as ``fused``: composites' signatures in front of :mod:`tessera.kernels`. Imported with torch only."""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels.attend import attention as _attention
from ...kernels.grouped import grouped_matmul as grouped_matmul
from ...kernels.tokens import bipartite_merge as bipartite_merge
from ...kernels.tokens import select_top as select_top
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
