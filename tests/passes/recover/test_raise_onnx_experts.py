"""Mixtures of experts come back from ONNX files: standard ops, ONNX Runtime's own op, and what torch.onnx.export writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.numpy_helper import from_array, to_array

import tessera as ts
from tessera.backends.onnx import build, serialize
from tessera.driver.read import read_model
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply
from tessera.passes.experts.mixtures import find_mixtures
from tessera.runtime.weights.bind import initialise
from tessera.tests.backends.test_contrib_moe import CASES, EXPERTS, ROUTERS, program

from .test_raise_experts import FAMILIES, TOLERANCE, built, composites

# Routers with something behind the one that chooses, or in front: they are not found again, and the experts are.
CHAINED = ("null", "merged", "groups")
# Rows without an expert have a bias of zeros, which in the file is a weight like others.
NO_BIAS = ("swiglu", "relu", "silu")
# Weights that are 1 are nowhere in a file.
EVEN = "one"


def written(path: Path, model: bytes) -> Any:
    path.write_bytes(model)
    return read_model(path)


def agree(source: Any, run: Any, more: list[str]) -> None:
    """An import beside what it was made of, at three numbers of tokens."""
    own = ts.compile(source.module, target="torch", weights=source.weights, passes=more, verify=False)
    for tokens in (1, 2, 33):
        x = np.random.default_rng(tokens).standard_normal((tokens, 8)).astype(np.float32)
        np.testing.assert_allclose(own(x)["y"], run(x)["y"], rtol=TOLERANCE, atol=TOLERANCE)


QUICK = ("softmax", "swiglu")


@pytest.mark.parametrize("contrib", [False, True], ids=["standard", "contrib"])
@pytest.mark.parametrize(
    ("router", "experts"), [pytest.param(*c, marks=[] if c == QUICK else [pytest.mark.extended]) for c in CASES]
)
def test_our_own_files_come_back(router: str, experts: str, contrib: bool, tmp_path: Path) -> None:
    module = program(ROUTERS[router], EXPERTS[experts])
    weights = {name: t.numpy() for name, t in initialise(module.graph, 1).items()}
    source = written(tmp_path / "m.onnx", serialize(build(module, weights, contrib=contrib)))
    want = ts.compile(module, target="torch", weights=weights, verify=False)
    raised, report = apply(source.module, "raise_composites")
    assert report.contract == "exact"
    kind = "plain" if EXPERTS[experts].startswith("plain") else "gated"
    found = contrib or (router != EVEN and (router not in CHAINED or experts in NO_BIAS))
    assert composites(raised)[kind] == found
    if router not in (*CHAINED, EVEN):
        (mixture,) = find_mixtures(raised.graph)
        (first,) = find_mixtures(module.graph)
        assert mixture.router.op.qualified == first.router.op.qualified
        assert mixture.node.attrs == first.node.attrs
        assert all(mixture.node.inputs[i] is param for i, param in mixture.stacked.items())
    for passes in ([], ["raise_composites"]):
        agree(source, want, passes)


# ONNX Runtime's own op, as others write it -----------------------------------------------------------------------------------

SIZES = {
    "gate": (8, 5), "up": (5, 6, 8), "both": (5, 12, 8), "down": (5, 8, 6), "up_bias": (5, 6), "both_bias": (5, 12), "out": (5, 8),
}  # fmt: skip
SWIGLU = {
    "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.702, "activation_beta": 1.0, "swiglu_limit": 0.7,
}  # fmt: skip
FORMS: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "relu": (["up", "", "down"], {"activation_type": "relu"}, "plain"),
    "gelu": (["up", "up_bias", "down", "out"], {"activation_type": "gelu", "k": 2, "normalize_routing_weights": 1}, "plain"),
    "silu": (["up", "", "down", "out"], {"activation_type": "silu", "k": 3}, "plain"),
    "swiglu": (["both", "", "down"], {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0,
               "activation_beta": 0.0, "k": 2, "normalize_routing_weights": 1}, "gated"),
    "gpt_oss": (["both", "both_bias", "down", "out"], {**SWIGLU, "k": 2, "normalize_routing_weights": 1}, "gated"),
}  # fmt: skip


def fused(inputs: list[str], attributes: dict[str, Any]) -> bytes:
    rng = np.random.default_rng(3)
    held = {n: (rng.standard_normal(s) * 0.5).astype(np.float32) for n, s in SIZES.items() if n in ("gate", *inputs)}
    nodes = [
        helper.make_node("MatMul", ["x", "gate"], ["logits"]),
        helper.make_node("MoE", ["x", "logits", *inputs], ["y"], domain="com.microsoft", **attributes),
    ]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 8]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "moe", ports[:1], ports[1:], [from_array(a, n) for n, a in held.items()])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.mark.parametrize("form", FORMS)
def test_the_contrib_op_is_a_mixture(form: str, tmp_path: Path) -> None:
    """As ONNX Runtime computes it."""
    import onnxruntime

    inputs, attributes, kind = FORMS[form]
    model = fused(inputs, attributes)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    source = written(tmp_path / "m.onnx", model)
    assert composites(source.module) == {"token_choice": 1, kind: 1}
    agree(source, lambda x: {"y": session.run(None, {"x": x})[0]}, [])


@pytest.mark.parametrize(
    ("inputs", "attributes", "told"),
    [
        (["up", "", "down"], {"activation_type": "identity"}, "identity"),
        (["both", "", "down"], {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 2.0}, "activation_alpha=2"),
        (["both", "", "down"], {"activation_type": "swiglu"}, "swiglu_fusion=0"),
        (["up_bias", "", "down"], {"activation_type": "relu"}, "a mixture of experts with matrices"),
    ],
)
def test_what_it_is_not_known_to_compute_is_refused(
    inputs: list[str], attributes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(Diagnostic, match=told):
        written(tmp_path / "m.onnx", fused(inputs, attributes))


# Matrices of few bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("router", "experts", "bits"),
    [
        ("softmax", "swiglu", 4),
        *(pytest.param("sigmoid", kind, bits, marks=pytest.mark.slow) for kind in ("clipped", "gelu") for bits in (8, 4)),
    ],
)
def test_our_own_rounded_files_come_back(router: str, experts: str, bits: int, tmp_path: Path) -> None:
    """As ONNX Runtime computes them; passes find the mixture, and written again the numbers are the same."""
    import onnxruntime

    module = program(ROUTERS[router], EXPERTS[experts])
    weights = {name: t.numpy() for name, t in initialise(module.graph, 1).items()}
    model = serialize(build(module, weights, contrib=True, bits=bits))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    source = written(tmp_path / "m.onnx", model)
    raised, _ = apply(source.module, "raise_composites")
    (mixture,) = find_mixtures(raised.graph)
    assert all(mixture.node.inputs[i] is param for i, param in mixture.stacked.items())
    for passes in ([], ["raise_composites"]):
        agree(source, lambda x: {"y": session.run(None, {"x": x})[0]}, passes)
    held, again = (
        {t.name: to_array(t) for t in onnx.load_from_string(m).graph.initializer if f".u{bits}" in t.name}
        for m in (model, serialize(build(raised, source.weights, contrib=True, bits=bits)))
    )
    assert len(held) == 2
    for name, numbers in held.items():
        np.testing.assert_array_equal(again[name], numbers)


def few_bits(bits: int, block: int, zero: bool, more: dict[str, Any], **other: Any) -> bytes:
    """A file as others write it: 5 experts of 32 x 64, scales for blocks of inputs, zero points, weights of their own."""
    rng, made = np.random.default_rng(bits + block), dict[str, np.ndarray]()
    inputs = ["x", "logits"] + [""] * 13
    for place, (name, outer, inner) in enumerate((("up", 128, 32), ("down", 32, 64))):
        blocks = inner // block if block else 0
        made[name] = rng.integers(0, 256, (5, outer, inner * bits // 8)).astype(np.uint8)
        scale = rng.uniform(0.5, 1, (5, outer, blocks) if block else (5, outer)) / (1 << bits) / inner**0.5
        made[f"{name}.scale"] = scale.astype(np.float32)
        inputs[2 + 3 * place : 4 + 3 * place] = [name, f"{name}.scale"]
        if zero:
            shape = (5, outer, -(-blocks * bits // 8)) if block else (5, outer * bits // 8)
            made[f"{name}.zero"] = rng.integers(0, 256, shape).astype(np.uint8)
            inputs[11 + place] = f"{name}.zero"
    made |= {"gate": rng.standard_normal((32, 5)).astype(np.float32)} | other.get("held", {})
    nodes = [helper.make_node("MatMul", ["x", "gate"], ["logits"])]
    if other.get("mixed"):
        nodes.append(helper.make_node("Sigmoid", ["logits"], ["mixed"]))
        inputs[14] = "mixed"
    attributes = {
        "activation_type": "swiglu", "swiglu_fusion": 1, "k": 2, "normalize_routing_weights": 1, "expert_weight_bits": bits,
        **({"block_size": block} if block else {}), **more,
    }  # fmt: skip
    nodes.append(helper.make_node("QMoE", inputs, ["y"], domain="com.microsoft", **attributes))
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 32]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "moe", ports[:1], ports[1:], [from_array(a, n) for n, a in made.items()])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.mark.parametrize(
    ("bits", "block", "zero", "more", "mixed"),
    [
        (4, 0, False, {}, False),
        (4, 16, True, {}, False),
        (8, 0, True, {}, False),
        (2, 16, True, {}, False),
        (4, 0, True, {}, True),
        (4, 32, False, {"normalize_routing_weights": 0}, True),
    ],
)
def test_few_bits_are_read_as_the_numbers_they_stand_for(
    bits: int, block: int, zero: bool, more: dict[str, int], mixed: bool, tmp_path: Path
) -> None:
    """As ONNX Runtime computes the op of others' files."""
    import onnxruntime

    model = few_bits(bits, block, zero, more, mixed=mixed)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    source = written(tmp_path / "m.onnx", model)
    assert composites(source.module) == {"token_choice": 1, "gated": 1}
    own = ts.compile(source.module, target="onnx", weights=source.weights, verify=False)
    for tokens in (1, 2, 33):
        x = np.random.default_rng(tokens).standard_normal((tokens, 32)).astype(np.float32)
        want = session.run(None, {"x": x})[0]
        np.testing.assert_allclose(own(x)["y"], want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    ("more", "told", "advice"),
    [
        ({"quant_type": "fp8"}, 'quant_type="fp8"', "round afterwards"),
        ({"weights_prepacked": 1}, "in an order of one kind of machine", "round afterwards"),
        ({"expert_weight_bits": 3}, "matrices of 3 bits", "round afterwards"),
        ({"use_sparse_mixer": 1}, "a sparse mixer", "round afterwards"),
        ({"normalize_routing_weights": 0}, "no shares of what was chosen", "normalize_routing_weights=1"),
    ],
)
def test_few_bits_that_may_mean_something_else_are_refused(
    more: dict[str, Any], told: str, advice: str, tmp_path: Path
) -> None:
    with pytest.raises(Diagnostic, match=told) as caught:
        written(tmp_path / "m.onnx", few_bits(4, 0, False, more))
    assert caught.value.code == "E0758"
    assert advice in (caught.value.help or "")


