"""Ours beside what others make of the same model, in floats and in int8: ONNX Runtime's own tools, OpenVINO, PyTorch.

    python -m benchmarks.peer_speed [CASE …] [--clock cpu] [--rounds N]

`--clock cpu` gives each candidate one thread and counts the time that processors spend on it, which other work hardly changes;
`wall` is the clock on the wall, with the threads that each takes by itself, and wants a quiet machine.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts
from tessera.driver.report.measure import interleaved
from tessera.driver.report.quantize import quantize

from . import peers
from .common import speedup, write
from .texts import corpus

# name -> (model, batch, tokens of a text or None, options of merge_tokens)
CASES: dict[str, tuple[str, int, int | None, dict[str, Any]]] = {
    "minilm batch 1 tokens 128 keep 0.7": ("minilm", 1, 128, {"keep": 0.7}),
    "minilm batch 1 tokens 256 keep 0.7": ("minilm", 1, 256, {"keep": 0.7}),
    "minilm batch 8 tokens 128 keep 0.7": ("minilm", 8, 128, {"keep": 0.7}),
    "vit_s batch 1 r 13": ("s", 1, None, {"r": 13}),
    "vit_s batch 8 r 13": ("s", 8, None, {"r": 13}),
    "vit_b batch 1 r 16": ("b", 1, None, {"r": 16}),
    "vit_b batch 8 r 16": ("b", 8, None, {"r": 16}),
}
EXPORT = "torch.onnx.export"
Run = Callable[[], Any]


def texts(batch: int, tokens: int) -> dict[str, np.ndarray]:
    """So many real texts of exactly so many tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(peers.minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    whole = [tokenizer.encode(text).ids for text in corpus(40)]
    rows = [[*ids[: tokens - 1], ids[-1]] for ids in whole if len(ids) >= tokens][:batch]
    ids = np.array(rows, np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def inputs(model: str, batch: int, tokens: int | None) -> dict[str, np.ndarray]:
    """Texts, or images of noise: the weights of the ViTs are random."""
    if tokens is not None:
        return texts(batch, tokens)
    return {"image": np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)}


def files(model: str, feeds: dict[str, np.ndarray], merging: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Every candidate that is a file of ONNX."""
    import torch

    net = peers.minilm() if model == "minilm" else peers.vit(model)
    args = tuple(torch.from_numpy(v) for v in feeds.values())
    exported = folder / "export.onnx"
    peers.export(net, args, exported)
    made = {EXPORT: exported, **peers.optimised(net, args, exported, model, folder)}
    for name, path in list(made.items()):
        for kind, channels in (("int8", True), ("int8 by tensor", False)):
            made[f"{name}, {kind}"] = peers.quantized(path, folder / f"{len(made)}.onnx", channels)
    weights = peers.minilm_folder() / "model.safetensors" if model == "minilm" else peers.safetensors_of(net, folder / "hf")
    plain = ts.load("minilm" if model == "minilm" else f"vit_{model}16")
    for name, module in (("tessera", plain), ("tessera merged", ts.apply(plain, "merge_tokens", protect=1, **merging))):
        made[name] = folder / f"{name.replace(' ', '_')}.onnx"
        ts.compile(module, target="onnx", weights=weights, verify=False).save(made[name])
        made[f"{name}, int8"] = quantize(made[name], made[name].with_suffix(".int8.onnx"))
    return made


def candidates(
    model: str, made: dict[str, Path], feeds: dict[str, np.ndarray], threads: int | None
) -> tuple[dict[str, Run], dict[str, str]]:
    """What runs each candidate; and why others are none."""
    import onnxruntime

    runs: dict[str, Run] = {}
    missing: dict[str, str] = {}
    for name, path in made.items():
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or 0
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the quantizer makes files that the runtime does not take
            missing[name] = str(error).splitlines()[0][:200]
            continue
        named = dict(zip([i.name for i in session.get_inputs()], feeds.values(), strict=True))
        runs[name] = partial(_first, session, named)
    for name, make in (("OpenVINO", peers.openvino), ("OpenVINO of ours", peers.openvino)):
        path = made[EXPORT if name == "OpenVINO" else "tessera"]
        try:
            runs[name] = make(path, list(feeds.values()), threads)
        except Exception as error:  # not installed, or an op that it lacks
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    net = peers.minilm() if model == "minilm" else peers.vit(model)
    for name, compiling in (("PyTorch", False), ("torch.compile", True)):
        try:
            runs[name] = peers.torch_run(net, list(feeds.values()), threads, compiling)
        except Exception as error:  # no compiler for C++
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return runs, missing


def _first(session: Any, feeds: dict[str, np.ndarray]) -> Any:
    return session.run(None, feeds)[0]


def processor_time(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds that processors spend on each candidate in each round: a median of three runs behind two that do not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run(), run()
            taken = []
            for _ in range(3):
                start = time.process_time()
                run()
                taken.append(time.process_time() - start)
            times[name].append(statistics.median(taken))
    return times


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The mean over rows."""
    a, b = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).mean())


def case(name: str, clock: str, rounds: int | None) -> dict[str, Any]:
    """All candidates of one case, and how much faster than `torch.onnx.export`'s file each is."""
    model, batch, tokens, merging = CASES[name]
    feeds = inputs(model, batch, tokens)
    with tempfile.TemporaryDirectory() as folder:
        made = files(model, feeds, merging, Path(folder))
        runs, missing = candidates(model, made, feeds, 1 if clock == "cpu" else None)
        wanted = np.asarray(runs[EXPORT]())
        near = {n: cosine(np.asarray(run()), wanted) for n, run in runs.items()}
        times = processor_time(runs, rounds or 5) if clock == "cpu" else interleaved(runs, rounds)
    rows = {
        n: {"median_ms": round(statistics.median(t) * 1e3, 3), "speedup": round(speedup(times, n, EXPORT), 4),
            "cosine": round(near[n], 5)}
        for n, t in times.items()
    }  # fmt: skip
    theirs = {n: row["speedup"] for n, row in rows.items() if not n.startswith("tessera") and "ours" not in n}
    floats = max(v for n, v in theirs.items() if "int8" not in n)
    eight = max(v for n, v in theirs.items() if "int8" in n)
    ours = max(row["speedup"] for n, row in rows.items() if n.startswith("tessera") and "int8" in n)
    return {
        "clock": clock, "rows": rows, "missing": missing,
        "unmerged over the best in floats": round(rows["tessera"]["speedup"] / floats, 4),
        "merged, int8 over the best int8": round(rows["tessera merged, int8"]["speedup"] / eight, 4),
        "best int8 over the best int8": round(ours / eight, 4),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="of the names in CASES; all when none is given")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--rounds", type=int, help="of turns; default: what fits into 12 seconds, or 5 of --clock cpu")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    results = {}
    for name in options.cases or CASES:
        results[name] = case(name, options.clock, options.rounds)
        write("peer_speed", results)


if __name__ == "__main__":
    main()
