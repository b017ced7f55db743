"""One key of a composite's instance: what ``==`` takes for equal and arithmetic does not has a body of its own, everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tessera.backends import mlir
from tessera.backends.torch import build
from tessera.frontends.source import loads, print_module
from tessera.ir.builder import Builder
from tessera.ir.compare import first_difference, same_attr
from tessera.ir.graph import Graph, Initializer, Module
from tessera.ir.inlining import inline_composites
from tessera.ir.keys import attr_key, instance_key
from tessera.ir.types import TensorType
from tessera.passes.rewrite.matcher import why
from tessera.passes.tidy.cse import merge_equal

from ..backends.support import session

ZEROS = """
op over(x: float[B, T], *, c: real = 0.0) -> float[B, T] {
    return x / c
}

model m(x: f32[B, 4]) -> (plus: f32[B, 4], minus: f32[B, 4]) {
    a = over(x)
    b = over(x, c=-0.0)
    return a, b
}
"""
FLAGS = """
op scaled(x: float[B, T], *, steps: list) -> float[B, T] {
    return where(steps[0] == true, x * 2.0, x)
}

model m(x: f32[B, 4]) -> (one: f32[B, 4], yes: f32[B, 4]) {
    a = scaled(x, steps=[1])
    b = scaled(x, steps=[true])
    return a, b
}
"""
ONES = np.ones((2, 4), np.float32)


def through_torch(module: Module) -> dict[str, Any]:
    return {name: value.numpy() for name, value in build(module.graph)(torch.from_numpy(ONES)).items()}


def through_onnx(module: Module) -> dict[str, Any]:
    return dict(zip(("plus", "minus"), session(module).run({"x": ONES}), strict=True))


@pytest.mark.parametrize("run", [through_torch, through_onnx])
def test_a_negative_zero_has_a_body_of_its_own(run: Any) -> None:
    results = run(loads(ZEROS))
    assert np.isposinf(results["plus"]).all()
    assert np.isneginf(results["minus"]).all()


def test_a_negative_zero_reaches_mlir() -> None:
    text = mlir.build(loads(ZEROS))
    assert "torch.constant.float 0.0" in text or "0x00000000" in text
    assert "torch.constant.float -0.0" in text or "0x80000000" in text


@pytest.mark.parametrize("source", [ZEROS, FLAGS])
def test_it_is_printed_and_read_back(source: str) -> None:
    module = loads(source)
    assert module.difference(loads(print_module(module))) is None


def test_inlining_gives_each_its_own_body() -> None:
    module = loads(ZEROS)
    inline_composites(module.graph, lambda node: True)
    numbers = [n.attrs["value"] for n in module.graph.nodes() if n.op.name == "constant"]
    assert sorted(map(str, numbers)) == ["-0.0", "0.0"]
    assert merge_equal(module.graph) == 0


def test_the_comparison_tells_them_apart() -> None:
    there = loads(ZEROS)
    other = loads(ZEROS.replace("c=-0.0", "c=0.0"))
    assert there.difference(other) is not None
    assert same_attr((0.0, float("nan")), (0.0, float("nan")))
    assert not same_attr((0.0,), (-0.0,))
    assert not same_attr({"c": 1}, {"c": True})
    graphs = [Graph("f"), Graph("f")]
    for graph, mean in zip(graphs, (0.0, -0.0), strict=True):
        Builder(graph).param("w", TensorType.of("f32", [2]), Initializer("uniform", (mean, 1.0)))
    assert first_difference(*graphs) is not None


def test_keys_of_what_equality_takes_for_one() -> None:
    values = [0.0, -0.0, 0, False, 1, 1.0, True, float("nan"), (0.0,), (-0.0,), (False,)]
    assert len({attr_key(v) for v in values}) == len(values)
    assert attr_key(float("nan")) == attr_key(-float("nan"))


def test_an_instance_is_its_op_its_types_and_its_attributes() -> None:
    nodes = list(loads(ZEROS.replace("c=-0.0", "c=nan").replace("over(x)", "over(x, c=nan)")).graph.nodes())
    assert instance_key(nodes[0]) == instance_key(nodes[1])
    plus, minus = loads(ZEROS).graph.nodes()
    assert instance_key(plus) != instance_key(minus)


def test_a_static_pattern_matches_its_own_zero_only() -> None:
    source = ZEROS + "\nrewrite exact plain(x: float[B, T]) { over(x, c=-0.0) => neg(x) }\n"
    module = loads(source)
    (at,) = why(module.graph, module.rules["plain"]).matches
    assert at is not None
    assert at.line == 8


def test_negative_zeros_in_torch_source_bind_as_numbers_do() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", TensorType.of("f32", [2]))
    pair, twin = (b.op("constant", value=v, dtype=x.type.dtype) for v in ((0.0, -0.0), (-0.0, 0.0)))
    b.graph.add_output(b.op("div", x, pair), "a")
    b.graph.add_output(b.op("div", x, twin), "b")
    b.graph.add_output(b.op("pow", b.constant(-0.0, x.type.dtype), x), "c")
    found = build(b.graph)(torch.tensor([1.0, 1.0]))
    assert found["a"].tolist() == [np.inf, -np.inf]
    assert found["b"].tolist() == [-np.inf, np.inf]
    assert np.signbit(found["c"].numpy()).all()
