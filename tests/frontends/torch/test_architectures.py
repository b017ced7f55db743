"""transformers models, built small: imported, printed, read back, and run beside the original at two sizes."""

from __future__ import annotations

import pytest
import torch

from tessera.backends.torch import build
from tessera.benchmarks.architectures import ARCHITECTURES, Architecture
from tessera.benchmarks.architectures_more import MORE
from tessera.frontends.source import loads, print_module
from tessera.frontends.torch import load
from tessera.ir.verifier import verify

QUICK = ("vit", "bert", "llama")
# Attentions that the model's code writes as products and a softmax.
WRITTEN_OUT = {"mpnet": 2, "siglip_vision": 1}


def agree(architecture: Architecture) -> int:
    """Returns how many attention composites the import holds."""
    model = architecture.build()
    imported = load(model, (), architecture.example(), architecture.dynamic_shapes())
    verify(imported.module.graph)
    assert imported.module.difference(loads(print_module(imported.module))) is None
    assert set(imported.module.graph.params) <= set(model.state_dict()) | {n for n, _ in model.named_buffers()}
    run = build(imported.module, imported.weights)
    for which in (0, 1):
        inputs = architecture.example(which)
        with torch.no_grad():
            wanted, found = model(**inputs), run(**inputs)
        assert found
        for key, value in found.items():
            torch.testing.assert_close(value, wanted[key], rtol=1e-4, atol=1e-4)
    return sum(n.op.qualified == "std.attention.attention" for n in imported.module.graph.nodes())


def check(name: str) -> None:
    assert agree(ARCHITECTURES[name]) == ARCHITECTURES[name].blocks - WRITTEN_OUT.get(name, 0)


@pytest.mark.parametrize("name", QUICK)
def test_quick(name: str) -> None:
    check(name)


@pytest.mark.extended
@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in QUICK])
def test_all(name: str) -> None:
    check(name)


@pytest.mark.extended
@pytest.mark.parametrize("name", MORE)
def test_more(name: str) -> None:
    agree(MORE[name])
