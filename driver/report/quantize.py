"""int8 by ONNX Runtime's own quantizer, so that its savings and those of fewer tokens can be compared, and stacked; and files that
were quantized before."""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic
from ...runtime.files.aside import Scratch
from . import integers

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ox

    from ...ir.graph import Module
    from .calibration import Examples
    from .measure import Target

Feeds = Sequence[Mapping[str, "np.ndarray"]]
# Writes another int8 form of the first file, whose int8 form is the second, to the third.
Form = Callable[[Path, Path, Path, Feeds], None]

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
    """Write ``model`` with int8 weights, a scale for each channel, and activations quantized as they come ("dynamic"). What makes
    tokens of an image's patches becomes a product first.

    Measured on MiniLM with 24 texts, against one scale a tensor: cosine 0.995 and 0.950. What fewer tokens are compared with should
    be int8 at its best.

    Raises:
        Diagnostic: E0937 when ONNX Runtime's quantizer fails, or makes something that it cannot run.
    """
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ort.disable_telemetry_events()
    with _quietly(model), Scratch() as folder:
        large = _bytes(model) > _TWO_GB
        quantize_dynamic(
            os.fspath(model if large else _prepared(model, Path(folder))), os.fspath(output), op_types_to_quantize=_OPS,
            weight_type=QuantType.QInt8, per_channel=True, use_external_data_format=large,
        )  # fmt: skip
        options = ort.SessionOptions()
        options.log_severity_level = 4
        ort.InferenceSession(os.fspath(output), options, providers=["CPUExecutionProvider"])
    return output


def _prepared(model: Path, folder: Path) -> Path:
    """The file, or one in ``folder`` in which patches are products."""
    prepared = _open(model)
    if not integers.patches_as_products(prepared):
        return model
    return _save(prepared, folder / model.name)


def quantize_best(model: Path, output: Path, module: Module | None, examples: Examples, threads: int | None) -> list[str]:
    """As :func:`quantize`; then convolutions, and then attention, in int8 with scales from the examples ("static"), each if that is
    faster and keeps as much.

    Scales from calibration are for these alone: ONNX Runtime has no integer convolutions with scales that come with the data which
    would be faster than floats, and products of MiniLM by weights took 1.6 times as long with scales from calibration.

    Returns:
        What was found of each, in a sentence.

    Raises:
        Diagnostic: E0937 as there.
    """
    quantize(model, output)
    file = _open(output)
    convolutions, places = integers.convolutions(file), len(integers.plain_attention(file))
    parts: list[tuple[int, str, Form]] = [
        (convolutions, f"{convolutions} convolution{'s' * (convolutions > 1)}", _with_convolutions),
        (places, f"{places} op{'s' * (places > 1)} of attention", _with_attention),
    ]
    notes = []
    for count, what, form in parts:
        if not count:
            continue
        taken, why = False, "more than 2 GB are not calibrated"
        if _bytes(model) <= _TWO_GB:
            taken, why = _better(model, output, form, Judge(module, examples, threads))
        are = f"{'are' if count > 1 else 'is'} in int8 with scales from calibration"
        stay = f"stay{'s' * (count == 1)} in floats"
        notes.append(f"{what} of `{model.stem}` {are if taken else stay}: {why}")
    return notes


@dataclass(frozen=True)
class Judge:
    """On what two forms of a file are compared."""

    module: Module | None
    examples: Examples
    threads: int | None

    def open(self, file: Path) -> Target:
        from .measure import Target

        return Target.open(file, self.module, name=file.stem, threads=self.threads)


def _better(model: Path, output: Path, form: Form, judge: Judge) -> tuple[bool, str]:
    """Replace ``output``, the int8 form of ``model``, by another one if that is faster and keeps as much; whether, and why."""
    from .fidelity import compare
    from .measure import interleaved, median_within, ratios
    from .results import pays

    with Scratch() as folder:
        other = Path(folder, f"other{model.suffix}")
        given = judge.open(model)
        feeds = [given.match(feed) for feed in judge.examples.feeds[:_EXAMPLES]]
        try:
            form(model, output, other, feeds)
            files = [judge.open(file) for file in (output, other)]
        except Diagnostic as error:
            return False, error.message
        # In one thread, the processors' time is that of the run, whatever else the machine does.
        clock = time.process_time if judge.threads == 1 else time.perf_counter
        times = interleaved({t.name: t.prepared(feeds[0]) for t in files}, _ROUNDS, clock=clock)
        gains = ratios(*times.values())
        gain = statistics.median(gains)
        rows = compare(feeds, [given(f) for f in feeds], {t.name: [[t(f) for f in feeds]] for t in files})
        kept = [[row.rows[t.name]["cosine"] for row in rows if t.name in row.rows] for t in files]
        less = max((a - b for a, b in zip(*kept, strict=True)), default=0.0)
        figures = f"{gain:.2f}x, a cosine of {min(kept[1], default=1.0):.4f} beside {min(kept[0], default=1.0):.4f}"
        if pays(gain, *median_within(gains)) is not True or less > _LOSS:
            return False, f"in int8 with scales from calibration {figures}"
        shutil.copyfile(other, output)
    return True, figures


def _with_convolutions(model: Path, output: Path, other: Path, feeds: Feeds) -> None:
    """As ``output``, and its convolutions too."""
    calibrated = other.with_stem("calibrated")
    with _quietly(model):
        source = _prepared(model, other.parent)
    _calibrate(source, calibrated, feeds)
    quantize(calibrated, other)


def _with_attention(model: Path, output: Path, other: Path, feeds: Feeds) -> None:
    """As ``output``, and the products of its attention too."""
    with _quietly(model):
        made = _open(output)
        inputs = (str(x.name) for node in integers.plain_attention(made) for x in node.inputs[:3] if x is not None)
        limits = integers.ranges(output, list(dict.fromkeys(inputs)), feeds)
        integers.attention_in_integers(made, limits)
        _save(made, other)


def _open(model: Path) -> ox.Model:
    """With the shapes and types of values, as far as they can be inferred."""
    import onnx_ir as ox
    from onnx_ir.passes.common import ShapeInferencePass

    return ShapeInferencePass()(ox.load(os.fspath(model))).model


def _save(model: ox.Model, path: Path) -> Path:
    import onnx_ir as ox

    ox.save(model, os.fspath(path))
    return path


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
        if last is None or last.op_type != "DequantizeLinear":
            return False
        first = made.get(last.input[0])
        while first is not None and first.op_type in ("Reshape", "Transpose"):
            first = made.get(first.input[0])
        return first is not None and first.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")

    return sum(
        node.op_type in _INTEGER
        or (node.op_type in ("MatMul", "Gemm", "Conv") and quantized(node.input[0]))
        for node in graph.node
    )
