"""Running small programs on every backend, as one artifact for several sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from tessera.ir.graph import Module

Arrays = dict[str, np.ndarray]
Artifact = Callable[..., Arrays]


def torch_artifact(module: Module, weights: Mapping[str, Any] | None, *, claims: bool = True) -> Artifact:
    """The module as an ``nn.Module`` that takes and returns NumPy arrays; without ``claims`` ops run as their bodies."""
    import torch

    from tessera.backends.torch import build

    built = build(module, weights, claims=claims)

    def run(**inputs: np.ndarray) -> Arrays:
        with torch.no_grad():
            return {k: v.numpy() for k, v in built(**{k: torch.as_tensor(v) for k, v in inputs.items()}).items()}

    return run


def onnx_artifact(module: Module, weights: Mapping[str, Any] | None, path: Path) -> Artifact:
    """The module as an ONNX file in ONNX Runtime."""
    import onnxruntime as ort

    from tessera.backends.onnx import build, save

    save(build(module, weights), path)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(zip(names, session.run(names, inputs), strict=True))


@pytest.fixture(params=["body", "torch", "onnx"])
def compiled(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Artifact]:
    """``compiled(module, weights)`` is a function from named arrays to named arrays.

    On torch through the ops' own bodies, on torch with its fused forms, and in ONNX Runtime.
    """
    count = iter(range(1000))

    def compile_(module: Module, weights: Mapping[str, Any] | None = None) -> Artifact:
        if request.param != "onnx":
            return torch_artifact(module, weights, claims=request.param == "torch")
        return onnx_artifact(module, weights, tmp_path / f"{next(count)}.onnx")

    return compile_


@pytest.fixture
def agrees(compiled: Callable[..., Artifact]) -> Callable[..., None]:
    """``agrees("std.nn.gelu", "gelu(x)", expected, x=x)``: the expression gives the expected arrays (one a result).

    ``free`` are axes as ``{"x": {0: "B"}}`` that stay symbolic; the other types are those of the arrays.
    """
    import torch

    from tessera.frontends.source import loads

    def check(
        uses: str, expression: str, *expected: Any, tolerance: float = 1e-5,
        free: Mapping[str, dict[int, str]] | None = None, **inputs: Any,
    ) -> None:  # fmt: skip
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        wanted = [np.asarray(value) for value in expected]
        rows = (use.rpartition(".") for use in uses.split())
        imports = "\n".join(f"use {module} ({name})" for module, _, name in rows)
        operands = ", ".join(f"{k}: {tensor_type(v, (free or {}).get(k, {}))}" for k, v in arrays.items())
        results = ", ".join(f"r{i}: {tensor_type(v, (free or {}).get(f'r{i}', {}))}" for i, v in enumerate(wanted))
        names = ", ".join(f"r{i}" for i in range(len(wanted)))
        text = f"{imports}\nmodel m({operands}) -> ({results}) {{ {names} = {expression} return {names} }}"
        got = compiled(loads(text))(**arrays)
        for value, want in zip(got.values(), wanted, strict=True):
            assert value.dtype == want.dtype
            torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(want), rtol=tolerance, atol=tolerance)

    return check


def tensor_type(array: np.ndarray, free: Mapping[int, str]) -> str:
    """``f32[B, 3]`` for an array, where ``free`` names the axes that are not fixed."""
    dtype = {"float32": "f32", "float64": "f64", "float16": "f16", "int64": "i64", "bool": "bool"}[str(array.dtype)]
    return f"{dtype}[{', '.join(free.get(i, str(n)) for i, n in enumerate(array.shape))}]"
