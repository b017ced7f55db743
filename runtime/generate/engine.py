"""The slot table: requests wait, take a free row, and leave it when they are done; all rows take one step together.

One thread drives an engine; what other threads may do is say `cancelled` of a ticket.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir.diagnostics import Diagnostic, Note
from .decoder import Decoder, Rows
from .sampling import Ranked, Sampling, generator, is_count, pick, ranked
from .text import TextStream

Mask = Callable[[list[int]], Any]


@dataclass(frozen=True)
class Request:
    """One prompt, and how it is to go on.

    Args:
        ids: the prompt's tokens.
        max_tokens: how many to make at most.
        sampling: how each is drawn.
        row: which of a seed's streams of numbers it draws from.
        ends: tokens that end it; they are not part of what comes out.
        stop: texts that end it.
        mask: a constraint: from the tokens so far, prompt included, bool [V] of those that may come next, or None for all.
        further: other inputs of ``prefill``, for one row.
        logprobs: how many of the likeliest tokens to tell beside each that is made; None to tell nothing of probabilities.
    """

    ids: Sequence[int]
    max_tokens: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    row: int = 0
    ends: frozenset[int] = frozenset()
    stop: Sequence[str] = ()
    mask: Mask | None = None
    further: Mapping[str, Any] = field(default_factory=dict)
    logprobs: int | None = None


class Ticket:
    """A request on its way.

    Attributes:
        tokens: what was made of it.
        finish: why it is done: ``stop`` (a token that ends it, a stop word), ``length``, ``cancelled``, ``error``; None before.
        error: what went wrong.
        passes: how many times the model read tokens for it, the prompt apart.
        read: how many tokens of the prompt were read.
        asked: how many of its tokens a larger model chose.
        cancelled: set by whoever does not want it any more.
    """

    def __init__(self, request: Request, stream: TextStream | None) -> None:
        self.request = request
        self.tokens: list[int] = []
        self.finish: str | None = None
        self.error: Diagnostic | None = None
        self.cancelled = False
        self.passes = 0
        self.read = 0
        self.asked = 0
        self.stream = stream
        self.rng = generator(request.sampling.seed, request.row)

    @property
    def so_far(self) -> list[int]:
        """The prompt and what was made."""
        return [*self.request.ids, *self.tokens]

    @property
    def reading(self) -> bool:
        """Whether there is more of the prompt to read."""
        return self.read < len(self.request.ids)


@dataclass(frozen=True)
class Event:
    """One token more of a request, or its end.

    Args:
        token: None where the end comes without one.
        text: what became sure of the text with it.
        finish: why it ended, with its last event.
        ranked: how likely the token was, where the request asks for it.
    """

    ticket: Ticket
    token: int | None
    text: str
    finish: str | None = None
    ranked: Ranked | None = None


class Engine:
    """Requests on the rows of one program.

    Args:
        decoder: what computes.
        rows: how many requests at a time.
        capacity: how many tokens each may have, prompt included; None where the program's states grow with none.
        text: the text of ids, for stop words and pieces of text; None for tokens alone.
        known: how many of the tokens may be chosen: those that a tokenizer knows.
        width: how many tokens each pass computes in a row, of which one counts; None for one. A pass of one token may round
            otherwise than one of several.
        chunk: how many tokens of prompts are read in one step at most, so that a long prompt does not keep the other rows waiting;
            None for whole prompts.

    Raises:
        Diagnostic: E0950 where a program cannot be run so.
    """

    def __init__(
        self, decoder: Decoder, rows: int, capacity: int | None, text: Callable[[list[int]], str] | None = None,
        known: int | None = None, width: int | None = None, chunk: int | None = None,
    ) -> None:  # fmt: skip
        self.decoder = decoder
        self.width = _width(decoder, width)
        self.chunk = _chunk(decoder, chunk)
        self.held = decoder.held(capacity)
        self._rows = Rows(decoder, rows, self.held)
        self._text = text
        self._known = None if known is None or known >= decoder.vocab else np.arange(decoder.vocab) < known
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket | None] = [None] * rows

    @property
    def waiting(self) -> int:
        """How many requests have no row yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many rows are taken."""
        return sum(ticket is not None for ticket in self._running)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting) or self.running > 0

    @property
    def room(self) -> int | None:
        """How many tokens a prompt and what is made of it may have together; None for any number."""
        # The last token that is made is never read.
        return None if self.held is None else self.held + 1 - ((self.width or 1) - 1)

    def check(self, request: Request) -> None:
        """Raises E0951 for a prompt that does not fit, E0952 for odd numbers, E0950 for stop words without a tokenizer."""
        if not is_count(request.max_tokens):
            raise Diagnostic("E0952", f"`max_tokens` is {request.max_tokens!r}, and must be a whole number, at least 1")
        self.decoder.check_prompt(request.ids, request.max_tokens + (self.width or 1) - 1, self.held)
        if any(not isinstance(word, str) or not word for word in request.stop):
            raise Diagnostic("E0952", "a stop word is a text of at least one character")
        if request.stop and self._text is None:
            raise Diagnostic("E0953", "stop words are texts, and there is no tokenizer", help="`tokenizer=\"tokenizer.json\"`")

    def ticket(self, request: Request) -> Ticket:
        """A request that may be added; any thread may ask for it. Raises as :meth:`check`."""
        self.check(request)
        return Ticket(request, TextStream(self._text, request.stop, request.ids) if self._text is not None else None)

    def add(self, ticket: Ticket) -> None:
        """Queue what :meth:`ticket` made."""
        self._waiting.append(ticket)

    def submit(self, request: Request) -> Ticket:
        """Queue a request. Raises as :meth:`check`."""
        ticket = self.ticket(request)
        self.add(ticket)
        return ticket

    def abandon(self, error: Diagnostic) -> list[Event]:
        """End what is running after a step that failed; what waits goes on."""
        running = list(enumerate(self._running))
        return [event for row, ticket in running if ticket is not None for event in self._failed(row, ticket, error)]

    def step(self) -> list[Event]:
        """Read waiting prompts into free rows, as much of them as a step may, then one token in every row whose prompt is read."""
        events = self._drop_cancelled()
        left = self.chunk
        while left != 0 and (row := self._next()) is not None:
            ticket = self._running[row] = self._running[row] or self._waiting.popleft()
            before = ticket.read
            events += self._admit(row, ticket, left)
            left = None if left is None else left - (ticket.read - before)
        return events + self._advance()

    def _next(self) -> int | None:
        """The row to read a prompt into: the one whose prompt was begun, or a free one if a prompt waits."""
        begun = next((row for row, ticket in enumerate(self._running) if ticket is not None and ticket.reading), None)
        if begun is not None or not self._waiting:
            return begun
        return next((row for row, ticket in enumerate(self._running) if ticket is None), None)

    def _advance(self) -> list[Event]:
        """One step of the rows whose prompts are read."""
        going = {row: ticket for row, ticket in enumerate(self._running) if ticket is not None and not ticket.reading}
        if not going:
            return []
        last = [going[row].tokens[-1] if row in going else None for row in range(len(self._running))]
        scores = self._rows.step(last, self.width)
        for ticket in going.values():
            ticket.passes += 1
        return self._written(going, scores[list(going)])

    def _read(self, row: int, ticket: Ticket, ids: Sequence[int]) -> np.ndarray:
        """The scores [V] behind some tokens of a prompt, which is read into a row with the last of them."""
        scores = self._rows.more(ids) if ticket.read else self._rows.begin(ids, ticket.request.further)
        if ticket.read + len(ids) == len(ticket.request.ids):
            self._rows.place(row)
        return scores

    def _admit(self, row: int, ticket: Ticket, most: int | None) -> list[Event]:
        """Read a prompt, or so many tokens more of it at most."""
        ids = ticket.request.ids[ticket.read :][:most]
        try:
            scores = self._read(row, ticket, ids)
        except Diagnostic as error:
            return self._failed(row, ticket, error)
        ticket.read += len(ids)
        return [] if ticket.reading else self._written({row: ticket}, scores[None])

    def _written(self, tickets: Mapping[int, Ticket], scores: np.ndarray) -> list[Event]:
        """The next token of some rows, by their scores [rows, V]."""
        return [
            event for (row, ticket), own in zip(tickets.items(), scores, strict=True) for event in self._choose(row, ticket, own)
        ]

    def _drop_cancelled(self) -> list[Event]:
        events = []
        for ticket in [*self._waiting, *self._running]:
            if ticket is not None and ticket.cancelled and ticket.finish is None:
                ticket.finish = "cancelled"
                events.append(Event(ticket, None, "", "cancelled"))
        self._waiting = deque(ticket for ticket in self._waiting if ticket.finish is None)
        self._running = [None if ticket is not None and ticket.finish is not None else ticket for ticket in self._running]
        return events

    def _choose(self, row: int, ticket: Ticket, scores: np.ndarray) -> list[Event]:
        """Draw the next token of a row."""
        try:
            token = self._drawn(ticket, scores)
        except Diagnostic as error:
            return self._failed(row, ticket, error)
        return self._take(row, ticket, token, scores)

    def _drawn(self, ticket: Ticket, scores: np.ndarray) -> int:
        """A token by its scores [V]. Raises E0955."""
        request = ticket.request
        seen = ticket.so_far if self._looks(ticket) else ()
        return pick(scores, request.sampling, ticket.rng, seen, self._allowed(request, seen))

    @staticmethod
    def _looks(ticket: Ticket) -> bool:
        """Whether the tokens so far matter for the next one."""
        return ticket.request.sampling.repetition_penalty != 1 or ticket.request.mask is not None

    def _take(self, row: int, ticket: Ticket, token: int, scores: np.ndarray) -> list[Event]:
        """The next token of a row, which the model gave these scores for; a row that is done is free."""
        request = ticket.request
        if token in request.ends:
            return self._done(row, ticket, None, "", "stop")
        ticket.tokens.append(token)
        likely = ranked(scores, token, request.logprobs, self._known) if request.logprobs is not None else None
        text = ticket.stream.push(token) if ticket.stream is not None else ""
        if ticket.stream is not None and ticket.stream.stopped:
            return self._done(row, ticket, token, text, "stop", likely)
        if len(ticket.tokens) == request.max_tokens:
            return self._done(row, ticket, token, text, "length", likely)
        return [Event(ticket, token, text, ranked=likely)]

    def _allowed(self, request: Request, seen: Sequence[int]) -> np.ndarray | None:
        found = constrained(request.mask, seen) if request.mask is not None else None
        if found is None or self._known is None:
            return self._known if found is None else found
        return found & self._known if found.shape == self._known.shape and found.dtype == bool else found

    def _done(
        self, row: int, ticket: Ticket, token: int | None, text: str, finish: str, likely: Ranked | None = None
    ) -> list[Event]:
        ticket.finish = finish
        self._running[row] = None
        rest = ticket.stream.finish() if ticket.stream is not None else ""
        return [Event(ticket, token, text + rest, finish, likely)]

    def _failed(self, row: int, ticket: Ticket, error: Diagnostic) -> list[Event]:
        ticket.error = error
        return self._done(row, ticket, None, "", "error")


def constrained(mask: Mask, seen: Sequence[int]) -> np.ndarray | None:
    """What a constraint gives for the tokens so far. Raises E0955, with the line that failed, for whatever it raises."""
    try:
        found = mask(list(seen))
        return None if found is None else np.asarray(found)
    except Diagnostic:
        raise
    except Exception as error:  # what a user's function raises is unknown
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise Diagnostic(
            "E0955", f"a constraint failed after {len(seen)} token(s): {type(error).__name__}: {error}",
            notes=[Note(f"in `{at.name}`, {at.filename}, line {at.lineno}: {at.line}")],
            help="the tokens that it is given are those of the prompt and what was made of it; it gives `bool[V]`, or None for all",
        ) from error  # fmt: skip


def _width(decoder: Decoder, width: int | None) -> int | None:
    """Raises E0950 for a program that reads one token at a time, or counts those that stand behind; E0952 for an odd number."""
    if width is None:
        return None
    if not is_count(width):
        raise Diagnostic("E0952", f"`deterministic_rows` is {width!r}, and must be a whole number, at least 1")
    if decoder.decode.ids.shape[1].value is not None or not decoder.scores_all or decoder.decode.count is None:
        raise Diagnostic(
            "E0950", f"`decode` of `{decoder.program.program.name}` does not read several tokens of which some count",
            help="token ids `i64[B, T]` and `lengths: i64[B]`, scores `[B, T, V]`, as `add_cache` makes them",
        )  # fmt: skip
    return width


def _chunk(decoder: Decoder, chunk: int | None) -> int | None:
    """Raises E0950 for a program that reads one token at a time behind the first, E0952 for an odd number."""
    if chunk is None:
        return None
    if not is_count(chunk):
        raise Diagnostic("E0952", f"`chunk` is {chunk!r}, and must be a whole number, at least 1")
    if decoder.decode.ids.shape[1].value is not None:
        raise Diagnostic(
            "E0950", f"`decode` of `{decoder.program.program.name}` reads one token at a time, too few for chunks",
            help="token ids `i64[B, T]`, as `add_cache` makes them; or whole prompts",
        )  # fmt: skip
    return chunk
