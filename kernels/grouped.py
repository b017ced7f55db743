"""Rows in groups, each times a matrix of its own: the products of experts (``grouped_matmul``).

After the grouped GEMM of MegaBlocks (Gale et al. 2023): a program for a tile of rows of one group, which it finds by counting.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dot import dot
from .launch import ceildiv, check, launch, tile

ROWS = 64


@triton.jit
def product(
    X, W, ENDS, TILES, Y,
    x_n, x_k, w_e, w_k, w_m, E, K, M,
    BM: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Y [N, M] = X [N, K] W[e] [K, M] of the group e of each row. TILES i64[E]: how many tiles of rows there are up to each
    group's end."""
    place = tl.program_id(0)
    # The first group whose tiles do not end before this one; behind the last there is nothing to do.
    e = tl.full((), 0, tl.int64)
    for at in range(E):
        e += (tl.load(TILES + at) <= place).to(tl.int64)
    if e < E:
        begin = tl.load(ENDS + e - 1, e > 0, 0)
        before = tl.load(TILES + e - 1, e > 0, 0)
        rows = begin + (place - before) * BM + tl.arange(0, BM)
        inside = rows < tl.load(ENDS + e)
        columns = tl.program_id(1) * BN + tl.arange(0, BN)
        y = tl.zeros([BM, BN], tl.float32)
        for start in range(0, K, BK):
            k = start + tl.arange(0, BK)
            x = tl.load(X + rows[:, None] * x_n + k[None, :] * x_k, inside[:, None] & (k < K)[None, :], 0.0)
            cell = e * w_e + k[:, None] * w_k + columns[None, :] * w_m
            w = tl.load(W + cell, (k < K)[:, None] & (columns < M)[None, :], 0.0)
            y += dot(x, w)
        tl.store(Y + rows[:, None] * M + columns[None, :], y.to(Y.dtype.element_ty), inside[:, None] & (columns < M)[None, :])


@triton.jit
def outer(
    X, DY, ENDS, DW,
    x_n, x_k, dy_n, dy_m, K, M,
    BM: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """DW [E, K, M] = X' DY over the rows of each group."""
    e = tl.program_id(2)
    k = tl.program_id(0) * BK + tl.arange(0, BK)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    begin = tl.load(ENDS + e - 1, e > 0, 0)
    end = tl.load(ENDS + e)
    w = tl.zeros([BK, BN], tl.float32)
    for start in range(begin, end, BM):
        rows = start + tl.arange(0, BM)
        x = tl.load(X + rows[None, :] * x_n + k[:, None] * x_k, (rows < end)[None, :] & (k < K)[:, None], 0.0)
        dy = tl.load(DY + rows[:, None] * dy_n + columns[None, :] * dy_m, (rows < end)[:, None] & (columns < M)[None, :], 0.0)
        w += dot(x, dy)
    at = e.to(tl.int64) * K * M + k[:, None] * M + columns[None, :]
    tl.store(DW + at, w.to(DW.dtype.element_ty), (k < K)[:, None] & (columns < M)[None, :])


def grouped_matmul(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Row i of x [N, K] times w[e] [K, M] of the first e with ``ends[e] > i``; 0 where there is none. Differentiable in x and w.

    Args:
        ends: int[E], where each group ends; one below an earlier one is an empty group.

    Raises:
        ValueError: shapes that do not go together.
        TypeError, RuntimeError: dtypes and devices that no kernel takes.
    """
    if x.dim() != 2 or w.dim() != 3 or x.shape[1] != w.shape[1] or ends.shape != w.shape[:1] or x.dtype != w.dtype:
        raise ValueError(f"x {tuple(x.shape)}, w {tuple(w.shape)} and ends {tuple(ends.shape)} do not go together")
    check("grouped_matmul", x, w)
    found: Tensor = _grouped(x, w, torch.cummax(ends.long(), 0).values.clamp(0, x.shape[0]))
    return found


@torch.library.custom_op("tessera::grouped_matmul", mutates_args=())
def _grouped(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    n, width = x.shape
    experts, _, out = w.shape
    y = torch.zeros((n, out), dtype=x.dtype, device=x.device)
    if n and experts and out:
        rows = tile(n, ROWS)
        tiles = torch.cumsum((torch.diff(ends, prepend=ends.new_zeros(1)) + rows - 1) // rows, 0)
        blocks = {"BM": rows, "BK": tile(width, 64), "BN": tile(out, 64)}
        # How many tiles there are is known on the device alone: at most one more a group than rows alone would need.
        launch(
            product, (ceildiv(n, rows) + experts, ceildiv(out, blocks["BN"])),
            x, w, ends, tiles, y, *x.stride(), *w.stride(), experts, width, out, **blocks
        )
    return y


@_grouped.register_fake
def _(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[2])


@torch.library.custom_op("tessera::grouped_outer", mutates_args=())
def _grouped_outer(x: Tensor, dy: Tensor, ends: Tensor) -> Tensor:
    width, out, experts = x.shape[1], dy.shape[1], ends.shape[0]
    dw = torch.zeros((experts, width, out), dtype=x.dtype, device=x.device)
    if experts and width and out:
        blocks = {"BM": tile(x.shape[0], ROWS), "BK": tile(width, 64), "BN": tile(out, 64)}
        grid = (ceildiv(width, blocks["BK"]), ceildiv(out, blocks["BN"]), experts)
        launch(outer, grid, x, dy, ends, dw, *x.stride(), *dy.stride(), width, out, **blocks)
    return dw


@_grouped_outer.register_fake
def _(x: Tensor, dy: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(ends.shape[0], x.shape[1], dy.shape[1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, w, ends = ctx.saved_tensors
    dx = _grouped(dy, w.transpose(1, 2), ends) if ctx.needs_input_grad[0] else None
    dw = _grouped_outer(x, dy, ends) if ctx.needs_input_grad[1] else None
    return dx, dw, None


torch.library.register_autograd("tessera::grouped_matmul", _gradients, setup_context=_setup)
