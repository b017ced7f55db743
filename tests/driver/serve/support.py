"""A server of the small decoder in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import tessera as ts

from ...runtime.generate.support import weights, words

ROOT = Path(__file__).parents[3]


def chat(folder: Path, target: str = "onnx") -> Path:
    """The folder of the compiled decoder, with its tokenizer in it."""
    program = ts.load("dyspec")
    ts.compile(program, target=target, weights=weights(program, 0), verify=False).save(folder / "chat")
    words(folder / "chat")
    return folder / "chat"


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], base: str, errors: Path) -> None:
        self.process = process
        self.base = base
        self.errors = errors

    def ask(self, path: str, body: Any = None, raw: bytes | None = None) -> tuple[int, Any]:
        """(status, JSON) of a request."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.base + path, data), timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def settles(self, running: int, pending: int) -> bool:
        """Whether so many rows are soon taken, and so many requests on their way."""
        return soon(lambda: self.state() == (running, pending))

    def state(self) -> tuple[int, int]:
        health = self.ask("/health")[1]
        return health["running"], health["pending"]

    def memory(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def complaints(self) -> str:
        """What it wrote to stderr."""
        return self.errors.read_text(encoding="utf-8")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(30)


def soon(holds: Callable[[], bool], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.05)
    return found


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Served]:
    """A server of `chat(folder)` at a free port."""
    command = [sys.executable, "-m", "tessera", "serve", str(folder), "--port", "0", *options]
    errors = folder.parent / "stderr.txt"
    with errors.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ, cwd=folder.parent)
    try:
        assert process.stdout is not None
        found = re.fullmatch(r".* at (http://\S+)/v1\n", process.stdout.readline())
        assert found is not None
        yield Served(process, found.group(1), errors)
    finally:
        process.kill()
        process.wait()
