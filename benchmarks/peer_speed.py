"""Ours beside what others make of the same model, in floats and in int8: ONNX Runtime's own tools, OpenVINO, PyTorch.

    python -m benchmarks.peer_speed                                  # every cell that has not been measured
    python -m benchmarks.peer_speed --only 'minilm batch 1' --again  # cells whose name holds this, anew

A cell is one candidate of one case beside `torch.onnx.export`'s file: both take turns, and what counts is the ratio within a
round. Both get one thread, so that the time that processors spend on a run is that of the run: other work on the machine hardly
changes it (`cpu`), while the clock on the wall beside it wants a quiet machine (`wall`). A cell is written as soon as it is
measured, with the load that the machine had; the files of all candidates are kept in `--folder`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts
from tessera.driver.report.calibration import Examples
from tessera.driver.report.quantize import quantize_best

from . import peers
from .common import RESULTS, machine
from .texts import corpus

EXPORT = "torch.onnx.export"
ORT = {"ORT's optimiser": EXPORT, "ORT's optimiser, traced": "traced"}
# int8 of ONNX Runtime's quantizer: of which file, and whether with a scale a channel.
EIGHT = {
    f"{name}, {kind}": (name, channels)
    for name in (EXPORT, *ORT)
    for kind, channels in (("int8", True), ("int8 by tensor", False))
}
FLOATS = (EXPORT, *ORT, "OpenVINO", "PyTorch", "torch.compile")
INTEGERS = (*EIGHT, "OpenVINO, int8")
OURS = ("tessera", "tessera, int8", "tessera merged", "tessera merged, int8")
CANDIDATES = (*OURS, *FLOATS[1:], *INTEGERS)
# Runs of a turn that do not count, and those of which the median does; one of each where a run takes longer than so many seconds.
WARM, COUNTED, LONG = 2, 3, 0.3
# Texts or images that calibrate.
EXAMPLES = 16

Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A model at one size: ``minilm``, or a ViT of ``peers.VIT``; ``tokens`` of a text."""

    model: str
    batch: int
    tokens: int | None
    merging: tuple[str, float]

    @property
    def name(self) -> str:
        what = f"minilm batch {self.batch} tokens {self.tokens}" if self.tokens else f"vit_{self.model} batch {self.batch}"
        option, value = self.merging
        return f"{what} {option} {value}"

    @cached_property
    def examples(self) -> list[dict[str, np.ndarray]]:
        """Inputs to calibrate on; the first is what is timed. Texts, or images of noise: the weights of the ViTs are random."""
        if self.tokens is not None:
            return texts(self.batch, self.tokens)
        rng = np.random.default_rng(0)
        shape = (self.batch, 3, 224, 224)
        return [{"image": rng.standard_normal(shape).astype(np.float32)} for _ in range(EXAMPLES // self.batch)]

    @cached_property
    def feeds(self) -> list[np.ndarray]:
        return list(self.examples[0].values())

    def net(self) -> Any:
        return peers.minilm() if self.model == "minilm" else peers.vit(self.model)


CASES = [
    *(Case("minilm", batch, tokens, ("keep", 0.7)) for tokens in (128, 256) for batch in (1, 8)),
    *(Case("s", batch, None, ("r", 13)) for batch in (1, 8)),
    *(Case("b", batch, None, ("r", 16)) for batch in (1, 8)),
]


def texts(batch: int, tokens: int) -> list[dict[str, np.ndarray]]:
    """Batches of real texts, each of exactly so many tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(peers.minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    whole = [tokenizer.encode(text).ids for text in corpus(80)]
    rows = np.array([[*ids[: tokens - 1], ids[-1]] for ids in whole if len(ids) >= tokens], np.int64)
    starts = range(0, min(EXAMPLES, len(rows)) - batch + 1, batch)
    batches = [rows[i : i + batch] for i in starts]
    return [{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in batches]


# The files ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """The file of every candidate of a case, each made when it is asked for and kept in a folder of its own."""

    case: Case
    folder: Path

    def __call__(self, name: str) -> Path:
        suffix = ".xml" if name.startswith("OpenVINO") else ".onnx"
        # What stands by itself is made once for all sizes; of int8 what is best at this one.
        sizes = "" if name in OURS and "int8" not in name else f"_{self.case.batch}_{self.case.tokens or 224}"
        merging = "_".join(map(str, self.case.merging)) if "merged" in name else ""
        place = self.folder / f"{self.case.model}{sizes}" / (name.replace(" ", "_") + merging)
        if not place.exists():
            aside = place.with_name(f"{place.name}.part")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            self._make(name, aside / f"model{suffix}")
            aside.rename(place)
        return place / f"model{suffix}"

    def _make(self, name: str, path: Path) -> None:
        import torch

        case = self.case
        args = tuple(map(torch.from_numpy, case.feeds))
        if name == EXPORT:
            peers.export(case.net(), args, path)
        elif name == "traced":
            peers.traced(case.net(), args, path, case.model)
        elif name in ORT:
            peers.optimised(self(ORT[name]), case.model, path)
        elif name in EIGHT:
            source, channels = EIGHT[name]
            peers.quantized(self(source), path, channels)
        elif name == "OpenVINO, int8":
            peers.openvino_int8(self(EXPORT), [list(e.values()) for e in case.examples], path)
        elif name.endswith("int8"):
            # As `tessera optimize --int8` has them; OpenVINO's is calibrated on the same.
            quantize_best(self(name.removesuffix(", int8")), path, None, Examples(case.examples, "examples"), threads=1)
        else:
            self._ours(merged="merged" in name, path=path)

    def _ours(self, merged: bool, path: Path) -> None:
        case = self.case
        module = ts.load("minilm" if case.model == "minilm" else f"vit_{case.model}16")
        if merged:
            module = ts.apply(module, "merge_tokens", protect=1, **dict([case.merging]))
        weights = peers.minilm_folder() / "model.safetensors"
        if case.model != "minilm":
            weights = peers.safetensors_of(case.net(), path.parent / "hf")
        ts.compile(module, target="onnx", weights=weights, verify=False).save(path)


def runner(name: str, files: Files) -> Run:
    """A call of a candidate in one thread. Raises whatever its maker does."""
    case = files.case
    if name in ("PyTorch", "torch.compile"):
        return peers.torch_run(case.net(), case.feeds, 1, name == "torch.compile")
    if name.startswith("OpenVINO"):
        return peers.openvino(files(EXPORT if name == "OpenVINO" else name), case.feeds, 1)
    return peers.session(files(name), case.feeds, 1)


# A cell ------------------------------------------------------------------------------------------------------------------


def measured(base: Run, other: Run, seconds: float) -> dict[str, Any]:
    """How many times faster ``other`` is, by both clocks: medians of the ratios within a round, 3 rounds or more."""
    rows: list[tuple[tuple[float, float], tuple[float, float]]] = []
    short = _turn(base, 1, 1)[0] < LONG
    turns = (WARM, COUNTED) if short else (1, 1)
    end = time.perf_counter() + seconds
    while len(rows) < 3 or time.perf_counter() < end:
        rows.append((_turn(base, *turns), _turn(other, *turns)))
    found: dict[str, Any] = {"rounds": len(rows)}
    for i, clock in enumerate(("cpu", "wall")):
        found[clock] = round(statistics.median(a[i] / b[i] for a, b in rows), 4)
        found[f"{clock}_ms"] = round(statistics.median(b[i] for _, b in rows) * 1e3, 3)
    return found


def _turn(run: Run, warm: int, counted: int) -> tuple[float, float]:
    """Seconds of processors and on the wall: medians of runs behind some that do not count."""
    for _ in range(warm):
        run()
    taken = []
    for _ in range(counted):
        start, wall = time.process_time(), time.perf_counter()
        run()
        taken.append((time.process_time() - start, time.perf_counter() - wall))
    cpu, wall = (statistics.median(t) for t in zip(*taken, strict=True))
    return cpu, wall


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The mean over rows."""
    a, b = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).mean())


