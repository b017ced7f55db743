"""Each core op from its declaration: documented, sampled, refusing what it says it refuses, and shaped like NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tessera.ir.builder import Builder, freeze
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import Dim, const, sym
from tessera.ir.graph import Graph
from tessera.ir.op import Bad, Op, Sample
from tessera.ir.ops import OPS
from tessera.ir.types import DType, TensorType
from tessera.ir.verifier import verify

ALL = sorted(OPS)
# Their attribute is a graph: see test_loops.py.
LOOPS = {"fold", "scan", "cond", "while"}
FAMILIES = {
    "elementwise", "contraction", "reduction", "order", "indexing", "segment", "scan", "shape", "gradient", "control",
}  # fmt: skip


def samples(op: Op) -> list[Sample]:
    assert op.samples is not None
    return op.samples(np.random.default_rng(0))


def type_of(array: Any) -> TensorType:
    array = np.asarray(array)
    return TensorType.of(DType.from_numpy(array.dtype), array.shape)


def inferred(op: Op, types: list[TensorType], attrs: dict[str, Any]) -> list[TensorType]:
    return op.infer(types, {k: freeze(v) for k, v in attrs.items()})


@pytest.mark.parametrize("name", ALL)
def test_is_documented_and_filed(name: str) -> None:
    op = OPS[name]
    assert op.name == name
    assert op.family in FAMILIES
    assert op.doc.strip().endswith((".", ")", "`", ";"))
    assert name in LOOPS or (op.samples is not None and op.bad), f"{name} has no samples or no refused call"


@pytest.mark.parametrize("name", [n for n in ALL if n not in LOOPS])
def test_samples_build_a_graph_that_verifies(name: str) -> None:
    for sample in samples(OPS[name]):
        b = Builder(Graph("f"))
        inputs = [b.input(f"x{i}", type_of(x)) for i, x in enumerate(sample.inputs)]
        for i, value in enumerate(b.multi(name, *inputs, **sample.attrs)):
            b.graph.add_output(value, f"y{i}")
        verify(b.graph)


@pytest.mark.parametrize("name", [n for n in ALL if n not in LOOPS])
def test_canonical_attributes_are_a_fixed_point(name: str) -> None:
    for sample in samples(OPS[name]):
        types = [type_of(x) for x in sample.inputs]
        attrs = {k: freeze(v) for k, v in sample.attrs.items()}
        first = OPS[name].infer(types, attrs)
        again = dict(attrs)
        assert OPS[name].infer(types, again) == first
        assert again == attrs


@pytest.mark.parametrize("name", [n for n in ALL if n not in LOOPS])
def test_cost_is_an_integer_for_known_shapes(name: str) -> None:
    op = OPS[name]
    for sample in samples(op):
        types = [type_of(x) for x in sample.inputs]
        attrs = {k: freeze(v) for k, v in sample.attrs.items()}
        assert int(op.cost(types, op.infer(types, attrs), attrs)) >= 0


REFUSED = [(name, bad) for name in ALL for bad in OPS[name].bad]


@pytest.mark.parametrize(("name", "bad"), REFUSED, ids=[f"{n}-{b.code}-{i}" for i, (n, b) in enumerate(REFUSED)])
def test_bad_calls_are_refused(name: str, bad: Bad) -> None:
    with pytest.raises(Diagnostic) as caught:
        inferred(OPS[name], list(bad.types), dict(bad.attrs))
    assert caught.value.code == bad.code


def symbolic(types: list[TensorType]) -> tuple[list[TensorType], dict[str, Dim]]:
    """Axis sizes above 1 as symbols, equal sizes as one symbol."""
    values: dict[str, Dim] = {}
    result = []
    for type in types:
        shape: list[Dim] = []
        for dim in type.shape:
            if int(dim) > 1:
                name = f"s{int(dim)}"
                values[name] = dim
                shape.append(sym(name))
            else:
                shape.append(dim)
        result.append(TensorType(type.dtype, tuple(shape)))
    return result, values


@pytest.mark.parametrize("name", [n for n in ALL if n not in LOOPS])
def test_symbolic_shapes_become_the_concrete_ones(name: str) -> None:
    op = OPS[name]
    for sample in samples(op):
        concrete = [type_of(x) for x in sample.inputs]
        symbols, values = symbolic(concrete)
        try:
            found = inferred(op, symbols, dict(sample.attrs))
        except Diagnostic as error:
            # A literal size in the attributes says nothing about a symbol.
            if error.code not in ("E0302", "E0304", "E0307", "E0405"):
                raise
            continue
        substituted = [TensorType(t.dtype, tuple(d.subs(values) for d in t.shape)) for t in found]
        assert substituted == inferred(op, concrete, dict(sample.attrs))


def along(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *xs, **a: function(
        *xs, axis=tuple(a["axis"]) if isinstance(a["axis"], list) else a["axis"], keepdims=a["keepdims"]
    )


def convolved(x: Any, w: Any, **a: Any) -> Any:
    """The output positions are those where the window fits, counted one by one."""
    spatial = x.ndim - 2

    def each(name: str, default: int) -> list[int]:
        value = a.get(name, default)
        return list(value) if isinstance(value, (tuple, list)) else [value] * spatial

    shape = [x.shape[0], w.shape[0]]
    for n, k, s, p, d in zip(
        x.shape[2:], w.shape[2:], each("stride", 1), each("padding", 0), each("dilation", 1), strict=True
    ):
        shape.append(len([at for at in range(0, n + 2 * p, s) if at + (k - 1) * d < n + 2 * p]))
    return np.zeros(shape, np.float32)


NUMPY: dict[str, Callable[..., Any]] = {
    **{n: along(getattr(np, n)) for n in ("sum", "mean", "prod", "max", "min", "any", "all")},
    **{n: (lambda f: lambda x, axis, keepdims: f(x, axis=axis, keepdims=keepdims))(getattr(np, n)) for n in ("argmax", "argmin")},
    **{n: getattr(np, f) for n, f in [
        ("add", "add"), ("sub", "subtract"), ("mul", "multiply"), ("div", "divide"), ("pow", "power"), ("minimum", "minimum"),
        ("maximum", "maximum"), ("eq", "equal"), ("lt", "less"), ("logical_and", "logical_and"), ("matmul", "matmul"),
        ("where", "where"), ("exp", "exp"), ("floor", "floor"), ("is_nan", "isnan"), ("logical_not", "logical_not"),
    ]},
    "concat": lambda *xs, axis: np.concatenate(xs, axis),
    "transpose": lambda x, perm: x.transpose(perm),
    "reshape": lambda x, shape: x.reshape(shape),
    "expand": lambda x, shape: np.broadcast_to(x, shape),
    "squeeze": lambda x, axis: np.squeeze(x, tuple(axis) if isinstance(axis, list) else axis),
    "unsqueeze": lambda x, axis: np.expand_dims(x, tuple(axis) if isinstance(axis, list) else axis),
    "slice": lambda x, axis, start, stop, step: x[(slice(None),) * axis + (slice(start, stop, step),)],
    "flip": lambda x, axis: np.flip(x, axis),
    "pad": lambda x, axis, before, after, **_: np.pad(x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)]),
    "gather": lambda x, index, axis: np.take_along_axis(x, index, axis),
    "searchsorted": lambda s, v, right: np.zeros(v.shape, np.int64),
    "cumsum": lambda x, axis, **_: np.cumsum(x, axis),
    "full": lambda shape, value, dtype: np.full(shape, value, dtype.numpy),
    "iota": lambda n: np.arange(n),
    "conv": convolved,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NUMPY))
def test_shapes_are_numpys(name: str) -> None:
    for sample in samples(OPS[name]):
        expected = np.asarray(NUMPY[name](*sample.inputs, **sample.attrs))
        found = inferred(OPS[name], [type_of(x) for x in sample.inputs], dict(sample.attrs))[0]
        assert found.shape == tuple(const(n) for n in expected.shape)
        if expected.dtype.kind in "bi" or found.dtype.kind != "float":
            assert found.dtype.kind == {"b": "bool", "i": "int", "u": "int", "f": "float"}[expected.dtype.kind]


F32 = TensorType.of("f32", ["B", 10])


@pytest.mark.parametrize(
    ("name", "types", "attrs", "code"),
    [
        ("reshape", [F32], {"shape": (-1, -1)}, "E0307"),
        ("reshape", [TensorType.of("f32", [2, 3])], {"shape": (-2, -3)}, "E0306"),
        ("reshape", [TensorType.of("f32", [0, 3])], {"shape": (0, -1)}, "E0307"),
        ("reshape", [F32], {"shape": (0, -1)}, "E0307"),
        ("reshape", [F32], {"shape": ("x", 1.5)}, "E0405"),
        ("expand", [TensorType.of("f32", [1, 3])], {"shape": (-1, 3)}, "E0306"),
        ("full", [], {"shape": (-1,), "value": 0, "dtype": TensorType.of("f32").dtype}, "E0306"),
        ("full", [], {"shape": (1,), "value": "x", "dtype": TensorType.of("f32").dtype}, "E0405"),
        ("iota", [], {"n": -1}, "E0306"),
        ("topk", [F32], {"k": -1}, "E0306"),
        ("topk", [F32], {"k": 1.5}, "E0402"),
        ("rearrange", [F32], {"pattern": "b (h k) -> b h k", "axes": (("h", 0),)}, "E0405"),
        ("rearrange", [F32], {"pattern": "b (h k) -> b h", "axes": (("h", 2),)}, "E0405"),
        ("rearrange", [F32], {"pattern": "b (h k -> b h k", "axes": (("h", 2),)}, "E0405"),
        ("rearrange", [F32], {"pattern": "b (h k) -> b h k", "axes": ()}, "E0307"),
        ("rearrange", [F32], {"pattern": "b d -> d b", "axes": (("q", 2),)}, "E0403"),
        ("unsqueeze", [F32], {"axis": None}, "E0305"),
        ("transpose", [F32], {"perm": ("a", 0)}, "E0305"),
        ("sum", [F32], {"axis": (0, -2)}, "E0305"),
        ("einsum", [F32], {"equation": "b d -> b b"}, "E0405"),
        ("einsum", [F32], {"equation": "b d"}, "E0405"),
        ("einsum", [F32], {"equation": "b d, d -> b"}, "E0404"),
        ("conv", [TensorType.of("f32", [1, 3, 4, 4]), TensorType.of("f32", [2, 3, 5, 5])], {}, "E0306"),
        ("conv", [TensorType.of("f32", [1, 3, 9, 9]), TensorType.of("f32", [2, 3, 5, 5])], {"stride": 0}, "E0405"),
        ("conv", [TensorType.of("f32", [1, 4, 9, 9]), TensorType.of("f32", [3, 2, 5, 5])], {"groups": 2}, "E0405"),
        ("slice", [F32], {"axis": 1, "step": 0}, "E0405"),
        ("slice", [F32], {"axis": 1, "start": 5, "stop": 3}, "E0306"),
        ("slice", [F32], {"axis": 1, "start": -11}, "E0306"),
        ("take", [F32, TensorType.of("i64", ["B", 2])], {"axis": 0, "batch": 1}, "E0305"),
        ("take", [F32, TensorType.of("i64", [2])], {"axis": 1, "batch": 2}, "E0305"),
        ("concat", [], {"axis": 0}, "E0404"),
        ("constant", [], {"value": ((1, 2), 3), "dtype": TensorType.of("f32").dtype}, "E0405"),
    ],
)  # fmt: skip
def test_refuses_with_a_code_instead_of_crashing(
    name: str, types: list[TensorType], attrs: dict[str, Any], code: str
) -> None:
    with pytest.raises(Diagnostic) as caught:
        inferred(OPS[name], types, attrs)
    assert caught.value.code == code


def test_slices_counted_from_the_end_follow_a_shrinking_axis() -> None:
    attrs = {"axis": 1, "start": 1, "stop": -1, "step": 1}
    assert OPS["slice"].infer([TensorType.of("f32", [2, 197])], attrs) == [TensorType.of("f32", [2, 195])]
    assert OPS["slice"].infer([TensorType.of("f32", [2, 189])], attrs) == [TensorType.of("f32", [2, 187])]


def test_the_set_of_core_ops_is_closed() -> None:
    # Growth happens in specs/std: a new core op needs a lowering in every backend, and a reason. The last twelve: bits, windows and
    # atan have no exact form in others, and logsumexp none that is one kernel and right at -inf.
    assert len(OPS) <= 98
