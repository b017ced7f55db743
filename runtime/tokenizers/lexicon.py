"""The longest entry of a lexicon at each place, from the left, as a ``tokenizer.json`` has it: a regular expression splits a text
into entries and single characters, and each is one token. So it is linear in a text without spaces, where WordPiece is quadratic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ...ir.tokenizer import Part, Tokenizer
from ...ir.tokenizer_parts import part

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def spelled_out(tokenizer: Tokenizer, vocab: Mapping[str, int]) -> Tokenizer:
    """A tokenizer of longest matches as one of whole words behind a split; another one as it is."""
    if tokenizer.model.name != "longest":
        return tokenizer
    words = part("model", "wordlevel", {"unknown": tokenizer.model["unknown"]})
    split = part("split", "pattern", {"regex": _pattern(tokenizer, vocab), "behavior": "isolated"})
    return replace(tokenizer, model=words, split=(*tokenizer.split, split))


def recognised(tokenizer: Tokenizer, vocab: Mapping[str, int]) -> Tokenizer:
    """A tokenizer that :func:`spelled_out` made, as the one that it was; another one as it is."""
    last = tokenizer.split[-1] if tokenizer.split else None
    if tokenizer.model.name != "wordlevel" or last is None or last.name != "pattern" or last["behavior"] != "isolated":
        return tokenizer
    model = Part("longest", tokenizer.model.options)
    made = replace(tokenizer, model=model, split=tokenizer.split[:-1])
    return made if last["regex"] == _pattern(made, vocab) and not last["invert"] else tokenizer


def entries(tokenizer: Tokenizer, vocab: Mapping[str, int]) -> dict[str, int]:
    """What may be matched in a text: all tokens that stand for text."""
    silent = {token.text for token in tokenizer.added} | {tokenizer.model["unknown"]}
    return {text: number for text, number in vocab.items() if text not in silent}


def _pattern(tokenizer: Tokenizer, vocab: Mapping[str, int]) -> str:
    found = _expression(entries(tokenizer, vocab))
    return f"(?m:{found}|.)" if found else "(?m:.)"


def _expression(texts: Iterable[str]) -> str:
    """A regular expression of the longest of some texts: a trie, so that no place is tried twice."""
    root: dict[str, Any] = {}
    for text in texts:
        node = root
        for letter in text:
            node = node.setdefault(letter, {})
        node[""] = {}
    return _alternatives(root)


def _alternatives(node: dict[str, Any]) -> str:
    ends = "" in node
    letters = sorted(letter for letter in node if letter)
    if not letters:
        return ""
    single = [letter for letter in letters if node[letter].keys() == {""}]
    ways = [_quoted(letter) + _alternatives(node[letter]) for letter in letters if node[letter].keys() != {""}]
    if single:
        ways.append(_quoted(single[0]) if len(single) == 1 else f"[{''.join(map(_quoted, single))}]")
    whole = ways[0] if len(ways) == 1 and not ends else f"(?:{'|'.join(ways)})"
    return f"{whole}?" if ends else whole


def _quoted(letter: str) -> str:
    if _CONTROL.match(letter):
        return rf"\x{{{ord(letter):x}}}"
    return letter if letter.isalnum() or ord(letter) > 127 else f"\\{letter}"
