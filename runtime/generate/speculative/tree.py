"""Trees of drafted tokens: how they grow, and which path of one a model accepts.

Whether a slot of the tree exists is decided by what was drawn before, and only then is its token drawn: :func:`grown` draws in one
place, behind the decision. A tree that keeps a token because of what it is would draw from another distribution than it says, and
what is accepted would not have the model's.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from ....ir.diagnostics import Diagnostic
from ..sampling import draw, is_count

SHAPES = ("chain", "tree", "dynamic")
# The node above those that are drawn first.
ROOT = -1


@dataclass
class Tree:
    """Drafted tokens, each behind its parent.

    Attributes:
        parents: of each node, an earlier one or ROOT.
        tokens, depths: of each; children of the root have the depth 1.
        drawn: the distribution [V] that each was drawn from.
    """

    parents: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    drawn: list[np.ndarray] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, parent: int, token: int, drawn: np.ndarray) -> int:
        """A node more; its number. Raises E0954 for a parent that does not come before it, or a token that cannot be drawn."""
        if not ROOT <= parent < len(self):
            raise Diagnostic("E0954", f"node {len(self)} of a tree has the parent {parent}, which does not come before it")
        if not drawn[token] > 0:
            raise Diagnostic("E0954", f"node {len(self)} of a tree has the token {token}, whose probability was 0")
        self.parents.append(parent)
        self.tokens.append(token)
        self.depths.append(1 if parent == ROOT else self.depths[parent] + 1)
        self.drawn.append(drawn)
        return len(self) - 1

    def children(self, node: int) -> list[int]:
        """In the order in which they were drawn."""
        return [i for i, parent in enumerate(self.parents) if parent == node]

    def path(self, node: int) -> list[int]:
        """The nodes from below the root to this one."""
        found = []
        while node != ROOT:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def ancestors(self, before: int) -> np.ndarray:
        """Who sees whom [n, n] of ``before`` tokens in a row, the root the last of them, and the nodes behind them."""
        n = before + len(self)
        seen = np.zeros((n, n), bool)
        seen[:before, :before] = np.tri(before, dtype=bool)
        for node, parent in enumerate(self.parents):
            seen[before + node] = seen[before + parent]
            seen[before + node, before + node] = True
        return seen


@dataclass(frozen=True)
class Growth:
    """How a tree grows.

    Args:
        shape: ``chain``; ``tree``, where nodes have up to ``width`` children, level by level; or ``dynamic``, where the slot comes
            next whose token is most likely accepted, by the draft (Xiong et al. 2024, "DySpec").
        budget: of nodes.
        width: of a ``tree``: children of a node.

    Raises:
        Diagnostic: E0954 for another shape, and a budget or a width below 1.
    """

    shape: str = "chain"
    budget: int = 4
    width: int = 2

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise Diagnostic("E0954", f"there is no shape `{self.shape}` of drafts", help=f"one of {', '.join(SHAPES)}")
        for name in ("budget", "width"):
            value = getattr(self, name)
            if not is_count(value):
                raise Diagnostic("E0954", f"the {name} of a draft is {value!r}, and must be a whole number, at least 1")


@dataclass(frozen=True)
class _Slot:
    """A place for a token: behind which node, how likely what is drawn for it is accepted, and from what it is drawn; None for the
    draft's own distribution behind that node, which nobody has asked for yet."""

    parent: int
    value: float
    rest: np.ndarray | None
    siblings: int


def grown(
    growth: Growth, score: Callable[[Tree, int], np.ndarray], choose: Callable[[np.ndarray], int], deepest: int | None = None
) -> Tree:
    """A tree of at most ``budget`` nodes; fewer where the draft has no more tokens to draw, or all of them would be too deep.

    Args:
        deepest: how many tokens a path has at most; None for any number.
        score: the draft's distribution [V] behind a node of the tree as it is.
        choose: a token of a distribution; random, or always the best.
    """
    tree, order = Tree(), count()
    open: list[tuple[float, int, _Slot]] = [(0.0, next(order), _Slot(ROOT, 1.0, None, 0))]

    def add(slot: _Slot, depth: int) -> None:
        if deepest is not None and depth > deepest:
            return
        key = -slot.value if growth.shape == "dynamic" else float(depth)
        heapq.heappush(open, (key, next(order), slot))

    while open and len(tree) < growth.budget:
        slot = heapq.heappop(open)[2]
        rest = slot.rest if slot.rest is not None else score(tree, slot.parent)
        node = tree.add(slot.parent, choose(rest), rest)
        share = float(rest[tree.tokens[node]])
        add(_Slot(node, slot.value * share, None, 0), tree.depths[node] + 1)
        left = without(rest, tree.tokens[node])
        most = {"chain": 1, "tree": growth.width}.get(growth.shape)
        if left is not None and (most is None or slot.siblings + 1 < most):
            add(_Slot(slot.parent, slot.value * (1 - share), left, slot.siblings + 1), tree.depths[node])
    return tree


def without(p: np.ndarray, token: int) -> np.ndarray | None:
    """A distribution without a token; None where nothing is left."""
    left = p.copy()
    left[token] = 0
    total = left.sum()
    return left / total if total > 0 else None


def accepted(
    tree: Tree, target: Callable[[list[int]], np.ndarray], uniform: Callable[[], float]
) -> tuple[list[int], int]:
    """The nodes that are accepted, from below the root, and the token that comes behind them: distributed as the model's own draws
    are, whatever the draft (Leviathan et al. 2023; Miao et al. 2024 for trees).

    Args:
        target: the model's distribution [V] behind a path of nodes.
        uniform: a number from 0 up to 1.
    """
    path: list[int] = []
    while True:
        p = target(path)
        for child in tree.children(path[-1] if path else ROOT):
            token, q = tree.tokens[child], tree.drawn[child]
            if uniform() * q[token] < p[token]:
                path.append(child)
                break
            excess = np.maximum(p - q, 0)
            # Rounding alone refuses a token of two equal distributions.
            p = excess / excess.sum() if excess.sum() > 0 else p
        else:
            return path, draw(p, uniform())
