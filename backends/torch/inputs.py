"""Checking what a module is called with, before any of it is computed. Imported with torch only."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...ir.analysis.bounds import index_limits
from ...ir.analysis.room import count_limits
from ...ir.diagnostics import Diagnostic, Note
from ...ir.graph import Graph, Require
from ...ir.op import Trait, has
from ...ir.requirements import requirements
from ...runtime.inputs import fit_array
from ...runtime.ports import Demands, Port, Ports
from .emit import torch_dtype
from .sizes import solve_all


class Inputs(Ports):
    """The inputs of one graph. ``bodies``: (index of the graph around it, graph) for the graph and every loop or composite body."""

    missing = "{title} was called without {ports}"

    def __init__(self, graph: Graph, bodies: Sequence[tuple[int | None, Graph]]) -> None:
        solve_all(graph)
        limits, most = index_limits(graph), count_limits(graph)
        ports = [
            Port(
                v.public, v.type.dtype, v.type.shape, v.role, v.init, v.span, tuple(limits.get(v.name, ())),
                "" if v.outside is None else v.name, tuple(most.get(v.name, ())),
            )
            for v in graph.inputs
        ]
        demands = [Demands(parent, body.lets, requirements(body)) for parent, body in bodies]
        super().__init__(graph.name, ports, demands, graph.facts)
        self.selects = any(has(node, Trait.SELECTS) for _, body in bodies for node in body.nodes())

    def bind(
        self, args: Sequence[Any], named: Mapping[str, Any], *, seed: int | None, device: torch.device,
        sizes: Mapping[str, int] | None = None, carried: bool = False,
    ) -> list[Tensor | None]:  # fmt: skip
        """The tensors in order, checked; states that are not given are filled, and random inputs from the seed. Without one these
        are None, and ``forward`` draws them.

        ``sizes`` gives those that no given tensor tells: the capacities of states. ``carried``: states are those of a session, whose
        caches are not to be written beyond their last slot.

        Raises:
            Diagnostic: E0901 names, E0902 sizes, E0903 dtypes, E0904 a requirement, E0905 an index, E0906 a full cache, E0922 NaN where tokens are
                selected.
        """
        given = self._match(args, named)
        for name, tensor in given.items():
            _check_type(self.by_name[name], tensor)
        shapes = {name: tensor.shape for name, tensor in given.items()}
        values = self.sizes(shapes, sizes, lambda name: _shown(given[name]))
        self.check_requires(values)
        for name, tensor in given.items():
            # Elsewhere looking at them would wait for the device, which checks its indices itself.
            if self.by_name[name].limits and tensor.numel() and tensor.device.type == "cpu":
                self.check_places(name, int(tensor.min()), int(tensor.max()), values)
        if carried:
            self._check_counts(given, values)
        made = {name: from_numpy(array).to(device) for name, array in self.filled(shapes, values, seed).items()}
        return [(given | made).get(port.name) for port in self.ports]

    def _check_counts(self, given: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
        """Raises E0906. No device checks these itself: each tensor is looked at, once where several states share it."""
        bounds: dict[tuple[int, ...], tuple[int, int]] = {}
        for name, tensor in given.items():
            if self.by_name[name].most and tensor.numel():
                place = (tensor.data_ptr(), *tensor.shape)
                if place not in bounds:
                    bounds[place] = (int(tensor.min()), int(tensor.max()))
                self.check_counts(name, *bounds[place], sizes)

    def _match(self, args: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Tensor]:
        if len(args) > len(self.ports):
            raise Diagnostic("E0901", f"{self.title} takes {len(self.ports)} input(s), but {len(args)} were given")
        whole = len(args) == 1 and isinstance(args[0], Mapping)
        values: dict[str, Any] = self.public(args[0]) if whole else dict(zip(self.by_name, args, strict=False))
        for name, tensor in self.public(named).items():
            if name in values:
                raise Diagnostic("E0901", f"the input `{name}` of {self.title} is given twice")
            values[name] = tensor
        given = {name: value for name, value in values.items() if value is not None or name not in self.by_name}
        self.check_names(given)
        return {n: t if isinstance(t, Tensor) else _tensor(self.by_name[n], t) for n, t in given.items()}

    def unmet(self, require: Require, sizes: Mapping[str, int]) -> Diagnostic:
        left, right = require.left, require.right
        names = [str(d) for d in (left, right) if d.value is None and d.symbol is None]
        names += sorted(left.symbols | right.symbols)
        values = {str(d): d.evaluate(dict(sizes)) for d in (left, right)} | dict(sizes)
        message = f"{require.message}: {left} {require.op} {right} does not hold"
        return Diagnostic("E0904", message, require.span, [Note(f"{name} is {values[name]}") for name in names])

    def check_nan(self, tensors: Iterable[Tensor | None]) -> None:
        """Raise E0922 where a float input of a model that selects holds NaN."""
        for port, tensor in zip(self.ports, tensors, strict=True):
            if self.selects and tensor is not None and tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
                place = torch.isnan(tensor).nonzero()[0].tolist()
                message = f"`{port.name}` holds NaN, first at {place}, and {self.title} selects by comparing"
                raise Diagnostic("E0922", message, port.span)


def _tensor(port: Port, value: Any) -> Tensor:
    """What is no tensor as one: a Python number in the input's dtype where that is of its kind, or a float."""
    kinds: dict[type, tuple[str, ...]] = {bool: ("bool",), int: ("int", "float"), float: ("float",)}
    fits = port.dtype.kind in kinds.get(type(value), ())
    return torch.as_tensor(value, dtype=getattr(torch, port.dtype.long) if fits else None)


def _check_type(port: Port, tensor: Tensor) -> None:
    wanted = torch_dtype(port.dtype)
    rank = len(port.shape)
    if tensor.dim() != rank:
        type = str(port.spec).partition(": ")[2]
        message = f"`{port.name}` must have {rank} axes, {type}, but has {tensor.dim()}: {_shown(tensor)}"
        raise Diagnostic("E0902", message, port.span)
    if str(tensor.dtype) != wanted:
        message = f"`{port.name}` must be {port.dtype}, but is {_shown(tensor)}"
        raise Diagnostic("E0903", message, port.span, help=f"convert it: `{port.name}.to({wanted})`")


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def from_numpy(array: Any) -> Tensor:
    """A tensor that shares the array's memory, bfloat16 included."""
    with warnings.catch_warnings():
        # The memory is a private map or an array that nobody else writes to; NumPy's flag only guards the passes.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        if str(array.dtype) == "bfloat16":
            return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
        return torch.from_numpy(array)


def fit_tensors(ports: Ports, arrays: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Arrays as tensors of a device in the dtypes of the inputs; one that nobody may write to is copied. Raises E0902, E0903, E0922.

    A name that is no input's goes through as it is, and :meth:`Inputs.bind` says so.
    """
    tensors = ports.public(arrays)
    for name in tensors.keys() & ports.by_name.keys():
        array = fit_array(ports.by_name[name].spec, tensors[name])
        tensors[name] = from_numpy(array if array.flags.writeable else array.copy()).to(device)
    return tensors


def to_numpy(tensor: Tensor) -> Any:
    """The tensor as an array, which shares its memory on the CPU; bfloat16 included."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
