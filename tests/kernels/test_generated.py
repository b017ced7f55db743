"""Generated groups against what they stand for: random programs, dtypes, sizes, joined results, and what is left to PyTorch."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.backends.torch import build as build_torch
from tessera.backends.triton import build, write
from tessera.backends.triton.fuse import fused, specs
from tessera.frontends.source import loads
from tessera.kernels import generated
from tessera.kernels.launch import INTERPRETED, LaunchFailed, recording

from ..differential.judged import judge
from ..differential.random_groups import random_groups
from ..differential.random_programs import random_program
from ..differential.random_wider import wider_program

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# A program, and how many groups are to be left of it.
PROGRAMS: dict[str, tuple[str, int]] = {
    "a norm behind a sum, which is kept": (
        """model m(x: F[B, T, 37], y: F[B, T, 37], w: F[37]) -> (F[B, T, 37], F[B, T, 37]) {
            x = x + y
            return x, x * rsqrt(mean(x * x, axis=-1, keepdims=true) + 0.00001) * w
        }""", 1,
    ),
    "softmax behind a mask of positions": (
        """model m(x: F[B, T, T]) -> F[B, T, T] {
            seen = unsqueeze(iota(T), 1) >= unsqueeze(iota(T), 0)
            x = where(seen, x, -inf)
            e = exp(x - max(x, axis=-1, keepdims=true))
            return e / sum(e, axis=-1, keepdims=true)
        }""", 1,
    ),
    "turned pairs, joined along the last axis": (
        """model m(a: F[B, T, 2, 4], b: F[B, T, 2, 4], c: F[T, 4], s: F[T, 4]) -> F[B, 2, T, 8] {
            a = transpose(a, [0, 2, 1, 3])
            b = transpose(b, [0, 2, 1, 3])
            return concat(a * c - b * s, b * c + a * s, axis=-1)
        }""", 1,
    ),
    "a join that is read before the group's last": (
        """model m(x: F[B, T]) -> (F[2 * B, T], F[B, T]) {
            y = exp(-abs(x))
            z = tanh(y) * 2.0
            both = flip(concat(y, z, axis=0), axis=0)
            return both, y / 3.0 + z
        }""", 2,
    ),
    "sums of exponentials, one element a row": (
        "model m(x: F[B, T, 5]) -> F[B, T] { return log(sum(exp(x), axis=-1, keepdims=false)) + 1.0 }", 1,
    ),
    "integers, which round down": (
        """model m(x: i64[B, T]) -> (i64[B, T], i64[B, 1], bool[B]) {
            z = (x - 4) // 3 * 10 + (x - 4) % -5
            return z, max(z, axis=-1, keepdims=true), any(z > 0, axis=-1, keepdims=false)
        }""", 1,
    ),
}  # fmt: skip
TOLERANCE = {"f32": 1e-4, "f16": 2e-3, "bf16": 2e-2}


def compare(text: str, dtype: str = "f32", groups: int | None = None, sizes: tuple[int, int] = (3, 5)) -> None:
    """The groups of a program, and all of it through PyTorch."""
    module = loads(text.replace("F[", f"{dtype}["))
    found = list(specs(fused(module.graph)))
    assert groups is None or len(found) == groups
    torch.manual_seed(0)
    feed: dict[str, Any] = {}
    for value in module.graph.inputs:
        shape = [d.evaluate({"B": sizes[0], "T": sizes[1]}) for d in value.type.shape]
        drawn = torch.randint(0, 9, shape) if value.type.dtype.kind == "int" else torch.randn(shape)
        feed[value.name] = drawn.to(DEVICE, getattr(torch, value.type.dtype.long))
    with recording() as launches:
        ours = build(module).forward(**feed)
    assert 0 in sizes or {row["kernel"] for row in launches} == {f"generated.{spec.name}" for spec in found}
    for name, wanted in build_torch(module, claims=False).forward(**feed).items():
        torch.testing.assert_close(ours[name], wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype], equal_nan=True)


@pytest.mark.parametrize("sizes", [(3, 5), (1, 1), (2, 33)])
@pytest.mark.parametrize("name", PROGRAMS)
def test_groups(name: str, sizes: tuple[int, int]) -> None:
    text, groups = PROGRAMS[name]
    compare(text, "f32", groups, sizes)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("name", [name for name, (text, _) in PROGRAMS.items() if "F[" in text])
def test_half_precision(name: str, dtype: str) -> None:
    compare(PROGRAMS[name][0], dtype)


def test_no_elements_are_left_to_pytorch() -> None:
    compare(PROGRAMS["a norm behind a sum, which is kept"][0], sizes=(0, 3))


def test_pytorch_says_where_an_integer_is_divided_by_zero() -> None:
    network = build(loads("model m(x: i64[B], y: i64[B]) -> i64[B] { return (x + 1) // (y * 2) + 3 }"))
    x = torch.arange(3, device=DEVICE)
    assert network(x=x, y=x + 1)["output"].tolist() == [3, 3, 3]
    if DEVICE == "cpu":
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            network(x=x, y=x)


def test_a_group_has_gradients() -> None:
    module = loads(PROGRAMS["a norm behind a sum, which is kept"][0].replace("F[", "f32["))
    made = []
    for network in (build(module), build_torch(module)):
        torch.manual_seed(0)
        x, y, w = torch.randn(2, 3, 37, requires_grad=True), torch.randn(2, 3, 37), torch.randn(37)
        sum(network(x=x, y=y, w=w).values()).sum().backward()
        made.append(x.grad)
    torch.testing.assert_close(*made)


def test_a_kernel_that_cannot_be_launched_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> None:
        raise LaunchFailed("`add`: out of resource: shared memory")

    monkeypatch.setattr(generated, "launch", refused)
    network = build(loads("model m(x: f32[B, T]) -> f32[B, T] { return x * 3.0 + 41.0 }"))
    x = torch.ones(2, 3)
    with pytest.warns(RuntimeWarning, match=r"PyTorch computes `mul_add_\w+`, whose kernel cannot be launched here: `add`: out"):
        made = network(x=x)["output"]
    assert made.tolist() == [[44.0] * 3] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(x=x)


# What the generator would do wrong: a table, its row, and what is written there; and the program that shows it.
MUTATIONS: dict[str, tuple[dict[str, str], str, str, str]] = {
    "a mean of the tile's width": (
        write.REDUCTIONS, "mean", "tl.div_rn(tl.sum(tl.where({1}, {0}, 0), 1, keep_dims=True), BN * 1.0)",
        "a norm behind a sum, which is kept",
    ),
    "a sum of columns that do not count": (
        write.REDUCTIONS, "sum", "tl.sum({0}, 1, keep_dims=True)", "sums of exponentials, one element a row",
    ),
    "a mask that lets a later position through": (write.EXACT, "ge", "{0} + 1 >= {1}", "softmax behind a mask of positions"),
    "a division that rounds to zero": (write.EXACT, "floordiv", "{0} // {1}", "integers, which round down"),
}  # fmt: skip


@pytest.mark.skipif(not INTERPRETED, reason="kernels are changed where they are interpreted")
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table, row, wrong, program = MUTATIONS[name]
    assert table[row] != wrong
    monkeypatch.setitem(table, row, wrong)
    monkeypatch.setitem(write.ELEMENTWISE, row, wrong)
    with pytest.raises(AssertionError, match=r"not close|not equal"):
        compare(PROGRAMS[program][0])


def check(text: str, seed: int = 0) -> None:
    try:
        judge(text, seed, None, {"triton": build})
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error}\n\n{text}") from error


@pytest.mark.extended
@pytest.mark.parametrize("seed", range(60))
def test_random_groups(seed: int) -> None:
    r = random.Random(seed)
    check(random_groups(r.randrange, r.choice(["f32", "f32", "f16"]), 8 + r.randrange(8)), seed)


@pytest.mark.extended
@pytest.mark.parametrize("seed", [*range(40), 512])
def test_random_programs(seed: int) -> None:
    """Groups beside loops, choices and states."""
    r = random.Random(seed)
    write_program = wider_program if seed % 2 else random_program
    check(write_program(r.randrange, "f32", 8 + r.randrange(8)), seed)


@pytest.mark.extended
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_groups_that_hypothesis_draws(data: st.DataObject) -> None:
    """Fewer, but a failure is made small."""
    check(random_groups(lambda n: data.draw(st.integers(0, n - 1)), "f32", 6))
