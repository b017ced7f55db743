"""A decoder with a cache says what the model says that reads all tokens at once: rows of different lengths, both targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.driver.compile import apply_passes
from tessera.frontends.source.format.printer import print_module

SMALL = {"vocab": 40, "dim": 32, "depth": 2, "heads": 4}
ZOO: dict[str, dict[str, Any]] = {
    "gpt2_lm": {"positions": 32},
    "llama_lm": {"kv_heads": 2, "hidden": 48},
    "mixtral_lm": {"kv_heads": 2, "hidden": 24, "experts": 4},
}
ATTENDING = """
use std.attention (attention, alibi_bias, rope, rope_table)
use std.nn (embedding, linear)

layer block(x: float[B, T, 32], *, kind: str) -> float[B, T, 32] {
    q = rearrange(linear(x, out=32) as q, "b t (h k) -> b h t k", h=4)
    k = rearrange(linear(x, out=16) as k, "b t (h k) -> b h t k", h=2)
    v = rearrange(linear(x, out=16) as v, "b t (h k) -> b h t k", h=2)
    place = iota(T)
    if kind == "window" {
        near = unsqueeze(place, 1) - unsqueeze(place, 0) < 3
        y = attention(q, k, v, unsqueeze(near, [0, 1]), causal=true)
    } else if kind == "mask" {
        y = attention(q, k, v, unsqueeze(unsqueeze(place, 0) <= unsqueeze(place, 1), [0, 1]))
    } else if kind == "alibi" {
        y = attention(q, k, v, none, alibi_bias(unsqueeze(place, 0), unsqueeze(place, 0), heads=4), causal=true)
    } else if kind == "capped" {
        y = attention(q, k, v, causal=true, softcap=5.0, scale=0.2)
    } else {
        cosine, sine = rope_table(unsqueeze(place, 0), dim=4)
        y = attention(rope(q, cosine, sine), rope(k, cosine, sine), v, causal=true)
    }
    return x + linear(rearrange(y, "b h t k -> b t (h k)"), out=32) as out
}

