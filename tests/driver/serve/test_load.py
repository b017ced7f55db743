"""2,000 requests of clients that wait, read in pieces, and go away: every answer is the right one, and nothing stays."""

from __future__ import annotations

import http.client
import json
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import tessera as ts

from ...runtime.generate.support import prompts, said
from .support import Served, chat, serving

REQUESTS, CLIENTS, TOKENS = 2000, 24, 12


def ask(served: Served, ids: list[int], expected: str, rng: random.Random) -> str:
    """One request, in a way that the generator chooses; what became of it."""
    kind = rng.choices(["whole", "stream", "gone", "left"], [5, 3, 1, 1])[0]
    host, port = served.base.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    count = 300 if kind in ("gone", "left") else TOKENS
    body = {"prompt": ids, "max_tokens": count, "temperature": 0, "stream": kind in ("stream", "left")}
    try:
        connection.request("POST", "/v1/completions", json.dumps(body))
        if kind == "gone":
            return kind
        answer = connection.getresponse()
        if answer.status == 429:
            assert json.loads(answer.read())["error"]["code"] == "busy"
            return "busy"
        assert answer.status == 200
        if kind == "left":
            answer.read(rng.randrange(1, 400))
            return kind
        text = answer.read().decode()
        if kind == "stream":
            parts = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
            assert parts.pop() == "[DONE]"
            found = "".join(json.loads(part)["choices"][0]["text"] for part in parts)
        else:
            found = json.loads(text)["choices"][0]["text"]
        assert found == expected, f"{ids} gave {found!r} and not {expected!r}"
        return kind
    finally:
        connection.close()


@pytest.mark.slow
def test_2000_requests_leave_nothing_behind_and_mix_nothing_up(tmp_path: Path) -> None:
    given = prompts(*(1 + i % 9 for i in range(40)), seed=11)
    folder = chat(tmp_path)
    expected = [said(c.tokens) for c in ts.generate(folder, given, max_tokens=TOKENS)]
    with serving(folder, "--rows", "4", "--queue", "28", "--capacity", "320", "--threads", "1") as served:
        outcomes: Counter[str] = Counter()
        wrong: list[BaseException] = []
        memory: list[int] = []
        numbers = iter(range(REQUESTS))
        lock = threading.Lock()

        def client() -> None:
            while not wrong:
                with lock:
                    number = next(numbers, None)
                    if number is not None and number % (REQUESTS // 8) == 0:
                        memory.append(served.memory())
                if number is None:
                    return
                try:
                    done = ask(served, given[number % 40], expected[number % 40], random.Random(number))
                except BaseException as error:
                    wrong.append(error)
                    return
                with lock:
                    outcomes[done] += 1

        clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        assert not wrong, wrong[0]
        assert sum(outcomes.values()) == REQUESTS
        assert all(outcomes[kind] for kind in ("whole", "stream", "gone", "left"))
        assert served.settles(0, 0)
        # After the first quarter it stays as it is, up to what the allocator keeps.
        memory.append(served.memory())
        assert max(memory[4:]) - memory[2] < 8 << 20, [m >> 20 for m in memory]
        after: Any = served.ask("/v1/completions", {"prompt": given[3], "max_tokens": TOKENS, "temperature": 0})[1]
        assert after["choices"][0]["text"] == expected[3]
        assert served.stop() == 0
        assert served.complaints() == ""
        print(dict(outcomes), [m >> 20 for m in memory])
