"""A tokenizer as an automaton: tables of integers from which the layers of `std.text` make ids of bytes.

What becomes of each character is asked of the engine (:mod:`.spelling`); what a stage does that does not look at one character, or
at two neighbours, is refused by its name.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Part, Tokenizer
from ...ir.tokenizer_parts import shown
from .files import Tables, read_json
from .forms import template_tokens
from .lexicon import entries
from .octets import is_octets
from .pairs import Unplaced, of_bytes, pairs_of, refused_pairs
from .spelling import CODES, REMOVED, Classes, classes_of, each_normalized, paged
from .trie import Trie

if TYPE_CHECKING:
    import numpy as np

# Stages of which everything is known when it is known what they do with single characters, and between two of them.
NORMALIZE = ("bert", "lowercase", "nfd", "nfkd", "nmt", "strip_accents")
SPLIT = ("bert", "spaces", "words", "punctuation", "digits", "delimiter")
_MODELS = ("wordpiece", "wordlevel", "longest")
# Classes are the low bits of a symbol.
CLASSES = 16


@dataclass(frozen=True, eq=False)
class Automaton:
    """What `std.text` needs of a tokenizer.

    Args:
        tables: arrays of integers, by the names of the layer's buffers.
        statics: values of the layer's static parameters.
        module: whose layer `encoded` they are of.
        each: symbols that a byte may become, of which each is one token at most.
        around: tokens that stand around every text.
        limit: the longest row that the tokenizer itself makes; None for any.
    """

    tables: Mapping[str, np.ndarray]
    statics: Mapping[str, Any]
    module: str
    each: int
    around: int
    limit: int | None

    def named(self, file: str, sha256: str) -> dict[str, Any]:
        """All static parameters of the layer but the length of rows."""
        return {"file": file, "hash": sha256, **self.statics}


class Refused(Exception):
    """(stage, part, why it is no automaton that `std.text` has)."""


def automaton(data: bytes, name: str) -> Automaton:
    """The automaton of a ``tokenizer.json``, which is called ``name`` in messages.

    Raises:
        Diagnostic: E1003 for the file, E1012 for a stage that is none, E0015 without the package that answers for characters.
    """
    tokenizer, tables = read_json(data, name)
    try:
        for refused in _refused(tokenizer, tables):
            raise Refused(*refused)
        return _automaton(data)
    except Refused as error:
        stage, part, why = error.args
        raise Diagnostic(
            "E1012", f"`{stage} {part}` of `{name}` cannot stand in a model: {why}",
            help="let its engine make ids of texts, `ts.open_tokenizer`, and give the model ids",
        ) from None  # fmt: skip


@lru_cache(maxsize=4)
def _automaton(data: bytes) -> Automaton:
    from .standard import Standard
    from .trainers import skeleton

    tokenizer, tables = read_json(data, "tokenizer.json")
    own = Standard(data, tokenizer).own
    if tokenizer.model.name == "unigram" or (tokenizer.model.name == "bpe" and not of_bytes(tokenizer)):
        from .letters import Letters

        return Letters(tokenizer, tables).made()
    if tokenizer.model.name == "bpe":
        try:
            made = pairs_of(tokenizer, tables)
        except Unplaced as error:
            raise Refused(*error.args) from None
        # A byte that is no UTF-8 is U+FFFD, which has three.
        each = 1 if is_octets(tokenizer) else 3
        return Automaton(
            made.tables, {**made.statics, **rows(tokenizer, tables)}, "std.text.pairs", each, *limits(tokenizer)
        )
    if tokenizer.model.name == "longest":
        # The last split is the model.
        own.pre_tokenizer = skeleton(tokenizer).pre_tokenizer
    return Making(tokenizer, tables, own).made()


def _refused(tokenizer: Tokenizer, tables: Tables) -> Iterator[tuple[str, str, str]]:
    """What is no automaton, as :class:`Refused`."""
    if tokenizer.model.name == "bpe" and of_bytes(tokenizer):
        yield from refused_pairs(tokenizer, tables)
    elif tokenizer.model.name in ("bpe", "unigram"):
        from .letters import refused_letters

        yield from refused_letters(tokenizer, tables)
    else:
        yield from _refused_words(tokenizer, tables)
    cut = tokenizer.truncate
    if cut is not None and cut.name == "only_second":
        yield "truncate", cut.name, "there is no second text"
    elif cut is not None and cut["side"] == "left":
        yield "truncate", shown("truncate", cut), "rows lose their last tokens"
    for token in tokenizer.added if not is_octets(tokenizer) else ():
        flags = [flag for flag in ("single_word", "lstrip", "rstrip") if getattr(token, flag)]
        if token.normalized and tokenizer.normalize:
            flags.append("normalized")
        word = f"{'special' if token.special else 'inject'}"
        if flags:
            yield word, f'"{token.text}"', f"`{flags[0]}` looks at what stands around it"
        if "\ufffd" in token.text:
            yield word, f'"{token.text}"', "U+FFFD also stands for bytes that are no UTF-8"
        other = next((other.text for other in tokenizer.added if _overlap(token.text, other.text)), None)
        if other is not None:
            yield word, f'"{token.text}"', f"it may overlap with `{other}`"


def _refused_words(tokenizer: Tokenizer, tables: Tables) -> Iterator[tuple[str, str, str]]:
    """Of stages and models that look at characters and words."""
    for part in tokenizer.normalize:
        single = part.name == "replace" and len(part["text"] or "") == 1
        if part.name not in NORMALIZE and not single:
            yield "normalize", shown("normalize", part), "it does more than change single characters"
    for part in tokenizer.split:
        if part.name not in SPLIT:
            yield "split", shown("split", part), "it looks at more than two neighbouring characters"
    model = tokenizer.model
    if model.name not in _MODELS:
        yield "model", model.name, f"only {', '.join(_MODELS)}, bpe, unigram can"
    elif model["unknown"] not in tables.model["vocab"]:
        yield "model", model.name, f"its vocabulary lacks `{model['unknown']}`, so that there are texts without ids"


def _overlap(a: str, b: str) -> bool:
    """Whether b may begin within a, behind its begin."""
    return any(a[i:].startswith(b) or b.startswith(a[i:]) for i in range(1, len(a)))


def _around(process: Sequence[Part]) -> tuple[list[str], list[str]]:
    """The tokens in front of a text, and those behind it. Raises Refused where it does not stand there once."""
    front: list[str] = []
    behind: list[str] = []
    for part in process:
        if part.name == "byte_level":
            continue
        pieces = part["single"] if part.name == "template" else (part["cls"], "$A", part["sep"])
        texts = [i for i, piece in enumerate(pieces) if _is_text(piece)]
        if len(texts) != 1:
            raise Refused("process", shown("process", part), "the text does not stand there once")
        front = template_tokens(pieces[: texts[0]]) + front
        behind += template_tokens(pieces[texts[0] + 1 :])
    return front, behind


def _is_text(piece: str) -> bool:
    return template_tokens((piece,)) == []


def rows(tokenizer: Tokenizer, tables: Tables) -> dict[str, Any]:
    """What is around texts, and what fills rows up, as static parameters."""
    front, behind = _around(tokenizer.process)
    pad = tokenizer.pad
    padding = 0 if pad is None else tables.tokens.get(pad["token"], 0) if pad["id"] is None else pad["id"]
    return {
        "front": tuple(tables.tokens[token] for token in front), "behind": tuple(tables.tokens[token] for token in behind),
        "padding": int(padding), "left": pad is not None and pad["side"] == "left",
    }  # fmt: skip


def limits(tokenizer: Tokenizer) -> tuple[int, int | None]:
    """How many tokens stand around a text, and the longest row."""
    front, behind = _around(tokenizer.process)
    return len(front) + len(behind), None if tokenizer.truncate is None else tokenizer.truncate["length"]


@dataclass(frozen=True, eq=False)
class Spelled:
    """What every character becomes: tables and static parameters of :op:`std.text.spelled` but the automaton's.

    Args:
        classes: kinds of characters.
        alone: the class of tokens that are found before everything else.
        added: these by their bytes, each and one, as symbols.
        owned: the id of each such symbol's number.
    """

    tables: Mapping[str, np.ndarray]
    statics: Mapping[str, int]
    classes: Classes
    alone: int
    added: Mapping[tuple[int, ...], int]
    owned: Mapping[int, int]


class Making:
    """Tables of a tokenizer that looks at characters and at two neighbouring ones.

    Args:
        own: the engine, whose normaliser and split are asked what they do with each character.
    """

    def __init__(self, tokenizer: Tokenizer, tables: Tables, own: Any) -> None:
        self.tokenizer = tokenizer
        self.tables = tables
        self.own = own
        self.vocab = tables.model_ids()
        # Numbers of what the vocabulary is spelled with; 0 is every other character.
        letters = sorted({letter for token in self.vocab for letter in token})
        self.numbers = {letter: number for number, letter in enumerate(letters, 1)}
        # So many numbers are those of letters, and of what else there is.
        self.taken = len(self.numbers)

    def spelled(self) -> Spelled:
        """What every character becomes. Raises Refused."""
        tokenizer = self.tokenizer
        asked = "".join(map(chr, sorted({*CODES, *map(ord, self.numbers)})))
        changed = each_normalized(self.own.normalizer, asked)
        made = {character for new in changed.values() for character in new}
        kept = "".join(dict.fromkeys([*(c for c in asked if c not in changed), *sorted(made)]))
        more = [part["text"] for part in tokenizer.split if part.name == "delimiter"]
        classes = classes_of(kept, self.own.pre_tokenizer, more)
        alone = classes.count + 1
        if alone >= CLASSES:
            raise Refused("split", tokenizer.split[0].name, "it knows too many kinds of characters")
        self._check_order(changed, kept, classes)
        pages, cells, spellings = self._spelled(asked, changed, classes)
        added, owned = {}, {}
        for number, token in enumerate(tokenizer.added, self.taken + 1):
            owned[number] = self.tables.tokens[token.text]
            added[tuple(byte + 1 for byte in token.text.encode())] = CLASSES * number + alone
        return Spelled(
            {"pages": pages, "cells": cells, "spellings": spellings, "bounds": _bounds(classes)},
            {
                "each": spellings.shape[1] // 4, "codes": cells.size, "ways": len(spellings),
                "bytes": max(map(len, added), default=0),
            },
            classes, alone, added, owned,
        )  # fmt: skip

    def made(self) -> Automaton:
        tokenizer, model = self.tokenizer, self.tokenizer.model
        spelled = self.spelled()
        first, inner = self._entries(spelled.classes)
        first.update(((number,), token) for number, token in spelled.owned.items())
        trie = Trie([first, inner, spelled.added], max(len(self.numbers) + len(spelled.added), 256))
        longest = model["longest"] if model.name == "wordpiece" else 0
        return Automaton(
            {**spelled.tables, "base": trie.base, "check": trie.check, "value": trie.value},
            {
                **spelled.statics, "states": trie.base.size,
                "first": trie.roots[0], "inner": trie.roots[1], "added": trie.roots[2],
                "steps": max(map(len, (*first, *inner)), default=1),
                "most": longest, "unknown": self.vocab[model["unknown"]], "whole": model.name == "wordlevel",
                **({"single": True} if model.name == "longest" else {}),
                **rows(tokenizer, self.tables),
            },
            "std.text", spelled.statics["each"], *limits(tokenizer),
        )  # fmt: skip

    def _symbols(self, text: str, classes: Classes) -> tuple[int, ...]:
        """A text as symbols: a number and a class each; of what goes, the class alone."""
        numbers = self.numbers
        found = []
        for character in text:
            kind = classes.of.get(character, REMOVED + 1)
            found.append(REMOVED if kind == REMOVED else CLASSES * numbers.get(character, 0) + kind)
        return tuple(found)

    def _as_it_is(self, character: str, text: str, classes: Classes) -> tuple[int, ...]:
        """A symbol for each byte of a character that is spelled by its bytes; nothing of others."""
        return ()

    def _check_order(self, changed: Mapping[str, str], kept: str, classes: Classes) -> None:
        """Decomposition also puts marks in order, which no single character tells. Raises Refused where that changes anything."""
        if not any(part.name in ("nfd", "nfkd", "bert") for part in self.tokenizer.normalize):
            return
        marks = {self._symbols(c, classes) for c in kept if unicodedata.combining(c)}
        if len(marks) > 1:
            part = next(part for part in self.tokenizer.normalize if part.name in ("nfd", "nfkd", "bert"))
            why = "it puts marks behind a letter in another order, and leaves them there"
            raise Refused("normalize", shown("normalize", part), why)

    def _spelled(
        self, asked: str, changed: Mapping[str, str], classes: Classes
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tables of :op:`std.text.spelled`: pages [4352], cells [C], spellings [S, 4 each]."""
        import numpy as np

        # Spelling 0 is nothing.
        spellings: dict[tuple[int, ...], int] = {(): 0}
        numbers: dict[int, int] = {}
        lengths: dict[int, int] = {}
        strided: dict[tuple[int, ...], int] = {}
        each = 1
        cache: dict[str, int] = {}
        for character in asked:
            text = changed.get(character, character)
            bytes_of = self._as_it_is(character, text, classes)
            if bytes_of:
                numbers[ord(character)] = strided.setdefault(bytes_of, -1 - len(strided))
                continue
            number = cache.get(text)
            if number is None:
                symbols = self._symbols(text, classes)
                number = cache[text] = spellings.setdefault(symbols, len(spellings))
                lengths[number] = len(symbols)
            # U+FFFD stands for single bytes, too.
            size = 1 if character == "\ufffd" else len(character.encode())
            each = max(each, -(-lengths[number] // size))
            numbers[ord(character)] = number
        # Behind the others.
        numbers = {code: number if number >= 0 else len(spellings) - 1 - number for code, number in numbers.items()}
        pages, cells = paged(numbers.items())
        table = np.zeros((len(spellings) + len(strided), 4 * each), np.int32)
        for place, symbols in enumerate(strided, len(spellings)):
            table[place, : each * len(symbols) : each] = symbols
        for symbols, number in spellings.items():
            table[number, : len(symbols)] = symbols
        return pages, cells, table

    def _entries(self, classes: Classes) -> tuple[dict[tuple[int, ...], int], dict[tuple[int, ...], int]]:
        """The tokens that may begin a word, and those that may go on with one, by the numbers of their letters."""
        prefix = self.tokenizer.model["prefix"] if self.tokenizer.model.name == "wordpiece" else None
        first: dict[tuple[int, ...], int] = {}
        inner: dict[tuple[int, ...], int] = {}
        if self.tokenizer.model.name == "longest":
            found = entries(self.tokenizer, self.vocab)
            every = {tuple(map(self.numbers.__getitem__, t)): n for t, n in found.items() if self._one_word(t, classes)}
            return every, every
        for token, number in self.vocab.items():
            if self._one_word(token, classes):
                first[tuple(self.numbers[letter] for letter in token)] = number
            rest = token[len(prefix) :] if prefix is not None and token.startswith(prefix) else ""
            if self._one_word(rest, classes):
                inner[tuple(self.numbers[letter] for letter in rest)] = number
        return first, inner

    @staticmethod
    def _one_word(token: str, classes: Classes) -> bool:
        """Whether a token may stand within a word."""
        kinds = [classes.of.get(letter, REMOVED + 1) for letter in token]
        return bool(kinds) and REMOVED not in kinds and not any(pair in classes.parted for pair in pairwise(kinds))


def _bounds(classes: Classes) -> np.ndarray:
    """``bounds[16 * a + b]``: whether a word begins with a symbol of class b behind one of class a."""
    import numpy as np

    alone = classes.count + 1
    found = np.zeros((CLASSES, CLASSES), bool)
    for a, b in classes.parted:
        found[a, b] = True
    found[REMOVED, :] = found[alone, :] = found[:, alone] = True
    found[:, REMOVED] = False
    return found.reshape(-1)
