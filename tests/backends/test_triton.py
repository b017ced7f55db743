"""The Triton backend: whole models through our kernels, in the interpreter where there is no GPU, beside their definitions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tessera as ts
from tessera.backends.torch import build as build_torch
from tessera.backends.triton import build
from tessera.backends.triton.claims import KERNELS, ROWS
from tessera.backends.triton.plan import plan_of
from tessera.driver.compile import apply_passes
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.kernels import flash, grouped, match
from tessera.kernels.launch import INTERPRETED
from tessera.runtime.weights.bind import initialise

from ..kernels.mutation import mutate

VIT = {"size": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 2, "hidden": 48, "classes": 5}
BERT = {"vocab": 99, "positions": 64, "dim": 32, "depth": 2, "heads": 2, "hidden": 48}
LLAMA = {"vocab": 61, "dim": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 48}
MOE = {"vocab": 61, "dim": 32, "depth": 1, "heads": 4, "kv_heads": 2, "hidden": 24, "experts": 4, "k": 2}
LLAVA = {
    "size": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 2, "hidden": 48, "layers": [-1], "image_at": 3, "vocab": 61,
    "text_dim": 32, "text_depth": 2, "text_heads": 4, "kv_heads": 2, "text_hidden": 48, "own_head": False,
}  # fmt: skip
PLAIN = """use std.moe.experts (plain)
use std.moe.route (token_choice)
use std.nn (gelu)

