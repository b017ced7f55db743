"""States that stay where they are between the calls of an artifact, and the sizes that only they have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic, did_you_mean
from .distributions import advanced
from .inputs import fit_array

if TYPE_CHECKING:
    import numpy as np

    from .ports import Ports


class Carrying(ABC):
    """A run of a model that carries its states from call to call; nobody else has them, so that they may be written in place.

        run = artifact.session(sizes={"C": 4096})
        logits = run(ids=prompt)["logits"]
        logits = run(ids=token)["logits"]

    The first call makes the states, at the sizes of its inputs; later calls have the same ones. A call that a cache has no room for
    is refused (E0906), and nothing is written; after one that failed while it ran :meth:`reset` is needed. Random inputs are drawn
    anew in each call, from the session's seed and the number of the call.

    Args:
        names: the states.
        start: their first values, copied; those that are not given start from their initialisers.
        sizes: those that no input tells, such as a capacity.
        seed: of random inputs, and of states with random initialisers.
        onto: another run by the same kind of runner, whose states this one goes on with: two entry points on one cache.
    """

    def __init__(
        self, names: Iterable[str], start: Mapping[str, Any] | None, sizes: Mapping[str, int] | None, seed: int,
        onto: Carrying | None = None,
    ) -> None:  # fmt: skip
        self.names = list(names)
        # By name, of all runs that share them.
        self._held: dict[str, Any] = onto._held if onto is not None else {}
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
        self._held.clear()

    @abstractmethod
    def states(self) -> dict[str, np.ndarray]:
        """Copies of the states by name; none before the first call."""

    def make(self) -> None:
        """Make the states before the first call; ``sizes`` tells all of theirs. Raises E0901, E0902."""
        import numpy as np

        shapes = {name: tuple(self._shape(name)) for name in self.names if name in self._held}
        given = {
            name: np.array(fit_array(self._ports.by_name[name].spec, value, nan=True))
            for name, value in self._start.items()
            if name not in shapes
        }
        shapes |= {name: array.shape for name, array in given.items()}
        inputs = [port.name for port in self._ports.ports if port.name not in self.names]
        filled = self._ports.filled({*inputs, *shapes}, self._ports.sizes(shapes, self.sizes), self.seed)
        self._hold({**given, **{name: np.array(array) for name, array in filled.items()}})

    def put(self, states: Mapping[str, np.ndarray], row: int | None = None) -> None:
        """Write states, or one row of their first axis (``states`` then have one row), where they lie.

        Raises:
            Diagnostic: E0901 for a state that was not made, E0902 for another shape.
        """
        for name, array in states.items():
            if name not in self._held:
                raise Diagnostic("E0901", f"the state `{name}` was not made", help="states are made by `make()` or the first call")
            whole = tuple(self._shape(name))
            wanted = whole if row is None else (1, *whole[1:])
            if tuple(array.shape) != wanted:
                raise Diagnostic("E0902", f"`{name}` takes {list(wanted)}, and {list(array.shape)} is written to it")
            self._write(name, array, row)

    @property
    @abstractmethod
    def _ports(self) -> Ports: ...

    @abstractmethod
    def _shape(self, name: str) -> Sequence[int]: ...

    @abstractmethod
    def _write(self, name: str, array: np.ndarray, row: int | None) -> None: ...

    @abstractmethod
    def _hold(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take arrays that nobody else writes to as states."""

    @abstractmethod
    def _step(self, inputs: dict[str, Any], seed: int) -> dict[str, Any]: ...


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
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 0:
            raise Diagnostic("E0902", f"the size `{name}` of `{model}` is {size!r}: a size is a whole number, at least 0")
        if told.get(name, size) != size:
            raise Diagnostic("E0902", f"the size `{name}` of `{model}` is {told[name]} in the inputs, but {size} was chosen")
    return {**chosen, **told}
