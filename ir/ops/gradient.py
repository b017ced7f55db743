"""Gradient control: the identity forwards, something else backwards. Inference backends drop them."""

from __future__ import annotations

from typing import Any

from ..numeric import np
from ..op import Bad, Sample, Trait
from ..types import TensorType
from . import define
from .meaning import plain


def _one(rng: Any) -> list[Sample]:
    return [Sample((rng.standard_normal((3, 4)).astype(np.float32),))]


_SAME = (Trait.VIEWS, Trait.KEEPS)
_INT = Bad((TensorType.of("i64", [2]),), {}, "E0303")

define("stop_gradient(x: float[...]) -> float[...]", "x, through which no gradient flows back.", family="gradient",
       traits=_SAME, meaning=plain(lambda x: x), samples=_one, bad=(_INT,))  # fmt: skip
define("straight_through(hard: float[...], soft: float[...]) -> float[...]",
       "`hard` forwards; the gradient goes to `soft` (Bengio et al. 2013).", family="gradient",
       traits=_SAME, meaning=plain(lambda hard, soft: hard),
       samples=lambda rng: [Sample((_one(rng)[0].inputs[0], _one(rng)[0].inputs[0]))],
       bad=(Bad((TensorType.of("f32", [2]), TensorType.of("f32", [3])), {}, "E0302"),))  # fmt: skip
define("scale_gradient(x: float[...], *, scale: real) -> float[...]", "x, whose gradient is multiplied by `scale`.",
       family="gradient", traits=_SAME, meaning=plain(lambda x: x),
       samples=lambda rng: [Sample(_one(rng)[0].inputs, {"scale": 0.5})], bad=(_INT,))  # fmt: skip
