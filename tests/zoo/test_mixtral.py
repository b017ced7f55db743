"""Decoders with experts agree with transformers, from folders whose experts are separate tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

from .judges import TOLERANCE, saved

SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1,
         "pad_token_id": 0}  # fmt: skip
FAMILIES = {
    "MixtralForCausalLM": ("MixtralConfig", {"num_local_experts": 5}),
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", {"num_experts": 6, "moe_intermediate_size": 24, "head_dim": 8}),
    "OlmoeForCausalLM": ("OlmoeConfig", {"num_experts": 4}),
}


def config(kind: str, **more: Any) -> Any:
    name, own = FAMILIES[kind]
    return getattr(transformers, name)(**{**SMALL, "num_experts_per_tok": 2, **own, **more})


@pytest.mark.parametrize(
    "more", [{}, {"norm_topk_prob": True, "num_experts_per_tok": 3, "tie_word_embeddings": True}], ids=["", "more"]
)
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_folder_agrees_at_every_length(kind: str, more: dict[str, Any], tmp_path: Path) -> None:
    judge = saved(kind, config(kind, **more), tmp_path)
    for target in ("torch", "onnx"):
        run = ts.compile(ts.load(tmp_path), target=target, weights=tmp_path, verify=False)
        for batch, length in ((1, 1), (2, 5), (1, 40)):
            ids = np.random.default_rng(length).integers(0, 50, (batch, length))
            with torch.no_grad():
                want = judge(torch.as_tensor(ids)).logits.numpy()
            np.testing.assert_allclose(run(ids)["logits"], want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"{target} {length}")


def test_only_pairs_are_computed(tmp_path: Path) -> None:
    """The file computes no expert for a token that did not go to it: its only products are of standard ops, over slices of rows."""
    saved("MixtralForCausalLM", config("MixtralForCausalLM"), tmp_path)
    ts.compile(ts.load(tmp_path), target="onnx", weights=tmp_path, output=tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    weights = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if ".experts." in t.name]
    assert sum(w.size for w in weights) == 2 * 5 * 3 * 32 * 48, "every expert of both layers is in the file, once"


@pytest.mark.parametrize(
    ("kind", "more", "told"),
    [
        ("Qwen3MoeForCausalLM", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ("Qwen3MoeForCausalLM", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("MixtralForCausalLM", {"sliding_window": 16}, "sliding_window"),
        ("OlmoeForCausalLM", {"clip_qkv": 8.0}, "clip_qkv"),
    ],
)
def test_what_the_spec_does_not_compute_is_refused(kind: str, more: dict[str, Any], told: str, tmp_path: Path) -> None:
    saved(kind, config(kind, **more), tmp_path)
    with pytest.raises(Diagnostic, match=told):
        ts.load(tmp_path)
