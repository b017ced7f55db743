"""What integers, NaN, infinities, ties and nothing do at their edges: the rules of docs/language.md, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.backends.torch import build
from tessera.frontends.source import loads
from tessera.ir.analysis.evaluate import evaluate
from tessera.ir.op import Sample
from tessera.ir.ops import OPS
from tessera.ir.types import boolean, f16, i8, i32, i64, u8

from .test_composites import BACKENDS
from .test_ops_torch import assert_same, graph_of

NAN, INF = np.nan, np.inf
WILD = np.array([NAN, INF, -INF, 1e30, 300.7, -300.7, 2.9, -2.9], np.float32)
HOLES, OTHER = np.array([NAN, 1, NAN, 2], np.float32), np.array([1, NAN, NAN, 3], np.float32)
TIES, EMPTY = np.array([1, 2, 2, 1], np.float32), np.zeros((0, 3), np.float32)
CASES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *(("cast", (WILD,), {"dtype": d}) for d in (i64, i32, i8, u8, boolean, f16)),
    *(("cast", (np.array([300, -1, 2**40]),), {"dtype": d}) for d in (i8, u8, i32)),
    *((op, (HOLES, OTHER), {}) for op in ("lt", "le", "gt", "ge", "eq", "ne", "minimum", "maximum")),
    *((op, (HOLES,), {"axis": 0}) for op in ("max", "min", "sum", "mean")),
    *((op, (TIES,), {"axis": 0}) for op in ("argmax", "argmin")),
    *(("sort", (TIES,), {"axis": 0, "descending": d}) for d in (False, True)),
    *((op, (EMPTY,), {"axis": 0}) for op in ("sum", "prod")),
    *((op, (np.array([a], np.int8), np.array([b], np.int8)), {}) for op, a, b in (
        ("add", 127, 1), ("sub", -128, 1), ("mul", 127, 3), ("floordiv", -7, 2), ("floordiv", 7, -2), ("mod", -7, 3),
        ("mod", 7, -3),
    )),
    *((op, (np.array([a]), np.array([b])), {}) for op, a, b in (
        ("add", 2**63 - 1, 1), ("mul", 2**62, 5), ("floordiv", -7, 2), ("mod", -7, 3), ("mod", 7, -3),
    )),
    ("sub", (np.array([1], np.uint8), np.array([3], np.uint8)), {}),
    ("neg", (np.array([-128], np.int8),), {}), ("abs", (np.array([-(2**63)]),), {}),
    ("div", (np.array([1, 0], np.float32), np.zeros(2, np.float32)), {}),
    ("log", (np.array([-1, 0], np.float32),), {}), ("sqrt", (np.array([-1], np.float32),), {}),
    ("pow", (np.array([-2, 0, NAN], np.float32), np.array([0.5, 0, 0], np.float32)), {}),
    ("round", (np.array([0.5, 1.5, -2.5], np.float32),), {}),
]  # fmt: skip


@pytest.mark.parametrize("backend", ["torch", "onnx", "mlir"])
@pytest.mark.parametrize("case", CASES, ids=[f"{op}-{i}" for i, (op, _, _) in enumerate(CASES)])
def test_edge(case: tuple[str, tuple[Any, ...], dict[str, Any]], backend: str) -> None:
    op, inputs, attrs = case
    graph, canonical = graph_of(op, Sample(inputs, attrs))
    found = BACKENDS[backend](graph)({f"x{i}": x for i, x in enumerate(inputs)})
    wanted = evaluate(OPS[op], inputs, canonical, [v.type for v in graph.outputs])
    for output, value in zip(found, wanted, strict=True):
        assert_same(output, np.asarray(value), f"{op} {inputs}")


# Indices ---------------------------------------------------------------------------------------------------------------

INDEXED = {
    "take": "(x: f32[N, 2], i: i64[K]) -> f32[K, 2] { return take(x, i, axis=0) }",
    "through an op": "(x: f32[N, 2], i: i64[K]) -> f32[K, 2] { return pick(x, reshape(i, [1, K])) }",
    "gather": "(x: f32[N, 2], i: i64[K, 2]) -> f32[K, 2] { return gather(x, i, axis=0) }",
    "as i32": "(x: f32[N, 2], i: i32[K]) -> f32[K, 2] { return take(x, cast(i, i64), axis=0) }",
    "scatter": "(x: f32[N, 2], i: i64[K], u: f32[K, 2]) -> f32[N, 2] { return scatter_add(x, i, u, batch=0) }",
    "embedding": "(i: i64[K]) -> f32[K, 2] { return embedding(i, vocab=5, dim=2) as words }",
    "segments": "(u: f32[K, 2], i: i64[K]) -> f32[5, 2] { return segment_sum(u, i, segments=5) }",
}
HEAD = """use std.nn (embedding)
op pick(x: float[N, D], i: i64[B, K]) -> float[K, D] { return take(x, i[0], axis=0) }
model m"""


def arguments(graph: Any, places: list[int]) -> dict[str, np.ndarray]:
    sizes = {"N": 5, "K": len(places)}
    made = {}
    for value in graph.inputs:
        shape = [d.evaluate(sizes) for d in value.type.shape]
        made[value.name] = np.ones(shape, value.type.dtype.numpy)
        if value.name == "i":
            made["i"] = np.broadcast_to(np.reshape(places, [-1, *[1] * (len(shape) - 1)]), shape).astype(value.type.dtype.numpy)
    return made


@pytest.mark.parametrize("target", ["onnx", "torch"])
@pytest.mark.parametrize("name", INDEXED)
def test_an_input_that_is_no_place_is_refused(name: str, target: str) -> None:
    artifact = ts.compile(loads(HEAD + INDEXED[name]), target=target)
    graph = artifact.module.graph
    for places, odd in (([0, 4, 2], None), ([0, 5], 5), ([-1, 0], -1), ([3, -6], -6)):
        if odd is None:
            assert artifact(**arguments(graph, places))
            continue
        with pytest.raises(ts.Diagnostic, match=rf"`i` has the element {odd}, but the places .* are 0 to 4") as caught:
            artifact(**arguments(graph, places))
        assert caught.value.code == "E0905"


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_what_keeps_indices_within_is_left_to_the_program(target: str) -> None:
    text = "model m(x: f32[N, 2], i: i64[K]) -> f32[K, 2] { return take(x, minimum(maximum(i, 0), N - 1), axis=0) }"
    text = text.replace("N - 1", "full([], N - 1, dtype=i64)")
    artifact = ts.compile(loads(text), target=target)
    found = artifact(x=np.arange(10, dtype=np.float32).reshape(5, 2), i=np.array([-7, 2, 99]))["output"]
    assert found[:, 0].tolist() == [0, 4, 8]


@pytest.mark.parametrize("target", ["onnx", "torch"])
@pytest.mark.parametrize("place", [5, -1])
def test_an_index_that_the_program_states_is_a_requirement(target: str, place: int) -> None:
    text = f"model m(x: f32[N, 2]) -> f32[2, 2] {{ return take(x, constant([0, {place}], dtype=i64), axis=0) }}"
    artifact = ts.compile(loads(text), target=target, verify=False)
    with pytest.raises(ts.Diagnostic, match=f"the index {place} of `take` is outside its axis") as caught:
        artifact(x=np.zeros((4, 2), np.float32))
    assert caught.value.code == "E0904"
    if place > 0:
        assert artifact(x=np.zeros((6, 2), np.float32))["output"].shape == (2, 2)


@pytest.mark.parametrize("target", ["onnx", "torch"])
@pytest.mark.parametrize("body", ["n // (n - n)", "n % (n - n)", "cast(take(x, n * 100, axis=0), i64)"])
def test_a_runtime_that_fails_is_a_diagnostic(target: str, body: str) -> None:
    artifact = ts.compile(loads(f"model m(x: f32[K], n: i64[K]) -> i64[K] {{ return {body} }}"), target=target, verify=False)
    with pytest.raises(ts.Diagnostic) as caught:
        artifact(x=np.ones(3, np.float32), n=np.array([1, 2, 3]))
    cause = "lies outside its axis" if "take" in body else "divided by 0"
    assert caught.value.code == "E0912"
    assert cause in caught.value.message
    assert caught.value.help
    # The runtime's own words are no message.
    assert [note.message.split(" says: ")[0] for note in caught.value.notes] in (["ONNX Runtime"], ["PyTorch"])


def test_a_module_refuses_what_is_no_place() -> None:
    import torch

    module = build(loads(HEAD + INDEXED["embedding"]))
    with pytest.raises(ts.Diagnostic, match="E0905"):
        module(torch.tensor([0, 5]))
    assert module(torch.tensor([0, 4]))["output"].shape == (2, 2)


@pytest.mark.parametrize("text", [
    "model m(x: bool[B]) -> bool[B] { return cumsum(x, axis=0) }",
    "model m(x: float[0, 3]) -> float[3] { return mean(x, axis=0) }",
])  # fmt: skip
def test_what_has_no_result_is_refused(text: str) -> None:
    with pytest.raises(ts.Diagnostic):
        ts.compile(loads(text))(np.zeros((0, 3), np.float32))


# Sizes -----------------------------------------------------------------------------------------------------------------

SIZED = {
    "nothing": ("x", {0: "E0902", 1: None}),
    "quotient": ("full([B, ceil(T / (T - 4))], 1.0, f32)", {3: "E0904", 4: "E0904", 5: None, 9: None}),
    "division": ("full([B, T // (T - 4)], 1.0, f32)", {2: "E0904", 4: "E0904", 6: None}),
    "rest": ("full([B, 7 % (T - 4)], 1.0, f32)", {4: "E0904", 6: None}),
    "padding": ("pad(x, axis=1, before=T - 4, after=0)", {3: "E0904", 4: None, 6: None}),
    "padding behind": ("pad(x, axis=1, before=8, after=T - 4)", {3: "E0904", 6: None}),
    "steps": ("turns(x, n=T - 4)", {3: "E0904", 4: None, 6: None}),
    "limit": ("until(x, n=T - 4)", {3: "E0904", 4: None, 6: None}),
}
LOOPS = """fn turns(x: float[B, T], *, n: int) -> float[B, T] {
    fold i in n from (x) {
        x = x * 2.0
    }
    return x
}

