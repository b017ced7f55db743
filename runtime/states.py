"""States that stay where they are between the calls of an artifact, and the sizes that only they have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic, did_you_mean
from .distributions import advanced

if TYPE_CHECKING:
    import numpy as np


class Carrying(ABC):
    """A run of a model that carries its states from call to call; nobody else has them, so that they may be written in place.

        run = artifact.session(sizes={"C": 4096})
        logits = run(ids=prompt)["logits"]
        logits = run(ids=token)["logits"]

    The first call makes the states, at the sizes of its inputs; later calls have the same ones. After a call that failed
    :meth:`reset` is needed. Random inputs are drawn anew in each call, from the session's seed and the number of the call.

    Args:
        names: the states.
        start: their first values, copied; those that are not given start from their initialisers.
        sizes: those that no input tells, such as a capacity.
        seed: of random inputs, and of states with random initialisers.
    """

    def __init__(self, names: Iterable[str], start: Mapping[str, Any] | None, sizes: Mapping[str, int] | None, seed: int) -> None:
        self.names = list(names)
        self.sizes = named(sizes, "sizes", "E0902")
        self.seed = seed
        self.calls = 0
        self._start = named(start, "states", "E0901")
        for name in self._start:
            if name not in self.names:
                raise Diagnostic(
                    "E0901", f"the model has no state `{name}`",
                    help=did_you_mean(name, self.names) or f"its states are {', '.join(self.names) or 'none'}",
                )  # fmt: skip

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        """The outputs and taps by name; the states go on. Raises E09xx for inputs that do not fit."""
        for name in inputs:
            if name in self.names:
                raise Diagnostic(
                    "E0901", f"`{name}` is a state, which the session carries", help="give its first value to `session(states=…)`"
                )
        found = self._step(inputs, advanced(self.seed, self.calls))
        self.calls += 1
        return found

    def reset(self) -> None:
        """Start again: the next call makes the states anew."""
        self.calls = 0
        self._clear()

    @abstractmethod
    def states(self) -> dict[str, np.ndarray]:
        """Copies of the states by name; none before the first call."""

    @abstractmethod
    def _step(self, inputs: dict[str, Any], seed: int) -> dict[str, Any]: ...

    @abstractmethod
    def _clear(self) -> None: ...


def named(given: Any, what: str, code: str) -> dict[str, Any]:
    """What is given by name, in a mapping of its own. Raises Diagnostic of that code for what is no mapping from names."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise Diagnostic(code, f"`{what}` is given by name, `{what}={{\"name\": …}}`, not as {type(given).__name__}")
    return dict(given)


def chosen_sizes(
    model: str, symbols: Iterable[str], told: Mapping[str, int], chosen: Mapping[str, int]
) -> dict[str, int]:
    """The sizes that inputs tell and those that the caller chose. Raises E0902 where they differ, or for an odd one."""
    symbols, chosen = list(symbols), named(chosen, "sizes", "E0902")
    for name, size in chosen.items():
        if name not in symbols:
            help = did_you_mean(name, symbols) or f"its sizes are {', '.join(symbols) or 'all known'}"
            raise Diagnostic("E0902", f"`{model}` has no size `{name}`", help=help)
        if not isinstance(size, Integral) or size < 0:
            raise Diagnostic("E0902", f"the size `{name}` of `{model}` is {size!r}: a size is a whole number, at least 0")
        if told.get(name, size) != size:
            raise Diagnostic("E0902", f"the size `{name}` of `{model}` is {told[name]} in the inputs, but {size} was chosen")
    return {**chosen, **told}
