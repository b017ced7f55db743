"""What one PyTorch call cannot express; the generated source knows this module as ``ops``. Imported with torch only.

Half precision: sums over segments are taken in f32, as PyTorch's own reductions do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = tuple[Tensor, ...]


def minimum(*sizes: Any) -> Any:
    """``min`` of sizes, which stays symbolic where they are."""
    return reduce(torch.sym_min, sizes)


def maximum(*sizes: Any) -> Any:
    """``max`` of sizes, which stays symbolic where they are."""
    return reduce(torch.sym_max, sizes)


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; not a number where x is none (torch.sign says 0)."""
    return torch.where(x == x, torch.sign(x), x) if x.is_floating_point() else torch.sign(x)


class StraightThrough(torch.autograd.Function):
    """``hard`` forwards, bit by bit; backwards the gradient goes to ``soft``."""

    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, grads[0]


class ScaleGradient(torch.autograd.Function):
    """x forwards; backwards the gradient times ``scale``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.scale, None


def prod(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    """The product over several axes; torch.prod takes one."""
    for axis in reversed(axes):
        x = torch.prod(x, axis, keepdim=keepdim, dtype=x.dtype)
    return x


def logsumexp(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    """``log(sum(exp(x)))``; halves are summed in f32."""
    return torch.logsumexp(_wide(x), axes, keepdim).to(x.dtype)


# Random inputs -------------------------------------------------------------------------------------------------------


def draw(name: str, numbers: tuple[float, ...], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A random input that nobody gave, by PyTorch's generator of the device: ``numbers`` are the distribution's, and of
    uniform floats also the largest one below the end."""
    if name == "uniform" and not dtype.is_floating_point:
        return torch.randint(int(numbers[0]), int(numbers[1]), shape, dtype=dtype, device=device)
    if name == "uniform":
        low, high, last = numbers
        return (torch.rand(shape, device=device) * (high - low) + low).to(dtype).clamp(max=last)
    if name == "normal":
        return (torch.randn(shape, device=device) * numbers[1] + numbers[0]).to(dtype)
    if name == "gumbel":
        return -torch.empty(shape, device=device).exponential_().log().to(dtype)
    if name == "bernoulli":
        return (torch.rand(shape, device=device) < numbers[0]).to(dtype)
    u, index = torch.rand(shape, device=device), torch.zeros(shape, dtype=dtype, device=device)
    for edge in itertools.accumulate(numbers[:-1]):
        index = index + (u >= edge).to(dtype)
    return index


# Contraction ---------------------------------------------------------------------------------------------------------


