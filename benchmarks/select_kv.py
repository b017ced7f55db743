"""One decode step behind contexts of 2k and of 32k tokens: reading all slots of the cache, and those that a method chooses.

    python -m benchmarks.select_kv [--kv-heads 8] [--budget 256] [--page 32] [--clock cpu]

A Llama-style decoder of 8 layers, 512 features and 8 heads on ONNX Runtime, its cache full of noise. The variants take turns,
each after steps that do not count. `--clock cpu` gives each one thread and counts the time that the processor spends on it, which
other work hardly changes; `wall` is the clock on the wall, and wants a quiet machine.

Where the time goes is told by differences: `latest_slots` scores nothing and reads as many slots as the others, so that what
`all` takes beyond it is attention to all slots, and what another method takes beyond it is choosing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts

from .common import write

CONTEXTS = (2048, 32768)
# Slots behind the context, for the steps that are measured.
ROOM = 256
SETTLE = 3


def states(kv_heads: int, context: int, page: int) -> dict[str, Any]:
    """The cache of one row that has read so many tokens of noise, and the bounds of its pages."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, kv_heads, context + ROOM, 64), np.float32)
    fields = {"k": noise, "v": noise, "length": np.full(1, context)}
    found = {f"cache_{layer}.{field}": value for layer in range(8) for field, value in fields.items()}
    pages = noise.reshape(1, kv_heads, -1, page, 64)
    extremes = np.concatenate([pages.max(3), pages.min(3)], 1).transpose(0, 2, 1, 3)
    return found | dict.fromkeys((f"bounds_{layer}" for layer in range(8)), extremes.reshape(1, pages.shape[2], -1))


def steps(session: Any, count: int, clock: Any) -> float:
    """The median milliseconds of so many steps."""
    times = []
    for _ in range(count):
        start = clock()
        session.decode(input_ids=np.array([[7]]), lengths=np.ones(1, np.int64))
        times.append(clock() - start)
    return statistics.median(times) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--budget", type=int, default=256)
    parser.add_argument("--page", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="wall")
    options = parser.parse_args()
    clock, threads = (time.process_time, 1) if options.clock == "cpu" else (time.perf_counter, None)
    variants = {
        "all": [],
        "latest_slots": [f"select_kv(method=latest_slots, k={options.budget})"],
        "token_vote": [f"select_kv(method=token_vote, k={options.budget})"],
        "token_vote reused": [f"select_kv(method=token_vote, k={options.budget}, reuse=0.9)"],
        "page_bounds": [f"select_kv(method=page_bounds, k={options.budget}, page={options.page})"],
    }
    sizes = {"vocab": 1000, "dim": 512, "depth": 8, "heads": 8, "kv_heads": options.kv_heads, "hidden": 1408}
    module = ts.load("zoo/llama", "llama_lm", sizes)
    ms: dict[str, dict[int, float]] = {name: {} for name in variants}
    results: dict[str, Any] = {key: getattr(options, key) for key in ("kv_heads", "budget", "page", "clock")}
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, Any] = {}
        for name, passes in variants.items():
            path = Path(folder) / name
            ts.compile(module, passes=["add_cache", *passes], target="onnx", verify=False, output=path)
            made[name] = ts.open(path, threads=threads)
        for context in CONTEXTS:
            start = states(options.kv_heads, context, options.page)
            runs: dict[str, Any] = {}
            for name, program in made.items():
                known = {port.name for port in program.runners["decode"].optional}
                runs[name] = program.session(
                    states={k: v for k, v in start.items() if k in known}, sizes={"C": context + ROOM}
                )
                steps(runs[name], SETTLE, clock)
            rounds = [{name: steps(run, options.steps, clock) for name, run in runs.items()} for _ in range(options.rounds)]
            for name in variants:
                ms[name][context] = statistics.median(row[name] for row in rounds)
            again = runs["token_vote reused"].states()["memo_0.hits"]
            results[f"steps_that_reused_of_{SETTLE + options.steps * options.rounds}_at_{context}"] = int(again[0])
    small, large = CONTEXTS
    for name, each in ms.items():
        results[name] = {
            **{f"ms_at_{context}": round(value, 2) for context, value in each.items()},
            "growth": round(each[large] / each[small], 2),
            f"times_all_at_{large}": round(ms["all"][large] / each[large], 2),
            f"ms_beyond_latest_slots_at_{large}": round(each[large] - ms["latest_slots"][large], 2),
        }
    write("select_kv", results)


if __name__ == "__main__":
    main()
