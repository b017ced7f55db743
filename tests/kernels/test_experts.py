"""Routing, sorting by group and gated experts by kernels against their definitions: ties, nulls, groups without rows, odd sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tessera.backends.torch import build
from tessera.backends.triton.claims import claims
from tessera.frontends.source import loads
from tessera.kernels import experts, gated_experts, route, sort_by_group, token_choice
from tessera.kernels.launch import INTERPRETED
from tessera.kernels.route import SCORES

from .mutation import mutate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CHOICE = """use std.moe.route (token_choice)

model m(logits: f32[N, E], bias: f32[E], *, k: int, score: str, renormalize: bool, scale: real, biased: bool)
    -> (expert: i64[N, k], weight: f32[N, k]) {
    if biased {
        routes = token_choice(logits, bias, k=k, score=score, renormalize=renormalize, scale=scale)
    } else {
        routes = token_choice(logits, k=k, score=score, renormalize=renormalize, scale=scale)
    }
    return routes.expert, routes.weight
}
"""
SORT = """use std.ragged (sort_by_group)

model m(group: i64[N], *, groups: int) -> (order: i64[N], ends: i64[groups], inverse: i64[N]) {
    return sort_by_group(group, groups=groups)
}
"""
GATED = """use std.moe.experts (gated)
use std.moe.route (Routes)
use std.nn (quick_gelu, silu)

