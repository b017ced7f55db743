"""Products of tiles, the same in every kernel."""

from __future__ import annotations

import triton
import triton.language as tl

from .launch import INTERPRETED

# The interpreter knows no product of bf16, whose numbers it holds as integers.
_WIDEN = tl.constexpr(INTERPRETED)


@triton.jit
def dot(a, b):
    """a [M, K] times b [K, N], accumulated in f32, and exactly so where they are f32."""
    if _WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")
