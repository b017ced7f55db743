"""Functions of numbers that generated kernels call, the same on a GPU and in the interpreter."""

from __future__ import annotations

import triton
import triton.language as tl

from .launch import INTERPRETED

# The interpreter cuts the digits of bf16 off, where a GPU rounds.
_CUTS = tl.constexpr(INTERPRETED)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """x in f32, rounded to the numbers of a narrower dtype; halves go to the even one."""
    if _CUTS and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        near = bits.to(tl.float32, bitcast=True)
        return tl.where(x == x, near, x)
    return x.to(dtype).to(tl.float32)


@triton.jit
def tanh(x):
    """The hyperbolic tangent in f32 (Moshier's Cephes library, ``tanhf``): near 0 a polynomial, which keeps its digits."""
    size = tl.abs(x)
    # Beyond 9 it is 1 in f32, and no exponential overflows before.
    e = tl.exp(2.0 * tl.minimum(size, 10.0))
    far = 1.0 - 2.0 / (e + 1.0)
    far = tl.where(x < 0.0, -far, far)
    s = x * x
    p = (((-5.70498872745e-3 * s + 2.06390887954e-2) * s - 5.37397155531e-2) * s + 1.33314422036e-1) * s - 3.33332819422e-1
    y = tl.where(size < 0.625, p * s * x + x, far)
    return tl.where(x == x, y, x)


@triton.jit
def nearest(x):
    """The nearest integer; halves go to the even one."""
    low = tl.floor(x)
    above = x - low
    odd = low - 2.0 * tl.floor(low * 0.5) == 1.0
    return tl.where((above > 0.5) | ((above == 0.5) & odd), low + 1.0, low)


@triton.jit
def floor_div(a, b):
    """Integers divided, rounded down, whichever way the machine rounds."""
    q = a // b
    r = a - q * b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)


@triton.jit
def floor_mod(a, b):
    """What is left of integers that are divided, with the sign of b."""
    r = a % b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)


@triton.jit
def highest(x, inside):
    """The largest element of each row of floats [M, N] that counts, [M, 1]; NaN where there is one."""
    found = tl.max(tl.where(inside, x, float("-inf")), 1, keep_dims=True)
    holes = tl.max((inside & (x != x)).to(tl.int32), 1, keep_dims=True)
    return tl.where(holes != 0, float("nan"), found)


@triton.jit
def log_sum_exp(x, inside):
    """The log of the sum of exponentials of each row of floats [M, N] over what counts, [M, 1]."""
    most = highest(x, inside)
    offset = tl.where((most == float("inf")) | (most == float("-inf")), 0.0, most)
    return tl.log(tl.sum(tl.where(inside, tl.exp(x - offset), 0.0), 1, keep_dims=True)) + offset
