"""Every kernel, at the tiles that we choose for it, compiles for GPUs that are not there, and keeps everything in registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from tessera.backends.triton import build
from tessera.frontends.source import loads
from tessera.kernels import (
    attention,
    bipartite_merge,
    cached_attention,
    gated_experts,
    grouped_matmul,
    select_top,
    spread_out,
    token_choice,
    token_vote,
    varlen_attention,
)
from tessera.kernels.launch import INTERPRETED, recording

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INTERPRETED, reason="launches are recorded in the interpreter"),
]
GOLDEN = Path(__file__).with_name("compiled.json")


def attend(width: int, dtype: torch.dtype, *, biased: bool, causal: bool) -> None:
    """Forwards with all statistics, and backwards."""
    q, k, v = (torch.zeros(1, 2, 64, width, dtype=dtype, requires_grad=True) for _ in range(3))
    bias = torch.zeros(1, 1, 1, 64, requires_grad=True) if biased else None
    y, mass, row, lse = attention(q, k, v, bias=bias, causal=causal, column_mass=True, row=0)
    (y.float().sum() + mass.float().sum() + row.float().sum() + lse.sum()).backward()


def paying(dtype: torch.dtype) -> None:
    """More keys than a program keeps the exponentials of."""
    q, k, v = (torch.zeros(1, 2, 160, 64, dtype=dtype) for _ in range(3))
    attention(q, k, v, column_mass=True)


def merge(width: int, dtype: torch.dtype) -> None:
    x = torch.zeros(1, 200, width, dtype=dtype)
    index, size = torch.arange(200)[None], torch.ones(1, 200)
    bipartite_merge(x, index, size, index, x[..., :64], r=20, protect=1)


def experts(dtype: torch.dtype) -> None:
    x = torch.zeros(70, 80, dtype=dtype, requires_grad=True)
    w = torch.zeros(3, 80, 96, dtype=dtype, requires_grad=True)
    grouped_matmul(x, w, torch.tensor([20, 50, 70])).float().sum().backward()


def voting(dtype: torch.dtype) -> None:
    q, keys = torch.zeros(1, 32, 1, 128, dtype=dtype), torch.zeros(1, 8, 200, 128, dtype=dtype)
    token_vote(q, keys, torch.tensor([200]), k=64)


def reading(dtype: torch.dtype) -> None:
    """A step of 32 heads that reads pages through a list and turns their keys, and a tree of 16 tokens behind a cache."""
    q, pool = torch.zeros(1, 32, 1, 128, dtype=dtype), torch.zeros(40, 8, 16, 128, dtype=dtype)
    index, angle = torch.zeros(1, 100, dtype=torch.int64), torch.zeros(1, 100, 64, dtype=dtype)
    cached_attention(q, pool, pool, index, angle, angle, until=torch.zeros(1, 1, dtype=torch.int64), pages=True)
    q, keys = torch.zeros(1, 32, 16, 128, dtype=dtype), torch.zeros(1, 8, 200, 128, dtype=dtype)
    cached_attention(q, keys, keys, start=torch.tensor([100]), tree=torch.ones(1, 16, 16, dtype=torch.bool))


def routing(dtype: torch.dtype) -> None:
    """Tokens of 80 features, each of which goes to 4 of 32 experts with gates."""
    expert, weight = token_choice(torch.zeros(70, 32, dtype=dtype), k=4)
    gate_up, down = torch.zeros(32, 80, 192, dtype=dtype), torch.zeros(32, 96, 80, dtype=dtype)
    gated_experts(torch.zeros(70, 80, dtype=dtype), expert, weight, gate_up, down)


def packed(dtype: torch.dtype) -> None:
    """Sequences of 12 heads of 64 features, and of 8 of 128."""
    ends = torch.tensor([100, 130, 200])
    for heads, width, causal in ((12, 64, False), (8, 128, True)):
        q, k = torch.zeros(200, heads * width, dtype=dtype), torch.zeros(200, heads // 4 * width, dtype=dtype)
        varlen_attention(q, ends, k, ends, k, heads=heads, kv_heads=heads // 4, causal=causal)


def spreading() -> None:
    for tokens, objective in ((577, "max_sum"), (577, "k_center"), (4096, "k_center")):
        spread_out(torch.zeros(1, tokens, 64), torch.zeros(1, tokens), k=1, objective=objective)


def generated(text: str, dtype: torch.dtype) -> None:
    """The group of a program of 64 rows; a width is a number of the program."""
    module = loads(text.replace("F[", f"{'f16' if dtype == torch.float16 else 'bf16'}["))
    network = build(module)
    network(*(torch.zeros([d.value or 64 for d in v.type.shape], dtype=dtype) for v in module.graph.inputs))


NORM = """model m(x: F[N, 1024], y: F[N, 1024], w: F[1024]) -> (F[N, 1024], F[N, 1024]) {
    x = x + y
    return x, x * rsqrt(mean(x * x, axis=-1, keepdims=true) + 0.00001) * w
}"""
SOFTMAX = """model m(x: F[N, 4096]) -> F[N, 4096] {
    e = exp(x - max(x, axis=-1, keepdims=true))
    return e / sum(e, axis=-1, keepdims=true)
}"""
GATE = "model m(x: F[N, 3072], y: F[N, 3072]) -> F[N, 3072] { return x * sigmoid(x) * tanh(y) }"
ROPE = """model m(a: F[1, N, 8, 64], b: F[1, N, 8, 64], c: F[N, 64], s: F[N, 64]) -> F[1, 8, N, 128] {
    a = transpose(a, [0, 2, 1, 3])
    b = transpose(b, [0, 2, 1, 3])
    return concat(a * c - b * s, b * c + a * s, axis=-1)
}"""

CASES: dict[str, Callable[[], Any]] = {
    **{
        f"attention of {width} features, {str(dtype)[6:]}{', bias' if biased else ''}{', causal' if causal else ''}": partial(
            attend, width, dtype, biased=biased, causal=causal
        )
        for width in (64, 128)
        for dtype, biased, causal in (
            (torch.float16, False, False), (torch.bfloat16, False, True), (torch.bfloat16, True, False),
        )
    },
    "attention of 64 features and 160 keys with column mass, bfloat16": lambda: paying(torch.bfloat16),
    "merging 200 tokens of 768 features, float16": lambda: merge(768, torch.float16),
    "selecting among 577 tokens": lambda: select_top(torch.zeros(1, 577), 58),
    "experts, bfloat16": lambda: experts(torch.bfloat16),
    "32 heads that vote over a cache, bfloat16": lambda: voting(torch.bfloat16),
    "slots, pages and a tree of a cache, bfloat16": lambda: reading(torch.bfloat16),
    "packed sequences, bfloat16": lambda: packed(torch.bfloat16),
    "spreading over 577 and 4096 tokens": spreading,
    "routing and gated experts, bfloat16": lambda: routing(torch.bfloat16),
    "a generated norm of 1024 features behind a sum, bfloat16": lambda: generated(NORM, torch.bfloat16),
    "a generated softmax of 4096 columns, float16": lambda: generated(SOFTMAX, torch.float16),
    "a generated gate, bfloat16": lambda: generated(GATE, torch.bfloat16),
    "generated rotations of 128 features, bfloat16": lambda: generated(ROPE, torch.bfloat16),
}  # fmt: skip


def test_every_kernel_compiles_for_gpus_that_are_not_there(tmp_path: Path, update_golden: bool) -> None:
    launches: list[dict[str, Any]] = []
    cases: list[str] = []
    for case, run in CASES.items():
        with recording() as rows:
            run()
        launches += rows
        cases += [case] * len(rows)
    file = tmp_path / "launches.json"
    file.write_text(json.dumps(launches), "utf-8")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    call = [sys.executable, "-m", "tessera.kernels.ahead", str(file)]
    run = subprocess.run(call, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    table = json.loads(run.stdout)
    each = len(table) // len(launches)
    made = [{"case": cases[i // each], **row} for i, row in enumerate(table)]
    assert {row["target"] for row in made} == {"sm_80", "sm_90", "gfx942"}
    assert [row for row in made if row.get("spilled")] == []
    found = {"triton": triton.__version__, "rows": made}
    if update_golden:
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    known = json.loads(GOLDEN.read_text("utf-8"))
    # Other versions of Triton use registers otherwise.
    assert known["triton"] != triton.__version__ or known == found
