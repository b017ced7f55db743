"""The kernels on a GPU: each compared with a float64 reference, then beside PyTorch's own and the most that the machine could do.

    python -m benchmarks.gpu [--quick]

Needs torch, triton and a GPU, and takes under ten minutes. Ratios are medians over rounds in which candidates take turns.
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
from torch import Tensor

from tessera.kernels import attention, bipartite_merge, grouped_matmul, select_top, token_vote

from .common import machine, markdown_table, write

ROUNDS, REPEATS = 9, 10
Candidate = Callable[[], Any]


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
    """Times of each candidate by round; the first call of each compiles, and does not count."""
    for run in candidates.values():
        run()
    torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            times[name].append(milliseconds(run))
    return times


def normal(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=dtype)


def ceilings(rounds: int) -> tuple[float, float]:
    """What this GPU does at most, measured: FLOP/s of a large product in f16, bytes/s of a large copy."""
    a = normal(8192, 8192)
    x = torch.empty(1 << 28, device="cuda", dtype=torch.float32)
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


def attention_rows(quick: bool, rounds: int) -> list[dict[str, Any]]:
    rows = []
    compiled = torch.compile(with_map)
    for b, h, g, t, d, causal in (
        (64, 16, 16, 577, 64, False),
        (8, 12, 12, 2048, 64, True),
        (4, 32, 8, 4096, 128, True),
    ):
        if quick and t > 577:
            continue
        q, k, v = normal(b, h, t, d), normal(b, g, t, d), normal(b, g, t, d)
        small = [x[:1, : h // g if x.shape[1] == h else 1] for x in (q, k, v)]
        y, mass, _, _ = attention(*small, causal=causal, column_mass=True)
        wanted = attended(*small, causal=causal)
        candidates: dict[str, Candidate] = {
            "ours": partial(attention, q, k, v, causal=causal),
            "ours, column mass": partial(attention, q, k, v, causal=causal, column_mass=True),
            "ours, row": partial(attention, q, k, v, causal=causal, row=0),
            "torch SDPA": partial(F.scaled_dot_product_attention, q, k, v, is_causal=causal, enable_gqa=True),
        }
        if not causal:
            candidates |= {"torch, with the map": partial(with_map, q, k, v)}
            candidates |= {"torch.compile, with the map": partial(compiled, q, k, v)}
        flops = 4 * b * h * t * t * d // (2 if causal else 1)
        moved = (q.numel() + k.numel() + v.numel() + q.numel()) * 2
        rows.append(row(f"attention {b}x{h}/{g}x{t}x{d}{' causal' if causal else ''}", candidates, rounds, flops, moved,
                        {"y": error(y, wanted[0]), "mass": error(mass, wanted[1])}))  # fmt: skip
    return rows


def merging_row(rounds: int) -> dict[str, Any]:
    b, t, width, r = 64, 577, 1024, 23
    x, metric = normal(b, t, width), normal(b, t, 64)
    index = torch.arange(t, device="cuda").expand(b, t)
    size = torch.ones(b, t, device="cuda")
    found, *_ = bipartite_merge(x, index, size, index, metric, r=r, protect=1, padding=False)
    wanted = tome(x.double(), metric.double(), r)
    candidates: dict[str, Candidate] = {
        "ours": lambda: bipartite_merge(x, index, size, index, metric, r=r, protect=1, padding=False),
        "torch ToMe": lambda: tome(x, metric, r),
    }
    moved = (metric.numel() + 2 * x.numel()) * 2
    same = {"tokens": float(found.shape != wanted.shape)}
    return row(f"match and merge {b}x{t}x{width}, r={r}", candidates, rounds, b * t * t // 2 * 64, moved, same)


def selecting_row(rounds: int) -> dict[str, Any]:
    score = normal(64, 577, dtype=torch.float32)
    wanted = score.sort(1, descending=True, stable=True).indices[:, :288].sort(1).values
    candidates: dict[str, Candidate] = {
        "ours": lambda: select_top(score, 288),
        "torch stable sorts": lambda: score.sort(1, descending=True, stable=True).indices[:, :288].sort(1).values,
    }
    differing = {"indices": float((select_top(score, 288) != wanted).sum())}
    return row("select 288 of 577", candidates, rounds, 0, score.numel() * 4, differing)


def voted(q: Tensor, keys: Tensor, k: int, sinks: int, recent: int) -> Tensor:
    """The slots that heads vote for as published code selects them: the scores of heads and slots are stored."""
    b, width = q.shape[0], q.shape[3]
    grouped = q[:, :, 0].view(b, keys.shape[1], -1, width)
    scores = (grouped @ keys[:, :, sinks : keys.shape[2] - recent].transpose(2, 3)).flatten(1, 2).float() * width**-0.5
    votes = F.pad(scores.softmax(-1).sum(1), (sinks, recent), value=torch.inf)
    return votes.topk(k, sorted=False).indices.sort(-1).values


def voting_row(rounds: int) -> dict[str, Any]:
    b, h, g, c, d, k = 1, 32, 8, 131072, 128, 2048
    q, keys = normal(b, h, 1, d), normal(b, g, c, d)
    length = torch.full((b,), c, device="cuda", dtype=torch.int64)
    candidates: dict[str, Candidate] = {
        "ours": lambda: token_vote(q, keys, length, k=k, sinks=4, recent=512),
        "torch, with the scores": lambda: voted(q, keys, k, 4, 512),
    }
    wanted = voted(q.double(), keys.double(), k, 4, 512)
    # Of votes that are equal but for rounding either may win.
    differing = {"indices": float((~torch.isin(candidates["ours"](), wanted)).sum())}
    return row(f"vote for {k} of {c} slots, {h}/{g} heads", candidates, rounds, 4 * b * h * c * d, 2 * keys.numel() * 2, differing)


def expert_rows(quick: bool, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for n, e, k, m in ((64, 8, 2048, 2048), (16384, 8, 2048, 2048), (16384, 64, 1024, 1024))[: 1 if quick else 3]:
        x, w = normal(n, k, dtype=torch.bfloat16), normal(e, k, m, dtype=torch.bfloat16)
        ends = torch.linspace(n // e, n, e, device="cuda").long()
        begins = [0, *ends.tolist()]
        wanted = torch.cat([x[a:b].double() @ w[i].double() for i, (a, b) in enumerate(itertools.pairwise(begins))])
        candidates: dict[str, Candidate] = {
            "ours": partial(grouped_matmul, x, w, ends),
            "torch _grouped_mm": partial(torch._grouped_mm, x, w, offs=ends.int()),
        }
        moved = (x.numel() + w.numel() + n * m) * 2
        rows.append(row(f"experts {n} rows, {e}x{k}x{m}", candidates, rounds, 2 * n * k * m, moved,
                        {"y": error(grouped_matmul(x, w, ends), wanted)}))  # fmt: skip
    return rows


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one size of each")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no GPU here: nothing was measured")
        return
    torch.manual_seed(0)
    rounds = 3 if given.quick else ROUNDS
    flops, moved = ceilings(rounds)
    rows = [
        *attention_rows(given.quick, rounds),
        merging_row(rounds),
        selecting_row(rounds),
        voting_row(rounds),
        *expert_rows(given.quick, rounds),
    ]
    for found in rows:
        ideal = max(found["flops"] / flops, found["bytes"] / moved) * 1e3
        found["roofline"] = round(ideal / found["ms"]["ours"], 3)
    device = torch.cuda.get_device_properties(0)
    write("gpu", {
        "machine": machine(), "gpu": device.name, "torch": torch.__version__, "measured flops": flops, "measured bytes": moved,
        "rows": rows,
    })  # fmt: skip
    print(markdown_table(
        ["kernel", "largest relative error", "ms", "time over ours", "of the roofline"],
        [[f["name"], *(str(f[key]) for key in ("errors", "ms", "time over ours", "roofline"))] for f in rows],
    ))  # fmt: skip


if __name__ == "__main__":
    main()
