"""``torch.ops.tessera.attention``: the launches of :mod:`.flash`, with their gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import flash as kernels
from . import plain
from .launch import attempt, ceildiv, check, kind, launch, tile
from .tune import choices, launch_best

Statistics = tuple[Tensor, Tensor, Tensor, Tensor]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float = 0.0,
    column_mass: bool = False,
    row: int | None = None,
) -> Statistics:
    """Scaled dot-product attention and what is asked of its weights, which are never stored (``std.attention.attention``).

    Args:
        q: [B, H, T, K]; f32, f16 or bf16.
        k: [B, G, S, K]; head h reads the keys of head h // (H / G).
        v: [B, G, S, V].
        mask: bool [B, H, T, S], true where a query may attend; axes may be 1. A query that may attend to nothing gives 0.
        bias: [B, H, T, S], added to the scaled scores; axes may be 1.
        causal: query t sees the keys up to t + S - T.
        scale: of the scores; K ** -0.5 where it is not given.
        softcap: bounds the scaled scores to +- so much, where it is not 0.
        column_mass: whether to give what each key receives, averaged over heads and queries.
        row: the query whose weights are given; negative ones count from the end.

    Returns:
        The result [B, H, T, V], the column mass [B, S], the row [B, H, S] and the log of the sum of exponentials [B, H, T] in f32;
        what was not asked for has no elements. All are differentiable, bias included.

    Raises:
        ValueError: shapes that do not go together, or a row that there is not.
        TypeError, RuntimeError: dtypes and devices that no kernel takes.
    """
    b, h, t, width = q.shape
    if k.dim() != 4 or v.dim() != 4 or k.shape[:3] != v.shape[:3] or k.shape[0] != b or k.shape[3] != width or h % k.shape[1]:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} do not go together")
    if row is not None and not -t <= row < t:
        raise ValueError(f"there is no query number {row} among {t}")
    whole = (b, h, t, k.shape[2])
    for name, given in (("mask", mask), ("bias", bias)):
        if given is not None and any(have not in (1, want) for have, want in zip(given.shape, whole, strict=True)):
            raise ValueError(f"the {name} {tuple(given.shape)} does not go with scores {whole}")
    check("attention", q, k, v, bias)
    place = -1 if row is None else row % t
    scale = width**-0.5 if scale is None else scale
    found: Statistics = _attention(q, k, v, mask, bias, causal, scale, softcap, column_mass, place)
    return found


def attention_with_mass(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, *, causal: bool = False,
    scale: float | None = None, softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The result of :func:`attention`, and what each key receives of it, [B, S]."""
    return attention(q, k, v, mask, bias, causal=causal, scale=scale, softcap=softcap, column_mass=True)[:2]


@torch.library.custom_op("tessera::attention", mutates_args=())
def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, causal: bool, scale: float, softcap: float,
    column_mass: bool, row: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    def launched() -> Statistics:
        call = _Call(q, k, v, mask, bias, causal, scale, softcap)
        mass, picked = call.nothing(), call.nothing()
        if column_mass and call.pays:
            y, lse, paid = call.forward_and_paid()
            mass = (paid.sum((1, 2)) / (call.h * call.t)).to(q.dtype)
        else:
            y, lse = call.forward(v)
            if column_mass:
                mass = (call.mass(lse, 0, call.t).sum(1) / (call.h * call.t)).to(q.dtype)
        if row >= 0:
            picked = call.mass(lse, row, row + 1).to(q.dtype)
        return y.to(q.dtype), mass, picked, lse

    definition = partial(plain.attention, q, k, v, mask, bias, causal, scale, softcap, column_mass, row)
    return attempt("attention", kind(q, v), launched, definition)


@_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, causal: bool, scale: float, softcap: float,
    column_mass: bool, row: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    b, h, t, _ = q.shape
    s = k.shape[2]
    return (
        q.new_empty(b, h, t, v.shape[3]),
        q.new_empty((b, s) if column_mass else (0,)),
        q.new_empty((b, h, s) if row >= 0 else (0,)),
        q.new_empty((b, h, t), dtype=torch.float32),
    )


@torch.library.custom_op("tessera::attention_backward", mutates_args=())
def _backward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, causal: bool, scale: float, softcap: float, row: int,
    y: Tensor, lse: Tensor, dy: Tensor | None, dmass: Tensor | None, drow: Tensor | None, dlse: Tensor | None, bias_learns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    call = _Call(q, k, v, mask, bias, causal, scale, softcap)
    return attempt(
        "attention's gradient", kind(q, v), partial(call.backward, y, lse, dy, dmass, drow, dlse, row, bias_learns),
        partial(
            plain.attention_backward, q, k, v, mask, bias, causal, scale, softcap, row, lse, dy, dmass, drow, dlse, bias_learns
        ),
    )  # fmt: skip


