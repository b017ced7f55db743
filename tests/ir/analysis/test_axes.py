"""Axes that are walked in step, through the regions of control ops."""

from __future__ import annotations

import pytest

from tessera.frontends.source import loads
from tessera.ir.analysis.axes import Axes

REGIONS = {
    "fold": "fold i in 3 from (y) { y = transpose(y, perm=[0, 2, 1]) * 2.0 + x }",
    "while": "while p from (y) limit 3 { y = y * 2.0 + x }",
    "cond": "cond p from (y) { y = y * 2.0 } else { y = x }",
}


@pytest.mark.parametrize("word", ["while", "cond"])
def test_what_a_region_gives_walks_with_what_it_takes(word: str) -> None:
    text = f"model m(x: f32[B, 5, 5], p: bool[]) -> f32[B, 5, 5] {{ y = exp(x) {REGIONS[word]} return y }}"
    graph = loads(text).graph
    axes = Axes(graph)
    x, out = graph.inputs[0], graph.outputs[0]
    same = [[axes.find(x, i) == axes.find(out, j) for j in range(3)] for i in range(3)]
    assert same == [[True, False, False], [False, True, False], [False, False, True]]


def test_a_region_that_exchanges_axes_makes_them_one() -> None:
    text = f"model m(x: f32[B, 5, 5], p: bool[]) -> f32[B, 5, 5] {{ y = exp(x) {REGIONS['fold']} return y }}"
    graph = loads(text).graph
    axes = Axes(graph)
    assert axes.find(graph.inputs[0], 1) == axes.find(graph.inputs[0], 2)
    assert axes.find(graph.inputs[0], 0) != axes.find(graph.inputs[0], 1)
