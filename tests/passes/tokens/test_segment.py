"""A part of the tokens leaves, an image among words: by the name of the input, of what is joined, or by its places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.driver.compile import apply_passes
from tessera.frontends import onnx as onnx_files
from tessera.frontends.source import loads, print_module
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.program import Program

LLAVA = {"size": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 4, "hidden": 64, "layers": [-1], "vocab": 60, "text_dim": 32,
         "text_depth": 2, "text_heads": 4, "text_hidden": 64}  # fmt: skip
AT, PATCHES = 3, 16
# The blocks of the decoder; the tower has two, of which the last layer is read.
DECODER = "blocks=[-2, -1]"
PAIR = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)

model pair(words: f32[B, L, 16], image: f32[B, 12, 16]) -> (words_out: f32[B, L, 16], all: f32[B, 16]) {
    x = concat(words, image, axis=1)
    repeat i in 2 as blocks {
        x = x + self_attention(layer_norm(x) as norm1, heads=2) as attn
        x = x + mlp(layer_norm(x) as norm2, hidden=16) as mlp
    }
    return x[:, :L], sum(x, axis=1)
}
"""


def llava() -> Program:
    return ts.load("zoo/llava", "llava_prompt", {**LLAVA, "image_at": AT})


def prompts(tokens: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(tokens)
    return {"image": rng.standard_normal((2, 3, 32, 32)).astype(np.float32), "input_ids": rng.integers(0, 50, (2, tokens))}


def scores(module: Program, reduction: str, feeds: dict[str, np.ndarray], **options: Any) -> np.ndarray:
    """Those of torch, with which ONNX Runtime agrees."""
    found = [
        np.asarray(next(iter(ts.compile(module, passes=[reduction], target=t, verify=False, **options)(**feeds).values())))
        for t in ("torch", "onnx")
    ]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)
    return found[0]


@pytest.mark.extended
@pytest.mark.parametrize("reduction", [
    "prune_tokens(r=5, {})", "prune_tokens(keep=0.25, {})", "prune_tokens(k=4, {})", "prune_tokens(method=fastv, r=3, {})",
    "merge_tokens(r=4, place=keys, {})",
])  # fmt: skip
def test_an_image_leaves_and_words_stay(reduction: str) -> None:
    """The same by every way to name it, and as where the others are protected by number; prompts may have any length."""
    for tokens in (24, 31):
        feeds = prompts(tokens)
        given = [scores(llava(), reduction.format(f"segment={s}, {DECODER}"), feeds) for s in (
            "image", "seen", [AT, AT + PATCHES], [AT, AT + PATCHES - tokens])]  # fmt: skip
        for other in given[1:]:
            np.testing.assert_array_equal(given[0], other)
        if "r=" in reduction:
            protected = reduction.format(f"protect=[{AT - 1}, {AT + PATCHES - tokens}], {DECODER}")
            np.testing.assert_array_equal(given[0], scores(llava(), protected, feeds))


@pytest.mark.slow
def test_shares_and_numbers_count_the_segment() -> None:
    for words, left in (("keep=0.25", 4), ("k=6", 6), ("keep=[0.5, 0.25]", 4), ("r=0.5", 4), ("r=[3, 2]", 11)):
        module, (report,) = apply_passes(llava(), [f"prune_tokens({words}, segment=image, {DECODER})"], verify_each=True)
        first, final = (module.graph.expand_lets(module.graph.outputs[0].type.shape[1]).evaluate({"T": n}) for n in (24, 40))
        assert (first, final) == (24 - PATCHES + left, 40 - PATCHES + left), words
        assert not [note for note in report.notes if "are left" in note]
        assert loads(print_module(module)).difference(module) is None


@pytest.mark.extended
def test_a_text_of_free_length_stays_beside_an_image_that_merges() -> None:
    """Words keep their places whatever merges, and every word and every patch is counted once."""
    module = loads(PAIR)
    rng = np.random.default_rng(0)
    for length in (1, 2, 7):
        feeds = {"words": rng.standard_normal((2, length, 16)).astype(np.float32),
                 "image": rng.standard_normal((2, 12, 16)).astype(np.float32)}  # fmt: skip
        for reduction in ("merge_tokens(r=3, {})", "merge_tokens(keep=0.3, {})", "prune_tokens(r=3, {})"):
            given = reduction.format("segment=image, map=true")
            found = [ts.compile(module, passes=[given], target=t, verify=False)(**feeds) for t in ("torch", "onnx")]
            for name in found[0]:
                np.testing.assert_allclose(*(np.asarray(outputs[name]) for outputs in found), rtol=1e-4, atol=1e-4)
            # What `protect` says for this very length.
            known = loads(PAIR.replace("B, L, 16", f"B, {length}, 16").replace(":L]", f":{length}]"))
            other = ts.compile(known, passes=[reduction.format(f"protect={length}").replace("keep=0.3", f"r={[4, 4]}")
                                              if "keep" in reduction else reduction.format(f"protect={length}")],
                               target="torch", verify=False)(**feeds)  # fmt: skip
            np.testing.assert_allclose(np.asarray(other["words_out"]), np.asarray(found[0]["words_out"]), rtol=1e-5, atol=1e-5)


def test_of_a_tower_the_patches_are_the_segment() -> None:
    """The class token is made of a weight, not of the image."""
    module, _ = apply_passes(ts.load("vit_s16"), ["merge_tokens(r=8, segment=image)"])
    plain, _ = apply_passes(ts.load("vit_s16"), ["merge_tokens(r=8, protect=1)"])
    assert module.difference(plain) is None


