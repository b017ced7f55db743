"""Several entry points of a program on one set of states."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic, did_you_mean
from .states import named

if TYPE_CHECKING:
    import numpy as np

    from ..ir.program import Program
    from .runner import Runner
    from .states import Carrying


class ProgramSession:
    """The entry points of a program on one set of states, which they carry from call to call without copying them.

        run = chat.session(sizes={"C": 4096})
        logits = run.prefill(ids=ids)["logits"]
        logits = run.step(ids=token)["logits"]

    Each attribute is the :class:`~tessera.runtime.states.Carrying` of an entry point.
    """

    def __init__(
        self, program: Program, runners: Mapping[str, Runner], sizes: Mapping[str, int] | None,
        states: Mapping[str, Any] | None, seed: int,
    ) -> None:  # fmt: skip
        chosen, given = named(sizes, "sizes", "E0902"), named(states, "states", "E0901")
        functions = program.functions.values()
        _check_known("E0902", "size", chosen, {s for graph in functions for s in graph.symbols()})
        _check_known("E0901", "state", given, {v.public for graph in functions for v in graph.inputs if v.role == "state"})
        self._program = program
        self._runs: dict[str, Carrying] = {}
        for name, runner in runners.items():
            known = program.functions[name].symbols()
            own = [spec.name for spec in runner.optional if spec.role == "state"]
            self._runs[name] = runner.carrying(
                states={state: value for state, value in given.items() if state in own},
                sizes={size: value for size, value in chosen.items() if size in known},
                seed=seed, onto=next(iter(self._runs.values()), None),
            )  # fmt: skip

    def __getitem__(self, name: str) -> Carrying:
        """The run of an entry point by name. Raises E0521 when there is none."""
        if name not in self._runs:
            self._program.only(name)
        return self._runs[name]

    def __getattr__(self, name: str) -> Carrying:
        if name.startswith("_") or name not in self._runs:
            raise AttributeError(f"the program has no entry point `{name}`")
        return self._runs[name]

    def states(self) -> dict[str, np.ndarray]:
        """Copies of the states by name; none before the first call."""
        return {name: array for run in self._runs.values() for name, array in run.states().items()}

    def reset(self) -> None:
        """Start again: the next call makes the states anew."""
        for run in self._runs.values():
            run.reset()


def _check_known(code: str, what: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            listing = f"its {what}s are {', '.join(sorted(known)) or 'none'}"
            raise Diagnostic(code, f"no entry point has a {what} `{name}`", help=did_you_mean(name, known) or listing)