def cell(name: str, files: Files, seconds: float) -> dict[str, Any]:
    """What was measured of a candidate, or why there is none of it."""
    base = runner(EXPORT, files)
    try:
        run = runner(name, files)
    except Exception as error:  # not installed, no compiler for C++, a file that its own runtime does not take
        return {"missing": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    near = cosine(np.asarray(run()), np.asarray(base()))
    load = round(os.getloadavg()[0], 2)
    return {**measured(base, run, seconds), "cosine": round(near, 5), "load": load}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cells `CASE / CANDIDATE` whose name holds this")
    parser.add_argument("--again", action="store_true", help="also cells that have been measured")
    parser.add_argument("--seconds", type=float, default=12.0, help="for the turns of one cell")
    parser.add_argument("--folder", type=Path, default=Path("out/peers"), help="for the files of all candidates")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    path = RESULTS / "peer_speed.json"
    results = json.loads(path.read_text("utf-8"))["results"] if path.exists() else {}
    for case in CASES:
        files = Files(case, options.folder.resolve())
        for name in CANDIDATES:
            done = name in results.get(case.name, ())
            if options.only not in f"{case.name} / {name}" or (done and not options.again):
                continue
            found = cell(name, files, options.seconds)
            print(f"{case.name} / {name}: {found}", flush=True)
            results.setdefault(case.name, {})[name] = found
            path.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
