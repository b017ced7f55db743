"""BPE of bytes, trained in bounded memory: files of any kind, cut into chunks, whole or in pieces.

The package `tokenizers` keeps the places of every pair: 77 bytes for each of a program that nothing splits. Here each merge goes
once over the corpus, which is kept as two bytes for what is left of it (one for each byte, before the first merges), beside a
table of the pairs that may still become tokens. Merges are the package's: the pair that comes most often, of those that come as
often the one of the lowest ids; in a run the left one first; none that spells what is a token already.

Pairs whose symbols are all different are merged in one go, as long as nothing that one of them makes could come before the next:
what merging `a b` makes of `z a` comes at most as often as `z a` did, which ranks behind all that are merged together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic
from ..files.aside import written_aside

if TYPE_CHECKING:
    import numpy as np

    # Bytes that belong together, and where pieces of them end.
    Chunk = tuple[bytes, Sequence[int]]
    # Pairs, as `left << 16 | right` in ascending order, and how often each comes.
    Counted = tuple[np.ndarray, np.ndarray]

# What ends a piece, and what no symbol is followed by.
_END, _NONE = 0xFFFF, 0xFFFE
MOST = _NONE
# Bytes of a block: what is worked on at once.
_BLOCK = 1 << 17
# After so many merges a symbol of two bytes takes less room than its bytes did.
_HELD = 16
# So many pairs are looked at when the most frequent ones are wanted.
_TOP = 512
# Seconds between two checkpoints.
PAUSE = 30.0


@dataclass(frozen=True)
class Limits:
    """What is learned: so many merges, of pairs that come ``least`` times, to tokens of at most ``longest`` bytes."""

    merges: int
    least: int = 1
    longest: int | None = None


def learn_pairs(
    chunks: Iterable[Chunk], limits: Limits, progress: Callable[[str, int, int], None] | None = None,
    checkpoint: Path | None = None, about: str = "", pause: float = PAUSE,
) -> list[tuple[bytes, bytes]]:  # fmt: skip
    """The merges, by rank; fewer where the corpus gives no more.

    Args:
        checkpoint: where merges are noted while they are learned; a run that was killed goes on from there, to the same result.
        about: what else the merges hang on.
        pause: seconds between two notes.

    Raises:
        Diagnostic: E1010 where there are no bytes, E0010 where nothing can be noted.
    """
    digest = hashlib.sha256(f"{limits} {about}".encode())
    trainer = _Trainer(limits)
    for octets, ends in _blocks(chunks):
        digest.update(octets)
        digest.update(ends.tobytes())
        trainer.take(octets, ends)
    if not trainer.blocks:
        raise Diagnostic(
            "E1010", "the corpus has no bytes to train on",
            help="name files that have something in them, of an entropy between those that are declared",
        )  # fmt: skip
    key = digest.hexdigest()
    trainer.start(_noted(checkpoint, key))
    noted = monotonic()
    while trainer.step():
        if progress is not None:
            progress(f"{len(trainer.merges)} merges", len(trainer.merges), limits.merges)
        if checkpoint is not None and monotonic() - noted >= pause:
            _note(checkpoint, key, trainer.merges)
            noted = monotonic()
    return [(trainer.texts[a], trainer.texts[b]) for a, b in trainer.merges]


def _blocks(chunks: Iterable[Chunk]) -> Iterator[tuple[bytes, np.ndarray]]:
    """Chunks together, with which bytes end a piece, bool[n]."""
    import numpy as np

    some: list[bytes] = []
    places: list[int] = []
    size = 0

    def block() -> tuple[bytes, np.ndarray]:
        last = np.zeros(size, bool)
        last[np.array(places, np.int64) - 1] = True
        return b"".join(some), last

    for chunk, ends in chunks:
        if size and size + len(chunk) > _BLOCK:
            yield block()
            some, places, size = [], [], 0
        places += [size + end for end in (*ends, len(chunk))]
        some.append(chunk)
        size += len(chunk)
    if size:
        yield block()


def _note(path: Path, key: str, merges: list[tuple[int, int]]) -> None:
    with written_aside(path) as aside:
        aside.write_text(json.dumps({"corpus": key, "merges": merges}), encoding="utf-8")


def _noted(path: Path | None, key: str) -> list[tuple[int, int]]:
    """The merges of a run that was killed; none where there was none of the same corpus."""
    try:
        said = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
        if said.get("corpus") != key:
            return []
        return [(int(a), int(b)) for a, b in said["merges"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


class _Trainer:
    def __init__(self, limits: Limits) -> None:
        import numpy as np

        self.limits = limits
        # Symbols; of the corpus as it was, bytes and the bits of those that end a piece.
        self.blocks: list[np.ndarray | tuple[np.ndarray, np.ndarray]] = []
        self.merges: list[tuple[int, int]] = []
        self.texts = [bytes([byte]) for byte in range(256)]
        self._known = set(self.texts)
        self._lengths = np.ones(1 << 16, np.int32)
        # The merges that blocks which are still bytes lack, those that are made at once.
        self._early: list[list[tuple[int, int]]] = []
        self._keys, self._counts = np.zeros(0, np.uint32), np.zeros(0, np.int64)
        # Pairs that spell a token that there is; and how often a pair comes that is looked at.
        self._refused: set[int] = set()
        self._floor = 1 << 62

    def take(self, octets: bytes, ends: np.ndarray) -> None:
        """Take in a block of the corpus, with which bytes end a piece."""
        import numpy as np

        self.blocks.append((np.frombuffer(octets, np.uint8), np.packbits(ends)))

    def start(self, merges: list[tuple[int, int]]) -> None:
        """Count pairs, behind merges that are known already."""
        import numpy as np

        for pairs in _together(merges, len(self.texts)):
            self._merge(pairs, count=False)
        found = (self._keys, self._counts)
        for number in range(len(self.blocks)):
            symbols = self._symbols(number)
            found = _summed(found, self._counted(symbols, np.ones(len(symbols) - 1, bool)))
        enough = found[1] >= self.limits.least
        self._keys, self._counts = found[0][enough], found[1][enough]

    def _symbols(self, number: int) -> np.ndarray:
        """A block as it is now."""
        import numpy as np

        block = self.blocks[number]
        if not isinstance(block, tuple):
            return block
        octets, bits = block
        at = np.flatnonzero(np.unpackbits(bits, count=len(octets))) + 1
        symbols = np.insert(octets.astype(np.uint16), at, _END)
        first = 256
        for pairs in self._early:
            symbols = _merged(symbols, *_tables(pairs, first))[0]
            first += len(pairs)
        return symbols

    # One step ---------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Merge the most frequent pair, and those behind it that nothing can come before. False where there is none."""
        pairs = self._chosen()
        if not pairs:
            return False
        self._merge(pairs)
        return True

    def _merge(self, pairs: list[tuple[int, int]], count: bool = True) -> None:
        """Merge pairs of different symbols everywhere."""
        import numpy as np

        tables = _tables(pairs, len(self.texts))
        for a, b in pairs:
            text = self.texts[a] + self.texts[b]
            self._lengths[len(self.texts)] = len(text)
            self._known.add(text)
            self.texts.append(text)
        self.merges += pairs
        gone: Counted = (np.zeros(0, np.uint32), np.zeros(0, np.int64))
        come = gone
        for number, block in enumerate(self.blocks):
            symbols = self._symbols(number)
            merged, before, behind = _merged(symbols, *tables)
            if count and before is not None and behind is not None:
                gone = _summed(gone, self._counted(symbols, before))
                come = _summed(come, self._counted(merged, behind))
            if len(self.merges) >= _HELD or not isinstance(block, tuple):
                self.blocks[number] = merged
        self._early = [] if len(self.merges) >= _HELD else [*self._early, pairs]
        self._change(gone, come)

    def _counted(self, symbols: np.ndarray, where: np.ndarray) -> Counted:
        """The pairs that begin where it says, those that are one piece and no longer than a token may be."""
        import numpy as np

        at = np.flatnonzero(where)
        left, right = symbols[at], symbols[at + 1]
        inside = (left != _END) & (right != _END)
        if self.limits.longest is not None:
            inside &= self._lengths[left] + self._lengths[right] <= self.limits.longest
        keys, counts = np.unique(left[inside].astype(np.uint32) << 16 | right[inside], return_counts=True)
        return keys, counts.astype(np.int64)

    def _change(self, gone: Counted, come: Counted) -> None:
        """Take from the table what is no longer there, and put in what is. What comes too seldom never comes more often: a pair
        is new when its later symbol is."""
        import numpy as np

        if len(self._keys):
            at = np.minimum(np.searchsorted(self._keys, gone[0]), len(self._keys) - 1)
            there = self._keys[at] == gone[0]
            self._counts[at[there]] -= gone[1][there]
        enough = self._counts >= self.limits.least
        keys, counts = self._keys[enough], self._counts[enough]
        new = come[1] >= self.limits.least
        at = np.searchsorted(keys, come[0][new])
        self._keys, self._counts = np.insert(keys, at, come[0][new]), np.insert(counts, at, come[1][new])

    def _chosen(self) -> list[tuple[int, int]]:
        """The pairs that are merged next, in the order of their ids."""
        pairs: list[tuple[int, int]] = []
        used: set[int] = set()
        # Symbols of pairs that are refused, and come more often than what is looked at.
        barred: set[int] = set()
        texts: set[bytes] = set()
        for key in self._frequent():
            a, b = key >> 16, key & 0xFFFF
            if key in self._refused:
                barred.update((a, b))
                continue
            if len(self.merges) + len(pairs) >= self.limits.merges or used & barred or a in used or b in used:
                break
            text = self.texts[a] + self.texts[b]
            if text in self._known or text in texts:
                self._refused.add(key)
                barred.update((a, b))
                continue
            pairs.append((a, b))
            texts.add(text)
            used.update((a, b))
            if a == b:
                # Of a run, what two of it make may come before anything.
                break
        return pairs

    def _frequent(self) -> Iterator[int]:
        """The pairs that come most often, in order; of those that come as often, by their ids."""
        import numpy as np

        counts = self._counts
        ceiling: int | None = None
        while len(counts):
            below = counts if ceiling is None else counts[counts < ceiling]
            if not len(below):
                return
            if self._floor >= (ceiling if ceiling is not None else int(below.max()) + 1):
                self._floor = int(np.partition(below, max(len(below) - _TOP, 0))[max(len(below) - _TOP, 0)])
            at = np.flatnonzero((counts >= self._floor) & (True if ceiling is None else counts < ceiling))
            order = at[np.argsort(-counts[at], kind="stable")]
            yield from self._keys[order].tolist()
            ceiling = self._floor


