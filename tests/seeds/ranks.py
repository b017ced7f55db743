"""Four processes of torch.distributed over gloo: one pool for a test run, since starting them is most of what they cost."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORLD = 4


def _serve(rank: int, meeting: str, tasks: Any, answers: Any) -> None:
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD)
    while (task := tasks.get()) is not None:
        function, arguments = task
        try:
            answers.put((rank, function(rank, *arguments), None))
        except Exception as error:
            answers.put((rank, None, f"rank {rank}: {error!r}"))
    distributed.destroy_process_group()


class Ranks:
    """``ranks(function, *arguments)`` is ``[function(rank, *arguments) for rank in range(4)]``, each in its own process."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._answers = context.Queue()
        self._tasks = [context.Queue() for _ in range(WORLD)]
        self._processes = [
            context.Process(target=_serve, args=(rank, str(folder / "meeting"), tasks, self._answers), daemon=True)
            for rank, tasks in enumerate(self._tasks)
        ]
        for process in self._processes:
            process.start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for tasks in self._tasks:
            tasks.put((function, arguments))
        found: list[Any] = [None] * WORLD
        for _ in range(WORLD):
            rank, answer, failure = self._answers.get(timeout=300)
            assert failure is None, failure
            found[rank] = answer
        return found

    def close(self) -> None:
        for tasks in self._tasks:
            tasks.put(None)
        for process in self._processes:
            process.join(timeout=30)
