"""What a flow takes, and a flow as something that runs by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic
from ..ir.program import Flow
from .batches import in_batches
from .inputs import fit_array
from .ports import Demands, Port, Ports

if TYPE_CHECKING:
    import numpy as np

    from .program import ProgramRunner
    from .states import Carrying


class FlowRunner:
    """A flow as something that runs: a :class:`.runner.Runner`, for what reads inputs from files."""

    def __init__(self, program: ProgramRunner, flow: Flow, allow_host: bool, batch: int | None = None) -> None:
        self._program = program
        self._batch = batch
        self._allow_host = allow_host
        self._flow = flow
        self.metadata = program.metadata
        self.outputs = [port.name for port in flow.outputs]
        self.ports = ports_of(flow)
        self.inputs, self.optional = self.ports.inputs, self.ports.optional
        self.selects = any(runner.selects for runner in program.runners.values())

    def holds(self, sizes: dict[str, int]) -> bool:
        """Whether every entry point takes these sizes, of the symbols that it has under the same name."""
        return all(runner.holds(sizes) for runner in self._program.runners.values())

    def __call__(
        self, arrays: Mapping[str, Any], *, seed: int = 0, sizes: Mapping[str, int] | None = None
    ) -> dict[str, np.ndarray]:
        """Its outputs by name; see :meth:`ProgramRunner.run`."""

        def run(given: Mapping[str, Any]) -> dict[str, Any]:
            return self._program.run(self._flow.name, given, allow_host=self._allow_host, seed=seed, sizes=sizes)

        return run(arrays) if self._batch is None else in_batches(self._flow, fitted(self.ports, arrays), self._batch, run)

    def carrying(
        self, *, states: Mapping[str, Any] | None = None, sizes: Mapping[str, int] | None = None, seed: int = 0,
        onto: Carrying | None = None,
    ) -> Carrying:  # fmt: skip
        """A flow starts its states anew in each run. Raises E0520."""
        raise Diagnostic(
            "E0520", f"the flow `{self._flow.name}` starts its states anew in each run, so that no session carries them",
            help="a session is of one entry point: `program[\"step\"].session()`",
        )  # fmt: skip


def ports_of(flow: Flow) -> Ports:
    """The inputs of a flow, which are checked as those of a model are."""
    ports = (Port(p.name, p.type.dtype, p.type.shape, span=p.span) for p in flow.inputs)
    return Ports(flow.name, ports, [Demands(None, {}, ())], {}, f"the flow `{flow.name}`")


def fitted(ports: Ports, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inputs of a flow as it takes them. Raises E0901 to E0903."""
    ports.check_names(arrays)
    given = {name: fit_array(ports.by_name[name].spec, array, nan=True) for name, array in arrays.items()}
    ports.sizes({name: array.shape for name, array in given.items()})
    return given
