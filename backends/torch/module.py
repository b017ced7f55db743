"""The ``nn.Module`` of a graph: real parameters under their full names, and a forward generated as source. Imports torch."""

from __future__ import annotations

import itertools
import keyword
import linecache
import weakref
from collections.abc import Container, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ir.graph import Graph, Module
from ...ir.types import DType
from ...runtime.weights.bind import Bound, initialise
from . import kernels
from .claims import FUSED, NONE, Claims
from .emit import Program, torch_dtype
from .inputs import Inputs, from_numpy


class Scope(nn.Module):
    """A container of parameters and scopes. ``scope["self"]`` and ``scope[0]`` reach what is no attribute by its name."""

    def __getitem__(self, name: str | int) -> Any:
        key = str(name)
        for table in (self._parameters, self._buffers, self._modules):
            if key in table:
                return table[key]
        raise KeyError(name)


class TesseraModule(Scope):
    """A graph in PyTorch. Make it with :func:`tessera.backends.torch.build`.

    Call it with its inputs, in order or by name, or with one mapping of names; the result maps the name of each output, tap and new state to its tensor.
    States that are not given start from their initialiser, at the ``sizes`` that only they have. Random inputs are drawn from ``seed``, the
    same numbers as on every other backend; without one torch draws them, others in each call, from ``torch.manual_seed``. While torch
    compiles or exports, inputs are not checked, and all but random ones must be given.
    """

    source: str
    """The Python source of ``forward`` and of the functions it calls."""
    inputs: Inputs
    graph: Graph
    donate = False
    """Whether states are given for good, so that their tensors may be written to: the caller keeps only the new ones."""

    def __call__(
        self, *args: Any, seed: int | None = None, sizes: Mapping[str, int] | None = None, **named: Any
    ) -> dict[str, Tensor]:
        if torch.compiler.is_compiling():
            return super().__call__(*args, **named)
        tensors = self.inputs.bind(args, named, seed=seed, sizes=sizes, device=self.device, carried=self.donate)
        self.inputs.check_nan(tensors)
        return super().__call__(*tensors)

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU when there are none."""
        for tensor in itertools.chain(self.parameters(), self.buffers()):
            return tensor.device
        return torch.device("cpu")


# Names that an attribute of a module already has; parameters called so are reached by index.
_ATTRIBUTES = frozenset(dir(Scope())) | frozenset(dir(TesseraModule)) | {"source", "inputs", "graph", "donate"}


def parameter_path(full_name: str, params: Container[str] = ()) -> str:
    """The expression for a parameter: ``self.layers[0].attention["self"].weight``. ``params``: the names of all."""
    path, parts = "self", full_name.split(".")
    for i, part in enumerate(parts):
        if i + 1 < len(parts) and ".".join(parts[: i + 1]) in params:
            # A scope of a parameter's own name, which hides it.
            path += f"._modules[{part!r}]"
        elif part.isdigit() and str(int(part)) == part:
            path += f"[{part}]"
        elif part.isidentifier() and not keyword.iskeyword(part) and part not in _ATTRIBUTES:
            path += f".{part}"
        else:
            path += f"[{part!r}]"
    return path


_count = itertools.count()


def build_module(
    graph: Graph, weights: Bound | None, *, seed: int, trainable: bool, claims: bool | Claims
) -> TesseraModule:
    """See :func:`tessera.backends.torch.build`."""
    bound = initialise(graph, seed) if weights is None else weights
    table = claims if isinstance(claims, Claims) else FUSED if claims else NONE
    program = Program(graph, partial(parameter_path, params=graph.params), claims=table)
    module = _compile(graph, program)()
    for name, param in graph.params.items():
        tensor = from_numpy(bound[name].numpy())
        if trainable:
            tensor = tensor.clone()  # it will be written to: it must not be a view of a file or of somebody's array
        _register(module, name, tensor, param.trainable, trainable and param.trainable and tensor.is_floating_point())
    for name, (value, dtype) in program.constants.items():
        module.register_buffer(name, _constant(value, dtype), persistent=False)
    return module


class ProgramModule(nn.Module):
    """The entry points of a program as modules, ``module.prefill(ids)`` or ``module["prefill"](ids)``.

    They have their parameters in common: training one changes all, and ``parameters()`` gives each once.
    """

    def __init__(self, entries: Mapping[str, TesseraModule]) -> None:
        super().__init__()
        self.entries = list(entries)
        for name, module in entries.items():
            self._modules[name] = module

    def __getitem__(self, name: str) -> TesseraModule:
        found = self._modules[name]
        assert isinstance(found, TesseraModule)
        return found


def build_program_module(
    program: Module, weights: Bound | None, *, seed: int, trainable: bool, claims: bool | Claims
) -> ProgramModule:
    """See :func:`tessera.backends.torch.build_program`."""
    bound = initialise(program.everything(), seed) if weights is None else weights
    made: dict[str, TesseraModule] = {}
    shared: dict[str, Tensor] = {}
    for entry, graph in program.functions.items():
        module = made[entry] = build_module(graph, bound, seed=seed, trainable=trainable, claims=claims)
        for name in graph.params:
            *scopes, leaf = name.split(".")
            owner: Any = module
            for scope in scopes:
                owner = owner._modules[scope]
            table = owner._parameters if leaf in owner._parameters else owner._buffers
            table[leaf] = shared.setdefault(name, table[leaf])
    return ProgramModule(made)


def _compile(graph: Graph, program: Program) -> type[TesseraModule]:
    """A class whose forward is the program's source, which tracebacks and debuggers can show.

    What belongs to the class and not to the instance is shared by deep copies.
    """
    source = program.source
    file = f"<tessera {graph.name} {next(_count)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {
        "torch": torch, "F": F, "ops": kernels, "inf": float("inf"), "nan": float("nan"),
        "min": kernels.minimum, "max": kernels.maximum, **program.claims.names,
    }  # fmt: skip
    exec(compile(source, file, "exec"), namespace)
    members = {
        "forward": namespace["forward"],
        "source": source,
        "graph": graph,
        "inputs": Inputs(graph, program.bodies),
        "__doc__": graph.name,
    }
    made = type("TesseraModule", (TesseraModule,), members)
    weakref.finalize(made, linecache.cache.pop, file, None)
    return made


def _register(module: Scope, full_name: str, tensor: Tensor, parameter: bool, requires_grad: bool) -> None:
    *scopes, leaf = full_name.split(".")
    owner = module
    for part in scopes:
        inner = owner._modules.get(part)
        if not isinstance(inner, Scope):
            inner = owner._modules[part] = Scope()
        owner = inner
    # Not register_parameter, which refuses names that nn.Module uses itself (`type`, `half`), though checkpoints have them.
    if parameter:
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=requires_grad)
    else:
        owner._buffers[leaf] = tensor


def _constant(value: Any, dtype: DType) -> Tensor:
    return torch.tensor(value, dtype=getattr(torch, torch_dtype(dtype).removeprefix("torch.")))
