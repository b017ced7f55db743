"""Forms of `grouped_matmul` in ONNX Runtime: the two products of a mixture of experts, with tokens sorted by expert.

`y = relu(x[N, d] . w[E, d, ff]) . v[E, ff, d]`, N = T * k rows in E groups drawn at random, one of them empty. All forms take
their turns in one run; reported is how many times faster each is than the loop over experts.

    python -m benchmarks.grouped_matmul
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array
from onnxruntime import InferenceSession, SessionOptions

from tessera.driver.report.measure import interleaved

from .common import summary, write

# (tokens, d, ff, experts, experts a token)
SIZES = (
    (1024, 512, 2048, 8, 2), (512, 256, 512, 16, 2), (64, 512, 2048, 8, 2), (8, 512, 2048, 8, 2), (1, 512, 2048, 8, 2),
    (64, 256, 512, 16, 2), (8, 256, 512, 16, 2), (1, 256, 512, 16, 2), (64, 256, 128, 64, 4), (1, 256, 128, 64, 4),
)  # fmt: skip


class Nodes:
    """Nodes and initialisers of a graph that is being written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        names = [f"v{id(self)}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attrs))
        return names if outputs > 1 else names[0]

    def constant(self, value: Any) -> str:
        name = f"c{id(self)}_{len(self.initializers)}"
        self.initializers.append(from_array(np.asarray(value), name))
        return name


Form = Callable[[Nodes, str, str, int], str]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def tensor(name: str, kind: int, shape: list[Any] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def bounds(n: Nodes, experts: int) -> tuple[str, str]:
    """Starts and ends of the groups, [E]."""
    starts = n.op("Concat", n.constant([0]), n.op("Slice", "ends", n.constant([0]), n.constant([experts - 1])), axis=0)
    return starts, "ends"


def expert(n: Nodes, w: str, e: int) -> str:
    """One expert's matrix, which ONNX Runtime cuts out when it loads the file."""
    return n.op("Gather", w, n.constant(e), axis=0)


def split(n: Nodes, x: str, w: str, experts: int) -> str:
    starts, ends = bounds(n, experts)
    parts = n.op("Split", x, n.op("Sub", ends, starts), outputs=experts, axis=0)
    return n.op("Concat", *(n.op("MatMul", part, expert(n, w, e)) for e, part in enumerate(parts)), axis=0)


def sliced(n: Nodes, x: str, w: str, experts: int) -> str:
    starts, ends = bounds(n, experts)
    made = []
    for e in range(experts):
        one = [n.constant([e]), n.constant([e + 1]), n.constant([0])]
        part = n.op("Slice", x, n.op("Slice", starts, *one), n.op("Slice", ends, *one), n.constant([0]))
        made.append(n.op("MatMul", part, expert(n, w, e)))
    return n.op("Concat", *made, axis=0)


def skipped(n: Nodes, x: str, w: str, experts: int) -> str:
    """As ``split``, with an `If` around each product: nothing is done for an empty group."""
    starts, ends = bounds(n, experts)
    sizes = n.op("Sub", ends, starts)
    parts = n.op("Split", x, sizes, outputs=experts, axis=0)
    made = []
    for e, part in enumerate(parts):
        filled = n.op("Greater", n.op("Gather", sizes, n.constant(e), axis=0), n.constant(0))
        branches = {}
        for name in ("then_branch", "else_branch"):
            inner = Nodes()
            if name == "then_branch":
                out = inner.op("MatMul", part, expert(n, w, e))
            else:
                width = inner.op("Slice", inner.op("Shape", w), inner.constant([2]), inner.constant([3]))
                shape = inner.op("Concat", inner.constant([0]), width, axis=0)
                out = inner.op("ConstantOfShape", shape)
            value = tensor(out, FLOAT)
            branches[name] = helper.make_graph(inner.nodes, name, [], [value], inner.initializers)
        made.append(n.op("If", filled, **branches))
    return n.op("Concat", *made, axis=0)


def ids(n: Nodes, x: str) -> str:
    """Each row's expert, [N]: how many ends are not behind it."""
    rows = n.op("Range", n.constant(0), n.op("Squeeze", n.op("Shape", x, start=0, end=1)), n.constant(1))
    passed = n.op("GreaterOrEqual", n.op("Unsqueeze", rows, n.constant([1])), n.op("Unsqueeze", "ends", n.constant([0])))
    return n.op("ReduceSum", n.op("Cast", passed, to=INT64), n.constant([1]), keepdims=0)


def nonzero(n: Nodes, x: str, w: str, experts: int) -> str:
    group = ids(n, x)
    shape = n.op("Concat", n.op("Shape", x, start=0, end=1), n.op("Shape", w, start=2, end=3), axis=0)
    y = n.op("ConstantOfShape", shape)
    for e in range(experts):
        rows = n.op("Transpose", n.op("NonZero", n.op("Equal", group, n.constant(e))), perm=[1, 0])
        part = n.op("GatherND", x, rows)
        y = n.op("ScatterND", y, rows, n.op("MatMul", part, expert(n, w, e)))
    return y


def loop(n: Nodes, x: str, w: str, experts: int) -> str:
    """A `Loop` over the experts, whose parts are collected in a sequence."""
    starts, ends = bounds(n, experts)
    body = Nodes()
    start, end = (body.op("Gather", v, body.op("Unsqueeze", "e", body.constant([0]))) for v in (starts, ends))
    part = body.op("Slice", x, start, end, body.constant([0]))
    parts = body.op("SequenceInsert", "parts", body.op("MatMul", part, body.op("Gather", w, "e", axis=0)))
    go = body.op("Identity", "go")
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    inputs = [tensor("e", INT64, []), tensor("go", BOOL, []), helper.make_value_info("parts", sequence)]
    outputs = [tensor(go, BOOL, []), helper.make_value_info(parts, sequence)]
    graph = helper.make_graph(body.nodes, "experts", inputs, outputs, body.initializers)
    made = n.op("Loop", n.constant(experts), "", n.op("SequenceEmpty"), body=graph)
    return n.op("ConcatFromSequence", made, axis=0)


def appended(n: Nodes, x: str, w: str, experts: int) -> str:
    """A `Loop` over the experts that appends to a carried result."""
    starts, ends = bounds(n, experts)
    body = Nodes()
    start, end = (body.op("Gather", v, body.op("Unsqueeze", "e", body.constant([0]))) for v in (starts, ends))
    part = body.op("Slice", x, start, end, body.constant([0]))
    grown = body.op("Concat", "y", body.op("MatMul", part, body.op("Gather", w, "e", axis=0)), axis=0)
    go = body.op("Identity", "go")
    inputs = [tensor("e", INT64, []), tensor("go", BOOL, []), tensor("y", FLOAT)]
    outputs = [tensor(go, BOOL, []), tensor(grown, FLOAT)]
    graph = helper.make_graph(body.nodes, "experts", inputs, outputs, body.initializers)
    empty = n.op("ConstantOfShape", n.op("Concat", n.constant([0]), n.op("Shape", w, start=2, end=3), axis=0))
    return n.op("Loop", n.constant(experts), "", empty, body=graph)


def gathered(n: Nodes, x: str, w: str, experts: int) -> str:
    """Each row's own copy of its expert's matrix."""
    y = n.op("MatMul", n.op("Unsqueeze", x, n.constant([1])), n.op("Gather", w, ids(n, x), axis=0))
    return n.op("Squeeze", y, n.constant([1]))


def dense(n: Nodes, x: str, w: str, experts: int) -> str:
    """All rows by all experts, then the right one of each row."""
    every = n.op("MatMul", n.op("Unsqueeze", x, n.constant([0])), w)
    chosen = n.op("Equal", n.op("Unsqueeze", ids(n, x), n.constant([0])), n.constant(np.arange(experts)[:, None]))
    zero = n.constant(np.float32(0))
    kept = n.op("Where", n.op("Unsqueeze", chosen, n.constant([2])), every, zero)
    return n.op("ReduceSum", kept, n.constant([0]), keepdims=0)


FORMS: dict[str, Form] = {
    "loop": loop, "loop_append": appended, "split": split, "slice": sliced, "if": skipped, "nonzero": nonzero,
    "gather_weights": gathered, "dense": dense,
}  # fmt: skip


def session(form: Form, d: int, ff: int, experts: int, threads: int) -> InferenceSession:
    """The two products in one form, opened in ONNX Runtime."""
    rng = np.random.default_rng(0)
    n = Nodes()
    weights = {"w": rng.standard_normal((experts, d, ff)) * d**-0.5, "v": rng.standard_normal((experts, ff, d)) * ff**-0.5}
    y = form(n, n.op("Relu", form(n, "x", "w", experts)), "v", experts)
    graph = helper.make_graph(
        n.nodes, "experts",
        [tensor("x", FLOAT, ["N", d]), tensor("ends", INT64, [experts])],
        [tensor(y, FLOAT, ["N", d])],
        [*n.initializers, *(from_array(a.astype(np.float32), name) for name, a in weights.items())],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
    options = SessionOptions()
    options.intra_op_num_threads = threads
    return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for tokens, d, ff, experts, k in SIZES:
        rng = np.random.default_rng(1)
        drawn = rng.integers(1, experts, tokens * k)
        ends = np.cumsum(np.bincount(drawn, minlength=experts))
        feeds = {"x": rng.standard_normal((tokens * k, d)).astype(np.float32), "ends": ends}
        runs, truth = {}, None
        for name, form in FORMS.items():
            if name == "gather_weights" and tokens * k * d * ff > 2**28:
                continue  # gigabytes of copied weights
            made = session(form, d, ff, experts, options.threads)
            y = made.run(None, feeds)[0]
            truth = y if truth is None else truth
            np.testing.assert_allclose(y, truth, rtol=1e-4, atol=1e-4)
            runs[name] = partial(made.run, None, feeds)
        times = interleaved(runs, rounds=options.rounds)
        results[f"T {tokens}, d {d}, ff {ff}, E {experts}, k {k}"] = summary(times, "loop")
    write("grouped_matmul", results)


if __name__ == "__main__":
    main()
