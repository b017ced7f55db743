"""Tokenizers of bytes: a text is what a file has, whatever it means, and each byte is a letter.

In a ``tokenizer.json`` bytes are the characters U+0000 to U+00FF (Latin-1), so that any engine that reads such a file encodes bytes
that were decoded as Latin-1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Tokenizer
from ...ir.tokenizer_parts import part, shown

if TYPE_CHECKING:
    from .engine import Row

NAME = "bytes"
LETTERS = tuple(map(chr, range(256)))
# So many bytes are one text where nothing says how many: of training, and of what is measured.
CHUNK = 8192


def is_octets(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is one of bytes."""
    return any(one.name == NAME for one in tokenizer.normalize)


def check_octets(tokenizer: Tokenizer) -> None:
    """Raises E1004 for a stage that a tokenizer of bytes cannot have."""
    model = tokenizer.model
    if len(tokenizer.normalize) > 1:
        other = next((one for one in tokenizer.normalize if one.name != NAME), tokenizer.normalize[-1])
        raise Diagnostic(
            "E1004", f"`normalize {shown('normalize', other)}` changes characters, and bytes are none", other.span,
            help=f"`normalize {NAME}` stands alone",
        )  # fmt: skip
    odd = next((one for one in tokenizer.split if one.name != "pattern" or one["behavior"] == "removed"), None)
    if odd is not None:
        raise Diagnostic(
            "E1004", f"`split {shown('split', odd)}` does not keep each byte as it is", odd.span,
            help='write `split pattern(regex="\\\\x00+|[^\\\\x00]+", behavior=isolated)`, or none',
        )  # fmt: skip
    if model.name != "bpe":
        raise Diagnostic(
            "E1004", f"`model {model.name}` does not read bytes", model.span, help="write `model bpe(vocab=4096)`"
        )
    option = next((name for name in ("unknown", "prefix", "suffix", "byte_fallback", "fuse") if model[name]), None)
    if option is not None:
        raise Diagnostic(
            "E1004", f"`{option}` of `model bpe` has no meaning for bytes: each is a token of its own", model.span,
            help="leave it out",
        )  # fmt: skip
    if [one.name for one in tokenizer.decode] not in ([], ["fuse"]):
        raise Diagnostic(
            "E1004", "bytes come back as they are", tokenizer.decode[0].span, help="write `decode fuse`, or nothing"
        )


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer of bytes as one of their characters, which a ``tokenizer.json`` can say; another one as it is. Raises E1004."""
    if not is_octets(tokenizer):
        return tokenizer
    check_octets(tokenizer)
    return replace(tokenizer, normalize=(), decode=tokenizer.decode or (part("decode", "fuse"),))


def recognised_octets(tokenizer: Tokenizer, vocab: Mapping[str, int]) -> Tokenizer:
    """A tokenizer that :func:`plain` made, as the one that it was; another one as it is.

    All 256 characters as tokens, most of the control characters among them, and no other one in any token: a text in Unicode has
    no such vocabulary.
    """
    model = tokenizer.model
    if model.name != "bpe" or tokenizer.normalize or any(letter not in vocab for letter in LETTERS):
        return tokenizer
    added = {token.text for token in tokenizer.added}
    if any(max(text) > LETTERS[-1] for text in vocab if text and text not in added):
        return tokenizer
    made = replace(tokenizer, normalize=(part("normalize", NAME),))
    try:
        check_octets(made)
    except Diagnostic:
        return tokenizer
    return made


def letters_of(row: Row, place: int, name: str) -> str:
    """Bytes as their characters. Raises E1007 for a text."""
    if isinstance(row, str):
        raise Diagnostic(
            "E1007", f"row {place} is a text, and `{name}` is a tokenizer of bytes",
            help="give it `bytes`, such as a file's: `Path(…).read_bytes()`; of a text, those of one encoding: `text.encode()`",
        )  # fmt: skip
    return bytes(row).decode("latin-1")


def bytes_of(text: str) -> bytes:
    """The bytes of characters; special tokens among them, where they are shown, may have others, which are written in UTF-8."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return b"".join(bytes([ord(letter)]) if letter <= LETTERS[-1] else letter.encode() for letter in text)


def chunks_of(files: Iterable[Path], size: int = CHUNK) -> Iterator[bytes]:
    """Files in pieces of so many bytes, the last one of each shorter."""
    for path in files:
        with path.open("rb") as stream:
            while chunk := stream.read(size):
                yield chunk
