"""Whole models as exporters and optimizers write them: imported, compared with ONNX Runtime at two sizes, merged where that can
be."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tessera.benchmarks.raise_table import merged
from tessera.driver.report.quantize import integer_products
from tessera.frontends.onnx import load
from tessera.ir.imported import Imported
from tessera.passes.engine import apply

from .fused_decoder import Decoder
from .support import round_trip, run_imported

pytestmark = [pytest.mark.extended, pytest.mark.usefixtures("quiet_transformers")]
Feeds = dict[str, np.ndarray]
Axes = Mapping[str, Mapping[int, str]]


class Called(torch.nn.Module):
    """A model, of which a function takes the inputs and chooses the results."""

    def __init__(self, model: torch.nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.call(self.model, *inputs)


@dataclass(frozen=True)
class Whole:
    """``inputs(batch, tokens)`` for two sizes; ``merged`` as the table of raise.md has it: in how many blocks, or a code.
    ``unordered``: along axis 1 the results stand in the order of scores, of which some are nearly equal."""

    make: Callable[[], torch.nn.Module]
    call: Callable[..., Any]
    inputs: Callable[[int, int], dict[str, torch.Tensor]]
    axes: Axes
    merged: str
    dynamo: bool = False
    unordered: bool = False


def image(name: str, size: int, channels: int = 3) -> Callable[[int, int], dict[str, torch.Tensor]]:
    return lambda batch, _: {name: torch.randn(batch, channels, size, size)}


def detr() -> torch.nn.Module:
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=16,
        encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=5, num_labels=3,
    )  # fmt: skip
    return transformers.DetrForObjectDetection(config)


def rt_detr() -> torch.nn.Module:
    import transformers

    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[8, 16, 16], d_model=16, encoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, decoder_layers=2, decoder_ffn_dim=16, num_queries=6,
        decoder_in_channels=[16, 16, 16], num_labels=3, num_denoising=0, encoder_layers=1,
    )  # fmt: skip
    return transformers.RTDetrForObjectDetection(config)


def depth_anything() -> torch.nn.Module:
    import transformers

    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=42, patch_size=14, apply_layernorm=True,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, patch_size=14, neck_hidden_sizes=[8, 8, 8, 8], reassemble_hidden_size=16, fusion_hidden_size=8,
        head_hidden_size=8,
    )  # fmt: skip
    return transformers.DepthAnythingForDepthEstimation(config)


def dpt() -> torch.nn.Module:
    import transformers

    config = transformers.DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
    )  # fmt: skip
    return transformers.DPTForDepthEstimation(config)


def whisper() -> torch.nn.Module:
    import transformers

    config = transformers.WhisperConfig(
        vocab_size=60, num_mel_bins=8, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_source_positions=20, max_target_positions=20,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


def clip() -> torch.nn.Module:
    import transformers

    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": 60, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.CLIPConfig(
        text_config=text | tower, vision_config={"image_size": 32, "patch_size": 8} | tower, projection_dim=8
    )
    return transformers.CLIPModel(config)


def boxes(model: Any, pixels: torch.Tensor) -> Any:
    found = model(pixel_values=pixels)
    return found.logits, found.pred_boxes


def pair(model: Any, ids: torch.Tensor, mask: torch.Tensor, pixels: torch.Tensor) -> Any:
    found = model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    return found.logits_per_image, found.logits_per_text


def pair_inputs(batch: int, tokens: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 60, (batch + 1, tokens))
    mask = torch.arange(tokens)[None] < torch.tensor([tokens, 4, 5, tokens])[: batch + 1, None]
    return {"ids": ids, "mask": mask.long(), "pixels": torch.randn(batch, 3, 32, 32)}


def decoded(model: Any, ids: torch.Tensor, features: torch.Tensor) -> Any:
    return model(decoder_input_ids=ids, encoder_outputs=(features,), use_cache=False).logits


def decoder_inputs(batch: int, tokens: int) -> dict[str, torch.Tensor]:
    return {"ids": torch.randint(3, 60, (batch, tokens)), "features": torch.randn(batch, 20, 16)}


BATCH = {"pixels": {0: "B"}}
MODELS = {
    "detr": Whole(detr, boxes, image("pixels", 64), BATCH, "3"),
    "rt_detr": Whole(rt_detr, boxes, image("pixels", 64), BATCH, "E0710", unordered=True),
    "depth_anything": Whole(
        depth_anything, lambda m, x: m(pixel_values=x).predicted_depth, image("pixels", 42), BATCH, "4"
    ),
    "dpt": Whole(dpt, lambda m, x: m(pixel_values=x).predicted_depth, image("pixels", 32), BATCH, "4"),
    "whisper_encoder": Whole(
        whisper, lambda m, x: m.model.encoder(x)[0], lambda b, _: {"mel": torch.randn(b, 8, 40)}, {"mel": {0: "B"}}, "2"
    ),
    "whisper_decoder": Whole(
        whisper, decoded, decoder_inputs, {"ids": {0: "B", 1: "T"}, "features": {0: "B"}}, "E0708", dynamo=True
    ),
    "clip": Whole(
        clip, pair, pair_inputs, {"ids": {0: "N", 1: "T"}, "mask": {0: "N", 1: "T"}, "pixels": {0: "B"}}, "2"
    ),
}  # fmt: skip


def export(net: torch.nn.Module, inputs: dict[str, torch.Tensor], axes: Axes, path: Path, dynamo: bool = False) -> None:
    if dynamo:
        sizes = {name: torch.export.Dim(name, min=2, max=16) for row in axes.values() for name in row.values()}
        shapes = tuple({axis: sizes[size] for axis, size in axes[name].items()} for name in inputs)
        options: dict[str, Any] = {"dynamic_shapes": (shapes,), "external_data": False, "verbose": False}
    else:
        options = {"dynamic_axes": axes, "opset_version": 17}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(net, tuple(inputs.values()), path, dynamo=dynamo, input_names=list(inputs), **options)


def spread(net: torch.nn.Module) -> torch.nn.Module:
    """Weights at which all of a model shows in its results."""
    from tessera.benchmarks.architectures import _spread

    return _spread(net).eval().requires_grad_(False)


def agrees(
    path: Path, feeds: list[Feeds], tolerance: float, as_written: bool = False, unordered: bool = False
) -> Imported:
    """Imported, printed and read again, and what it computes beside ONNX Runtime; raised too. ``as_written``: without its rewrites,
    of which one quantizes what is multiplied with weights of 8 bits."""
    imported = load(path)
    round_trip(imported)
    raised, _ = apply(imported.module, "raise_composites")
    options = onnxruntime.SessionOptions()
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for given in feeds:
        wanted = session.run(None, given)
        for module in (imported.module, raised):
            found = run_imported(Imported(module, imported.weights), list(given.values()))
            for pair_of in zip(found, wanted, strict=True):
                a, b = (np.sort(x, axis=1) if unordered else x for x in pair_of)
                size = np.abs(b).max() + 1e-12
                np.testing.assert_allclose(a / size, b / size, atol=tolerance, rtol=0)
    return Imported(raised, imported.weights)


@pytest.mark.parametrize("name", MODELS)
def test_exported_models(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = MODELS[name]
    net = Called(spread(whole.make()), whole.call)
    inputs = [whole.inputs(*size) for size in ((2, 7), (3, 9))]
    export(net, inputs[0], whole.axes, tmp_path / "net.onnx", whole.dynamo)
    raised = agrees(
        tmp_path / "net.onnx",
        [{n: x.numpy() for n, x in row.items()} for row in inputs],
        1e-4,
        unordered=whole.unordered,
    )
    assert merged(raised.module) == whole.merged


# What ONNX Runtime's optimizer and quantizer make of an encoder of texts --------------------------------------------------


def texts(kind: str, **options: Any) -> tuple[torch.nn.Module, list[str]]:
    import transformers

    shape = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    config = getattr(transformers, f"{kind}Config")(max_position_embeddings=20, **shape, **options)
    config._attn_implementation = "eager"
    model = spread(getattr(transformers, f"{kind}Model")(config, add_pooling_layer=False))
    names = ["input_ids", "attention_mask", "token_type_ids"][: 3 if kind == "Bert" else 2]
    return Called(model, lambda m, *xs: m(**dict(zip(names, xs, strict=True)))[0]), names


def text_feeds(names: list[str], batch: int, tokens: int) -> Feeds:
    rng = np.random.default_rng(batch)
    mask = np.arange(tokens)[None] < np.array([tokens, 4, 5])[:batch, None]
    given = {"input_ids": rng.integers(3, 60, (batch, tokens)), "attention_mask": mask.astype(np.int64)}
    given["token_type_ids"] = rng.integers(0, 2, (batch, tokens))
    return {name: given[name] for name in names}


def exported_texts(folder: Path, kind: str, **options: Any) -> tuple[Path, list[Feeds]]:
    torch.manual_seed(0)
    net, names = texts(kind, **options)
    feeds = [text_feeds(names, *size) for size in ((2, 7), (3, 9))]
    inputs = {name: torch.from_numpy(feeds[0][name]) for name in names}
    export(net, inputs, {name: {0: "B", 1: "T"} for name in names}, folder / "net.onnx")
    return folder / "net.onnx", feeds


@pytest.mark.parametrize(("activation", "gelu"), [("gelu", "BiasGelu"), ("gelu_new", "FastGelu")])
@pytest.mark.parametrize("attention", ["Attention", "MultiHeadAttention"])
def test_an_optimised_bert(activation: str, gelu: str, attention: str, tmp_path: Path) -> None:
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    path, feeds = exported_texts(tmp_path, "Bert", hidden_act=activation)
    options = FusionOptions("bert")
    options.use_multi_head_attention = attention == "MultiHeadAttention"
    fused = optimizer.optimize_model(
        str(path), model_type="bert", num_heads=2, hidden_size=32, opt_level=0, optimization_options=options
    )
    fused.save_model_to_file(str(tmp_path / "fused.onnx"))
    kinds = {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node}
    assert {attention, "EmbedLayerNormalization", "SkipLayerNormalization", gelu} <= kinds
    assert merged(agrees(tmp_path / "fused.onnx", feeds, 1e-4).module) == "2"


def test_an_encoder_of_weights_in_8_bits(tmp_path: Path) -> None:
    """XLM-RoBERTa, each weight of a product dequantized in front of it."""
    path, feeds = exported_texts(tmp_path, "XLMRoberta", pad_token_id=1, type_vocab_size=1)
    model = onnx.load(path)
    weights = {w.name: w for w in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights]:
        name = node.input[1]
        array = onnx.numpy_helper.to_array(weights[name])
        scale = np.abs(array).max(0) / 127
        whole = np.round(array / scale).astype(np.int8)
        parts = {f"{name}_q": whole, f"{name}_s": scale.astype(np.float32), f"{name}_z": np.zeros(len(scale), np.int8)}
        model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in parts.items())
        model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", list(parts), [f"{name}_d"], axis=1))
        node.input[1] = f"{name}_d"
    onnx.save(model, tmp_path / "weights.onnx")
    assert merged(agrees(tmp_path / "weights.onnx", feeds, 1e-4, as_written=True).module) == "2"


@pytest.mark.parametrize(("form", "merges"), [("dynamic", "2"), ("QDQ", "E0707"), ("QOperator", "E0707")])
def test_a_quantized_encoder(form: str, merges: str, tmp_path: Path) -> None:
    """What its products are computed in stays so in the file that is written of it."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    from tessera.backends.onnx import build, serialize

    logging.getLogger().setLevel(logging.ERROR)
    path, feeds = exported_texts(tmp_path, "XLMRoberta", pad_token_id=1, type_vocab_size=1)
    whole = tmp_path / "whole.onnx"

    class Data(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Any:
            return next(self.left, None)

    if form == "dynamic":
        quantize_dynamic(path, whole, weight_type=QuantType.QInt8, per_channel=True)
    else:
        quantize_static(path, whole, Data(), quant_format=QuantFormat[form], op_types_to_quantize=["MatMul"],
                        activation_type=QuantType.QUInt8)  # fmt: skip
    raised = agrees(whole, feeds, 1e-2)
    assert merged(raised.module) == merges
    (tmp_path / "again.onnx").write_bytes(serialize(build(raised.module, raised.weights)))
    assert integer_products(tmp_path / "again.onnx") == integer_products(whole) > 0


def test_a_decoder_of_fused_ops(tmp_path: Path) -> None:
    decoder = Decoder()
    path = decoder.save(tmp_path / "decoder.onnx")
    raised = agrees(path, [decoder.feeds(2, 1, 6), decoder.feeds(1, 1, 3)], 1e-4)
    assert merged(raised.module) == "E0707"  # its keys are those of the cache
