"""Shapes that exporters compute with nodes become sizes: nothing of the arithmetic is left in the program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tessera.frontends.onnx import load
from tessera.frontends.onnx.dims import parse_dim
from tessera.frontends.onnx.equal import solve
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import as_dim, const, sym

from .support import agree, model, node, round_trip, run_imported


def i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def ops(path_or_imported: object) -> list[str]:
    return [n.op.name for n in path_or_imported.module.graph.nodes()]


def test_reshape_to_a_computed_shape(tmp_path: Path) -> None:
    """What the TorchScript exporter writes for `x.view(B, T, heads, -1).transpose(1, 2)`."""
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s zero", "b", axis=0), node("Shape", "x", "s2"),
        node("Gather", "s2 one", "t", axis=0), node("Unsqueeze", "b axis", "b1"), node("Unsqueeze", "t axis", "t1"),
        node("Concat", "b1 t1 heads rest", "shape", axis=0), node("Reshape", "x shape", "r"),
        node("Transpose", "r", "y", perm=[0, 2, 1, 3]),
    ]  # fmt: skip
    constants = {"zero": np.array(0), "one": np.array(1), "axis": i(0), "heads": i(2), "rest": i(-1)}
    imported = agree(model(nodes, {"x": ("f32", ["B", "T", 8])}, ["y"], constants), tmp_path)
    assert ops(imported) == ["reshape", "transpose"]
    assert str(imported.module.graph.outputs[0].type) == "f32[B, 2, T, 4]"


def test_reshape_with_a_sum_of_sizes(tmp_path: Path) -> None:
    """As with a cache of keys: `x.reshape(-1, past + T, K)`."""
    nodes = [
        node("Shape", "p", "ps", start=1, end=2), node("Shape", "x", "xs", start=1, end=2), node("Add", "ps xs", "all"),
        node("Concat", "p x", "c", axis=1), node("Concat", "rest all four", "shape", axis=0), node("Reshape", "c shape", "y"),
    ]  # fmt: skip
    inputs = {"p": ("f32", ["B", "past", 2, 4]), "x": ("f32", ["B", "T", 2, 4])}
    sizes = [{"B": 2, "T": 5, "past": 3}, {"B": 1, "T": 2, "past": 7}]
    imported = agree(model(nodes, inputs, ["y"], {"rest": i(-1), "four": i(4)}), tmp_path, sizes=sizes)
    assert str(imported.module.graph.outputs[0].type) == "f32[2 * B, T + past, 4]"


def test_arithmetic(tmp_path: Path) -> None:
    """Cast, Mul, Div, Floor, Sub, Min, Max, Where, Equal, Slice and ConstantOfShape on sizes."""
    nodes = [
        node("Shape", "x", "t", start=1, end=2), node("Cast", "t", "tf", to=1), node("Mul", "tf half", "h"),
        node("Floor", "h", "hf"), node("Cast", "hf", "n", to=7), node("Div", "t two", "m"), node("Sub", "t m", "rest"),
        node("Concat", "n rest", "pair", axis=0), node("Slice", "pair zero one", "k"),
        node("ReduceSum", "pair", "total", keepdims=1), node("Equal", "total t", "same"), node("Where", "same k t", "chosen"),
        node("Max", "chosen one", "least"),
        node("Slice", "x zero least one", "y"),
    ]  # fmt: skip
    constants = {"half": np.array([0.5], np.float32), "two": i(2), "zero": i(0), "one": i(1)}
    imported = agree(model(nodes, {"x": ("f32", ["B", "T"])}, ["y"], constants), tmp_path)
    assert ops(imported) == ["slice"]
    assert str(imported.module.graph.outputs[0].type) == "f32[B, max(1, T // 2)]"


def test_expand_with_minus_one(tmp_path: Path) -> None:
    """What the TorchScript exporter writes for `cls.expand(B, -1, -1)`."""
    nodes = [
        node("Shape", "x", "b", start=0, end=1), node("Concat", "b minus minus", "want", axis=0),
        node("ConstantOfShape", "three", "ones", value=onnx.numpy_helper.from_array(i(1))),
        node("Equal", "want all_minus", "hole"), node("Where", "hole ones want", "shape"), node("Expand", "cls shape", "e"),
        node("Concat", "e x", "y", axis=1),
    ]  # fmt: skip
    constants = {"minus": i(-1), "three": i(3), "all_minus": i(-1, -1, -1), "cls": np.ones((1, 1, 4), np.float32) * 2}
    imported = agree(model(nodes, {"x": ("f32", ["B", "T", 4])}, ["y"], constants), tmp_path)
    assert ops(imported) == ["expand", "concat"]


def test_positions(tmp_path: Path) -> None:
    nodes = [
        node("Shape", "x", "t0", start=1, end=2), node("Squeeze", "t0 axis", "t"), node("Range", "zero t one", "p"),
        node("Gather", "table p", "e", axis=0), node("Add", "x e", "y"),
    ]  # fmt: skip
    constants = {"axis": i(0), "zero": np.array(0), "one": np.array(1), "table": np.ones((9, 4), np.float32)}
    imported = agree(model(nodes, {"x": ("f32", ["B", "T", 4])}, ["y"], constants), tmp_path)
    assert ops(imported) == ["iota", "take", "add"]


@pytest.mark.parametrize(
    ("start", "limit", "delta"),
    [(0, 5, 1), (2, 11, 3), (7, 0, -2), (3, 3, 1), (9, 2, 1), (0.0, 4.0, 1.0), (0.5, 4.0, 1.0), (1.0, 2.0, 0.3)],
    ids=str,
)
def test_range(start: float, limit: float, delta: float, tmp_path: Path) -> None:
    dtype = np.float32 if isinstance(start, float) else np.int64
    constants = {n: np.array(v, dtype) for n, v in (("a", start), ("b", limit), ("c", delta))}
    nodes = [node("Range", "a b c", "r"), node("Cast", "r", "f", to=1), node("Unsqueeze", "f axis", "u"), node("Add", "x u", "y")]
    agree(model(nodes, {"x": ("f32", ["B"])}, ["y"], {**constants, "axis": i(1)}), tmp_path)


def test_a_range_from_a_half(tmp_path: Path) -> None:
    """Centres of patches: `arange(0.5, T)`."""
    nodes = [
        node("Shape", "x", "t0", start=1, end=2), node("Squeeze", "t0", "t"), node("Cast", "t", "f", to=1),
        node("Range", "half f one", "r"), node("Add", "x r", "y"),
    ]  # fmt: skip
    constants = {"half": np.array(0.5, np.float32), "one": np.array(1, np.float32)}
    imported = agree(model(nodes, {"x": ("f32", ["B", "T"])}, ["y"], constants), tmp_path)
    assert "iota(T, dtype=f32)" in round_trip(imported)


def test_a_size_that_a_tensor_needs(tmp_path: Path) -> None:
    """Masked mean: the number of tokens is both a size and a number in the computation."""
    nodes = [
        node("Shape", "x", "t", start=1, end=2), node("Cast", "t", "n", to=1), node("ReduceSum", "x axis", "s", keepdims=0),
        node("Div", "s n", "y"), node("Shape", "x", "shape"),
    ]  # fmt: skip
    imported = agree(model(nodes, {"x": ("f32", ["B", "T"])}, ["y", "shape"], {"axis": i(1)}), tmp_path)
    assert "full" in ops(imported)


def test_the_scale_of_attention_is_a_number(tmp_path: Path) -> None:
    nodes = [
        node("Shape", "x", "s"), node("Slice", "s minus end", "k"), node("Cast", "k", "f", to=1), node("Sqrt", "f", "r"),
        node("Div", "one r", "scale"), node("Mul", "x scale", "y"),
    ]  # fmt: skip
    constants = {"minus": i(-1), "end": i(2**62), "one": np.array([1], np.float32)}
    imported = agree(model(nodes, {"x": ("f32", ["B", "T", 16])}, ["y"], constants), tmp_path)
    assert ops(imported) == ["constant", "mul"]
    assert "x * 0.25" in round_trip(imported)


# Names of sizes --------------------------------------------------------------------------------------------------------


def shapes(path: Path) -> list[str]:
    return [str(v.type) for v in load(path).module.graph.inputs]


@pytest.mark.parametrize(
    ("declared", "shown"),
    [
        (["batch_size", "T"], "f32[batch_size, T]"),
        (["unk__12", "a/b:c"], "f32[unk__12, a_b_c]"),
        (["past + tokens", "tokens"], "f32[past + tokens, tokens]"),
        (["2*s0", "(s0 - 1)//2"], "f32[2 * s0, (s0 - 1) // 2]"),
        ([None, 3], "f32[x_0, 3]"),
        (["x", "model"], "f32[x_1, model_]"),
        (["add", "1st"], "f32[add_, size_1st]"),
    ],
    ids=str,
)
def test_names(declared: list[str | None], shown: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(model([node("Neg", "x", "y")], {"x": ("f32", declared)}, ["y"]), path)
    assert shapes(path) == [shown]
    round_trip(load(path))


def test_unnamed_sizes_become_those_they_must_be(tmp_path: Path) -> None:
    inputs = {"x": ("f32", [None, None, 4]), "z": ("f32", ["B", "T", 4])}
    path = tmp_path / "net.onnx"
    onnx.save(model([node("Add", "x z", "y")], inputs, ["y"]), path)
    imported = load(path)
    assert str(imported.module.graph.outputs[0].type) == "f32[x_0, x_1, 4]"
    assert [str(v.type) for v in imported.module.graph.inputs] == ["f32[x_0, x_1, 4]"] * 2
    assert len(imported.notes) == 2
    assert "`B` is x_0: node `add_y` (Add)" in " ".join(imported.notes)


def test_a_free_size_beside_a_weight_is_known(tmp_path: Path) -> None:
    imported = agree(
        model([node("Add", "x w", "y")], {"x": ("f32", ["B", "T", 4])}, ["y"], {"w": np.ones((5, 4), np.float32)}),
        tmp_path, sizes=[{"B": 2, "T": 5}],
    )  # fmt: skip
    assert imported.module.graph.symbols() == ["B"]


def test_division_of_what_may_be_negative(tmp_path: Path) -> None:
    """torch writes the size after a strided convolution as `(H - 8) / 8 + 1`."""
    nodes = [
        node("Shape", "x", "t", start=1, end=2), node("Sub", "t eight", "d"), node("Div", "d eight", "n"),
        node("Add", "n one", "k"), node("Slice", "x zero k one", "y"),
    ]  # fmt: skip
    constants = {"eight": i(8), "one": i(1), "zero": i(0)}
    sizes = [{"B": 1, "T": 9}, {"B": 2, "T": 23}]
    imported = agree(model(nodes, {"x": ("f32", ["B", "T"])}, ["y"], constants), tmp_path, sizes=sizes)
    assert ops(imported) == ["slice"]
    assert [(str(r.left), r.op, str(r.right)) for r in imported.module.graph.requires] == [("T - 8", ">=", "0")]


def test_the_last_positions_of_a_table(tmp_path: Path) -> None:
    """ALiBi's exported form: a table of 9, of which the last T are taken from `max(0, 9 - T)` on."""
    nodes = [
        node("Shape", "x", "t", start=1, end=2), node("Sub", "nine t", "d"), node("Max", "d zero", "from"),
        node("Slice", "w from nine zero", "p"), node("Add", "x p", "y"),
    ]  # fmt: skip
    constants = {"nine": i(9), "zero": i(0), "w": np.arange(9, dtype=np.float32)}
    imported = agree(model(nodes, {"x": ("f32", ["B", "T"])}, ["y"], constants), tmp_path)
    assert imported.module.graph.symbols() == ["B", "T"]
    assert [(str(r.left), r.op, str(r.right)) for r in imported.module.graph.requires] == [("-T + 9", ">=", "0")]
    assert imported.notes[0].startswith("`max(0, -T + 9)` is -T + 9: node `add_y` (Add)")
    with pytest.raises(Diagnostic, match="the exported model needs this of its sizes"):
        run_imported(imported, [np.zeros((2, 12), np.float32)])


