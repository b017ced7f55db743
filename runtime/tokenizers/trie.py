"""Tries in double-array form: an automaton in three rows of integers.

>>> trie = Trie([{(1, 2): 10, (1,): 7}], 2)
>>> state = trie.roots[0]
>>> state = int(trie.base[state]) + 1
>>> int(trie.value[state])
7
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Entries = Mapping[tuple[int, ...], int]

# Bases that are tried at once.
_WINDOW = 1024


class Trie:
    """Sets of entries (symbols from 1 on -> a value from 0 on) as one automaton with a root for each set.

    From state s the symbol c leads to ``t = base[s] + c`` where ``check[t] == s``; ``value[t]`` is that of the entry that ends in
    t, or -1. State 0 is where nothing leads on. i32[K] each. Symbols that may be read are 0 to ``most``.
    """

    def __init__(self, sets: Sequence[Entries], most: int) -> None:
        children: list[dict[int, int]] = []
        values: list[int] = []

        def node() -> int:
            children.append({})
            values.append(-1)
            return len(children) - 1

        tops = [node() for _ in sets]
        for top, entries in zip(tops, sets, strict=True):
            for symbols, value in entries.items():
                at = top
                for symbol in symbols:
                    found = children[at].get(symbol)
                    if found is None:
                        found = children[at][symbol] = node()
                    at = found
                values[at] = value
        self._place(tops, children, values, most)

    def _place(self, tops: list[int], children: list[dict[int, int]], values: list[int], most: int) -> None:
        """Give every node its slot: those with most children first, each where all of its children find a free one."""
        import numpy as np

        # Behind the last slot in use there is always room for one more row.
        room = 2 * (most + 1) + 2 * _WINDOW
        free = np.ones(2 * len(children) + room, bool)
        # State 0 and the roots are no one's children.
        free[: len(tops) + 1] = False
        bases = [0] * len(children)
        low = dense = 1
        last = len(tops)
        for number in sorted(range(len(children)), key=lambda n: -len(children[n])):
            symbols = list(children[number])
            if not symbols:
                break
            # Slots below this one are taken, wherever they are looked for.
            while not free[low]:
                low += 1
            if len(symbols) > 1:
                # Where there was no place for as many or more there is hardly one for these.
                bases[number] = base = dense = _fit(free, symbols, max(low - min(symbols), dense - most // 4, 0))
            else:
                bases[number] = base = _fit(free, symbols, max(low - symbols[0], 0))
            for symbol in symbols:
                free[base + symbol] = False
            last = max(last, base + max(symbols))
            if last + room > len(free):
                free = np.append(free, np.ones(len(free), bool))
        slots = [0] * len(children)
        for place, top in enumerate(tops):
            slots[top] = place + 1
        for number, row in enumerate(children):
            for symbol, child in row.items():
                slots[child] = bases[number] + symbol
        used = max(last, max(bases) + most) + 1
        self.roots = [slots[top] for top in tops]
        self.base, self.check, self.value = (np.full(used, fill, np.int32) for fill in (0, -1, -1))
        for number, row in enumerate(children):
            slot = slots[number]
            self.base[slot] = bases[number]
            self.value[slot] = values[number]
            for child in row.values():
                self.check[slots[child]] = slot


def _fit(free: np.ndarray, symbols: Sequence[int], start: int) -> int:
    """The lowest base from ``start`` on under which all of the symbols find a free slot."""
    if len(symbols) == 1:
        # Most nodes have one child.
        base = start
        while not free[base + symbols[0]]:
            base += 1
        return base
    while True:
        fits = free[start + symbols[0] : start + symbols[0] + _WINDOW].copy()
        for symbol in symbols[1:]:
            fits &= free[start + symbol : start + symbol + _WINDOW]
        if fits.any():
            return start + int(fits.argmax())
        start += _WINDOW
