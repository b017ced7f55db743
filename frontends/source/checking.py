"""Whole programs: one model of a file for use, or everything in it to see what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

from ...ir.diagnostics import Diagnostic, FollowUp, several
from ...ir.graph import Module
from ...ir.types import DTYPES
from .blocks import choose, choose_tokenizer, compile_spec, compiles, spans
from .elaborate.elaborate import Elaborator
from .elaborate.generic import check_declarations
from .elaborate.library import Declared, Library, Unit
from .syntax import ast
from .syntax.depth import deep_recursion

if TYPE_CHECKING:
    from ...ir.compiling import CompileSpec
    from ...ir.pattern import Rule
    from ...ir.recipe import Recipe
    from ...ir.tokenizer import Tokenizer

P = ParamSpec("P")
UnitOf = Callable[[Library], Unit]


class Checked(NamedTuple):
    """The models of a file that are right, what is wrong with it, as it was found, its ``compile`` blocks, those of wrong models
    too, and its tree if that is whole."""

    modules: list[Module]
    errors: list[Diagnostic]
    blocks: list[CompileSpec]
    file: ast.File | None = None


@deep_recursion()
def load_unit(unit_of: UnitOf, model: str | None, params: dict[str, Any] | None, dtype: str) -> Module:
    """One model or program. Raises Diagnostic for what is wrong with it, which carries what else is wrong with the file."""
    if dtype not in DTYPES or DTYPES[dtype].kind != "float":
        raise Diagnostic("E0402", f"`{dtype}` is not a float dtype", help="one of f32, f16, bf16, f64")
    try:
        return _load(Library(), unit_of, model, params or {}, dtype)
    except Diagnostic as error:
        raise several([error, *check_unit(unit_of).errors]) from None


def _load(library: Library, unit_of: UnitOf, model: str | None, outside: dict[str, Any], dtype: str) -> Module:
    unit = unit_of(library)
    elaborator = Elaborator(library, DTYPES[dtype])
    name, block = choose(unit, model)
    spec, statics = compile_spec(elaborator, unit, block)
    places = {n: span for n, span in spans(block).items() if n not in outside}
    given = {**statics, **outside}
    module = elaborator.model(unit, name, given, places)
    module.compile = spec
    module.recipes = block_recipes(elaborator, unit, module, block, given)
    module.rules = rules(elaborator, unit)
    return module


@deep_recursion()
def load_tokenizer(
    unit_of: UnitOf, name: str | None, params: Mapping[str, Any] | None = None, tables: bool = True
) -> Tokenizer:
    """One tokenizer. Raises Diagnostic for what is wrong with it, which carries what else is wrong with the file."""
    from .elaborate.tokenizers import elaborate_tokenizer

    try:
        library = Library()
        unit = unit_of(library)
        declared = unit.names[choose_tokenizer(unit, name)]
        return elaborate_tokenizer(Elaborator(library), declared, params, tables=tables)
    except Diagnostic as error:
        raise several([error, *check_unit(unit_of).errors]) from None


def rules(elaborator: Elaborator, unit: Unit) -> dict[str, Rule]:
    """The ``rewrite`` declarations that a unit can name."""
    declared = rewrites(unit)
    if not declared:
        return {}
    from .elaborate.rules import rule_of

    return {n: rule_of(elaborator, d) for n, d in declared.items()}


def rewrites(unit: Unit) -> dict[str, Declared]:
    """The ``rewrite`` declarations that a unit can name, as they are written."""
    return {n: d for n, d in unit.names.items() if isinstance(d.node, ast.Rewrite)}


def block_recipes(
    elaborator: Elaborator, unit: Unit, module: Module, block: ast.Compile | None, params: dict[str, Any]
) -> dict[str, Recipe]:
    """What the parameters of a module are made of, as the `weights` of its ``compile`` block say."""
    clauses = [c for c in block.clauses if isinstance(c, ast.WeightsClause)] if block is not None else []
    rows = [row for clause in clauses for row in clause.rows if isinstance(row, ast.Recipe)]
    if not rows:
        return {}
    from .elaborate.recipes import recipes_of_program

    return recipes_of_program(elaborator, unit, module, rows, params)


@deep_recursion()
def check_unit(unit_of: UnitOf) -> Checked:
    """Every model and program, and each other declaration as far as it can be checked by itself."""
    found = Checked([], [], [])
    library = Library(found.errors)
    file = None
    try:
        unit = unit_of(library)
        # A tree with holes says nothing of what is not used.
        file = None if unit.broken else unit.file
        _Check(library, unit, found).run()
    except Diagnostic as error:
        found.errors.append(error)
    first = several(found.errors)
    return found._replace(file=file, errors=[] if isinstance(first, FollowUp) else [first, *first.others])


class _Check:
    """The parts of a file one by one, each of which may be wrong by itself."""

    def __init__(self, library: Library, unit: Unit, found: Checked) -> None:
        self.unit = unit
        self.found = found
        self.elaborator = Elaborator(library)

    def run(self) -> None:
        unit, elaborator = self.unit, self.elaborator
        blocks = self._try(compiles, unit) or []
        nodes: list[ast.Function | ast.Program] = [*unit.models.values(), *unit.programs.values()]
        for node in nodes:
            self._try(self._model, node, next((b for b in blocks if b.model == node.name), None))
        for block in blocks:
            self._try(choose, unit, block.model, block.span)
        self.found.errors.extend(check_declarations(elaborator, unit))
        for declared in rewrites(unit).values():
            from .elaborate.rules import rule_of

            self._try(rule_of, elaborator, declared)

    def _try(self, part: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return part(*args, **kwargs)
        except Diagnostic as error:
            self.found.errors.append(error)
            return None

    def _model(self, node: ast.Function | ast.Program, block: ast.Compile | None) -> None:
        unit, elaborator = self.unit, self.elaborator
        spec, statics = compile_spec(elaborator, unit, block)
        if spec is not None:
            self.found.blocks.append(spec)
        if any(s.default is None and s.name not in statics for s in node.statics):
            return
        module = elaborator.model(unit, node.name, statics, spans(block))
        module.compile = spec
        module.recipes = block_recipes(elaborator, unit, module, block, statics)
        self.found.modules.append(module)
