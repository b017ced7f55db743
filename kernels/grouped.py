"""Rows in groups, each times a matrix of its own: the products of experts (``grouped_matmul``).

After the grouped GEMM of MegaBlocks (Gale et al. 2023): a program for a tile of rows of one group, which it finds by counting.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import plain
from .dot import dot
from .launch import attempt, ceildiv, check, kind, launch, tile
from .tune import choices, launch_best

ROWS = 64


@triton.jit
def tile_of(ENDS, E, place, BM: tl.constexpr):
    """The group of the tile of that number, E behind the last one; and where in its group the tile of BM rows begins.

    ENDS i64[E], where groups end, ascends.
    """
    e = tl.full((), 0, tl.int64)
    before = tl.full((), 0, tl.int64)
    upto = tl.full((), 0, tl.int64)
    last = tl.full((), 0, tl.int64)
    for at in range(E):
        end = tl.load(ENDS + at)
        upto += (end - last + BM - 1) // BM
        last = end
        passed = upto <= place
        e += passed.to(tl.int64)
        before = tl.where(passed, upto, before)
    return e, (place - before) * BM


@triton.jit
def product(
    X, W, ENDS, Y,
    x_n, x_k, w_e, w_k, w_m, E, K, M,
    BM: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Y [N, M] = X [N, K] W[e] [K, M] of the group e of each row. ENDS i64[E]: where groups end, ascending."""
    e, start = tile_of(ENDS, E, tl.program_id(0), BM)
    # Behind the last tile there is nothing to do.
    if e < E:
        rows = tl.load(ENDS + e - 1, e > 0, 0) + start + tl.arange(0, BM)
        inside = rows < tl.load(ENDS + e)
        columns = tl.program_id(1) * BN + tl.arange(0, BN)
        y = tl.zeros([BM, BN], tl.float32)
        for chunk in range(0, K, BK):
            k = chunk + tl.arange(0, BK)
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


def rows_of(rows: int, groups: int) -> int:
    """How many rows a tile has: of few rows a group, few, so that less of a tile is empty."""
    return tile(ceildiv(2 * rows, max(groups, 1)), ROWS)


def launch_product(x: Tensor, w: Tensor, ends: Tensor, y: Tensor, rows: int) -> None:
    """``product`` at tiles of so many rows."""
    (n, width), (experts, _, out) = x.shape, w.shape
    own = {"BK": tile(width, 64), "BN": tile(out, 64)}
    # How many tiles there are is known on the device alone: at most one more a group than rows alone would need.
    launch_best(
        product, lambda choice: (ceildiv(n, rows) + experts, ceildiv(out, choice["BN"])),
        choices(
            own, {**own, "num_stages": 4}, {"BK": tile(width, 128), "BN": own["BN"]},
            {"BK": own["BK"], "BN": tile(out, 128), "num_warps": 8},
        ),
        (n, experts, width, out), x, w, ends, y, *x.stride(), *w.stride(), experts, width, out, BM=rows,
    )  # fmt: skip


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
    return attempt(
        "grouped_matmul", kind(x, w), partial(_grouped_launched, x, w, ends), partial(plain.grouped_matmul, x, w, ends)
    )


def _grouped_launched(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    (n, _), (experts, _, out) = x.shape, w.shape
    y = torch.zeros((n, out), dtype=x.dtype, device=x.device)
    if n and experts and out:
        launch_product(x, w, ends, y, rows_of(n, experts))
    return y


@_grouped.register_fake
def _(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[2])


@torch.library.custom_op("tessera::grouped_outer", mutates_args=())
def _grouped_outer(x: Tensor, dy: Tensor, ends: Tensor) -> Tensor:
    return attempt(
        "grouped_outer", kind(x, dy), partial(_outer_launched, x, dy, ends), partial(plain.grouped_outer, x, dy, ends)
    )


def _outer_launched(x: Tensor, dy: Tensor, ends: Tensor) -> Tensor:
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
