"""A decoder that is given keys and values says what the model says that reads all tokens at once, padded on either side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

from .test_add_cache import ATTENDING, SMALL, ZOO, compiled, greedy_at_once

PROMPTS = [[5, 1, 7], [9], [3, 3, 2, 8, 1, 30], [2, 4, 6, 8, 10, 12, 14]]
SLOTS = 24
KINDS = ("rope", "window", "mask", "alibi", "capped")
CASES = [("rope", "onnx", "grown"), ("rope", "onnx", "shared")]
FURTHER = [
    (name, target, kind)
    for name in (*KINDS, *ZOO)
    for target in ("torch", "onnx")
    for kind in ("grown", "shared")
    if (name, target, kind) not in CASES
]


def module_of(name: str) -> Any:
    if name in ZOO:
        return ts.load(name, params={**SMALL, **ZOO[name]})
    return ts.loads(ATTENDING, params={"kind": name})


def greedy(artifact: Any, left: bool, steps: int, shared: bool) -> list[list[int]]:
    """The tokens that follow each prompt, in one batch, as onnxruntime-genai and optimum call a model."""
    rows, most = len(PROMPTS), max(map(len, PROMPTS))
    ids, mask = np.zeros((rows, most), np.int64), np.zeros((rows, most), np.int64)
    for row, prompt in enumerate(PROMPTS):
        here = slice(most - len(prompt), None) if left else slice(len(prompt))
        ids[row, here], mask[row, here] = prompt, 1
    past = {}
    for spec in artifact.past.inputs:
        if spec.name.startswith("past_key_values."):
            sizes = (rows, spec.shape[1], SLOTS, spec.shape[3])
            past[spec.name] = np.zeros([int(str(d)) for d in sizes], np.float32)
    if not shared:
        # One token that nobody sees.
        past = {name: array[:, :, :1] for name, array in past.items()}
        mask = np.concatenate([np.zeros((rows, 1), mask.dtype), mask], 1)
    new, told = mask[:, -ids.shape[1] :], []
    for _ in range(steps):
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        found = artifact.past(input_ids=ids, attention_mask=mask, position_ids=positions, **past)
        last = ids.shape[1] - 1 - new[:, ::-1].argmax(1)
        ids = found["logits"][np.arange(rows), last].argmax(-1)[:, None]
        past = {name: found[name.replace("past_key_values", "present")] for name in past}
        new = np.ones((rows, 1), mask.dtype)
        mask = np.concatenate([mask, new], 1)
        told.append(ids[:, 0])
    return np.stack(told, 1).tolist()


def check(name: str, target: str, kind: str) -> None:
    plain, artifact = compiled(module_of(name), target, passes=(f"add_cache(past={kind})",))
    assert artifact.entries == ["prefill", "decode", "past"]
    wanted = [greedy_at_once(plain, prompt, 6) for prompt in PROMPTS]
    assert [greedy(artifact, left, 6, kind == "shared") for left in (True, False)] == [wanted, wanted]


@pytest.mark.parametrize(("name", "target", "kind"), CASES)
def test_greedy_tokens_are_those_of_the_model_without_a_cache(name: str, target: str, kind: str) -> None:
    check(name, target, kind)


@pytest.mark.extended
@pytest.mark.parametrize(("name", "target", "kind"), FURTHER)
def test_greedy_tokens_are_those_of_every_kind_of_decoder(name: str, target: str, kind: str) -> None:
    check(name, target, kind)


def test_which_output_holds_the_scores_must_be_clear() -> None:
    source = ATTENDING.replace("(logits: float[B, T, 40])", "(a: float[B, T, 40], b: float[B, T, 32])")
    source = source.replace("return linear(x, out=40) as head", "return linear(x, out=40) as head, x")
    with pytest.raises(Diagnostic, match="which output holds the scores") as caught:
        ts.compile(ts.loads(source, params={"kind": "rope"}), passes=["add_cache(past=grown)"], verify=False)
    assert caught.value.code == "E0731"
