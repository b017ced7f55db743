"""The folder that onnxruntime-genai runs: the same greedy tokens as ours, one text and several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

from ..passes.memory.test_add_cache_imports import LONG, PROMPTS, exported, model_of

SMALL = {"vocab": 300, "dim": 32, "depth": 2, "heads": 4}
LLAMA, GPT2 = ("llama_lm", {"kv_heads": 2, "hidden": 48}), ("gpt2_lm", {"positions": 64})
FURTHER = ((LLAMA, "grown"), (GPT2, "shared"), (GPT2, "grown"))
CASES = [(LLAMA, "shared"), *(pytest.param(*case, marks=pytest.mark.extended) for case in FURTHER)]
# The first two rows of the table are no place's.
BEHIND = """
use std.attention (attention)
use std.nn (linear)

model m(ids: i64[B, T], *, size: int = 4) -> (logits: f32[B, T, 9]) {
    param words: f32[9, 4] = normal(1.0)
    param places: f32[12, 4] = normal(1.0)
    x = take(words, ids) + places[2:T + 2]
    y = attention(unsqueeze(x, 1), unsqueeze(x, 1), unsqueeze(linear(x, out=size) as v, 1), causal=true)
    return linear(squeeze(y, 1), out=9) as head
}
"""
TEXTS = ["one or two words of a text", "keys"]


def tokenizer(folder: Path, kind: str = "BPE") -> Path:
    """A small `tokenizer.json`, of byte pairs or of another kind."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(getattr(tokenizers.models, kind)())
    level = tokenizers.pre_tokenizers.ByteLevel
    made.pre_tokenizer, made.decoder = level(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    trainer = getattr(tokenizers.trainers, "BpeTrainer" if kind == "BPE" else f"{kind}Trainer")
    told = trainer(vocab_size=290, special_tokens=["<s>", "</s>"], initial_alphabet=level.alphabet())
    made.train_from_iterator(TEXTS, told)
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return folder


def compiled(case: Any, kind: str, folder: Path, **options: Any) -> Path:
    name, params = case
    module = ts.load(name, params={**SMALL, **params})
    ts.compile(module, passes=[f"add_cache(past={kind})"], form="genai", verify=False, output=folder, **options)
    return folder


def small(params: dict[str, int], kind: str, folder: Path) -> Any:
    """What the configuration of BEHIND says of the model."""
    module = ts.loads(BEHIND, params=params)
    ts.compile(module, passes=[f"add_cache(past={kind})"], form="genai", verify=False, output=folder)
    return json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]


