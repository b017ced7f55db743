"""A ViT imported by torch.export merges the same tokens as the one of the zoo's spec with the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tessera.backends.torch import build
from tessera.benchmarks.architectures import ARCHITECTURES
from tessera.driver.compile import apply_passes
from tessera.frontends import huggingface
from tessera.frontends.torch import load
from tessera.runtime.weights.bind import bind


@pytest.mark.parametrize("step", ["merge_tokens(r=3, protect=1, map=true)", "prune_tokens(r=3, map=true)"])
def test_same_tokens_as_from_the_spec(step: str, tmp_path: Path) -> None:
    vit = ARCHITECTURES["vit"]
    model = vit.build()
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    folder = huggingface.load(tmp_path)
    imported = load(model, (), vit.example(), vit.dynamic_shapes())

    of_spec, _ = apply_passes(folder.module, [step])
    of_import, _ = apply_passes(imported.module, [step])
    spec = build(of_spec, bind(of_spec.graph, folder.weights))
    imported_run = build(of_import, imported.weights)
    for which in (0, 1):
        image = vit.example(which)["pixel_values"]
        wanted, found = spec(image), imported_run(image)
        maps = [name for name in wanted if wanted[name].dtype == torch.int64]
        assert maps
        assert maps == [name for name in found if found[name].dtype == torch.int64]
        for name in maps:
            np.testing.assert_array_equal(wanted[name].numpy(), found[name].numpy())
        torch.testing.assert_close(wanted["logits"], found["logits"], rtol=1e-4, atol=1e-5)
