"""Gated experts in three launches behind the sort: rows are read where they lie, and the gate closes on each tile of the product
before it is stored (``std.moe.experts.gated``).

After the fused mixtures of experts of vLLM (Kwon et al. 2023) and ScatterMoE (Tan et al. 2024); a token's experts are added up in
their order, without atomics.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dot import dot
from .grouped import grouped_matmul, launch_product, rows_of, tile_of
from .launch import attempt, ceildiv, check, kind, launch, tile
from .route import sort_by_group
from .tune import choices, launch_best


@triton.jit
def gated_product(
    X, W, BIAS, ORDER, ENDS, H,
    x_n, x_k, w_e, w_k, w_m, E, K, F, EACH, slope, limit, offset,
    HAS_BIAS: tl.constexpr, INTERLEAVED: tl.constexpr, LIMITED: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """H [R, F] = gate * sigmoid(slope * gate) * (up + offset), where gate and up are the product of the token ORDER [R] // EACH
    with W[e] [K, 2 F] of its group e. ENDS as of :func:`.grouped.product`."""
    e, start = tile_of(ENDS, E, tl.program_id(0), BM)
    if e < E:
        rows = tl.load(ENDS + e - 1, e > 0, 0) + start + tl.arange(0, BM)
        inside = rows < tl.load(ENDS + e)
        token = tl.load(ORDER + rows, inside, 0) // EACH
        columns = tl.program_id(1) * BN + tl.arange(0, BN)
        first, second = columns, columns + F
        if INTERLEAVED:
            first, second = 2 * columns, 2 * columns + 1
        gate = tl.zeros([BM, BN], tl.float32)
        up = tl.zeros([BM, BN], tl.float32)
        for chunk in range(0, K, BK):
            k = chunk + tl.arange(0, BK)
            x = tl.load(X + token[:, None] * x_n + k[None, :] * x_k, inside[:, None] & (k < K)[None, :], 0.0)
            there = (k < K)[:, None] & (columns < F)[None, :]
            from_w = W + e * w_e + k[:, None] * w_k
            gate += dot(x, tl.load(from_w + first[None, :] * w_m, there, 0.0))
            up += dot(x, tl.load(from_w + second[None, :] * w_m, there, 0.0))
        if HAS_BIAS:
            from_bias = BIAS + e * 2 * F
            gate += tl.load(from_bias + first, columns < F, 0.0).to(tl.float32)[None, :]
            up += tl.load(from_bias + second, columns < F, 0.0).to(tl.float32)[None, :]
        if LIMITED:
            gate = tl.minimum(gate, limit)
            up = tl.maximum(tl.minimum(up, limit), -limit)
        h = gate * tl.sigmoid(gate * slope) * (up + offset)
        tl.store(H + rows[:, None] * F + columns[None, :], h.to(H.dtype.element_ty), inside[:, None] & (columns < F)[None, :])


@triton.jit
def combined(
    ROWS_OF, INVERSE, EXPERT, WEIGHT, BIAS, Y,
    E, K, D,
    HAS_BIAS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Y [N, D]: the rows ROWS_OF [N K, D] of each token's K pairs, with the biases [E, D] of their experts, times WEIGHT f32[N, K].
    A pair without an expert has no row."""
    n = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    y = tl.zeros([BD], tl.float32)
    for k in range(K):
        expert = tl.load(EXPERT + n * K + k)
        there = d < tl.where(expert < E, D, 0)
        row = tl.load(ROWS_OF + tl.load(INVERSE + n * K + k) * D + d, there, 0.0).to(tl.float32)
        if HAS_BIAS:
            row += tl.load(BIAS + tl.maximum(expert, 0) * D + d, there, 0.0).to(tl.float32)
        y += row * tl.load(WEIGHT + n * K + k).to(Y.dtype.element_ty).to(tl.float32)
    tl.store(Y + n * D + d, y.to(Y.dtype.element_ty), d < D)


