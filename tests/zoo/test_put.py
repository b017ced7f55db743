"""Images that stand anywhere in prompts, in LLaVA of torch.export and of ONNX files: decoders read what a tower left of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tessera as ts  # noqa: E402
from tessera.frontends import onnx as onnx_files  # noqa: E402
from tessera.frontends import torch as exported_programs  # noqa: E402
from tessera.ir.diagnostics import Diagnostic  # noqa: E402

from .judges import TOLERANCE, images, saved  # noqa: E402
from .test_llava import IMAGE, PATCHES, config  # noqa: E402
from .test_reductions import gone, thirds, ts_head  # noqa: E402

pytestmark = [pytest.mark.usefixtures("quiet_transformers"), pytest.mark.extended]

TARGETS = ("torch", "onnx")
Feeds = dict[str, np.ndarray]


class Scores(torch.nn.Module):
    """LLaVA's scores alone, of prompts without padding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Any, input_ids: Any) -> Any:
        return {"logits": self.model(pixel_values=image, input_ids=input_ids, use_cache=False).logits}


def prompts(places: list[list[int]], length: int) -> Feeds:
    """Prompts with images at these places, and the images."""
    ids = np.random.default_rng(0).integers(3, 50, (len(places), length))
    for row, starts in enumerate(places):
        for at in starts:
            ids[row, at : at + PATCHES] = IMAGE
    return {"image": images(sum(map(len, places))), "input_ids": ids}


def imported(folder: Path, feeds: Feeds, form: str = "torch") -> tuple[Any, Any, Any]:
    """The model with random weights, saved in a folder; and its program and weights, imported for sizes like these."""
    judge = saved("LlavaForConditionalGeneration", config(), folder)
    example = tuple(torch.as_tensor(v) for v in feeds.values())
    made = exported_programs.load(torch.export.export(Scores(judge), example))
    if form == "onnx":
        ts.compile(made.module, weights=made.weights, passes=["raise_composites"], verify=False).save(folder / "llava.onnx")
        made = onnx_files.load(folder / "llava.onnx")
    return judge.model, made.module, made.weights


def run(module: Any, weights: Any, feeds: Feeds, reduction: str, target: str) -> dict[str, np.ndarray]:
    made = ts.compile(module.clone(), weights=weights, passes=["raise_composites", reduction], target=target, verify=False)
    return {k: np.asarray(v) for k, v in made(**feeds).items()}


@pytest.mark.parametrize("form", ["torch", "onnx"])
@pytest.mark.parametrize("places", [[[3]], [[2], [6]], [[1, 20], [4, 21]]], ids=["one", "two prompts", "two images each"])
def test_a_decoder_reads_what_a_tower_left(tmp_path: Path, places: list[list[int]], form: str) -> None:
    """Judged by transformers' decoder that is given the patches that are left, at the places that they had."""
    length = 8 + PATCHES * len(places[0])
    feeds = prompts(places, length)
    judge, module, weights = imported(tmp_path, feeds, form)
    dropped = gone(4) - 1
    want = []
    with torch.no_grad():
        seen = torch.cat(judge.get_image_features(torch.as_tensor(feeds["image"])).pooler_output)
        seen = iter(seen.reshape(-1, PATCHES, seen.shape[-1]))
        for row, starts in enumerate(places):
            x = judge.language_model.embed_tokens(torch.as_tensor(feeds["input_ids"][row]))
            for at in starts:
                x[at : at + PATCHES] = next(seen)
            left = np.delete(np.arange(length), np.concatenate([at + dropped for at in starts]))
            hidden = judge.language_model(inputs_embeds=x[None, left], position_ids=torch.as_tensor(left)[None])
            want.append((hidden.last_hidden_state @ ts_head(tmp_path).T).numpy())
    reduction = f"prune_tokens(r=4, protect=1, blocks=[1], {thirds(tmp_path)})"
    for target in TARGETS:
        got = run(module, weights, feeds, reduction, target)["logits"]
        np.testing.assert_allclose(got, np.concatenate(want), rtol=TOLERANCE, atol=TOLERANCE, err_msg=target)


