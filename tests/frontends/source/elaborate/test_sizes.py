"""Reals of sizes that become integers, and sizes that are equal by what a program requires: exact, and the same at every size."""

from __future__ import annotations

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts
from tessera.frontends import source
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import sym
from tessera.ir.dims.ratio import Exact, Ratio
from tessera.ir.equalities import equalities
from tessera.ir.program import Program
from tessera.tests.programs.support import assert_close, on_every_target, same_when_printed

ROUNDING = {"floor": math.floor, "ceil": math.ceil, "round": round, "int": int}
NUMBERS = st.decimals(min_value=-3, max_value=3, places=3).map(str)


@settings(max_examples=300, deadline=None)
@given(NUMBERS, NUMBERS, st.integers(1, 40), st.sampled_from(sorted(ROUNDING)))
def test_rounding_is_that_of_the_fraction_that_is_written(factor: str, rest: str, size: int, name: str) -> None:
    ratio = Ratio.written(float(factor)) * Ratio(sym("T")) + Ratio.written(float(rest))
    methods = {"floor": lambda r: r.floor().top, "ceil": lambda r: r.ceil().top, "round": Ratio.rounded, "int": Ratio.cut}
    exact = Fraction(factor) * size + Fraction(rest)
    assert methods[name](ratio).evaluate({"T": size}) == ROUNDING[name](exact)


@settings(max_examples=60, deadline=None)
@given(st.decimals(min_value=0, max_value=2, places=2).map(str), st.integers(1, 200), st.sampled_from(sorted(ROUNDING)))
def test_a_known_size_and_a_symbol_give_the_same(keep: str, size: int, name: str) -> None:
    def value(dim: str) -> Program:
        text = f"model m(x: f32[{dim}]) -> i64[] {{\n    return full([], {name}({keep} * x.shape[0] / 2), dtype=i64)\n}}\n"
        return source.loads(text)

    known, free = (next(n.attrs["value"] for n in value(dim).graph.nodes()) for dim in (str(size), "T"))
    exact = ROUNDING[name](Fraction(keep) * size / 2)
    assert known == exact
    assert (free if isinstance(free, int) else free.evaluate({"T": size})) == exact


def test_55_percent_of_100_is_55_everywhere() -> None:
    text = """
op keep_first(x: float[B, T, D], *, keep: real) -> float[B, ceil(keep * T), D] {
    return x[:, :ceil(keep * T)]
}

layer halves(x: float[B, T, D], *, part: real = 0.5) -> (float[B, floor(part * T), D], float[B, T - floor(part * T), D]) {
    let k = floor(part * T)
    return x[:, :k], x[:, k:]
}

model m(x: f32[B, T, 2], y: f32[B, 100, 2], *, keep: real = 0.55)
    -> (f32[B, ceil(keep * T), 2], f32[B, ceil(keep * 100), 2], f32[B, T // 2, 2], f32[B, T - T // 2, 2]) {
    require keep * T >= 1, "nothing would be left"
    a, b = halves(x)
    return keep_first(x, keep=keep), keep_first(y, keep=keep), a, b
}
"""
    program = same_when_printed(source.loads(text))
    y = np.arange(200, dtype=np.float32).reshape(1, 100, 2)
    calls = [{"x": y[:, :size], "y": y} for size in (100, 7, 20, 2)]
    for target, found in on_every_target(program, {}, *calls):
        for call, outputs in zip(calls, found, strict=True):
            count = math.ceil(Fraction("0.55") * call["x"].shape[1])
            assert_close(outputs["output0"], call["x"][:, :count], target)
            assert_close(outputs["output1"], y[:, :55], target)
        with pytest.raises(Diagnostic) as caught:
            ts.compile(program, target=target)(x=y[:, :1], y=y)
        assert caught.value.code == "E0904"
    kept = source.loads(text, params={"keep": 0.1}).graph.outputs[0].type
    assert str(kept) == "f32[B, (T + 9) // 10, 2]"


# Equalities ------------------------------------------------------------------------------------------------------------


