"""Units of a text, laid over its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.spans import check_spans, token_spans

# [CLS] print _ na ##me ( x ) [SEP]
OFFSETS = [(0, 0), (0, 5), (6, 7), (7, 9), (9, 11), (11, 12), (12, 13), (13, 14), (0, 0)]


def test_tokens_of_a_unit_are_one_span() -> None:
    assert token_spans(OFFSETS, [(0, 5), (6, 11), (12, 13)], capacity=7).tolist() == [0, 1, 2, 2, 2, 3, 4, 5, 6]
    assert token_spans(OFFSETS, []).tolist() == list(range(9))


def test_a_token_that_is_longer_than_a_unit_is_no_part_of_it() -> None:
    assert token_spans(OFFSETS, [(7, 10)]).tolist() == list(range(9))


@pytest.mark.parametrize(
    ("offsets", "units", "message"),
    [
        (None, [(0, 5)], "no token says where"),
        ([(0, 0)] * 4, [(0, 5)], "no token says where"),
        (OFFSETS, [(0, 5), (6, 6)], "is empty"),
        (OFFSETS, [(0, 5), (4, 11)], "overlaps"),
        (OFFSETS, [(6, 11), (0, 5)], "stands behind it"),
        ([(0, 2), (0, 0), (2, 4)], [(0, 4)], "token 2 is part of span 0 behind one of span 1"),
    ],
)
def test_units_that_do_not_fit_are_refused(offsets: Any, units: Any, message: str) -> None:
    with pytest.raises(Diagnostic, match=message) as caught:
        token_spans(offsets, units)
    assert caught.value.code == "E0915"


@pytest.mark.parametrize(
    ("spans", "options", "message"),
    [
        ([0, 1, 0], {}, "token 2 is part of span 0 behind one of span 1"),
        ([0, 2], {}, "none is empty"),
        ([1, 1], {}, "token 0 is part of span 1"),
        ([0, 0, 1], {"special": [True, False, False]}, "the special token 0 is in one span"),
        ([0, 1, 2], {"capacity": 2}, "there are 3 spans, but the model takes 2"),
    ],
)
def test_spans_that_do_not_fit_are_refused(spans: list[int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(Diagnostic, match=message) as caught:
        check_spans(np.array(spans), **options)
    assert caught.value.code == "E0915"
