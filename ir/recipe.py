"""Weight recipes: what a parameter is made of, as an expression over the tensors of a checkpoint.

>>> fused = apply("concat", "q_proj.weight", "k_proj.weight", "v_proj.weight", axis=0)
>>> list(fused.names())
['q_proj.weight', 'k_proj.weight', 'v_proj.weight']
>>> str(fused.type(lambda name: Typed(f32, (64, 256))))
'f32[192, 256]'

A recipe is data: it says which tensors it reads, what type comes out, and whether the result is a view of the file. What it
computes is a row of ``recipe_functions.FUNCTIONS``; ``runtime/weights/recipes.py`` evaluates it, one parameter at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .diagnostics import Diagnostic, Span, did_you_mean
from .graph import Initializer
from .recipe_functions import FUNCTIONS, NEEDED, Misfit, Typed
from .types import DType, f32

if TYPE_CHECKING:
    from .program import Program

Look = Callable[[str], Typed]  # the type of a checkpoint's tensor; raises Diagnostic where there is none


class Recipe:
    """An expression: :class:`Take`, :class:`Fill` or :class:`Apply`. Equal where it says the same, wherever it stands."""

    __slots__ = ()

    def takes(self) -> Iterator[Take]:
        """The places where it reads a tensor, in order."""
        raise NotImplementedError

    def names(self) -> Iterator[str]:
        """The tensors that it reads, in order; one that is read twice comes twice."""
        return (take.name for take in self.takes())

    @property
    def view(self) -> bool:
        """Whether its value is a view of the checkpoint's memory map, so that it takes no memory of its own."""
        raise NotImplementedError

    def type(self, look: Look) -> Typed:
        """The type of its value. Raises Diagnostic E0615 where the tensors do not fit together."""
        raise NotImplementedError

    def replaced(self, table: Mapping[Recipe, Recipe]) -> Recipe:
        """The recipe with each part that ``table`` has put in its place; outer parts go first."""
        return table.get(self, self)


@dataclass(frozen=True, slots=True)
class Take(Recipe):
    """The checkpoint's tensor of that name, after renames."""

    name: str
    span: Span | None = field(default=None, compare=False, repr=False)

    def takes(self) -> Iterator[Take]:
        yield self

    @property
    def view(self) -> bool:
        return True

    def type(self, look: Look) -> Typed:
        return look(self.name)


@dataclass(frozen=True, slots=True)
class Fill(Recipe):
    """A tensor that no checkpoint has: ``zeros([64, 768])``, ``normal(0.02, [8, 8])``."""

    init: Initializer
    shape: tuple[int, ...]
    dtype: DType = f32
    span: Span | None = field(default=None, compare=False, repr=False)

    def takes(self) -> Iterator[Take]:
        return iter(())

    @property
    def view(self) -> bool:
        return False

    def type(self, look: Look) -> Typed:
        return Typed(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Apply(Recipe):
    """A function of ``FUNCTIONS`` on recipes; ``options`` has all of them, in the order of the function's declaration."""

    function: str
    operands: tuple[Recipe, ...]
    options: tuple[tuple[str, Any], ...] = ()
    span: Span | None = field(default=None, compare=False, repr=False)

    def takes(self) -> Iterator[Take]:
        for operand in self.operands:
            yield from operand.takes()

    @property
    def view(self) -> bool:
        return FUNCTIONS[self.function].view and all(operand.view for operand in self.operands)

    def type(self, look: Look) -> Typed:
        types = [operand.type(look) for operand in self.operands]
        try:
            return FUNCTIONS[self.function].infer(types, **dict(self.options))
        except Misfit as problem:
            shown = ", ".join(map(str, types[:3])) + (", …" if len(types) > 3 else "")
            raise Diagnostic("E0615", f"{self.function} of {shown}: {problem}", self.span) from None

    def replaced(self, table: Mapping[Recipe, Recipe]) -> Recipe:
        if self in table:
            return table[self]
        return Apply(self.function, tuple(o.replaced(table) for o in self.operands), self.options, self.span)


def apply(function: str, *operands: Recipe | str, span: Span | None = None, **options: Any) -> Apply:
    """``apply("concat", "q.weight", "k.weight", axis=0)``; a string is the checkpoint's tensor of that name.

    Raises:
        Diagnostic: E0614 for a function, an option or a number of tensors that there is not.
    """
    known = FUNCTIONS.get(function)
    if known is None:
        close = did_you_mean(function, FUNCTIONS) or f"there are {', '.join(FUNCTIONS)}, and initialisers"
        raise Diagnostic("E0614", f"recipes have no function `{function}`", span, help=close)
    count = len(operands)
    if count < known.operands or (count > known.operands and not known.variadic):
        wanted = f"{known.operands}{' or more' if known.variadic else ''} tensor(s)"
        raise Diagnostic("E0614", f"`{function}` takes {wanted}, but is given {count}", span, help=known.text)
    unknown = next((name for name in options if name not in known.options), None)
    if unknown is not None:
        close = did_you_mean(unknown, known.options) or known.text
        raise Diagnostic("E0614", f"`{function}` has no option `{unknown}`", span, help=close)
    values = []
    for name, (default, fits, kind) in known.options.items():
        value = options.get(name, default)
        if value is NEEDED:
            raise Diagnostic("E0614", f"`{function}` needs `{name}`, {kind}", span, help=known.text)
        if value != default and not fits(value):
            raise Diagnostic("E0614", f"`{name}` of `{function}` must be {kind}, but is {value!r}", span)
        values.append((name, value))
    made = tuple(Take(o, span) if isinstance(o, str) else o for o in operands)
    return Apply(function, made, tuple(values), span)


def relative(after: Program, before: Program) -> dict[str, Recipe]:
    """What each parameter of ``after`` is made of, over the parameters of ``before``, from which passes made it.

    Recipes are over the checkpoint's names. What ``before`` makes a parameter of is the parameter here.
    """
    old = {name: before.recipes.get(name, Take(name)) for name in before.parameters()}
    table: dict[Recipe, Recipe] = {recipe: Take(name) for name, recipe in old.items()}
    # A parameter that is the checkpoint's own tensor goes before one that only takes it.
    table.update((recipe, recipe) for name, recipe in old.items() if recipe == Take(name))
    found = {}
    for name in after.parameters():
        recipe = after.recipes.get(name, Take(name))
        found[name] = Take(name) if recipe == old.get(name) else recipe.replaced(table)
    return found
