"""The engine `tokenizers`, for what a ``tokenizer.json`` can say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Tokenizer
from .engine import Row
from .octets import bytes_of, is_octets, letters_of

if TYPE_CHECKING:
    import numpy as np


def package() -> Any:
    """The package `tokenizers`. Raises E0015 without it."""
    try:
        import tokenizers
    except ImportError:
        raise Diagnostic(
            "E0015", "tokenizers need the package `tokenizers`", help="pip install 'tessera[text]'"
        ) from None
    return tokenizers


class Standard:
    """A :class:`.engine.Engine` over a ``tokenizers.Tokenizer``.

    Args:
        data: the ``tokenizer.json``.
        tokenizer: what was declared.
    """

    def __init__(self, data: bytes, tokenizer: Tokenizer) -> None:
        self.declared = tokenizer
        name = tokenizer.source.path if tokenizer.source is not None else tokenizer.name
        try:
            self.own = package().Tokenizer.from_buffer(data)
        except BaseException as error:
            _check_own(error)
            raise Diagnostic(
                "E1003", f"the package `tokenizers` cannot read `{name}`: {first_line(error)}", tokenizer.span
            ) from None
        for token in tokenizer.added:
            found = self.own.token_to_id(token.text)
            if token.id not in (None, found):
                raise Diagnostic(
                    "E1003", f"`{name}` gives `{token.text}` the id {token.id}, but the package `tokenizers` numbers it {found}",
                    help="ids behind the model's own follow one another; a file with gaps needs these filled in its `vocab`",
                )  # fmt: skip
        self.octets = is_octets(tokenizer)
        if self.octets:
            # What a file has is never a special token.
            self.own.encode_special_tokens = True
        if tokenizer.pad is None:
            self.own.enable_padding(pad_id=0, pad_token="")

    @property
    def size(self) -> int:
        return max(self.own.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def vocabulary(self) -> Mapping[str, int]:
        found: dict[str, int] = self.own.get_vocab(with_added_tokens=True)
        return found

    def encode(
        self, rows: Sequence[Row], *, pairs: Sequence[Row] | None = None, around: bool = True
    ) -> StandardEncoded:
        texts: Sequence[Any] = self._texts(rows)
        if pairs is not None:
            if len(pairs) != len(rows):
                raise Diagnostic("E1007", f"{len(rows)} texts cannot be paired with {len(pairs)}")
            texts = list(zip(texts, self._texts(pairs), strict=True))
        try:
            return StandardEncoded(self.own.encode_batch(texts, add_special_tokens=around))
        except UnicodeEncodeError as error:
            raise Diagnostic("E1007", f"a text is no Unicode: {error.reason} at character {error.start}") from None
        except BaseException as error:
            _check_own(error)
            raise Diagnostic(
                "E1007", f"`{self.declared.name}` cannot encode the texts: {first_line(error)}",
                help="a model without an unknown token needs one for every character: `byte_fallback=true`, or `unknown=…`",
            ) from None  # fmt: skip

    def decode(self, rows: Sequence[Sequence[int]], *, special: bool = False) -> list[bytes]:
        check_ids(rows, self.size, self.declared.name)
        ids = [[int(number) for number in row] for row in rows]
        try:
            texts = self.own.decode_batch(ids, skip_special_tokens=not special)
        except BaseException as error:
            _check_own(error)
            raise Diagnostic("E1008", f"`{self.declared.name}` cannot decode the ids: {first_line(error)}") from None
        return [bytes_of(text) if self.octets else text.encode() for text in texts]

    def _texts(self, rows: Sequence[Row]) -> list[str]:
        if self.octets:
            return [letters_of(row, place, self.declared.name) for place, row in enumerate(rows)]
        return [text_of(row, place) for place, row in enumerate(rows)]


class StandardEncoded:
    """What ``tokenizers`` made of a batch; see :class:`.engine.Encoded`. Arrays are made when they are asked for."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def _array(self, values: list[Any], *tail: int) -> np.ndarray:
        import numpy as np

        return (
            np.array(values, dtype=np.int64).reshape(len(self._rows), -1, *tail)
            if values
            else np.zeros((0, 0, *tail), np.int64)
        )

    @cached_property
    def ids(self) -> np.ndarray:
        return self._array([row.ids for row in self._rows])

    @cached_property
    def mask(self) -> np.ndarray:
        return self._array([row.attention_mask for row in self._rows]) != 0

    @cached_property
    def count(self) -> np.ndarray:
        counted: np.ndarray = self.mask.sum(axis=1)
        return counted

    @cached_property
    def offsets(self) -> np.ndarray:
        return self._array([row.offsets for row in self._rows], 2)

    @cached_property
    def words(self) -> np.ndarray:
        return self._array([[-1 if word is None else word for word in row.word_ids] for row in self._rows])

    @cached_property
    def segments(self) -> np.ndarray:
        return self._array([row.type_ids for row in self._rows])


def text_of(row: Row, place: int) -> str:
    """A text as Unicode. Raises E1007 with the row and the byte where it is none."""
    if isinstance(row, str):
        return row
    try:
        return bytes(row).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Diagnostic(
            "E1007", f"text {place} is not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}",
            help="a tokenizer of bytes takes any; text in another encoding is decoded first",
        ) from None  # fmt: skip


def check_ids(rows: Sequence[Sequence[int]], size: int, name: str) -> None:
    """Raises E1008 for a number that is none of so many ids."""
    for place, row in enumerate(rows):
        wrong = next((number for number in row if not 0 <= number < size), None)
        if wrong is not None:
            raise Diagnostic("E1008", f"row {place} has {wrong}, but the ids of `{name}` are 0 to {size - 1}")


def _check_own(error: BaseException) -> None:
    """Raises what is no failure of the package, which raises bare Exceptions, and panics that are none."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def first_line(error: BaseException) -> str:
    """What an exception of the package says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
