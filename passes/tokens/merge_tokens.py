"""Token merging (Bolya et al. 2023) in any model whose blocks attend to themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...ir.diagnostics import Diagnostic
from ...ir.graph import Module
from ..options import option
from .reduce import ReduceTokens
from .schedule import linear


@dataclass(frozen=True)
class MergeTokens(ReduceTokens):
    """Merges the most similar tokens behind the attention of each block, as ToMe does (Bolya et al. 2023).

    Merged tokens remember how many they are: attention counts them as often (``proportional``), and means over tokens
    become means weighted by size. Padding is of size 0.

    before: `x = x + attn(norm1(x))   x = x + mlp(norm2(x))`
    after:  `x = x + attn(norm1(x))   x, map = bipartite_merge(x, map, keys, r=8)   x = x + mlp(norm2(x))`
    """

    name = "merge_tokens"
    verbs = ("merges", "merged")
    why_capped = "each merge pairs half of the tokens with the other half; protected tokens take no part"

    method: str = option("bipartite_merge", "how: an op of std.token or of a module below it, or one of your own, `mine.tess:name`")
    inflect: float = option(
        0.0, "how a number r changes over the blocks: 0 constant, -1 falls from 2 r to 0, 1 rises", least=-1, most=1
    )
    metric: Literal["keys", "tokens"] | None = option(
        None, "what is compared: the attention keys averaged over heads, or the tokens, when none where no attention has run before"
    )

    def requires(self, module: Module) -> None:
        if self.inflect and not isinstance(self.r, int):
            raise Diagnostic(
                "E0705", "`inflect` changes a number `r` over the blocks; it does not go with a list, a share or `keep`"
            )

    def metric_name(self) -> str:
        return self.metric or super().metric_name()

    def numbers(self, count: int) -> tuple[int, ...]:
        assert isinstance(self.r, int)
        return linear(count, self.r, self.inflect)