@_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, causal: bool, scale: float, softcap: float, row: int,
    y: Tensor, lse: Tensor, dy: Tensor | None, dmass: Tensor | None, drow: Tensor | None, dlse: Tensor | None, bias_learns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dbias = torch.empty_like(bias) if bias is not None and bias_learns else q.new_empty(0)
    return q.new_empty(q.shape), q.new_empty(k.shape), q.new_empty(v.shape), dbias


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, mask, bias, ctx.causal, ctx.scale, ctx.softcap, ctx.column_mass, ctx.row = inputs
    ctx.save_for_backward(q, k, v, mask, bias, output[0], output[3])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dy: Tensor | None, dmass: Tensor | None, drow: Tensor | None, dlse: Tensor | None) -> tuple[Any, ...]:
    q, k, v, mask, bias, y, lse = ctx.saved_tensors
    learns = bias is not None and ctx.needs_input_grad[4]
    dq, dk, dv, dbias = _backward(
        q, k, v, mask, bias, ctx.causal, ctx.scale, ctx.softcap, ctx.row, y, lse, dy,
        dmass if ctx.column_mass else None, drow if ctx.row >= 0 else None, dlse, learns,
    )  # fmt: skip
    return dq, dk, dv, None, dbias if learns else None, None, None, None, None, None


torch.library.register_autograd("tessera::attention", _gradients, setup_context=_setup)