model lm(ids: i64[B, T], *, kind: str) -> (logits: float[B, T, 40]) {
    x = embedding(ids, vocab=40, dim=32) as words
    repeat i in 2 as layers {
        x = block(x, kind=kind)
    }
    return linear(x, out=40) as head
}
"""


def compiled(module: Any, *targets: str, passes: tuple[str, ...] = ("add_cache",)) -> tuple[Any, ...]:
    """The model without a cache on torch, and behind the passes on each target, with the same weights."""
    module = module.clone()
    module.recipes = {}
    rng = np.random.default_rng(3)
    weights = {
        n: rng.normal(0, 0.3, [int(d) for d in p.type.shape]).astype(np.float32) for n, p in module.parameters().items()
    }
    plain = ts.compile(module, target="torch", weights=weights, passes=[], renames=[], verify=False)
    verify = passes == ("add_cache",)
    made = (ts.compile(module, target=t, weights=weights, passes=passes, renames=[], verify=verify) for t in targets)
    return plain, *made


def greedy(artifact: Any, prompts: list[list[int]], steps: int, slots: int = 32) -> list[list[int]]:
    """The tokens that follow each prompt, all prompts in one batch."""
    name = artifact.prefill.inputs[0].name
    lengths = np.array([len(p) for p in prompts])
    ids = np.array([p + [0] * (lengths.max() - len(p)) for p in prompts])
    found = artifact.prefill(**{name: ids, "lengths": lengths}, sizes={"C": slots})
    told: list[list[int]] = [[] for _ in prompts]
    for step in range(steps):
        best = found["logits"].reshape(len(prompts), -1).argmax(-1)
        for row, token in zip(told, best.tolist(), strict=True):
            row.append(token)
        if step < steps - 1:
            states = {k: v for k, v in found.items() if k.startswith("cache_")}
            found = artifact.decode(**{name: best[:, None], "lengths": np.ones(len(prompts), np.int64)}, **states)
    return told


def greedy_at_once(artifact: Any, prompt: list[int], steps: int) -> list[int]:
    """The same by reading everything anew for each token."""
    tokens = list(prompt)
    for _ in range(steps):
        tokens.append(int(artifact(np.array([tokens]))["logits"][0, -1].argmax()))
    return tokens[len(prompt) :]


PROMPTS = [[5, 1, 7], [9], [3, 3, 2, 8, 1, 30], [2, 4, 6, 8, 10, 12, 14, 16, 18]]


TARGETS = ("torch", "onnx")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.extended] * (n != "llama_lm")) for n in ZOO])
def test_greedy_tokens_are_those_of_the_zoo_model_without_a_cache(name: str) -> None:
    module = ts.load(f"zoo/{name.removesuffix('_lm')}", name, {**SMALL, **ZOO[name]})
    plain, *made = compiled(module, *TARGETS)
    wanted = [greedy_at_once(plain, prompt, 12) for prompt in PROMPTS]
    for artifact in made:
        assert greedy(artifact, PROMPTS, 12) == wanted
        assert [greedy(artifact, [p], 12)[0] for p in PROMPTS] == wanted


OTHERS = [pytest.param(n, marks=pytest.mark.extended) for n in ("window", "mask", "alibi", "capped")]


@pytest.mark.parametrize("kind", ["rope", *OTHERS])
def test_what_depends_on_places_is_computed_at_those_of_new_tokens(kind: str) -> None:
    plain, *made = compiled(ts.loads(ATTENDING, params={"kind": kind}), *TARGETS)
    wanted = [greedy_at_once(plain, prompt, 8) for prompt in PROMPTS]
    assert [greedy(artifact, PROMPTS, 8) for artifact in made] == [wanted, wanted]


def test_a_program_with_a_cache_is_source_and_keeps_its_invariants() -> None:
    module = ts.load("zoo/llama", "llama_lm", {**SMALL, **ZOO["llama_lm"]})
    made, _ = apply_passes(module, ["add_cache"], verify_each=True)
    assert list(made.functions) == ["prefill", "decode"]
    assert ts.loads(ts.source(made)) == made
    assert list(made.parameters()) == list(module.parameters())


def test_a_row_goes_on_after_several_tokens_or_none() -> None:
    plain, artifact = compiled(ts.loads(ATTENDING, params={"kind": "rope"}), "onnx")
    text = np.random.default_rng(0).integers(0, 40, (2, 12))
    whole = plain(text)["logits"]
    found = artifact.prefill(ids=text[:, :4], lengths=[4, 2], sizes={"C": 16})
    states = {k: v for k, v in found.items() if k.startswith("cache_")}
    found = artifact.decode(ids=np.stack([text[0, 4:9], text[1, 2:7]]), lengths=[0, 5], **states)
    np.testing.assert_allclose(found["logits"][1], whole[1, 2:7], atol=2e-5)
    assert found["cache_1.length"].tolist() == [4, 7]
    states = {k: v for k, v in found.items() if k.startswith("cache_")}
    found = artifact.decode(ids=np.stack([text[0, 4:7], text[1, 7:10]]), lengths=[3, 1], **states)
    np.testing.assert_allclose(found["logits"][0], whole[0, 4:7], atol=2e-5)
    np.testing.assert_allclose(found["logits"][1, 0], whole[1, 7], atol=2e-5)


LM = """
use std.attention (attention)
use std.nn (embedding, linear)

