"""Running modules of these tests on the torch backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import tessera  # noqa: F401  (lets passes find composites)
from tessera.passes.engine import run_pipeline

if TYPE_CHECKING:
    from tessera.ir.compiling import PassSpec
    from tessera.ir.graph import Module
    from tessera.passes.engine import Pass
    from tessera.passes.report import Report

Arrays = dict[str, np.ndarray]


def weights_of(module: Module, seed: int = 0) -> Arrays:
    """Random weights of ordinary size for every parameter: the initialisers' zeros would hide mistakes."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal([int(d) for d in p.type.shape]) * 0.3).astype(p.type.dtype.numpy)
        for name, p in module.graph.params.items()
    }


def run(module: Module, weights: Arrays, **inputs: np.ndarray) -> Arrays:
    """The outputs of a module on the torch backend."""
    import torch

    from tessera.backends.torch import build

    built = build(module, {name: weights[name] for name in module.graph.params})
    with torch.no_grad():
        results = built(**{name: torch.as_tensor(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in results.items()}


def passed(module: Module, *passes: Pass | PassSpec) -> tuple[Module, list[Report]]:
    """The module after passes, each verified."""
    return run_pipeline(module, passes, verify_each=True)
