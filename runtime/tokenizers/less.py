"""Less is better: a lexicon of units that are worth their place (Yang, Cai and Reniers, "Rethinking Tokenization", LiB).

Units stand in an order. A text is read by the longest unit at each place; where a shorter one is there too, both readings go
on until they end at the same place, and the longer unit moves up or down by which was better. Neighbours that are seen twice in
one document become a unit at the end; what stands last is forgotten unless it proves useful.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# What the published code has.
DEFAULTS = {
    "longest": 12, "epochs": 1000, "lines": 200, "memorize": 0.25, "forget": 1e-4, "life": 10, "step": 0.2,
}  # fmt: skip
# An unknown stretch of so many letters becomes a unit too.
_STRETCH = 2


class Lexicon:
    """Units in order, the first the most useful.

    >>> lexicon = Lexicon("abc", longest=12)
    >>> lexicon.append("ab")
    >>> lexicon.units()
    ['a', 'b', 'c', 'ab']
    >>> lexicon.two("abc", 0)
    ('a', 'ab')
    """

    def __init__(self, letters: Sequence[str], longest: int) -> None:
        import numpy as np

        self.longest = longest
        self.trie: dict[str, Any] = {}
        self.texts: list[str] = []
        self.numbers: dict[str, int] = {}
        # The units by place, and the place of each; as much again is free behind the last.
        self.order = np.zeros(1024, np.int64)
        self.place: np.ndarray = np.full(1024, -1, np.int64)
        self.count = 0
        for letter in letters:
            self.append(letter)

    def __contains__(self, text: str) -> bool:
        return text in self.numbers and self.place[self.numbers[text]] >= 0

    def units(self) -> list[str]:
        """All of them in order."""
        return [self.texts[number] for number in self.order[: self.count]]

    def rank(self, text: str) -> int:
        """Where a unit stands, from 0."""
        return int(self.place[self.numbers[text]])

    def append(self, text: str) -> None:
        """Put a unit at the end."""
        import numpy as np

        number = self.numbers.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        if max(self.count, number) + 1 > len(self.order):
            self.order = np.append(self.order, np.zeros_like(self.order))
            self.place = np.append(self.place, np.full_like(self.place, -1))
        self.order[self.count] = number
        self.place[number] = self.count
        self.count += 1
        node = self.trie
        for letter in text:
            node = node.setdefault(letter, {})
        node[""] = True

    def remove(self, text: str) -> None:
        """Take a unit away."""
        number = self.numbers[text]
        place = int(self.place[number])
        self.order[place : self.count - 1] = self.order[place + 1 : self.count]
        self.count -= 1
        self.place[self.order[place : self.count]] -= 1
        self.place[number] = -1
        path = [self.trie]
        for letter in text:
            path.append(path[-1][letter])
        del path[-1][""]
        for letter, node in zip(reversed(text), reversed(path[:-1]), strict=True):
            if node[letter]:
                break
            del node[letter]

    def move(self, text: str, up: bool, share: float) -> None:
        """Move a unit by ``share`` of its rank and one more; one that falls off the end is gone. The first keeps its place."""
        number = self.numbers[text]
        place = int(self.place[number])
        if place <= 0:
            return
        by = int(place * share) + 1
        if up:
            low, high = max(place - by, 0), place
            self.order[low + 1 : high + 1] = self.order[low:high]
            self.order[low] = number
        elif place + by >= self.count:
            self.remove(text)
            return
        else:
            low, high = place, place + by
            self.order[low:high] = self.order[low + 1 : high + 1]
            self.order[high] = number
        import numpy as np

        self.place[self.order[low : high + 1]] = np.arange(low, high + 1)

    def two(self, line: str, start: int) -> tuple[str, str]:
        """The second longest unit at a place, and the longest; empty where there is none."""
        node: Any = self.trie
        ends = [0, 0]
        for end in range(start, min(start + self.longest, len(line))):
            node = node.get(line[end])
            if node is None:
                break
            if "" in node:
                ends = [ends[1], end + 1 - start]
        return line[start : start + ends[0]], line[start : start + ends[1]]


def learn_units(
    lines: Sequence[str], key: int, options: dict[str, Any], progress: Callable[[str, int, int], None] | None = None
) -> list[str]:
    """The units that ``lines`` are worth, in order.

    Args:
        key: the seed.
        options: those of :data:`DEFAULTS`. ``longest``: letters of a unit. ``epochs``: documents that are read, of so many
            ``lines``. ``memorize``: how likely two neighbours are noted. ``step``: by which share of its rank a unit moves.
            ``forget``: which share at the end has ``life`` documents left to be of use.
    """
    told = {**DEFAULTS, **options}
    draw = random.Random(key)
    letters = sorted({letter for line in lines for letter in line})
    documents = [lines[i : i + told["lines"]] for i in range(0, len(lines), told["lines"])]
    lexicon = Lexicon(letters, told["longest"])
    life = dict.fromkeys(letters, told["life"])
    for epoch in range(told["epochs"]):
        if progress is not None and epoch % 20 == 0:
            progress(f"{lexicon.count} units", epoch, told["epochs"])
        read(lexicon, draw.choice(documents), draw, told, life)
    return lexicon.units()


def read(lexicon: Lexicon, document: Sequence[str], draw: random.Random, told: dict[str, Any], life: dict[str, int]) -> None:
    """Read one document, and put the units in order by what was seen; ``life`` counts down for what is about to be forgotten."""
    noted: set[str] = set()
    moves: list[tuple[str, bool]] = []
    for line in document:
        _read_line(lexicon, line, draw, told, noted, moves, life)
    lost = [unit for unit, left in life.items() if left <= 1]
    for unit in lost:
        del life[unit]
        if unit in lexicon:
            lexicon.remove(unit)
    for unit in life:
        life[unit] -= 1
    for unit, up in moves:
        if unit in lexicon:
            lexicon.move(unit, up, told["step"])
    for number in lexicon.order[int((1 - told["forget"]) * lexicon.count) : lexicon.count]:
        life.setdefault(lexicon.texts[number], told["life"])


def _read_line(
    lexicon: Lexicon, line: str, draw: random.Random, told: dict[str, Any], noted: set[str], moves: list[tuple[str, bool]],
    life: dict[str, int],
) -> None:  # fmt: skip
    found: dict[int, tuple[str, str]] = {}

    def two(start: int) -> tuple[str, str]:
        if start not in found:
            found[start] = lexicon.two(line, start)
        return found[start]

    fresh = []
    start, last, known = 0, "", True
    while start < len(line):
        shorter, unit = two(start)
        if not unit:
            last = line[start] if known else last + line[start]
            known = False
            start += 1
            continue
        both, most = (last + unit, told["longest"]) if known else (last, _STRETCH)
        if last and draw.random() < told["memorize"] and len(both) <= most and both not in lexicon:
            if both in noted:
                noted.remove(both)
                fresh.append(both)
            else:
                noted.add(both)
        if shorter and len(unit) > 1:
            worse = _is_worse(lexicon, line, start, unit, shorter, two)
            moves.append((unit, not worse))
            if worse:
                moves.append((shorter, True))
            else:
                life.pop(unit, None)
        else:
            life.pop(unit, None)
        start += len(unit)
        last, known = unit, True
    # What is new is read from the next line on.
    for unit in fresh:
        if unit not in lexicon:
            lexicon.append(unit)


def _is_worse(lexicon: Lexicon, line: str, start: int, unit: str, shorter: str, two: Any) -> bool:
    """Whether reading goes on better behind a shorter unit: fewer unknown letters, fewer pieces, or units that stand before."""
    ends = [start + len(unit), start + len(shorter)]
    unknown, pieces, ranks = [0, 0], [1, 1], [lexicon.rank(unit), lexicon.rank(shorter)]
    while ends[0] != ends[1]:
        side = int(ends[0] > ends[1])
        piece = two(ends[side])[1]
        pieces[side] += 1
        if piece:
            ranks[side] += lexicon.rank(piece)
            ends[side] += len(piece)
        else:
            unknown[side] += 1
            ends[side] += 1
    return (unknown[0], pieces[0], ranks[0]) > (unknown[1], pieces[1], ranks[1])
