"""Two models that write one text: a small one reads every token, and a router says where a large one is asked instead (Fu et al.
2025, "R2R"). The large model's cache stays behind, and catches up when it is asked. Nothing is verified: the text is neither
model's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from ...ir.diagnostics import Diagnostic
from .decoder import Decoder
from .engine import Engine, Event, Ticket

# What the entry points take that are asked beside `prefill` and `decode`, and what they give.
TAKES = {"large": (("input_ids", "lengths", "row"), "logits"), "route": (("hidden", "logits", "token"), "chance")}


class RoutedEngine(Engine):
    """Requests on the rows of a program of a small model (``prefill``, ``decode``), a ``large`` one and a router, ``route``.

    Args:
        decoder: the program.
        threshold: the large model is asked where the router gives more; 0 asks it always, 1 never.
        rows, capacity, text, known, chunk: as for any engine.

    Raises:
        Diagnostic: E0957 for a program without these entry points, models of unequal vocabularies, or an odd threshold.
    """

    def __init__(
        self, decoder: Decoder, threshold: float, rows: int, capacity: int | None,
        text: Callable[[list[int]], str] | None = None, known: int | None = None, chunk: int | None = None,
    ) -> None:  # fmt: skip
        _check(decoder, threshold)
        super().__init__(decoder, rows, capacity, text, known, chunk=chunk)
        self._threshold = threshold
        self._large = self._rows.session["large"]
        states = [port.name for port in decoder.program.runners["large"].ports.ports if port.role == "state"]
        self._lengths = [name for name in states if name.endswith("length")]
        # How many tokens of each row the large model has read.
        self._behind = [0] * rows

    def _read(self, row: int, ticket: Ticket, ids: Sequence[int]) -> np.ndarray:
        scores = super()._read(row, ticket, ids)
        # With one row all states began anew with the prompt.
        if self._rows.count > 1:
            self._large.make()
            self._large.put({name: np.zeros(1, np.int64) for name in self._lengths}, row)
        self._behind[row] = 0
        return scores

    def _written(self, tickets: Mapping[int, Ticket], scores: np.ndarray) -> list[Event]:
        """The small model's token by its scores, or the large one's where the router says so."""
        events: list[Event] = []
        proposed: dict[int, int] = {}
        own = dict(zip(tickets, scores, strict=True))
        for row, ticket in tickets.items():
            try:
                proposed[row] = self._drawn(ticket, own[row])
            except Diagnostic as error:
                events += self._failed(row, ticket, error)
        chances = self._chances(list(tickets), scores, proposed)
        answers = self._asked({row: tickets[row] for row, chance in chances.items() if self._routed(chance)})
        for row, token in proposed.items():
            ticket = tickets[row]
            if row in answers:
                ticket.asked += 1
                events += self._choose(row, ticket, answers[row])
            else:
                events += self._take(row, ticket, token, own[row])
        return events

    def _routed(self, chance: float) -> bool:
        return self._threshold == 0 or chance > self._threshold

    def _chances(self, rows: Sequence[int], scores: np.ndarray, proposed: dict[int, int]) -> dict[int, float]:
        """What the router gives for each row that proposes a token."""
        hidden = self._rows.outputs["hidden"][:, -1]
        # A prompt is read by itself, so that what it gives has one row.
        hidden = hidden[list(rows)] if len(hidden) == self._rows.count else hidden
        there = [i for i, row in enumerate(rows) if row in proposed]
        if not there:
            return {}
        found = self.decoder.program["route"](
            hidden=hidden[there], logits=scores[there], token=np.asarray([proposed[rows[i]] for i in there], np.int64)
        )["chance"]
        return {rows[i]: float(chance) for i, chance in zip(there, found, strict=True)}

    def _asked(self, rows: Mapping[int, Ticket]) -> dict[int, np.ndarray]:
        """The large model's scores [V] of the next token of these rows, each of which reads what it has not read yet."""
        unread = {row: ticket.so_far[self._behind[row] :] for row, ticket in rows.items()}
        width = max(map(len, unread.values()), default=0)
        # Rows are padded to one width; where that would not fit behind what a row has read, each is read by itself.
        fits = self.held is None or all(self._behind[row] + width <= self.held for row in rows)
        found: dict[int, np.ndarray] = {}
        for together in ([list(rows)] if rows and fits else [[row] for row in rows]):
            ids = np.zeros((len(together), max(len(unread[row]) for row in together)), np.int64)
            for i, row in enumerate(together):
                ids[i, : len(unread[row])] = unread[row]
            lengths = np.asarray([len(unread[row]) for row in together], np.int64)
            scores = self._large(input_ids=ids, lengths=lengths, row=np.asarray(together, np.int64))["logits"]
            found.update(zip(together, scores, strict=True))
        for row in rows:
            self._behind[row] += len(unread[row])
        return found


def _check(decoder: Decoder, threshold: Any) -> None:
    name = decoder.program.program.name
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 <= float(threshold) <= 1:
        raise Diagnostic("E0957", f"the threshold is {threshold!r}, and must be from 0, always the large model, to 1, never")
    for entry, (takes, gives) in TAKES.items():
        if entry not in decoder.program.entries:
            raise Diagnostic(
                "E0957", f"`{name}` has no entry point `{entry}`: it has {', '.join(f'`{e}`' for e in decoder.program.entries)}",
                help="a program of a small model, a large one and a router, as `seeds/r2r` has it",
            )  # fmt: skip
        runner = decoder.program.runners[entry]
        found = [port.name for port in runner.ports.ports if port.role == "input"]
        if sorted(found) != sorted(takes) or gives not in runner.outputs:
            raise Diagnostic(
                "E0957", f"`{entry}` of `{name}` takes {', '.join(found)} and gives {', '.join(runner.outputs)}",
                help=f"it takes {', '.join(takes)}, and gives {gives}",
            )  # fmt: skip
    if "hidden" not in decoder.program.runners["decode"].outputs:
        raise Diagnostic("E0957", f"`decode` of `{name}` gives no `hidden`, by which the router decides")
    graph = decoder.program.program.functions["large"]
    vocab = graph.outputs[0].type.shape[-1].value
    if vocab != decoder.vocab:
        raise Diagnostic(
            "E0957", f"the small model of `{name}` scores {decoder.vocab} tokens, and the large one {vocab}",
            help="both have one tokenizer; a padded vocabulary has to be padded alike",
        )  # fmt: skip
