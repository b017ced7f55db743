"""What can be said of a tokenizer on a corpus, and what a declaration requires of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic, Note, several
from ...ir.tokenizer import Tokenizer
from .engine import engine_of
from .files import read_json, write_json
from .pieces import is_pieces, read_pieces
from .standard import Standard
from .training import Progress, corpus_files, texts_of

if TYPE_CHECKING:
    from .engine import Engine


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

    def add(self, text: str, ids: Sequence[int], back: bytes, unknown: int | None) -> None:
        """Take a text in, with its ids, what these decode to, and the id of what is unknown."""
        data = text.encode()
        self.texts += 1
        self.tokens += len(ids)
        self.characters += len(text)
        self.octets += len(data)
        self.words += len(text.split())
        self.unknown += 0 if unknown is None else sum(number == unknown for number in ids)
        self.same += back == data
        if back != data and self.lost is None:
            self.lost = text, back.decode(errors="replace")

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


def measured(
    data: bytes, tokenizer: Tokenizer, progress: Progress | None = None
) -> tuple[dict[str, float], list[Diagnostic]]:
    """The metrics of a declaration on the files that it names, line by line, and an E1009 for each that is not as required.

    Args:
        data: the file of its tables.

    Raises:
        Diagnostic: E1010 where it names no files, or they are none; E1007 for one that is not UTF-8.
    """
    pattern, span = tokenizer.measured, tokenizer.span
    if pattern is None and tokenizer.training is not None:
        pattern, span = tokenizer.training.corpus, tokenizer.training.span
    if pattern is None:
        raise Diagnostic(
            "E1010", f"the tokenizer `{tokenizer.name}` says nothing of what it is measured on", span,
            help='name the files: `measure "held/*.txt"`',
        )  # fmt: skip
    engine, counts = whole(data, tokenizer), Counts()
    unknown = unknown_id(engine, tokenizer)
    for rows in batches(lines_of(corpus_files(tokenizer, pattern, span), progress)):
        found = engine.encode(rows, around=False)
        ids = [row[:n].tolist() for row, n in zip(found.ids, found.count, strict=True)]
        for text, numbers, back in zip(rows, ids, engine.decode(ids, special=True), strict=True):
            counts.add(text, numbers, back, unknown)
    metrics = {**counts.metrics(), "size": float(engine.size)}
    return metrics, list(_broken(tokenizer, metrics, counts.lost))


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
    found, errors = measured(data, tokenizer, progress)
    if errors:
        raise several(errors)
    return found


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


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Rows of about a megabyte, so that memory does not grow with the corpus."""
    rows: list[str] = []
    length = 0
    for text in texts:
        rows.append(text)
        length += len(text)
        if length > 2**20 or len(rows) == 1024:
            yield rows
            rows, length = [], 0
    if rows:
        yield rows
