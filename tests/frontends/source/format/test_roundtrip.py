"""``loads(print_module(m)) == m``: for every model of the zoo, for hand-picked constructs, and for generated graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.frontends.source import check, check_text, loads, print_module, resolve
from tessera.ir.builder import Builder
from tessera.ir.graph import Graph, Initializer, Module, Value
from tessera.ir.types import DTYPES, TensorType
from tessera.ir.verifier import verify

ROOT = Path(__file__).resolve().parents[4]
ZOO = sorted((ROOT / "specs" / "zoo").glob("*.tess"))


def assert_round_trip(module: Module) -> None:
    """Print, read, compare, and print again."""
    verify(module.graph)
    text = print_module(module)
    again = loads(text)
    verify(again.graph)
    assert module.difference(again) is None, text
    assert print_module(again) == text


@pytest.mark.parametrize("path", ZOO, ids=lambda p: p.stem)
def test_zoo(path: Path) -> None:
    for module in check(path):
        assert_round_trip(module)


CONSTRUCTS = {
    "records, local ops and lets": """
        ## A pair.
        record Pair[B, T] { static sorted: bool = false  a: f32[B, T]  b: i64[B, T] }

        op shrink(x: float[B, T], p: Pair[B, T], *, r: int) -> (float[B, T - r], Pair[B, T - r]) {
            require r <= T // 2, "r is too large"
            return x[:, r:], Pair(a=p.a[:, r:], b=p.b[:, :T - r], sorted=p.sorted)
        }

        model m(x: f32[B, T], ids: i64[B, T]) -> (y: f32[B, T - min(3, T // 2)], ids: i64[B, T - min(3, T // 2)]) {
            let r = min(3, T // 2)
            y, p = shrink(x, Pair(a=x, b=ids, sorted=true), r=r)
            if p.sorted {
                y = y + p.a
            }
            return y, p.b
        }
    """,
    "scan over an axis whose size no operand tells": """
        fn larger(a: f32[N], b: f32[N]) -> f32[N] { return maximum(a, b) }
        model m(x: f32[B, T], y: f32[T, T]) -> f32[2 * B + T, T] {
            return scan(larger, concat(x, x, y, axis=0), axis=1)
        }
    """,
    "fold that swaps what it carries": """
        model m(a: f32[B, 4], b: f32[B, 4], c: f32[4]) -> (f32[B, 4], f32[B, 4]) {
            fold i in 5 from (a, b) {
                t = a
                a = b + c
                b = t * 2.0
            }
            return a, b
        }
    """,
    "fold that only swaps": """
        model m(a: f32[B], b: f32[B]) -> (f32[B], f32[B]) {
            fold i in 3 from (a, b) {
                t = a
                a = b
                b = t
            }
            return a, b
        }
    """,
    "fold within fold, with an outer value": """
        model m(x: f32[B, 4], y: f32[B, 4]) -> f32[B, 4] {
            fold i in 3 from (x) {
                z = x
                fold j in 2 from (z) {
                    z = z + y * cast(i, f32)
                }
                x = x + z
            }
            return x
        }
    """,
    "cond that swaps, with an outer value in one branch": """
        model m(x: f32[B, 4], y: f32[B, 4], p: bool[]) -> (f32[B, 4], f32[B, 4]) {
            param w: f32[4, 4] = normal(0.1)
            a = x
            cond p from (a, y) {
                t = a
                a = y
                y = t
            } else {
                y = y @ w + x
            }
            return a, y
        }
    """,
    "cond that does nothing else, over a record": """
        record Pair[B] { a: f32[B]  b: f32[B] }
        op turn(p: Pair[B]) -> Pair[B] { return Pair(a=p.b, b=p.a) }
        model m(x: f32[B], p: bool[]) -> (f32[B], f32[B]) {
            pair = Pair(a=x, b=x * 2.0)
            cond p from (pair) {
                pair = turn(pair)
            }
            return pair.a, pair.b
        }
    """,
    "cond whose branches give another type": """
        model m(x: f32[B, 4], p: bool[]) -> f32[B, 2] {
            cond p from (x) {
                x = x[:, :2]
            } else {
                x = x[:, 2:]
            }
            return x
        }
    """,
    "while with a test that reads a value twice": """
        fn small(x: f32[B]) -> bool[] {
            least = min(x, axis=0)
            return least < 10.0 and least > -10.0
        }
        model m(x: f32[B], bound: f32[], p: bool[]) -> (f32[B], i64[]) {
            i = constant(0, dtype=i64)
            while small(x) and p from (x, i) limit B {
                x = x * 2.0 + bound
                i = i + 1
            }
            return x, i
        }
    """,
    "while within cond within fold": """
        model m(x: f32[B], n: i64[]) -> f32[B] {
            fold k in 3 from (x) {
                y = x
                cond k < n from (y) {
                    j = k
                    while j < n from (j, y) limit 5 {
                        j = j + 1
                        y = y + x
                    }
                }
                x = y * 0.5
            }
            return x
        }
    """,
    "scan": """
        fn combine(a: f32[..., K], b: f32[..., K], c: f32[..., K], d: f32[..., K]) -> (f32[..., K], f32[..., K]) {
            return a * c, b * c + d
        }
        model m(x: f32[B, T, 4], y: f32[B, T, 4]) -> f32[B, T, 4] {
            p, q = scan(combine, x, y, axis=1)
            return p + q
        }
    """,
    "state of a record, of a capacity of its own": """
        record Memory[B, N] { static decay: real  rows: f32[B, N, 4]  count: i64[B]  limit: f32[B] }
        op push(m: Memory[B, N], x: f32[B, 4]) -> Memory[B, N] {
            return Memory(decay=m.decay, rows=m.rows * m.decay + unsqueeze(x, 1), count=m.count + 1, limit=m.limit)
        }
        model m(x: f32[B, 4]) -> f32[B, 4] {
            state plain: Memory[B, C] = Memory(decay=0.5, limit=ones, rows=normal(0.1))
            state total: f32[B, 2 * C] = zeros
            plain = push(push(plain, x), x)
            total = total + cast(unsqueeze(plain.count, 1), f32)
            return mean(plain.rows, axis=1) + unsqueeze(plain.limit, 1)
        }
    """,
    "states that are read before and after, and swapped": """
        record Pair[B] { a: f32[B]  b: f32[B] }
        model m(x: f32[B]) -> (f32[B], f32[B], f32[B]) {
            state first: f32[B] = zeros
            state second: f32[B] = ones
            state pair: Pair[B] = zeros
            old = first
            older = pair.b
            pair = Pair(a=pair.b, b=first)
            first = second
            second = old
            tap seen = pair.a
            return old + x, older, pair.b
        }
    """,
    "a state of each step, and of each layer": """
        use std.nn (linear)
        layer keeps(x: f32[B, D]) -> f32[B, D] {
            state last: f32[B, D] = zeros
            y = linear(x + last, out=D) as inner
            last = x
            tap norm = y
            return y
        }
        model m(x: f32[B, 4]) -> f32[B, 4] {
            state total: f32[B, 4] = zeros
            repeat i in 3 as blocks {
                state seen: f32[B, C] = zeros
                state steps: f32[B] = zeros
                x = keeps(x) as layer
                seen = seen + x[:, :1]
                steps = steps + 1.0
            }
            total = total + x
            return x
        }
    """,
    "a state through a cond and a while": """
        use std.cache (KVCache, append, window)
        model m(k: f32[B, G, 1, 4], stop: i64[]) -> i64[B] {
            state cache: KVCache[B, G, C, 4, 4] = zeros
            require C >= 8, "too few slots"
            i = constant(0, dtype=i64)
            while i < stop from (i, cache) limit 3 {
                cache = append(cache, k, k)
                i = i + 1
            }
            cond all(cache.length > 6, axis=[0]) from (cache) {
                cache = window(cache, sinks=2, recent=4)
            }
            return cache.length
        }
    """,
    "state, random, tap, buffer": """
        model m(x: f32[B, 8]) -> f32[B, 8] {
            state memory: f32[B, 8] = zeros
            random noise: f32[B, 8] = normal(0.0, 1.0)
            buffer mean_: f32[8] = constant(0.5) as "norm.mean"
            memory = memory * 0.9 + x
            tap seen = memory
            return memory + noise - mean_
        }
    """,
    "scalars of several dtypes": """
        model m(x: f16[B, 8], ids: i64[B, 8]) -> (f16[B, 8], i64[B, 8], bool[B, 8]) {
            y = where(x > 0.5, x, -1.0) ** 3.0 + minimum(x, 2.0)
            return 1.0 - y, (ids + 1) // 2 % 7, not (ids == 3 or ids < 0)
        }
    """,
    "optional operands by name": """
        use std.attention (attention)
        model m(q: f32[B, 2, T, 8], bias: f32[1, 2, T, T]) -> (f32[B, 2, T, 8], f32[B, T]) {
            y, mass = attention(q, q, q, bias=bias, column_mass=true)
            return y, mass
        }
    """,
    "constants, dimensions as values, slices": """
        model m(x: f32[B, T, 6]) -> (f32[B, 2], i64[], f32[B, T, 2]) {
            w = constant([[1.0, 2.0], [3.0, 4.0], [-5.0, 6.0]], dtype=f32)
            return x[:, 0, ::2] @ w, full([], T * 2 - 1, dtype=i64), x[..., -2:]
        }
    """,
    "two things of one name": """
        use std.nn (softmax)
        op soft(x: float[..., N]) -> float[..., N] { return softmax(x * 2.0) }
        model m(soft_1: f32[B, 8]) -> f32[B, 8] {
            x = soft(soft_1)
            soft_2 = softmax(x, axis=0)
            return soft_2
        }
    """,
}


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_constructs(name: str) -> None:
    modules = check_text(CONSTRUCTS[name])
    assert modules
    for module in modules:
        assert_round_trip(module)


_UNARY = ["neg", "abs", "exp", "tanh", "sigmoid", "stop_gradient"]
_BINARY = ["add", "sub", "mul", "div", "minimum", "maximum", "pow"]
_COMPOSITE = ["std.nn.softmax", "std.nn.gelu", "std.nn.silu", "std.nn.layer_normalize"]


@st.composite
def modules(draw: st.DrawFn) -> Module:
    """A graph over f32 tensors [B, T, D] of a few shapes: scalars, reductions, slices, composites."""
    graph = Graph("generated")
    builder = Builder(graph)
    rank = draw(st.integers(1, 3))
    shape = ["B", "T", 6][-rank:]
    pool: list[Value] = [builder.input(f"x{i}", TensorType.of("f32", shape)) for i in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        init = draw(
            st.sampled_from([Initializer("zeros"), Initializer("normal", (0.02,)), Initializer("uniform", (-1.0, 0.5))])
        )
        pool.append(builder.param("layer.0.weight", TensorType.of("f32", [6]), init, draw(st.booleans())))
    for _ in range(draw(st.integers(1, 12))):
        x = draw(st.sampled_from(pool))
        kind = draw(
            st.sampled_from(["unary", "binary", "scalar", "reduce", "slice", "composite", "where", "concat", "sort"])
        )
        name = draw(st.sampled_from(["x", "h", "sum_2", "y"]))
        if kind == "unary":
            y = builder.op(draw(st.sampled_from(_UNARY)), x)
        elif kind == "binary":
            y = builder.op(
                draw(st.sampled_from(_BINARY)), x, draw(st.sampled_from([v for v in pool if v.type == x.type]))
            )
        elif kind == "scalar":
            number = builder.constant(draw(st.floats(-4, 4, width=32)), DTYPES["f32"])
            pair = (x, number) if draw(st.booleans()) else (number, x)
            y = builder.op(draw(st.sampled_from(_BINARY)), *pair)
        elif kind == "reduce":
            axis = draw(st.integers(0, x.type.rank - 1))
            y = builder.op(draw(st.sampled_from(["sum", "mean", "max"])), x, axis=axis, keepdims=True)
            y = builder.op("add", x, y)
        elif kind == "slice":
            width = x.type.shape[-1].value or 1
            start = draw(st.integers(0, width - 1))
            y = builder.op(
                "slice", x, axis=-1, start=start, stop=draw(st.integers(start + 1, width)), step=draw(st.integers(1, 2))
            )
        elif kind == "composite":
            name_of_op = draw(st.sampled_from(_COMPOSITE))
            missing = [None, None] if name_of_op.endswith("layer_normalize") else []
            y = builder.op(resolve(name_of_op), x, *missing)
        elif kind == "where":
            condition = builder.op("gt", x, builder.constant(draw(st.floats(-1, 1, width=32)), DTYPES["f32"]))
            y = builder.op("where", condition, x, builder.constant(0.25, DTYPES["f32"]))
        elif kind == "concat":
            y = builder.op("concat", x, x, axis=-1)
        else:
            y = builder.multi("sort", x, axis=-1, descending=draw(st.booleans()))[0]
        y.name = name
        pool.append(y)
    graph.add_output(pool[-1], draw(st.sampled_from(["output", "scores"])))
    if draw(st.booleans()):
        graph.add_output(draw(st.sampled_from(pool)), "second")
    if draw(st.booleans()):
        graph.add_output(draw(st.sampled_from(pool)), "watched", "tap")
    return Module("generated", graph, draw(st.sampled_from(["", "Made by a machine.\nTwice."])))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(modules())
def test_generated(module: Module) -> None:
    if module.graph.params and not next(iter(module.graph.params.values())).uses:
        module.graph.params.clear()
    assert_round_trip(module)


def test_two_entry_points_over_one_cache() -> None:
    program = loads(
        """
        use std.attention (attention)
        use std.cache (KVCache, append, visible)
        model prefill(k: f32[B, 2, S, 4], *, heads: int = 2) -> i64[B] {
            state cache: KVCache[B, heads, C, 4, 4] = zeros
            cache = append(cache, k, k)
            return cache.length
        }
        model step(q: f32[B, 2, 1, 4], k: f32[B, 2, 1, 4]) -> f32[B, 2, 1, 4] {
            state cache: KVCache[B, 2, C, 4, 4] = zeros
            cache = append(cache, k, k)
            return attention(q, cache.k, cache.v, visible(cache, queries=1))
        }
        program decode {
            entry prefill = prefill
            entry step = step
        }
        """
    )
    text = print_module(program)
    assert program.difference(loads(text)) is None, text
    assert [v.name for v in program.functions["step"].inputs if v.role == "state"] == [
        "cache.k",
        "cache.v",
        "cache.length",
    ]
