"""Quantized numbers: the ops that ONNX has for them compute what the bodies do, and PyTorch too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tessera.backends import torch as torch_backend
from tessera.backends.onnx import build

from .support import of_composite, ops, randn, session

I8, U8 = np.int8, np.uint8


def whole(*shape: int, dtype: Any = U8, high: int = 100) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, high, shape).astype(dtype)


def real(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


SCALAR, STEP = np.float32(0.25), real(0.25)
COLUMNS, ZEROS = real(0.5, 0.25, 1.0), np.array([3, 0, 9], I8)
X, A, W = randn(2, 5, 3) * 9, whole(2, 5, 4), whole(4, 3, dtype=I8)
CASES: list[tuple[str, list[Any], dict[str, Any], str]] = [
    ("quantize", [X, STEP, np.array([7], U8)], {}, "QuantizeLinear"),
    ("quantize", [X, COLUMNS, ZEROS], {"axis": 2}, "QuantizeLinear"),
    ("quantize", [np.float32(3.3), STEP, np.array([7], U8)], {}, "QuantizeLinear"),
    ("dequantize", [A, STEP, np.array([7], U8)], {}, "DequantizeLinear"),
    ("dequantize", [W, COLUMNS, ZEROS], {"axis": -1}, "DequantizeLinear"),
    ("dequantize", [whole(3, dtype=np.int32), STEP, None], {}, "DequantizeLinear"),
    ("dynamic_quantize", [X], {}, "DynamicQuantizeLinear"),
    ("dynamic_quantize", [np.zeros((2, 3), np.float32)], {}, "DynamicQuantizeLinear"),
    ("integer_affine", [A, W, np.uint8(5), ZEROS], {}, "MatMulInteger"),
    ("integer_affine", [A, W, None, None], {}, "MatMulInteger"),
    ("integer_matmul", [A, whole(2, 4, 3, dtype=I8), np.uint8(5), np.array([2], I8)], {}, "MatMulInteger"),
    ("quantized_affine", [A, SCALAR, np.uint8(5), W, COLUMNS, ZEROS, np.float32(64), np.uint8(9)], {}, "QLinearMatMul"),
    (
        "quantized_matmul",
        [A, SCALAR, np.uint8(5), whole(2, 4, 3), STEP, np.array([2], U8), np.float32(64), np.uint8(9)],
        {},
        "QLinearMatMul",
    ),
    ("integer_conv", [whole(2, 4, 5, 6), whole(4, 2, 3, 3, dtype=I8), np.uint8(5), None],
     {"groups": 2, "stride_down": 2, "padding_across": 1, "dilation_across": 2}, "ConvInteger"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arrays", "attrs", "op_type"), CASES)
def test_what_onnx_has_an_op_for(name: str, arrays: list[Any], attrs: dict[str, Any], op_type: str) -> None:
    arrays = [None if a is None else np.asarray(a) for a in arrays]
    made = of_composite(f"std.quantized.{name}", arrays, attrs, False)
    assert op_type in ops(build(made))
    feeds = {f"x{i}": a for i, a in enumerate(arrays) if a is not None}
    with torch.no_grad():
        by_torch = torch_backend.build(made)(**{n: torch.from_numpy(np.array(a)) for n, a in feeds.items()})
    # ONNX Runtime has no convolution of f64, in which the body computes.
    for claims in (True, False)[: 1 if name == "integer_conv" else 2]:
        found = session(made, claims=claims)(feeds)
        for key, wanted in by_torch.items():
            np.testing.assert_array_equal(found[key], wanted.numpy())


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("quantize", [X, STEP, np.array([7], np.int16)]),
        ("integer_affine", [A.astype(np.int32), W, np.int32(5), ZEROS]),
        ("integer_matmul", [A, whole(2, 4, 3, dtype=I8), np.uint8(5), ZEROS]),
    ],
)
def test_what_onnx_has_no_op_for_is_computed_by_the_body(name: str, arrays: list[Any]) -> None:
    made = of_composite(f"std.quantized.{name}", [np.asarray(a) for a in arrays], {}, False)
    assert ops(build(made)) == ops(build(made, claims=False))


def test_ends_of_the_range_and_halves() -> None:
    made = of_composite("std.quantized.quantize", [X[0, 0], STEP, np.array([0], I8)], {}, False)
    (found,) = session(made)({"x0": real(-1e9, 0.375, 1e9), "x1": STEP, "x2": np.array([0], I8)}).values()
    assert found.tolist() == [-128, 2, 127]
