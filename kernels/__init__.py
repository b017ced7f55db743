"""Triton kernels and their launch wrappers, which know tensors only.

Every function is a ``torch.library`` op, which ``torch.compile`` takes and autograd differentiates, for any model::

    y, mass, _, _ = attention(q, k, v, column_mass=True)

They need Triton (extra ``triton``) and a GPU, or ``TRITON_INTERPRET=1`` before Python starts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attend import attention
    from .grouped import grouped_matmul
    from .tokens import bipartite_merge, select_top
    from .vote import token_vote

_WHERE = {
    "attention": "attend", "grouped_matmul": "grouped", "bipartite_merge": "tokens", "select_top": "tokens", "token_vote": "vote",
}  # fmt: skip

__all__ = ["attention", "bipartite_merge", "grouped_matmul", "select_top", "token_vote"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
