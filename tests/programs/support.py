"""Running a program on every target that runs tensors, with weights that a test knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts
from tessera.frontends import source
from tessera.ir.program import Program

TARGETS = ("torch", "onnx")
HERE = Path(__file__).parent


def loaded(name: str, model: str | None = None, **params: Any) -> Program:
    """A program of this folder, which prints as source that means the same."""
    return same_when_printed(source.load(HERE / f"{name}.tess", model, params))


def same_when_printed(program: Program) -> Program:
    """``program``, compared with what its printed source means."""
    again = source.loads(source.print_module(program))
    assert program.difference(again) is None
    return program


def drawn(program: Program, scale: float = 0.5, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights for every parameter, drawn from a seed."""
    rng = np.random.default_rng(seed)
    return {
        name: (scale * rng.standard_normal([int(d) for d in p.type.shape])).astype(np.float32)
        for name, p in program.parameters().items()
    }


def on_every_target(
    program: Program, weights: Mapping[str, np.ndarray], *calls: Mapping[str, Any], passes: Iterable[Any] | None = None
) -> Iterable[tuple[str, list[dict[str, np.ndarray]]]]:
    """(target, the outputs of each call) after compiling with these weights."""
    for target in TARGETS:
        artifact = ts.compile(program, target=target, weights=dict(weights) or None, passes=passes)
        yield target, [artifact(**call) for call in calls]


def assert_close(found: np.ndarray, expected: np.ndarray, what: str, tolerance: float = 2e-5) -> None:
    """Floats to a tolerance, anything else exactly."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape, f"{what}: {found.shape} instead of {expected.shape}"
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=tolerance * 10, atol=tolerance, err_msg=what)
    else:
        np.testing.assert_array_equal(found, expected, err_msg=what)
