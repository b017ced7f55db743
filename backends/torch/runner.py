"""Running the reference implementation on NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...runtime.failures import failed

if TYPE_CHECKING:
    import numpy as np

    from ...ir.graph import Module
    from ...runtime.ports import Ports
    from ...runtime.states import Carrying


class TorchRunner:
    """A program as an ``nn.Module``, called with NumPy arrays.

    Args:
        network: the module of the program.
        metadata: the file's.
        threads: of one operator in this process; None leaves it to PyTorch.
    """

    def __init__(self, module: Module, network: Any, metadata: Mapping[str, str], threads: int | None = None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self.module = module
        self.network = network
        self.metadata = metadata
        self.ports: Ports = network.inputs
        self.inputs, self.optional = self.ports.inputs, self.ports.optional
        self.outputs = [info.public for info in module.graph.output_info]

    def __call__(
        self, arrays: Mapping[str, Any], *, seed: int = 0, sizes: Mapping[str, int] | None = None
    ) -> dict[str, np.ndarray]:
        import torch

        from .inputs import fit_tensors, to_numpy

        tensors = fit_tensors(self.ports, arrays, self.network.device)
        try:
            with torch.no_grad():
                outputs = self.network(tensors, seed=seed, sizes=sizes)
        except (IndexError, RuntimeError) as error:
            raise failed("PyTorch", str(error)) from error
        return {name: to_numpy(tensor) for name, tensor in outputs.items()}

    def carrying(
        self, *, states: Mapping[str, Any] | None = None, sizes: Mapping[str, int] | None = None, seed: int = 0,
        onto: Carrying | None = None,
    ) -> Carrying:  # fmt: skip
        """A run that carries the states from call to call; on those of ``onto``, a run of another entry point."""
        from .carrying import CarryingArrays

        return CarryingArrays(self.network, states=states, sizes=sizes, seed=seed, onto=onto)

    @property
    def selects(self) -> bool:
        """Whether rounding could make it select other tokens than the reference."""
        selects: bool = self.network.inputs.selects
        return selects

    def holds(self, sizes: dict[str, int]) -> bool:
        """Whether these sizes are ones that it takes."""
        return self.ports.broken(sizes) is None

    def different_weight(self, weights: Mapping[str, Any]) -> str | None:
        """The name of a weight of the network that is not, bit for bit, the one in ``weights``; None when all are."""
        import numpy as np

        from .inputs import to_numpy

        for name, tensor in self.network.state_dict().items():
            ours, theirs = (np.asarray(x).reshape(-1).view(np.uint8) for x in (to_numpy(tensor), weights[name].numpy()))
            if not np.array_equal(ours, theirs):
                return f"the weight `{name}`"
        return None
