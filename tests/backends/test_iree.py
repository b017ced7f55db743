"""What the MLIR backend writes, compiled for the CPU by IREE (the extra `iree`): like the torch reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tessera.backends import mlir
from tessera.backends import torch as reference
from tessera.driver.compile import apply_passes
from tessera.frontends.source import loads
from tessera.runtime.weights.bind import initialise

from .test_mlir import MODELS, SAMPLED, close, rng, sample_graphs


@pytest.fixture
def iree() -> Any:
    pytest.importorskip("iree.runtime", reason="iree-base-runtime is not installed")
    return pytest.importorskip("iree.compiler", reason="iree-base-compiler is not installed")


def compiled(compiler: Any, text: str) -> Any:
    """The functions of a text, compiled for the CPU by IREE."""
    from iree import runtime

    binary = compiler.compile_str(
        text, input_type="torch", target_backends=["llvm-cpu"], extra_args=["--iree-llvmcpu-target-cpu=host"]
    )
    config = runtime.Config("local-task")
    return runtime.load_vm_modules(runtime.VmModule.copy_buffer(config.vm_instance, binary), config=config)[0]


def called(function: Any, arrays: Sequence[Any]) -> list[np.ndarray]:
    found = function(*[np.asarray(a, order="C") for a in arrays])
    return [np.asarray(x) for x in (found if isinstance(found, (list, tuple)) else [found])]


def run_iree(compiler: Any, text: str, calls: Sequence[Sequence[Any]]) -> list[list[np.ndarray]]:
    """Compile, and call ``main`` once for each list of arrays."""
    main = compiled(compiler, text)["main"]
    return [called(main, arrays) for arrays in calls]


def together(texts: Sequence[str]) -> str:
    """Texts of one function each as one module, in which they are main0, main1, …: compiled in one go."""
    bodies = [text.split("module {\n", 1)[1].rsplit("}\n", 1)[0] for text in texts]
    return "module {\n" + "".join(b.replace("@main(", f"@main{n}(") for n, b in enumerate(bodies)) + "}\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLED)
def test_op_in_iree(name: str, iree: Any) -> None:
    graphs = sample_graphs(name)
    functions = compiled(iree, together([mlir.build(graph) for graph, _ in graphs]))
    for n, (graph, arrays) in enumerate(graphs):
        close(called(functions[f"main{n}"], arrays), reference.build(graph)(*arrays))


@pytest.mark.parametrize("name", MODELS)
def test_model_in_iree(name: str, iree: Any) -> None:
    make, calls = MODELS[name]
    module, _ = apply_passes(make(), ["fold_constants", "cse", "dce"])
    weights = initialise(module.graph, 0)
    behind = [weights[n].numpy() for n in module.graph.params]
    wanted = reference.build(module, weights)
    for arrays, found in zip(calls, run_iree(iree, mlir.build(module), [[*c, *behind] for c in calls]), strict=True):
        close(found, wanted(*arrays))


def test_ties_go_to_the_lowest_index_in_iree(iree: Any) -> None:
    source = """
        model m(x: f32[B, N]) -> (i64[B, 5], i64[B, N], i64[B, 1]) {
            a, i = topk(x, k=5)  b, j = sort(x, axis=1)  c, l = topk(x, k=1, largest=false)  return i, j, l
        }
    """
    module = loads(source)
    calls = [[rng.integers(0, 3, (b, n)).astype("f4")] for b, n in ((2, 40), (3, 17))]
    for arrays, found in zip(calls, run_iree(iree, mlir.build(module), calls), strict=True):
        wanted = reference.build(module)(*arrays)
        for a, b in zip(found, wanted.values(), strict=True):
            np.testing.assert_array_equal(a, b.numpy())


# Scattering -----------------------------------------------------------------------------------------------------------

SCATTERED = """
model m(x: f32[B, 2 * T, 3], i: i64[B, K], u: f32[B, K, 3]) -> (f32[B, T, 3], f32[B, T, 3]) {
    half = x[:, ::2]
    first = MODE(half, i, u, batch=1)
    second = MODE(full([B, T, 3], 0.0, dtype=f32), i, u * 2.0, batch=1)
    third = MODE(full([B, T, 3], 0.0, dtype=f32), i, u, batch=1)
    return first * second, third
}
"""


def scattered(*sizes: tuple[int, int, int]) -> list[list[np.ndarray]]:
    calls = []
    for b, t, k in sizes:
        index = np.stack([rng.permutation(t)[:k] for _ in range(b)])
        calls.append(
            [rng.standard_normal((b, 2 * t, 3)).astype("f4"), index, rng.standard_normal((b, k, 3)).astype("f4")]
        )
    return calls


@pytest.mark.parametrize("mode", ["set", "add", "min", "max"])
def test_scatter_into_a_part_and_twice_in_iree(mode: str, iree: Any) -> None:
    module = loads(SCATTERED.replace("MODE", f"scatter_{mode}"))
    calls = scattered((2, 5, 3), (3, 9, 2))
    for arrays, found in zip(calls, run_iree(iree, mlir.build(module), calls), strict=True):
        close(found, reference.build(module)(*arrays))


# Two scatters to one target: what IREE makes of aten's own op where a size is free.
TWICE = """
func.func @main(%i: !torch.vtensor<[?,2],si64>, %u: !torch.vtensor<[?,2],f32>, %v: !torch.vtensor<[?,2],f32>)
    -> !torch.vtensor<[?,7],f32> {
  %none = torch.constant.none
  %zero = torch.constant.int 0
  %one = torch.constant.int 1
  %seven = torch.constant.int 7
  %f32 = torch.constant.int 6
  %b = torch.aten.size.int %i, %zero : !torch.vtensor<[?,2],si64>, !torch.int -> !torch.int
  %s = torch.prim.ListConstruct %b, %seven : (!torch.int, !torch.int) -> !torch.list<int>
  %z = torch.aten.full %s, %zero, %f32, %none, %none, %none
      : !torch.list<int>, !torch.int, !torch.int, !torch.none, !torch.none, !torch.none -> !torch.vtensor<[?,7],f32>
  %x = torch.aten.scatter_add %z, %one, %i, %u
      : !torch.vtensor<[?,7],f32>, !torch.int, !torch.vtensor<[?,2],si64>, !torch.vtensor<[?,2],f32> -> !torch.vtensor<[?,7],f32>
  %y = torch.aten.scatter_add %z, %one, %i, %v
      : !torch.vtensor<[?,7],f32>, !torch.int, !torch.vtensor<[?,2],si64>, !torch.vtensor<[?,2],f32> -> !torch.vtensor<[?,7],f32>
  %r = torch.aten.sub.Tensor %x, %y, %one
      : !torch.vtensor<[?,7],f32>, !torch.vtensor<[?,7],f32>, !torch.int -> !torch.vtensor<[?,7],f32>
  return %r : !torch.vtensor<[?,7],f32>
}
"""


@pytest.mark.xfail(strict=True, reason="IREE 3.13 lets two scatters share the memory of one target of a free size")
def test_aten_scatter_twice_in_iree(iree: Any) -> None:
    i, (u, v) = np.array([[0, 1], [2, 3]]), rng.standard_normal((2, 2, 2)).astype("f4")
    wanted = np.zeros((2, 7), "f4")
    np.put_along_axis(wanted, i, u - v, 1)
    np.testing.assert_allclose(run_iree(iree, TWICE, [[i, u, v]])[0][0], wanted, rtol=1e-5)
