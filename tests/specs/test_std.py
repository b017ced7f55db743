"""Each op and layer of the standard library against ``torch.nn.functional``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic

Agrees = Callable[..., None]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# nn ------------------------------------------------------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(agrees: Agrees, name: str) -> None:
    x = torch.randn(3, 4, 7) * 4
    agrees(f"std.nn.{name}", f"{name}(x)", ACTIVATIONS[name](x), x=x, free={"x": {0: "B"}, "r0": {0: "B"}})


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softplus", "silu", "gelu", "gelu_tanh"])
def test_activations_do_not_overflow(agrees: Agrees, name: str) -> None:
    x = torch.tensor([[-1e4, -90.0, 0.0, 90.0, 1e4], [1e4, 1e4, 1e4, 1e4, 1e4]])
    agrees(f"std.nn.{name}", f"{name}(x)", ACTIVATIONS[name](x), x=x)


def test_softmax_along_another_axis(agrees: Agrees) -> None:
    x = torch.randn(3, 4, 7)
    agrees("std.nn.softmax", "softmax(x, axis=1)", x.softmax(1), x=x)
    agrees("std.nn.log_softmax", "log_softmax(x, axis=0)", x.log_softmax(0), x=x)


def test_swiglu(agrees: Agrees) -> None:
    gate, up = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    agrees("std.nn.swiglu", "swiglu(gate, up)", F.silu(gate) * up, gate=gate, up=up)


@pytest.mark.parametrize("given", ["", ", w", ", w, b"])
def test_layer_normalize(agrees: Agrees, given: str) -> None:
    # A large mean, at which computing the variance as a difference of squares would lose every digit.
    x, w, b = torch.randn(3, 5, 8) + 100.0, torch.randn(8), torch.randn(8)
    used = {"w": w, "b": b} if "b" in given else {"w": w} if given else {}
    want = F.layer_norm(x, (8,), used.get("w"), used.get("b"), 1e-6)
    agrees("std.nn.layer_normalize", f"layer_normalize(x{given}, eps=1e-6)", want, tolerance=2e-4, x=x, **used)
    agrees("std.nn.layer_normalize", f"layer_normalize(x{given}, eps=1e-6)",
           F.layer_norm(x - 100.0, (8,), used.get("w"), used.get("b"), 1e-6), x=x - 100.0, **used)  # fmt: skip


def test_l2_normalize(agrees: Agrees) -> None:
    x = torch.randn(2, 3, 8)
    x[0, 1] = 0.0
    agrees("std.nn.l2_normalize", "l2_normalize(x)", F.normalize(x, dim=-1), x=x)
    # Squares that vanish: the length is 0.
    agrees("std.nn.l2_normalize", "l2_normalize(x)", torch.zeros(1, 4), x=torch.full((1, 4), 1e-30))


def test_rms_normalize(agrees: Agrees) -> None:
    x, w = torch.randn(3, 5, 8), torch.randn(8)
    agrees("std.nn.rms_normalize", "rms_normalize(x, w, eps=1e-3)", F.rms_norm(x, (8,), w, 1e-3), x=x, w=w)
    agrees("std.nn.rms_normalize", "rms_normalize(x)", F.rms_norm(x, (8,), None, 1e-6), x=x)


def test_group_normalize(agrees: Agrees) -> None:
    x, w, b = torch.randn(2, 6, 4, 5), torch.randn(6), torch.randn(6)
    for groups in (1, 2, 6):
        agrees(
            "std.nn.group_normalize",
            f"group_normalize(x, w, b, groups={groups})",
            F.group_norm(x, groups, w, b),
            x=x,
            w=w,
            b=b,
        )
    agrees("std.nn.group_normalize", "group_normalize(x, groups=3)", F.group_norm(x[..., 0], 3), x=x[..., 0],
           free={"x": {0: "B", 2: "L"}, "r0": {0: "B", 2: "L"}})  # fmt: skip


def test_batch_normalize(agrees: Agrees) -> None:
    m, v, w, b = torch.randn(6), torch.rand(6) + 0.1, torch.randn(6), torch.randn(6)
    for x in (torch.randn(2, 6, 4, 5), torch.randn(4, 6)):
        agrees(
            "std.nn.batch_normalize",
            "batch_normalize(x, m, v, w, b)",
            F.batch_norm(x, m, v, w, b),
            x=x,
            m=m,
            v=v,
            w=w,
            b=b,
        )
        agrees(
            "std.nn.batch_normalize",
            "batch_normalize(x, m, v, eps=1e-2)",
            F.batch_norm(x, m, v, eps=1e-2),
            x=x,
            m=m,
            v=v,
        )


def test_affine(agrees: Agrees) -> None:
    w, b = torch.randn(5, 8), torch.randn(5)
    for x in (torch.randn(3, 8), torch.randn(2, 3, 8)):
        agrees("std.nn.affine", "affine(x, w, b)", F.linear(x, w, b), x=x, w=w, b=b)
        agrees("std.nn.affine", "affine(x, w)", F.linear(x, w), x=x, w=w)


class Conv1D(torch.nn.Module):
    """GPT-2's linear layer, as a judge."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8, 6))
        self.bias = torch.nn.Parameter(torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class Rms(torch.nn.Module):
    """A norm whose eps is stated, since torch's default depends on the dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (8,), self.weight, 1e-6)


class Mlp(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(8, 12)
        self.fc2 = torch.nn.Linear(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class SwiGlu(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = torch.nn.Linear(8, 12, bias=False)
        self.up_proj = torch.nn.Linear(8, 12, bias=False)
        self.down_proj = torch.nn.Linear(12, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


# layer call, its judge, input type, result type, input
LAYERS: dict[str, tuple[str, Callable[[], nn.Module], str, str, tuple[int, ...]]] = {
    "linear": ("linear(x, out=6)", lambda: nn.Linear(8, 6), "[B, T, 8]", "[B, T, 6]", (2, 3, 8)),
    "plain linear": ("linear(x, out=6, bias=false)", lambda: nn.Linear(8, 6, bias=False), "[B, 8]", "[B, 6]", (3, 8)),
    "conv1d_linear": ("conv1d_linear(x, out=6)", Conv1D, "[B, T, 8]", "[B, T, 6]", (2, 3, 8)),
    "conv1d": ("conv1d(x, out=6, kernel=3, stride=2, padding=1)", lambda: nn.Conv1d(4, 6, 3, 2, 1), "[B, 4, L]",
               "[B, 6, (L - 1) // 2 + 1]", (2, 4, 9)),
    "conv1d, groups": ("conv1d(x, out=6, kernel=2, groups=2, bias=false)",
                       lambda: nn.Conv1d(4, 6, 2, groups=2, bias=False), "[B, 4, L]", "[B, 6, L - 1]", (2, 4, 9)),
    "conv2d": ("conv2d(x, out=6, kernel=3, padding=1)", lambda: nn.Conv2d(4, 6, 3, 1, 1), "[B, 4, H, W]",
               "[B, 6, H, W]", (2, 4, 5, 7)),
    "layer_norm": ("layer_norm(x)", lambda: nn.LayerNorm(8), "[B, T, 8]", "[B, T, 8]", (2, 3, 8)),
    "plain norm": ("layer_norm(x, bias=false)", lambda: nn.LayerNorm(8, bias=False), "[B, 8]", "[B, 8]", (3, 8)),
    "rms_norm": ("rms_norm(x)", Rms, "[B, T, 8]", "[B, T, 8]", (2, 3, 8)),
    "group_norm": ("group_norm(x, groups=2)", lambda: nn.GroupNorm(2, 4), "[B, 4, H, W]", "[B, 4, H, W]", (2, 4, 5, 3)),
    "batch_norm": ("batch_norm(x)", lambda: nn.BatchNorm2d(4), "[B, 4, H, W]", "[B, 4, H, W]", (2, 4, 5, 3)),
    "mlp": ("mlp(x, hidden=12, act=silu)", Mlp, "[B, T, 8]", "[B, T, 8]", (2, 3, 8)),
    "swiglu_mlp": ("swiglu_mlp(x, hidden=12)", SwiGlu, "[B, T, 8]", "[B, T, 8]", (2, 3, 8)),
    "embedding": ("embedding(x, vocab=9, dim=6)", lambda: nn.Embedding(9, 6), "[B, T]", "[B, T, 6]", (2, 5)),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_layers_have_the_names_and_results_of_torch(compiled: Callable[..., Any], case: str) -> None:
    call, make, operand, result, shape = LAYERS[case]
    judge = make().eval()
    with torch.no_grad():
        for value in judge.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.1)
    ids = case == "embedding"
    text = f"""
    use std.nn ({call.partition("(")[0]}{", silu" if "silu" in call else ""})
    model m(x: {"i64" if ids else "float"}{operand}) -> float{result} {{ return {call} }}
    """
    module = loads(text)
    state = {k: v for k, v in judge.state_dict().items() if v.is_floating_point()}
    assert set(module.graph.params) == set(state)
    run = compiled(module, {k: v.numpy() for k, v in state.items()})
    for batch in (1, shape[0]):
        x = torch.randint(0, 9, shape) if ids else torch.randn(shape)
        with torch.no_grad():
            want = judge(x[:batch])
        (got,) = run(x=x[:batch].numpy()).values()
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)


def test_more_tokens_than_learned_positions_are_refused() -> None:
    text = "use std.nn (position_embedding)\nmodel m(x: float[B, 9, 4]) -> float[B, 9, 4] {" \
           " return x + position_embedding(length=9, table=8, dim=4) }"  # fmt: skip
    with pytest.raises(Diagnostic, match="more tokens than positions were learned"):
        loads(text)


# attention -----------------------------------------------------------------------------------------------------------


def qkv(kv_heads: int = 4) -> dict[str, torch.Tensor]:
    return {"q": torch.randn(2, 4, 5, 8), "k": torch.randn(2, kv_heads, 7, 8), "v": torch.randn(2, kv_heads, 7, 6)}


def repeated(t: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    group = 4 // t["k"].shape[1]
    return t["q"], t["k"].repeat_interleave(group, 1), t["v"].repeat_interleave(group, 1)


ATTENTION = "std.attention.attention"


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_with_grouped_heads(agrees: Agrees, kv_heads: int) -> None:
    t = qkv(kv_heads)
    agrees(ATTENTION, "attention(q, k, v)", F.scaled_dot_product_attention(*repeated(t)), **t)
    agrees(ATTENTION, "attention(q, k, v, scale=0.5)", F.scaled_dot_product_attention(*repeated(t), scale=0.5), **t)


def test_attention_with_every_token_count(compiled: Callable[..., Any]) -> None:
    text = """
    use std.attention (attention)
    model m(q: float[B, 2, T, 8], k: float[B, 2, S, 8], v: float[B, 2, S, 6], mask: bool[B, 1, 1, S])
        -> float[B, 2, T, 6] {
        return attention(q, k, v, mask, causal=true)
    }
    """
    run = compiled(loads(text))
    for b, t, s in [(1, 1, 1), (3, 5, 5), (2, 2, 9)]:
        q, k, v = torch.randn(b, 2, t, 8), torch.randn(b, 2, s, 8), torch.randn(b, 2, s, 6)
        mask = torch.rand(b, 1, 1, s) < 0.7
        mask[..., 0] = True
        allowed = mask & torch.ones(t, s, dtype=torch.bool).tril(s - t)
        (got,) = run(q=q.numpy(), k=k.numpy(), v=v.numpy(), mask=mask.numpy()).values()
        want = F.scaled_dot_product_attention(q, k, v, allowed)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (1, 1, 5, 7), (2, 1, 1, 7), (1, 4, 1, 7)])
def test_attention_with_mask_and_bias(agrees: Agrees, shape: tuple[int, ...]) -> None:
    t = qkv(2)
    mask, bias = torch.rand(shape) < 0.6, torch.randn(shape)
    mask[..., 0] = True
    args = repeated(t)
    agrees(ATTENTION, "attention(q, k, v, mask)", F.scaled_dot_product_attention(*args, mask), mask=mask, **t)
    agrees(ATTENTION, "attention(q, k, v, bias=bias)", F.scaled_dot_product_attention(*args, bias), bias=bias, **t)
    both = F.scaled_dot_product_attention(*args, torch.where(mask, bias, -torch.inf))
    agrees(ATTENTION, "attention(q, k, v, mask, bias)", both, mask=mask, bias=bias, **t)


@pytest.mark.parametrize("how", ["mask", "bias"])
def test_a_query_that_may_attend_to_nothing_gives_zero(agrees: Agrees, how: str) -> None:
    t = qkv()
    mask = torch.ones(2, 1, 5, 7, dtype=torch.bool)
    mask[0, :, 2] = False
    mask[1] = False
    want = F.scaled_dot_product_attention(*repeated(t), mask).nan_to_num(0.0)
    want[0, :, 2] = want[1] = 0.0
    given = mask if how == "mask" else torch.where(mask, 0.0, -torch.inf)
    agrees(ATTENTION, f"attention(q, k, v, {how}={how})", want, **{how: given}, **t)


def test_causal_lets_the_last_query_see_every_key(agrees: Agrees) -> None:
    t = qkv()
    allowed = torch.ones(5, 7, dtype=torch.bool).tril(2)
    agrees(ATTENTION, "attention(q, k, v, causal=true)", F.scaled_dot_product_attention(*repeated(t), allowed), **t)
    square = {k: v[:, :, :5] for k, v in t.items()}
    want = F.scaled_dot_product_attention(*repeated(square), is_causal=True)
    agrees(ATTENTION, "attention(q, k, v, causal=true)", want, **square)


def test_softcap_bounds_the_scores(agrees: Agrees) -> None:
    t = qkv(2)
    q, k, v = repeated(t)
    bias = torch.randn(1, 4, 5, 7)
    scores = 2.0 * torch.tanh(q @ k.transpose(2, 3) * 8**-0.5 / 2.0) + bias
    agrees(ATTENTION, "attention(q, k, v, bias=bias, softcap=2.0)", scores.softmax(-1) @ v, bias=bias, **t)


@pytest.mark.parametrize("row", [0, 3, -1])
def test_attention_statistics(agrees: Agrees, row: int) -> None:
    t = qkv(2)
    q, k, v = repeated(t)
    mask = torch.rand(2, 1, 5, 7) < 0.6
    mask[..., 0] = True
    scores = (q @ k.transpose(2, 3) * 8**-0.5).masked_fill(~mask, -torch.inf)
    p = scores.softmax(-1)
    want = (p @ v, p.mean((1, 2)), p[:, :, row], scores.logsumexp(-1))
    options = f"column_mass=true, row={row}, log_sum_exp=true"
    agrees(ATTENTION, f"attention(q, k, v, mask, {options})", *want, mask=mask, **t)
    agrees(ATTENTION, f"attention(q, k, v, mask, row={row})", want[0], want[2], mask=mask, **t)


@pytest.mark.parametrize("bias", [True, False])
def test_self_attention(compiled: Callable[..., Any], bias: bool) -> None:
    judge = torch.nn.MultiheadAttention(8, 2, bias=bias, batch_first=True).eval()
    word = str(bias).lower()
    text = f"""
    use std.attention (self_attention)
    model m(x: float[B, T, 8], mask: bool[B, 1, 1, T]) -> float[B, T, 8] {{
        return self_attention(x, mask, heads=2, qkv_bias={word}, out_bias={word}) as attn
    }}
    """
    weights = {}
    with torch.no_grad():
        for i, name in enumerate("qkv"):
            weights[f"attn.{name}.weight"] = judge.in_proj_weight[8 * i : 8 * i + 8].numpy()
            if bias:
                judge.in_proj_bias.normal_()
                weights[f"attn.{name}.bias"] = judge.in_proj_bias[8 * i : 8 * i + 8].numpy()
        weights["attn.out.weight"] = judge.out_proj.weight.numpy()
        if bias:
            weights["attn.out.bias"] = judge.out_proj.bias.normal_().numpy()
        run = compiled(loads(text), weights)
        for b, t in [(1, 3), (2, 6)]:
            x = torch.randn(b, t, 8)
            mask = torch.rand(b, t) < 0.7
            mask[:, 0] = True
            want, _ = judge(x, x, x, key_padding_mask=~mask, need_weights=False)
            (got,) = run(x=x.numpy(), mask=mask[:, None, None].numpy()).values()
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)


def test_cross_attention(compiled: Callable[..., Any]) -> None:
    judge = torch.nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True).eval()
    text = """
    use std.attention (cross_attention)
    model m(x: float[B, T, 8], context: float[B, S, 6]) -> float[B, T, 8] {
        return cross_attention(x, context, heads=2)
    }
    """
    with torch.no_grad():
        judge.in_proj_bias.normal_()
        weights = {f"{n}.bias": judge.in_proj_bias[8 * i : 8 * i + 8].numpy() for i, n in enumerate("qkv")}
        weights |= {f"{n}.weight": getattr(judge, f"{n}_proj_weight").numpy() for n in "qkv"}
        weights |= {f"out.{k}": v.numpy() for k, v in judge.out_proj.named_parameters()}
        x, context = torch.randn(2, 5, 8), torch.randn(2, 7, 6)
        (got,) = compiled(loads(text), weights)(x=x.numpy(), context=context.numpy()).values()
        want, _ = judge(x, context, context, need_weights=False)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)


def angles(positions: torch.Tensor, dim: int, theta: float) -> torch.Tensor:
    frequency = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return positions.double()[..., None] * frequency


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_rope_table(agrees: Agrees, theta: float) -> None:
    position = torch.tensor([[0, 1, 2, 100, 2047], [5, 3, 3, 9, 1]])
    call = f"rope_table(position, dim=8, theta={theta})"
    want = angles(position, 8, theta)
    cosine, sine = want.cos().float(), want.sin().float()
    # An angle of 2,047 radians has seven digits in f32, four of them behind the point.
    agrees("std.attention.rope_table", call, cosine, sine, tolerance=1e-3, position=position)
    agrees("std.attention.rope_table", call, cosine[:, :3], sine[:, :3], position=position[:, :3])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("turned", [8, 4])
def test_rope(agrees: Agrees, interleaved: bool, turned: int) -> None:
    """Pairs as complex numbers that are multiplied by e ** (i angle); features past `turned` stay."""
    x = torch.randn(2, 3, 5, 8)
    angle = angles(torch.arange(5)[None], turned, 100.0)
    part = x[..., :turned].double()
    a, b = (part[..., 0::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
    z = torch.complex(a, b) * torch.polar(torch.ones_like(angle), angle)[:, None]
    joined = torch.stack([z.real, z.imag], -1).flatten(-2) if interleaved else torch.cat([z.real, z.imag], -1)
    want = torch.cat([joined.float(), x[..., turned:]], -1)
    call = f"rope(x, c, s, interleaved={str(interleaved).lower()})"
    agrees("std.attention.rope", call, want, x=x, c=angle.cos().float(), s=angle.sin().float())


def published_slopes(heads: int) -> list[float]:
    """From the repository of Press et al. 2022."""

    def of_a_power_of_two(n: int) -> list[float]:
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if math.log2(heads).is_integer():
        return of_a_power_of_two(heads)
    below = 2 ** math.floor(math.log2(heads))
    return of_a_power_of_two(below) + published_slopes(2 * below)[0::2][: heads - below]


@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12, 16, 20])
def test_alibi(agrees: Agrees, heads: int) -> None:
    slopes = torch.tensor(published_slopes(heads))
    query, key = torch.tensor([[0, 1, 5]]), torch.tensor([[0, 1, 2, 5]])
    want = -(query[:, :, None] - key[:, None]).abs()[:, None] * slopes[None, :, None, None]
    agrees("std.attention.alibi_bias", f"alibi_bias(query, key, heads={heads})", want, query=query, key=key)


# vision --------------------------------------------------------------------------------------------------------------


def test_patch_embed(compiled: Callable[..., Any]) -> None:
    judge = torch.nn.Conv2d(3, 6, 4, 4)
    text = "use std.vision (patch_embed)\nmodel m(x: float[B, 3, H, W]) -> float[B, (H // 4) * (W // 4), 6] {" \
           " return patch_embed(x, patch=4, out=6) }"  # fmt: skip
    run = compiled(loads(text), {k: v.detach().numpy() for k, v in judge.named_parameters()})
    for height, width in [(8, 8), (12, 20), (9, 7)]:
        x = torch.randn(2, 3, height, width)
        (got,) = run(x=x.numpy()).values()
        np.testing.assert_allclose(got, judge(x).flatten(2).transpose(1, 2).detach().numpy(), rtol=1e-5, atol=1e-5)


SIZES = [(5, 4), (14, 20), (7, 9), (1, 1), (16, 3), (28, 28)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_resize(agrees: Agrees, method: str, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 7, 9)
    want = F.interpolate(x, size, mode=method, align_corners=False)
    call = f'resize(x, height={size[0]}, width={size[1]}, method="{method}")'
    agrees("std.vision.resize", call, want.permute(0, 2, 3, 1), x=x.permute(0, 2, 3, 1))


@pytest.mark.parametrize("size", SIZES)
def test_adaptive_average_pool(agrees: Agrees, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 7, 9)
    agrees("std.vision.adaptive_average_pool", f"adaptive_average_pool(x, height={size[0]}, width={size[1]})",
           F.adaptive_avg_pool2d(x, size).permute(0, 2, 3, 1), x=x.permute(0, 2, 3, 1))  # fmt: skip


def test_interpolate_positions(agrees: Agrees) -> None:
    position = torch.randn(1, 2 + 7 * 9, 4)
    grid = position[:, 2:].reshape(1, 7, 9, 4).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, (10, 12), mode="bicubic").permute(0, 2, 3, 1).reshape(1, 120, 4)
    call = "interpolate_positions(p, prefix=2, source_rows=7, source_columns=9, rows=10, columns=12)"
    agrees("std.vision.interpolate_positions", call, torch.cat([position[:, :2], resized], 1), p=position)


# pooling and losses --------------------------------------------------------------------------------------------------


def test_pooling(agrees: Agrees) -> None:
    x, weight = torch.randn(3, 5, 4), torch.rand(3, 5)
    weight[1, 2:] = 0.0
    agrees("std.pooling.mean_pool", "mean_pool(x)", x.mean(1), x=x)
    want = (x * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
    agrees("std.pooling.mean_pool", "mean_pool(x, weight)", want, x=x, weight=weight)
    agrees("std.pooling.mean_pool", "mean_pool(x, weight)", torch.zeros(3, 4), x=x, weight=torch.zeros(3, 5))
    mask = weight > 0.5
    mask[:, 0] = True
    agrees("std.pooling.max_pool", "max_pool(x)", x.amax(1), x=x)
    agrees(
        "std.pooling.max_pool", "max_pool(x, mask)", x.masked_fill(~mask[..., None], -torch.inf).amax(1), x=x, mask=mask
    )
    agrees("std.pooling.class_pool", "class_pool(x)", x[:, 0], x=x)
    agrees("std.pooling.unit_length", "unit_length(x)", F.normalize(x, dim=-1), x=x)
    agrees("std.pooling.unit_length", "unit_length(x)", torch.zeros(1, 4), x=torch.zeros(1, 4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(agrees: Agrees, smoothing: float) -> None:
    logits, target = torch.randn(3, 5, 7) * 10, torch.randint(0, 7, (3, 5))
    target[0, 1:3] = -100
    want = F.cross_entropy(logits.flatten(0, 1), target.flatten(), label_smoothing=smoothing)
    agrees("std.losses.cross_entropy", f"cross_entropy(x, y, smoothing={smoothing})", want, x=logits, y=target)
    nothing = torch.full((3, 5), -100)
    agrees("std.losses.cross_entropy", "cross_entropy(x, y)", torch.tensor(0.0), x=logits, y=nothing)


def test_other_losses(agrees: Agrees) -> None:
    x, y = torch.randn(6, 7), torch.randn(6, 7)
    want = F.kl_div((x / 2.0).log_softmax(-1), (y / 2.0).softmax(-1), reduction="batchmean")
    agrees("std.losses.kl_divergence", "kl_divergence(x, y, temperature=2.0)", want, x=x, y=y)
    agrees("std.losses.mse", "mse(x, y)", F.mse_loss(x, y), x=x, y=y)
    agrees("std.losses.cosine_similarity", "cosine_similarity(x, y)", F.cosine_similarity(x, y), x=x, y=y)
    agrees("std.losses.router_z", "router_z(x)", x.logsumexp(-1).square().mean(), x=x)
    expert = x.argmax(-1)
    share = F.one_hot(expert, 7).float().mean(0)
    agrees("std.losses.load_balance", "load_balance(x, e)", 7 * (share * x.softmax(-1).mean(0)).sum(), x=x, e=expert)
    even = torch.eye(7) * 40
    agrees("std.losses.load_balance", "load_balance(x, e)", torch.tensor(1.0), x=even, e=torch.arange(7))


def test_column_mass_in_blocks_is_that_of_the_map(compiled: Callable[..., Any]) -> None:
    """To 1e-6, for numbers of queries that blocks do not divide; and nothing as large as the map is in the program."""
    text = """
    use std.attention (attention, column_mass)
    model m(q: f32[B, 2, T, 8], k: f32[B, 2, S, 8]) -> (f32[B, S], f32[B, S]) {
        y, mass = attention(q, k, k, column_mass=true)
        return column_mass(q, k, block=16), mass
    }"""
    run = compiled(loads(text))
    for tokens in (1, 16, 37):
        q, k = torch.randn(2, 2, tokens, 8).numpy(), torch.randn(2, 2, 21, 8).numpy()
        blocks, whole = run(q=q, k=k).values()
        np.testing.assert_allclose(blocks, whole, atol=1e-6)
