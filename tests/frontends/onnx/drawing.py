"""What generators of random nodes draw with, and the table of them.

A generator draws shapes, attributes and operands from ``r`` and returns a Case. Cases that ONNX Runtime and the reference both
refuse are not judged, so generators need not keep every rule of the standard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

MS = "com.microsoft"
Array = np.ndarray


@dataclass
class Case:
    """``fixed``: operands that the importer must know, and gets as initializers. ``unnamed``: results without a name."""

    op: str
    inputs: dict[str, Array | None]
    attrs: dict[str, Any] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()
    outputs: int = 1
    unnamed: frozenset[int] = frozenset()
    opset: int = 18
    domain: str = ""
    tolerance: float = 1e-5

    def node(self) -> onnx.NodeProto:
        operands = [name if array is not None else "" for name, array in self.inputs.items()]
        while operands and not operands[-1]:
            operands.pop()
        outputs = ["" if i in self.unnamed else f"y{i}" for i in range(self.outputs)]
        return helper.make_node(self.op, operands, outputs, name="it", domain=self.domain, **self.attrs)


class Draw:
    """Random choices."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def one(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def between(self, low: int, high: int) -> int:
        """Both ends included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, share: float = 0.5) -> bool:
        return bool(self.rng.random() < share)

    def shape(self, low: int = 1, high: int = 4, smallest: int = 1, largest: int = 6) -> tuple[int, ...]:
        return tuple(self.between(smallest, largest) for _ in range(self.between(low, high)))

    def floats(self, shape: Sequence[int], scale: float = 2.0, dtype: Any = np.float32) -> Array:
        return (self.rng.standard_normal(shape) * scale).astype(dtype)

    def coarse(self, shape: Sequence[int], dtype: Any = np.float32) -> Array:
        """Halves from -3 to 3: ties, and halves to round."""
        return (self.rng.integers(-6, 7, shape) / 2).astype(dtype)

    def ints(self, shape: Sequence[int], low: int = -5, high: int = 5, dtype: Any = np.int64) -> Array:
        return self.rng.integers(low, high + 1, shape).astype(dtype)

    def axis(self, rank: int) -> int:
        return self.between(-rank, rank - 1)

    def axes(self, rank: int, least: int = 0) -> list[int]:
        chosen = self.rng.permutation(rank)[: self.between(least, rank)]
        return [int(a) - (rank if self.chance() else 0) for a in chosen]

    def some(self, **attrs: Any) -> dict[str, Any]:
        """Each attribute with a chance of 0.7."""
        return {name: value for name, value in attrs.items() if self.chance(0.7)}


Generator = Callable[[Draw], Case]
GENERATORS: dict[str, Generator] = {}


def of(*names: str) -> Callable[[Callable[[Draw, str], Case]], Callable[[Draw, str], Case]]:
    def register(function: Callable[[Draw, str], Case]) -> Callable[[Draw, str], Case]:
        for name in names:
            GENERATORS[name] = lambda r, name=name: function(r, name)  # type: ignore[misc]
        return function

    return register


def i64(*values: int) -> Array:
    return np.array(values, np.int64)


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def less(r: Draw, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to this one."""
    cut = shape[r.between(0, len(shape)) :]
    return tuple(1 if r.chance(0.3) else d for d in cut)
