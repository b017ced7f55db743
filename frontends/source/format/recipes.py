"""Recipes of weights as syntax; reading it gives an equal recipe."""

from __future__ import annotations

from typing import Any

from ....ir.compiling import CompileSpec
from ....ir.graph import Initializer
from ....ir.program import Program
from ....ir.recipe import Apply, Fill, Recipe, Take
from ....ir.recipe_functions import FUNCTIONS, NEEDED
from ....ir.types import f32
from ..syntax import ast
from .static import literal

_INFIX = {"add": "+", "mul": "*", "matmul": "@"}


def compile_block(program: Program, spec: CompileSpec | None = None) -> list[ast.Compile]:
    """What the weights are made of, where that is more than their names; of ``spec`` also their file, renames and passes."""
    rows: list[ast.Rename | ast.Recipe] = [ast.Rename(*pair) for pair in (spec.renames if spec else ())]
    rows += [ast.Recipe(n, recipe_expr(r)) for n, r in program.recipes.items()]
    file = spec.weights if spec else None
    clauses: list[ast.WeightsClause | ast.PassClause | ast.TargetClause] = []
    if rows or file:
        clauses.append(ast.WeightsClause(file, rows))
    for step in spec.passes if spec else ():
        clauses.append(ast.PassClause(step.name, [ast.Arg(name, literal(value)) for name, value in step.options.items()]))
    return [ast.Compile(program.name, [], clauses)] if clauses else []


def recipe_expr(recipe: Recipe) -> ast.Expr:
    """``concat("q.weight", "k.weight")``."""
    if isinstance(recipe, Take):
        return ast.Str(recipe.name)
    if isinstance(recipe, Fill):
        return _fill(recipe.init, recipe)
    assert isinstance(recipe, Apply)
    operands = [recipe_expr(o) for o in recipe.operands]
    options = dict(recipe.options)
    if recipe.function in _INFIX:
        return ast.Binary(_INFIX[recipe.function], *operands)
    if recipe.function == "scale":
        return ast.Binary("*", literal(options["by"]), operands[0])
    if recipe.function in ("slice", "select") and options["axis"] >= 0:
        return _index(operands[0], options)
    args = [ast.Arg(None, operand) for operand in operands]
    for name, (default, _, _) in FUNCTIONS[recipe.function].options.items():
        if options[name] != default:
            args.append(ast.Arg(None if default is NEEDED and name != "part" else name, literal(options[name])))
    return ast.Call(ast.Name(recipe.function), args)


def _fill(init: Initializer, recipe: Fill) -> ast.Expr:
    args = [ast.Arg(None, literal(a)) for a in init.args]
    args.append(ast.Arg("shape", literal(recipe.shape)))
    if recipe.dtype != f32:
        args.append(ast.Arg("dtype", literal(recipe.dtype)))
    return ast.Call(ast.Name(init.name), args)


def _index(value: ast.Expr, options: dict[str, Any]) -> ast.Expr:
    """``"w"[:, 2:4]`` or ``"w"[:, 3]``."""
    before: list[ast.Expr] = [ast.Slice(None, None, None) for _ in range(options["axis"])]
    if "index" in options:
        return ast.Index(value, [*before, literal(options["index"])])
    start, stop = (None if options[n] is None else literal(options[n]) for n in ("start", "stop"))
    step = None if options["step"] == 1 else literal(options["step"])
    return ast.Index(value, [*before, ast.Slice(start, stop, step)])
