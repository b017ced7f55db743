"""fold and scan: the body's types must fit what is carried, captured and scanned."""

from __future__ import annotations

import pytest

from tessera.ir.builder import Builder
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import sym
from tessera.ir.graph import Graph, Value
from tessera.ir.types import TensorType
from tessera.ir.verifier import VerifyError, verify


def t(dtype: str, *shape: int | str) -> TensorType:
    return TensorType.of(dtype, shape)


def fold_body(carried: TensorType, grow: bool = False) -> Graph:
    b = Builder(Graph("body"))
    b.input("i", t("i64"))
    x = b.input("x", carried)
    captured = b.input("w", t("f32", 8))
    y: Value = b.op("add", x, captured)
    b.graph.add_output(b.op("concat", y, y, axis=0) if grow else y, "x")
    return b.graph


def fold(body: Graph, start: TensorType) -> Graph:
    b = Builder(Graph("f"))
    x, w = b.input("x", start), b.input("w", t("f32", 8))
    b.graph.add_output(b.op("fold", x, w, n=3, carried=1, body=body), "y")
    return b.graph


def test_fold() -> None:
    graph = fold(fold_body(t("f32", "B", 8)), t("f32", "B", 8))
    verify(graph)
    copy = graph.clone()
    verify(copy)
    assert copy == graph
    fold_node = next(n for n in copy.nodes() if n.op.name == "fold")
    assert fold_node.body is not None
    next(fold_node.body.nodes()).set_input(1, fold_node.body.inputs[1])
    assert copy != graph


def test_fold_refuses_a_carried_value_that_changes_type() -> None:
    with pytest.raises(Diagnostic) as caught:
        fold(fold_body(t("f32", "B", 8), grow=True), t("f32", "B", 8))
    assert caught.value.code == "E0308"
    assert caught.value.message == "fold: the carried value `x` starts as f32[B, 8] but becomes f32[2 * B, 8]"
    assert caught.value.help is not None
    assert "repeat" in caught.value.help


def test_fold_refuses_a_body_for_other_types() -> None:
    with pytest.raises(Diagnostic, match="E0308"):
        fold(fold_body(t("f32", "B", 8)), t("f32", "C", 8))


def scan_body(left: TensorType, right: TensorType, result: str = "add") -> Graph:
    b = Builder(Graph("body"))
    a, c = b.input("l", left), b.input("r", right)
    b.graph.add_output(b.op(result, a, c), "y")
    return b.graph


def scan(body: Graph, *types: TensorType) -> Graph:
    b = Builder(Graph("f"))
    xs = [b.input(f"x{i}", type) for i, type in enumerate(types)]
    b.graph.add_output(b.op("scan", *xs, axis=1, carried=len(xs), body=body), "y")
    return b.graph


def test_scan() -> None:
    body = scan_body(t("f32", "B", 4), t("f32", "B", 4))
    graph = scan(body, t("f32", "B", "T", 4))
    verify(graph)
    assert graph.outputs[0].type == t("f32", "B", "T", 4)


@pytest.mark.parametrize(
    ("body", "types", "code"),
    [
        (scan_body(t("f32", 4), t("f32", 4)), [t("f32", 2, 3, 4)], "E0308"),
        (scan_body(t("f32", 2, 4), t("f32", 2, 4), "lt"), [t("f32", 2, 3, 4)], "E0308"),
        (scan_body(t("f32", 2, 4), t("f32", 2, 4)), [], "E0404"),
        (scan_body(t("f32", 2, 4), t("f32", 2, 4)), [t("f32", 2)], "E0305"),
        (scan_body(t("f32", 2, 4), t("f32", 2, 4)), [t("f32", 2, 3, 4), t("f32", 2, 5, 4)], "E0302"),
    ],
)
def test_scan_refuses(body: Graph, types: list[TensorType], code: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        scan(body, *types)
    assert caught.value.code == code


def test_the_body_is_verified_too() -> None:
    graph = fold(fold_body(t("f32", "B", 8)), t("f32", "B", 8))
    body = next(graph.nodes()).body
    assert body is not None
    body.inputs[1].uses.clear()
    with pytest.raises(VerifyError, match=r"add: the use of .* is not recorded"):
        verify(graph)


def test_the_body_may_use_the_symbols_around_it() -> None:
    b = Builder(Graph("body"))
    b.input("i", t("i64"))
    x = b.input("x", t("f32", 8))
    b.input("w", t("f32", 8))
    b.graph.add_output(b.op("sum", b.op("expand", x, shape=(sym("B"), 8)), axis=0), "x")
    with pytest.raises(VerifyError, match="which no input binds"):
        verify(fold(b.graph, t("f32", 8)))
    graph = fold(b.graph, t("f32", 8))
    Builder(graph).input("batch", t("f32", "B"))
    verify(graph)
