"""Checking what a module is called with, before any of it is computed. Imported with torch only."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...ir.binding import symbol_sizes
from ...ir.diagnostics import Diagnostic, Note, did_you_mean
from ...ir.dims.dim import sym
from ...ir.graph import Graph, Input, Require
from ...ir.op import Trait, has
from ...ir.requirements import requirements
from ...runtime.states import chosen_sizes
from ...runtime.weights.initialise import fill
from .emit import torch_dtype
from .sizes import solve_all, where_from


class Inputs:
    """The inputs of one graph. ``bodies``: (index of the graph around it, graph) for the graph and every loop or composite body."""

    def __init__(self, graph: Graph, bodies: Sequence[tuple[int | None, Graph]]) -> None:
        self.graph = graph
        self.solved = solve_all(graph)
        self.bodies = [(parent, body, requirements(body)) for parent, body in bodies]
        self.selects = any(has(node, Trait.SELECTS) for _, body in bodies for node in body.nodes())

    def bind(
        self, args: Sequence[Any], named: Mapping[str, Any], *, seed: int, device: torch.device,
        sizes: Mapping[str, int] | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """The tensors in order, checked; states and random inputs that are not given are filled.

        ``sizes`` gives those that no given tensor tells: the capacities of states.

        Raises:
            Diagnostic: E0901 names, E0902 sizes, E0903 dtypes, E0904 a requirement, E0922 NaN where tokens are selected.
        """
        given = self._match(args, named)
        for value, tensor in zip(self.graph.inputs, given, strict=True):
            if tensor is not None:
                _check_type(value, tensor)
        values = self._sizes(given, sizes or {})
        self._check_requirements(values)
        return [
            tensor if tensor is not None else self._fill(value, values, seed, device)
            for value, tensor in zip(self.graph.inputs, given, strict=True)
        ]

    def _match(self, args: Sequence[Any], named: Mapping[str, Any]) -> list[Tensor | None]:
        inputs = self.graph.inputs
        if len(args) > len(inputs):
            raise Diagnostic("E0901", f"`{self.graph.name}` takes {len(inputs)} input(s), but {len(args)} were given")
        values: dict[str, Any] = dict(zip((v.name for v in inputs), args, strict=False))
        for name, tensor in named.items():
            if name not in {v.name for v in inputs}:
                known = [v.name for v in inputs]
                help = did_you_mean(name, known) or f"its inputs are {', '.join(known)}"
                raise Diagnostic("E0901", f"`{self.graph.name}` has no input `{name}`", help=help)
            if name in values:
                raise Diagnostic("E0901", f"the input `{name}` of `{self.graph.name}` is given twice")
            values[name] = tensor
        missing = [v for v in inputs if v.role == "input" and values.get(v.name) is None]
        if missing:
            names = ", ".join(f"`{v.name}: {v.type}`" for v in missing)
            raise Diagnostic("E0901", f"`{self.graph.name}` was called without {names}", missing[0].span)
        tensors = (values.get(v.name) for v in inputs)
        return [t if t is None or isinstance(t, Tensor) else torch.as_tensor(t) for t in tensors]

    def _sizes(self, given: Sequence[Tensor | None], chosen: Mapping[str, int]) -> dict[str, int]:
        graph = self.graph
        given_shapes = {v.name: t.shape for v, t in zip(graph.inputs, given, strict=True) if t is not None}
        sizes = chosen_sizes(graph.name, self.solved, symbol_sizes(self.solved, given_shapes), chosen)
        unknown = next((name for name in self.solved if name not in sizes), None)
        if unknown is not None:
            value = next(v for v in graph.inputs if v.name == self.solved[unknown].input)
            message = f"`{graph.name}` was called without `{value.name}: {value.type}`, which alone tells the size `{unknown}`"
            raise Diagnostic("E0901", message, value.span, help=f'choose it: `sizes={{"{unknown}": …}}`')
        for name, size in sizes.items():
            least, greatest = graph.facts.get(name, (1, None))
            if size < least or (greatest is not None and size > greatest):
                bounds = f"at least {least}" if greatest is None else f"from {least} to {greatest}"
                message = f"the size `{name}` of `{graph.name}` must be {bounds}, but is {size}"
                raise Diagnostic("E0902", message, notes=where_from(graph, self.solved, sym(name), sizes))
        sizes = graph.sizes(sizes)
        for value, tensor in zip(graph.inputs, given, strict=True):
            for axis, dim in enumerate(value.type.shape if tensor is not None else ()):
                wanted = dim.evaluate(sizes)
                if tensor is not None and tensor.shape[axis] != wanted:
                    shown = str(wanted) if dim.value is not None else f"{dim} = {wanted}"
                    message = (
                        f"axis {axis} of `{value.name}` must be {shown}, but is {tensor.shape[axis]}: {_shown(tensor)}"
                    )
                    raise Diagnostic("E0902", message, value.span, where_from(graph, self.solved, dim, sizes))
        return sizes

    def _check_requirements(self, sizes: dict[str, int]) -> None:
        known: list[dict[str, int]] = []
        for parent, body, requires in self.bodies:
            known.append(body.sizes(sizes if parent is None else known[parent]))
            for require in requires:
                if not require.holds(known[-1]):
                    raise _unmet(require, known[-1])

    def _fill(self, value: Input, sizes: dict[str, int], seed: int, device: torch.device) -> Tensor:
        assert value.init is not None
        shape = [d.evaluate(sizes) for d in value.type.shape]
        return from_numpy(fill(value.init, shape, value.type.dtype, seed=seed, name=value.name, span=value.span)).to(
            device
        )

    def check_nan(self, tensors: Iterable[Tensor]) -> None:
        """Raise E0922 where a float input of a model that selects holds NaN."""
        for value, tensor in zip(self.graph.inputs, tensors, strict=True):
            if self.selects and tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
                place = torch.isnan(tensor).nonzero()[0].tolist()
                message = f"`{value.name}` holds NaN, first at {place}, and `{self.graph.name}` selects by comparing"
                raise Diagnostic("E0922", message, value.span)


def _check_type(value: Input, tensor: Tensor) -> None:
    wanted = torch_dtype(value.type.dtype)
    if tensor.dim() != value.type.rank:
        message = (
            f"`{value.name}` must have {value.type.rank} axes, {value.type}, but has {tensor.dim()}: {_shown(tensor)}"
        )
        raise Diagnostic("E0902", message, value.span)
    if str(tensor.dtype) != wanted:
        message = f"`{value.name}` must be {value.type.dtype}, but is {_shown(tensor)}"
        raise Diagnostic("E0903", message, value.span, help=f"convert it: `{value.name}.to({wanted})`")


def _unmet(require: Require, sizes: dict[str, int]) -> Diagnostic:
    left, right = require.left, require.right
    names = [str(d) for d in (left, right) if d.value is None and d.symbol is None]
    names += sorted(left.symbols | right.symbols)
    values = {str(d): d.evaluate(sizes) for d in (left, right)} | sizes
    message = f"{require.message}: {left} {require.op} {right} does not hold"
    return Diagnostic("E0904", message, require.span, [Note(f"{name} is {values[name]}") for name in names])


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


def to_numpy(tensor: Tensor) -> Any:
    """The tensor as an array, which shares its memory on the CPU; bfloat16 included."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
