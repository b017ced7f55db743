"""The thread that drives an engine, and the requests that wait for it: a bounded number, each of which gets its events in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

from ...ir.diagnostics import Diagnostic
from ...runtime.generate.engine import Engine, Event, Request, Ticket


class Busy(Exception):
    """More requests than may wait."""


class Job:
    """One prompt of a request, on its way.

    Attributes:
        ticket: with which it can be cancelled.
        events: what comes of it; the last one has a ``finish``.
    """

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.events: asyncio.Queue[Event] = asyncio.Queue()


class Worker:
    """An engine in a thread of its own.

    Args:
        engine: nobody else drives it.
        limit: how many prompts may be running or waiting.
    """

    def __init__(self, engine: Engine, limit: int) -> None:
        self.engine = engine
        self.limit = limit
        self.pending = 0
        self._incoming: SimpleQueue[Job | None] = SimpleQueue()
        self._jobs: dict[Ticket, Job] = {}
        self._thread = Thread(target=self._run, name="tessera-decoding", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin, with the running event loop as the one that events go to."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End after the step that is running; what is left is cancelled."""
        self._incoming.put(None)
        self._thread.join()

    def accept(self, requests: Sequence[Request]) -> list[Job]:
        """Queue the prompts of one request. Raises E095x for one that does not fit, Busy where too many wait."""
        jobs = [Job(self.engine.ticket(request)) for request in requests]
        if self.pending + len(jobs) > self.limit:
            raise Busy
        self.pending += len(jobs)
        for job in jobs:
            self._incoming.put(job)
        return jobs

    def release(self, jobs: Sequence[Job]) -> None:
        """Say once of each accepted request that nobody waits for it any more: what still runs is cancelled."""
        self.pending -= len(jobs)
        for job in jobs:
            job.ticket.cancelled = True

    def _run(self) -> None:
        while True:
            while not self.engine.busy or not self._incoming.empty():
                job = self._incoming.get()
                if job is None:
                    return
                self._jobs[job.ticket] = job
                self.engine.add(job.ticket)
            for event in self._step():
                self._tell(event)

    def _step(self) -> list[Event]:
        try:
            return self.engine.step()
        except Diagnostic as error:
            return self.engine.abandon(error)
        except Exception as error:  # one step that fails must not end the server
            return self.engine.abandon(Diagnostic("E0912", f"a step failed: {type(error).__name__}: {error}"))

    def _tell(self, event: Event) -> None:
        assert self._loop is not None
        job = self._jobs[event.ticket]
        if event.finish is not None:
            del self._jobs[event.ticket]
        with suppress(RuntimeError):  # the server is gone
            self._loop.call_soon_threadsafe(job.events.put_nowait, event)
