"""Random einsum equations on every backend against NumPy: 1 to 4 operands, repeated, missing and free axes, sizes 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tessera.backends.onnx import runnable
from tessera.backends.onnx.session import Session
from tessera.ir.analysis.evaluate import evaluate_graph
from tessera.ir.builder import Builder
from tessera.ir.graph import Graph
from tessera.ir.types import DTYPES, TensorType

from .test_composites import BACKENDS, Run
from .test_ops_onnx import artifact
from .test_ops_torch import assert_same

NAMES = "abcdefg"
SIZES = (0, 1, 1, 2, 2, 3, 3, 4, 5)
TOLERANCE = {"f64": 1e-6, "f32": 1e-5, "f16": 2e-2, "bf16": 1e-1}


@dataclass(frozen=True)
class Case:
    """An equation, the dtype and shapes of its operands, and which axes have a symbol for a size."""

    equation: str
    dtype: str
    sizes: dict[str, int]
    free: frozenset[str]

    @property
    def terms(self) -> list[list[str]]:
        return [term.split() for term in self.equation.partition("->")[0].split(",")]

    def graph(self) -> Graph:
        b = Builder(Graph("f"))
        shapes = [[name.upper() if name in self.free else self.sizes[name] for name in term] for term in self.terms]
        operands = [b.input(f"x{i}", TensorType.of(self.dtype, shape)) for i, shape in enumerate(shapes)]
        b.graph.add_output(b.op("einsum", *operands, equation=self.equation), "y")
        return b.graph

    def feed(self, rng: np.random.Generator) -> dict[str, Any]:
        dtype = DTYPES[self.dtype]
        made = {}
        for i, term in enumerate(self.terms):
            shape = [self.sizes[name] for name in term]
            least = 0 if dtype.name == "u8" else -2
            drawn = rng.standard_normal(shape) if dtype.kind == "float" else rng.integers(least, 3, shape)
            made[f"x{i}"] = np.asarray(drawn).astype(dtype.numpy)
        return made


def draw(rng: np.random.Generator) -> Case:
    """Some axes are in every operand, some in one alone; one in four operands names an axis twice."""
    names = NAMES[: rng.integers(1, len(NAMES) + 1)]
    terms: list[list[str]] = []
    for _ in range(rng.choice([1, 2, 2, 2, 2, 3, 3, 4])):
        most = 1 if rng.random() < 0.2 else min(4, len(names))
        term = [str(n) for n in rng.permutation(list(names))[: rng.integers(0 if rng.random() < 0.2 else 1, most + 1)]]
        if term and rng.random() < 0.25:
            term.insert(rng.integers(0, len(term) + 1), term[rng.integers(0, len(term))])
        terms.append(term)
    held = sorted({name for term in terms for name in term})
    out = [str(n) for n in rng.permutation(held)[: rng.integers(0, len(held) + 1)]]
    equation = f"{', '.join(map(' '.join, terms))} -> {' '.join(out)}".strip()
    sizes = {name: int(rng.choice(SIZES)) for name in held}
    # A free size is at least 1.
    free = frozenset(name for name in held if sizes[name] and rng.random() < 0.4)
    dtype = str(rng.choice(["f32"] * 7 + ["f64", "f16", "bf16", "i64", "i32", "i16", "i8", "u8"]))
    return Case(equation, dtype, sizes, free)


def through_old_onnx(graph: Graph) -> Run:
    session = Session(artifact(graph, 18))
    return lambda feed: list(session(feed).values())


RUNS = {**{name: BACKENDS[name] for name in ("torch", "onnx", "mlir")}, "onnx18": through_old_onnx}


def check(seed: int, backend: str) -> bool:
    """Compare one random equation; whether it was (ONNX Runtime has no kernels for bf16)."""
    rng = np.random.default_rng(seed)
    case = draw(rng)
    graph, feed = case.graph(), case.feed(rng)
    if backend.startswith("onnx") and not runnable(graph):
        return False
    sizes = {name.upper(): size for name, size in case.sizes.items() if name in case.free}
    (wanted,) = evaluate_graph(graph, feed, sizes).values()
    (found,) = RUNS[backend](graph)(feed)
    assert_same(found, wanted, f"seed {seed}: {case}", TOLERANCE)
    return True


@pytest.mark.parametrize("backend", ["torch", "onnx", "onnx18"])
def test_random_equations(backend: str) -> None:
    assert sum(check(seed, backend) for seed in range(60)) > 45


@pytest.mark.slow
@pytest.mark.parametrize("backend", RUNS)
def test_many_random_equations(backend: str) -> None:
    assert sum(check(seed, backend) for seed in range(60, 150 if backend == "mlir" else 1060)) > 75


@pytest.mark.parametrize("backend", RUNS)
@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("b n k, n -> b k", [(2, 3, 4), (3,)]),
        ("a, a d -> d", [(3,), (3, 4)]),
        ("n k, k -> n", [(3, 4), (4,)]),
        ("k n, k -> n", [(4, 3), (4,)]),
        ("a, a ->", [(3,), (3,)]),
        ("a a b, b -> a", [(3, 3, 4), (4,)]),
        ("a a, b b -> a b", [(3, 3), (2, 2)]),
    ],
)  # fmt: skip
def test_equation(equation: str, shapes: list[tuple[int, ...]], backend: str) -> None:
    terms = equation.partition("->")[0].split(",")
    sizes = {n: s for term, shape in zip(terms, shapes, strict=True) for n, s in zip(term.split(), shape, strict=True)}
    case = Case(equation, "f32", sizes, frozenset())
    graph, feed = case.graph(), case.feed(np.random.default_rng(0))
    (found,) = RUNS[backend](graph)(feed)
    (wanted,) = evaluate_graph(graph, feed, {}).values()
    assert_same(found, wanted, str(case), TOLERANCE)
