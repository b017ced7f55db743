"""Functions with some arguments given, calls that share their weights, and lists of tensors: both targets against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts
from tessera.frontends import source
from tessera.frontends.source import parse_pass
from tessera.frontends.source.format.fmt import format_file
from tessera.frontends.source.syntax.lexer import RESERVED
from tessera.frontends.source.syntax.parser import parse
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


# Words, membership, ellipses, entry points --------------------------------------------------------------------------------


@pytest.mark.parametrize("word", sorted(RESERVED | {"and", "or", "inf", "nan", "program", "weights"}))
def test_any_word_names_an_argument(word: str) -> None:
    block = f"model m(x: f32[B]) -> f32[B] {{\n    return x\n}}\n\ncompile m {{\n    pass tune({word}=1, r=[2])\n}}\n"
    file = parse(block, "<test>")
    assert format_file(file) == block
    assert parse_pass(f"tune(r=3, {word}=4)").options == {"r": 3, word: 4}
    assert parse_pass(f"{word}(r=3)").name == word


def test_a_word_is_a_name_only_as_that_of_an_argument() -> None:
    for wrong in ("true, x = f(y)", "x = [y, in = 2]", "x = f(y[a, not = 2])"):
        with pytest.raises(Diagnostic):
            parse(f"model m(y: f32[B]) -> f32[B] {{\n    {wrong}\n    return y\n}}\n", "<test>")


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("i in [1, 2]", [1, 2]),
        ("i not in [1, 2]", [0, 3]),
        ("not (i in [1, 2])", [0, 3]),
        ("i in range(3) and i not in [0]", [1, 2]),
        ("B in [B, 7] and i == 3", [3]),
        ('("b" in ["a", "b"]) == (i in [2])', [2]),
        ("leaky in [gelu, leaky] and exp not in [log] and i in [0]", [0]),
    ],
)
def test_membership(condition: str, expected: list[int]) -> None:
    text = f"use std.nn (gelu)\n{LEAKY}\nmodel m(x: f32[B]) -> f32[B] {{\n    repeat i in 4 {{\n        if {condition} {{\n"
    text += "            x = x + (i + 0.5)\n        }\n    }\n    return x\n}\n"
    assert format_file(parse(format_file(parse(text, "a")), "a")) == format_file(parse(text, "a"))
    added = [n.attrs["value"] - 0.5 for n in source.loads(text).graph.nodes() if n.op.name == "constant"]
    assert added == expected


SPLITS = ["... (h k) -> ... h k", "a ... (h k) -> h a ... k", "a ... c -> (a ...) c", "... c -> c (...)"]
EINSUMS = ["... k, k d -> ... d", "... t k, ... s k -> ... t s", "b ... , b ... -> ...", "..., ... -> ...", "a ... b -> b ... a"]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(EINSUMS), st.integers(0, 3))
def test_einsum_with_an_ellipsis_is_numpys(equation: str, count: int) -> None:
    sizes = {name: size for size, name in enumerate("kdtsba", 2)}
    lead = [3, 1, 2][:count]
    terms = equation.partition("->")[0].split(",")
    shapes = [[s for name in term.split() for s in (lead if name == "..." else [sizes[name]])] for term in terms]
    arrays = {f"x{i}": RNG.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}
    expected = np.einsum(equation.replace(" ", ""), *arrays.values())
    declared = ", ".join(f"x{i}: f32{shape}" for i, shape in enumerate(shapes))
    program = source.loads(
        f'model m({declared}) -> f32{list(expected.shape)} {{\n    return einsum("{equation}", {", ".join(arrays)})\n}}\n'
    )
    for target, (found,) in on_every_target(same_when_printed(program), {}, arrays):
        assert_close(found["output"], expected, f"{equation} on {target}")


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(SPLITS), st.integers(1, 3))
def test_rearrange_with_an_ellipsis(pattern: str, count: int) -> None:
    shape = [5, *[3, 2, 4][:count], 6]
    x = RNG.standard_normal(shape).astype(np.float32)
    wanted = {
        "... (h k) -> ... h k": x.reshape(*shape[:-1], 2, 3),
        "a ... (h k) -> h a ... k": np.moveaxis(x.reshape(*shape[:-1], 2, 3), -2, 0),
        "a ... c -> (a ...) c": x.reshape(-1, 6),
        "... c -> c (...)": x.reshape(-1, 6).T,
    }[pattern]
    sizes = ", h=2" if "h" in pattern else ""
    text = f'model m(x: f32{shape}) -> f32{list(wanted.shape)} {{\n    return rearrange(x, "{pattern}"{sizes})\n}}\n'
    for target, (found,) in on_every_target(same_when_printed(source.loads(text)), {}, {"x": x}):
        assert_close(found["output"], wanted, f"{pattern} on {target}")


def test_an_entry_point_has_a_set_of_weights_of_its_own() -> None:
    program = source.loads("""
use std.nn (linear)

model net(x: f32[B, 4], *, out: int) -> f32[B, out] {
    state seen: i64[B] = zeros
    seen = seen + 1
    return linear(x, out=out) as head
}

program pair {
    entry student = net(out=3) as student
    entry teacher = net(out=3) as ema.teacher
    entry shared = net(out=3) as student
}
""")  # fmt: skip
    assert sorted(program.parameters()) == [
        "ema.teacher.head.bias", "ema.teacher.head.weight", "student.head.bias", "student.head.weight",
    ]  # fmt: skip
    assert [v.name for v in program.functions["teacher"].inputs if v.role == "state"] == ["ema_teacher_seen"]
    same_when_printed(program)


def test_an_instance_with_more_arguments_shares_the_weights_of_its_calls() -> None:
    program = source.loads("""
use std.nn (linear)

model m(x: f32[T, 8]) -> f32[T, 8] {
    shared = linear as a
    square = shared(out=8)
    plain = square(bias=false)
    return square(x) + plain(x) + shared(x, 8)
}
""")
    assert sorted(program.graph.params) == ["a.bias", "a.weight"]
