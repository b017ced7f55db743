"""Speculative decoding: a draft proposes several tokens, the model reads them all in one pass, and keeps those that it would have
drawn itself. What comes out has the model's own distribution; the best tokens, where nothing is drawn, are the model's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ....ir.diagnostics import Diagnostic
from ..decoder import Decoder
from ..engine import Engine, Event, Request, Ticket
from ..sampling import Sampling, distribution, draw
from .line import Line
from .tree import ROOT, Growth, Tree, accepted, grown


class SpeculativeEngine(Engine):
    """Requests one after the other, each round of which makes one token or several.

    Args:
        decoder: the model.
        draft: a smaller one, of the same vocabulary.
        growth: how drafts grow.
        capacity, text, known, width, chunk: as for any engine.

    Raises:
        Diagnostic: E0954 for models that do not fit together, or cannot do what the shape of drafts needs.
    """

    def __init__(
        self, decoder: Decoder, draft: Decoder, growth: Growth, capacity: int | None,
        text: Callable[[list[int]], str] | None = None, known: int | None = None, width: int | None = None,
        chunk: int | None = None,
    ) -> None:  # fmt: skip
        if draft.vocab != decoder.vocab:
            raise Diagnostic(
                "E0954", f"the draft scores {draft.vocab} tokens, and the model {decoder.vocab}",
                help="a draft has the model's tokenizer; a padded vocabulary has to be padded alike",
            )  # fmt: skip
        if width is not None and growth.shape != "chain":
            raise Diagnostic(
                "E0954", f"a pass over a draft of the shape `{growth.shape}` does not compute what single steps do, bit for bit:"
                " what lies elsewhere in the cache is added up in another order",
                help="`shape=\"chain\"`, or no `deterministic_rows`",
            )  # fmt: skip
        if width is not None and width <= growth.budget:
            raise Diagnostic("E0954", f"a pass reads {growth.budget + 1} tokens, more than `deterministic_rows`, {width}")
        super().__init__(decoder, 1, capacity, text, known, width, chunk)
        self._growth = growth
        self._ahead = width or growth.budget
        if self.room is not None and self.room < 2:
            raise Diagnostic(
                "E0954", f"the cache holds {self.held} tokens: too few for {self._ahead} that are drafted ahead of a prompt",
                help="a larger capacity, or a smaller budget",
            )  # fmt: skip
        trees = growth.shape != "chain"
        self._model = Line(decoder, self.held, trees)
        self._draft = Line(draft, draft.held(self.held), trees)
        # What the draft has not read yet.
        self._behind: list[int] = []

    @property
    def room(self) -> int | None:
        return None if self.held is None else self.held - self._ahead

    def check(self, request: Request) -> None:
        super().check(request)
        if self.room is not None and len(request.ids) + request.max_tokens > self.room:
            raise Diagnostic(
                "E0954", f"the cache holds {self.held} tokens: too few for {len(request.ids)} of the prompt,"
                f" {request.max_tokens} to be made and {self._ahead} that are drafted ahead", help="a larger capacity",
            )  # fmt: skip

    def _read(self, row: int, ticket: Ticket, ids: Sequence[int]) -> np.ndarray:
        self._behind = []
        if ticket.read:
            self._draft.read(ids)
            found: np.ndarray = self._model.read(ids)[-1]
            return found
        self._draft.start(ids, {})
        return self._model.start(ids, ticket.request.further)

    def _advance(self) -> list[Event]:
        ticket = self._running[0]
        if ticket is None or ticket.reading:
            return []
        if not self._behind:
            self._behind = [ticket.tokens[-1]]
        try:
            made = self._round(ticket)
        except Diagnostic as error:
            return self._failed(0, ticket, error)
        events: list[Event] = []
        for token, scores in made:
            events += self._take(0, ticket, token, scores)
            if ticket.finish is not None:
                break
        return events

    def _round(self, ticket: Ticket) -> list[tuple[int, np.ndarray]]:
        """The tokens that one pass of the model makes, each with the model's scores [V] for it."""
        sampling = ticket.request.sampling
        left = ticket.request.max_tokens - len(ticket.tokens) - 1
        drafted = _Drafted(self._draft, self._behind, self._growth.shape != "chain")
        # Best tokens are accepted far more often than the draft's probabilities say; sharper ones choose depth where it pays.
        drawing = replace(sampling, temperature=0.2) if sampling.greedy else sampling

        def behind(tree: Tree, path: Sequence[int], scores: np.ndarray, how: Sampling) -> np.ndarray:
            seen = [*ticket.so_far, *(tree.tokens[node] for node in path)] if self._looks(ticket) else ()
            return distribution(scores, how, seen, self._allowed(ticket.request, seen))

        tree = Tree()
        if left > 0:
            tree = grown(
                self._growth,
                lambda tree, node: behind(tree, tree.path(node), drafted.scores(tree, node), drawing),
                (lambda p: int(np.argmax(p))) if sampling.greedy else (lambda p: draw(p, ticket.rng.random())),
                left,
            )
        rows, start = self._verified(ticket.tokens[-1], tree), self._model.length
        ticket.passes += 1
        path, token = accepted(
            tree, lambda path: behind(tree, path, rows[path[-1] + 1 if path else 0], sampling), ticket.rng.random
        )
        if self._growth.shape == "chain":
            self._model.back(start - len(tree) + len(path))
        else:
            self._model.commit([0, *(node + 1 for node in path)])
        made = [*(tree.tokens[node] for node in path), token]
        self._behind = drafted.keep(tree, path, token)
        return list(zip(made, (rows[node + 1] for node in (ROOT, *path)), strict=True))

    def _verified(self, last: int, tree: Tree) -> np.ndarray:
        """The model's scores [1 + n, V] behind the last token and each node."""
        tokens = [last, *tree.tokens]
        if self._growth.shape == "chain":
            return self._model.read(tokens, self.width)
        return self._model.tree(tokens, [0, *tree.depths], tree.ancestors(1))


