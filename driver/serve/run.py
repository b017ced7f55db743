"""From an artifact to a server that listens, and a clean end."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from ...ir.diagnostics import Diagnostic
from ...runtime.generate.decoder import Decoder
from ...runtime.generate.speculative.tree import Growth
from ...runtime.generate.tokenizer import Vocabulary
from ...runtime.generate.ways import engine
from ..generating import decodable
from .app import Service
from .asked import Reader, Refused
from .worker import Worker

# Seconds that answers on their way may take after the server was asked to stop.
GRACE = 10


def service(
    artifact: str | os.PathLike[str], *, tokenizer: str, name: str, eos: list[str] | None = None, rows: int = 4, queue: int = 64,
    capacity: int = 2048, threads: int | None = None, template: str | None = None, chunk: int | None = None,
    draft: str | os.PathLike[str] | None = None, growth: Growth | None = None, threshold: float | None = None,
    confidence: float | None = None,
) -> Service:  # fmt: skip
    """What answers requests for an artifact.

    Args:
        artifact: the folder of a program with the entry points ``prefill`` and ``decode``.
        tokenizer: a ``tokenizer.json`` or its folder.
        name: what clients call the model.
        eos: tokens that end a text, by name.
        rows: how many requests are computed side by side; with a draft it is one.
        queue: how many more may wait.
        capacity: how many tokens each may have, prompt included.
        threads: of one operator.
        template: a Jinja template of conversations, as text.
        chunk: how many tokens of prompts are read between two steps at most; None for whole prompts.
        draft: a smaller program that proposes tokens; ``growth`` says how.
        threshold: of a program with a larger model and a router, above which chance that model is asked.
        confidence: of a program that writes groups of tokens, above which chance a group goes on.

    Raises:
        Diagnostic: E095x for what does not fit together.
    """
    decoder = Decoder(decodable(artifact, threads))
    vocabulary = Vocabulary(tokenizer, decoder.vocab, eos)
    held = min(capacity, decoder.fixed or capacity)
    proposing = (Decoder(decodable(draft, threads)), growth or Growth()) if draft is not None else None
    computing = engine(
        decoder, rows, held, vocabulary.decode, vocabulary.size, chunk=chunk, draft=proposing, threshold=threshold,
        confidence=confidence,
    )  # fmt: skip
    reader = Reader(name, vocabulary, rows + queue, computing.room, _template(template, vocabulary))
    return Service(reader, Worker(computing, rows + queue))


def _template(text: str | None, vocabulary: Vocabulary) -> Callable[[list[dict[str, Any]]], str] | None:
    """A template of conversations, as published models have one. Raises E0920 for one that is none."""
    if text is None:
        return None
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise Refused(message, "messages")

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    try:
        template = environment.from_string(text)
    except TemplateError as error:
        raise Diagnostic("E0920", f"the chat template is no Jinja template: {error}") from None

    tokens = {"bos_token": vocabulary.begin, "eos_token": vocabulary.end}

    def render(messages: list[dict[str, Any]]) -> str:
        try:
            return template.render(messages=messages, add_generation_prompt=True, **tokens)
        except TemplateError as error:
            raise Refused(f"the chat template cannot say these messages: {error}", "messages") from None

    return render


class Server(uvicorn.Server):
    """A server that a signal ends, and that leaves the signal at that."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises E0956."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)
    except (OSError, OverflowError, UnicodeError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        here = not isinstance(error, (socket.gaierror, UnicodeError)) and getattr(error, "errno", None) != errno.EADDRNOTAVAIL
        help = "another port: `--port 8001`" if here else "an address of this machine: `--host 127.0.0.1`"
        raise Diagnostic("E0956", f"cannot listen at {host}, port {port}: {reason}", help=help) from None
    return listening


def run(served: Service, listening: socket.socket) -> None:
    """Answer until a signal comes; what is on its way then has some seconds to end."""
    # asyncio warns of every client that leaves in the middle of an answer.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    config = uvicorn.Config(served.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE, lifespan="on")
    with listening:
        Server(config).run(sockets=[listening])
