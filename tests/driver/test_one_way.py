"""Behind passes that change values, early outputs of a model that looks at no later token still see none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.builder import Builder
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Graph, Module, Node, Value
from tessera.passes.engine import Pass
from tessera.passes.report import Report

DECODER = """
use std.nn (embedding, layer_norm, linear, mlp)
use std.attention (self_attention)
model decoder(ids: i64[B, T], mask: i64[B, T]) -> float[B, T, 20] {
    x = embedding(ids, vocab=20, dim=16) as words
    repeat i in 2 as blocks {
        x = x + self_attention(layer_norm(x) as norm1, heads=2, causal=CAUSAL) as attn
        x = x + mlp(layer_norm(x) as norm2, hidden=32) as mlp
    }
    return linear(x, out=20) as head
}
"""
CAUSAL, OPEN = DECODER.replace("CAUSAL", "true"), DECODER.replace("CAUSAL", "false")


def on_features(change: Callable[[Builder, Value], Value]) -> Callable[[Graph], None]:
    """Change the features [B, T, D] of the last block."""

    def run(graph: Graph) -> None:
        node = next(n for n in graph.reversed_nodes() if n.op.qualified == "add" and n.output.type.shape[-1] == 16)
        x = node.output
        made = change(Builder(graph).before(node.next), x)
        skip = set(_between(node, made))
        x.replace_uses(made, skip=skip)

    return run


def _between(first: Node, last: Value) -> list[Node]:
    found, node = [], first.next
    while node is not None:
        found.append(node)
        if node is last.node:
            return found
        node = node.next
    raise AssertionError("the value is not behind the node")


def seeing(graph: Graph) -> None:
    """Let the last attention see everything."""
    node = [n for n in graph.nodes() if n.op.qualified == "std.attention.attention"][-1]
    node.attrs["causal"] = False


def mixed(op: str) -> Callable[[Builder, Value], Value]:
    def change(b: Builder, x: Value) -> Value:
        return b.op("add", x, b.op(op, x, axis=(1,), keepdims=True))

    return change


def cut_and_moved(b: Builder, x: Value) -> Value:
    """Each token gets the features of the one behind it."""
    first, rest = b.op("slice", x, axis=1, start=0, stop=1, step=1), b.op("slice", x, axis=1, start=1, stop=None, step=1)
    return b.op("concat", rest, first, axis=1)


LEAKS: dict[str, Callable[[Graph], None]] = {
    "an attention sees all": seeing,
    "the mean of all tokens": on_features(mixed("mean")),
    "their sum": on_features(mixed("sum")),
    "their maximum": on_features(mixed("max")),
    "their minimum": on_features(mixed("min")),
    "turned round": on_features(lambda b, x: b.op("flip", x, axis=1)),
    "moved by one": on_features(cut_and_moved),
    "shares of a sum": on_features(lambda b, x: b.op("div", b.op("exp", x), b.op("sum", b.op("exp", x), axis=(1,), keepdims=True))),
    "a running sum from behind": on_features(lambda b, x: b.op("cumsum", x, axis=1, reverse=True)),
    "the last token added": on_features(
        lambda b, x: b.op("add", x, b.op("slice", x, axis=1, start=-1, stop=None, step=1))
    ),
}
KEEPS: dict[str, Callable[[Graph], None]] = {
    "scaled": on_features(lambda b, x: b.op("mul", x, b.constant(1.5, x.type.dtype))),
    "a running sum": on_features(lambda b, x: b.op("cumsum", x, axis=1)),
}


@dataclass(frozen=True)
class Planted(Pass):
    """Changes what a model computes."""

    name = "planted"
    contract = "approximate"
    change: Any = None

    def run(self, module: Module) -> Report:
        self.change(module.graph)
        return Report.of(self, modified=1)


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_a_pass_that_leaks_is_caught(target: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        ts.compile(loads(CAUSAL), target=target, passes=[Planted(LEAKS["the mean of all tokens"])])
    error = caught.value
    assert error.code == "E0810"
    assert "a change of late tokens moves `output`" in error.message
    assert "planted" in error.message


@pytest.mark.extended
@pytest.mark.parametrize("change", LEAKS.values(), ids=LEAKS)
def test_whatever_lets_early_tokens_see_later_ones_is_caught(change: Any) -> None:
    with pytest.raises(Diagnostic) as caught:
        ts.compile(loads(CAUSAL), target="torch", passes=[Planted(change)])
    assert caught.value.code == "E0810"
    # A model that looks at later tokens anyway may go on doing so.
    ts.compile(loads(OPEN), target="torch", passes=[Planted(change)])


@pytest.mark.parametrize("change", KEEPS.values(), ids=KEEPS)
def test_what_changes_values_alone_is_none_of_it(change: Any) -> None:
    artifact = ts.compile(loads(CAUSAL), target="torch", passes=[Planted(change)])
    assert not any("late tokens" in note for note in artifact.report.notes)


def test_picking_by_later_tokens_is_told() -> None:
    program = loads(CAUSAL)
    rng = np.random.default_rng(0)
    # Weights that are large enough for attention to prefer something.
    shapes = {n: tuple(int(str(d)) for d in p.type.shape) for n, p in program.graph.params.items()}
    weights = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
    artifact = ts.compile(program, target="torch", weights=weights, passes=["prune_tokens(k=6, restore=true)"])
    (note,) = [note for note in artifact.report.notes if "late tokens" in note]
    assert "chosen by what later ones are like" in note


def test_nothing_is_compared_where_no_pass_changes_values() -> None:
    artifact = ts.compile(loads(CAUSAL), target="torch", passes=["fold_constants"])
    assert artifact.report.verified
    assert not artifact.report.notes
