"""The functions of ``specs/foreign`` as both importers use them, against torch and ONNX Runtime, near 0 and far out.

Each case of the tables is a formula that lost digits, or a rule on which the systems differ, in one importer or in both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from tessera.backends.torch import build
from tessera.frontends import source
from tessera.frontends.foreign import elementwise
from tessera.frontends.onnx import load as load_onnx
from tessera.frontends.onnx.ops import foreign as onnx_table
from tessera.frontends.source.elaborate import library
from tessera.frontends.torch import load as load_torch
from tessera.frontends.torch.aten import foreign as torch_table
from tessera.ir.diagnostics import Diagnostic
from tessera.specs.catalog import find
from tessera.tests.frontends.onnx.support import model, node, run_imported

INF, NAN = float("inf"), float("nan")
FAR = [10.0, 20.0, 60.0, 87.0, 1e10, INF]
NEAR = [1e-30, 1e-8, 1e-4, 0.01, 0.1, 0.3, 0.5, 0.99999, 1.0, 1.00001, 2.999999, 3.0, 4.5, 8.0]
POINTS = np.array([0.0, *NEAR, *FAR, *(-x for x in NEAR), *(-x for x in FAR), NAN], np.float32)
FINITE = POINTS[np.isfinite(POINTS) & (np.abs(POINTS) < 100)]
# A few units in the last place of an f32, relative to the value itself however small it is.
TOLERANCE = 6e-7


def imported_torch(function: Callable[..., Any], *tensors: torch.Tensor) -> Any:
    class Model(torch.nn.Module):
        def forward(self, *x: torch.Tensor) -> Any:
            return function(*x)

    return load_torch(Model().eval(), tensors)


def as_torch(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    """What the function gives when it is imported; it must print as a program that needs no foreign file."""
    tensors = tuple(map(torch.from_numpy, arrays))
    imported = imported_torch(function, *tensors)
    assert "foreign" not in source.print_module(imported.module)
    (result,) = build(imported.module, imported.weights)(*tensors).values()
    return np.asarray(result.numpy())


TORCH: dict[str, tuple[Callable[..., Any], np.ndarray]] = {
    "acosh": (torch.acosh, POINTS),
    "asinh": (torch.asinh, POINTS),
    "atanh": (torch.atanh, POINTS),
    "celu: the branch below 0 is divided first": (lambda x: F.celu(x, 0.7), POINTS),
    "cosh": (torch.cosh, POINTS),
    "elu near 0": (F.elu, POINTS),
    "elu with alpha": (lambda x: F.elu(x, 0.3), POINTS),
    "exp2 of whole numbers": (torch.exp2, np.arange(-126, 128, dtype=np.float32)),
    "expm1": (torch.expm1, POINTS),
    "floor_divide below a whole number": (lambda x: x // 0.1, FINITE),
    "fmax": (lambda x: torch.fmax(x, x.flip(0)), POINTS),
    "fmin of a number and none": (lambda x: torch.fmin(x, x.flip(0)), POINTS),
    "fmod": (lambda x: torch.fmod(x, 0.1), FINITE),
    "fmod by infinity": (lambda x: torch.fmod(x, INF), FINITE),
    "hardshrink of no number": (F.hardshrink, POINTS),
    "hardsigmoid": (F.hardsigmoid, POINTS),
    "hardswish just above -3": (F.hardswish, FINITE),
    "isinf of integers": (lambda x: torch.isinf(x), np.arange(3)),
    "isnan of integers": (lambda x: torch.isnan(x), np.arange(3)),
    "leaky_relu": (F.leaky_relu, POINTS),
    "log10 of powers of 10": (torch.log10, np.array([0, 1e-3, 0.1, 1, 10, 100, 1e3, 1e6, 1e9, INF], np.float32)),
    "log1p": (torch.log1p, POINTS),
    "log2 of powers of 2": (torch.log2, np.float32(2.0) ** np.arange(-126, 128, dtype=np.float32)),
    "logaddexp of equal infinities": (lambda x: torch.logaddexp(x, x), POINTS),
    "logaddexp": (lambda x: torch.logaddexp(x, x + 1), POINTS),
    "logsigmoid": (F.logsigmoid, POINTS),
    "logsumexp of infinities": (lambda x: torch.logsumexp(torch.stack([x, -x.abs()]), 0), POINTS),
    "logsumexp of all": (lambda x: torch.logsumexp(x, (0,)), np.full(3, -INF, np.float32)),
    "mish": (F.mish, POINTS),
    "powers of integers beyond an f32": (lambda x: x**20, np.arange(-5, 6)),
    "powers of integers by integers": (lambda x: x**2 + x.abs() ** x.abs(), np.arange(-5, 6)),
    "powers of numbers below 0": (lambda x: torch.stack([x**3, x**4, x**5, x**-1, x**-2.0, x.abs() ** 0.5]), FINITE),
    "fmod of integers": (lambda x: torch.fmod(x, 3), np.arange(-5, 6)),
    "quotients of integers": (lambda x: torch.div(x, -2, rounding_mode="trunc"), np.arange(-5, 6)),
    "reciprocal": (torch.reciprocal, POINTS),
    "relu6": (F.relu6, POINTS),
    "remainder below a whole number": (lambda x: x % 0.1, FINITE),
    "remainder by infinity": (lambda x: torch.remainder(x.abs(), INF), FINITE),
    "selu": (F.selu, POINTS),
    "sinh near 0": (torch.sinh, POINTS),
    "softplus": (F.softplus, POINTS),
    "softplus with a low threshold": (lambda x: F.softplus(x, 1.0, 1.0), POINTS),
    "softplus with beta and a threshold": (lambda x: F.softplus(x, 2.0, 3.0), POINTS),
    "softshrink of no number": (lambda x: F.softshrink(x, 0.3), POINTS),
    "square": (torch.square, POINTS),
    "tan": (torch.tan, FINITE),
    "threshold of no number": (lambda x: F.threshold(x, 0.3, -2.0), POINTS),
    "trunc": (torch.trunc, POINTS),
}


@pytest.mark.parametrize("name", TORCH)
def test_as_torch(name: str) -> None:
    function, x = TORCH[name]
    wanted = function(torch.from_numpy(x)).numpy()
    found = as_torch(function, x)
    assert found.dtype == wanted.dtype
    # These lose a few more digits by themselves: a quotient, an exponential of what is rounded, a sum that cancels.
    loose = 4 if name in ("tan", "sinh near 0", "logaddexp") else 1
    np.testing.assert_allclose(found, wanted, rtol=TOLERANCE * loose, atol=0)


def test_operands_broadcast_and_are_promoted() -> None:
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([0.5, 2.0, -1.5], np.float32)
    for function in (torch.fmod, torch.remainder, torch.logaddexp, torch.fmin):
        np.testing.assert_allclose(as_torch(function, x, y), function(*map(torch.from_numpy, (x, y))), rtol=1e-6)
    whole = as_torch(lambda a, b: torch.expm1(a) + torch.fmin(a, a), np.arange(3), y)
    np.testing.assert_allclose(whole, np.expm1(np.arange(3)) + np.arange(3), rtol=1e-6)


# ONNX Runtime's own kernels lose digits for some: there the definition in double precision is the reference.
def _elu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0)))


ONNX: dict[str, tuple[str, dict[str, Any], Callable[[np.ndarray], Any] | None]] = {
    "Acosh": ("Acosh", {}, np.arccosh),
    "Asinh": ("Asinh", {}, np.arcsinh),
    "Atanh": ("Atanh", {}, np.arctanh),
    "Celu": (
        "Celu",
        {"alpha": 0.5},
        lambda x: np.maximum(x, 0) + np.minimum(0, 0.5 * np.expm1(np.minimum(x, 0) / 0.5)),
    ),
    "Cosh": ("Cosh", {}, np.cosh),
    "Elu near 0": ("Elu", {}, _elu),
    "Elu with alpha": ("Elu", {"alpha": 0.3}, lambda x: _elu(x, np.float32(0.3))),
    "HardSigmoid": ("HardSigmoid", {"alpha": 0.25, "beta": 0.25}, None),
    "HardSwish just above -3": ("HardSwish", {}, lambda x: x * np.clip((x + 3) / 6, 0, 1)),
    "LeakyRelu": ("LeakyRelu", {"alpha": 0.25}, None),
    "Mish": ("Mish", {}, None),
    "Reciprocal": ("Reciprocal", {}, None),
    "Selu": ("Selu", {}, lambda x: 1.0507009873554805 * _elu(x, 1.6732632423543772)),
    "Shrink": ("Shrink", {"bias": 0.25, "lambd": 0.5}, None),
    "Sinh near 0": ("Sinh", {}, np.sinh),
    "Softplus": ("Softplus", {}, None),
    "Softsign": ("Softsign", {}, None),
    "Tan": ("Tan", {}, np.tan),
    "ThresholdedRelu of no number": ("ThresholdedRelu", {"alpha": 0.25}, None),
}


@pytest.mark.parametrize("name", ONNX)
def test_as_onnx(name: str, tmp_path: Path) -> None:
    op, attrs, reference = ONNX[name]
    x = FINITE if op in ("Tan", "Softplus", "Mish", "Softsign", "HardSwish") else POINTS
    onnx.save(model([node(op, "x", "y", **attrs)], {"x": ("f32", ["N"])}, ["y"], opset=22), tmp_path / "m.onnx")
    imported = load_onnx(tmp_path / "m.onnx")
    assert "foreign" not in source.print_module(imported.module)
    (found,) = run_imported(imported, [x])
    with np.errstate(all="ignore"):
        wanted = reference(x.astype(np.float64)).astype(np.float32) if reference else None
    if wanted is None:
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
        (wanted,) = session.run(None, {"x": x})
    far = 40 if op in ("Sinh", "Cosh", "Mish", "Softplus") else 2
    # ONNX Runtime and we round a sum of 1 and less in the tail of these two: absolutely, not relatively, small.
    tail = 1e-7 if op in ("Mish", "Softplus") else 0
    np.testing.assert_allclose(found, wanted, rtol=TOLERANCE * far, atol=tail)


def test_remainders_of_onnx(tmp_path: Path) -> None:
    """Mod of floats is C's; an infinite divisor leaves the dividend."""
    proto = model([node("Mod", "x z", "y", fmod=1)], {"x": ("f32", ["N"]), "z": ("f32", ["N"])}, ["y"])
    onnx.save(proto, tmp_path / "m.onnx")
    x, z = np.array([1, -1, 5, -5, 2], np.float32), np.array([0.1, 0.1, INF, INF, -0.3], np.float32)
    (found,) = run_imported(load_onnx(tmp_path / "m.onnx"), [x, z])
    np.testing.assert_allclose(found, np.fmod(x, z), rtol=1e-6)


