"""Tokens as text while they come: nothing is shown that a later token may change, or that may begin a stop word."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# How many of a prompt's tokens are looked at, so that what follows them is spaced as in a whole text.
CONTEXT = 5


class TextStream:
    """The text of tokens, in pieces.

    Args:
        decode: the text of token ids.
        stop: texts that end it; what comes from there on is left out.
        prompt: the tokens before.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = (), prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        # Shown are the tokens before `_read`; those from `_begin` on are decoded again, for the sake of spaces between tokens.
        self._ids = list(prompt[-CONTEXT:])
        self._begin, self._read = 0, len(self._ids)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """What is sure of the text after one token more; `stopped` says whether a stop word came."""
        self._ids.append(token)
        before = self._decode(self._ids[self._begin : self._read])
        now = self._decode(self._ids[self._begin :])
        # A character of several bytes may not be whole yet.
        if now.endswith("\N{REPLACEMENT CHARACTER}") or len(now) <= len(before):
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return self._said(now[len(before) :])

    def finish(self) -> str:
        """What was held back, at the end."""
        if self.stopped:
            return ""
        before = self._decode(self._ids[self._begin : self._read])
        said = self._said(self._decode(self._ids[self._begin :])[len(before) :])
        rest, self._held = self._held, ""
        return said if self.stopped else said + rest

    def _said(self, text: str) -> str:
        self._held += text
        found = [place for word in self._stop if (place := self._held.find(word)) >= 0]
        if found:
            self.stopped = True
            said, self._held = self._held[: min(found)], ""
            return said
        keep = max((_begun(self._held, word) for word in self._stop), default=0)
        said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return said


def _begun(text: str, word: str) -> int:
    """How many characters at the end of a text begin a word."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
