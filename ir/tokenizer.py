"""Tokenizers as data: the stages that make ids of a text, in their order, and where their tables lie.

The tables themselves (the vocabulary, merges, a character map) stay in the file that the declaration names, as weights do; the
declaration has its hash. :mod:`.tokenizer_parts` says which stages there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .diagnostics import Span


@dataclass(frozen=True, slots=True)
class Part:
    """One stage, ``bert(lowercase=true)``: ``options`` has all of its row, in the row's order."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    span: Span | None = field(default=None, compare=False, repr=False)

    def __getitem__(self, option: str) -> Any:
        return dict(self.options)[option]


@dataclass(frozen=True, slots=True)
class Added:
    """A token that is found in the text before the model sees it.

    Args:
        id: its number; None for one that training is to number.
        special: whether it is no text: decoding leaves it out, and it is never split.
        single_word: only where no letter or digit stands beside it.
        lstrip, rstrip: whether it takes the white space before or behind it.
        normalized: whether it is looked for in the normalised text.
    """

    text: str
    id: int | None
    special: bool
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class TableFile:
    """The file that has the tables: its path from the folder of the declaration, and the hash of its bytes.

    Args:
        first: of a model of SentencePiece, the tokens that have the first ids; its other pieces follow.
    """

    path: str
    sha256: str | None = None
    first: tuple[str, ...] = ()
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Training:
    """What the tables are trained on: files by a pattern from the folder of the declaration, and options of :data:`TRAINING`."""

    corpus: str
    options: tuple[tuple[str, Any], ...] = ()
    span: Span | None = field(default=None, compare=False, repr=False)

    def __getitem__(self, option: str) -> Any:
        return dict(self.options)[option]


@dataclass(frozen=True, slots=True)
class Measuring:
    """What ``require`` is measured on: files by a pattern from the folder of the declaration.

    Args:
        analyser: who says which tokens are words of a language, and which have one meaning: a package, or a file of words.
        language: which language, by its code; None where the analyser has one only.
    """

    corpus: str
    analyser: str | None = None
    language: str | None = None
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Gate:
    """``require tokens_per_character < 0.3, "…"``: a metric, compared with a number on a corpus."""

    metric: str
    op: str
    bound: float
    message: str
    span: Span | None = field(default=None, compare=False, repr=False)

    def holds(self, value: float) -> bool:
        """Whether the metric may have this value."""
        return {"<": value < self.bound, "<=": value <= self.bound, ">": value > self.bound, ">=": value >= self.bound}[
            self.op
        ]


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What makes ids of a text.

    Args:
        added: special and injected tokens, in the order of their ids.
        normalize, split, process, decode: stages, each in the order in which they apply.
        model: what makes pieces of what was split.
        truncate, pad: rows that are too long, and too short for their batch; None leaves them as they are.
        round: how training fills the vocabulary up to a round number of tokens.
        family: sizes of vocabularies whose ids are prefixes of one another.
        source: where the tables lie; None as long as they are only to be trained.
        measured: the files that ``gates`` are measured on, if others than those of the training.
        size: one more than the largest id; None as long as nothing was trained.
        path: the source file, from whose folder ``source`` and corpora are found.
    """

    name: str
    model: Part
    added: tuple[Added, ...] = ()
    normalize: tuple[Part, ...] = ()
    split: tuple[Part, ...] = ()
    process: tuple[Part, ...] = ()
    decode: tuple[Part, ...] = ()
    truncate: Part | None = None
    pad: Part | None = None
    round: Part | None = None
    family: tuple[int, ...] = ()
    source: TableFile | None = None
    training: Training | None = None
    measured: Measuring | None = None
    gates: tuple[Gate, ...] = ()
    size: int | None = None
    doc: str = ""
    path: str | None = field(default=None, compare=False)
    span: Span | None = field(default=None, compare=False, repr=False)

    def parts(self) -> list[tuple[str, Part]]:
        """(stage, part) of everything that a text passes, in order."""
        rows = [(stage, part) for stage in ("normalize", "split") for part in getattr(self, stage)]
        rows.append(("model", self.model))
        rows += [(stage, part) for stage in ("process", "decode") for part in getattr(self, stage)]
        return rows + [(stage, part) for stage in ("truncate", "pad") if (part := getattr(self, stage)) is not None]

    def difference(self, other: Tokenizer) -> str | None:
        """None when equal; else the name of the first thing that differs, with both values."""
        for name in self.__dataclass_fields__:
            ours, theirs = getattr(self, name), getattr(other, name)
            if name not in ("path", "span") and ours != theirs:
                return f"`{name}` differs: {ours} and {theirs}"
        return None
