"""Which span each token of a text is part of, on the host: units that a lexer found, laid over what a tokenizer made of the text.

>>> token_spans([(0, 3), (4, 6), (6, 9), (9, 10)], [(0, 3), (4, 9)]).tolist()
[0, 1, 1, 2]
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ..ir.diagnostics import Diagnostic

if TYPE_CHECKING:
    import numpy as np

Offsets = Sequence[tuple[int, int]]


def token_spans(offsets: Offsets | None, units: Offsets, *, capacity: int | None = None) -> np.ndarray:
    """The span of each token, [T] from 0: tokens of one unit are one span, every other token is a span of its own.

    Args:
        offsets: where each token begins and ends in the text, as a tokenizer tells it; special tokens begin and end at one place.
        units: where each unit of several tokens begins and ends, one behind the other.
        capacity: how many spans a model takes.

    Raises:
        Diagnostic: E0915 when the offsets are missing, or units are empty or overlap; as :func:`check_spans`.
    """
    import numpy as np

    if offsets is None or not any(end > begin for begin, end in offsets):
        raise Diagnostic(
            "E0915", "no token says where in the text it begins and ends",
            help="encode with a fast tokenizer, which tells `offsets` (`return_offsets_mapping=True` of transformers)",
        )  # fmt: skip
    for begin, end in units:
        if end <= begin:
            raise Diagnostic("E0915", f"the unit from {begin} to {end} is empty")
    for (begin, end), (later, _) in pairwise(units):
        if later < end:
            raise Diagnostic("E0915", f"the unit from {begin} to {end} overlaps the one from {later}, or stands behind it")
    owners = [_unit(offset, units) for offset in offsets]
    spans, known = [-1], dict[int, int]()
    for owner in owners:
        spans.append(known[owner] if owner in known else max(spans) + 1)
        if owner is not None:
            known[owner] = spans[-1]
    found = np.array(spans[1:], dtype=np.int64)
    check_spans(found, special=[begin == end for begin, end in offsets], capacity=capacity)
    return found


def check_spans(spans: np.ndarray, *, special: Sequence[bool] = (), capacity: int | None = None) -> None:
    """Raises E0915 unless the spans [T] begin with 0 and each is that of the token before or the next one, special tokens are
    spans of their own, and there are no more than ``capacity``."""
    rows = spans.tolist()
    for place, (before, now) in enumerate(pairwise([-1, *rows])):
        if now not in (before, before + 1) or now < 0:
            raise Diagnostic(
                "E0915",
                f"token {place} is part of span {now} behind one of span {before}: they are tokens side by side, none is empty",
                help="count spans from 0 in the order of the text; a special token within a unit parts it in two",
            )  # fmt: skip
    for place in (i for i, alone in enumerate(special) if alone):
        if rows.count(rows[place]) > 1:
            raise Diagnostic("E0915", f"the special token {place} is in one span with another token")
    if capacity is not None and rows and rows[-1] >= capacity:
        raise Diagnostic(
            "E0915", f"there are {rows[-1] + 1} spans, but the model takes {capacity}",
            help="cut the text, or compile for more spans",
        )  # fmt: skip


def _unit(offset: tuple[int, int], units: Offsets) -> int | None:
    """The unit that a token lies in, by number."""
    from bisect import bisect_right

    begin, end = offset
    found = bisect_right(units, begin, key=lambda unit: unit[0]) - 1
    return found if found >= 0 and begin < end <= units[found][1] else None