model lm({inputs}) -> (logits: float[B, {T}, 8]) {{
    x = embedding(ids, vocab=8, dim=8) as words
    q = unsqueeze(x, 1)
    {body}
    return linear(squeeze(y, 1), out=8) as head
}}
"""


@pytest.mark.parametrize(
    ("body", "inputs", "code", "said"),
    [
        ("y = attention(q, q, q)", "ids: i64[B, T]", "E0731", "sees tokens that come later"),
        (
            "y = attention(q, q, q, unsqueeze(unsqueeze(iota(T), 0) <= maximum(unsqueeze(iota(T), 1), 2), [0, 1]))",
            "ids: i64[B, T]", "E0731", "sees tokens that come later",
        ),
        ("y = q", "ids: i64[B, T]", "E0731", "found no causal"),
        ("y = attention(q, q, q, causal=true)", "ids: i64[B, 6]", "E0731", "has no number of tokens that is free"),
        ("y = attention(q, q, q, causal=true)", "ids: i64[B, T], more: i64[B, T]", "E0731", "input holds the tokens is not clear"),
        ("y = attention(q + a, q, q, causal=true)", "ids: i64[B, T], a: float[]", "E0731", "`a: f32[]` is neither"),
        ("y = attention(q, q, q, causal=true) + mean(q, axis=2, keepdims=true)", "ids: i64[B, T]", "E0732", "`mean` brings"),
        ("y = attention(q, q, q, causal=true) + cumsum(q, axis=2)", "ids: i64[B, T]", "E0732", "`cumsum` brings"),
        (
            "y = attention(q, q, q, causal=true) * cast(full([], T, dtype=i64), f32)", "ids: i64[B, T]", "E0732",
            "cannot be made for tokens that come later: it counts the tokens",
        ),
    ],
)  # fmt: skip
def test_what_cannot_go_on_is_refused(body: str, inputs: str, code: str, said: str) -> None:
    size = "6" if "6]" in inputs else "T"
    module = ts.loads(LM.format(inputs=inputs, body=body, T=size))
    with pytest.raises(ts.Diagnostic, match=said.replace("[", r"\[").replace("]", r"\]")) as caught:
        ts.apply(module, "add_cache")
    assert caught.value.code == code


def test_a_model_without_token_ids_and_a_capacity_without_a_name_are_refused() -> None:
    with pytest.raises(
        ts.Diagnostic, match=r"E0731.*for decoders that read token ids, .* takes other inputs: `x: f32\[B, 3\]`"
    ):
        ts.apply(ts.loads("model m(x: float[B, 3]) -> float[B, 3] { return x }"), "add_cache")
    for odd in ("not a name", "", "3", "model", "None", "f32", "minimum", "lengths", "cache_0"):
        with pytest.raises(ts.Diagnostic, match=r"E0703.*`capacity` of the pass `add_cache` must be a name"):
            ts.apply(ts.loads(ATTENDING, params={"kind": "rope"}), "add_cache", capacity=odd)


NAMES = ["T", "B", "ids", "words", "C_1", "_", "prefill", "attention", "KVCache", "lm", "size", "cache_a"]


@pytest.mark.extended
def test_names_that_are_there_already_are_readable() -> None:
    """Whatever sizes and inputs are called: what is printed is read again."""
    for name in NAMES:
        made = ts.apply(ts.loads(ATTENDING, params={"kind": "rope"}), "add_cache", capacity=name, tree=True)
        assert made.difference(ts.loads(print_module(made))) is None, name
    for name in ("cache_0", "lengths", "C", "depth", "path"):
        made = ts.apply(ts.loads(ATTENDING.replace("ids", name), params={"kind": "rope"}), "add_cache", tree=True)
        assert made.difference(ts.loads(print_module(made))) is None, name


def test_entry_points_and_states_are_refused() -> None:
    made = ts.apply(ts.loads(ATTENDING, params={"kind": "rope"}), "add_cache")
    with pytest.raises(ts.Diagnostic, match="makes entry points of one model") as caught:
        ts.apply(made, "add_cache")
    assert caught.value.code == "E0731"
    with pytest.raises(ts.Diagnostic, match=r"keeps the state `cache_0\.k` already"):
        ts.apply(made.only("decode"), "add_cache")


def test_a_model_that_does_not_go_on_is_told_when_it_is_compiled() -> None:
    body = "y = attention(q, q, q, causal=true) + mean(reshape(q, [B * T, 8]), axis=0)"
    module = ts.loads(LM.format(inputs="ids: i64[B, T]", body=body, T="T"))
    with pytest.raises(ts.Diagnostic, match="from what the model gives that reads all tokens at once") as caught:
        ts.compile(module, passes=["add_cache"], target="torch")
    assert caught.value.code == "E0809"
