"""One sequence on a program: what was read can be taken back, and a tree of tokens read at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....ir.diagnostics import Diagnostic
from ..decoder import Decoder, Reading, Rows


class Line:
    """A row of a program of its own.

    Args:
        decoder: what computes.
        capacity: how many tokens it holds.
        trees: whether trees are read.

    Attributes:
        length: how many tokens were read.

    Raises:
        Diagnostic: E0954 for a program whose states do not say a length, that reads one token at a time, or, with ``trees``, that
            has no entry points `verify` and `commit`.
    """

    def __init__(self, decoder: Decoder, capacity: int | None, trees: bool) -> None:
        self.decoder = decoder
        self.name = decoder.program.program.name
        self.length = 0
        self._rows = Rows(decoder, 1, capacity)
        self._run = self._rows.session
        counts = [port for port in decoder.states if port.dtype.kind == "int" and len(port.shape) == 1]
        self._lengths = [port.name for port in counts if port.name.endswith("length")]
        if not self._lengths:
            raise Diagnostic("E0954", f"no state of `{self.name}` says how many tokens were read, so that none can be taken back")
        if decoder.decode.ids.shape[1].value is not None or not decoder.scores_all:
            raise Diagnostic(
                "E0954", f"`decode` of `{self.name}` reads one token at a time, and drafts are read several at once",
                help="token ids `i64[B, T]` and scores `[B, T, V]`, as `add_cache` makes them",
            )  # fmt: skip
        self._verify: Reading | None = None
        if trees:
            missing = next((entry for entry in ("verify", "commit") if entry not in decoder.program.entries), None)
            if missing is not None:
                raise Diagnostic(
                    "E0954", f"`{self.name}` has no entry point `{missing}`, which reads trees of drafted tokens",
                    help="compile it with `add_cache(tree=true)`; chains need none: `shape=\"chain\"`",
                )  # fmt: skip
            self._verify = decoder.reading("verify")

    def start(self, ids: Sequence[int], further: Mapping[str, Any]) -> np.ndarray:
        """Read a prompt, or its first tokens; the scores [V] behind them."""
        scores = self._rows.begin(ids, further)
        self.length = len(ids)
        return scores

    def read(self, tokens: Sequence[int], width: int | None = None) -> np.ndarray:
        """Read tokens in a row; scores [n, V] behind each. They are padded to ``width``, so that each call computes alike."""
        padded = [*tokens, *[0] * ((width or 0) - len(tokens))]
        given: dict[str, Any] = {self.decoder.decode.ids.name: np.asarray([padded], np.int64)}
        if self.decoder.decode.count is not None:
            given[self.decoder.decode.count] = np.asarray([len(tokens)], np.int64)
        scores = self._run["decode"](**given)[self.decoder.decode.output]
        self.length += len(tokens)
        if len(padded) > len(tokens) and self.decoder.decode.count is None:
            self.back(self.length)
        found: np.ndarray = scores[0, : len(tokens)]
        return found

    def back(self, length: int) -> None:
        """Take back what was read behind that many tokens."""
        self._run["decode"].put({name: np.asarray([length], np.int64) for name in self._lengths})
        self.length = length

    def tree(self, tokens: Sequence[int], depths: Sequence[int], ancestors: np.ndarray) -> np.ndarray:
        """Read a tree behind what was read, which stays as it is; scores [n, V] behind each node."""
        assert self._verify is not None
        names = [spec.name for spec in self._verify.further]
        mask = next(name for name in names if "ancestors" in name)
        depth = next(name for name in names if name != mask)
        given = {
            self._verify.ids.name: np.asarray([tokens], np.int64), depth: np.asarray([depths], np.int64), mask: ancestors[None],
        }  # fmt: skip
        found: np.ndarray = self._run["verify"](**given)[self._verify.output][0]
        return found

    def commit(self, path: Sequence[int]) -> None:
        """Keep of the tree that was read last these nodes, in this order."""
        self._run["commit"](path=np.asarray([path], np.int64), count=np.asarray([len(path)], np.int64))
        self.length += len(path)

