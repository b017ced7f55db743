"""Functions with some arguments given, calls that share their weights, and lists of tensors: both targets against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts
from tessera.frontends import source
from tessera.ir.diagnostics import Diagnostic
from tessera.tests.programs.support import assert_close, drawn, on_every_target, same_when_printed

RNG = np.random.default_rng(3)


def leaky(x: np.ndarray, slope: float) -> np.ndarray:
    return np.maximum(x, np.float32(slope) * x)


LEAKY = """
op leaky(x: float[...], *, slope: real = 0.01) -> float[...] {
    return maximum(x, slope * x)
}
"""


def test_a_function_with_arguments_goes_into_layers_ops_lists_and_constants() -> None:
    program = same_when_printed(source.loads(LEAKY + """
const STRONG = leaky(slope=0.5)

op mirrored(x: float[...], *, act: fn = leaky(slope=0.25)) -> float[...] {
    return act(x) - act(-x)
}

fn each(x: float[...], *, acts: list) -> float[...] {
    repeat act in acts {
        x = act(x)
    }
    return x
}

model m(x: f32[B, T], *, last: fn = sum(axis=-1)) -> (f32[B, T], f32[B]) {
    x = mirrored(mirrored(x), act=STRONG)
    x = each(x, acts=[leaky, leaky(slope=0.75), STRONG])
    return x, last(x)
}
"""))  # fmt: skip
    x = RNG.standard_normal((3, 5)).astype(np.float32)
    y = leaky(x, 0.25) - leaky(-x, 0.25)
    y = leaky(y, 0.5) - leaky(-y, 0.5)
    for slope in (0.01, 0.75, 0.5):
        y = leaky(y, slope)
    for target, (found,) in on_every_target(program, {}, {"x": x}):
        assert_close(found["output0"], y, target)
        assert_close(found["output1"], y.sum(-1), target)


def test_what_is_given_in_a_call_goes_before_what_was_given() -> None:
    text = LEAKY + "model m(x: f32[B]) -> f32[B] {\n    f = leaky(slope=0.5)\n    return f(x, slope=0.125)\n}\n"
    (node,) = [n for n in source.loads(text).graph.nodes() if n.op.name == "leaky"]
    assert node.attrs == {"slope": 0.125}


def test_a_function_is_given_from_outside() -> None:
    text = LEAKY + "model m(x: f32[B], *, act: fn = leaky) -> f32[B] {\n    return act(x)\n}\n"
    text += "compile m(act=leaky(slope=0.5)) {\n}\n"
    (node,) = [n for n in source.loads(text).graph.nodes() if n.op.name == "leaky"]
    assert node.attrs == {"slope": 0.5}


SHARED = """
use std.nn (linear, layer_norm)

layer block(x: float[B, T, D], *, hidden: int) -> float[B, T, D] {
    h = tanh(linear(layer_norm(x) as norm, out=hidden) as up)
    return x + linear(h, out=D) as down
}

## `a` twice and `b` once: two sets of weights.
model m(x: f32[B, T, 6]) -> f32[B, T, 6] {
    a = block(hidden=5) as a
    b = block as sets.b
    return a(b(a(x), hidden=7))
}
"""


def block(x: np.ndarray, weights: dict[str, np.ndarray], scope: str) -> np.ndarray:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    h = (x - mean) / np.sqrt(var + 1e-5) * weights[f"{scope}.norm.weight"] + weights[f"{scope}.norm.bias"]
    h = np.tanh(h @ weights[f"{scope}.up.weight"].T + weights[f"{scope}.up.bias"])
    return x + h @ weights[f"{scope}.down.weight"].T + weights[f"{scope}.down.bias"]


def test_calls_of_an_instance_share_its_weights() -> None:
    program = same_when_printed(source.loads(SHARED))
    weights = drawn(program)
    assert len(weights) == 12
    assert {n.rpartition(".")[0].rpartition(".")[0] for n in weights} == {"a", "sets.b"}
    x = RNG.standard_normal((2, 3, 6)).astype(np.float32)
    expected = block(block(block(x, weights, "a"), weights, "sets.b"), weights, "a")
    for target, (found,) in on_every_target(program, weights, {"x": x}):
        assert_close(found["output"], expected, target)


def test_an_instance_goes_into_layers_loops_and_other_instances() -> None:
    program = same_when_printed(source.loads("""
use std.nn (linear)

layer twice(x: float[B, D], *, f: fn) -> float[B, D] {
    inner = linear(out=D) as inner
    return inner(f(inner(f(x))))
}

