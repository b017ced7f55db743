"""Token reductions inside the zoo's towers: decoders read what is left, judged by transformers' decoders that are given it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tessera as ts  # noqa: E402
from tessera.ir.diagnostics import Diagnostic  # noqa: E402

from .judges import TOLERANCE, images, saved  # noqa: E402
from .test_dna import PARAMS as DNA  # noqa: E402
from .test_dna import letters  # noqa: E402
from .test_llava import PATCHES, config  # noqa: E402
from .test_segmenter import PARAMS as SEGMENTER  # noqa: E402

pytestmark = pytest.mark.usefixtures("quiet_transformers")

# A method that keeps tokens by their places, so that a judge knows them: every third leaves, from the front.
THIRDS = """
use std.token (TokenMap, keep_best)

## Every third token leaves, from the front.
op thirds(x: float[B, T, D], map: TokenMap[B, N, T], *, r: int, protect: int = 0, last: int = 0)
    -> (float[B, T - r, D], TokenMap[B, N, T - r]) {
    place = iota(T)
    score = where(place % 3 == 1, cast(place, f32) - 1000.0, cast(place, f32))
    return keep_best(x, map, expand(unsqueeze(score, 0), [B, T]), r=r, protect=protect, last=last)
}
"""


def thirds(folder: Path) -> str:
    (folder / "mine.tess").write_text(THIRDS)
    return f'method="{folder / "mine.tess"}:thirds"'


def gone(count: int) -> np.ndarray:
    return np.arange(count) * 3 + 1


@pytest.mark.parametrize("crops", [1, pytest.param(2, marks=pytest.mark.extended)])
def test_a_decoder_reads_what_a_tower_left(tmp_path: Path, crops: int) -> None:
    """Patches that were dropped in the last block that is used are missing, and the others keep their places."""
    judge = saved("LlavaForConditionalGeneration", config(), tmp_path).model
    batch, at, length = 2, 3, 8 + crops * PATCHES
    feeds = {"image": images(batch * crops), "input_ids": np.random.default_rng(1).integers(3, 50, (batch, length))}
    # The class token is the tower's token 0: patch p is token p + 1.
    left = np.delete(np.arange(PATCHES), gone(4) - 1)
    left = np.concatenate([left + c * PATCHES for c in range(crops)])
    with torch.no_grad():
        seen = torch.cat(judge.get_image_features(torch.as_tensor(feeds["image"])).pooler_output)
        seen = seen.reshape(batch, crops * PATCHES, -1)[:, left]
        words = judge.language_model.embed_tokens(torch.as_tensor(feeds["input_ids"]))
        x = torch.cat([words[:, :at], seen, words[:, at + crops * PATCHES :]], 1)
        position = np.concatenate([np.arange(at), at + left, np.arange(at + crops * PATCHES, length)])
        hidden = judge.language_model(inputs_embeds=x, position_ids=torch.as_tensor(position)[None]).last_hidden_state
        want = (hidden @ ts_head(tmp_path).T).numpy()
    for target in ("torch", "onnx"):
        module = ts.load(tmp_path, "llava_prompt", {"image_at": at, "crops": crops})
        reduce = f'prune_tokens(r=4, protect=1, blocks=[1], {thirds(tmp_path)})'
        got = np.asarray(ts.compile(module, passes=[reduce], target=target, verify=False)(**feeds)["logits"])
        np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def ts_head(folder: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")["language_model.lm_head.weight"]


@pytest.mark.extended
def test_a_decoder_reads_what_was_merged(tmp_path: Path) -> None:
    """Means stand at the places of the tokens that others were merged into, in order, whatever order merging leaves."""
    judge = saved("LlavaForConditionalGeneration", config(), tmp_path).model
    at, length = 3, 8 + PATCHES
    feeds = {"image": images(1), "input_ids": np.random.default_rng(1).integers(3, 50, (1, length))}
    module = ts.load(tmp_path, "llava_prompt", {"image_at": at})
    reduce = 'merge_tokens(r=5, protect=1, blocks=[1], proportional=false, map=true)'
    found = {t: ts.compile(module, passes=[reduce], target=t, verify=False)(**feeds) for t in ("torch", "onnx")}
    source = np.asarray(found["torch"]["token_source0"])[0]
    # Where an odd token is, others were merged into it.
    groups = {s: np.flatnonzero(source == s) for s in set(source.tolist()) - {source[0]}}
    keepers = {s: next((int(i) for i in g if i % 2), int(g[0])) for s, g in groups.items()}
    ordered = sorted(groups, key=keepers.__getitem__)
    with torch.no_grad():
        tower = judge.vision_tower(torch.as_tensor(feeds["image"]), output_hidden_states=True).hidden_states[1]
        block = judge.vision_tower.encoder.layers[1]
        tower = tower + block.self_attn(block.layer_norm1(tower))[0]
        merged = torch.stack([tower[0, groups[s]].mean(0) for s in ordered])[None]
        merged = merged + block.mlp(block.layer_norm2(merged))
        seen = judge.multi_modal_projector(merged)
        words = judge.language_model.embed_tokens(torch.as_tensor(feeds["input_ids"]))
        x = torch.cat([words[:, :at], seen, words[:, at + PATCHES :]], 1)
        places = np.array([keepers[s] - 1 for s in ordered])
        position = np.concatenate([np.arange(at), at + places, np.arange(at + PATCHES, length)])
        hidden = judge.language_model(inputs_embeds=x, position_ids=torch.as_tensor(position)[None]).last_hidden_state
        want = (hidden @ ts_head(tmp_path).T).numpy()
    assert len(ordered) == PATCHES - 5
    for target, outputs in found.items():
        np.testing.assert_allclose(np.asarray(outputs["logits"]), want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=target)


@pytest.mark.extended
def test_windows_that_were_pruned_stand_side_by_side(tmp_path: Path) -> None:
    """Features are those of the sequence whose dropped bases the latent encoder cannot see."""
    text = letters(2, 24)
    module = ts.load("zoo/dna", params={**DNA, "window": 6})
    rng = np.random.default_rng(0)
    weights = {n: 0.3 * rng.standard_normal([int(d) for d in p.type.shape]).astype(np.float32)
               for n, p in module.graph.params.items()}  # fmt: skip
    reduce = f'prune_tokens(r=2, protect=0, blocks=[1], {thirds(tmp_path)})'
    results = {}
    for target in ("torch", "onnx"):
        run = ts.compile(module, weights=weights, passes=[reduce], target=target, verify=False)
        results[target] = np.asarray(run(bytes=text)["last_hidden_state"])
    assert results["torch"].shape == (2, 16, 16)
    np.testing.assert_allclose(results["torch"], results["onnx"], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.extended
@pytest.mark.parametrize("crops", [1, 2])
def test_two_passes_that_both_reduce_in_front_of_what_joins(crops: int) -> None:
    """The second would have to move what the first joined: refused, and not wrong."""
    sizes = {"size": 32, "patch": 8, "dim": 32, "depth": 3, "heads": 4, "hidden": 64, "vocab": 60, "text_dim": 32,
             "text_depth": 1, "text_heads": 4, "text_hidden": 64}  # fmt: skip
    module = ts.load("zoo/llava", "llava_prompt", {**sizes, "image_at": 3, "crops": crops})
    with pytest.raises(Diagnostic) as caught:
        ts.compile(module, passes=["prune_tokens(r=2, blocks=[0])", "prune_tokens(r=2, blocks=[1])"], verify=False)
    assert caught.value.code == "E0710"
    assert "were reduced before that by an earlier pass already" in caught.value.message


def test_images_anywhere_in_prompts_are_restored_or_refused() -> None:
    """Where the places of images come with the prompt, so does the number of their tokens."""
    sizes = {"size": 32, "patch": 8, "dim": 32, "depth": 3, "heads": 4, "hidden": 64, "vocab": 60, "text_dim": 32,
             "text_depth": 1, "text_heads": 4, "text_hidden": 64}  # fmt: skip
    module = ts.load("zoo/llava", "llava", sizes)
    with pytest.raises(Diagnostic) as caught:
        ts.compile(module, passes=["merge_tokens(r=2, blocks=[0, 1])"], verify=False)
    assert caught.value.code == "E0710"
    ts.compile(module, passes=["merge_tokens(r=2, blocks=[0, 1], restore=true)"], verify=False)


@pytest.mark.extended
@pytest.mark.parametrize("decoder", ["mask", "linear"])
def test_every_pixel_has_scores_when_patches_were_merged(decoder: str) -> None:
    """Merging nothing changes nothing, merging some changes little; the mask decoder's class tokens are never merged."""
    module = ts.load("zoo/segmenter", params={**SEGMENTER, "decoder": decoder})
    image = images(2)
    whole = np.asarray(ts.compile(module, verify=False)(image=image)["logits"])
    for target in ("torch", "onnx"):
        run = ts.compile(module, passes=["merge_tokens(r=4, blocks=[0, 1], restore=true)"], target=target, verify=False)
        got = np.asarray(run(image=image)["logits"])
        assert got.shape == whole.shape
        assert 0 < np.abs(got - whole).mean() < np.abs(whole).mean()
