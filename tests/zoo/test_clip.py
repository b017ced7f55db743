"""CLIP and SigLIP agree with transformers: towers, pairs, with and without projection, on torch and in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tessera.frontends.huggingface import load  # noqa: E402
from tessera.ir.diagnostics import Diagnostic  # noqa: E402

from .judges import TEXT, TOWER, agree, images, saved, tensors, texts  # noqa: E402

pytestmark = pytest.mark.usefixtures("quiet_transformers")


@pytest.mark.parametrize("kind", ["CLIPVisionModel", "CLIPVisionModelWithProjection"])
def test_image_towers(tmp_path: Path, kind: str) -> None:
    judge = saved(kind, transformers.CLIPVisionConfig(**TOWER), tmp_path)
    feeds = {"image": images()}
    agree(tmp_path, feeds, judge(**tensors(feeds)))


@pytest.mark.parametrize(("kind", "eos"), [("CLIPTextModel", 1), ("CLIPTextModelWithProjection", 2)])
def test_text_towers(tmp_path: Path, kind: str, eos: int) -> None:
    """For eos 2, an error of early configurations, the end is the largest id."""
    judge = saved(kind, transformers.CLIPTextConfig(**(TEXT | {"eos_token_id": eos})), tmp_path)
    feeds = texts(end=eos if eos != 2 else 49)
    want = judge(**tensors(feeds))
    agree(tmp_path, feeds, want)


@pytest.mark.parametrize("act", ["quick_gelu", *(pytest.param(a, marks=pytest.mark.extended) for a in ("gelu", "gelu_new"))])
def test_the_pair(tmp_path: Path, act: str) -> None:
    config = transformers.CLIPConfig(text_config=TEXT | {"hidden_act": act}, vision_config=TOWER | {"hidden_act": act},
                                     projection_dim=24)  # fmt: skip
    judge = saved("CLIPModel", config, tmp_path)
    feeds = {"image": images(), **texts()}
    agree(tmp_path, feeds, judge(**tensors(feeds)))

@pytest.mark.parametrize("head", [True, False])
def test_siglip(tmp_path: Path, head: bool) -> None:
    config = transformers.SiglipVisionConfig(**TOWER, vision_use_head=head)
    judge = saved("SiglipVisionModel", config, tmp_path)
    feeds = {"image": images()}
    agree(tmp_path, feeds, judge(**tensors(feeds)))


@pytest.mark.extended
def test_the_tower_of_a_pair(tmp_path: Path) -> None:
    """`--model` takes a tower out of CLIP's pair; of SigLIP's it is what the zoo has."""
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=TOWER, projection_dim=24)
    judge = saved("CLIPModel", config, tmp_path / "clip")
    feeds = {"image": images()}
    agree(tmp_path / "clip", feeds, judge.vision_model(**tensors(feeds)), "clip_vision")
    config = transformers.SiglipConfig(text_config=TEXT | {"hidden_size": 32}, vision_config=TOWER)
    judge = saved("SiglipModel", config, tmp_path / "siglip")
    assert load(tmp_path / "siglip").notes == ["only the image tower of `SiglipModel` is taken"]
    agree(tmp_path / "siglip", feeds, judge.vision_model(**tensors(feeds)))


@pytest.mark.extended
@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_images_of_another_size(tmp_path: Path, family: str) -> None:
    judge = saved(f"{family}VisionModel", getattr(transformers, f"{family}VisionConfig")(**TOWER), tmp_path)
    feeds = {"image": images(2, 48, 24)}
    want = judge(**tensors(feeds), interpolate_pos_encoding=True)
    agree(tmp_path, feeds, want, height=48, width=24)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "relu"}, '`hidden_act` is "relu"'),
        ({"num_channels": 4}, "`num_channels` is 4"),
        ({"patch_size": [8, 8]}, "`patch_size` must be a positive number"),
    ],
    ids=str,
)
def test_towers_that_would_be_nearly_right_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    saved("CLIPVisionModel", transformers.CLIPVisionConfig(**TOWER), tmp_path)
    place = tmp_path / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))
    with pytest.raises(Diagnostic) as caught:
        load(tmp_path)
    assert caught.value.code == "E0933"
    assert said in caught.value.message
