"""What a request asks for: its JSON, checked field by field, as requests of the engine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...ir.diagnostics import Diagnostic, did_you_mean
from ...runtime.generate.engine import Request
from ...runtime.generate.sampling import Sampling
from ...runtime.generate.tokenizer import Vocabulary

# Fields of the API that change nothing here, and those that would: what they must be so that nothing is silently left out.
IGNORED = ("user", "metadata", "store")
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "echo": (False,), "suffix": ("",), "best_of": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},),
    "tools": ([],), "tool_choice": ("none", "auto"), "response_format": ({"type": "text"},),
}  # fmt: skip
NUMBERS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
KNOWN = (
    "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "n", "stream", "stream_options", "stop", "logprobs",
    "top_logprobs", *NUMBERS, *IGNORED, *NEUTRAL,
)  # fmt: skip
# How many of the likeliest tokens a request may ask for.
MOST_OF_TEXT, MOST_OF_CHAT = 5, 20


class Refused(Exception):
    """What is answered with an error.

    Args:
        message: what is wrong, for whoever wrote the request.
        param: the field to blame.
        status: of HTTP.
        code: a word for programs.
    """

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code

    def body(self) -> dict[str, Any]:
        """As JSON, in the form of the API."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """A request, understood.

    Args:
        requests: for the engine; ``n`` of each prompt, one after the other.
        stream: whether pieces are sent as they come.
        usage: whether a stream ends with the counts of tokens.
    """

    requests: list[Request] = field(default_factory=list)
    stream: bool = False
    usage: bool = False


@dataclass(frozen=True)
class Reader:
    """Bodies of one model's requests.

    Args:
        name: of the model.
        vocabulary: its tokenizer.
        limit: how many completions one request may ask for.
        most: how many tokens a prompt and its completion may have together; None for any number.
        template: a conversation as a prompt; None where there is no template.
    """

    name: str
    vocabulary: Vocabulary
    limit: int
    most: int | None
    template: Callable[[list[dict[str, Any]]], str] | None = None

    def read(self, text: bytes, chat: bool) -> Asked:
        """Raises Refused for what is malformed, and for what would be ignored; Diagnostic E0952, E0953."""
        body = self._object(text)
        prompts = [self._conversation(body)] if chat else self._prompts(body)
        count = _whole(body, "n", 1)
        if not 1 <= count * len(prompts) <= self.limit:
            raise Refused(f"{count * len(prompts)} completions are asked for, and a request may have 1 to {self.limit}", "n")
        sampling = self._sampling(body)
        stop, logprobs = _stop(body), _logprobs(body, chat)
        requests = [
            Request(
                ids, self._max_tokens(body, ids, chat), sampling, row, self.vocabulary.ends, stop, logprobs=logprobs
            )
            for row, ids in enumerate(ids for ids in prompts for _ in range(count))
        ]
        options = {} if body.get("stream_options") is None else body["stream_options"]
        if not isinstance(options, dict) or set(options) - {"include_usage"}:
            raise Refused("`stream_options` may have `include_usage`, and nothing else", "stream_options")
        return Asked(requests, _flag(body, "stream"), _flag(options, "include_usage"))

    def _object(self, text: bytes) -> dict[str, Any]:
        try:
            body = json.loads(text)
            # Half of a character in an escape is no text, and could not be said in an answer.
            json.dumps(body, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise Refused("the body is no JSON in UTF-8") from None
        if not isinstance(body, dict):
            raise Refused("the body is no JSON object")
        for name, value in body.items():
            if name not in KNOWN:
                hint = did_you_mean(name, KNOWN)
                raise Refused(f"there is no field `{name}`" + (f"; {hint}" if hint else ""), name)
            if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
                raise Refused(f"`{name}` is not supported: only {json.dumps(NEUTRAL[name][0])} is", name)
        if body.get("model") not in (None, self.name):
            raise Refused(f"there is no model `{body['model']}`; this is `{self.name}`", "model", 404, "model_not_found")
        return body

    def _prompts(self, body: Mapping[str, Any]) -> list[list[int]]:
        given = body.get("prompt")
        several = given if isinstance(given, list) and given and isinstance(given[0], (str, list)) else [given]
        return [self._ids(prompt) for prompt in several]

    def _ids(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            return self.vocabulary.encode(prompt)
        if isinstance(prompt, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in prompt):
            return prompt
        raise Refused("`prompt` is a text, a list of token ids, or a list of such", "prompt")

    def _conversation(self, body: Mapping[str, Any]) -> list[int]:
        if self.template is None:
            raise Refused(
                "this server has no chat template: ask `/v1/completions`, or start it with `--chat-template FILE`", status=404
            )
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
            raise Refused("`messages` is a list of objects with a `role` and a `content`, both texts", "messages")
        return self.vocabulary.encode(self.template(messages), around=False)

    def _max_tokens(self, body: Mapping[str, Any], ids: Sequence[int], chat: bool) -> int:
        name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
        room = max((self.most or len(ids) + 1025) - len(ids), 1)
        return _whole(body, name, room if chat else 16)

    @staticmethod
    def _sampling(body: Mapping[str, Any]) -> Sampling:
        given = {name: body[name] for name in NUMBERS if body.get(name) is not None}
        defaults: dict[str, Any] = {"temperature": 1.0, "seed": int.from_bytes(os.urandom(7), "little")}
        try:
            return Sampling(**{**defaults, **given})
        except Diagnostic as error:
            raise Refused(error.message, next((name for name in NUMBERS if f"`{name}`" in error.message), None)) from None


def _whole(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Refused(f"`{name}` is {json.dumps(value)}, and must be a whole number, at least 1", name)
    return value


def _logprobs(body: Mapping[str, Any], chat: bool) -> int | None:
    """How many of the likeliest tokens to tell beside each; None for nothing of probabilities. Raises Refused."""
    if not chat:
        if body.get("top_logprobs") is not None:
            raise Refused("`top_logprobs` is of conversations; here `logprobs` is the number", "top_logprobs")
        asked = body.get("logprobs")
        return None if asked is None or asked is False else _likeliest(body, "logprobs", MOST_OF_TEXT)
    wanted, count = _flag(body, "logprobs"), _likeliest(body, "top_logprobs", MOST_OF_CHAT)
    if count and not wanted:
        raise Refused("`top_logprobs` needs `logprobs`: true", "top_logprobs")
    return count if wanted else None


def _likeliest(body: Mapping[str, Any], name: str, most: int) -> int:
    value = 0 if body.get(name) is None else body[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise Refused(f"`{name}` is {json.dumps(value)}, and must be a whole number from 0 to {most}", name)
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise Refused(f"`{name}` is true or false", name)
    return bool(value)


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop") or []
    words = [stop] if isinstance(stop, str) else stop
    if not isinstance(words, list) or len(words) > 16 or not all(isinstance(word, str) and word for word in words):
        raise Refused("`stop` is a text, or a list of at most 16, none of them empty", "stop")
    return tuple(words)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
