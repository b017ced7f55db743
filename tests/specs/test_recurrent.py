"""`fold` that stacks, and the recurrences that are built from it, against PyTorch and on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tessera as ts
from tessera.backends import mlir
from tessera.backends.torch import build
from tessera.frontends.source import loads, print_module
from tessera.frontends.torch import load_mlir
from tessera.ir.analysis.evaluate import evaluate_graph
from tessera.ir.diagnostics import Diagnostic

from ..backends.support import session

RUN = """
model m(x: f32[B, T, 3], w: f32[3, 3], h: f32[B, 3]) -> (hs: f32[T, B, 3], last: f32[B, 3], twice: i64[T]) {
    fold t in T from (h) stack (hs, twice) {
        h = tanh(h @ w + take(x, t, axis=1))
        hs = h
        twice = t * 2
    }
    return hs, h, twice
}
"""


def drawn(tokens: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(tokens)
    shapes = {"x": (2, tokens, 3), "w": (3, 3), "h": (2, 3)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def by_hand(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    h, rows = feed["h"], []
    for t in range(feed["x"].shape[1]):
        h = np.tanh(h @ feed["w"] + feed["x"][:, t])
        rows.append(h)
    return [np.array(rows, np.float32).reshape(-1, 2, 3), h, np.arange(len(rows)) * 2]


def test_a_value_per_step_is_the_same_everywhere() -> None:
    module = loads(RUN)
    assert module.difference(loads(print_module(module))) is None
    net, made = build(module.graph), session(module)
    for tokens in (1, 5):
        feed = drawn(tokens)
        tensors = {name: torch.from_numpy(x) for name, x in feed.items()}
        found = [net(**tensors).values(), made(feed).values(), evaluate_graph(module.graph, feed, {"B": 2, "T": tokens}).values()]
        for results in found:
            for result, wanted in zip(results, by_hand(feed), strict=True):
                np.testing.assert_allclose(np.asarray(result), wanted, rtol=1e-5, atol=1e-6)
    none = net.forward(*(torch.from_numpy(x) for x in drawn(0).values()))
    assert [tuple(y.shape) for y in none.values()] == [(0, 2, 3), (2, 3), (0,)]
    assert none["twice"].dtype == torch.int64


def test_a_value_per_step_in_mlir() -> None:
    pytest.importorskip("torch_mlir", reason="torch-mlir (extra `mlir`) is not installed")
    module, feed = loads(RUN.replace("T, ", "4, ").replace("[T]", "[4]").replace("in T", "in 4")), drawn(4)
    text = mlir.build(module.graph)
    mlir.check(text)
    imported = load_mlir(text)
    found = build(imported.module, imported.weights)(*map(torch.from_numpy, feed.values()))
    for result, wanted in zip(found.values(), by_hand(feed), strict=True):
        np.testing.assert_allclose(np.asarray(result), wanted, rtol=1e-5, atol=1e-6)


def test_gradients_flow_through_stacked_values() -> None:
    net = build(loads(RUN.replace("f32", "f64")).graph)
    tensors = [torch.from_numpy(x).double().requires_grad_() for x in drawn(3).values()]
    assert torch.autograd.gradcheck(lambda *xs: net(*xs)["hs"], tensors)


def test_stacking_from_python() -> None:
    with ts.model("m") as m:
        x = m.input("x", "f32[B, 3]")
        last, rows = m.fold(4, [x], lambda i, y: (y * 2.0, y), stacked=1)
        m.output(last, name="last")
        m.output(rows, name="rows")
    x = torch.randn(2, 3)
    found = build(m.module.graph)(x)
    assert torch.equal(found["rows"], torch.stack([x, x * 2, x * 4, x * 8]))


@pytest.mark.parametrize(
    ("stacked", "body", "code"),
    [
        ("y", "x = x * 2.0", "E0308"),
        ("x", "x = x * 2.0", "E0204"),
        ("i", "x = x * 2.0", "E0204"),
        ("y, y", "y = x", "E0204"),
        ("y", "y = 3", "E0308"),
    ],
)
def test_what_stacking_refuses(stacked: str, body: str, code: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        loads(f"model m(x: f32[3]) -> f32[3] {{ fold i in 4 from (x) stack ({stacked}) {{ {body} }} return x }}")
    assert caught.value.code == code


def test_another_word_than_stack_is_refused() -> None:
    with pytest.raises(Diagnostic, match="expected `stack`"):
        loads("model m(x: f32[3]) -> f32[3] { fold i in 4 from (x) keep (y) { y = x } return x }")


# Layers --------------------------------------------------------------------------------------------------------------

LAYERS: list[tuple[str, Any, int]] = [("rnn", torch.nn.RNN, 1), ("lstm", torch.nn.LSTM, 2), ("gru", torch.nn.GRU, 1)]


@pytest.mark.parametrize(("name", "layer", "states"), LAYERS)
@pytest.mark.parametrize("bias", [True, False])
def test_layers_are_torchs(name: str, layer: Any, states: int, bias: bool) -> None:
    results = ["y", "last", "cell"][: states + 1]
    types = ["f32[B, T, 5]", "f32[B, 5]", "f32[B, 5]"][: states + 1]
    outputs = ", ".join(f"{r}: {t}" for r, t in zip(results, types, strict=True))
    module = loads(
        f"use std.recurrent ({name})\nmodel m(x: f32[B, T, 3]) -> ({outputs}) {{\n"
        f"{', '.join(results)} = {name}(x, hidden=5, bias={str(bias).lower()}) as net\nreturn {', '.join(results)} }}"
    )
    wanted = layer(3, 5, batch_first=True, bias=bias)
    weights = {f"net.{key}": value.detach().numpy() for key, value in wanted.state_dict().items()}
    x = torch.randn(2, 7, 3)
    with torch.no_grad():
        y, last = wanted(x)
    expected = [y, *(state[0] for state in (last if states == 2 else (last,)))]
    for found in (build(module.graph, weights)(x), session(module, weights)({"x": x.numpy()})):
        for result, value in zip(found.values(), expected, strict=True):
            np.testing.assert_allclose(np.asarray(torch.as_tensor(result).detach()), value.numpy(), rtol=1e-5, atol=1e-6)


def test_a_sequence_in_two_parts_is_the_whole() -> None:
    source = """
    use std.recurrent (linear_recurrence_from)
    model m(a: f64[B, T, D], b: f64[B, T, D], start: f64[B, D]) -> (h: f64[B, T, D], last: f64[B, D]) {
        return linear_recurrence_from(a, b, start)
    }"""
    net = build(loads(source).graph)
    a, b = torch.rand(2, 2, 7, 3, dtype=torch.float64)
    start = torch.randn(2, 3, dtype=torch.float64)
    whole = net(a, b, start)
    first = net(a[:, :4], b[:, :4], start)
    second = net(a[:, 4:], b[:, 4:], first["last"])
    torch.testing.assert_close(torch.cat([first["h"], second["h"]], 1), whole["h"])
    h = start
    for t in range(7):
        h = a[:, t] * h + b[:, t]
    torch.testing.assert_close(second["last"], h)


# Scans ---------------------------------------------------------------------------------------------------------------

SCAN = """
fn combine(a1: f64[B], b1: f64[B], a2: f64[B], b2: f64[B]) -> (f64[B], f64[B]) { return a1 * a2, b1 * a2 + b2 }
model m(a: f64[B, T], b: f64[B, T], a0: f64[B], b0: f64[B]) -> (decay: f64[B, T], h: f64[B, T]) {
    decay, h = scan(combine, a, b, axis=1, start=[a0, b0])
    return decay, h
}
"""


def test_a_scan_in_two_parts_is_the_whole() -> None:
    module = loads(SCAN)
    assert module.difference(loads(print_module(module))) is None
    net, made = build(module.graph), session(module)
    a, b = torch.rand(2, 2, 7, dtype=torch.float64)
    start = torch.ones(2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    whole = net(a, b, *start)
    first = net(a[:, :3], b[:, :3], *start)
    second = net(a[:, 3:], b[:, 3:], first["decay"][:, -1], first["h"][:, -1])
    torch.testing.assert_close(torch.cat([first["h"], second["h"]], 1), whole["h"])
    feed = {"a": a, "b": b, "a0": start[0], "b0": start[1]}
    np.testing.assert_allclose(made({name: x.numpy() for name, x in feed.items()})["h"], whole["h"].numpy(), rtol=1e-12)
    h = start[1]
    for t in range(7):
        h = a[:, t] * h + b[:, t]
    torch.testing.assert_close(second["h"][:, -1], h)


@pytest.mark.parametrize(("start", "code"), [("[a0]", "E0405"), ("[a0, 3]", "E0405"), ("[a0, b]", "E0302")])
def test_what_a_scan_does_not_start_from(start: str, code: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        loads(SCAN.replace("[a0, b0]", start))
    assert caught.value.code == code
