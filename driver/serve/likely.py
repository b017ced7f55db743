"""How likely tokens were, in the two forms that the API has for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...runtime.generate.engine import Event
from ...runtime.generate.sampling import Ranked
from ...runtime.generate.text import CONTEXT


class Likely:
    """The probabilities of one completion, token by token.

    Args:
        decode: the text of ids.
        prompt: the tokens before.
        chat: whether it is a conversation.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int], chat: bool) -> None:
        self._decode = decode
        self._ids = list(prompt[-CONTEXT:])
        self._chat = chat
        self._offset = 0

    def add(self, event: Event) -> dict[str, Any] | None:
        """What an event adds to `logprobs`; None where it has no token, or nobody asked."""
        if event.ranked is None:
            return None
        made = self._chatty(event.ranked) if self._chat else self._plain(event.ranked)
        self._ids = [*self._ids, event.ranked.token][-CONTEXT:]
        return made

    @staticmethod
    def joined(parts: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
        """The `logprobs` of all events."""
        told = [part for part in parts if part is not None]
        return {name: [entry for part in told for entry in part[name]] for name in told[0]} if told else None

    def _text(self, token: int) -> str:
        """What a token adds to the text before it; of an unfinished character a replacement for it."""
        return self._decode([*self._ids, token])[len(self._decode(self._ids)) :]

    def _plain(self, ranked: Ranked) -> dict[str, Any]:
        text, best = self._text(ranked.token), dict[str, float]()
        for token, logprob in ranked.best:
            # Of two tokens of the same text the likelier.
            best.setdefault(self._text(token), logprob)
        made = {"tokens": [text], "token_logprobs": [ranked.logprob], "top_logprobs": [best], "text_offset": [self._offset]}
        self._offset += len(text)
        return made

    def _chatty(self, ranked: Ranked) -> dict[str, Any]:
        best = [self._entry(token, logprob) for token, logprob in ranked.best]
        return {"content": [{**self._entry(ranked.token, ranked.logprob), "top_logprobs": best}]}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        whole = not text.endswith("\N{REPLACEMENT CHARACTER}")
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if whole else None}
