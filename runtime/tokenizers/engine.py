"""What encodes and decodes: a protocol, and the engine of a declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

Row = str | bytes


class Encoded(Protocol):
    """Texts as ids: rows of one length, [B, T], those that are shorter filled up."""

    @property
    def ids(self) -> np.ndarray:
        """i64[B, T]."""

    @property
    def count(self) -> np.ndarray:
        """How many of each row are tokens and no filling, i64[B]."""

    @property
    def mask(self) -> np.ndarray:
        """Which are tokens and no filling, bool[B, T]."""

    @property
    def offsets(self) -> np.ndarray:
        """Where each token begins and ends in its text, in code points, i64[B, T, 2]; of what is not of the text, 0 and 0."""

    @property
    def words(self) -> np.ndarray:
        """The piece of the split that each token is of, by number, i64[B, T]; -1 of what is not of the text."""

    @property
    def segments(self) -> np.ndarray:
        """0 of the first text of a pair, 1 of the second, i64[B, T]."""


class Engine(Protocol):
    """A tokenizer that runs."""

    @property
    def size(self) -> int:
        """One more than the largest id."""

    def encode(self, rows: Sequence[Row], *, pairs: Sequence[Row] | None = None, around: bool = True) -> Encoded:
        """Texts, or pairs of texts, as ids; ``around`` puts the tokens around them that the declaration has.

        Raises Diagnostic E1007 for text that is not UTF-8, or that the model has no token for.
        """

    def decode(self, rows: Sequence[Sequence[int]], *, special: bool = False) -> list[bytes]:
        """The texts of ids, in UTF-8 as far as the ids make it; ``special`` tokens are left out unless asked for.

        Raises Diagnostic E1008 for what is no id of this vocabulary.
        """

    def vocabulary(self) -> Mapping[str, int]:
        """The ids of all tokens."""


def folder_of(tokenizer: Tokenizer) -> Path:
    """Where the files of a declaration are looked for."""
    return Path(tokenizer.path).parent if tokenizer.path is not None else Path()


def open_engine(tokenizer: Tokenizer, size: int | None = None) -> Engine:
    """The engine of a declaration, with the tables of its file.

    Args:
        size: which member of its family; the largest where it is left out.

    Raises:
        Diagnostic: E1005 where there is no such member; E0001, E1003, E1004 for the file, E1006 where there is none yet, E0015
            without the package that runs it.
    """
    data = tables_of(tokenizer)
    if size is not None:
        from .family import member

        return engine_of(*member(data, tokenizer, size))
    return engine_of(data, tokenizer)


def engine_of(data: bytes, tokenizer: Tokenizer) -> Engine:
    """The engine of a declaration whose tables these are. Raises E1003, E0015."""
    from .pieces import is_pieces

    if is_pieces(tokenizer):
        from .sentence import Pieces

        return Pieces(data, tokenizer)
    from .standard import Standard

    return Standard(data, tokenizer)


def tables_of(tokenizer: Tokenizer) -> bytes:
    """The ``tokenizer.json`` of a declaration, or the model of SentencePiece that it names.

    Raises:
        Diagnostic: E0001, E1003, E1004 for the file, E1006 where there is none yet.
    """
    from .files import open_tables
    from .ranks import SUFFIX, ranked

    if tokenizer.source is None:
        raise Diagnostic(
            "E1006", f"the tokenizer `{tokenizer.name}` has no tables yet: it names no file", tokenizer.span,
            help="train it with `tessera tokenizer train`, and name what that writes: `from \"tokenizer.json\"`",
        )  # fmt: skip
    data, digest = open_tables(
        folder_of(tokenizer) / tokenizer.source.path, tokenizer.source.path, tokenizer.source.span
    )
    check_hash(tokenizer, digest)
    return ranked(data, tokenizer) if tokenizer.source.path.endswith(SUFFIX) else data


def check_hash(tokenizer: Tokenizer, digest: str) -> None:
    """Raises E1004 where the file is another one than the declaration says."""
    source = tokenizer.source
    if source is not None and source.sha256 not in (None, digest):
        raise Diagnostic(
            "E1004", f"`{source.path}` is another file than the tokenizer `{tokenizer.name}` was declared with", source.span,
            help=f'its hash is now "{digest}"; leave `sha256` out to take whatever lies there',
        )  # fmt: skip