def gated_experts(
    x: Tensor,
    expert: Tensor,
    weight: Tensor,
    gate_up: Tensor,
    down: Tensor,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    *,
    slope: float = 1.0,
    interleaved: bool = False,
    limit: float = 0.0,
    offset: float = 0.0,
) -> Tensor:
    """The weighted sum [N, D] of each token's experts, with gates g * sigmoid(slope * g) (``std.moe.experts.gated``).

    Where a gradient is asked for, rows are gathered, and :func:`tessera.kernels.grouped_matmul` computes the products.

    Args:
        x: [N, D].
        expert: i64[N, K], from 0; E and more is none, which adds nothing.
        weight: f32[N, K].
        gate_up: [E, D, 2 F], with the gate in front, or in turn with what is gated (``interleaved``).
        down: [E, F, D].
        gate_up_bias: [E, 2 F].
        down_bias: [E, D].
        slope: 1 for SiLU, 1.702 for an approximate GELU.
        limit: what the gate is at most, and what is gated lies within, where it is not 0.
        offset: added to what is gated.

    Raises:
        ValueError: shapes that do not go together.
        TypeError, RuntimeError: dtypes and devices that no kernel takes.
    """
    (n, width), (experts, _, wide) = x.shape, gate_up.shape
    shapes = {"gate_up": (experts, width, wide), "down": (experts, wide // 2, width)}
    biases = {"gate_up_bias": (experts, wide), "down_bias": (experts, width)}
    given = {"gate_up": gate_up, "down": down, "gate_up_bias": gate_up_bias, "down_bias": down_bias}
    for name, shape in (shapes | biases).items():
        found = given[name]
        if found is not None and (found.shape != shape or found.dtype != x.dtype):
            raise ValueError(f"{name} is {found.dtype} {tuple(found.shape)}, where x goes with {x.dtype} {shape}")
    if wide % 2 or expert.shape != weight.shape or expert.dim() != 2 or expert.shape[0] != n:
        raise ValueError(f"experts {tuple(expert.shape)} and weights {tuple(weight.shape)} do not go with x {tuple(x.shape)}")
    check("gated_experts", x, gate_up, down, gate_up_bias, down_bias)
    call = (x, expert, weight, gate_up, down, gate_up_bias, down_bias, float(slope), interleaved, float(limit), float(offset))
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in call):
        return _by_parts(*call)
    y: Tensor = _gated_experts(*call)
    return y


def _by_parts(
    x: Tensor, expert: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor, gate_up_bias: Tensor | None, down_bias: Tensor | None,
    slope: float, interleaved: bool, limit: float, offset: float,
) -> Tensor:  # fmt: skip
    """The same by ``grouped_matmul``, of rows that are gathered."""
    (n, k), experts = expert.shape, gate_up.shape[0]
    own = expert.clamp(0, experts).flatten()
    order, ends, inverse = sort_by_group(own, experts)

    def biased(y: Tensor, bias: Tensor | None) -> Tensor:
        return y if bias is None else y + torch.cat((bias, bias.new_zeros(1, bias.shape[1])))[own[order]]

    h = biased(grouped_matmul(x[order // k], gate_up, ends), gate_up_bias)
    gate, up = (h[:, ::2], h[:, 1::2]) if interleaved else h.chunk(2, 1)
    if limit > 0:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    y = biased(grouped_matmul(gate * torch.sigmoid(gate * slope) * (up + offset), down, ends), down_bias)
    return (y[inverse].view(n, k, x.shape[1]) * weight.to(y.dtype)[:, :, None]).sum(1)


@torch.library.custom_op("tessera::gated_experts", mutates_args=())
def _gated_experts(
    x: Tensor, expert: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor, gate_up_bias: Tensor | None, down_bias: Tensor | None,
    slope: float, interleaved: bool, limit: float, offset: float,
) -> Tensor:  # fmt: skip
    given = (x, expert, weight, gate_up, down, gate_up_bias, down_bias, slope, interleaved, limit, offset)
    return attempt("gated_experts", kind(x, down), partial(_experts_launched, *given), partial(_by_parts, *given))


def _experts_launched(
    x: Tensor, expert: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor, gate_up_bias: Tensor | None, down_bias: Tensor | None,
    slope: float, interleaved: bool, limit: float, offset: float,
) -> Tensor:  # fmt: skip
    (n, width), (experts, hidden, _), k = x.shape, down.shape, expert.shape[1]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if 0 in (n, k, width, experts):
        return y.zero_()
    order, ends, inverse = sort_by_group(expert.clamp(0, experts).flatten(), experts)
    count = n * k
    rows = rows_of(count, experts)
    # Two products are held at once: more warps share them.
    own = {"BK": tile(width, 32), "BN": tile(hidden, 64), "num_warps": 8}
    h = torch.empty((count, hidden), dtype=x.dtype, device=x.device)
    launch_best(
        gated_product, lambda choice: (ceildiv(count, rows) + experts, ceildiv(hidden, choice["BN"])),
        choices(
            own, {**own, "BK": tile(width, 64)}, {**own, "BK": tile(width, 64), "num_stages": 4}, {**own, "BN": tile(hidden, 128)},
        ),
        (count, experts, width, hidden),
        x, gate_up, x if gate_up_bias is None else gate_up_bias.contiguous(), order, ends, h,
        *x.stride(), *gate_up.stride(), experts, width, hidden, k, slope, limit, offset,
        HAS_BIAS=gate_up_bias is not None, INTERLEAVED=interleaved, LIMITED=limit > 0, BM=rows,
    )  # fmt: skip
    out = torch.empty((count, width), dtype=x.dtype, device=x.device)
    launch_product(h, down, ends, out, rows)
    block = tile(width, 1024)
    launch(
        combined, (n, ceildiv(width, block)),
        out, inverse, expert.contiguous(), weight.float().contiguous(), out if down_bias is None else down_bias.contiguous(), y,
        experts, k, width, HAS_BIAS=down_bias is not None, BD=block,
    )  # fmt: skip
    return y


@_gated_experts.register_fake
def _(
    x: Tensor, expert: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor, gate_up_bias: Tensor | None, down_bias: Tensor | None,
    slope: float, interleaved: bool, limit: float, offset: float,
) -> Tensor:  # fmt: skip
    return torch.empty_like(x, memory_format=torch.contiguous_format)
