"""Clustering a grid of tokens for some of the blocks, and going back: dense prediction on fewer tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim
from ...ir.op import Composite
from ..options import option
from .method import GRID, Limits, Method, misfit
from .reduce import ReduceTokens
from .schedule import Schedule, exact
from .wants import find_want

# So many tokens may stand in front of a grid that is found: class, distillation, registers.
_FRONT = 16


def _check_pair(value: Any) -> str | None:
    if value is not None and (len(value) != 2 or min(value) < 1):
        return f"must be two numbers of at least 1, rows and columns, but is {list(value)}"
    return None


@dataclass(frozen=True)
class ClusterTokens(ReduceTokens):
    """Clusters a grid of tokens in front of a block, and reconstructs all of them behind a later one (Liang et al. 2022).

    The blocks between work on the clusters; what lies behind, a head for dense prediction say, reads every token. Tokens in front
    of the grid (class, registers) stay as they are.

    before: `x = block(x)`
    after:  `c, map = superpixels(x, map, k=145, …)   c = block(c)   x = reconstruct(c, map, x, c0)`
    """

    name = "cluster_tokens"
    verbs = ("clusters", "clustered")
    told = GRID
    why_capped = "there are as many clusters as rows x columns"

    method: str = option("superpixels", "how: an op of std.token or of a module below it, or one of your own, `mine.tess:name`")
    back: str = option(
        "reconstruct",
        "how tokens get a value back where the region ends: an op beside the method, or copy, the value of the cluster that each "
        "became part of",
    )
    proportional: bool = option(False, "attend to a cluster as often as its size says")
    clusters: tuple[int, ...] | None = option(
        None, "the clusters, [rows, columns]; instead, `keep` is a share of the grid's tokens", check=_check_pair
    )
    grid: tuple[int, ...] | None = option(
        None, "the tokens' grid, [rows, columns]; when none, the square that the number of tokens has behind the first few",
        check=_check_pair,
    )  # fmt: skip
    k: int | None = option(None, "of a method that knows no grid: how many tokens are left", least=1)

    begin: int | None = option(None, "the block in front of which tokens are clustered; when none, a third of the way")
    end: int | None = option(-1, "the last block that works on clusters: behind it every token has a value again")

    @property
    def where(self) -> str:
        return "start"

    @classmethod
    def goes_with(cls, op: Composite) -> bool:
        """Not with what attention makes, which has not run yet."""
        wants = (find_want(name, op) for name, _ in Method(op).wants)
        return misfit(op) is None and all(want is None or want[0].operand is None for want in wants)

    def chosen(self, count: int) -> list[int]:
        """From `begin` to `end`."""
        if self.segment is not None:
            raise Diagnostic(
                "E0705", "`segment` does not go with cluster_tokens: a grid of clusters is that of a whole stream",
                help="cluster in the blocks that see the image alone, `blocks`, or prune the segment: `prune_tokens(segment=…)`",
            )  # fmt: skip
        if self.place != "attention" or self.blocks is not None:
            name = "blocks" if self.blocks is not None else "place"
            raise Diagnostic(
                "E0705", f"`{name}` does not go with cluster_tokens, which clusters in front of one block for all up to another",
                help="write `begin` and `end`: `cluster_tokens(begin=4, end=11, keep=0.25)`",
            )  # fmt: skip
        begin = count // 3 if self.begin is None else self.begin
        return super(ClusterTokens, replace(self, begin=begin)).chosen(count)

    # Grids ------------------------------------------------------------------------------------------------------

    def settled(self, method: Method, tokens: Dim) -> Method:
        """With its grid and its clusters, for a stream of so many tokens. Raises E0705 where they cannot be."""
        if not _knows_grid(method):
            if self.clusters is not None or self.grid is not None:
                name = "grid" if self.clusters is None else "clusters"
                raise Diagnostic(
                    "E0705", f"`{name}` is given, but the method `{method.op.name}` has no `height`, `width`, `rows` and `columns`",
                    help="say how many are left, `k=64`",
                )  # fmt: skip
            return method
        given = [n for n in ("clusters", "keep", "k", "r") if getattr(self, n) is not None]
        if given not in (["clusters"], ["keep"]) or isinstance(self.keep, tuple):
            said = " and ".join(f"`{n}`" for n in given) or "no number of clusters"
            raise Diagnostic(
                "E0705", f"cluster_tokens is given {said}, but needs one of `clusters` and `keep`: `{method.op.name}` has rows x "
                "columns clusters",
                help="write `cluster_tokens(clusters=[12, 12])` or `cluster_tokens(keep=0.25)`",
            )  # fmt: skip
        height, width = self._grid(tokens)
        side = math.sqrt(exact(self.keep)) if isinstance(self.keep, float) else 1.0
        rows, columns = self.clusters or (max(1, int(n * side + 1e-9)) for n in (height, width))
        if rows > height or columns > width:
            raise Diagnostic(
                "E0705", f"{rows} x {columns} clusters are more than a grid of {height} x {width} has rows or columns",
                help="a cluster is a mean of tokens: ask for fewer",
            )  # fmt: skip
        own = {"height": height, "width": width, "rows": rows, "columns": columns}
        return replace(method, settings=tuple(sorted({**dict(method.settings), **own}.items())))

    def _grid(self, tokens: Dim) -> tuple[int, int]:
        """The grid's rows and columns: those given, or the square behind as few first tokens as there can be."""
        if self.grid is not None:
            return self.grid[0], self.grid[1]
        if tokens.value is not None:
            ends = self.protected()
            fronts = range(_FRONT + 1) if ends is None else [sum(ends)]
            side = next((s for f in fronts if (s := math.isqrt(max(tokens.value - f, 0))) ** 2 + f == tokens.value and s), None)
            if side is not None:
                return side, side
        raise Diagnostic(
            "E0705", f"which grid the {tokens} tokens are cannot be told: they are no square behind a few first ones",
            help="give the rows and columns of the tokens, `grid=[24, 32]`",
        )  # fmt: skip

    def ends(self, method: Method, tokens: Dim) -> tuple[int, int] | None:
        """What is not of the grid stays, in front of it unless `protect` says otherwise. Raises E0705 for other numbers."""
        asked = self.protected()
        if not _knows_grid(method) or tokens.value is None:
            return asked
        known = dict(method.settings)
        rest = tokens.value - known["height"] * known["width"]
        if rest < 0 or (asked is not None and sum(asked) != rest):
            protected = "" if asked is None else f", and `protect` keeps {sum(asked)} of them"
            raise Diagnostic(
                "E0705", f"a grid of {known['height']} x {known['width']} is not what the {tokens} tokens are{protected}",
                help=f"class tokens are split off: `protect={rest}`" if rest > 0 else "give its rows and columns, `grid=[24, 32]`",
            )  # fmt: skip
        return asked or (rest, 0)

    def schedule(self, count: int, limits: Limits, among: bool) -> Schedule:
        """As few as the method leaves, where that is rows x columns."""
        if self.k is None and self.r is None:
            return Schedule(count, limits, stay=1, among=among)
        return super().schedule(count, limits, among)


def _knows_grid(method: Method) -> bool:
    return method.statics.keys() >= GRID
