"""What the ops here compute, in PyTorch: where a kernel cannot be launched, with a warning, this stands in for it.

It needs the memory that the kernels save: scores are stored.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scores(
    q: Tensor, k: Tensor, mask: Tensor | None, bias: Tensor | None, causal: bool, scale: float, softcap: float
) -> tuple[Tensor, Tensor | float]:
    """Scores f32[B, H, T, S], -inf where a query may not attend, and the derivative of the soft cap there."""
    t, s = q.shape[2], k.shape[2]
    found = q.float() @ k.float().repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(2, 3) * scale
    slope: Tensor | float = 1.0
    if softcap:
        bounded = torch.tanh(found / softcap)
        found, slope = bounded * softcap, 1 - bounded * bounded
    if bias is not None:
        found = found + bias.float()
    if mask is not None:
        found = torch.where(mask, found, -torch.inf)
    if causal:
        key, query = torch.arange(s, device=q.device), torch.arange(t, device=q.device)[:, None]
        found = torch.where(key <= query + s - t, found, -torch.inf)
    return found, slope


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, causal: bool, scale: float, softcap: float,
    column_mass: bool, row: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As ``tessera::attention``."""
    found, _ = scores(q, k, mask, bias, causal, scale, softcap)
    lse = torch.logsumexp(found, 3)
    p = _weights(found, lse)
    y = p @ v.float().repeat_interleave(q.shape[1] // v.shape[1], 1)
    mass = p.mean((1, 2)) if column_mass else p.new_empty(0)
    picked = p[:, :, row] if row >= 0 else p.new_empty(0)
    return y.to(q.dtype), mass.to(q.dtype), picked.to(q.dtype), lse


def attention_backward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, causal: bool, scale: float, softcap: float, row: int,
    lse: Tensor, dy: Tensor | None, dmass: Tensor | None, drow: Tensor | None, dlse: Tensor | None, bias_learns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As ``tessera::attention_backward``."""
    (b, h, t, _), g = q.shape, k.shape[1]
    found, slope = scores(q, k, mask, bias, causal, scale, softcap)
    p = _weights(found, lse)
    dp = torch.zeros_like(p)
    if dy is not None:
        dp = dp + dy.float() @ v.float().repeat_interleave(h // g, 1).transpose(2, 3)
    if dmass is not None:
        dp = dp + dmass.float()[:, None, None] / (h * t)
    if drow is not None:
        dp[:, :, row] += drow.float()
    ds = p * (dp - (p * dp).sum(3, keepdim=True))
    if dlse is not None:
        ds = ds + p * dlse.float()[..., None]
    inner = ds * slope * scale

    def by_group(x: Tensor) -> Tensor:
        return x.view(b, g, h // g, *x.shape[2:]).sum(2)

    dq = inner @ k.float().repeat_interleave(h // g, 1)
    dk = by_group(inner.transpose(2, 3) @ q.float())
    dv = torch.zeros_like(v) if dy is None else by_group(p.transpose(2, 3) @ dy.float())
    learnt = q.new_empty(0)
    if bias is not None and bias_learns:
        learnt = ds.sum_to_size(bias.shape).to(bias.dtype)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), learnt


def _weights(found: Tensor, lse: Tensor) -> Tensor:
    return torch.exp(found - torch.where(lse == -torch.inf, torch.inf, lse)[..., None])


def gathered(keys: Tensor, index: Tensor, pages: bool) -> Tensor:
    """Slots [B, G, N] of a cache [B, G, C, K], or of a pool [P, G, C, K]: [B, G, N, K]."""
    b, g, _ = index.shape
    slots = keys.shape[2]
    row = index // slots if pages else torch.arange(b, device=keys.device)[:, None, None]
    return keys[row, torch.arange(g, device=keys.device)[:, None], index % slots if pages else index]


def turned(x: Tensor, cosine: Tensor, sine: Tensor, interleaved: bool) -> Tensor:
    """Keys [B, G, N, K] turned by angles [1 or B, N, R] (``std.attention.rope``)."""
    pairs = cosine.shape[2]
    cosine, sine, turning = cosine[:, None], sine[:, None], x[..., : 2 * pairs]
    one, two = (turning[..., ::2], turning[..., 1::2]) if interleaved else turning.split(pairs, 3)
    parts = (one * cosine - two * sine, two * cosine + one * sine)
    made = torch.stack(parts, 4).flatten(3) if interleaved else torch.cat(parts, 3)
    return torch.cat((made, x[..., 2 * pairs :]), 3)


def in_tree(slots: Tensor, start: Tensor, tree: Tensor) -> Tensor:
    """Which of the slots [1 or B, 1 or H, 1, N] are seen by the T nodes of a tree behind `start` [B], bool [B, 1 or H, T, N]."""
    t = tree.shape[1]
    node = slots - start[:, None, None, None]
    b, heads, _, n = node.shape
    own = torch.gather(tree[:, None].expand(b, heads, t, t), 3, node.clamp(0, t - 1).expand(b, heads, t, n))
    return (node < 0) | (own & (node >= 0) & (node < t))


def select_top(score: Tensor, k: int) -> Tensor:
    """As ``tessera::select_top``."""
    known = torch.where(score.isnan(), -torch.inf, score.float())
    return torch.sort(known, dim=1, descending=True, stable=True).indices[:, :k].sort(1).values


def unit(x: Tensor) -> Tensor:
    """x to length 1 over its last axis, in f32; 0 where it is 0 (``std.nn.l2_normalize``)."""
    wide = x.float()
    length = wide.square().sum(-1, keepdim=True).sqrt()
    return wide / torch.where(length == 0, torch.inf, length)


def bipartite_match(metric: Tensor, size: Tensor, protect: int, last: int, padding: bool) -> tuple[Tensor, Tensor]:
    """As ``tessera::bipartite_match``."""
    t = metric.shape[1]
    first, rows = (protect + 1) // 2, unit(metric)
    even = torch.arange(2 * first, t, 2, device=metric.device)
    odd = torch.arange(1, t, 2, device=metric.device)
    found = rows[:, even] @ rows[:, odd].transpose(1, 2)
    if padding:
        beside = torch.where(even[:, None] + 1 == odd, -2.0, -3.0)
        found = torch.where((size[:, odd] == 0)[:, None], beside, found)
        found = torch.where((size[:, even] == 0)[:, :, None], 2.0, found)
    apart = (odd < protect) | (odd >= t - last) | (even >= t - last)[:, None]
    found = torch.where(apart, -torch.inf, found)
    if not len(odd):
        return found.new_full(found.shape[:2], -torch.inf), torch.zeros(found.shape[:2], dtype=torch.int64, device=metric.device)
    partner = torch.argmax(found, 2)
    return torch.gather(found, 2, partner[:, :, None])[:, :, 0], partner


def spread_out(unit: Tensor, score: Tensor, k: int, sums: bool) -> Tensor:
    """As ``tessera::spread_out``."""
    here = torch.arange(unit.shape[1], device=unit.device)
    chosen, left = torch.zeros_like(score), score > -torch.inf
    alike = torch.full_like(score, 0.0 if sums else -torch.inf)
    pick = torch.argmax(torch.where(score.isnan(), -torch.inf, score), 1, keepdim=True)
    for _ in range(k):
        chosen = torch.where(left & (here == pick), 1.0, chosen)
        left = left & (here != pick)
        cosine = (unit * torch.gather(unit, 1, pick[:, :, None].expand(-1, -1, unit.shape[2]))).sum(2)
        alike = alike + cosine if sums else torch.maximum(alike, cosine)
        pick = torch.argmin(torch.where(left, alike, torch.inf), 1, keepdim=True)
    return chosen


def merge_pairs(x: Tensor, size: Tensor, kept: Tensor, leaves: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """As ``tessera::merge_pairs``."""
    width = x.shape[2]
    own = torch.gather(size, 1, kept).scatter_add(1, place, torch.gather(size, 1, leaves))
    divisor = torch.where(own == 0, 1.0, own)
    target = torch.gather(x.float(), 1, kept[:, :, None].expand(*kept.shape, width))
    wide = place[:, :, None].expand(*place.shape, width)
    other = torch.gather(x.float(), 1, leaves[:, :, None].expand(*leaves.shape, width))
    share = (torch.gather(size, 1, leaves) / torch.gather(divisor, 1, place))[:, :, None]
    y = target.scatter_add(1, wide, (other - torch.gather(target, 1, wide)) * share)
    return y.to(x.dtype), own


def grouped_matmul(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """As ``tessera::grouped_matmul``."""
    y, begin = x.new_zeros(x.shape[0], w.shape[2]), 0
    for e, end in enumerate(ends.tolist()):
        y[begin:end] = x[begin:end] @ w[e]
        begin = end
    return y


def grouped_outer(x: Tensor, dy: Tensor, ends: Tensor) -> Tensor:
    """As ``tessera::grouped_outer``."""
    dw, begin = x.new_zeros(ends.shape[0], x.shape[1], dy.shape[1]), 0
    for e, end in enumerate(ends.tolist()):
        dw[e] = x[begin:end].T @ dy[begin:end]
        begin = end
    return dw


def slot_votes(q: Tensor, keys: Tensor, length: Tensor, sinks: int, recent: int, scale: float) -> Tensor:
    """As ``tessera::slot_votes``."""
    slot, last = torch.arange(keys.shape[2], device=q.device), length[:, None]
    middle = ((slot >= sinks) & (slot < last - recent))[:, None, None]
    found, _ = scores(q[:, :, None], keys, middle, None, False, scale, 0.0)
    votes = _weights(found, torch.logsumexp(found, 3)).sum((1, 2))
    votes = torch.where((slot < sinks) | (slot >= last - recent), torch.inf, votes)
    return torch.where(slot < last, votes, -torch.inf)


def token_choice(
    logits: Tensor, bias: Tensor | None, k: int, score: str, renormalize: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """As ``tessera::token_choice``."""
    p = logits.float()
    p = torch.softmax(p, 1) if score == "softmax" else torch.sigmoid(p) if score == "sigmoid" else p
    choice = p if bias is None else p + bias.float()
    expert = torch.sort(choice, dim=1, descending=True, stable=True).indices[:, :k]
    weight = torch.gather(p, 1, expert)
    if score == "chosen":
        weight = torch.softmax(weight, 1)
    elif score == "one":
        weight = torch.ones_like(weight)
    elif renormalize:
        total = weight.sum(1, keepdim=True)
        weight = torch.where(total == 0, 0.0, weight / torch.where(total == 0, 1.0, total))
    return expert, weight * scale


def sort_by_group(group: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """As ``tessera::sort_by_group``."""
    found, order = torch.sort(group, stable=True)
    ends = torch.searchsorted(found, torch.arange(groups, device=group.device), right=True)
    return order, ends, torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=group.device))


def ascending(ends: Tensor, rows: int) -> Tensor:
    """Ends of sequences i64[B] in so many rows: none below an earlier one, none beyond the last row."""
    return torch.cummax(ends.long().clamp(min=0), 0).values.clamp(max=rows) if len(ends) else ends.long()


def sequence(ends: Tensor, rows: int) -> Tensor:
    """The sequence that each of so many rows belongs to, i64[rows]; B for padding."""
    return torch.searchsorted(ends, torch.arange(rows, device=ends.device), right=True)


def within(q_ends: Tensor, queries: int, k_ends: Tensor, keys: int, causal: bool) -> Tensor:
    """Which rows of keys each row of queries sees, bool[queries, keys]: those of its sequence, whose last ones meet."""
    query, key = sequence(q_ends, queries)[:, None], sequence(k_ends, keys)
    seen = (query == key) & (key < len(k_ends))
    if causal:
        ahead = torch.cat((k_ends - q_ends, k_ends.new_zeros(1)))
        seen &= torch.arange(keys, device=key.device) <= torch.arange(queries, device=key.device)[:, None] + ahead[query]
    return seen
