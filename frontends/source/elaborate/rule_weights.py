"""Weights that the replacement of a ``rewrite`` brings: where they lie, and what they are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic
from ....ir.graph import Parameter
from ....ir.pattern import Match
from ....ir.recipe import Fill, Recipe, Take
from ....ir.recipe_functions import Typed
from ....ir.signature import Signature
from ....runtime.weights.bind import param_shape
from ..syntax import ast
from .cycles import names_in
from .evaluate import join
from .library import Unit
from .recipes import recipes_of

if TYPE_CHECKING:
    from .elaborate import Elaborator


def weights_read(node: ast.Rewrite, signature: Signature) -> list[str]:
    """The tensors of a rule that its recipes read: weights at every match. Raises E0614 for one in quotes."""
    quoted = next((text for row in node.weights for text in _strings(row.value)), None)
    if quoted is not None:
        raise Diagnostic(
            "E0614", f'"{quoted.value}" is a tensor of a file, and a rule knows none', quoted.span,
            help="in a rule a name without quotes is the weight that the pattern was matched to: `stack(w, w)`",
        )  # fmt: skip
    mentioned = set(names_in([row.value for row in node.weights]))
    return [operand.name for operand in signature.operands if operand.name in mentioned]


def free_scope(node: ast.Rewrite, scope: str, params: set[str]) -> str:
    """The scope of a match, or where another match has brought weights there, that with a number."""
    own = set(_scopes(node.replacement))

    def taken(at: str) -> bool:
        return any(name.startswith(f"{join(at, inner)}.") for inner in own for name in params)

    return next(at for n in count() if not taken(at := join(scope, str(n)) if n else scope))


def _scopes(tree: Any) -> Iterator[str]:
    return (node.scope for node in _within(tree) if isinstance(node, ast.Scoped))


def _strings(tree: Any) -> Iterator[ast.Str]:
    return (node for node in _within(tree) if isinstance(node, ast.Str))


def _within(tree: Any) -> Iterator[ast.Node]:
    """Every node of a syntax tree."""
    if isinstance(tree, ast.Node):
        yield tree
        for slot in type(tree).__dataclass_fields__:
            yield from _within(getattr(tree, slot))
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _within(item)


def recipes_of_match(
    elaborator: Elaborator, unit: Unit, node: ast.Rewrite, match: Match, scope: str, brought: Mapping[str, Parameter],
    env: dict[str, Any],
) -> dict[str, Recipe]:  # fmt: skip
    """What each weight that a match brings is made of, over the parameters before: what the rule says, else its initialiser.

    Raises:
        Diagnostic: E0614, E0616 and E0617 for what is no recipe, E0615 for one of another type than the weight.
    """
    known = {name: value for name, value in match.tensors.items() if isinstance(value, Parameter)}
    named: dict[str, Recipe] = {name: Take(param.full_name) for name, param in known.items()}
    here = {name.removeprefix(f"{scope}.") if scope else name: param for name, param in brought.items()}
    static = {name: value for name, value in env.items() if name not in match.tensors}
    made = recipes_of(node.weights, here, lambda expr: elaborator.static(unit, expr, static), elaborator.folder_of, named)
    types = {param.full_name: Typed(param.type.dtype, param_shape(param)) for param in known.values()}
    found: dict[str, Recipe] = {}
    for name, param in here.items():
        recipe = made.get(name) or Fill(param.init, param_shape(param), param.type.dtype)
        wanted = Typed(param.type.dtype, param_shape(param))
        if (type := recipe.type(types.__getitem__)) != wanted:
            raise Diagnostic(
                "E0615", f"the recipe of `{param.full_name}` gives {type}, but the weight is {wanted}",
                getattr(recipe, "span", node.span),
                help="in a rule a name without quotes is the weight that the pattern was matched to",
            )  # fmt: skip
        found[param.full_name] = recipe
    return found
