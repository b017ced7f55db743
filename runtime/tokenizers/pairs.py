"""A tokenizer that merges pairs of bytes as an automaton: the tables of `std.text.pairs.encoded`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...ir.tokenizer import Part, Tokenizer
from ...ir.tokenizer_parts import shown
from .files import Tables
from .octets import LETTERS, is_octets
from .patterns import Rule, Sets, Unfit, rules_of
from .ranks import CHARACTERS
from .spelling import CODES, paged
from .trie import Trie

if TYPE_CHECKING:
    import numpy as np

# What the split `byte_level` looks for by itself.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Bytes that are in no text in UTF-8.
_NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}


@dataclass(frozen=True, eq=False)
class Pairs:
    """Tables by the names of the layer's buffers, and its static parameters beside those of all tokenizers."""

    tables: Mapping[str, np.ndarray]
    statics: Mapping[str, Any]


def of_bytes(tokenizer: Tokenizer) -> bool:
    """Whether what is merged are bytes, shown as characters."""
    return is_octets(tokenizer) or any(part.name == "byte_level" for part in (*tokenizer.split, *tokenizer.normalize))


def refused_pairs(tokenizer: Tokenizer, tables: Tables) -> Iterator[tuple[str, str, str]]:
    """What of a tokenizer with the model `bpe` is no automaton: (stage, part, why)."""
    model, split = tokenizer.model, tokenizer.split
    octets = is_octets(tokenizer)
    for part in tokenizer.normalize if not octets else ():
        yield "normalize", shown("normalize", part), "pairs are merged of the bytes that a text has"
    if not octets and (not split or split[-1].name != "byte_level"):
        yield "model", "bpe", "only pairs of bytes are merged, those of `split byte_level`"
    for part in split:
        if part.name == "byte_level" and part["space"]:
            yield "split", shown("split", part), "it puts a space in front"
        elif part.name == "byte_level" and part is not split[-1]:
            yield "split", shown("split", part), "it is not the last one"
        elif part.name == "pattern" and (part["behavior"] != "isolated" or part["invert"] or part["regex"] is None):
            yield "split", shown("split", part), "only what a regular expression finds, and `isolated`, is a word"
        elif part.name not in ("byte_level", "pattern"):
            yield "split", shown("split", part), "it looks at more than two neighbouring characters"
    for option in ("dropout", "prefix", "suffix"):
        if model[option]:
            yield "model", "bpe", f"it has a {option}"
    letters = {} if octets else CHARACTERS
    missing = next((b for b, c in letters.items() if b not in _NEVER and c not in tables.model["vocab"]), None)
    if missing is not None:
        yield "model", "bpe", f"its vocabulary has no token for the byte 0x{missing:02x}"


def pairs_of(tokenizer: Tokenizer, tables: Tables) -> Pairs:
    """The tables. Raises ``Unplaced``, (stage, part, why), for a regular expression that is no list of steps."""
    import numpy as np

    vocab: Mapping[str, int] = tables.model["vocab"]
    octets = is_octets(tokenizer)
    characters = dict(enumerate(LETTERS)) if octets else CHARACTERS
    codes = range(256) if octets else CODES
    sets = Sets("".join(map(chr, codes)))
    splits = [_rules(part, sets) for part in tokenizer.split if part.name == "pattern" or part["regex"]]
    members = np.array(sets.members or [np.zeros(len(codes), bool)])
    kinds, classes = np.unique(members, axis=1, return_inverse=True)
    pages, cells = paged(zip(codes, (classes.reshape(-1) + 1).tolist(), strict=True))
    pairs, merges = ranked_pairs(tables)
    numbers = {character: vocab.get(character, 0) for character in characters.values()}
    words: dict[tuple[int, ...], int] = {}
    if tokenizer.model["ignore_merges"]:
        words = {tuple(numbers[c] + 1 for c in t): n for t, n in vocab.items() if t and all(c in numbers for c in t)}
    # What a file has is never a special token.
    found = () if octets else tokenizer.added
    added = {tuple(byte + 1 for byte in t.text.encode()): tables.tokens[t.text] for t in found}
    trie = Trie([pairs, words, added], max(tables.size, 256))
    return Pairs(
        {
            "pages": pages, "cells": cells, "sets": np.pad(kinds, ((0, 0), (1, 0))),
            "letters": np.array([numbers[characters[byte]] for byte in range(256)], np.int32),
            "base": trie.base, "check": trie.check, "value": trie.value, "merges": merges,
        },
        {
            "codes": cells.size, "kinds": len(kinds), "classes": kinds.shape[1] + 1, "states": trie.base.size,
            "ranks": merges.size, "splits": tuple(splits), "origin": int(trie.base[trie.roots[0]]),
            "words": trie.roots[1], "steps": max(map(len, words), default=0),
            "added": trie.roots[2], "bytes": max(map(len, added), default=0), **({"raw": True} if octets else {}),
        },
    )  # fmt: skip


class Unplaced(Exception):
    """(stage, part, why)."""


def _rules(part: Part, sets: Sets) -> tuple[Rule, ...]:
    try:
        return rules_of(GPT2 if part.name == "byte_level" else part["regex"], sets)
    except Unfit as error:
        raise Unplaced("split", shown("split", part), str(error)) from None


def merges_of(row: str | list[str]) -> tuple[str, str]:
    """The pair that a row of `merges` is."""
    left, right = row.split(" ") if isinstance(row, str) else row
    return left, right


def ranked_pairs(tables: Tables, prefix: str = "") -> tuple[Mapping[tuple[int, ...], int], np.ndarray]:
    """Pairs of ids, each and one, with their ranks; and by rank what `std.text.pairs.merged_pairs` takes as `merges`."""
    import numpy as np

    vocab: Mapping[str, int] = tables.model["vocab"]
    ranks = {merges_of(row): rank for rank, row in enumerate(tables.model["merges"])}
    made = {rank: vocab[left + right.removeprefix(prefix)] for (left, right), rank in ranks.items()}
    lowest = np.full(tables.size, len(tables.model["merges"]))
    for pair, rank in ranks.items():
        for token in pair:
            lowest[vocab[token]] = min(lowest[vocab[token]], rank)
    merges = np.zeros(max(1, len(tables.model["merges"])), np.int32)
    for rank, number in made.items():
        merges[rank] = 2 * number + int(lowest[number] < rank)
    pairs: dict[tuple[int, ...], int] = {(number + 1,): 0 for number in range(tables.size)}
    pairs.update(((vocab[left] + 1, vocab[right] + 1), rank) for (left, right), rank in ranks.items())
    return pairs, merges
