"""Attention and its statistics against the formula, forwards and backwards, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tessera.kernels import attention, attention_with_mass, flash
from tessera.kernels.launch import INTERPRETED

from .mutation import mutate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def formula(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, causal: bool, cap: float, row: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``std.attention.attention`` is defined, with its map."""
    heads, length, keys = q.shape[1], q.shape[2], k.shape[2]
    k, v = (x.repeat_interleave(heads // k.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    scores = torch.tanh(scores / cap) * cap if cap else scores
    scores = scores if bias is None else scores + bias
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    if causal:
        place = torch.arange(keys, device=q.device)
        scores = scores.masked_fill(
            place > place[:length, None] + keys - length if length <= keys else place > 0, -torch.inf
        )
    highest = scores.amax(-1, keepdim=True)
    highest = torch.where(highest == -torch.inf, 0.0, highest)
    weights = (scores - highest).exp()
    total = weights.sum(-1, keepdim=True)
    lse = (highest + total.log()).squeeze(-1)
    weights = weights / torch.where(total == 0, 1.0, total)
    return weights @ v, weights.mean((1, 2)), weights[:, :, row], lse


def draw(*shape: int, learns: bool = True) -> Tensor:
    return torch.randn(shape, device=DEVICE).requires_grad_(learns)


def compare(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], inputs: list[Tensor]) -> None:
    """Results and, for random gradients of all results, the gradients of the inputs."""
    sums = []
    finite = torch.isfinite(wanted[3])
    shares = [torch.randn_like(x) for x in wanted]
    for results in (found, wanted):
        lse = torch.where(finite, results[3], 0.0)
        sums.append(sum((x * share).sum() for x, share in zip((*results[:3], lse), shares, strict=True)))
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(total, inputs) for total in sums)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=1e-4)


