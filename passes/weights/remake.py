"""Parameters of another shape, made by a recipe of what they were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...ir.builder import reinfer
from ...ir.dims.dim import as_dim
from ...ir.graph import Module, Parameter, Value
from ...ir.recipe import Recipe, apply
from ...ir.types import TensorType


def remade(module: Module, param: Parameter, recipe: Recipe, shape: Sequence[int]) -> Parameter:
    """Put a parameter of another shape, made by a recipe, in the place of one; readers are not inferred anew yet."""
    type = TensorType(param.type.dtype, tuple(map(as_dim, shape)))
    new = Parameter(type, param.full_name, param.init, param.trainable, param.span)
    new.name = param.name
    module.graph.params[param.full_name] = new
    module.recipes[param.full_name] = recipe
    param.replace_uses(new)
    return new


def resized(module: Module, param: Parameter, recipe: Recipe, count: int) -> Parameter:
    """The same where only the first axis has another size."""
    return remade(module, param, recipe, (count, *(int(d) for d in param.type.shape[1:])))


def rows_of(recipe: Recipe, rows: Sequence[int]) -> Recipe:
    """Rows of a tensor in the order given; a run of them is one slice."""
    parts: list[Recipe] = []
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i] != rows[i - 1] + 1:
            parts.append(apply("slice", recipe, axis=0, start=rows[start], stop=rows[i - 1] + 1))
            start = i
    return parts[0] if len(parts) == 1 else apply("concat", *parts, axis=0)


def follow(values: Iterable[Value]) -> None:
    """Infer anew what reads values whose types changed, as far as that reaches. Raises Diagnostic where they no longer fit."""
    waiting = {user: None for value in values for user in value.users}
    while waiting:
        node = next(iter(waiting))
        del waiting[node]
        if node.op is not None and reinfer(node):
            waiting.update({user: None for value in node.outputs for user in value.users})
