"""Weights: from a checkpoint to the parameters of a graph, lazily and without a second copy.

>>> weights = open_weights("model.safetensors")                                  # doctest: +SKIP
>>> bound = bind(graph, weights)                                                 # doctest: +SKIP
>>> bound["embeddings.LayerNorm.weight"].numpy()                                 # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic, Note, Span, did_you_mean
from ...ir.graph import Graph, Parameter
from ...ir.recipe import Fill, Recipe, Take
from ...ir.types import DType
from .initialise import INITIALISERS, fill
from .recipes import Checkpoint

if TYPE_CHECKING:
    import numpy as np

SHOWN = 12  # names listed in one note before the rest is counted


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A parameter's value that is made when asked for. ``np.asarray(tensor)`` works too.

    ``made``: whether a checkpoint's tensors are computed with, so that asking takes memory where a view takes none.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    made: bool = False

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.size

    def numpy(self) -> np.ndarray:
        """The value in the parameter's dtype: a view of the file where it has that dtype already, else a new array."""
        return self.load().astype(self.dtype.numpy, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array if dtype is None and not copy else array.astype(dtype or array.dtype, copy=bool(copy))


class Bound(dict[str, LazyTensor]):
    """Every parameter of a graph with its value.

    ``unexpected``: names that the model does not use. ``converted``: (from, to) dtype -> how many tensors.
    """

    unexpected: list[str]
    converted: dict[tuple[DType, DType], int]

    def __init__(self) -> None:
        super().__init__()
        self.unexpected = []
        self.converted = {}

    def notes(self) -> list[str]:
        """What a user should know: conversions, and tensors that were left out."""
        notes = [f"{count} tensor(s) converted from {a} to {b}" for (a, b), count in self.converted.items()]
        if self.unexpected:
            notes.append(f"not used by the model: {shorten(self.unexpected)}")
        return notes


def bind(
    graph: Graph,
    weights: Mapping[str, Any],
    *,
    recipes: Mapping[str, Recipe] | None = None,
    strict: bool = False,
    seed: int = 0,
    span: Span | None = None,
) -> Bound:
    """Give every parameter of ``graph`` its tensor. No tensor is read, converted or computed yet.

    Args:
        weights: :class:`.open.Weights`, or a mapping from names to arrays (NumPy, torch).
        recipes: what a parameter is made of, by its full name; one without is the tensor of its own name.
        strict: refuse tensors that the model does not use; otherwise ``Bound.unexpected`` lists them, since published
            checkpoints carry heads and position ids besides.
        seed: for the initialisers in recipes.
        span: where the program names the weights, for errors.

    Raises:
        Diagnostic: E0606 missing or wrong-shaped names (all of them in one), E0605 and E0607 dtypes, E0612 a parameter
            without a fixed size, E0613 and E0615 for recipes.
    """
    recipes = recipes or {}
    made = {name: recipes.get(name) or _own(param, weights) for name, param in graph.params.items()}
    read = {name for recipe in made.values() for name in recipe.names()}
    checkpoint = Checkpoint(weights, seed=seed, span=span)
    bound = Bound()
    bound.unexpected = [name for name in weights if name not in read]
    missing: list[str] = []
    misshaped: list[str] = []
    kinds: list[str] = []
    for name, param in graph.params.items():
        recipe = made[name]
        absent = [take for take in recipe.takes() if take.name not in weights]
        written = next((take for take in absent if take.span is not None), None)
        if written is not None:
            raise _absent(name, written, weights, bound.unexpected)
        missing += [take.name for take in absent if take.name not in missing]
        if absent:
            continue
        wanted = param_shape(param)
        found = recipe.type(checkpoint.type)
        if found.shape != wanted:
            shown = f"{found} by its recipe" if name in recipes else str(found)
            misshaped.append(f"{name} is {shown}, but the model has {param.type}")
        elif not _convertible(found.dtype, param.type.dtype):
            kinds.append(f"{name} is {found}, but the model has {param.type}")
        else:
            if found.dtype != param.type.dtype:
                pair = (found.dtype, param.type.dtype)
                bound.converted[pair] = bound.converted.get(pair, 0) + 1
            load = partial(checkpoint.value, recipe, name)
            made_anew = not recipe.view or found.dtype != param.type.dtype
            bound[name] = LazyTensor(name, param.type.dtype, wanted, load, made_anew)
    if missing or misshaped or (strict and bound.unexpected):
        raise _misfit(graph, missing, misshaped, bound.unexpected, span)
    if kinds:
        message = f"{len(kinds)} weight(s) of `{graph.name}` are of another kind: {shorten(kinds, '; ')}"
        raise Diagnostic("E0607", message, span)
    return bound


def initialise(graph: Graph, seed: int = 0) -> Bound:
    """A value for every parameter from its initialiser, ``seed`` and its name; the same for every backend.

    Raises:
        Diagnostic: E0611 for an unknown initialiser, E0612 for a parameter without a fixed size.
    """
    bound = Bound()
    for name, param in graph.params.items():
        bound[name] = _initial(param, seed)
    return bound


def _own(param: Parameter, weights: Mapping[str, Any]) -> Recipe:
    """What a parameter is made of that has no recipe: the tensor of its name; of a table that no checkpoint has, its file."""
    known = INITIALISERS.get(param.init.name)
    if known is not None and known.texts and param.full_name not in weights:
        return Fill(param.init, param_shape(param), param.type.dtype, param.span)
    return Take(param.full_name)


def _initial(param: Parameter, seed: int) -> LazyTensor:
    shape = param_shape(param)

    def load() -> np.ndarray:
        return fill(param.init, shape, param.type.dtype, seed=seed, name=param.full_name, span=param.span)

    return LazyTensor(param.full_name, param.type.dtype, shape, load)


def param_shape(param: Parameter) -> tuple[int, ...]:
    """The sizes of a parameter. Raises E0612 when one is not known."""
    sizes = tuple(d.value for d in param.type.shape)
    if any(s is None for s in sizes):
        message = f"the parameter `{param.full_name}` is {param.type}, which is not a fixed size"
        raise Diagnostic("E0612", message, param.span)
    return tuple(int(s) for s in sizes if s is not None)


def _convertible(source: DType, target: DType) -> bool:
    if source.kind == target.kind == "int":
        import numpy as np

        return np.can_cast(source.numpy, target.numpy, "safe")
    return source.kind == target.kind


def _absent(name: str, take: Take, weights: Mapping[str, Any], unexpected: list[str]) -> Diagnostic:
    close = did_you_mean(take.name, weights) or _prefix_help([take.name], unexpected)
    return Diagnostic(
        "E0613", f"the recipe of `{name}` reads `{take.name}`, which the weights do not have", take.span,
        help=close or f"they have {shorten(list(weights))}",
    )  # fmt: skip


def _misfit(
    graph: Graph, missing: list[str], misshaped: list[str], unexpected: list[str], span: Span | None
) -> Diagnostic:
    counts = [(missing, "missing"), (misshaped, "of another shape"), (unexpected, "not used")]
    message = ", ".join(f"{len(names)} {what}" for names, what in counts if names)
    notes = [Note(f"{what}: {shorten(names, '; ' if names is misshaped else ', ')}") for names, what in counts if names]
    message = f"the weights do not fit `{graph.name}`: {message}"
    return Diagnostic("E0606", message, span, notes, help=_prefix_help(missing, unexpected))


def _prefix_help(missing: list[str], unexpected: list[str]) -> str | None:
    """The rename that would supply what is missing, when the names differ only by a prefix."""
    if not missing or not unexpected:
        return None
    names = set(unexpected)
    for name in unexpected:
        if name.endswith(f".{missing[0]}"):
            prefix = name.removesuffix(missing[0])
            if all(prefix + m in names for m in missing):
                return f'the names in the file begin with `{prefix}`: write `weights "…" {{ "{prefix}*" => "*" }}`'
    prefix = missing[0].rpartition(".")[0]
    while prefix:
        stem = f"{prefix}."
        if all(m.startswith(stem) and m.removeprefix(stem) in names for m in missing):
            return f'the names in the file lack `{stem}`: write `weights "…" {{ "*" => "{stem}*" }}`'
        prefix = prefix.rpartition(".")[0]
    return None


def shorten(names: list[str], separator: str = ", ") -> str:
    """``a, b, c … and 14 more``."""
    shown = separator.join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} … and {len(names) - SHOWN} more"