@pytest.mark.parametrize(
    ("more", "held"),
    [
        ({"block_size": 24}, {}),
        ({"block_size": 128}, {}),
        ({}, {"up.scale": np.ones((5, 32), np.float32)}),
        ({}, {"up": np.ones((5, 128, 16), np.int8)}),
        ({}, {"up.zero": np.ones((5, 128), np.uint8)}),
    ],
)
def test_few_bits_that_do_not_fit_are_refused(more: dict[str, Any], held: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(Diagnostic) as caught:
        written(tmp_path / "m.onnx", few_bits(4, 0, True, more, held=held))
    assert caught.value.code == "E0759"


# What only looks like it -----------------------------------------------------------------------------------------------------


def split(sizes: list[str], parts: list[str], **more: Any) -> bytes:
    """Rows in two groups, whose sizes are an input, times a matrix each."""
    nodes = [
        helper.make_node("Add", ["rows", "none"], ["own"]),
        helper.make_node("Split", ["x", "own"], sizes, axis=more.get("axis", 0)),
        *(helper.make_node("MatMul", [size, f"w{i}"], [f"p{i}"]) for i, size in enumerate(sizes)),
        helper.make_node("Concat", parts, ["y"], axis=more.get("along", 0)),
    ]
    held = [from_array(np.full((4, 4), 1.0 + i, np.float32), f"w{i}") for i in range(2)]
    held.append(from_array(np.zeros(2, np.int64), "none"))
    ports = [helper.make_tensor_value_info("x", 1, ["N", 4]), helper.make_tensor_value_info("rows", 7, [2])]
    out = [helper.make_tensor_value_info("y", 1, ["N", 4])]
    graph = helper.make_graph(nodes, "split", ports, out, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def test_groups_of_rows_are_one_product(tmp_path: Path) -> None:
    source = written(tmp_path / "m.onnx", split(["a", "b"], ["p0", "p1"]))
    assert [n.op.name for n in source.module.graph.nodes()].count("grouped_matmul") == 1
    run = ts.compile(source.module, target="torch", weights=source.weights, verify=False)
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    found = run(x=x, rows=np.array([2, 3]))["y"]
    want = x.sum(1, keepdims=True) * np.array([1, 1, 2, 2, 2])[:, None]
    np.testing.assert_allclose(found, np.broadcast_to(want, (5, 4)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("parts", "more"), [(["p1", "p0"], {}), (["p0", "p0"], {}), (["p0", "p1"], {"along": 1}), (["p0", "p1"], {"axis": 1})]
)
def test_what_only_looks_like_groups_is_refused(parts: list[str], more: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(Diagnostic) as caught:
        written(tmp_path / "m.onnx", split(["a", "b"], parts, **more))
    assert caught.value.code in ("E0761", "E0759")


# torch.onnx.export -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family",
    [
        *(pytest.param(family, marks=pytest.mark.slow) for family in ("mixtral", "gpt_oss", "granitemoe")),
        *(pytest.param(family, marks=pytest.mark.extended) for family in ("olmoe", "qwen2_moe", "phimoe")),
    ],
)
def test_what_torch_writes_of_copied_matrices_comes_back(family: str, tmp_path: Path) -> None:
    """transformers' exportable form, which copies the experts' weights for each pair."""
    model, path = built(family, "batched_mm"), tmp_path / "m.onnx"
    given = {"input_ids": torch.zeros(2, 3, dtype=torch.int64)}
    with torch.no_grad():
        torch.onnx.export(
            model, (), str(path), kwargs=given, dynamo=True, dynamic_shapes={"input_ids": {0: "B", 1: "T"}},
            external_data=False, verbose=False,
        )  # fmt: skip
    source = read_model(path)
    raised, _ = apply(source.module, "raise_composites")
    count, attrs = FAMILIES[family][3:]
    assert [{name: m.router.attrs[name] for name in attrs} for m in find_mixtures(raised.graph)] == [attrs] * count
    run = ts.compile(source.module, target="onnx", weights=source.weights, passes=["raise_composites"], verify=False)
    for batch, length in ((1, 1), (2, 5), (1, 40)):
        ids = np.random.default_rng(length).integers(0, 50, (batch, length))
        with torch.no_grad():
            want = model(torch.as_tensor(ids)).logits.numpy()
        (found,) = run(ids).values()
        np.testing.assert_allclose(found, want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=str(length))
