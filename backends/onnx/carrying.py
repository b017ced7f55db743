"""An ONNX artifact that carries its states from call to call: they are bound where they lie, and never copied out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...runtime.states import Carrying

if TYPE_CHECKING:
    import numpy as np

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
    ) -> None:
        super().__init__(session.states, states, sizes, seed)
        self._session = session
        self._held: dict[str, Any] = {}
        self._other: dict[str, Any] = {}

    def states(self) -> dict[str, np.ndarray]:
        return {name: value.numpy().copy() for name, value in self._held.items()}

    def _step(self, inputs: dict[str, Any], seed: int) -> dict[str, Any]:
        import numpy as np

        session = self._session
        given = inputs if self._held else {**self._start, **inputs}
        shapes = {name: value.shape() for name, value in self._held.items()}
        feeds = session.feeds(given, seed=seed, sizes=self.sizes, held=shapes)
        if not self._held:
            self._make({name: np.array(feeds.pop(name)) for name in self.names})
        binding = session.binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array) if array.ndim else array)
        for name, value in self._held.items():
            binding.bind_ortvalue_input(name, value)
        returned = []
        for name, inner in session.values.items():
            if name in self._held:
                binding.bind_ortvalue_output(inner, self._other[name])
            else:
                binding.bind_output(inner, "cpu")
                returned.append(name)
        session.run_bound(binding)
        self._held, self._other = self._other, self._held
        made = dict(zip(session.values, binding.get_outputs(), strict=True))
        return {name: made[name].numpy() for name in returned}

    def _make(self, arrays: Mapping[str, np.ndarray]) -> None:
        import numpy as np
        import onnxruntime as ort

        for name, array in arrays.items():
            if array.size == 0:
                raise Diagnostic("E0902", f"the state `{name}` would hold nothing: {list(array.shape)}")
            self._held[name] = ort.OrtValue.ortvalue_from_numpy(array)
            in_place = name in self._session.in_place
            # An OrtValue is the array's own memory, so that a second buffer needs another array.
            other = self._held[name] if in_place else ort.OrtValue.ortvalue_from_numpy(np.empty_like(array))
            self._other[name] = other

    def _clear(self) -> None:
        self._held, self._other = {}, {}
