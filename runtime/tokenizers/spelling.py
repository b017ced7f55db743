"""What single characters become on their way to the model of a tokenizer, as the engine itself answers for each of them.

Of stages that look at one character at a time (case, accents, decomposition, white space, punctuation) all is known when it is
known what becomes of each code point, and between which two of them a word ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Code points that are asked about. Surrogates are in no text; planes without characters, and those for private use, are each as
# their first one but for the last two, which are no characters.
PLANES = ((0x40000, 0xE0000), (0xF0000, 0xFFFFE), (0x100000, 0x10FFFE))
CODES = (*range(0xD800), *range(0xE000, 0x40001), *range(0xE0000, 0xF0001), 0xFFFFE, 0xFFFFF, 0x100000, 0x10FFFE, 0x10FFFF)
# The engine is asked about so many characters at once, and about so few one by one.
_MANY = 4096
_FEW = 32
# Characters, beside letters, that one split or another tells apart.
_KINDS = ("1", ".", "$", "_", " ", "\u4e2d")
# How a letter stands beside others.
_JOINED = (False, False, False, False)
# The class of what parts words and is no part of them; classes of others follow.
REMOVED = 1


def paged(rows: Iterable[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """A number for each code point, from those of :data:`CODES`: pages [4352] and cells, of which the one of c is
    ``cells[256 * pages[c // 256] + c % 256]``."""
    import numpy as np

    numbers = np.zeros(0x110000, np.int32)
    for code, number in rows:
        first, last = next(((a, b) for a, b in PLANES if code == a), (code, code + 1))
        numbers[first:last] = number
    kinds, pages = np.unique(numbers.reshape(-1, 256), axis=0, return_inverse=True)
    return pages.reshape(-1).astype(np.int32), kinds.reshape(-1)


def each_normalized(normalizer: Any, characters: str) -> dict[str, str]:
    """What characters become that do not stay as they are."""
    changed: dict[str, str] = {}
    if normalizer is None:
        return changed
    for block in _blocks(characters, lambda block: normalizer.normalize_str(block) == block):
        made = normalizer.normalize_str("|".join(block)).split("|")
        if len(made) != len(block):
            # One of them is what stands between them, or becomes it.
            made = [normalizer.normalize_str(character) for character in block]
        changed.update((old, new) for old, new in zip(block, made, strict=True) if old != new)
    return changed


def _blocks(characters: str, plain: Callable[[str], bool]) -> Iterator[str]:
    """The parts of a text that are not plain, in small blocks."""
    pending = [characters[start : start + _MANY] for start in range(0, len(characters), _MANY)]
    while pending:
        block = pending.pop()
        if plain(block):
            continue
        if len(block) <= _FEW:
            yield block
        else:
            middle = len(block) // 2
            pending += [block[middle:], block[:middle]]


@dataclass(frozen=True)
class Classes:
    """Kinds of characters by where words end beside them.

    Args:
        of: the class of characters, 2 of those that are not there; 1 is what parts words and is no part of them.
        parted: pairs of classes between which a word ends.
        count: the classes are 1 to ``count``.
    """

    of: Mapping[str, int]
    parted: frozenset[tuple[int, int]]
    count: int


def classes_of(characters: str, split: Any, more: Sequence[str] = ()) -> Classes:
    """The classes of characters under a pre-tokenizer that decides between two neighbours; all others are of class 2.

    Args:
        more: characters that the split knows, beside letters, digits and such.
    """
    if split is None:
        return Classes({}, frozenset(), REMOVED + 1)
    # One that the split leaves alone.
    letter = next((c for c in ascii_lowercase if [piece for piece, _ in split.pre_tokenize_str(c + c)] == [c + c]), "a")
    others = dict.fromkeys((*_KINDS, *more))

    def joined(block: str) -> bool:
        text = letter + "".join(character * 2 for character in block) + letter
        return [piece for piece, _ in split.pre_tokenize_str(text)] == [text]

    of: dict[str, int] = {}
    rest: list[str] = []
    found = [c for block in _blocks(characters, joined) for c in block]
    for character, signature in zip(found, _beside(found, letter, split), strict=True):
        if signature[0]:
            of[character] = REMOVED
        elif signature != _JOINED:
            rest.append(character)
    # Most characters are as letters are; only the others need to be told apart.
    rows = [_beside(rest, kind, split) for kind in (letter, *others)]
    numbers: dict[tuple[Any, ...], int] = {}
    examples = {REMOVED + 1: letter}
    for character, *signatures in zip(rest, *rows, strict=True):
        of[character] = numbers.setdefault(tuple(signatures), len(numbers) + REMOVED + 2)
        examples.setdefault(of[character], character)
    pairs = ((a, b) for a in examples for b in examples)
    parted = frozenset((a, b) for a, b in pairs if len(split.pre_tokenize_str(examples[a] + examples[b])) > 1)
    return Classes(of, parted, len(numbers) + REMOVED + 1)


def _beside(characters: Sequence[str], kind: str, split: Any) -> list[tuple[bool, bool, bool, bool]]:
    """Of each character, written twice behind and in front of ``kind``: whether it goes, whether a word ends before it, between
    the two, and behind them."""
    import numpy as np

    found: list[tuple[bool, bool, bool, bool]] = []
    for start in range(0, len(characters), _FEW):
        some = characters[start : start + _FEW]
        text = kind + "".join(character * 2 + kind for character in some)
        covered, parted = np.zeros(len(text), bool), np.zeros(len(text) + 1, bool)
        for _, (first, last) in split.pre_tokenize_str(text):
            covered[first:last] = True
            parted[first] = parted[last] = True
        at = 3 * np.arange(len(some)) + 1
        rows = (~covered[at], parted[at], parted[at + 1], parted[at + 2])
        found += zip(*(row.tolist() for row in rows), strict=True)
    return found
