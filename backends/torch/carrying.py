"""A module that carries its states from call to call. Imported with torch only."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...runtime.failures import failed
from ...runtime.states import Carrying
from .inputs import fit_tensors, from_numpy, to_numpy

if TYPE_CHECKING:
    import numpy as np

    from ...runtime.ports import Ports
    from .module import TesseraModule


class CarryingModule(Carrying):
    """See :class:`~tessera.runtime.states.Carrying`; tensors go in and come out, without gradients.

    What only an update reads is written in place: a step copies no cache.
    """

    def __init__(
        self,
        network: TesseraModule,
        *,
        states: Mapping[str, Any] | None = None,
        sizes: Mapping[str, int] | None = None,
        seed: int = 0,
        onto: Carrying | None = None,
    ) -> None:
        super().__init__((v.public for v in network.graph.inputs if v.role == "state"), states, sizes, seed, onto)
        self._network = copy.copy(network)  # the same parameters
        self._network.donate = True

    def states(self) -> dict[str, Any]:
        return {name: self._held[name].clone() for name in self.names if name in self._held}

    def tensors(self) -> dict[str, Tensor]:
        """The states themselves, to which the next call may write."""
        return {name: self._held[name] for name in self.names if name in self._held}

    @property
    def _ports(self) -> Ports:
        return self._network.inputs

    def _shape(self, name: str) -> Sequence[int]:
        return tuple(self._held[name].shape)

    def _write(self, name: str, array: np.ndarray, row: int | None) -> None:
        place = self._held[name].untyped_storage().data_ptr()
        if any(t.untyped_storage().data_ptr() == place for other, t in self._held.items() if other != name):
            # What two states have in common, such as lengths that are computed alike, is written for one of them.
            self._held[name] = self._held[name].clone()
        part = self._held[name] if row is None else self._held[name][row : row + 1]
        part.copy_(from_numpy(array.copy()))

    def _hold(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._held.update({name: from_numpy(array).to(self._network.device) for name, array in arrays.items()})

    def _step(self, inputs: dict[str, Any], seed: int) -> dict[str, Any]:
        device, start = self._network.device, self._start.items()
        first = {n: torch.as_tensor(value, device=device).clone() for n, value in start if n not in self._held}
        held = {name: self._held[name] for name in self.names if name in self._held}
        with torch.no_grad():
            found = self._network({**inputs, **first, **held}, sizes=self.sizes, seed=seed)
        self._held.update({name: found.pop(name) for name in self.names})
        memory = {t.untyped_storage().data_ptr() for t in self._held.values()}
        # What is returned may be a view of a state, which the next call writes to.
        return {n: t.clone() if t.untyped_storage().data_ptr() in memory else t for n, t in found.items()}


class CarryingArrays(CarryingModule):
    """The same with NumPy arrays: what goes in is brought to the dtypes of the inputs."""

    def states(self) -> dict[str, Any]:
        return {name: to_numpy(tensor) for name, tensor in super().states().items()}

    def _step(self, inputs: dict[str, Any], seed: int) -> dict[str, Any]:
        tensors = fit_tensors(self._network.inputs, inputs, self._network.device)
        try:
            found = super()._step(tensors, seed)
        except (IndexError, RuntimeError) as error:
            raise failed("PyTorch", str(error)) from error
        return {name: to_numpy(tensor) for name, tensor in found.items()}
