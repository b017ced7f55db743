"""Neighbours of a batch that stand together most often become one token, before a model sees them; and rows that are kept.

A merged token is the tuple of the ids that spell it (Feher et al. 2024, arXiv 2411.18553).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic

if TYPE_CHECKING:
    import numpy as np

    from .engine import Encoded

Token = tuple[int, ...]


@dataclass(frozen=True)
class Merged:
    """Rows of a batch after merging.

    Args:
        rows: the tokens of each text.
        words: the word of each token, by number; -1 of what is not of the text.
        merges: how many pairs were merged, which are fewer than was asked for where nothing was left.
    """

    rows: list[list[Token]]
    words: list[list[int]]
    merges: int

    @property
    def count(self) -> list[int]:
        """How many tokens each row has."""
        return [len(row) for row in self.rows]

    def labels(self, of_words: Sequence[Sequence[int]], nothing: int = -100) -> list[list[int]]:
        """Labels of words as labels of tokens: each takes that of its word, and ``nothing`` where it is of none.

        Raises:
            Diagnostic: E0011 where a row has words that no label is given for.
        """
        found = []
        for place, (words, given) in enumerate(zip(self.words, of_words, strict=True)):
            if max(words, default=-1) >= len(given):
                raise Diagnostic(
                    "E0011", f"row {place} has {max(words) + 1} words, and {len(given)} labels",
                    help="labels are of the words that the tokenizer finds, one for each: `tokenizer.encode(…).words`",
                )  # fmt: skip
            found.append([given[word] if word >= 0 else nothing for word in words])
        return found


def merge_batch(encoded: Encoded, merges: int, special: Collection[int] = ()) -> Merged:
    """Merge the pair of neighbours that a batch has most often, everywhere, and so on, ``merges`` times; pairs are of one word.

    Of pairs that are there as often, the one of the lower ids is first.

    Args:
        encoded: what `tokenizer.encode(texts)` gave.
        special: ids that are no text; they are never merged.

    Raises:
        Diagnostic: E0011 for fewer merges than none, or words that a special token is said to be of.
    """
    if merges < 0:
        raise Diagnostic("E0011", f"`merges` is how many pairs are merged, at least 0, and not {merges}")
    rows: list[list[Token]] = []
    words: list[list[int]] = []
    for ids, of, count in zip(encoded.ids.tolist(), encoded.words.tolist(), encoded.count.tolist(), strict=True):
        # Where padding stands in front, the last ones are the tokens.
        start = 0 if encoded.mask[len(rows), 0] or not count else len(ids) - count
        rows.append([(number,) for number in ids[start : start + count]])
        words.append(of[start : start + count])
        wrong = next((n for (n,), word in zip(rows[-1], words[-1], strict=True) if n in special and word >= 0), None)
        if wrong is not None:
            raise Diagnostic(
                "E0011", f"the special token {wrong} is said to be of a word, with whose tokens it would merge",
                help="what is not of the text has the word -1, as `tokenizer.encode` has it",
            )  # fmt: skip
    done = 0
    while done < merges:
        pairs = Counter(
            (left, right)
            for row, of in zip(rows, words, strict=True)
            for left, right, a, b in zip(row, row[1:], of, of[1:], strict=False)
            if a == b >= 0
        )
        if not pairs:
            break
        most = max(pairs.values())
        best = min(pair for pair, count in pairs.items() if count == most)
        for row, of in zip(rows, words, strict=True):
            _merge(row, of, best)
        done += 1
    return Merged(rows, words, done)


def _merge(row: list[Token], words: list[int], pair: tuple[Token, Token]) -> None:
    place = 0
    while place + 1 < len(row):
        if (row[place], row[place + 1]) == pair and words[place] == words[place + 1] >= 0:
            row[place : place + 2] = [row[place] + row[place + 1]]
            del words[place]
        place += 1


class RowCache:
    """Rows of the tokens that were asked for last, at most ``capacity``; the others are computed, all of a batch at once.

        rows = RowCache(lambda tokens: network(tokens), capacity=4096)
        table, ids = rows.table(merged.rows)

    Args:
        compute: tokens as rows, [N, D].
    """

    def __init__(self, compute: Callable[[list[Token]], np.ndarray], capacity: int) -> None:
        if capacity < 1:
            raise Diagnostic("E0011", f"`capacity` is how many rows are kept, at least 1, and not {capacity}")
        self.compute = compute
        self.capacity = capacity
        self.hits = self.misses = 0
        self._kept: OrderedDict[Token, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def table(self, rows: Iterable[Sequence[Token]]) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the tokens of a batch, f32[N, D], and which of them each place has, i64[B, T]; behind the last, the first.

        Raises:
            Diagnostic: E0011 for a batch of more tokens than are kept.
        """
        import numpy as np

        batch = [list(row) for row in rows]
        known = {token: number for number, token in enumerate(dict.fromkeys(token for row in batch for token in row))}
        if len(known) > self.capacity:
            raise Diagnostic(
                "E0011", f"the batch has {len(known)} tokens, and the cache keeps {self.capacity}",
                help=f"a `capacity` of {len(known)} at least, or a smaller batch",
            )  # fmt: skip
        missing = [token for token in known if token not in self._kept]
        self.hits, self.misses = self.hits + len(known) - len(missing), self.misses + len(missing)
        if missing:
            self._kept.update(zip(missing, np.asarray(self.compute(missing)), strict=True))
        for token in known:
            self._kept.move_to_end(token)
        while len(self._kept) > self.capacity:
            self._kept.popitem(last=False)
        ids = np.zeros((len(batch), max(map(len, batch), default=0)), np.int64)
        for place, row in enumerate(batch):
            ids[place, : len(row)] = [known[token] for token in row]
        return np.stack([self._kept[token] for token in known]), ids
