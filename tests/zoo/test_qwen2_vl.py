"""Qwen2-VL agrees with transformers: images of one grid anywhere in prompts with padding, or one image at a known place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tessera as ts  # noqa: E402
from tessera.ir.diagnostics import Diagnostic  # noqa: E402

from .judges import TOLERANCE, saved  # noqa: E402

pytestmark = pytest.mark.usefixtures("quiet_transformers")

TOWER = {"depth": 2, "embed_dim": 32, "hidden_size": 48, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4}
DECODER = {"vocab_size": 70, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
           "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
           "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [1, 2, 3]}}  # fmt: skip
IMAGE = 60
ROWS, COLUMNS = 4, 6
TOKENS = ROWS * COLUMNS // 4


def judge(folder: Path, tied: bool = False) -> Any:
    config = transformers.Qwen2VLConfig(
        vision_config=TOWER, text_config=DECODER, image_token_id=IMAGE, video_token_id=61, vision_start_token_id=62,
        vision_end_token_id=63, tie_word_embeddings=tied,
    )  # fmt: skip
    return saved("Qwen2VLForConditionalGeneration", config, folder)


def prompts(places: list[list[int]], length: int) -> dict[str, np.ndarray]:
    """Prompts in which images stand at the given places, the later ones padded behind; patches as the processor cuts them."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 50, (len(places), length))
    mask = np.ones_like(ids)
    for row, starts in enumerate(places):
        for at in starts:
            ids[row, at : at + TOKENS] = IMAGE
        mask[row, length - row :] = 0
    images = sum(map(len, places))
    patches = rng.standard_normal((images * ROWS * COLUMNS, 3 * 2 * 4 * 4)).astype(np.float32)
    return {"pixel_values": patches, "input_ids": ids, "attention_mask": mask}


def wanted(model: Any, feeds: dict[str, np.ndarray]) -> np.ndarray:
    model.model.rope_deltas = None
    grid = torch.tensor([[1, ROWS, COLUMNS]] * (len(feeds["pixel_values"]) // (ROWS * COLUMNS)))
    kinds = torch.as_tensor((feeds["input_ids"] == IMAGE).astype(np.int32))
    given = {k: torch.as_tensor(v) for k, v in feeds.items()}
    return model(**given, image_grid_thw=grid, mm_token_type_ids=kinds).logits.detach().numpy()


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=pytest.mark.extended)], ids=["own head", "tied"])
def test_images_anywhere_in_prompts(tmp_path: Path, tied: bool) -> None:
    feeds = prompts([[2, 10], [3], [5, 13]], 24)
    want = wanted(judge(tmp_path, tied), feeds)
    real = feeds["attention_mask"] == 1
    for target in ("torch", "onnx"):
        module = ts.load(tmp_path, params={"rows": ROWS, "columns": COLUMNS})
        got = np.asarray(ts.compile(module, target=target, verify=False)(**feeds)["logits"])
        np.testing.assert_allclose(got[real], want[real], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.extended
@pytest.mark.parametrize("at", [3, 0])
def test_one_image_at_a_known_place(tmp_path: Path, at: int) -> None:
    feeds = prompts([[at], [at]], 17)
    want = wanted(judge(tmp_path), feeds)
    real = feeds.pop("attention_mask") == 1
    for target in ("torch", "onnx"):
        module = ts.load(tmp_path, "qwen2_vl_prompt", {"rows": ROWS, "columns": COLUMNS, "image_at": at})
        got = np.asarray(ts.compile(module, target=target, verify=False)(**feeds)["logits"])
        np.testing.assert_allclose(got[real], want[real], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.extended
def test_the_flat_configuration_that_was_published(tmp_path: Path) -> None:
    """Qwen2-VL's own config.json has the decoder's fields beside the others, and says `mrope` for the rotation."""
    feeds = prompts([[2]], 12)
    want = wanted(judge(tmp_path), feeds)
    place = tmp_path / "config.json"
    config = json.loads(place.read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    config |= {k: v for k, v in text.items() if k != "model_type"}
    config |= {"rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}, "rope_theta": 500.0}
    del config["vision_config"]["rope_parameters"]
    place.write_text(json.dumps(config))
    module = ts.load(tmp_path, params={"rows": ROWS, "columns": COLUMNS})
    got = np.asarray(ts.compile(module, verify=False)(**feeds)["logits"])
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def test_grids_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    judge(tmp_path)
    with pytest.raises(Diagnostic) as caught:
        ts.load(tmp_path, params={"rows": 5, "columns": 6})
    assert caught.value.code == "E0501"
    assert "`merge` must divide rows and columns" in str(caught.value)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["rope_parameters"]["mrope_section"] = [1, 1, 1]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Diagnostic, match="`sections` must add up"):
        ts.load(tmp_path, params={"rows": 4, "columns": 6})
