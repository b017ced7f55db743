"""The completions API as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ...ir.diagnostics import Diagnostic
from ...runtime.generate.engine import Event
from .asked import Reader, Refused
from .likely import Likely
from .worker import Busy, Job, Worker

# Bytes of a body; more is refused before it is read.
MOST_BYTES = 4 << 20


class Service:
    """What answers requests.

    Args:
        reader: understands them.
        worker: computes.
    """

    def __init__(self, reader: Reader, worker: Worker) -> None:
        self.reader = reader
        self.worker = worker
        self.started = int(time.time())

    def app(self) -> Starlette:
        """The application; the worker runs while it does."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            self.worker.start()
            yield
            await asyncio.to_thread(self.worker.stop)

        return Starlette(
            routes=[
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.model),
                Route("/health", self.health),
            ],
            exception_handlers={Refused: _refused, Diagnostic: _diagnosed, Busy: _busy, HTTPException: _http},
            lifespan=lifespan,
        )

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self.reader.name:
            raise Refused(f"there is no model `{name}`; this is `{self.reader.name}`", "model", 404, "model_not_found")
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        return {"id": self.reader.name, "object": "model", "created": self.started, "owned_by": "tessera"}

    async def health(self, request: Request) -> Response:
        engine = self.worker.engine
        return JSONResponse({"status": "ok", "running": engine.running, "pending": self.worker.pending, "limit": self.worker.limit})

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, chat=False)

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, chat=True)

    async def _answer(self, request: Request, chat: bool) -> Response:
        body = await _body(request)
        asked = await asyncio.to_thread(self.reader.read, body, chat)
        jobs = self.worker.accept(asked.requests)
        form = Form(self.reader, chat)
        if asked.stream:
            # Its generator begins only when the response does, which a client may not wait for.
            return Stream(self.worker, jobs, form, asked.usage)
        gone, done = asyncio.create_task(_disconnected(request)), asyncio.create_task(_all(jobs, form))
        try:
            await asyncio.wait({gone, done}, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
            return JSONResponse(form.whole(done.result(), jobs)) if done.done() else Response(status_code=499)
        finally:
            self.worker.release(jobs)
            gone.cancel()
            done.cancel()


class Stream(StreamingResponse):
    """Pieces as server-sent events; whatever ends it gives the rows free."""

    def __init__(self, worker: Worker, jobs: Sequence[Job], form: Form, usage: bool) -> None:
        super().__init__(_lines(jobs, form, usage), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._release = worker.release
        self._jobs = jobs

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release(self._jobs)


class Form:
    """How answers of one request are written.

    Args:
        reader: knows the model's name, and the text of its tokens.
        chat: whether it is a conversation.
    """

    def __init__(self, reader: Reader, chat: bool) -> None:
        self._reader = reader
        self._chat = chat
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._head = {"id": self._id, "created": int(time.time()), "model": reader.name}

    def likely(self, job: Job) -> Likely:
        """What writes down how likely the tokens of one completion were."""
        return Likely(self._reader.vocabulary.decode, job.ticket.request.ids, self._chat)

    def whole(self, made: Sequence[Made], jobs: Sequence[Job]) -> dict[str, Any]:
        """The answer at once."""
        choices = []
        for index, one in enumerate(made):
            said: dict[str, Any] = {"message": {"role": "assistant", "content": one.text}} if self._chat else {"text": one.text}
            choices.append({"index": index, **said, "logprobs": one.logprobs, "finish_reason": one.finish})
        name = "chat.completion" if self._chat else "text_completion"
        return {**self._head, "object": name, "choices": choices, "usage": usage(jobs)}

    def piece(self, index: int, event: Event, first: bool, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        """One event of a stream."""
        role = {"role": "assistant"} if first else {}
        said: dict[str, Any] = {"delta": {**role, "content": event.text}} if self._chat else {"text": event.text}
        return self.part([{"index": index, **said, "logprobs": logprobs, "finish_reason": event.finish}])

    def part(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A part of a stream."""
        return {**self._head, "object": "chat.completion.chunk" if self._chat else "text_completion", "choices": choices}


def usage(jobs: Sequence[Job]) -> dict[str, int]:
    """How many tokens were read and made."""
    prompt = sum(len(job.ticket.request.ids) for job in jobs)
    made = sum(len(job.ticket.tokens) for job in jobs)
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


@dataclass(frozen=True)
class Made:
    """A whole completion: its text, why it ended, and how likely its tokens were, where that was asked for."""

    text: str
    finish: str
    logprobs: dict[str, Any] | None


async def _all(jobs: Sequence[Job], form: Form) -> list[Made]:
    """What became of all jobs. Raises what went wrong with the first that failed."""
    return [await _whole(job, form.likely(job)) for job in jobs]


async def _whole(job: Job, likely: Likely) -> Made:
    """What became of a job. Raises what went wrong with it."""
    texts, told = [], []
    while True:
        event = await job.events.get()
        texts.append(event.text)
        told.append(likely.add(event))
        if job.ticket.error is not None and event.finish is not None:
            raise job.ticket.error
        if event.finish is not None:
            return Made("".join(texts), event.finish, likely.joined(told))


async def _lines(jobs: Sequence[Job], form: Form, with_usage: bool) -> AsyncIterator[str]:
    """The events of all jobs as they come, as lines of server-sent events."""
    merged: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    async def forward(index: int, job: Job) -> None:
        while True:
            event = await job.events.get()
            await merged.put((index, event))
            if event.finish is not None:
                return

    tasks = [asyncio.create_task(forward(index, job)) for index, job in enumerate(jobs)]
    likely = [form.likely(job) for job in jobs]
    try:
        left, begun = len(jobs), set[int]()
        while left:
            index, event = await merged.get()
            left -= event.finish is not None
            if event.ticket.error is not None and event.finish is not None:
                yield _line(Refused(event.ticket.error.message, status=500, code=event.ticket.error.code).body())
                return
            logprobs = likely[index].add(event)
            if event.text or event.finish is not None or logprobs is not None:
                yield _line(form.piece(index, event, index not in begun, logprobs))
                begun.add(index)
        if with_usage:
            yield _line({**form.part([]), "usage": usage(jobs)})
        yield "data: [DONE]\n\n"
    finally:
        for task in tasks:
            task.cancel()


def _line(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _disconnected(request: Request) -> None:
    """Returns when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes:
    """Raises Refused for one that is too long."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise Refused(f"the body is longer than {MOST_BYTES} bytes", status=413, code="too_long")
        parts.append(part)
    return b"".join(parts)


# Errors ----------------------------------------------------------------------------------------------------------------


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse(error.body(), error.status)


async def _diagnosed(request: Request, error: Exception) -> Response:
    """What is wrong with a prompt is the client's; what goes wrong while running is ours."""
    assert isinstance(error, Diagnostic)
    mine = error.code in ("E0951", "E0952", "E0953", "E0954")
    message = f"{error.message}; {error.help}" if error.help else error.message
    code = "context_length_exceeded" if "the cache holds" in error.message else error.code
    return await _refused(request, Refused(message, "prompt" if mine else None, 400 if mine else 500, code))


async def _busy(request: Request, error: Exception) -> Response:
    refused = Refused("too many requests are waiting: try again", status=429, code="busy")
    return JSONResponse(refused.body(), 429, headers={"Retry-After": "1"})


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    shown = f"there is no {request.method} {request.url.path} here" if error.status_code in (404, 405) else str(error.detail)
    return JSONResponse(Refused(shown, status=error.status_code).body(), error.status_code)
