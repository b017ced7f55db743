"""Files that pad a free size to a multiple, in every spelling of exporters: the import takes what ONNX Runtime takes, no less."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tessera.backends import torch as torch_backend
from tessera.frontends.onnx import load
from tessera.ir.diagnostics import Diagnostic

from .support import ELEMENTS, round_trip

D = 3


class Writer:
    """Nodes that compute with the sizes of an input, each a vector of one element."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def op(self, op: str, *inputs: str | int | list[int], **attrs: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.name(i) for i in inputs], [name], name=name, **attrs))
        return name

    def name(self, item: str | int | list[int]) -> str:
        if isinstance(item, str):
            return item
        name = f"c{len(self.constants)}"
        self.constants[name] = np.array(item if isinstance(item, list) else [item], np.int64)
        return name

    def size(self, x: str, axis: int) -> str:
        return self.op("Shape", x, start=axis, end=axis + 1)

    def shape(self, *sizes: str | int) -> str:
        return self.op("Concat", *sizes, axis=0)

    def floats(self, op: str, t: str, n: int) -> str:
        """``ceil(t / n)`` and the like in floats."""
        top, bottom = (self.op("Cast", i, to=TensorProto.FLOAT) for i in (t, n))
        return self.op("Cast", self.op(op, self.op("Div", top, bottom)), to=TensorProto.INT64)


# How many there are to be added to `t` until it is a multiple of `n`. `always`: a whole chunk where it is one already.
SPELLINGS: dict[str, Callable[[Writer, str, int], str]] = {
    "(n - t % n) % n": lambda w, t, n: w.op("Mod", w.op("Sub", n, w.op("Mod", t, n)), n),
    "-t % n": lambda w, t, n: w.op("Mod", w.op("Neg", t), n),
    "(-1 * t) % n": lambda w, t, n: w.op("Mod", w.op("Mul", t, -1), n),
    "(n - 1) * t % n": lambda w, t, n: w.op("Mod", w.op("Mul", t, n - 1), n),
    "n - 1 - (t - 1) % n": lambda w, t, n: w.op("Sub", n - 1, w.op("Mod", w.op("Sub", t, 1), n)),
    "(t + n - 1) // n * n - t": lambda w, t, n: w.op("Sub", w.op("Mul", w.op("Div", w.op("Add", t, n - 1), n), n), t),
    "((t - 1) // n + 1) * n - t": lambda w, t, n: w.op(
        "Sub", w.op("Mul", w.op("Add", w.op("Div", w.op("Sub", t, 1), n), 1), n), t
    ),
    "ceil(t / n) * n - t": lambda w, t, n: w.op("Sub", w.op("Mul", w.floats("Ceil", t, n), n), t),
    "-floor(-t / n) * n - t": lambda w, t, n: w.op(
        "Sub", w.op("Mul", w.op("Neg", w.floats("Floor", w.op("Neg", t), n)), n), t
    ),
    "max(0, ceil(t / n) * n - t)": lambda w, t, n: w.op("Max", 0, w.op("Sub", w.op("Mul", w.floats("Ceil", t, n), n), t)),
    "always: n - t % n": lambda w, t, n: w.op("Sub", n, w.op("Mod", t, n)),
    "always: (t // n + 1) * n - t": lambda w, t, n: w.op("Sub", w.op("Mul", w.op("Add", w.op("Div", t, n), 1), n), t),
    "always: floor(t / n) * n + n - t": lambda w, t, n: w.op(
        "Sub", w.op("Add", w.op("Mul", w.floats("Floor", t, n), n), n), t
    ),
}  # fmt: skip

# How many chunks there are, for `t` tokens and the padded `p`: what a reshape is given.
COUNTS: dict[str, Callable[[Writer, str, str, int], str | int]] = {
    "-1": lambda w, t, p, n: -1,
    "p // n": lambda w, t, p, n: w.op("Div", p, n),
    "(t + n - 1) // n": lambda w, t, p, n: w.op("Div", w.op("Add", t, n - 1), n),
    "p / n as a real": lambda w, t, p, n: w.floats("Floor", p, n),
}


def padded(w: Writer, x: str, axis: int, rank: int, spelling: str, n: int) -> str:
    """``x`` with zeros behind its end on an axis."""
    pad = SPELLINGS[spelling](w, w.size(x, axis), n)
    ends = [pad if i == axis else 0 for i in range(rank)]
    return w.op("Pad", x, w.shape(*[0] * rank, *ends), mode="constant")


def chunked(spelling: str, count: str, n: int, cut: bool) -> onnx.ModelProto:
    """``x[B, T, D]`` in chunks of ``n``, less the running sum within each; then cut to T again, or the sum of the rest."""
    w = Writer()
    b, t = w.size("x", 0), w.size("x", 1)
    full = padded(w, "x", 1, 3, spelling, n)
    chunks = w.op("Reshape", full, w.shape(b, COUNTS[count](w, t, w.size(full, 1), n), n, D))
    mean = w.op("ReduceMean", chunks, [2], keepdims=1)
    flat = w.op("Reshape", w.op("Sub", chunks, mean), w.shape(b, -1, D))
    both = w.op("Add", flat, full)
    return finished(w, w.op("Slice", both, 0, t, 1) if cut else w.op("ReduceMax", both, [1], keepdims=0), ["B", "T", D])