def greedy(genai: Any, model: Any, prompts: list[list[int]], steps: int) -> list[list[int]]:
    """What onnxruntime-genai makes of prompts in one batch; it pads them behind."""
    most = max(map(len, prompts))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=most + steps, min_length=most + steps, batch_size=len(prompts))
    generator = genai.Generator(model, params)
    generator.append_tokens(np.array([p + [1] * (most - len(p)) for p in prompts], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [generator.get_sequence(i)[most:].tolist() for i in range(len(prompts))]


@pytest.mark.parametrize(("case", "kind"), CASES)
def test_genai_makes_the_same_tokens(case: Any, kind: str, tmp_path: Path) -> None:
    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    folder = compiled(case, kind, tmp_path / "talk", tokenizer=str(tokenizer(tmp_path / "words")))
    model = genai.Model(str(folder))
    own = genai.Tokenizer(model)
    prompts = [own.encode(text).tolist() for text in TEXTS] + [[7, 0, 9], [30]]
    wanted = [c.tokens for c in ts.generate(folder, prompts, max_tokens=16)]
    assert greedy(genai, model, prompts, 16) == wanted
    assert [greedy(genai, model, [p], 16)[0] for p in prompts] == wanted
    assert [own.decode(np.array(prompt, np.int32)) for prompt in prompts[:2]] == TEXTS


@pytest.mark.extended
@pytest.mark.parametrize("kind", ["shared", "grown"])
@pytest.mark.parametrize("name", LONG)
def test_genai_says_what_generate_of_transformers_says(name: str, kind: str, tmp_path: Path) -> None:
    """64 tokens, of one text and of four that differ in length; neither says the token that ends a text."""
    import torch

    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    model = model_of(name, vocab_size=300)
    imported = exported(model, masked=True)
    passes = ["raise_composites", f"add_cache(past={kind})"]
    options: dict[str, Any] = {"form": "genai", "tokenizer": str(tokenizer(tmp_path / "words")), "verify": False}
    ts.compile(imported.module, weights=imported.weights, passes=passes, output=tmp_path / "talk", **options)
    wanted = []
    for prompt in PROMPTS:
        told = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False, "eos_token_id": 1}
        with torch.no_grad():
            wanted.append(model.generate(torch.tensor([prompt]), **told)[0, len(prompt) :].tolist())
    engine = genai.Model(str(tmp_path / "talk"))
    assert greedy(genai, engine, PROMPTS, 64) == wanted
    assert greedy(genai, engine, PROMPTS[:1], 64) == wanted[:1]


def test_the_configuration_says_what_the_model_is(tmp_path: Path) -> None:
    words = tokenizer(tmp_path / "words")
    words.joinpath("tokenizer_config.json").write_text("{")
    folder = compiled(GPT2, "shared", tmp_path / "talk", tokenizer=str(words))
    said = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    model, search = said["model"], said["search"]
    assert (model["vocab_size"], model["context_length"], model["eos_token_id"]) == (300, 64, [1])
    assert (model["decoder"]["num_hidden_layers"], model["decoder"]["head_size"]) == (2, 8)
    assert (search["past_present_share_buffer"], search["max_length"]) == (True, 64)
    assert json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["tokenizer_class"]
    assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "words" / "tokenizer.json").read_bytes()
    # It is edited to configure a run; nothing else of the folder is.
    search["max_length"] = 32
    folder.joinpath("genai_config.json").write_text(json.dumps({"model": model, "search": search}))
    assert ts.open(folder).entries == ["prefill", "decode", "past"]
    folder.joinpath("tokenizer.json").write_text("{}")
    with pytest.raises(Diagnostic, match=r"E0528.*`tokenizer.json`"):
        ts.open(folder)
    said = json.loads(
        (compiled(LLAMA, "grown", tmp_path / "ids", context=100) / "genai_config.json").read_text("utf-8")
    )
    assert (said["model"]["context_length"], said["model"].get("eos_token_id")) == (100, None)
    assert not said["search"]["past_present_share_buffer"]


@pytest.mark.parametrize("kind", ["shared", "grown"])
def test_a_text_has_as_many_tokens_as_a_table_has_places_behind_its_first_rows(kind: str, tmp_path: Path) -> None:
    assert small({}, kind, tmp_path / "talk")["context_length"] == 10


def test_what_genai_does_not_run_is_refused(tmp_path: Path) -> None:
    module = ts.load("llama_lm", params={**SMALL, **LLAMA[1]})
    for passes in (["add_cache"], []):
        with pytest.raises(Diagnostic, match="has none") as caught:
            ts.compile(module, passes=passes, form="genai", verify=False).save(
                tmp_path / ("talk" if passes else "a.onnx")
            )
        assert caught.value.code == "E0812"
    with pytest.raises(Diagnostic, match="1 heads of 4, 1 heads of 6") as caught:
        small({"size": 6}, "shared", tmp_path / "talk")
    assert caught.value.code == "E0812"
    with pytest.raises(Diagnostic, match="which nothing asks for") as caught:
        ts.compile(module, tokenizer="tokenizer.json", verify=False)
    assert caught.value.code == "E0011"
    with pytest.raises(Diagnostic, match="of the kind WordPiece") as caught:
        compiled(LLAMA, "shared", tmp_path / "talk", tokenizer=str(tokenizer(tmp_path / "pieces", "WordPiece")))
    assert (caught.value.code, (tmp_path / "talk").exists()) == ("E0812", False)
