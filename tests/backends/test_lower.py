"""The walk that all backends share: what is needed, through which bodies, on whose line."""

from __future__ import annotations

import pytest

from tessera.backends import mlir, onnx
from tessera.backends import torch as reference
from tessera.backends.lower import Plan
from tessera.driver.compile import apply_passes, load
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module

TWICE = """
op both(x: f32[B, N]) -> (f32[B, N], f32[B]) {
    return exp(x) * 2.0, sum(cos(x), axis=-1)
}

model m(x: f32[B, N]) -> (y: f32[B, N]) {
    y, total = both(x)
    return y
}
"""

RUNNING = """
op running(x: f32[B, N]) -> f32[B, N] {
    y = exp(x)
    return cummax(y, axis=1)
}

model m(x: f32[B, N]) -> (y: f32[B, N]) {
    y = x + 1.0
    return running(y)
}
"""

def texts(module: Module) -> list[str | bytes]:
    return [reference.build(module).source, onnx.serialize(onnx.build(module)), mlir.build(module)]


def test_what_only_an_unwanted_result_needs_is_left_out() -> None:
    module = loads(TWICE)
    assert "cos" not in mlir.build(module)
    assert not [n for n in onnx.build(module).graph if n.op_type == "Cos"]
    assert "exp" in mlir.build(module)


def test_a_refusal_names_the_users_line_and_comes_before_anything_is_emitted() -> None:
    module = loads(RUNNING, "m.tess")
    with pytest.raises(Diagnostic, match="`cummax` has no lowering") as found:
        mlir.build(module)
    assert found.value.code == "E0820"
    assert found.value.span is not None
    assert found.value.span.line == 9, "the call of `running`, not the library's line"


def test_claimed_composites_are_not_looked_into() -> None:
    module = loads(RUNNING)
    refuses = lambda node: Diagnostic("E0820", "no") if node.op.name == "cummax" else None  # noqa: E731
    assert Plan(lambda node: True, refuses).refused(module.graph) is None
    assert Plan(lambda node: False, refuses).refused(module.graph) is not None


def test_building_twice_gives_the_same() -> None:
    module = load("zoo/vit", "vit_classifier", {"size": 32, "depth": 2})
    for graph in (module, apply_passes(module, ["merge_tokens(r=1, protect=1)"])[0], apply_passes(module, ["inline"])[0]):
        assert texts(graph) == texts(graph)
