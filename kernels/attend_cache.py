"""``torch.ops.tessera.cached_attention``: the launches of :mod:`.cached`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from . import cached as kernels
from . import plain
from .attend import attention
from .launch import attempt, ceildiv, check, kind, launch, tile

# So many programs keep a large GPU busy, and so many splits are joined at most.
PROGRAMS, SPLITS = 512, 64


def cached_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    index: Tensor | None = None,
    cosine: Tensor | None = None,
    sine: Tensor | None = None,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    until: Tensor | None = None,
    start: Tensor | None = None,
    tree: Tensor | None = None,
    *,
    pages: bool = False,
    interleaved: bool = False,
    scale: float | None = None,
    softcap: float = 0.0,
) -> Tensor:
    """Attention [B, H, T, V] of the queries q [B, H, T, K] to S slots of a cache; a query that sees nothing gives 0.

    Where a gradient is asked for, what is read is gathered, and :func:`tessera.kernels.attention` computes it.

    Args:
        keys: [B, G, C, K]; head h reads those of head h // (H / G). With ``pages`` a pool [P, G, C, K] that all rows read by lists,
            slot s the one numbered s % C of page s // C.
        values: the same, of V features.
        index: i64[B, S] or [B, G, S], the slots that are read, all C without; a query that sees one that there is not gives NaN.
        cosine: [1 or B, S, R], by which the key that is read n-th is turned, as ``std.attention.rope`` does; with ``sine``.
        mask: bool [B, H, T, S], true where a query may attend; axes may be 1.
        bias: [B, H, T, S], added to the scaled scores; axes may be 1.
        until: i64[B, T], the last slot that a query sees; axes may be 1.
        start: i64[B], with ``tree``: the slots before it are seen by all queries,
        tree: bool [B, T, T], and of the T behind it those that this says, a row a query.
        interleaved: as of ``std.attention.rope``.
        scale: of the scores; K ** -0.5 where it is not given.
        softcap: bounds the scaled scores to +- so much, where it is not 0.

    Raises:
        ValueError: shapes that do not go together, or half of a pair of operands.
        TypeError, RuntimeError: dtypes and devices that no kernel takes.
    """
    b, h, _, width = q.shape
    rows, g, c, _ = keys.shape
    if keys.dim() != 4 or keys.shape[:3] != values.shape[:3] or keys.shape[3] != width or h % g or (rows != b and not pages):
        raise ValueError(f"q {tuple(q.shape)}, keys {tuple(keys.shape)} and values {tuple(values.shape)} do not go together")
    if index is not None and tuple(index.shape[:-1]) not in ((b,), (b, g)):
        raise ValueError(f"the index {tuple(index.shape)} does not go with {g} heads of {b} rows")
    if (cosine is None) != (sine is None) or (start is None) != (tree is None) or (pages and index is None):
        raise ValueError("cosine and sine are given together, start and tree too, and an index with pages")
    read = c if index is None else index.shape[-1]
    whole = (b, h, q.shape[2], read)
    for name, x in (("mask", mask), ("bias", bias)):
        if x is not None and any(have not in (1, want) for have, want in zip(x.shape, whole, strict=True)):
            raise ValueError(f"the {name} {tuple(x.shape)} does not go with scores {whole}")
    check("cached_attention", q, keys, values, bias)
    given = (q, keys, values, index, cosine, sine, mask, bias, until, start, tree)
    facts = (pages, interleaved, width**-0.5 if scale is None else float(scale), float(softcap))
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given):
        return _gathered(*given, *facts)
    found: Tensor = _cached(*given, *facts)
    return found


def _gathered(
    q: Tensor, keys: Tensor, values: Tensor, index: Tensor | None, cosine: Tensor | None, sine: Tensor | None, mask: Tensor | None,
    bias: Tensor | None, until: Tensor | None, start: Tensor | None, tree: Tensor | None, pages: bool, interleaved: bool,
    scale: float, softcap: float,
) -> Tensor:  # fmt: skip
    """The same by ``attention``, of what was gathered, turned and masked."""
    b, g, c = q.shape[0], keys.shape[1], keys.shape[2]
    slots = torch.arange(c, device=q.device).view(1, 1, c)
    if index is not None:
        slots = index[:, None] if index.dim() == 2 else index
        keys, values = (plain.gathered(x, slots.expand(b, g, slots.shape[2]), pages) for x in (keys, values))
    if cosine is not None and sine is not None:
        keys = plain.turned(keys, cosine, sine, interleaved)
    seen = (slots if slots.shape[1] == 1 else slots.repeat_interleave(q.shape[1] // g, 1))[:, :, None]
    if until is not None:
        mask = _both(mask, seen <= until[:, None, :, None])
    if start is not None and tree is not None:
        mask = _both(mask, plain.in_tree(seen, start, tree))
    return attention(q, keys, values, mask, bias, scale=scale, softcap=softcap)[0]


def _both(mask: Tensor | None, seen: Tensor) -> Tensor:
    return seen if mask is None else mask & seen


@torch.library.custom_op("tessera::cached_attention", mutates_args=())
def _cached(
    q: Tensor, keys: Tensor, values: Tensor, index: Tensor | None, cosine: Tensor | None, sine: Tensor | None, mask: Tensor | None,
    bias: Tensor | None, until: Tensor | None, start: Tensor | None, tree: Tensor | None, pages: bool, interleaved: bool,
    scale: float, softcap: float,
) -> Tensor:  # fmt: skip
    given = (q, keys, values, index, cosine, sine, mask, bias, until, start, tree, pages, interleaved, scale, softcap)
    return attempt("cached_attention", kind(keys, values), partial(_launched, *given), partial(_gathered, *given))


def _launched(
    q: Tensor, keys: Tensor, values: Tensor, index: Tensor | None, cosine: Tensor | None, sine: Tensor | None, mask: Tensor | None,
    bias: Tensor | None, until: Tensor | None, start: Tensor | None, tree: Tensor | None, pages: bool, interleaved: bool,
    scale: float, softcap: float,
) -> Tensor:  # fmt: skip
    b, h, t, width = q.shape
    _, g, c, out = values.shape
    y = values.new_zeros(b, h, t, out)
    s = c if index is None else index.shape[-1]
    if 0 in (b, h, t, s, out, c):
        return y
    q, keys, values = (x if x.stride(3) == 1 else x.contiguous() for x in (q, keys, values))
    if index is not None:
        index = (index[:, None] if index.dim() == 2 else index).expand(b, g, s)
    whole = (b, h, t, s)
    bias = None if bias is None else bias.expand(whole)
    mask = None if mask is None else mask.view(torch.int8).expand(whole)
    until = None if until is None else until.expand(b, t)
    turns = cosine is not None and sine is not None
    pairs = cosine.shape[2] if cosine is not None else 0
    turn_b = 0 if cosine is None or cosine.shape[0] == 1 else s * pairs
    # What is not given is never read.
    cosine, sine = (q if x is None else x.contiguous() for x in (cosine, sine))
    places = [(x.stride(0), x.stride(1), x.stride(0), x.stride(2)) for x in (keys, values)]
    places = [(0 if pages else row, head, row if pages else 0, slot) for row, head, _, slot in places]
    # As large as leaves everything in registers on sm_80 and sm_90 (tests/kernels/compiled.json).
    blocks = {"BD": tile(width), "BE": tile(out), "M": tile(h // g * t, 32), "N": tile(s, 32)}
    options = {"num_warps": 8 if max(width, out) > 64 else 4}
    tiles, rows = ceildiv(s, blocks["N"]), ceildiv(h // g * t, blocks["M"])
    splits = min(tiles, SPLITS, ceildiv(PROGRAMS, b * g * rows))
    each = ceildiv(tiles, splits)
    splits = ceildiv(tiles, each)
    parts = torch.empty((b, h, t, splits, out), dtype=torch.float32, device=q.device)
    lse = torch.empty((b, h, t, splits), dtype=torch.float32, device=q.device)
    given = (index, cosine, sine, mask, bias, until, start, None if tree is None else tree.contiguous().view(torch.int8))
    launch(
        kernels.partial, (splits, rows, b * g), q, keys, values, *(q if x is None else x for x in given), parts, lse,
        *q.stride()[:3], *places[0], *places[1], *_strides(index, 3), turn_b, *_strides(bias, 4), *_strides(mask, 4),
        *_strides(until, 2), h, h // g, t, s, keys.shape[0] * c if pages else c, c, width, out, pairs, splits, each, scale, softcap,
        LISTED=index is not None, PAGED=pages, TURNED=turns, INTERLEAVED=interleaved,
        BOUNDED=until is not None, DRAFTED=tree is not None,
        HAS_BIAS=bias is not None, HAS_MASK=mask is not None, CAPPED=softcap != 0.0, options=options, **blocks,
    )  # fmt: skip
    launch(kernels.joined, (b * h * t,), parts, lse, y, splits, out, BE=blocks["BE"], BS=tile(splits))
    return y


def _strides(x: Tensor | None, rank: int) -> tuple[int, ...]:
    return (0,) * rank if x is None else x.stride()


@_cached.register_fake
def _(
    q: Tensor, keys: Tensor, values: Tensor, index: Tensor | None, cosine: Tensor | None, sine: Tensor | None, mask: Tensor | None,
    bias: Tensor | None, until: Tensor | None, start: Tensor | None, tree: Tensor | None, pages: bool, interleaved: bool,
    scale: float, softcap: float,
) -> Tensor:  # fmt: skip
    return values.new_empty(*q.shape[:3], values.shape[3])