@pytest.mark.parametrize(
    "reduction",
    [
        "merge_tokens(r=3, blocks=[0, 1], map=true)",
        "merge_tokens(r=3, blocks=[0, 1], proportional=false)",
        "merge_tokens(method=energy_merge, r=2, blocks=[0, 1], map=true)",
        "prune_tokens(method=by_row, r=3, blocks=[0, 1], map=true)",
        "prune_tokens(method=evit, r=5, blocks=[1], map=true)",
        # The decoder's own blocks drop what they drop of the tokens that are left.
        "prune_tokens(method=by_mass, r=[2, 2, 3, 0], blocks=[0, 1, 2, 3])",
    ],
)
def test_it_is_what_joining_text_and_images_gives(tmp_path: Path, reduction: str) -> None:
    """`llava_prompt` joins them at a known place; a pass makes the same of both, and maps keep their laws."""
    feeds = prompts([[3], [3]], 8 + PATCHES)
    _, module, weights = imported(tmp_path, feeds)
    joined = ts.load(tmp_path, "llava_prompt", {"image_at": 3})
    for target in TARGETS:
        got = run(module, weights, feeds, reduction, target)
        want = ts.compile(joined, passes=[reduction], target=target, verify=False)(**feeds)
        assert got.keys() == want.keys()
        assert got["logits"].shape[1] < 8 + PATCHES
        for name, array in want.items():
            np.testing.assert_allclose(got[name], np.asarray(array), rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"{target}: {name}")


@pytest.mark.parametrize("target", TARGETS)
def test_another_number_of_images_in_a_prompt_stops_the_run(tmp_path: Path, target: str) -> None:
    """As many places are left in each row as were compiled for; and the last one, which a language model reads."""
    feeds = prompts([[2], [6]], 8 + 2 * PATCHES)
    _, module, weights = imported(tmp_path, feeds)
    reduction = f"prune_tokens(r=5, protect=1, blocks=[1], {last(tmp_path)})"
    # Two images in one prompt and none in the other; an image at a prompt's end.
    for places in ([[2, 20], []], [[2], [8 + PATCHES]]):
        with pytest.raises(Diagnostic) as caught:
            run(module, weights, prompts(places, 8 + 2 * PATCHES), reduction, target)
        assert caught.value.code == "E0912"


def last(folder: Path) -> str:
    (folder / "late.tess").write_text(
        "use std.token (TokenMap, keep_best)\n\n## The last tokens leave.\n"
        "op late(x: float[B, T, D], map: TokenMap[B, N, T], *, r: int, protect: int = 0, last: int = 0)\n"
        "    -> (float[B, T - r, D], TokenMap[B, N, T - r]) {\n"
        "    score = expand(unsqueeze(-cast(iota(T), f32), 0), [B, T])\n"
        "    return keep_best(x, map, score, r=r, protect=protect, last=last)\n}\n"
    )
    return f'method="{folder / "late.tess"}:late"'


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    """Of the zoo's `llava` the numbers of images and prompts are free; and of two passes the second would have to place anew."""
    sizes = {"size": 32, "patch": 8, "dim": 32, "depth": 3, "heads": 4, "hidden": 64, "vocab": 60, "text_dim": 32,
             "text_depth": 1, "text_heads": 4, "text_hidden": 64}  # fmt: skip
    with pytest.raises(Diagnostic, match="is known at run time only") as caught:
        ts.apply(ts.load("zoo/llava", "llava", sizes), "merge_tokens", r=2, blocks=[0, 1])
    assert caught.value.code == "E0710"
    _, module, _ = imported(tmp_path, prompts([[3]], 8 + PATCHES))
    first = ts.apply(ts.apply(module, "raise_composites"), "prune_tokens", r=2, blocks=[0])
    with pytest.raises(Diagnostic) as caught:
        ts.apply(first, "prune_tokens", r=2, blocks=[1])
    assert caught.value.code == "E0710"
