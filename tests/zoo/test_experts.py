"""Families with experts agree with transformers, from folders whose experts are separate tensors or one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

from .judges import TOLERANCE, saved

SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
         "num_experts_per_tok": 2}  # fmt: skip
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 8,
          "num_key_value_heads": 4, "first_k_dense_replace": 1, "moe_intermediate_size": 24, "n_routed_experts": 8}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32.0,
        "beta_slow": 1.0}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2Moe": {"num_experts": 6, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 20},
    "DeepseekV2": {**LATENT, "topk_method": "greedy", "q_lora_rank": None},
    "DeepseekV3": {**LATENT, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3},
    "GptOss": {"num_local_experts": 5, "head_dim": 8, "sliding_window": 7},
    "Phimoe": {"num_local_experts": 5},
    "GraniteMoe": {"num_local_experts": 5, "embedding_multiplier": 2.0, "attention_multiplier": 0.3, "residual_multiplier": 0.7,
                   "logits_scaling": 3.0},
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "Qwen2Moe": {"norm_topk_prob": True, "qkv_bias": False, "tie_word_embeddings": True},
    "DeepseekV2": {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 16.0,
                   "q_lora_rank": 24, "n_shared_experts": 1, "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.7}},
    "DeepseekV3": {"norm_topk_prob": False, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0,
                   "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}},
    "GptOss": {"sliding_window": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}, "attention_bias": False},
    "Phimoe": {"attention_bias": True, "lm_head_bias": True, "router_jitter_noise": 0.2},
    "GraniteMoe": {"tie_word_embeddings": True, "num_experts_per_tok": 3},
}  # fmt: skip


def config(family: str, more: dict[str, Any]) -> Any:
    return getattr(transformers, f"{family}Config")(**{**SMALL, **FAMILIES[family], **more})


CASES = [(family, variant) for family in FAMILIES for variant in ("", "more")]
QUICK = {("DeepseekV3", ""), ("GptOss", "")}


@pytest.mark.parametrize(
    ("family", "variant"), [pytest.param(*c, marks=[] if c in QUICK else [pytest.mark.extended]) for c in CASES]
)
def test_a_folder_agrees_at_every_length(family: str, variant: str, tmp_path: Path) -> None:
    judge = saved(f"{family}ForCausalLM", config(family, MORE[family] if variant else {}), tmp_path)
    for target in ("torch", "onnx"):
        run = ts.compile(ts.load(tmp_path), target=target, weights=tmp_path, verify=False)
        for batch, length in ((1, 1), (2, 5), (1, 40)):
            ids = np.random.default_rng(length).integers(0, 50, (batch, length))
            with torch.no_grad():
                want = judge(torch.as_tensor(ids)).logits.numpy()
            np.testing.assert_allclose(
                run(ids)["logits"], want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"{target} {length}"
            )


@pytest.mark.parametrize(
    ("family", "more", "told"),
    [
        ("Qwen2Moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ("GptOss", {"layer_types": ["full_attention", "full_attention"]}, "layer_types"),
        ("Phimoe", {"sliding_window": 16}, "sliding_window"),
        ("DeepseekV3", {"rope_interleave": False}, "rope_interleave"),
    ],
)
def test_what_the_spec_does_not_compute_is_refused(
    family: str, more: dict[str, Any], told: str, tmp_path: Path
) -> None:
    saved(f"{family}ForCausalLM", config(family, more), tmp_path)
    with pytest.raises(Diagnostic, match=told):
        ts.load(tmp_path)
