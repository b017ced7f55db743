"""The reductions on vision-language models as they are imported: by torch.export, and from the ONNX file of the zoo's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tessera as ts  # noqa: E402
from tessera.benchmarks.architectures_more import MORE  # noqa: E402
from tessera.frontends import onnx as onnx_files  # noqa: E402
from tessera.frontends import torch as exported_programs  # noqa: E402
from tessera.ir.diagnostics import Diagnostic  # noqa: E402

from .test_llava import prompts  # noqa: E402

pytestmark = [pytest.mark.usefixtures("quiet_transformers"), pytest.mark.extended]

WAYS = {
    "merged in the tower": ("merge_tokens(r=3, blocks=[0, 1])", 18),
    "dropped in the tower": ("prune_tokens(r=3, blocks=[0, 1])", 18),
    "restored in the tower": ("merge_tokens(r=3, blocks=[0, 1], restore=true)", 24),
    "dropped and restored in the tower": ("prune_tokens(r=3, blocks=[0, 1], restore=true)", 24),
    "dropped in the decoder": ("prune_tokens(r=6, blocks=[-2])", 18),
}


def run(module: Any, weights: Any, reduction: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores on torch and in ONNX Runtime."""
    found = {}
    for target in ("torch", "onnx"):
        passes = ["raise_composites", reduction] if reduction else ["raise_composites"]
        compiled = ts.compile(module.clone(), weights=weights, passes=passes, target=target, verify=False)
        found[target] = np.asarray(next(iter(compiled(**feeds).values())))
    return found


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_llava_by_torch_export(way: str, batch: int) -> None:
    """torch.export fixes the batch, and takes it apart and joins it again: with one image and with two."""
    reduction, left = WAYS[way]
    model = MORE["llava"].build()
    inputs = {name: value[:batch] for name, value in MORE["llava"].example().items()}
    imported = exported_programs.load(torch.export.export(model, tuple(inputs.values())))
    feeds = {name: value.numpy() for name, value in inputs.items()}
    whole = run(imported.module, imported.weights, "", feeds)["torch"]
    np.testing.assert_allclose(whole, model(**inputs)["logits"].numpy(), rtol=1e-4, atol=1e-4)
    got = run(imported.module, imported.weights, reduction, feeds)
    assert got["torch"].shape == (batch, left, whole.shape[2])
    np.testing.assert_allclose(got["torch"], got["onnx"], rtol=1e-4, atol=1e-4)
    if left == whole.shape[1]:
        assert 0 < np.abs(got["torch"] - whole).mean() < np.abs(whole).mean()


@pytest.mark.parametrize("way", WAYS)
def test_llava_of_an_onnx_file(tmp_path: Path, way: str) -> None:
    reduction, left = WAYS[way]
    sizes = {"size": 32, "patch": 8, "dim": 32, "depth": 3, "heads": 4, "hidden": 64, "vocab": 60, "text_dim": 32,
             "text_depth": 2, "text_heads": 4, "text_hidden": 64, "image_token": 55}  # fmt: skip
    file = tmp_path / "llava.onnx"
    ts.compile(ts.load("zoo/llava", "llava", sizes), verify=False).save(file)
    imported = onnx_files.load(file)
    if "restored" not in way and "tower" in way:
        # How many of the images stand in each prompt is not known.
        with pytest.raises(Diagnostic, match="is known at run time only") as caught:
            run(imported.module, imported.weights, reduction, {})
        assert caught.value.code == "E0710"
        return
    image = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    got = run(imported.module, imported.weights, reduction, {"image": image, **prompts([2, 5], 24)})
    assert got["torch"].shape == (2, left, 60)
    np.testing.assert_allclose(got["torch"], got["onnx"], rtol=1e-4, atol=1e-4)
