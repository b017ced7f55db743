"""Whisper, BART, Marian and T5 as transformers has them: an encoder that is read once, and a decoder with a cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts

TOKENS = {"vocab_size": 64, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1}
SIZES = {
    **TOKENS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
}  # fmt: skip
MODELS = {
    "Whisper": {**SIZES, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 40, "bos_token_id": 1},
    "Bart": {**SIZES, "max_position_embeddings": 64, "bos_token_id": 1},
    "Marian": {**SIZES, "max_position_embeddings": 64, "decoder_vocab_size": 64},
    "T5": {**TOKENS, "d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 48},
}
PROMPTS = [[1, 5], [1], [7, 8, 9, 10]]
STEPS = 16


def model_of(name: str) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    head = "MarianMTModel" if name == "Marian" else f"{name}ForConditionalGeneration"
    model = getattr(transformers, head)(getattr(transformers, f"{name}Config")(**MODELS[name])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                # Small random weights would say the same token over and over.
                parameter.mul_(1.5 if name == "T5" else 6)
    return model


def given_to(name: str, row: int, count: int = 1) -> dict[str, Any]:
    """What the encoder reads: an audio of one size, or a text whose last token is padding."""
    import torch

    chance = torch.Generator().manual_seed(row)
    if name == "Whisper":
        return {"input_features": torch.randn(count, 8, 40, generator=chance)}
    ids = torch.randint(3, 64, (count, 5 + row), generator=chance)
    return {"input_ids": ids, "attention_mask": (torch.arange(5 + row) < 4 + row).to(torch.int64).expand(count, -1)}


def exported(name: str, model: Any) -> Any:
    import torch

    from tessera.frontends.torch import load

    rows, given = torch.export.Dim("B"), given_to(name, 2, 2)
    sizes = {n: {0: rows} if name == "Whisper" else {0: rows, 1: torch.export.Dim("S")} for n in given}
    text = {"decoder_input_ids": torch.randint(3, 64, (2, 5)), "use_cache": False}
    free = {"decoder_input_ids": {0: rows, 1: torch.export.Dim("T")}, "use_cache": None}
    return load(model, (), {**given, **text}, {**sizes, **free})


def greedy_at_once(model: Any, prompt: list[int], given: dict[str, Any]) -> list[int]:
    import torch

    tokens = list(prompt)
    for _ in range(STEPS):
        with torch.no_grad():
            scores = model(**given, decoder_input_ids=torch.tensor([tokens]), use_cache=False).logits
        tokens.append(int(scores[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.extended
@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_the_model_itself(name: str, target: str) -> None:
    model = model_of(name)
    imported = exported(name, model)
    passes = ["raise_composites", "add_cache"]
    artifact = ts.compile(imported.module, weights=imported.weights, passes=passes, target=target)
    assert not artifact.report.notes
    assert [spec.name for spec in artifact.decode.inputs] == ["decoder_input_ids", "lengths"]
    rows = [given_to(name, row) for row in range(len(PROMPTS))]
    wanted = [greedy_at_once(model, prompt, given) for prompt, given in zip(PROMPTS, rows, strict=True)]
    for prompt, given, tokens in zip(PROMPTS, rows, wanted, strict=True):
        arrays = {n: tensor.numpy() for n, tensor in given.items()}
        assert ts.generate(artifact, prompt, max_tokens=STEPS, inputs=arrays).tokens == tokens
    if name == "Whisper":
        joined = {n: np.concatenate([given[n].numpy() for given in rows]) for n in rows[0]}
        assert [c.tokens for c in ts.generate(artifact, PROMPTS, max_tokens=STEPS, inputs=joined)] == wanted