def known(*conditions: str, lets: str = "") -> Program:
    required = "\n".join(f'    require {c}, "as stated"' for c in conditions)
    return source.loads(f"model m(x: f32[B, T, S, H, G]) -> f32[B, T, S, H, G] {{\n{required}\n{lets}    return -x\n}}\n")


@pytest.mark.parametrize(
    ("conditions", "left", "right"),
    [
        (["T % 2 == 0"], "T // 2 * 2", "T"),
        (["T % 2 == 0"], "(T + 6) // 2", "T // 2 + 3"),
        (["T % 2 == 0", "T % 3 == 0"], "T // 6 * 6", "T"),
        (["T % 6 == 0"], "T // 2 % 3", "0 * T"),
        (["T % 4 == 1"], "(T - 1) // 4 * 4 + 1", "T"),
        (["(T - 1) % S == 0"], "(T - 1) // S * S", "T - 1"),
        (["H % G == 0"], "G * (H // G)", "H"),
        (["H % G == 0", "G % 2 == 0"], "H // 2 * 2", "H"),
        (["T == 2 * S"], "T // 2", "S"),
        (["T == S + 1"], "max(T, S + 1)", "S + 1"),
        (["2 * S == T", "S % 2 == 0"], "T // 4 * 4", "T"),
        (["T * 0.5 == S"], "T", "2 * S"),
    ],
)
def test_what_is_required_makes_sizes_equal(conditions: list[str], left: str, right: str) -> None:
    program = known(*conditions, f"{left} == {right}")
    assert len(program.graph.requires) == len(conditions)
    said = equalities(program.graph)
    for dim in (sym("T"), sym("H"), sym("S") * 3 - sym("G"), (sym("T") + 5) // 3):
        assert said.shown(said.shown(dim)) is said.shown(dim)
        assert said.hidden(said.shown(dim)) is said.hidden(dim)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 6), st.integers(0, 5), st.integers(1, 9), st.integers(2, 7), st.integers(-4, 9))
