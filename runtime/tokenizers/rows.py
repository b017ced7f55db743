"""Rows of ids around the tokens of texts: what a template puts there, what is cut off, and what rows are filled up with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Part, Tokenizer
from .forms import id_of, split_piece

if TYPE_CHECKING:
    import numpy as np

# What a place in a row is, where it is no token of a text.
AROUND, FILLING = -1, -2


@dataclass(frozen=True, eq=False)
class Run:
    """One piece of the template in all rows.

    Args:
        which: the text that its tokens are of, 0 or 1 of a pair; :data:`AROUND`.
        number: the id of what stands around.
        at: where its tokens lie in the rows, one row behind the other, in order.
        place: which tokens they are, by their numbers among those of all texts, or of all second ones; None for all of them.
    """

    which: int
    number: int
    segment: int
    at: np.ndarray
    place: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Layout:
    """Where tokens lie in rows of one length; what is asked of each place is made when it is asked.

    Args:
        filling, segment: the id and the segment of what fills rows up.
    """

    shape: tuple[int, int]
    filling: int
    segment: int
    runs: Sequence[Run]

    def _made(self, filling: int, value: Callable[[Run], Any]) -> np.ndarray:
        import numpy as np

        made = np.full(self.shape, filling)
        flat = made.reshape(-1)
        for run in self.runs:
            flat[run.at] = value(run)
        return made

    @cached_property
    def which(self) -> np.ndarray:
        """The text that a token is of; :data:`AROUND`, :data:`FILLING`."""
        return self._made(FILLING, lambda run: run.which)

    @cached_property
    def place(self) -> np.ndarray:
        """Which token it is, by its number among those of all texts, or of all second ones; of others 0."""
        return self._made(0, lambda run: 0 if run.which < 0 else range(len(run.at)) if run.place is None else run.place)

    @cached_property
    def fixed(self) -> np.ndarray:
        """The id of what is no token of a text; of others 0."""
        return self._made(self.filling, lambda run: run.number)

    @cached_property
    def segments(self) -> np.ndarray:
        return self._made(self.segment, lambda run: run.segment)

    def put(self, values: Sequence[np.ndarray], into: np.ndarray) -> np.ndarray:
        """Values of the tokens of all texts, [n, …], and of all second ones, where they lie in rows, [B, T, …]."""
        flat = into.reshape(-1, *into.shape[2:])
        for run in self.runs:
            if run.which >= 0:
                own = values[run.which]
                flat[run.at] = own if run.place is None else own[run.place]
        return into

    def ids(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The ids of the rows, of those of the texts' tokens."""
        import numpy as np

        made = np.full(self.shape, self.filling)
        flat = made.reshape(-1)
        for run in self.runs:
            if run.which < 0:
                flat[run.at] = run.number
        return self.put(values, made)


def check_named(tokenizer: Tokenizer, ids: Mapping[str, int]) -> None:
    """Raises E1004 for a token that a template or padding names, and the vocabulary does not have."""
    try:
        for pair in (False, True):
            _template(tokenizer, pair, ids)
    except Diagnostic as error:
        error.span = tokenizer.process[0].span
        raise
    try:
        filling(tokenizer.pad, ids)
    except Diagnostic as error:
        error.span = tokenizer.pad.span if tokenizer.pad is not None else None
        raise


