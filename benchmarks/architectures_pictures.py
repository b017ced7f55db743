"""Parts of transformers that see pictures: inputs, towers, what takes texts, pages and points beside them, what finds things."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from .architectures import DECODER, IMAGE, IMAGES, TEXT, VOCABULARY, Sizes, image_inputs, text_inputs
from .architectures_more import PATCH, PATCHES

_BATCH = {0: "batch"}
_ROW = {0: "batch", 1: "tokens"}


def drawn_by(sizes: Sizes) -> Any:
    import torch

    return torch.Generator().manual_seed(sum(sizes.values()))


def picture_and(sizes: Sizes) -> dict[str, Any]:
    return {**image_inputs(sizes), **text_inputs(sizes)}


PICTURE_AND = {"pixel_values": _BATCH, "input_ids": _ROW, "attention_mask": _ROW}


def page_inputs(sizes: Sizes) -> dict[str, Any]:
    import torch

    batch, tokens = sizes["batch"], sizes["tokens"]
    corner = torch.randint(0, 40, (batch, tokens, 2), generator=drawn_by(sizes))
    return {**picture_and(sizes), "bbox": torch.cat([corner, corner + 10], -1)}


def queries_inputs(sizes: Sizes) -> dict[str, Any]:
    """As many texts as pictures times two, as OWL-ViT asks."""
    import torch

    texts = 2 * sizes["batch"]
    ids = torch.randint(3, VOCABULARY, (texts, sizes["tokens"]), generator=drawn_by(sizes))
    return {"input_ids": ids, **image_inputs(sizes), "attention_mask": torch.ones_like(ids)}


def points_inputs(sizes: Sizes) -> dict[str, Any]:
    import torch

    points = torch.rand(sizes["batch"], 1, 2, 2, generator=drawn_by(sizes)) * IMAGE
    return {**image_inputs(sizes), "input_points": points}



def sam_options(**vision: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_dim": 48, "image_size": IMAGE, "patch_size": 8,
        "output_channels": 16, "num_pos_feats": 8, "global_attn_indexes": (0, 1), **vision,
    }  # fmt: skip


def whole_sam() -> Any:
    """SAM that gives its masks and how good they are, of a picture and points in it."""
    import torch
    import transformers

    prompts = {"hidden_size": 16, "image_size": IMAGE, "patch_size": 8, "mask_input_channels": 4}
    masks = {
        "hidden_size": 16, "mlp_dim": 24, "num_attention_heads": 2, "iou_head_hidden_dim": 16, "num_hidden_layers": 2
    }
    config = transformers.SamConfig(vision_config=sam_options(), prompt_encoder_config=prompts, mask_decoder_config=masks)

    class Masks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.SamModel(config)

        def forward(self, pixel_values: Any, input_points: Any) -> Any:
            found = self.model(pixel_values=pixel_values, input_points=input_points)
            return {"iou_scores": found.iou_scores, "pred_masks": found.pred_masks}

    return Masks()


def only(make: Callable[[], Any], *names: str) -> Callable[[], Any]:
    """A model of pictures that gives these outputs alone, of many that only losses read."""

    def made() -> Any:
        import torch

        class Chosen(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = make()

            def forward(self, pixel_values: Any) -> Any:
                found = self.model(pixel_values=pixel_values)
                return {name: found[name] for name in names}

        return Chosen()

    return made


def blip2() -> Any:
    """BLIP-2 that gives its scores alone: a tower, queries that look at it, and a decoder."""
    import torch
    import transformers

    queries = {**TEXT, "encoder_hidden_size": 32}
    text = {**DECODER, "model_type": "llama"}
    config = transformers.Blip2Config(
        vision_config=IMAGES, qformer_config=queries, text_config=text, num_query_tokens=PATCHES, image_token_index=PATCH
    )

    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.Blip2ForConditionalGeneration(config)

        def forward(self, pixel_values: Any, input_ids: Any) -> Any:
            found = self.model(pixel_values=pixel_values, input_ids=input_ids, use_cache=False)
            return {"logits": found.logits}

    return Scores()


def tower(family: str, model: str, config: str, **options: Any) -> Callable[[], Any]:
    """The image tower of Qwen2-VL and Qwen2.5-VL for an image of 8 x 8 patches.

    Where the windows and the image end is read from tensors there, which `torch.export` cannot split by: they are arrays here.
    """

    def make() -> Any:
        import torch
        from transformers import vision_utils

        class Tower(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                module = import_module(f"transformers.models.{family}.modeling_{family}")
                configs = import_module(f"transformers.models.{family}.configuration_{family}")
                self.model = getattr(module, model)(getattr(configs, config)(**options))
                grid = torch.tensor([[1, 8, 8]])
                self.given = {"position_ids": vision_utils.get_vision_position_ids(grid, 2), "cu_seqlens": np.array([0, 64])}
                if "window_size" in options:
                    index, ends = vision_utils.get_vision_window_index(grid, 2, options["window_size"], 4)
                    self.given |= {"window_index": index, "cu_window_seqlens": ends.numpy()}

            def forward(self, hidden_states: Any) -> Any:
                found = self.model(hidden_states, None, **self.given)
                return {"features": found.last_hidden_state, "pooled": found.pooler_output}

        return Tower()

    return make


def patches_inputs(sizes: Sizes) -> dict[str, Any]:
    import torch

    return {"hidden_states": torch.randn(64, 3 * 2 * 4 * 4, generator=drawn_by(sizes))}


def strong_inputs(sizes: Sizes) -> dict[str, Any]:
    """Images that show behind twenty layers without a norm of what they are given, each of which halves what it gets."""
    return {name: 3000 * image for name, image in image_inputs(sizes).items()}


def noise_inputs(sizes: Sizes) -> dict[str, Any]:
    import torch

    return {**image_inputs(sizes), "noise": torch.rand(sizes["batch"], 16, generator=drawn_by(sizes))}



DINO = {
    "config": "Dinov2Config", **IMAGES, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "mlp_ratio": 2,
    "reshape_hidden_states": False,
}  # fmt: skip
RESNET = {
    "config": "ResNetConfig", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
    "out_features": ["stage2", "stage3", "stage4"],
}  # fmt: skip
SWIN = {
    "config": "SwinConfig", "image_size": IMAGE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 4], "window_size": 4, "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
REAL_TIME = {
    "config": "RTDetrResNetConfig", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"],
}  # fmt: skip
TOWER = {"depth": 2, "hidden_size": 32, "num_heads": 4, "patch_size": 4}
