"""Whole models: what both of torch's exporters write for transformers, what ONNX Runtime fuses, what we export ourselves."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tessera.backends import onnx as onnx_backend
from tessera.backends import torch as torch_backend
from tessera.backends.onnx.session import Session
from tessera.driver.verify import verify
from tessera.frontends.onnx import load
from tessera.frontends.source import loads
from tessera.ir.imported import Imported
from tessera.runtime.weights.bind import initialise

from .support import agree, model, node, round_trip, run_imported

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
AXES = {0: "batch", 1: "tokens"}


class FirstResult(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model


class Text(FirstResult):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]


class Image(FirstResult):
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values)[0]


def bert() -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]], dict[str, dict[int, str]]]:
    import transformers

    config = transformers.BertConfig(vocab_size=30, max_position_embeddings=16, **SMALL)
    made = Text(transformers.BertModel(config, add_pooling_layer=False)).eval()
    inputs = []
    for batch, tokens in ((2, 5), (3, 9)):
        mask = (torch.arange(tokens)[None] < torch.tensor([tokens, 3, 4][:batch])[:, None]).long()
        inputs.append({"input_ids": torch.randint(0, 30, (batch, tokens)), "attention_mask": mask})
    return made, inputs, {"input_ids": AXES, "attention_mask": AXES}


def vit() -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]], dict[str, dict[int, str]]]:
    import transformers

    config = transformers.ViTConfig(image_size=16, patch_size=4, num_labels=3, **SMALL)
    made = Image(transformers.ViTForImageClassification(config)).eval()
    return made, [{"pixel_values": torch.randn(batch, 3, 16, 16)} for batch in (2, 3)], {"pixel_values": {0: "batch"}}


def export(
    net: torch.nn.Module, inputs: dict[str, torch.Tensor], axes: dict[str, dict[int, str]], dynamo: bool, path: Path
) -> None:
    options: dict[str, Any] = {"dynamic_axes": axes, "opset_version": 17}
    if dynamo:
        sizes = {name: torch.export.Dim(name, min=2, max=16) for row in axes.values() for name in row.values()}
        options = {
            "dynamic_shapes": {name: {axis: sizes[size] for axis, size in row.items()} for name, row in axes.items()},
            "external_data": False, "verbose": False,
        }  # fmt: skip
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, tuple(inputs.values()), path, dynamo=dynamo, input_names=list(inputs), output_names=["out"], **options
        )


def same(imported: Imported, net: torch.nn.Module, inputs: list[dict[str, torch.Tensor]]) -> None:
    for given in inputs:
        with torch.no_grad():
            wanted = net(**given).numpy()
        (found,) = run_imported(imported, [value.numpy() for value in given.values()])
        np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("make", [bert, vit], ids=["bert", "vit"])
def test_transformers(make: Any, dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, inputs, axes = make()
    export(net, inputs[0], axes, dynamo, tmp_path / "net.onnx")
    imported = load(tmp_path / "net.onnx")
    text = round_trip(imported)
    same(imported, net, inputs)
    graph = imported.module.graph
    assert graph.symbols() == list(dict.fromkeys(name for row in axes.values() for name in row.values()))
    assert not any(node.op.name == "transpose" and node.inputs[0] in graph.params.values() for node in graph.nodes())
    # The names and layouts of the checkpoint, as far as the exporters leave them.
    theirs = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    unknown = [name for name, weight in imported.weights.items() if theirs.get(name) != weight.shape]
    assert unknown == [], text


def test_what_onnx_runtime_fuses(tmp_path: Path) -> None:
    """ONNX Runtime's optimizer writes Microsoft's LayerNormalization, SkipLayerNormalization, BiasGelu and Attention."""
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    torch.manual_seed(0)
    net, inputs, axes = bert()
    export(net, inputs[0], axes, False, tmp_path / "net.onnx")
    fused = optimizer.optimize_model(str(tmp_path / "net.onnx"), model_type="bert", num_heads=2, hidden_size=16, opt_level=0)
    fused.save_model_to_file(str(tmp_path / "fused.onnx"))
    kinds = {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node if node.domain == "com.microsoft"}
    assert {"SkipLayerNormalization", "BiasGelu"} <= kinds
    imported = load(tmp_path / "fused.onnx")
    round_trip(imported)
    same(imported, net, inputs)


def test_what_tf2onnx_writes(tmp_path: Path) -> None:
    """Keras' MultiHeadAttention and LayerNormalization: 32-bit shapes, decomposed norms, einsum, names with slashes."""
    rng = np.random.default_rng(0)
    scope = "model/encoder"
    nodes = [
        node("Shape", "x", "s64"), node("Cast", "s64", "s", to=6), node("Slice", "s zero one zero", "b1"),
        node("Squeeze", "b1 zero", "b"), node("Slice", "s one two zero", "t1"), node("Squeeze", "t1 zero", "t"),
        # LayerNormalization
        node("ReduceMean", "x", "mean", axes=[2], keepdims=1), node("Sub", "x mean", "d"), node("Mul", "d d", "d2"),
        node("ReduceMean", "d2", "var", axes=[2], keepdims=1), node("Add", "var eps", "ve"), node("Sqrt", "ve", "sd"),
        node("Reciprocal", "sd", "r"), node("Mul", f"r {scope}/norm/gamma:0", "g"), node("Mul", "x g", "xg"),
        node("Mul", "mean g", "mg"), node("Sub", f"{scope}/norm/beta:0 mg", "shift"), node("Add", "xg shift", "n"),
        # query and key: einsum as a product over reshaped operands, bias in heads
        node("Einsum", f"n {scope}/query/kernel:0", "q0", equation="abc,cde->abde"), node("Add", f"q0 {scope}/query/bias:0", "q"),
        node("Mul", "q scale", "qs"), node("Transpose", "qs", "qt", perm=[0, 2, 1, 3]),
        node("Transpose", "q", "kt", perm=[0, 2, 3, 1]), node("MatMul", "qt kt", "scores"), node("Softmax", "scores", "p", axis=-1),
        node("Transpose", "q", "vt", perm=[0, 2, 1, 3]),
        node("MatMul", "p vt", "o"), node("Transpose", "o", "ot", perm=[0, 2, 1, 3]),
        node("Mul", "heads width", "hw"), node("Unsqueeze", "b zero", "bu"), node("Unsqueeze", "t zero", "tu"),
        node("Unsqueeze", "hw zero", "hu"), node("Concat", "bu tu hu", "shape32", axis=0), node("Cast", "shape32", "shape", to=7),
        node("Reshape", "ot shape", "joined"), node("MatMul", f"joined {scope}/out/kernel/ReadVariableOp:0", "y"),
    ]  # fmt: skip
    constants = {
        "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "eps": np.float32([1e-3]), "scale": np.float32(0.5),
        "heads": np.int32(2), "width": np.int32(4), f"{scope}/norm/gamma:0": rng.standard_normal(8).astype(np.float32),
        f"{scope}/norm/beta:0": rng.standard_normal(8).astype(np.float32),
        f"{scope}/query/kernel:0": rng.standard_normal((8, 2, 4)).astype(np.float32),
        f"{scope}/query/bias:0": rng.standard_normal((2, 4)).astype(np.float32),
        f"{scope}/out/kernel/ReadVariableOp:0": rng.standard_normal((8, 8)).astype(np.float32),
    }  # fmt: skip
    proto = model(nodes, {"x": ("f32", ["unk__7", "unk__8", 8])}, ["y"], constants, opset=15)
    sizes = [{"unk__7": 2, "unk__8": 5}, {"unk__7": 3, "unk__8": 4}]
    imported = agree(proto, tmp_path, sizes=sizes, tolerance=1e-4)
    assert "model.encoder.out.kernel" in imported.weights
    assert not any(n.op.name in ("full", "iota") for n in imported.module.graph.nodes())


