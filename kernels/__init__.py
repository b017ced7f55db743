"""Triton kernels and their launch wrappers, which know tensors only.

Every function is a ``torch.library`` op, which ``torch.compile`` takes and autograd differentiates, for any model::

    y, mass = attention_with_mass(q, k, v)

They need Triton (extra ``triton``) and a GPU, or ``TRITON_INTERPRET=1`` before Python starts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attend import attention, attention_with_mass
    from .attend_cache import cached_attention
    from .experts import gated_experts
    from .grouped import grouped_matmul
    from .route import sort_by_group, token_choice
    from .spread import spread_out
    from .tokens import bipartite_merge, select_top
    from .varlen import varlen_attention
    from .vote import token_vote

_WHERE = {
    "attention": "attend", "attention_with_mass": "attend", "bipartite_merge": "tokens", "cached_attention": "attend_cache",
    "gated_experts": "experts", "grouped_matmul": "grouped", "select_top": "tokens", "sort_by_group": "route",
    "spread_out": "spread", "token_choice": "route", "token_vote": "vote", "varlen_attention": "varlen",
}  # fmt: skip

__all__ = [
    "attention", "attention_with_mass", "bipartite_merge", "cached_attention", "gated_experts", "grouped_matmul", "select_top",
    "sort_by_group", "spread_out", "token_choice", "token_vote", "varlen_attention",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
