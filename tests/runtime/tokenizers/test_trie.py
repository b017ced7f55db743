"""Tries in double-array form, walked as `std.text.longest_match` walks them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.runtime.tokenizers.trie import Trie

WORDS = st.dictionaries(
    st.lists(st.integers(1, 40), min_size=1, max_size=6).map(tuple), st.integers(0, 99), max_size=40
)


@settings(deadline=None, max_examples=40)
@given(st.lists(WORDS, min_size=1, max_size=3), st.lists(st.integers(0, 60), max_size=8))
def test_walks(sets: list[dict[tuple[int, ...], int]], text: list[int]) -> None:
    trie = Trie(sets, 60)
    for root, entries in zip(trie.roots, sets, strict=True):
        for symbols in [*entries, tuple(text)]:
            at, walked = root, []
            for symbol in symbols:
                to = int(trie.base[at]) + symbol
                at = to if trie.check[to] == at else 0
                walked.append(int(trie.value[at]))
            assert walked == [entries.get(symbols[: i + 1], -1) for i in range(len(symbols))]
            assert int(trie.base[0]) == 0
            assert int(trie.value[0]) == -1


def test_more_rows_than_room() -> None:
    """Rows of far symbols, which need more slots than there are nodes."""
    entries: dict[tuple[int, ...], int] = {(first, second): first for first in range(1, 60) for second in (1, 5000 - first)}
    trie = Trie([entries], 5000)
    at = int(trie.base[trie.roots[0]]) + 59
    assert trie.value[int(trie.base[at]) + 4941] == 59