PROGRAMS = {
    "encoder": """
        use std.attention (self_attention)
        use std.nn (layer_norm, linear, mlp)

        model encoder(x: float[B, T, 16]) -> (features: float[B, T, 16], scores: float[B, 3]) {
            repeat i in 2 as blocks {
                x = x + self_attention(layer_norm(x) as norm1, heads=2) as attn
                x = x + mlp(layer_norm(x) as norm2, hidden=24) as mlp
            }
            return x, linear(mean(x, axis=1), out=3) as head
        }
    """,
    "decoder": """
        use std.attention (rope_table, rope, attention)
        use std.nn (embedding, rms_norm, swiglu_mlp, linear)

        model decoder(ids: i64[B, T]) -> float[B, T, 11] {
            x = embedding(ids, vocab=11, dim=16) as embed
            c, s = rope_table(unsqueeze(iota(T), 0), dim=8)
            y = rms_norm(x) as norm
            q = rearrange(linear(y, out=16) as q, "b t (h k) -> b h t k", h=2)
            k = rearrange(linear(y, out=8) as k, "b t (h k) -> b h t k", h=1)
            x = x + rearrange(attention(rope(q, c, s), rope(k, c, s), k, causal=true), "b h t k -> b t (h k)")
            x = x + swiglu_mlp(x, hidden=24) as mlp
            return linear(x, out=11, bias=false) as head
        }
    """,
    "merging": """
        use std.token (bipartite_merge, token_map)
        use std.nn (linear)

        model merging(x: float[B, T, 16]) -> float[B, T - 3, 16] {
            y, m = bipartite_merge(x, token_map(batch=B, tokens=T), x, r=3)
            return linear(y, out=16) as head
        }
    """,
    "loop": """
        model loop(x: float[B, T, 8], w: float[8, 8]) -> float[B, T, 8] {
            fold i in 4 from (x) {
                x = tanh(x @ w) + cast(i, f32)
            }
            return x
        }
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_our_own_exports(name: str, tmp_path: Path) -> None:
    module = loads(PROGRAMS[name])
    weights = initialise(module.graph)
    path = onnx_backend.save(onnx_backend.build(module, weights), tmp_path / f"{name}.onnx")
    imported = load(path)
    round_trip(imported)
    assert [v.name for v in imported.module.graph.inputs] == [v.name for v in module.graph.inputs]
    assert {n: w.shape for n, w in imported.weights.items()} == {n: w.shape for n, w in weights.items()}
    report = verify(imported.module, Session(path), torch_backend.build(imported.module, imported.weights))
    assert len(report.rows) >= 2


def test_composites_come_back(tmp_path: Path) -> None:
    """Attention, norms and rotations are ops of ONNX, and import as what they were exported from."""
    module = loads(PROGRAMS["decoder"])
    path = onnx_backend.save(onnx_backend.build(module, initialise(module.graph)), tmp_path / "decoder.onnx")
    found = [node.op.name for node in load(path).module.graph.nodes()]
    assert found.count("attention") == 1
    assert found.count("rope") == 2
    assert found.count("rms_normalize") == 1