def test_log_of_sums_of_infinities_in_onnx(tmp_path: Path) -> None:
    nodes = [node("ReduceLogSumExp", "x a", "y", keepdims=0)]
    onnx.save(model(nodes, {"x": ("f32", ["N", 2])}, ["y"], {"a": np.array([1])}), tmp_path / "m.onnx")
    x = np.array([[-INF, -INF], [INF, 0], [1, 2]], np.float32)
    (found,) = run_imported(load_onnx(tmp_path / "m.onnx"), [x])
    np.testing.assert_allclose(found, np.logaddexp(x[:, 0], x[:, 1]), rtol=1e-6)


def test_gradients_stay_numbers() -> None:
    """Of the branches that are not taken, too: none of them overflows."""
    x = np.array([200.0, 1.0, 1e-6, -1e-6, -1.0, -200.0], np.float32)
    for function in (F.elu, F.selu, F.celu, F.softplus, F.mish, lambda v: torch.log1p(v.abs())):
        imported = imported_torch(function, torch.from_numpy(x))
        net = build(imported.module, imported.weights)
        wanted, found = torch.from_numpy(x).requires_grad_(), torch.from_numpy(x).requires_grad_()
        function(wanted).sum().backward()
        next(iter(net(found).values())).sum().backward()
        np.testing.assert_allclose(found.grad, wanted.grad, rtol=2e-6)


