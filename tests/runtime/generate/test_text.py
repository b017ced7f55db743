"""Text in pieces: joined they are the text of all tokens, up to a stop word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.runtime.generate.text import TextStream


def as_bytes(ids: list[int]) -> str:
    """Tokens that are bytes of UTF-8."""
    return bytes(ids).decode("utf-8", "replace")


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=40), stop=st.lists(st.text(min_size=1, max_size=4), max_size=3), prompt=st.text(max_size=5))
def test_pieces_are_the_text_up_to_the_first_stop_word(text: str, stop: list[str], prompt: str) -> None:
    stream = TextStream(as_bytes, stop, list(prompt.encode()))
    pieces = []
    for token in text.encode():
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    # Nothing is read behind the word that is whole first; of those that end there, the longest counts.
    found = [(place + len(word), place) for word in stop if (place := text.find(word)) >= 0]
    assert stream.stopped == bool(found)
    assert "".join(pieces) == (text[: min(found)[1]] if found else text)


def test_what_may_begin_a_stop_word_is_held_back() -> None:
    stream = TextStream(as_bytes, ["\n\n"])
    assert [stream.push(token) for token in b"a\nb\n"] == ["a", "", "\nb", ""]
    assert stream.finish() == "\n"


def test_a_character_comes_whole() -> None:
    stream = TextStream(as_bytes)
    assert [stream.push(token) for token in "é€".encode()] == ["", "é", "", "", "€"]
    assert stream.finish() == ""
    assert [TextStream(as_bytes).push(0xE2), as_bytes([0xE2])] == ["", "\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("cut", [1, 2])
def test_a_character_that_is_never_whole_is_shown_at_the_end(cut: int) -> None:
    stream = TextStream(as_bytes)
    assert "".join(stream.push(token) for token in b"a" + "€".encode()[:cut]) == "a"
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"
