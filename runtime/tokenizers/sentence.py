"""The engine `sentencepiece`, for models of its own; what stands around texts, cuts rows and fills them up is declared beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Tokenizer
from .engine import Row
from .pieces import numbering, package, parsed
from .rows import FILLING, laid_out
from .standard import check_ids, first_line, text_of

if TYPE_CHECKING:
    import numpy as np

_SPACE = "\u2581"
# Characters of a text, on average.
_LONG = 400


class Pieces:
    """A :class:`.engine.Engine` over a ``SentencePieceProcessor``.

    Args:
        data: the file.
        tokenizer: what was declared, with what the file says.
    """

    def __init__(self, data: bytes, tokenizer: Tokenizer) -> None:
        import numpy as np

        self.declared = tokenizer
        source = tokenizer.source
        assert source is not None
        made = package().SentencePieceProcessor()
        try:
            made.LoadFromSerializedProto(data)
        except (RuntimeError, UnicodeDecodeError) as error:
            raise Diagnostic(
                "E1003", f"the package `sentencepiece` cannot read `{source.path}`: {first_line(error)}", tokenizer.span
            ) from None
        self.own = made
        rows = parsed(data).pieces
        self.texts = [row.piece for row in rows]
        # The id of each piece, the piece of each id (-1: it stands behind them, or before), and which ids are no text.
        self.ids = np.array(numbering(self.texts, source.first), np.int64)
        self.pieces = np.full(self.size, -1, np.int64)
        self.pieces[self.ids] = np.arange(len(self.ids))
        self.special = {token.id: token.text for token in tokenizer.added if token.special}
        self.known = self.vocabulary()
        normalizer = tokenizer.normalize[0]
        # What stands for a space, at the begin of words or at their end.
        self.mark = _SPACE if normalizer["escape"] else " "
        self.ends = bool(normalizer["suffix"])

    @property
    def size(self) -> int:
        size = self.declared.size
        assert size is not None
        return size

    def vocabulary(self) -> Mapping[str, int]:
        behind = {token.text: token.id for token in self.declared.added if token.id is not None}
        return {**dict(zip(self.texts, self.ids.tolist(), strict=True)), **behind}

    def encode(self, rows: Sequence[Row], *, pairs: Sequence[Row] | None = None, around: bool = True) -> PiecesEncoded:
        texts = [[text_of(row, place) for place, row in enumerate(rows)]]
        if pairs is not None:
            if len(pairs) != len(rows):
                raise Diagnostic("E1007", f"{len(rows)} texts cannot be paired with {len(pairs)}")
            texts.append([text_of(row, place) for place, row in enumerate(pairs)])
        for place, text in ((place, text) for some in texts for place, text in enumerate(some)):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise Diagnostic(
                    "E1007", f"text {place} is no Unicode: {error.reason} at character {error.start}"
                ) from None
        return PiecesEncoded(self, texts, around)

    def decode(self, rows: Sequence[Sequence[int]], *, special: bool = False) -> list[bytes]:
        check_ids(rows, self.size, self.declared.name)
        return [self._decoded([int(number) for number in row], special) for row in rows]

    def _decoded(self, row: list[int], special: bool) -> bytes:
        """The text of ids; special tokens part it where they are shown."""
        cuts = [place for place, number in enumerate(row) if number in self.special] if special else []
        kept = [number for number in row if number not in self.special]
        if not cuts:
            return self._run(kept)
        runs = [self._run(row[a + 1 : b]) for a, b in pairwise([-1, *cuts, len(row)])]
        shown = [self.special[row[place]].encode() for place in cuts]
        return b"".join(part for pair in zip(runs, [*shown, b""], strict=True) for part in pair)

    def _run(self, ids: list[int]) -> bytes:
        text: str = self.own.decode(self.pieces[ids].tolist()) if ids else ""
        return text.encode()


class PiecesEncoded:
    """What ``sentencepiece`` made of a batch; see :class:`.engine.Encoded`. Offsets and words are made when they are asked for."""

    def __init__(self, engine: Pieces, texts: list[list[str]], around: bool) -> None:
        import numpy as np

        self._engine = engine
        self._texts = texts
        found = [_encoded(engine.own, some) for some in texts]
        self._pieces = [
            np.concatenate(rows) if rows and isinstance(rows[0], np.ndarray)
            else np.fromiter(chain.from_iterable(rows), np.int64) for rows in found
        ]  # fmt: skip
        counts = [np.array([len(row) for row in rows], np.int64) for rows in found]
        self._layout = laid_out(engine.declared, counts, around, engine.known)

    @cached_property
    def ids(self) -> np.ndarray:
        return self._layout.ids([self._engine.ids[pieces] for pieces in self._pieces])

    @cached_property
    def mask(self) -> np.ndarray:
        made: np.ndarray = self._layout.which != FILLING
        return made

    @cached_property
    def count(self) -> np.ndarray:
        counted: np.ndarray = self.mask.sum(axis=1)
        return counted

    @cached_property
    def _spans(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Offsets and words of the tokens of each text."""
        return [[_spans(self._engine, text) for text in some] for some in self._texts]

    @cached_property
    def offsets(self) -> np.ndarray:
        import numpy as np

        found = [np.concatenate([np.zeros((0, 2), np.int64), *(spans for spans, _ in some)]) for some in self._spans]
        return self._layout.put(found, np.zeros((*self._layout.shape, 2), np.int64))

    @cached_property
    def words(self) -> np.ndarray:
        import numpy as np

        found = [np.concatenate([np.zeros(0, np.int64), *(words for _, words in some)]) for some in self._spans]
        return self._layout.put(found, np.full(self._layout.shape, -1))

    @property
    def segments(self) -> np.ndarray:
        return self._layout.segments


def _encoded(own: Any, texts: list[str]) -> Sequence[Any]:
    """The pieces of each text. Arrays of them are made faster than lists where texts are long."""
    if sum(map(len, texts)) > _LONG * len(texts):
        try:
            arrays: Sequence[Any] = own.encode(texts, num_threads=1, return_type="numpy")
            return arrays
        except TypeError:  # an older package
            pass
    rows: Sequence[Any] = own.encode(texts, num_threads=1)
    return rows


def _spans(engine: Pieces, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the tokens of a text begin and end in it, in code points, i64[n, 2], and the word of each, i64[n]."""
    import numpy as np

    message = package().sentencepiece_pb2.SentencePieceText
    rows = message.FromString(engine.own.encode(text, out_type="serialized_proto")).pieces
    spans = np.array([(row.begin, row.end) for row in rows], np.int64).reshape(-1, 2)
    # A character map may make what is no UTF-8, which comes as bytes.
    pieces = [row.piece if isinstance(row.piece, bytes) else row.piece.encode() for row in rows]
    mark = engine.mark.encode()
    if engine.ends:
        parted = [False, *(piece.endswith(mark) for piece in pieces)][: len(rows)]
    else:
        # The first one is of the first word, whether a space stands before it or not.
        parted = [place > 0 and piece.startswith(mark) for place, piece in enumerate(pieces)]
    if not text.isascii():
        begins = (np.frombuffer(text.encode(), np.uint8) & 0xC0) != 0x80
        spans = np.concatenate([[0], np.cumsum(begins)])[spans]
    return spans, np.cumsum(np.array(parted, np.int64))
