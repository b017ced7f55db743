"""An ONNX artifact that carries its states from call to call: they are bound where they lie, and never copied out. Imported with
ONNX Runtime only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from ...ir.diagnostics import Diagnostic
from ...runtime.states import Carrying

if TYPE_CHECKING:
    from ...runtime.ports import Ports
    from .session import Session


class CarryingSession(Carrying):
    """See :class:`~tessera.runtime.states.Carrying`; NumPy arrays go in and come out.

    A state that one op updates and nothing else reads is bound in and out as one buffer, which ONNX Runtime then writes in
    place; every other state has two buffers that take turns.
    """

    def __init__(
        self,
        session: Session,
        *,
        states: Mapping[str, Any] | None = None,
        sizes: Mapping[str, int] | None = None,
        seed: int = 0,
        onto: Carrying | None = None,
    ) -> None:
        super().__init__(session.states, states, sizes, seed, onto)
        self._session = session
        # The second buffers; what runs on the same states takes turns with the same ones.
        self._other: dict[str, Any] = onto._other if isinstance(onto, CarryingSession) else {}
        # What is bound for the buffers that the states lie in stays bound: two sets of them take turns.
        self._bindings: dict[tuple[int, ...], tuple[list[Any], Any]] = {}
        self._views: dict[str, tuple[Any, np.ndarray]] = {}

    def states(self) -> dict[str, np.ndarray]:
        return {name: self._held[name].numpy().copy() for name in self.names if name in self._held}

    @property
    def _ports(self) -> Ports:
        return self._session.ports

    def _shape(self, name: str) -> Sequence[int]:
        shape: Sequence[int] = self._held[name].shape()
        return shape

    def _write(self, name: str, array: np.ndarray, row: int | None) -> None:
        # An OrtValue in this memory is seen as an array, not copied.
        view = self._held[name].numpy()
        view[... if row is None else slice(row, row + 1)] = array

    def _view(self, name: str) -> np.ndarray:
        """What lies in the buffer of a state."""
        value = self._held[name]
        if name not in self._views or self._views[name][0] is not value:
            self._views[name] = value, value.numpy()
        return self._views[name][1]

    def _step(self, inputs: dict[str, Any], seed: int) -> dict[str, Any]:
        session = self._session
        held = {name: self._view(name) for name in self.names if name in self._held}
        given = {name: array for name, array in self._start.items() if name not in held}
        feeds = session.feeds({**given, **inputs}, seed=seed, sizes=self.sizes, held=held)
        self._hold({name: np.array(feeds.pop(name)) for name in self.names if name not in held})
        key, binding, turned = self._bound()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array) if array.ndim else array)
        returned = [name for name in session.values if name not in self._held]
        for name in returned:
            binding.bind_output(session.values[name], "cpu")
        try:
            session.run_bound(binding)
        except Diagnostic:
            del self._bindings[key]
            raise
        for name in turned:
            self._held[name], self._other[name] = self._other[name], self._held[name]
        made = dict(zip(session.values, binding.get_outputs(), strict=True))
        return {name: made[name].numpy() for name in returned}

    def _bound(self) -> tuple[tuple[int, ...], Any, list[str]]:
        """What is bound where the states lie now, and which of them are written into other buffers."""
        session = self._session
        turned = [name for name in session.values if name in self._held and name not in session.in_place]
        used = [self._held[name] for name in self.names] + [self._second(name) for name in turned]
        key = tuple(map(id, used))
        if key not in self._bindings:
            # Buffers that nobody uses any more are not to be kept.
            lasting = {id(self._held[name]) for name in self.names if name in session.in_place}
            self._bindings = {k: kept for k, kept in self._bindings.items() if len(self._bindings) < 4 and lasting <= set(k)}
            binding = session.binding()
            for name in self.names:
                binding.bind_ortvalue_input(name, self._held[name])
            # Outputs are given back in the order in which they were bound first.
            for name, inner in session.values.items():
                if name in self._held:
                    binding.bind_ortvalue_output(inner, self._other[name] if name in turned else self._held[name])
                else:
                    binding.bind_output(inner, "cpu")
            self._bindings[key] = used, binding
        return key, self._bindings[key][1], turned

    def _second(self, name: str) -> Any:
        """A buffer beside that of a state, of the same shape."""
        held = self._held[name]
        if name not in self._other or self._other[name].shape() != held.shape():
            # An OrtValue is the array's own memory, so that a second buffer needs another array.
            self._other[name] = ort.OrtValue.ortvalue_from_numpy(np.empty_like(held.numpy()))
        return self._other[name]

    def _hold(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            if array.size == 0:
                raise Diagnostic("E0902", f"the state `{name}` would hold nothing: {list(array.shape)}")
            self._held[name] = ort.OrtValue.ortvalue_from_numpy(array)
