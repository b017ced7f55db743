"""int8 by ONNX Runtime's own quantizer, so that its savings and those of fewer tokens can be compared, and stacked; and files that
were quantized before."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ...ir.diagnostics import Diagnostic

# Products with weights. The quantizer's other ops either break what they meet (an Attention with attributes that its int8 form
# lacks is an invalid graph) or are slower than in floats (convolutions without calibration).
_OPS = ["MatMul", "Gemm"]
_TWO_GB = 2_000_000_000
# Ops whose product is one of integers.
_INTEGER = frozenset({
    "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "QGemm", "QAttention", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
})  # fmt: skip


def quantize(model: Path, output: Path) -> Path:
    """Write ``model`` with int8 weights, a scale for each channel, and activations quantized as they come ("dynamic").

    Measured on MiniLM with 24 texts, against one scale a tensor: cosine 0.995 and 0.950; with scales of activations from
    calibration ("static"): 0.910, and no faster. What fewer tokens are compared with should be int8 at its best.

    Raises:
        Diagnostic: E0937 when ONNX Runtime's quantizer fails, or makes something that it cannot run.
    """
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ort.disable_telemetry_events()
    size = sum(p.stat().st_size for p in (model, Path(f"{model}.data")) if p.exists())
    logger = logging.getLogger()
    level = logger.level
    # It advises every caller to run a step of its own before, on the root logger.
    logger.setLevel(logging.ERROR)
    try:
        quantize_dynamic(
            os.fspath(model), os.fspath(output), op_types_to_quantize=_OPS, weight_type=QuantType.QInt8, per_channel=True,
            use_external_data_format=size > _TWO_GB,
        )  # fmt: skip
        options = ort.SessionOptions()
        options.log_severity_level = 4
        ort.InferenceSession(os.fspath(output), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # neither the quantizer nor the runtime has a common exception class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise Diagnostic("E0937", f"`{model.name}` cannot be quantized: {reason}", help="leave `--int8` out") from error
    finally:
        logger.setLevel(level)
    return output


def integer_products(model: Path) -> int:
    """How many products an ONNX file computes in integers: as MatMulInteger, QLinearMatMul or another such op, or as a product
    of dequantized activations (QDQ), which ONNX Runtime computes in int8. Weights alone that are stored in int8 are none."""
    from ...frontends.onnx.reader import read

    # Its structure alone: the weights stay in the file.
    graph = read(model).graph
    made = {name: node for node in graph.node for name in node.output}

    def quantized(name: str) -> bool:
        last = made.get(name)
        first = made.get(last.input[0]) if last is not None and last.op_type == "DequantizeLinear" else None
        return first is not None and first.op_type == "QuantizeLinear"

    return sum(
        node.op_type in _INTEGER
        or (node.op_type in ("MatMul", "Gemm", "Conv") and quantized(node.input[0]))
        for node in graph.node
    )
