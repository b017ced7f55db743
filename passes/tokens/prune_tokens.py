"""Token pruning: those that a method thinks least of are dropped, the others stay as they are and in their order."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import option
from .reduce import ReduceTokens


@dataclass(frozen=True)
class PruneTokens(ReduceTokens):
    """Drops the tokens that receive least attention, or that another method chooses, behind the attention of each block.

    What is left keeps its features, its position and its order, so that causal attention follows too. A token that is dropped is
    restored as the last one before it that is left.

    before: `x = x + attn(norm1(x))   x = x + mlp(norm2(x))`
    after:  `x = x + attn(norm1(x))   x, map = by_mass(x, map, column_mass, r=8)   x = x + mlp(norm2(x))`
    """

    name = "prune_tokens"
    verbs = ("drops", "dropped")
    why_capped = "protected tokens stay, and at least one"

    method: str = option(
        "by_mass", 'how: an op of std.token or of a module below it, "random", or one of your own, `mine.tess:name`'
    )