def test_repeated_calls_share_their_constants() -> None:
    imported = imported_torch(lambda x: F.elu(F.elu(x)) + F.hardswish(x), torch.ones(3))
    numbers = [n.attrs["value"] for n in imported.module.graph.nodes() if n.op.name == "constant"]
    assert len(numbers) == len(set(numbers))


def test_nodes_are_at_the_place_of_the_call() -> None:
    imported = imported_torch(lambda x: F.elu(x), torch.ones(3))
    places = {n.span.file for n in imported.module.graph.nodes() if n.span is not None}
    assert places == {__file__}


def test_each_function_is_somebodys() -> None:
    """Those that no importer asks for, and no other function calls, would be dead."""
    root = Path(source.__file__).parents[2]
    text = (root / "specs" / "foreign" / "elementwise.tess").read_text(encoding="utf-8")
    declared = set(re.findall(r"^fn (\w+)", text, re.MULTILINE))
    asked = {name.partition(".")[0] for name in torch_table._SAME_NAMES.split()} | set(onnx_table._FUNCTIONS.values())
    for path in (root / "frontends").rglob("*.py"):
        asked |= set(re.findall(r'foreign\("(\w+)"', path.read_text(encoding="utf-8")))
    asked |= {"fmin", "fmax"}  # by a name that is made up
    asked |= {name for name in declared if len(re.findall(rf"\b{name}\(", text)) > 1}
    assert asked >= declared
    assert all(elementwise(name).signature.operands for name in declared)


def test_checking_loads_no_foreign_file(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    load_ast = library.load_ast

    def noting(path: str | Path) -> Any:
        read.append(Path(path))
        return load_ast(path)

    monkeypatch.setattr(library, "load_ast", noting)
    source.check(find("vit")[0])
    with pytest.raises(Diagnostic, match="`celu` is not defined"):
        source.check_text("fn f(x: float[N]) -> float[N] {\n    return celu(x)\n}\n")
    assert {path.parent.name for path in read} >= {"std", "zoo"}
    assert not [path for path in read if path.parent.name == "foreign"]
