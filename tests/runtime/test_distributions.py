"""Random inputs: every distribution by a statistics test of its own on every backend, from a seed, going on from call to call."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tessera as ts
from tessera.backends.torch import build
from tessera.driver.report.measure import Target
from tessera.ir.graph import Initializer
from tessera.ir.types import DTYPES, bf16, f16, f32
from tessera.runtime.distributions import DISTRIBUTIONS, advanced, draw

N = 20_000


def uniform(x: np.ndarray) -> np.ndarray:
    return np.clip((x + 1) / 3, 0, 1)


def normal(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * (1 + math.erf((v - 3) / (0.5 * math.sqrt(2)))) for v in x])


# Of floats the cumulative distribution, of integers and truths the probability of each.
CASES: list[tuple[str, str, Callable[[np.ndarray], np.ndarray] | list[float]]] = [
    ("uniform(-1, 2)", "f32", uniform),
    ("uniform", "f64", lambda x: np.clip(x, 0, 1)),
    ("normal(3, 0.5)", "f32", normal),
    ("normal(0.5)", "f32", lambda x: normal(x + 3)),
    ("gumbel", "f32", lambda x: np.exp(-np.exp(-x))),
    ("gumbel", "f16", lambda x: np.exp(-np.exp(-x))),
    ("bernoulli(0.3)", "bool", [0.7, 0.3]),
    ("bernoulli(0.3)", "f32", [0.7, 0.3]),
    ("categorical(0.2, 0.5, 0, 0.3)", "i64", [0.2, 0.5, 0, 0.3]),
    ("categorical(1)", "i32", [1.0]),
    ("uniform(0, 5)", "i8", [0.2] * 5),
]


def source(distribution: str, dtype: str) -> str:
    return f"model m(x: {dtype}[T]) -> ({dtype}[T], {dtype}[T]) {{ random u: {dtype}[T] = {distribution}  return u, x }}"


def fits(x: np.ndarray, law: Callable[[np.ndarray], np.ndarray] | list[float]) -> bool:
    """Kolmogorov and Smirnov's test, or Pearson's: what is right passes in all but one of a thousand draws."""
    if callable(law):
        place = law(np.sort(x.astype(np.float64)))
        ranks = np.arange(len(x) + 1) / len(x)
        distance = max(np.abs(place - ranks[1:]).max(), np.abs(place - ranks[:-1]).max())
        coarse = 2e-3 if x.dtype == np.float16 else 0
        return bool(distance < 1.95 / math.sqrt(len(x)) + coarse)
    counts = np.bincount(x.astype(np.int64), minlength=len(law))
    if len(counts) != len(law) or any(c and not p for c, p in zip(counts, law, strict=True)):
        return False
    expected = len(x) * np.array(law)
    statistic = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True) if e)
    return bool(statistic < len(law) + 4.5 * math.sqrt(2 * len(law)))


def compiled(network: torch.nn.Module) -> Any:
    torch._dynamo.reset()
    return torch.compile(network, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("backend", ["onnx", "torch", "module", "compiled"])
@pytest.mark.parametrize(("distribution", "dtype", "law"), CASES, ids=[f"{d} {t}" for d, t, _ in CASES])
def test_what_is_drawn_follows_its_law(distribution: str, dtype: str, law: Any, backend: str) -> None:
    module = ts.loads(source(distribution, dtype))
    x = np.zeros(N, DTYPES[dtype].numpy)
    if backend in ("onnx", "torch"):
        found = ts.compile(module, target=backend)(x)["output0"]
    else:
        network = build(module)
        torch.manual_seed(1)
        run = compiled(network) if backend == "compiled" else network
        found = run(torch.from_numpy(x))["output0"].numpy()
    assert found.dtype == x.dtype
    assert fits(found, law)
    if callable(law):  # neighbours have nothing to do with one another
        assert abs(np.corrcoef(found[1:].astype(np.float64), found[:-1].astype(np.float64))[0, 1]) < 0.03


def test_the_tests_of_laws_tell_them_apart() -> None:
    rng = np.random.default_rng(0)
    assert not fits(rng.uniform(-1, 2.05, N).astype(np.float32), uniform)
    assert not fits(rng.normal(3, 0.52, N).astype(np.float32), normal)
    assert not fits(rng.random(N) < 0.32, [0.7, 0.3])
    assert not fits(np.ones(N, np.int64), [0.2, 0.5, 0, 0.3])


def test_all_distributions_are_tested() -> None:
    assert {d.partition("(")[0] for d, _, _ in CASES} == set(DISTRIBUTIONS)


def test_backends_draw_the_same_numbers_from_a_seed() -> None:
    module = ts.loads(source("normal(0, 1)", "f32"))
    x, drawn = np.zeros(50, np.float32), []
    for target in ("onnx", "torch"):
        artifact = ts.compile(module, target=target)
        session = artifact.session(seed=4)
        drawn.append([artifact(x, seed=s)["output0"].tolist() for s in (4, 4, 5)])
        drawn[-1] += [session(x=x)["output0"].tolist() for _ in range(3)]
    drawn.append([*(build(module)(torch.from_numpy(x), seed=s)["output0"].tolist() for s in (4, 4, 5)), *drawn[0][3:]])
    assert drawn[0] == drawn[1] == drawn[2]
    first, again, other, *calls = drawn[0]
    assert first == again == calls[0]
    assert len({tuple(row) for row in (first, other, *calls)}) == 4


def test_a_module_draws_anew_in_each_call_and_again_from_a_seed() -> None:
    network, x = build(ts.loads(source("uniform", "f32"))), torch.zeros(50)
    torch.manual_seed(7)
    first, second = (network(x)["output0"] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(network(x)["output0"], first)
    assert torch.equal(network(x, seed=3)["output0"], network(x, seed=3)["output0"])


def test_a_compiled_module_and_an_exported_one_draw_anew() -> None:
    text = "model m(x: f32[B, 4]) -> f32[B, 4] { param w: f32[4] = ones  random u: f32[B, 4] = normal(0, 1)  return x * w + u }"
    network = build(ts.loads(text))
    whole = compiled(network)
    exported = torch.export.export(network, (torch.zeros(3, 4),)).module()
    for run in (whole, exported):
        first, second = (run(torch.zeros(3, 4))["output"] for _ in range(2))
        assert not torch.equal(first, second)
    given = torch.ones(3, 4)
    assert torch.equal(whole(torch.zeros(3, 4), given)["output"], given)
    assert torch.equal(whole(torch.zeros(3, 4), u=given)["output"], given)


def test_only_random_inputs_may_be_missing_while_torch_compiles() -> None:
    text = "model m(x: f32[B], y: f32[B]) -> f32[B] { random u: f32[B] = normal(0, 1)  return x + y + u }"
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        torch.export.export(build(ts.loads(text)), (torch.zeros(3),))


def test_two_inputs_are_two_streams_and_a_flow_draws_at_every_call() -> None:
    text = """
        model noise(x: f32[T]) -> f32[T] { random u: f32[T] = gumbel  random v: f32[T] = gumbel  tap other = v  return x + u }
        program p {
            entry a = noise
            entry b = noise
            flow three(x: f32[T]) -> (f32[T], f32[T], f32[T]) { return a(x), b(x), a(x) }
        }
    """
    artifact = ts.compile(ts.loads(text))
    x = np.zeros(20, np.float32)
    one = artifact.a(x=x)
    assert not np.array_equal(one["output"], one["other"])
    found = [list(artifact.run("three", {"x": x}, seed=2).values()) for _ in range(2)]
    np.testing.assert_array_equal(found[0], found[1])
    assert len({tuple(row.tolist()) for row in found[0]}) == 3


def test_measuring_fills_random_inputs(tmp_path: Path) -> None:
    artifact = ts.compile(ts.loads(source("bernoulli(0.5)", "bool")))
    target = Target.open(artifact.save(tmp_path / "m.onnx"))
    feeds = {"x": np.zeros(9, bool)}
    assert target.prepared(feeds)()[0].shape == target(feeds)["output0"].shape == (9,)


@pytest.mark.parametrize("dtype", [f16, bf16, f32], ids=str)
def test_the_end_is_never_drawn(dtype: Any) -> None:
    values = draw(Initializer("uniform", (0.0, 1.0)), (200_000,), dtype)
    assert values.min() >= 0
    assert values.max() < 1


def test_seeds_of_later_calls_are_no_small_numbers() -> None:
    seeds = {advanced(seed, calls) for seed in range(20) for calls in range(20)}
    assert len(seeds) == 400
    assert {advanced(seed, 0) for seed in range(20)} == set(range(20))


@pytest.mark.parametrize(
    ("distribution", "dtype", "found"),
    [
        ("norml(0, 1)", "f32", "did you mean `normal`?"),
        ("zeros", "f32", "one of: `uniform(low, high)`, `normal(mean, std)`, `gumbel`"),
        ("normal(0, 1)", "i64", "for i64 there is `uniform(low, high)`, `bernoulli(p)`, `categorical(p0, p1, …)`"),
        ("uniform(2, 1)", "f32", "from low up to but not including high"),
        ("uniform(0.5, 3)", "i64", "whole numbers for integers"),
        ("uniform(1)", "f32", "it is `uniform(low, high)`"),
        ("normal(0, -1)", "f32", "a standard deviation of at least 0"),
        ("bernoulli(1.5)", "bool", "with p from 0 to 1"),
        ("bernoulli", "bool", "it is `bernoulli(p)`"),
        ("categorical(0.5, 0.4)", "i64", "with probabilities that sum to 1"),
        ("gumbel(1)", "f32", "without numbers"),
        ("uniform(0, 300)", "i8", "within the dtype"),
        ("uniform(-1, 4)", "u8", "within the dtype"),
        ("uniform(0, 1e6)", "f16", "within the dtype"),
        ("normal(0, 1e39)", "f32", "a standard deviation"),
        ("categorical(" + ", ".join(["0.005"] * 200) + ")", "i8", "as many as the dtype has numbers"),
    ],
)
def test_what_is_no_distribution_is_refused(distribution: str, dtype: str, found: str) -> None:
    with pytest.raises(ts.Diagnostic) as caught:
        ts.loads(source(distribution, dtype))
    assert caught.value.code == "E0405"
    assert found in f"{caught.value.message} {caught.value.help}"
