"""Tokenizers whose pieces are not found from the left as automata: pairs of characters merged by rank, and the likeliest pieces.

The tables are those of `std.text.letters.encoded` and `std.text.unigram.encoded`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...ir.tokenizer import Tokenizer
from ...ir.tokenizer_parts import part, shown
from .automaton import CLASSES, NORMALIZE, SPLIT, Automaton, Making, Spelled, limits, rows
from .files import Tables
from .pairs import merges_of, ranked_pairs
from .spelling import REMOVED, Classes
from .trie import Trie

if TYPE_CHECKING:
    import numpy as np

# What a text is split at is one character; so are those that stand for it.
_SPACE = " "


def refused_letters(tokenizer: Tokenizer, tables: Tables) -> Iterator[tuple[str, str, str]]:
    """What of a tokenizer with the model `bpe` of characters, or `unigram`, is no automaton: (stage, part, why)."""
    model = tokenizer.model
    for place, one in enumerate(tokenizer.normalize):
        if one.name == "prepend":
            if place or len(one["text"]) != 1 or tokenizer.split or {o.name for o in tokenizer.normalize} & {"bert", "nmt"}:
                yield "normalize", shown("normalize", one), "it stands alone in front, is one character, and nothing is split then"
        elif one.name not in NORMALIZE and not (one.name == "replace" and len(one["text"] or "") == 1):
            yield "normalize", shown("normalize", one), "it does more than change single characters"
    for one in tokenizer.split:
        if one.name == "metaspace":
            if len(tokenizer.split) > 1 or len(one["replacement"]) != 1:
                yield "split", shown("split", one), "it stands among others, and then each of their parts gets a space"
        elif one.name not in SPLIT:
            yield "split", shown("split", one), "it looks at more than two neighbouring characters"
    unknown = model["unknown"]
    if unknown is not None and unknown not in tables.model_ids():
        yield "model", model.name, f"its vocabulary lacks `{unknown}`"
    if model["byte_fallback"]:
        yield from _refused_bytes(tokenizer, tables)
    if model.name == "bpe" and model["dropout"]:
        yield "model", "bpe", "it has a dropout"
    if model.name == "unigram" and unknown is None:
        yield "model", "unigram", "it has no token for what is unknown, so that there are texts without ids"
    elif model.name == "unigram" and unknown not in {token.text for token in tokenizer.added}:
        yield "model", "unigram", f"`{unknown}` is no special token, so that it is looked for in texts"


def _refused_bytes(tokenizer: Tokenizer, tables: Tables) -> Iterator[tuple[str, str, str]]:
    model, ids = tokenizer.model, tables.model_ids()
    missing = next((text for text in map(_byte, range(256)) if text not in ids), None)
    if missing is not None:
        yield "model", model.name, f"characters that it does not know are bytes, and it has no token `{missing}`"
    if model.name == "bpe" and (model["prefix"] or model["suffix"]):
        yield "model", "bpe", "bytes of unknown characters have no prefix or suffix"
    if model.name == "bpe" and any(_is_byte(token) for row in tables.model["merges"] for token in merges_of(row)):
        yield "model", "bpe", "it merges tokens of bytes"
    apart = next((c for token in ids for c in token if c not in ids and not c.isascii()), None)
    if apart is not None and (model.name == "unigram" or model["ignore_merges"]):
        yield "model", model.name, f"{apart!r} is within tokens, and none by itself, so that it may be bytes"


def _byte(number: int) -> str:
    return f"<0x{number:02X}>"


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


class Letters(Making):
    """Pairs of characters, merged by rank; or the likeliest pieces."""

    def __init__(self, tokenizer: Tokenizer, tables: Tables) -> None:
        from .trainers import skeleton

        whole, self.front, self.scheme = _plain(tokenizer)
        super().__init__(whole, tables, skeleton(whole))
        if self.scheme == "prepend" and self.own.normalizer is not None:
            # What stands in front passes the stages behind it.
            self.front = self.own.normalizer.normalize_str(self.front)
        self.vocab = tables.model_ids()
        letters = {letter for token in self.vocab for letter in token}
        prefix, suffix = (dict(tokenizer.model.options).get(name) or "" for name in ("prefix", "suffix"))
        self.affixes = prefix, suffix
        self.numbers = {letter: number for number, letter in enumerate(sorted(letters | {*self.front}), 1)}
        self.taken = len(self.numbers)
        # What stands for a byte as it is; 0 where none does.
        self.raw = 0
        # Of a character that is no letter, its bytes are.
        self.bytes: dict[int, int] = {}
        if tokenizer.model["byte_fallback"]:
            last = len(self.numbers)
            self.raw = last + 1
            self.bytes = {byte: self.raw + 1 + byte for byte in range(256)}
            self.taken = self.raw + 256

    def _symbols(self, text: str, classes: Classes) -> tuple[int, ...]:
        if not self.bytes:
            return super()._symbols(text, classes)
        found: list[int] = []
        for character in text:
            kind = classes.of.get(character, REMOVED + 1)
            if kind == REMOVED or self._known(character):
                found += super()._symbols(character, classes)
            else:
                found += [CLASSES * self.bytes[byte] + kind for byte in character.encode()]
        return tuple(found)

    def _as_it_is(self, character: str, text: str, classes: Classes) -> tuple[int, ...]:
        kind = classes.of.get(character, REMOVED + 1)
        if not self.raw or character != text or kind == REMOVED or self._known(character) or character == "\ufffd":
            return ()
        return (CLASSES * self.raw + kind,) * len(character.encode())

    def _known(self, character: str) -> bool:
        """Whether a character is a letter, and not the bytes that it has; of those that are no tokens, ASCII alone is."""
        return character in self.vocab or (character in self.numbers and character.isascii())

    def made(self) -> Automaton:
        tokenizer, spelled = self.tokenizer, self.spelled()
        tables, statics, module = (
            self._pairs(spelled) if tokenizer.model.name == "bpe" else self._likeliest(spelled)
        )
        front = 0
        if self.front:
            front = CLASSES * self.numbers[self.front] + spelled.classes.of.get(self.front, REMOVED + 1)
        each = spelled.statics["each"] + int(front > 0 and bool(spelled.added))
        around, limit = limits(tokenizer)
        return Automaton(
            {**spelled.tables, **tables},
            {
                **spelled.statics, **statics, "raw": self.raw, "front_symbol": front, "alone": spelled.alone,
                "always": self.scheme != "first", "unless": self.scheme != "prepend", **rows(tokenizer, self.tables),
            },
            module, each, around + int(front > 0), limit,
        )  # fmt: skip

    def _letters(self, spelled: Spelled) -> np.ndarray:
        """The id of each letter, [4 * letters]: within a word, at its end, at its begin, alone in it; -1 of what is unknown."""
        import numpy as np

        prefix, suffix = self.affixes
        found = np.full((self.taken + len(spelled.added) + 1, 4), -1, np.int32)
        for letter, number in self.numbers.items():
            for kind in range(4):
                text = letter if kind & 2 else prefix + letter
                own = self.vocab[_byte(ord(letter))] if self.bytes and letter.isascii() else -1
                found[number, kind] = self.vocab.get(text + suffix if kind & 1 else text, own)
        for byte, number in self.bytes.items():
            found[number] = self.vocab[_byte(byte)]
        for number, token in spelled.owned.items():
            found[number] = token
        return found.reshape(-1)

    def _pairs(self, spelled: Spelled) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
        model, size = self.tokenizer.model, self.tables.size
        pairs, merges = ranked_pairs(self.tables, self.affixes[0])
        words: dict[tuple[int, ...], int] = {}
        if model["ignore_merges"]:
            words = {
                tuple(self.numbers[letter] for letter in token): number
                for token, number in self.vocab.items() if self._one_word(token, spelled.classes)
            }  # fmt: skip
        letters = self._letters(spelled)
        trie = Trie([pairs, words, spelled.added], max(size, letters.size // 4, 256))
        unknown = -1 if model["unknown"] is None else self.vocab[model["unknown"]]
        return (
            {"letters": letters, "base": trie.base, "check": trie.check, "value": trie.value, "merges": merges},
            {
                "letter_count": letters.size // 4, "states": trie.base.size, "ranks": merges.size,
                "origin": int(trie.base[trie.roots[0]]), "words": trie.roots[1], "steps": max(map(len, words), default=0),
                "added": trie.roots[2], "unknown": unknown, "fuse": bool(model["fuse"]),
            },
            "std.text.letters",
        )  # fmt: skip

    def _likeliest(self, spelled: Spelled) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
        import numpy as np

        rows: Sequence[tuple[str, float]] = [(text, score) for text, score in self.tables.model["vocab"]]
        unknown = self.vocab[self.tokenizer.model["unknown"]]
        least = min(score for _, score in rows) - 10.0
        entries: dict[tuple[int, ...], int] = {}
        for token, number in self.vocab.items():
            if self._one_word(token, spelled.classes):
                entries[tuple(self.numbers[letter] for letter in token)] = number
        entries.update(((symbol,), owned) for symbol, owned in spelled.owned.items())
        letters = self._letters(spelled)
        trie = Trie([entries, spelled.added], max(letters.size // 4, 256))
        scores = np.zeros(self.tables.size)
        for place, (_, score) in enumerate(rows):
            scores[place] = score
        return (
            {"letters": letters, "base": trie.base, "check": trie.check, "value": trie.value, "scores": scores},
            {
                "letter_count": letters.size // 4, "states": trie.base.size, "size": self.tables.size,
                "first": trie.roots[0], "added": trie.roots[1], "steps": max(map(len, entries)), "unknown": unknown,
                "least": least, "byte_letter": min(self.bytes.values(), default=0),
            },
            "std.text.unigram",
        )  # fmt: skip


def _plain(tokenizer: Tokenizer) -> tuple[Tokenizer, str, str]:
    """A tokenizer whose stages say what becomes of each character; what stands in front of a text, and when."""
    normalize, split, front, scheme = tokenizer.normalize, tokenizer.split, "", ""
    if normalize and normalize[0].name == "prepend":
        normalize, front, scheme = normalize[1:], normalize[0]["text"], "prepend"
    if split and split[0].name == "metaspace":
        shown_as, scheme = split[0]["replacement"], split[0]["scheme"]
        normalize = (*normalize, part("normalize", "replace", {"text": _SPACE, "by": shown_as}))
        front = shown_as if scheme != "never" else ""
        split = (part("split", "pattern", {"text": shown_as, "behavior": "merged_with_next"}),) if split[0]["split"] else ()
    return replace(tokenizer, normalize=normalize, split=split), front, scheme