class _Drafted:
    """One round of the draft: scores behind the nodes of a tree, and what it has read of them.

    Args:
        line: the draft's sequence.
        behind: tokens that it has not read yet, the last of them the root.
        trees: whether it reads the tree at once, or a chain token by token.
    """

    def __init__(self, line: Line, behind: Sequence[int], trees: bool) -> None:
        self._line = line
        self._behind = list(behind)
        self._trees = trees
        self._start = line.length
        self._rows: np.ndarray | None = None
        self._read = 0

    def scores(self, tree: Tree, node: int) -> np.ndarray:
        """Behind a node of the tree as it is. A tree is read whole when a node is asked for that was not there before."""
        if not self._trees:
            self._read = node + 1
            found: np.ndarray = self._line.read(self._behind if node == ROOT else [tree.tokens[node]])[-1]
            return found
        before = len(self._behind)
        if self._rows is None or node >= self._read:
            depths = [*range(before), *(before - 1 + depth for depth in tree.depths)]
            self._rows = self._line.tree([*self._behind, *tree.tokens], depths, tree.ancestors(before))
            self._read = len(tree)
        row: np.ndarray = self._rows[before + node]
        return row

    def keep(self, tree: Tree, path: Sequence[int], token: int) -> list[int]:
        """Keep in the draft's cache what it read of an accepted path; the tokens that it has not read, the next one the last."""
        made = [tree.tokens[node] for node in path]
        if not len(tree):
            return [*self._behind, token]
        kept = sum(node < self._read for node in path)
        if self._trees:
            before = len(self._behind)
            self._line.commit([*range(before), *(before + node for node in path[:kept])])
        else:
            self._line.back(self._start + len(self._behind) + kept)
        return [*made[kept:], token]