def grouped_matmul(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Row i of x [N, K] times w[e] [K, M] of the first e with ``ends[e] > i``; 0 where there is none."""
    rows = x.shape[0]
    ends = torch.cummax(ends, 0).values.clamp(0, rows)
    if _native_groups(x, w):
        # What it leaves in rows of no group is whatever was in memory, forwards and backwards.
        inside = (torch.arange(rows, device=x.device) < ends[-1]).unsqueeze(1)
        y = torch._grouped_mm(torch.where(inside, x, 0), w, offs=ends.to(torch.int32))
        return torch.where(inside, y, 0)
    sizes = torch.diff(ends, prepend=ends.new_zeros(1), append=ends.new_full((1,), rows))
    *groups, rest = x.split(sizes.tolist())
    parts = [group @ matrix for group, matrix in zip(groups, w.unbind(), strict=True)]
    return torch.cat([*parts, rest.new_zeros(rest.shape[0], w.shape[2])])


def _native_groups(x: Tensor, w: Tensor) -> bool:
    """Whether ``torch._grouped_mm`` takes these operands; it wants rows and columns of whole 16 bytes."""
    if any(size * x.element_size() % 16 for size in w.shape[1:]) or not (x.is_contiguous() and w.is_contiguous()):
        return False
    if torch.compiler.is_compiling():
        return x.dtype == torch.bfloat16  # all that its shape rule knows
    aligned = not (x.data_ptr() % 16 or w.data_ptr() % 16)
    return aligned and x.dtype in (torch.bfloat16, torch.float16, torch.float32)


# Order and indexing --------------------------------------------------------------------------------------------------


def topk(x: Tensor, k: int, axis: int, largest: bool) -> Tensors:
    """The k best along an axis. A stable sort, because torch.topk promises nothing about equal elements."""
    if k == 1:
        # torch.argmax and argmin promise the first of equal elements.
        best = (torch.argmax if largest else torch.argmin)(x, dim=axis, keepdim=True)
        return torch.gather(x, axis, best), best
    values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


def take(x: Tensor, index: Tensor, axis: int, batch: int) -> Tensor:
    """Slices of x along ``axis`` where the first ``batch`` axes of both are walked together."""
    lead, picked = index.shape[:batch], index.shape[batch:]
    before, behind = x.shape[batch:axis], x.shape[axis + 1 :]
    rows = index.reshape(*lead, *[1] * len(before), math.prod(picked), *[1] * len(behind))
    found = torch.gather(x, axis, rows.expand(*lead, *before, math.prod(picked), *behind))
    return found.reshape(*lead, *before, *picked, *behind)


def _rows(x: Tensor, index: Tensor, updates: Tensor, batch: int) -> Tensors:
    """Index and updates with one axis in place of x's axis ``batch``, the index as large as the updates."""
    lead, count = index.shape[:batch], math.prod(index.shape[batch:])
    updates = updates.reshape(*lead, count, *x.shape[batch + 1 :])
    index = index.reshape(*lead, count, *[1] * (x.dim() - batch - 1))
    return index.expand(updates.shape), updates


def scatter_set(x: Tensor, index: Tensor, updates: Tensor, batch: int, donated: bool = False) -> Tensor:
    index, updates = _rows(x, index, updates, batch)
    return x.scatter_(batch, index, updates) if donated else torch.scatter(x, batch, index, updates)


def scatter_add(x: Tensor, index: Tensor, updates: Tensor, batch: int) -> Tensor:
    index, updates = _rows(x, index, updates, batch)
    return torch.scatter_add(x, batch, index, updates)


def scatter_min(x: Tensor, index: Tensor, updates: Tensor, batch: int) -> Tensor:
    index, updates = _rows(x, index, updates, batch)
    return torch.scatter_reduce(x, batch, index, updates, "amin")


def scatter_max(x: Tensor, index: Tensor, updates: Tensor, batch: int) -> Tensor:
    index, updates = _rows(x, index, updates, batch)
    return torch.scatter_reduce(x, batch, index, updates, "amax")


def compact(mask: Tensor, capacity: int) -> Tensors:
    """The ascending indices of the true elements, up to ``capacity``, padded with 0; and how many they are."""
    slot = torch.cumsum(mask, -1) - 1
    # Everything that does not count is written into one more slot, which is cut off.
    slot = torch.where(mask & (slot < capacity), slot, capacity)
    source = torch.arange(mask.shape[-1], device=mask.device).expand(mask.shape)
    indices = source.new_zeros(*mask.shape[:-1], capacity + 1).scatter(-1, slot, source)
    return indices.narrow(-1, 0, capacity), torch.sum(mask, -1).clamp(max=capacity)


def pad(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """More elements of x itself in front of and behind an axis, from as far away as need be."""
    n = x.shape[axis]
    place = torch.arange(-before, n + after, device=x.device)
    if mode == "edge":
        place = place.clamp(0, n - 1)
    elif mode == "circular":
        place = place % n
    else:
        period = maximum(2 * n - 2, 1)
        place = place % period
        place = torch.minimum(place, period - place)
    return torch.index_select(x, axis, place)


# Segments ------------------------------------------------------------------------------------------------------------


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _segments(x: Tensor, ids: Tensor, segments: int) -> tuple[int, Tensor, tuple[Any, ...]]:
    """The segmented axis, the ids as large as x, and the shape of the result."""
    axis = ids.dim() - 1
    rows = ids.reshape(*ids.shape, *[1] * (x.dim() - ids.dim())).expand(x.shape)
    return axis, rows, (*x.shape[:axis], segments, *x.shape[axis + 1 :])


def _segment_sum(x: Tensor, ids: Tensor, segments: int) -> Tensor:
    axis, rows, shape = _segments(x, ids, segments)
    return x.new_zeros(shape).scatter_add(axis, rows, x)


def segment_sum(x: Tensor, ids: Tensor, segments: int) -> Tensor:
    return _segment_sum(_wide(x), ids, segments).to(x.dtype)


def segment_mean(x: Tensor, ids: Tensor, segments: int) -> Tensor:
    total = _segment_sum(_wide(x), ids, segments)
    count = _segment_sum(torch.ones_like(ids, dtype=total.dtype), ids, segments).clamp(min=1)
    return (total / count.reshape(*count.shape, *[1] * (x.dim() - ids.dim()))).to(x.dtype)


def segment_max(x: Tensor, ids: Tensor, segments: int) -> Tensor:
    axis, rows, shape = _segments(x, ids, segments)
    return x.new_zeros(shape).scatter_reduce(axis, rows, x, "amax", include_self=False)


def segment_softmax(x: Tensor, ids: Tensor, segments: int) -> Tensor:
    wide = _wide(x)
    axis, rows, _ = _segments(wide, ids, segments)
    # The maximum only keeps exp in range: no gradient need flow through it.
    e = torch.exp(wide - segment_max(wide.detach(), ids, segments).gather(axis, rows))
    return (e / _segment_sum(e, ids, segments).gather(axis, rows)).to(x.dtype)


# Scans and loops -----------------------------------------------------------------------------------------------------


def cumsum(x: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    """Running sums. The element itself is left out by shifting, not by subtracting, which would round."""
    if reverse:
        x = torch.flip(x, (axis,))
    if exclusive:
        x = F.pad(x, (0, 0) * (x.dim() - 1 - axis) + (1, 0)).narrow(axis, 0, x.shape[axis])
    x = torch.cumsum(x, axis, dtype=x.dtype)
    return torch.flip(x, (axis,)) if reverse else x


def linear_recurrence(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """``h[t] = a[t] * h[t - 1] + b[t]``, in a number of steps that is the logarithm of the length (Hillis and Steele 1986)."""
    dtype, a, b = b.dtype, _wide(a).movedim(axis, -1), _wide(b).movedim(axis, -1)
    step, length = 1, b.shape[-1]
    while step < length:
        shift = (step, 0)
        # What lies in front of the start is the identity: factor 1, summand 0.
        b = b + a * F.pad(b[..., :-step], shift)
        a = a * F.pad(a[..., :-step], shift, value=1.0)
        step *= 2
    return b.movedim(-1, axis).to(dtype)


def fold(
    n: int, step: Callable[..., Tensors], carried: Tensors, captured: Tensors, device: torch.device,
    *rows: tuple[tuple[int, ...], torch.dtype],
) -> Tensors:  # fmt: skip
    """``(*carried, *stacked) = step(i, *carried, *captured)`` for i = 0 … n - 1.

    ``rows``: shape and dtype of each value that is stacked, which is what there is of it when n is 0.
    """
    count, kept = len(carried), []
    for i in range(n):
        results = step(torch.full((), i, dtype=torch.int64, device=device), *carried, *captured)
        carried = results[:count]
        kept.append(results[count:])
    if not rows:
        return carried
    if not kept:
        return *carried, *(torch.empty((0, *shape), dtype=dtype, device=device) for shape, dtype in rows)
    return *carried, *(torch.stack(column) for column in zip(*kept, strict=True))


def cond(p: Tensor, then: Callable[..., Tensors], orelse: Callable[..., Tensors], values: Tensors) -> Tensors:
    """``then(*values)`` where the scalar p is true, else ``orelse(*values)``; only one of them is computed."""
    if torch.compiler.is_compiling():
        made: Tensors = torch.cond(p, _fresh(then), _fresh(orelse), values)
        return made
    return then(*values) if p else orelse(*values)


def _fresh(branch: Callable[..., Tensors]) -> Callable[..., Tensors]:
    """The branch with results of its own: one that hands an operand through would alias it, which torch.cond refuses."""
    return lambda *values: tuple(y.clone() for y in branch(*values))


def while_(
    limit: int, test: Callable[..., Tensors], body: Callable[..., Tensors], carried: Tensors, captured: Tensors
) -> Tensors:
    """``carried = body(*carried, *captured)`` as long as ``test`` of the same gives true, and at most ``limit`` times."""
    for _ in range(limit):
        if not test(*carried, *captured)[0]:
            break
        carried = body(*carried, *captured)
    return carried


def scan(combine: Callable[..., Tensors], values: Tensors, captured: Tensors, axis: int) -> Tensors:
    """``out[t] = combine(out[t - 1], values[t])`` along ``axis``."""
    if values[0].shape[axis] == 0:
        return values
    slices = list(zip(*(v.unbind(axis) for v in values), strict=True))
    results = slices[:1]
    for right in slices[1:]:
        results.append(combine(*results[-1], *right, *captured))
    return tuple(torch.stack(column, axis) for column in zip(*results, strict=True))


def write_rows(x: Tensor, start: Tensor, rows: Tensor, donated: bool) -> Tensor:
    """x [B, G, C, K] with ``rows`` [B, G, S, K] from slot ``start`` [B] on; in x itself where that is ``donated``."""
    start = torch.clamp(start, max=x.shape[2] - rows.shape[2]).reshape(-1, 1, 1, 1)
    slot = start + torch.arange(rows.shape[2], device=x.device).reshape(-1, 1)
    slot = slot.expand(rows.shape)
    return x.scatter_(2, slot, rows) if donated else torch.scatter(x, 2, slot, rows)


def append(
    k: Tensor,
    v: Tensor,
    length: Tensor,
    new_k: Tensor,
    new_v: Tensor,
    count: Tensor | None,
    donate_k: bool,
    donate_v: bool,
) -> Tensors:
    """The fields of a cache with rows behind those that are filled."""
    rows = new_k.shape[2]
    start = torch.clamp(length, max=k.shape[2] - rows)
    written = write_rows(k, start, new_k, donate_k), write_rows(v, start, new_v, donate_v)
    return *written, start + (rows if count is None else count)


def gather_path(
    k: Tensor,
    v: Tensor,
    length: Tensor,
    start: Tensor,
    path: Tensor,
    count: Tensor | None,
    donate_k: bool,
    donate_v: bool,
) -> Tensors:
    """The fields of a cache with the rows at ``path``, counted from ``start``, moved to ``start``."""
    slot = start.unsqueeze(1) + path
    kept = (write_rows(x, start, take(x, slot, 2, 1), donate) for x, donate in ((k, donate_k), (v, donate_v)))
    return *kept, start + (path.shape[1] if count is None else count)


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """True where query t may attend to key s: ``s <= t + keys - queries``, so that the last query sees every key."""
    t = torch.arange(queries, device=device).unsqueeze(1)
    return torch.arange(keys, device=device) <= t + (keys - queries)
