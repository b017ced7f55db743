"""`grouped_matmul`: both forms of the torch lowering, its gradients, and the experts as weights of an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tessera.backends.onnx import build, save, serialize
from tessera.backends.onnx.session import Session
from tessera.backends.torch import build as build_torch
from tessera.backends.torch.kernels import grouped_matmul
from tessera.frontends.source import loads
from tessera.ir.types import f32
from tessera.runtime.weights.bind import Bound, LazyTensor

EXPERTS = """
model experts(x: float[N, 8], ends: i64[3]) -> float[N, 16] {
    param w: float[3, 8, 16] = normal(1.0)
    return grouped_matmul(x, w, ends)
}
"""


def weights(**arrays: np.ndarray) -> Bound:
    bound = Bound()
    for name, array in arrays.items():
        bound[name] = LazyTensor(name, f32, array.shape, array.copy)
    return bound


@pytest.mark.parametrize("ends", [[2, 2, 6], [0, 0, 8], [8, 8, 8], [0, 0, 0], [5, 3, 9]])
def test_the_native_form_agrees_with_the_split_one(ends: list[int]) -> None:
    """f32 of whole 16 bytes goes to ``torch._grouped_mm``, f64 does not; rows of no group are 0, and so are their gradients."""
    torch.manual_seed(0)
    x, w = torch.randn(8, 8, requires_grad=True), torch.randn(3, 8, 16, requires_grad=True)
    with torch.no_grad():
        x[6:] = torch.nan if max(ends) <= 6 else x[6:]
    wide = [t.detach().double().requires_grad_() for t in (x, w)]
    factor = torch.randn(8, 16)
    y = grouped_matmul(x, w, torch.tensor(ends))
    z = grouped_matmul(*wide, torch.tensor(ends))
    torch.testing.assert_close(y.double(), z, rtol=1e-5, atol=1e-5)
    (y * factor).sum().backward()
    (z * factor.double()).sum().backward()
    assert x.grad is not None
    assert w.grad is not None
    torch.testing.assert_close(x.grad.double(), wide[0].grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(w.grad.double(), wide[1].grad, rtol=1e-5, atol=1e-5)
    assert not x.grad[min(max(ends), 8) :].any()


def test_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3, 2, dtype=torch.float64)
    ends = torch.tensor([1, 1, 3, 4])
    assert torch.autograd.gradcheck(lambda x, w: grouped_matmul(x, w, ends), (x.requires_grad_(), w.requires_grad_()))


def test_it_exports_with_any_number_of_rows() -> None:
    class Experts(torch.nn.Module):
        def forward(self, x: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
            return grouped_matmul(x, w, ends)

    w, ends = torch.randn(3, 8, 16), torch.tensor([2, 2, 6])
    rows = torch.export.Dim("N", min=0)
    made = torch.export.export(Experts(), (torch.randn(7, 8), w, ends), dynamic_shapes=({0: rows}, None, None))
    for count in (1, 5, 9):
        x = torch.randn(count, 8)
        torch.testing.assert_close(made.module()(x, w, ends), grouped_matmul(x, w, ends))


def ops_of(model: Any) -> list[str]:
    return [node.op_type for node in model.graph]


def test_onnx_stores_each_expert_by_itself(tmp_path: Path) -> None:
    """Nothing is cut out of a weight when the file is opened, so that a mapped file stays mapped."""
    module = loads(EXPERTS)
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 8, 16)).astype(np.float32)
    model = build(module, weights(w=w))
    assert sorted(model.graph.initializers.keys() & {"w", "w.0", "w.1", "w.2"}) == ["w.0", "w.1", "w.2"]
    assert "Gather" not in ops_of(model)
    for external in (False, True):
        path = save(model, tmp_path / f"experts_{external}.onnx", external=external)
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}
        for i in range(3):
            np.testing.assert_array_equal(stored[f"w.{i}"], w[i])
        x = rng.standard_normal((5, 8)).astype(np.float32)
        y = Session(path)({"x": x, "ends": np.array([1, 1, 4])})
        wanted = np.concatenate([x[:1] @ w[0], x[1:4] @ w[2], np.zeros((1, 16), np.float32)])
        np.testing.assert_allclose(next(iter(y.values())), wanted, rtol=1e-5, atol=1e-5)


def test_a_weight_is_made_once_for_all_experts(tmp_path: Path) -> None:
    """One stacked from files, or converted, would else be made as often as there are experts."""
    w = np.random.default_rng(0).standard_normal((3, 8, 16)).astype(np.float32)
    made: list[int] = []

    def load() -> np.ndarray:
        made.append(1)
        return w

    bound = Bound()
    bound["w"] = LazyTensor("w", f32, w.shape, load)
    model = build(loads(EXPERTS), bound)
    for count, external in enumerate((False, True), 1):
        path = save(model, tmp_path / f"{count}.onnx", external=external)
        assert len(made) == count
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}
        np.testing.assert_array_equal(np.stack([stored[f"w.{i}"] for i in range(3)]), w)


def test_onnx_stores_transposed_experts_as_they_are_multiplied() -> None:
    """Weights in PyTorch's order, [E, out, in], are turned when the file is written."""
    turned = EXPERTS.replace("[3, 8, 16]", "[3, 16, 8]").replace("(x, w,", "(x, transpose(w, perm=[0, 2, 1]),")
    w = np.random.default_rng(0).standard_normal((3, 16, 8)).astype(np.float32)
    model = build(loads(turned), weights(w=w))
    assert not {"Transpose", "Gather"} & set(ops_of(model))
    x = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)
    y = Session(serialize(model))({"x": x, "ends": np.array([1, 2, 4])})
    wanted = np.concatenate([x[:1] @ w[0].T, x[1:2] @ w[1].T, x[2:] @ w[2].T])
    np.testing.assert_allclose(next(iter(y.values())), wanted, rtol=1e-5, atol=1e-5)


