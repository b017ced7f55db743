"""Decoders of transformers, exported as they are: with a cache they say token for token what `generate` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.driver.read import read_model

SMALL = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 128,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
# Attention that the code of transformers writes out itself, as products and a softmax.
EAGER = {"attn_implementation": "eager"}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GPT2": (GPT2, {}),
    "Llama": (GROUPED, {}),
    "Qwen2": (GROUPED, {}),
    "Qwen3": ({**GROUPED, "head_dim": 8}, {}),
    "Mistral": ({**GROUPED, "sliding_window": 5}, {}),
    "Gemma": ({**GROUPED, "head_dim": 8}, {}),
    "Gemma2": ({**GROUPED, "head_dim": 8, "sliding_window": 5}, EAGER),
    "Phi": (SMALL, {}),
    "Phi3": (GROUPED, {}),
    "OPT": ({**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}, {}),
    "Bloom": ({"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}, EAGER),
    "GPTNeo": (
        {
            "vocab_size": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
            "window_size": 5, "max_position_embeddings": 128,
        },
        EAGER,
    ),
    "GPTJ": ({**GPT2, "rotary_dim": 4}, EAGER),
    "Glm4": ({**GROUPED, "head_dim": 8}, {}),
    "Falcon": ({k: v for k, v in SMALL.items() if k != "intermediate_size"}, {}),
    "Qwen3Moe": ({**GROUPED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}, {}),
}  # fmt: skip
PROMPTS = [[5, 11, 7], [9], [3, 33, 20, 8, 41, 30], [4, 6, 8, 10, 12, 14, 16, 18, 20]]
STEPS = 24
# Those of which more is asked: 64 tokens.
LONG = ("GPT2", "Llama", "Qwen2", "Mistral", "Gemma")


def model_of(name: str, **more: Any) -> Any:
    import torch
    import transformers

    fields, options = MODELS[name]
    config = getattr(transformers, f"{name}Config")(**{**fields, **more}, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    head = {"GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM")
    torch.manual_seed(0)
    model = getattr(transformers, head)._from_config(config, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                # Small random weights would say the same token over and over.
                parameter.mul_(6)
    return model


def exported(model: Any, masked: bool) -> Any:
    import torch

    from tessera.frontends.torch import load

    ids = torch.randint(3, 64, (2, 9))
    free = {0: torch.export.Dim("B"), 1: torch.export.Dim("T")}
    given, sizes = {"input_ids": ids, "use_cache": False}, {"input_ids": free, "use_cache": None}
    if masked:
        given["attention_mask"], sizes["attention_mask"] = torch.ones_like(ids), free
    return load(model, (), given, sizes)


def generated(model: Any, prompt: list[int], steps: int = STEPS) -> list[int]:
    import torch

    with torch.no_grad():
        found = model.generate(torch.tensor([prompt]), max_new_tokens=steps, do_sample=False, eos_token_id=None)
    return list(found[0, len(prompt) :].tolist())


def said(artifact: Any, prompts: list[list[int]], steps: int = STEPS) -> list[list[int]]:
    lengths = np.array([len(p) for p in prompts])
    ids = np.array([p + [0] * (lengths.max() - len(p)) for p in prompts])
    found = artifact.prefill(input_ids=ids, lengths=lengths, sizes={"C": 80})
    scores = next(iter(found))
    tokens = [found[scores].argmax(-1)]
    for _ in range(steps - 1):
        states = {k: v for k, v in found.items() if k.startswith("cache_")}
        found = artifact.decode(input_ids=tokens[-1][:, None], lengths=np.ones(len(prompts), np.int64), **states)
        tokens.append(found[scores][:, 0].argmax(-1))
    return [list(row) for row in np.stack(tokens, 1).tolist()]


@pytest.mark.extended
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_cache_says_what_generate_says(name: str, masked: bool) -> None:
    model = model_of(name)
    imported = exported(model, masked)
    artifact = ts.compile(
        imported.module, weights=imported.weights, passes=["raise_composites", "add_cache"], target="onnx", verify=not masked
    )
    steps = 64 if name in LONG else STEPS
    wanted = [generated(model, prompt, steps) for prompt in PROMPTS]
    assert said(artifact, PROMPTS, steps) == wanted
    assert said(artifact, PROMPTS[:1], steps) == wanted[:1]


@pytest.mark.extended
@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_an_onnx_file_without_a_cache_gets_one(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    import torch

    class Logits(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: Any) -> Any:
            return self.inner(input_ids=input_ids, use_cache=False).logits

    model = model_of(name)
    free = {"input_ids": {0: torch.export.Dim("B"), 1: torch.export.Dim("T")}}
    program = torch.onnx.export(Logits(model), (torch.randint(3, 64, (2, 9)),), dynamo=True, dynamic_shapes=free, verbose=False)
    assert program is not None
    program.save(str(tmp_path / "plain.onnx"))
    imported = read_model(tmp_path / "plain.onnx")
    artifact = ts.compile(
        imported.module, weights=imported.weights, passes=["raise_composites", "add_cache"], target="onnx", verify=False
    )
    assert said(artifact, PROMPTS) == [generated(model, prompt) for prompt in PROMPTS]
