"""Mixtures of experts come back from imports: transformers' families, in each way in which they compute experts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import tessera as ts
from tessera.driver.report.routers import experts_of, traced
from tessera.frontends.source import loads, print_module
from tessera.frontends.torch import load
from tessera.ir.graph import Module
from tessera.passes.engine import apply
from tessera.passes.experts.mixtures import find_mixtures

TOLERANCE = 1e-4
SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
         "num_experts_per_tok": 2}  # fmt: skip
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
          "num_key_value_heads": 4, "first_k_dense_replace": 1, "moe_intermediate_size": 24, "n_routed_experts": 8}  # fmt: skip
CHOICE, GATED = "token_choice", "gated"
# (class, configuration, options, what its mixtures are, attributes of its routers that say how they choose)
FAMILIES: dict[str, tuple[str, str, dict[str, Any], int, dict[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 5}, 2, {"score": "softmax", "renormalize": True}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", "Qwen2MoeConfig", {"num_experts": 6, "moe_intermediate_size": 24,
                  "shared_expert_intermediate_size": 20}, 2, {"score": "softmax", "renormalize": False}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {"num_experts": 6, "moe_intermediate_size": 24, "head_dim": 8,
                  "norm_topk_prob": True}, 2, {"renormalize": True}),
    "olmoe": ("OlmoeForCausalLM", "OlmoeConfig", {"num_experts": 4}, 2, {"renormalize": False}),
    # Of as few experts as groups are chosen from, the best would be in the best groups anyway.
    "deepseek_v2": ("DeepseekV2ForCausalLM", "DeepseekV2Config", {**LATENT, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3,
                    "topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0}, 1,
                    {"groups": 4, "limit": 2, "best": 1, "scale": 16.0}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", {**LATENT, "n_group": 4, "topk_group": 2,
                    "num_experts_per_tok": 3}, 1, {"score": "sigmoid", "groups": 4, "limit": 2, "best": 2, "scale": 2.5}),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", {"num_local_experts": 5, "head_dim": 8}, 2, {"score": "chosen"}),
    "phimoe": ("PhimoeForCausalLM", "PhimoeConfig", {"num_local_experts": 5}, 2, {"jitter": 0.01}),
    "granitemoe": ("GraniteMoeForCausalLM", "GraniteMoeConfig", {"num_local_experts": 5}, 2, {"score": "chosen"}),
}  # fmt: skip


def built(family: str, way: str) -> Any:
    kind, config, options, *_ = FAMILIES[family]
    generator = torch.Generator().manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**{**SMALL, **options})).eval()
    model.config.use_cache = False
    model.set_experts_implementation(way)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not name.endswith("inv_freq"):
                scale = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.2
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + (tensor.ndim == 1) * 0.5)
    return model


def composites(module: Module) -> Counter[str]:
    return Counter(n.op.name for n in module.graph.nodes() if n.op.qualified.startswith("std.moe"))


def check(family: str, way: str, tmp_path: Path) -> None:
    model = built(family, way)
    # An example of one token hits at most as many experts as it takes: the others are there all the same.
    imported = load(
        model, (), {"input_ids": torch.zeros(2, 3, dtype=torch.int64)}, dynamic_shapes={"input_ids": {0: "B", 1: "T"}}
    )
    assert model.config._experts_implementation == way
    _, _, _, count, attrs = FAMILIES[family]
    module, report = apply(imported.module, "raise_composites")
    assert report.contract == "exact"
    found = find_mixtures(module.graph)
    router = "sparse_mixer" if family == "phimoe" else CHOICE
    assert composites(module) == {router: count, GATED: count}
    assert [{name: m.router.attrs[name] for name in attrs} for m in found] == [attrs] * count
    assert loads(print_module(module)).difference(module) is None
    for mixture in found:
        # Matrices lie as they are read: nothing is turned when it runs.
        assert all(mixture.node.inputs[index] is param for index, param in mixture.stacked.items())
    # Experts that the example did not hit are there, and are taken.
    taps = ts.compile(traced(module), target="torch", weights=imported.weights, passes=[], verify=False)
    hit, taken = (
        [set(np.unique(experts_of(i, taps(ids)))) for i in range(count)]
        for ids in (np.zeros((2, 3), np.int64), np.random.default_rng(40).integers(0, 50, (4, 40)))
    )
    assert any(more - before for before, more in zip(hit, taken, strict=True))
    for target in ("torch", "onnx"):
        run = ts.compile(
            imported.module, target=target, weights=imported.weights, passes=["raise_composites"], verify=False
        )
        for batch, length in ((1, 1), (2, 5), (1, 40)):
            ids = np.random.default_rng(length).integers(0, 50, (batch, length))
            with torch.no_grad():
                want = model(torch.as_tensor(ids)).logits.numpy()
            np.testing.assert_allclose(
                run(ids)["logits"], want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"{target} {length}"
            )


@pytest.mark.extended
@pytest.mark.parametrize("way", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_comes_back(family: str, way: str, tmp_path: Path) -> None:
    check(family, way, tmp_path)


@pytest.mark.parametrize(("family", "way"), [("mixtral", "eager"), ("gpt_oss", "batched_mm")])
def test_a_loop_and_copies_come_back(family: str, way: str, tmp_path: Path) -> None:
    check(family, way, tmp_path)
