"""Prompts to completions, all of them side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from ...ir.diagnostics import Diagnostic
from ..program import ProgramRunner
from ..states import named
from .decoder import Decoder
from .engine import Event, Mask, Request, Ticket
from .sampling import Sampling, is_count
from .speculative.tree import Growth
from .tokenizer import Vocabulary
from .ways import engine


@dataclass(frozen=True)
class Completion:
    """What became of a prompt.

    Args:
        prompt: its tokens.
        tokens: what was made.
        text: of the tokens; None without a tokenizer.
        finish: ``stop`` or ``length``.
        passes: how many times the model read tokens for it, the prompt apart.
        asked: how many of the tokens a larger model chose.
    """

    prompt: list[int]
    tokens: list[int]
    text: str | None
    finish: str
    passes: int
    asked: int = 0


@dataclass(frozen=True)
class Piece:
    """One token more: of which prompt, and what it adds to the text. The last of a prompt says why it ends."""

    prompt: int
    token: int | None
    text: str
    finish: str | None


class Generation:
    """Prompts on their way: iterate over it for the pieces as they come; :meth:`completions` runs to the end.

    Args:
        program: with the entry points ``prefill`` and ``decode``.
        prompts: texts, or token ids.
        tokenizer: a ``tokenizer.json`` or its folder; needed for texts.
        eos: names or ids of tokens that end a text; those that come with the tokenizer without.
        rows: how many prompts at a time.
        capacity: how many tokens a row of the cache holds; as many as are needed without.
        max_tokens, stop, mask: see :class:`~tessera.runtime.generate.engine.Request`.
        inputs: other inputs of ``prefill``, with as many rows as there are prompts.
        sampling: how tokens are drawn.
        draft: a smaller program that proposes tokens, and how; prompts then run one after the other.
        width: how many tokens each pass computes in a row; None for as many as count.
        threshold: of a program with a larger model and a router, above which that model is asked.
        confidence: of a program that writes groups of tokens, above which a group goes on.

    Raises:
        Diagnostic: E095x for what does not fit.
    """

    def __init__(
        self, program: ProgramRunner, prompts: Sequence[str | Sequence[int]], *,
        tokenizer: str | os.PathLike[str] | None = None, eos: Sequence[str | int] | None = None, rows: int = 8,
        capacity: int | None = None, max_tokens: int = 64, stop: Sequence[str] = (), mask: Mask | None = None,
        inputs: Mapping[str, Any] | None = None, sampling: Sampling | None = None,
        draft: tuple[ProgramRunner, Growth] | None = None, width: int | None = None, threshold: float | None = None,
        confidence: float | None = None,
    ) -> None:  # fmt: skip
        decoder = Decoder(program)
        names, numbers = (None, frozenset[int]()) if eos is None else _ends(eos, decoder.vocab)
        if names and tokenizer is None:
            raise Diagnostic("E0953", f"`{names[0]}` is a token by name, and there is no tokenizer", help="or by its id, `eos=[2]`")
        vocabulary = Vocabulary(tokenizer, decoder.vocab, names) if tokenizer is not None else None
        ends = (vocabulary.ends if vocabulary is not None else frozenset()) | numbers
        self.ids = [_ids(prompt, vocabulary) for prompt in prompts]
        for name, value in (("rows", rows), ("max_tokens", max_tokens), ("deterministic_rows", width)):
            if value is not None and not is_count(value):
                raise Diagnostic("E0952", f"`{name}` is {value!r}, and must be a whole number, at least 1")
        if mask is not None and not callable(mask):
            raise Diagnostic("E0955", f"a constraint is a function of the tokens so far, not {type(mask).__name__}")
        given = named(inputs, "inputs", "E0901")
        requests = [
            Request(ids, max_tokens, sampling or Sampling(), i, ends, tuple(stop), mask, _row(given, i, len(self.ids)))
            for i, ids in enumerate(self.ids)
        ]
        if capacity is None:
            ahead = width or (draft[1].budget if draft is not None else 0)
            capacity = max((len(ids) for ids in self.ids), default=1) + max_tokens + ahead
            capacity = min(capacity, decoder.fixed or capacity)
        text: Callable[[list[int]], str] | None = vocabulary.decode if vocabulary is not None else None
        known = vocabulary.size if vocabulary is not None else None
        self._engine = engine(
            decoder, max(min(rows, len(self.ids)), 1), capacity, text, known, width=width,
            draft=(Decoder(draft[0]), draft[1]) if draft is not None else None, threshold=threshold, confidence=confidence,
        )  # fmt: skip
        for request in requests:
            self._engine.check(request)
        self.tickets = [self._engine.submit(request) for request in requests]
        self._texts: dict[Ticket, list[str]] = {ticket: [] for ticket in self.tickets}
        self._tokenized = vocabulary is not None

    def __iter__(self) -> Iterator[Piece]:
        places = {ticket: i for i, ticket in enumerate(self.tickets)}
        while self._engine.busy:
            for event in self._engine.step():
                self._check(event)
                self._texts[event.ticket].append(event.text)
                yield Piece(places[event.ticket], event.token, event.text, event.finish)

    def completions(self) -> list[Completion]:
        """Everything that comes, in the order of the prompts. Raises E0955, and what running the program raises."""
        for _ in self:
            pass
        return [
            Completion(
                ids, ticket.tokens, "".join(self._texts[ticket]) if self._tokenized else None, str(ticket.finish), ticket.passes,
                ticket.asked,
            )
            for ids, ticket in zip(self.ids, self.tickets, strict=True)
        ]

    @staticmethod
    def _check(event: Event) -> None:
        if event.ticket.error is not None:
            raise event.ticket.error


def _ids(prompt: str | Sequence[int], vocabulary: Vocabulary | None) -> list[int]:
    if not isinstance(prompt, str):
        try:
            array = np.asarray(prompt)
        except ValueError:
            raise Diagnostic("E0951", "a prompt is a text or a row of token ids, not rows of several lengths") from None
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise Diagnostic("E0951", f"a prompt is a text or a row of token ids, not {array.dtype}{list(array.shape)}")
        return [int(token) for token in array]
    if vocabulary is None:
        raise Diagnostic("E0953", "a prompt is a text, and there is no tokenizer", help="`tokenizer=\"tokenizer.json\"`")
    return vocabulary.encode(prompt)


def _ends(eos: Sequence[str | int], vocab: int) -> tuple[list[str], frozenset[int]]:
    """Tokens that end a text, those by name and those by id. Raises E0952 for what is neither."""
    for end in eos:
        if not isinstance(end, str) and (isinstance(end, bool) or not isinstance(end, Integral) or not 0 <= end < vocab):
            raise Diagnostic("E0952", f"`eos` has {end!r}, and a token is a name, or an id from 0 to {vocab - 1}")
    return [end for end in eos if isinstance(end, str)], frozenset(int(end) for end in eos if not isinstance(end, str))


def _row(inputs: Mapping[str, Any], row: int, count: int) -> dict[str, Any]:
    found = {}
    for name, value in inputs.items():
        array = np.asarray(value)
        if array.ndim == 0 or len(array) != count:
            raise Diagnostic("E0902", f"`{name}` is {list(array.shape)}, and must have {count} rows, one a prompt")
        found[name] = array[row : row + 1]
    return found
