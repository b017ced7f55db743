"""What an op declares of itself holds of what it means; and a new core op is its declaration and a row a backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tessera.backends.mlir.table import LOWERINGS as MLIR
from tessera.backends.onnx.registry import lowerings
from tessera.backends.torch import build
from tessera.backends.torch.table import LOWERINGS as TORCH
from tessera.ir.analysis.along import Along, along
from tessera.ir.analysis.axes import Axes
from tessera.ir.analysis.cost import cost
from tessera.ir.analysis.evaluate import evaluate, evaluate_graph
from tessera.ir.builder import Builder, freeze
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Graph, Module, Value
from tessera.ir.op import Op, Sample, Trait, has, kept
from tessera.ir.ops import OPS, define
from tessera.ir.ops.meaning import plain
from tessera.ir.pattern import Call, Rule, Var
from tessera.ir.types import DType, TensorType
from tessera.passes.engine import apply
from tessera.passes.rewrite.matcher import Matcher

from ..backends.support import session

X = TensorType.of("f32", ["B", "T", 4])


def samples(name: str) -> list[Sample]:
    made = OPS[name].samples
    return [] if made is None else made(np.random.default_rng(0))


def results(name: str, *inputs: Any, **attrs: Any) -> list[np.ndarray]:
    """What an op means by given operands and attributes that need not be complete."""
    types = [TensorType.of(DType.from_numpy(np.asarray(x).dtype), np.shape(x)) for x in inputs]
    attrs = {key: freeze(value) for key, value in attrs.items()}
    found = OPS[name].infer(types, attrs)
    return evaluate(OPS[name], inputs, attrs, found)


def having(trait: Trait) -> list[str]:
    return sorted(name for name, op in OPS.items() if trait in op.traits)


# Declarations against meanings ------------------------------------------------------------------------------------------


def test_every_trait_is_some_op_s_and_every_op_has_a_meaning() -> None:
    assert all(map(having, Trait))
    assert not [name for name, op in OPS.items() if op.meaning is None]


@pytest.mark.parametrize("name", having(Trait.SCALES))
def test_a_factor_of_the_first_operand_is_one_of_the_result(name: str) -> None:
    for sample in samples(name):
        x, *others = sample.inputs
        if x.dtype.kind != "f" or ("dtype" in sample.attrs and sample.attrs["dtype"].kind != "float"):
            continue
        one, twice = (results(name, factor * x, *others, **sample.attrs)[0] for factor in (x.dtype.type(1), x.dtype.type(2)))
        np.testing.assert_array_equal(twice, 2 * one)


@pytest.mark.parametrize("name", having(Trait.CONNECTS))
def test_masks_make_a_mask(name: str) -> None:
    count = len(OPS[name].signature.operands)
    for dtype in (np.bool_, np.int64) if not name.startswith("logical") else (np.bool_,):
        if name == "mul" and dtype is np.bool_:
            continue
        masks = [np.array(row, dtype) for row in ([0, 0, 1, 1], [0, 1, 0, 1])[:count]]
        attrs = {"dtype": DType.from_numpy(np.dtype(np.int64))} if name == "cast" else {}
        assert set(results(name, *masks, **attrs)[0].astype(np.int64)) <= {0, 1}


@pytest.mark.parametrize("name", having(Trait.MEETS))
def test_a_mask_that_holds_where_all_do(name: str) -> None:
    for dtype in (np.bool_, np.int64, np.float32):
        masks = [np.array(row, dtype) for row in ([0, 0, 1, 1], [0, 1, 0, 1])[: len(OPS[name].signature.operands)]]
        attrs = {"dtype": DType.from_numpy(np.dtype(np.int64))} if name == "cast" else {}
        try:
            met = results(name, *masks, **attrs)[0]
        except Diagnostic:
            continue  # an op of another dtype
        np.testing.assert_array_equal(met.astype(bool), np.logical_and.reduce(masks))


@pytest.mark.parametrize("name", having(Trait.ADDS))
def test_sums_are_linear_in_each_operand(name: str) -> None:
    for sample in samples(name):
        found = results(name, *sample.inputs)[0]
        np.testing.assert_array_equal(results(name, *(2 * x for x in sample.inputs))[0], 2 * found)
        for i, x in enumerate(sample.inputs):
            alone = [x if i == j else np.zeros_like(y) for j, y in enumerate(sample.inputs)]
            np.testing.assert_array_equal(abs(results(name, *alone)[0]), abs(np.broadcast_to(x, found.shape)))


# Attributes with which each op gives a result of the type of its operand, f32[2, 3].
SAME_TYPE: dict[str, dict[str, Any]] = {
    "reshape": {"shape": (2, 3)}, "squeeze": {"axis": ()}, "unsqueeze": {"axis": ()}, "expand": {"shape": (2, 3)},
    "cast": {"dtype": DType.from_numpy(np.dtype(np.float32))},
    "slice": {"axis": 1, "stop": 3}, "pad": {"axis": 0},
}  # fmt: skip


@pytest.mark.parametrize("name", having(Trait.STILL))
def test_a_result_of_the_same_type_is_the_operand(name: str) -> None:
    x = np.random.default_rng(0).random((2, 3)).astype(np.float32)
    builder = Builder(Graph("one"))
    value = builder.input("x", TensorType.of("f32", x.shape))
    builder.graph.add_output(builder.op(name, value, **SAME_TYPE[name]), "y")
    assert builder.graph.outputs[0].type == value.type
    np.testing.assert_array_equal(results(name, x, **SAME_TYPE[name])[0], x)
    folded, _ = apply(Module("one", builder.graph), "fold_constants")
    assert not len(folded.graph)


@pytest.mark.parametrize("name", having(Trait.SHAPED))
def test_a_shape_is_that_of_the_result(name: str) -> None:
    for sample in samples(name):
        wanted = tuple(n for n in sample.attrs["shape"] if n != -1)
        assert set(wanted) <= set(results(name, *sample.inputs, **sample.attrs)[0].shape)


@pytest.mark.parametrize("name", having(Trait.COMMUTES))
def test_operands_may_be_exchanged(name: str) -> None:
    for sample in samples(name):
        a, b = sample.inputs
        np.testing.assert_array_equal(*(results(name, *pair)[0] for pair in ((a, b), (b, a))))


@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if op.neutral is not None))
def test_the_neutral_number_gives_back_the_other_operand(name: str) -> None:
    for sample in samples(name):
        x = np.asarray(sample.inputs[0])
        number = np.asarray(OPS[name].neutral).astype(x.dtype)
        np.testing.assert_array_equal(results(name, x, number)[0], x)
        if Trait.COMMUTES in OPS[name].traits:
            np.testing.assert_array_equal(results(name, number, x)[0], x)


@pytest.mark.parametrize("name", having(Trait.HOLDS))
def test_what_an_op_holds_is_its_value(name: str) -> None:
    for sample in samples(name):
        (result,) = results(name, **sample.attrs)
        np.testing.assert_array_equal(result, np.broadcast_to(sample.attrs["value"], result.shape))


@pytest.mark.parametrize("name", having(Trait.KEEPS))
def test_kept_elements_are_elements_of_the_operands(name: str) -> None:
    for sample in samples(name):
        builder = Builder(Graph("one"))
        values = [
            builder.input(f"x{i}", TensorType.of(DType.from_numpy(np.asarray(x).dtype), np.shape(x)))
            for i, x in enumerate(sample.inputs)
        ]
        first = builder.multi(name, *values, **sample.attrs)[0]
        assert first.node is not None
        sources = [np.asarray(sample.inputs[i]).ravel() for i in kept(first.node)]
        pool = np.concatenate(sources).astype(first.type.dtype.numpy)
        found = results(name, *sample.inputs, **sample.attrs)[0]
        assert np.isin(found, pool).all()


@pytest.mark.parametrize("name", having(Trait.RESHAPES))
def test_reshapes_keep_the_order(name: str) -> None:
    for sample in samples(name):
        np.testing.assert_array_equal(
            results(name, *sample.inputs, **sample.attrs)[0].ravel(), np.asarray(sample.inputs[0]).ravel()
        )


@pytest.mark.parametrize("name", sorted({*having(Trait.IDEMPOTENT), "sum"}))
def test_what_occurs_twice_counts_once(name: str) -> None:
    for sample in samples(name):
        x = np.asarray(sample.inputs[0])
        if OPS[name].family == "reduction":
            once, twice = results(name, x, **sample.attrs)[0], results(name, np.concatenate([x, x]), **sample.attrs)[0]
            if 0 in np.atleast_1d(0 if sample.attrs["axis"] is None else sample.attrs["axis"]):
                assert np.array_equal(once, twice) == (Trait.IDEMPOTENT in OPS[name].traits)
        else:
            np.testing.assert_array_equal(results(name, x, x)[0], x)


@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if op.family == "reduction"))
def test_no_elements_have_a_result_or_none(name: str) -> None:
    dtype = bool if name in ("any", "all") else np.float32
    empty = np.zeros((0, 3), dtype)
    if name == "mean":
        assert np.isnan(results(name, empty, axis=0)[0]).all()  # which ONNX Runtime takes for 0
    elif Trait.NONEMPTY in OPS[name].traits:
        with pytest.raises(ValueError, match=r"zero-size|empty"):
            results(name, empty, axis=0)
    else:
        assert results(name, empty, axis=0)[0].shape == (3,)


# A new core op ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def roll(monkeypatch: pytest.MonkeyPatch) -> Iterator[Op]:
    """``roll``: everything that is said of it, anywhere."""
    op = define(
        "roll(x: any[...], *, axis: int) -> any[...]", "The last element first, along one axis.", family="shape",
        traits=(Trait.MOVES, Trait.KEEPS, Trait.AXIS),
        meaning=lambda xs, attrs, types: [np.roll(xs[0], 1, attrs["axis"])],
        samples=lambda rng: [Sample((rng.random((2, n, 3)).astype(np.float32),), {"axis": 1}) for n in (1, 4, 7)],
    )  # fmt: skip
    monkeypatch.setitem(TORCH, "roll", "torch.roll({0}, 1, {axis})")
    monkeypatch.setitem(MLIR, "roll", lambda call: call.aten("roll", call.args[0], [1], [call.attrs["axis"]], type=call.out))
    monkeypatch.setitem(lowerings(), "roll", _roll_in_onnx)
    yield op
    del OPS["roll"]


def _roll_in_onnx(e: Any, node: Any, x: Any) -> Any:
    axis = node.attrs["axis"]
    return e.op("Concat", e.slice(x, axis, -1, None), e.slice(x, axis, 0, -1), axis=axis)


@pytest.fixture
def gap(monkeypatch: pytest.MonkeyPatch) -> Iterator[Op]:
    """``gap``, element by element, in either order."""
    op = define(
        "gap(a: float[...], b: float[...]) -> float[...]", "How far two numbers are apart.", family="elementwise",
        packs="broadcast", traits=(Trait.COMMUTES,), meaning=plain(lambda a, b: np.abs(a - b)),
        samples=lambda rng: [Sample(tuple(rng.random((2, 3, 5)).astype(np.float32)))],
    )  # fmt: skip
    monkeypatch.setitem(TORCH, "gap", "torch.abs({0} - {1})")
    monkeypatch.setitem(lowerings(), "gap", lambda e, node, a, b: e.op("Abs", e.op("Sub", a, b)))
    yield op
    del OPS["gap"]


def one(op: Op, sample: Sample) -> Graph:
    b = Builder(Graph("one"))
    inputs = [
        b.input(f"x{i}", TensorType.of(DType.from_numpy(x.dtype), [f"N{n}" if n > 1 else n for n in x.shape]))
        for i, x in enumerate(sample.inputs)
    ]
    b.graph.add_output(b.op(op, *inputs, **sample.attrs), "y")
    return b.graph


@pytest.mark.parametrize("name", ["roll", "gap"])
def test_backends_agree_with_a_new_op_s_meaning(name: str, request: pytest.FixtureRequest) -> None:
    op: Op = request.getfixturevalue(name)
    for sample in samples(name):
        graph = one(op, sample)
        feed = {f"x{i}": x for i, x in enumerate(sample.inputs)}
        sizes = {f"N{n}": n for x in sample.inputs for n in x.shape if n > 1}
        wanted = evaluate_graph(graph, feed, sizes)["y"]
        np.testing.assert_array_equal(build(graph)(*map(np.asarray, sample.inputs))["y"].numpy(), wanted)
        np.testing.assert_array_equal(session(Module("one", graph)).run(feed)[0], wanted)


def test_a_new_op_is_folded_merged_and_costed(roll: Op, gap: Op) -> None:
    b = Builder(Graph("f"))
    x, y = b.input("x", X), b.input("y", X)
    row = b.op("constant", value=(1.0, 2.0, 3.0, 4.0), dtype=X.dtype)
    turned = b.op(roll, row, axis=0)
    b.graph.add_output(b.op("mul", b.op(gap, x, y), turned), "a")
    b.graph.add_output(b.op("mul", b.op(gap, y, x), turned), "b")
    total = cost(b.graph).at({"B": 2, "T": 3}).total
    assert total.flops == 4 * (2 * 3 * 4)  # two of gap, two of mul; roll computes nothing
    assert total.written == 4 * (4 * 2 * 3 * 4) + 16  # and writes what it moved
    module = Module("f", b.graph)
    for name in ("fold_constants", "cse", "dce"):
        module, _ = apply(module, name)
    assert [n.op.name for n in module.graph.nodes()] == ["constant", "gap", "mul"]
    assert next(module.graph.nodes()).attrs["value"] == (4.0, 1.0, 2.0, 3.0)


def test_a_new_op_walks_its_axes(roll: Op, gap: Op) -> None:
    b = Builder(Graph("f"))
    x, y = b.input("x", X), b.input("y", X)
    turned = b.op(roll, b.op(gap, x, y), axis=1)
    b.graph.add_output(turned, "z")
    axes = Axes(b.graph)
    assert axes.find(x, 1) == axes.find(y, 1) != axes.find(turned, 1)
    assert axes.find(x, 0) == axes.find(turned, 0)
    assert axes.find(y, 2) == axes.find(turned, 2)

    def what(value: Value, axis: int) -> Along:
        assert value.node is not None
        return along(value.node, lambda v: [axis], axes)

    assert [what(turned, axis) for axis in range(3)] == [Along.EACH, Along.MIXED, Along.EACH]
    assert turned.node is not None
    assert turned.node.inputs[0] is not None
    assert what(turned.node.inputs[0], 1) is Along.EACH


def test_rules_match_a_new_op_in_either_order_and_look_past_moves(roll: Op, gap: Op) -> None:
    b = Builder(Graph("f"))
    x, y = b.input("x", X), b.input("y", X)
    moved = b.op(roll, x, axis=1)
    b.graph.add_output(b.op(gap, y, moved), "z")
    b.graph.add_output(moved, "moved")  # read elsewhere too, which costs nothing twice
    node = b.graph.outputs[0].node
    assert node is not None
    pattern = Call("gap", (Call("roll", (Var("x"),), (("axis", 1),)), Var("y")))
    match = Matcher(Rule("r", "exact", pattern, lambda builder, match: [match.tensors["y"]])).match(node)
    assert match is not None
    assert match.tensors == {"x": x, "y": y}
    assert has(node, Trait.COMMUTES)
