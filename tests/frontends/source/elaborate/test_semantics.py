"""What programs mean: small programs run on PyTorch and on ONNX Runtime, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends import source


@dataclass
class Case:
    """A program, its inputs, and what its outputs must be, in order."""

    source: str
    inputs: dict[str, np.ndarray]
    expected: Callable[..., Any]
    tolerance: float = 1e-6


def _x(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


CASES = {
    "precedence": Case(
        "model m(a: f32[B], b: f32[B]) -> f32[B] { return -a ** 2 + b * 3.0 - a / 2.0 }",
        {"a": _x(4), "b": _x(4, seed=1)},
        lambda a, b: -(a**2) + b * 3 - a / 2,
    ),
    "integer division rounds down": Case(
        "model m(i: i64[N]) -> (i64[N], i64[N]) { return i // 3, i % 3 }",
        {"i": np.arange(-7, 8)},
        lambda i: (i // 3, i % 3),
    ),
    "logic": Case(
        "model m(i: i64[N]) -> bool[N] { return not (i > 2 and i != 4) or i == -1 }",
        {"i": np.arange(-3, 7)},
        lambda i: ~((i > 2) & (i != 4)) | (i == -1),
    ),
    "pipes and defaults": Case(
        "fn scale(x: float[...], *, by: real = 2.0) -> float[...] { return x * by }\n"
        "model m(x: f32[B]) -> f32[B] { return x |> scale |> scale(by=0.25) |> exp }",
        {"x": _x(3)},
        lambda x: np.exp(x * 0.5),
    ),
    "a choice by a scalar": Case(
        "model m(x: f32[B, 3], p: bool[]) -> (f32[B, 3], f32[3]) {\n"
        "    param w: f32[3] = constant(2.0)\n"
        "    rows = x * 2.0\n"
        "    cond p from (x, rows) {\n        x = x + w\n        rows = rows[0]\n    }"
        " else {\n        rows = sum(rows, axis=0)\n    }\n"
        "    cond not p from (x) { x = x / 0.5 }\n"
        "    return x, rows\n}",
        {"x": _x(4, 3), "p": np.array(False)},
        lambda x, p: (x * 2, (x * 2).sum(0)),
    ),
    "a loop with a condition": Case(
        "model m(x: f32[B, 3], n: i64[]) -> (f32[B, 3], i64[], i64[]) {\n"
        "    i = constant(0, dtype=i64)\n"
        "    j = n * 0\n"
        "    while i < n and all(x < 50.0, axis=[0, 1]) from (i, x) limit 2 * B { x = x * 2.0 + 1.0  i = i + 1 }\n"
        "    while j < 100 from (j) limit B { j = j + 1 }\n"
        "    return x, i, j\n}",
        {"x": np.ones((4, 3), np.float32), "n": np.array(100)},
        lambda x, n: (np.full((4, 3), 63, np.float32), np.array(5), np.array(4)),
    ),
    "a loop that takes no step": Case(
        "model m(x: f32[B], p: bool[]) -> f32[B] { while p from (x) limit 9 { x = x + 1.0 } return x }",
        {"x": _x(4), "p": np.array(False)},
        lambda x, p: x,
    ),
    "regions within regions": Case(
        "model m(x: f32[B], n: i64[]) -> f32[B] {\n"
        "    fold k in 4 from (x) {\n"
        "        y = x\n"
        "        cond k < n from (y) {\n"
        "            j = k\n"
        "            while j < n from (j, y) limit 5 {\n"
        "                cond j == 2 from (y) { y = y + x } else { y = y * 2.0 }\n"
        "                j = j + 1\n"
        "            }\n"
        "        } else { y = -x }\n"
        "        x = y\n"
        "    }\n"
        "    return x\n}",
        {"x": _x(5), "n": np.array(3)},
        lambda x, n: _regions(x, 3),
    ),
    "a fold over a record": Case(
        "record Pair[B] { static sign: real  a: f32[B]  b: f32[B] }\n"
        "op step(p: Pair[B], x: f32[B]) -> Pair[B] { return Pair(a=p.b, b=p.a + x * p.sign, sign=p.sign) }\n"
        "model m(x: f32[B]) -> (f32[B], f32[B]) {\n"
        "    p = Pair(a=x, b=x * 2.0, sign=-1.0)\n"
        "    fold i in 3 from (p) { p = step(p, x) }\n    return p.a, p.b\n}",
        {"x": _x(3)},
        lambda x: (x, -x),
    ),
    "an optional record with a static field": Case(
        "record Scale[B] { static negative: bool  by: f32[B] }\n"
        "op scaled(x: f32[B], s: Scale[B]? = none) -> f32[B] {\n"
        "    if given(s) { return where(s.negative, -x, x) * s.by }\n    return x\n}\n"
        "model m(x: f32[B], y: f32[B]) -> (f32[B], f32[B]) {\n"
        "    return scaled(x), scaled(x, Scale(by=y, negative=true))\n}",
        {"x": _x(3), "y": _x(3, seed=1)},
        lambda x, y: (x, -x * y),
    ),
    "a static field that is left out": Case(
        "record Scale[B] { static negative: bool = true  by: f32[B] }\n"
        "op scaled(x: f32[B], s: Scale[B]) -> f32[B] { return where(s.negative, -x, x) * s.by }\n"
        "model m(x: f32[B], s: Scale[B]) -> (f32[B], f32[B], f32[B]) {\n"
        "    return scaled(x, s), scaled(x, Scale(by=x)), scaled(x, Scale(by=x, negative=false))\n}",
        {"x": _x(3), "s_by": _x(3, seed=1)},
        lambda x, s_by: (-x * s_by, -x * x, x * x),
    ),
    "functions are compared by name": Case(
        "record Acted[B] { static act: fn  x: f32[B] }\n"
        "op run(r: Acted[B], *, other: fn? = none) -> f32[B] {\n"
        "    if other != none { return other(r.x) }\n"
        "    if r.act == exp { return r.act(r.x) * 2.0 }\n    return r.act(r.x)\n}\n"
        "model m(x: f32[B]) -> (f32[B], f32[B], f32[B]) {\n"
        "    return run(Acted(x, exp)), run(Acted(x, tanh)), run(Acted(x, exp), other=sin)\n}",
        {"x": _x(3)},
        lambda x: (2 * np.exp(x), np.tanh(x), np.sin(x)),
    ),
    "variables named like functions": Case(
        "fn keys(x: f32[B]) -> f32[B] { m = values(x) return m }\n"
        "fn values(x: f32[B]) -> f32[B] { keys = x * 2.0 return keys }\n"
        "op both(x: f32[B]) -> f32[B] { m = keys(x) return m + x }\n"
        "model m(x: f32[B]) -> f32[B] { return both(x) }",
        {"x": _x(3)},
        lambda x: 3 * x,
    ),
    "indexing": Case(
        "model m(x: f32[B, T, 6]) -> (f32[B, 6], f32[B, T, 3], f32[B, T], f32[T, 6]) {\n"
        "    return x[:, -1], x[..., ::2], x[:, :, 4], x[0]\n}",
        {"x": _x(2, 5, 6)},
        lambda x: (x[:, -1], x[..., ::2], x[:, :, 4], x[0]),
    ),
    "a dimension as a number": Case(
        "model m(x: f32[B, T]) -> (f32[B], i64[]) { return sum(x, axis=1) / T, full([], T * 2 - B, dtype=i64) }",
        {"x": _x(3, 5)},
        lambda x: (x.sum(1) / 5, np.array(7)),
    ),
    "a static condition, a constant, a list": Case(
        "const WEIGHTS = [1.0, 10.0, 100.0]\n"
        "fn pick(x: float[...], *, twice: bool) -> float[...] {\n    if twice {\n        return x * 2.0\n    }\n    return x\n}\n"
        "model m(x: f32[B]) -> f32[B] {\n    y = x * 0.0\n    repeat w in WEIGHTS {\n"
        "        y = y + pick(x, twice=w > 5.0) * w\n    }\n    return y\n}",
        {"x": _x(3)},
        lambda x: x * (1 + 20 + 200),
        1e-4,
    ),
    "a repeat whose count shrinks": Case(
        "model m(x: f32[B, T]) -> f32[B, T - 3] {\n    repeat i in 3 {\n        x = x[:, 1:] + x[:, :-1]\n    }\n    return x\n}",
        {"x": _x(2, 7)},
        lambda x: x[:, 3:] + 3 * x[:, 2:-1] + 3 * x[:, 1:-2] + x[:, :-3],
    ),
    "fold with its index and an outer value": Case(
        "model m(x: f32[B, 4], y: f32[B, 4], n: f32[T]) -> f32[B, 4] {\n"
        "    fold i in T from (x) {\n        x = x * 0.5 + y * cast(i, f32) + n[0:1]\n    }\n    return x\n}",
        {"x": _x(2, 4), "y": _x(2, 4, seed=1), "n": _x(3, seed=2)},
        lambda x, y, n: ((x * 0.5 + n[0]) * 0.5 + y + n[0]) * 0.5 + y * 2 + n[0],
        1e-5,
    ),
    "scan of a linear recurrence": Case(
        "fn combine(a: f32[...], b: f32[...], c: f32[...], d: f32[...]) -> (f32[...], f32[...]) {\n"
        "    return a * c, b * c + d\n}\n"
        "model m(a: f32[B, T], b: f32[B, T]) -> f32[B, T] {\n    p, h = scan(combine, a, b, axis=1)\n    return h + p * 0.0\n}",
        {"a": np.abs(_x(2, 6)) % 1, "b": _x(2, 6, seed=1)},
        lambda a, b: np.stack(
            [sum(b[:, s] * np.prod(a[:, s + 1 : t + 1], axis=1) for s in range(t + 1)) for t in range(6)], axis=1
        ),
        1e-5,
    ),
    "records, and a dimension that a let names": Case(
        "record Kept[B, T] { value: f32[B, T]  index: i64[B, T] }\n"
        "op best(x: f32[B, T], *, k: int) -> Kept[B, k] {\n"
        "    v, i = topk(x, k=k)\n    return Kept(value=v, index=i)\n}\n"
        "model m(x: f32[B, T]) -> (value: f32[B, T // 2], index: i64[B, T // 2]) {\n"
        "    let half = T // 2\n    kept = best(x, k=half)\n    return kept.value, kept.index\n}",
        {"x": np.round(_x(3, 9), 0)},
        lambda x: (-np.sort(-x, axis=1)[:, :4], np.argsort(-x, axis=1, kind="stable")[:, :4]),
    ),
    "an optional operand": Case(
        "fn shift(x: float[B, D], by: float[D]? = none) -> float[B, D] {\n"
        "    if given(by) {\n        return x + by\n    }\n    return x\n}\n"
        "model m(x: f32[B, 4], b: f32[4]) -> f32[B, 4] { return shift(x) * shift(x, b) }",
        {"x": _x(2, 4), "b": _x(4, seed=1)},
        lambda x, b: x * (x + b),
    ),
    "a function as a parameter": Case(
        "use std.nn (silu)\n"
        "op twice(x: float[...], *, f: fn = silu) -> float[...] { return f(f(x)) }\n"
        "model m(x: f32[B]) -> (f32[B], f32[B]) { return twice(x), twice(x, f=tanh) }",
        {"x": _x(5)},
        lambda x: (
            (x / (1 + np.exp(-x))) / (1 + np.exp(-x / (1 + np.exp(-x)))),
            np.tanh(np.tanh(x)),
        ),
        1e-5,
    ),
    "attention with everything": Case(
        "use std.attention (attention)\n"
        "model m(q: f32[B, 4, T, 8], k: f32[B, 2, S, 8], mask: bool[B, 1, 1, S]) -> (f32[B, 4, T, 8], f32[B, S]) {\n"
        "    return attention(q, k, k, mask, scale=0.5, column_mass=true)\n}",
        {
            "q": _x(2, 4, 3, 8),
            "k": _x(2, 2, 5, 8, seed=1),
            "mask": np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], bool)[:, None, None],
        },
        lambda q, k, mask: _attention(q, np.repeat(k, 2, axis=1), mask),
        1e-5,
    ),
}


def _regions(x: np.ndarray, n: int) -> np.ndarray:
    for k in range(4):
        y = x
        for j in range(k, n):
            y = y + x if j == 2 else y * 2
        x = y if k < n else -x
    return x


def _attention(q: np.ndarray, k: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = _softmax(np.where(mask, q @ k.swapaxes(-1, -2) * 0.5, -np.inf))
    return p @ k, p.mean(axis=(1, 2))


@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize("name", CASES)
def test_program(name: str, target: str) -> None:
    case = CASES[name]
    artifact = ts.compile(ts.loads(case.source), target=target, verify=False)
    found = [np.asarray(v) for v in artifact(**case.inputs).values()]
    expected = case.expected(**case.inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == np.shape(b)
        if a.dtype.kind in "ib":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, atol=case.tolerance, rtol=case.tolerance)


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_state_random_and_taps(target: str) -> None:
    module = ts.loads(
        "model m(x: f32[B, 2]) -> f32[B, 2] {\n    state total: f32[B, 2] = zeros\n"
        "    random noise: f32[B, 2] = uniform(1.0, 2.0)\n    total = total + x\n    tap seen = total * 2.0\n"
        "    return total + noise * 0.0\n}"
    )
    artifact = ts.compile(module, target=target, verify=False)
    x = _x(3, 2)
    first = artifact(x=x)
    second = artifact(x=x, total=first["total"])
    np.testing.assert_allclose(first["output"], x, atol=1e-6)
    np.testing.assert_allclose(second["total"], 2 * x, atol=1e-6)
    np.testing.assert_allclose(second["seen"], 4 * x, atol=1e-6)


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_a_requirement_is_checked_when_sizes_are_known(target: str) -> None:
    module = ts.loads(
        'model m(x: f32[B, T]) -> f32[B, T] {\n    require T % 4 == 0, "T must be a multiple of 4"\n    return x * 2.0\n}'
    )
    artifact = ts.compile(module, target=target, verify=False)
    artifact(x=_x(1, 8))
    with pytest.raises(ts.Diagnostic, match="T must be a multiple of 4"):
        artifact(x=_x(1, 6))


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("n = [1, 2, 3][::0]", "E0402"),
        ("n = [1, 2, 3][0:1.5]", "E0402"),
        ("n = [1, 2, 3][0:T]", "E0402"),
        ("n = [x, x][x:]", "E0402"),
        ("n = [1] * 100000000000000", "E0402"),
        ('n = 100000000000000 * "a"', "E0402"),
        ("n = round(1e308 * 10.0)", "E0402"),
        ("n = stack(x, x, axis=0, axis=1)", "E0406"),
        ("n = scan(add, x, axis=0, axis=1)", "E0406"),
    ],
)
def test_static_values_that_there_are_not_are_refused(statement: str, code: str) -> None:
    with pytest.raises(ts.Diagnostic) as caught:
        ts.loads(f"model m(x: f32[T, 8]) -> f32[T, 8] {{\n    {statement}\n    return x\n}}\n")
    assert [d.code for d in (caught.value, *caught.value.others)] == [code]


@pytest.mark.parametrize("block", ["fold i in 2 from (y) {", "cond flag from (y) {", "while any(y > 9.0) from (y) limit 3 {"])
def test_what_a_region_does_not_read_after_all_is_no_operand(block: str) -> None:
    """An argument that is passed on and dropped: it prints as a program that means the same."""
    text = f"""fn first(a: float[B], b: float[B], *, turns: int = 0) -> float[B] {{
    repeat i in turns {{
        a = a + b
    }}
    return a
}}

