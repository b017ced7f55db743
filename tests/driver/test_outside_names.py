"""Names that inputs and outputs have outside: whatever a file calls them, the artifact and every way to run it call them that."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn

import tessera as ts
from tessera.backends import torch as torch_backend
from tessera.backends.onnx import build, serialize
from tessera.backends.onnx.session import Session
from tessera.frontends import onnx as onnx_importer
from tessera.frontends import torch as torch_importer
from tessera.frontends.source import loads, print_module
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.ops import OPS
from tessera.ir.verifier import verify

# What exporters and users write, pairs that become one identifier, words of this language and of Python, and worse.
HOSTILE = [
    "input.1", "input_1", "input-1", "input 1", "past_key_values.0.key", "serving_default_x:0", "onnx::Concat_2", "1234",
    "/block/out_0", "pad", "state", "sum", "mean", "seed", "sizes", "self", "args", "tensors", "model", "m", "T", "B", "x",
    "output", "forward", "lambda", "None", "class", "print", "range", "len", "torch", "F", "ops", "device",
    "attention", "gelu", "softmax",
    "naïve", "输入", "ﬁ", "²", "é.è", "emoji 🙂", '"', "\\", 'a"b\\n', "a\nb", "\t", " ", ".", "_", "__", "as", "=", "a=b", "a.0",
]  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12),
    st.sampled_from([*sorted(OPS), *keyword.kwlist]),
)
X = np.arange(6, dtype=np.float32).reshape(2, 3)
SCALES = (1.0, 10.0, 100.0)


def file_of(inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """Each output is a sum of the inputs, each of them times another number, so that none is taken for another."""
    nodes = []
    for i, name in enumerate(outputs):
        nodes.append(helper.make_node("Mul", [inputs[i % len(inputs)], f"\x01scale{i}"], [f"\x01scaled{i}"]))
        nodes.append(helper.make_node("Sum", [f"\x01scaled{i}", *inputs], [name]))
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info(name, kind, ["B", "T"]) for name in inputs],
        [helper.make_tensor_value_info(name, kind, ["B", "T"]) for name in outputs],
        [helper.make_tensor(f"\x01scale{i}", kind, [], [float(i + 2)]) for i in range(len(outputs))],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def names_of(model: bytes) -> tuple[list[str], list[str]]:
    session = onnxruntime.InferenceSession(model)
    return [v.name for v in session.get_inputs()], [v.name for v in session.get_outputs()]


def check_drop_in(inputs: list[str], outputs: list[str], folder: Path) -> None:
    """The file that is made takes the place of the original; source, both targets and every call know the names."""
    path = folder / "model.onnx"
    onnx.save(file_of(inputs, outputs), path)
    feeds = {name: X * scale for name, scale in zip(inputs, SCALES, strict=False)}
    wanted = onnxruntime.InferenceSession(path).run(None, feeds)
    found = onnx_importer.load(path)
    verify(found.module.graph)
    assert loads(print_module(found.module)) == found.module
    made = serialize(build(found.module, found.weights))
    assert names_of(made) == (inputs, outputs)
    for a, b in zip(onnxruntime.InferenceSession(made).run(None, feeds), wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    session = Session(made)
    assert [spec.name for spec in session.inputs] == inputs
    own = {v.name: feeds[v.public] for v in found.module.graph.inputs}
    for results in (session(feeds), session(own) if not set(own) & set(inputs) else session(feeds)):
        assert list(results) == outputs
        for a, b in zip(results.values(), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    reference = torch_backend.build(found.module, found.weights)
    results = reference({name: torch.from_numpy(array) for name, array in feeds.items()})
    assert list(results) == outputs
    for tensor, b in zip(results.values(), wanted, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), b)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["input_ids", "attention_mask", "past_key_values.0.key"], ["logits", "present.0.key"]),
        (["tokens", "pad", "state"], ["output", "sum"]),
        (["input.1", "serving_default_x:0", "onnx::Concat_2"], ["1234", "StatefulPartitionedCall:1"]),
        (["a_1", "a.1", "a-1"], ["b.1", "b_1"]),
        (["a.1", "a_1", "a 1"], ["1", "2"]),
        (["self", "seed", "sizes"], ["args", "named"]),
        (['"', "\\", "a\nb"], ["é", "输入"]),
    ],
)
def test_the_result_is_a_drop_in_for_the_file(inputs: list[str], outputs: list[str], tmp_path: Path) -> None:
    check_drop_in(inputs, outputs, tmp_path)


@pytest.mark.extended
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=2, max_size=5, unique=True), count=st.integers(1, 3))
def test_any_names_stay(names: list[str], count: int, tmp_path: Path) -> None:
    inputs = names[: min(count, len(names) - 1)]
    check_drop_in(inputs, names[len(inputs) :], tmp_path)


def test_an_input_that_is_given_back_is_one_value(tmp_path: Path) -> None:
    proto = file_of(["x.1", "y"], ["z"])
    proto.graph.output.append(proto.graph.input[0])
    onnx.save(proto, tmp_path / "model.onnx")
    found = onnx_importer.load(tmp_path / "model.onnx")
    made = serialize(build(found.module, found.weights))
    assert names_of(made) == (["x.1", "y"], ["z", "x.1"])
    np.testing.assert_array_equal(Session(made)({"x.1": X, "y": X})["x.1"], X)


SOURCE = """
model m(x: f32[B, 3] as "input.1") -> (y: f32[B, 3] as "1234") {
    state s: f32[B, 3] = zeros as "past.0"
    random r: f32[B, 3] = normal(0, 1) as "eps 0"
    tap t = x + s as "tap/0"
    s = x + s
    return s + 0.0 * r
}
"""


def test_source_says_names_for_all_that_callers_bind() -> None:
    program = loads(SOURCE)
    assert loads(print_module(program)) == program
    session = Session(serialize(build(program)))
    assert [spec.name for spec in (*session.inputs, *session.optional)] == ["input.1", "past.0", "eps 0"]
    assert session.outputs == ["1234", "tap/0", "past.0"]
    run = session.carrying()
    for step in (1, 2):
        np.testing.assert_array_equal(run(**{"input.1": X})["1234"], step * X)
    assert list(run.states()) == ["past.0"]
    network = torch_backend.build(program)
    results = network({"input.1": torch.from_numpy(X), "past.0": torch.from_numpy(X)})
    np.testing.assert_array_equal(results["1234"].numpy(), 2 * X)


def test_an_artifact_takes_identifiers_as_keywords() -> None:
    artifact = ts.compile(loads(SOURCE))
    np.testing.assert_array_equal(artifact(x=X)["1234"], X)
    with pytest.raises(Diagnostic, match=r"`input\.1` .* given twice") as caught:
        artifact({"input.1": X, "x": X})
    assert caught.value.code == "E0901"
    with pytest.raises(Diagnostic, match=r"no input `input\.2`") as caught:
        artifact({"input.2": X})
    assert "input.1" in (caught.value.help or "")
    run = artifact.session()
    run(x=X)
    with pytest.raises(Diagnostic, match=r"`past\.0` is a state") as caught:
        run(x=X, s=X)
    assert caught.value.code == "E0901"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('model m(x: f32[B] as "a", y: f32[B] as "a") -> f32[B] { return x + y }', "E0204"),
        ('model m(x: f32[B], y: f32[B] as "x") -> f32[B] { return x + y }', "E0204"),
        ('model m(x: f32[B]) -> (a: f32[B] as "q", b: f32[B] as "q") { return x, x + x }', "E0204"),
        ('model m(x: f32[B] as "") -> f32[B] { return x + x }', "E0204"),
        ('fn f(x: f32[B] as "a") -> f32[B] { return x }', "E0122"),
        ('op f(x: f32[B]) -> (y: f32[B] as "a") { return x }', "E0122"),
        ('model m(x: f32[B], *, n: int = 3 as "a") -> f32[B] { return x }', "E0122"),
        ('rewrite exact f(x: f32[...] as "a") { neg(neg(x)) => x }', "E0122"),
        ('program p { host h = "a.b:c"(x: f32[B] as "a") -> f32[B] }', "E0122"),
    ],
)
def test_a_name_that_cannot_be_is_refused(text: str, code: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        loads(text)
    assert caught.value.code == code


def test_entry_points_are_wired_by_their_own_names() -> None:
    text = """
    model step(x: f32[B, 3] as "input.1") -> (y: f32[B, 3] as "out.1") {
        state s: f32[B, 3] = zeros as "past.0"
        s = s + x
        return s
    }
    program p {
        entry one = step
        flow twice(x: f32[B, 3]) -> f32[B, 3] { y = one(x) z = one(y) return z }
    }
    """
    program = loads(text)
    assert loads(print_module(program)) == program
    made = ts.compile(program)
    np.testing.assert_array_equal(made.one(x=X)["out.1"], X)
    np.testing.assert_array_equal(made.run("twice", {"x": X})["output"], 2 * X)


class Words(nn.Module):
    def forward(self, sum: Any, pad: Any, state: Any, seed: Any) -> dict[str, Any]:
        return {"mean": sum + 10 * pad, "logits.0": 100 * state - seed, "model": sum * 2}


def test_a_torch_model_keeps_the_names_of_its_arguments() -> None:
    arrays = {n: X + i for i, n in enumerate(("sum", "pad", "state", "seed"))}
    found = torch_importer.load(Words().eval(), tuple(torch.from_numpy(a) for a in arrays.values()))
    assert loads(print_module(found.module)) == found.module
    artifact = ts.compile(found.module, weights=found.weights, passes=[])
    assert [spec.name for spec in artifact.inputs] == list(arrays)
    wanted = Words()(**arrays)
    results = artifact(arrays)
    assert list(results) == ["mean", "logits.0", "model"]
    for name, array in wanted.items():
        np.testing.assert_array_equal(results[name], array)
    # What torch compiles is called by keyword: arguments have the outside names that are identifiers.
    network = torch_backend.build(found.module, found.weights)
    assert "def forward(self, sum, pad, state, seed)" in network.source
    compiled = torch.compile(network, backend="eager")
    tensors = {n: torch.from_numpy(a) for n, a in arrays.items()}
    np.testing.assert_array_equal(compiled(*tensors.values())["mean"], wanted["mean"])


def test_mlir_text_keeps_names_as_far_as_it_has_letters_for_them(tmp_path: Path) -> None:
    pytest.importorskip("torch_mlir")
    program = loads('model m(x: f32[B, 3] as "input.1", y: f32[B, 3] as "输 2") -> (z: f32[B, 3] as "1234") { return x + y }')
    artifact = ts.compile(program, target="mlir", output=tmp_path / "m.mlir")
    assert "%input.1" in (tmp_path / "m.mlir").read_text("utf-8")
    np.testing.assert_array_equal(artifact({"input.1": X, "输 2": X})["1234"], 2 * X)
    np.testing.assert_array_equal(ts.open(tmp_path / "m.mlir")({"input.1": X, "输 2": X})["1234"], 2 * X)


def test_a_torch_file_keeps_them(tmp_path: Path) -> None:
    ts.compile(loads(SOURCE), target="torch", output=tmp_path / "m.safetensors")
    found = ts.open(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(found({"input.1": X})["1234"], X)


def test_python_models_say_them_too() -> None:
    with ts.model("m") as m:
        x = m.input("x", "f32[B, 3]", external="input.1")
        s = m.state("s", "f32[B, 3]", external="past.0")
        m.update("s", s + x)
        m.output(s + x, name="y", external="1234")
    text = print_module(m.module)
    assert all(said in text for said in ('x: f32[B, 3] as "input.1"', 'as "past.0"', 'y: f32[B, 3] as "1234"'))
    assert loads(text) == m.module
