"""The report of `tessera optimize` against an outside stopwatch: plain `onnxruntime` in a process of its own.

    python -m benchmarks.report_check [--rounds N] [--repeats N]
    python -m benchmarks.report_check --verdicts 11    # one command again and again, nearly half of it beside a busy process

For each model the report's median milliseconds and speed-up stand beside those of the stopwatch, which knows nothing of Tessera:
a process opens one file, makes the inputs from their declared shapes, and runs it, alone as it will be used; those of both files
take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tessera.driver.optimize import Options, optimize
from tessera.driver.read import read_model

from . import peers
from .common import write

STOPWATCH = """
import json, statistics, sys, time
import numpy as np
import onnxruntime as ort
sizes, path = json.loads(sys.argv[1]), sys.argv[2]
options = ort.SessionOptions()
options.log_severity_level = 4
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
rng = np.random.default_rng(0)
feeds = {}
for i in session.get_inputs():
    shape = [d if isinstance(d, int) else sizes[d] for d in i.shape]
    if i.type == "tensor(float)":
        feeds[i.name] = rng.standard_normal(shape).astype(np.float32)
    else:
        feeds[i.name] = np.ones(shape, np.int64) if "mask" in i.name else rng.integers(0, 1000, shape)
for line in sys.stdin:
    end = time.perf_counter() + 0.25
    while time.perf_counter() < end:
        session.run(None, feeds)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    print(statistics.median(times) * 1e3, flush=True)
"""


def stopwatch(files: list[Path], sizes: dict[str, int], rounds: int) -> dict[str, Any]:
    """Median milliseconds of both files, each in a process of its own that waits while the other one's turn is, and the median of
    the ratios within a round."""
    command = [sys.executable, "-c", STOPWATCH, json.dumps(sizes)]
    clocks = [subprocess.Popen([*command, str(f)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for f in files]
    found = []
    for _ in range(rounds):
        turn = []
        for clock in clocks:
            assert clock.stdin is not None
            assert clock.stdout is not None
            clock.stdin.write("\n")
            clock.stdin.flush()
            turn.append(float(clock.stdout.readline()))
        found.append(turn)
    for clock in clocks:
        clock.communicate()
    ms = [statistics.median(column) for column in zip(*found, strict=True)]
    return {"ms": ms, "speedup": statistics.median(a / b for a, b in found)}


def check(
    folder: Path, model: Path, steps: list[str], sizes: dict[str, int], rounds: int, repeats: int
) -> dict[str, Any]:
    """The report's figures and the stopwatch's for one ONNX file, and how far apart they are: the median of pairs.

    Each pair is taken as close together in time as two processes can be, so that other work on the machine meets both.
    """
    output = folder / "fast.onnx"
    options = Options(sizes=sizes, rounds=rounds, memory=False)
    pairs = []
    for _ in range(repeats):
        report = optimize(read_model(model), passes=steps, output=output, options=options)
        rows = report["latency"]["rows"]
        ms = [rows[n]["ms"]["median"] for n in ("original", "optimized")]
        inside = {"ms": ms, "speedup": rows["optimized"]["speedup"]["median"]}
        pairs.append((inside, stopwatch([model, output], report["sizes"], rounds)))

    def apart(figure: Callable[[dict[str, Any]], float]) -> float:
        return round(statistics.median(figure(a) / figure(b) for a, b in pairs) - 1, 4)

    return {
        "pairs": [{"report": a, "stopwatch": b} for a, b in pairs],
        "original_ms_apart": apart(lambda row: float(row["ms"][0])),
        "optimized_ms_apart": apart(lambda row: float(row["ms"][1])),
        "speedup_apart": apart(lambda row: float(row["speedup"])),
    }


def exported_minilm(folder: Path) -> Path:
    """MiniLM with free batch and tokens, as `torch.onnx.export` writes it."""
    import torch

    path = folder / "minilm.onnx"
    ids = torch.randint(0, 1000, (2, 64))
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=512)}
    peers.export(peers.minilm(), (ids, torch.ones_like(ids)), path, dynamic=(dims, dims))
    return path


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """A process that keeps one processor busy, if that is wanted."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()
            other.wait()


def verdicts(folder: Path, count: int) -> dict[str, Any]:
    """What one command says each time, and how far its ratio is from that of stopwatches right behind it."""
    model, output = exported_minilm(folder), folder / "fast.onnx"
    options = Options(sizes={"tokens": 256}, memory=False)
    rows = []
    for turn in range(count):
        with busy(turn % 2 == 1):
            report = optimize(read_model(model), passes=["merge_tokens(keep=0.5, protect=1)"], output=output, options=options)
            outside = stopwatch([model, output], report["sizes"], 21)["speedup"]
        speed = report["latency"]["rows"]["optimized"]["speedup"]["median"]
        rows.append({
            "busy": turn % 2 == 1, "pays": report["verdict"]["speed"]["pays"], "gain": report["latency"]["gain"],
            "rounds": report["latency"]["rounds"], "speedup": speed, "stopwatch": round(outside, 4),
            "load": report["machine"]["load"],
        })  # fmt: skip
        print(rows[-1], flush=True)
    apart = [row["speedup"] / row["stopwatch"] - 1 for row in rows]
    return {
        "rows": rows, "verdicts": sorted({str(row["pays"]) for row in rows}), "apart": round(statistics.median(apart), 4),
        "apart_largest": round(max(map(abs, apart)), 4),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--verdicts", type=int, help="only this: so many times one command")
    arguments = parser.parse_args()
    rounds, repeats = arguments.rounds, arguments.repeats
    if arguments.verdicts:
        with tempfile.TemporaryDirectory() as name:
            write("verdicts", verdicts(Path(name), arguments.verdicts))
        return
    import torch

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vit = folder / "vit.onnx"
        batch = torch.export.Dim("batch")
        peers.export(peers.vit("s"), (torch.randn(2, 3, 224, 224),), vit, dynamic=({0: batch},))
        results["vit_s batch 1 r 13"] = check(folder, vit, ["merge_tokens(r=13, protect=1)"], {}, rounds, repeats)
        minilm = exported_minilm(folder)
        steps = ["merge_tokens(keep=0.5, protect=1)"]
        results["minilm tokens 256 keep 0.5"] = check(folder, minilm, steps, {"tokens": 256}, rounds, repeats)
    write("report_check", results)


if __name__ == "__main__":
    main()
