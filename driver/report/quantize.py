"""int8 by ONNX Runtime's own quantizer, so that its savings and those of fewer tokens can be compared, and stacked; and files that
were quantized before."""

from __future__ import annotations

import logging
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic
from ...runtime.files.aside import Scratch

if TYPE_CHECKING:
    import numpy as np

    from ...ir.graph import Module
    from .calibration import Examples

# Products with weights. The quantizer's other ops either break what they meet (an Attention with attributes that its int8 form
# lacks is an invalid graph) or are slower than in floats (convolutions without calibration).
_OPS = ["MatMul", "Gemm"]
_TWO_GB = 2_000_000_000
# Examples that calibrate, rounds in which both forms take turns, and the cosine that a faster form may lose.
_EXAMPLES, _ROUNDS, _LOSS = 16, 9, 0.005
# Ops whose product is one of integers.
_INTEGER = frozenset({
    "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "QGemm", "QAttention", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
})  # fmt: skip


def quantize(model: Path, output: Path) -> Path:
    """Write ``model`` with int8 weights, a scale for each channel, and activations quantized as they come ("dynamic").

    Measured on MiniLM with 24 texts, against one scale a tensor: cosine 0.995 and 0.950. What fewer tokens are compared with should
    be int8 at its best.

    Raises:
        Diagnostic: E0937 when ONNX Runtime's quantizer fails, or makes something that it cannot run.
    """
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ort.disable_telemetry_events()
    with _quietly(model):
        quantize_dynamic(
            os.fspath(model), os.fspath(output), op_types_to_quantize=_OPS, weight_type=QuantType.QInt8, per_channel=True,
            use_external_data_format=_bytes(model) > _TWO_GB,
        )  # fmt: skip
        options = ort.SessionOptions()
        options.log_severity_level = 4
        ort.InferenceSession(os.fspath(output), options, providers=["CPUExecutionProvider"])
    return output


def quantize_best(model: Path, output: Path, module: Module | None, examples: Examples, threads: int | None) -> str | None:
    """As :func:`quantize`; where the file has convolutions, these too, with scales of activations from the examples ("static"),
    if that is faster and keeps as much.

    Scales from calibration are for convolutions alone: ONNX Runtime has no integer ones with scales that come with the data which
    would be faster than floats, and products of MiniLM took 1.6 times as long with scales from calibration.

    Returns:
        What was found, in a sentence; None for a file without convolutions.

    Raises:
        Diagnostic: E0937 as there.
    """
    from ...frontends.onnx.reader import read
    from .fidelity import compare
    from .measure import Target, interleaved, median_within, ratios
    from .results import pays

    quantize(model, output)
    count = sum(node.op_type == "Conv" for node in read(model).graph.node)
    if not count:
        return None
    what = f"{count} convolution{'s' if count > 1 else ''} of `{model.stem}`"
    if _bytes(model) > _TWO_GB:
        return f"{what} stay in floats: more than 2 GB are not calibrated"
    with Scratch() as folder:
        calibrated, both = Path(folder, f"calibrated{model.suffix}"), Path(folder, f"both{model.suffix}")
        given = Target.open(model, module, name=model.stem, threads=threads)
        feeds = [given.match(feed) for feed in examples.feeds[:_EXAMPLES]]
        try:
            _calibrate(model, calibrated, feeds)
            quantize(calibrated, both)
            files = [Target.open(file, module, name=file.stem, threads=threads) for file in (output, both)]
        except Diagnostic as error:
            return f"{what} stay in floats: {error.message}"
        times = interleaved({t.name: t.prepared(feeds[0]) for t in files}, _ROUNDS)
        gains = ratios(*times.values())
        gain = statistics.median(gains)
        rows = compare(feeds, [given(f) for f in feeds], {t.name: [[t(f) for f in feeds]] for t in files})
        kept = [[row.rows[t.name]["cosine"] for row in rows if t.name in row.rows] for t in files]
        less = max((a - b for a, b in zip(*kept, strict=True)), default=0.0)
        figures = f"{gain:.2f}x, a cosine of {min(kept[1], default=1.0):.4f} beside {min(kept[0], default=1.0):.4f}"
        if pays(gain, *median_within(gains)) is not True or less > _LOSS:
            return f"{what} stay in floats: in int8 with scales from calibration {figures}"
        shutil.copyfile(both, output)
    return f"{what} are in int8 with scales from calibration: {figures}"


def _calibrate(model: Path, output: Path, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Write ``model`` with its convolutions between quantized activations, by the smallest and largest values met. Raises E0937."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(feeds)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.rest, None)

    with _quietly(model):
        quantize_static(
            os.fspath(model), os.fspath(output), Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"],
            per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip


@contextmanager
def _quietly(model: Path) -> Iterator[None]:
    """Without the advice that the quantizer gives every caller, on the root logger. Raises E0937 for whatever it raises."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except Exception as error:  # neither the quantizer nor the runtime has a common exception class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise Diagnostic("E0937", f"`{model.name}` cannot be quantized: {reason}", help="leave `--int8` out") from error
    finally:
        logger.setLevel(level)


def _bytes(model: Path) -> int:
    return sum(p.stat().st_size for p in (model, Path(f"{model}.data")) if p.exists())


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
