"""What can be said of a tokenizer on a corpus, and what a declaration requires of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...ir.diagnostics import Diagnostic, Note, several
from ...ir.tokenizer import Tokenizer
from .analysers import Analyser, open_analyser
from .engine import engine_of, folder_of
from .files import read_json, write_json
from .octets import chunks_of, is_octets
from .pieces import is_pieces, read_pieces
from .standard import Standard
from .training import Progress, corpus_files, texts_of
from .words import Seen, counted, texts_of_tokens

if TYPE_CHECKING:
    from .engine import Engine, Row

Text = TypeVar("Text", str, bytes)


@dataclass
class Counts:
    """Sums over texts, from which all metrics but the size follow; ``lost`` is the first that does not come back, and as what."""

    texts: int = 0
    tokens: int = 0
    characters: int = 0
    octets: int = 0
    words: int = 0
    unknown: int = 0
    same: int = 0
    lost: tuple[str, str] | None = None

    def add(self, text: Row, ids: Sequence[int], back: bytes, unknown: int | None) -> None:
        """Take a text in, with its ids, what these decode to, and the id of what is unknown."""
        data = text.encode() if isinstance(text, str) else text
        self.texts += 1
        self.tokens += len(ids)
        self.characters += len(text)
        self.octets += len(data)
        self.words += len(text.split())
        self.unknown += 0 if unknown is None else sum(number == unknown for number in ids)
        self.same += back == data
        if back != data and self.lost is None:
            self.lost = data.decode(errors="replace"), back.decode(errors="replace")

    def metrics(self) -> dict[str, float]:
        """The metrics of :data:`~tessera.ir.tokenizer_parts.METRICS` but ``size``; of no texts, zeros."""
        return {
            "tokens_per_character": self.tokens / max(self.characters, 1), "tokens_per_byte": self.tokens / max(self.octets, 1),
            "tokens_per_word": self.tokens / max(self.words, 1), "unknown_share": self.unknown / max(self.tokens, 1),
            "round_trip": self.same / max(self.texts, 1),
        }  # fmt: skip


def unknown_id(engine: Engine, tokenizer: Tokenizer) -> int | None:
    """The id that stands for what the model has no token for."""
    token = dict(tokenizer.model.options).get("unknown")
    return None if token is None else engine.vocabulary().get(token)


@dataclass(frozen=True)
class Measured:
    """What was measured of a tokenizer.

    Args:
        metrics: by their names.
        counts: what they are made of.
        seconds: how long encoding took.
        broken: an E1009 for each requirement that does not hold.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    seconds: float
    broken: list[Diagnostic]


def measured(data: bytes, tokenizer: Tokenizer, progress: Progress | None = None) -> Measured:
    """The metrics of a declaration on the files that it names, line by line.

    Args:
        data: the file of its tables.

    Raises:
        Diagnostic: E1010 where it names no files, or they are none or empty; E1007 for one that is not UTF-8; E1015, E0015 for
            an analyser.
    """
    corpus = tokenizer.measured or tokenizer.training
    if corpus is None:
        raise Diagnostic(
            "E1010", f"the tokenizer `{tokenizer.name}` says nothing of what it is measured on", tokenizer.span,
            help='name the files: `measure "held/*.txt"`',
        )  # fmt: skip
    engine, counts, seconds = whole(data, tokenizer), Counts(), 0.0
    unknown = unknown_id(engine, tokenizer)
    told = _Told.of(tokenizer, engine)
    files = corpus_files(tokenizer, corpus.corpus, corpus.span)
    for rows in _rows(tokenizer, files, progress):
        begin = time.perf_counter()
        found = engine.encode(rows, around=False)
        ids = [row[:n].tolist() for row, n in zip(found.ids, found.count, strict=True)]
        seconds += time.perf_counter() - begin
        for text, numbers, back in zip(rows, ids, engine.decode(ids, special=True), strict=True):
            counts.add(text, numbers, back, unknown)
        if told is not None:
            for text, numbers, ends in zip(rows, ids, found.offsets, strict=True):
                shown = text if isinstance(text, str) else text.decode("latin-1")
                told.seen.add(shown, numbers, ends[: len(numbers)].tolist())
    if not counts.texts:
        raise Diagnostic("E1010", f'the files of `"{corpus.corpus}"` are empty', corpus.span, help="name files that have lines")
    metrics = {**counts.metrics(), "size": float(engine.size)}
    facts = {"texts": counts.texts, "tokens": counts.tokens}
    if told is not None:
        words = counted(told.seen, told.texts, told.analyser, progress)
        metrics |= words.metrics()
        facts |= words.counts()
    return Measured(metrics, facts, seconds, list(_broken(tokenizer, metrics, counts.lost)))


