"""The kernels on a GPU: each compared with a float64 reference, then beside PyTorch's own and the most that the machine could do.

    python -m benchmarks.gpu [--quick | --check | --predict]

Needs torch, triton and a GPU, and takes under ten minutes. Ratios are medians over rounds in which candidates take turns.
`--check` only compares, at tiny sizes, in Triton's interpreter too; `--predict` says what the costs of ops promise, and needs
no GPU.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from tessera.kernels import (
    attention,
    attention_with_mass,
    bipartite_merge,
    cached_attention,
    gated_experts,
    grouped_matmul,
    select_top,
    spread_out,
    token_choice,
    token_vote,
    varlen_attention,
)

from .common import markdown_table, write
from .roofline import predicted

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDS, REPEATS = 9, 10
Candidate = Callable[[], Any]
Sizes = dict[str, tuple[tuple[Any, ...], ...]]
# batch, heads, groups, tokens, features, causal · batch, tokens, features, metric, r · batch, tokens, k
# batch, heads, groups, slots, features, k · batch, heads, groups, slots, filled, nodes, features
# sequences, heads, groups, features · rows, experts, features, out · tokens, experts, features, hidden, k
FULL: Sizes = {
    "attention": ((64, 16, 16, 577, 64, False), (8, 12, 12, 2048, 64, True), (4, 32, 8, 4096, 128, True)),
    "merging": ((64, 577, 1024, 64, 23),),
    "selecting": ((64, 577, 288),),
    "spreading": ((64, 576, 1024, 64),),
    "voting": ((1, 32, 8, 131072, 128, 2048),),
    "reading": ((1, 32, 8, 131072, 128, 2048),),
    "tree": ((4, 32, 8, 16384, 8192, 64, 128),),
    "packed": (((512, 3000, 64, 1100, 256, 2048), 16, 16, 64),),
    "experts": ((64, 8, 2048, 2048), (16384, 8, 2048, 2048), (16384, 64, 1024, 1024)),
    "mixture": ((64, 8, 2048, 2048, 2), (16384, 8, 2048, 2048, 2), (16384, 64, 2048, 1024, 6)),
}  # fmt: skip
TINY: Sizes = {
    "attention": ((2, 4, 4, 21, 8, False), (1, 4, 2, 19, 8, True)), "merging": ((2, 21, 16, 8, 4),), "selecting": ((2, 21, 9),),
    "spreading": ((2, 21, 16, 4),), "voting": ((1, 4, 2, 70, 16, 24),), "reading": ((1, 4, 2, 70, 16, 24),),
    "tree": ((2, 4, 2, 70, 40, 5, 16),), "packed": (((5, 1, 9), 4, 2, 8),), "experts": ((20, 3, 16, 24),),
    "mixture": ((20, 3, 16, 12, 2),),
}  # fmt: skip


def milliseconds(run: Candidate) -> float:
    """Of one call, by the device's own clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(REPEATS):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / REPEATS


def measured(candidates: dict[str, Candidate], rounds: int) -> dict[str, list[float]]:
    """Times of each candidate by round; the first call of each compiles, and does not count. No rounds, no calls."""
    if not rounds:
        return {}
    for run in candidates.values():
        run()
    torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            times[name].append(milliseconds(run))
    return times


def normal(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=dtype)


def ceilings(rounds: int) -> tuple[float, float]:
    """What this GPU does at most, measured: FLOP/s of a large product in f16, bytes/s of a large copy."""
    a = normal(8192, 8192)
    x = torch.empty(1 << 28, device=DEVICE, dtype=torch.float32)
    times = measured({"product": lambda: a @ a, "copy": lambda: x.clone()}, rounds)
    flops, moved = 2 * 8192**3, 2 * x.numel() * 4
    return flops / min(times["product"]) * 1e3, moved / min(times["copy"]) * 1e3


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp_min(1e-30))