fn until(x: float[B, T], *, n: int) -> float[B, T] {
    while any(x < 99.0, axis=[0, 1]) from (x) limit n {
        x = x * 2.0
    }
    return x
}

"""


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("target", ["onnx", "torch"])
@pytest.mark.parametrize("name", SIZED)
def test_sizes_that_make_no_sense_are_refused(name: str, target: str, named: bool) -> None:
    """What a size is divided by is positive, padding and steps are not negative, and no size of an input is 0: refused before the
    call where they are not, the same on every backend."""
    body, cases = SIZED[name]
    let = ""
    if named and "T - 4" in body:
        let, body = "    let n = T - 4\n", body.replace("T - 4", "n")
        if name == "division":
            let, body = "    let n = T // (T - 4)\n", "full([B, n], 1.0, f32)"
    module = loads(f"{LOOPS}model m(x: float[B, T]) -> float[B] {{\n{let}    return sum({body}, axis=1)\n}}\n")
    artifact = ts.compile(module, target=target)
    for size, code in cases.items():
        x = np.ones((2, size), np.float32)
        if code is None:
            assert artifact(x=x)["output"].shape == (2,)
            continue
        with pytest.raises(ts.Diagnostic) as caught:
            artifact(x=x)
        assert caught.value.code == code


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_the_sum_of_nothing_is_0(target: str) -> None:
    """Of an axis of no elements; and of one that a slice leaves empty."""
    artifact = ts.compile(loads("model m(x: float[B, 0], y: float[B, T]) -> (float[B], float[B]) {\n"
                                "    return sum(x, axis=1), sum(y[:, T:], axis=1)\n}\n"), target=target)  # fmt: skip
    found = artifact(x=np.ones((2, 0), np.float32), y=np.ones((2, 3), np.float32))
    assert [a.tolist() for a in found.values()] == [[0, 0], [0, 0]]


@pytest.mark.parametrize("steps", ["0", "T - 1"])
@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_what_no_step_kept_has_its_shape(target: str, steps: str) -> None:
    """A loop that takes no step and keeps a value of each: nothing, of the right size."""
    text = f"""model m(x: float[B, T]) -> (float[{steps}, B, T], float[B, T]) {{
    fold i in {steps} from (x) stack (y) {{
        x = x * 2.0
        y = x + 1.0
    }}
    return y, sum(y, axis=0)
}}
"""
    artifact = ts.compile(loads(text), target=target)
    kept, total = artifact(x=np.ones((3, 1), np.float32)).values()
    assert kept.shape == (0, 3, 1)
    assert total.tolist() == [[0], [0], [0]]


@pytest.mark.parametrize("ceil", ["false", "true"])
@pytest.mark.parametrize("op", ["max_pool1d", "avg_pool1d"])
def test_windows_of_doubles_are_as_precise_as_doubles(op: str, ceil: str) -> None:
    """ONNX Runtime has no kernel for them; nothing is rounded to f32 on the way."""
    pooled = f"{op}(x, kernel=3, stride=2, padding=1, ceil_mode={ceil})"
    text = f"model m(x: f64[1, B, T]) -> f64[B] {{ return sum({pooled}, axis=[0, 2]) }}"
    x = np.random.default_rng(0).standard_normal((1, 2, 8))
    found, wanted = (ts.compile(loads(text), target=target)(x=x)["output"] for target in ("onnx", "torch"))
    np.testing.assert_allclose(found, wanted, rtol=1e-13)