model m(x: float[B], w: float[B], flag: bool[]) -> float[B] {{
    y = x
    {block}
        cond flag from (y) {{
            y = first(y, w) * 2.0
        }}
    }}
    return y
}}
"""
    program = source.loads(text)
    (node,) = [n for n in program.graph.nodes() if n.bodies]
    assert all(v is None or v.name != "w" for v in node.inputs)
    assert source.loads(source.print_module(program)).difference(program) is None


def test_a_name_of_a_function_may_be_that_of_a_value_of_another() -> None:
    """A size, a parameter, a name that a branch or a loop binds: none of them calls the function."""
    source.check_text("""
layer attend(x: float[B, D], *, slots: int) -> float[slots, D] {
    param w: float[slots, B]
    return w @ x
}

model slots(x: float[4, D], flag: bool[]) -> float[3, D] {
    return pick(attend(x, slots=3), flag, turns=1)
}

fn pick(x: float[N, D], flag: bool[], *, turns: int) -> float[N, D] {
    if turns == 1 {
        best = x + 1.0
    } else {
        best = x
    }
    y = best * 2.0
    while any(y > 9.0) from (y) limit 3 {
        step = y * 0.5
        y = step
    }
    cond flag from (y) {
        last = y
        y = last
    }
    return y
}

fn best(x: float[N, D], flag: bool[]) -> float[N, D] {
    return pick(x, flag, turns=2)
}

fn step(x: float[N, D], flag: bool[]) -> float[N, D] {
    return pick(x, flag, turns=2)
}

fn last(x: float[N, D], flag: bool[]) -> float[N, D] {
    return pick(x, flag, turns=2)
}
""")
