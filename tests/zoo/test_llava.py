"""LLaVA agrees with transformers: both towers, every way to choose features, images anywhere in prompts, several crops a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")

import tessera as ts  # noqa: E402
from tessera.frontends.huggingface import load  # noqa: E402
from tessera.ir.diagnostics import Diagnostic  # noqa: E402

from .judges import TOLERANCE, TOWER, agree, images, saved, tensors  # noqa: E402

pytestmark = pytest.mark.usefixtures("quiet_transformers")

DECODER = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
           "num_key_value_heads": 2, "intermediate_size": 64, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
IMAGE = 55
PATCHES = 16


def config(tower: str = "clip", text: dict[str, Any] | None = None, **changes: Any) -> Any:
    vision = TOWER | {"num_hidden_layers": 3, "model_type": f"{tower}_vision_model"}
    return transformers.LlavaConfig(
        vision_config=vision, text_config={**DECODER, "model_type": "llama", **(text or {})}, image_token_index=IMAGE, **changes
    )


def prompts(places: list[int], length: int, tokens: int = PATCHES) -> dict[str, np.ndarray]:
    """Prompts in which an image of so many tokens stands at a place of its own, padded behind."""
    ids = np.random.default_rng(0).integers(3, 50, (len(places), length))
    mask = np.ones_like(ids)
    for row, at in enumerate(places):
        ids[row, at : at + tokens] = IMAGE
        mask[row, length - row :] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(
    ("tower", "changes"),
    [
        ("clip", {}),
        pytest.param(
            "clip", {"vision_feature_layer": [-2, 1], "multimodal_projector_bias": False}, marks=pytest.mark.extended
        ),
        pytest.param(
            "siglip", {"vision_feature_select_strategy": "full", "vision_feature_layer": -1}, marks=pytest.mark.extended
        ),
    ],
    ids=["clip", "two layers", "siglip"],
)
def test_images_anywhere_in_prompts(tmp_path: Path, tower: str, changes: dict[str, Any]) -> None:
    judge = saved("LlavaForConditionalGeneration", config(tower, **changes), tmp_path)
    feeds = {"image": images(3), **prompts([2, 4, 7], 26)}
    want = judge(**tensors(feeds)).logits
    # What stands at padding is nobody's affair.
    real = feeds["attention_mask"] == 1
    for target in ("torch", "onnx"):
        got = np.asarray(ts.compile(ts.load(tmp_path), target=target, verify=False)(**feeds)["logits"])
        np.testing.assert_allclose(got[real], want.numpy()[real], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"vision_feature_layer": 1}, {}), ({}, {"model_type": "qwen2", "tie_word_embeddings": True})],
    ids=["an early layer", "Qwen2's decoder"],
)
@pytest.mark.extended
def test_one_image_at_a_known_place(tmp_path: Path, changes: dict[str, Any], text: dict[str, Any]) -> None:
    """`llava_prompt` joins text, image and text; two prompts of two crops each are judged with all tokens as image tokens."""
    tied = {"tie_word_embeddings": True} if text else {}
    judge = saved("LlavaForConditionalGeneration", config("clip", text, **changes, **tied), tmp_path)
    feeds = {"image": images(4), **prompts([3, 3], 40, 2 * PATCHES)}
    want = judge(**tensors(feeds)).logits.numpy()
    real = feeds["attention_mask"] == 1
    del feeds["attention_mask"]
    for target in ("torch", "onnx"):
        module = ts.load(tmp_path, "llava_prompt", {"image_at": 3, "crops": 2})
        got = np.asarray(ts.compile(module, target=target, verify=False)(**feeds)["logits"])
        np.testing.assert_allclose(got[real], want[real], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.extended
def test_the_last_scores_only(tmp_path: Path) -> None:
    judge = saved("LlavaForConditionalGeneration", config(), tmp_path)
    feeds = {"image": images(1), **prompts([3], 22)}
    want = judge(**tensors(feeds)).logits[:, -1]
    agree(tmp_path, feeds, {"next": want}, last=True)


@pytest.mark.extended
@pytest.mark.parametrize(
    "names",
    [
        {"vision_tower.": "vision_tower.vision_model."},
        {"vision_tower.": "model.vision_tower.vision_model.", "multi_modal_projector.": "model.multi_modal_projector.",
         "language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head."},
    ],
    ids=["published", "transformers 4.52"],
)  # fmt: skip
def test_names_of_every_version(tmp_path: Path, names: dict[str, str]) -> None:
    judge = saved("LlavaForConditionalGeneration", config(), tmp_path)
    file = tmp_path / "model.safetensors"
    renamed = {}
    for name, array in safetensors.load_file(file).items():
        start = next((s for s in names if name.startswith(s)), "")
        renamed[names.get(start, "") + name.removeprefix(start)] = array
    safetensors.save_file(renamed, file)
    feeds = {"image": images(1), **prompts([3], 22)}
    agree(tmp_path, feeds, judge(**tensors(feeds)))


@pytest.mark.parametrize("tokens", [PATCHES - 1, pytest.param(PATCHES + 1, marks=pytest.mark.extended)])
def test_another_number_of_image_tokens_is_an_error(tmp_path: Path, tokens: int) -> None:
    """Neither a feature that finds no place nor a place that finds no feature is passed over in silence."""
    saved("LlavaForConditionalGeneration", config(), tmp_path)
    feeds = {"image": images(1), **prompts([3], 22, tokens)}
    for target in ("torch", "onnx"):
        run = ts.compile(ts.load(tmp_path), target=target, verify=False)
        with pytest.raises(Diagnostic) as caught:
            run(**feeds)
        assert caught.value.code == "E0912"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision_config": {"model_type": "pixtral"}}, '`vision_config.model_type` is "pixtral"'),
        ({"text_config": {"model_type": "gemma"}}, '`text_config.model_type` is "gemma"'),
        ({"text_config": {"rope_parameters": {"rope_type": "yarn"}}}, "`text_config.rope_parameters.rope_type`"),
        ({"vision_feature_select_strategy": "cls"}, '`vision_feature_select_strategy` is "cls"'),
        ({"vision_feature_layer": "last"}, "`vision_feature_layer` must be an integer or a list of them"),
        ({"image_token_index": -1}, "`image_token_index` must be a number from 0 on"),
        ({"projector_hidden_act": "relu"}, '`projector_hidden_act` is "relu"'),
    ],
    ids=str,
)
def test_models_that_would_be_nearly_right_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    safetensors.save_file({"x": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    given = {**config().to_dict(), "architectures": ["LlavaForConditionalGeneration"]}
    for name, value in changes.items():
        given[name] = {**given[name], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(given))
    with pytest.raises(Diagnostic) as caught:
        load(tmp_path)
    assert caught.value.code == "E0933"
    assert said in caught.value.message
