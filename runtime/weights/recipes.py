"""Recipes on a checkpoint: the types that its headers give, and the values, made one parameter at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic, Span
from ...ir.recipe import Apply, Fill, Recipe, Take
from ...ir.recipe_functions import FUNCTIONS, Typed
from ...ir.types import DType
from .initialise import fill
from .open import Weights

if TYPE_CHECKING:
    import numpy as np


class Checkpoint:
    """What recipes read.

    Args:
        weights: :class:`Weights`, or a mapping from names to arrays (NumPy, torch) or to what has ``dtype``, ``shape`` and
            ``numpy()`` of its own.
        seed: for the initialisers in recipes.
        span: where the program names the weights, for errors.
    """

    def __init__(self, weights: Mapping[str, Any], *, seed: int = 0, span: Span | None = None) -> None:
        self.weights = weights
        self.seed = seed
        self.span = span

    def type(self, name: str) -> Typed:
        """Dtype and sizes of a tensor; of a file, nothing but the header is read. Raises E0605 for an unknown dtype."""
        if isinstance(self.weights, Weights):
            entry = self.weights.entry(name)
            if entry.known is None:
                message = f"`{name}` is {entry.dtype} in the file, which Tessera does not have"
                raise Diagnostic("E0605", message, self.span)
            return Typed(entry.known, entry.shape)
        value = self.weights[name]
        if isinstance(getattr(value, "dtype", None), DType):
            return Typed(value.dtype, value.shape)
        array = _as_numpy(value)
        try:
            return Typed(DType.from_numpy(array.dtype), array.shape)
        except KeyError as error:
            message = f"`{name}` has dtype {array.dtype}, which Tessera does not have"
            raise Diagnostic("E0605", message, self.span) from error

    def array(self, name: str) -> np.ndarray:
        """The values of a tensor: a view of the file."""
        value = self.weights[name]
        return value.numpy() if isinstance(getattr(value, "dtype", None), DType) else _as_numpy(value)

    def value(self, recipe: Recipe, name: str) -> np.ndarray:
        """What a recipe gives: a view where it only moves one tensor, else an array of its own.

        Parts of a join are made one after the other and go straight to their places, so that at most the result and one
        part are in memory.

        Args:
            name: of the parameter, from which its initialisers start.
        """
        if isinstance(recipe, Take):
            return self.array(recipe.name)
        if isinstance(recipe, Fill):
            return fill(recipe.init, recipe.shape, recipe.dtype, seed=self.seed, name=name, span=recipe.span)
        assert isinstance(recipe, Apply)
        if recipe.function in ("stack", "concat"):
            return self._joined(recipe, name)
        operands = [self.value(o, f"{name}/{i}") for i, o in enumerate(recipe.operands)]
        return FUNCTIONS[recipe.function].meaning(operands, **dict(recipe.options))

    def _joined(self, recipe: Apply, name: str) -> np.ndarray:
        import numpy as np

        dtype, shape = recipe.type(self.type)
        result = np.empty(shape, dtype.numpy)
        axis = dict(recipe.options)["axis"] % len(shape)
        before = (slice(None),) * axis
        start = 0
        for i, operand in enumerate(recipe.operands):
            part = self.value(operand, f"{name}/{i}")
            stacked = recipe.function == "stack"
            size = 1 if stacked else part.shape[axis]
            result[(*before, start if stacked else slice(start, start + size))] = part
            start += size
        return result


def _as_numpy(value: Any) -> np.ndarray:
    import numpy as np

    if hasattr(value, "detach"):  # torch; NumPy has no bfloat16 of its own, so that the bits are passed
        tensor = value.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            import ml_dtypes
            import torch

            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    return np.asarray(value)
