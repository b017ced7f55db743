"""The importers of aten ops against PyTorch itself: small functions, exported with a free first axis, run at two sizes.

A failure is repeated by ``pytest tests/frontends/torch/test_ops.py -k NAME``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tessera.backends.torch import build
from tessera.frontends.source import loads, print_module
from tessera.frontends.torch import load
from tessera.ir.verifier import verify


def check(function: Callable[..., Any], *make: Callable[[int], torch.Tensor], free: bool = True) -> Any:
    """Import ``function`` of the tensors that ``make`` makes for a size; compare at two sizes; returns the import."""

    class Model(torch.nn.Module):
        def forward(self, *tensors: Any) -> Any:
            return function(*tensors)

    examples = tuple(m(4) for m in make)
    shapes = (tuple({0: "N"} for _ in make),) if free else None
    imported = load(Model().eval(), examples, dynamic_shapes=shapes)
    verify(imported.module.graph)
    assert imported.module.difference(loads(print_module(imported.module))) is None
    run = build(imported.module, imported.weights)
    for size in (4, 7) if free else (4,):
        tensors = tuple(m(size) for m in make)
        wanted = function(*tensors)
        found = list(run(*tensors).values())
        for a, b in zip(wanted if isinstance(wanted, (tuple, list)) else [wanted], found, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-5)
    return imported


def real(*rest: int, low: float = -2.0, high: float = 2.0) -> Callable[[int], torch.Tensor]:
    def make(size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(size + len(rest))
        return torch.rand(size, *rest, generator=generator) * (high - low) + low

    return make


def whole(*rest: int, high: int = 4) -> Callable[[int], torch.Tensor]:
    return lambda size: torch.randint(0, high, (size, *rest), generator=torch.Generator().manual_seed(size))


def ops(imported: Any) -> list[str]:
    return [node.op.qualified for node in imported.module.graph.nodes()]


CASES: dict[str, tuple[Callable[..., Any], tuple[Callable[[int], torch.Tensor], ...]]] = {
    "arithmetic": (
        lambda x, y: (x + y, x - 2.0 * y, 1 - x, torch.add(x, y, alpha=3), x / y, x * 2, -x, abs(x), x % 1.5, x // y),
        (real(3), real(3, low=0.5)),
    ),
    "integers": (
        lambda i: (i / 2, i + 0.5, i * 3, i % 3, i // 2, torch.div(i - 3, 2, rounding_mode="trunc"), i.float().int()),
        (whole(3),),
    ),
    "functions": (
        lambda x: (x.exp(), x.sin(), x.cos(), x.tanh(), x.sigmoid(), x.erf(), x.floor(), x.ceil(), x.round(), x.sign(),
                   x.abs().log(), x.abs().sqrt(), x.abs().rsqrt(), x.square(), x.reciprocal(), x.trunc(), x.expm1(),
                   x.abs().log1p(), x.abs().log2(), x.exp2(), x.isnan(), x.isinf()),
        (real(3),),
    ),
    "powers": (lambda x: (x**2, x**3, x**4, x.abs() ** 0.5, x.abs() ** 1.7, 2.0**x, x.abs() ** -0.5, x**-1), (real(3),)),
    "comparisons": (
        lambda x, y: (x < y, x <= 0, x == y, x != 0.5, (x > 0) & (y > 0), (x > 0) | (y > 0), ~(x > 0), (x > 0) ^ (y > 0)),
        (real(3), real(3)),
    ),
    "selection": (
        lambda x, y: (torch.where(x > 0, x, y), torch.where(x > 0, x, 0.0), x.masked_fill(y > 0, -1.0), x.clamp(-1, 1),
                      x.clamp(min=0.5), torch.minimum(x, y), torch.maximum(x, y)),
        (real(3), real(3)),
    ),
    "promotion": (
        lambda x, i, b: (x + i, i + b, x * b, i + 1.5, torch.tensor(2.0) + i, x.half() + x, i.int() + i, b + b),
        (real(3), whole(3), lambda n: torch.arange(n * 3).reshape(n, 3) % 2 == 0),
    ),
    "reductions": (
        lambda x: (x.sum(), x.sum(-1), x.mean((0, 2)), x.mean(1, keepdim=True), x.amax(1), x.amin((1, 2)), x.max(), x.min(),
                   x.var(-1), x.std(-1, unbiased=False), torch.var_mean(x, 1)[1], x.logsumexp(-1), x.norm(dim=-1),
                   (x > 0).sum(1), (x > 0).any(), (x > 0).all(-1), x.prod(1)),
        (real(3, 5),),
    ),
    "orders": (
        lambda x: (*x.max(1), *x.min(-1), x.argmax(1), x.argmin(), *x.sort(-1), x.argsort(1, descending=True), *x.topk(2, 1),
                   *x.topk(2, -1, largest=False), x.cumsum(1)),
        (real(3, 5),),
    ),
    "views": (
        lambda x: (x.view(-1, 15), x.reshape(-1, 5), x.flatten(), x.flatten(1), x.transpose(0, 1), x.permute(2, 0, 1),
                   x.unsqueeze(-1), x[:, :1].squeeze(1), x.mT, x.unflatten(2, (5, 1)), x.movedim(0, 2), x[None],
                   x.expand(2, -1, -1, -1), x.mean(1, keepdim=True).expand_as(x)),
        (real(3, 5),),
    ),
    "parts": (
        lambda x: (x[:, 0], x[:, -1], x[:, 1:3], x[..., ::2], x[:, -2:], x[:, :-1], *x.split(2, 1), *x.chunk(2, -1),
                   *x.unbind(1), *x.split([1, 2], 1), x.narrow(1, 1, 2), x[:, 5:], x.flip(1), x.roll(1, 1), x.roll((1, 2), (1, 2))),
        (real(3, 5),),
    ),
    "joins": (
        lambda x, y: (torch.cat([x, y]), torch.cat([x, y], -1), torch.stack([x, y], 1), x.repeat(2, 1), x.repeat(1, 3),
                      x.repeat_interleave(2, 1), torch.hstack([x, y]), F.pad(x, (1, 2)), F.pad(x, (0, -1), value=3.0)),
        (real(3), real(3)),
    ),
    "new tensors": (
        lambda x: (torch.arange(x.shape[0]), torch.arange(1, 7, 2), torch.zeros_like(x), x.new_ones(2, 3),
                   torch.full((x.shape[0],), 2.5), torch.linspace(0, 1, 5), torch.ones(2, dtype=torch.int32),
                   x.new_full((2,), 3.0), torch.arange(0, 1, 0.25), torch.eye(3) * 2, torch.tril(x), torch.triu(x, 1),
                   torch.arange(x.shape[0]) * x.shape[0]),
        (real(3),),
    ),
    "products": (
        lambda x, y: (x @ y.mT, torch.bmm(x, y.mT), torch.einsum("bij,bkj->bik", x, y), torch.einsum("...j,...j", x, y),
                      torch.baddbmm(x @ y.mT, x, y.mT, beta=0.5, alpha=2), torch.matmul(x, y[0, 0]), x[0] @ y[0].T,
                      torch.dot(x[0, 0], y[0, 0]), torch.outer(x[0, 0], y[0, 0])),
        (real(3, 5), real(3, 5)),
    ),
    "activations": (
        lambda x: (F.relu(x), F.gelu(x), F.gelu(x, approximate="tanh"), F.silu(x), F.softplus(x), F.softplus(x, beta=2),
                   F.leaky_relu(x, 0.1), F.elu(x), F.hardtanh(x), F.relu6(x), F.hardswish(x), F.hardsigmoid(x), F.mish(x),
                   F.glu(x, 1), F.softmax(x, -1), F.log_softmax(x, 0), F.softmax(x, 1, dtype=torch.float64)),
        (real(4),),
    ),
    "normalisations": (
        lambda x: (F.layer_norm(x, (6,)), F.layer_norm(x, (4, 6)), F.rms_norm(x, (6,)), F.group_norm(x, 2),
                   F.layer_norm(x, (6,), torch.ones(6) * 2, torch.ones(6)), F.normalize(x, dim=-1)),
        (real(4, 6),),
    ),
    "indexing": (
        lambda x, i: (x[:, i[:, 0]], x[i[:, 0]], x[:, torch.tensor([0, -1])], x[i[:, 0], i[:, 1]], torch.gather(x, 1, i),
                      x.index_select(1, torch.tensor([2, 0])), F.embedding(i, x), x[torch.arange(x.shape[0]), i[:, 0]],
                      F.one_hot(i, 4)),
        (real(4), whole(4)),
    ),
    "writing": (
        lambda x, i: (x.scatter(1, i[:, :1].expand(-1, 4) * 0 + torch.arange(4), x * 2), x.scatter_add(1, i, x),
                      x.scatter_reduce(1, i, x, "mean"), x.scatter_reduce(1, i, x, "amax"),
                      x.scatter_reduce(1, i, x, "sum", include_self=False), x.index_add(1, torch.tensor([0, 0]), x[:, :2]),
                      x.index_copy(1, torch.tensor([3, 1]), x[:, :2]), torch.slice_scatter(x, x[:, :2] * 3, 1, 1, 3),
                      torch.select_scatter(x, x[:, 0], 1, -1)),
        (real(4), whole(4)),
    ),
    "mutation": (lambda x: _mutated(x), (real(4),)),
}  # fmt: skip


def _mutated(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 0] = 1.0
    y[:, 1:3] += x[:, 1:3]
    y.mul_(2)
    y[y > 3] = 0.0
    return y


@pytest.mark.parametrize("name", CASES)
def test_as_torch(name: str) -> None:
    function, make = CASES[name]
    check(function, *make)


def test_convolutions() -> None:
    w1, w2, bias = torch.randn(6, 4, 3), torch.randn(6, 2, 3, 3), torch.randn(6)
    check(lambda x: F.conv1d(x, w1, bias, stride=2, padding=1), real(4, 9))
    check(
        lambda x: (F.conv2d(x, w2, bias, groups=2), F.conv2d(x, w2, padding="same", groups=2, dilation=2)),
        real(4, 8, 9),
    )


def test_batch_norm_and_pooling() -> None:
    norm = torch.nn.BatchNorm2d(4).eval()
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    imported = load(norm, (torch.randn(2, 4, 6, 6),), dynamic_shapes=({0: "B"},))
    assert ops(imported) == ["std.nn.batch_normalize"]
    assert {"weight", "bias", "running_mean", "running_var"} == set(imported.module.graph.params)
    check(
        lambda x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, (3, 2)), F.avg_pool2d(x, 2),
                   F.adaptive_avg_pool1d(x[:, :, 0], 4)),
        real(4, 6, 7),
    )  # fmt: skip


def test_resizing() -> None:
    check(
        lambda x: (F.interpolate(x, (9, 4), mode="bilinear"), F.interpolate(x, (9, 4), mode="bicubic"),
                   F.interpolate(x, scale_factor=2, mode="nearest"), F.interpolate(x, scale_factor=2, mode="bilinear")),
        real(2, 6, 7),
    )  # fmt: skip


def test_more_resizing_and_pooling() -> None:
    check(
        lambda x: (F.interpolate(x, (9, 4), mode="bilinear", align_corners=True), F.max_pool2d(x, 3, 2, 1),
                   F.interpolate(x, (1, 1), mode="bilinear", align_corners=True), F.max_pool2d(x, 2, dilation=2),
                   F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), F.avg_pool2d(x, 3, 2, 1)),
        real(2, 6, 7),
    )  # fmt: skip
    weight, bias = torch.randn(3, 5, 2, 2), torch.randn(5)
    check(lambda x: F.conv_transpose2d(x, weight, bias, stride=2), real(3, 4, 5))
    check(lambda x: F.conv_transpose2d(x, weight, bias, stride=1), real(3, 4, 5))
    check(lambda x: F.conv_transpose2d(x, weight, bias, 2, padding=1, output_padding=1, dilation=2), real(3, 4, 5))


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_elements_at_points_of_an_image(mode: str, padding: str, corners: bool) -> None:
    """Heads folded into a free batch, as deformable attention has them."""

    def sampled(x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        folded = x.reshape(2 * x.shape[0], 3, 5, 6), grid.reshape(2 * x.shape[0], 4, 3, 2)
        return F.grid_sample(*folded, mode=mode, padding_mode=padding, align_corners=corners)

    imported = check(sampled, real(6, 5, 6), real(8, 3, 2, low=-1.3, high=1.3))
    assert "std.vision.grid_sample" in ops(imported)


def test_statistics_of_the_tensor_itself() -> None:
    check(
        lambda x: F.batch_norm(x, None, None, torch.ones(3) * 2, torch.ones(3), training=True), real(3, 5), free=False
    )


def test_histograms_of_integers() -> None:
    check(lambda i: torch.histc(i.float(), bins=4, min=0, max=3), whole(3))


def test_grouped_products() -> None:
    """How transformers computes experts; the rows are sorted by expert."""
    import transformers.integrations.moe  # noqa: F401  (registers the operator)

    weight = torch.randn(3, 5, 2)

    def experts(x: torch.Tensor) -> torch.Tensor:
        ends = torch.tensor([1, 1, x.shape[0]])
        return torch.ops.transformers.grouped_mm_fallback(x, weight, ends)

    assert "grouped_matmul" in ops(check(experts, real(5), free=False))


# Attention -----------------------------------------------------------------------------------------------------------


def test_attention_is_one_node() -> None:
    sdpa = F.scaled_dot_product_attention
    shape = real(4, 6, 8)
    found = check(lambda q, k, v: sdpa(q, k, v), shape, shape, shape)
    assert ops(found) == ["std.attention.attention"]
    found = check(lambda q, k, v: sdpa(q, k, v, is_causal=True, scale=0.3), shape, shape, shape)
    assert ops(found) == ["std.attention.attention"]
    (node,) = found.module.graph.nodes()
    assert (node.attrs["causal"], node.attrs["scale"]) == (True, 0.3)


def test_attention_with_masks() -> None:
    sdpa = F.scaled_dot_product_attention
    q, k = real(4, 6, 8), real(4, 5, 8)
    bias = torch.randn(1, 1, 6, 5)
    mask = torch.tensor([[True, False, True, True, True]]).expand(6, 5)
    check(lambda q, k: (sdpa(q, k, k, attn_mask=mask), sdpa(q, k, k, attn_mask=bias)), q, k)
    check(lambda q, k: sdpa(q[:, 0], k[:, 0], k[:, 0]), q, k)  # three axes
    check(lambda q, k: sdpa(q, k, k, is_causal=True), q, k)  # the triangle starts at the first query
    found = check(lambda q, k: sdpa(q, k[:, :2], k[:, :2], enable_gqa=True), q, k)
    assert "reshape" not in ops(found)


def test_triangles_and_expanded_masks_are_taken_off() -> None:
    def causal(q: torch.Tensor) -> torch.Tensor:
        place = torch.arange(q.shape[2])
        seen = (place[None, None, None, :] <= place[None, None, :, None]).expand(q.shape[0], 1, -1, -1)
        return F.scaled_dot_product_attention(q, q, q, attn_mask=seen)

    found = check(causal, real(2, 5, 8))
    assert ops(found) == ["std.attention.attention"]
    (node,) = found.module.graph.nodes()
    assert node.attrs["causal"]
