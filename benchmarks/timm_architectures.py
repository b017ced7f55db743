"""Vision transformers of timm, built small with random weights; only where timm can be imported, which needs torchvision."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .architectures import IMAGE, Architecture, image_inputs

if TYPE_CHECKING:
    import torch


def unavailable() -> str:
    """Why timm cannot be used here; empty when it can."""
    try:
        importlib.import_module("timm")
    except Exception as error:  # torchvision without its compiled part raises RuntimeError
        if isinstance(error, ImportError) and error.name == "timm":
            return "timm is not installed"
        return f"`import timm` fails ({type(error).__name__}: {str(error).splitlines()[0]})"
    return ""


def _model(model: str, options: dict[str, Any]) -> Callable[[], torch.nn.Module]:
    # Without a head: some begin as zeros, and then nothing would be compared.
    def make() -> torch.nn.Module:
        import timm

        return timm.create_model(model, pretrained=False, img_size=IMAGE, num_classes=0, depth=2, **options)

    return make


def _timm(model: str, **options: Any) -> Architecture:
    # Models of timm call their input `x`.
    def inputs(sizes: Any) -> dict[str, Any]:
        return {"x": image_inputs(sizes)["pixel_values"]}

    name = f"timm {model}"
    return Architecture(
        name, _model(model, options), inputs, {"x": {0: "batch"}}, ({"batch": 2}, {"batch": 3}), blocks=2
    )


TIMM: dict[str, Architecture] = {
    a.name: a
    for a in (
        _timm("deit_tiny_patch16_224", patch_size=8, embed_dim=32, num_heads=4),
        _timm("vit_small_patch14_reg4_dinov2", patch_size=8, embed_dim=32, num_heads=4),
        _timm("eva02_tiny_patch14_224", patch_size=8, embed_dim=32, num_heads=4),
        _timm("beit_base_patch16_224", patch_size=8, embed_dim=32, num_heads=4),
    )
}
