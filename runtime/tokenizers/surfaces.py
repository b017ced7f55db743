"""What tokens stand for, whatever tokenizer writes them: bytes, and whether a word begins with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.tokenizer import Tokenizer
from .pieces import NAME
from .ranks import CHARACTERS

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BYTES = {char: byte for byte, char in CHARACTERS.items()}


@dataclass(frozen=True)
class Surface:
    """What a token stands for.

    Args:
        data: its bytes, without a space in front.
        begins, ends: whether a word begins with it, and ends with it; None where its tokenizer does not say.
    """

    data: bytes
    begins: bool | None
    ends: bool | None = None

    @property
    def text(self) -> str | None:
        """The bytes as text; None where they are none."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            return None


def surfaces(tokenizer: Tokenizer, vocabulary: Mapping[str, int]) -> dict[int, Surface]:
    """What each token stands for, by id, without special ones, which stand for no text."""
    special = {token.id for token in tokenizer.added if token.special}
    unknown = dict(tokenizer.model.options).get("unknown")
    if unknown is not None:
        special.add(vocabulary.get(unknown))
    plain = {token.text for token in tokenizer.added}
    return {
        number: Surface(text.encode("utf-8", "replace"), None) if text in plain else surface(tokenizer, text)
        for text, number in vocabulary.items() if number not in special
    }  # fmt: skip


def surface(tokenizer: Tokenizer, token: str) -> Surface:
    """What a token of the model stands for."""
    options = dict(tokenizer.model.options)
    names = {part.name for part in (*tokenizer.normalize, *tokenizer.split, *tokenizer.decode)}
    if options.get("byte_fallback") and (byte := _BYTE.fullmatch(token)):
        return Surface(bytes([int(byte[1], 16)]), False)
    prefix, suffix, mark = options.get("prefix"), options.get("suffix"), _mark(tokenizer)
    begins: bool | None = None
    ends = token.endswith(suffix) if suffix else None
    token = token.removesuffix(suffix or "")
    if "byte_level" in names and all(char in _BYTES for char in token):
        data = bytes(_BYTES[char] for char in token)
        # Where ends of words are marked, a space is one of the bytes and marks nothing.
        return Surface(data, None, ends) if suffix else Surface(data.removeprefix(b" "), data.startswith(b" "), ends)
    if prefix:
        begins, token = not token.startswith(prefix), token.removeprefix(prefix)
    elif mark:
        begins, token = token.startswith(mark), token.removeprefix(mark).replace(mark, " ")
    elif tokenizer.model.name == "wordlevel":
        begins = True
    return Surface(token.encode("utf-8", "replace"), begins, ends)


def _mark(tokenizer: Tokenizer) -> str | None:
    """The character that stands for a space."""
    for part in (*tokenizer.split, *tokenizer.decode, *tokenizer.normalize):
        if part.name == "metaspace":
            found: str = part["replacement"]
            return found
        if part.name == NAME or (part.name == "prepend" and part["text"] == "\u2581"):
            return "\u2581"
    return None