def test_what_is_shown_is_the_same_number(n: int, rest: int, times: int, by: int, more: int) -> None:
    program = known(f"T % {n} == {rest % n}")
    said = equalities(program.graph)
    size = n * times + rest % n
    for dim in (sym("T") * by + more, (sym("T") + more) // by, sym("T") // n * by, (sym("T") - rest % n) // n * n, sym("T") % by):
        values = {"T": size}
        assert said.shown(dim).evaluate(values) == dim.evaluate(values)


def test_what_is_not_required_is_not_used() -> None:
    for condition in ("T // 2 * 2 == T", "T % 2 == 0"):
        assert len(known("S % 2 == 0", condition).graph.requires) == 2
    with pytest.raises(Diagnostic) as caught:
        known("T % 2 == 0", "T % 2 == 1")
    assert caught.value.code == "E0501"


PAIRS = """
op swapped(x: float[B, T, D], y: float[B, T, D]) -> float[B, T, D] {
    require T % 2 == 0, "an even number of tokens"
    z = rearrange(x - y, "b (t two) d -> b t two d", two=2)
    return reshape(stack(z[:, :, 1], z[:, :, 0], axis=2), [B, T, D])
}

fn plus(x: float[B, T, D], y: float[B, T, D]) -> float[B, T, D] {
    return x + y
}

model m(x: f32[B, T, 3]) -> f32[B, T, 3] {
    require T % 2 == 0, "an even number of tokens"
    pairs = rearrange(x, "b (t two) d -> b t (two d)", two=2)
    back = reshape(tanh(pairs), [B, T // 2 * 2, 3])
    let k = min(3, T // 2)
    y = concat(back[:, k:], x[:, :min(3, T // 2)], axis=1)
    if T % 2 == 0 {
        y = y * 2.0
    }
    y = plus(back, y)
    fold i in 2 from (y) {
        y = y + reshape(rearrange(y, "b (t two) d -> b t (two d)", two=2), [B, T, 3])
    }
    return swapped(y, back)
}
"""


def test_a_program_of_even_sizes_runs_and_refuses_odd_ones() -> None:
    program = same_when_printed(source.loads(PAIRS))
    rng = np.random.default_rng(0)
    calls = [{"x": rng.standard_normal((2, size, 3)).astype(np.float32)} for size in (2, 6, 10)]
    for target, found in on_every_target(program, {}, *calls):
        for call, outputs in zip(calls, found, strict=True):
            x = call["x"]
            k = min(3, x.shape[1] // 2)
            back = np.tanh(x)
            y = (back + 2 * np.concatenate([back[:, k:], x[:, :k]], 1)) * 4 - back
            expected = y.reshape(2, -1, 2, 3)[:, :, ::-1].reshape(x.shape)
            assert_close(outputs["output"], expected, f"{target}, {x.shape[1]}")
        with pytest.raises(Diagnostic) as caught:
            ts.compile(program, target=target)(x=calls[0]["x"][:, :1])
        assert caught.value.code == "E0904"


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1), (1, 1)])
def test_attention_of_any_number_of_heads(heads: tuple[int, int]) -> None:
    text = """
use std.attention (attention)

model m(q: f32[B, H, T, 8], k: f32[B, G, S, 8], v: f32[B, G, S, 5], mask: bool[B, 1, T, S]) -> (f32[B, H, T, 5], f32[B, S]) {
    y, mass = attention(q, k, v, mask, column_mass=true)
    return attention(q, k, v, causal=true) + y, mass
}
"""
    program = same_when_printed(source.loads(text))
    rng = np.random.default_rng(1)
    h, g = heads
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((2, h, 3, 8), (2, g, 5, 8), (2, g, 5, 5)))
    mask = rng.random((2, 1, 3, 5)) < 0.7
    mask[:, :, :, 0] = True
    scores = np.einsum("bhtk,bhsk->bhts", q, np.repeat(k, h // g, 1)) * 8**-0.5
    wide = np.repeat(v, h // g, 1)

    def softmax(s: np.ndarray) -> np.ndarray:
        e = np.exp(s - s.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    causal = np.arange(5)[None] <= np.arange(3)[:, None] + 2
    masked = softmax(np.where(mask, scores, -np.inf))
    expected = softmax(np.where(causal, scores, -np.inf)) @ wide + masked @ wide
    for target, (found,) in on_every_target(program, {}, {"q": q, "k": k, "v": v, "mask": mask}):
        assert_close(found["output0"], expected, target)
        assert_close(found["output1"], masked.mean((1, 2)), target)


@pytest.mark.parametrize("condition", ["x.shape == [2, 8]", "[2, 8] in [x.shape]", "x.shape != [2, 8]"])
def test_lists_of_sizes_that_may_be_equal_decide_nothing(condition: str) -> None:
    def chosen(shape: str) -> int:
        body = f"    if {condition} {{ x = x + 1.0 }} else {{ x = x + 2.0 }}\n    return x\n"
        text = f"model m(x: f32[{shape}]) -> f32[{shape}] {{\n{body}}}\n"
        return next(int(n.attrs["value"]) for n in source.loads(text).graph.nodes() if "value" in n.attrs)

    equal, other = (2, 1) if "!=" in condition else (1, 2)
    assert (chosen("2, 8"), chosen("T, 4"), chosen("T, 8, 1")) == (equal, other, other)
    with pytest.raises(Diagnostic) as caught:
        chosen("T, 8")
    assert caught.value.code == "E0407"


@settings(max_examples=100, deadline=None)
@given(st.integers(-6, 6).filter(bool), st.integers(1, 40), st.sampled_from(sorted(ROUNDING)))
def test_a_negative_denominator_rounds_as_its_fraction(bottom: int, size: int, name: str) -> None:
    ratio = Ratio(sym("T"), bottom)
    methods = {"floor": lambda r: r.floor().top, "ceil": lambda r: r.ceil().top, "round": Ratio.rounded, "int": Ratio.cut}
    assert methods[name](ratio).evaluate({"T": size}) == ROUNDING[name](Fraction(size, bottom))


def test_comparisons_with_negative_denominators() -> None:
    def holds(condition: str) -> bool:
        text = f"model m(x: f32[T]) -> f32[T] {{\n    if {condition} {{ x = -x }}\n    return x\n}}\n"
        return len(source.loads(text).graph) == 1

    assert not holds("T / -2 > 0")
    assert holds("T / -2 <= 0")
    assert holds("(T + 4) / (T + 2) > 1")
    with pytest.raises(Diagnostic) as caught:
        holds("T / (T - 4) > 1")  # the sign of the denominator is open
    assert caught.value.code == "E0402"


def test_an_exact_real_is_copied_with_its_fraction() -> None:
    real = Exact(0.1, Fraction(1, 10))
    assert copy.deepcopy(real).fraction == pickle.loads(pickle.dumps(real)).fraction == real.fraction


@pytest.mark.parametrize(("text", "value"), [
    ("0.7 // 0.1", 7.0), ("0.7 % 0.1", 0.0), ("-0.7 // 0.2", -4.0), ("-0.7 % 0.2", 0.1), ("1.0 // 3.0 + 0.6 // 0.2", 3.0),
    ("0.3 % 0.1 * 10", 0.0), ("7 // 0.7", 10.0),
])  # fmt: skip
def test_quotients_of_numbers_count_as_they_are_written(text: str, value: float) -> None:
    ts.loads(f'model m(x: float[B]) -> float[B] {{\n    require {text} == {value}, "equal"\n    return x\n}}\n')


# Names of sizes in the type of a result -----------------------------------------------------------------------------------

# What a body calls a size, and what that is where the input is f32[T, 3]; `4` stands for a T that is known.
NAMED = {
    "let n = ceil(0.5 * {T})": "ceil(0.5 * {T})", "let n = {T} // 2": "{T} // 2", "let n = 2": "2", "n = 3": "3",
    "let m = {T} + 1\n    let n = m * 2": "2 * ({T} + 1)",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["model", "fn", "layer"])
@pytest.mark.parametrize("size", ["T", "4"])
@pytest.mark.parametrize("named", NAMED)
def test_a_result_s_type_knows_what_its_body_calls_a_size(named: str, size: str, kind: str) -> None:
    def written(result: str, made: str) -> str:
        body = f"{{\n    {named.format(T=size)}\n    return full([{made}, 3], 1.0, dtype=f32) + x[:1]\n}}\n"
        head = f"{kind} f(x: f32[{size}, 3]) -> f32[{result}, 3] "
        call = "" if kind == "model" else f"model m(x: f32[{size}, 3]) -> f32[N, 3] {{\n    return f(x)\n}}\n"
        return head + body + call

    value = NAMED[named].format(T=size)
    for result, made in (("n", "n"), ("2 * n + 1", "2 * n + 1"), ("n", value)):
        program = source.loads(written(result, made))
        assert source.loads(source.print_module(program)).difference(program) is None
    for result, made in (("n", "n + 1"), ("2 * n", "n")):
        with pytest.raises(Diagnostic, match="is declared as") as caught:
            source.loads(written(result, made))
        assert caught.value.code == "E0309"


def test_captured_values_stand_in_the_order_in_which_a_body_reads_them() -> None:
    """Not in that of what captured them first, such as a call that does not read what it is given."""
    program = source.loads("""
fn second(a: f32[B], b: f32[B]) -> f32[B] {
    return b
}

model m(x: f32[B], y: f32[B], z: f32[B], s: f32[B]) -> f32[B] {
    fold i in 3 from (s) {
        t = second(x, s)
        fold j in 2 from (t) {
            u = second(z, t)
            t = t * y
        }
        s = t + x + z
    }
    return s
}
""")
    outer = next(program.graph.nodes())
    assert [v.name for v in outer.inputs if v is not None] == ["s", "y", "x", "z"]
    assert same_when_printed(program)
