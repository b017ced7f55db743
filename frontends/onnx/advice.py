"""What to do about files that were made from another one."""

from __future__ import annotations

import re
from collections.abc import Iterable

# What files that were made from another one have in them.
_MADE_FROM = {
    r".*\bQ(Linear|Gemm|Attention)\w*|ConvInteger|.*DynamicQuantize\w+|.*IntegerToFloat|.*MatMulNBits": "the model is quantized: "
    "give the one that it was made from, and quantize afterwards (`tessera optimize --int8`)",
    r"com\.microsoft\.nchwc\..*": "ONNX Runtime wrote the file for one kind of machine: give the one that it was made from",
}


def advice(unknown: Iterable[str]) -> str | None:
    """What to do about ops that are not imported, where that is known."""
    return next((help for pattern, help in _MADE_FROM.items() for op in unknown if re.fullmatch(pattern, op)), None)