model m(x: f32[N, 8], logits: f32[N, 5], up: f32[5, 8, 6], down: f32[5, 6, 8]) -> (y: f32[N, 8]) {
    return plain(x, token_choice(logits, k=2), up, down, act=gelu)
}
"""
# A model, its parameters, passes, sizes, and which of our kernels it launches.
PLANS: dict[str, tuple[str, dict[str, Any], list[str], dict[str, int], set[str]]] = {
    "vit, merged": (
        "vit_classifier", VIT, ["merge_tokens(r=2)"], {"B": 2}, {"std.attention.attention", "std.token.bipartite_merge"},
    ),
    "vit, pruned": ("vit_classifier", VIT, ["prune_tokens(r=2)"], {"B": 2}, {"std.attention.attention", "std.token.select_top"}),
    "vit, diverse": (
        "vit_classifier", VIT, ["prune_tokens(r=2, method=diverse)"], {"B": 2},
        {"std.attention.attention", "std.token.prune.spread_out", "std.token.select_top"},
    ),
    "bert, merged": (
        "zoo/bert", BERT, ["merge_tokens(keep=0.7)"], {"B": 2, "T": 12}, {"std.attention.attention", "std.token.bipartite_merge"},
    ),
    "llama": ("llama_lm", LLAMA, [], {"B": 2, "T": 12}, {"std.attention.attention"}),
    "llama, selected": ("llama_lm", LLAMA, ["select_kv(k=6)"], {"B": 2, "T": 12}, {"std.attention.attention"}),
    "llava, pruned": (
        "llava_prompt", LLAVA, ["prune_tokens(keep=0.5, blocks=[0])"], {"B": 1, "T": 24},
        {"std.attention.attention", "std.token.select_top"},
    ),
    "mixtral": (
        "mixtral_lm", MOE, [], {"B": 1, "T": 7}, {"std.attention.attention", "std.moe.route.token_choice", "std.moe.experts.gated"},
    ),
    "gpt-oss": (
        "zoo/gpt_oss", {**MOE, "head_dim": 8, "window": 3}, [], {"B": 1, "T": 7},
        {"std.attention.attention", "std.moe.route.token_choice", "std.moe.experts.gated"},
    ),
    "plain experts": (PLAIN, {}, [], {"N": 9}, {"std.moe.route.token_choice", "std.ragged.sort_by_group", "grouped_matmul"}),
}  # fmt: skip


def lowered(name: str) -> tuple[Module, dict[str, Any], set[str]]:
    spec, params, passes, sizes, kernels = PLANS[name]
    module, _ = apply_passes(ts.loads(spec) if "\n" in spec else ts.load(spec, params=params), passes)
    rng = np.random.default_rng(0)
    feed: dict[str, Any] = {}
    for value in module.graph.inputs:
        shape = [d.evaluate(sizes) for d in value.type.shape]
        kind = value.type.dtype.kind
        drawn = rng.integers(0, 2 if value.name in ("attention_mask", "token_type_ids") else 60, shape)
        made = (
            torch.from_numpy(drawn)
            if kind == "int"
            else torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
        )
        feed[value.public] = torch.ones(shape, dtype=torch.int64) if value.name == "attention_mask" else made
    return module, feed, kernels


HEAVY = ("vit, diverse", "gpt-oss", "plain experts")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.extended if n in HEAVY else ()) for n in PLANS])
def test_models_agree_with_their_definitions(name: str) -> None:
    module, feed, kernels = lowered(name)
    assert set(json.loads(plan_of(module.graph))["kernels"]) == kernels
    weights = initialise(module.graph, 0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    feed = {n: x.to(device) for n, x in feed.items()}
    with torch.no_grad():
        ours, body = (network.to(device)(feed) for network in (build(module, weights), build_torch(module, weights, claims=False)))
    for output, wanted in body.items():
        torch.testing.assert_close(ours[output], wanted, atol=1e-4, rtol=1e-4)


def test_a_file_is_written_compared_opened_and_explained(tmp_path: Path) -> None:
    module = ts.load("vit_classifier", params=VIT)
    artifact = ts.compile(module, target="triton", passes=["merge_tokens(r=2)"], output=tmp_path / "vit.triton")
    assert max(row["error"] for row in artifact.report.verified) < 1e-4
    opened = ts.open(tmp_path / "vit.triton")
    image = np.zeros((1, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(opened(image=image)["logits"], artifact(image=image)["logits"])
    run = command("explain", tmp_path / "vit.triton")
    assert "triton of vit_classifier" in run.stdout
    assert "std.token.bipartite_merge" in run.stdout
    assert '"generated": {"' in run.stdout


def command(*words: object, interpret: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0"}
    call = [sys.executable, "-m", "tessera", *map(str, words)]
    return subprocess.run(call, capture_output=True, text=True, env=environment, check=False)


def test_without_triton_the_interpreter_is_no_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.backends.triton.target.find_spec", lambda name: None)
    file = tmp_path / "m.triton"
    ts.compile(ts.loads("model m(x: f32[B]) -> (y: f32[B]) { return x + 1.0 }"), target="triton", verify=False).save(file)
    with pytest.raises(Diagnostic, match="Triton is not installed") as caught:
        ts.open(file)
    assert (caught.value.code, caught.value.help) == ("E0830", "compile for `--target torch`")


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where there is no GPU")
def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "vit.triton"
    sizes = [f"-p{k}={v}" for k, v in VIT.items()]
    made = command("compile", "vit_classifier", "--target", "triton", *sizes, "-o", file, interpret=False)
    assert made.returncode == 0
    assert "not compared with the reference: there is no GPU" in made.stdout
    run = command("run", file, "-i", "image=x.npy", interpret=False)
    assert run.returncode == 1
    assert run.stderr == (
        "error[E0830]: `vit.triton` cannot run here: there is no GPU\n"
        "  help: set TRITON_INTERPRET=1 to run every kernel in Triton's interpreter, slowly; or compile for `--target torch`\n"
    )


def test_double_precision_keeps_to_pytorch() -> None:
    module = ts.load("vit_classifier", params=VIT, dtype="f64")
    plan = json.loads(plan_of(module.graph))
    assert not plan["kernels"]
    assert not plan["generated"]
    source = build(module).source
    assert "fused." not in source
    assert "groups[" not in source


# What a kernel would do wrong, and the plan that shows it.
MUTATIONS: dict[str, tuple[Any, str, str, str]] = {
    "a causal mask that lets one later key through": (
        flash.scores, "columns[None, :] <= rows[:, None]", "columns[None, :] <= 1 + rows[:, None]", "llama",
    ),
    "a match that begins with a protected token": (match.best_partner, "even = 2 * (i + FIRST)", "even = 2 * i", "vit, merged"),
    "a group that loses its last row": (
        grouped.product, "inside = rows < tl.load(ENDS + e)", "inside = rows + 1 < tl.load(ENDS + e)", "mixtral",
    ),
    "a selection of one token too few": (match.rank, "before < K", "before + 1 < K", "vit, pruned"),
}  # fmt: skip


@pytest.mark.skipif(not INTERPRETED, reason="kernels are changed where they are interpreted")
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_in_a_kernel_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, right, wrong, plan = MUTATIONS[name]
    mutate(kernel, right, wrong, tmp_path, monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        test_models_agree_with_their_definitions(plan)


def test_every_claim_is_launched_by_a_plan_or_compared_by_itself() -> None:
    """`select_top` and the rest are compared with their bodies in tests/differential, whatever plan has them."""
    from ..differential.test_composites import shipped

    assert KERNELS.keys() <= set(shipped())
    assert set(ROWS) <= {kernel for *_, kernels in PLANS.values() for kernel in kernels}
