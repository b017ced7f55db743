"""Random inputs: which distributions there are, and what each draws.

NumPy draws them, so that every backend is given the same numbers. A seed and the input's name are a stream of numbers; a run
of several calls takes another seed for each, :func:`advanced`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic, Span, did_you_mean
from ..ir.graph import Initializer
from ..ir.types import DType

if TYPE_CHECKING:
    import numpy as np

Args = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a random input may be drawn from.

    Args:
        form: how it is written, with its numbers.
        kinds: of the dtypes that hold what it draws.
        complete: its numbers with those that may be left out; None where they are too many or too few.
        fits: what must hold of them, with the dtype, and in words.
        draw: an array from a NumPy generator, a shape, the numbers and the dtype.
    """

    form: str
    kinds: tuple[str, ...]
    complete: Callable[[Args], Args | None]
    fits: Callable[[Args, DType], bool]
    rule: str
    draw: Callable[[Any, tuple[int, ...], Args, DType], Any]


def parameters(init: Initializer, dtype: DType, span: Span | None = None) -> Args:
    """The numbers of a distribution, complete. Raises E0405 for one that is not known, or does not fit its numbers or dtype."""
    found = DISTRIBUTIONS.get(init.name)
    if found is None:
        forms = ", ".join(f"`{d.form}`" for d in DISTRIBUTIONS.values())
        help = did_you_mean(init.name, DISTRIBUTIONS) or f"one of: {forms}"
        raise Diagnostic("E0405", f"`{init.name}` does not say how to fill a random input", span, help=help)
    if dtype.kind not in found.kinds:
        fitting = [d.form for d in DISTRIBUTIONS.values() if dtype.kind in d.kinds]
        raise Diagnostic(
            "E0405", f"`{init.name}` does not draw a random input of {dtype}", span,
            help=f"for {dtype} there is {', '.join(f'`{form}`' for form in fitting)}",
        )  # fmt: skip
    args = found.complete(init.args)
    if args is None or not found.fits(args, dtype):
        raise Diagnostic("E0405", f"`{init}` is no distribution: it is `{found.form}`, {found.rule}", span)
    return args


def draw(
    init: Initializer, shape: Sequence[int], dtype: DType, *, seed: int = 0, name: str = "", span: Span | None = None
) -> np.ndarray:
    """A random input's numbers: the same ones for the same seed and name. Raises E0405 as :func:`parameters`."""
    import numpy as np

    args = parameters(init, dtype, span)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    return np.asarray(DISTRIBUTIONS[init.name].draw(rng, tuple(shape), args, dtype)).astype(dtype.numpy, copy=False)


def advanced(seed: int, calls: int) -> int:
    """The seed of a run's next call, behind ``calls`` others. No run comes to the numbers of another, as by counting it would."""
    return int.from_bytes(hashlib.sha256(f"{seed}+{calls}".encode()).digest()[:7], "little") if calls else seed


def below(high: float, dtype: DType) -> float:
    """The largest number of a float dtype below ``high``."""
    import numpy as np

    limit = dtype.numpy.type(high)
    return float(limit if limit < high else np.nextafter(limit, dtype.numpy.type(-np.inf)))


def _uniform(rng: Any, shape: tuple[int, ...], args: Args, dtype: DType) -> Any:
    import numpy as np

    low, high = args
    if dtype.kind == "int":
        return rng.integers(int(low), int(high), shape)
    values = np.asarray(rng.random(shape, "float32") * np.float32(high - low) + np.float32(low)).astype(dtype.numpy)
    return np.minimum(values, dtype.numpy.type(below(high, dtype)))  # what rounds up to the end


def _normal(rng: Any, shape: tuple[int, ...], args: Args, dtype: DType) -> Any:
    import numpy as np

    return rng.standard_normal(shape, "float32") * np.float32(args[1]) + np.float32(args[0])


def _categorical(rng: Any, shape: tuple[int, ...], args: Args, dtype: DType) -> Any:
    import numpy as np

    return np.searchsorted(np.cumsum(args)[:-1], rng.random(shape), "right")


def _held(number: float, dtype: DType) -> bool:
    """Whether a dtype holds a number: an integer in its range, a finite real. Reals are drawn in f32."""
    if dtype.kind == "float":
        return abs(number) <= (65504.0 if dtype.name == "f16" else 1e38)
    if not math.isfinite(number) or number != int(number):
        return False
    signed = not dtype.name.startswith("u")
    top = 1 << (8 * dtype.size - signed)
    return (-top if signed else 0) <= number < top


def _exactly(count: int) -> Callable[[Args], Args | None]:
    return lambda args: args if len(args) == count else None


DISTRIBUTIONS: dict[str, Distribution] = {
    "uniform": Distribution(
        "uniform(low, high)", ("float", "int"), lambda args: args if len(args) == 2 else None if args else (0.0, 1.0),
        lambda args, dtype: args[0] < args[1] and _held(args[0], dtype) and _held(args[1] - (dtype.kind == "int"), dtype),
        "from low up to but not including high; whole numbers for integers, and all of them within the dtype", _uniform,
    ),
    "normal": Distribution(
        "normal(mean, std)", ("float",), lambda args: (0.0, *(args or (1.0,)))[-2:] if len(args) <= 2 else None,
        lambda args, dtype: args[1] >= 0 and all(_held(a, dtype) for a in args),
        "with a standard deviation of at least 0; `normal(std)` has the mean 0", _normal,
    ),
    "gumbel": Distribution(
        "gumbel", ("float",), _exactly(0), lambda args, dtype: True, "without numbers",
        lambda rng, shape, args, dtype: rng.gumbel(size=shape),
    ),
    "bernoulli": Distribution(
        "bernoulli(p)", ("bool", "int", "float"), _exactly(1), lambda args, dtype: 0 <= args[0] <= 1, "with p from 0 to 1",
        lambda rng, shape, args, dtype: rng.random(shape) < args[0],
    ),
    "categorical": Distribution(
        "categorical(p0, p1, …)", ("int",), lambda args: args or None,
        lambda args, dtype: min(args) >= 0 and abs(sum(args) - 1) < 1e-6 and _held(len(args) - 1, dtype),
        "with probabilities that sum to 1, at most as many as the dtype has numbers", _categorical,
    ),
}  # fmt: skip