def windowed(spelling: str, n: int, named: bool) -> onnx.ModelProto:
    """``x[B, H, W, D]`` in windows of ``n`` by ``n``, each less its mean, and back to the map."""
    w = Writer()
    sizes = [w.size("x", axis) for axis in range(3)]
    full = padded(w, padded(w, "x", 1, 4, spelling, n), 2, 4, spelling, n)
    height, width = (w.size(full, axis) for axis in (1, 2))
    rows, columns = w.op("Div", height, n), w.op("Div", width, n)
    split = w.op("Reshape", full, w.shape(sizes[0], rows, n, columns, n, D))
    windows = w.op("Reshape", w.op("Transpose", split, perm=[0, 1, 3, 2, 4, 5]), w.shape(-1, n * n, D))
    less = w.op("Sub", windows, w.op("ReduceMean", windows, [1], keepdims=1))
    batch = sizes[0] if named else -1
    again = w.op("Reshape", less, w.shape(batch, rows, columns, n, n, D))
    whole = w.op("Reshape", w.op("Transpose", again, perm=[0, 1, 3, 2, 4, 5]), w.shape(sizes[0], height, width, D))
    both = w.op("Add", whole, full)
    return finished(w, w.op("Slice", both, [0, 0], w.shape(sizes[1], sizes[2]), [1, 2]), ["B", "H", "W", D])


def finished(w: Writer, result: str, shape: list[str | int]) -> onnx.ModelProto:
    w.nodes.append(helper.make_node("Identity", [result], ["y"]))
    inputs = [helper.make_tensor_value_info("x", ELEMENTS["f32"], shape)]
    constants = [numpy_helper.from_array(a, n) for n, a in w.constants.items()]
    graph = helper.make_graph(w.nodes, "padded", inputs, [onnx.ValueInfoProto(name="y")], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def same_sizes(proto: onnx.ModelProto, folder: Path, shapes: list[tuple[int, ...]]) -> None:
    """Raises AssertionError where one of both takes a size that the other does not, or results differ."""
    path = folder / "m.onnx"
    onnx.save(proto, path)
    imported = load(path)
    text = round_trip(imported)
    ours = torch_backend.build(imported.module, imported.weights)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    taken = 0
    for shape in shapes:
        x = rng.standard_normal(shape).astype(np.float32)
        try:
            wanted = session.run(None, {"x": x})[0]
        except Exception:  # what ONNX Runtime raises has no common class
            with pytest.raises(Diagnostic):
                ours(x)
            continue
        (found,) = ours(x).values()
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5, err_msg=f"{shape}\n{text}")
        taken += 1
    assert taken, "ONNX Runtime takes none of the sizes"


# A chunk more than is needed, and as many as are needed, agree for no multiple: such files are refused.
DISAGREE = [(spelling, n) for spelling, n in product(SPELLINGS, (2, 3, 4, 8)) if spelling.startswith("always")]
# That T + T % 2 is 2 * ((T + 1) // 2) has no form of ours: the file is read as taking even numbers only, and a note says so.
APART = [("(n - 1) * t % n", 2)]
CHUNKS = [
    (spelling, count, n, cut)
    for spelling, count, n, cut in product(SPELLINGS, COUNTS, (2, 3, 4, 8), (False, True))
    if count != "(t + n - 1) // n" or (spelling, n) not in DISAGREE + APART
]
WINDOWS = list(product(SPELLINGS, (2, 7), (False, True)))


@pytest.mark.parametrize("spelling", ["(n - t % n) % n", "-t % n", "always: n - t % n"])
def test_a_padded_length(spelling: str, tmp_path: Path) -> None:
    same_sizes(chunked(spelling, "p // n", 4, True), tmp_path, [(2, t, D) for t in range(1, 10)])


@pytest.mark.parametrize("cut", [False, True])
def test_no_size_is_fixed_where_two_numbers_of_chunks_disagree(cut: bool, tmp_path: Path) -> None:
    onnx.save(chunked("always: n - t % n", "(t + n - 1) // n", 4, cut), tmp_path / "m.onnx")
    with pytest.raises(Diagnostic, match="E0759"):
        load(tmp_path / "m.onnx")


@pytest.mark.extended
@pytest.mark.parametrize(("spelling", "n"), DISAGREE)
def test_numbers_of_chunks_that_disagree_are_refused(spelling: str, n: int, tmp_path: Path) -> None:
    onnx.save(chunked(spelling, "(t + n - 1) // n", n, False), tmp_path / "m.onnx")
    with pytest.raises(Diagnostic, match="E0759"):
        load(tmp_path / "m.onnx")


@pytest.mark.extended
@pytest.mark.parametrize(("spelling", "count", "n", "cut"), CHUNKS)
def test_padded_lengths(spelling: str, count: str, n: int, cut: bool, tmp_path: Path) -> None:
    same_sizes(chunked(spelling, count, n, cut), tmp_path, [(2, t, D) for t in range(1, 2 * n + 2)])


@pytest.mark.extended
@pytest.mark.parametrize(("spelling", "n", "named"), WINDOWS)
def test_padded_maps(spelling: str, n: int, named: bool, tmp_path: Path) -> None:
    sides = [(1, 1), (n, n + 1), (n - 1, 2 * n), (n + 1, 2 * n + 1), (3 * n, n)]
    same_sizes(windowed(spelling, n, named), tmp_path, [(2, *side, D) for side in sides])
