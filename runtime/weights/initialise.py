"""First values of parameters, states and random inputs, from a seed and the tensor's name.

NumPy makes them, so that every backend starts from the same numbers; each tensor has a stream of its own, so that they
do not depend on the order in which tensors are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from math import isfinite, prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...ir.diagnostics import Diagnostic, Span, did_you_mean
from ...ir.graph import Initializer
from ...ir.types import DType

if TYPE_CHECKING:
    import numpy as np

Shape = Sequence[int]

# Bytes from which it is asked whether they are there.
_LARGE = 1 << 28


class Initialiser(NamedTuple):
    """How a parameter or a state is filled.

    Args:
        make: ``make(generator, shape, *numbers)``.
        numbers: the names of the numbers that it takes in source, all of them.
        texts: the names of the texts that it takes instead; the first one is a file, and so is what is called `…_file`.
    """

    make: Callable[..., np.ndarray]
    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def files(self, given: Sequence[str]) -> list[str]:
        """Those of the texts that name files."""
        named = enumerate(zip(self.texts, given, strict=True))
        return [text for place, (name, text) in named if text and (place == 0 or name.endswith("_file"))]

    def wrong(self, given: Sequence[Any]) -> str | None:
        """What is wrong with these arguments; None when nothing is."""
        if self.texts:
            fits = len(given) == len(self.texts) and all(isinstance(value, str) for value in given)
            return None if fits else f"takes {len(self.texts)} text(s): {', '.join(self.texts)}"
        if len(given) != len(self.numbers):
            return f"takes {len(self.numbers)} number(s){': ' if self.numbers else ''}{', '.join(self.numbers)}"
        values = dict(zip(self.numbers, given, strict=True))
        odd = next((n for n, value in values.items() if n != "value" and not isfinite(value)), None)
        if odd is not None:
            return f"takes a finite {odd}, not {values[odd]}"
        if values.get("std", 0) < 0:
            return f"takes a std of at least 0, not {values['std']}"
        if "low" in values and values["low"] > values["high"]:
            return f"takes a low that is not above its high, not {values['low']} and {values['high']}"
        return None


def fill(
    init: Initializer, shape: Shape, dtype: DType, *, seed: int = 0, name: str = "", span: Span | None = None
) -> np.ndarray:
    """An array filled as ``init`` says.

    Args:
        init: ``normal(0.02)``, ``zeros``, …
        seed, name: the same pair gives the same numbers.

    Raises:
        Diagnostic: E0611 for an initialiser that is not known, or not with these arguments, E0618 for more than fits into memory.
    """
    import numpy as np

    from ..memory import available

    size = prod(shape) * dtype.size
    free = available() if size > _LARGE else None
    if free is not None and size > free:
        takes = f"{size / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free"
        raise Diagnostic("E0618", f"`{name}`, {dtype}{list(shape)}, takes {takes}", span, help="is one of its sizes mistyped?")

    known = INITIALISERS.get(init.name)
    if known is None:
        close = did_you_mean(init.name, INITIALISERS)
        raise Diagnostic("E0611", f"there is no initialiser `{init.name}`", span, help=close)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    try:
        values = known.make(rng, tuple(shape), *(given(init) if known.texts else init.args))
    except (TypeError, ValueError) as error:
        raise Diagnostic("E0611", f"`{init}` cannot fill {dtype}{list(shape)}: {error}", span) from error
    return np.asarray(values).astype(dtype.numpy, copy=False)


def given(init: Initializer) -> tuple[str, ...]:
    """The texts of an initialiser, files as their paths; an empty one is none."""
    files = INITIALISERS[init.name].files(init.args)
    return tuple(str(Path(init.folder) / text) if text in files else text for text in init.args)


def _constant(rng: Any, shape: Shape, value: Any) -> np.ndarray:
    import numpy as np

    return np.array(np.broadcast_to(np.asarray(value), shape))


def _normal(rng: Any, shape: Shape, std: float = 1.0) -> np.ndarray:
    return rng.standard_normal(shape, "float32") * _f32(std)


def _uniform(rng: Any, shape: Shape, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    return rng.random(shape, "float32") * _f32(high - low) + _f32(low)


def _trunc_normal(rng: Any, shape: Shape, std: float = 1.0) -> np.ndarray:
    """Normal, cut at two standard deviations by drawing again (one in 22 is, so that few rounds are enough)."""
    import numpy as np

    values = np.asarray(rng.standard_normal(shape, "float32")).reshape(-1)
    outside = abs(values) > 2
    while outside.any():
        values[outside] = rng.standard_normal(int(outside.sum()), "float32")
        outside = abs(values) > 2
    return values.reshape(shape) * _f32(std)


def _fans(shape: Shape) -> tuple[int, int]:
    """Inputs and outputs of one unit of a weight ``[O, I, …]``."""
    if len(shape) < 2:
        return max(1, prod(shape)), max(1, prod(shape))
    field = prod(shape[2:])
    return max(1, shape[1] * field), max(1, shape[0] * field)


def _xavier_uniform(rng: Any, shape: Shape, gain: float = 1.0) -> np.ndarray:
    bound = gain * sqrt(6 / sum(_fans(shape)))
    return _uniform(rng, shape, -bound, bound)


def _kaiming_uniform(rng: Any, shape: Shape, slope: float = 0.0) -> np.ndarray:
    bound = sqrt(6 / ((1 + slope**2) * _fans(shape)[0]))
    return _uniform(rng, shape, -bound, bound)


def _table(rng: Any, shape: Shape, file: str, sha256: str, part: str) -> np.ndarray:
    from ..tokenizers.tables import table

    return table(file, sha256, part, tuple(shape))


def _exchanged(rng: Any, shape: Shape, *texts: str) -> np.ndarray:
    from ..tokenizers.exchange import exchanged

    return exchanged(tuple(shape), *texts)


def _f32(value: float) -> Any:
    import numpy as np

    return np.float32(value)


INITIALISERS: dict[str, Initialiser] = {
    "zeros": Initialiser(lambda rng, shape: _constant(rng, shape, 0)),
    "ones": Initialiser(lambda rng, shape: _constant(rng, shape, 1)),
    "normal": Initialiser(_normal, ("std",)),
    "trunc_normal": Initialiser(_trunc_normal, ("std",)),
    "uniform": Initialiser(_uniform, ("low", "high")),
    "constant": Initialiser(_constant, ("value",)),
    "xavier_uniform": Initialiser(_xavier_uniform),  # Glorot and Bengio 2010
    "kaiming_uniform": Initialiser(_kaiming_uniform),  # He et al. 2015; slope sqrt(5) is PyTorch's default for linear layers
    "table": Initialiser(_table, texts=("file", "sha256", "part")),  # of a tokenizer
    # What stands for each token of one tokenizer among those of another one: `rows` or `weights` of a `combine`.
    "exchanged": Initialiser(
        _exchanged,
        texts=("file", "sha256", "old_file", "old_sha256", "phi_file", "phi_sha256", "options", "part"),
    ),
}
