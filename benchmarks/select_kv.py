"""One decode step behind contexts of 2k and of 32k tokens: reading all slots of the cache, and those that a method chooses.

    python -m benchmarks.select_kv [--kv-heads 8] [--budget 256] [--page 32]

A Llama-style decoder of 8 layers, 512 features and 8 heads on ONNX Runtime, its cache full of noise. Each variant is timed after
steps that do not count; reading all slots is timed first and last.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from typing import Any

import numpy as np

import tessera as ts

from .common import write
from .decode_step import timed

CONTEXTS = (2048, 32768)
# Slots behind the context, for the steps that are measured.
ROOM = 256


def states(kv_heads: int, context: int, page: int | None) -> dict[str, Any]:
    """The cache of one row that has read so many tokens of noise; with ``page`` the bounds of its pages too."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, kv_heads, context + ROOM, 64), np.float32)
    fields = {"k": noise, "v": noise, "length": np.full(1, context)}
    found = {f"cache_{layer}.{field}": value for layer in range(8) for field, value in fields.items()}
    if page is not None:
        pages = noise.reshape(1, kv_heads, -1, page, 64)
        extremes = np.concatenate([pages.max(3), pages.min(3)], 1).transpose(0, 2, 1, 3)
        found |= dict.fromkeys((f"bounds_{layer}" for layer in range(8)), extremes.reshape(1, pages.shape[2], -1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--budget", type=int, default=256)
    parser.add_argument("--page", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    token = {"input_ids": np.array([[7]]), "lengths": np.ones(1, np.int64)}
    variants = {
        "all": [],
        "latest_slots": [f"select_kv(method=latest_slots, k={options.budget})"],
        "token_vote": [f"select_kv(method=token_vote, k={options.budget})"],
        "page_bounds": [f"select_kv(method=page_bounds, k={options.budget}, page={options.page})"],
    }
    sizes = {"vocab": 1000, "dim": 512, "depth": 8, "heads": 8, "kv_heads": options.kv_heads, "hidden": 1408}
    module = ts.load("zoo/llama", "llama_lm", sizes)
    made: dict[str, Any] = {
        name: ts.compile(module, passes=["add_cache", *passes], target="onnx", verify=False) for name, passes in variants.items()
    }
    ms: dict[str, dict[int, float]] = {name: {} for name in variants}
    for context in CONTEXTS:
        first: dict[str, list[float]] = {name: [] for name in variants}
        for name in (*variants, "all"):
            start = states(options.kv_heads, context, options.page if name == "page_bounds" else None)
            run = made[name]["decode"].session(states=start)
            first[name].append(timed(partial(run, **token), options.steps, settle=3) * 1e3)
        for name, times in first.items():
            ms[name][context] = statistics.mean(times)
    small, large = CONTEXTS
    results: dict[str, Any] = {"kv_heads": options.kv_heads, "budget": options.budget, "page": options.page}
    for name, each in ms.items():
        results[name] = {
            **{f"ms_at_{context}": round(value, 2) for context, value in each.items()},
            "growth": round(each[large] / each[small], 2),
            f"times_all_at_{large}": round(ms["all"][large] / each[large], 2),
        }
    write("select_kv", results)


if __name__ == "__main__":
    main()
