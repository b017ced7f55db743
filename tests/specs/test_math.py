"""std.math, std.arrays, and pooling, against PyTorch and NumPy where formulas break: signed zeros, infinities, ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tessera.backends.torch import build
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic

from ..backends.support import session

EDGES = torch.tensor(
    [0.0, -0.0, 1e-30, -1e-8, 1e-4, -0.3, 0.46, 0.47, 0.9999, -1.0, 1.5, 3.9, 4.1, -9.0, 20.0, 1e30, torch.inf, -torch.inf]
)
FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "expm1": torch.expm1, "log1p": torch.log1p, "erfc": torch.erfc, "asin": torch.asin, "acos": torch.acos,
}  # fmt: skip


def one(name: str, use: str = "std.math", kind: str = "f64") -> str:
    return f"use {use} ({name})\nmodel m(x: {kind}[N]) -> {kind}[N] {{ return {name}(x) }}"


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("claims", [True, False])
def test_functions_keep_their_digits(name: str, claims: bool) -> None:
    x = EDGES.double().clamp(-700, 700) if name == "expm1" else EDGES.double()
    module = build(loads(one(name)).graph, claims=claims)
    torch.testing.assert_close(module(x)["output"], FUNCTIONS[name](x), rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_the_bodies_are_torchs(name: str) -> None:
    points = torch.tensor([-0.9, -0.3, 1e-3, 0.2, 0.5, 0.95], dtype=torch.float64)
    found, wanted = (points.clone().requires_grad_() for _ in range(2))
    build(loads(one(name)).graph, claims=False)(found)["output"].sum().backward()
    FUNCTIONS[name](wanted).sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("claims", [True, False])
def test_atan2_knows_every_quadrant_and_sign(claims: bool) -> None:
    rows = torch.tensor([0.0, -0.0, 1.0, -2.0, 1e-300, 1e300, torch.inf, -torch.inf], dtype=torch.float64)
    y, x = torch.meshgrid(rows, rows, indexing="ij")
    source = "use std.math (atan2)\nmodel m(y: f64[N], x: f64[N]) -> f64[N] { return atan2(y, x) }"
    found = build(loads(source).graph, claims=claims)(y.flatten(), x.flatten())["output"]
    torch.testing.assert_close(found, torch.atan2(y, x).flatten(), rtol=1e-14, atol=0)
    assert torch.equal(torch.signbit(found), torch.signbit(torch.atan2(y, x).flatten()))


def test_logsumexp_of_infinities_on_every_backend() -> None:
    x = np.array([[-np.inf] * 3, [-np.inf, 0, 1], [np.inf, 0, 1], [1e4, 1e4, 1e4]], np.float32)
    module = loads("model m(x: f32[B, 3]) -> f32[B] { return logsumexp(x, axis=1) }")
    wanted = torch.logsumexp(torch.from_numpy(x), 1).numpy()
    for found in (session(module)({"x": x}), build(module.graph)(torch.from_numpy(x))):
        np.testing.assert_allclose(np.asarray(found["output"]), wanted, rtol=1e-6)


POOLS = [
    (which, spatial, kernel, stride, padding, ceil)
    for which in ("max", "avg")
    for spatial in (1, 2)
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (5, 3, 2), (4, 1, 0), (1, 2, 0))
    for ceil in (False, True)
]


@pytest.mark.parametrize(("which", "spatial", "kernel", "stride", "padding", "ceil"), POOLS)
def test_pooling_is_torchs(which: str, spatial: int, kernel: int, stride: int, padding: int, ceil: bool) -> None:
    dims = "N" if spatial == 1 else "H, W"
    options = f"kernel={kernel}, stride={stride}, padding={padding}, ceil_mode={str(ceil).lower()}"
    forms = [""] if which == "max" else [", count_include_pad=true", ", count_include_pad=false"]
    for form in forms:
        call = f"{which}_pool{spatial}d(x, {options}{form})"
        module = loads(f"model m(x: f32[B, 2, {dims}]) -> f32[] {{ tap y = {call}\n return sum(x) }}")
        function = getattr(F, f"{which}_pool{spatial}d")
        more = {} if which == "max" else {"count_include_pad": "true" in form}
        made = session(module)
        for size in (7, 8, 11):
            x = torch.randn(2, 2, *(size, size + 3)[:spatial])
            wanted = function(x, kernel, stride, padding, ceil_mode=ceil, **more)
            np.testing.assert_allclose(made({"x": x.numpy()})["y"], wanted.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["reflect", "edge", "circular"])
def test_padding_of_free_sizes_is_numpys_and_has_gradients(mode: str) -> None:
    module = loads(f'model m(x: f32[B, N]) -> f32[B, N + 7] {{ return pad(x, axis=1, before=3, after=4, mode="{mode}") }}')
    made = session(module)
    for size in (1, 2, 5, 9):
        x = np.random.default_rng(size).standard_normal((2, size)).astype(np.float32)
        wanted = np.pad(x, [(0, 0), (3, 4)], "wrap" if mode == "circular" else mode)
        np.testing.assert_array_equal(made({"x": x})["output"], wanted)
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    source = f'model m(x: f64[B, N]) -> f64[B, N + 7] {{ return pad(x, axis=1, before=3, after=4, mode="{mode}") }}'
    assert torch.autograd.gradcheck(lambda x: build(loads(source).graph)(x)["output"], x)


def test_stack_is_numpys() -> None:
    for axis, shape in ((0, "2, 2, 3"), (1, "2, 2, 3"), (2, "2, 3, 2"), (-1, "2, 3, 2")):
        module = loads(f"model m(a: f32[2, 3], b: f32[2, 3]) -> f32[{shape}] {{ return stack(a, b, axis={axis}) }}")
        a, b = torch.randn(2, 2, 3)
        assert torch.equal(build(module.graph)(a, b)["output"], torch.stack([a, b], axis))


@pytest.mark.parametrize(
    ("call", "code"),
    [("stack(x, y, axis=0)", "E0302"), ("stack(x)", "E0405"), ("stack(x, x, axis=9)", "E0305"), ("stack(2, x, axis=0)", "E0405")],
)
def test_what_stack_refuses(call: str, code: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        loads(f"model m(x: f32[2, 3], y: f32[2, 4]) -> f32[2, 2, 3] {{ return {call} }}")
    assert caught.value.code == code


def test_running_products_and_minima_have_torchs_gradients() -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    for name in ("cumprod", "cummin"):
        source = f"use std.math ({name})\nmodel m(x: f64[B, N]) -> f64[B, N] {{ return {name}(x, axis=1) }}"
        assert torch.autograd.gradcheck(lambda x, s=source: build(loads(s).graph, claims=False)(x)["output"], x)
