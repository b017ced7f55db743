"""transformers' own models, built small from a configuration with random weights, and the zoo's from the folders they save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import tessera as ts

TOLERANCE = 1e-4
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
         "patch_size": 8, "projection_dim": 24}  # fmt: skip
TEXT = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 20, "projection_dim": 24, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": 0}  # fmt: skip


def saved(kind: str, config: Any, folder: Path) -> Any:
    """A model whose every weight is random, norms and biases too, and its folder as ``save_pretrained`` writes it."""
    generator = torch.Generator().manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Matrices keep the scale of what passes through them, so that rounding is not amplified.
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + (parameter.ndim == 1) * 0.5)
    model.save_pretrained(folder)
    return model


def agree(folder: Path, feeds: dict[str, np.ndarray], want: Any, model: str | None = None, **params: Any) -> None:
    """Every output of the folder's program is that of the judge, on torch and in ONNX Runtime."""
    for target in ("torch", "onnx"):
        run = ts.compile(ts.load(folder, model, params or None), target=target, verify=False)
        for name, array in run(**feeds).items():
            expected = want[name].detach().numpy()
            np.testing.assert_allclose(np.asarray(array), expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"{target}: {name}")


def images(count: int = 2, size: int = 32, width: int | None = None) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, size, width or size)).astype(np.float32)


def texts(batch: int = 3, length: int = 9, vocab: int = 50, end: int = 1) -> dict[str, np.ndarray]:
    """Texts of different lengths that stop with `end`, and their masks."""
    ids = np.random.default_rng(0).integers(2, vocab, (batch, length))
    lengths = np.arange(length, length - batch, -1)
    ids[np.arange(batch), lengths - 1] = end
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    return {"input_ids": np.where(mask == 1, ids, 0), "attention_mask": mask}


def tensors(feeds: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """For the judge, who calls an image otherwise."""
    return {"pixel_values" if k == "image" else k: torch.as_tensor(v) for k, v in feeds.items()}
