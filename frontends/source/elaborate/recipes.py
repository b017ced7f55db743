"""Recipes of a `weights` block: patterns are tried on the parameters of the model, and expressions become ``ir.recipe``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from ....ir.diagnostics import Diagnostic, Note, did_you_mean
from ....ir.graph import Initializer, Parameter
from ....ir.notation import show_value
from ....ir.program import Program
from ....ir.recipe import Fill, Recipe, Take, apply
from ....ir.recipe_functions import FUNCTIONS
from ....ir.types import f32
from ....runtime.weights.bind import param_shape
from ....runtime.weights.initialise import INITIALISERS
from ..syntax import ast
from ..syntax.parser import parse_expr
from .elaborate import Elaborator
from .inputs import FolderOf, initializer_of
from .library import Unit

Static = Callable[[ast.Expr], Any]  # the value of a static expression
# The last number may be an expression of static names: `{0..experts - 1}`.
_RANGE = re.compile(r"\{(\d+)\.\.([^{}]+)\}")
_LONGEST = 100_000  # tensors that one range may stand for


def recipes_of(
    rows: Sequence[ast.Recipe], params: Mapping[str, Parameter], static: Static, folder_of: FolderOf,
    named: Mapping[str, Recipe] | None = None,
) -> dict[str, Recipe]:  # fmt: skip
    """What each parameter is made of, in the order of the parameters.

    Args:
        rows: a ``*`` of a name stands for the same one or more characters in every string of its recipe.
        static: evaluates what is no tensor: sizes, numbers, axes.
        folder_of: where a file that a recipe names is looked for.
        named: what is a tensor by a name without quotes.

    Raises:
        Diagnostic: E0614 for what is no recipe, E0616 for a parameter with two, E0617 for a pattern that fits none.
    """
    found: dict[str, tuple[ast.Recipe, Recipe]] = {}
    for row in rows:
        pattern = re.compile("(.+?)".join(map(re.escape, row.name.split("*"))))
        fitting = [(name, match) for name in params if (match := pattern.fullmatch(name))]
        if not fitting:
            raise Diagnostic(
                "E0617", f"the model has no parameter `{row.name}`", row.span,
                help=did_you_mean(row.name, params) or "names on the left are those of the model's parameters",
            )  # fmt: skip
        for name, match in fitting:
            if name in found:
                raise Diagnostic(
                    "E0616", f"there are two recipes for the parameter `{name}`", row.span,
                    notes=[Note("the first one is here", found[name][0].span)],
                    help="leave one of them, or write patterns that do not overlap",
                )  # fmt: skip
            found[name] = row, _Reader(match.groups(), static, folder_of, params[name], named or {}).recipe(row.value)
    return {name: found[name][1] for name in params if name in found}


def recipes_of_program(
    elaborator: Elaborator, unit: Unit, program: Program, rows: Sequence[ast.Recipe], params: Mapping[str, Any]
) -> dict[str, Recipe]:
    """The recipes in the weights of a compile block; they see the static parameters of its model or program."""
    node = unit.programs.get(program.name) or unit.models[program.name]
    head = ast.Function("model", node.name, [], node.statics, [], [], name_span=node.name_span, span=node.span)
    env = elaborator.given_statics(unit, head, elaborator.signatures.function(unit, head), params, {}).statics
    return recipes_of(rows, program.parameters(), lambda expr: elaborator.static(unit, expr, dict(env)), elaborator.folder_of)


class _Reader:
    """Reads one recipe for one parameter; ``stars`` is what each `*` stands for, ``named`` what is a tensor without quotes,
    ``folder_of`` where a file is looked for."""

    def __init__(
        self, stars: Sequence[str], static: Static, folder_of: FolderOf, param: Parameter, named: Mapping[str, Recipe]
    ) -> None:
        self.stars = stars
        self.static = static
        self.folder_of = folder_of
        self.param = param
        self.named = named

    def recipe(self, expr: ast.Expr) -> Recipe:
        """The whole of it: an initialiser alone fills the parameter as it is."""
        init, keywords = self._initialiser(expr)
        if init is not None and not keywords:
            return Fill(init, param_shape(self.param), self.param.type.dtype, expr.span)
        return self.tensor(expr)

    def tensor(self, expr: ast.Expr) -> Recipe:
        """An expression that gives one tensor."""
        if isinstance(expr, ast.Str):
            names = self._names(expr)
            if len(names) > 1:
                raise Diagnostic(
                    "E0617", f"`{expr.value}` stands for {len(names)} tensors, and one is needed here", expr.span,
                    help="`stack` and `concat` take several",
                )  # fmt: skip
            return Take(names[0], expr.span)
        if isinstance(expr, ast.Name) and expr.id in self.named:
            return self.named[expr.id]
        if isinstance(expr, ast.Binary):
            return self._binary(expr)
        if isinstance(expr, ast.Unary) and expr.op == "-":
            return apply("scale", self.tensor(expr.operand), by=-1.0, span=expr.span)
        if isinstance(expr, ast.Index):
            return self._index(expr)
        if isinstance(expr, ast.Call) and isinstance(expr.function, ast.Name):
            return self._fill(expr) if expr.function.id in INITIALISERS else self._call(expr, expr.function.id)
        raise Diagnostic(
            "E0614", "this is no tensor of the file, nor made of any", expr.span,
            help='names of tensors stand in quotes: `concat("q.weight", "k.weight")`',
        )  # fmt: skip

    # Names --------------------------------------------------------------------------------------------------------

    def _names(self, expr: ast.Str) -> list[str]:
        """The names that a string stands for: with the text of each `*`, and each number of `{0..7}`."""
        texts = _RANGE.split(expr.value)
        count = sum(text.count("*") for text in texts[::3])
        if count not in (0, len(self.stars)):
            raise Diagnostic(
                "E0617", f"`{expr.value}` has {count} `*`, but the name of the parameter has {len(self.stars)}", expr.span,
                help="each `*` stands for the same text on both sides, from left to right",
            )  # fmt: skip
        ranges = [range(int(a), self._last(b, expr) + 1) for a, b in zip(texts[1::3], texts[2::3], strict=True)]
        total = prod(map(len, ranges))
        if not 0 < total <= _LONGEST:
            raise Diagnostic(
                "E0617", f"`{expr.value}` stands for {total} tensors", expr.span,
                help=f"a range counts up, and stands for {_LONGEST} tensors at most: `{{0..7}}`",
            )  # fmt: skip
        names = []
        for numbers in product(*ranges):
            name = texts[0] + "".join(f"{n}{text}" for n, text in zip(numbers, texts[3::3], strict=True))
            stars = iter(self.stars)
            names.append("".join(next(stars) if piece == "*" else piece for piece in re.split(r"(\*)", name)))
        return names

    def _last(self, text: str, expr: ast.Str) -> int:
        """The last number of a range. Raises E0617 for what is no number."""
        try:
            found = int(text) if text.isdecimal() else self.static(parse_expr(text))
        except Diagnostic as error:
            raise Diagnostic("E0617", f"`{text}` in `{expr.value}` is no number: {error.message}", expr.span) from None
        if isinstance(found, bool) or not isinstance(found, int):
            raise Diagnostic("E0617", f"`{text}` in `{expr.value}` is no whole number, but {show_value(found)}", expr.span)
        return found

    # Operators ----------------------------------------------------------------------------------------------------

    def _binary(self, expr: ast.Binary) -> Recipe:
        tensors = [self._is_tensor(expr.left), self._is_tensor(expr.right)]
        if all(tensors) and expr.op in ("+", "-", "*", "@"):
            left, right = self.tensor(expr.left), self.tensor(expr.right)
            if expr.op == "-":
                right = apply("scale", right, by=-1.0, span=expr.right.span)
            return apply({"*": "mul", "@": "matmul"}.get(expr.op, "add"), left, right, span=expr.span)
        if expr.op == "*" and any(tensors):
            number, tensor = (expr.right, expr.left) if tensors[0] else (expr.left, expr.right)
            return apply("scale", self.tensor(tensor), by=self.static(number), span=expr.span)
        if expr.op == "/" and tensors == [True, False]:
            number = self.static(expr.right)
            if isinstance(number, (int, float)) and number:
                return apply("scale", self.tensor(expr.left), by=1 / number, span=expr.span)
        raise Diagnostic(
            "E0614", f"`{expr.op}` does not go between these", expr.span,
            help='tensors are added, multiplied (`*` by element, `@` as matrices), and scaled: `"a" + 2.0 * ("b" @ "c")`',
        )  # fmt: skip

    def _index(self, expr: ast.Index) -> Recipe:
        made = self.tensor(expr.value)
        picked = []
        for axis, item in enumerate(expr.items):
            if isinstance(item, ast.Slice):
                # What takes all of the last axis still says that there is one.
                last = axis == len(expr.items) - 1
                bounds = [None if part is None else self.static(part) for part in (item.start, item.stop)]
                step = 1 if item.step is None else self.static(item.step)
                if bounds != [None, None] or step != 1 or last:
                    made = apply("slice", made, axis=axis, start=bounds[0], stop=bounds[1], step=step, span=expr.span)
            else:
                picked.append((axis, self.static(item)))
        # From the last: each takes its axis away.
        for axis, index in reversed(picked):
            made = apply("select", made, index=index, axis=axis, span=expr.span)
        return made

    # Calls --------------------------------------------------------------------------------------------------------

    def _call(self, expr: ast.Call, name: str) -> Recipe:
        known = FUNCTIONS.get(name)
        operands: list[Recipe] = []
        options: dict[str, Any] = {}
        for arg in expr.args:
            if arg.name is not None:
                options[arg.name] = self.static(arg.value)
            elif isinstance(arg.value, ast.Str):
                names = self._names(arg.value)
                operands += [Take(n, arg.value.span) for n in names]
            elif known is None or known.variadic or len(operands) < known.operands:
                operands.append(self.tensor(arg.value))
            else:
                free = [option for option in known.options if option not in options]
                if not free:
                    raise Diagnostic("E0614", f"`{name}` takes no further options", arg.span, help=known.text)
                options[free[0]] = self.static(arg.value)
        return apply(name, *operands, span=expr.span, **options)

    def _initialiser(self, expr: ast.Expr) -> tuple[Initializer | None, dict[str, Any]]:
        """``zeros`` or ``normal(0.02, shape=[8, 8])``: the initialiser, and its named arguments."""
        call = expr if isinstance(expr, ast.Call) else ast.Call(expr, [])
        if not isinstance(call.function, ast.Name) or call.function.id not in INITIALISERS:
            return None, {}
        name = call.function.id
        init = initializer_of(name, expr, self.static, self.folder_of)
        return init, {arg.name: self.static(arg.value) for arg in call.args if arg.name is not None}

    def _fill(self, expr: ast.Call) -> Recipe:
        init, keywords = self._initialiser(expr)
        assert init is not None
        shape, dtype = keywords.pop("shape", None), keywords.pop("dtype", f32)
        sized = isinstance(shape, tuple) and all(isinstance(s, int) and s >= 0 for s in shape)
        if keywords or not sized:
            raise Diagnostic(
                "E0614", f"`{init}` within a recipe needs a shape", expr.span,
                help=f"write `{init.name}({', '.join([*map(str, init.args), 'shape=[8, 8]'])})`, with `dtype=` where it is not f32",
            )  # fmt: skip
        return Fill(init, shape, dtype, expr.span)

    def _is_tensor(self, expr: ast.Expr) -> bool:
        """Whether an expression is made of tensors; else it is a number, an axis, a list."""
        if isinstance(expr, ast.Binary):
            return self._is_tensor(expr.left) or self._is_tensor(expr.right)
        if isinstance(expr, ast.Unary):
            return self._is_tensor(expr.operand)
        if isinstance(expr, ast.Index):
            return self._is_tensor(expr.value)
        if isinstance(expr, ast.Call):
            return isinstance(expr.function, ast.Name) and expr.function.id in {*FUNCTIONS, *INITIALISERS}
        return isinstance(expr, ast.Str) or (isinstance(expr, ast.Name) and expr.id in self.named)