def test_a_bound_that_multiplies_other_sizes(tmp_path: Path) -> None:
    """GPT-Neo's: T tokens times 4 features are `min(9, T)` rows of 4, for every T up to 9: T is not 1."""
    nodes = [
        node("Shape", "x", "b", start=0, end=1), node("Shape", "x", "t", start=1, end=2), node("Min", "t nine", "least"),
        node("Concat", "b least four", "shape", axis=0), node("Reshape", "x shape", "y"),
    ]  # fmt: skip
    constants = {"nine": i(9), "four": i(4)}
    sizes = [{"B": 2, "T": 5}, {"B": 1, "T": 9}]
    imported = agree(model(nodes, {"x": ("f32", ["B", "T", 2, 2])}, ["y"], constants), tmp_path, sizes=sizes)
    assert str(imported.module.graph.outputs[0].type) == "f32[B, T, 4]"
    assert [(str(r.left), r.op, str(r.right)) for r in imported.module.graph.requires] == [("T", "<=", "9")]


def test_the_sides_of_an_image_follow_from_the_positions(tmp_path: Path) -> None:
    """Exporters leave height and width of a ViT free, although its positions fix the number of patches."""
    nodes = [
        node("Conv", "x w", "c", strides=[4, 4]), node("Reshape", "c s", "r"), node("Transpose", "r", "t", perm=[0, 2, 1]),
        node("Add", "t p", "y"),
    ]  # fmt: skip
    constants = {"w": np.ones((8, 3, 4, 4), np.float32), "s": i(0, 0, -1), "p": np.ones((1, 9, 8), np.float32)}
    proto = model(nodes, {"x": ("f32", ["B", "C", "H", "W"])}, ["y"], constants)
    imported = agree(proto, tmp_path, sizes=[{"B": 2, "C": 3, "H": 12, "W": 12}], tolerance=1e-4)
    assert str(imported.module.graph.inputs[0].type) == "f32[B, 3, 12, 12]"
    path = tmp_path / "model.onnx"
    assert str(load(path, sizes={"H": 4, "W": 36}).module.graph.inputs[0].type) == "f32[B, 3, 4, 36]"