class _Call:
    """Operands as the kernels take them: the last axis dense, masks and biases with strides of 0 where they are broadcast."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, causal: bool, scale: float, softcap: float
    ) -> None:
        self.q, self.k, self.v = _dense(q), _dense(k), _dense(v)
        self.b, self.h, self.t, self.d = q.shape
        self.g, self.s = k.shape[1], k.shape[2]
        whole = (self.b, self.h, self.t, self.s)
        self.given = bias
        self.bias = None if bias is None else bias.expand(whole)
        self.mask = None if mask is None else mask.view(torch.int8).expand(whole)
        self.scale, self.cap = float(scale), float(softcap)
        self.flags = {
            "CAUSAL": causal, "HAS_BIAS": bias is not None, "HAS_MASK": mask is not None, "CAPPED": softcap != 0.0,
        }  # fmt: skip
        # As large as leaves everything in registers on sm_80 and sm_90 (tests/kernels/compiled.json).
        extra = bias is not None or mask is not None
        self.tiles = {"BD": tile(self.d), "M": tile(self.t, 64), "N": tile(self.s, 32 if extra or self.d > 64 else 64)}
        self.tiles_back = {"BD": tile(self.d), "M": tile(self.t, 32 if extra or self.d > 64 else 64), "N": tile(self.s, 32)}

    def nothing(self) -> Tensor:
        return self.q.new_empty(0)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to launch for."""
        return 0 in (self.b, self.h, self.t, self.s)

    def extras(self) -> tuple[tuple[Tensor, Tensor], tuple[int, ...]]:
        """Bias and mask, anything where there is none, and their strides."""
        bias, mask = (self.q if x is None else x for x in (self.bias, self.mask))
        strides = [(0,) * 4 if x is None else x.stride() for x in (self.bias, self.mask)]
        return (bias, mask), (*strides[0], *strides[1])

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The result [B, H, T, E] of values v, in their dtype, and the log of the sums of exponentials."""
        v = _dense(v)
        e = v.shape[3]
        y = v.new_zeros(self.b, self.h, self.t, e)
        lse = torch.full((self.b, self.h, self.t), float("-inf"), dtype=torch.float32, device=v.device)
        if not self.empty:
            (bias, mask), strides = self.extras()
            own = {"M": self.tiles["M"], "N": self.tiles["N"]}
            large = {"M": tile(self.t, 128), "N": tile(self.s, 64), "num_warps": 8}
            launch_best(
                kernels.forward, lambda tiles: (ceildiv(self.t, tiles["M"]), self.b * self.h),
                choices(own, {**own, "num_stages": 2}, large, {**large, "N": tile(self.s, 128)}),
                (self.b * self.h, self.t, self.s),
                self.q, self.k, v, bias, mask, y, lse, *self.q.stride()[:3], *self.k.stride()[:3], *v.stride()[:3], *strides,
                self.h, self.h // self.g, self.t, self.s, self.d, e, self.scale, self.cap,
                **self.flags, BD=self.tiles["BD"], BE=tile(e),
            )  # fmt: skip
        return y, lse

    @property
    def pays(self) -> bool:
        """Whether the launch that attends says what keys receive, too: of more keys that is more memory than they are, and of wider
        ones registers spill."""
        return not self.empty and self.s <= 1024 and max(self.d, self.v.shape[3]) <= 64

    def forward_and_paid(self) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`forward`, and what each tile of queries pays each key, [B, H, tiles, S] in f32."""
        e = self.v.shape[3]
        m, n = tile(self.t, 64), tile(self.s, 32)
        programs = ceildiv(self.t, m)
        y = self.v.new_empty(self.b, self.h, self.t, e)
        lse = torch.empty((self.b, self.h, self.t), dtype=torch.float32, device=y.device)
        paid = torch.zeros((self.b, self.h, programs, self.s), dtype=torch.float32, device=y.device)
        (bias, mask), strides = self.extras()
        tiles = ceildiv(self.s, n)
        # As many as leave everything in registers on sm_80 and sm_90 (tests/kernels/compiled.json).
        crowded = self.bias is not None or self.mask is not None
        first = 0 if crowded else 2 if self.v.dtype == torch.float32 else 4
        launch_best(
            kernels.paying, lambda tiles: (programs, self.b * self.h),
            choices(*({"HELD": min(held, tiles)} for held in (first, 8, 0))), (self.b * self.h, self.t, self.s),
            self.q, self.k, self.v, bias, mask, y, lse, paid,
            *self.q.stride()[:3], *self.k.stride()[:3], *self.v.stride()[:3], *strides,
            self.h, self.h // self.g, self.t, self.s, self.d, e, self.scale, self.cap,
            **self.flags, BD=self.tiles["BD"], BE=tile(e), M=m, N=n,
        )  # fmt: skip
        return y, lse, paid

    def mass(self, lse: Tensor, first: int, last: int) -> Tensor:
        """What the queries from `first` up to `last` pay each key, [B, H, S] in f32."""
        out = torch.zeros((self.b, self.h, self.s), dtype=torch.float32, device=lse.device)
        if not self.empty:
            (bias, mask), strides = self.extras()
            launch(
                kernels.mass, (ceildiv(self.s, self.tiles["N"]), self.b * self.h),
                self.q, self.k, bias, mask, lse, out, *self.q.stride()[:3], *self.k.stride()[:3], *strides,
                self.h, self.h // self.g, self.t, self.s, self.d, self.scale, self.cap, first, last, **self.flags, **self.tiles,
            )  # fmt: skip
        return out

    def backward(
        self, y: Tensor, lse: Tensor, dy: Tensor | None, dmass: Tensor | None, drow: Tensor | None, dlse: Tensor | None, row: int,
        bias_learns: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """Gradients of q, k, v and, where it learns, of the bias.

        With p the weights, the gradient of a score is p * (dp - delta), delta the sum over keys of p * dp. What the statistics
        add to dp is added to delta here: a mass that is read is a column of further values.
        """
        q, k, v = self.q, self.k, self.v
        e = v.shape[3]
        dq, dk, dv = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        dbias = torch.zeros((self.b, self.h, self.t, self.s), device=q.device) if bias_learns else self.nothing()
        if not self.empty:
            dy = torch.zeros_like(y) if dy is None else dy.contiguous()
            delta = (dy.float() * y.float()).sum(-1)
            if dlse is not None:
                delta = delta - dlse
            column = None
            if dmass is not None:
                column = (dmass.float() / (self.h * self.t)).contiguous()
                read, _ = self.forward(column[:, None, :, None].expand(self.b, self.g, self.s, 1))
                delta = delta + read[..., 0]
            if drow is not None:
                drow = drow.float().contiguous()
                delta[:, :, row] += (self.mass(lse, row, row + 1) * drow).sum(-1)
            (bias, mask), strides = self.extras()
            shared = (
                q, k, v, bias, mask, dy, lse, delta.contiguous(), q if column is None else column, q if drow is None else drow,
            )  # fmt: skip
            sizes = (
                *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *strides, self.h, self.h // self.g, self.t, self.s, self.d, e,
                self.scale, self.cap, row,
            )  # fmt: skip
            flags = {**self.flags, "HAS_MASS": column is not None, "HAS_ROW": drow is not None, "BE": tile(e), **self.tiles_back}
            launch(
                kernels.backward_keys, (ceildiv(self.s, self.tiles_back["N"]), self.b * self.g), *shared, dk, dv, *sizes, **flags
            )
            launch(
                kernels.backward_queries, (ceildiv(self.t, self.tiles_back["M"]), self.b * self.h),
                *shared, dq, dbias, *sizes, BIAS_LEARNS=bias_learns, **flags
            )
        if bias_learns:
            assert self.given is not None
            dbias = dbias.sum_to_size(self.given.shape).to(self.given.dtype)
        return dq, dk, dv, dbias


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
