"""Rewrite rules: what they match, what stops them, and how the nearest miss is told."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.frontends.source import loads
from tessera.ir.compiling import PassSpec
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.passes.engine import apply
from tessera.passes.rewrite.matcher import why

from ..conftest import passed, run

RULES = """
use std.nn (gelu, layer_normalize)
rewrite exact twice(x: float[...]) { neg(neg(x)) => x }
rewrite exact factor(a: float[...], b: float[...], c: float[...]) { a * b + a * c => a * (b + c) }
rewrite exact raise_gelu(x: float[...]) { 0.5 * x * (1.0 + erf(x * 0.7071067811865476)) => gelu(x) }
rewrite exact small_sum(x: float[B, D]) { sum(x, axis=1) => sum(x, axis=-1, keepdims=true)[:, 0] where D < 8 }
rewrite exact two_sums(x: float[..., D], *, axis: int) {
    sum(sum(x, axis=axis, keepdims=true), axis=axis, keepdims=true) => sum(x, axis=axis, keepdims=true)
}
rewrite exact norm(x: float[..., D], w: float[D], *, eps: real) {
    layer_normalize(x, w, eps=eps) => layer_normalize(x, eps=eps) * w
}
rewrite approximate no_exp(x: float[...]) { exp(x) => x + 1.0 }
rewrite exact swap(a: float[...], b: float[...]) { a - b => neg(b - a) }
rewrite exact shorter(x: float[B, D]) { exp(x) => sum(x, axis=1) }
rewrite exact best(x: float[B, D]) { tanh(x) => x }
"""


def module(body: str, results: str = "f32[B, 4]") -> Module:
    return loads(f"{RULES}\nmodel program(x: f32[B, 4], y: f32[B, 4], z: f32[B, 4]) -> {results} {{ {body} }}")


def ops(m: Module) -> list[str]:
    return [n.op.name for n in m.graph.nodes() if n.op.name != "constant"]


@pytest.mark.parametrize(
    ("rule", "body", "after"),
    [
        ("twice", "return -(-x)", []),
        ("twice", "return -(-(-(-(-x))))", ["neg"]),
        ("factor", "return x * y + x * z", ["add", "mul"]),
        ("factor", "return y * x + z * x", ["add", "mul"]),
        ("factor", "return z * y + y * x", ["add", "mul"]),
        ("factor", "return x * y + z * z", ["mul", "mul", "add"]),
        ("raise_gelu", "return (erf(0.7071067811865476 * x) + 1.0) * (x * 0.5)", ["gelu"]),
        ("raise_gelu", "return (erf(0.7071067811865476 * x) + 1.0) * (y * 0.5)", ["mul", "erf", "add", "mul", "mul"]),
        ("raise_gelu", "return (erf(0.7071 * x) + 1.0) * (x * 0.5)", ["mul", "erf", "add", "mul", "mul"]),
    ],
)
def test_matches(rule: str, body: str, after: list[str]) -> None:
    before = module(body)
    result, (report,) = passed(before, PassSpec("rewrite", {"rules": (rule,)}))
    assert ops(result) == after
    assert (report.modified > 0) == (ops(before) != after)
    rng = np.random.default_rng(0)
    inputs = {n: rng.standard_normal((3, 4)).astype(np.float32) for n in "xyz"}
    np.testing.assert_allclose(
        run(result, {}, **inputs)["output"], run(before, {}, **inputs)["output"], rtol=1e-4, atol=1e-5
    )


def test_attributes_bind_and_defaults_count() -> None:
    same = "return sum(sum(x, axis={}, keepdims=true), axis={}, keepdims=true)"
    assert len(ops(apply(module(same.format(1, -1), "f32[B, 1]"), "rewrite", rules=["two_sums"])[0])) == 1
    assert len(ops(apply(module(same.format(0, 1), "f32[1, 1]"), "rewrite", rules=["two_sums"])[0])) == 2
    dropped = "return sum(sum(x, axis=1, keepdims=true), axis=1)"
    assert len(ops(apply(module(dropped, "f32[B]"), "rewrite", rules=["two_sums"])[0])) == 2


def test_composites_and_their_optional_operands() -> None:
    with_weight = "param w: f32[4] return layer_normalize(x, w, eps=1e-3)"
    result, _ = passed(module(with_weight), PassSpec("rewrite", {"rules": ("norm",)}))
    assert ops(result) == ["layer_normalize", "mul"]
    bare, _ = apply(module("return layer_normalize(x)"), "rewrite", rules=["norm"])
    assert ops(bare) == ["layer_normalize"]


def test_where_decides() -> None:
    narrow, _ = apply(module("return sum(x, axis=1)", "f32[B]"), "rewrite", rules=["small_sum"])
    assert ops(narrow) == ["sum", "slice", "squeeze"]
    text = RULES + "model program(x: f32[B, 9]) -> f32[B] { return sum(x, axis=1) }"
    wide, _ = apply(loads(text), "rewrite", rules=["small_sum"])
    assert ops(wide) == ["sum"]


def test_an_inner_result_read_elsewhere_blocks() -> None:
    both = module("a = -x return -a + a")
    assert ops(apply(both, "rewrite", rules=["twice"])[0]) == ["neg", "neg", "add"]
    shown = module("a = -x return -a, a", "(f32[B, 4], f32[B, 4])")
    assert ops(apply(shown, "rewrite", rules=["twice"])[0]) == ["neg", "neg"]


NAMED = """
record Pair[B] { static sorted: bool  first: f32[B, 4]  second: f32[B, 4] }
op pair(x: f32[B, 4], y: f32[B, 4]?) -> (f32[B, 4], Pair[B] if given(y)) {
    if given(y) { return x + y, Pair(sorted=false, first=x, second=y) }
    return x
}
op order(p: Pair[B]) -> Pair[B] {
    return Pair(sorted=true, first=minimum(p.first, p.second), second=maximum(p.first, p.second))
}
rewrite exact largest(x: float[B, T], *, k: int) { let v, i = topk(x, k=k) in take(x, i, axis=1, batch=1) => v }
rewrite exact sigmoids(x: float[...]) { let e = exp(x) in e / (e + 1.0) => sigmoid(x) }
rewrite exact ordered(p: Pair[B]) { order(order(p)) => order(p) }
rewrite exact already(p: Pair[B]) { order(p) => p where p.sorted }
rewrite exact second(x: f32[B, 4], y: f32[B, 4]) { let total, p = pair(x, y) in total - p.first => p.second }
rewrite exact both(p: Pair[B]) { let s = order(p) in s.first + s.second => p.first + p.second }
rewrite exact doubled(x: float[B, T], *, k: int) { topk(x + x, k=k) => twice(x, k=k) }
rewrite exact one_of_two(x: float[B, T], *, k: int) { topk(abs(abs(x)), k=k) => x }
fn twice(x: float[B, T], *, k: int) -> (float[B, k], i64[B, k]) { v, i = topk(x, k=k) return v * 2.0, i }
"""


@pytest.mark.parametrize(
    ("rule", "body", "results", "after"),
    [
        ("largest", "v, i = topk(x, k=2) return take(x, i, axis=1, batch=1)", "f32[B, 2]", ["topk"]),
        # What the replacement uses stays, so it may be read elsewhere too.
        ("largest", "v, i = topk(x, k=2) return take(x, i, axis=1, batch=1) * v", "f32[B, 2]", ["topk", "mul"]),
        ("largest", "v, i = topk(x, k=2) return take(y, i, axis=1, batch=1)", "f32[B, 2]", ["topk", "take"]),
        ("sigmoids", "e = exp(x) return e / (1.0 + e)", "f32[B, 4]", ["sigmoid"]),
        ("sigmoids", "return exp(x) / (1.0 + exp(x))", "f32[B, 4]", ["exp", "exp", "add", "div"]),
        ("sigmoids", "e = exp(x) return e / (1.0 + e) * e", "f32[B, 4]", ["exp", "add", "div", "mul"]),
        ("ordered", "o = order(order(Pair(x, y, false))) return o.first - o.second", "f32[B, 4]", ["order", "sub"]),
        ("already", "o = order(Pair(x, x, true)) return o.second", "f32[B, 4]", []),
        ("already", "o = order(Pair(x, y, false)) return o.second", "f32[B, 4]", ["order"]),
        ("second", "t, p = pair(x, y) return t - p.first", "f32[B, 4]", ["pair"]),
        ("second", "return pair(x, none) - x", "f32[B, 4]", ["pair", "sub"]),
        ("both", "o = order(Pair(x, y, false)) return o.second + o.first", "f32[B, 4]", ["add"]),
        ("both", "o = order(Pair(x, y, false)) return o.second + o.second", "f32[B, 4]", ["order", "add"]),
        ("doubled", "v, i = topk(x + x, k=2) return v + cast(i, f32)", "f32[B, 2]", ["topk", "mul", "cast", "add"]),
    ],
)
def test_named_results_and_records(rule: str, body: str, results: str, after: list[str]) -> None:
    before = loads(f"{NAMED}\nmodel program(x: f32[B, 4], y: f32[B, 4]) -> {results} {{ {body} }}")
    result, (report,) = passed(before, PassSpec("rewrite", {"rules": (rule,)}))
    assert ops(result) == after
    assert (report.modified > 0) == (ops(before) != after)
    rng = np.random.default_rng(0)
    inputs = {n: rng.standard_normal((3, 4)).astype(np.float32) for n in "xy"}
    np.testing.assert_allclose(
        run(result, {}, **inputs)["output"], run(before, {}, **inputs)["output"], rtol=1e-4, atol=1e-5
    )


def test_as_many_results_as_the_root_has() -> None:
    text = f"{NAMED}\nmodel program(x: f32[B, 4]) -> (f32[B, 2], i64[B, 2]) {{ v, i = topk(abs(abs(x)), k=2) return v, i }}"
    with pytest.raises(Diagnostic) as caught:
        apply(loads(text), "rewrite", rules=["one_of_two"])
    assert caught.value.code == "E0713"
    assert "puts f32[B, 4] in the place of f32[B, 2], i64[B, 2]" in caught.value.message


def test_why_of_named_results() -> None:
    text = f"{NAMED}\nmodel program(x: f32[B, 4]) -> f32[B, 4] {{ return pair(x, none) - x }}"
    m = loads(text)
    assert "2 of 2 calls" not in str(why(m.graph, m.rules["second"]))
    text = f"{NAMED}\nmodel program(x: f32[B, 4]) -> f32[B, 4] {{ return exp(x) / (1.0 + exp(x)) }}"
    m = loads(text)
    assert "this is not `e`" in str(why(m.graph, m.rules["sigmoids"]))


def test_a_replacement_keeps_the_users_line() -> None:
    text = (
        RULES
        + "model program(x: f32[B, 4]) -> f32[B, 4] {\n  return (erf(0.7071067811865476 * x) + 1.0) * (x * 0.5)\n}"
    )
    result, _ = apply(loads(text), "rewrite", rules=["raise_gelu"])
    span = next(n.span for n in result.graph.nodes() if n.op.name == "gelu")
    assert span is not None
    assert span.line == len(text.split("\n")) - 1


def test_approximate_rules_are_asked_for() -> None:
    with pytest.raises(Diagnostic) as caught:
        apply(module("return exp(x)"), "rewrite", rules=["no_exp"])
    assert caught.value.code == "E0705"
    _, report = apply(module("return exp(x)"), "rewrite", rules=["no_exp"], approximate=True)
    assert report.contract == "approximate"
    _, report = apply(module("return -x"), "rewrite", rules=["no_exp"], approximate=True)
    assert report.contract == "exact"


@pytest.mark.parametrize(
    ("rule", "code", "message"),
    [
        ("twise", "E0711", "`twise`"),
        ("std.nn.nothing", "E0711", "`std.nn.nothing`"),
        ("swap", "E0712", "the rules did not come to rest after"),
        ("shorter", "E0713", "puts f32[B] in the place of f32[B, 4]"),
    ],
)
def test_refused(rule: str, code: str, message: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        apply(module("return exp(x) - y"), "rewrite", rules=[rule])
    assert caught.value.code == code
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("rule", "body", "reason"),
    [
        ("twice", "return -(-x)", "`twice` matches 1 time(s)"),
        ("twice", "return exp(x)", "0 of 2 calls matched: the model has no `neg`"),
        ("twice", "return -x", "1 of 2 calls matched at <string>:18:79: the pattern calls `neg` where `x` is an input"),
        ("twice", "return -exp(x)", "the pattern calls `neg` where this is `exp`"),
        ("twice", "a = -x return -a + a", "2 of 2 calls matched at <string>:18:76: `neg` is read elsewhere too"),
        ("factor", "return x * y + z * z", "`a` occurs twice in the pattern, but these are two values"),
        ("raise_gelu", "return (erf(0.7071 * x) + 1.0) * (x * 0.5)", "the pattern has 0.707107 where this is 0.7071"),
        ("two_sums", "return sum(sum(x, axis=0, keepdims=true), axis=1, keepdims=true)", "`axis` is"),
        ("norm", "return layer_normalize(x)", "optional operand is passed in one and not in the other"),
        ("best", "return tanh(x)", "`best` matches 1 time(s)"),
    ],
)
def test_why(rule: str, body: str, reason: str) -> None:
    results = "f32[1, 1]" if rule == "two_sums" else "f32[B, 4]"
    m = module(body, results)
    assert reason in str(why(m.graph, m.rules[rule]))


def test_why_names_types_and_conditions() -> None:
    text = RULES + "model program(x: f32[B, 9]) -> f32[B] { return sum(x, axis=1) }"
    m = loads(text)
    assert "`where` condition does not hold" in str(why(m.graph, m.rules["small_sum"]))
    flat = loads(RULES + "model program(x: f32[9]) -> f32[9] { return tanh(x) }")
    assert "must have 2 axes" in str(why(flat.graph, flat.rules["best"]))
