"""Decoders that are given something beside the text: it is computed once, kept as states, and read by every later token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.driver.compile import apply_passes
from tessera.ir.diagnostics import Diagnostic

from .test_add_cache import compiled

HEARING = """
use std.attention (attention)
use std.nn (embedding, layer_norm, linear)

fn heads(x: float[B, T, 32]) -> float[B, 4, T, 8] {
    return rearrange(x, "b t (h k) -> b h t k", h=4)
}

layer attend(x: float[B, T, 32], seen: float[B, S, 32], mask: bool[B, 1, 1, S]? = none, *, causal: bool) -> float[B, T, 32] {
    q = heads(linear(x, out=32) as q)
    k = heads(linear(seen, out=32) as k)
    v = heads(linear(seen, out=32) as v)
    y = attention(q, k, v, mask, causal=causal)
    return x + linear(rearrange(y, "b h t k -> b t (h k)"), out=32) as out
}

model hearing(audio: float[B, S, 32], audio_mask: i64[B, S], ids: i64[B, T]) -> (logits: float[B, T, 40], seen: float[B, S, 32]) {
    mask = unsqueeze(audio_mask != 0, [1, 2])
    seen = attend(audio, audio, mask, causal=false) as encoder
    x = embedding(ids, vocab=40, dim=32) as words
    repeat i in 2 as layers {
        x = attend(x, x, causal=true) as own
        x = attend(x, seen, mask, causal=false) as cross
    }
    return linear(x, out=40) as head, seen
}
"""
PROMPTS = [[5, 1, 7], [9], [3, 3, 2, 8]]


def audios(size: int | None = None) -> list[dict[str, Any]]:
    """One for each prompt, of one size or of several, of which the last frame is not heard."""
    made = []
    for row in range(len(PROMPTS)):
        frames = size or 5 + row
        heard = np.ones((1, frames), np.int64)
        heard[:, -1] = 0
        rng = np.random.default_rng(row)
        made.append({"audio": rng.normal(size=(1, frames, 32)).astype(np.float32), "audio_mask": heard})
    return made


def greedy_at_once(plain: Any, prompt: list[int], given: dict[str, Any], steps: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(steps):
        tokens.append(int(plain(ids=np.array([tokens]), **given)["logits"][0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("size", [None, 6])
def test_greedy_tokens_are_those_of_the_model_without_a_cache(size: int | None) -> None:
    first, last = HEARING.split("model hearing")
    source = HEARING if size is None else f"{first}model hearing{last.replace(', S', f', {size}')}"
    plain, *made = compiled(ts.loads(source), "torch", "onnx")
    given = audios(size)
    wanted = [greedy_at_once(plain, prompt, row, 8) for prompt, row in zip(PROMPTS, given, strict=True)]
    for artifact in made:
        assert [spec.name for spec in artifact.decode.inputs] == ["ids", "lengths"]
        for prompt, row, tokens in zip(PROMPTS, given, wanted, strict=True):
            assert ts.generate(artifact, prompt, max_tokens=8, inputs=row).tokens == tokens
        joined = {name: np.concatenate([row[name] for row in given]) for name in given[0]} if size else None
        if joined is None:
            with pytest.raises(Diagnostic, match="each prompt tells the size S") as caught:
                ts.generate(
                    artifact, PROMPTS[:2], max_tokens=8, inputs={n: np.repeat(a, 2, 0) for n, a in given[0].items()}
                )
            assert caught.value.code == "E0950"
        else:
            found = ts.generate(artifact, PROMPTS, max_tokens=8, inputs=joined)
            assert [completion.tokens for completion in found] == wanted


def test_what_is_given_once_is_not_computed_again_nor_copied() -> None:
    module, _ = apply_passes(ts.loads(HEARING), ["add_cache"], verify_each=True)
    decode = module.functions["decode"]
    kept = [v for v in decode.inputs if v.name.startswith("given_")]
    # The keys and values of two attentions, and the mask.
    assert sorted(v.type.rank for v in kept) == [4] * 5
    assert not any("encoder" in name for name in decode.params)
    assert [info.public for info in decode.output_info if info.role == "output"] == ["logits"]
    assert ts.loads(ts.source(module)) == module
    artifact = ts.compile(ts.loads(HEARING), passes=["add_cache"], verify=False)
    runner = artifact.program.runners["decode"]
    assert {v.name for v in kept} <= runner.in_place
    run = artifact.session(sizes={"C": 16})
    run.prefill(ids=np.array([[1, 2]]), lengths=np.array([2]), **audios()[0])
    before = run.states()
    run.decode(ids=np.array([[3]]), lengths=np.array([1]))
    after = run.states()
    assert all((before[v.name] == after[v.name]).all() for v in kept)
    assert any((before[name] != after[name]).any() for name in before)


def test_trees_of_drafts_read_what_is_kept() -> None:
    module, _ = apply_passes(ts.loads(HEARING), ["add_cache(tree=true)"], verify_each=True)
    assert [v.name for v in module.functions["verify"].inputs if v.role == "input"] == ["ids", "depth", "ancestors"]


WRONG: dict[str, list[tuple[str, str]]] = {
    "as many as tokens": [("audio_mask: i64[B, S]", "loud: f32[B, T]"), ("audio_mask != 0", "audio[:, :, 0] > 0.0")],
    "no rows": [("audio_mask: i64[B, S]", "audio_mask: i64[1, S]"), ("bool[B, 1, 1, S]", "bool[1, 1, 1, S]")],
    "a size that is not told": [
        ("audio: float[B, S, 32], audio_mask: i64[B, S]", "audio: float[B, 2 * S + 1, 32], audio_mask: i64[B, 2 * S]"),
        ("seen: float[B, S, 32])", "seen: float[B, 2 * S, 32])"),
        ("attend(audio, audio", "attend(audio[:, 1:], audio[:, 1:]"),
    ],
}


@pytest.mark.parametrize("change", WRONG)
def test_what_cannot_be_kept_is_refused(change: str) -> None:
    source = HEARING
    for old, new in WRONG[change]:
        assert old in source
        source = source.replace(old, new)
    module = ts.loads(source)
    with pytest.raises(Diagnostic) as caught:
        apply_passes(module, ["add_cache"])
    assert caught.value.code == "E0731"


def test_an_entry_point_without_states_is_given_nothing_beside() -> None:
    with pytest.raises(Diagnostic, match="beside the tokens") as caught:
        apply_passes(ts.loads(HEARING), ["add_cache(past=grown)"])
    assert caught.value.code == "E0731"
