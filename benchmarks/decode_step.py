"""One decode step with caches of 2k and of 32k slots, attention left out: what is left is the update of the states.

    python -m benchmarks.decode_step [--layers 8] [--steps 200]

A step that copies its caches takes longer with every slot; one that writes in place does not. Both sizes take turns, each after
steps that do not count; beside them runs the same step through a call that takes the states in and gives them back.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import tessera as ts

from .common import write

SOURCE = """
use std.cache (KVCache, append)
use std.nn (linear)

model step(x: f32[B, S, 256], *, layers: int = 8) -> f32[B, S, 256] {
    repeat i in layers as layers {
        state cache: KVCache[B, 4, C, 64, 64] = zeros
        k = rearrange(linear(x, out=256) as k, "b s (h k) -> b h s k", h=4)
        v = rearrange(linear(x, out=256) as v, "b s (h k) -> b h s k", h=4)
        cache = append(cache, k, v)
        x = x + linear(x, out=256) as out
    }
    return x
}
"""
SLOTS = (2048, 32768)
SETTLE = 20


def timed(run: Callable[[], Any], count: int, settle: int = SETTLE) -> float:
    """The median seconds of ``count`` runs, after some that do not count."""
    for _ in range(settle):
        run()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    x = np.random.default_rng(0).standard_normal((1, 1, 256)).astype(np.float32)
    results: dict[str, Any] = {"layers": options.layers, "slots": list(SLOTS)}
    for target, settings in (("onnx", {}), ("onnx", {"opset": 18}), ("torch", {})):
        artifact = ts.compile(
            ts.loads(SOURCE, params={"layers": options.layers}), target=target, verify=False, **settings
        )
        runs = {slots: artifact.session(sizes={"C": slots}) for slots in SLOTS}
        rounds = [
            {slots: timed(partial(run, x=x), options.steps // options.rounds) for slots, run in runs.items()}
            for _ in range(options.rounds)
        ]
        small, large = SLOTS
        states = runs[large].states()
        copied = timed(partial(artifact, x=x, **states), 3, settle=1)
        results[" ".join([target, *(f"{k}={v}" for k, v in settings.items())])] = {
            f"ms_at_{slots}": round(statistics.median(r[slots] for r in rounds) * 1e3, 3) for slots in SLOTS
        } | {
            "ratio": round(statistics.median(r[large] / r[small] for r in rounds), 3),
            f"ms_at_{large}_with_states_in_and_out": round(copied * 1e3, 1),
        }
    write("decode_step", results)


if __name__ == "__main__":
    main()