def laid_out(
    tokenizer: Tokenizer, counts: Sequence[np.ndarray], around: bool, ids: Mapping[str, int]
) -> Layout:
    """The rows of texts, or of pairs of texts.

    Args:
        counts: how many tokens each has, i64[B], of the first texts and of the second ones.
        around: whether there are tokens around the texts.

    Raises:
        Diagnostic: E1007 for a text that has fewer tokens than are to be cut off; E1004.
    """
    import numpy as np

    template = _template(tokenizer, len(counts) == 2, ids)
    if not around:
        template = [row for row in template if row[0] >= 0]
    starts, kept = _kept(tokenizer.truncate, counts, sum(row[0] < 0 for row in template))
    one = np.ones_like(counts[0])
    lengths = [one if which < 0 else kept[which] for which, *_ in template]
    totals = np.sum([0 * one, *lengths], axis=0)
    pad = tokenizer.pad
    width = int(totals.max(initial=0))
    if pad is not None:
        width = max(width, pad["length"]) if pad.name == "fixed" and len(one) else width
        width = -(-width // (pad["multiple"] or 1)) * (pad["multiple"] or 1)
    begins = np.arange(len(one)) * width + (width - totals if pad is not None and pad["side"] == "left" else 0)
    runs = []
    for (which, number, segment), length in zip(template, lengths, strict=True):
        firsts = np.cumsum(length) - length
        within = np.arange(int(length.sum()))
        at = within + np.repeat(begins - firsts, length)
        whole = which >= 0 and kept[which] is counts[which]
        place = None if which < 0 or whole else within + np.repeat(starts[which] - firsts, length)
        runs.append(Run(which, number, segment, at, place))
        begins = begins + length
    return Layout((len(one), width), filling(pad, ids), 0 if pad is None else pad["segment"], runs)


def _template(tokenizer: Tokenizer, pair: bool, ids: Mapping[str, int]) -> list[tuple[int, int, int]]:
    """(the text or :data:`AROUND`, the id of what stands around, the segment) in order."""
    if not tokenizer.process:
        return [(0, 0, 0), (1, 0, 1)] if pair else [(0, 0, 0)]
    rows = []
    for piece in tokenizer.process[0]["pair" if pair else "single"]:
        text, segment = split_piece(piece)
        if text in ("$A", "$B"):
            rows.append((int(text == "$B"), 0, segment))
        else:
            rows.append((AROUND, id_of(text.removeprefix("$"), ids), segment))
    return rows


def filling(pad: Part | None, ids: Mapping[str, int]) -> int:
    """The id that rows are filled up with."""
    if pad is None:
        return 0
    number: int | None = pad["id"]
    return id_of(pad["token"], ids) if number is None else number


def _kept(
    cut: Part | None, counts: Sequence[np.ndarray], added: int
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
    """The first token of each text that is kept, by its number among those of all, and how many are, beside so many tokens that
    stand around them."""
    import numpy as np

    # What is whole is the same array.
    kept = list(counts)
    if cut is not None and int(np.sum(counts, axis=0).max(initial=0)) > max(cut["length"] - added, 0):
        kept = [count.copy() for count in counts]
        room = max(cut["length"] - added, 0)
        for row in np.flatnonzero(np.sum(counts, axis=0) > room).tolist():
            shortened = _shortened(cut.name, tuple(int(count[row]) for count in counts), room, row)
            for own, length in zip(kept, shortened, strict=True):
                own[row] = length
    left = cut is not None and cut["side"] == "left"
    starts = [np.cumsum(whole) - (own if left else whole) for whole, own in zip(counts, kept, strict=True)]
    return starts, kept


def _shortened(name: str, count: tuple[int, ...], room: int, row: int) -> tuple[int, ...]:
    if len(count) == 1 and name != "only_second":
        return (room,)
    if len(count) == 2 and name == "longest_first":
        low, high = sorted(count)
        high = low if low > room else max(low, room - low)
        if low + high > room:
            low, high = room // 2, room // 2 + room % 2
        return (high, low) if count[0] > count[1] else (low, high)
    which = int(name == "only_second")
    left = room - (sum(count) - count[which]) if which < len(count) else 0
    if left <= 0:
        raise Diagnostic(
            "E1007", f"text {row} cannot be cut to {room} tokens: `truncate {name}` takes them from one text, which has too few",
            help="allow more tokens, or take them from the longer text: `truncate longest_first`",
        )  # fmt: skip
    return tuple(left if place == which else length for place, length in enumerate(count))
