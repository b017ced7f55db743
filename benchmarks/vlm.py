"""Prompt processing of a vision-language model in ONNX Runtime, on one thread: a quarter of the image's tokens against all of them.

The model is `llava_prompt` with CLIP-ViT-B's tower (576 patches, the features behind block 11 of 12) and twelve decoder layers of
width 768; the prompt has 64 tokens of text. Tokens leave by the attention of the class token: evenly in the tower's first six
blocks, or all of them in the last one that is used, in which case only the decoder is shorter. Times are taken as
`benchmarks.reduction_speed` takes them: in turns, and the process's CPU time.

    python -m benchmarks.vlm [--rounds N]
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np

import tessera as ts

from .common import write
from .reduction_speed import compared

PATCHES, TEXT = 576, 64
SIZES: dict[str, Any] = {
    "image_at": 5, "size": 336, "patch": 14, "dim": 768, "depth": 12, "heads": 12, "hidden": 3072, "vocab": 32000,
    "text_dim": 768, "text_depth": 12, "text_heads": 12, "text_hidden": 2048, "last": True,
}  # fmt: skip
GONE = PATCHES * 3 // 4
REDUCTIONS = {
    "quarter_from_the_first_six_blocks": f"prune_tokens(method=by_row, protect=1, blocks={[*range(6)]}, r={[GONE // 6] * 6})",
    "quarter_for_the_decoder": f"prune_tokens(method=by_row, protect=1, blocks=[10], r={GONE})",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    feeds = {
        "image": rng.standard_normal((1, 3, 336, 336)).astype(np.float32),
        "input_ids": rng.integers(3, 32000, (1, PATCHES + TEXT)),
    }
    load = [round(os.getloadavg()[0], 2)]
    rows = compared(ts.load("zoo/llava", "llava_prompt", SIZES), REDUCTIONS, feeds, rounds)
    load.append(round(os.getloadavg()[0], 2))
    remark = "other work may run on the machine: CPU time of one thread"
    write("vlm", {**rows, "load_before_and_after": load, "remark": remark})


if __name__ == "__main__":
    main()
