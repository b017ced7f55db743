"""ONNX Runtime: our artifacts against `torch.onnx.export`'s, and the cost of matching against fixed indices.

python -m benchmarks.ort_speed [--openings N]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts
from tessera.driver.report.measure import interleaved
from tessera.ir.graph import Module
from tessera.passes.tokens.baselines import fixed_indices

from . import peers
from .common import summary, write

# Where a session's memory happens to lie makes a few percent: each file is opened several times, and each time has so many turns.
ROUNDS = 2


def session(path: Path) -> Any:
    """An ONNX Runtime session with its default options on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def runner(path: Path, feeds: dict[str, np.ndarray]) -> Callable[[], Any]:
    """A call that runs the file on ``feeds``, whatever names its inputs have."""
    run = session(path)
    named = dict(zip([i.name for i in run.get_inputs()], feeds.values(), strict=True))
    return lambda: run.run(None, named)


def timed(files: dict[str, Path], feeds: dict[str, np.ndarray], openings: int) -> dict[str, list[float]]:
    """Seconds of each file in each round."""
    times: dict[str, list[float]] = {name: [] for name in files}
    for opening in range(openings):
        order = list(files.items())[:: -1 if opening % 2 else 1]
        runs = {name: runner(path, feeds) for name, path in order}
        for name, seconds in interleaved(runs, ROUNDS).items():
            times[name].extend(seconds)
    return times


def compiled(module: Module, path: Path, weights: Path) -> Path:
    """Write an artifact without comparing it: that is what the tests do."""
    ts.compile(module, target="onnx", weights=weights, verify=False).save(path)
    return path


def vit(folder: Path, size: str, batch: int, r: int, openings: int) -> dict[str, Any]:
    """One ViT: exported, ours, ours merged, ours merged with fixed indices."""
    model = peers.vit(size)
    weights = peers.safetensors_of(model, folder / f"vit_{size}")
    image = np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)
    import torch

    exported = folder / f"vit_{size}_{batch}_export.onnx"
    peers.export(model, (torch.from_numpy(image),), exported)
    plain = ts.load(f"vit_{size}16")
    merged = ts.apply(plain, "merge_tokens", r=r, protect=1)
    files = {
        "torch_onnx_export": exported,
        "tessera": compiled(plain, folder / f"vit_{size}.onnx", weights),
        "tessera_merged": compiled(merged, folder / f"vit_{size}_merged.onnx", weights),
        "tessera_fixed_indices": compiled(fixed_indices(merged), folder / f"vit_{size}_fixed.onnx", weights),
    }
    times = timed(files, {"image": image}, openings)
    rows = summary(times, "torch_onnx_export")
    over_fixed = summary(times, "tessera_fixed_indices")["tessera_merged"]["speedup_over_tessera_fixed_indices"]
    over_plain = summary(times, "tessera")["tessera_merged"]["speedup_over_tessera"]
    return {"rows": rows, "merged_relative_to_fixed_indices": over_fixed, "merged_speedup_over_unmerged": over_plain}


def minilm(folder: Path, batch: int, tokens: int, openings: int) -> dict[str, Any]:
    """MiniLM with its published weights: exported, ours, ours merged."""
    import torch

    model = peers.minilm()
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 30000, (batch, tokens))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    exported = folder / "minilm_export.onnx"
    if not exported.exists():
        dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=512)}
        args = tuple(torch.from_numpy(v) for v in feeds.values())
        peers.export(model, args, exported, dynamic=(dims, dims))
    weights = peers.minilm_folder() / "model.safetensors"
    plain = ts.load("minilm")
    merged = ts.apply(plain, "merge_tokens", keep=0.7, protect=1)
    files = {
        "torch_onnx_export": exported,
        "tessera": compiled(plain, folder / "minilm.onnx", weights),
        "tessera_merged_keep_0.7": compiled(merged, folder / "minilm_merged.onnx", weights),
    }
    times = timed(files, feeds, openings)
    return {"rows": summary(times, "torch_onnx_export")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--openings", type=int, default=14)
    openings = parser.parse_args().openings
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for batch in (1, 8):
            results[f"vit_s batch {batch} r 13"] = vit(folder, "s", batch, 13, openings)
        for batch in (1, 8):
            results[f"vit_b batch {batch} r 16"] = vit(folder, "b", batch, 16, max(1, openings // 2))
        for batch, tokens in ((1, 128), (1, 256), (8, 128)):
            results[f"minilm batch {batch} tokens {tokens}"] = minilm(folder, batch, tokens, openings)
    write("ort_speed", results)


if __name__ == "__main__":
    main()
