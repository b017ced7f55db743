"""What README says of speed, memory and fidelity, from the results beside this file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from .common import RESULTS, markdown_table
from .peer_speed import CANDIDATES, EXPORT, FLOATS, INTEGERS, OURS

_SPEED = {
    "vit_s batch 1 r 13": "ViT-S/16, batch 1, `r=13`",
    "vit_s batch 8 r 13": "ViT-S/16, batch 8, `r=13`",
    "vit_b batch 1 r 16": "ViT-B/16, batch 1, `r=16`",
    "vit_b batch 8 r 16": "ViT-B/16, batch 8, `r=16`",
    "minilm batch 1 tokens 128": "MiniLM, batch 1, 128 tokens, `keep=0.7`",
    "minilm batch 1 tokens 256": "MiniLM, batch 1, 256 tokens, `keep=0.7`",
    "minilm batch 8 tokens 128": "MiniLM, batch 8, 128 tokens, `keep=0.7`",
    "minilm batch 8 tokens 256": "MiniLM, batch 8, 256 tokens, `keep=0.7`",
}


def results(name: str) -> Any:
    """What ``benchmarks/results/NAME.json`` holds."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["results"]


def markdown() -> str:
    """A table of speeds, and a list of the rest."""
    table = markdown_table(["ONNX Runtime on 2 cores, in f32", "plain", "merged"], _speeds())
    head = ["others' best and ours, processor time of one thread", "in f32", "plain", "in int8", "plain, int8", "merged, int8"]
    peers = markdown_table(head, _peers())
    return "\n".join([table, "", peers, "", *(f"- {fact}" for fact in _facts())])


def _speeds() -> Iterator[list[str]]:
    found = results("ort_speed")
    for name, row in found.items():
        rows, shown = row["rows"], _SPEED[name]
        merged = next(row for candidate, row in rows.items() if candidate.startswith("tessera_merged"))
        yield [shown, *(f"{_speedup(row):.2f} x" for row in (rows["tessera"], merged))]


def _peers() -> Iterator[list[str]]:
    """Of each case whose every cell was measured the fastest that ONNX Runtime's tools, OpenVINO and PyTorch make of it, and ours,
    with their cosines in int8."""
    for name, found in results("peer_speed").items():
        if not found.keys() >= {*CANDIDATES}:
            continue
        rows = {EXPORT: {"cpu": 1.0}, **{n: row for n, row in found.items() if "missing" not in row}}
        best = [max((rows[n] for n in names if n in rows), key=lambda row: row["cpu"]) for names in (FLOATS, INTEGERS)]
        ours = [rows[n] for n in OURS if n != "tessera merged"]
        cells = [f"{row['cpu']:.2f} x" for row in (best[0], ours[0])]
        # 0.9996 is not 1.
        cells += [f"{row['cpu']:.2f} x ({math.floor(row['cosine'] * 1000) / 1000:.3f})" for row in (best[1], *ours[1:])]
        yield [_SPEED[name.removesuffix(" keep 0.7")], *cells]


def _facts() -> Iterator[str]:
    free = [row["merged_relative_to_fixed_indices"] for row in results("ort_speed").values() if len(row) > 1]
    yield f"Merging reaches {min(free):.2f} to {max(free):.2f} of the speed that it would have if choosing the tokens were free."
    building = results("compile_time")["vit_b16 with weights"]
    compared, plain = (_speedup(building[name]) for name in ("tessera", "tessera_no_verify"))
    yield (
        f"Compiling ViT-B/16 with its weights is {compared:.1f} x as fast as `torch.onnx.export`, the comparison with PyTorch at"
        f" two sizes included; {plain:.1f} x without."
    )
    lines, row = list(results("frontend")["lines"].items())[-1]
    yield f"A spec of {int(lines):,} lines is parsed and checked in {row['parse_and_check_s']:.2f} s."
    memory = results("memory")
    peak = memory["compared with torch"]["peak_above_baseline_mib"]
    yield (
        f"Compiling {memory['weights_gib']:.1f} GiB of weights takes {peak:.0f} MiB of memory above an idle interpreter, mapped"
        " files apart."
    )
    quality = results("minilm_quality")
    merged, dropped = (quality["kept 0.7"][name]["cosine"] for name in ("merge_tokens", "random_dropping"))
    yield (
        f"MiniLM with `keep=0.7` keeps a cosine of {merged:.3f} to its own embeddings of {quality['texts']} texts, where dropping"
        f" as many tokens at random keeps {dropped:.3f}."
    )


def _speedup(row: dict[str, float]) -> float:
    return row["speedup_over_torch_onnx_export"]