@settings(max_examples=6, deadline=None)
@given(
    batch=st.integers(1, 2), groups=st.integers(1, 2), share=st.integers(1, 2), length=st.integers(1, 20), keys=st.integers(20, 37),
    width=st.integers(1, 18), out=st.integers(1, 18), masked=st.booleans(), biased=st.booleans(), causal=st.booleans(),
    cap=st.sampled_from([0.0, 1.5]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_attention(
    batch: int, groups: int, share: int, length: int, keys: int, width: int, out: int, masked: bool, biased: bool, causal: bool,
    cap: float, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    q, k, v = (
        draw(batch, groups * share, length, width),
        draw(batch, groups, keys, width),
        draw(batch, groups, keys, out),
    )
    mask = torch.rand(batch, 1, length, keys, device=DEVICE) < 0.7 if masked else None
    if mask is not None:
        mask[0, :, 0] = False
    bias = draw(1, groups * share, 1, keys) if biased else None
    found = attention(q, k, v, mask, bias, causal=causal, softcap=cap, column_mass=True, row=length - 1)
    wanted = formula(q, k, v, mask, bias, causal, cap, length - 1)
    compare(found, wanted, [q, k, v, *([bias] if bias is not None else [])])


def test_several_tiles() -> None:
    torch.manual_seed(0)
    q, k, v = draw(1, 2, 130, 70), draw(1, 1, 131, 70), draw(1, 1, 131, 65)
    compare(
        attention(q, k, v, causal=True, column_mass=True, row=7), formula(q, k, v, None, None, True, 0.0, 7), [q, k, v]
    )


@pytest.mark.parametrize("held", [0, 1, 3])
@pytest.mark.parametrize("causal", [False, True])
def test_the_mass_is_the_same_however_many_exponentials_are_kept(held: int, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(held, monkeypatch)
    paid(causal)


def hold(tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def choices(first: dict[str, int], *others: dict[str, int]) -> list[dict[str, int]]:
        return [{name: tiles if name == "HELD" else size for name, size in first.items()}]

    monkeypatch.setattr("tessera.kernels.attend.choices", choices)


def paid(causal: bool = False) -> None:
    """Attention whose keys are three tiles, with queries that see nothing, and scores that grow from tile to tile."""
    torch.manual_seed(0)
    q, k, v = draw(1, 2, 70, 8, learns=False), draw(1, 1, 75, 8, learns=False), draw(1, 1, 75, 5, learns=False)
    k = k * torch.linspace(0.1, 9.0, 75, device=DEVICE)[:, None]
    mask = torch.rand(1, 2, 70, 75, device=DEVICE) < 0.4
    mask[0, 0, :40] = False
    mask[0, 1, :, :32] = False
    found = attention(q, k, v, mask, causal=causal, column_mass=True)
    wanted = formula(q, k, v, mask, None, causal, 0.0, 0)
    for ours, theirs in ((found[0], wanted[0]), (found[1], wanted[1]), (found[3], wanted[3])):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.skipif(not INTERPRETED, reason="a compiled kernel is not changed")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("tl.minimum(levels[i] - last, 0.0)", "tl.minimum(levels[0] - last, 0.0)"),
        ("tl.exp(s - last[:, None]) * share[:, None]", "tl.exp(s - last[:, None])"),
        ("tl.minimum(end, i * N + N), N):", "tl.minimum(end, i * N + N - 32), N):"),
    ],
    ids=["another level", "no sum", "a tile less"],
)
def test_a_mistake_in_what_keys_receive_is_found(
    right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(2, monkeypatch)
    paid()
    mutate(flash.paying, right, wrong, tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        paid()


def test_queries_that_may_attend_to_nothing_give_0() -> None:
    q, k, v = draw(1, 1, 3, 4), draw(1, 1, 5, 4), draw(1, 1, 5, 4)
    mask = torch.zeros(1, 1, 3, 5, dtype=torch.bool, device=DEVICE)
    y, mass, row, lse = attention(q, k, v, mask, column_mass=True, row=0)
    for result in (y, mass, row):
        assert not result.any()
    assert (lse == -torch.inf).all()
    assert not any(g.any() for g in torch.autograd.grad(y.sum() + mass.sum(), (q, k, v)))


def test_nothing_to_attend_to() -> None:
    y, _, _, lse = attention(draw(2, 1, 3, 4), draw(2, 1, 0, 4), draw(2, 1, 0, 4))
    assert y.shape == (2, 1, 3, 4)
    assert not y.any()
    assert (lse == -torch.inf).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = draw(1, 2, 20, 16), draw(1, 2, 20, 16), draw(1, 2, 20, 16)
    halves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
    y, mass, _, _ = attention(*halves, column_mass=True)
    wanted = formula(*halves, None, None, False, 0.0, 0)
    assert y.dtype == mass.dtype == dtype
    torch.testing.assert_close(y, wanted[0], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(mass, wanted[1], atol=1e-3, rtol=2e-2)


def test_it_is_an_op_of_torch() -> None:
    q, k, v = draw(1, 2, 5, 4), draw(1, 1, 6, 4), draw(1, 1, 6, 4)
    torch.library.opcheck(torch.ops.tessera.attention, (q, k, v, None, None, False, 0.5, 0.0, True, 1))
    compiled = torch.compile(attention_with_mass, backend="aot_eager", fullgraph=True)
    for x, y in zip(compiled(q, k, v), attention(q, k, v, column_mass=True)[:2], strict=True):
        torch.testing.assert_close(x, y)


def test_what_does_not_go_together_is_refused() -> None:
    q, k = draw(1, 3, 5, 4), draw(1, 2, 6, 4)
    with pytest.raises(ValueError, match=r"q \(1, 3, 5, 4\), k \(1, 2, 6, 4\) and v \(1, 2, 6, 4\) do not go together"):
        attention(q, k, k)
    with pytest.raises(ValueError, match="there is no query number 5 among 5"):
        attention(k[:, :, :5], k, k, row=5)
    with pytest.raises(ValueError, match=r"the mask \(1, 1, 4, 6\) does not go with scores \(1, 2, 6, 6\)"):
        attention(k, k, k, torch.ones(1, 1, 4, 6, dtype=torch.bool, device=DEVICE))
    with pytest.raises(TypeError, match=r"takes f32, f16 and bf16, and was given torch.float64"):
        attention(k.double(), k.double(), k.double())
