"""Where a kernel cannot be launched PyTorch computes the same, and a warning names the kernel, once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from tessera.kernels import (
    attend,
    attend_cache,
    attention,
    bipartite_merge,
    cached_attention,
    experts,
    gated_experts,
    grouped,
    grouped_matmul,
    launch,
    route,
    select_top,
    sort_by_group,
    spread,
    spread_out,
    token_choice,
    token_vote,
    tokens,
    tune,
    varlen,
    varlen_attention,
    vote,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAUNCHING = (attend, attend_cache, experts, grouped, route, spread, tokens, tune, varlen, vote)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE)


def below(most: int, *shape: int) -> Tensor:
    return torch.randint(0, most, shape, device=DEVICE)


def learnt(results: Iterable[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Results, and the gradients of a weighted sum of them."""
    results = [torch.where(torch.isfinite(r), r, 0.0) for r in results]
    total = sum((r * torch.linspace(-1, 1, r.numel(), device=DEVICE).view(r.shape)).sum() for r in results)
    return [*results, *torch.autograd.grad(total, inputs)]


def attended(causal: bool, softcap: float) -> list[Tensor]:
    q, k, v, bias = (x.requires_grad_() for x in (draw(2, 4, 5, 6), draw(2, 2, 7, 6), draw(2, 2, 7, 3), draw(1, 4, 1, 7)))
    mask = torch.rand(2, 1, 5, 7, device=DEVICE) < 0.7
    mask[0, 0, 2] = False
    found = attention(q, k, v, mask, bias, causal=causal, softcap=softcap, column_mass=True, row=1)
    return learnt(found, [q, k, v, bias])


def merged() -> list[Tensor]:
    x, size = draw(2, 11, 6).requires_grad_(), torch.ones(2, 11, device=DEVICE)
    size[0, 8:] = 0
    index = torch.arange(11, device=DEVICE).expand(2, 11)
    y, source, after, position = bipartite_merge(x, index, size, index, x[..., :4], r=3, protect=1)
    return [*learnt([y], [x]), source, after, position]


def grouped_products() -> list[Tensor]:
    x, w = draw(9, 4).requires_grad_(), draw(3, 4, 5).requires_grad_()
    return learnt([grouped_matmul(x, w, torch.tensor([2, 2, 7], device=DEVICE))], [x, w])


def read() -> list[Tensor]:
    q, pool, values = draw(2, 4, 3, 6), draw(5, 2, 4, 6), draw(5, 2, 4, 3)
    angle = draw(1, 7, 2)
    listed = cached_attention(q, pool, values, below(20, 2, 7), angle.cos(), angle.sin(), until=below(20, 2, 3), pages=True)
    keys, held, tree = draw(2, 2, 12, 6), draw(2, 2, 12, 3), torch.rand(2, 3, 3, device=DEVICE) < 0.5
    return [listed, cached_attention(q, keys, held, start=below(9, 2), tree=tree)]


CASES: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "attention": (lambda: attended(False, 0.0), {"attention", "attention's gradient"}),
    "attention, causal and capped": (lambda: attended(True, 1.5), {"attention", "attention's gradient"}),
    "merging": (merged, {"bipartite_match", "merge_pairs"}),
    "selecting": (lambda: [select_top(below(3, 2, 20).float(), 7)], {"select_top"}),
    "voting": (
        lambda: [token_vote(draw(2, 4, 1, 6), draw(2, 2, 30, 6), below(30, 2), k=9, sinks=2, recent=3)],
        {"slot_votes", "select_top"},
    ),
    "spreading": (
        lambda: [spread_out(draw(2, 9, 4), draw(2, 9), k=4, objective=objective) for objective in ("max_sum", "k_center")],
        {"spread_out"},
    ),
    "packed sequences": (
        lambda: [varlen_attention(draw(9, 8), below(10, 3), draw(7, 4), below(8, 3), draw(7, 6), heads=4, kv_heads=2, causal=True)],
        {"varlen_attention", "attention"},
    ),
    "grouped products": (grouped_products, {"grouped_matmul", "grouped_outer"}),
    "reading a cache": (read, {"cached_attention", "attention"}),
    "routing": (
        lambda: [*token_choice(draw(9, 5), draw(5), k=3, score="sigmoid"), *token_choice(draw(9, 5), k=2, score="chosen")],
        {"token_choice"},
    ),
    "sorting": (lambda: sort_by_group(below(5, 90), 4), {"sort_by_group"}),
    "experts": (
        lambda: [
            gated_experts(draw(9, 4), below(4, 9, 2), draw(9, 2), draw(3, 4, 6), draw(3, 3, 4), draw(3, 6), draw(3, 4), limit=1.0)
        ],
        {"gated_experts", "grouped_matmul", "sort_by_group"},
    ),
}  # fmt: skip


HEAVY = ("attention", "attention, causal and capped", "merging", "reading a cache", "experts")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.extended if n in HEAVY else ()) for n in CASES])
def test_pytorch_computes_what_cannot_be_launched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, kernels = CASES[name]
    torch.manual_seed(0)
    wanted = run()

    def fails(*args: Any, **options: Any) -> None:
        raise launch.LaunchFailed("out of resource: shared memory")

    for module in LAUNCHING:
        monkeypatch.setattr(module, "launch", fails)
    monkeypatch.setattr(launch, "_given_up", set())
    torch.manual_seed(0)
    with pytest.warns(RuntimeWarning) as caught:
        found = run()
    told = {str(w.message) for w in caught}
    why = "whose kernel cannot be launched here: out of resource: shared memory"
    assert told == {f"PyTorch computes `{kernel}`, {why}" for kernel in kernels}
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run()
