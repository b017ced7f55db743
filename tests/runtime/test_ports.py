"""Inputs of whatever runs: both runners ask the same checker, each in the words of its users."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tessera.backends import onnx
from tessera.backends import torch as reference
from tessera.backends.onnx.session import Session
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import const, sym
from tessera.ir.graph import Initializer, Require
from tessera.ir.types import f32
from tessera.runtime.ports import Demands, Port, Ports

B, T, C = sym("B"), sym("T"), sym("C")
SHORT = Require(T, "<=", const(6), "too many tokens")
INNER = Require(sym("U"), ">=", const(3), "too few of them")


def ports() -> Ports:
    """x [B, T, 2], a bias [T + 1], a state of capacity C; a body whose U is T - 1."""
    given = [Port("x", f32, (B, T, const(2))), Port("bias", f32, (T + 1,))]
    cache = Port("cache", f32, (B, C), "state", Initializer("ones"))
    demands = [Demands(None, {"L": T * 2}, [SHORT]), Demands(0, {"U": T - 1}, [INNER])]
    return Ports("m", [*given, cache], demands, {"B": (1, 4)})


def refused(action: Any) -> Diagnostic:
    with pytest.raises(Diagnostic) as caught:
        action()
    return caught.value


def test_sizes_follow_from_shapes_and_lets_from_sizes() -> None:
    assert ports().sizes({"x": (2, 5, 2), "bias": (6,)}) == {"B": 2, "T": 5, "L": 10}
    assert ports().sizes({"bias": (6,)}) == {"T": 5, "L": 10}
    assert ports().sizes({"x": (2, 5, 2)}, {"C": 9})["C"] == 9


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (2, 5, 2), "bias": (5,)}, "axis 0 of `bias` must be T + 1 = 6, but is 5: [5]"),
        ({"x": (2, 5, 3)}, "axis 2 of `x` must be 2, but is 3: [2, 5, 3]"),
        ({"x": (5, 5, 2)}, "the size `B` of `m` must be from 1 to 4, but is 5"),
        ({"bias": (1,)}, "the size `T` of `m` must be at least 1, but is 0"),
    ],
)
def test_sizes_that_cannot_be(shapes: Any, message: str) -> None:
    error = refused(lambda: ports().sizes(shapes))
    assert (error.code, error.message) == ("E0902", message)


def test_requirements_of_the_program_and_of_its_bodies() -> None:
    assert ports().broken({"B": 1, "T": 5}) is None
    assert ports().broken({"B": 1, "T": 7}) == (SHORT, {"B": 1, "T": 7, "L": 14})
    found = ports().broken({"B": 1, "T": 3})
    assert found is not None
    assert found[0] is INNER
    assert found[1]["U"] == 2
    assert refused(lambda: ports().check_requires({"T": 7})).message == "too many tokens: 7 <= 6 does not hold"


def test_what_is_not_given_is_filled_when_its_sizes_are_known() -> None:
    given = {"x": (2, 5, 2), "bias": (6,)}
    sizes = ports().sizes(given, {"C": 3})
    np.testing.assert_array_equal(ports().filled(given, sizes, 0)["cache"], np.ones((2, 3), "f4"))
    error = refused(lambda: ports().filled(given, ports().sizes(given), 0))
    assert error.message == "no value for `cache: f32[B, C]`, which alone tells the size `C`"
    assert refused(lambda: ports().sizes(given, {"D": 3})).message == "`m` has no size `D`"


MODEL = """
model m(x: f32[B, T], bias: f32[T]) -> (y: f32[B, T]) {
    require T <= 6, "too many tokens"
    return x + bias
}
"""
X, BIAS = np.zeros((2, 4), "f4"), np.zeros(4, "f4")
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"x": X}, "E0901"),
    ({"x": X, "bias": BIAS, "y": X}, "E0901"),
    ({"x": X, "bias": BIAS[1:]}, "E0902"),
    ({"x": X[0], "bias": BIAS}, "E0902"),
    ({"x": X > 0, "bias": BIAS}, "E0903"),
    ({"x": np.zeros((2, 7), "f4"), "bias": np.zeros(7, "f4")}, "E0904"),
]


@pytest.mark.parametrize(("arrays", "code"), WRONG)
def test_all_runners_refuse_the_same(arrays: dict[str, Any], code: str) -> None:
    module = loads(MODEL)
    session, network = Session(onnx.serialize(onnx.build(module))), reference.build(module)
    assert refused(lambda: session(arrays)).code == code
    assert refused(lambda: network(**{n: torch.from_numpy(a) for n, a in arrays.items()})).code == code