def _together(merges: list[tuple[int, int]], first: int) -> Iterator[list[tuple[int, int]]]:
    """Merges in order, those of different symbols at once."""
    some: list[tuple[int, int]] = []
    used: set[int] = set()
    for pair in merges:
        if some and (used & {*pair} or max(pair) >= first or some[-1][0] == some[-1][1]):
            yield some
            first += len(some)
            some, used = [], set()
        some.append(pair)
        used.update(pair)
    if some:
        yield some


def _summed(one: Counted, other: Counted) -> Counted:
    """The counts of two tables together."""
    import numpy as np

    if not len(other[0]):
        return one
    keys, inverse = np.unique(np.concatenate([one[0], other[0]]), return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, inverse[: len(one[0])], one[1])
    np.add.at(counts, inverse[len(one[0]) :], other[1])
    return keys, counts


def _tables(pairs: Iterable[tuple[int, int]], first: int) -> tuple[np.ndarray, np.ndarray]:
    """By what each symbol is followed where it is merged, and what the two become: ``first``, and what follows it."""
    import numpy as np

    partner, made = np.full(1 << 16, _NONE, np.uint16), np.zeros(1 << 16, np.uint16)
    for number, (a, b) in enumerate(pairs, first):
        partner[a], made[a] = b, number
    return partner, made


def _merged(
    symbols: np.ndarray, partner: np.ndarray, made: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Symbols with their pairs merged, and which pairs there are no longer, and which are new; None where none is merged."""
    import numpy as np

    at = np.flatnonzero(partner[symbols[:-1]] == symbols[1:])
    if not len(at):
        return symbols, None, None
    # Of a run of one symbol every second pair, from its begin.
    place = np.arange(len(at))
    begins = np.maximum.accumulate(np.where(np.diff(at, prepend=-2) != 1, place, 0))
    at = at[(place - begins) % 2 == 0]
    before = np.zeros(len(symbols) + 1, bool)
    before[at] = before[at + 1] = True
    before[np.maximum(at - 1, 0)] = True
    kept = np.ones(len(symbols), bool)
    kept[at + 1] = False
    merged = symbols.copy()
    merged[at] = made[symbols[at]]
    merged = merged[kept]
    at = at - np.arange(len(at))
    behind = np.zeros(len(merged), bool)
    behind[at] = True
    behind[np.maximum(at - 1, 0)] = True
    # A block ends with the end of a piece.
    return merged, before[: len(symbols) - 1], behind[: len(merged) - 1]