@pytest.mark.parametrize("name", ["prune_tokens", "merge_tokens"])
def test_two_passes_over_one_segment(name: str) -> None:
    module = loads(PAIR)
    feeds = {"words": np.random.default_rng(0).standard_normal((1, 5, 16)).astype(np.float32),
             "image": np.random.default_rng(1).standard_normal((1, 12, 16)).astype(np.float32)}  # fmt: skip
    steps = [f"{name}(r=2, segment=image, blocks=[{i}])" for i in range(2)]
    found = [ts.compile(module, passes=steps, target=t, verify=False)(**feeds)["words_out"] for t in ("torch", "onnx")]
    np.testing.assert_allclose(*map(np.asarray, found), rtol=1e-4, atol=1e-4)
    summed = loads(PAIR.replace("words_out: f32[B, L, 16], all: ", "").replace("x[:, :L], ", ""))
    with pytest.raises(Diagnostic, match="of which a pass before this one let some go") as caught:
        apply_passes(summed, [f"{name}(r=2, blocks=[0], protect=0)", steps[1]])
    assert caught.value.code == "E0705"


@pytest.mark.parametrize("required", ["T <= 10", "T < 11", "10 >= T", "T == 10", "T + 1 <= 11"])
@pytest.mark.parametrize(
    ("segment", "allowed"), [("[3, -20]", "T <= 30"), ("[9, 10]", "T <= 11"), ("[20, 25]", "T <= 26"), ("[12]", "T <= 13")]
)
def test_a_segment_that_no_size_has_is_refused_by_what_the_model_requires(required: str, segment: str, allowed: str) -> None:
    def step(need: str) -> None:
        module = loads(f"""
use std.attention (self_attention)
model m(x: f32[B, T, 8]) -> f32[B, 8] {{
    require {need}, "few"
    x = x + self_attention(x, heads=2) as first
    return mean(x, axis=1)
}}
""")
        apply_passes(module, [f"merge_tokens(r=1, segment={segment})"])

    step(allowed)
    with pytest.raises(Diagnostic, match=r"`segment` asks for more tokens.*\n(.*\n)*.*the model requires") as caught:
        step(required)
    assert caught.value.code == "E0705"


@pytest.mark.extended
@pytest.mark.parametrize("reduction", ["prune_tokens(r=4, {})", "merge_tokens(r=3, place=keys, {})"])
def test_imports_know_their_segments(tmp_path: Path, reduction: str) -> None:
    """Of a file whose prompts join the image by its name, of one that puts it anywhere by its places."""
    ts.compile(llava(), verify=False).save(tmp_path / "prompt.onnx")
    imported = onnx_files.load(tmp_path / "prompt.onnx", sizes={"T": 24})
    raised, _ = apply_passes(imported.module, ["raise_composites"])
    feeds = prompts(24)
    given = [scores(raised, reduction.format(f"segment={s}, {DECODER}"), feeds, weights=imported.weights)
             for s in ("image", [AT, AT + PATCHES])]  # fmt: skip
    np.testing.assert_array_equal(*given)

    ts.compile(ts.load("zoo/llava", "llava", {**LLAVA, "image_token": 55}), verify=False).save(tmp_path / "llava.onnx")
    imported = onnx_files.load(tmp_path / "llava.onnx")
    raised, _ = apply_passes(imported.module, ["raise_composites"])
    feeds["input_ids"][:, AT : AT + PATCHES] = 55
    feeds["attention_mask"] = np.ones_like(feeds["input_ids"])
    with pytest.raises(Diagnostic, match="where its own stand is not told"):
        apply_passes(raised, [reduction.format(f"segment=image, {DECODER}")])
    if "merge" in reduction:
        # Any prompt may be padded, and a key that merged with padding stands behind all that see it.
        return
    found = scores(raised, reduction.format(f"segment=[{AT}, {AT + PATCHES}], {DECODER}"), feeds, weights=imported.weights)
    assert found.shape == (2, 24 - 2 * 4, 60)


WRONG = {
    "segment=picture": "`segment` names `picture`, but the model has no input of that name, nor a part that is joined",
    "segment=input_ids": "`segment` names `input_ids`, of which there are 2 parts among the tokens that block 2 attends to, with "
    "others between them",
    "segment=[9, 3]": "`segment=[9, 3]` is no part of the T tokens that block 2 attends to",
    "segment=[-4, 3, 9]": "`segment` of the pass `prune_tokens` must be a name, or the place of the first token and that of the "
    "first one behind it, but is [-4, 3, 9]",
    "segment=image, protect=1": "`segment` says which tokens may leave, and `protect` which stay",
}  # fmt: skip


@pytest.mark.parametrize("options", WRONG)
def test_what_is_no_segment(options: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        apply_passes(llava(), [f"prune_tokens(r=2, {options}, {DECODER})"])
    assert caught.value.message == WRONG[options]
    assert caught.value.help or options.count(",") == 2


def test_of_tokens_that_are_not_made_of_an_input_none_is_its_segment() -> None:
    with pytest.raises(Diagnostic, match="but of the tokens that block 0 attends to none is made of it"):
        apply_passes(llava(), ["prune_tokens(r=2, segment=input_ids)"])
    with pytest.raises(Diagnostic, match="`segment` does not go with cluster_tokens"):
        apply_passes(llava(), ["cluster_tokens(keep=0.25, segment=image)"])