def test_unknown_names_of_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(model([node("Neg", "x", "y")], {"x": ("f32", ["batch"])}, ["y"]), path)
    with pytest.raises(Diagnostic, match="no input has a free size `bacth`") as found:
        load(path, sizes={"bacth": 3})
    assert found.value.code == "E0759"
    assert found.value.help == "did you mean `batch`?"


@pytest.mark.parametrize("text", ["a.b", "a[1]", "f(x)", "a if b else c", "1.5", "a**b", "(" * 300, "a" * 300, "-a", "''"])
def test_what_is_no_size_expression(text: str) -> None:
    assert parse_dim(text, sym) is None


def test_division_by_zero_is_no_size() -> None:
    assert parse_dim("a // 0", sym) is None


def test_solving() -> None:
    order = {"a": 0, "b": 1, "h": 2}
    a, b, h = map(sym, order)
    assert solve(a, b, order) == {"b": a}
    assert solve(a * 2, const(6), order) == {"a": as_dim(3)}
    assert solve(a * 2, const(7), order) is None
    assert solve(a * b, a * 5, order) == {"b": as_dim(5)}
    assert solve(a + b, a, order) is None
    assert solve((h - 4) // 4 + 1, const(3), order) == {"h": as_dim(12)}
    assert solve(sym("let"), const(3), order) is None


def test_a_window_must_fit_into_a_free_size(tmp_path: Path) -> None:
    """Otherwise the comparison at small sizes fails, and a user learns what ONNX Runtime thinks of it."""
    nodes = [node("Conv", "x w", "h", strides=[4]), node("MaxPool", "h", "y", kernel_shape=[3], strides=[1])]
    proto = model(nodes, {"x": ("f32", ["B", 2, "T"])}, ["y"], {"w": np.ones((2, 2, 7), np.float32)})
    imported = agree(proto, tmp_path, [{"B": 2, "T": 15}])
    needs = [f"{r.left} {r.op} {r.right}" for r in imported.module.graph.requires]
    assert needs == ["T >= 7", "(T - 3) // 4 >= 3"]


def test_an_empty_slice_whose_bound_may_count_from_the_end(tmp_path: Path) -> None:
    """x[1 : 1 - min(3, T)] is empty for one token, and not for more."""
    nodes = [
        node("Shape", "x", "s", start=1), node("Min", "s three", "m"), node("Sub", "one m", "e"), node("Slice", "x one e one", "y"),
    ]  # fmt: skip
    constants = {"one": np.array([1]), "three": np.array([3])}
    imported = agree(model(nodes, {"x": ("f32", ["B", "T"])}, ["y"], constants), tmp_path, [{"B": 2, "T": 1}])
    with pytest.raises(Diagnostic, match="needs this of its sizes"):
        run_imported(imported, [np.zeros((2, 7), np.float32)])


def test_a_slice_ends_where_a_free_axis_does(tmp_path: Path) -> None:
    bounds = {"start": i(1), "end": i(6), "axis": i(1)}
    proto = model([node("Slice", "x start end axis", "y")], {"x": ("f32", ["B", "T", 4])}, ["y"], bounds)
    imported = agree(proto, tmp_path, [{"B": 2, "T": tokens} for tokens in (3, 6, 9)])
    assert str(imported.module.graph.outputs[0].type.shape[1]) == "min(6, T) - 1"


@pytest.mark.parametrize("coordinates", ["pytorch_half_pixel", "align_corners", "asymmetric"])
def test_a_free_size_is_resized_to_one(coordinates: str, tmp_path: Path) -> None:
    nodes = [node("Resize", "x _ _ size", "y", mode="linear", coordinate_transformation_mode=coordinates)]
    proto = model(nodes, {"x": ("f32", [1, 2, "H", 4])}, ["y"], {"size": np.array([1, 2, 1, 4])})
    agree(proto, tmp_path, [{"H": 3}, {"H": 8}])