def attended(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> tuple[Tensor, Tensor]:
    """The result and the column mass in float64."""
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    p = scores.softmax(-1)
    return p @ v, p.mean((1, 2))


def with_map(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention and its column mass as published code computes them: the map is stored."""
    p = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(-1)
    return p @ v, p.mean((1, 2))


def tome(x: Tensor, metric: Tensor, r: int) -> Tensor:
    """Merging as the published code of ToMe does it, with sizes of 1 (Bolya et al. 2023)."""
    unit = metric / metric.norm(dim=-1, keepdim=True)
    a, b = unit[:, ::2], unit[:, 1::2]
    scores = a @ b.transpose(1, 2)
    scores[:, 0] = -torch.inf
    best, partner = scores.max(-1)
    order = best.argsort(-1, descending=True)[..., None]
    stay, leave = order[:, r:], order[:, :r]
    into = partner[..., None].gather(1, leave)
    stay = stay.sort(1).values
    even, odd = x[:, ::2], x[:, 1::2]
    width = x.shape[2]
    moved = even.gather(1, leave.expand(-1, -1, width))
    odd = odd.scatter_reduce(1, into.expand(-1, -1, width), moved, "sum")
    return torch.cat([even.gather(1, stay.expand(-1, -1, width)), odd], 1)


def attention_row(b: int, h: int, g: int, t: int, d: int, causal: bool, rounds: int) -> dict[str, Any]:
    q, k, v = normal(b, h, t, d), normal(b, g, t, d), normal(b, g, t, d)
    small = [x[:1, : h // g if x.shape[1] == h else 1] for x in (q, k, v)]
    y, mass = attention_with_mass(*small, causal=causal)
    wanted = attended(*small, causal=causal)
    candidates: dict[str, Candidate] = {
        "ours": partial(attention, q, k, v, causal=causal),
        "ours, column mass": partial(attention_with_mass, q, k, v, causal=causal),
        "ours, row": partial(attention, q, k, v, causal=causal, row=0),
        "torch SDPA": partial(F.scaled_dot_product_attention, q, k, v, is_causal=causal, enable_gqa=True),
    }
    if rounds:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, t, t, device=DEVICE) if causal else None
        candidates["torch FlexAttention"] = partial(torch.compile(flex_attention), q, k, v, block_mask=mask, enable_gqa=h != g)
    if not causal:
        candidates |= {"torch, with the map": partial(with_map, q, k, v)}
        candidates |= {"torch.compile, with the map": partial(torch.compile(with_map), q, k, v)}
    flops = 4 * b * h * t * t * d // (2 if causal else 1)
    moved = (2 * q.numel() + k.numel() + v.numel()) * 2
    return row(f"attention {b}x{h}/{g}x{t}x{d}{' causal' if causal else ''}", candidates, rounds, flops, moved,
               {"y": error(y, wanted[0]), "mass": error(mass, wanted[1])})  # fmt: skip


def merging_row(b: int, t: int, width: int, features: int, r: int, rounds: int) -> dict[str, Any]:
    x, metric = normal(b, t, width), normal(b, t, features)
    index = torch.arange(t, device=DEVICE).expand(b, t)
    size = torch.ones(b, t, device=DEVICE)
    candidates: dict[str, Candidate] = {
        "ours": lambda: bipartite_merge(x, index, size, index, metric, r=r, protect=1, padding=False)[0],
        "torch ToMe": partial(tome, x, metric, r),
        "torch.compile, ToMe": partial(torch.compile(tome), x, metric, r),
    }
    moved = (metric.numel() + 2 * x.numel()) * 2
    # Sums, of which the means are ours; of pairs that are equally similar but for rounding either may be merged.
    wanted = tome(torch.cat((x, torch.ones_like(x[..., :1])), 2).double(), metric.double(), r)
    apart = (candidates["ours"]() - wanted[..., :-1] / wanted[..., -1:]).abs().amax(2) > 0.01
    errors = {"tokens": float(apart.float().mean())}
    return row(f"match and merge {b}x{t}x{width}, r={r}", candidates, rounds, b * t * t // 2 * features, moved, errors)


def best(score: Tensor, k: int) -> Tensor:
    return score.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(1).values


def selecting_row(b: int, t: int, k: int, rounds: int) -> dict[str, Any]:
    score = normal(b, t, dtype=torch.float32)
    candidates: dict[str, Candidate] = {
        "ours": partial(select_top, score, k), "torch stable sorts": partial(best, score, k),
        "torch.compile, stable sorts": partial(torch.compile(best), score, k),
    }  # fmt: skip
    differing = {"indices": float((candidates["ours"]() != best(score, k)).sum())}
    return row(f"select {k} of {t}", candidates, rounds, 0, score.numel() * 4, differing)


def greedily(x: Tensor, score: Tensor, k: int) -> Tensor:
    """The k tokens that are unlike each other, from the best one on, a handful of launches a choice."""
    unit = F.normalize(x.float(), dim=-1)
    picks = [score.argmax(1, keepdim=True)]
    alike = torch.full_like(score, -torch.inf)
    for _ in range(k - 1):
        cosine = (unit @ unit.gather(1, picks[-1][:, :, None].expand(-1, -1, unit.shape[2])).transpose(1, 2))[:, :, 0]
        alike = torch.maximum(alike, cosine).scatter(1, picks[-1], torch.inf)
        picks.append(alike.argmin(1, keepdim=True))
    return torch.cat(picks, 1)


def spreading_row(b: int, t: int, width: int, k: int, rounds: int) -> dict[str, Any]:
    x, score = normal(b, t, width), normal(b, t, dtype=torch.float32)
    candidates: dict[str, Candidate] = {
        "ours": partial(spread_out, x, score, k=k, objective="k_center"),
        "torch, a choice at a time": partial(greedily, x, score, k),
    }  # fmt: skip
    wanted = torch.zeros_like(score).scatter(1, greedily(x, score, k), 1.0)
    # Of tokens that are equally unlike but for rounding either may win, and what is chosen behind it hangs on that.
    differing = {"tokens": float((candidates["ours"]() != wanted).any(1).float().mean())}
    return row(f"spread {k} of {t} tokens of {width}", candidates, rounds, 2 * b * k * t * width, x.numel() * 2, differing)


def voted(q: Tensor, keys: Tensor, k: int, sinks: int, recent: int) -> Tensor:
    """The slots that heads vote for as published code selects them: the scores of heads and slots are stored."""
    b, width = q.shape[0], q.shape[3]
    grouped = q[:, :, 0].view(b, keys.shape[1], -1, width)
    scores = (grouped @ keys[:, :, sinks : keys.shape[2] - recent].transpose(2, 3)).flatten(1, 2).float() * width**-0.5
    votes = F.pad(scores.softmax(-1).sum(1), (sinks, recent), value=torch.inf)
    return votes.topk(k, sorted=False).indices.sort(-1).values


def voting_row(b: int, h: int, g: int, c: int, d: int, k: int, rounds: int) -> dict[str, Any]:
    q, keys = normal(b, h, 1, d), normal(b, g, c, d)
    length = torch.full((b,), c, device=DEVICE, dtype=torch.int64)
    recent = k // 4
    candidates: dict[str, Candidate] = {
        "ours": partial(token_vote, q, keys, length, k=k, sinks=4, recent=recent),
        "torch, with the scores": partial(voted, q, keys, k, 4, recent),
        "torch.compile, with the scores": partial(torch.compile(voted), q, keys, k, 4, recent),
    }
    wanted = voted(q.double(), keys.double(), k, 4, recent)
    # Of votes that are equal but for rounding either may win.
    differing = {"indices": float((~torch.isin(candidates["ours"](), wanted)).sum())}
    return row(f"vote for {k} of {c} slots, {h}/{g} heads", candidates, rounds, 4 * b * h * c * d, 2 * keys.numel() * 2, differing)


def gathered(q: Tensor, keys: Tensor, values: Tensor, index: Tensor) -> Tensor:
    """Attention to slots of a cache that are gathered first."""
    wide = index[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
    return F.scaled_dot_product_attention(q, keys.gather(2, wide), values.gather(2, wide), enable_gqa=True)


def reading_row(b: int, h: int, g: int, slots: int, d: int, k: int, rounds: int) -> dict[str, Any]:
    """A step of a decoder that votes for what it reads, beside one that reads all."""
    q, keys, values = normal(b, h, 1, d), normal(b, g, slots, d), normal(b, g, slots, d)
    length = torch.full((b,), slots, device=DEVICE, dtype=torch.int64)
    index = torch.randperm(slots, device=DEVICE)[:k].sort().values[None]
    candidates: dict[str, Candidate] = {
        "ours": lambda: cached_attention(q, keys, values, token_vote(q, keys, length, k=k, sinks=4, recent=k // 4)),
        "ours, without the vote": partial(cached_attention, q, keys, values, index),
        "torch, gathered, without the vote": partial(gathered, q, keys, values, index),
        "ours, all slots": partial(cached_attention, q, keys, values),
        "torch SDPA, all slots": partial(F.scaled_dot_product_attention, q, keys, values, enable_gqa=True),
    }
    wanted = gathered(q.double(), keys.double(), values.double(), index)
    errors = {"y": error(candidates["ours, without the vote"](), wanted)}
    moved = (keys.numel() + 2 * b * g * k * d) * 2
    flops = 4 * b * h * (slots + k) * d
    return row(f"read {k} of {slots} slots by a vote, {h}/{g} heads", candidates, rounds, flops, moved, errors)


def tree_row(b: int, h: int, g: int, slots: int, filled: int, nodes: int, d: int, rounds: int) -> dict[str, Any]:
    q, keys, values = normal(b, h, nodes, d), normal(b, g, slots, d), normal(b, g, slots, d)
    start = torch.full((b,), filled, device=DEVICE, dtype=torch.int64)
    tree = torch.ones(b, nodes, nodes, device=DEVICE, dtype=torch.bool).tril()
    mask = (torch.arange(slots, device=DEVICE) < filled).repeat(b, 1, nodes, 1)
    mask[:, 0, :, filled : filled + nodes] = tree
    candidates: dict[str, Candidate] = {
        "ours": partial(cached_attention, q, keys, values, start=start, tree=tree),
        "torch SDPA, with the mask": partial(F.scaled_dot_product_attention, q, keys, values, mask, enable_gqa=True),
    }
    small = F.scaled_dot_product_attention(q[:1].double(), keys[:1].double(), values[:1].double(), mask[:1], enable_gqa=True)
    seen = filled + nodes
    flops, moved = 4 * b * h * nodes * seen * d, (2 * b * g * seen * d + 2 * q.numel()) * 2
    return row(f"a tree of {nodes} behind {filled} of {slots} slots, {b}x{h}/{g}", candidates, rounds, flops, moved,
               {"y": error(candidates["ours"]()[:1], small)})  # fmt: skip


def mixed(x: Tensor, logits: Tensor, gate_up: Tensor, down: Tensor, k: int, product: Callable[..., Tensor]) -> Tensor:
    """A mixture of gated experts by PyTorch's ops around a grouped product."""
    weight, expert = logits.float().softmax(1).topk(k)
    weight = (weight / weight.sum(1, keepdim=True)).to(x.dtype)
    order = expert.flatten().argsort(stable=True)
    ends = torch.bincount(expert.flatten(), minlength=gate_up.shape[0]).cumsum(0).int()
    gate, up = product(x[order // k], gate_up, ends).chunk(2, 1)
    rows = product(F.silu(gate) * up, down, ends) * weight.flatten()[order, None]
    return torch.zeros_like(x).index_add_(0, order // k, rows)


def by_expert(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """The grouped product, a product an expert."""
    begins = [0, *ends.tolist()]
    return torch.cat([x[a:b] @ w[i] for i, (a, b) in enumerate(itertools.pairwise(begins))])


def packed_row(lengths: tuple[int, ...], h: int, g: int, d: int, rounds: int) -> dict[str, Any]:
    """Sequences one behind the other, beside a rectangle of the longest."""
    rows, longest = sum(lengths), max(lengths)
    q, k, v = normal(rows, h * d), normal(rows, g * d), normal(rows, g * d)
    ends = torch.tensor(lengths, device=DEVICE).cumsum(0)
    valid = torch.arange(longest, device=DEVICE) < torch.tensor(lengths, device=DEVICE)[:, None]
    padded = [torch.zeros(*valid.shape, x.shape[1], device=DEVICE, dtype=x.dtype) for x in (q, k, v)]
    for whole, x in zip(padded, (q, k, v), strict=True):
        whole[valid] = x
    q4, k4, v4 = (x.unflatten(2, (-1, d)).transpose(1, 2) for x in padded)
    mask = valid[:, None, None]
    candidates: dict[str, Candidate] = {
        "ours": partial(varlen_attention, q, ends, k, ends, v, heads=h, kv_heads=g),
        "torch SDPA, padded": partial(F.scaled_dot_product_attention, q4, k4, v4, mask, enable_gqa=True),
    }
    wanted = F.scaled_dot_product_attention(q4.double(), k4.double(), v4.double(), mask, enable_gqa=True)
    errors = {"y": error(candidates["ours"](), wanted.transpose(1, 2)[valid].flatten(1))}
    flops = 4 * h * d * sum(n * n for n in lengths)
    return row(f"{len(lengths)} packed sequences of {rows} tokens", candidates, rounds, flops, (2 * q.numel() + 2 * k.numel()) * 2,
               errors)  # fmt: skip


def mixture_row(n: int, e: int, width: int, hidden: int, k: int, rounds: int) -> dict[str, Any]:
    x, logits = normal(n, width, dtype=torch.bfloat16), normal(n, e, dtype=torch.bfloat16)
    gate_up, down = normal(e, width, 2 * hidden, dtype=torch.bfloat16) / 32, normal(e, hidden, width, dtype=torch.bfloat16) / 32
    vendor = partial(mixed, x, logits, gate_up, down, k, lambda x, w, ends: torch._grouped_mm(x, w, offs=ends))
    candidates: dict[str, Candidate] = {
        "ours": partial(mixture, x, logits, gate_up, down, k), "torch around _grouped_mm": vendor,
        "torch.compile around _grouped_mm": torch.compile(vendor),
    }  # fmt: skip
    wanted = mixed(x.double(), logits, gate_up.double(), down.double(), k, by_expert)
    moved = (2 * x.numel() + gate_up.numel() + down.numel()) * 2
    name, flops = f"mixture of {n} tokens, {k} of {e} experts, {width}x{hidden}", 6 * n * k * width * hidden
    return row(name, candidates, rounds, flops, moved, {"y": error(candidates["ours"](), wanted)})


def mixture(x: Tensor, logits: Tensor, gate_up: Tensor, down: Tensor, k: int) -> Tensor:
    return gated_experts(x, *token_choice(logits, k=k), gate_up, down)


def experts_row(n: int, e: int, k: int, m: int, rounds: int) -> dict[str, Any]:
    x, w = normal(n, k, dtype=torch.bfloat16), normal(e, k, m, dtype=torch.bfloat16)
    ends = torch.linspace(n // e, n, e, device=DEVICE).long()
    candidates: dict[str, Candidate] = {
        "ours": partial(grouped_matmul, x, w, ends),
        "torch _grouped_mm": partial(torch._grouped_mm, x, w, offs=ends.int()),
    }
    moved = (x.numel() + w.numel() + n * m) * 2
    return row(f"experts {n} rows, {e}x{k}x{m}", candidates, rounds, 2 * n * k * m, moved,
               {"y": error(candidates["ours"](), by_expert(x.double(), w.double(), ends))})  # fmt: skip


def row(
    name: str, candidates: dict[str, Candidate], rounds: int, flops: int, moved: int, errors: dict[str, float]
) -> dict[str, Any]:
    times = measured(candidates, rounds)
    ratios = {
        other: round(statistics.median(b / a for a, b in zip(times["ours"], times[other], strict=True)), 3)
        for other in times
    }
    medians = {other: round(statistics.median(found), 4) for other, found in times.items()}
    return {"name": name, "errors": errors, "ms": medians, "time over ours": ratios, "flops": flops, "bytes": moved}


ROWS: dict[str, Callable[..., dict[str, Any]]] = {
    "attention": attention_row, "merging": merging_row, "selecting": selecting_row, "spreading": spreading_row,
    "voting": voting_row, "reading": reading_row, "tree": tree_row, "packed": packed_row, "experts": experts_row,
    "mixture": mixture_row,
}  # fmt: skip


def rows(sizes: Sizes, rounds: int) -> list[dict[str, Any]]:
    """Every kernel at every size: how far it is from the reference and, where there are rounds, how long candidates take."""
    torch.manual_seed(0)
    return [ROWS[name](*case, rounds) for name, cases in sizes.items() for case in cases]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one size of each")
    parser.add_argument("--check", action="store_true", help="compare only, at tiny sizes")
    parser.add_argument("--predict", action="store_true", help="what the costs of ops promise")
    given = parser.parse_args()
    if given.predict:
        print(markdown_table(["what", "wanted", "promised"], predicted()))
        return
    if given.check:
        print(markdown_table(["kernel", "largest relative error"], [[f["name"], str(f["errors"])] for f in rows(TINY, 0)]))
        return
    if DEVICE != "cuda":
        print("there is no GPU here: nothing was measured; --check compares, with TRITON_INTERPRET=1")
        return
    rounds = 3 if given.quick else ROUNDS
    flops, moved = ceilings(rounds)
    found = rows({name: cases[:1] if given.quick else cases for name, cases in FULL.items()}, rounds)
    for each in found:
        ideal = max(each["flops"] / flops, each["bytes"] / moved) * 1e3
        each["roofline"] = round(ideal / each["ms"]["ours"], 3)
    device = torch.cuda.get_device_properties(0)
    write("gpu", {
        "gpu": device.name, "torch": torch.__version__, "triton": triton.__version__, "measured flops": flops,
        "measured bytes": moved, "rows": found,
    })  # fmt: skip
    print(markdown_table(
        ["kernel", "largest relative error", "ms", "time over ours", "of the roofline"],
        [[f["name"], *(str(f[key]) for key in ("errors", "ms", "time over ours", "roofline"))] for f in found],
    ))  # fmt: skip


if __name__ == "__main__":
    main()
