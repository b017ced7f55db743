"""Tokens that come in groups (Liu & Zhang 2025, "HAMburger"): a group is one entry of the cache; behind the first token of the next
one a micro decoder, whose cache lives as long as a group, writes those that are sure enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from ...ir.diagnostics import Diagnostic
from .decoder import Decoder
from .engine import Engine, Event, Ticket

# What the entry points take beside `prefill` and `decode`, and what they give.
TAKES = {
    "group": (("input_ids", "lengths"), ("logits", "features", "more")),
    "begin": (("features", "token"), ("logits", "more")),
    "more": (("token",), ("logits", "more")),
}


class SmashedEngine(Engine):
    """Requests on the rows of a program that reads and writes groups, by ``group``, ``begin`` and ``more``.

    Args:
        decoder: the program.
        confidence: a group goes on where the program gives a higher chance that it does; 1 writes groups of one token, which are
            those that ``decode`` alone would write.
        rows, capacity, text, known, chunk: as for any engine.

    Raises:
        Diagnostic: E0958 for a program without these entry points, or an odd confidence.
    """

    def __init__(
        self, decoder: Decoder, confidence: float, rows: int, capacity: int | None,
        text: Callable[[list[int]], str] | None = None, known: int | None = None, chunk: int | None = None,
    ) -> None:  # fmt: skip
        self._most = _checked(decoder, confidence)
        super().__init__(decoder, rows, capacity, text, known, chunk=chunk)
        self._confidence = confidence
        self._group = decoder.reading("group")
        # What the micro decoder reads of each row's last entry [rows, F, D], as soon as there is one.
        self._features: np.ndarray | None = None
        # The group of each row that was written and not read.
        self._unread: list[list[int]] = [[] for _ in range(rows)]

    def _advance(self) -> list[Event]:
        """A group in each row whose prompt is read."""
        going = {row: ticket for row, ticket in enumerate(self._running) if ticket is not None and not ticket.reading}
        if not going:
            return []
        scores = self._rows.read(
            self._group, [self._unread[row] if row in going else [] for row in range(len(self._running))], self._most
        )
        for ticket in going.values():
            ticket.passes += 1
        return self._written(going, scores[list(going)])

    def _written(self, tickets: Mapping[int, Ticket], scores: np.ndarray) -> list[Event]:
        """The next group of some rows, by the scores [rows, V] of its first token."""
        outputs = self._rows.outputs
        # A prompt is read by itself, so that what it gives has one row.
        at = list(tickets) if len(outputs["more"]) == self._rows.count else [0]
        features = np.asarray(outputs["features"])
        if self._features is None:
            self._features = np.zeros((self._rows.count, *features.shape[1:]), features.dtype)
        self._features[list(tickets)] = features[at]
        for row in tickets:
            self._unread[row] = []
        events = self._continued(tickets, dict(zip(tickets, scores, strict=True)))
        going = self._sure(tickets, dict(zip(tickets, outputs["more"][at], strict=True)))
        session = self._rows.session
        for size in range(1, self._most):
            if not going:
                break
            token = np.asarray([own[-1] if own else 0 for own in self._unread], np.int64)
            found = session["begin"](features=self._features, token=token) if size == 1 else session["more"](token=token)
            events += self._continued(going, found["logits"])
            going = self._sure(going, found["more"])
        return events

    def _continued(self, tickets: Mapping[int, Ticket], scores: Any) -> list[Event]:
        """One token more of the groups of some rows, by the scores of each."""
        events: list[Event] = []
        for row, ticket in tickets.items():
            events += self._choose(row, ticket, scores[row])
            self._unread[row] += ticket.tokens[-1:]
        return events

    def _sure(self, tickets: Mapping[int, Ticket], chances: Any) -> dict[int, Ticket]:
        """The rows whose groups go on."""
        return {row: own for row, own in tickets.items() if own.finish is None and chances[row] > self._confidence}


def _checked(decoder: Decoder, confidence: Any) -> int:
    """How many tokens a group holds. Raises E0958."""
    name = decoder.program.program.name
    if isinstance(confidence, bool) or not isinstance(confidence, Real) or not 0 <= float(confidence) <= 1:
        raise Diagnostic(
            "E0958", f"the confidence is {confidence!r}, and must be from 0, groups as long as they may be, to 1, one token each"
        )
    for entry, (takes, gives) in TAKES.items():
        if entry not in decoder.program.entries:
            raise Diagnostic(
                "E0958", f"`{name}` has no entry point `{entry}`: it has {', '.join(f'`{e}`' for e in decoder.program.entries)}",
                help="a program that reads and writes groups, as `seeds/hamburger` has it",
            )  # fmt: skip
        runner = decoder.program.runners[entry]
        found = [port.name for port in runner.ports.ports if port.role == "input"]
        if sorted(found) != sorted(takes) or not set(gives) <= set(runner.outputs):
            raise Diagnostic(
                "E0958", f"`{entry}` of `{name}` takes {', '.join(found)} and gives {', '.join(runner.outputs)}",
                help=f"it takes {', '.join(takes)}, and gives {', '.join(gives)}",
            )  # fmt: skip
    for entry in ("prefill", "decode"):
        missing = next((own for own in ("features", "more") if own not in decoder.program.runners[entry].outputs), None)
        if missing is not None:
            raise Diagnostic("E0958", f"`{entry}` of `{name}` gives no `{missing}`, from which a group is written")
    for entry, before in (("group", "decode"), ("more", "begin")):
        own, kept = ({p.name for p in decoder.program.runners[e].ports.ports if p.role == "state"} for e in (entry, before))
        if own != kept:
            listing = ", ".join(f"`{state}`" for state in sorted(own ^ kept))
            raise Diagnostic(
                "E0958", f"`{entry}` of `{name}` does not go on with the states of `{before}`: only one of them has {listing}",
                help="entry points have a state in common where they give it the same name",
            )  # fmt: skip
    most = decoder.reading("group").ids.shape[1].value
    if most is None:
        raise Diagnostic(
            "E0958", f"`group` of `{name}` reads any number of tokens", help="`i64[B, 4]` where a group holds up to four"
        )
    return most