model m(x: f32[N, D], expert: i64[N, K], weight: f32[N, K], gate_up: f32[E, D, 2 * F], down: f32[E, F, D],
    gate_up_bias: f32[E, 2 * F], down_bias: f32[E, D], *, quick: bool, interleaved: bool, limit: real, offset: real)
    -> (y: f32[N, D]) {
    routes = Routes(expert=expert, weight=weight)
    if quick {
        return gated(x, routes, gate_up, down, gate_up_bias, down_bias, act=quick_gelu, interleaved=interleaved, limit=limit,
            offset=offset)
    }
    return gated(x, routes, gate_up, down, act=silu, interleaved=interleaved, limit=limit, offset=offset)
}
"""


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE)


def compare_choice(tokens: int, many: int, k: int, score: str, renormalize: bool, biased: bool, kinds: int, seed: int) -> None:
    torch.manual_seed(seed)
    # Few kinds of logits, so that many are equal.
    logits = torch.randint(-kinds, kinds + 1, (tokens, many), device=DEVICE) / 4
    params = {"k": k, "score": score, "renormalize": renormalize, "scale": 2.5, "biased": biased}
    module = loads(CHOICE, "choice.tess", params=params)
    bias = torch.randint(-1, 2, (many,), device=DEVICE) / 2
    ours, body = (build(module, claims=c)(logits=logits, bias=bias) for c in (claims(), False))
    assert torch.equal(ours["expert"], body["expert"])
    torch.testing.assert_close(ours["weight"], body["weight"], atol=1e-5, rtol=1e-4)


@settings(max_examples=12, deadline=None)
@given(tokens=st.integers(1, 40), many=st.integers(1, 20), share=st.floats(0, 1), score=st.sampled_from(SCORES),
       renormalize=st.booleans(), biased=st.booleans(), kinds=st.integers(1, 30), seed=st.integers(0, 1000))  # fmt: skip
def test_token_choice(tokens: int, many: int, share: float, score: str, renormalize: bool, biased: bool, kinds: int,
                      seed: int) -> None:  # fmt: skip
    compare_choice(tokens, many, max(1, int(share * many)), score, renormalize, biased, kinds, seed)


def test_what_is_no_number_is_chosen_first() -> None:
    logits = torch.tensor([[1.0, torch.nan, 2.0, torch.nan], [-torch.inf, 3.0, -torch.inf, 4.0]], device=DEVICE)
    expert, _ = token_choice(logits, k=3, score="none")
    assert expert.tolist() == [[1, 3, 2], [3, 1, 0]]


def compare_sort(rows: int, groups: int, seed: int) -> None:
    torch.manual_seed(seed)
    group = torch.randint(0, groups + 1, (rows,), device=DEVICE)
    module = loads(SORT, "sort.tess", params={"groups": groups})
    ours, body = (build(module, claims=c)(group=group) for c in (claims(), False))
    for name, wanted in body.items():
        assert torch.equal(ours[name], wanted), name


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 300), groups=st.sampled_from([1, 2, 7, 64, 100]), seed=st.integers(0, 1000))
def test_sort_by_group(rows: int, groups: int, seed: int) -> None:
    compare_sort(rows, groups, seed)


def compare_experts(tokens: int, k: int, many: int, width: int, hidden: int, quick: bool, interleaved: bool, seed: int) -> None:
    torch.manual_seed(seed)
    feed = {
        "x": draw(tokens, width), "expert": torch.randint(0, many + 2, (tokens, k), device=DEVICE), "weight": draw(tokens, k),
        "gate_up": draw(many, width, 2 * hidden), "down": draw(many, hidden, width), "gate_up_bias": draw(many, 2 * hidden),
        "down_bias": draw(many, width),
    }  # fmt: skip
    params = {"quick": quick, "interleaved": interleaved, "limit": 1.5 if quick else 0.0, "offset": 1.0 if quick else 0.0}
    module = loads(GATED, "gated.tess", params=params)
    given = {v.public: feed[v.public] for v in module.graph.inputs}
    ours, body = build(module, claims=claims()), build(module, claims=False)
    with torch.no_grad():
        torch.testing.assert_close(ours(**given)["y"], body(**given)["y"], atol=1e-4, rtol=1e-4)
    given |= {name: x.requires_grad_() for name, x in given.items() if x.is_floating_point()}
    learn = [x for x in given.values() if x.requires_grad]
    mine, theirs = (
        torch.autograd.grad(n(**given)["y"].square().sum(), learn, allow_unused=True, materialize_grads=True) for n in (ours, body)
    )
    torch.testing.assert_close(mine, theirs, atol=1e-2, rtol=1e-3)


@pytest.mark.extended
@settings(max_examples=8, deadline=None)
@given(tokens=st.integers(1, 50), k=st.integers(1, 3), many=st.integers(1, 5), width=st.integers(1, 40), hidden=st.integers(1, 20),
       quick=st.booleans(), interleaved=st.booleans(), seed=st.integers(0, 1000))  # fmt: skip
def test_gated_experts(tokens: int, k: int, many: int, width: int, hidden: int, quick: bool, interleaved: bool, seed: int) -> None:
    compare_experts(tokens, k, many, width, hidden, quick, interleaved, seed)


def test_a_few_experts() -> None:
    compare_experts(20, 2, 3, 10, 6, True, False, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, gate_up, down = draw(20, 16), draw(3, 16, 24) / 4, draw(3, 12, 16) / 4
    expert, weight = token_choice(draw(20, 3).to(dtype), k=2)
    ours = gated_experts(x.to(dtype), expert, weight, gate_up.to(dtype), down.to(dtype))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), gated_experts(x, expert, weight, gate_up, down), atol=5e-2, rtol=5e-2)


@pytest.mark.extended
@pytest.mark.skipif(not INTERPRETED, reason="kernels are changed where they are interpreted")
@pytest.mark.parametrize(("kernel", "right", "wrong"), [
    (route.choose, "e[None, :], BE), 1", "BE - 1 - e[None, :], BE), 1"),
    (route.placed, "i[None, :] >= i[:, None]", "i[None, :] > i[:, None]"),
    (route.counted, "(i < N)[:, None]", "(i + 1 < N)[:, None]"),
    (experts.gated_product, "first, second = columns, columns + F", "first, second = columns + F, columns"),
    # What a token without an expert would add is memory that nobody wrote, which may be 0: that is not found each time.
    (experts.combined, "expert < E", "expert < E - 1"),
])  # fmt: skip
def test_a_mistake_is_found(
    kernel: Any, right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(kernel, right, wrong, tmp_path, monkeypatch)
    with pytest.raises((AssertionError, IndexError)):
        compare_all()


def compare_all() -> None:
    compare_choice(20, 6, 3, "none", False, False, 2, 0)
    compare_sort(100, 5, 0)
    compare_experts(30, 2, 3, 20, 12, False, False, 0)


def test_what_does_not_go_together_is_refused() -> None:
    x = torch.zeros(3, 4, device=DEVICE)
    with pytest.raises(ValueError, match=r"5 experts cannot be chosen by logits \(3, 4\)"):
        token_choice(x, k=5)
    with pytest.raises(ValueError, match="the score is one of softmax, sigmoid, chosen, none, one, and not best"):
        token_choice(x, k=1, score="best")
    with pytest.raises(ValueError, match=r"rows are not sorted into 2 groups by torch.float32 \(3, 4\)"):
        sort_by_group(x, 2)
    expert = torch.zeros(3, 1, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match=r"down is torch.float32 \(2, 5, 4\), where x goes with torch.float32 \(2, 6, 4\)"):
        gated_experts(x, expert, x[:, :1], torch.zeros(2, 4, 12, device=DEVICE), torch.zeros(2, 5, 4, device=DEVICE))
    with pytest.raises(TypeError, match="takes f32, f16 and bf16"):
        token_choice(x.double(), k=1)


def test_they_are_ops_of_torch() -> None:
    torch.library.opcheck(torch.ops.tessera.token_choice, (draw(5, 4), None, 2, "sigmoid", True, 1.0))
    torch.library.opcheck(torch.ops.tessera.sort_by_group, (torch.tensor([2, 0, 1, 2], device=DEVICE), 2))
    expert = torch.tensor([[0], [1]], device=DEVICE)
    given = (draw(2, 4), expert, draw(2, 1), draw(2, 4, 6), draw(2, 3, 4), None, None, 1.0, False, 0.0, 0.0)
    torch.library.opcheck(torch.ops.tessera.gated_experts, given)