model m(x: f32[B, 4]) -> f32[B, 4] {
    f = linear(out=4) as f
    g = twice(f=f) as g
    x = g(g(x))
    fold i in 3 from (x) {
        x = tanh(g(x))
    }
    repeat i in 2 as steps {
        own = linear(out=4) as own
        x = own(own(x))
    }
    return x
}
"""))  # fmt: skip
    weights = drawn(program, 0.3)
    assert sorted({n.rpartition(".")[0] for n in weights}) == ["f", "g.inner", "steps.0.own", "steps.1.own"]

    def linear(x: np.ndarray, scope: str) -> np.ndarray:
        return x @ weights[f"{scope}.weight"].T + weights[f"{scope}.bias"]

    def twice(x: np.ndarray) -> np.ndarray:
        return linear(linear(linear(linear(x, "f"), "g.inner"), "f"), "g.inner")

    x = RNG.standard_normal((3, 4)).astype(np.float32)
    y = twice(twice(x))
    for _ in range(3):
        y = np.tanh(twice(y))
    for i in range(2):
        y = linear(linear(y, f"steps.{i}.own"), f"steps.{i}.own")
    for target, (found,) in on_every_target(program, weights, {"x": x}):
        assert_close(found["output"], y, target)


def test_two_instances_of_one_scope_are_refused() -> None:
    text = SHARED.replace("block as sets.b", "block as a")
    with pytest.raises(Diagnostic) as caught:
        source.loads(text)
    assert caught.value.code == "E0206"


def test_python_has_the_same_values() -> None:
    with ts.model("m") as m:
        x = m.input("x", "f32[B, T, 6]")
        ff = ts.std.nn.mlp(hidden=8, name="ff")
        skips = []
        for _ in range(3):
            x = x + ff(x)
            skips.append(x)
        head = ts.std.nn.linear(out=4)
        m.output(head(ts.ops.concat(skips, axis=-1), name="head"))
    assert "without its tensors" not in repr(head)
    assert repr(ff) == "<ff>"
    assert "linear(" in (head.__doc__ or "")
    assert sorted(m.module.parameters()) == [
        "ff.fc1.bias", "ff.fc1.weight", "ff.fc2.bias", "ff.fc2.weight", "head.bias", "head.weight",
    ]  # fmt: skip
    same_when_printed(m.module)


# Lists ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(depth=st.integers(1, 4), order=st.sampled_from(["skips[depth - 1 - i]", "skips[-1 - i]", "skips[::-1][i]"]))
def test_what_one_repeat_appends_another_reads_back(depth: int, order: str) -> None:
    program = same_when_printed(source.loads(f"""
model m(x: f32[B, T, 3], *, depth: int = {depth}) -> (f32[B, T, 3], f32[B, T, {3 * depth}], f32[B, T, 3], i64[]) {{
    skips = []
    repeat i in depth {{
        x = tanh(x) + i
        skips = skips + [x]
    }}
    repeat i in len(skips) {{
        x = x * {order} - i
    }}
    return x, concat(skips, axis=-1), sum(skips[:1] + skips), full([], len(skips), dtype=i64)
}}
"""))  # fmt: skip
    x = RNG.standard_normal((2, 3, 3)).astype(np.float32)
    y, skips = x, []
    for i in range(depth):
        y = np.tanh(y) + np.float32(i)
        skips.append(y)
    for i in range(depth):
        y = y * skips[depth - 1 - i] - np.float32(i)
    for target, (found,) in on_every_target(program, {}, {"x": x}):
        assert_close(found["output0"], y, target)
        assert_close(found["output1"], np.concatenate(skips, -1), target)
        assert_close(found["output2"], np.sum([skips[0], *skips], 0, dtype=np.float32), target)
        assert found["output3"] == depth


def test_lists_go_into_layers_and_come_back_and_hold_records() -> None:
    program = same_when_printed(source.loads("""
record Level[B, T] {
    static step: int
    value: f32[B, T]
}

fn pyramid(x: f32[B, T], *, depth: int) -> (f32[B, T], levels: list) {
    levels = [Level(value=x, step=1)]
    repeat i in depth {
        last = levels[-1]
        levels = levels + [Level(value=last.value[:, ::2], step=2 * last.step)]
    }
    return x, levels
}

layer weighted(x: f32[B, T], *, levels: list) -> f32[B] {
    total = x[:, 0] * 0.0
    repeat level in levels as level {
        param gain: f32[1] = ones
        total = sum(level.value, axis=1) * (gain * level.step) + total
    }
    return total
}

model m(x: f32[B, T]) -> f32[B] {
    x, levels = pyramid(x, depth=2)
    cond any(x > 0.0) from (x) {
        x = x + levels[0].value
    }
    return weighted(x, levels=levels) + sum(x, axis=1)
}
"""))  # fmt: skip
    weights = drawn(program)
    x = np.abs(RNG.standard_normal((2, 7))).astype(np.float32)
    expected = sum(x[:, :: 2**i].sum(1) * weights[f"level.{i}.gain"] * 2**i for i in range(3)) + 2 * x.sum(1)
    for target, (found,) in on_every_target(program, weights, {"x": x}):
        assert_close(found["output"], expected, target)
