"""Files of ranks, as `tiktoken` has them: a line for each token, its bytes in base64, with its id; stages are declared."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from functools import lru_cache

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import TableFile, Tokenizer
from ...ir.tokenizer_parts import part
from .files import Tables, read_json, write_json

SUFFIX = ".tiktoken"
# The characters that stand for bytes in a vocabulary of a tokenizer.json: itself where it can be seen, else one from 256 on.
_SEEN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
CHARACTERS = {byte: chr(byte) for byte in _SEEN} | {
    byte: chr(0x100 + place) for place, byte in enumerate(b for b in range(256) if b not in _SEEN)
}


def ranked(data: bytes, tokenizer: Tokenizer) -> bytes:
    """The ``tokenizer.json`` of a declaration whose tables are ranks.

    Raises:
        Diagnostic: E1003 for a file that is none of ranks, E1004 for a declaration of other stages, E1005 for special tokens
            whose ids are not declared, or are those of others.
    """
    source = tokenizer.source
    assert source is not None
    ids = _ranks(data, tokenizer)
    _check_stages(tokenizer)
    for token in tokenizer.added:
        owner = next((t for t, number in ids.items() if number == token.id), None) if token.id in set(ids.values()) else None
        if token.id is None or owner is not None:
            why = "needs an id" if owner is None else f"has the id {token.id}, which is the rank of another one"
            raise Diagnostic(
                "E1005", f"`{token.text}` {why}", token.span,
                help=f"`{source.path}` has no special tokens: declare each with its id, from {max(ids.values()) + 1} on",
            )  # fmt: skip
    pairs = sorted(
        (number, left, token.removeprefix(left))
        for token, number in ids.items()
        for left in (token[:place] for place in range(1, len(token)))
        if left in ids and token.removeprefix(left) in ids
    )
    tokens = {**ids, **{token.text: token.id for token in tokenizer.added if token.id is not None}}
    table = dict(sorted(tokens.items(), key=lambda pair: pair[1]))
    # A piece that is a token is that one, whatever pairs it would be made of.
    model = part("model", "bpe", {"vocab": max(tokens.values()) + 1, "ignore_merges": True})
    merges = [[left, right] for _, left, right in pairs]
    return write_json(replace(tokenizer, model=model), Tables(tokens, {"vocab": table, "merges": merges}))


def stages_of(tokenizer: Tokenizer) -> str:
    """What a declaration says beside a file of ranks, as text: a ``tokenizer.json`` without tables."""
    bare = replace(tokenizer, model=part("model", "bpe"))
    ids = {token.text: token.id for token in tokenizer.added if token.id is not None}
    # A table has at least one token.
    return write_json(bare, Tables(ids, {"vocab": {"\0": 0, **ids}, "merges": []})).decode()


@lru_cache(maxsize=2)
def with_stages(data: bytes, file: str, stages: str) -> bytes:
    """The ``tokenizer.json`` of a file of ranks, with what :func:`stages_of` says. Raises E1003 to E1005."""
    tokenizer, _ = read_json(stages.encode(), file)
    return ranked(data, replace(tokenizer, source=TableFile(file)))


def _ranks(data: bytes, tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of tokens, bytes as characters. Raises E1003."""
    source = tokenizer.source
    assert source is not None

    def misread(why: str) -> Diagnostic:
        return Diagnostic("E1003", f"`{source.path}` is no file of ranks: {why}", source.span)

    ids: dict[str, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        text, _, rank = line.partition(b" ")
        try:
            token = base64.b64decode(text, validate=True)
        except binascii.Error:
            token = b""
        if not token or not rank.isdigit() or len(rank) > 9:
            raise misread(f"line {number} is no token in base64 with a number")
        shown = "".join(CHARACTERS[byte] for byte in token)
        if shown in ids:
            raise misread(f"line {number} has a token again")
        ids[shown] = int(rank)
    if len(set(ids.values())) != len(ids):
        raise misread("one rank is there twice")
    missing = next((byte for byte, char in CHARACTERS.items() if char not in ids), None)
    if missing is not None:
        raise misread(f"it has no token for the byte 0x{missing:02x}")
    return ids


def _check_stages(tokenizer: Tokenizer) -> None:
    """Raises E1004 where bytes do not reach the model, or do not become text again."""
    source = tokenizer.source
    assert source is not None
    last = tokenizer.split[-1] if tokenizer.split else None
    if last is None or last.name != "byte_level" or last["space"]:
        raise Diagnostic(
            "E1004", f"the ranks of `{source.path}` are those of bytes", source.span,
            help="split by `split pattern(regex=…, behavior=isolated)`, then by `split byte_level(space=false, regex=false)`",
        )  # fmt: skip
    if [one.name for one in tokenizer.decode] != ["byte_level"]:
        raise Diagnostic(
            "E1004", f"the ranks of `{source.path}` are those of bytes", source.span, help="write `decode byte_level`"
        )
