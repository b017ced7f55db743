"""The MLIR backend: every core op written, verified and lowered by torch-mlir, read back, and compared with the torch reference."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.backends import mlir
from tessera.backends import torch as reference
from tessera.backends.mlir.claims import CLAIMS
from tessera.backends.mlir.table import LOWERINGS, UNSUPPORTED
from tessera.driver.compile import apply_passes, compile, load
from tessera.driver.targets import open_artifact
from tessera.frontends.source import loads
from tessera.frontends.torch import load_mlir
from tessera.ir.builder import Builder
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Graph, Module
from tessera.ir.ops import OPS
from tessera.ir.types import DType, TensorType
from tessera.runtime.weights.bind import initialise

SAMPLED = [name for name, op in OPS.items() if op.samples is not None and name not in UNSUPPORTED]
VIT = {"size": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 4, "hidden": 48, "classes": 5}
BERT = {"vocab": 99, "positions": 64, "dim": 32, "depth": 2, "heads": 4, "hidden": 48}


@pytest.fixture
def torch_mlir() -> Any:
    return pytest.importorskip("torch_mlir", reason="torch-mlir (extra `mlir`) is not installed")


def sample_graphs(name: str) -> list[tuple[Graph, list[np.ndarray]]]:
    graphs = []
    samples = OPS[name].samples
    assert samples is not None
    for sample in samples(np.random.default_rng(0)):
        graph = Graph("sample")
        builder = Builder(graph)
        arrays = [np.asarray(a) for a in sample.inputs]
        types = [TensorType.of(DType.from_numpy(a.dtype), a.shape) for a in arrays]
        inputs = [builder.input(f"x{i}", type) for i, type in enumerate(types)]
        for i, value in enumerate(builder.multi(name, *inputs, **sample.attrs)):
            graph.add_output(value, f"y{i}")
        graphs.append((graph, arrays))
    return graphs


def close(found: Sequence[Any], wanted: Mapping[str, Any]) -> None:
    for a, b in zip(found, wanted.values(), strict=True):
        np.testing.assert_allclose(np.asarray(a), b.detach().numpy(), rtol=1e-4, atol=1e-5)


# Core ops ------------------------------------------------------------------------------------------------------------


def test_every_core_op_has_a_lowering_or_a_reason() -> None:
    assert set(LOWERINGS) | set(UNSUPPORTED) == set(OPS)
    assert not set(LOWERINGS) & set(UNSUPPORTED)
    assert all(UNSUPPORTED.values())


@pytest.mark.parametrize("name", SAMPLED)
def test_op(name: str, torch_mlir: Any) -> None:
    for graph, arrays in sample_graphs(name):
        text = mlir.build(graph)
        mlir.check(text)
        assert "torch." not in mlir.lower(text).replace("torch_c", "")
        imported = load_mlir(text)
        close(
            list(reference.build(imported.module, imported.weights)(*arrays).values()), reference.build(graph)(*arrays)
        )


CLAIMED = {
    "affine": "return affine(x, w, b)",
    "softmax": "return softmax(x, axis=1)",
    "log_softmax": "return log_softmax(x)",
    "relu": "return relu(x)",
    "gelu": "return gelu(x)",
    "gelu_tanh": "return gelu_tanh(x)",
    "silu": "return silu(x)",
    "layer_normalize": "return layer_normalize(x, b, b, eps=1e-6)",
    "group_normalize": "return group_normalize(x, groups=2)",
}


def test_every_claim_is_tested() -> None:
    assert {name.rsplit(".", 1)[1] for name in CLAIMS} == {*CLAIMED, "attention"}


@pytest.mark.parametrize("name", CLAIMED)
def test_claim(name: str, torch_mlir: Any) -> None:
    source = f"""
        use std.nn ({name})
        model m(x: f32[B, 4, 8], w: f32[8, 8], b: f32[8]) -> f32[B, 4, 8] {{ {CLAIMED[name]} }}
    """
    agree(loads(source), [[rng.standard_normal(s).astype("f4") for s in ((n, 4, 8), (8, 8), (8,))] for n in (2, 3)])


@pytest.mark.parametrize(
    "options", ["", ", scale=0.3", ", causal=true", ", softcap=2.0", ", mask=m", ", bias=b, mask=m"]
)
@pytest.mark.parametrize("groups", [4, 2])
def test_attention(options: str, groups: int, torch_mlir: Any) -> None:
    source = f"""
        use std.attention (attention)
        model a(q: f32[B, 4, T, 8], k: f32[B, {groups}, S, 8], m: bool[B, 1, 1, S], b: f32[1, 4, T, S]) -> f32[B, 4, T, 8] {{
            return attention(q, k, k{options})
        }}
    """
    calls = []
    for n, t, s in ((2, 3, 5), (1, 4, 4)):
        shapes = ((n, 4, t, 8), (n, groups, s, 8), (n, 1, 1, s), (1, 4, t, s))
        q, k, m, b = (rng.standard_normal(shape).astype("f4") for shape in shapes)
        calls.append([q, k, m > 0, b])
    agree(loads(source), calls)


rng = np.random.default_rng(0)


def agree(module: Module, calls: Sequence[Sequence[np.ndarray]], weights: Mapping[str, Any] | None = None) -> str:
    """Written, verified, lowered, read back and run: like the reference at every size."""
    text = mlir.build(module)
    mlir.check(text)
    assert "linalg.generic" in mlir.lower(text)
    bound = weights or {}
    imported = load_mlir(text, names=mlir.argument_names(module), weights=bound)
    run = reference.build(imported.module, imported.weights)
    wanted = reference.build(module, weights, claims=False)
    for arrays in calls:
        close(list(run(*arrays).values()), wanted(*arrays))
    return text


# Whole models --------------------------------------------------------------------------------------------------------


def images(*batches: int) -> list[list[np.ndarray]]:
    return [[rng.standard_normal((b, 3, 32, 32)).astype("f4")] for b in batches]


def texts(*sizes: tuple[int, int]) -> list[list[np.ndarray]]:
    calls = []
    for b, t in sizes:
        lengths = np.array([t - 2 * (row % 2) for row in range(b)])
        mask = (np.arange(t)[None] < lengths[:, None]).astype(np.int64)
        calls.append([rng.integers(0, 99, (b, t)), mask, np.zeros((b, t), np.int64)])
    return calls


def merged(module: Module) -> Module:
    return apply_passes(module, ["merge_tokens(r=2, protect=1)"])[0]


MODELS: dict[str, tuple[Any, list[list[np.ndarray]]]] = {
    "vit": (lambda: load("zoo/vit", "vit_classifier", VIT), images(1, 3)),
    "vit merged": (lambda: merged(load("zoo/vit", "vit_classifier", VIT)), images(1, 3)),
    "bert": (lambda: load("zoo/bert", "bert", BERT), texts((2, 7), (3, 12))),
    "bert merged": (lambda: merged(load("zoo/bert", "bert", BERT)), texts((2, 11), (3, 16))),
}


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str, torch_mlir: Any) -> None:
    make, calls = MODELS[name]
    module = make()
    agree(module, calls, initialise(module.graph, 0))


# Scattering ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["set", "add", "min", "max"])
def test_scatter_into_many_places(mode: str, torch_mlir: Any) -> None:
    """More places than are compared."""
    module = loads(
        f"model m(x: f32[9000], i: i64[600], u: f32[600]) -> f32[9000] {{ return scatter_{mode}(x, i, u, batch=0) }}"
    )
    x, u = (rng.standard_normal(n).astype("f4") for n in (9000, 600))
    text = agree(module, [[x, rng.permutation(9000)[:600], u]])
    assert "torch.aten.scatter" in text


def test_indices_of_several_axes(torch_mlir: Any) -> None:
    module = loads(
        "model m(x: f32[B, N], i: i64[B, 2, 3], u: f32[B, 2, 3]) -> f32[B, N] { return scatter_add(x, i, u, batch=1) }"
    )
    x, u = (rng.standard_normal(s).astype("f4") for s in ((2, 5), (2, 2, 3)))
    assert "torch.aten.scatter" not in agree(module, [[x, rng.integers(0, 5, (2, 2, 3)), u]])


# The text ------------------------------------------------------------------------------------------------------------

LINEAR = """
use std.nn (linear)
model m(x: f32[B, T, 4]) -> f32[B, T * 2, 3] {
    y = linear(x, out=3) as head
    return concat(y, y, axis=1)
}
"""


def test_arguments_have_names_and_sizes_are_open() -> None:
    module = loads(LINEAR)
    text = mlir.build(module, metadata={"tessera.model": "m"})
    assert text.startswith("// tessera.model: m\nmodule {")
    assert (
        "func.func @main(%x: !torch.vtensor<[?,?,4],f32>, %head.weight: !torch.vtensor<[3,4],f32>, %head.bias:" in text
    )
    assert "-> (!torch.vtensor<[?,?,3],f32>)" in text
    assert mlir.argument_names(module) == ["x", "head.weight", "head.bias"]


def test_weights_in_the_text(torch_mlir: Any) -> None:
    module = loads(LINEAR.replace("out=3", "out=30").replace(", 3]", ", 30]"))
    weights = initialise(module.graph, 0)
    text = mlir.build(module, weights, mode="inline")
    assert "dense_resource<blob0>" in text
    mlir.lower(text)
    imported = load_mlir(text)
    x = rng.standard_normal((2, 3, 4)).astype("f4")
    close(list(reference.build(imported.module, imported.weights)(x).values()), reference.build(module, weights)(x))


def test_names_of_sizes_come_back(torch_mlir: Any) -> None:
    imported = load_mlir(
        mlir.build(loads("model m(x: f32[rows, 2 * pairs]) -> f32[rows, pairs] { return x[:, :pairs] }"))
    )
    assert [str(v.type) for v in imported.module.graph.inputs] == ["f32[rows, 2 * pairs]"]


@pytest.mark.parametrize("steps", [3, 65])
def test_loops_are_written_out(steps: int, torch_mlir: Any) -> None:
    module = loads(f"model m(x: f32[B]) -> f32[B] {{ fold i in {steps} from (x) {{ x = x * 0.5 + 1.0 }} return x }}")
    if steps == 3:
        assert agree(module, [[np.ones(2, "f4")], [np.ones(5, "f4")]]).count("torch.aten.mul.Tensor") == 3
    else:
        with pytest.raises(Diagnostic, match="E0820"):
            mlir.build(module)


def test_what_it_cannot_express_is_refused_with_its_line() -> None:
    source = "model m(x: f32[B, 4]) -> f32[B, 4] {\n    return cummax(x, axis=1)\n}"
    with pytest.raises(Diagnostic) as error:
        mlir.build(loads(source, "m.tess"))
    assert error.value.code == "E0820"
    assert error.value.span is not None
    assert error.value.span.line == 2
    assert "aten.cummax" in error.value.render()


@pytest.mark.parametrize("region", ["cond p from (x) { x = -x }", "while p from (x) limit 4 { x = -x }"])
def test_choices_at_run_time_are_refused_with_their_line(region: str) -> None:
    source = f"model m(x: f32[B, 4], p: bool[]) -> f32[B, 4] {{\n    {region}\n    return x\n}}"
    with pytest.raises(Diagnostic) as error:
        mlir.build(loads(source, "m.tess"))
    assert (error.value.code, error.value.span and error.value.span.line) == ("E0820", 2)
    assert f"`{region.split()[0]}` has no lowering" in error.value.message


def test_torch_is_not_needed_to_write_and_check(torch_mlir: Any) -> None:
    code = (
        "import sys, tessera\n"
        "from tessera.backends import mlir\n"
        "from tessera.driver.compile import load\n"
        "mlir.lower(mlir.build(load('zoo/vit', 'vit_classifier', {'size': 32, 'depth': 1})))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_refusals_of_torch_mlir(torch_mlir: Any) -> None:
    with pytest.raises(Diagnostic, match="E0822"):
        mlir.check("module { nonsense }")
    with pytest.raises(Diagnostic, match="E0822"):
        mlir.lower("module { nonsense }")
    cut = 'module {} {-# dialect_resources: { builtin: { a: "0x04'
    for text in (cut, "module {" * 20000):
        with pytest.raises(Diagnostic, match="E0822"):
            mlir.check(text)
        with pytest.raises(Diagnostic, match="E0822"):
            mlir.lower(text)
    with pytest.raises(Diagnostic, match="E0822"):
        mlir.lower("module {}", "tosa")  # type: ignore[arg-type]


def test_without_torch_mlir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_mlir", None)
    with pytest.raises(Diagnostic, match="E0821"):
        mlir.check("module {}")


# The target ----------------------------------------------------------------------------------------------------------


def test_target(tmp_path: Path, torch_mlir: Any) -> None:
    module = load("zoo/vit", "vit_classifier", VIT)
    artifact = compile(module, target="mlir", output=tmp_path / "vit.mlir")
    assert {p.name for p in tmp_path.iterdir()} == {"vit.mlir", "vit.safetensors"}
    assert all(row["error"] < 1e-5 for row in artifact.report.verified)
    assert len(artifact.report.verified) == 2
    x = images(2)[0][0]
    runner = open_artifact(tmp_path / "vit.mlir")
    assert [spec.name for spec in runner.inputs] == ["image"]
    found = runner({"image": x})["logits"]
    np.testing.assert_allclose(found, artifact(image=x)["logits"], rtol=1e-5)
