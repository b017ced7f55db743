"""What the generated source knows as ``fused``: composites' signatures in front of :mod:`tessera.kernels`. Imported with torch only."""

from __future__ import annotations

from torch import Tensor

from ...kernels.attend import attention as _attention
from ...kernels.grouped import grouped_matmul as grouped_matmul
from ...kernels.tokens import bipartite_merge as bipartite_merge
from ...kernels.tokens import select_top as select_top


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
