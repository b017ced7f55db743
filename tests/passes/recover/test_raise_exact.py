"""Raising changes no result of an imported model, on both backends: with padding behind, in front and between, and in rows of it.

ONNX Runtime's kernels and ours may differ only where masks hide everything, so that such rows belong to every comparison.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.architectures import ARCHITECTURES, Architecture
from benchmarks.architectures_more import MORE
from benchmarks.raise_table import imported
from tessera.backends.onnx import build as build_onnx
from tessera.backends.onnx import serialize
from tessera.backends.onnx.session import Session
from tessera.frontends.source import loads, print_module
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply

from .test_raise import composites
from .test_raise_imports import Arrays, run

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

ALL = {**ARCHITECTURES, **MORE}
QUICK = {("gpt_neo", "torch")}
ROWS = [
    pytest.param(
        name, importer, id=f"{name}-{importer}", marks=() if (name, importer) in QUICK else pytest.mark.extended
    )
    for name in ALL
    for importer in ("torch", "onnx")
    if name in ARCHITECTURES or importer == "torch"
]
# In these convolutions run from token to token, into padding too.
CONVOLVED = {"convbert", "nystromformer"}
# Tokens of its images merge as well, and none of them is padding.
PAIRED = {"clip"}


def cases(architecture: Architecture) -> list[Arrays]:
    """Inputs of both sizes, and with other padding."""
    found = [{n: v.numpy() for n, v in architecture.example(which).items()} for which in (0, 1)]
    if "attention_mask" in found[1]:
        mask = np.ones_like(found[1]["attention_mask"])
        mask[0, :5] = 0
        mask[1] = 0
        mask[2, 3:6] = 0
        found.append({**found[1], "attention_mask": mask})
    return found


@pytest.mark.parametrize(("name", "importer"), ROWS)
def test_raising_is_exact(name: str, importer: str, tmp_path: Path) -> None:
    architecture = ALL[name]
    try:
        found = imported(architecture, importer, tmp_path)
    except torch.onnx.errors.OnnxExporterError as error:
        pytest.skip(f"torch.onnx.export refuses it: {str(error).splitlines()[0]}")
    try:
        module, report = apply(found.module, "raise_composites")
    except Diagnostic as error:
        if error.code != "E0715":
            raise
        pytest.skip(error.message)
    assert loads(print_module(module)) == module
    assert report.contract == "exact"
    if name in ARCHITECTURES:
        assert composites(module)["attention"] == architecture.blocks
    weights = {n: found.weights[n] for n in module.graph.params}
    session = Session(serialize(build_onnx(module, weights)))
    for inputs in cases(architecture):
        want = run(found.module, found.weights, inputs)
        for got in (run(module, found.weights, inputs), session({v.name: inputs[v.name] for v in module.graph.inputs})):
            for output, value in want.items():
                np.testing.assert_allclose(got[output], value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "bert" else pytest.mark.extended) for n in ALL if n not in CONVOLVED | PAIRED],
)
def test_merging_padding_changes_no_token(name: str, tmp_path: Path) -> None:
    """Padding merges before anything else, and loses nothing: as long as there is some, real tokens are what they were."""
    example: dict[str, Any] = ALL[name].example(1)
    if "attention_mask" not in example:
        pytest.skip("no padding")
    found = imported(ALL[name], "torch", tmp_path)
    module, _ = apply(found.module, "raise_composites")
    try:
        merged, _ = apply(module, "merge_tokens", r=1, restore=True)
    except Diagnostic as error:
        if error.code not in ("E0707", "E0708", "E0710"):
            raise
        pytest.skip(error.message)
    mask = np.arange(24) < np.array([[18], [9], [16]])
    ids = np.random.default_rng(0).integers(3, 99, (3, 24))
    inputs = {**{n: v.numpy() for n, v in example.items()}, "input_ids": ids, "attention_mask": mask.astype(np.int64)}
    want, got = run(found.module, found.weights, inputs), run(merged, found.weights, inputs)
    for output, value in want.items():
        real = mask if value.shape[1] == 24 else slice(None)
        np.testing.assert_allclose(got[output][real], value[real], atol=1e-4, rtol=1e-4)