def test_onnx_keeps_a_weight_that_something_else_reads() -> None:
    twice = EXPERTS.replace("return grouped_matmul(x, w, ends)", "return grouped_matmul(x, w, ends) * sum(w)")
    w = np.random.default_rng(0).standard_normal((3, 8, 16)).astype(np.float32)
    model = build(loads(twice), weights(w=w))
    assert "w" in model.graph.initializers
    assert "w.0" not in model.graph.initializers
    x = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)
    y = Session(serialize(model))({"x": x, "ends": np.array([4, 4, 4])})
    np.testing.assert_allclose(next(iter(y.values())), x @ w[0] * w.sum(), rtol=1e-4, atol=1e-4)


def test_two_products_of_one_grouping_share_its_sizes() -> None:
    source = """
model experts(x: float[N, 8], ends: i64[3]) -> float[N, 8] {
    param w: float[3, 8, 16] = normal(1.0)
    param v: float[3, 16, 8] = normal(1.0)
    return grouped_matmul(maximum(grouped_matmul(x, w, ends), 0.0), v, ends)
}
"""
    arrays = {name: np.ones(shape, np.float32) for name, shape in (("w", (3, 8, 16)), ("v", (3, 16, 8)))}
    ops = ops_of(build(loads(source), weights(**arrays)))
    assert (ops.count("Split"), ops.count("ReduceMax"), ops.count("MatMul")) == (2, 1, 6)


def test_the_cost_is_that_of_the_rows() -> None:
    """Each row meets one matrix, however many there are."""
    from tessera.ir.analysis.cost import cost

    flops = cost(loads(EXPERTS).graph).at({"N": 10}).total.flops
    assert flops == 2 * 10 * 8 * 16


def test_torch_module_runs_it() -> None:
    module = build_torch(loads(EXPERTS).graph)
    y = module(torch.randn(5, 8), torch.tensor([1, 2, 3]))
    assert [t.shape for t in y.values()] == [(5, 16)]
    assert not next(iter(y.values()))[3:].any()