def _rows(tokenizer: Tokenizer, files: list[Path], progress: Progress | None) -> Iterator[Sequence[Row]]:
    """What is measured, some at a time: lines, or of a tokenizer of bytes chunks."""
    if is_octets(tokenizer):
        yield from batches(chunks_of(files))
    else:
        yield from batches(lines_of(files, progress))


@dataclass(frozen=True)
class _Told:
    """Who says what tokens are in their language, and of what."""

    analyser: Analyser
    texts: dict[int, str | None]
    seen: Seen

    @staticmethod
    def of(tokenizer: Tokenizer, engine: Engine) -> _Told | None:
        if tokenizer.measured is None or tokenizer.measured.analyser is None:
            return None
        analyser, language = open_analyser(tokenizer.measured, folder_of(tokenizer))
        return _Told(analyser, texts_of_tokens(tokenizer, engine.vocabulary()), Seen(language))


def lines_of(files: Iterable[Path], progress: Progress | None = None) -> Iterator[str]:
    """The lines of files that have anything in them, without their ends. Raises E1007."""
    return (text for line in texts_of(files, progress) if (text := line.rstrip("\r\n")))


def whole(data: bytes, tokenizer: Tokenizer) -> Engine:
    """The engine of a tokenizer that cuts no text short."""
    if is_pieces(tokenizer):
        return engine_of(data, replace(read_pieces(data, tokenizer), truncate=None, pad=None))
    found, tables = read_json(data, tokenizer.name, tokenizer.span)
    return Standard(write_json(replace(found, truncate=None, pad=None), tables), replace(tokenizer, truncate=None, pad=None))


def check_gates(data: bytes, tokenizer: Tokenizer, progress: Progress | None = None) -> dict[str, float]:
    """The metrics, where all that the declaration requires holds. Raises E1009, E1007, E1010."""
    found = measured(data, tokenizer, progress)
    if found.broken:
        raise several(found.broken)
    return found.metrics


def _broken(tokenizer: Tokenizer, found: dict[str, float], lost: tuple[str, str] | None) -> Iterator[Diagnostic]:
    """E1009 for each requirement that these metrics do not meet."""
    first = [Note(f"the first that does not come back: {lost[0]!r:.200} comes as {lost[1]!r:.200}")] if lost is not None else []
    for gate in tokenizer.gates:
        if not gate.holds(found[gate.metric]):
            whole_texts = gate.metric == "round_trip"
            yield Diagnostic(
                "E1009", f"{gate.message}: `{gate.metric}` is {found[gate.metric]:.6g}, and `{tokenizer.name}` requires "
                f"{gate.op} {gate.bound:g}", gate.span, first if whole_texts else [],
                "what `normalize` or `split` changes, `decode` must undo; or require less" if whole_texts
                else "train on more, or other, text or for more tokens; or require less",
            )  # fmt: skip


def batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """Rows of about a megabyte, so that memory does not grow with the corpus."""
    rows: list[Text] = []
    length = 0
    for text in texts:
        rows.append(text)
        length += len(text)
        if length > 2**20 or len(rows) == 1024:
            yield rows
            rows, length = [], 0
    if rows:
        yield rows
